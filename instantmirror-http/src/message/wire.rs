//! How the head of an answer is written: the one place that knows.

use std::cell::RefCell;
use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::COMMON;

/// Writes the status line and the fields of every answer. Always HTTP/1.1: the version is the server's own.
pub(crate) fn begin(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &COMMON {
        field(out, name.as_str(), value.as_bytes());
    }
}

/// Writes all fields but those that [`begin`] and [`end`] write.
pub(crate) fn fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        let is_common = COMMON.iter().any(|(common, _)| common == name);
        if !is_common && *name != http::header::CONNECTION {
            field(out, name.as_str(), value.as_bytes());
        }
    }
}

pub(crate) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn content_length(out: &mut Vec<u8>, bytes: u64) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "content-length: {bytes}\r\n");
}

/// The fields that say which range of a whole of `size` bytes follows.
pub(crate) fn content_range(out: &mut Vec<u8>, range: &Range<u64>, size: u64) {
    let last = range.end.saturating_sub(1);
    let _ = write!(out, "content-range: bytes {}-{last}/{size}\r\n", range.start);
    content_length(out, range.end - range.start);
}

/// The fields among the lines of a header that [`begin`] and its like have written.
pub(crate) fn header_map(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    for line in lines.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // The status line has no colon and a space.
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value.get(2..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Whether a connection persists after an answer (RFC 9112, 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// It is closed: `Connection: close`.
    Close,
    /// It is kept, as HTTP/1.1 has it.
    KeepAlive,
    /// It is kept, which a client of HTTP/1.0 must be told.
    KeepAliveSaid,
}

/// Writes what stands last: the date, what becomes of the connection, and the empty line.
pub(crate) fn end(out: &mut Vec<u8>, persistence: Persistence) {
    DATE.with_borrow_mut(|date| out.extend_from_slice(date.line(SystemTime::now())));
    out.extend_from_slice(match persistence {
        Persistence::Close => b"connection: close\r\n\r\n",
        Persistence::KeepAlive => b"\r\n",
        Persistence::KeepAliveSaid => b"connection: keep-alive\r\n\r\n",
    });
}

/// The value of a Date field.
pub(crate) fn date() -> HeaderValue {
    DATE.with_borrow_mut(|date| {
        date.line(SystemTime::now());
        date.value.clone()
    })
}

thread_local! {
    static DATE: RefCell<DateLine> = const { RefCell::new(DateLine::new()) };
}

/// The Date field, made once a second.
struct DateLine {
    second: u64,
    line: Vec<u8>,
    value: HeaderValue,
}

impl DateLine {
    const fn new() -> Self {
        Self {
            second: u64::MAX,
            line: Vec::new(),
            value: HeaderValue::from_static(""),
        }
    }

    fn line(&mut self, now: SystemTime) -> &[u8] {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second {
            self.second = second;
            self.line.clear();
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            let date = httpdate::fmt_http_date(date);
            field(&mut self.line, "date", date.as_bytes());
            // A date is made of nothing that a header may not have.
            self.value = HeaderValue::from_maybe_shared(Bytes::from(date)).unwrap_or(HeaderValue::from_static(""));
        }
        &self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_written_as_the_rfc_has_it() {
        let mut headers = HeaderMap::new();
        headers.insert("etag", "\"x\"".parse().unwrap());
        headers.insert("connection", "close".parse().unwrap());
        let mut out = Vec::new();
        begin(&mut out, StatusCode::PARTIAL_CONTENT);
        fields(&mut out, &headers);
        content_range(&mut out, &(5..10), 20);
        end(&mut out, Persistence::Close);
        let text = String::from_utf8(out).unwrap();
        let (before, date) = text.split_once("date: ").unwrap();
        assert_eq!(
            before,
            "HTTP/1.1 206 Partial Content\r\nserver: InstantMirror\r\nx-content-type-options: nosniff\r\n\
             etag: \"x\"\r\ncontent-range: bytes 5-9/20\r\ncontent-length: 5\r\n"
        );
        assert!(date.ends_with(" GMT\r\nconnection: close\r\n\r\n"), "{date}");
    }

    #[test]
    fn the_date_is_that_of_now() {
        let mut date = DateLine::new();
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        assert_eq!(date.line(at(0)), b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(date.line(at(1)), b"date: Thu, 01 Jan 1970 00:00:01 GMT\r\n");
        assert_eq!(date.line(at(1)), b"date: Thu, 01 Jan 1970 00:00:01 GMT\r\n");
    }
}
