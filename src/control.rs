//! The command line's side of the control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use instantmirror_core::snapshot_ref::SnapshotRef;
use instantmirror_core::{RepoName, TagName};

use crate::master::{MIRRORS_PATH, MirrorsStatus};
use crate::node::{
    ADOPT_PATH, AdoptRequest, PREFETCH_PATH, PrefetchRequest, Prefetched, RELOAD_PATH, Reloaded, TAG_PATH, TagRequest,
    UNTAG_PATH, VERIFY_PATH, VerifyRequest,
};
use crate::serve::STATUS_PATH;

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

/// Has a running node tag a snapshot.
///
/// # Errors
/// [`ControlError`].
pub async fn tag(
    socket: &Path,
    repository: &RepoName,
    tag: &TagName,
    snapshot: SnapshotRef,
    force: bool,
) -> Result<(), ControlError> {
    let body = serde_json::json!(TagRequest { snapshot, force }).to_string();
    post(socket, &filled(TAG_PATH, repository, Some(tag)), &body).await
}

/// Has a running node take a tag away.
///
/// # Errors
/// [`ControlError`].
pub async fn untag(socket: &Path, repository: &RepoName, tag: &TagName) -> Result<(), ControlError> {
    post(socket, &filled(UNTAG_PATH, repository, Some(tag)), "").await
}

/// Has a running node begin to verify its cache; its status says how far it is.
///
/// # Errors
/// [`ControlError`].
pub async fn verify(socket: &Path, request: &VerifyRequest) -> Result<(), ControlError> {
    post(socket, VERIFY_PATH, &serde_json::json!(request).to_string()).await
}

/// Has a running node begin to adopt a directory; its status says how far it is.
///
/// # Errors
/// [`ControlError`].
pub async fn adopt(socket: &Path, request: &AdoptRequest) -> Result<(), ControlError> {
    post(socket, ADOPT_PATH, &serde_json::json!(request).to_string()).await
}

/// Has a running node fetch files, and returns the number of that prefetch.
///
/// # Errors
/// [`ControlError`].
pub async fn prefetch(
    socket: &Path,
    repository: &RepoName,
    snapshot: Option<SnapshotRef>,
    paths: &[String],
) -> Result<u64, ControlError> {
    let request = PrefetchRequest {
        paths: paths.to_vec(),
        snapshot,
    };
    let body = serde_json::json!(request).to_string();
    let answer: Prefetched = ask(socket, &filled(PREFETCH_PATH, repository, None), &body).await?;
    Ok(answer.id)
}

/// Has a running node read its configuration again.
///
/// # Errors
/// [`ControlError`].
pub async fn reload(socket: &Path) -> Result<Reloaded, ControlError> {
    ask(socket, RELOAD_PATH, "").await
}

/// The path of a route about these. Their names need no encoding.
fn filled(pattern: &str, repository: &RepoName, tag: Option<&TagName>) -> String {
    let path = pattern.replace("{repository}", repository.as_str());
    match tag {
        Some(tag) => path.replace("{tag}", tag.as_str()),
        None => path,
    }
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
