//! What the cache knows of its objects: sizes, order of expiry, leases, and the account of space.
//!
//! Pure data without I/O. Invariant: after every method `used + reserved + side` is what objects on disk, promises and
//! the files beside them add up to, and [`Table::reserve`] never lets it grow above the limit.
//!
//! Key decision: millions of objects lie idle and a few are open. An idle whole object costs a [`Slot`] of 56 bytes, some
//! 8 in the index, and what its policy needs; whatever is open, partial or half verified is in [`Active`] besides.

mod order;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use instantmirror_core::ObjectId;
use instantmirror_core::expiry::{
    Candidate, ExpiryPolicy as _, Handle, PolicyKind, Remembered, SnapshotOrder, Standing, fingerprint,
};
use instantmirror_core::outboard::{Outboard, group_count};
use instantmirror_core::traits::{CacheEvent, CacheObserver};

use super::held::HeldObjects;
use super::layout::MAP_HEADER;
use super::partial::Partial;
use super::proof::{Proof, Verified};

/// The hard limits of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes of content, whole and partial, and of the files beside it; `None`: as much as the disk holds.
    pub max_bytes: Option<u64>,
    /// Whole and partial objects; `None`: any number.
    pub max_objects: Option<u64>,
    /// Free bytes that the file system is left with whatever the other limits say.
    pub keep_free_bytes: u64,
}

/// Objects, and bytes in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the file system has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// Files that a fill may need: content, map, the next map, outboard.
const FILES_OF_A_FILL: u64 = 4;
/// So much more than its length a file may take of the disk, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// One object that is held.
#[derive(Debug)]
struct Slot {
    object: ObjectId,
    size: u64,
    /// Time of the last change of the file, to notice one that was replaced.
    mtime_ns: i64,
    is_here: bool,
    whole: bool,
    /// Known to be right and durable or verified by this process.
    trusted: bool,
    /// Verified by this process.
    checked: bool,
    /// Has changed since it was last written down.
    dirty: bool,
}

/// What is known of an object that is partial, open, or verified in part.
#[derive(Debug, Default)]
struct Active {
    /// Bytes of a partial object that are counted as used.
    held: u64,
    /// Bytes promised to its fill and not yet counted as used.
    reserved: u64,
    /// Bytes of the files beside a partial object, once they are counted.
    side: u64,
    filling: bool,
    partial: Weak<Partial>,
    /// How a whole object that is not trusted is read, while it is open.
    proof: Weak<Proof>,
    /// What of it was verified so far.
    verified: Verified,
    leases: u32,
    generation: u64,
}

/// What somebody else may know of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) size: u64,
    /// Bytes of it that are counted as used.
    pub(super) held: u64,
    pub(super) whole: bool,
    pub(super) trusted: bool,
    pub(super) checked: bool,
    pub(super) filling: bool,
    active: Option<&'a Active>,
}

impl View<'_> {
    /// The partial object, if somebody has it open.
    pub(super) fn partial(&self) -> Option<Arc<Partial>> {
        self.active?.partial.upgrade()
    }

    /// How it is verified, if somebody reads it.
    pub(super) fn proof(&self) -> Option<Arc<Proof>> {
        self.active?.proof.upgrade()
    }
}

/// An object that was found on the disk, or is to come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) size: u64,
    /// Whether files of it are on the disk.
    pub(super) on_disk: bool,
    /// Bytes of a partial object that may be there.
    pub(super) held: u64,
    pub(super) whole: bool,
    pub(super) trusted: bool,
    pub(super) mtime_ns: i64,
}

/// What a checkpoint says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) remembered: Remembered,
}

