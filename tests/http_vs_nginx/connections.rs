//! What becomes of a connection: asked to keep it, to close it, or both.

use crate::case::{Case, Explanation, explained};

const VERSIONS: [&str; 2] = ["1.1", "1.0"];

const CONNECTION_LINES: &[(&str, &str)] = &[
    ("nothing said", ""),
    ("close", "Connection: close\r\n"),
    ("Close", "Connection: Close\r\n"),
    ("CLOSE", "connection: CLOSE\r\n"),
    ("keep-alive", "Connection: keep-alive\r\n"),
    ("Keep-Alive", "Connection: Keep-Alive\r\n"),
    ("close and another", "Connection: close, TE\r\n"),
    ("another and close", "Connection: TE, close\r\n"),
    ("another", "Connection: TE\r\n"),
    ("close twice", "Connection: close\r\nConnection: close\r\n"),
    (
        "close, then keep-alive in lines",
        "Connection: close\r\nConnection: keep-alive\r\n",
    ),
    (
        "keep-alive, then close in lines",
        "Connection: keep-alive\r\nConnection: close\r\n",
    ),
    ("empty", "Connection:\r\n"),
    ("word with close in it", "Connection: enclosed\r\n"),
    (
        "Keep-Alive parameters",
        "Connection: keep-alive\r\nKeep-Alive: timeout=5, max=1\r\n",
    ),
    ("Proxy-Connection", "Proxy-Connection: close\r\n"),
];

pub(crate) fn cases() -> Vec<Case> {
    explained(table(), EXPLAINED)
}

fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, line) in CONNECTION_LINES {
        for version in VERSIONS {
            let bytes = format!("GET /pub/kilo HTTP/{version}\r\nHost: h\r\n{line}\r\n");
            cases.push(Case::raw(format!("HTTP/{version}, connection: {name}"), bytes));
        }
    }
    cases
}

/// Where we differ from nginx, and why.
const EXPLAINED: &[Explanation] = &[
    (
        "200 closed",
        "close counts wherever it stands (RFC 9112, 9.6); nginx takes the last line",
        &[
            "HTTP/1.0, connection: close, then keep-alive in lines",
            "HTTP/1.1, connection: close, then keep-alive in lines",
        ],
    ),
    (
        "200 kept",
        "the option is another word; nginx looks for close anywhere in it",
        &["HTTP/1.1, connection: word with close in it"],
    ),
];
