//! The traits of what holds objects: reading ([`Objects`]), and holding within limits ([`ObjectCache`]).

use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Adoption, CacheError, Inventory, Pins, Quota, Scrubber, Sweeper};
use crate::outboard::Outboard;
use crate::{ObjectId, RangeSet};

/// What a cache holds and may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Bytes of objects held, whole and partial.
    pub used_bytes: u64,
    /// Bytes promised to fills that are under way and not yet counted as used.
    pub reserved_bytes: u64,
    /// Bytes of what is kept beside objects: outboards, maps of partial objects.
    pub side_bytes: u64,
    /// `used + reserved + side` never exceeds this; `None`: no limit.
    pub max_bytes: Option<u64>,
    /// Whole and partial objects held.
    pub objects: u64,
    /// Objects put aside as damaged since the start.
    pub damaged: u64,
    /// Objects given up to make room since the start.
    pub evicted: u64,
}

/// What has changed in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEvent {
    /// These bytes of an object have been verified and can be read. Not told of an object that is fetched whole or not at all,
    /// in a single group.
    Arrived {
        /// The object.
        object: ObjectId,
        /// Its size in bytes.
        size: u64,
        /// The bytes.
        range: Range<u64>,
    },
    /// All of an object is here.
    Whole {
        /// The object.
        object: ObjectId,
        /// Its size in bytes.
        size: u64,
    },
    /// Nothing of an object is here any more.
    Gone {
        /// The object.
        object: ObjectId,
    },
}

/// Is told what changes in a cache, in the order in which it changes. Called with locks held: it must return at once and
/// not call the cache.
pub trait CacheObserver: Debug + Send + Sync + 'static {
    /// Something has changed.
    fn changed(&self, event: CacheEvent);
}

/// Objects that can be read, wherever they lie: a cache, a master's store, a bucket.
///
/// Guarantees that every implementation keeps:
/// * No byte can be read that was not verified against the object's id.
/// * An object with an open handle keeps its bytes until the last handle is dropped.
///
/// Cancellation: dropping a future leaves everything as before the call.
#[async_trait]
pub trait Objects: Debug + Send + Sync + 'static {
    /// Opens an object for reading, whole or partial. `None` if no byte of it is here. A cache counts it as a use.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] if it cannot be read as it should be, [`CacheError::Io`].
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError>;

    /// The outboard of an object that is here whole, or of a partial one whose outboard is known;
    /// computed from the content where it was not kept. `None` otherwise.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] if the content does not match its id, [`CacheError::Io`].
    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError>;
}

/// Holds objects within hard limits and gives up the least valuable ones to make room.
///
/// Guarantees that every implementation keeps, beside those of [`Objects`]:
/// * `used + reserved + side ≤ max` at every instant, through failures and restarts.
/// * An object that is being filled keeps its bytes until the fill is dropped.
/// * Losing power may lose objects (they can be fetched again), never the truth about them.
///
/// Cancellation: dropping a future leaves the cache as before the call; dropping a fill keeps what was
/// verified so far and returns what it had reserved beyond that. A call may wait for a disk or a network for as long as that
/// takes; no lock is held across objects meanwhile.
#[async_trait]
pub trait ObjectCache: Objects {
    /// Begins or resumes filling an object of `size` bytes: room for all of it is reserved before this
    /// returns. One fill per object at a time. An object that is whole already gives a fill that is
    /// complete.
    ///
    /// # Errors
    /// [`CacheError::Busy`], [`CacheError::TooLarge`], [`CacheError::Full`], [`CacheError::Io`], and
    /// [`CacheError::Verify`] if the object is held whole with another size, or is said to be empty and has
    /// not the id of nothing. A partial object of another size is begun anew.
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError>;

    /// Gives an object up; open handles stay readable, and its bytes count as used until the last one is
    /// dropped. Returns whether it was here.
    ///
    /// # Errors
    /// [`CacheError::Busy`] while it is being filled, [`CacheError::Io`].
    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError>;

