//! Which names of a tree are one file.
//!
//! The number of links that `stat` shows also counts names outside the tree: copies made by `cp -al`, and our own store
//! where it imports by hard link. A group is for names in the tree alone. It is known at the end of a walk only, so a walk
//! goes by what the last scan knew, and is corrected by a second one where that was wrong.

use std::collections::HashMap;

use instantmirror_core::ObjectId;

use super::Scan;
use crate::tree::{FileStamp, RawEntry};

/// An inode: its number and its device, mixed. Two that are mixed to one get groups of their own nevertheless.
type Inode = u64;

/// Files with several names in the tree, each with the number of its group, if a name has one already.
pub(super) type Groups = HashMap<Inode, Option<u64>>;

/// Names that a walk has seen of files with more links than one.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// With the number of the group that they were given.
    grouped: Vec<(Inode, u64)>,
    /// That were given none.
    single: Vec<Inode>,
}

impl Links {
    fn note(&mut self, inode: Inode, group: Option<u64>) {
        match group {
            Some(number) => self.grouped.push((inode, number)),
            None => self.single.push(inode),
        }
    }

    /// The groups as they have to be, if a name was not given its own. Where not all names were seen, one that is alone
    /// may keep its group.
    pub(super) fn correction(self, is_full: bool) -> Option<Groups> {
        let mut names: Vec<(Inode, Option<u64>)> = self.single.into_iter().map(|inode| (inode, None)).collect();
        names.extend(self.grouped.into_iter().map(|(inode, number)| (inode, Some(number))));
        names.sort_unstable();
        let (mut groups, mut is_wrong) = (Groups::new(), false);
        for names in names.chunk_by(|(a, _), (b, _)| a == b) {
            let number = names.iter().find_map(|(_, number)| *number);
            match names {
                [] => {}
                [(_, number)] => is_wrong |= is_full && number.is_some(),
                [(inode, _), ..] => {
                    is_wrong |= number.is_none() || names.iter().any(|(_, given)| *given != number);
                    groups.insert(*inode, number);
                }
            }
        }
        is_wrong.then_some(groups)
    }
}

impl Scan<'_> {
    /// The group of a file; `held` is the one that it had.
    pub(super) fn group(&self, raw: &RawEntry, object: &ObjectId, held: Option<u64>) -> Option<u64> {
        if raw.stamp.nlink < 2 {
            return None;
        }
        let inode = inode(&raw.stamp);
        let group = match self.groups.map(|groups| groups.get(&inode)) {
            Some(Some(number)) => Some(number.unwrap_or_else(|| link_group(raw.stamp.ino, object))),
            Some(None) if self.parts.is_full() => None,
            Some(None) | None => held,
        };
        self.gathered().links.note(inode, group);
        group
    }
}

fn inode(stamp: &FileStamp) -> Inode {
    stamp.dev.rotate_left(32) ^ stamp.ino
}

/// The number of a new group. It is a hash, because inode numbers are nobody's business, and holds the content, because a
/// tree may span several file systems, which number alike. A group keeps its number, whatever the inode is later.
fn link_group(ino: u64, object: &ObjectId) -> u64 {
    let seed = [ino.to_le_bytes().as_slice(), object.as_bytes()].concat();
    let hash = blake3::derive_key("InstantMirror 2026 hard link group", &seed);
    hash.first_chunk().map_or(0, |low| u64::from_le_bytes(*low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_of_two_file_systems_that_have_one_number_share_no_group() {
        let (a, b) = (ObjectId::of(b"a"), ObjectId::of(b"b"));
        assert_eq!(link_group(2, &a), link_group(2, &a));
        assert_ne!(link_group(2, &a), link_group(2, &b));
        assert_ne!(link_group(2, &a), link_group(3, &a));
    }

    #[test]
    fn groups_are_corrected_where_names_came_or_went() {
        let links = |names: &[(Inode, Option<u64>)]| {
            let mut links = Links::default();
            names.iter().for_each(|(inode, group)| links.note(*inode, *group));
            links
        };
        // Names outside the tree alone, and groups that are as they should be.
        let right = [(1, None), (2, Some(7)), (2, Some(7)), (3, None)];
        assert_eq!(links(&right).correction(true), None);
        let new = [(1, None), (1, None)];
        assert_eq!(links(&new).correction(true), Some(Groups::from([(1, None)])));
        // One more name, or two groups that have become one file.
        let more = [(1, Some(5)), (1, None), (1, Some(5))];
        assert_eq!(links(&more).correction(true), Some(Groups::from([(1, Some(5))])));
        let two = [(1, Some(6)), (1, Some(5))];
        assert_eq!(links(&two).correction(false), Some(Groups::from([(1, Some(5))])));
        // The last name of a group: known if all names were seen.
        assert_eq!(links(&[(1, Some(5))]).correction(true), Some(Groups::new()));
        assert_eq!(links(&[(1, Some(5))]).correction(false), None);
    }
}
