//! The disk object cache of a node, and without limits the object store of a master.
//!
//! An object is verified before it gets its name under `objects/`, so what has a name is whole. There is no fsync per
//! object: a checkpoint makes everything durable at once and lists it; whatever a later start finds beyond that list
//! is verified before it is served, group by group as it is read. Partial objects keep their verified groups over a
//! restart.
//!
//! Invariants: no byte leaves unverified (see [`VerifyWhen`] for what that means at rest); `used + reserved` never
//! exceeds the limit; open objects are never given up; one process owns the directory; no write per read.
//!
//! Opening is quick whatever the cache holds: single objects are looked up on the disk until
//! [`load`](DiskCache::load) has listed them all, which the first fill waits for.

mod check;
mod checkpoint;
mod fill;
mod keep;
mod layout;
mod load;
mod open;
mod partial;
mod proof;
mod record;
mod services;
mod standing;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use instantmirror_core::expiry::PolicyKind;
use instantmirror_core::outboard::Outboard;
use instantmirror_core::traits::{
    Adoption, CacheObserver, CacheUsage, Inventory, ObjectCache, ObjectFill, ObjectHandle, Objects, Pins, Quota,
    Scrubber, Sweeper,
};
use instantmirror_core::{CacheError, ObjectId};

use crate::disk::{Disk, DiskLock, DiskSpace, discard, read_file, remove_leftovers, write_atomically};
use crate::error::{Result, StoreError};
use crate::import::{self, ImportError, ImportMethod, ImportRequest, Imported};

pub use check::Checker;
pub use instantmirror_core::traits::{CacheLimits, Capacity, Checked, Finding, PinSet, Subset};
pub use standing::Reclassification;

use layout::{FORMAT, FORMAT_BYTES_MAX, LOCK, OBJECTS, PARTIAL, QUARANTINE, TRASH};
use record::{Ledger, Past};
use table::Table;

/// Bytes read at once when an object is verified.
const VERIFY_BYTES: u64 = 1 << 20;
const OTHER_HASH: &str = "its content has another hash";

/// When whole objects at rest are verified before they are served.
///
/// An object of up to 1 MiB is hashed by `open`. Of a larger one `open` checks the size and the outboard, and each read
/// verifies the groups that it covers; it has a descriptor once all of it was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyWhen {
    /// Once per run of the process, at the first use. Finds what rotted while the process was down.
    #[default]
    FirstUse,
    /// Anew for every open: no handle gains from what another one has verified.
    Always,
    /// Only objects that a crash may have damaged: for file systems that check content themselves.
    Doubtful,
}

/// How a cache is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOptions {
    /// The hard limits.
    pub limits: CacheLimits,
    /// When whole objects are verified before they are served.
    pub verify: VerifyWhen,
    /// Which objects go when room is needed.
    pub policy: PolicyKind,
}