/// Why a reservation was not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Larger than the whole cache.
    Never,
    /// Something has to go first.
    Now,
    /// A limit was lowered, and what is there goes step by step.
    Shrinking,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) limits: CacheLimits,
    /// Whether somebody is making room for a lowered limit.
    pub(super) shrinking: bool,
    slots: Vec<Slot>,
    vacant: Vec<Handle>,
    index: HashTable<Handle>,
    active: HashMap<Handle, Active>,
    order: SnapshotOrder,
    /// Found by the listing, not yet in the order. `None` once all are.
    pending: Option<Vec<(Handle, Remembered)>>,
    /// In the order before those.
    early: Vec<Handle>,
    /// Objects given up while open: leases, bytes, bytes beside them; by generation.
    zombies: HashMap<u64, (u32, u64, u64)>,
    pinned: HashSet<ObjectId>,
    /// What tags hold; `None` while nobody knows, and nothing may be given up.
    held: Option<HeldObjects>,
    /// Standings found so far by a walk that is under way, by handle.
    marks: Option<Vec<u8>>,
    dirty: Vec<Handle>,
    used: u64,
    reserved: u64,
    side: u64,
    fills: u64,
    generations: u64,
    pub(super) evicted: u64,
    pub(super) damaged: u64,
    pub(super) observer: Option<Arc<dyn CacheObserver>>,
}

/// Bytes of the files beside an object.
fn side_of(size: u64, whole: bool) -> u64 {
    let outboard = Outboard::len_for(size);
    // What has one group is either here or not: it needs no map.
    if whole || group_count(size) <= 1 {
        return outboard;
    }
    // The map is replaced by writing another one first.
    outboard + 2 * (MAP_HEADER as u64 + group_count(size).div_ceil(8))
}

/// An index into the arrays by handle.
fn at(handle: Handle) -> usize {
    usize::try_from(handle).unwrap_or(usize::MAX)
}

