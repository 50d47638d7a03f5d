//! The content of one object in a [`MemoryCache`](super::MemoryCache).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::RangeSet;
use crate::outboard::{GROUP_BYTES, ObjectHasher, Outboard, VerifyError};

const GROUP: usize = 64 * 1024;
const _: () = assert!(GROUP as u64 == GROUP_BYTES);

/// Bytes of all contents of a cache, also of those that only a handle keeps.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) used: AtomicU64,
    /// Those of outboards.
    pub(super) side: AtomicU64,
}

/// The groups that are here, and no room for any other.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) size: u64,
    outboard: Option<Outboard>,
    present: RangeSet,
    /// By offset. Each is an allocation of its own: a `Bytes` does not say how large the buffer is that
    /// it keeps.
    groups: BTreeMap<u64, Bytes>,
    counts: Arc<Counts>,
}

impl Content {
    /// Nothing yet. `outboard` is that of an object of one group, which is empty.
    pub(super) fn new(size: u64, outboard: Option<Outboard>, counts: Arc<Counts>) -> Self {
        Self {
            size,
            outboard,
            present: RangeSet::new(),
            groups: BTreeMap::new(),
            counts,
        }
    }

    /// The outboard, unless it would have to be computed.
    pub(super) fn known_outboard(&self) -> Option<&Outboard> {
        self.outboard.as_ref()
    }

    /// Keeps a copy of an outboard, unless one is known: like a group's, its buffer may be larger. Returns
    /// how many bytes it has added.
    pub(super) fn set_outboard(&mut self, outboard: &Outboard) -> Result<u64, VerifyError> {
        if self.outboard.is_some() {
            return Ok(0);
        }
        let values = Bytes::copy_from_slice(outboard.values());
        self.outboard = Some(Outboard::verify(outboard.object(), outboard.size(), values)?);
        self.counts.side.fetch_add(self.side(), Ordering::Relaxed);
        Ok(self.side())
    }

    /// Bytes of the outboard, if it is known.
    pub(super) fn side(&self) -> u64 {
        self.outboard
            .as_ref()
            .map_or(0, |outboard| outboard.values().len() as u64)
    }

    pub(super) fn present(&self) -> &RangeSet {
        &self.present
    }

    pub(super) fn is_whole(&self) -> bool {
        self.present.contains(0..self.size)
    }

    /// The bytes of `range`; `None` unless all of them are here. Those of a single group are not copied.
    pub(super) fn read(&self, range: &Range<u64>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.size || !self.present.contains(range.clone()) {
            return None;
        }
        let first = range.start / GROUP_BYTES * GROUP_BYTES;
        let groups = self.groups.range(first..range.end);
        let parts: Vec<Bytes> = groups.map(|(start, group)| part(*start, group, range)).collect();
        match parts.as_slice() {
            [one] => Some(one.clone()),
            many => Some(many.concat().into()),
        }
    }

    /// Keeps those of the verified groups at `offset` that are missing. Returns how many bytes it has added.
    pub(super) fn insert(&mut self, offset: u64, groups: &[u8]) -> u64 {
        let (mut start, mut added) = (offset, 0);
        for group in groups.chunks(GROUP) {
            let range = start..start + group.len() as u64;
            start = range.end;
            self.groups.entry(range.start).or_insert_with(|| {
                added += group.len() as u64;
                Bytes::copy_from_slice(group)
            });
            self.present.insert(range);
        }
        self.counts.used.fetch_add(added, Ordering::Relaxed);
        added
    }

    /// The outboard, computed if the whole object is here and it is not known.
    pub(super) fn outboard(&self) -> Option<Outboard> {
        if self.outboard.is_some() || !self.is_whole() {
            return self.outboard.clone();
        }
        let mut hasher = ObjectHasher::new();
        self.groups.values().for_each(|group| hasher.update(group));
        Some(hasher.finish())
    }

    /// How many bytes its groups take.
    #[cfg(test)]
    pub(super) fn resident(&self) -> u64 {
        self.groups.values().map(|group| group.len() as u64).sum()
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.counts.used.fetch_sub(self.present.len(), Ordering::Relaxed);
        self.counts.side.fetch_sub(self.side(), Ordering::Relaxed);
    }
}

/// What `range` has of a group that begins at `start`.
fn part(start: u64, group: &Bytes, range: &Range<u64>) -> Bytes {
    let within =
        |place: u64| usize::try_from(place.saturating_sub(start)).map_or(group.len(), |at| at.min(group.len()));
    group.slice(within(range.start)..within(range.end))
}
