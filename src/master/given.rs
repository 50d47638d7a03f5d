//! Parts of an embedder's as the master uses them: a store of snapshots and a storage of objects. Services that they do not offer, a
//! master does for them (dry runs, one writer at a time, verification), or goes without, and the log says so.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use instantmirror_core::catalog::{CatalogNode, NodeSource};
use instantmirror_core::traits::blocking::{Blocking, wait};
use instantmirror_core::traits::{CatalogGarbage, ObjectStorage, Objects, SnapshotStore};
use instantmirror_core::{NodeId, ObjectId};
use instantmirror_store::StoreError;
use instantmirror_store::digest::DigestTable;
use instantmirror_store::disk::{Disk, DiskLock};
use instantmirror_store::objects::{ObjectWriter, StorageObjects};

use super::defaults::lock;
use super::parts::{CatalogPart, CatalogWriter, Notes, ObjectPart};
use super::runtime::InRuntime;
use super::verified::VerifiedObjects;
use crate::blocking::threads;

type CoreError = instantmirror_core::StoreError;

/// A store of snapshots. The lock of its writer is among the notes.
#[derive(Debug)]
pub(super) struct GivenCatalogs {
    store: Arc<dyn SnapshotStore>,
    notes: Arc<dyn Disk>,
}

impl GivenCatalogs {
    pub(super) fn new(store: Arc<dyn SnapshotStore>, notes: Arc<dyn Disk>) -> Self {
        if store.garbage().is_none() {
            tracing::warn!(
                "the store of snapshots collects no garbage: catalogs of snapshots that are gone, and of those that are removed, stay in it"
            );
        }
        Self { store, notes }
    }
}

impl CatalogPart for GivenCatalogs {
    fn store(&self) -> Arc<dyn SnapshotStore> {
        Arc::clone(&self.store)
    }

    fn open_writer(&self) -> Result<Box<dyn CatalogWriter>, StoreError> {
        Ok(Box::new(GivenWriter {
            _lock: lock(self.notes.as_ref())?,
            store: Arc::clone(&self.store),
        }))
    }

    fn open_dry(&self) -> Result<Box<dyn CatalogWriter>, StoreError> {
        let below = Arc::clone(&self.store);
        Ok(Box::new(DryWriter(Arc::new(Overlay {
            below,
            new: RwLock::default(),
        }))))
    }
}

#[derive(Debug)]
struct GivenWriter {
    _lock: DiskLock,
    store: Arc<dyn SnapshotStore>,
}

impl CatalogWriter for GivenWriter {
    fn store(&self) -> Arc<dyn SnapshotStore> {
        Arc::clone(&self.store)
    }

    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        let put = self.store.put_nodes(nodes);
        put.map_err(|error| of_storage("write catalog nodes to", "the store of snapshots", error))
    }

    /// The store knows by itself what its records refer to.
    fn forget_nodes(&self, _: &dyn Fn(&NodeId) -> bool, without_trace: bool) -> Result<(), CoreError> {
        let collect = match without_trace {
            true => CatalogGarbage::purge,
            false => CatalogGarbage::collect,
        };
        self.store
            .garbage()
            .map_or(Ok(()), |garbage| collect(garbage).map(drop))
    }
}

/// Catalog nodes of a store, and new ones in memory.
#[derive(Debug)]
struct Overlay {
    below: Arc<dyn SnapshotStore>,
    new: RwLock<HashMap<NodeId, Bytes>>,
}

impl NodeSource for Overlay {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, CoreError> {
        let new = self.new.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        new.map_or_else(|| self.below.node(id), |new| Ok(Some(new)))
    }
}

/// Keeps nothing beyond itself.
#[derive(Debug)]
struct DryWriter(Arc<Overlay>);

impl CatalogWriter for DryWriter {
    fn store(&self) -> Arc<dyn SnapshotStore> {
        Arc::clone(&self.0.below)
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.0.clone()
    }

    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        let nodes = nodes.into_iter().map(|node| (node.id(), node.bytes().clone()));
        let mut new = self.0.new.write().unwrap_or_else(PoisonError::into_inner);
        new.extend(nodes);
        Ok(())
    }

    fn forget_nodes(&self, _: &dyn Fn(&NodeId) -> bool, _: bool) -> Result<(), CoreError> {
        Ok(())
    }
}

/// A storage of objects, and whether it is believed.
#[derive(Debug)]
pub(super) struct GivenStorage {
    storage: InRuntime,
    /// Its name in the log, if it is not believed.
    unverified: Option<&'static str>,
}

impl GivenStorage {
    /// One that keeps the guarantees of its traits.
    pub(super) fn trusted(storage: impl ObjectStorage) -> Self {
        Self {
            storage: InRuntime::current(storage),
            unverified: None,
        }
    }

    /// One of which all that is read is verified.
    pub(super) fn verified<S: ObjectStorage>(storage: S) -> Self {
        Self {
            storage: InRuntime::current(storage),
            unverified: Some(std::any::type_name::<S>()),
        }
    }
}

/// Objects for async readers, on threads that may block if they need them.
fn on_threads<T: Objects>(objects: Arc<T>, blocks: bool) -> Arc<dyn Objects> {
    match blocks {
        true => Arc::new(Blocking::new(objects, threads())),
        false => objects,
    }
}

/// A storage of objects, in use.
#[derive(Debug)]
pub(super) struct GivenObjects {
    storage: Arc<InRuntime>,
    reader: Arc<dyn Objects>,
}

impl GivenObjects {
    pub(super) fn new(given: GivenStorage, notes: &Notes) -> Self {
        let GivenStorage { storage, unverified } = given;
        let blocks = storage.blocks();
        let storage = Arc::new(storage);
        let reader = match unverified {
            Some(name) => {
                let verified = VerifiedObjects::new(Arc::clone(&storage) as _, notes.clone(), name);
                on_threads(Arc::new(verified), blocks)
            }
            None => on_threads(Arc::clone(&storage), blocks),
        };
        Self { storage, reader }
    }

    fn writer(&self, digests: Arc<DigestTable>) -> StorageObjects {
        StorageObjects::new(Arc::clone(&self.storage) as _, Arc::clone(&self.reader), digests)
    }
}

/// An error of a part, as the store tells its own.
fn of_storage(op: &'static str, what: &str, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::io(op, std::path::Path::new(what), std::io::Error::other(error))
}

impl ObjectPart for GivenObjects {
    fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.reader)
    }

    fn size(&self, object: &ObjectId) -> Result<Option<u64>, StoreError> {
        let size = wait(self.storage.size(object));
        size.map_err(|error| of_storage("look up an object in", "the storage of objects", error))
    }

    fn for_each(&self, each: &mut (dyn FnMut(ObjectId) + Send)) -> Result<(), StoreError> {
        let listed = wait(self.storage.list(&mut |object, _| each(object)));
        listed.map_err(|error| of_storage("list", "the storage of objects", error))
    }

    fn open_writer(&self, digests: Arc<DigestTable>) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Ok(Box::new(self.writer(digests)))
    }

    fn open_dry(&self, digests: Arc<DigestTable>) -> Box<dyn ObjectWriter> {
        Box::new(self.writer(digests).dry())
    }
}
