//! [`StorageObjects`]: an [`ObjectWriter`] of any [`ObjectStorage`], with the table of digests beside it.
//!
//! Decision: a storage takes an object by its name, and the name is known when all of a file was read. So a file is read twice,
//! the second time from the page cache, and what was read the second time is held against what was hashed the first time.
//!
//! Invariant: an object is durable before its digest is, as in an [`ObjectStore`](super::ObjectStore).

use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use instantmirror_core::outboard::{GROUP_BYTES, Outboard};
use instantmirror_core::traits::blocking::wait;
use instantmirror_core::traits::{ObjectHandle, ObjectStorage, Objects};
use instantmirror_core::{CacheError, ObjectId};

use super::{ADVICE, ImportedFile, ObjectWriter, look_at};
use crate::digest::{ContentDigest, DigestTable};
use crate::error::{Result, StoreError};
use crate::import::{ImportMethod, ImportOptions};
use crate::tree::SourceFile;

/// Bytes that are handed over at once: whole groups.
const PART_BYTES: u64 = 8 * GROUP_BYTES;

/// The objects of a master in a storage that need not be a disk. Calls wait for the storage on the calling thread.
#[derive(Debug)]
pub struct StorageObjects {
    storage: Arc<dyn ObjectStorage>,
    /// The same for reading, verified.
    reader: Arc<dyn Objects>,
    digests: Arc<DigestTable>,
    is_dry: bool,
}

impl StorageObjects {
    /// Writes to `storage`, and reads by `reader`, which is the same storage, verified where it is not believed.
    pub fn new(storage: Arc<dyn ObjectStorage>, reader: Arc<dyn Objects>, digests: Arc<DigestTable>) -> Self {
        Self {
            storage,
            reader,
            digests,
            is_dry: false,
        }
    }

    /// The same for a dry run: an import reads and hashes a file, and keeps nothing of it.
    #[must_use]
    pub fn dry(self) -> Self {
        Self { is_dry: true, ..self }
    }

    /// Whether an object is here for good: one with a digest was acknowledged before.
    fn is_good(&self, digest: &ContentDigest) -> Result<bool> {
        Ok(self.digests.digest(&digest.object())?.is_some() && self.contains(&digest.object(), digest.size())?)
    }

    fn upload(&self, source: &SourceFile, outboard: &Outboard) -> Result<()> {
        let object = outboard.object();
        let failed = |error: CacheError| storage_error("store object", object, error);
        let mut upload = wait(self.storage.upload(outboard)).map_err(failed)?;
        let mut start = 0;
        while start < outboard.size() {
            let end = outboard.size().min(start + PART_BYTES);
            let part = read_part(source, start, end)?;
            if outboard.verify_groups(start, &part).is_err() {
                return Err(StoreError::SourceChanged {
                    path: source.path().to_path_buf(),
                    what: format!("bytes {start} to {end} are others than those that were hashed"),
                });
            }
            wait(upload.write(part)).map_err(failed)?;
            start = end;
        }
        wait(upload.finish()).map_err(failed)
    }
}