impl Table {
    pub(super) fn new(limits: CacheLimits, policy: PolicyKind) -> Self {
        Self {
            limits,
            shrinking: false,
            slots: Vec::new(),
            vacant: Vec::new(),
            index: HashTable::new(),
            active: HashMap::new(),
            order: SnapshotOrder::of_kind(policy),
            pending: Some(Vec::new()),
            early: Vec::new(),
            zombies: HashMap::new(),
            pinned: HashSet::new(),
            held: Some(HeldObjects::default()),
            marks: None,
            dirty: Vec::new(),
            used: 0,
            reserved: 0,
            side: 0,
            fills: 0,
            generations: 0,
            evicted: 0,
            damaged: 0,
            observer: None,
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    pub(super) fn side(&self) -> u64 {
        self.side
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn handle(&self, object: &ObjectId) -> Option<Handle> {
        let is_it = |handle: &Handle| self.slots[at(*handle)].object == *object;
        self.index.find(fingerprint(object), is_it).copied()
    }

    fn candidate(&self, handle: Handle) -> Candidate {
        let slot = &self.slots[at(handle)];
        Candidate::new(&slot.object, slot.size)
    }

    fn view(&self, handle: Handle) -> View<'_> {
        let (slot, active) = (&self.slots[at(handle)], self.active.get(&handle));
        View {
            size: slot.size,
            held: if slot.whole {
                slot.size
            } else {
                active.map_or(0, |active| active.held)
            },
            whole: slot.whole,
            trusted: slot.trusted,
            checked: slot.checked,
            filling: active.is_some_and(|active| active.filling),
            active,
        }
    }

    pub(super) fn slot(&self, object: &ObjectId) -> Option<View<'_>> {
        self.handle(object).map(|handle| self.view(handle))
    }

    /// Partial objects that somebody has open.
    pub(super) fn open_partials(&self) -> Vec<Arc<Partial>> {
        let partials = self.active.values().filter_map(|active| active.partial.upgrade());
        partials.collect()
    }

    /// Handles are below this.
    pub(super) fn handles_end(&self) -> Handle {
        Handle::try_from(self.slots.len()).unwrap_or(Handle::MAX)
    }

    /// The whole object in a place of the table.
    pub(super) fn whole_at(&self, handle: Handle) -> Option<(ObjectId, u64)> {
        let slot = self.slots.get(at(handle)).filter(|slot| slot.is_here && slot.whole)?;
        Some((slot.object, slot.size))
    }

    /// Adds an object unless it is known. `recorded` in an earlier life, else it counts as just used.
    pub(super) fn insert(&mut self, object: ObjectId, found: Found, recorded: Option<Remembered>) {
        if self.handle(&object).is_some() {
            return;
        }
        let slot = Slot {
            object,
            size: found.size,
            mtime_ns: found.mtime_ns,
            is_here: true,
            whole: found.whole,
            trusted: found.trusted,
            checked: false,
            dirty: false,
        };
        let handle = match self.vacant.pop() {
            Some(handle) => {
                self.slots[at(handle)] = slot;
                handle
            }
            None => {
                self.slots.push(slot);
                self.handles_end() - 1
            }
        };
        let slots = &self.slots;
        let hash = |handle: &Handle| fingerprint(&slots[at(*handle)].object);
        self.index.insert_unique(fingerprint(&object), handle, hash);
        if found.whole {
            self.used += found.size;
            self.side += side_of(found.size, true);
        } else {
            // What is to come is counted when it is promised.
            let side = if found.on_disk { side_of(found.size, false) } else { 0 };
            self.used += found.held;
            self.side += side;
            let active = self.activate(handle);
            (active.held, active.side) = (found.held, side);
        }
        if let Some(mark) = self.marks.as_mut().and_then(|marks| marks.get_mut(at(handle))) {
            *mark = Standing::Live.code();
        }
        match (recorded, &mut self.pending) {
            (Some(remembered), Some(pending)) => pending.push((handle, remembered)),
            (Some(remembered), None) => {
                let candidate = self.candidate(handle);
                self.order.recall(handle, &candidate, &remembered);
            }
            (None, _) => self.enter(handle),
        }
        self.settle(handle);
    }

    fn activate(&mut self, handle: Handle) -> &mut Active {
        let generations = &mut self.generations;
        self.active.entry(handle).or_insert_with(|| {
            *generations += 1;
            Active {
                generation: *generations,
                ..Active::default()
            }
        })
    }

    /// Forgets of an object what an idle whole one does not need.
    fn calm(&mut self, handle: Handle) {
        let slot = &self.slots[at(handle)];
        let (whole, checked) = (slot.whole, slot.checked);
        let is_idle = self.active.get(&handle).is_some_and(|active| {
            let verified = checked || active.verified_bytes() == 0;
            whole && active.leases == 0 && !active.filling && verified
        });
        if is_idle {
            self.active.remove(&handle);
        }
    }

    fn active_mut(&mut self, object: &ObjectId, generation: u64) -> Option<(Handle, &mut Active)> {
        let handle = self.handle(object)?;
        let active = self.active.get_mut(&handle)?;
        (active.generation == generation).then_some((handle, active))
    }

    /// Takes a lease: the object stays until it is released. Counts as a use. Returns the generation.
    pub(super) fn lease(&mut self, object: &ObjectId) -> Option<u64> {
        let handle = self.handle(object)?;
        self.enter(handle);
        self.settle(handle);
        self.soil(handle);
        Some(self.keep(handle))
    }

    /// As [`lease`](Self::lease), for who looks after the object and does not use it.
    pub(super) fn lease_unused(&mut self, object: &ObjectId) -> Option<u64> {
        self.handle(object).map(|handle| self.keep(handle))
    }

    fn keep(&mut self, handle: Handle) -> u64 {
        let active = self.activate(handle);
        active.leases += 1;
        active.generation
    }

    /// Notes that an object is to be written down.
    fn soil(&mut self, handle: Handle) {
        let slot = &mut self.slots[at(handle)];
        if slot.whole && !slot.dirty {
            slot.dirty = true;
            self.dirty.push(handle);
        }
    }

    /// What has changed since this was last asked.
    pub(super) fn take_dirty(&mut self) -> Vec<Handle> {
        std::mem::take(&mut self.dirty)
    }

    /// What to write down of the object in a place, if it can be trusted after a restart.
    pub(super) fn record_at(&mut self, handle: Handle) -> Option<(ObjectId, Recorded)> {
        let slot = self.slots.get_mut(at(handle)).filter(|slot| slot.is_here)?;
        slot.dirty = false;
        if !slot.whole || !slot.trusted {
            return None;
        }
        let recorded = Recorded {
            size: slot.size,
            mtime_ns: slot.mtime_ns,
            remembered: self.order.remember(handle),
        };
        Some((self.slots[at(handle)].object, recorded))
    }

    pub(super) fn release(&mut self, object: &ObjectId, generation: u64) {
        if let Some((handle, active)) = self.active_mut(object, generation) {
            active.leases = active.leases.saturating_sub(1);
            return self.calm(handle);
        }
        if let Some((leases, bytes, side)) = self.zombies.get_mut(&generation) {
            *leases = leases.saturating_sub(1);
            if *leases == 0 {
                self.used = self.used.saturating_sub(*bytes);
                self.side = self.side.saturating_sub(*side);
                self.zombies.remove(&generation);
            }
        }
    }

    /// Whether this is still the object that the lease was taken on.
    pub(super) fn is_current(&self, object: &ObjectId, generation: u64) -> bool {
        let active = self.handle(object).and_then(|handle| self.active.get(&handle));
        active.is_some_and(|active| active.generation == generation)
    }

    /// Forgets an object that was given up to make room.
    pub(super) fn evict(&mut self, object: &ObjectId) -> u64 {
        if let Some(handle) = self.handle(object) {
            let candidate = self.candidate(handle);
            self.order.evicted(handle, &candidate);
            self.evicted += 1;
        }
        self.take_out(object)
    }

    /// Forgets an object. The bytes that are returned stay counted until [`gone`](Self::gone) is called once the files
    /// are away; those of an open object until its last lease ends (then 0 is returned).
    pub(super) fn take_out(&mut self, object: &ObjectId) -> u64 {
        let Some(handle) = self.handle(object) else { return 0 };
        let View { size, held, whole, .. } = self.view(handle);
        let is_it = |known: &Handle| *known == handle;
        if let Ok(entry) = self.index.find_entry(fingerprint(object), is_it) {
            entry.remove();
        }
        self.order.removed(handle);
        self.tell(CacheEvent::Gone { object: *object });
        let slot = &mut self.slots[at(handle)];
        (slot.is_here, slot.whole, slot.dirty) = (false, false, false);
        self.vacant.push(handle);
        let Some(active) = self.active.remove(&handle) else {
            self.side = self.side.saturating_sub(side_of(size, whole));
            return held;
        };
        let side = if whole { side_of(size, true) } else { active.side };
        self.reserved = self.reserved.saturating_sub(active.reserved);
        self.fills -= u64::from(active.filling);
        if active.leases == 0 {
            self.side = self.side.saturating_sub(side);
            return held;
        }
        self.zombies.insert(active.generation, (active.leases, held, side));
        0
    }

    /// Forgets an object whose file belongs to somebody else from now on: quarantine.
    pub(super) fn disown(&mut self, object: &ObjectId) {
        let held = self.slot(object).map_or(0, |slot| slot.held);
        let generation = self.handle(object).and_then(|handle| self.active.get(&handle));
        let generation = generation.map(|active| active.generation);
        self.take_out(object);
        self.used = self.used.saturating_sub(held);
        let zombie = generation.and_then(|generation| self.zombies.get_mut(&generation));
        if let Some((_, bytes, _)) = zombie {
            *bytes = 0;
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

    /// Promises what `object` still lacks, if everything fits. `room` is what the file system has.
    pub(super) fn reserve(&mut self, object: &ObjectId, room: Room) -> Result<(), Shortage> {
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
    pub(super) fn has_room(&self, more: Capacity, room: Room) -> bool {
        let (garbage, _) = self.order.counts();
        let more = Capacity {
            objects: more.objects.saturating_sub(garbage as u64),
            bytes: more.bytes.saturating_sub(self.order.garbage_bytes()),
        };
        !self.is_short(more, room)
    }

    /// What all limits allow for, of which some is taken.
    pub(super) fn capacity(&self, room: Room) -> Capacity {
        let free = room.bytes.saturating_sub(self.limits.keep_free_bytes);
        let on_disk = self.used.saturating_add(self.side).saturating_add(free);
        let files = (self.len() as u64).saturating_add(room.files);
        Capacity {
            objects: self.limits.max_objects.unwrap_or(u64::MAX).min(files),
            bytes: self.limits.max_bytes.unwrap_or(u64::MAX).min(on_disk),
        }
    }

    /// Whether so much more does not fit beside what is there and what is promised.
    pub(super) fn is_short(&self, more: Capacity, room: Room) -> bool {
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
    pub(super) fn is_over(&self) -> bool {
        self.committed() > self.limits.max_bytes.unwrap_or(u64::MAX) || self.too_many()
    }

    fn too_many(&self) -> bool {
        self.len() as u64 > self.limits.max_objects.unwrap_or(u64::MAX)
    }

    /// Begins a fill of an object that has a slot, under a lease that counts as no use: it came for its first one.
    /// Returns the generation.
    pub(super) fn begin_fill(&mut self, object: &ObjectId) -> Option<u64> {
        let handle = self.handle(object)?;
        let generation = self.keep(handle);
        let (_, active) = self.active_mut(object, generation)?;
        active.filling = true;
        self.fills += 1;
        Some(generation)
    }

    /// Ends a fill: what it did not use is free again.
    pub(super) fn end_fill(&mut self, object: &ObjectId, generation: u64) {
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
    pub(super) fn set_held(&mut self, object: &ObjectId, generation: u64, held: u64) {
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

    /// The partial object turns out to have this size, and is open now.
    pub(super) fn set_partial(&mut self, object: &ObjectId, partial: &Arc<Partial>) {
        let Some(handle) = self.handle(object) else { return };
        self.slots[at(handle)].size = partial.size();
        let side = side_of(partial.size(), false);
        let active = self.activate(handle);
        active.partial = Arc::downgrade(partial);
        let before = std::mem::replace(&mut active.side, side);
        self.side = self.side.saturating_sub(before) + side;
    }

    /// The object that was filled has its name now; `verified`: and it is known to be right.
    pub(super) fn set_whole(&mut self, object: &ObjectId, mtime_ns: i64, verified: bool) {
        let Some(handle) = self.handle(object) else { return };
        let View { size, held, whole, .. } = self.view(handle);
        if whole {
            return;
        }
        let slot = &mut self.slots[at(handle)];
        (slot.whole, slot.trusted, slot.checked, slot.mtime_ns) = (true, verified, verified, mtime_ns);
        self.used = self.used.saturating_sub(held) + size;
        let active = self.activate(handle);
        let (reserved, beside) = (std::mem::take(&mut active.reserved), std::mem::take(&mut active.side));
        self.side = self.side.saturating_sub(beside) + side_of(size, true);
        self.reserved = self.reserved.saturating_sub(reserved);
        self.soil(handle);
        self.tell(CacheEvent::Whole { object: *object, size });
    }

    /// Tells whoever observes.
    pub(super) fn tell(&self, event: CacheEvent) {
        if let Some(observer) = &self.observer {
            observer.changed(event);
        }
    }

    /// Every group of the object was verified by this process.
    pub(super) fn set_checked(&mut self, object: &ObjectId, generation: u64) {
        let current = self.active_mut(object, generation).map(|(handle, _)| handle);
        if let Some(handle) = current {
            let slot = &mut self.slots[at(handle)];
            if !slot.checked || !slot.trusted {
                (slot.checked, slot.trusted) = (true, true);
                self.soil(handle);
            }
        }
    }

    /// What was verified of an object that is open, to add to; and `proof` is how.
    pub(super) fn share_proof(
        &mut self,
        object: &ObjectId,
        generation: u64,
        make: impl FnOnce(Verified) -> Arc<Proof>,
    ) -> Option<Arc<Proof>> {
        let (_, active) = self.active_mut(object, generation)?;
        let proof = make(Arc::clone(&active.verified));
        active.proof = Arc::downgrade(&proof);
        Some(proof)
    }

    /// For tests: the account recomputed from its parts.
    #[cfg(test)]
    pub(super) fn audit(&self) -> (u64, u64, u64) {
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

impl Active {
    fn verified_bytes(&self) -> u64 {
        let verified = self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        verified.len()
    }
}