/// An [`ObjectCache`] on a disk; see the [module](self). Clones share one cache.
///
/// Its futures block on the disk: async callers are given it inside
/// [`Blocking`](instantmirror_core::traits::blocking::Blocking).
#[derive(Clone, Debug)]
pub struct DiskCache {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    verify: VerifyWhen,
    table: Mutex<Table>,
    policy: PolicyKind,
    /// What an earlier life wrote down, until all objects were listed.
    past: Mutex<Option<Arc<Past>>>,
    /// Held while something is written down.
    ledger: Mutex<Ledger>,
    /// Whether all objects were listed.
    loaded: AtomicBool,
    /// Held while they are.
    loading: Mutex<()>,
    /// Files in quarantine, oldest first, with their bytes.
    quarantine: Mutex<VecDeque<(PathBuf, u64)>>,
    /// Files that were given up and that the disk did not remove, with their bytes.
    stuck: Mutex<Vec<(PathBuf, u64)>>,
    /// Files that were put aside since somebody last asked, as far as they fit.
    foreign: Mutex<Vec<PathBuf>>,
    serial: AtomicU64,
    _lock: DiskLock,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskCache")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

impl DiskCache {
    /// Opens (making it where needed) the cache that fills `disk`'s root.
    ///
    /// Errors: [`StoreError::Locked`] with the id of the process that owns it, [`StoreError::UnknownVersion`] (nothing
    /// is changed then). Works at once after a crash.
    pub fn open(disk: Arc<dyn Disk>, options: CacheOptions) -> Result<Self> {
        let lock = disk.lock(Path::new(LOCK))?;
        match read_file(disk.as_ref(), Path::new(FORMAT), FORMAT_BYTES_MAX) {
            Ok(content) => layout::check_format(Path::new(FORMAT), &content)?,
            Err(error) if error.is_not_found() => {
                write_atomically(disk.as_ref(), Path::new(FORMAT), layout::format_text().as_bytes())?;
            }
            Err(error) => return Err(error),
        }
        for dir in [OBJECTS, PARTIAL, QUARANTINE, TRASH] {
            disk.create_dir_all(Path::new(dir))?;
        }
        remove_leftovers(disk.as_ref(), Path::new(""))?;
        remove_leftovers(disk.as_ref(), Path::new(PARTIAL))?;
        for item in disk.list(Path::new(TRASH))? {
            discard(disk.as_ref(), &Path::new(TRASH).join(item.name));
        }
        let (past, ledger) = Past::open(disk.as_ref(), options.policy)?;
        let mut table = Table::new(options.limits, options.policy);
        table.advance_clock(past.last_use());
        let shared = Shared {
            disk,
            verify: options.verify,
            table: Mutex::new(table),
            policy: options.policy,
            past: Mutex::new(Some(Arc::new(past))),
            ledger: Mutex::new(ledger),
            loaded: AtomicBool::new(false),
            loading: Mutex::default(),
            quarantine: Mutex::default(),
            stuck: Mutex::default(),
            foreign: Mutex::default(),
            serial: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Tells `observer` of everything that changes from now on, instead of whoever was told before.
    pub fn observe(&self, observer: Arc<dyn CacheObserver>) {
        self.shared.table().observer = Some(observer);
    }

    /// Goes through the whole objects with their sizes, waiting until all are listed. Those that come or go meanwhile are
    /// told of or not; whoever needs them [observes](Self::observe) first.
    ///
    /// # Errors
    /// The disk's, from listing.
    pub fn each_whole(&self, mut each: impl FnMut(ObjectId, u64)) -> Result<()> {
        /// Looked at under one lock.
        const AT_ONCE: u32 = 4096;
        self.shared.ensure_loaded()?;
        let mut next = 0;
        loop {
            let (found, end) = {
                let table = self.shared.table();
                let end = table.handles_end();
                let part = next..end.min(next + AT_ONCE);
                (
                    part.filter_map(|handle| table.whole_at(handle)).collect::<Vec<_>>(),
                    end,
                )
            };
            found.into_iter().for_each(|(object, size)| each(object, size));
            next += AT_ONCE;
            if next >= end {
                return Ok(());
            }
        }
    }

    /// Lists all objects, in their order of use, and gives up what is beyond the limits. Meant to run beside the first
    /// requests; fills, removals and checkpoints wait for it (and do it themselves if nobody else does).
    pub fn load(&self) -> Result<()> {
        self.shared.ensure_loaded()
    }

    /// Whether all objects were listed.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.shared.is_loaded()
    }

    /// Sets other limits. What is beyond them goes with [`shrink`](Self::shrink); until then only what fits is taken in.
    pub fn set_limits(&self, limits: CacheLimits) {
        let mut table = self.shared.table();
        table.limits = limits;
        table.shrinking = table.is_over();
    }

    /// Gives up what is beyond the limits, object by object, so that nobody waits for longer than one takes. A fill for
    /// which there is no room meanwhile is told so at once. False if what is in use or kept has to be let go of first:
    /// then it is to be called again.
    ///
    /// # Errors
    /// The disk's, from giving up.
    pub fn shrink(&self) -> Result<bool> {
        if self.shared.is_loaded() {
            self.shared.trim()?;
        }
        let mut table = self.shared.table();
        table.shrinking = table.is_over();
        Ok(!table.shrinking)
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> CacheLimits {
        self.shared.table().limits
    }

    /// What the file system of the cache can still take.
    ///
    /// # Errors
    /// The disk's.
    pub fn space(&self) -> Result<DiskSpace> {
        self.shared.disk().space()
    }

    /// Whether so much more fits within every limit with nothing given up for it but what no snapshot needs.
    ///
    /// # Errors
    /// The disk's, asked for its free space.
    pub fn has_room(&self, more: Capacity) -> Result<bool> {
        let table = self.shared.table();
        let room = self.shared.room()?;
        Ok(table.has_room(more, room))
    }

    /// How much could be held at most if all that is here now were given up.
    ///
    /// # Errors
    /// The disk's, asked for its free space.
    pub fn capacity(&self) -> Result<Capacity> {
        let table = self.shared.table();
        let room = self.shared.room()?;
        Ok(table.capacity(room))
    }

    /// Keeps an object from being given up until [`unpin`](Self::unpin). It need not be here yet. Not kept over a
    /// restart.
    pub fn pin(&self, object: &ObjectId) {
        self.shared.table().pin(object);
    }

    /// Lets an object be given up again.
    pub fn unpin(&self, object: &ObjectId) {
        self.shared.table().unpin(object);
    }

    /// Keeps these objects, here or yet to come, instead of those of the last call; `None`: all of them, since it is
    /// not known yet which. Gives up what is beyond the limits then. Not kept over a restart.
    ///
    /// # Errors
    /// The disk's, from giving up; the objects are held nevertheless.
    pub fn hold(&self, objects: Option<PinSet>) -> Result<()> {
        self.shared.table().hold(objects);
        if self.shared.loaded.load(Ordering::Acquire) {
            self.shared.trim()?;
        }
        Ok(())
    }

    /// Takes a file of a source tree in as a whole object. The caller has hashed it through `source` and gives the id;
    /// the file is compared with its stamp before and after.
    ///
    /// Readable at once; durable after the next [`checkpoint`](ObjectCache::checkpoint), which a publisher awaits
    /// before it commits a snapshot. Errors: [`StoreError::SourceChanged`], and as `ObjectCache::fill`.
    pub fn import(&self, request: &ImportRequest<'_>) -> Result<Imported, ImportError> {
        self.take_in_file(request, true, true)
    }

    /// As [`import`](Self::import), but gives nothing up for it. With `verified` false nobody has hashed the file: its
    /// first reader does, whatever the policy of verification.
    pub fn adopt(&self, request: &ImportRequest<'_>, verified: bool) -> Result<Imported, ImportError> {
        self.take_in_file(request, verified, false)
    }

    /// Keeps an outboard that somebody has computed beside its object, if that is here. Without it the first reader
    /// after a restart computes it again.
    pub fn keep_outboard(&self, outboard: &Outboard) {
        let object = outboard.object();
        let generation = self.shared.table().lease_unused(&object);
        if let Some(generation) = generation {
            let _lease = fill::Lease::new(&self.shared, object, generation);
            self.shared.keep_outboard(outboard, generation);
        }
    }

    fn take_in_file(
        &self,
        request: &ImportRequest<'_>,
        verified: bool,
        may_evict: bool,
    ) -> Result<Imported, ImportError> {
        let ImportRequest {
            source,
            object,
            options,
        } = request;
        let size = source.stamp().size;
        let imported = fill::place_whole(&self.shared, object, size, may_evict, |disk, path| {
            let imported = import::place(disk, path, source, *options)?;
            // A hard link shares its permissions with the source, which are not ours to change.
            Ok(fill::Placed {
                read_only: imported.method != ImportMethod::Hardlink,
                verified,
                result: imported,
            })
        })?;
        let mut imported = imported.unwrap_or(Imported {
            method: ImportMethod::Present,
            stamp: source.stamp(),
        });
        if imported.method == ImportMethod::Hardlink {
            // Getting its final name changed the ctime once more.
            imported.stamp = source.check_content_unchanged()?;
        }
        Ok(imported)
    }

    /// Whether the whole object is here, without opening or verifying it; not counted as a use.
    pub fn has_whole(&self, object: &ObjectId) -> Result<bool> {
        self.shared.adopt(object)?;
        Ok(self.shared.table().slot(object).is_some_and(|slot| slot.whole))
    }
}

#[async_trait::async_trait]
impl Objects for DiskCache {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let handle = Shared::open_object(&self.shared, object)?;
        Ok(handle.map(|handle| Arc::new(handle) as Arc<dyn ObjectHandle>))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let Some(handle) = Shared::open_object(&self.shared, object)? else {
            return Ok(None);
        };
        if let Some(partial) = handle.partial()
            && let Some(outboard) = partial.outboard()
        {
            return Ok(Some(outboard));
        }
        if !handle.is_complete() {
            return Ok(None);
        }
        if let Some(proof) = handle.proof() {
            return Ok(Some(proof.outboard().clone()));
        }
        if let Some(outboard) = self.shared.load_outboard(*object, handle.size()) {
            return Ok(Some(outboard));
        }
        let outboard = open::hash_with(handle.size(), |range| handle.read_range(range))?;
        if outboard.object() != *object {
            return Err(self.shared.put_aside(object, handle.generation(), OTHER_HASH));
        }
        if handle.partial().is_none() {
            self.shared.keep_outboard(&outboard, handle.generation());
        }
        Ok(Some(outboard))
    }
}

#[async_trait::async_trait]
impl ObjectCache for DiskCache {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        fill::begin(&self.shared, object, size)
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        self.shared.ensure_loaded().map_err(cache_error)?;
        let trash = {
            let mut table = self.shared.table();
            match table.slot(object) {
                None => return Ok(false),
                Some(slot) if slot.filling => return Err(CacheError::Busy(*object)),
                Some(_) => {}
            }
            self.shared.give_up(&mut table, object, false).map_err(cache_error)?
        };
        self.shared.empty_trash(&trash);
        Ok(true)
    }

