//! Optional services of an [`ObjectCache`](super::ObjectCache): small traits, one for each subject, that a cache offers or not.
//!
//! | service | without it a node |
//! |---|---|
//! | [`Pins`] | refuses tags of its own |
//! | [`Inventory`] | tells swarms nothing; opens an object to learn whether it is here |
//! | [`Quota`] | keeps the limits that the cache was made with |
//! | [`Sweeper`] | leaves garbage to the cache's own order of eviction, also what a master has removed |
//! | [`Scrubber`] | cannot verify what lies on the disk |
//! | [`Adoption`] | copies adopted files through [`fill`](super::ObjectCache::fill) |
//!
//! Decision: a service is a method of `ObjectCache` that returns `None` unless an implementation says otherwise, so whoever
//! holds a `dyn ObjectCache` can ask, and a cache implements each service wholly or not at all.
//!
//! All calls are synchronous and may block on a disk, as those of a [`SnapshotStore`](super::SnapshotStore) do and for the same
//! reason: they come by the thousand from walks over catalogs. An async caller makes those that are not marked as quick on
//! [`Threads`](super::blocking::Threads) that may block.

use std::fmt::{self, Debug};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::{CacheError, CacheObserver};
use crate::ObjectId;
use crate::expiry::{Standing, fingerprint};
use crate::outboard::Outboard;

/// Objects that are not to be evicted, by the first 8 bytes of their ids: 24 MB for 3 million. Two that share these are taken
/// for each other, which keeps one too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinSet(Vec<u64>);

impl PinSet {
    /// Whether the object, or one that shares its first 8 bytes, is in the set.
    #[must_use]
    pub fn contains(&self, object: &ObjectId) -> bool {
        self.0.binary_search(&fingerprint(object)).is_ok()
    }
}

impl FromIterator<ObjectId> for PinSet {
    fn from_iter<I: IntoIterator<Item = ObjectId>>(objects: I) -> Self {
        let mut keys: Vec<u64> = objects.into_iter().map(|object| fingerprint(&object)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.shrink_to_fit();
        Self(keys)
    }
}

/// A cache that keeps a set of objects whatever the order of eviction.
pub trait Pins: Debug + Send + Sync {
    /// Pins these objects, here or yet to come, instead of those of the last call; `None`: all of them, since the set is not
    /// known yet. Evicts what is beyond the limits afterwards. Not kept over a restart.
    ///
    /// # Errors
    /// [`CacheError::Io`] from evicting; the set is pinned nevertheless.
    fn set_pins(&self, pins: Option<PinSet>) -> Result<(), CacheError>;

    /// Whether everything is pinned, because the last call of [`set_pins`](Self::set_pins) gave no set. Quick.
    fn pins_everything(&self) -> bool;
}

/// A cache that can say which objects it has.
pub trait Inventory: Debug + Send + Sync {
    /// Tells `observer` of all that changes from now on, instead of the observer before it. Quick.
    fn observe(&self, observer: Arc<dyn CacheObserver>);

    /// Calls `each` with every whole object that is not empty, and its size. Those that come or go meanwhile are told of or not:
    /// a caller that cannot miss one [observes](Self::observe) first.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the objects cannot be listed.
    fn each_whole(&self, each: &mut dyn FnMut(ObjectId, u64)) -> Result<(), CacheError>;

    /// Whether the whole object is here. Opens and verifies nothing, and does not count as a use.
    ///
    /// # Errors
    /// [`CacheError::Io`] if it cannot be looked up.
    fn has_whole(&self, object: &ObjectId) -> Result<bool, CacheError>;

    /// Lists what an earlier run left behind, where that was not done when the cache was opened. To be called once, beside the
    /// first requests.
    ///
    /// # Errors
    /// [`CacheError::Io`]; the first fill tries again.
    fn load(&self) -> Result<(), CacheError> {
        Ok(())
    }

    /// Whether all objects are listed. Quick.
    fn is_loaded(&self) -> bool {
        true
    }
}

/// The hard limits of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheLimits {
    /// Bytes of content, whole and partial, and of the files beside it; `None`: as much as the disk holds.
    pub max_bytes: Option<u64>,
    /// Whole and partial objects; `None`: any number.
    pub max_objects: Option<u64>,
    /// Free bytes that the file system is left with whatever the other limits say.
    pub keep_free_bytes: u64,
}

