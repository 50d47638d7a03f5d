//! Conditions: all four, alone and against each other, with tags and dates in every spelling.

use crate::case::{Case, Explanation, explained};
use crate::world::{KILO, MODIFIED};

const BEFORE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
const AFTER: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

/// Lists of entity tags; `{etag}` is the true one.
const TAGS: &[(&str, &str)] = &[
    ("the tag", "{etag}"),
    ("the weak tag", "W/{etag}"),
    ("the weak tag in lower case", "w/{etag}"),
    ("any", "*"),
    ("any, quoted", "\"*\""),
    ("another tag", "\"other\""),
    ("another and the tag", "\"other\", {etag}"),
    ("the tag and another", "{etag}, \"other\""),
    ("without blanks", "\"other\",{etag}"),
    ("empty members", ",, {etag} ,,"),
    ("the weak tag in a list", "\"other\", W/{etag}"),
    ("a comma in a tag", "\"a,b\", {etag}"),
    ("an empty tag", "\"\""),
    ("nothing", ""),
    ("not quoted", "other"),
    ("not closed", "\"other"),
    ("blanks around", "  {etag}  "),
    ("any and a tag", "*, {etag}"),
];

/// Dates, and what is made of them.
const DATES: &[(&str, &str)] = &[
    ("its date", MODIFIED),
    ("a second before", BEFORE),
    ("a second after", AFTER),
    ("the epoch", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("far in the future", "Fri, 31 Dec 9999 23:59:59 GMT"),
    ("RFC 850", "Tuesday, 14-Nov-23 22:13:20 GMT"),
    ("asctime", "Tue Nov 14 22:13:20 2023"),
    ("wrong day of the week", "Wed, 14 Nov 2023 22:13:20 GMT"),
    ("without GMT", "Tue, 14 Nov 2023 22:13:20"),
    ("another zone", "Tue, 14 Nov 2023 22:13:20 CET"),
    ("an offset", "Tue, 14 Nov 2023 22:13:20 +0000"),
    ("ISO 8601", "2023-11-14T22:13:20Z"),
    ("seconds", "1700000000"),
    ("nonsense", "yesterday"),
    ("nothing", ""),
    ("no such day", "Tue, 31 Feb 2023 22:13:20 GMT"),
    ("no such hour", "Tue, 14 Nov 2023 25:13:20 GMT"),
    ("lower case", "tue, 14 nov 2023 22:13:20 gmt"),
    ("a length behind it", "Tue, 14 Nov 2023 22:13:20 GMT; length=1000"),
];

/// Several conditions at once: which one counts.
const COMBINED: &[(&str, &str)] = &[
    (
        "tag differs, date is its",
        "If-None-Match: \"other\"\r\nIf-Modified-Since: {date}",
    ),
    (
        "tag is its, date is older",
        "If-None-Match: {etag}\r\nIf-Modified-Since: {before}",
    ),
    (
        "tag and date are its",
        "If-None-Match: {etag}\r\nIf-Modified-Since: {date}",
    ),
    (
        "must match and does, must not and does",
        "If-Match: {etag}\r\nIf-None-Match: {etag}",
    ),
    (
        "must match and does not, must not and does",
        "If-Match: \"other\"\r\nIf-None-Match: {etag}",
    ),
    (
        "must match and does, modified since",
        "If-Match: {etag}\r\nIf-Unmodified-Since: {before}",
    ),
    (
        "must match and does not, not modified",
        "If-Match: \"other\"\r\nIf-Unmodified-Since: {date}",
    ),
    (
        "unmodified since its date, tag is its",
        "If-Unmodified-Since: {date}\r\nIf-None-Match: {etag}",
    ),
    (
        "unmodified since before, tag is its",
        "If-Unmodified-Since: {before}\r\nIf-None-Match: {etag}",
    ),
    ("range of what it has", "If-None-Match: {etag}\r\nRange: bytes=0-9"),
    (
        "range beyond of what it has",
        "If-None-Match: {etag}\r\nRange: bytes=1000-",
    ),
    ("range of what must match", "If-Match: {etag}\r\nRange: bytes=0-9"),
    (
        "range of what does not match",
        "If-Match: \"other\"\r\nRange: bytes=0-9",
    ),
    (
        "range not modified since",
        "If-Modified-Since: {date}\r\nRange: bytes=0-9",
    ),
    (
        "range unmodified since",
        "If-Unmodified-Since: {date}\r\nRange: bytes=0-9",
    ),
    ("tags in two lines", "If-None-Match: \"other\"\r\nIf-None-Match: {etag}"),
    (
        "dates in two lines",
        "If-Modified-Since: {before}\r\nIf-Modified-Since: {date}",
    ),
    ("must match in two lines", "If-Match: \"other\"\r\nIf-Match: {etag}"),
];

pub(crate) fn cases() -> Vec<Case> {
    explained(table(), EXPLAINED)
}

fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, tags) in TAGS {
        for field in ["If-Match", "If-None-Match"] {
            cases.push(Case::get(format!("{field}: {name}"), KILO, &format!("{field}: {tags}")));
        }
    }
    for (name, date) in DATES {
        for field in ["If-Modified-Since", "If-Unmodified-Since"] {
            cases.push(Case::get(format!("{field}: {name}"), KILO, &format!("{field}: {date}")));
        }
    }
    for (name, lines) in COMBINED {
        let lines = lines.replace("{date}", MODIFIED).replace("{before}", BEFORE);
        cases.push(Case::get(format!("conditions: {name}"), KILO, &lines));
    }
    for (kind, target) in [("missing", "/pub/missing"), ("redirected", "/pub/dir")] {
        for line in ["If-Match: *", "If-None-Match: *", "If-Match: \"other\""] {
            cases.push(Case::get(format!("conditions on what is {kind}: {line}"), target, line));
        }
    }
    cases
}

