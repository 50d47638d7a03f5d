//! Verifying any part of an object against its id alone.
//!
//! BLAKE3 is a tree of 1 KiB chunks. The *outboard* of an object is the list of chaining values of its
//! 64 KiB groups (each the root of a subtree): 32 bytes per group, 0.05 % of the content. It is checked
//! once, by hashing it up to the object id; after that every group is verified by itself, in any order.
//! (A list of one level needs half the bytes of the full tree of hash pairs, and the levels above it
//! cost less to compute than to send.) An object of one group is its own outboard.

use std::ops::Range;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

use crate::ObjectId;

/// Bytes of a group: the unit of verification. The last group of an object may be shorter.
pub const GROUP_BYTES: u64 = 64 * 1024;
const GROUP: usize = 64 * 1024;

/// Why content or an outboard was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The outboard has the wrong length or does not hash to the object id.
    #[error("the outboard of object {0} is forged or damaged")]
    Outboard(ObjectId),
    /// A group of content does not match the outboard.
    #[error("object {object} is forged or damaged at bytes {start} to {end}")]
    Content {
        /// The object.
        object: ObjectId,
        /// First byte of the bad group.
        start: u64,
        /// One behind its last byte.
        end: u64,
    },
    /// The range handed in does not consist of whole groups of the object.
    #[error("bytes {start} to {end} are not whole groups of object {object}")]
    Alignment {
        /// The object.
        object: ObjectId,
        /// First byte handed in.
        start: u64,
        /// One behind the last.
        end: u64,
    },
}

/// Number of groups of an object of `size` bytes; an empty object has none.
#[must_use]
pub const fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES)
}

/// The smallest run of whole groups that covers `range` in an object of `size` bytes.
#[must_use]
pub fn group_cover(range: Range<u64>, size: u64) -> Range<u64> {
    let start = range.start / GROUP_BYTES * GROUP_BYTES;
    let end = range.end.div_ceil(GROUP_BYTES).saturating_mul(GROUP_BYTES).min(size);
    start..end.max(start)
}

/// A verified outboard: what makes the groups of one object verifiable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outboard {
    object: ObjectId,
    size: u64,
    /// 32 bytes per group; empty for an object of at most one group.
    values: Bytes,
}

impl Outboard {
    /// Length in bytes of the outboard of an object of `size` bytes.
    #[must_use]
    pub const fn len_for(size: u64) -> u64 {
        if size <= GROUP_BYTES { 0 } else { group_count(size) * 32 }
    }

    /// Takes an outboard from outside.
    ///
    /// # Errors
    /// [`VerifyError::Outboard`] unless it hashes to `object`.
    pub fn verify(object: ObjectId, size: u64, values: Bytes) -> Result<Self, VerifyError> {
        let forged = VerifyError::Outboard(object);
        if values.len() as u64 != Self::len_for(size) {
            return Err(forged);
        }
        if !values.is_empty() && root(&values) != object {
            return Err(forged);
        }
        if size == 0 && object != ObjectId::of(b"") {
            return Err(forged);
        }
        Ok(Self { object, size, values })
    }

    /// The object that it verifies.
    #[must_use]
    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// The object's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The chaining values, 32 bytes each.
    #[must_use]
    pub fn values(&self) -> &Bytes {
        &self.values
    }

    /// Verifies `data`, which lies at `offset` and consists of whole groups.
    ///
    /// # Errors
    /// [`VerifyError::Alignment`] if it does not, [`VerifyError::Content`] with the first group that
    /// is wrong.
    pub fn verify_groups(&self, offset: u64, data: &[u8]) -> Result<(), VerifyError> {
        let (object, end) = (self.object, offset.saturating_add(data.len() as u64));
        if !offset.is_multiple_of(GROUP_BYTES) || end > self.size || (end % GROUP_BYTES != 0 && end != self.size) {
            return Err(VerifyError::Alignment {
                object,
                start: offset,
                end,
            });
        }
        let mut start = offset;
        for group in data.chunks(GROUP) {
            let end = start + group.len() as u64;
            if !self.group_matches(start, group) {
                return Err(VerifyError::Content { object, start, end });
            }
            start = end;
        }
        Ok(())
    }

    fn group_matches(&self, start: u64, group: &[u8]) -> bool {
        if self.values.is_empty() {
            return group.len() as u64 == self.size && ObjectId::of(group) == self.object;
        }
        let Ok(index) = usize::try_from(start / GROUP_BYTES * 32) else {
            return false;
        };
        self.values
            .get(index..index + 32)
            .is_some_and(|value| value == group_value(start, group))
    }
}

fn group_value(start: u64, group: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start);
    hasher.update(group).finalize_non_root()
}

/// Hashes two or more chaining values up to the root.
fn root(values: &[u8]) -> ObjectId {
    let (left, right) = halves(values);
    let hash = merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash);
    ObjectId::from_bytes(*hash.as_bytes())
}

