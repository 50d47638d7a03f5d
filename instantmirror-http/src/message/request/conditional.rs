//! Conditional requests (RFC 9110, section 13): whether the client has it already, or must not have it.
//!
//! An entity tag is the quoted object id: strong, and the same on every node for ever. A date matches only
//! if it is exactly the Last-Modified date: under `current` a modification time may go back when an older
//! file replaces a newer one, so "not modified since" would call a changed file unchanged.

use std::time::{Duration, SystemTime};

use super::Fields;

/// What a client may already know a representation by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    /// The entity tag with its quotes.
    pub etag: String,
    /// Modification time in seconds since 1970, if HTTP can express it.
    pub modified: Option<u64>,
}

/// What the conditions of a request decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// The last second that an HTTP date can express, 9999-12-31 23:59:59.
const DATE_SECONDS_MAX: u64 = 253_402_300_799;

/// A catalog's modification time as HTTP can express it: not before 1970, not after the year 9999.
#[must_use]
pub fn http_seconds(mtime: i64) -> Option<u64> {
    u64::try_from(mtime).ok().filter(|&seconds| seconds <= DATE_SECONDS_MAX)
}

/// Seconds since 1970 as an HTTP date.
#[must_use]
pub fn http_date(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(DATE_SECONDS_MAX)))
}

fn parse_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

