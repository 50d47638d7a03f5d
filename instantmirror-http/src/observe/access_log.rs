//! The access log: in the combined format that every log analyser reads, the same with more behind it, or as JSON.
//!
//! Key decision: requests only append to a buffer; a thread of its own writes it to the file, at least once a
//! second. Reason: a disk that stalls must not stall answers. If it stalls for long, lines are left out and
//! counted, for memory is bounded; the count goes to the daemon's own log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The buffer is written when it has so many bytes.
const WRITE_BYTES: usize = 64 * 1024;
/// The buffer is written at least so often.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Lines beyond so many waiting bytes are left out.
const BUFFER_BYTES_MAX: usize = 8 << 20;

/// Why an access log cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessLogError {
    /// Its file cannot be opened.
    #[error("cannot open the access log {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread that writes it cannot be started.
    #[error("cannot start the thread of the access log: {0}")]
    Thread(io::Error),
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessLogFormat {
    /// The combined format of Apache and nginx.
    #[default]
    Combined,
    /// The same, and behind it: where the content came from (`hit`, `miss`, `streamed`, `-`), seconds until the end of
    /// the answer, bytes that were fetched for it from masters and from other peers.
    Extended,
    /// One object of JSON with all of that.
    Json,
}

/// A file that lines of requests are appended to. What is buffered is written when it is dropped.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    format: AccessLogFormat,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    left_out: u64,
    reopened: Option<File>,
    ended: bool,
}

impl AccessLog {
    /// Appends to the file at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// [`AccessLogError`].
    pub fn open(path: &Path, format: AccessLogFormat) -> Result<Arc<Self>, AccessLogError> {
        let file = append(path)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            format,
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let writer = std::thread::Builder::new().name("access-log".to_owned());
        let writer = writer
            .spawn(move || theirs.write(file))
            .map_err(AccessLogError::Thread)?;
        Ok(Arc::new(Self {
            shared,
            writer: Some(writer),
        }))
    }

    /// Opens the file anew, for a rotation that has renamed the old one. Lines from before the call may still go
    /// to either.
    ///
    /// # Errors
    /// [`AccessLogError::Open`]; the old file stays in use.
    pub fn reopen(&self) -> Result<(), AccessLogError> {
        let file = append(&self.shared.path)?;
        self.shared.state().reopened = Some(file);
        self.shared.wake.notify_one();
        Ok(())
    }

    pub(super) fn format(&self) -> AccessLogFormat {
        self.shared.format
    }

    pub(super) fn line(&self, line: &[u8]) {
        let mut state = self.shared.state();
        if state.buffer.len() + line.len() > BUFFER_BYTES_MAX {
            state.left_out += 1;
            return;
        }
        state.buffer.extend_from_slice(line);
        if state.buffer.len() >= WRITE_BYTES {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            // It can only have panicked, and said so.
            let _ = writer.join();
        }
    }
}

fn append(path: &Path) -> Result<File, AccessLogError> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|source| AccessLogError::Open {
        path: path.to_owned(),
        source,
    })
}

impl Shared {
    /// Plain data behind the lock: whole even after a panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut file: File) {
        let mut lines = Vec::new();
        loop {
            let (ended, left_out) = {
                let state = self.state();
                let idle =
                    |state: &mut State| state.buffer.len() < WRITE_BYTES && !state.ended && state.reopened.is_none();
                let waited = self.wake.wait_timeout_while(state, WRITE_INTERVAL, idle);
                let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut state.buffer, &mut lines);
                if let Some(reopened) = state.reopened.take() {
                    file = reopened;
                }
                (state.ended, std::mem::take(&mut state.left_out))
            };
            if left_out > 0 {
                tracing::warn!(path = %self.path.display(), left_out, "the disk is too slow for the access log");
            }
            if let Err(error) = file.write_all(&lines) {
                tracing::warn!(path = %self.path.display(), %error, "cannot write the access log; lines are lost");
            }
            lines.clear();
            if ended {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::StatusCode;

    use super::super::entry::{AccessLogEntry, LoggedRequest};
    use super::*;

    fn request(log: &Arc<AccessLog>, target: &str) {
        let request = LoggedRequest {
            address: Some([192, 0, 2, 7].into()),
            line: &["GET", target, "HTTP/1.1"].map(str::as_bytes),
            host: Some("mirror.example.org"),
            referer: None,
            agent: Some(b"curl/\"8\"\n"),
            begun: Instant::now(),
        };
        let mut entry = AccessLogEntry::new(log, &request);
        entry.answers(StatusCode::PARTIAL_CONTENT);
        entry.sent(10);
        entry.sent(5);
    }

    #[test]
    fn lines_are_combined_and_follow_a_rotation() {
        let dir = std::env::temp_dir().join(format!("instantmirror-access-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, rotated) = (dir.join("access.log"), dir.join("access.log.1"));
        let log = AccessLog::open(&path, AccessLogFormat::Combined).unwrap();
        request(&log, "/first");
        // The rotation must not race the thread that writes: wait for the line.
        while std::fs::metadata(&path).unwrap().len() == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen().unwrap();
        request(&log, "/second\r\n127.0.0.1 forged");
        drop(log);
        let first = std::fs::read_to_string(&rotated).unwrap();
        assert!(first.starts_with("192.0.2.7 - - ["), "{first}");
        assert!(
            first.ends_with(" +0000] \"GET /first HTTP/1.1\" 206 15 \"-\" \"curl/\\x228\\x22\\x0A\"\n"),
            "{first}"
        );
        let second = std::fs::read_to_string(&path).unwrap();
        assert!(
            second.contains("/second\\x0D\\x0A127.0.0.1 forged") && second.lines().count() == 1,
            "{second}"
        );
        std::fs::remove_dir_all(&dir).unwrap();
        let error = AccessLog::open(&dir.join("access.log"), AccessLogFormat::Combined)
            .unwrap_err()
            .to_string();
        assert!(error.contains("access.log") && error.contains("cannot open"), "{error}");
    }
}
