//! Ranges: single, several, hostile; of files of 1,000, 1 and 0 bytes and of a large one; with If-Range.

use crate::case::{Case, Explanation, explained};
use crate::world::{KILO, LARGE, MODIFIED};

/// Range headers, asked of [`KILO`].
const RANGES: &[(&str, &str)] = &[
    ("first byte", "bytes=0-0"),
    ("first ten", "bytes=0-9"),
    ("in the middle", "bytes=500-599"),
    ("all but the first", "bytes=1-999"),
    ("all", "bytes=0-999"),
    ("open", "bytes=0-"),
    ("open in the middle", "bytes=500-"),
    ("last byte, open", "bytes=999-"),
    ("last byte", "bytes=999-999"),
    ("beyond the end", "bytes=990-5000"),
    ("suffix of one", "bytes=-1"),
    ("suffix of ten", "bytes=-10"),
    ("suffix of all", "bytes=-1000"),
    ("suffix of more", "bytes=-5000"),
    ("suffix of nothing", "bytes=-0"),
    ("behind the end", "bytes=1000-"),
    ("behind the end, closed", "bytes=1000-1000"),
    ("far behind the end", "bytes=999999-"),
    ("63 bits", "bytes=0-9223372036854775807"),
    ("64 bits", "bytes=0-18446744073709551615"),
    ("more than 64 bits", "bytes=0-18446744073709551616"),
    ("first of more than 64 bits", "bytes=18446744073709551616-"),
    ("suffix of more than 64 bits", "bytes=-18446744073709551616"),
    ("leading zeros", "bytes=000-0009"),
    ("last before first", "bytes=9-0"),
    ("no numbers", "bytes=-"),
    ("no ranges", "bytes="),
    ("no equals", "bytes"),
    ("one number", "bytes=5"),
    ("two hyphens", "bytes=--5"),
    ("three numbers", "bytes=0-1-2"),
    ("letters", "bytes=a-b"),
    ("plus sign", "bytes=+0-9"),
    ("hexadecimal", "bytes=0x0-0x9"),
    ("fraction", "bytes=0.0-9"),
    ("blank behind equals", "bytes= 0-9"),
    ("blanks around the hyphen", "bytes=0 - 9"),
    ("blank before equals", "bytes =0-9"),
    ("blanks at the end", "bytes=0-9  "),
    ("tab behind equals", "bytes=\t0-9"),
    ("upper case unit", "BYTES=0-9"),
    ("mixed case unit", "Bytes=0-9"),
    ("another unit", "items=0-9"),
    ("no unit", "0-9"),
    ("unit none", "none"),
    ("colon for equals", "bytes:0-9"),
    ("semicolon", "bytes=0-9;20-29"),
    ("empty value", ""),
    ("two", "bytes=0-9,500-509"),
    ("two with a blank", "bytes=0-9, 500-509"),
    ("two with blanks around", "bytes=0-9 , 500-509"),
    ("two in falling order", "bytes=500-509,0-9"),
    ("first and suffix", "bytes=0-9,-10"),
    ("three", "bytes=0-0,500-500,999-999"),
    ("two that touch", "bytes=0-9,10-19"),
    ("two that overlap", "bytes=0-9,5-14"),
    ("two that are one", "bytes=0-9,0-9"),
    ("two, close together", "bytes=0-9,20-29"),
    ("one inside the other", "bytes=0-99,10-19"),
    ("all twice", "bytes=0-,0-"),
    ("all and a byte", "bytes=0-999,0-0"),
    ("two, one behind the end", "bytes=0-9,5000-"),
    ("two, both behind the end", "bytes=1000-,2000-"),
    ("two, one malformed", "bytes=0-9,x"),
    ("two, one backwards", "bytes=0-9,9-0"),
    ("two with their own units", "bytes=0-9,bytes=20-29"),
    ("comma before", "bytes=,0-9"),
    ("comma behind", "bytes=0-9,"),
    ("commas between", "bytes=0-9,,500-509"),
    ("comma only", "bytes=,"),
];

/// Of a file of one byte and of none.
const OF_LITTLE: &[(&str, &str)] = &[
    ("first byte", "bytes=0-0"),
    ("open", "bytes=0-"),
    ("suffix of one", "bytes=-1"),
    ("suffix of ten", "bytes=-10"),
    ("suffix of nothing", "bytes=-0"),
    ("behind the end", "bytes=1-"),
    ("two", "bytes=0-0,0-0"),
    ("malformed", "bytes=x"),
];

const OF_LARGE: &[(&str, &str)] = &[
    ("first byte", "bytes=0-0"),
    ("over a block border", "bytes=65530-65545"),
    ("100 KB", "bytes=100000-199999"),
    ("last byte", "bytes=299999-"),
    ("suffix of 64 KiB", "bytes=-65536"),
    ("two far apart", "bytes=0-99,299900-299999"),
    ("two large", "bytes=0-99999,200000-299999"),
    ("behind the end", "bytes=300000-"),
];

