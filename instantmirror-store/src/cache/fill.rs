//! Handles and fills of the disk cache, and the leases that keep their objects.
//!
//! Dropping any of them at any moment leaves the account right: a lease ends in its `Drop`, a fill's reservation in
//! its `Drop`.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use instantmirror_core::outboard::{GROUP_BYTES, Outboard, VerifyError};
use instantmirror_core::traits::{CacheEvent, ObjectFill, ObjectHandle};
use instantmirror_core::{CacheError, ObjectId, RangeSet};

use super::layout::{object_path, partial_path};
use super::load::recorded_mtime;
use super::partial::{Partial, read_exactly, remove_files, remove_side_files};
use super::proof::{Proof, publish_outboard, rename_into, take_outboard_back};
use super::table::Found;
use super::{Shared, cache_error};
use crate::disk::{Disk, DiskFile};
use crate::error::Result;
use crate::import::ImportError;

/// Keeps an object from being given up.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    object: ObjectId,
    generation: u64,
}

impl Lease {
    /// Takes over a lease that the table has counted.
    pub(super) fn new(shared: &Arc<Shared>, object: ObjectId, generation: u64) -> Self {
        Self {
            shared: Arc::clone(shared),
            object,
            generation,
        }
    }

    pub(super) fn object(&self) -> ObjectId {
        self.object
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.table().release(&self.object, self.generation);
    }
}

#[derive(Clone, Debug)]
enum Content {
    Whole {
        file: Arc<dyn DiskFile>,
        size: u64,
        /// Absent if the object is trusted.
        proof: Option<Arc<Proof>>,
    },
    Partial(Arc<Partial>),
}

/// An open object. The content is closed before the lease ends.
#[derive(Clone, Debug)]
pub(super) struct DiskHandle {
    content: Content,
    lease: Arc<Lease>,
}

impl DiskHandle {
    pub(super) fn of_whole(file: Box<dyn DiskFile>, size: u64, proof: Option<Arc<Proof>>, lease: Lease) -> Self {
        Self {
            content: Content::Whole {
                file: file.into(),
                size,
                proof,
            },
            lease: Arc::new(lease),
        }
    }

    pub(super) fn of_partial(partial: Arc<Partial>, lease: Lease) -> Self {
        Self {
            content: Content::Partial(partial),
            lease: Arc::new(lease),
        }
    }

    pub(super) fn partial(&self) -> Option<&Arc<Partial>> {
        match &self.content {
            Content::Partial(partial) => Some(partial),
            Content::Whole { .. } => None,
        }
    }

    /// How reads are verified, if the object is whole and not trusted.
    pub(super) fn proof(&self) -> Option<&Arc<Proof>> {
        match &self.content {
            Content::Whole { proof, .. } => proof.as_ref(),
            Content::Partial(_) => None,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.lease.generation
    }

    /// Reads exactly `range`; see [`ObjectHandle::read`].
    pub(super) fn read_range(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        match &self.content {
            Content::Partial(partial) => partial.read(range),
            Content::Whole { size, .. } if range.end > *size || range.start > range.end => Err(CacheError::Absent {
                object: self.lease.object,
                range,
            }),
            Content::Whole {
                file,
                proof: Some(proof),
                ..
            } => self.read_verified(file.as_ref(), proof, range),
            Content::Whole { file, .. } => read_exactly(file.as_ref(), self.lease.object, range)
                .map_err(|error| self.lease.shared.blame_file(error, self.lease.generation)),
        }
    }

    /// Reads a whole object that is not trusted, and tells the table once nothing of it is left to verify.
    fn read_verified(&self, file: &dyn DiskFile, proof: &Proof, range: Range<u64>) -> Result<Bytes, CacheError> {
        let Lease {
            shared,
            object,
            generation,
        } = self.lease.as_ref();
        let was_complete = proof.is_complete();
        let read = proof.read(file, range).map_err(|error| match error {
            CacheError::Verify(error) => shared.put_aside(object, *generation, &error.to_string()),
            other => shared.blame_file(other, *generation),
        })?;
        if !was_complete && proof.is_complete() {
            shared.table().set_checked(object, *generation);
        }
        Ok(read)
    }
}

#[async_trait::async_trait]
impl ObjectHandle for DiskHandle {
    fn object(&self) -> ObjectId {
        self.lease.object
    }

    fn size(&self) -> u64 {
        match &self.content {
            Content::Whole { size, .. } => *size,
            Content::Partial(partial) => partial.size(),
        }
    }

    fn present(&self) -> RangeSet {
        match &self.content {
            Content::Whole { size, .. } => {
                let mut all = RangeSet::new();
                all.insert(0..*size);
                all
            }
            Content::Partial(partial) => partial.present(),
        }
    }

