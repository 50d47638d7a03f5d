//! Header fields: line ends, folding, names, values, how many and how long.

use crate::case::Case;

/// Bytes between the first line and the empty one; a Host stands before them.
const BLOCKS: &[(&str, &[u8])] = &[
    ("plain", b"X-Field: value\r\n"),
    ("without a blank", b"X-Field:value\r\n"),
    ("empty value", b"X-Field:\r\n"),
    ("tabs around the value", b"X-Field:\tvalue\t\r\n"),
    ("bare LF", b"X-Field: value\n"),
    ("bare LF between two", b"X-Field: value\nY-Field: value\r\n"),
    ("bare CR between two", b"X-Field: value\rY-Field: value\r\n"),
    ("CR CR LF", b"X-Field: value\r\r\n"),
    ("LF CR", b"X-Field: value\n\rY: z\r\n"),
    ("bare CR in the value", b"X-Field: va\rlue\r\n"),
    ("NUL in the value", b"X-Field: va\0lue\r\n"),
    ("control character in the value", b"X-Field: va\x01lue\r\n"),
    ("DEL in the value", b"X-Field: va\x7flue\r\n"),
    ("high bytes in the value", b"X-Field: va\xff\xfelue\r\n"),
    ("UTF-8 in the value", b"X-Field: \xc3\xa4\r\n"),
    ("folded with a blank", b"X-Field: va\r\n lue\r\n"),
    ("folded with a tab", b"X-Field: va\r\n\tlue\r\n"),
    ("folded to nothing", b"X-Field: value\r\n \r\n"),
    ("folded, a field inside", b"X-Field: value\r\n Range: bytes=0-0\r\n"),
    ("blank before the colon", b"X-Field : value\r\n"),
    ("tab before the colon", b"X-Field\t: value\r\n"),
    ("blank in the name", b"X Field: value\r\n"),
    ("blank before the name", b" X-Field: value\r\n"),
    ("tab before the name", b"\tX-Field: value\r\n"),
    ("no name", b": value\r\n"),
    ("no colon", b"X-Field value\r\n"),
    ("no colon, one word", b"X-Field\r\n"),
    ("underscore in the name", b"X_Field: value\r\n"),
    ("dot in the name", b"X.Field: value\r\n"),
    ("slash in the name", b"X/Field: value\r\n"),
    ("quote in the name", b"X\"Field: value\r\n"),
    ("brackets in the name", b"X[Field]: value\r\n"),
    ("parenthesis in the name", b"X(Field): value\r\n"),
    ("at in the name", b"X@Field: value\r\n"),
    ("equals in the name", b"X=Field: value\r\n"),
    ("NUL in the name", b"X\0Field: value\r\n"),
    ("control character in the name", b"X\x01Field: value\r\n"),
    ("DEL in the name", b"X\x7fField: value\r\n"),
    ("high byte in the name", b"X\xc3\xa4Field: value\r\n"),
    ("token characters in the name", b"!#$%&'*+-.^_`|~09azAZ: value\r\n"),
    ("digits as the name", b"0123: value\r\n"),
    ("two colons", b"X-Field:: value\r\n"),
    ("a request line as a field", b"GET /pub/smuggled HTTP/1.1\r\n"),
    ("Range in upper case", b"RANGE: bytes=0-0\r\n"),
    ("Range with bare LF before", b"X: y\nRange: bytes=0-0\r\n"),
    ("Range with blank before the colon", b"Range : bytes=0-0\r\n"),
    (
        "proxy fields",
        b"X-Forwarded-For: 1.2.3.4\r\nX-Original-URL: /pub/smuggled\r\nX-HTTP-Method-Override: PUT\r\n",
    ),
    ("hop-by-hop Range", b"Connection: Range\r\nRange: bytes=0-0\r\n"),
];

/// How many fields, and how long a value, at the borders of what servers take.
const COUNTS: [usize; 5] = [50, 90, 101, 300, 3_000];
const VALUE_BYTES: [usize; 6] = [1_000, 4_000, 7_000, 9_000, 40_000, 200_000];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, block) in BLOCKS {
        let bytes = [b"GET /pub/kilo HTTP/1.1\r\nHost: h\r\n", *block, b"\r\n"].concat();
        cases.push(Case::raw(format!("field: {name}"), bytes));
    }
    for count in COUNTS {
        let lines = "X-Field: v\r\n".repeat(count);
        cases.push(Case::request(format!("{count} fields"), "GET", "/pub/kilo", &lines));
    }
    for size in VALUE_BYTES {
        let line = format!("X-Field: {}", "v".repeat(size));
        cases.push(Case::get(format!("value of {size} bytes"), "/pub/kilo", &line));
    }
    for size in [1_000, 9_000, 40_000] {
        let line = format!("{}: v", "N".repeat(size));
        cases.push(Case::get(format!("name of {size} bytes"), "/pub/kilo", &line));
    }
    cases.extend(ends());
    cases
}

/// How the header as a whole may end.
fn ends() -> Vec<Case> {
    let head = "GET /pub/kilo HTTP/1.1\r\nHost: h\r\n";
    vec![
        Case::raw("header: bare LF as the empty line", format!("{head}\n")),
        Case::raw("header: bare LFs throughout", "GET /pub/kilo HTTP/1.1\nHost: h\n\n"),
        Case::raw("header: bare CR as the empty line", format!("{head}\r")),
        Case::raw("header: CR CR LF as the empty line", format!("{head}\r\r\n")),
        Case::raw("header: blank in the empty line", format!("{head} \r\n\r\n")),
        Case::raw("header: no empty line", head),
        Case::raw("header: cut in a name", format!("{head}X-Fie")),
        Case::raw("header: nothing but the first line", "GET /pub/kilo HTTP/1.1\r\n"),
        Case::raw(
            "header: nothing but the first line, HTTP/1.0",
            "GET /pub/kilo HTTP/1.0\r\n\r\n",
        ),
        Case::raw(
            "header: space before the first field",
            "GET /pub/kilo HTTP/1.1\r\n X: y\r\nHost: h\r\n\r\n",
        ),
    ]
}
