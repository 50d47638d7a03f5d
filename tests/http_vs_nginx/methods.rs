//! Methods: which there are, what the others are told, and that HEAD is GET without its body.

use crate::case::{Case, Explanation, explained};

const TARGETS: [(&str, &str); 3] = [
    ("file", "/pub/kilo"),
    ("directory", "/pub/dir/"),
    ("missing", "/pub/missing"),
];

const METHODS: &[&str] = &[
    "GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "MKCOL", "COPY",
    "MOVE", "LOCK", "PURGE", "QUERY", "FOO", "get", "Get", "M-SEARCH",
];

pub(crate) fn cases() -> Vec<Case> {
    explained(table(), EXPLAINED)
}

fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for method in METHODS {
        for (kind, target) in TARGETS {
            let name = format!("{method} of a {kind}");
            cases.push(Case::request(name, method, target, "").page());
        }
    }
    for target in [
        "/pub/kilo",
        "/pub/large",
        "/pub/empty",
        "/pub/dir",
        "/pub/indexed/",
        "/pub/link",
    ] {
        cases.push(Case::request(format!("HEAD of {target}"), "HEAD", target, ""));
    }
    cases.push(Case::request(
        "HEAD with a range",
        "HEAD",
        "/pub/kilo",
        "Range: bytes=0-9\r\n",
    ));
    cases.push(Case::request(
        "HEAD with several ranges",
        "HEAD",
        "/pub/kilo",
        "Range: bytes=0-9,500-509\r\n",
    ));
    cases.push(Case::request(
        "HEAD with a range beyond",
        "HEAD",
        "/pub/kilo",
        "Range: bytes=1000-\r\n",
    ));
    cases.push(Case::request(
        "HEAD of what it has",
        "HEAD",
        "/pub/kilo",
        "If-None-Match: {etag}\r\n",
    ));
    cases.push(Case::request(
        "HEAD of what is not it",
        "HEAD",
        "/pub/kilo",
        "If-Match: \"other\"\r\n",
    ));
    cases.push(Case::request("OPTIONS of everything", "OPTIONS", "*", ""));
    cases.push(Case::request("CONNECT to a host", "CONNECT", "h:443", ""));
    cases.push(Case::request("CONNECT to a URL", "CONNECT", "http://h:443/", ""));
    cases.push(Case::request(
        "DELETE with a condition",
        "DELETE",
        "/pub/kilo",
        "If-Match: {etag}\r\n",
    ));
    cases
}

/// Where we differ from nginx, and why.
const EXPLAINED: &[Explanation] = &[
    (
        "204 kept",
        "OPTIONS tells which methods there are; nginx has no OPTIONS for files",
        &[
            "OPTIONS of a file",
            "OPTIONS of a directory",
            "OPTIONS of a missing",
            "OPTIONS of everything",
        ],
    ),
    (
        "405 kept",
        "a method that is not there, like any other; nginx closes behind TRACE",
        &["TRACE of a file", "TRACE of a directory", "TRACE of a missing"],
    ),
    (
        "405 kept",
        "methods are case-sensitive (RFC 9110, 9.1), so this is one that is not there; nginx knows upper case only",
        &[
            "get of a file",
            "get of a directory",
            "get of a missing",
            "Get of a file",
            "Get of a directory",
            "Get of a missing",
        ],
    ),
    (
        "200 kept",
        "Range is defined for GET only (RFC 9110, 14.2)",
        &[
            "HEAD with a range",
            "HEAD with several ranges",
            "HEAD with a range beyond",
        ],
    ),
    (
        "412 kept",
        "a condition that fails says nothing about the connection; nginx closes",
        &["HEAD of what is not it"],
    ),
];
