//! S3-FIFO: a small queue through which everything new passes, a main queue for what was used again meanwhile, and the
//! memory of what left the small queue, which enters the main queue at once when it comes back.
//!
//! Most of what a mirror serves is asked for once in a long time. It leaves by the small queue, a tenth of the cache, and
//! pushes nothing out of the rest.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::list::{Links, List};
use super::{Candidate, ExpiryPolicy, Handle, at};

/// The small queue has one part in so many of all bytes.
const SMALL_PART: u64 = 10;
/// Uses that are counted, beyond the first.
const USES_MAX: u8 = 3;
/// What was used at least so often again while it was in the small queue has earned the main one.
const USES_EARNED: u8 = 1;
/// Most objects that are remembered after they went.
const GHOSTS_MAX: usize = 1 << 21;
/// And how many even a small cache may remember.
const GHOSTS_MIN: usize = 64;

const IN_MAIN: u8 = 0x80;

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// What went lately.
#[derive(Debug, Default)]
struct Ghosts {
    known: HashSet<u64, BuildHasherDefault<AsIs>>,
    order: VecDeque<u64>,
}

impl Ghosts {
    fn add(&mut self, fingerprint: u64, max: usize) {
        if self.known.insert(fingerprint) {
            self.order.push_back(fingerprint);
        }
        while self.order.len() > max {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Whether it went lately; forgotten then. Its place in the order is given up when its turn comes.
    fn take(&mut self, fingerprint: u64) -> bool {
        self.known.remove(&fingerprint)
    }
}

/// See the module.
#[derive(Debug)]
pub struct S3Fifo {
    links: Links,
    small: List,
    main: List,
    small_kib: u64,
    main_kib: u64,
    /// Size of each object in KiB.
    sizes: Vec<u32>,
    /// Uses of each object, and in which queue it is.
    state: Vec<u8>,
    ghosts: Ghosts,
}

impl S3Fifo {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            links: Links::default(),
            small: List::new(),
            main: List::new(),
            small_kib: 0,
            main_kib: 0,
            sizes: Vec::new(),
            state: Vec::new(),
            ghosts: Ghosts::default(),
        }
    }

    fn state(&self, handle: Handle) -> u8 {
        self.state.get(at(handle)).copied().unwrap_or_default()
    }

    fn is_main(&self, handle: Handle) -> bool {
        self.state(handle) & IN_MAIN != 0
    }

    fn uses(&self, handle: Handle) -> u8 {
        self.state(handle) & !IN_MAIN
    }

    fn push(&mut self, handle: Handle, kib: u32, state: u8) {
        if self.sizes.len() <= at(handle) {
            self.sizes.resize(at(handle) + 1, 0);
            self.state.resize(at(handle) + 1, 0);
        }
        self.sizes[at(handle)] = kib;
        self.state[at(handle)] = state;
        if state & IN_MAIN != 0 {
            self.main.push(&mut self.links, handle);
            self.main_kib += u64::from(kib);
        } else {
            self.small.push(&mut self.links, handle);
            self.small_kib += u64::from(kib);
        }
    }

    /// Takes an object out; returns its size.
    fn pull(&mut self, handle: Handle) -> u32 {
        let kib = self.sizes.get(at(handle)).copied().unwrap_or_default();
        if self.is_main(handle) {
            self.main.unlink(&mut self.links, handle);
            self.main_kib -= u64::from(kib);
        } else {
            self.small.unlink(&mut self.links, handle);
            self.small_kib -= u64::from(kib);
        }
        kib
    }

    /// Puts an object at the end of the main queue.
    fn promote(&mut self, handle: Handle, uses: u8) {
        let kib = self.pull(handle);
        self.push(handle, kib, IN_MAIN | uses);
    }

    /// The head of the queue whose turn it is; of the small one if `all_refused` in the main one.
    fn next(&self, all_refused: bool) -> Option<Handle> {
        let is_large = self.small_kib * SMALL_PART > self.small_kib + self.main_kib;
        let small = self.small.oldest().filter(|_| is_large || all_refused);
        small.or_else(|| self.main.oldest()).or_else(|| self.small.oldest())
    }
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self::new()
    }
}

impl ExpiryPolicy for S3Fifo {
    fn insert(&mut self, handle: Handle, candidate: &Candidate) {
        if self.links.contains(handle) {
            return self.used(handle);
        }
        let state = if self.ghosts.take(candidate.fingerprint) {
            IN_MAIN
        } else {
            0
        };
        self.push(handle, candidate.kib(), state);
    }

    fn used(&mut self, handle: Handle) {
        if self.links.contains(handle) {
            let uses = (self.uses(handle) + 1).min(USES_MAX);
            self.state[at(handle)] = self.state(handle) & IN_MAIN | uses;
        }
    }

    fn victim(&mut self, may_go: &mut dyn FnMut(Handle) -> bool) -> Option<Handle> {
        let mut refused = 0;
        while refused <= 3 * self.len() {
            let handle = self.next(refused > self.main.len())?;
            let uses = self.uses(handle);
            if !self.is_main(handle) && uses >= USES_EARNED {
                self.promote(handle, 0);
            } else if uses > 0 {
                self.promote(handle, uses - 1);
            } else if may_go(handle) {
                return Some(handle);
            } else {
                refused += 1;
                self.promote(handle, 0);
            }
        }
        None
    }

    fn evicted(&mut self, handle: Handle, candidate: &Candidate) {
        if !self.links.contains(handle) {
            return;
        }
        if !self.is_main(handle) {
            let max = self.len().clamp(GHOSTS_MIN, GHOSTS_MAX);
            self.ghosts.add(candidate.fingerprint, max);
        }
        self.removed(handle);
    }

    fn removed(&mut self, handle: Handle) {
        if self.links.contains(handle) {
            self.pull(handle);
        }
    }

    /// Uses, and 128 in the main queue. What is remembered of objects that are gone is not kept.
    fn memo(&self, handle: Handle) -> u64 {
        u64::from(self.state(handle))
    }

    fn restore(&mut self, handle: Handle, candidate: &Candidate, memo: u64) {
        if self.links.contains(handle) {
            return self.used(handle);
        }
        let state = u8::try_from(memo & 0xff).unwrap_or_default();
        let uses = (state & !IN_MAIN).min(USES_MAX);
        self.push(handle, candidate.kib(), state & IN_MAIN | uses);
    }

    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }
}
