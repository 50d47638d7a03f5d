//! The Host: every way to give it, or none.

use crate::case::{Case, Explanation, explained};

/// The whole header behind the first line, for the Host.
const HOSTS: &[(&str, &str)] = &[
    ("none", ""),
    ("empty", "Host:\r\n"),
    ("blanks", "Host:  \r\n"),
    ("plain", "Host: h\r\n"),
    ("upper case", "HOST: H\r\n"),
    ("port", "Host: h:8080\r\n"),
    ("port, empty", "Host: h:\r\n"),
    ("port, a word", "Host: h:http\r\n"),
    ("port, too large", "Host: h:99999\r\n"),
    ("two ports", "Host: h:1:2\r\n"),
    ("IPv4", "Host: 127.0.0.1\r\n"),
    ("IPv6", "Host: [::1]\r\n"),
    ("IPv6 with port", "Host: [::1]:80\r\n"),
    ("IPv6, not closed", "Host: [::1\r\n"),
    ("IPv6 without brackets", "Host: ::1\r\n"),
    ("final dot", "Host: h.\r\n"),
    ("dots only", "Host: ..\r\n"),
    ("two dots inside", "Host: a..b\r\n"),
    ("slash", "Host: h/pub\r\n"),
    ("backslash", "Host: h\\pub\r\n"),
    ("user", "Host: u@h\r\n"),
    ("blank inside", "Host: a b\r\n"),
    ("tab inside", "Host: a\tb\r\n"),
    ("comma", "Host: a, b\r\n"),
    ("question mark", "Host: h?x\r\n"),
    ("hash", "Host: h#x\r\n"),
    ("underscore", "Host: a_b\r\n"),
    ("percent", "Host: a%20b\r\n"),
    ("NUL", "Host: a\0b\r\n"),
    ("control character", "Host: a\x01b\r\n"),
    ("quotes", "Host: \"h\"\r\n"),
    ("angle brackets", "Host: <h>\r\n"),
    ("accents", "Host: h\u{e4}\r\n"),
    ("a URL", "Host: http://h/\r\n"),
    ("a path", "Host: ../../etc\r\n"),
    ("twice the same", "Host: h\r\nHost: h\r\n"),
    ("twice", "Host: a\r\nHost: b\r\n"),
    ("twice, the second empty", "Host: a\r\nHost:\r\n"),
    ("blank before the colon", "Host : h\r\n"),
    ("blank before the name", " Host: h\r\n"),
    ("folded", "Host:\r\n h\r\n"),
];

pub(crate) fn cases() -> Vec<Case> {
    explained(table(), EXPLAINED)
}

fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, block) in HOSTS {
        let new = format!("GET /pub/kilo HTTP/1.1\r\n{block}\r\n");
        cases.push(Case::raw(format!("host: {name}"), new));
        let old = format!("GET /pub/kilo HTTP/1.0\r\n{block}\r\n");
        cases.push(Case::raw(format!("host in HTTP/1.0: {name}"), old));
    }
    cases
}

/// Where we differ from nginx, and why.
const EXPLAINED: &[Explanation] = &[
    (
        "200 kept",
        "RFC 9110, 7.2 has clients send an empty Host for targets without authority",
        &["host: empty", "host: blanks"],
    ),
    (
        "200 closed",
        "RFC 9110, 7.2 has clients send an empty Host for targets without authority",
        &["host in HTTP/1.0: empty", "host in HTTP/1.0: blanks"],
    ),
    (
        "200 kept",
        "one name space for all hosts: no decision depends on it",
        &[
            "host: dots only",
            "host: two dots inside",
            "host: IPv6 without brackets",
        ],
    ),
    (
        "200 closed",
        "one name space for all hosts: no decision depends on it",
        &[
            "host in HTTP/1.0: dots only",
            "host in HTTP/1.0: two dots inside",
            "host in HTTP/1.0: IPv6 without brackets",
        ],
    ),
];
