//! GDSF and LFUDA: each object has a key, the lowest key goes first, and the key of what went last is the age from which
//! new keys are counted. Without that age, what was popular once would stay for ever.

use super::{Candidate, ExpiryPolicy, Handle, at};

/// In the place of a position: not here.
const ABSENT: u32 = u32::MAX;
/// Weight of one use of an object of 1 KiB, so that keys of large objects do not drown in rounding.
const GDSF_SCALE: f64 = 1024.0;

#[derive(Debug, Clone, Copy)]
struct Item {
    key: f64,
    /// Where it is in the heap.
    position: u32,
    uses: u32,
    kib: u32,
}

const NOBODY: Item = Item {
    key: 0.0,
    position: ABSENT,
    uses: 0,
    kib: 0,
};

/// Greedy dual size with frequency ([`gdsf`](Self::gdsf)) or least frequently used with dynamic aging
/// ([`lfuda`](Self::lfuda)).
#[derive(Debug)]
pub struct Keyed {
    by_size: bool,
    age: f64,
    items: Vec<Item>,
    /// Binary heap, the lowest key on top.
    heap: Vec<Handle>,
}

impl Keyed {
    /// Uses divided by size: many small objects stay rather than a few large ones. Best for the share of requests that
    /// are hits, worst for that of bytes.
    #[must_use]
    pub fn gdsf() -> Self {
        Self::with(true)
    }

    /// Uses alone, whatever the size.
    #[must_use]
    pub fn lfuda() -> Self {
        Self::with(false)
    }

    fn with(by_size: bool) -> Self {
        Self {
            by_size,
            age: 0.0,
            items: Vec::new(),
            heap: Vec::new(),
        }
    }

    fn item(&self, handle: Handle) -> Item {
        self.items.get(at(handle)).copied().unwrap_or(NOBODY)
    }

    fn contains(&self, handle: Handle) -> bool {
        self.item(handle).position != ABSENT
    }

    fn worth(&self, item: &Item) -> f64 {
        let uses = f64::from(item.uses);
        if self.by_size {
            uses * GDSF_SCALE / f64::from(item.kib.max(1))
        } else {
            uses
        }
    }

    /// Puts an object where its key belongs, counted from the present age.
    fn renew(&mut self, handle: Handle) {
        let key = self.age + self.worth(&self.item(handle));
        self.set_key(handle, key);
    }

    fn set_key(&mut self, handle: Handle, key: f64) {
        let Some(item) = self.items.get_mut(at(handle)) else {
            return;
        };
        item.key = key;
        let position = at(item.position);
        self.sift_up(position);
        let position = at(self.item(handle).position);
        self.sift_down(position);
    }

    fn key_at(&self, position: usize) -> f64 {
        self.heap
            .get(position)
            .map_or(f64::INFINITY, |&handle| self.item(handle).key)
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for position in [one, other] {
            let handle = self.heap[position];
            self.items[at(handle)].position = u32::try_from(position).unwrap_or(ABSENT);
        }
    }

    fn sift_up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.key_at(parent) <= self.key_at(position) {
                return;
            }
            self.swap(parent, position);
            position = parent;
        }
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let (left, right) = (2 * position + 1, 2 * position + 2);
            let child = if self.key_at(right) < self.key_at(left) {
                right
            } else {
                left
            };
            if child >= self.heap.len() || self.key_at(position) <= self.key_at(child) {
                return;
            }
            self.swap(position, child);
            position = child;
        }
    }

    fn add(&mut self, handle: Handle, candidate: &Candidate, uses: u32, key: Option<f64>) {
        if self.contains(handle) {
            return self.used(handle);
        }
        if self.items.len() <= at(handle) {
            self.items.resize(at(handle) + 1, NOBODY);
        }
        let mut item = Item {
            key: 0.0,
            position: u32::try_from(self.heap.len()).unwrap_or(ABSENT),
            uses,
            kib: candidate.kib(),
        };
        item.key = key.unwrap_or_else(|| self.age + self.worth(&item));
        self.items[at(handle)] = item;
        self.heap.push(handle);
        self.sift_up(self.heap.len() - 1);
    }
}

impl ExpiryPolicy for Keyed {
    fn insert(&mut self, handle: Handle, candidate: &Candidate) {
        self.add(handle, candidate, 1, None);
    }

    fn used(&mut self, handle: Handle) {
        if self.contains(handle) {
            let item = &mut self.items[at(handle)];
            item.uses = item.uses.saturating_add(1);
            self.renew(handle);
        }
    }

    fn victim(&mut self, may_go: &mut dyn FnMut(Handle) -> bool) -> Option<Handle> {
        // Those in use are put behind everybody while we look, and back to where a use puts them afterwards.
        let mut refused = Vec::new();
        let found = loop {
            match self.heap.first().copied() {
                Some(handle) if refused.len() < self.heap.len() => {
                    if may_go(handle) {
                        break Some(handle);
                    }
                    refused.push(handle);
                    self.set_key(handle, f64::INFINITY);
                }
                _ => break None,
            }
        };
        for handle in refused {
            self.renew(handle);
        }
        found
    }

    fn evicted(&mut self, handle: Handle, _: &Candidate) {
        if self.contains(handle) {
            self.age = self.age.max(self.item(handle).key);
        }
        self.removed(handle);
    }

    fn removed(&mut self, handle: Handle) {
        if !self.contains(handle) {
            return;
        }
        let position = at(self.item(handle).position);
        let last = self.heap.len() - 1;
        self.swap(position, last);
        self.heap.pop();
        self.items[at(handle)] = NOBODY;
        if position < last {
            self.sift_up(position);
            self.sift_down(position);
        }
    }

    /// The key above the age, as 32 bits of floating point, and the uses.
    fn memo(&self, handle: Handle) -> u64 {
        let item = self.item(handle);
        #[allow(
            clippy::cast_possible_truncation,
            reason = "an order that is right in 7 digits is right enough"
        )]
        let above = (item.key - self.age) as f32;
        u64::from(above.to_bits()) << 32 | u64::from(item.uses)
    }

    fn restore(&mut self, handle: Handle, candidate: &Candidate, memo: u64) {
        let uses = u32::try_from(memo & u64::from(u32::MAX)).unwrap_or(1).max(1);
        let above = f32::from_bits(u32::try_from(memo >> 32).unwrap_or(0));
        let known = (above.is_finite() && above > 0.0).then(|| self.age + f64::from(above));
        self.add(handle, candidate, uses, known);
    }

    fn len(&self) -> usize {
        self.heap.len()
    }
}
