//! What a scan has to say besides its result: counts, what was left out and why, symlinks that lead nowhere.

use std::collections::BTreeMap;

/// How many paths of a kind are named; of the others only their number is known.
pub const EXAMPLES_MAX: usize = 20;

/// Counts of a scan. Of a scan of [named paths](super::ScanParts::changes), files are all of the tree, and the others
/// what was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Regular files in the tree.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Files that were read because they are new or changed.
    pub read_files: u64,
    /// Bytes of them.
    pub read_bytes: u64,
}

/// Why something is not in a snapshot.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOutWhy {
    /// The rules exclude it.
    Excluded,
    /// Others may not read it.
    Private,
    /// This process may not read it.
    Unreadable,
    /// Its name or target cannot be in a snapshot.
    Unpublishable,
    /// It is a fifo, a socket or a device.
    Special,
    /// It was gone before it was read.
    Vanished,
}

impl LeftOutWhy {
    /// In one word, for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Excluded => "excluded",
            Self::Private => "private",
            Self::Unreadable => "unreadable",
            Self::Unpublishable => "unpublishable",
            Self::Special => "special",
            Self::Vanished => "vanished",
        }
    }
}

/// How many paths something is true of, and the first of them by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// How many.
    pub count: u64,
    /// The first [`EXAMPLES_MAX`], each with the reason or the target.
    pub examples: BTreeMap<String, String>,
}

impl Noted {
    pub(super) fn note(&mut self, path: String, detail: impl ToString) {
        self.count += 1;
        let is_full = self.examples.len() >= EXAMPLES_MAX;
        if is_full && self.examples.last_key_value().is_some_and(|(last, _)| *last < path) {
            return;
        }
        self.examples.insert(path, detail.to_string());
        if self.examples.len() > EXAMPLES_MAX {
            self.examples.pop_last();
        }
    }

    /// The first of them.
    #[must_use]
    pub fn example(&self) -> Option<(&str, &str)> {
        let first = self.examples.first_key_value();
        first.map(|(path, detail)| (path.as_str(), detail.as_str()))
    }
}

/// What was left out, by reason. A directory counts as one path, whatever is below it.
pub type LeftOut = BTreeMap<LeftOutWhy, Noted>;

/// Symlinks that lead nowhere for readers, or did before they were rewritten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymlinkReport {
    /// Absolute targets in the tree, published as they are.
    pub absolute: Noted,
    /// Absolute targets in the tree that were made relative.
    pub rewritten: Noted,
    /// Targets outside the tree.
    pub leaving: Noted,
    /// Targets that are not there, or not published.
    pub dangling: Noted,
}

/// Says in the log, once per scan and reason, what is not as one might think.
pub(super) fn log(left_out: &LeftOut, symlinks: &SymlinkReport) {
    for (why, noted) in left_out {
        let (path, reason) = noted.example().unwrap_or_default();
        let count = noted.count;
        match why {
            LeftOutWhy::Excluded => tracing::info!(count, "left out of the snapshot: {path} is excluded"),
            LeftOutWhy::Private => tracing::warn!(
                count,
                "left out of the snapshot: {path}: {reason}; `private` in its [[repository]] says whether that is right"
            ),
            _ => tracing::warn!(count, "left out of the snapshot: {path}: {reason}"),
        }
    }
    let SymlinkReport {
        absolute,
        rewritten,
        leaving,
        dangling,
    } = symlinks;
    let say = |noted: &Noted, what: &str| {
        if let Some((path, target)) = noted.example() {
            tracing::info!(count = noted.count, "symlinks {what}: {path} -> {target}");
        }
    };
    say(
        absolute,
        "with an absolute target in the tree lead nowhere for readers (`symlinks = \"rewrite\"` makes them relative)",
    );
    say(rewritten, "with an absolute target in the tree were made relative");
    say(leaving, "lead out of the tree");
    say(dangling, "lead to what is not there or not published");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_by_name_are_kept_whatever_the_order() {
        let mut noted = Noted::default();
        for n in (0..100).rev().chain(0..100) {
            noted.note(format!("{n:03}"), n);
        }
        assert_eq!((noted.count, noted.examples.len()), (200, EXAMPLES_MAX));
        assert_eq!(noted.example(), Some(("000", "0")));
        assert_eq!(noted.examples.last_key_value().unwrap().0, "019");
    }
}