impl CacheLimits {
    /// At most so many bytes.
    #[must_use]
    pub const fn bytes(max_bytes: u64) -> Self {
        Self {
            max_bytes: Some(max_bytes),
            max_objects: None,
            keep_free_bytes: 0,
        }
    }

    /// At most so many objects as well.
    #[must_use]
    pub const fn objects(mut self, max_objects: u64) -> Self {
        self.max_objects = Some(max_objects);
        self
    }

    /// Leaves so many bytes of the file system free as well.
    #[must_use]
    pub const fn keep_free(mut self, bytes: u64) -> Self {
        self.keep_free_bytes = bytes;
        self
    }
}

/// Objects, and bytes in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the medium of a cache can still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Free bytes.
    pub bytes: u64,
    /// Files that can still be made; `u64::MAX` where they are not counted.
    pub files: u64,
}

/// A cache whose limits can be asked for and changed while it runs.
pub trait Quota: Debug + Send + Sync {
    /// The limits in force. Quick.
    fn limits(&self) -> CacheLimits;

    /// Sets other limits. What is beyond them goes with [`shrink`](Self::shrink); until then only what fits is taken in. Quick.
    fn set_limits(&self, limits: CacheLimits);

    /// Evicts what is beyond the limits, object by object. False if what is in use or pinned has to be let go of first: then it
    /// is to be called again.
    ///
    /// # Errors
    /// [`CacheError::Io`] from evicting.
    fn shrink(&self) -> Result<bool, CacheError>;

    /// How much could be held at most if all that is here now were evicted.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the medium cannot be asked for its space.
    fn capacity(&self) -> Result<Capacity, CacheError>;

    /// Whether so much more fits within every limit with nothing evicted for it but garbage.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the medium cannot be asked for its space.
    fn has_room(&self, more: Capacity) -> Result<bool, CacheError>;

    /// What the medium can still take; `None` where nobody can say.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the medium cannot be asked.
    fn free_space(&self) -> Result<Option<FreeSpace>, CacheError>;
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects.
    pub objects: u64,
    /// Bytes that this frees; those of an open object are free when it is closed.
    pub bytes: u64,
}

/// Whole and partial objects that are not live by the last marking, and are still here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    /// Objects that no snapshot refers to.
    pub garbage: usize,
    /// Objects that only an old snapshot refers to.
    pub old: usize,
}

/// A cache that is told which objects snapshots refer to: mark and sweep.
pub trait Sweeper: Debug + Send + Sync {
    /// Begins a marking. One at a time: a second one replaces the first.
    fn mark(&self) -> Box<dyn Marking + '_>;

    /// What the last marking found that is still here. Quick.
    fn standings(&self) -> Standings;

    /// Removes all garbage, whether or not there is room. Open handles stay readable, and objects that are being filled stay.
    /// Removes nothing while [`Pins`] pin everything.
    ///
    /// # Errors
    /// [`CacheError::Io`]; some of it may be gone then.
    fn sweep(&self) -> Result<Swept, CacheError>;
}

/// A walk over all snapshots, told to a [`Sweeper`]. Objects that were here when it began and that it does not mark are garbage
/// when it [ends](Self::finish); objects that arrive meanwhile are live. Dropping it changes nothing.
#[must_use = "nothing changes before `finish`"]
pub trait Marking: Debug {
    /// A snapshot of this standing refers to these objects; the highest standing counts. Best called with some hundred.
    fn mark(&self, objects: &[ObjectId], standing: Standing);

    /// Takes up what was found.
    fn finish(self: Box<Self>) -> Standings;
}

/// One part of so many of everything, by id: after all of them, everything was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subset {
    part: u64,
    of: u64,
}

impl Subset {
    /// All of it.
    pub const ALL: Self = Self { part: 0, of: 1 };

    /// Part `part`, from 1, of `of`; `None` if there is no such part.
    #[must_use]
    pub fn new(part: u64, of: u64) -> Option<Self> {
        (1..=of).contains(&part).then(|| Self { part: part - 1, of })
    }

    /// Whether an object is in it.
    #[must_use]
    pub fn contains(self, object: &ObjectId) -> bool {
        self.contains_number(fingerprint(object))
    }

