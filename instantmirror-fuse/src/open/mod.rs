//! [`Opens`]: open files, and reading them.
//!
//! Key decision: **an open never waits, a read waits with an end.** What is here whole is handed to the kernel as a backing file
//! where it takes one; everything else is read through [`ObjectSource`], each READ with its own intent, so that exactly what
//! the reader asks for is fetched, in its order, and the source reads ahead of readers that go on.
//!
//! | what happened | errno | why |
//! |---|---|---|
//! | no source can be reached now, or the time is over | `ETIMEDOUT` | it may be there later; no program takes the file for gone |
//! | no source has it, all send something else, the cache fails | `EIO` | nothing but an operator helps |
//! | the reader was interrupted | `EINTR` | it is being killed |
//! | the snapshot is gone | `ESTALE` | the number stands for nothing any more |
//!
//! Never `ENOENT` (rsync takes the file for vanished) or `EAGAIN` (programs spin).
//!
//! [`ObjectSource`]: instantmirror_core::traits::ObjectSource

mod content;
mod state;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::HashMap;
use std::future::Future as _;
use std::io::IoSliceMut;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use instantmirror_core::traits::blocking::may_block;
use instantmirror_core::traits::{Catalogs, ObjectReader, ReadIntent};
use rustix::io::ReadWriteFlags;

use self::content::{Asked, errno_of, read_content};
use self::state::OpenState;
use self::waiting::Waiting;
use crate::filesystem::{BackingId, Content, Errno, Handle, InodeId, Kernel, OpenMode, Opened, Read, ReadReply};
use crate::imfs::{Executor, ImfsStatus};
use crate::tree::{FileSpot, lock};

/// Tables of open files, so that opens of different files seldom wait for each other.
const SHARDS: u8 = 16;
/// Files of this size are read whole by nearly everybody who opens them: they are asked for at the open.
const SMALL_BYTES: u64 = 64 * 1024;
/// Files that are read without being open, of which a reader is kept; then all are given up.
const UNOPENED_MAX: usize = 64;

/// A file that is open, or read without being so.
#[derive(Debug)]
struct OpenFile {
    spot: FileSpot,
    /// A reader of all of it, once it is here.
    settled: OnceLock<Arc<dyn ObjectReader>>,
    /// Keeps the interest in a small file until it is read.
    early: Mutex<Option<Arc<dyn ObjectReader>>>,
}

impl OpenFile {
    fn new(spot: FileSpot) -> Self {
        Self {
            spot,
            settled: OnceLock::new(),
            early: Mutex::default(),
        }
    }
}

type Shard = Mutex<HashMap<InodeId, (OpenState, Arc<OpenFile>)>>;

/// The open files of a mount.
#[derive(Debug)]
pub(crate) struct Opens {
    catalogs: Arc<dyn Catalogs>,
    executor: Arc<dyn Executor>,
    read_timeout: Duration,
    passthrough: bool,
    shards: [Shard; SHARDS as usize],
    unopened: Mutex<HashMap<InodeId, Arc<OpenFile>>>,
    waiting: Waiting,
    counters: Arc<Counters>,
    /// Why the kernel takes no backing files at all.
    refused: OnceLock<Errno>,
}

