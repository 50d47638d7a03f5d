//! The account of space: what is used, promised and beside objects, and what may still be promised.

use instantmirror_core::ObjectId;
use instantmirror_core::outboard::{Outboard, group_count};
use instantmirror_core::traits::Capacity;

use super::{Table, View, at};
use crate::cache::layout::MAP_HEADER;

/// What the file system has left.
#[derive(Clone, Copy, Debug)]
pub(in crate::cache) struct Room {
    pub(in crate::cache) bytes: u64,
    pub(in crate::cache) files: u64,
}

/// Files that a fill may need: content, map, the next map, outboard.
const FILES_OF_A_FILL: u64 = 4;
/// So much more than its length a file may take of the disk, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// Why a reservation was not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Shortage {
    /// Larger than the whole cache.
    Never,
    /// Something has to go first.
    Now,
    /// A limit was lowered, and what is there goes step by step.
    Shrinking,
}

/// Bytes of the files beside an object.
pub(in crate::cache) fn side_of(size: u64, whole: bool) -> u64 {
    let outboard = Outboard::len_for(size);
    // What has one group is either here or not: it needs no map.
    if whole || group_count(size) <= 1 {
        return outboard;
    }
    // The map is replaced by writing another one first.
    outboard + 2 * (MAP_HEADER as u64 + group_count(size).div_ceil(8))
}

impl Table {
    pub(in crate::cache) fn used(&self) -> u64 {
        self.used
    }

    pub(in crate::cache) fn reserved(&self) -> u64 {
        self.reserved
    }

    pub(in crate::cache) fn side(&self) -> u64 {
        self.side
    }