    /// Whether something with this number is in it, numbers being spread evenly over the parts.
    #[must_use]
    pub const fn contains_number(self, number: u64) -> bool {
        number % self.of == self.part
    }

    /// Of how many parts it is one.
    #[must_use]
    pub const fn of(self) -> u64 {
        self.of
    }

    /// About so much of a whole is in it.
    #[must_use]
    pub const fn share(self, whole: u64) -> u64 {
        whole / self.of
    }
}

/// A fault that a scrub found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// An object is not what its id says, or cannot be read; it is in quarantine now.
    Damaged {
        /// Which.
        object: ObjectId,
        /// What is wrong.
        reason: String,
    },
    /// An object that was here is not any more.
    Missing {
        /// Which.
        object: ObjectId,
    },
    /// A file that does not belong into the cache; it is in quarantine now.
    Foreign {
        /// Where it was.
        path: PathBuf,
    },
}

impl Finding {
    /// The object that is not here any more.
    #[must_use]
    pub const fn lost(&self) -> Option<ObjectId> {
        match self {
            Self::Damaged { object, .. } | Self::Missing { object } => Some(*object),
            Self::Foreign { .. } => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { object, reason, .. } => write!(f, "object {object} is damaged: {reason}"),
            Self::Missing { object } => write!(f, "object {object} has vanished"),
            Self::Foreign { path } => write!(f, "{} does not belong into the cache", path.display()),
        }
    }
}

/// What one step of a scrub did.
#[derive(Debug, Default)]
pub struct Checked {
    /// Objects that were read to their end.
    pub objects: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What was wrong.
    pub findings: Vec<Finding>,
}

/// A cache whose medium can damage what it holds, and that can read it again to find out.
pub trait Scrubber: Debug + Send + Sync {
    /// Begins to read what is here now, or a part of it. What is wrong goes into quarantine; nothing is repaired.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the objects cannot be listed.
    fn scrub(&self, subset: Subset) -> Result<Box<dyn Scrub>, CacheError>;
}

/// A pass over a cache, step by step, so that its driver sets the pace. Dropping it stops it.
pub trait Scrub: Debug + Send {
    /// Reads some MiB or some dozen objects on; `None` at the end.
    ///
    /// # Errors
    /// [`CacheError::Io`] where the fault is of no single object.
    fn step(&mut self) -> Result<Option<Checked>, CacheError>;
}

/// A regular file that is to become a whole object.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct AdoptedFile<'a> {
    /// The file, open for reading.
    pub descriptor: BorrowedFd<'a>,
    /// The object that its content is, or is said to be.
    pub object: ObjectId,
    /// Its size in bytes.
    pub size: u64,
    /// The outboard, if the caller has hashed the content; else the first reader has to.
    pub outboard: Option<&'a Outboard>,
    /// Whether the object may share blocks with the file, where the file system can do that safely.
    pub reflink: bool,
    /// Whether the object may be the file itself: only right where files are replaced and never edited in place.
    pub hardlink: bool,
    /// Fails if the file was changed since the caller opened it.
    pub check_unchanged: &'a (dyn Fn() -> Result<(), CacheError> + Sync),
}

impl<'a> AdoptedFile<'a> {
    /// A file that nobody has hashed and that is to be copied.
    pub fn new(
        descriptor: BorrowedFd<'a>,
        object: ObjectId,
        size: u64,
        check_unchanged: &'a (dyn Fn() -> Result<(), CacheError> + Sync),
    ) -> Self {
        Self {
            descriptor,
            object,
            size,
            outboard: None,
            reflink: false,
            hardlink: false,
            check_unchanged,
        }
    }
}

impl Debug for AdoptedFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptedFile")
            .field("object", &self.object)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A cache that takes files in without having their bytes handed to it: by links, or by a copy inside the kernel.
pub trait Adoption: Debug + Send + Sync {
    /// Takes a file in as a whole object, evicting nothing for it. An object that is here already stays as it is.
    ///
    /// # Errors
    /// [`CacheError::Full`] if there is no room, [`CacheError::Busy`] while the object is being filled, [`CacheError::Io`] if the
    /// file was changed or cannot be read.
    fn adopt(&self, file: &AdoptedFile<'_>) -> Result<(), CacheError>;
}
