//! Where a request ends when it has a length: every way to give a Content-Length, alone, twice and beside a
//! Transfer-Encoding, with a whole request hidden in the body.

use crate::case::{Case, Explanation, explained};

/// What a smuggler hides: seen as a request of its own, it is answered with this file.
pub(crate) const HIDDEN: &str = "GET /pub/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

/// Content-Length lines whose meaning is doubtful or wrong. `{n}` is the true length of the body.
const LENGTHS: &[(&str, &str)] = &[
    ("true", "Content-Length: {n}"),
    ("true, lower case", "content-length: {n}"),
    ("true, without a blank", "Content-Length:{n}"),
    ("true, with blanks around", "Content-Length: \t {n} \t"),
    ("leading zeros", "Content-Length: 000{n}"),
    ("zero", "Content-Length: 0"),
    ("several zeros", "Content-Length: 000"),
    ("one too few", "Content-Length: {n-1}"),
    ("negative", "Content-Length: -1"),
    ("negative zero", "Content-Length: -0"),
    ("plus sign", "Content-Length: +{n}"),
    ("hexadecimal", "Content-Length: 0x2f"),
    ("exponent", "Content-Length: 4e1"),
    ("fraction", "Content-Length: {n}.0"),
    ("digit group", "Content-Length: 1_0"),
    ("blank inside", "Content-Length: 4 0"),
    ("empty", "Content-Length:"),
    ("blanks only", "Content-Length:  \t"),
    ("a word", "Content-Length: many"),
    ("digits, then a word", "Content-Length: {n}x"),
    ("quoted", "Content-Length: \"{n}\""),
    ("list of equals", "Content-Length: {n}, {n}"),
    ("list of unequals", "Content-Length: 0, {n}"),
    ("list with nothing", "Content-Length: {n},"),
    ("semicolon", "Content-Length: {n};x=y"),
    ("32 bits and one", "Content-Length: 4294967296"),
    ("63 bits and one", "Content-Length: 9223372036854775808"),
    ("64 bits", "Content-Length: 18446744073709551615"),
    ("64 bits and one", "Content-Length: 18446744073709551616"),
    (
        "64 bits wrapped around to the true one",
        "Content-Length: 18446744073709551658",
    ),
    (
        "hundred digits",
        "Content-Length: 1111111111111111111111111111111111111111111111111111111111111111111111111111",
    ),
    ("twice the same", "Content-Length: {n}\r\nContent-Length: {n}"),
    ("twice, zero first", "Content-Length: 0\r\nContent-Length: {n}"),
    ("twice, zero last", "Content-Length: {n}\r\nContent-Length: 0"),
    ("twice, in another case", "Content-Length: {n}\r\ncontent-length: 0"),
    ("twice, the second empty", "Content-Length: {n}\r\nContent-Length:"),
    ("blank before the colon", "Content-Length : {n}"),
    ("tab before the colon", "Content-Length\t: {n}"),
    ("blank before the name", " Content-Length: {n}"),
    ("folded", "Content-Length:\r\n {n}"),
    ("folded behind digits", "Content-Length: 4\r\n 2"),
    ("underscore for hyphen", "Content_Length: {n}"),
    ("NUL behind", "Content-Length: {n}\0"),
    ("vertical tab before", "Content-Length: \x0b{n}"),
    ("form feed before", "Content-Length: \x0c{n}"),
    ("no-break space before", "Content-Length: \u{a0}{n}"),
    ("other digits", "Content-Length: \u{664}\u{662}"),
    ("bare CR inside", "Content-Length: 4\r2"),
];

