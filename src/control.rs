//! The command line's side of the control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::serve::STATUS_PATH;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
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
    let not_running = |source| ControlError::NotRunning {
        socket: socket.to_path_buf(),
        source,
    };
    let answer = |reason: String| ControlError::Answer {
        socket: socket.to_path_buf(),
        reason,
    };
    let mut stream = UnixStream::connect(socket).await.map_err(not_running)?;
    let exchange = async {
        let request = format!("GET /{STATUS_PATH} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
    let bytes = bytes
        .map_err(|_| answer("no answer in time".to_owned()))?
        .map_err(|error| answer(error.to_string()))?;
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = bytes.split_at(split.ok_or_else(|| answer("no HTTP answer".to_owned()))? + 4);
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(answer(
            String::from_utf8_lossy(head)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        ));
    }
    serde_json::from_slice(body).map_err(|error| answer(error.to_string()))
}
