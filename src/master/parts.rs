//! The parts that a master keeps things in, whatever implements them: catalogs, objects, and notes of its own.
//!
//! Reading goes on beside writing, and there is one writer at a time, in all processes that share the notes. So each part is a
//! reader that can be opened for writing, and a dry run opens it for writing that comes to nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use instantmirror_core::catalog::{CatalogNode, NodeSource};
use instantmirror_core::traits::{Objects, SnapshotStore};
use instantmirror_core::{NodeId, ObjectId};
use instantmirror_store::StoreError;
use instantmirror_store::digest::{ContentDigest, DigestTable};
use instantmirror_store::disk::Disk;
use instantmirror_store::objects::ObjectWriter;
use instantmirror_store::references::{MemoryReferences, ReferenceError, References};

use super::key::KeyPlace;
use crate::layout::DIGESTS;

type CoreError = instantmirror_core::StoreError;

/// All that a master stores things in.
#[derive(Debug)]
pub(super) struct StorageParts {
    pub(super) catalogs: Box<dyn CatalogPart>,
    pub(super) objects: Box<dyn ObjectPart>,
    pub(super) notes: Notes,
    pub(super) keys: KeyPlace,
    /// Whether the storage of objects is an embedder's, which may have been used before.
    pub(super) has_given_objects: bool,
}

/// The notes of a master beside catalogs and objects.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    /// Files: its key lists, the nodes that it knows, and what each repository remembers.
    pub(super) disk: Arc<dyn Disk>,
    /// Its directory, if it has one.
    pub(super) dir: Option<PathBuf>,
    /// All hashes of each object, for reading.
    pub(super) digests: Arc<DigestTable>,
    references: ReferenceTable,
}

/// Where the counts of what refers to what are.
#[derive(Debug, Clone)]
enum ReferenceTable {
    InDirectory(PathBuf),
    InMemory(Arc<MemoryReferences>),
}

/// Catalogs, records and heads.
pub(super) trait CatalogPart: std::fmt::Debug + Send + Sync {
    /// For reading. All that a writer has acknowledged is found in it.
    fn store(&self) -> Arc<dyn SnapshotStore>;

    /// Opens it for writing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while somebody else has it open so.
    fn open_writer(&self) -> Result<Box<dyn CatalogWriter>, StoreError>;

    /// Opens it for a dry run: takes no lock, and catalog nodes that are put stay in memory.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn open_dry(&self) -> Result<Box<dyn CatalogWriter>, StoreError>;

    /// Lets the reader forget catalog nodes that another process has given up.
    ///
    /// # Errors
    /// [`CoreError::Io`]; what was seen before is seen on.
    fn refresh(&self) -> Result<(), CoreError> {
        Ok(())
    }

    /// The directory in which new heads of other processes appear, if there is one.
    fn heads_dir(&self) -> Option<PathBuf> {
        None
    }
}

/// Catalogs, records and heads, open for writing.
pub(super) trait CatalogWriter: std::fmt::Debug + Send + Sync {
    /// Records and heads.
    fn store(&self) -> Arc<dyn SnapshotStore>;

    /// Catalog nodes, with those that were put through this writer.
    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.store()
    }

    /// Stores catalog nodes.
    ///
    /// # Errors
    /// The medium's error; some of them may be here then.
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError>;

    /// How many catalog nodes there are; 0 if nobody counts them.
    fn node_count(&self) -> u64 {
        0
    }

    /// Gives the space of catalog nodes back that `keep` refuses, to the last byte if nothing of them may be left.
    ///
    /// # Errors
    /// The medium's error; objects that are kept stay.
    fn forget_nodes(&self, keep: &dyn Fn(&NodeId) -> bool, without_trace: bool) -> Result<(), CoreError>;
}

/// The catalogs for a walk through much of them.
pub(super) fn walker(store: &Arc<dyn SnapshotStore>) -> Arc<dyn NodeSource> {
    store.walker().unwrap_or_else(|| Arc::clone(store) as _)
}

/// The objects of all snapshots.
pub(super) trait ObjectPart: std::fmt::Debug + Send + Sync {
    /// For async readers.
    fn objects(&self) -> Arc<dyn Objects>;

