//! What is to happen in virtual time, and when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use instantmirror_core::Moment;

/// What is to happen, the earliest first, and in the order of filing where two are at the same time.
#[derive(Debug)]
pub(crate) struct Agenda<What> {
    filed: u64,
    /// Where in `held` lies what happens then: the heap moves its entries about, so they are small.
    heap: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    held: Vec<Option<What>>,
    free: Vec<usize>,
    /// Most that happens does so after the same latency, and is filed in its order already.
    soon: VecDeque<(Moment, u64, What)>,
}

impl<What> Agenda<What> {
    pub(crate) fn new() -> Self {
        Self {
            filed: 0,
            heap: BinaryHeap::new(),
            held: Vec::new(),
            free: Vec::new(),
            soon: VecDeque::new(),
        }
    }

    pub(crate) fn at(&mut self, at: Moment, what: What) {
        self.filed += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() - 1
        });
        self.held[place] = Some(what);
        self.heap.push(Reverse((at, self.filed, place)));
    }

    /// Like `at`, of what never happens before anything that was filed this way.
    pub(crate) fn soon(&mut self, at: Moment, what: What) {
        self.filed += 1;
        self.soon.push_back((at, self.filed, what));
    }

    pub(crate) fn next(&mut self) -> Option<(Moment, What)> {
        let is_soon = match (self.soon.front(), self.heap.peek()) {
            (Some((at, order, _)), Some(Reverse((later, filed, _)))) => (at, order) < (later, filed),
            (soon, _) => soon.is_some(),
        };
        if is_soon {
            return self.soon.pop_front().map(|(at, _, what)| (at, what));
        }
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        self.held[place].take().map(|what| (at, what))
    }
}
