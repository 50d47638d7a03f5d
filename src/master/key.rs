//! The master's signing key in a file that only its owner can read.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use instantmirror_core::{Clock as _, SecretKey, SignError, Timestamp};
use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk as _, RealDisk};

use super::MasterError;
use crate::clock::SystemClock;

/// Where the secret halves of the keys are.
#[derive(Debug)]
pub(super) enum KeyPlace {
    /// In files: the first key in this one, the others beside it.
    File(PathBuf),
    /// The embedder has it.
    Given {
        /// The key.
        key: Arc<SecretKey>,
        /// When it was given.
        since: Timestamp,
    },
}

impl KeyPlace {
    pub(super) fn given(key: SecretKey) -> Self {
        let since = SystemClock.now();
        Self::Given {
            key: Arc::new(key),
            since,
        }
    }

    /// The file of the first key.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(file) => Some(file),
            Self::Given { .. } => None,
        }
    }
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is none.
    #[error("there is no signing key at {}; `imserver init` or `imserver keygen` makes one", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("signing key {} cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("signing key {} can be read by others (mode {mode:o}); `chmod 600` it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It would be written where another user's daemon could not read it.
    #[error(transparent)]
    Owner(#[from] StoreError),
    /// Its content is no key.
    #[error("signing key {} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SignError,
    },
}

/// A new key from the system's randomness.
///
/// # Errors
/// [`MasterError::Random`].
pub fn generate_key() -> Result<SecretKey, MasterError> {
    Ok(SecretKey::from_random(random()?))
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], MasterError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| MasterError::Random(error.to_string()))?;
    Ok(bytes)
}

/// Writes a key to a new file with mode 600. Durable when it returns.
///
/// # Errors
/// [`KeyError::Io`], also if the file exists: a key is never overwritten. [`KeyError::Owner`] if root writes into a directory
/// that another user keeps things in: what runs as that user could not read the key.
pub fn store_key(path: &Path, key: &SecretKey) -> Result<(), KeyError> {
    let io = |source| KeyError::Io {
        path: path.to_path_buf(),
        source,
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(io)?;
    RealDisk::open(dir)?.check_owner()?;
    // Under another name first: a crash or a full disk leaves no half of a key that the next start would take for one.
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(format!(".{}.tmp", std::process::id()));
    let written = write_key(Path::new(&tmp), key).and_then(|()| std::fs::hard_link(&tmp, path));
    let removed = std::fs::remove_file(&tmp);
    written.and(removed).map_err(io)?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

fn write_key(path: &Path, key: &SecretKey) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.to_secret_text().as_bytes())?;
    file.sync_all()
}

/// Reads a key.
///
/// # Errors
/// [`KeyError`], [`KeyError::Exposed`] among them.
pub fn load_key(path: &Path) -> Result<SecretKey, KeyError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => KeyError::Missing {
            path: path.to_path_buf(),
        },
        _ => KeyError::Io {
            path: path.to_path_buf(),
            source,
        },
    };
    let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_path_buf(),
            mode,
        });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    text.parse().map_err(|source| KeyError::Malformed {
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/key");
        let key = generate_key().unwrap();
        store_key(&path, &key).unwrap();
        assert_eq!(load_key(&path).unwrap().public(), key.public());
        assert!(matches!(store_key(&path, &key), Err(KeyError::Io { .. })));
        assert_eq!(
            std::fs::read_dir(dir.path().join("deep")).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_key(&path), Err(KeyError::Exposed { mode: 0o640, .. })));
        assert!(matches!(
            load_key(&dir.path().join("none")),
            Err(KeyError::Missing { .. })
        ));
        std::fs::write(dir.path().join("bad"), "x").unwrap();
        std::fs::set_permissions(dir.path().join("bad"), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            load_key(&dir.path().join("bad")),
            Err(KeyError::Malformed { .. })
        ));
    }
}
