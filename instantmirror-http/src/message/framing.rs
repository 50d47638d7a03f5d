//! The strict gate in front of everything: a request whose framing or target could be read in two ways is
//! refused, and its connection closed, so that nothing behind it can be smuggled.
//!
//! The parsers in front of it refuse folded fields, blanks before a colon and control characters. This adds
//! what they let through: no request that is answered may be chunked (none of ours needs to be), none may carry both
//! lengths, GET and HEAD have no body, a length is digits and nothing else, and HTTP/1.1 names exactly one host.
//! Methods that are not there (PUT, PROPFIND) may have a body, for their answer is that they are not there; it is never
//! read, and the connection ends.

use http::header::HeaderMap;
use http::{Method, Version};

/// What the header fields of a request say about where it ends and what follows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Framing {
    transfer_encodings: usize,
    /// The only coding is `chunked`.
    is_chunked: bool,
    lengths: usize,
    length: Option<u64>,
    hosts: usize,
    host_is_malformed: bool,
    /// The client will close, or wants us to.
    pub(crate) close: bool,
    /// The client of HTTP/1.0 wants the connection kept.
    pub(crate) keep_alive: bool,
    /// The client waits for a 100 before it sends the body.
    pub(crate) expects_continue: bool,
    expects_other: bool,
}

impl Framing {
    /// Of all fields of a header map.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut framing = Self::default();
        for (name, value) in headers {
            framing.note(name.as_str(), value.as_bytes());
        }
        framing
    }

    /// Takes one field into account. Returns whether it is one of those that count here.
    pub(crate) fn note(&mut self, name: &str, value: &[u8]) -> bool {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("host") => {
                self.hosts += 1;
                self.host_is_malformed |= !is_host(value);
            }
            6 if is("expect") => {
                let is_continue = value.eq_ignore_ascii_case(b"100-continue");
                self.expects_continue |= is_continue;
                self.expects_other |= !is_continue;
            }
            10 if is("connection") => {
                for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if is("content-length") => {
                self.lengths += 1;
                self.length = length(value);
            }
            17 if is("transfer-encoding") => {
                self.transfer_encodings += 1;
                self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            _ => return false,
        }
        true
    }

    /// Bytes of the body that follows the head; more than anybody takes if nobody knows.
    pub(crate) fn body_bytes(&self) -> u64 {
        if self.transfer_encodings > 0 {
            u64::MAX
        } else {
            self.length.unwrap_or(0)
        }
    }

    /// What is wrong with a request that has these fields, if anything. `path`: its target without the query.
    pub(crate) fn objection(&self, method: &Method, path: &str, version: Version) -> Option<&'static str> {
        let is_answered = matches!(*method, Method::GET | Method::HEAD | Method::POST | Method::OPTIONS);
        let is_one_chunked = self.transfer_encodings == 1 && self.is_chunked && version == Version::HTTP_11;
        if self.transfer_encodings > 0 && (is_answered || !is_one_chunked || self.lengths > 0) {
            return Some("requests with a Transfer-Encoding are not taken; send a Content-Length");
        }
        if self.lengths > 1 {
            return Some("more than one Content-Length");
        }
        if self.lengths == 1 && self.length.is_none() {
            return Some("the Content-Length is not a number");
        }
        if self.body_bytes() > 0 && matches!(*method, Method::GET | Method::HEAD) {
            return Some("a GET has no body");
        }
        if self.hosts > 1 {
            return Some("more than one Host");
        }
        if self.host_is_malformed {
            return Some("the Host is malformed");
        }
        if self.hosts == 0 && version == Version::HTTP_11 {
            return Some("HTTP/1.1 needs a Host");
        }
        if self.expects_other {
            return Some("nothing can be expected but 100-continue");
        }
        let server_wide = path == "*" && *method == Method::OPTIONS;
        if !path.starts_with('/') && !server_wide && *method != Method::CONNECT {
            return Some("the target is neither a path nor a URL");
        }
        None
    }
}

