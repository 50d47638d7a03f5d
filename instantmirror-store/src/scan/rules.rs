//! What of a source tree is published: the operator's rules, and the terms on which a scan can build on the last one.
//!
//! A rule says about an entry alone whether it is published, whoever looks at it and when. So a scan of named paths comes
//! to what a full scan comes to, as long as both went by the same rules; [`Terms`] tells whether they did.

use std::path::Path;

use instantmirror_core::rules::PathGlobs;

use super::report::LeftOutWhy;
use crate::tree::{RawKind, SourceTree, StampRule};

/// Permission of others to read a file.
const OTHERS_READ: u16 = 0o004;
/// Permission of others to list a directory and to reach what is in it.
const OTHERS_ENTER: u16 = 0o005;

/// What of a tree is published, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanRules {
    /// Paths that are left out. A directory that matches is not walked.
    pub exclude: PathGlobs,
    /// Names and symlink targets that no snapshot can hold, and what may not be read by this process.
    pub unpublishable: OnUnpublishable,
    /// Files and directories that others may not read.
    pub private: OnPrivate,
    /// Symlinks with an absolute target in the tree.
    pub symlinks: SymlinkRule,
    /// When a file is taken as unchanged.
    pub stamps: StampRule,
}

/// What is done about an entry that cannot be published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnUnpublishable {
    /// The scan fails, and lists all of them.
    #[default]
    Refuse,
    /// It is left out.
    Skip,
}

/// What is done about a file without permission for others to read it, or a directory without permission for others to
/// list and to enter it, and so about all that is below. The root itself is published whatever its mode: the operator
/// has named it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnPrivate {
    /// It is left out.
    #[default]
    Skip,
    /// The scan fails, and lists all of them.
    Refuse,
    /// It is published like everything else.
    Publish,
}

/// What is done about symlinks whose absolute target lies in the tree, which lead nowhere for readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SymlinkRule {
    /// The target is published as it is.
    #[default]
    Keep,
    /// The target is made relative to the symlink.
    Rewrite,
}

/// What a scan went by. A scan of named paths takes over from the last one what is not named, so both must have gone by
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms(pub(super) [u8; 32]);

impl ScanRules {
    /// What a scan of this tree by these rules goes by.
    ///
    /// Errors: those of looking at the root.
    pub fn terms(&self, tree: &SourceTree) -> crate::error::Result<Terms> {
        let Self {
            exclude,
            unpublishable,
            private,
            symlinks,
            stamps,
        } = self;
        let root = tree.root_entry()?.stamp;
        // Another directory in the place of the root is another tree. A device number that changes at a reboot costs one
        // scan of the whole tree, which reads nothing.
        let inode = if stamps.ignore_inode { 0 } else { root.ino };
        let root = (tree.root(), tree.real_root(), root.dev, inode);
        let terms = format!(
            "{:?} {unpublishable:?} {private:?} {symlinks:?} {root:?}",
            exclude.texts()
        );
        Ok(Terms(blake3::derive_key(
            "InstantMirror 2026 terms of a scan",
            terms.as_bytes(),
        )))
    }

    /// Whether an entry is left out before it is opened, and why. `path` gives that of the entry in the tree; most trees
    /// need none.
    pub(super) fn closed<P: AsRef<Path>>(
        &self,
        path: impl FnOnce() -> P,
        kind: &RawKind,
        mode: u16,
    ) -> Option<(LeftOutWhy, String)> {
        if !self.exclude.is_empty() && self.exclude.matches_entry(path(), *kind == RawKind::Dir) {
            return Some((LeftOutWhy::Excluded, "excluded".to_owned()));
        }
        self.is_closed(kind, mode)
            .then(|| (LeftOutWhy::Private, closed_to_others(mode)))
    }

    /// Whether others may not read something, and that matters.
    pub(super) fn is_closed(&self, kind: &RawKind, mode: u16) -> bool {
        self.private != OnPrivate::Publish && is_private(kind, mode)
    }
}

pub(super) fn closed_to_others(mode: u16) -> String {
    format!("closed to others (mode {mode:04o})")
}

/// Whether others may not read it.
fn is_private(kind: &RawKind, mode: u16) -> bool {
    let wanted = match kind {
        RawKind::File => OTHERS_READ,
        RawKind::Dir => OTHERS_ENTER,
        // The mode of a symlink means nothing, and the others are not published.
        RawKind::Symlink(_) | RawKind::Special => 0,
    };
    mode & wanted != wanted
}

/// The relative target that leads from a symlink in the directory `dir` to `inner`, both paths from the root.
pub(super) fn relative_target(dir: &str, inner: &str) -> String {
    let (mut from, mut to) = (dir, inner.trim_start_matches('/'));
    // A target that climbs is kept in full: what its names are shortened by may be symlinks.
    while !inner.split('/').any(|part| part == "..")
        && let (Some((first, rest)), Some((same, left))) = (split_first(from), to.split_once('/'))
        && first == same
    {
        (from, to) = (rest, left.trim_start_matches('/'));
    }
    let climbs = from.split('/').filter(|part| !part.is_empty()).count();
    let mut target = "../".repeat(climbs) + to;
    if target.is_empty() {
        target.push('.');
    } else if to.is_empty() {
        target.pop();
    }
    target
}

fn split_first(path: &str) -> Option<(&str, &str)> {
    match path.split_once('/') {
        Some(parts) => Some(parts),
        None if path.is_empty() => None,
        None => Some((path, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_targets_become_the_shortest_relative_ones() {
        for (dir, inner, expected) in [
            ("", "a/b", "a/b"),
            ("", "", "."),
            ("d", "", ".."),
            ("d/e", "a", "../../a"),
            ("d/e", "d/f", "../f"),
            ("d/e", "d/e/f", "f"),
            ("d/e", "/d//e/f/", "f/"),
            ("d/e", "d/e", "../e"),
            ("d/e", "d/../x", "../../d/../x"),
            ("deb", "debian/x", "../debian/x"),
        ] {
            assert_eq!(relative_target(dir, inner), expected, "{dir} -> {inner}");
        }
    }
}
