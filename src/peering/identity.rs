//! What a repository's swarm is called, for as long as its piece space lives: kept in the master's store.

use std::path::Path;

use instantmirror_core::metainfo::InfoHash;
use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk, read_file, write_privately};
use serde::{Deserialize, Serialize};

use super::{SwarmError, drawn};

const FILE: &str = "swarm";
const FILE_BYTES_MAX: u64 = 4096;

/// Drawn when the master first takes part in the swarm, and kept beside the piece space that it stands for: a store that is
/// begun anew numbers its pieces anew, and must not meet the old swarm. Keys may change meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwarmIdentity {
    pub(crate) info_hash: InfoHash,
    /// What registered nodes are told.
    pub(crate) secret: [u8; 32],
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    info_hash: String,
    secret: String,
}

impl SwarmIdentity {
    /// Reads what `dir` holds, or draws a new one and keeps it there.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        match read_file(disk, &path, FILE_BYTES_MAX) {
            Ok(bytes) => Self::parse(&bytes).ok_or_else(|| IdentityError::Damaged {
                path: disk.os_path(&path).unwrap_or(path).display().to_string(),
            }),
            Err(error) if error.is_not_found() => {
                let (id, secret) = (drawn()?, drawn()?);
                let mut hash = [0; 20];
                hash.copy_from_slice(&id[..20]);
                let made = Self {
                    info_hash: InfoHash::from_bytes(hash),
                    secret,
                };
                disk.create_dir_all(dir)?;
                write_privately(disk, &path, made.text().as_bytes())?;
                Ok(made)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn text(&self) -> String {
        let stored = Stored {
            info_hash: self.info_hash.to_string(),
            secret: hex(&self.secret),
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            info_hash: stored.info_hash.parse().ok()?,
            secret: unhex(&stored.secret)?,
        })
    }
}

/// Why a repository's swarm has no name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Random(#[from] SwarmError),
    #[error("{path} is damaged; remove it, and a new swarm is begun")]
    Damaged { path: String },
}

/// 32 bytes as 64 digits.
pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64 digits as 32 bytes.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() % 2 == 1 {
        return None;
    }
    bytes.try_into().ok()
}