/// Some bytes of a file.
fn read_part(source: &SourceFile, start: u64, end: u64) -> Result<Bytes> {
    let mut part = vec![0; usize::try_from(end - start).unwrap_or_default()];
    match source.file().read_exact_at(&mut part, start) {
        Ok(()) => Ok(part.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(StoreError::SourceChanged {
            path: source.path().to_path_buf(),
            what: format!("it ends before byte {end}"),
        }),
        Err(error) => Err(StoreError::io("read", source.path(), error)),
    }
}

fn place(object: ObjectId) -> PathBuf {
    PathBuf::from(format!("object {object}"))
}

/// An error of the storage as this crate tells it.
fn storage_error(op: &'static str, object: ObjectId, error: CacheError) -> StoreError {
    match error {
        CacheError::Damaged { reason, .. } => StoreError::damaged(&place(object), reason, ADVICE),
        error => StoreError::io(op, &place(object), io::Error::other(error)),
    }
}

impl ObjectWriter for StorageObjects {
    fn size(&self, object: &ObjectId) -> Result<Option<u64>> {
        wait(self.storage.size(object)).map_err(|error| storage_error("look up", *object, error))
    }

    fn import(
        &self,
        source: &mut SourceFile,
        piece_bytes: u32,
        _: ImportOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<ImportedFile> {
        let looked_at = look_at(source, piece_bytes, progress)?;
        if self.is_dry || self.is_good(&looked_at.digest)? {
            return Ok(looked_at);
        }
        self.upload(source, looked_at.digest.outboard())?;
        source.check_unchanged()?;
        Ok(ImportedFile {
            method: ImportMethod::Copy,
            ..looked_at
        })
    }

    fn commit(&self, digests: &[ContentDigest]) -> Result<()> {
        match digests.is_empty() {
            true => Ok(()),
            false => self.digests.put(digests),
        }
    }

    fn discard(&self, objects: &[ObjectId]) -> Result<(u64, u64)> {
        let removed = wait(self.storage.remove(objects));
        let removed = removed
            .map_err(|error| StoreError::io("remove objects from", Path::new("the storage"), io::Error::other(error)));
        removed.map(|removed| (removed.objects, removed.bytes))
    }

    fn commit_discarded(&self, _: &[ObjectId]) -> Result<()> {
        Ok(())
    }

    fn content(&self, object: &ObjectId) -> Result<Box<dyn Read + '_>> {
        let opened = wait(self.reader.open(object)).map_err(|error| storage_error("open", *object, error))?;
        let handle = opened.ok_or_else(|| StoreError::io("open", &place(*object), io::ErrorKind::NotFound))?;
        Ok(Box::new(Content {
            handle,
            position: 0,
            ready: Bytes::new(),
        }))
    }

    fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>> {
        self.digests.sha256(object)
    }
}

/// An object being read from its start to its end.
struct Content {
    handle: Arc<dyn ObjectHandle>,
    position: u64,
    ready: Bytes,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            let end = self.handle.size().min(self.position + PART_BYTES);
            if self.position < end {
                let read = wait(self.handle.read(self.position..end));
                (self.ready, self.position) = (read.map_err(io::Error::other)?, end);
            }
        }
        let len = buffer.len().min(self.ready.len());
        buffer[..len].copy_from_slice(&self.ready.split_to(len));
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use instantmirror_core::RepoPath;
    use instantmirror_core::memory::MemoryStorage;

    use super::*;
    use crate::disk::MemoryDisk;
    use crate::tree::SourceTree;

    fn objects(is_dry: bool) -> (StorageObjects, Arc<MemoryStorage>) {
        let storage = Arc::new(MemoryStorage::new());
        let digests = Arc::new(DigestTable::open(Arc::new(MemoryDisk::new()), "digests").unwrap());
        let objects = StorageObjects::new(storage.clone(), storage.clone(), digests);
        (if is_dry { objects.dry() } else { objects }, storage)
    }

    fn import(objects: &StorageObjects, dir: &Path, content: &[u8]) -> ImportedFile {
        std::fs::write(dir.join("file"), content).unwrap();
        let tree = SourceTree::open(dir).unwrap();
        let mut file = tree.open_file(&RepoPath::new("file").unwrap()).unwrap();
        let options = ImportOptions {
            reflink: true,
            hardlink: true,
        };
        objects.import(&mut file, 1 << 20, options, &mut |_| {}).unwrap()
    }

    fn content(objects: &StorageObjects, object: &ObjectId) -> Vec<u8> {
        let mut content = Vec::new();
        objects.content(object).unwrap().read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn files_become_objects_with_all_their_digests() {
        let dir = tempfile::tempdir().unwrap();
        let (objects, _) = objects(false);
        for size in [0, 1, 65_536, 600_001] {
            let data = vec![7; size];
            let object = ObjectId::of(&data);
            assert_eq!(objects.size(&object).unwrap(), None);
            let imported = import(&objects, dir.path(), &data);
            assert_eq!(
                (imported.digest.object(), imported.method),
                (object, ImportMethod::Copy)
            );
            objects.commit(&[imported.digest]).unwrap();
            assert!(objects.contains(&object, size as u64).unwrap());
            assert!(content(&objects, &object) == data);
            assert!(objects.sha256(&object).unwrap().is_some());
            assert_eq!(import(&objects, dir.path(), &data).method, ImportMethod::Present);
            assert_eq!(objects.discard(&[object]).unwrap(), (1, size as u64));
            assert!(objects.content(&object).is_err());
            assert_eq!(
                import(&objects, dir.path(), &data).method,
                ImportMethod::Copy,
                "it is gone"
            );
        }
    }

    #[test]
    fn a_dry_run_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (objects, storage) = objects(true);
        let imported = import(&objects, dir.path(), b"content");
        assert_eq!(imported.digest.object(), ObjectId::of(b"content"));
        assert_eq!(wait(storage.size(&ObjectId::of(b"content"))).unwrap(), None);
    }

    #[test]
    fn a_file_that_changes_between_the_two_readings_is_no_object() {
        let dir = tempfile::tempdir().unwrap();
        let (objects, storage) = objects(false);
        std::fs::write(dir.path().join("file"), b"before").unwrap();
        let tree = SourceTree::open(dir.path()).unwrap();
        let file = tree.open_file(&RepoPath::new("file").unwrap()).unwrap();
        let hashed = look_at(&file, 1 << 20, &mut |_| {}).unwrap();
        for after in ["after!", "short"] {
            std::fs::write(dir.path().join("file"), after).unwrap();
            let refused = objects.upload(&file, hashed.digest.outboard());
            assert!(matches!(refused, Err(StoreError::SourceChanged { .. })), "{refused:?}");
        }
        let mut count = 0;
        wait(storage.list(&mut |_, _| count += 1)).unwrap();
        assert_eq!(count, 0);
    }
}
