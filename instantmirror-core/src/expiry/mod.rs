//! Which object goes when a cache needs room.
//!
//! Key decision: a policy never sees an object, only a small number (its *handle*: the place in the cache's own table),
//! its size and a fingerprint. So a policy costs 12 to 26 bytes an object and no lookup of its own, and knows nothing of
//! disks, clocks and leases: whether a candidate may go now is asked of the cache.
//!
//! | policy | what goes first | bytes an object |
//! |---|---|---|
//! | [`Lru`] | what was not used for longest | 8 |
//! | [`Gdsf`](Keyed) | what has the fewest uses a byte, aged | 28 |
//! | [`Lfuda`](Keyed) | what has the fewest uses, aged | 28 |
//! | [`S3Fifo`] | what was not used again soon after it came | 13, and some 20 for each object that went lately, as many as stay |
//!
//! [`SnapshotOrder`] stands around any of them and lets go first what only a mirror of snapshots can know to be of less
//! use. All operations take constant or logarithmic time.

mod keyed;
mod list;
mod lru;
mod s3_fifo;
mod snapshot_order;
#[cfg(test)]
mod tests;

use std::fmt::{self, Debug};
use std::str::FromStr;

pub use keyed::Keyed;
pub use lru::Lru;
pub use s3_fifo::S3Fifo;
pub use snapshot_order::{Remembered, SnapshotOrder, Standing};

use crate::ObjectId;

/// The place of an object in its cache's table. Small and dense: policies keep arrays by it. Free for another object
/// once the policy was told that this one is gone.
pub type Handle = u32;

/// What a policy may know of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Bytes that go with it.
    pub size: u64,
    /// Tells it from others with near certainty, for policies that remember what is gone.
    pub fingerprint: u64,
}

impl Candidate {
    /// Of an object and its size in bytes.
    #[must_use]
    pub fn new(object: &ObjectId, size: u64) -> Self {
        Self {
            size,
            fingerprint: fingerprint(object),
        }
    }

    /// The size in KiB, at least 1: what goes with a file is never less than a block.
    fn kib(&self) -> u32 {
        u32::try_from(self.size.div_ceil(1024)).unwrap_or(u32::MAX).max(1)
    }
}

/// The first 8 bytes of an id, which is a hash.
#[must_use]
pub fn fingerprint(object: &ObjectId) -> u64 {
    let bytes = object.as_bytes().iter().take(8);
    bytes.fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// An order in which objects are given up.
///
/// Guarantees: a victim is one of the objects that were inserted and are not gone; it stays until
/// [`evicted`](Self::evicted) or [`removed`](Self::removed) is called. Calls about handles that are not known do nothing.
pub trait ExpiryPolicy: Debug + Send {
    /// An object has come; that counts as its first use.
    fn insert(&mut self, handle: Handle, candidate: &Candidate);

    /// An object was used.
    fn used(&mut self, handle: Handle);

    /// What should go next among those that `may_go` allows; `None` if there is none. Those that it refuses are in use,
    /// and are treated as used now.
    fn victim(&mut self, may_go: &mut dyn FnMut(Handle) -> bool) -> Option<Handle>;

    /// The object was given up to make room.
    fn evicted(&mut self, handle: Handle, candidate: &Candidate);

    /// The object is gone for another reason.
    fn removed(&mut self, handle: Handle);

    /// What is worth to be written down of an object, for [`restore`](Self::restore). Only the policy that wrote it can
    /// read it.
    fn memo(&self, handle: Handle) -> u64;

    /// An object is there since an earlier life; `memo` is 0 if nothing is known. To be called in order of last use, the
    /// latest last, before anything of this life is inserted where that is possible.
    fn restore(&mut self, handle: Handle, candidate: &Candidate, memo: u64);

    /// How many objects there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<P: ExpiryPolicy + ?Sized> ExpiryPolicy for Box<P> {
    fn insert(&mut self, handle: Handle, candidate: &Candidate) {
        (**self).insert(handle, candidate);
    }

    fn used(&mut self, handle: Handle) {
        (**self).used(handle);
    }

    fn victim(&mut self, may_go: &mut dyn FnMut(Handle) -> bool) -> Option<Handle> {
        (**self).victim(may_go)
    }

    fn evicted(&mut self, handle: Handle, candidate: &Candidate) {
        (**self).evicted(handle, candidate);
    }

    fn removed(&mut self, handle: Handle) {
        (**self).removed(handle);
    }

    fn memo(&self, handle: Handle) -> u64 {
        (**self).memo(handle)
    }

    fn restore(&mut self, handle: Handle, candidate: &Candidate, memo: u64) {
        (**self).restore(handle, candidate, memo);
    }

    fn len(&self) -> usize {
        (**self).len()
    }
}

/// The policies that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyKind {
    /// [`Lru`].
    Lru,
    /// [`Keyed::gdsf`].
    Gdsf,
    /// [`Keyed::lfuda`].
    Lfuda,
    /// [`S3Fifo`].
    #[default]
    S3Fifo,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lru, Self::Gdsf, Self::Lfuda, Self::S3Fifo];

    /// The name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Gdsf => "gdsf",
            Self::Lfuda => "lfuda",
            Self::S3Fifo => "s3-fifo",
        }
    }

    /// An empty one.
    #[must_use]
    pub fn build(self) -> Box<dyn ExpiryPolicy> {
        match self {
            Self::Lru => Box::new(Lru::new()),
            Self::Gdsf => Box::new(Keyed::gdsf()),
            Self::Lfuda => Box::new(Keyed::lfuda()),
            Self::S3Fifo => Box::new(S3Fifo::new()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| "a policy is lru, gdsf, lfuda or s3-fifo".to_owned())
    }
}

/// An index into the arrays by handle.
fn at(handle: Handle) -> usize {
    usize::try_from(handle).unwrap_or(usize::MAX)
}
