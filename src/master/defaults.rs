//! Where a master keeps what it was not given a place for: the only file of the master that names concrete stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use instantmirror_core::catalog::{CatalogNode, NodeSource};
use instantmirror_core::memory::{MemoryStorage, MemoryStore};
use instantmirror_core::traits::blocking::Blocking;
use instantmirror_core::traits::{Objects, SnapshotStore};
use instantmirror_core::{NodeId, ObjectId, SecretKey};
use instantmirror_store::StoreError;
use instantmirror_store::digest::DigestTable;
use instantmirror_store::disk::{Disk, DiskLock, MemoryDisk, RealDisk};
use instantmirror_store::objects::{ObjectStore, ObjectWriter};
use instantmirror_store::snapshots::DiskSnapshotStore;

use super::MasterError;
use super::given::{GivenCatalogs, GivenObjects, GivenStorage};
use super::key::{KeyPlace, generate_key, load_key, store_key};
use super::parts::{CatalogPart, CatalogWriter, Notes, ObjectPart, StorageParts};
use super::ring::Ring;
use crate::blocking::threads;
use crate::build_error::BuildError;
use crate::config::ServerConfig;
use crate::layout::{DIGESTS, HEADS, is_cache, is_store};

type CoreError = instantmirror_core::StoreError;

/// Where the store of snapshots of a directory puts catalogs.
const CATALOG: &str = "catalog";
/// Where the store of objects of a directory puts them.
const OBJECTS: &str = "objects";

/// The parts that were given.
#[derive(Debug, Default)]
pub(super) struct Storage {
    pub(super) snapshots: Option<Arc<dyn SnapshotStore>>,
    pub(super) objects: Option<GivenStorage>,
    pub(super) key: Option<SecretKey>,
}

/// Makes in a directory what was not given. With `must_be_there` a directory that was not initialised is an error. Blocks on the
/// disk.
pub(super) fn in_directory(
    dir: &Path,
    key_file: PathBuf,
    given: Storage,
    must_be_there: bool,
) -> Result<StorageParts, MasterError> {
    let Storage {
        snapshots,
        objects,
        key,
    } = given;
    let keys = key.map_or(KeyPlace::File(key_file), KeyPlace::given);
    if must_be_there {
        if !dir.exists()
            && let Some(file) = keys.file()
        {
            // Opening would make it, and a store that nobody has initialised is not to come by a look.
            load_key(file)?;
        }
    } else {
        if let Some(store) = snapshots.as_ref().filter(|_| !dir.join(DIGESTS).is_dir()) {
            check_is_new(store, |advice| BuildError::invalid("dir", dir.display(), advice))?;
        }
        let (catalogs, objects) = (snapshots.is_none(), objects.is_none());
        if !is_made(dir, keys.file(), catalogs, objects) {
            make(dir, keys.file(), catalogs, objects)?;
        }
    }
    let disk = open_disk(dir)?;
    let notes = Notes::in_directory(Arc::clone(&disk), dir)?;
    let catalogs: Box<dyn CatalogPart> = match snapshots {
        Some(store) => Box::new(GivenCatalogs::new(store, disk)),
        None => Box::new(DiskCatalogs::open(disk)?),
    };
    let has_given_objects = objects.is_some();
    let objects = match objects {
        Some(storage) => Box::new(GivenObjects::new(storage, &notes)),
        None => in_disk(&notes),
    };
    Ok(StorageParts {
        catalogs,
        objects,
        notes,
        keys,
        has_given_objects,
    })
}

/// Makes in memory what was not given.
pub(super) fn in_memory(given: Storage) -> Result<StorageParts, MasterError> {
    if let Some(store) = &given.snapshots {
        check_is_new(store, |advice| BuildError::missing("dir", advice))?;
    }
    let key = given.key.map_or_else(generate_key, Ok)?;
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let notes = Notes::in_memory(Arc::clone(&disk))?;
    let snapshots = given.snapshots.unwrap_or_else(|| Arc::new(MemoryStore::new()));
    let has_given_objects = given.objects.is_some();
    let objects = given
        .objects
        .unwrap_or_else(|| GivenStorage::trusted(MemoryStorage::new()));
    Ok(StorageParts {
        catalogs: Box::new(GivenCatalogs::new(snapshots, disk)),
        objects: Box::new(GivenObjects::new(objects, &notes)),
        notes,
        keys: KeyPlace::given(key),
        has_given_objects,
    })
}

/// Snapshots cannot be gone on with where nothing is known of their objects and pieces.
fn check_is_new(store: &Arc<dyn SnapshotStore>, refused: impl FnOnce(String) -> BuildError) -> Result<(), MasterError> {
    let count = store.records()?.len();
    if count == 0 {
        return Ok(());
    }
    let advice = format!(
        "the store that was given to .snapshots holds {count} snapshot(s), and nothing is known of their objects and pieces \
         here; name the directory in which they were published, or give it an empty store"
    );
    Err(refused(advice).into())
}

/// Whether a directory has no store of objects yet.
pub(super) fn lacks_objects(dir: &Path) -> bool {
    !dir.join(OBJECTS).is_dir()
}