    /// The most bytes that this cache keeps beside the content of an object of `size` bytes, while it is
    /// filled and later: outboard, map of groups. They count as `side` against the limit, so an empty
    /// cache takes an object exactly if `size + overhead_bytes(size) ≤ max`. Never less for a larger
    /// object; nothing, unless an implementation says otherwise.
    fn overhead_bytes(&self, size: u64) -> u64 {
        let _ = size;
        0
    }

    /// What is held now.
    fn usage(&self) -> CacheUsage;

    /// Writes down what a restart needs to know (order of use, clean state). Called now and then, and
    /// at the end.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    async fn checkpoint(&self) -> Result<(), CacheError>;

    /// Whether its futures, and those of its handles and fills, block the thread that polls them. Whoever assembles a node puts
    /// such a cache inside [`Blocking`](super::blocking::Blocking).
    fn blocks(&self) -> bool {
        false
    }

    /// The pin set; `None` if objects cannot be pinned.
    fn pins(&self) -> Option<&dyn Pins> {
        None
    }

    /// What is here; `None` if the objects cannot be listed.
    fn inventory(&self) -> Option<&dyn Inventory> {
        None
    }

    /// The limits; `None` if they cannot change.
    fn quota(&self) -> Option<&dyn Quota> {
        None
    }

    /// Mark and sweep by snapshots; `None` if the order of eviction knows nothing of them.
    fn sweeper(&self) -> Option<&dyn Sweeper> {
        None
    }

    /// Verification of what is at rest; `None` if there is none.
    fn scrubber(&self) -> Option<&dyn Scrubber> {
        None
    }

    /// Files as objects; `None` if they have to be handed in through [`fill`](Self::fill).
    fn adoption(&self) -> Option<&dyn Adoption> {
        None
    }
}

/// An open object. Holding it keeps its bytes. For an object that is being filled, more becomes present
/// while the handle is open.
#[async_trait]
pub trait ObjectHandle: Debug + Send + Sync {
    /// The object.
    fn object(&self) -> ObjectId;

    /// Its whole size in bytes.
    fn size(&self) -> u64;

    /// The ranges that can be read now.
    fn present(&self) -> RangeSet;

    /// Whether everything can be read.
    fn is_complete(&self) -> bool {
        self.present().contains(0..self.size())
    }

    /// Reads exactly `range`, from wherever it lies: a file, or the network. A frontend that can send a
    /// [`descriptor`](Self::descriptor) does so instead, without a future.
    ///
    /// # Errors
    /// [`CacheError::Absent`] if any of it is not present, [`CacheError::Io`] or
    /// [`CacheError::Damaged`] if the medium fails; never wrong bytes in silence.
    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError>;

    /// A descriptor from which [`present`](Self::present) ranges can be sent by `sendfile` or `splice`,
    /// at the same offsets. Core only passes it on.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The exclusive right to add to one object. Dropping it ends the fill and keeps what is verified.
#[async_trait]
pub trait ObjectFill: Debug + Send + Sync {
    /// The object as readers see it.
    fn handle(&self) -> Arc<dyn ObjectHandle>;

    /// The outboard, if it is known: handed in before, kept from before a restart, or not needed.
    fn outboard(&self) -> Option<Outboard>;

    /// Hands the outboard in. Objects of more than one group need it before the first write.
    ///
    /// # Errors
    /// [`CacheError::Verify`] if it belongs to another object, [`CacheError::Io`].
    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError>;

    /// Verifies `data`, whole groups at `offset`, and makes them readable. Groups that are present are
    /// left as they are.
    ///
    /// # Errors
    /// [`CacheError::Verify`] if it does not match (nothing is kept of it), [`CacheError::Io`].
    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError>;

    /// Publishes the object as whole. Handles opened before go on working.
    ///
    /// # Errors
    /// [`CacheError::Absent`] with the first gap if something is missing, [`CacheError::Io`].
    async fn finish(&self) -> Result<(), CacheError>;
}
