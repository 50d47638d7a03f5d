//! The access log: in the combined format that every log analyser reads, the same with more behind it, or as JSON.
//!
//! Key decision: requests only append to a buffer; a thread of its own writes it to the file, at least once a
//! second. Reason: a disk that stalls must not stall answers. If it stalls for long, lines are left out and
//! counted, for memory is bounded; the count goes to the daemon's own log.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use instantmirror_core::traits::{ObjectReader, Provenance};

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

    pub(crate) fn line(&self, line: &[u8]) {
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

/// One request on its way into the log. The line is written when this is dropped. Boxed, for a connection that waits has
/// room for one.
pub(crate) struct Visit(Box<Entry>);

struct Entry {
    log: Arc<AccessLog>,
    line: String,
    behind: String,
    begun: Instant,
    status: StatusCode,
    bytes: u64,
    provenance: Option<Provenance>,
    /// Knows it better at the end.
    reader: Option<Arc<dyn ObjectReader>>,
}

/// What a line says of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor<'a> {
    pub(crate) address: Option<IpAddr>,
    /// The words of the request line.
    pub(crate) request: &'a [&'a [u8]],
    pub(crate) host: Option<&'a str>,
    pub(crate) referer: Option<&'a [u8]>,
    pub(crate) agent: Option<&'a [u8]>,
    /// When it was read.
    pub(crate) begun: Instant,
}

impl Visit {
    pub(crate) fn new(log: &Arc<AccessLog>, visitor: &Visitor<'_>) -> Self {
        let (line, behind) = match log.shared.format {
            AccessLogFormat::Combined | AccessLogFormat::Extended => combined(visitor),
            AccessLogFormat::Json => (json(visitor), String::new()),
        };
        Self(Box::new(Entry {
            log: Arc::clone(log),
            line,
            behind,
            begun: visitor.begun,
            status: StatusCode::OK,
            bytes: 0,
            provenance: None,
            reader: None,
        }))
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.0.status = status;
    }

    /// Where the content comes from.
    pub(crate) fn comes_from(&mut self, provenance: Provenance) {
        self.0.provenance = Some(provenance);
    }

    /// Who will know it when the answer ends: how much of it had to be fetched, and from whom.
    pub(crate) fn reads(&mut self, reader: &Arc<dyn ObjectReader>) {
        self.0.reader = Some(Arc::clone(reader));
    }

    /// So many more bytes of the body went out.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.0.bytes += bytes;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        let (status, bytes) = (self.status.as_u16(), self.bytes);
        let seconds = self.begun.elapsed().as_secs_f64();
        let at_end = self.reader.take().map(|reader| reader.provenance());
        self.provenance = at_end.or(self.provenance);
        let cache = match self.provenance {
            None => "-",
            Some(Provenance::Kept) => "hit",
            Some(Provenance::Fetched { .. }) => "miss",
            Some(Provenance::Streamed { .. }) => "streamed",
            Some(_) => "-",
        };
        let fetched = match self.provenance {
            Some(Provenance::Fetched { masters, peers } | Provenance::Streamed { masters, peers }) => {
                Some((masters, peers))
            }
            _ => None,
        };
        let _ = match (self.log.shared.format, fetched) {
            (AccessLogFormat::Combined, _) => writeln!(line, " {status} {bytes}{}", self.behind),
            (AccessLogFormat::Extended, Some((masters, peers))) => {
                writeln!(
                    line,
                    " {status} {bytes}{} {cache} {seconds:.6} {masters} {peers}",
                    self.behind
                )
            }
            (AccessLogFormat::Extended, None) => {
                writeln!(line, " {status} {bytes}{} {cache} {seconds:.6} - -", self.behind)
            }
            (AccessLogFormat::Json, fetched) => {
                let _ = write!(
                    line,
                    ",\"status\":{status},\"bytes\":{bytes},\"seconds\":{seconds:.6},\"cache\":\"{cache}\""
                );
                if let Some((masters, peers)) = fetched {
                    let _ = write!(line, ",\"from_masters\":{masters},\"from_peers\":{peers}");
                }
                writeln!(line, "}}")
            }
        };
        self.log.line(line.as_bytes());
    }
}

/// What stands before and behind status and bytes in the combined format.
fn combined(visitor: &Visitor<'_>) -> (String, String) {
    let mut line = String::with_capacity(160);
    match visitor.address {
        Some(address) => _ = write!(line, "{}", address.to_canonical()),
        None => line.push('-'),
    }
    line.push_str(" - - [");
    line.push_str(&stamp(SystemTime::now()));
    line.push_str("] \"");
    for (number, word) in visitor.request.iter().enumerate() {
        if number > 0 {
            line.push(' ');
        }
        escape(&mut line, word);
    }
    line.push('"');
    let mut behind = String::with_capacity(48);
    for field in [visitor.referer, visitor.agent] {
        behind.push_str(" \"");
        escape(&mut behind, field.unwrap_or(b"-"));
        behind.push('"');
    }
    (line, behind)
}