/// Evaluates If-Match, If-Unmodified-Since, If-None-Match and If-Modified-Since in this order, for GET and
/// HEAD of something that is there.
#[must_use]
pub fn evaluate(fields: &Fields<'_>, validators: &Validators) -> Verdict {
    if let Some(tags) = &fields.if_match {
        if !names(tags, &validators.etag, Comparison::Strong) {
            return Verdict::Failed;
        }
    } else if let Some(date) = fields.if_unmodified_since.as_deref().and_then(parse_date)
        && validators.modified.is_some_and(|modified| modified > date)
    {
        return Verdict::Failed;
    }
    if let Some(tags) = &fields.if_none_match {
        if names(tags, &validators.etag, Comparison::Weak) {
            return Verdict::NotModified;
        }
    } else if let Some(date) = fields.if_modified_since.as_deref().and_then(parse_date)
        && validators.modified == Some(date)
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether If-Range, if there is one, lets the Range header count: the tag strongly, or the date exactly.
#[must_use]
pub fn range_counts(fields: &Fields<'_>, validators: &Validators) -> bool {
    let Some(validator) = fields.if_range.as_deref().map(str::trim) else {
        return true;
    };
    if validator.starts_with('"') || validator.starts_with("W/") {
        return validator == validators.etag && !validator.starts_with("W/");
    }
    parse_date(validator).is_some_and(|date| validators.modified == Some(date))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of entity tags, or `*`, names `etag`. What cannot be read names nothing.
fn names(list: &str, etag: &str, comparison: Comparison) -> bool {
    let mut rest = list.trim();
    if rest == "*" {
        return true;
    }
    let (opaque, is_weak) = match etag.strip_prefix("W/") {
        Some(opaque) => (opaque, true),
        None => (etag, false),
    };
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (weak, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let Some(end) = tag.strip_prefix('"').and_then(|inner| inner.find('"')) else {
            return false;
        };
        let (tag, behind) = tag.split_at(end + 2);
        if tag == opaque && !((weak || is_weak) && comparison == Comparison::Strong) {
            return true;
        }
        let behind = behind.trim_start_matches([' ', '\t']);
        if !behind.starts_with(',') {
            return false;
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Tue, 14 Nov 2023 22:13:20 GMT"; // 1,700,000,000
    const BEFORE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
    const AFTER: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

    fn validators() -> Validators {
        Validators {
            etag: "\"abc\"".to_owned(),
            modified: Some(1_700_000_000),
        }
    }

    /// One case: `Header: value` lines, and what they decide.
    fn check(lines: &str, expected: Verdict) {
        let mut fields = Fields::default();
        for line in lines.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            let value = Some(value.into());
            match name {
                "If-Match" => fields.if_match = value,
                "If-None-Match" => fields.if_none_match = value,
                "If-Modified-Since" => fields.if_modified_since = value,
                "If-Unmodified-Since" => fields.if_unmodified_since = value,
                other => panic!("{other}"),
            }
        }
        assert_eq!(evaluate(&fields, &validators()), expected, "{lines}");
    }

    #[test]
    fn tags() {
        for (list, matches) in [
            ("\"abc\"", true),
            ("*", true),
            ("\"x\", \"abc\"", true),
            ("\"x\",\"abc\"", true),
            (",, \"abc\"", true),
            ("\"a,b\", \"abc\"", true),
            ("\"x\"", false),
            ("abc", false),
            ("\"abc", false),
            ("\"x\" \"abc\"", false),
            ("w/\"abc\"", false),
            ("", false),
            ("\"ABC\"", false),
            ("\"*\"", false),
        ] {
            let (none_match, if_match) = if matches {
                (Verdict::NotModified, Verdict::Proceed)
            } else {
                (Verdict::Proceed, Verdict::Failed)
            };
            check(&format!("If-None-Match: {list}"), none_match);
            check(&format!("If-Match: {list}"), if_match);
        }
        check("If-None-Match: W/\"abc\"", Verdict::NotModified);
        check("If-Match: W/\"abc\"", Verdict::Failed);
    }

    #[test]
    fn dates_match_exactly_or_not_at_all() {
        check(&format!("If-Modified-Since: {NOW}"), Verdict::NotModified);
        check(&format!("If-Modified-Since: {BEFORE}"), Verdict::Proceed);
        check(&format!("If-Modified-Since: {AFTER}"), Verdict::Proceed);
        check(
            "If-Modified-Since: Tuesday, 14-Nov-23 22:13:20 GMT",
            Verdict::NotModified,
        );
        check("If-Modified-Since: Tue Nov 14 22:13:20 2023", Verdict::NotModified);
        check("If-Modified-Since: yesterday", Verdict::Proceed);
        check(&format!("If-Unmodified-Since: {NOW}"), Verdict::Proceed);
        check(&format!("If-Unmodified-Since: {AFTER}"), Verdict::Proceed);
        check(&format!("If-Unmodified-Since: {BEFORE}"), Verdict::Failed);
        check("If-Unmodified-Since: yesterday", Verdict::Proceed);
    }

    #[test]
    fn tags_go_before_dates_and_preconditions_before_caches() {
        check(
            &format!("If-None-Match: \"x\"\nIf-Modified-Since: {NOW}"),
            Verdict::Proceed,
        );
        check(
            &format!("If-Match: \"abc\"\nIf-Unmodified-Since: {BEFORE}"),
            Verdict::Proceed,
        );
        check("If-Match: \"x\"\nIf-None-Match: \"abc\"", Verdict::Failed);
        check("If-Match: \"abc\"\nIf-None-Match: \"abc\"", Verdict::NotModified);
        check(
            &format!("If-Unmodified-Since: {BEFORE}\nIf-None-Match: \"abc\""),
            Verdict::Failed,
        );
        check("", Verdict::Proceed);
    }

    #[test]
    fn if_range_takes_the_same_thing_only() {
        for (value, counts) in [
            (None, true),
            (Some("\"abc\""), true),
            (Some("W/\"abc\""), false),
            (Some("\"x\""), false),
            (Some("abc"), false),
            (Some("*"), false),
            (Some(NOW), true),
            (Some(AFTER), false),
            (Some(BEFORE), false),
            (Some("\"abc\", \"x\""), false),
        ] {
            let fields = Fields {
                if_range: value.map(Into::into),
                ..Fields::default()
            };
            assert_eq!(range_counts(&fields, &validators()), counts, "{value:?}");
        }
    }

    #[test]
    fn times_that_http_cannot_express_are_left_out() {
        assert_eq!(http_seconds(-1), None);
        assert_eq!(http_seconds(0), Some(0));
        assert_eq!(http_seconds(1 << 38), None);
        assert_eq!(http_date(1_700_000_000), NOW);
        assert_eq!(http_date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        let without = Validators {
            modified: None,
            ..validators()
        };
        let fields = Fields {
            if_modified_since: Some(NOW.into()),
            ..Fields::default()
        };
        assert_eq!(evaluate(&fields, &without), Verdict::Proceed);
    }
}
