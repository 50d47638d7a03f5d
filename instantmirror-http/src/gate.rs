//! The strict gate in front of everything: a request whose framing or target could be read in two ways is
//! refused, and its connection closed, so that nothing behind it can be smuggled.
//!
//! hyper's parser refuses bare line feeds, folded fields, unequal lengths and broken chunks itself. This adds
//! what it lets through: no request may be chunked (none of ours needs to be, and so none can carry both
//! lengths), only POST has a body, and HTTP/1.1 names exactly one host.

use http::header::{self, HeaderMap};
use http::{Method, Uri, Version};

/// What is wrong with the head of a request, if anything.
pub(crate) fn objection(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Some("requests with a Transfer-Encoding are not taken; send a Content-Length");
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Some("more than one Content-Length");
    }
    if length.is_some_and(|length| length != "0") && *method != Method::POST {
        return Some("only a POST has a body");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("more than one Host");
    }
    match host {
        Some(host) if !is_host(host.as_bytes()) => return Some("the Host is malformed"),
        None if version == Version::HTTP_11 => return Some("HTTP/1.1 needs a Host"),
        _ => {}
    }
    let server_wide = uri.path() == "*" && *method == Method::OPTIONS;
    if !uri.path().starts_with('/') && !server_wide && *method != Method::CONNECT {
        return Some("the target is neither a path nor a URL");
    }
    None
}

/// A host with or without port; empty is allowed, as it is in RFC 9110.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|&byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%')
    })
}

#[cfg(test)]
mod tests {
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
            ("GET", "/", "Host: h\nContent-Length: 5", false),
            ("HEAD", "/", "Host: h\nContent-Length: 5", false),
            ("DELETE", "/", "Host: h\nContent-Length: 5", false),
            ("POST", "/", "Host: h\nContent-Length: 5\nContent-Length: 5", false),
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
                let name: header::HeaderName = name.parse().unwrap();
                headers.append(name, value.parse().unwrap());
            }
            let method = method.parse().unwrap();
            let objection = objection(&method, &target.parse().unwrap(), Version::HTTP_11, &headers);
            assert_eq!(objection.is_none(), fine, "{method} {target} {lines:?}: {objection:?}");
        }
        let nothing = HeaderMap::new();
        assert_eq!(
            objection(&Method::GET, &Uri::from_static("/"), Version::HTTP_10, &nothing),
            None
        );
    }
}
