//! What the cache knows of its objects: sizes, order of use, leases, and the account of space.
//!
//! Pure data without I/O. Invariant: after every method `used + reserved` is what objects on disk and promises add up
//! to, and [`Table::reserve`] never lets it grow above the limit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Weak;

use instantmirror_core::ObjectId;

use super::partial::Partial;
use super::proof::{Proof, Verified};

/// The hard limits of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes of content, whole and partial; `None`: as much as the disk holds.
    pub max_bytes: Option<u64>,
    /// Whole and partial objects; `None`: any number.
    pub max_objects: Option<u64>,
    /// Free bytes that the file system is left with whatever the other limits say.
    pub keep_free_bytes: u64,
}

/// One object that is held.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) size: u64,
    /// Bytes of it that are counted as used.
    pub(super) held: u64,
    /// Bytes promised to its fill and not yet counted as used.
    pub(super) reserved: u64,
    pub(super) whole: bool,
    /// Known to be right and durable or verified by this process.
    pub(super) trusted: bool,
    /// Verified by this process.
    pub(super) checked: bool,
    /// Time of the last change of the file, to notice one that was replaced.
    pub(super) mtime_ns: i64,
    pub(super) filling: bool,
    pub(super) partial: Weak<Partial>,
    /// How a whole object that is not trusted is read, while it is open.
    pub(super) proof: Weak<Proof>,
    /// What of it was verified so far.
    pub(super) verified: Verified,
    leases: u32,
    last_use: u64,
    generation: u64,
}

impl Slot {
    /// An object of this size of which nothing is here yet.
    pub(super) fn of_size(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    pub(super) fn last_use(&self) -> u64 {
        self.last_use
    }
}

/// Why a reservation was not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Larger than the whole cache.
    Never,
    /// Something has to go first.
    Now,
}

/// Objects that are not to be given up, by the first 8 bytes of their ids: 24 MB for 3 million. Two that share these
/// are taken for each other, which keeps one too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldObjects(Vec<u64>);

impl HeldObjects {
    fn key(object: &ObjectId) -> u64 {
        let mut bytes = object.as_bytes().iter();
        (0..8).fold(0, |key, _| {
            key << 8 | u64::from(bytes.next().copied().unwrap_or_default())
        })
    }

    fn contains(&self, object: &ObjectId) -> bool {
        self.0.binary_search(&Self::key(object)).is_ok()
    }
}

impl FromIterator<ObjectId> for HeldObjects {
    fn from_iter<I: IntoIterator<Item = ObjectId>>(objects: I) -> Self {
        let mut keys: Vec<u64> = objects.into_iter().map(|object| Self::key(&object)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.shrink_to_fit();
        Self(keys)
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) limits: CacheLimits,
    slots: HashMap<ObjectId, Slot>,
    /// Those that may be given up, by their last use.
    order: BTreeMap<u64, ObjectId>,
    /// Objects given up while open: leases and bytes, by generation.
    zombies: HashMap<u64, (u32, u64)>,
    pinned: HashSet<ObjectId>,
    /// What tags hold; `None` while nobody knows, and nothing may be given up.
    held: Option<HeldObjects>,
    used: u64,
    reserved: u64,
    clock: u64,
    generations: u64,
    pub(super) evicted: u64,
    pub(super) damaged: u64,
}

impl Table {
    pub(super) fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            held: Some(HeldObjects::default()),
            ..Self::default()
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&self, object: &ObjectId) -> Option<&Slot> {
        self.slots.get(object)
    }

    pub(super) fn slot_mut(&mut self, object: &ObjectId) -> Option<&mut Slot> {
        self.slots.get_mut(object)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectId, &Slot)> {
        self.slots.iter()
    }