/// If-Range validators, with a range of ten bytes. `{etag}` is the true tag.
const IF_RANGE: &[(&str, &str)] = &[
    ("the tag", "{etag}"),
    ("the weak tag", "W/{etag}"),
    ("another tag", "\"other\""),
    ("its date", MODIFIED),
    ("an older date", "Tue, 14 Nov 2023 22:13:19 GMT"),
    ("a newer date", "Tue, 14 Nov 2023 22:13:21 GMT"),
    ("its date in RFC 850", "Tuesday, 14-Nov-23 22:13:20 GMT"),
    ("nonsense", "yesterday"),
    ("nothing", ""),
    ("the tag without quotes", "other"),
    ("any", "*"),
    ("a list", "{etag}, \"other\""),
    ("a list that begins with another", "\"other\", {etag}"),
];

pub(crate) fn cases() -> Vec<Case> {
    explained(table(), EXPLAINED)
}

fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, range) in RANGES {
        cases.push(range_of(&format!("range: {name}"), KILO, range));
    }
    for (file, target) in [("one byte", "/pub/one"), ("no bytes", "/pub/empty")] {
        for (name, range) in OF_LITTLE {
            cases.push(range_of(&format!("range of {file}: {name}"), target, range));
        }
    }
    for (name, range) in OF_LARGE {
        cases.push(range_of(&format!("range of a large file: {name}"), LARGE, range));
    }
    for (name, validator) in IF_RANGE {
        let lines = format!("If-Range: {validator}\r\nRange: bytes=0-9");
        cases.push(Case::get(format!("if-range: {name}"), KILO, &lines));
    }
    cases.extend(many());
    cases
}

fn range_of(name: &str, target: &str, range: &str) -> Case {
    Case::get(name, target, &format!("Range: {range}"))
}

/// Many ranges, repeated fields, and ranges of what is no file.
fn many() -> Vec<Case> {
    let apart = |count: usize| -> String {
        let ranges: Vec<String> = (0..count).map(|i| format!("{0}-{0}", i * 1000)).collect();
        format!("bytes={}", ranges.join(","))
    };
    let mut cases: Vec<Case> = [2, 16, 17, 200, 256, 257, 300]
        .map(|count| range_of(&format!("{count} ranges far apart"), LARGE, &apart(count)))
        .into();
    cases.extend([
        range_of(
            "300 ranges of everything",
            LARGE,
            &format!("bytes={}", ["0-"; 300].join(",")),
        ),
        range_of("1000 suffixes", LARGE, &format!("bytes={}", ["-1"; 1000].join(","))),
        Case::get("range in two lines", KILO, "Range: bytes=0-9\r\nRange: bytes=500-509"),
        Case::get("range, then nonsense", KILO, "Range: bytes=0-9\r\nRange: x"),
        Case::get("if-range without range", KILO, "If-Range: {etag}"),
        Case::get("range in HTTP/1.1 of a directory", "/pub/dir/", "Range: bytes=0-9").page(),
        Case::get("range of an index", "/pub/indexed/", "Range: bytes=0-1"),
        Case::get("range of what is missing", "/pub/missing", "Range: bytes=0-9"),
        Case::get("range of a redirect", "/pub/dir", "Range: bytes=0-9"),
        Case::raw(
            "range in HTTP/1.0",
            "GET /pub/kilo HTTP/1.0\r\nRange: bytes=0-9\r\n\r\n",
        ),
        Case::get("Request-Range of old", KILO, "Request-Range: bytes=0-9"),
    ]);
    cases
}

/// Where we differ from nginx, and why.
const EXPLAINED: &[Explanation] = &[
    (
        "200 kept",
        "a malformed Range is ignored (RFC 9110, 14.2): the whole file is right for every client",
        &[
            "range: fraction",
            "range: hexadecimal",
            "range: last before first",
            "range: letters",
            "range: no numbers",
            "range: one number",
            "range: plus sign",
            "range: semicolon",
            "range: three numbers",
            "range: two hyphens",
            "range: two with their own units",
            "range: two, one backwards",
            "range: two, one malformed",
            "range: blanks around the hyphen",
            "range: comma only",
            "range of one byte: malformed",
        ],
    ),
    (
        "200 kept",
        "two Range lines are malformed together; nginx takes the first",
        &["range in two lines", "range, then nonsense"],
    ),
    (
        "200 kept",
        "a file of no bytes has no ranges: it is sent whole",
        &["range of no bytes: behind the end", "range of no bytes: malformed"],
    ),
    (
        "206 kept",
        "a position beyond 63 bits is beyond the end like any other",
        &[
            "range: 64 bits",
            "range: more than 64 bits",
            "range: suffix of more than 64 bits",
        ],
    ),
    (
        "206 kept",
        "empty members of a list are skipped (RFC 9110, 5.6.1)",
        &["range: comma before", "range: comma behind", "range: commas between"],
    ),
    (
        "206 kept",
        "blanks around the members of a list are blanks or tabs (RFC 9110, 5.6.1)",
        &["range: tab behind equals"],
    ),
    (
        "206 kept",
        "ranges that overlap, touch or nearly do become one part (RFC 9110, 15.3.7.2)",
        &[
            "range: one inside the other",
            "range: two that are one",
            "range: two that overlap",
            "range: two that touch",
            "range: two, close together",
        ],
    ),
    (
        "206 kept",
        "what overlaps becomes one part; nginx sends the whole as soon as the sum is larger than it",
        &[
            "range: all and a byte",
            "range: all twice",
            "range of one byte: two",
            "300 ranges of everything",
            "1000 suffixes",
        ],
    ),
];