    fn overhead_bytes(&self, size: u64) -> u64 {
        table::side_of(size, false)
    }

    fn usage(&self) -> CacheUsage {
        let table = self.shared.table();
        CacheUsage {
            used_bytes: table.used(),
            reserved_bytes: table.reserved(),
            side_bytes: table.side(),
            max_bytes: table.limits.max_bytes,
            objects: table.len() as u64,
            damaged: table.damaged,
            evicted: table.evicted,
        }
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        self.shared.write_checkpoint().map_err(cache_error)
    }

    fn blocks(&self) -> bool {
        true
    }

    fn pins(&self) -> Option<&dyn Pins> {
        Some(self)
    }

    fn inventory(&self) -> Option<&dyn Inventory> {
        Some(self)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        Some(self)
    }

    fn sweeper(&self) -> Option<&dyn Sweeper> {
        Some(self)
    }

    fn scrubber(&self) -> Option<&dyn Scrubber> {
        Some(self)
    }

    fn adoption(&self) -> Option<&dyn Adoption> {
        Some(self)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

/// What it means for an object that its file cannot be read: file systems that check content say so by nothing else.
fn read_error(object: ObjectId, error: StoreError) -> CacheError {
    if error.is_of_process() {
        return cache_error(error);
    }
    let reason = error.to_string();
    CacheError::Damaged { object, reason }
}

/// An error of the disk as the cache trait tells it.
pub(crate) fn cache_error(error: StoreError) -> CacheError {
    match error {
        StoreError::Io { op, path, source } | StoreError::NoSpace { op, path, source } => CacheError::Io {
            what: format!("cannot {op} {}", path.display()),
            source: Arc::new(source),
        },
        other => CacheError::Io {
            what: "object cache".to_owned(),
            source: Arc::new(other),
        },
    }
}
