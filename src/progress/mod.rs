//! How far a long task is: told to whoever wants to hear it, on a terminal as a line.

#[cfg(feature = "master")]
mod publish;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::bars::Bar;

#[cfg(feature = "master")]
pub use publish::{Paths, PathsByWord, PublishBar, left_out, symlinks};

/// Hears how far a long task is. Called from several threads, and often: it has to be cheap.
pub trait Progress: Sync {
    /// So much is done, of so much if that is known.
    fn at(&self, done: u64, total: Option<u64>);
}

impl Progress for Bar {
    fn at(&self, done: u64, total: Option<u64>) {
        self.set(done, total, "");
    }
}

/// Counts up to a total from several threads.
pub(crate) struct Counted<'a> {
    progress: &'a dyn Progress,
    done: AtomicU64,
    total: u64,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, total: u64) -> Self {
        progress.at(0, Some(total));
        Self {
            progress,
            done: AtomicU64::new(0),
            total,
        }
    }

    /// So many more are done.
    pub(crate) fn add(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        self.progress.at(done, Some(self.total));
    }
}