/// Whether nothing of the directory has to be made, which takes the place of whoever writes to it.
fn is_made(dir: &Path, key_file: Option<&Path>, catalogs: bool, objects: bool) -> bool {
    let has = |part: &str| dir.join(part).is_dir();
    let has_parts = is_store(dir) && (!catalogs || has(CATALOG)) && (!objects || has(OBJECTS));
    has_parts && key_file.is_none_or(Path::exists)
}

/// Makes the directory of a master, and its key. Harmless where they exist.
///
/// # Errors
/// [`MasterError`] naming the file.
pub(super) fn make(dir: &Path, key_file: Option<&Path>, catalogs: bool, objects: bool) -> Result<(), MasterError> {
    if is_cache(dir) {
        return Err(MasterError::IsCache { dir: dir.to_path_buf() });
    }
    let disk = open_disk(dir)?;
    disk.check_owner()?;
    if let Some(file) = key_file.filter(|file| !file.exists()) {
        store_key(file, &generate_key()?)?;
    }
    if catalogs {
        drop(DiskSnapshotStore::open(Arc::clone(&disk), "")?);
    }
    let digests = Arc::new(DigestTable::open(Arc::clone(&disk), DIGESTS)?);
    if objects {
        drop(ObjectStore::open(Arc::clone(&disk), digests)?);
    }
    // By these two a store is known.
    Ok(disk.create_dir_all(Path::new(HEADS))?)
}

/// Whether there are keys in the store of a configuration that a start could use.
pub(crate) fn check_key(config: &ServerConfig) -> Result<(), MasterError> {
    let disk = open_disk(&config.store.dir)?;
    let keys = KeyPlace::File(config.store.key_file());
    Ring::load(disk.as_ref(), &keys)?.newest().map(drop)
}

fn open_disk(dir: &Path) -> Result<Arc<dyn Disk>, StoreError> {
    Ok(Arc::new(RealDisk::open(dir)?))
}

/// Takes the place of the process that writes to a store whose notes are here.
pub(super) fn lock(notes: &dyn Disk) -> Result<DiskLock, StoreError> {
    DiskSnapshotStore::lock(notes, "")
}

/// The store of snapshots of a directory.
#[derive(Debug)]
struct DiskCatalogs {
    disk: Arc<dyn Disk>,
    reader: Arc<DiskSnapshotStore>,
}

impl DiskCatalogs {
    fn open(disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let reader = Arc::new(DiskSnapshotStore::open_reader(Arc::clone(&disk), "")?);
        Ok(Self { disk, reader })
    }
}

impl CatalogPart for DiskCatalogs {
    fn store(&self) -> Arc<dyn SnapshotStore> {
        self.reader.clone()
    }

    fn open_writer(&self) -> Result<Box<dyn CatalogWriter>, StoreError> {
        let store = DiskSnapshotStore::open(Arc::clone(&self.disk), "")?;
        Ok(Box::new(DiskCatalogWriter(Arc::new(store))))
    }

    fn open_dry(&self) -> Result<Box<dyn CatalogWriter>, StoreError> {
        let store = DiskSnapshotStore::open_overlay(Arc::clone(&self.disk), "")?;
        Ok(Box::new(DiskCatalogWriter(Arc::new(store))))
    }

    fn refresh(&self) -> Result<(), CoreError> {
        self.reader.refresh()
    }

    fn heads_dir(&self) -> Option<PathBuf> {
        self.disk.os_path(Path::new(HEADS))
    }
}

#[derive(Debug)]
struct DiskCatalogWriter(Arc<DiskSnapshotStore>);

impl CatalogWriter for DiskCatalogWriter {
    fn store(&self) -> Arc<dyn SnapshotStore> {
        self.0.clone()
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.0.clone()
    }

    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        self.0.put_nodes_now(&nodes)
    }

    fn node_count(&self) -> u64 {
        self.0.node_count()
    }

    fn forget_nodes(&self, keep: &dyn Fn(&NodeId) -> bool, without_trace: bool) -> Result<(), CoreError> {
        match without_trace {
            true => self.0.purge_nodes(keep),
            false => self.0.compact_nodes(keep),
        }
        .map(drop)
    }
}

/// The object store of a directory.
#[derive(Debug)]
struct DiskObjects {
    disk: Arc<dyn Disk>,
    reader: Arc<ObjectStore>,
}

fn in_disk(notes: &Notes) -> Box<dyn ObjectPart> {
    let disk = Arc::clone(&notes.disk);
    let reader = Arc::new(ObjectStore::open_reader(Arc::clone(&disk), Arc::clone(&notes.digests)));
    Box::new(DiskObjects { disk, reader })
}

impl ObjectPart for DiskObjects {
    fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(Blocking::new(Arc::clone(&self.reader), threads()))
    }

    fn size(&self, object: &ObjectId) -> Result<Option<u64>, StoreError> {
        self.reader.size(object)
    }

    fn for_each(&self, each: &mut (dyn FnMut(ObjectId) + Send)) -> Result<(), StoreError> {
        self.reader.for_each(each)
    }

    fn open_writer(&self, digests: Arc<DigestTable>) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let objects = ObjectStore::open(Arc::clone(&self.disk), digests)?;
        objects.remove_leftovers()?;
        Ok(Box::new(objects))
    }

    fn open_dry(&self, digests: Arc<DigestTable>) -> Box<dyn ObjectWriter> {
        Box::new(ObjectStore::open_dry(Arc::clone(&self.disk), digests))
    }
}
