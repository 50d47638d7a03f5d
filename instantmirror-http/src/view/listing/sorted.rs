//! How many entries sorted pages may hold.
//!
//! A sorted page holds its entries until the last of them is sent, which is the client's matter. So all such pages of
//! this process have a budget; where it is used up, pages come in name order, which holds nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Most entries that all sorted pages hold at a time: some 40 MB.
pub const SORTED_ENTRIES_MAX: usize = 200_000;

/// So many are taken from the budget at a time.
const STEP: usize = 100;

static ALL: SortedBudget = SortedBudget::new(SORTED_ENTRIES_MAX);

/// Entries that may be held at a time.
#[derive(Debug)]
pub(super) struct SortedBudget {
    taken: AtomicUsize,
    max: usize,
}

impl SortedBudget {
    pub(super) const fn new(max: usize) -> Self {
        let taken = AtomicUsize::new(0);
        Self { taken, max }
    }
}

/// What one page has of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct SortedShare {
    budget: &'static SortedBudget,
    entries: usize,
    taken: usize,
}

impl Default for SortedShare {
    fn default() -> Self {
        Self::of(&ALL)
    }
}

impl SortedShare {
    pub(super) fn of(budget: &'static SortedBudget) -> Self {
        let (entries, taken) = (0, 0);
        Self { budget, entries, taken }
    }

    /// Takes room for one more entry. False: there is none.
    pub(super) fn grow(&mut self) -> bool {
        if self.entries == self.taken {
            let add = |taken: usize| taken.checked_add(STEP).filter(|sum| *sum <= self.budget.max);
            let added = self
                .budget
                .taken
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            if added.is_err() {
                return false;
            }
            self.taken += STEP;
        }
        self.entries += 1;
        true
    }
}

impl Drop for SortedShare {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.taken, Ordering::Relaxed);
    }
}