/// A Content-Length that nobody can read in another way.
fn length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// A name or an address with or without port; empty is allowed, as it is in RFC 9110.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.split_first() {
        Some((b'[', rest)) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else {
                return false;
            };
            let is_part = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if end == 0 || !rest.iter().take(end).all(is_part) {
                return false;
            }
            (&[][..], rest.get(end + 1..).unwrap_or_default())
        }
        _ => host.split_at(host.iter().position(|&byte| byte == b':').unwrap_or(host.len())),
    };
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b'%');
    let is_name = name.iter().all(is_part) && !name.windows(2).any(|pair| pair == b"..");
    let is_port = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    is_name && is_port
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use http::header::HeaderName;

    use super::*;

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let cases = [
            ("GET", "/", "Host: h", true),
            ("GET", "/", "Host: h:80", true),
            ("GET", "/", "Host: [::1]:80", true),
            ("GET", "/", "Host: ", true),
            ("GET", "http://h/a", "Host: h", true),
            ("OPTIONS", "*", "Host: h", true),
            ("POST", "/", "Host: h\nContent-Length: 5", true),
            ("GET", "/", "Host: h\nContent-Length: 0", true),
            ("GET", "*", "Host: h", false),
            ("GET", "/", "", false),
            ("GET", "/", "Host: a\nHost: a", false),
            ("GET", "/", "Host: a b", false),
            ("GET", "/", "Host: a/b", false),
            ("GET", "/", "Host: u@h", false),
            ("GET", "/", "Host: a, b", false),
            ("GET", "/", "Host: [::1]", true),
            ("GET", "/", "Host: [::1]:", true),
            ("GET", "/", "Host: h.:8080", true),
            ("GET", "/", "Host: ::1", false),
            ("GET", "/", "Host: [::1", false),
            ("GET", "/", "Host: []", false),
            ("GET", "/", "Host: [::1]x", false),
            ("GET", "/", "Host: h:x", false),
            ("GET", "/", "Host: h:80:80", false),
            ("GET", "/", "Host: ..", false),
            ("GET", "/", "Host: a..b", false),
            ("GET", "/", "Host: h\nContent-Length: 5", false),
            ("HEAD", "/", "Host: h\nContent-Length: 5", false),
            ("DELETE", "/", "Host: h\nContent-Length: 5", true),
            ("PUT", "/", "Host: h\nContent-Length: 5", true),
            ("PROPFIND", "/", "Host: h\nContent-Length: 5", true),
            ("OPTIONS", "/", "Host: h\nContent-Length: 5", true),
            ("PUT", "/", "Host: h\nTransfer-Encoding: chunked", true),
            (
                "PUT",
                "/",
                "Host: h\nTransfer-Encoding: chunked\nContent-Length: 5",
                false,
            ),
            (
                "PUT",
                "/",
                "Host: h\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
                false,
            ),
            ("PUT", "/", "Host: h\nTransfer-Encoding: gzip, chunked", false),
            ("PUT", "/", "Host: h\nContent-Length: x", false),
            ("OPTIONS", "/", "Host: h\nTransfer-Encoding: chunked", false),
            ("GET", "/", "Host: h\nTransfer-Encoding: chunked", false),
            ("POST", "/", "Host: h\nContent-Length: 5\nContent-Length: 5", false),
            ("POST", "/", "Host: h\nContent-Length: +5", false),
            ("POST", "/", "Host: h\nContent-Length: 5, 5", false),
            ("POST", "/", "Host: h\nContent-Length: 0x5", false),
            ("POST", "/", "Host: h\nContent-Length: 99999999999999999999", false),
            ("POST", "/", "Host: h\nExpect: 100-continue\nContent-Length: 5", true),
            ("GET", "/", "Host: h\nExpect: 200-ok", false),
            ("POST", "/", "Host: h\nTransfer-Encoding: chunked", false),
            ("POST", "/", "Host: h\nTransfer-Encoding: identity", false),
            (
                "POST",
                "/",
                "Host: h\nTransfer-Encoding: chunked\nContent-Length: 5",
                false,
            ),
            ("GET", "/", "Host: h\nTransfer-Encoding: xchunked", false),
        ];
        for (method, target, lines, fine) in cases {
            let mut headers = HeaderMap::new();
            for line in lines.lines() {
                let (name, value) = line.split_once(": ").unwrap();
                let name: HeaderName = name.parse().unwrap();
                headers.append(name, value.parse().unwrap());
            }
            let method = method.parse().unwrap();
            let target: Uri = target.parse().unwrap();
            let objection = Framing::of(&headers).objection(&method, target.path(), Version::HTTP_11);
            assert_eq!(objection.is_none(), fine, "{method} {target} {lines:?}: {objection:?}");
        }
        let nothing = Framing::default();
        assert_eq!(nothing.objection(&Method::GET, "/", Version::HTTP_10), None);
    }
}