    /// Adds an object unless it is known. `last_use` from an earlier life, else it counts as just used.
    pub(super) fn insert(&mut self, object: ObjectId, mut slot: Slot, last_use: Option<u64>) {
        if self.slots.contains_key(&object) {
            return;
        }
        self.clock = self.clock.max(last_use.unwrap_or(0)) + 1;
        self.generations += 1;
        slot.generation = self.generations;
        // A tick belongs to one object: a damaged checkpoint may say otherwise.
        slot.last_use = last_use
            .filter(|tick| !self.order.contains_key(tick))
            .unwrap_or(self.clock);
        self.used += slot.held;
        self.slots.insert(object, slot);
        self.queue(&object);
    }

    /// Takes a lease: the object stays until it is released. Counts as a use.
    pub(super) fn lease(&mut self, object: &ObjectId) -> Option<u64> {
        let slot = self.slots.get_mut(object)?;
        self.clock += 1;
        if self.order.get(&slot.last_use) == Some(object) {
            self.order.remove(&slot.last_use);
        }
        slot.last_use = self.clock;
        slot.leases += 1;
        let generation = slot.generation;
        self.queue(object);
        Some(generation)
    }

    /// Puts an object among those that may be given up, or out of them.
    fn queue(&mut self, object: &ObjectId) {
        let pinned = self.is_pinned(object);
        let Some(slot) = self.slots.get_mut(object) else { return };
        match self.order.get(&slot.last_use) {
            Some(queued) if queued == object => {
                if pinned {
                    self.order.remove(&slot.last_use);
                }
                return;
            }
            Some(_) if !pinned => {
                self.clock += 1;
                slot.last_use = self.clock;
            }
            _ => {}
        }
        if !pinned {
            self.order.insert(slot.last_use, *object);
        }
    }

    fn is_pinned(&self, object: &ObjectId) -> bool {
        self.pinned.contains(object) || self.held.as_ref().is_some_and(|held| held.contains(object))
    }

    pub(super) fn pin(&mut self, object: &ObjectId) {
        self.pinned.insert(*object);
        self.queue(object);
    }

    pub(super) fn unpin(&mut self, object: &ObjectId) {
        self.pinned.remove(object);
        self.queue(object);
    }

    /// Holds these instead of those before; with `None` everything.
    pub(super) fn hold(&mut self, held: Option<HeldObjects>) {
        if self.held == held {
            return;
        }
        self.held = held;
        let objects: Vec<ObjectId> = self.slots.keys().copied().collect();
        for object in &objects {
            self.queue(object);
        }
    }

    pub(super) fn release(&mut self, object: &ObjectId, generation: u64) {
        if let Some(slot) = self.slots.get_mut(object).filter(|slot| slot.generation == generation) {
            slot.leases = slot.leases.saturating_sub(1);
        } else if let Some((leases, bytes)) = self.zombies.get_mut(&generation) {
            *leases = leases.saturating_sub(1);
            if *leases == 0 {
                self.used = self.used.saturating_sub(*bytes);
                self.zombies.remove(&generation);
            }
        }
    }

    /// Whether this is still the object that the lease was taken on.
    pub(super) fn is_current(&self, object: &ObjectId, generation: u64) -> bool {
        self.slots.get(object).is_some_and(|slot| slot.generation == generation)
    }

    /// Forgets an object. The bytes that are returned stay counted until [`gone`](Self::gone) is called once the file
    /// is away; those of an open object until its last lease ends (then 0 is returned).
    pub(super) fn take_out(&mut self, object: &ObjectId) -> u64 {
        let Some(slot) = self.slots.remove(object) else {
            return 0;
        };
        if self.order.get(&slot.last_use) == Some(object) {
            self.order.remove(&slot.last_use);
        }
        self.reserved = self.reserved.saturating_sub(slot.reserved);
        if slot.leases == 0 {
            return slot.held;
        }
        self.zombies.insert(slot.generation, (slot.leases, slot.held));
        0
    }

