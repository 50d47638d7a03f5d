//! Small pieces of the sentences that the programs print.

use std::fmt::{self, Write as _};
use std::time::Duration;

/// So many of something, for people: `1 file`, `2 files`, `0 directories`.
///
/// ```
/// use instantmirror::text::Count;
/// assert_eq!(Count(1, "file").to_string(), "1 file");
/// assert_eq!(Count(2, "directory").to_string(), "2 directories");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(
    /// How many.
    pub u64,
    /// What they are, for one of them.
    pub &'static str,
);

impl Count {
    /// The same for a length.
    #[must_use]
    pub fn of(count: usize, what: &'static str) -> Self {
        Self(u64::try_from(count).unwrap_or(u64::MAX), what)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, what) = *self;
        match (count, what.strip_suffix('y')) {
            (1, _) => write!(f, "1 {what}"),
            (_, Some(stem)) if !stem.ends_with(['a', 'e', 'o', 'u']) => write!(f, "{count} {stem}ies"),
            _ => write!(f, "{count} {what}s"),
        }
    }
}

/// `3 d 4 h`, `12 min 5 s`: the two largest units.
pub(crate) fn people_time(time: Duration) -> String {
    let mut rest = time.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)] {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 || unit == "s" && text.is_empty() {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{space}{count} {unit}");
            if !space.is_empty() {
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_all_else_are_many() {
        let said = |count, what| Count(count, what).to_string();
        assert_eq!(said(0, "file"), "0 files");
        assert_eq!(said(1, "repository"), "1 repository");
        assert_eq!(said(3, "repository"), "3 repositories");
        assert_eq!(said(2, "key"), "2 keys");
    }

    #[test]
    fn times_are_for_people() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (273_600, "3 d 4 h"),
        ] {
            assert_eq!(people_time(Duration::from_secs(seconds)), text);
        }
    }
}
