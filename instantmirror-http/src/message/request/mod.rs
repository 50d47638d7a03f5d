//! What a request asks, as plain data: no socket, no header map, no allocation where it can be avoided.
//! Both transports (HTTP/1.1 and HTTP/2) fill in the same [`Request`].

mod accept;
mod conditional;
mod path;
mod range;

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::HeaderMap;
use http::{Method, Uri};

pub(crate) use accept::coding_weights;
pub use accept::media_preference;
pub use conditional::{Validators, Verdict, evaluate, http_date, http_seconds, range_counts};
pub use path::{PathError, RequestPath, canonical_path, decode_path, encode_path, encode_path_into};
pub use range::{RANGE_GAP_JOINED, RANGES_MAX, Selection, is_worth_parting, select_ranges};

/// The head of one request.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Its method.
    pub method: Method,
    /// The path of its target, still percent-encoded.
    pub path: &'a str,
    /// The query of its target without the question mark, `""` if there is none.
    pub query: &'a str,
    /// The host that it is for, as it was written: of the target if that is a URL, of the Host field otherwise.
    pub host: Option<&'a str>,
    /// The header fields that decide something.
    pub fields: Fields<'a>,
    /// Who asks.
    pub client: Client,
}

/// The client of a request, as far as the connection tells. A server of one's own puts it among the request's extensions: begin
/// with `default()` or [`at_unix_socket`](Self::at_unix_socket), and assign the public fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Client {
    /// The other end of the connection; `None` for a Unix socket, or if nobody said.
    pub address: Option<IpAddr>,
    /// Whether nobody on the way can read what is said: the connection is encrypted.
    pub is_private: bool,
    /// Whether the other end of the connection is on this machine, be it the client or a proxy that asks for it.
    pub is_local: bool,
    is_at_unix_socket: bool,
}

impl Client {
    /// A client of a Unix socket, the only one that control routes are there for.
    #[must_use]
    pub fn at_unix_socket() -> Self {
        Self {
            is_local: true,
            is_at_unix_socket: true,
            ..Self::default()
        }
    }

    /// Whether it is at the other end of a Unix socket: [`at_unix_socket`](Self::at_unix_socket) said so. A client of this machine
    /// whose address is not known is not.
    #[must_use]
    pub fn is_at_unix_socket(&self) -> bool {
        self.is_at_unix_socket
    }

    /// Whether a secret may be taken from this client: nobody else could have heard it.
    #[must_use]
    pub fn may_tell_secrets(&self) -> bool {
        self.is_private || self.is_local
    }
}

/// The header fields that the core looks at. Lines that were sent several times are joined with commas, as
/// RFC 9110 has it; a field that must not come twice is malformed then and counts as malformed.
#[derive(Debug, Clone, Default)]
pub struct Fields<'a> {
    /// Accept.
    pub accept: Option<Cow<'a, str>>,
    /// Accept-Encoding.
    pub accept_encoding: Option<Cow<'a, str>>,
    /// Range.
    pub range: Option<Cow<'a, str>>,
    /// If-Range.
    pub if_range: Option<Cow<'a, str>>,
    /// If-Match.
    pub if_match: Option<Cow<'a, str>>,
    /// If-None-Match.
    pub if_none_match: Option<Cow<'a, str>>,
    /// If-Modified-Since.
    pub if_modified_since: Option<Cow<'a, str>>,
    /// If-Unmodified-Since.
    pub if_unmodified_since: Option<Cow<'a, str>>,
    /// Authorization.
    pub authorization: Option<Cow<'a, str>>,
    /// Priority (RFC 9218).
    pub priority: Option<Cow<'a, str>>,
    /// Forwarded (RFC 7239).
    pub forwarded: Option<Cow<'a, str>>,
    /// X-Forwarded-For.
    pub x_forwarded_for: Option<Cow<'a, str>>,
}

impl<'a> Request<'a> {
    /// The request as the `http` crate holds it.
    #[must_use]
    pub fn new(method: &Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        Self {
            method: method.clone(),
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            host: uri.host().or_else(|| headers.get(http::header::HOST)?.to_str().ok()),
            fields: Fields::new(headers),
            client: Client::default(),
        }
    }
}