fn subtree(values: &[u8]) -> ChainingValue {
    if let Ok(single) = ChainingValue::try_from(values) {
        return single;
    }
    let (left, right) = halves(values);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// A BLAKE3 subtree has the largest power of two of leaves, short of all, on its left.
fn halves(values: &[u8]) -> (&[u8], &[u8]) {
    let leaves = values.len() / 32;
    let left = 1 << (leaves - 1).ilog2();
    values.split_at(32 * left)
}

/// Computes object id and outboard of content as it is read, in one pass.
#[derive(Debug, Default)]
pub struct ObjectHasher {
    group: Vec<u8>,
    values: Vec<u8>,
    size: u64,
}

impl ObjectHasher {
    /// A hasher that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes of the content.
    pub fn update(&mut self, mut data: &[u8]) {
        self.size += data.len() as u64;
        while !data.is_empty() {
            // A full group is closed only when more follows: a lone group is hashed as a root.
            if self.group.len() == GROUP {
                self.close_group();
            }
            let whole = self.group.is_empty() && data.len() > GROUP;
            if whole {
                let (group, rest) = data.split_at(GROUP);
                self.values.extend_from_slice(&group_value(self.groups_bytes(), group));
                data = rest;
            } else {
                let (part, rest) = data.split_at(data.len().min(GROUP - self.group.len()));
                self.group.extend_from_slice(part);
                data = rest;
            }
        }
    }

    fn groups_bytes(&self) -> u64 {
        self.values.len() as u64 / 32 * GROUP_BYTES
    }

    fn close_group(&mut self) {
        let value = group_value(self.groups_bytes(), &self.group);
        self.values.extend_from_slice(&value);
        self.group.clear();
    }

    /// The object's outboard, which knows its id and size.
    #[must_use]
    pub fn finish(mut self) -> Outboard {
        if self.values.is_empty() {
            return Outboard {
                object: ObjectId::of(&self.group),
                size: self.size,
                values: Bytes::new(),
            };
        }
        self.close_group();
        Outboard {
            object: root(&self.values),
            size: self.size,
            values: self.values.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 13 & 0xff).unwrap())
            .collect()
    }

    const SIZES: [usize; 12] = [
        0,
        1,
        1024,
        GROUP - 1,
        GROUP,
        GROUP + 1,
        2 * GROUP,
        2 * GROUP + 1,
        3 * GROUP,
        5 * GROUP + 7,
        8 * GROUP,
        9 * GROUP,
    ];

    #[test]
    fn agrees_with_plain_blake3_however_it_is_fed() {
        for size in SIZES {
            let data = content(size);
            for step in [1 + size / 3, 1000, GROUP, GROUP + 1, 1 << 20] {
                let mut hasher = ObjectHasher::new();
                data.chunks(step).for_each(|part| hasher.update(part));
                let outboard = hasher.finish();
                assert_eq!(outboard.object(), ObjectId::of(&data), "{size} in steps of {step}");
                assert_eq!(outboard.size(), size as u64);
                let again = Outboard::verify(outboard.object(), size as u64, outboard.values().clone());
                assert_eq!(again, Ok(outboard));
            }
        }
    }

    #[test]
    fn every_group_verifies_alone_and_every_flipped_bit_is_found() {
        for size in SIZES {
            let mut data = content(size);
            let mut hasher = ObjectHasher::new();
            hasher.update(&data);
            let outboard = hasher.finish();
            outboard.verify_groups(0, &data).unwrap();
            for start in (0..size).step_by(GROUP) {
                let end = (start + GROUP).min(size);
                outboard.verify_groups(start as u64, &data[start..end]).unwrap();
                data[end - 1] ^= 1;
                let error = outboard.verify_groups(0, &data).unwrap_err();
                let expected = VerifyError::Content {
                    object: outboard.object(),
                    start: start as u64,
                    end: end as u64,
                };
                assert_eq!(error, expected);
                data[end - 1] ^= 1;
            }
        }
    }

    #[test]
    fn forged_outboards_and_unaligned_ranges_are_refused() {
        let data = content(3 * GROUP + 5);
        let mut hasher = ObjectHasher::new();
        hasher.update(&data);
        let outboard = hasher.finish();
        let (object, size) = (outboard.object(), outboard.size());
        let mut forged = outboard.values().to_vec();
        forged[40] ^= 1;
        for (size, values) in [
            (size, forged),
            (size, outboard.values()[32..].to_vec()),
            (size, Vec::new()),
            (5, outboard.values().to_vec()),
            (0, Vec::new()),
        ] {
            assert_eq!(
                Outboard::verify(object, size, values.into()),
                Err(VerifyError::Outboard(object))
            );
        }
        for (offset, len) in [(1, GROUP), (0, 10), (0, 4 * GROUP), (u64::MAX - 65_535, GROUP)] {
            let error = outboard.verify_groups(offset, &vec![0; len]).unwrap_err();
            assert!(matches!(error, VerifyError::Alignment { .. }), "{error}");
        }
    }

    #[test]
    fn cover_is_whole_groups_within_the_object() {
        assert_eq!(group_cover(1..2, 10), 0..10);
        assert_eq!(
            group_cover(GROUP_BYTES..GROUP_BYTES + 1, 10 * GROUP_BYTES),
            GROUP_BYTES..2 * GROUP_BYTES
        );
        assert_eq!(group_cover(0..0, 0), 0..0);
    }
}
