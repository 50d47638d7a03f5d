//! Chunked requests: none of ours needs to be chunked, so all are refused, whatever nginx makes of them.

use crate::case::Case;
use crate::framing::HIDDEN;

/// Transfer-Encoding lines.
const CODINGS: &[(&str, &str)] = &[
    ("chunked", "Transfer-Encoding: chunked"),
    ("upper case", "Transfer-Encoding: CHUNKED"),
    ("without a blank", "Transfer-Encoding:chunked"),
    ("blanks around", "Transfer-Encoding: \t chunked \t"),
    ("identity", "Transfer-Encoding: identity"),
    ("gzip", "Transfer-Encoding: gzip"),
    ("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
    ("chunked, gzip", "Transfer-Encoding: chunked, gzip"),
    ("chunked twice in a list", "Transfer-Encoding: chunked, chunked"),
    (
        "chunked twice in lines",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    (
        "identity, then chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    ),
    (
        "chunked, then identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ),
    ("parameter", "Transfer-Encoding: chunked;q=0.5"),
    ("comma before", "Transfer-Encoding: ,chunked"),
    ("comma behind", "Transfer-Encoding: chunked,"),
    ("empty", "Transfer-Encoding:"),
    ("quoted", "Transfer-Encoding: \"chunked\""),
    ("prefix", "Transfer-Encoding: xchunked"),
    ("suffix", "Transfer-Encoding: chunkedx"),
    ("blank inside", "Transfer-Encoding: chun ked"),
    ("blank before the colon", "Transfer-Encoding : chunked"),
    ("blank before the name", " Transfer-Encoding: chunked"),
    ("folded", "Transfer-Encoding:\r\n chunked"),
    ("folded with a tab", "Transfer-Encoding:\r\n\tchunked"),
    ("NUL before", "Transfer-Encoding: \0chunked"),
    ("vertical tab before", "Transfer-Encoding: \x0bchunked"),
    ("bare CR before", "Transfer-Encoding: \rchunked"),
    ("bare LF in another field", "X: y\nTransfer-Encoding: chunked"),
];

/// Bodies of a request that says it is chunked. A request is hidden behind each.
const BODIES: &[(&str, &str)] = &[
    ("empty", "0\r\n\r\n"),
    ("one chunk", "1\r\nx\r\n0\r\n\r\n"),
    ("two chunks", "1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n"),
    ("hexadecimal size", "a\r\n0123456789\r\n0\r\n\r\n"),
    ("upper case size", "A\r\n0123456789\r\n0\r\n\r\n"),
    ("leading zeros", "0001\r\nx\r\n0\r\n\r\n"),
    ("zeros as last", "000\r\n\r\n"),
    ("extension", "1;a=b\r\nx\r\n0\r\n\r\n"),
    ("quoted extension", "1;a=\"b\r\n\"\r\nx\r\n0\r\n\r\n"),
    ("blank before the extension", "1 ;a\r\nx\r\n0\r\n\r\n"),
    ("LF in the extension", "1;a\nb\r\nx\r\n0\r\n\r\n"),
    ("blank behind the size", "1 \r\nx\r\n0\r\n\r\n"),
    ("blank before the size", " 1\r\nx\r\n0\r\n\r\n"),
    ("plus sign", "+1\r\nx\r\n0\r\n\r\n"),
    ("minus sign", "-1\r\nx\r\n0\r\n\r\n"),
    ("0x", "0x1\r\nx\r\n0\r\n\r\n"),
    ("no digits", "g\r\nx\r\n0\r\n\r\n"),
    ("empty size", "\r\nx\r\n0\r\n\r\n"),
    ("size wraps around 32 bits", "100000001\r\nx\r\n0\r\n\r\n"),
    ("size wraps around 64 bits", "10000000000000001\r\nx\r\n0\r\n\r\n"),
    ("largest size", "ffffffffffffffff\r\nx\r\n0\r\n\r\n"),
    ("bare LF behind the size", "1\nx\r\n0\r\n\r\n"),
    ("bare LF behind the chunk", "1\r\nx\n0\r\n\r\n"),
    ("bare CR behind the size", "1\rx\r\n0\r\n\r\n"),
    ("nothing behind the chunk", "1\r\nx0\r\n\r\n"),
    ("chunk longer than its size", "1\r\nxyz\r\n0\r\n\r\n"),
    ("bare LF behind the last", "0\n\n"),
    ("one CRLF behind the last", "0\r\n"),
    ("trailer", "0\r\nX: y\r\n\r\n"),
    ("trailer with a length", "0\r\nContent-Length: 5\r\n\r\n"),
    ("broken trailer", "0\r\nno colon\r\n\r\n"),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, line) in CODINGS {
        for method in ["POST", "GET"] {
            let bytes = format!("{method} /pub/kilo HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n0\r\n\r\n{HIDDEN}");
            cases.push(Case::raw(format!("{method}, coding: {name}"), bytes));
        }
    }
    for (name, body) in BODIES {
        let head = "POST /pub/kilo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        cases.push(Case::raw(format!("chunks: {name}"), format!("{head}{body}{HIDDEN}")));
    }
    let old = format!("GET /pub/kilo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}");
    cases.push(Case::raw("coding in HTTP/1.0", old));
    let old = format!(
        "GET /pub/kilo HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
    );
    cases.push(Case::raw("coding in HTTP/1.0, kept alive", old));
    cases
}