    /// The object's file belongs to somebody else from now on: quarantine.
    pub(super) fn disown(&mut self, object: &ObjectId) {
        if let Some(slot) = self.slots.get_mut(object) {
            self.used = self.used.saturating_sub(slot.held);
            slot.held = 0;
        }
    }

    /// Bytes have left the disk.
    pub(super) fn gone(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// Bytes are on the disk that belong to no object: quarantine.
    pub(super) fn count(&mut self, bytes: u64) {
        self.used += bytes;
    }

    /// Promises what `object` still lacks, if everything fits. `free_bytes` is what the file system has.
    pub(super) fn reserve(&mut self, object: &ObjectId, free_bytes: u64) -> Result<(), Shortage> {
        let Some(slot) = self.slots.get(object) else {
            return Ok(());
        };
        let need = slot.size.saturating_sub(slot.held + slot.reserved);
        let max_bytes = self.limits.max_bytes.unwrap_or(u64::MAX);
        if slot.size > max_bytes || self.limits.max_objects == Some(0) {
            return Err(Shortage::Never);
        }
        let committed = self.used.saturating_add(self.reserved).saturating_add(need);
        let on_disk = self
            .limits
            .keep_free_bytes
            .saturating_add(self.reserved)
            .saturating_add(need);
        if committed > max_bytes || on_disk > free_bytes || self.too_many() {
            return Err(Shortage::Now);
        }
        self.reserved += need;
        if let Some(slot) = self.slots.get_mut(object) {
            slot.reserved += need;
        }
        Ok(())
    }

    /// Whether what is there already breaks a limit, as after the limit was lowered.
    pub(super) fn is_over(&self) -> bool {
        self.used + self.reserved > self.limits.max_bytes.unwrap_or(u64::MAX) || self.too_many()
    }

    fn too_many(&self) -> bool {
        self.slots.len() as u64 > self.limits.max_objects.unwrap_or(u64::MAX)
    }

    /// `held` bytes of the object are on the disk now; the reservation of a fill shrinks or grows accordingly, so that
    /// the sum stays.
    pub(super) fn set_held(&mut self, object: &ObjectId, generation: u64, held: u64) {
        let Some(slot) = self.slots.get_mut(object).filter(|slot| slot.generation == generation) else {
            return;
        };
        let total = self.used.saturating_sub(slot.held);
        self.used = total + held;
        if slot.filling {
            let left = slot.size.saturating_sub(held);
            self.reserved = self.reserved.saturating_sub(slot.reserved) + left;
            slot.reserved = left;
        }
        slot.held = held;
    }

    /// Every group of the object was verified by this process.
    pub(super) fn set_checked(&mut self, object: &ObjectId, generation: u64) {
        if let Some(slot) = self.slots.get_mut(object).filter(|slot| slot.generation == generation) {
            (slot.checked, slot.trusted) = (true, true);
        }
    }

    /// Ends a fill: what it did not use is free again.
    pub(super) fn end_fill(&mut self, object: &ObjectId, generation: u64) {
        let Some(slot) = self.slots.get_mut(object).filter(|slot| slot.generation == generation) else {
            return;
        };
        self.reserved = self.reserved.saturating_sub(slot.reserved);
        slot.reserved = 0;
        slot.filling = false;
    }

    /// The least recently used object that may go.
    pub(super) fn victim(&self) -> Option<ObjectId> {
        let idle = |object: &&ObjectId| {
            let slot = self.slots.get(*object);
            slot.is_some_and(|slot| slot.leases == 0 && !slot.filling)
        };
        self.held.as_ref()?;
        self.order.values().find(idle).copied()
    }

    /// For tests: the account recomputed from its parts.
    #[cfg(test)]
    pub(super) fn audit(&self) -> (u64, u64) {
        let held: u64 = self.slots.values().map(|slot| slot.held).sum();
        let dying: u64 = self.zombies.values().map(|(_, bytes)| bytes).sum();
        (held + dying, self.slots.values().map(|slot| slot.reserved).sum())
    }
}
