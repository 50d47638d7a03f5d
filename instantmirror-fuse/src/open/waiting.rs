//! Reads that wait for content: each ends when it has its bytes, when its reader is interrupted, or when its time is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_channel::oneshot;

use crate::filesystem::Errno;
use crate::tree::lock;

/// The reads that wait. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    reads: HashMap<u64, (Instant, oneshot::Sender<Errno>)>,
}

/// One read that waits; it does no longer when this is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    waiting: Waiting,
    pub(crate) id: u64,
    /// Told why the read is to end.
    pub(crate) end: oneshot::Receiver<Errno>,
}

impl Waiting {
    pub(crate) fn add(&self, deadline: Instant) -> Wait {
        let (sender, end) = oneshot::channel();
        let mut inner = lock(&self.0);
        inner.last += 1;
        let id = inner.last;
        inner.reads.insert(id, (deadline, sender));
        Wait {
            waiting: self.clone(),
            id,
            end,
        }
    }

    /// Ends a read if it still waits.
    pub(crate) fn end(&self, id: u64, why: Errno) {
        let read = lock(&self.0).reads.remove(&id);
        if let Some((_, sender)) = read {
            // A read that ends by itself at this moment need not know.
            let _ = sender.send(why);
        }
    }

    /// Ends all reads whose time is over, and says how many.
    pub(crate) fn expire(&self, now: Instant) -> usize {
        let over: Vec<_> = {
            let mut inner = lock(&self.0);
            let over = inner.reads.extract_if(|_, (deadline, _)| *deadline <= now);
            over.map(|(_, (_, sender))| sender).collect()
        };
        let count = over.len();
        for sender in over {
            let _ = sender.send(Errno::TIMEDOUT);
        }
        count
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).reads.len()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        lock(&self.waiting.0).reads.remove(&self.id);
    }
}
