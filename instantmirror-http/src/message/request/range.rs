//! The Range header (RFC 9110, section 14): which bytes of an object to send.
//!
//! Rules of ours where the RFC leaves a choice: a header that is malformed, that asks an empty object, that
//! leaves more than [`RANGES_MAX`] parts after joining, or whose answer would be longer than the object and
//! a tenth, is ignored: the answer is the whole object, which is right for every client and cheap for us.

use std::ops::Range;

/// Most parts of one answer. zchunk asks for 256 at a time and for half as many after each refusal, zsync for 20;
/// Apache httpd sends 200.
pub const RANGES_MAX: usize = 256;
/// Parts with at most this many bytes between them are joined: a part's own header costs more.
pub const RANGE_GAP_JOINED: u64 = 80;

/// What a Range header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything: there is no header, or it is to be ignored.
    Whole,
    /// None of the ranges lies inside the object: 416.
    Unsatisfiable,
    /// These, none empty, none overlapping: 206. At most [`RANGES_MAX`]; in the order asked for unless some
    /// had to be joined, else in ascending order.
    Parts(Vec<Range<u64>>),
}

/// Reads a Range header against an object of `size` bytes.
///
/// ```
/// use instantmirror_http::request::{Selection, select_ranges};
/// assert_eq!(select_ranges("bytes=-4", 10), Selection::Parts(vec![6..10]));
/// assert_eq!(select_ranges("bytes=10-", 10), Selection::Unsatisfiable);
/// assert_eq!(select_ranges("pages=1-2", 10), Selection::Whole);
/// ```
#[must_use]
pub fn select_ranges(header: &str, size: u64) -> Selection {
    let Some(set) = byte_range_set(header) else {
        return Selection::Whole;
    };
    if size == 0 {
        return Selection::Whole;
    }
    let mut parts = Vec::new();
    let mut specs = 0_usize;
    for spec in set.split(',').map(trim_blanks).filter(|spec| !spec.is_empty()) {
        specs += 1;
        match resolve(spec, size) {
            None => return Selection::Whole,
            Some(range) if range.is_empty() => {}
            Some(range) => parts.push(range),
        }
    }
    if specs == 0 {
        return Selection::Whole;
    }
    if parts.is_empty() {
        return Selection::Unsatisfiable;
    }
    let parts = join(parts);
    if parts.len() > RANGES_MAX {
        Selection::Whole
    } else {
        Selection::Parts(parts)
    }
}

/// Whether an answer of `bytes` bytes in several parts is worth it for an object of `size` bytes.
#[must_use]
pub fn is_worth_parting(bytes: u64, size: u64) -> bool {
    bytes <= size.saturating_add(size / 10)
}

fn byte_range_set(header: &str) -> Option<&str> {
    let (unit, set) = trim_blanks(header).split_once('=')?;
    unit.eq_ignore_ascii_case("bytes").then_some(set)
}

fn trim_blanks(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// One range, cut to the object; empty if it lies outside; `None` if it is malformed.
fn resolve(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = position(last)?;
        return Some(size.saturating_sub(suffix)..size);
    }
    let first = position(first)?;
    if last.is_empty() {
        return Some(first.min(size)..size);
    }
    let last = position(last)?;
    if last < first {
        return None;
    }
    Some(first.min(size)..last.saturating_add(1).min(size))
}

