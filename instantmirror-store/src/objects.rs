//! The master's object store: every object of every live snapshot, imported from source trees.
//!
//! Objects get their name by rename after they were hashed, and only what was hashed gets it: the digest is
//! computed from the very copy that is kept (reflink, copy) or from the very inode (hard link). Many processes
//! may read while one publishes. There is no limit and no expiry here: retention decides what goes,
//! and calls [`ObjectStore::discard`].
//!
//! Invariant: a reader gets bytes that match the object's outboard, or an error; never rotten bytes in silence.

mod storage;
mod writer;

use std::collections::HashSet;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::outboard::{Outboard, group_cover};
use instantmirror_core::traits::{ObjectHandle, Objects};
use instantmirror_core::{CacheError, ObjectId, RangeSet};

use crate::digest::{ContentDigest, ContentHasher, DigestTable, READ_BYTES};
use crate::disk::{Disk, DiskFile, FileKind};
use crate::error::{Result, StoreError};
use crate::import::{ImportMethod, ImportOptions, hardlink, reflink};
use crate::read_once::{copy, finished, read_all};
use crate::tree::{FileStamp, SourceFile};

pub use storage::StorageObjects;
pub use writer::ObjectWriter;

const OBJECTS: &str = "objects";
const TMP: &str = "tmp";
pub(crate) const ADVICE: &str = "restore the file from a backup, or publish the source file again";

/// Up to so many new objects are synced one by one. Beyond that the whole file system is, which is cheaper for many
/// but waits for whatever else is being written there.
const SYNC_EACH_MAX: usize = 64;

/// A file of a source tree that is now an object.
#[derive(Debug, Clone)]
pub struct ImportedFile {
    /// All hashes of its content.
    pub digest: ContentDigest,
    /// The source's stamp afterwards; the one to compare with next time.
    pub stamp: FileStamp,
    /// How it came in.
    pub method: ImportMethod,
    /// The ctime of the stamp is that of a link which the import made.
    pub is_linked: bool,
}

/// Objects by id, with the table of their digests. Share it behind an `Arc`.
///
/// As [`Objects`] its futures block on the disk: async callers are given it inside
/// [`Blocking`](instantmirror_core::traits::blocking::Blocking).
#[derive(Debug)]
pub struct ObjectStore {
    disk: Arc<dyn Disk>,
    digests: Arc<DigestTable>,
    serial: AtomicU64,
    /// The file system said that it cannot: not asked again for every file.
    no_reflink: AtomicBool,
    no_hardlink: AtomicBool,
    /// Named and not [committed](Self::commit), so not durable yet.
    fresh: Mutex<HashSet<ObjectId>>,
    /// Files are hashed and not kept.
    is_dry: bool,
}

fn object_path(object: &ObjectId) -> PathBuf {
    let name = object.to_string();
    Path::new(OBJECTS).join(&name[..2]).join(name)
}

impl ObjectStore {
    /// Opens (making it where needed) the store that fills `disk`'s root. Takes no lock: the publisher holds the
    /// one of its [`DigestTable`].
    ///
    /// Errors: [`StoreError::Io`] with the directory.
    pub fn open(disk: Arc<dyn Disk>, digests: Arc<DigestTable>) -> Result<Self> {
        for dir in [OBJECTS, TMP] {
            disk.create_dir_all(Path::new(dir))?;
        }
        Ok(Self::open_reader(disk, digests))
    }

    /// The store that fills `disk`'s root, for reading: nothing is made, nothing is looked at.
    pub fn open_reader(disk: Arc<dyn Disk>, digests: Arc<DigestTable>) -> Self {
        let (no_reflink, no_hardlink) = (AtomicBool::new(false), AtomicBool::new(false));
        Self {
            disk,
            digests,
            serial: AtomicU64::new(0),
            no_reflink,
            no_hardlink,
            fresh: Mutex::default(),
            is_dry: false,
        }
    }

    /// The same for a dry run: an [import](Self::import) reads and hashes a file, and keeps nothing of it.
    pub fn open_dry(disk: Arc<dyn Disk>, digests: Arc<DigestTable>) -> Self {
        Self {
            is_dry: true,
            ..Self::open_reader(disk, digests)
        }
    }