    /// Bytes have left the disk.
    pub(in crate::cache) fn gone(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// Bytes are on the disk that belong to no object: quarantine.
    pub(in crate::cache) fn count(&mut self, bytes: u64) {
        self.used += bytes;
    }

    /// Promises what `object` still lacks, if everything fits. `room` is what the file system has.
    pub(in crate::cache) fn reserve(&mut self, object: &ObjectId, room: Room) -> Result<(), Shortage> {
        let Some(handle) = self.handle(object) else {
            return Ok(());
        };
        let View { size, held, .. } = self.view(handle);
        let (reserved, beside) = self
            .active
            .get(&handle)
            .map_or((0, 0), |active| (active.reserved, active.side));
        let content = size.saturating_sub(held + reserved);
        let side = side_of(size, false).saturating_sub(beside);
        let need = content.saturating_add(side);
        let max_bytes = self.limits.max_bytes.unwrap_or(u64::MAX);
        if size.saturating_add(side_of(size, false)) > max_bytes || self.limits.max_objects == Some(0) {
            return Err(Shortage::Never);
        }
        if self.shrinking && self.is_over() {
            return Err(Shortage::Shrinking);
        }
        // The object itself is counted already.
        if self.is_short(
            Capacity {
                objects: 0,
                bytes: need,
            },
            room,
        ) {
            return Err(Shortage::Now);
        }
        self.reserved += content;
        self.side += side;
        let active = self.activate(handle);
        active.reserved += content;
        active.side += side;
        Ok(())
    }

    /// Whether so much more fits if nothing goes for it but what no snapshot needs.
    pub(in crate::cache) fn has_room(&self, more: Capacity, room: Room) -> bool {
        let (garbage, _) = self.order.counts();
        let more = Capacity {
            objects: more.objects.saturating_sub(garbage as u64),
            bytes: more.bytes.saturating_sub(self.order.garbage_bytes()),
        };
        !self.is_short(more, room)
    }

    /// What all limits allow for, of which some is taken.
    pub(in crate::cache) fn capacity(&self, room: Room) -> Capacity {
        let free = room.bytes.saturating_sub(self.limits.keep_free_bytes);
        let on_disk = self.used.saturating_add(self.side).saturating_add(free);
        let files = (self.len() as u64).saturating_add(room.files);
        Capacity {
            objects: self.limits.max_objects.unwrap_or(u64::MAX).min(files),
            bytes: self.limits.max_bytes.unwrap_or(u64::MAX).min(on_disk),
        }
    }

    /// Whether so much more does not fit beside what is there and what is promised.
    pub(in crate::cache) fn is_short(&self, more: Capacity, room: Room) -> bool {
        let Capacity { objects, bytes } = more;
        let files = FILES_OF_A_FILL.saturating_mul(self.fills.saturating_add(objects).max(1));
        let on_disk = self.limits.keep_free_bytes.saturating_add(self.reserved);
        let on_disk = on_disk
            .saturating_add(bytes)
            .saturating_add(files.saturating_mul(BLOCK_BYTES));
        let count = (self.len() as u64).saturating_add(objects);
        self.committed().saturating_add(bytes) > self.limits.max_bytes.unwrap_or(u64::MAX)
            || count > self.limits.max_objects.unwrap_or(u64::MAX)
            || on_disk > room.bytes
            || files > room.files
    }

    fn committed(&self) -> u64 {
        let committed = self.used.saturating_add(self.reserved);
        committed.saturating_add(self.side)
    }

    /// Whether what is there already breaks a limit, as after the limit was lowered.
    pub(in crate::cache) fn is_over(&self) -> bool {
        self.committed() > self.limits.max_bytes.unwrap_or(u64::MAX) || self.too_many()
    }

    fn too_many(&self) -> bool {
        self.len() as u64 > self.limits.max_objects.unwrap_or(u64::MAX)
    }

    /// Begins a fill of an object that has a slot, under a lease that counts as no use: it came for its first one.
    /// Returns the generation.
    pub(in crate::cache) fn begin_fill(&mut self, object: &ObjectId) -> Option<u64> {
        let handle = self.handle(object)?;
        let generation = self.keep(handle);
        let (_, active) = self.active_mut(object, generation)?;
        active.filling = true;
        self.fills += 1;
        Some(generation)
    }

    /// Ends a fill: what it did not use is free again.
    pub(in crate::cache) fn end_fill(&mut self, object: &ObjectId, generation: u64) {
        let Some((handle, active)) = self.active_mut(object, generation).filter(|(_, active)| active.filling) else {
            return;
        };
        let reserved = std::mem::take(&mut active.reserved);
        active.filling = false;
        self.reserved = self.reserved.saturating_sub(reserved);
        self.fills -= 1;
        self.calm(handle);
    }

    /// `held` bytes of the partial object are on the disk now; the reservation of a fill shrinks or grows accordingly,
    /// so that the sum stays.
    pub(in crate::cache) fn set_held(&mut self, object: &ObjectId, generation: u64, held: u64) {
        let Some(handle) = self.handle(object).filter(|handle| !self.slots[at(*handle)].whole) else {
            return;
        };
        let size = self.slots[at(handle)].size;
        let Some((_, active)) = self.active_mut(object, generation) else {
            return;
        };
        let before = std::mem::replace(&mut active.held, held);
        let reserved = active.reserved;
        if active.filling {
            active.reserved = size.saturating_sub(held);
        }
        let left = active.reserved;
        self.used = self.used.saturating_sub(before) + held;
        self.reserved = self.reserved.saturating_sub(reserved) + left;
    }

    /// For tests: the account recomputed from its parts.
    #[cfg(test)]
    pub(in crate::cache) fn audit(&self) -> (u64, u64, u64) {
        let handles = (0..self.handles_end()).filter(|handle| self.slots[at(*handle)].is_here);
        let (mut held, mut side, mut here) = (0, 0, 0);
        for handle in handles {
            let view = self.view(handle);
            held += view.held;
            let beside = view.active.map_or(0, |active| active.side);
            side += if view.whole { side_of(view.size, true) } else { beside };
            here += 1;
            assert!(self.pending.is_some() || self.order.standing(handle).is_some());
        }
        assert_eq!(here, self.len());
        assert_eq!(here + self.vacant.len(), self.slots.len());
        let dying: u64 = self.zombies.values().map(|(_, bytes, _)| bytes).sum();
        let beside: u64 = self.zombies.values().map(|(_, _, side)| side).sum();
        let fills = self.active.values().filter(|active| active.filling).count();
        assert_eq!(fills as u64, self.fills);
        let reserved = self.active.values().map(|active| active.reserved).sum();
        (held + dying, reserved, side + beside)
    }
}