/// A number of digits only; one too large for 64 bits is beyond every object anyway.
fn position(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

fn join(parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted = parts.clone();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(RANGE_GAP_JOINED) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    if joined.len() == parts.len() { parts } else { joined }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range is meant, not its numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(ranges: &[Range<u64>]) -> Selection {
        Selection::Parts(ranges.to_vec())
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let max = u64::MAX;
        let cases = [
            ("bytes=0-0", parts(&[0..1])),
            ("bytes=0-9", parts(&[0..10])),
            ("bytes=0-", parts(&[0..1000])),
            ("bytes=999-", parts(&[999..1000])),
            ("bytes=999-999", parts(&[999..1000])),
            ("bytes=500-499999", parts(&[500..1000])),
            ("bytes=-1", parts(&[999..1000])),
            ("bytes=-1000", parts(&[0..1000])),
            ("bytes=-5000", parts(&[0..1000])),
            ("BYTES=0-0", parts(&[0..1])),
            ("Bytes=0-0", parts(&[0..1])),
            (" bytes=0-0\t", parts(&[0..1])),
            ("bytes= 0-0 ", parts(&[0..1])),
            ("bytes=000-0009", parts(&[0..10])),
            ("bytes=0-18446744073709551615", parts(&[0..1000])),
            ("bytes=0-18446744073709551616", parts(&[0..1000])),
            ("bytes=0-99999999999999999999999999999999", parts(&[0..1000])),
            ("bytes=-99999999999999999999999999999999", parts(&[0..1000])),
            ("bytes=,0-0", parts(&[0..1])),
            ("bytes=0-0,", parts(&[0..1])),
            ("bytes=, ,0-0, ,", parts(&[0..1])),
            // Unsatisfiable.
            ("bytes=1000-", Selection::Unsatisfiable),
            ("bytes=1000-1000", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=18446744073709551615-", Selection::Unsatisfiable),
            ("bytes=99999999999999999999-", Selection::Unsatisfiable),
            ("bytes=1000-,2000-,-0", Selection::Unsatisfiable),
        ];
        for (header, expected) in cases {
            assert_eq!(select_ranges(header, 1000), expected, "{header:?}");
        }
        assert_eq!(select_ranges("bytes=0-", max), parts(&[0..max]));
        assert_eq!(select_ranges(&format!("bytes=0-{max}"), max), parts(&[0..max]));
    }

    #[test]
    fn several_ranges_are_joined_and_what_is_malformed_is_ignored() {
        let cases = [
            // Several.
            ("bytes=0-0,500-500", parts(&[0..1, 500..501])),
            ("bytes=500-500,0-0", parts(&[500..501, 0..1])),
            ("bytes=0-0, -1", parts(&[0..1, 999..1000])),
            ("bytes=0-0 ,\t-1", parts(&[0..1, 999..1000])),
            ("bytes=0-0,1-1", parts(&[0..2])),
            ("bytes=0-9,5-14", parts(&[0..15])),
            ("bytes=5-14,0-9", parts(&[0..15])),
            ("bytes=0-0,81-81", parts(&[0..82])),
            ("bytes=0-0,82-82", parts(&[0..1, 82..83])),
            ("bytes=0-,0-,0-,0-", parts(&[0..1000])),
            ("bytes=0-0,2000-", parts(&[0..1])),
            ("bytes=500-600,0-0,550-700", parts(&[0..1, 500..701])),
            // Malformed or another unit: ignored as a whole.
            ("", Selection::Whole),
            ("bytes", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes=,", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=0", Selection::Whole),
            ("bytes=9-0", Selection::Whole),
            ("bytes=0-0,9-0", Selection::Whole),
            ("bytes=0-0-0", Selection::Whole),
            ("bytes=--1", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes=0x0-1", Selection::Whole),
            ("bytes=0 - 1", Selection::Whole),
            ("bytes=1.0-2", Selection::Whole),
            ("bytes =0-0", Selection::Whole),
            ("bytes:0-0", Selection::Whole),
            ("bytes=0-0;1-1", Selection::Whole),
            ("bytes=\u{661}-2", Selection::Whole),
            ("none=0-0", Selection::Whole),
            ("bytes=0-0, bytes=1-1", Selection::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(select_ranges(header, 1000), expected, "{header:?}");
        }
    }

    #[test]
    fn an_empty_object_has_no_ranges() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-"] {
            assert_eq!(select_ranges(header, 0), Selection::Whole, "{header}");
        }
    }

    #[test]
    fn more_than_the_limit_of_parts_are_ignored() {
        let header = |n: u64| "bytes=".to_owned() + &(0..n).map(|i| format!("{0}-{0},", i * 1000)).collect::<String>();
        let selected = select_ranges(&header(RANGES_MAX as u64), 1 << 20);
        assert!(matches!(selected, Selection::Parts(parts) if parts.len() == RANGES_MAX));
        assert_eq!(select_ranges(&header(RANGES_MAX as u64 + 1), 1 << 20), Selection::Whole);
        // Joined first, counted then.
        assert_eq!(
            select_ranges(&("bytes=".to_owned() + &"0-,".repeat(3000)), 10),
            parts(&[0..10])
        );
    }

    #[test]
    fn a_tenth_more_is_the_limit() {
        assert!(is_worth_parting(1100, 1000));
        assert!(!is_worth_parting(1101, 1000));
        assert!(is_worth_parting(u64::MAX, u64::MAX));
    }

    proptest! {
        #[test]
        fn parts_lie_inside_and_apart(header in "bytes=([0-9]{0,4}-[0-9]{0,4},? ?){0,30}", size in 0_u64..3000) {
            if let Selection::Parts(mut parts) = select_ranges(&header, size) {
                prop_assert!(!parts.is_empty() && parts.len() <= RANGES_MAX);
                parts.sort_by_key(|range| range.start);
                prop_assert!(parts.iter().all(|range| range.start < range.end && range.end <= size));
                prop_assert!(parts.windows(2).all(|pair| pair[0].end + RANGE_GAP_JOINED < pair[1].start));
            }
        }

        #[test]
        fn any_text_is_survived(header in "\\PC{0,60}", size: u64) {
            let _ = select_ranges(&header, size);
        }
    }
}
