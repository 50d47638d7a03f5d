//! Reading the head of a request from bytes: strict where two readers could disagree.
//!
//! httparse takes a request apart and refuses folded fields, blanks around names and control characters. What
//! it is lenient about is refused here: lines that end without a carriage return, targets that are no text.
//! [`Framing`] judges the rest.

use std::mem::MaybeUninit;

use http::{Method, StatusCode, Version};
use httparse::Status;

use crate::limits::Limits;
use crate::message::framing::Framing;
use crate::message::request::{Client, Fields, Request};
use crate::message::wire::Persistence;

/// Header fields that a request may have at most, whatever the limits say.
const FIELDS_MAX: usize = 128;

/// A request as it was read.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) request: Request<'a>,
    /// The target as it came, for the access log.
    pub(crate) target: &'a str,
    pub(crate) version: Version,
    pub(crate) framing: Framing,
    pub(crate) referer: Option<&'a [u8]>,
    pub(crate) agent: Option<&'a [u8]>,
    /// Bytes of the head, the empty line included.
    pub(crate) bytes: usize,
}

/// What some bytes are.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a head lives shorter than an allocation takes")]
pub(crate) enum Parsed<'a> {
    /// A whole head. What follows it is its body, or the next request.
    Head(Head<'a>),
    /// The beginning of one.
    Incomplete,
    /// Nothing that is answered otherwise than with this.
    Refused(StatusCode, &'static str),
}

impl Head<'_> {
    /// What the client wants to become of the connection.
    pub(crate) fn persistence(&self) -> Persistence {
        match self.version {
            _ if self.framing.close => Persistence::Close,
            // Who asks for a tunnel may send through it at once, and that is no request.
            _ if self.request.method == Method::CONNECT => Persistence::Close,
            Version::HTTP_10 if self.framing.keep_alive => Persistence::KeepAliveSaid,
            Version::HTTP_10 => Persistence::Close,
            _ => Persistence::KeepAlive,
        }
    }

    /// The version as the access log has it.
    pub(crate) fn version_text(&self) -> &'static str {
        if self.version == Version::HTTP_10 {
            "HTTP/1.0"
        } else {
            "HTTP/1.1"
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has read a head.
    pub(super) static PARSED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Reads a request head at the beginning of `bytes`.
pub(crate) fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Parsed<'a> {
    #[cfg(test)]
    PARSED.set(PARSED.get() + 1);
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let fields_max = limits.header_fields_max.min(FIELDS_MAX);
    let mut raw = httparse::Request::new(&mut []);
    let taken = match raw.parse_with_uninit_headers(bytes, storage.get_mut(..fields_max).unwrap_or_default()) {
        Ok(Status::Complete(taken)) => taken,
        Ok(Status::Partial) => return incomplete(bytes, limits),
        Err(error) => return refused(error),
    };
    if taken > limits.header_bytes_max {
        return too_long(bytes);
    }
    if has_bare_line_feed(bytes.get(..taken).unwrap_or_default()) {
        return malformed("a line ends without a carriage return");
    }
    let (Some(method), Some(target), Some(version)) = (raw.method, raw.path, raw.version) else {
        return malformed("there is no request line");
    };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else {
        return malformed("the method is not a word");
    };
    let version = if version == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let Some((path, query)) = take_apart(target, &method) else {
        return malformed("the target is neither a path nor a URL");
    };
    let (mut fields, mut framing) = (Fields::default(), Framing::default());
    let (mut referer, mut agent) = (None, None);
    let mut host = None;
    for field in raw.headers.iter() {
        if framing.note(field.name, field.value) {
            if field.name.len() == 4 {
                host = std::str::from_utf8(field.value).ok();
            }
            continue;
        }
        match field.name.len() {
            7 if field.name.eq_ignore_ascii_case("referer") => referer = Some(field.value),
            10 if field.name.eq_ignore_ascii_case("user-agent") => agent = Some(field.value),
            _ => fields.note(field.name, field.value),
        }
    }
    if let Some(objection) = framing.objection(&method, path, version) {
        return malformed(objection);
    }
    Parsed::Head(Head {
        request: Request {
            method,
            path,
            query,
            host: authority(target).or(host),
            fields,
            client: Client::default(),
        },
        target,
        version,
        framing,
        referer,
        agent,
        bytes: taken,
    })
}

fn malformed(text: &'static str) -> Parsed<'static> {
    Parsed::Refused(StatusCode::BAD_REQUEST, text)
}

fn refused(error: httparse::Error) -> Parsed<'static> {
    match error {
        httparse::Error::TooManyHeaders => Parsed::Refused(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request has too many header fields",
        ),
        httparse::Error::Version => malformed("this server speaks HTTP/1.0 and HTTP/1.1"),
        httparse::Error::NewLine => malformed("a line does not end as it should"),
        httparse::Error::HeaderName => malformed("the name of a header field is malformed"),
        httparse::Error::HeaderValue => malformed("the value of a header field is malformed"),
        httparse::Error::Token => malformed("the request line is malformed"),
        _ => malformed("this is no HTTP request"),
    }
}

fn incomplete<'a>(bytes: &[u8], limits: &Limits) -> Parsed<'a> {
    if bytes.len() >= limits.header_bytes_max {
        return too_long(bytes);
    }
    // The rest cannot make it better, and a client that sends it so will not send the end that we wait for.
    if has_bare_line_feed(bytes) {
        return malformed("a line ends without a carriage return");
    }
    Parsed::Incomplete
}

fn too_long<'a>(bytes: &[u8]) -> Parsed<'a> {
    if memchr::memchr(b'\n', bytes).is_some() {
        Parsed::Refused(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the header of the request is too long",
        )
    } else {
        Parsed::Refused(StatusCode::URI_TOO_LONG, "the target of the request is too long")
    }
}

fn has_bare_line_feed(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes.get(at - 1) != Some(&b'\r'))
}

