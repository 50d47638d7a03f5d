//! Exactly the bytes that a Range header asks for are selected, none twice, in few parts.
#![no_main]

use std::collections::BTreeSet;

use instantmirror_http::request::{RANGE_GAP_JOINED, RANGES_MAX, Selection, select_ranges};
use libfuzzer_sys::fuzz_target;

/// Pieces of headers, for random bytes seldom come to one.
const PARTS: [&str; 24] = [
    "bytes=",
    "-",
    ",",
    " ",
    "0",
    "1",
    "9",
    "10",
    "99",
    "100",
    "150",
    "199",
    "200",
    "201",
    "18446744073709551615",
    "18446744073709551616",
    "BYTES=",
    "bytes",
    "=",
    "0-0",
    "-1",
    "5-",
    "\t",
    "x",
];

/// The positions asked for, one by one; `None`: the header is to be ignored.
fn model(header: &str, size: u64) -> Option<BTreeSet<u64>> {
    let blanks: &[char] = &[' ', '\t'];
    let (unit, set) = header.trim_matches(blanks).split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") || size == 0 {
        return None;
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u128>().unwrap_or(u128::MAX))
    };
    let (mut wanted, mut specs) = (BTreeSet::new(), 0);
    for spec in set
        .split(',')
        .map(|spec| spec.trim_matches(blanks))
        .filter(|spec| !spec.is_empty())
    {
        specs += 1;
        let (first, last) = spec.split_once('-')?;
        for position in 0..size {
            let at = u128::from(position);
            let is_asked = match (first.is_empty(), last.is_empty()) {
                (true, _) => u128::from(size - position) <= number(last)?,
                (false, true) => at >= number(first)?,
                (false, false) => at >= number(first)? && at <= number(last)?,
            };
            if is_asked {
                wanted.insert(position);
            }
        }
        if !first.is_empty()
            && !last.is_empty()
            && number(last)?.min(u128::from(u64::MAX)) < number(first)?.min(u128::from(u64::MAX))
        {
            return None;
        }
    }
    (specs > 0).then_some(wanted)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, rest)) = data.split_first() else {
        return;
    };
    let size = u64::from(size);
    let header: String = rest
        .iter()
        .take(64)
        .map(|&byte| {
            PARTS
                .get(usize::from(byte))
                .map_or_else(|| char::from(byte).to_string(), |part| (*part).to_owned())
        })
        .collect();
    let selection = select_ranges(&header, size);
    let Some(wanted) = model(&header, size) else {
        assert_eq!(selection, Selection::Whole, "{header:?} of {size}");
        return;
    };
    match selection {
        Selection::Unsatisfiable => assert!(wanted.is_empty(), "{header:?} of {size}"),
        // Too many parts, or it would be all of it anyway.
        Selection::Whole => assert!(!wanted.is_empty(), "{header:?} of {size}"),
        Selection::Parts(parts) => {
            assert!(!parts.is_empty() && parts.len() <= RANGES_MAX);
            let sent: Vec<u64> = parts.iter().cloned().flatten().collect();
            let positions: BTreeSet<u64> = sent.iter().copied().collect();
            assert_eq!(
                sent.len(),
                positions.len(),
                "a byte is sent twice: {header:?} of {size}"
            );
            assert!(wanted.is_subset(&positions), "{header:?} of {size}");
            // More than was asked for only between parts that were joined.
            for extra in positions.difference(&wanted) {
                let before = wanted.range(..extra).next_back();
                let after = wanted.range(extra..).next();
                assert!(
                    matches!((before, after), (Some(b), Some(a)) if a - b <= RANGE_GAP_JOINED + 1),
                    "{header:?} of {size}"
                );
            }
        }
    }
});