/// The beginning of an object of JSON, with all that is known before the answer.
fn json(visitor: &Visitor<'_>) -> String {
    let mut line = String::with_capacity(320);
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_microsecond(micros).unwrap_or_default();
    let _ = write!(line, "{{\"time\":\"{}\"", now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"));
    if let Some(address) = visitor.address {
        let _ = write!(line, ",\"client\":\"{}\"", address.to_canonical());
    }
    let words: &[&str] = match visitor.request {
        [_, _, _] => &["method", "target", "version"],
        _ => &["request"],
    };
    let request = words.iter().copied().zip(visitor.request.iter().copied().map(Some));
    let fields = [
        ("host", visitor.host.map(str::as_bytes)),
        ("referer", visitor.referer),
        ("agent", visitor.agent),
    ];
    for (name, value) in request.chain(fields) {
        let Some(value) = value else { continue };
        let text = serde_json::Value::from(String::from_utf8_lossy(value));
        let _ = write!(line, ",\"{name}\":{text}");
    }
    line
}

/// The time as the format has it: `22/Nov/2026:21:22:27 +0000`.
fn stamp(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| "-".to_owned(),
        |time| time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
    )
}

/// Appends bytes of a client so that they cannot end a field or a line, nor reach somebody's terminal.
fn escape(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => _ = write!(out, "\\x{byte:02X}"),
            _ => out.push(char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(log: &Arc<AccessLog>, target: &str) {
        let visitor = Visitor {
            address: Some([192, 0, 2, 7].into()),
            request: &["GET", target, "HTTP/1.1"].map(str::as_bytes),
            host: Some("mirror.example.org"),
            referer: None,
            agent: Some(b"curl/\"8\"\n"),
            begun: Instant::now(),
        };
        let mut visit = Visit::new(log, &visitor);
        visit.answered(StatusCode::PARTIAL_CONTENT);
        visit.sent(10);
        visit.sent(5);
    }

    #[test]
    fn lines_are_combined_and_follow_a_rotation() {
        let dir = std::env::temp_dir().join(format!("instantmirror-access-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, rotated) = (dir.join("access.log"), dir.join("access.log.1"));
        let log = AccessLog::open(&path, AccessLogFormat::Combined).unwrap();
        visit(&log, "/first");
        // The rotation must not race the thread that writes: wait for the line.
        while std::fs::metadata(&path).unwrap().len() == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen().unwrap();
        visit(&log, "/second\r\n127.0.0.1 forged");
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

    #[test]
    fn the_other_formats_say_where_it_came_from_and_how_long_it_took() {
        let dir = tempfile::tempdir().unwrap();
        let line = |format: AccessLogFormat, provenance: Option<Provenance>| {
            let path = dir.path().join(format!("{format:?}-{provenance:?}"));
            let log = AccessLog::open(&path, format).unwrap();
            let visitor = Visitor {
                address: Some("::ffff:192.0.2.7".parse().unwrap()),
                request: &["GET", "/a\"\u{1b}", "HTTP/1.1"].map(str::as_bytes),
                host: Some("h"),
                referer: None,
                agent: Some(b"\xff\n"),
                begun: Instant::now(),
            };
            let mut visit = Visit::new(&log, &visitor);
            provenance
                .into_iter()
                .for_each(|provenance| visit.comes_from(provenance));
            visit.sent(7);
            drop(visit);
            drop(log);
            std::fs::read_to_string(path).unwrap()
        };
        let (masters, peers) = (5, 2);
        let fetched = Provenance::Fetched { masters, peers };
        let streamed = Provenance::Streamed { masters, peers };
        for (provenance, cache, sides) in [
            (None, "-", " - -\n"),
            (Some(Provenance::Kept), "hit", " - -\n"),
            (Some(fetched), "miss", " 5 2\n"),
            (Some(streamed), "streamed", " 5 2\n"),
        ] {
            let extended = line(AccessLogFormat::Extended, provenance);
            assert!(
                extended.starts_with("192.0.2.7 - - [") && extended.ends_with(sides),
                "{extended}"
            );
            assert!(extended.contains(&format!("\" {cache} 0.0")), "{extended}");
            let text = line(AccessLogFormat::Json, provenance);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(text.lines().count() == 1 && json["seconds"].is_number(), "{text}");
            assert_eq!(
                (json["client"].as_str(), json["cache"].as_str()),
                (Some("192.0.2.7"), Some(cache))
            );
            assert_eq!(
                (json["target"].as_str(), json["bytes"].as_u64()),
                (Some("/a\"\u{1b}"), Some(7))
            );
            assert_eq!(
                json["from_peers"].as_u64(),
                [Some(fetched), Some(streamed)].contains(&provenance).then_some(2)
            );
            assert!(json.get("referer").is_none() && json["agent"].is_string());
        }
    }

    #[test]
    fn times_are_written_as_analysers_read_them() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(stamp(time), "14/Nov/2023:22:13:20 +0000");
    }
}