/// The step that was taken.
#[derive(Debug, Default)]
struct Counters {
    opens: AtomicU64,
    passed: AtomicU64,
    reads: AtomicU64,
    waited: AtomicU64,
    errors: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Opens {
    pub(crate) fn new(
        catalogs: Arc<dyn Catalogs>,
        executor: Arc<dyn Executor>,
        read_timeout: Duration,
        passthrough: bool,
    ) -> Self {
        Self {
            catalogs,
            executor,
            read_timeout,
            passthrough,
            shards: Default::default(),
            unopened: Mutex::default(),
            waiting: Waiting::default(),
            counters: Arc::default(),
            refused: OnceLock::new(),
        }
    }

    fn shard(&self, inode: InodeId) -> &Shard {
        // The low bits are the place in the directory.
        let at = (inode.0 ^ inode.0 >> 24) % u64::from(SHARDS);
        // Below 16.
        &self.shards[usize::try_from(at).unwrap_or(0)]
    }

    /// Ends the reads that have waited too long.
    pub(crate) fn expire(&self, now: Instant) {
        self.waiting.expire(now);
    }

    /// Opens a file that is at `find()`, which is asked only if it is not open yet.
    pub(crate) fn open(
        &self,
        inode: InodeId,
        kernel: Option<&Arc<dyn Kernel>>,
        find: impl FnOnce() -> Result<FileSpot, Errno>,
    ) -> Result<Opened, Errno> {
        let opened = |state: OpenState| Opened {
            handle: Handle(0),
            mode: state.backing().map_or(OpenMode::Cached, OpenMode::Passthrough),
        };
        count(&self.counters.opens);
        if let Some((state, _)) = lock(self.shard(inode)).get_mut(&inode) {
            state.open();
            return Ok(opened(*state));
        }
        let file = Arc::new(OpenFile::new(find()?));
        self.prepare(&file).inspect_err(|_| count(&self.counters.errors))?;
        let mut shard = lock(self.shard(inode));
        if let Some((state, _)) = shard.get_mut(&inode) {
            // Another thread was faster.
            state.open();
            return Ok(opened(*state));
        }
        let backing = kernel.and_then(|kernel| self.back(kernel, &file));
        let state = OpenState::first(backing);
        shard.insert(inode, (state, file));
        Ok(opened(state))
    }

    /// Looks whether a file is here as a whole; does not wait for it.
    ///
    /// # Errors
    /// It certainly cannot be had now.
    fn prepare(&self, file: &Arc<OpenFile>) -> Result<(), Errno> {
        let FileSpot {
            repository,
            path,
            file: meta,
        } = file.spot.clone();
        let range = 0..if meta.size <= SMALL_BYTES { meta.size } else { 0 };
        let objects = self.catalogs.objects();
        let intent = ReadIntent {
            range,
            path: Some(path),
        };
        let mut opening: Pin<Box<_>> = Box::pin(async move { objects.open(&repository, &meta, intent).await });
        let mut polled = Poll::Pending;
        self.executor.enter(&mut || {
            let mut context = Context::from_waker(Waker::noop());
            polled = may_block(|| opening.as_mut().poll(&mut context));
        });
        match polled {
            Poll::Ready(reader) => keep(file, reader.map_err(|error| errno_of(&error))?),
            Poll::Pending => {
                let file = Arc::clone(file);
                self.executor.spawn(Box::pin(async move {
                    // The reader is told what is wrong.
                    if let Ok(reader) = opening.await {
                        let _ = keep(&file, reader);
                    }
                }));
                Ok(())
            }
        }
    }

    /// Makes a file that is here a backing file.
    fn back(&self, kernel: &Arc<dyn Kernel>, file: &OpenFile) -> Option<BackingId> {
        if !self.passthrough || self.refused.get().is_some() {
            return None;
        }
        let descriptor = file.settled.get()?.descriptor()?;
        match kernel.back(descriptor) {
            Ok(id) => {
                count(&self.counters.passed);
                Some(id)
            }
            Err(error) => {
                if matches!(error, Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY) {
                    let _ = self.refused.set(error);
                    tracing::info!(%error, "no FUSE passthrough: content is served by this process (it needs CAP_SYS_ADMIN)");
                }
                None
            }
        }
    }

    pub(crate) fn release(&self, inode: InodeId, kernel: Option<&Arc<dyn Kernel>>) {
        let mut shard = lock(self.shard(inode));
        let Some((state, _)) = shard.get_mut(&inode) else {
            return;
        };
        if !state.release() {
            return;
        }
        let backing = state.backing();
        let closed = shard.remove(&inode);
        if let (Some(id), Some(kernel)) = (backing, kernel) {
            // Under the lock: the next open of the inode makes another one.
            kernel.unback(id);
        }
        drop(shard);
        drop(closed);
    }

    /// The file of a read: an open one, or one that the kernel reads without opening.
    fn file_of(&self, inode: InodeId, find: impl FnOnce() -> Result<FileSpot, Errno>) -> Result<Arc<OpenFile>, Errno> {
        if let Some((_, file)) = lock(self.shard(inode)).get(&inode) {
            return Ok(Arc::clone(file));
        }
        // Also of one that is known: its snapshot may be gone.
        let spot = find()?;
        let mut unopened = lock(&self.unopened);
        if unopened.len() >= UNOPENED_MAX && !unopened.contains_key(&inode) {
            unopened.clear();
        }
        let file = unopened.entry(inode).or_insert_with(|| Arc::new(OpenFile::new(spot)));
        Ok(Arc::clone(file))
    }

    pub(crate) fn read(&self, read: Read, reply: Box<dyn ReadReply>, find: impl FnOnce() -> Result<FileSpot, Errno>) {
        count(&self.counters.reads);
        let file = match self.file_of(read.inode, find) {
            Ok(file) => file,
            Err(error) => {
                count(&self.counters.errors);
                return reply.complete(Err(error));
            }
        };
        let size = file.spot.file.size;
        let start = read.offset.min(size);
        let range = start..start.saturating_add(read.len.into()).min(size);
        if range.is_empty() {
            return reply.complete(Ok(Content::Bytes(Bytes::new())));
        }
        if let Some(bytes) = file.settled.get().and_then(|reader| read_resident(reader, &range)) {
            return reply.complete(Ok(Content::Bytes(bytes)));
        }
        self.wait_for(file, range, reply);
    }

    /// Reads what has to be waited for: a disk, or the network.
    fn wait_for(&self, file: Arc<OpenFile>, range: std::ops::Range<u64>, reply: Box<dyn ReadReply>) {
        count(&self.counters.waited);
        let wait = self.waiting.add(Instant::now() + self.read_timeout);
        let (waiting, id) = (self.waiting.clone(), wait.id);
        reply.on_interrupt(Box::new(move || waiting.end(id, Errno::INTR)));
        let (objects, counters) = (self.catalogs.objects(), Arc::clone(&self.counters));
        self.executor.spawn(Box::pin(async move {
            let asked = Asked {
                objects,
                file: &file.spot,
                range,
                settled: file.settled.get().cloned(),
            };
            let result = read_content(asked, wait).await;
            drop(lock(&file.early).take());
            if let Ok((_, reader)) = &result {
                note_settled(&file, reader);
            }
            if result.is_err() {
                count(&counters.errors);
            }
            reply.complete(result.map(|(bytes, _)| Content::Bytes(bytes)));
        }));
    }

    pub(crate) fn status(&self) -> ImfsStatus {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let open = self.shards.iter().map(|shard| lock(shard).len()).sum();
        ImfsStatus {
            open_files: open,
            opens: get(&self.counters.opens),
            passed_through: get(&self.counters.passed),
            reads: get(&self.counters.reads),
            reads_waited: get(&self.counters.waited),
            errors: get(&self.counters.errors),
            waiting: self.waiting.len(),
            passthrough_refused: self.refused.get().copied(),
        }
    }
}

fn note_settled(file: &OpenFile, reader: &Arc<dyn ObjectReader>) -> bool {
    // The catalog is signed and says the size.
    let is_settled = reader.is_settled() && reader.size() == file.spot.file.size;
    if is_settled {
        let _ = file.settled.set(Arc::clone(reader));
    }
    is_settled
}

/// Keeps what an open has brought.
fn keep(file: &OpenFile, reader: Arc<dyn ObjectReader>) -> Result<(), Errno> {
    if reader.size() != file.spot.file.size {
        return Err(Errno::IO);
    }
    if !note_settled(file, &reader) && file.spot.file.size <= SMALL_BYTES {
        *lock(&file.early) = Some(reader);
    }
    Ok(())
}

/// Reads what needs no waiting for a disk.
fn read_resident(reader: &Arc<dyn ObjectReader>, range: &std::ops::Range<u64>) -> Option<Bytes> {
    let file = reader.descriptor()?;
    let len = usize::try_from(range.end - range.start).ok()?;
    let mut bytes = vec![0; len];
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let read = rustix::io::preadv2(file, &mut buffers, range.start, ReadWriteFlags::NOWAIT).ok()?;
    (read == len).then(|| bytes.into())
}