/// Path and query of a target: `/path?query`, `http://host/path?query`, `*` for OPTIONS, anything for CONNECT.
fn take_apart<'a>(target: &'a str, method: &Method) -> Option<(&'a str, &'a str)> {
    if *method == Method::CONNECT || target == "*" {
        return Some((target, ""));
    }
    // A fragment is never sent. Who sends one means something that we do not know.
    if target.contains('#') {
        return None;
    }
    let origin = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let begin = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, origin) = rest.split_at(begin);
        if authority.is_empty() || authority.contains('@') {
            return None;
        }
        origin
    };
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    Some((if path.is_empty() { "/" } else { path }, query))
}

/// The authority of a target that is a URL: that is the host, whatever the Host field says (RFC 9112, 3.2.2).
fn authority(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return None;
    }
    target.split_once("://")?.1.split(['/', '?']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bytes: &[u8]) -> Option<u16> {
        match parse(bytes, &Limits::default()) {
            Parsed::Refused(status, _) => Some(status.as_u16()),
            Parsed::Incomplete => None,
            Parsed::Head(_) => Some(0),
        }
    }

    #[test]
    fn a_request_is_read() {
        let bytes =
            b"GET /a%20b?x=y HTTP/1.1\r\nHost: h\r\nRANGE: bytes=0-1\r\nUser-Agent: u\r\nIf-none-match: \"a\"\r\n\
                      If-None-Match: \"b\"\r\n\r\nGET /next";
        let Parsed::Head(head) = parse(bytes, &Limits::default()) else {
            panic!("refused")
        };
        assert_eq!((head.request.path, head.request.query), ("/a%20b", "x=y"));
        assert_eq!(head.request.host, Some("h"));
        let Parsed::Head(other) = parse(b"GET http://o:1/x HTTP/1.1\r\nHost: h\r\n\r\n", &Limits::default()) else {
            panic!("refused")
        };
        assert_eq!(other.request.host, Some("o:1"));
        assert_eq!(head.request.fields.range.as_deref(), Some("bytes=0-1"));
        assert_eq!(head.request.fields.if_none_match.as_deref(), Some("\"a\", \"b\""));
        assert_eq!(head.agent, Some(b"u".as_slice()));
        assert_eq!(bytes.get(head.bytes..), Some(b"GET /next".as_slice()));
        assert_eq!(head.persistence(), Persistence::KeepAlive);
    }

    #[test]
    fn who_keeps_the_connection() {
        for (head, persistence) in [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", Persistence::KeepAlive),
            (
                "GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n",
                Persistence::Close,
            ),
            (
                "GET / HTTP/1.1\r\nHost: h\r\nConnection: x, close\r\n\r\n",
                Persistence::Close,
            ),
            ("GET / HTTP/1.0\r\n\r\n", Persistence::Close),
            (
                "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                Persistence::KeepAliveSaid,
            ),
            (
                "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
                Persistence::Close,
            ),
        ] {
            match parse(head.as_bytes(), &Limits::default()) {
                Parsed::Head(parsed) => assert_eq!(parsed.persistence(), persistence, "{head}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn targets_come_apart() {
        for (target, expected) in [
            ("/", Some(("/", ""))),
            ("/?", Some(("/", ""))),
            ("/a?b?c", Some(("/a", "b?c"))),
            ("http://h", Some(("/", ""))),
            ("http://h?q", Some(("/", "q"))),
            ("HTTP://h:80/a?b", Some(("/a", "b"))),
            ("https://h/a", Some(("/a", ""))),
            ("ftp://h/a", None),
            ("http:///a", None),
            ("http://u@h/a", None),
            ("h/a", None),
            ("", None),
            ("/a#b", None),
        ] {
            assert_eq!(take_apart(target, &Method::GET), expected, "{target}");
        }
        assert_eq!(take_apart("h:443", &Method::CONNECT), Some(("h:443", "")));
        assert_eq!(take_apart("*", &Method::OPTIONS), Some(("*", "")));
    }

    #[test]
    fn what_is_wrong_is_refused_at_once() {
        let cases: [(&[u8], Option<u16>); 16] = [
            (b"", None),
            (b"GET / HTTP/1.1\r\nHost: h\r\n", None),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", Some(0)),
            (b"GET / HTTP/1.1\nHost: h\n\n", Some(400)),
            (b"GET / HTTP/1.1\r\nHost: h\n", Some(400)),
            (b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", Some(400)),
            (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", Some(400)),
            (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", Some(400)),
            (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", Some(400)),
            (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", Some(400)),
            (b"GET / HTTP/1.1\r\nX: \0\r\n\r\n", Some(400)),
            (b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", Some(400)),
            (b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n", Some(400)),
            (b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", Some(400)),
            (b"GET / HTTP/1.1\r\n\r\n", Some(400)),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Some(400)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(status(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(40_000));
        assert_eq!(status(&long.as_bytes()[..33_000]), Some(414));
        assert_eq!(status(long.as_bytes()), Some(431));
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(40_000));
        assert_eq!(status(long.as_bytes()), Some(431));
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert_eq!(status(many.as_bytes()), Some(431));
    }
}
