//! Least recently used.

use super::list::{Links, List};
use super::{Candidate, ExpiryPolicy, Handle};

/// What was not used for longest goes first.
#[derive(Debug)]
pub struct Lru {
    links: Links,
    list: List,
}

impl Lru {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            links: Links::default(),
            list: List::new(),
        }
    }
}

impl Default for Lru {
    fn default() -> Self {
        Self::new()
    }
}

impl ExpiryPolicy for Lru {
    fn insert(&mut self, handle: Handle, _: &Candidate) {
        if self.links.contains(handle) {
            self.list.renew(&mut self.links, handle);
        } else {
            self.list.push(&mut self.links, handle);
        }
    }

    fn used(&mut self, handle: Handle) {
        if self.links.contains(handle) {
            self.list.renew(&mut self.links, handle);
        }
    }

    fn victim(&mut self, may_go: &mut dyn FnMut(Handle) -> bool) -> Option<Handle> {
        for _ in 0..self.list.len() {
            let oldest = self.list.oldest()?;
            if may_go(oldest) {
                return Some(oldest);
            }
            self.list.renew(&mut self.links, oldest);
        }
        None
    }

    fn evicted(&mut self, handle: Handle, _: &Candidate) {
        self.removed(handle);
    }

    fn removed(&mut self, handle: Handle) {
        if self.links.contains(handle) {
            self.list.unlink(&mut self.links, handle);
        }
    }

    fn memo(&self, _: Handle) -> u64 {
        // The order of last use is known to whoever restores.
        0
    }

    fn restore(&mut self, handle: Handle, candidate: &Candidate, _: u64) {
        self.insert(handle, candidate);
    }

    fn len(&self) -> usize {
        self.list.len()
    }
}