    /// The SHA-256 of an object, if it is known.
    ///
    /// Errors: [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>> {
        self.digests.sha256(object)
    }

    /// All hashes of an object, if they are known.
    ///
    /// Errors: [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn digest(&self, object: &ObjectId) -> Result<Option<ContentDigest>> {
        self.digests.digest(object)
    }

    /// Removes what a publisher left behind when it was killed. For the publisher, before it begins.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn remove_leftovers(&self) -> Result<()> {
        for item in self.disk.list(Path::new(TMP))? {
            self.disk.remove(&Path::new(TMP).join(item.name))?;
        }
        Ok(())
    }

    /// Whether an object of this size is here. Its content is not looked at.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn contains(&self, object: &ObjectId, size: u64) -> Result<bool> {
        Ok(self.size(object)? == Some(size))
    }

    /// The size of an object in bytes; `None` if it is not here.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn size(&self, object: &ObjectId) -> Result<Option<u64>> {
        match self.disk.metadata(&object_path(object)) {
            Ok(meta) => Ok(Some(meta.len)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether an object is this very file of a source tree, by a hard link. False if that cannot be told.
    pub fn is_linked_to(&self, object: &ObjectId, source: &FileStamp) -> bool {
        let path = self.disk.os_path(&object_path(object));
        let Some(Ok(stat)) = path.map(rustix::fs::lstat) else {
            return false;
        };
        let dev = u64::from(rustix::fs::major(stat.st_dev)) << 32 | u64::from(rustix::fs::minor(stat.st_dev));
        (dev, stat.st_ino) == (source.dev, source.ino)
    }

    /// Whether an object is here, of whatever size.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn is_here(&self, object: &ObjectId) -> Result<bool> {
        Ok(self.size(object)?.is_some())
    }

    /// Reads a source file once, hashes it, and keeps it. Not durable before [`commit`](Self::commit).
    ///
    /// Errors: [`StoreError::SourceChanged`] if the file changed meanwhile (nothing is kept; try again),
    /// [`StoreError::NoSpace`], [`StoreError::Io`] naming source or store.
    pub fn import(
        &self,
        source: &mut SourceFile,
        piece_bytes: u32,
        options: ImportOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<ImportedFile> {
        if self.is_dry {
            return look_at(source, piece_bytes, progress);
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let tmp = Path::new(TMP).join(format!("{}-{serial}", std::process::id()));
        let imported = self.import_to(&tmp, source, piece_bytes, options, progress);
        if imported.is_err() {
            // Best effort: what stays is removed before the next publish.
            let _ = self.disk.remove(&tmp);
        }
        imported
    }

    fn import_to(
        &self,
        tmp: &Path,
        source: &mut SourceFile,
        piece_bytes: u32,
        options: ImportOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<ImportedFile> {
        let mut hasher = ContentHasher::new(piece_bytes)?;
        let method = self.link_to(tmp, source, options)?;
        match method {
            ImportMethod::Copy => {
                let file = self.disk.create_new(tmp)?;
                copy(source, Some(file.as_ref()), &mut hasher, progress)?;
            }
            // A reflink shares blocks only until the source is changed, so what is hashed is what is kept.
            ImportMethod::Reflink => read_all(self.disk.open(tmp)?.as_ref(), tmp, &mut hasher, progress)?,
            _ => copy(source, None, &mut hasher, progress)?,
        }
        match method {
            ImportMethod::Hardlink => _ = source.check_content_unchanged()?,
            _ => source.check_unchanged()?,
        }
        let digest = finished(hasher, source)?;
        let named = self.name(tmp, &digest, method)?;
        // Linking and renaming change the ctime of a file that is ours and the source's at once.
        let stamp = match method {
            ImportMethod::Hardlink => source.check_content_unchanged()?,
            _ => source.stamp(),
        };
        Ok(ImportedFile {
            digest,
            stamp,
            method: named,
            is_linked: method == ImportMethod::Hardlink,
        })
    }

    /// Tries to share the source's blocks or inode; [`ImportMethod::Copy`] if neither can be.
    fn link_to(&self, tmp: &Path, source: &SourceFile, options: ImportOptions) -> Result<ImportMethod> {
        if options.reflink && !self.no_reflink.load(Ordering::Relaxed) {
            if reflink(self.disk.as_ref(), tmp, source.file())? {
                return Ok(ImportMethod::Reflink);
            }
            self.no_reflink.store(true, Ordering::Relaxed);
        }
        if options.hardlink && !self.no_hardlink.load(Ordering::Relaxed) {
            if hardlink(self.disk.as_ref(), tmp, source.file())? {
                return Ok(ImportMethod::Hardlink);
            }
            self.no_hardlink.store(true, Ordering::Relaxed);
        }
        Ok(ImportMethod::Copy)
    }

    fn name(&self, tmp: &Path, digest: &ContentDigest, method: ImportMethod) -> Result<ImportMethod> {
        let object = digest.object();
        if self.is_good(&object, digest.size())? {
            self.disk.remove(tmp)?;
            return Ok(ImportMethod::Present);
        }
        let path = object_path(&object);
        match self.disk.rename(tmp, &path) {
            // Its directory is missing for the first of many thousand objects only: made then, not asked for each time.
            Err(error) if error.is_not_found() => {
                if let Some(dir) = path.parent() {
                    self.disk.create_dir_all(dir)?;
                }
                self.disk.rename(tmp, &path)?;
            }
            renamed => renamed?,
        }
        if method == ImportMethod::Hardlink {
            // Two names of one file: a rename between them does nothing and leaves both.
            match self.disk.remove(tmp) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        self.fresh().insert(object);
        Ok(method)
    }

    // Every change under the lock is one insertion or a whole replacement.
    fn fresh(&self) -> MutexGuard<'_, HashSet<ObjectId>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an object is here and its content need not be doubted. One that a publish left that never came to
    /// its sync may have lost its content in a power cut: only those of this publish, and those with a digest
    /// (which is stored after the sync), are good.
    fn is_good(&self, object: &ObjectId, size: u64) -> Result<bool> {
        Ok(self.contains(object, size)? && (self.fresh().contains(object) || self.digests.digest(object)?.is_some()))
    }

    /// Makes imported objects durable, then their digests: from then on they are good for ever.
    ///
    /// Errors: [`StoreError::Io`] or [`StoreError::NoSpace`]; none of them may be relied on then.
    pub fn commit(&self, digests: &[ContentDigest]) -> Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        if self.is_dry {
            return self.digests.put(digests);
        }
        let fresh: Vec<ObjectId> = self.fresh().iter().copied().collect();
        self.sync(&fresh)?;
        self.digests.put(digests)?;
        // Not before: a second file with this content must not replace the one that was synced.
        let mut held = self.fresh();
        digests.iter().for_each(|digest| _ = held.remove(&digest.object()));
        Ok(())
    }

    /// Removes objects, and returns how many and how many bytes that were; what is not here is passed over. Open handles
    /// stay readable. Not durable before [`commit_discarded`](Self::commit_discarded). For the one who holds the lock of
    /// the [`DigestTable`], and knows that no snapshot refers to them.
    ///
    /// Errors: [`StoreError::Io`]; some of them may be gone then.
    pub fn discard(&self, objects: &[ObjectId]) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for object in objects {
            let path = object_path(object);
            let len = match self.disk.metadata(&path) {
                Err(error) if error.is_not_found() => continue,
                meta => meta?.len,
            };
            self.disk.remove(&path)?;
            self.fresh().remove(object);
            count += 1;
            bytes += len;
        }
        Ok((count, bytes))
    }

    /// Makes durable that these objects are gone.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn commit_discarded<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectId>) -> Result<()> {
        let paths = objects.into_iter().map(object_path);
        let dirs: HashSet<PathBuf> = paths.filter_map(|path| path.parent().map(Path::to_path_buf)).collect();
        for dir in dirs {
            match self.disk.sync_dir(&dir) {
                Err(error) if error.is_not_found() => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    /// Visits the ids of all objects here, directory by directory.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn for_each(&self, mut visit: impl FnMut(ObjectId)) -> Result<()> {
        for dir in self.disk.list(Path::new(OBJECTS))? {
            if dir.kind != FileKind::Dir {
                continue;
            }
            for item in self.disk.list(&Path::new(OBJECTS).join(&dir.name))? {
                if let Some(Ok(object)) = item.name.to_str().map(ObjectId::from_str) {
                    visit(object);
                }
            }
        }
        Ok(())
    }

    /// The content of an object as a stream, each group of it verified.
    ///
    /// Errors: [`StoreError::Io`] if it is not here, [`StoreError::Damaged`] if its digest is not.
    pub fn content(&self, object: &ObjectId) -> Result<ObjectContent> {
        let path = object_path(object);
        let object = self.open_object(object)?;
        let absent = || StoreError::io("open", &path, std::io::ErrorKind::NotFound);
        Ok(ObjectContent {
            object: object.ok_or_else(absent)?,
            position: 0,
            ready: Bytes::new(),
        })
    }

    fn sync(&self, fresh: &[ObjectId]) -> Result<()> {
        if fresh.len() > SYNC_EACH_MAX {
            return self.disk.sync_all();
        }
        let mut dirs = HashSet::new();
        for object in fresh {
            let path = object_path(object);
            self.disk.open(&path)?.sync()?;
            dirs.extend(path.parent().map(Path::to_path_buf));
        }
        dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir))
    }

    fn open_object(&self, object: &ObjectId) -> Result<Option<StoredObject>> {
        let file = match self.disk.open(&object_path(object)) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(digest) = self.digests.digest(object)? else {
            let what = "its digest is not in the digest table";
            return Err(StoreError::damaged(&object_path(object), what, ADVICE));
        };
        Ok(Some(StoredObject {
            outboard: digest.outboard().clone(),
            file,
        }))
    }
}

/// An object being read from its start to its end; see [`ObjectStore::content`].
#[derive(Debug)]
pub struct ObjectContent {
    object: StoredObject,
    position: u64,
    ready: Bytes,
}

impl Read for ObjectContent {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.ready.is_empty() {
            let end = self.object.size().min(self.position + READ_BYTES as u64);
            let read = self.object.read_range(self.position..end);
            (self.ready, self.position) = (read.map_err(std::io::Error::other)?, end);
        }
        let len = buffer.len().min(self.ready.len());
        buffer[..len].copy_from_slice(&self.ready.split_to(len));
        Ok(len)
    }
}