    fn is_complete(&self) -> bool {
        self.partial().is_none_or(|partial| partial.gap().is_none())
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        self.read_range(range)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // Whoever has the descriptor sends bytes that nobody hashes.
        if self.proof().is_some_and(|proof| !proof.is_complete()) {
            return None;
        }
        let file = match &self.content {
            Content::Whole { file, .. } => file.os_file(),
            Content::Partial(partial) => partial.os_file(),
        };
        file.map(|file| file.as_fd())
    }
}

/// The right to add to an object. Exists from before the reservation, so that nothing has to be undone by hand.
#[derive(Debug)]
struct FillRight {
    lease: Arc<Lease>,
}

impl Drop for FillRight {
    fn drop(&mut self) {
        let Lease {
            shared,
            object,
            generation,
        } = self.lease.as_ref();
        // Before the right ends: nobody else is at the files then.
        flush_on_drop(shared, object, *generation);
        let trash = {
            let mut table = shared.table();
            table.end_fill(object, *generation);
            let slot = table.slot(object).filter(|_| table.is_current(object, *generation));
            if slot.is_none_or(|slot| slot.whole || slot.held > 0) {
                return;
            }
            shared.give_up(&mut table, object, false)
        };
        match trash {
            Ok(trash) => {
                shared.empty_trash(&trash);
            }
            Err(error) => tracing::warn!(%object, %error, "cannot remove an empty partial object"),
        }
    }
}

fn flush_on_drop(shared: &Shared, object: &ObjectId, generation: u64) {
    let partial = {
        let table = shared.table();
        let slot = table.slot(object).filter(|_| table.is_current(object, generation));
        let unfinished = slot.filter(|slot| !slot.whole && slot.held > 0);
        unfinished.and_then(|slot| slot.partial())
    };
    if let Some(Err(error)) = partial.map(|partial| partial.flush(shared.disk())) {
        tracing::warn!(%object, %error, "cannot note the present groups of a partial object; a restart fetches them again");
    }
}

/// A fill under way, or of an object that is whole already.
#[derive(Debug)]
struct DiskFill {
    /// Absent if the object was whole before. Ends while the content is still open: it notes the present groups.
    right: Option<FillRight>,
    handle: DiskHandle,
}

/// Begins or resumes a fill; see `ObjectCache::fill`.
pub(super) fn begin(shared: &Arc<Shared>, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
    if Outboard::len_for(size) == 0 {
        // The one check that is possible without content: an empty object has the id of nothing.
        Outboard::verify(*object, size, Bytes::new())?;
    }
    shared.adopt(object).map_err(cache_error)?;
    if !is_whole(shared, object) && !shared.load_unless_loading().map_err(cache_error)? {
        // Nobody knows yet how much is here: whoever wants it is served past the cache rather than kept waiting.
        return Err(CacheError::Full { object: *object, size });
    }
    if is_whole(shared, object) {
        match Shared::open_object(shared, object) {
            Ok(Some(handle)) if handle.size() == size => return Ok(Arc::new(DiskFill { handle, right: None })),
            Ok(Some(handle)) => match prove_size(&handle) {
                // The object is as long as the file, so the size that was asked for is wrong.
                Ok(()) => return Err(VerifyError::Outboard(*object).into()),
                Err(CacheError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            },
            Ok(None) | Err(CacheError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let right = claim(shared, object, size)?;
    shared.reserve(object, size, true)?;
    let partial = open_partial(shared, &right.lease, size)?;
    let handle = DiskHandle {
        content: Content::Partial(partial),
        lease: Arc::clone(&right.lease),
    };
    Ok(Arc::new(DiskFill {
        handle,
        right: Some(right),
    }))
}

/// The last group, once verified, says where the object ends.
fn prove_size(handle: &DiskHandle) -> Result<(), CacheError> {
    let size = handle.size();
    handle.read_range(size.saturating_sub(1)..size).map(|_| ())
}

fn is_whole(shared: &Shared, object: &ObjectId) -> bool {
    shared.table().slot(object).is_some_and(|slot| slot.whole)
}

/// Marks the object as being filled, under a lease.
fn claim(shared: &Arc<Shared>, object: &ObjectId, size: u64) -> Result<FillRight, CacheError> {
    let mut old = None;
    let generation = {
        let mut table = shared.table();
        match table.slot(object) {
            Some(slot) if slot.filling || slot.whole => return Err(CacheError::Busy(*object)),
            // Left by a fill that was told another size: of no use.
            Some(slot) if slot.size != size => {
                old = Some(shared.give_up(&mut table, object, false).map_err(cache_error)?);
            }
            _ => {}
        }
        let found = Found {
            size,
            ..Found::default()
        };
        table.insert(*object, found, None);
        table.begin_fill(object).unwrap_or_default()
    };
    if let Some(trash) = old {
        shared.empty_trash(&trash);
    }
    Ok(FillRight {
        lease: Arc::new(Lease::new(shared, *object, generation)),
    })
}

fn open_partial(shared: &Arc<Shared>, lease: &Lease, size: u64) -> Result<Arc<Partial>, CacheError> {
    let (open, held) = {
        let table = shared.table();
        table
            .slot(&lease.object)
            .map_or((None, 0), |slot| (slot.partial(), slot.held))
    };
    if let Some(open) = open {
        return Ok(open);
    }
    if held > 0
        && let Some(partial) = shared.resume(lease)?
    {
        return Ok(partial);
    }
    let partial = Arc::new(Partial::create(lease.object, size));
    let mut table = shared.table();
    table.set_partial(&lease.object, &partial);
    table.set_held(&lease.object, lease.generation, 0);
    Ok(partial)
}

/// Takes a whole object in that `place` puts at the path it is given; `place` answers for the content. False if it was
/// here already. It gets the name at once and is durable after the next checkpoint.
pub(super) fn place_whole<T>(
    shared: &Arc<Shared>,
    object: &ObjectId,
    size: u64,
    may_evict: bool,
    place: impl FnOnce(&dyn Disk, &Path) -> Result<Placed<T>>,
) -> Result<Option<T>, ImportError> {
    shared.ensure_loaded()?;
    if is_whole(shared, object) {
        return Ok(None);
    }
    let right = claim(shared, object, size)?;
    shared.reserve(object, size, may_evict)?;
    remove_files(shared.disk(), object);
    let Placed {
        read_only,
        verified,
        result,
    } = place(shared.disk(), &partial_path(object)).inspect_err(|_| remove_files(shared.disk(), object))?;
    shared.table().set_held(object, right.lease.generation, size);
    publish(shared, object, verified, |to| {
        if read_only {
            shared.disk().set_read_only(to)?;
        }
        shared.disk().metadata(to).map(|meta| meta.mtime_ns)
    })?;
    Ok(Some(result))
}

/// What was placed, whether its permissions may be changed, and whether it can be believed.
pub(super) struct Placed<T> {
    pub(super) read_only: bool,
    /// Whether anybody has hashed it; else its first reader does.
    pub(super) verified: bool,
    pub(super) result: T,
}

#[async_trait::async_trait]
impl ObjectFill for DiskFill {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        Arc::new(self.handle.clone())
    }

    fn outboard(&self) -> Option<Outboard> {
        self.handle.partial().and_then(|partial| partial.outboard())
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        match self.handle.partial() {
            Some(partial) => partial.set_outboard(outboard),
            None => Ok(()),
        }
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        let Some(partial) = self.handle.partial() else {
            return Ok(());
        };
        let written = partial.write(self.shared().disk(), offset, &data);
        let lease = &self.handle.lease;
        // Asked for under the lock, so that the last to arrive tells the newest.
        let mut table = self.shared().table();
        if table.slot(&lease.object).is_some_and(|slot| !slot.whole) {
            table.set_held(&lease.object, lease.generation, partial.held_bytes());
        }
        // An object of one group is told of when it has its name, at once.
        if written.is_ok() && partial.size() > GROUP_BYTES {
            table.tell(CacheEvent::Arrived {
                object: lease.object,
                size: partial.size(),
                range: offset..offset + data.len() as u64,
            });
        }
        written
    }

    async fn finish(&self) -> Result<(), CacheError> {
        let (Some(partial), Some(_)) = (self.handle.partial(), &self.right) else {
            return Ok(());
        };
        let object = self.handle.lease.object;
        if let Some(range) = partial.gap() {
            return Err(CacheError::Absent { object, range });
        }
        partial.ensure_file(self.shared().disk()).map_err(cache_error)?;
        publish(self.shared(), &object, true, |_| partial.seal(self.shared().disk())).map_err(cache_error)
    }
}

impl DiskFill {
    fn shared(&self) -> &Shared {
        &self.handle.lease.shared
    }
}

/// Gives a complete object its name. Whoever calls this has the right to fill it, so nobody else gives it up, begins
/// it anew or names it meanwhile: the table is locked for its own part only, and not while the disk takes its time.
/// `seal` makes it read-only where it may be, and says when it was changed last.
fn publish(shared: &Shared, object: &ObjectId, verified: bool, seal: impl FnOnce(&Path) -> Result<i128>) -> Result<()> {
    let to = object_path(object);
    let size = match shared.table().slot(object) {
        Some(slot) if !slot.whole => slot.size,
        _ => return Ok(()),
    };
    // First, so that an object never waits for its outboard; see `Partial::resume` for what ends in between.
    if Outboard::len_for(size) > 0 {
        publish_outboard(shared.disk(), object);
    }
    rename_into(shared.disk(), &partial_path(object), &to)
        .inspect_err(|_| take_outboard_back(shared.disk(), object))?;
    let mtime_ns = seal(&to).unwrap_or_else(|error| {
        tracing::warn!(%object, %error, "object may stay writable, and is verified again after a restart");
        0
    });
    // An object of one group never had any.
    if size > GROUP_BYTES {
        remove_side_files(shared.disk(), object);
    }
    shared.table().set_whole(object, recorded_mtime(mtime_ns), verified);
    Ok(())
}
