//! [`ObjectWriter`]: the objects of a master as the one process that writes them sees them.

use std::fmt::Debug;
use std::io::Read;

use instantmirror_core::ObjectId;

use super::{ImportedFile, ObjectStore};
use crate::digest::ContentDigest;
use crate::error::Result;
use crate::import::ImportOptions;
use crate::tree::{FileStamp, SourceFile};

/// The objects of a master, open for writing: a scan imports files into them, a check of metadata reads them, a clean-up removes
/// them. All calls may block. [`ObjectStore`] is the one on a disk, [`StorageObjects`](super::StorageObjects) makes one of any
/// [`ObjectStorage`](instantmirror_core::traits::ObjectStorage).
pub trait ObjectWriter: Debug + Send + Sync {
    /// The size of an object in bytes; `None` if it is not here. Its content is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Io`](crate::StoreError::Io).
    fn size(&self, object: &ObjectId) -> Result<Option<u64>>;

    /// Whether an object of this size is here.
    ///
    /// # Errors
    /// As [`size`](Self::size).
    fn contains(&self, object: &ObjectId, size: u64) -> Result<bool> {
        Ok(self.size(object)? == Some(size))
    }

    /// Whether an object is this very file of a source tree, by a hard link. False if that cannot be told.
    fn is_linked_to(&self, object: &ObjectId, source: &FileStamp) -> bool {
        let _ = (object, source);
        false
    }

    /// Reads a source file, hashes it, and keeps it. Need not be durable before [`commit`](Self::commit). Several threads may
    /// import at a time, also files of the same content.
    ///
    /// # Errors
    /// [`StoreError::SourceChanged`](crate::StoreError::SourceChanged) if the file changed meanwhile (nothing is kept; try again),
    /// else what source or objects met.
    fn import(
        &self,
        source: &mut SourceFile,
        piece_bytes: u32,
        options: ImportOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<ImportedFile>;

    /// Makes imported objects durable, then their digests: from then on they are good for ever.
    ///
    /// # Errors
    /// The medium's error; none of them may be relied on then.
    fn commit(&self, digests: &[ContentDigest]) -> Result<()>;

    /// Removes objects that no snapshot refers to, and returns how many and how many bytes that were; what is not here is passed
    /// over. Open handles stay readable. Need not be durable before [`commit_discarded`](Self::commit_discarded).
    ///
    /// # Errors
    /// The medium's error; some of them may be gone then.
    fn discard(&self, objects: &[ObjectId]) -> Result<(u64, u64)>;

    /// Makes durable that these objects are gone.
    ///
    /// # Errors
    /// The medium's error.
    fn commit_discarded(&self, objects: &[ObjectId]) -> Result<()>;

    /// The content of an object as a stream, each group of it verified.
    ///
    /// # Errors
    /// [`StoreError::Io`](crate::StoreError::Io) if it is not here, [`StoreError::Damaged`](crate::StoreError::Damaged).
    fn content(&self, object: &ObjectId) -> Result<Box<dyn Read + '_>>;

    /// The SHA-256 of an object, if it is known.
    ///
    /// # Errors
    /// Those of reading the table of digests.
    fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>>;
}

impl ObjectWriter for ObjectStore {
    fn size(&self, object: &ObjectId) -> Result<Option<u64>> {
        self.size(object)
    }

    fn is_linked_to(&self, object: &ObjectId, source: &FileStamp) -> bool {
        self.is_linked_to(object, source)
    }

    fn import(
        &self,
        source: &mut SourceFile,
        piece_bytes: u32,
        options: ImportOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<ImportedFile> {
        self.import(source, piece_bytes, options, progress)
    }

    fn commit(&self, digests: &[ContentDigest]) -> Result<()> {
        self.commit(digests)
    }

    fn discard(&self, objects: &[ObjectId]) -> Result<(u64, u64)> {
        self.discard(objects)
    }

    fn commit_discarded(&self, objects: &[ObjectId]) -> Result<()> {
        self.commit_discarded(objects)
    }

    fn content(&self, object: &ObjectId) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.content(object)?))
    }

    fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>> {
        self.sha256(object)
    }
}
