//! The token that a master gave this node, in a file that only its owner can read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It cannot be read.
    #[error("token file {} cannot be read; `imserver node add NAME` on the master prints what goes in", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("token file {} can be read by others (mode {mode:o}); `chmod 600` it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no token in it.
    #[error("token file {} holds no token: one line like `NAME:64 hexadecimal digits` is expected", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a token.
pub(super) fn load(path: &Path) -> Result<String, TokenError> {
    let io = |source| TokenError::Io {
        path: path.to_path_buf(),
        source,
    };
    let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TokenError::Exposed {
            path: path.to_path_buf(),
            mode,
        });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let token = text.trim();
    let is_token = token.contains(':') && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token {
        return Err(TokenError::Malformed {
            path: path.to_path_buf(),
        });
    }
    Ok(token.to_owned())
}