impl<'a> Fields<'a> {
    /// Picks the fields out of a header map.
    #[must_use]
    pub fn new(headers: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            fields.note(name.as_str(), value.as_bytes());
        }
        fields
    }

    /// Takes one line of a header into account.
    pub fn note(&mut self, name: &str, value: &'a [u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let field = match name.len() {
            5 if is("range") => &mut self.range,
            6 if is("accept") => &mut self.accept,
            8 if is("if-range") => &mut self.if_range,
            8 if is("if-match") => &mut self.if_match,
            8 if is("priority") => &mut self.priority,
            13 if is("if-none-match") => &mut self.if_none_match,
            13 if is("authorization") => &mut self.authorization,
            9 if is("forwarded") => &mut self.forwarded,
            15 if is("x-forwarded-for") => &mut self.x_forwarded_for,
            15 if is("accept-encoding") => &mut self.accept_encoding,
            17 if is("if-modified-since") => &mut self.if_modified_since,
            19 if is("if-unmodified-since") => &mut self.if_unmodified_since,
            _ => return,
        };
        let value = String::from_utf8_lossy(value);
        *field = Some(match field.take() {
            None => value,
            Some(before) => Cow::Owned(format!("{before}, {value}")),
        });
    }

    /// Whether nobody waits for the answer: the urgency of RFC 9218 that is meant for what runs in the background.
    #[must_use]
    pub fn is_background(&self) -> bool {
        // A dictionary of RFC 8941: of a key that comes again the last value counts.
        let mut members = self.priority.iter().flat_map(|field| field.rsplit(','));
        let urgency = members.find_map(|member| member.trim().strip_prefix("u="));
        urgency.is_some_and(|value| value.split(';').next() == Some("7"))
    }

    /// Whether there is no condition and no range: the answer is the same for everybody.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let Self {
            accept: _,
            accept_encoding: _,
            authorization: _,
            priority: _,
            forwarded: _,
            x_forwarded_for: _,
            range,
            if_range,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
        } = self;
        [
            range,
            if_range,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
        ]
        .iter()
        .all(|field| field.is_none())
    }
}

/// The value of `key` in a query, as it stands there; `""` for a key without value. Pairs are separated by
/// `&` or, as in the sort links of other servers, by `;`.
#[must_use]
pub fn query_value<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split(['&', ';']).find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn repeated_fields_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(header::IF_NONE_MATCH, "\"a\"".parse().unwrap());
        headers.append(header::IF_NONE_MATCH, "\"b\"".parse().unwrap());
        headers.append(header::RANGE, "bytes=0-0".parse().unwrap());
        headers.append(header::RANGE, "bytes=1-1".parse().unwrap());
        let fields = Fields::new(&headers);
        assert_eq!(fields.if_none_match.as_deref(), Some("\"a\", \"b\""));
        assert_eq!(select_ranges(&fields.range.unwrap(), 10), Selection::Whole);
        assert!(fields.accept.is_none());
    }

    #[test]
    fn the_least_urgency_there_is_means_the_background() {
        let is_background = |field: &'static str| {
            let mut fields = Fields::default();
            fields.note("Priority", field.as_bytes());
            fields.is_background()
        };
        for field in ["u=7", "i, u=7", "u=7;x=1,i", "u=3, u=7"] {
            assert!(is_background(field), "{field}");
        }
        for field in ["", "u=6", "i", "u=77", "u=", "u=7, u=0", "v=7", "u = 7"] {
            assert!(!is_background(field), "{field}");
        }
        assert!(!Fields::default().is_background());
    }

    #[test]
    fn queries_come_apart() {
        assert_eq!(query_value("C=N&O=D", "O"), Some("D"));
        assert_eq!(query_value("C=N;O=D", "O"), Some("D"));
        assert_eq!(query_value("json", "json"), Some(""));
        assert_eq!(query_value("xjson=1", "json"), None);
        assert_eq!(query_value("", "json"), None);
    }
}