/// Both lengths at once, and codings that are none. Each is refused by every careful server.
const BOTH: &[(&str, &str)] = &[
    (
        "length, then chunked",
        "Content-Length: {n}\r\nTransfer-Encoding: chunked",
    ),
    (
        "chunked, then length",
        "Transfer-Encoding: chunked\r\nContent-Length: {n}",
    ),
    (
        "length of the chunks, then chunked",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    ),
    (
        "zero length, then chunked",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
    ),
    (
        "length and unknown coding",
        "Content-Length: {n}\r\nTransfer-Encoding: xchunked",
    ),
    (
        "length and identity",
        "Content-Length: {n}\r\nTransfer-Encoding: identity",
    ),
    ("length and empty coding", "Content-Length: {n}\r\nTransfer-Encoding:"),
    (
        "length and chunked in quotes",
        "Content-Length: {n}\r\nTransfer-Encoding: \"chunked\"",
    ),
    (
        "length and blank before the colon",
        "Content-Length: {n}\r\nTransfer-Encoding : chunked",
    ),
    (
        "length and tab before the colon",
        "Content-Length: {n}\r\nTransfer-Encoding\t: chunked",
    ),
    (
        "length and blank before the name",
        "Content-Length: {n}\r\n Transfer-Encoding: chunked",
    ),
    (
        "length and folded coding",
        "Content-Length: {n}\r\nTransfer-Encoding:\r\n chunked",
    ),
    (
        "length and vertical tab",
        "Content-Length: {n}\r\nTransfer-Encoding: \x0bchunked",
    ),
    (
        "length and bare LF before",
        "Content-Length: {n}\nTransfer-Encoding: chunked",
    ),
    (
        "length and bare CR before",
        "Content-Length: {n}\rTransfer-Encoding: chunked",
    ),
    (
        "length and coding behind another name",
        "Content-Length: {n}\r\nX: y\rTransfer-Encoding: chunked",
    ),
    (
        "length and NUL in the coding",
        "Content-Length: {n}\r\nTransfer-Encoding: chu\0nked",
    ),
    (
        "length and two codings",
        "Content-Length: {n}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ),
    (
        "length and upper case",
        "Content-Length: {n}\r\nTRANSFER-ENCODING: CHUNKED",
    ),
    (
        "length and underscore for hyphen",
        "Content-Length: {n}\r\nTransfer_Encoding: chunked",
    ),
];

const METHODS: [&str; 3] = ["POST", "GET", "HEAD"];

pub(crate) fn cases() -> Vec<Case> {
    explained(table(), EXPLAINED)
}

fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, line) in LENGTHS {
        for method in METHODS {
            cases.push(hidden(&format!("{method}, length {name}"), method, line));
        }
    }
    for (name, line) in BOTH {
        for method in ["POST", "GET"] {
            cases.push(hidden(&format!("{method}, both: {name}"), method, line));
        }
    }
    cases.extend(endings());
    cases
}

/// A request whose body is a whole other request.
fn hidden(name: &str, method: &str, line: &str) -> Case {
    let line = line
        .replace("{n}", &HIDDEN.len().to_string())
        .replace("{n-1}", &(HIDDEN.len() - 1).to_string());
    let bytes = format!("{method} /pub/kilo HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n{HIDDEN}");
    Case::raw(name, bytes)
}

/// Bodies that are shorter or longer than they say, or that nobody announced.
fn endings() -> Vec<Case> {
    let post = |lines: &str, body: &str| format!("POST /pub/kilo HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}");
    let get = |lines: &str, body: &str| format!("GET /pub/kilo HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}");
    vec![
        Case::raw("GET, a request behind no length", get("", HIDDEN)),
        Case::raw("POST, a request behind no length", post("", HIDDEN)),
        Case::raw("GET, nonsense behind no length", get("", "nonsense\r\n\r\n")),
        Case::raw("GET, CRLF behind no length", get("", "\r\n")),
        Case::raw("GET, two CRLF behind no length", get("", "\r\n\r\n")),
        Case::raw("GET, LF behind no length", get("", "\n")),
        Case::raw(
            "POST, a body longer than the canary",
            post("Content-Length: 5000\r\n", "x"),
        ),
        Case::raw(
            "POST, an enormous body announced",
            post("Content-Length: 99999999999\r\n", "x"),
        ),
        Case::raw(
            "POST, a body of 1 MiB announced",
            post("Content-Length: 1048576\r\n", "x"),
        ),
        Case::raw(
            "GET, a body longer than the canary",
            get("Content-Length: 5000\r\n", "x"),
        ),
        Case::raw("POST, a body of one byte", post("Content-Length: 1\r\n", "x")),
        Case::raw("POST, CRLF behind the body", post("Content-Length: 1\r\n", "x\r\n")),
        Case::raw(
            "POST, no body and close",
            post("Content-Length: 0\r\nConnection: close\r\n", ""),
        ),
        Case::raw(
            "POST, a body in HTTP/1.0",
            "POST /pub/kilo HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
        ),
        Case::raw(
            "GET, a length in HTTP/1.0",
            format!("GET /pub/kilo HTTP/1.0\r\nContent-Length: 1\r\n\r\nx{HIDDEN}"),
        ),
        Case::raw("GET, expects 100 without a body", get("Expect: 100-continue\r\n", "")),
        Case::raw("GET, expects something else", get("Expect: a-miracle\r\n", "")),
        Case::raw(
            "POST, expects 100 with a body",
            post("Expect: 100-continue\r\nContent-Length: 1\r\n", "x"),
        ),
        Case::raw(
            "POST, expects something else with a body",
            post("Expect: a-miracle\r\nContent-Length: 1\r\n", "x"),
        ),
        Case::raw(
            "GET, asks for an upgrade",
            get("Connection: upgrade\r\nUpgrade: websocket\r\n", ""),
        ),
        Case::raw(
            "GET, asks for HTTP/2 in the clear",
            get(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
                "",
            ),
        ),
    ]
}

/// Where we differ from nginx, and why.
const EXPLAINED: &[Explanation] = &[(
    "waiting",
    "a POST is answered when its body is there, which is bounded in bytes and in time; nginx answers first, and waits then",
    &["POST, a body longer than the canary"],
)];
