//! How inode numbers are made up.
//!
//! | bits | of an entry of a snapshot | of a place outside of snapshots | of a group of hard links |
//! |---|---|---|---|
//! | 63 | 0 | 0 | 0 |
//! | 62, 61 | 0, 0 | 1, 0 | 0, 1 |
//! | 60 to 24 | slot of its directory | hash of what it is | hash of the group |
//! | 23 to 0 | 0: the directory itself; else its place in it + 1 | the same | the same |
//!
//! A file or symlink needs no table: slot and place lead to its row in the catalog. Groups are numbers in `st_ino` alone; the
//! kernel never asks for one.

use crate::filesystem::InodeId;

/// Most entries of one directory that can be numbered. A cursor counts more rows than there are entries: `.` and `..` stand
/// before them, and each cursor is that of the next row.
pub(crate) const PLACES_MAX: u64 = PLACE_MASK - 4;
/// Largest slot.
pub(crate) const SLOT_MAX: u64 = (1 << 37) - 1;

const PLACE_BITS: u32 = 24;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
const OUTSIDE: u64 = 1 << 62;
const GROUP: u64 = 1 << 61;

/// The meaning of an inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    /// The root of the mount.
    Root,
    /// A directory of a snapshot, by its slot.
    Directory(u64),
    /// An entry of a directory, which is a file or a symlink: slot and place, from 0 on.
    Entry(u64, u64),
    /// Something outside of snapshots.
    Outside(u64),
}

impl Number {
    /// Takes a number apart; `None` if it was never given.
    pub(crate) fn of(id: InodeId) -> Option<Self> {
        if id == InodeId::ROOT {
            return Some(Self::Root);
        }
        if id.0 & OUTSIDE != 0 {
            return Some(Self::Outside(id.0));
        }
        let (slot, place) = (id.0 >> PLACE_BITS, id.0 & PLACE_MASK);
        match (slot, place.checked_sub(1)) {
            (0 | SLOT_ABOVE.., _) => None,
            (slot, None) => Some(Self::Directory(slot)),
            (slot, Some(place)) => Some(Self::Entry(slot, place)),
        }
    }
}

const SLOT_ABOVE: u64 = SLOT_MAX + 1;

/// The number of the directory with this slot.
pub(crate) fn directory(slot: u64) -> InodeId {
    InodeId(slot << PLACE_BITS)
}

/// The number of a file or symlink; `None` if there is none so far back in a directory.
pub(crate) fn entry(slot: u64, place: u64) -> Option<InodeId> {
    (place < PLACES_MAX).then_some(InodeId(slot << PLACE_BITS | (place + 1)))
}

/// The number of a place outside of snapshots, made of what describes it.
pub(crate) fn outside(description: &[u8]) -> InodeId {
    InodeId(OUTSIDE | hash(description))
}

/// The `st_ino` that hard-linked names share.
pub(crate) fn group(description: &[u8]) -> u64 {
    GROUP | hash(description)
}

/// 61 bits; two of a million groups have the same with a chance of 1 to some four million.
fn hash(description: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(description).as_bytes()[..8]);
    u64::from_le_bytes(bytes) & (GROUP - 1)
}

/// Where a listing goes on: the slot of the directory that it began in, and the row. So a listing of a root whose snapshot
/// changes stays in the one that it began in.
pub(crate) fn cursor(slot: u64, row: u64) -> u64 {
    slot << PLACE_BITS | row
}

/// Slot and row of a cursor.
pub(crate) fn of_cursor(cursor: u64) -> (u64, u64) {
    (cursor >> PLACE_BITS, cursor & PLACE_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_taken_apart_as_it_was_made() {
        for slot in [1, 77, SLOT_MAX] {
            assert_eq!(Number::of(directory(slot)), Some(Number::Directory(slot)));
            for place in [0, 1, PLACES_MAX - 1] {
                let id = entry(slot, place).unwrap();
                assert_eq!(Number::of(id), Some(Number::Entry(slot, place)));
                assert_eq!(id.0 >> 61, 0);
            }
            assert_eq!(entry(slot, PLACES_MAX), None);
        }
        // The last row of the largest directory has a cursor.
        assert_eq!(of_cursor(cursor(7, PLACES_MAX + 2)), (7, PLACES_MAX + 2));
        let place = outside(b"snap");
        assert_eq!(Number::of(place), Some(Number::Outside(place.0)));
        assert_eq!(Number::of(InodeId::ROOT), Some(Number::Root));
        for never in [0, 2, group(b"a"), (SLOT_MAX + 1) << 24] {
            assert_eq!(Number::of(InodeId(never)), None, "{never}");
        }
    }
}
