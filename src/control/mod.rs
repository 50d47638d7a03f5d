//! The command line's side of the control socket.

#[cfg(feature = "node")]
mod of_node;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

#[cfg(feature = "master")]
use crate::master::{MIRRORS_PATH, MirrorsStatus};
use crate::reload::{RELOAD_PATH, Reloaded};
use crate::serve::STATUS_PATH;

#[cfg(feature = "node")]
pub use of_node::{adopt, prefetch, tag, untag, verify};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A change may walk catalogs of millions of files.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(600);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens there.
    #[error("no daemon answers at {} (is it running, with this configuration?)", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system lets only some ask.
    #[error(
        "you may not ask the daemon at {}: that is for {allowed} (run the command as such a user, with `sudo -u`, say)",
        socket.display()
    )]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
        /// Who may.
        allowed: String,
    },
    /// It refuses, and says why.
    #[error("{0}")]
    Refused(String),
    /// Somebody listens, but does not answer as a daemon of this version does.
    #[error("the daemon at {} gave no usable answer: {reason}", socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Asks a running daemon for its status.
///
/// # Errors
/// [`ControlError`].
pub async fn status<T: DeserializeOwned>(socket: &Path) -> Result<T, ControlError> {
    get(socket, STATUS_PATH).await
}

/// Asks a running master for its mirrors.
///
/// # Errors
/// [`ControlError`].
#[cfg(feature = "master")]
pub async fn mirrors(socket: &Path) -> Result<MirrorsStatus, ControlError> {
    get(socket, MIRRORS_PATH).await
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ControlError> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n");
    let body = exchange(socket, request, ANSWER_TIMEOUT).await?;
    serde_json::from_slice(&body).map_err(|error| ControlError::Answer {
        socket: socket.to_path_buf(),
        reason: error.to_string(),
    })
}

/// Has a running node read its configuration again.
///
/// # Errors
/// [`ControlError`].
pub async fn reload(socket: &Path) -> Result<Reloaded, ControlError> {
    ask(socket, RELOAD_PATH, "").await
}

async fn ask<T: DeserializeOwned>(socket: &Path, path: &str, body: &str) -> Result<T, ControlError> {
    let answer = post_for(socket, path, body).await?;
    serde_json::from_slice(&answer).map_err(|error| ControlError::Answer {
        socket: socket.to_path_buf(),
        reason: error.to_string(),
    })
}

async fn post(socket: &Path, path: &str, body: &str) -> Result<(), ControlError> {
    post_for(socket, path, body).await.map(drop)
}

async fn post_for(socket: &Path, path: &str, body: &str) -> Result<Vec<u8>, ControlError> {
    let length = body.len();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    exchange(socket, request, CHANGE_TIMEOUT).await
}

/// Who may use a socket: the owner of what stands in the way, and its group if that may.
fn allowed(socket: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    // The socket itself if it can be seen, else the nearest directory above it that can.
    let meta = socket.ancestors().find_map(|path| std::fs::metadata(path).ok());
    let Some(meta) = meta else {
        return "the user it runs as".to_owned();
    };
    let user = name_of("/etc/passwd", meta.uid());
    let group = name_of("/etc/group", meta.gid());
    match meta.mode() & 0o020 {
        0 => format!("user {user} and root"),
        _ => format!("user {user}, members of group {group}, and root"),
    }
}

/// The name of a number in a file as `/etc/passwd` and `/etc/group` are; the number where it has none there.
fn name_of(file: &str, number: u32) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let named = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| number.to_string())
}

/// Sends a request and returns the body of the answer.
async fn exchange(socket: &Path, request: String, timeout: Duration) -> Result<Vec<u8>, ControlError> {
    let not_running = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::PermissionDenied => ControlError::NotAllowed {
            socket: socket.to_path_buf(),
            allowed: allowed(socket),
        },
        _ => ControlError::NotRunning {
            socket: socket.to_path_buf(),
            source,
        },
    };
    let answer = |reason: String| ControlError::Answer {
        socket: socket.to_path_buf(),
        reason,
    };
    let mut stream = UnixStream::connect(socket).await.map_err(not_running)?;
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = tokio::time::timeout(timeout, exchange).await;
    let bytes = bytes
        .map_err(|_| answer("no answer in time".to_owned()))?
        .map_err(|error| answer(error.to_string()))?;
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, content) = bytes.split_at(split.ok_or_else(|| answer("no HTTP answer".to_owned()))? + 4);
    if head.starts_with(b"HTTP/1.1 409 ") {
        return Err(ControlError::Refused(String::from_utf8_lossy(content).into_owned()));
    }
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(answer(
            String::from_utf8_lossy(head)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        ));
    }
    Ok(content.to_vec())
}
