//! What the cache knows of its objects: sizes, order of expiry, leases, and the account of space.
//!
//! Pure data without I/O. Invariant: after every method `used + reserved + side` is what objects on disk, promises and
//! the files beside them add up to, and [`Table::reserve`] never lets it grow above the limit.
//!
//! Key decision: millions of objects lie idle and a few are open. An idle whole object costs a [`Slot`] of 56 bytes, some
//! 8 in the index, and what its policy needs; whatever is open, partial or half verified is in [`Active`] besides.

mod order;
mod space;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use instantmirror_core::ObjectId;
use instantmirror_core::expiry::{
    Candidate, ExpiryPolicy as _, Handle, PolicyKind, Remembered, SnapshotOrder, Standing, fingerprint,
};
use instantmirror_core::traits::{CacheEvent, CacheLimits, CacheObserver, PinSet};

use super::partial::Partial;
use super::proof::{Proof, Verified};

pub(super) use space::side_of;
pub(super) use space::{Room, Shortage};

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
    held: Option<PinSet>,
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
            held: Some(PinSet::default()),
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
}

impl Active {
    fn verified_bytes(&self) -> u64 {
        let verified = self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        verified.len()
    }
}