/// Imports a file without keeping it.
fn look_at(source: &SourceFile, piece_bytes: u32, progress: &mut dyn FnMut(u64)) -> Result<ImportedFile> {
    let mut hasher = ContentHasher::new(piece_bytes)?;
    copy(source, None, &mut hasher, progress)?;
    source.check_unchanged()?;
    Ok(ImportedFile {
        digest: finished(hasher, source)?,
        stamp: source.stamp(),
        method: ImportMethod::Present,
        is_linked: false,
    })
}

/// An open object of the store.
#[derive(Debug)]
struct StoredObject {
    outboard: Outboard,
    file: Box<dyn DiskFile>,
}

#[async_trait]
impl ObjectHandle for StoredObject {
    fn object(&self) -> ObjectId {
        self.outboard.object()
    }

    fn size(&self) -> u64 {
        self.outboard.size()
    }

    fn present(&self) -> RangeSet {
        let mut all = RangeSet::new();
        all.insert(0..self.size());
        all
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        self.read_range(range)
    }
}

impl StoredObject {
    fn size(&self) -> u64 {
        self.outboard.size()
    }

    /// Reads and verifies the groups that cover `range`.
    fn read_range(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        let object = self.outboard.object();
        let cover = group_cover(range.clone(), self.size());
        let len = usize::try_from(cover.end - cover.start);
        let Some(len) = len.ok().filter(|_| range.end <= self.size()) else {
            return Err(CacheError::Absent { object, range });
        };
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let read = self.file.read_at(&mut bytes[filled..], cover.start + filled as u64);
            match read.map_err(|error| cache_error(&error, object))? {
                0 => {
                    let reason = format!("its file ends at byte {}", cover.start + filled as u64);
                    return Err(CacheError::Damaged { object, reason });
                }
                read => filled += read,
            }
        }
        if let Err(error) = self.outboard.verify_groups(cover.start, &bytes) {
            return Err(CacheError::Damaged {
                object,
                reason: format!("{error}; {ADVICE}"),
            });
        }
        let skip = usize::try_from(range.start - cover.start).unwrap_or(len);
        let take = usize::try_from(range.end - range.start).unwrap_or(len);
        Ok(Bytes::from(bytes).slice(skip..skip + take))
    }
}

fn cache_error(error: &StoreError, object: ObjectId) -> CacheError {
    let what = format!("object {object}: {error}");
    CacheError::Io {
        what,
        source: Arc::new(std::io::Error::other(error.to_string())),
    }
}

#[async_trait]
impl Objects for ObjectStore {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let opened = self.open_object(object).map_err(|error| match error {
            StoreError::Damaged { .. } => CacheError::Damaged {
                object: *object,
                reason: error.to_string(),
            },
            other => cache_error(&other, *object),
        })?;
        Ok(opened.map(|object| Arc::new(object) as Arc<dyn ObjectHandle>))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let digest = self
            .digests
            .digest(object)
            .map_err(|error| cache_error(&error, *object))?;
        Ok(digest.map(|digest| digest.outboard().clone()))
    }
}
