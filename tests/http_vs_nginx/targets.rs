//! Forms of the request target: paths, whole URLs, authorities, the asterisk, queries.

use crate::case::Case;

const TARGETS: &[(&str, &[u8])] = &[
    ("URL as target", b"http://h/pub/kilo"),
    ("URL with port as target", b"http://h:80/pub/kilo"),
    ("URL with upper case scheme", b"HTTP://h/pub/kilo"),
    ("URL without path", b"http://h"),
    ("URL without path, with query", b"http://h?x"),
    ("URL without host", b"http:///pub/kilo"),
    ("URL with user", b"http://u@h/pub/kilo"),
    ("URL of https", b"https://h/pub/kilo"),
    ("URL of ftp", b"ftp://h/pub/kilo"),
    ("URL of a file", b"file:///pub/kilo"),
    ("URL with one slash", b"http:/pub/kilo"),
    ("scheme only", b"http:"),
    ("host and port as target", b"h:80"),
    ("relative target", b"pub/kilo"),
    ("dot target", b"./pub/kilo"),
    ("question mark as target", b"?x"),
    ("hash as target", b"#"),
    ("asterisk as target", b"*"),
    ("backslash as target", b"\\pub\\kilo"),
    ("fragment", b"/pub/kilo#fragment"),
    ("query", b"/pub/kilo?query"),
    ("query with bad escapes", b"/pub/kilo?%zz%"),
    ("query with a blank", b"/pub/kilo?a b"),
    ("query with NUL", b"/pub/kilo?a\0b"),
    ("query with high bytes", b"/pub/kilo?\xff\xfe"),
    ("path with NUL", b"/pub/kilo\0"),
    ("path with a control character", b"/pub/ki\x01lo"),
    ("path with DEL", b"/pub/kilo\x7f"),
    ("path with high bytes", b"/pub/\xff\xfe"),
];

pub(crate) fn cases() -> Vec<Case> {
    let get = |(name, target): &(&str, &[u8])| {
        let bytes = [b"GET ", *target, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
        let case = Case::raw(format!("target: {name}"), bytes);
        if name.contains("without path") {
            case.page()
        } else {
            case
        }
    };
    TARGETS.iter().map(get).collect()
}
