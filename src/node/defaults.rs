//! Where a node keeps what it was not given a place for: the only file of the node that names concrete caches and stores.

use std::path::Path;
use std::sync::Arc;

use instantmirror_core::memory::{MemoryCache, MemoryStore};
use instantmirror_core::traits::blocking::Blocking;
use instantmirror_core::traits::{CacheLimits, ObjectCache, SnapshotStore};
use instantmirror_store::StoreError;
use instantmirror_store::cache::DiskCache;
use instantmirror_store::disk::{Disk, DiskLock, MemoryDisk, RealDisk};
use instantmirror_store::snapshots::DiskSnapshotStore;

use super::NodeError;
use super::parts::NodeCache;
use crate::blocking::threads;
use crate::config::CacheConfig;
use crate::layout::{CACHE, SNAPSHOTS, is_store};

/// The parts that were given.
#[derive(Debug, Default)]
pub(super) struct Storage {
    pub(super) cache: Option<Arc<dyn ObjectCache>>,
    pub(super) snapshots: Option<Arc<dyn SnapshotStore>>,
}

/// All that a node stores things in.
#[derive(Debug)]
pub(super) struct StorageParts {
    pub(super) cache: NodeCache,
    pub(super) snapshots: Arc<dyn SnapshotStore>,
    /// Its tags, its number, who was in its swarms.
    pub(super) notes: Arc<dyn Disk>,
    /// Keeps other processes from the notes where no store does.
    pub(super) lock: Option<DiskLock>,
}

/// Makes in a directory what was not given. Blocks on the disk.
pub(super) fn in_directory(dir: &Path, config: &CacheConfig, given: Storage) -> Result<StorageParts, NodeError> {
    // Before anything is made in it.
    if is_store(dir) {
        return Err(NodeError::IsStore { dir: dir.to_path_buf() });
    }
    open_disk(dir)?.check_owner()?;
    let cache = match given.cache {
        Some(cache) => cache,
        None => {
            let cache = DiskCache::open(open_disk(&dir.join(CACHE))?, config.options())?;
            Arc::new(Blocking::new(Arc::new(cache), threads()))
        }
    };
    let notes = open_disk(&dir.join(SNAPSHOTS))?;
    let (snapshots, lock): (Arc<dyn SnapshotStore>, _) = match given.snapshots {
        Some(snapshots) => (snapshots, Some(DiskSnapshotStore::lock(notes.as_ref(), "")?)),
        None => (Arc::new(DiskSnapshotStore::open(Arc::clone(&notes), "")?), None),
    };
    Ok(StorageParts {
        cache: NodeCache::new(cache),
        snapshots,
        notes,
        lock,
    })
}

/// Makes in memory what was not given.
pub(super) fn in_memory(limits: CacheLimits, given: Storage) -> StorageParts {
    let cache = given
        .cache
        .unwrap_or_else(|| Arc::new(MemoryCache::with_limits(limits)));
    StorageParts {
        cache: NodeCache::new(cache),
        snapshots: given.snapshots.unwrap_or_else(|| Arc::new(MemoryStore::new())),
        notes: Arc::new(MemoryDisk::new()),
        lock: None,
    }
}

fn open_disk(dir: &Path) -> Result<Arc<dyn Disk>, StoreError> {
    Ok(Arc::new(RealDisk::open(dir)?))
}