/// Where we differ from nginx, and why.
const EXPLAINED: &[Explanation] = &[
    (
        "412 kept",
        "a condition that fails says nothing about the connection; nginx closes",
        &[
            "If-Match: an empty tag",
            "If-Match: another tag",
            "If-Match: any, quoted",
            "If-Match: not closed",
            "If-Match: not quoted",
            "If-Match: nothing",
            "If-Match: the weak tag in a list",
            "If-Match: the weak tag in lower case",
            "If-Match: the weak tag",
            "If-Unmodified-Since: a second before",
            "If-Unmodified-Since: the epoch",
            "conditions: must match and does not, must not and does",
            "conditions: must match and does not, not modified",
            "conditions: range of what does not match",
            "conditions: unmodified since before, tag is its",
        ],
    ),
    (
        "412 kept",
        "the asterisk stands alone (RFC 9110, 13.1.1): a list with it is malformed and names nothing",
        &["If-Match: any and a tag"],
    ),
    (
        "200 kept",
        "the asterisk stands alone (RFC 9110, 13.1.2): a list with it is malformed and names nothing",
        &["If-None-Match: any and a tag"],
    ),
    (
        "200 kept",
        "what is no HTTP date is ignored (RFC 9110, 13.1.3); nginx reads it all the same",
        &[
            "If-Modified-Since: a length behind it",
            "If-Modified-Since: an offset",
            "If-Modified-Since: another zone",
            "If-Modified-Since: without GMT",
            "If-Modified-Since: wrong day of the week",
        ],
    ),
    (
        "200 kept",
        "what is no HTTP date is ignored (RFC 9110, 13.1.4); nginx takes it for long ago",
        &[
            "If-Unmodified-Since: ISO 8601",
            "If-Unmodified-Since: lower case",
            "If-Unmodified-Since: no such day",
            "If-Unmodified-Since: no such hour",
            "If-Unmodified-Since: nonsense",
            "If-Unmodified-Since: nothing",
            "If-Unmodified-Since: seconds",
        ],
    ),
    (
        "200 kept",
        "two dates are no date and ignored, which costs a client its 304 and nothing else",
        &["conditions: dates in two lines"],
    ),
    (
        "200 kept",
        "a list in two lines is one list (RFC 9110, 5.3)",
        &["conditions: must match in two lines"],
    ),
    (
        "304 kept",
        "a list in two lines is one list (RFC 9110, 5.3)",
        &["conditions: tags in two lines"],
    ),
    (
        "200 kept",
        "If-Unmodified-Since does not count beside If-Match (RFC 9110, 13.2.2)",
        &["conditions: must match and does, modified since"],
    ),
    (
        "304 kept",
        "If-Modified-Since does not count beside If-None-Match (RFC 9110, 13.2.2)",
        &["conditions: tag is its, date is older"],
    ),
];
