//! [`Interrupts`]: which waiting request is to be woken when the kernel interrupts it.
//!
//! Only requests that wait are in the table, so those that are answered at once cost nothing. Another thread may see the INTERRUPT
//! before the request has begun to wait: such numbers are kept, a bounded number of them; numbers are never used twice, so what
//! stays behind does no harm.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many interrupts are kept of requests that do not wait (yet). Beyond, the oldest is dropped: its reader then ends as late as
/// its read does.
const EARLY_MAX: usize = 1024;

type Wake = Box<dyn FnOnce() + Send>;

/// The table.
#[derive(Default)]
pub(super) struct Interrupts(Mutex<Table>);

#[derive(Default)]
struct Table {
    waiting: HashMap<u64, Vec<Wake>>,
    early: VecDeque<u64>,
    /// The mount is gone: nothing needs to wait any more.
    is_ended: bool,
}

impl Interrupts {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is complete before anything that can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `wake` when request `unique` is interrupted, at once if it was already.
    pub(super) fn wait(&self, unique: u64, wake: Wake) {
        let mut table = self.table();
        let early = table.early.iter().position(|number| *number == unique);
        if early.is_none() && !table.is_ended {
            table.waiting.entry(unique).or_default().push(wake);
            return;
        }
        // It stays among the early ones: there may be a second one to wake.
        drop(table);
        wake();
    }

    /// Request `unique` is interrupted.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut table = self.table();
        let wakes = table.waiting.remove(&unique);
        if table.early.len() == EARLY_MAX {
            table.early.pop_front();
        }
        table.early.push_back(unique);
        drop(table);
        for wake in wakes.into_iter().flatten() {
            wake();
        }
    }

    /// Request `unique` is answered.
    pub(super) fn forget(&self, unique: u64) {
        self.table().waiting.remove(&unique);
    }

    /// Nothing is answered any more: wakes all.
    pub(super) fn end(&self) {
        let mut table = self.table();
        table.is_ended = true;
        let waiting = std::mem::take(&mut table.waiting);
        drop(table);
        for wake in waiting.into_values().flatten() {
            wake();
        }
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.table().waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is woken.
    fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Wake) {
        let count = Arc::new(AtomicUsize::new(0));
        let own = Arc::clone(&count);
        let wake = move || -> Wake {
            let own = Arc::clone(&own);
            Box::new(move || {
                own.fetch_add(1, Ordering::SeqCst);
            })
        };
        (count, wake)
    }

    #[test]
    fn who_waits_is_woken_once() {
        let (count, wake) = counter();
        let interrupts = Interrupts::default();
        interrupts.wait(1, wake());
        interrupts.wait(2, wake());
        interrupts.interrupt(1);
        interrupts.interrupt(1);
        assert_eq!((count.load(Ordering::SeqCst), interrupts.waiting()), (1, 1));
    }

    #[test]
    fn an_interrupt_that_comes_first_is_kept() {
        let (count, wake) = counter();
        let interrupts = Interrupts::default();
        interrupts.interrupt(7);
        interrupts.wait(8, wake());
        assert_eq!(count.load(Ordering::SeqCst), 0);
        interrupts.wait(7, wake());
        interrupts.wait(7, wake());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_answered_is_not_woken_and_the_table_is_bounded() {
        let (count, wake) = counter();
        let interrupts = Interrupts::default();
        interrupts.wait(1, wake());
        interrupts.forget(1);
        for unique in 1..=3000 {
            interrupts.interrupt(unique);
        }
        assert_eq!(count.load(Ordering::SeqCst), 0);
        assert_eq!(interrupts.table().early.len(), EARLY_MAX);
    }

    #[test]
    fn the_end_wakes_all() {
        let (count, wake) = counter();
        let interrupts = Interrupts::default();
        interrupts.wait(1, wake());
        interrupts.end();
        interrupts.wait(2, wake());
        assert_eq!((count.load(Ordering::SeqCst), interrupts.waiting()), (2, 0));
    }
}
