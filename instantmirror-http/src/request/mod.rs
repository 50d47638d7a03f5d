//! What a request asks, as plain data: no socket, no header map, no allocation where it can be avoided.
//! Every transport (hyper today, the native engine next to it) fills in the same [`Request`].

mod conditional;
mod path;
mod range;

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Uri};

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
    /// The header fields that decide something.
    pub fields: Fields<'a>,
}

/// The header fields that the core looks at. Lines that were sent several times are joined with commas, as
/// RFC 9110 has it; a field that must not come twice is malformed then and counts as malformed.
#[derive(Debug, Clone, Default)]
pub struct Fields<'a> {
    /// Accept.
    pub accept: Option<Cow<'a, str>>,
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
}

impl<'a> Request<'a> {
    /// The request as the `http` crate holds it.
    #[must_use]
    pub fn new(method: &Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        Self {
            method: method.clone(),
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            fields: Fields::new(headers),
        }
    }
}

impl<'a> Fields<'a> {
    /// Picks the fields out of a header map.
    #[must_use]
    pub fn new(headers: &'a HeaderMap) -> Self {
        let field = |name| joined(headers, name);
        Self {
            accept: field(header::ACCEPT),
            range: field(header::RANGE),
            if_range: field(header::IF_RANGE),
            if_match: field(header::IF_MATCH),
            if_none_match: field(header::IF_NONE_MATCH),
            if_modified_since: field(header::IF_MODIFIED_SINCE),
            if_unmodified_since: field(header::IF_UNMODIFIED_SINCE),
        }
    }
}

fn joined(headers: &HeaderMap, name: HeaderName) -> Option<Cow<'_, str>> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?;
    Some(values.fold(first, |all, value| Cow::Owned(format!("{all}, {value}"))))
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
    fn queries_come_apart() {
        assert_eq!(query_value("C=N&O=D", "O"), Some("D"));
        assert_eq!(query_value("C=N;O=D", "O"), Some("D"));
        assert_eq!(query_value("json", "json"), Some(""));
        assert_eq!(query_value("xjson=1", "json"), None);
        assert_eq!(query_value("", "json"), None);
    }
}