    /// The size of an object in bytes; `None` if it is not here. May block.
    ///
    /// # Errors
    /// The medium's error.
    fn size(&self, object: &ObjectId) -> Result<Option<u64>, StoreError>;

    /// Calls `each` with every object that is here. May block.
    ///
    /// # Errors
    /// The medium's error.
    fn for_each(&self, each: &mut (dyn FnMut(ObjectId) + Send)) -> Result<(), StoreError>;

    /// Opens it for whoever holds the lock of the catalogs. May block.
    ///
    /// # Errors
    /// The medium's error.
    fn open_writer(&self, digests: Arc<DigestTable>) -> Result<Box<dyn ObjectWriter>, StoreError>;

    /// Opens it for a dry run: an import reads and hashes a file, and keeps nothing of it.
    fn open_dry(&self, digests: Arc<DigestTable>) -> Box<dyn ObjectWriter>;
}

impl Notes {
    /// Notes in a directory. Notes that are not there yet are not made.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::UnknownVersion`].
    pub(super) fn in_directory(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            digests: Arc::new(DigestTable::open_reader(Arc::clone(&disk), DIGESTS)?),
            disk,
            dir: Some(dir.to_path_buf()),
            references: ReferenceTable::InDirectory(dir.to_path_buf()),
        })
    }

    /// Notes that end with the process.
    ///
    /// # Errors
    /// [`StoreError`], [`ReferenceError`].
    pub(super) fn in_memory(disk: Arc<dyn Disk>) -> Result<Self, super::MasterError> {
        drop(DigestTable::open(Arc::clone(&disk), DIGESTS)?);
        Ok(Self {
            digests: Arc::new(DigestTable::open_reader(Arc::clone(&disk), DIGESTS)?),
            disk,
            dir: None,
            references: ReferenceTable::InMemory(Arc::new(MemoryReferences::new()?)),
        })
    }

    /// Opens the counts. For whoever holds the lock of the catalogs, but for questions whose answer may be old.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub(super) fn references(&self) -> Result<References, ReferenceError> {
        match &self.references {
            ReferenceTable::InDirectory(dir) => References::open(dir),
            ReferenceTable::InMemory(table) => table.open(),
        }
    }

    /// All hashes of an object, if they are known.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub(super) fn digest(&self, object: &ObjectId) -> Result<Option<ContentDigest>, StoreError> {
        self.digests.digest(object)
    }

    /// The SHA-256 of an object, if it is known.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub(super) fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>, StoreError> {
        self.digests.sha256(object)
    }
}

/// All parts, open for writing.
#[derive(Debug)]
pub(super) struct OpenParts {
    pub(super) catalogs: Box<dyn CatalogWriter>,
    pub(super) digests: Arc<DigestTable>,
    pub(super) objects: Box<dyn ObjectWriter>,
}

impl StorageParts {
    /// Opens all for writing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while somebody else has them open so.
    pub(super) fn open_writer(&self) -> Result<OpenParts, StoreError> {
        // First, since it takes the lock of all.
        let catalogs = self.catalogs.open_writer()?;
        let digests = Arc::new(DigestTable::open(Arc::clone(&self.notes.disk), DIGESTS)?);
        let objects = self.objects.open_writer(Arc::clone(&digests))?;
        Ok(OpenParts {
            catalogs,
            digests,
            objects,
        })
    }

    /// Opens all for a dry run: takes no lock, and nothing that is written stays.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn open_dry(&self) -> Result<OpenParts, StoreError> {
        let digests = Arc::new(DigestTable::open_overlay(Arc::clone(&self.notes.disk), DIGESTS)?);
        Ok(OpenParts {
            catalogs: self.catalogs.open_dry()?,
            objects: self.objects.open_dry(Arc::clone(&digests)),
            digests,
        })
    }

    /// Paths that must not lie inside of a source tree.
    pub(super) fn secret_paths(&self) -> impl Iterator<Item = &Path> {
        self.notes.dir.as_deref().into_iter().chain(self.keys.file())
    }
}
