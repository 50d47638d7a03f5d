//! Entries of the access log: what a line says of one request and of its answer.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;
use instantmirror_core::traits::{ObjectReader, Provenance};

use super::access_log::{AccessLog, AccessLogFormat};

/// The entry of one request on its way into the log. Its line is written when this is dropped. Boxed, for a
/// connection that waits has room for one.
pub(crate) struct AccessLogEntry(Box<Entry>);

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

/// What an entry says of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoggedRequest<'a> {
    pub(crate) address: Option<IpAddr>,
    /// The words of the request line.
    pub(crate) line: &'a [&'a [u8]],
    pub(crate) host: Option<&'a str>,
    pub(crate) referer: Option<&'a [u8]>,
    pub(crate) agent: Option<&'a [u8]>,
    /// When it was read.
    pub(crate) begun: Instant,
}

impl AccessLogEntry {
    pub(crate) fn new(log: &Arc<AccessLog>, request: &LoggedRequest<'_>) -> Self {
        let (line, behind) = match log.format() {
            AccessLogFormat::Combined | AccessLogFormat::Extended => combined(request),
            AccessLogFormat::Json => (json(request), String::new()),
        };
        Self(Box::new(Entry {
            log: Arc::clone(log),
            line,
            behind,
            begun: request.begun,
            status: StatusCode::OK,
            bytes: 0,
            provenance: None,
            reader: None,
        }))
    }

    pub(super) fn answers(&mut self, status: StatusCode) {
        self.0.status = status;
    }

    /// Where the content comes from.
    pub(super) fn comes_from(&mut self, provenance: Provenance) {
        self.0.provenance = Some(provenance);
    }

    /// Who will know it when the answer ends: how much of it had to be fetched, and from whom.
    pub(super) fn reads(&mut self, reader: &Arc<dyn ObjectReader>) {
        self.0.reader = Some(Arc::clone(reader));
    }

    /// So many more bytes of the body went out.
    pub(super) fn sent(&mut self, bytes: u64) {
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
        let _ = match (self.log.format(), fetched) {
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
fn combined(request: &LoggedRequest<'_>) -> (String, String) {
    let mut line = String::with_capacity(160);
    match request.address {
        Some(address) => _ = write!(line, "{}", address.to_canonical()),
        None => line.push('-'),
    }
    line.push_str(" - - [");
    line.push_str(&stamp(SystemTime::now()));
    line.push_str("] \"");
    for (number, word) in request.line.iter().enumerate() {
        if number > 0 {
            line.push(' ');
        }
        escape(&mut line, word);
    }
    line.push('"');
    let mut behind = String::with_capacity(48);
    for field in [request.referer, request.agent] {
        behind.push_str(" \"");
        escape(&mut behind, field.unwrap_or(b"-"));
        behind.push('"');
    }
    (line, behind)
}

/// The beginning of an object of JSON, with all that is known before the answer.
fn json(request: &LoggedRequest<'_>) -> String {
    let mut line = String::with_capacity(320);
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_microsecond(micros).unwrap_or_default();
    let _ = write!(line, "{{\"time\":\"{}\"", now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"));
    if let Some(address) = request.address {
        let _ = write!(line, ",\"client\":\"{}\"", address.to_canonical());
    }
    let words: &[&str] = match request.line {
        [_, _, _] => &["method", "target", "version"],
        _ => &["request"],
    };
    let line_words = words.iter().copied().zip(request.line.iter().copied().map(Some));
    let fields = [
        ("host", request.host.map(str::as_bytes)),
        ("referer", request.referer),
        ("agent", request.agent),
    ];
    for (name, value) in line_words.chain(fields) {
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_other_formats_say_where_it_came_from_and_how_long_it_took() {
        let dir = tempfile::tempdir().unwrap();
        let line = |format: AccessLogFormat, provenance: Option<Provenance>| {
            let path = dir.path().join(format!("{format:?}-{provenance:?}"));
            let log = AccessLog::open(&path, format).unwrap();
            let request = LoggedRequest {
                address: Some("::ffff:192.0.2.7".parse().unwrap()),
                line: &["GET", "/a\"\u{1b}", "HTTP/1.1"].map(str::as_bytes),
                host: Some("h"),
                referer: None,
                agent: Some(b"\xff\n"),
                begun: Instant::now(),
            };
            let mut entry = AccessLogEntry::new(&log, &request);
            provenance
                .into_iter()
                .for_each(|provenance| entry.comes_from(provenance));
            entry.sent(7);
            drop(entry);
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
