//! The first line: blanks, line ends, versions, sizes.

use crate::case::Case;

/// Whole first lines with their line ends, in front of a sound header.
const LINES: &[(&str, &[u8])] = &[
    ("plain", b"GET /pub/kilo HTTP/1.1\r\n"),
    ("two blanks behind the method", b"GET  /pub/kilo HTTP/1.1\r\n"),
    ("two blanks before the version", b"GET /pub/kilo  HTTP/1.1\r\n"),
    ("blank at the end", b"GET /pub/kilo HTTP/1.1 \r\n"),
    ("blank at the beginning", b" GET /pub/kilo HTTP/1.1\r\n"),
    ("tab behind the method", b"GET\t/pub/kilo HTTP/1.1\r\n"),
    ("tab before the version", b"GET /pub/kilo\tHTTP/1.1\r\n"),
    ("vertical tab before the version", b"GET /pub/kilo\x0bHTTP/1.1\r\n"),
    ("CR before the version", b"GET /pub/kilo\rHTTP/1.1\r\n"),
    ("no-break space", b"GET\xa0/pub/kilo\xa0HTTP/1.1\r\n"),
    ("bare LF as its end", b"GET /pub/kilo HTTP/1.1\n"),
    ("bare CR as its end", b"GET /pub/kilo HTTP/1.1\r"),
    ("CR CR LF as its end", b"GET /pub/kilo HTTP/1.1\r\r\n"),
    ("LF CR as its end", b"GET /pub/kilo HTTP/1.1\n\r"),
    ("one CRLF before", b"\r\nGET /pub/kilo HTTP/1.1\r\n"),
    ("two CRLF before", b"\r\n\r\nGET /pub/kilo HTTP/1.1\r\n"),
    ("LF before", b"\nGET /pub/kilo HTTP/1.1\r\n"),
    ("CR before", b"\rGET /pub/kilo HTTP/1.1\r\n"),
    ("NUL before", b"\0GET /pub/kilo HTTP/1.1\r\n"),
    ("byte order mark before", b"\xef\xbb\xbfGET /pub/kilo HTTP/1.1\r\n"),
    ("no version", b"GET /pub/kilo\r\n"),
    ("no version, blank behind", b"GET /pub/kilo \r\n"),
    ("no target", b"GET HTTP/1.1\r\n"),
    ("no target, two blanks", b"GET  HTTP/1.1\r\n"),
    ("no method", b" /pub/kilo HTTP/1.1\r\n"),
    ("only a method", b"GET\r\n"),
    ("empty", b"\r\n"),
    ("four words", b"GET /pub/kilo nonsense HTTP/1.1\r\n"),
    ("HTTP/1.0", b"GET /pub/kilo HTTP/1.0\r\n"),
    ("HTTP/0.9 in words", b"GET /pub/kilo HTTP/0.9\r\n"),
    ("HTTP/1.2", b"GET /pub/kilo HTTP/1.2\r\n"),
    ("HTTP/1.9", b"GET /pub/kilo HTTP/1.9\r\n"),
    ("HTTP/1.10", b"GET /pub/kilo HTTP/1.10\r\n"),
    ("HTTP/1.01", b"GET /pub/kilo HTTP/1.01\r\n"),
    ("HTTP/01.1", b"GET /pub/kilo HTTP/01.1\r\n"),
    ("HTTP/2.0", b"GET /pub/kilo HTTP/2.0\r\n"),
    ("HTTP/2", b"GET /pub/kilo HTTP/2\r\n"),
    ("HTTP/9.9", b"GET /pub/kilo HTTP/9.9\r\n"),
    ("HTTP/1", b"GET /pub/kilo HTTP/1\r\n"),
    ("HTTP/1.", b"GET /pub/kilo HTTP/1.\r\n"),
    ("HTTP/.1", b"GET /pub/kilo HTTP/.1\r\n"),
    ("HTTP/1,1", b"GET /pub/kilo HTTP/1,1\r\n"),
    ("HTTP/1.x", b"GET /pub/kilo HTTP/1.x\r\n"),
    ("HTTP/+1.1", b"GET /pub/kilo HTTP/+1.1\r\n"),
    ("HTTP 1.1", b"GET /pub/kilo HTTP 1.1\r\n"),
    ("http/1.1 in lower case", b"GET /pub/kilo http/1.1\r\n"),
    ("HTTPS/1.1", b"GET /pub/kilo HTTPS/1.1\r\n"),
    ("ICY protocol", b"GET /pub/kilo ICY/1.1\r\n"),
    (
        "URL of another host as target",
        b"GET http://other/pub/kilo HTTP/1.1\r\n",
    ),
    (
        "query with odd characters",
        b"GET /pub/kilo?a=<b>&\"c\"={d}|\\^` HTTP/1.1\r\n",
    ),
    ("TLS greeting", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n"),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("SOCKS greeting", b"\x05\x01\x00\r\n"),
    (
        "proxy protocol",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET /pub/kilo HTTP/1.1\r\n",
    ),
    ("method with a colon", b"GET: /pub/kilo HTTP/1.1\r\n"),
    ("method with NUL", b"GE\0T /pub/kilo HTTP/1.1\r\n"),
    ("method in quotes", b"\"GET\" /pub/kilo HTTP/1.1\r\n"),
    ("method with high bytes", b"G\xc3\x89T /pub/kilo HTTP/1.1\r\n"),
    ("method and slash together", b"GET/pub/kilo HTTP/1.1\r\n"),
];

pub(crate) fn cases() -> Vec<Case> {
    let sound = |(name, line): &(&str, &[u8])| {
        Case::raw(format!("first line: {name}"), [line, &b"Host: h\r\n\r\n"[..]].concat())
    };
    let mut cases: Vec<Case> = LINES.iter().map(sound).collect();
    cases.push(Case::raw("HTTP/0.9", "GET /pub/kilo\r\n"));
    cases.push(Case::raw("HTTP/0.9 with bare LF", "GET /pub/kilo\n"));
    for size in [200, 2_000, 7_000, 9_000, 40_000, 200_000] {
        let lines = format!("GET /pub/kilo?{} HTTP/1.1\r\nHost: h\r\n\r\n", "q".repeat(size));
        cases.push(Case::raw(format!("query of {size} bytes"), lines));
    }
    for size in [255, 256, 4_000, 9_000, 40_000] {
        let lines = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "p".repeat(size));
        cases.push(Case::raw(format!("path of {size} bytes"), lines));
    }
    for size in [20, 1_000, 9_000, 40_000] {
        let lines = format!("{} /pub/kilo HTTP/1.1\r\nHost: h\r\n\r\n", "M".repeat(size));
        cases.push(Case::raw(format!("method of {size} bytes"), lines));
    }
    cases
}
