//! In which order objects go: when they are used, pinned, found by the listing, or judged by snapshots.

use std::collections::HashSet;

use instantmirror_core::ObjectId;
use instantmirror_core::expiry::{ExpiryPolicy as _, Handle, Standing};
use instantmirror_core::traits::PinSet;

use super::{Table, at};

impl Table {
    /// How many objects are garbage, and how many old.
    pub(in crate::cache) fn standings(&self) -> (usize, usize) {
        self.order.counts()
    }

    /// Puts an object in order as just used.
    pub(super) fn enter(&mut self, handle: Handle) {
        if self.order.standing(handle).is_some() {
            return self.order.used(handle);
        }
        let candidate = self.candidate(handle);
        self.order.insert(handle, &candidate);
        if self.pending.is_some() {
            self.early.push(handle);
        }
    }

    /// All that the listing finds has been inserted: puts it in order, behind what was used meanwhile.
    pub(in crate::cache) fn end_listing(&mut self) {
        let Some(mut pending) = self.pending.take() else { return };
        let mut early: Vec<(u64, Handle)> = Vec::new();
        for handle in std::mem::take(&mut self.early) {
            if self.order.standing(handle).is_some() {
                early.push((self.order.remember(handle).last_use, handle));
                self.order.removed(handle);
            }
        }
        early.sort_unstable();
        pending.sort_unstable_by_key(|(_, remembered)| remembered.last_use);
        let is_early: HashSet<Handle> = early.iter().map(|(_, handle)| *handle).collect();
        for (handle, remembered) in &pending {
            if self.slots[at(*handle)].is_here && !is_early.contains(handle) {
                let candidate = self.candidate(*handle);
                self.order.recall(*handle, &candidate, remembered);
                self.settle(*handle);
            }
        }
        for (_, handle) in early {
            let candidate = self.candidate(handle);
            self.order.insert(handle, &candidate);
            self.settle(handle);
        }
    }

    /// Uses are numbered on from here: what an earlier life had reached.
    pub(in crate::cache) fn advance_clock(&mut self, last_use: u64) {
        self.order.advance_clock(last_use);
    }

    /// Keeps what is pinned out of the order, and puts what was pinned back.
    pub(super) fn settle(&mut self, handle: Handle) {
        let Some(standing) = self.order.standing(handle) else {
            return;
        };
        let pinned = self.is_pinned(&self.slots[at(handle)].object);
        let next = match standing {
            Standing::Kept if !pinned => Standing::Live,
            _ if pinned => Standing::Kept,
            other => other,
        };
        if next != standing {
            let candidate = self.candidate(handle);
            self.order.set_standing(handle, next, &candidate);
        }
    }

    pub(super) fn is_pinned(&self, object: &ObjectId) -> bool {
        self.pinned.contains(object) || self.held.as_ref().is_some_and(|held| held.contains(object))
    }

    pub(in crate::cache) fn pin(&mut self, object: &ObjectId) {
        self.pinned.insert(*object);
        if let Some(handle) = self.handle(object) {
            self.settle(handle);
        }
    }

    pub(in crate::cache) fn unpin(&mut self, object: &ObjectId) {
        self.pinned.remove(object);
        if let Some(handle) = self.handle(object) {
            self.settle(handle);
        }
    }

    /// Holds these instead of those before; with `None` everything.
    pub(in crate::cache) fn hold(&mut self, held: Option<PinSet>) {
        if self.held == held {
            return;
        }
        self.held = held;
        let here = (0..self.handles_end()).filter(|handle| self.slots[at(*handle)].is_here);
        let mut kept: Vec<Handle> = here.collect();
        // What is not kept any longer comes back in the order in which it was used.
        kept.sort_by_cached_key(|handle| self.order.remember(*handle).last_use);
        for handle in kept {
            self.settle(handle);
        }
    }

    /// Begins to note what snapshots say of the objects; what comes meanwhile is live.
    pub(in crate::cache) fn begin_marks(&mut self) {
        self.marks = Some(vec![Standing::Garbage.code(); self.slots.len()]);
    }

    pub(in crate::cache) fn end_marks(&mut self) -> Option<Vec<u8>> {
        self.marks.take()
    }

    /// Notes what a snapshot says of an object, unless another one has said better.
    pub(in crate::cache) fn mark(&mut self, object: &ObjectId, standing: Standing) {
        let Some(handle) = self.handle(object) else { return };
        if let Some(mark) = self.marks.as_mut().and_then(|marks| marks.get_mut(at(handle))) {
            *mark = (*mark).max(standing.code());
        }
    }

    /// Gives the objects in some places the standing that was noted for them.
    pub(in crate::cache) fn apply_marks(&mut self, from: Handle, marks: &[u8]) {
        for (handle, mark) in (from..).zip(marks) {
            let is_here = self.slots.get(at(handle)).is_some_and(|slot| slot.is_here);
            let standing = self.order.standing(handle).filter(|_| is_here);
            let next = Standing::from_code(*mark);
            if standing.is_some_and(|standing| standing != Standing::Kept && standing != next) {
                let candidate = self.candidate(handle);
                self.order.set_standing(handle, next, &candidate);
            }
        }
    }

    /// Whether nothing is given up, since it is not known what tags keep.
    pub(in crate::cache) fn holds_everything(&self) -> bool {
        self.held.is_none()
    }

    /// The object in a place of the table, if it is garbage and nobody fills it.
    pub(in crate::cache) fn garbage_at(&self, handle: Handle) -> Option<ObjectId> {
        self.held.as_ref()?;
        let slot = self.slots.get(at(handle)).filter(|slot| slot.is_here)?;
        let filling = self.active.get(&handle).is_some_and(|active| active.filling);
        (self.order.standing(handle) == Some(Standing::Garbage) && !filling).then_some(slot.object)
    }

    /// The object that goes next.
    pub(in crate::cache) fn victim(&mut self) -> Option<ObjectId> {
        self.held.as_ref()?;
        let active = &self.active;
        let mut is_idle = |handle: Handle| {
            let active = active.get(&handle);
            active.is_none_or(|active| active.leases == 0 && !active.filling)
        };
        let victim = self.order.victim(&mut is_idle)?;
        Some(self.slots[at(victim)].object)
    }
}
