//! [`ListStore`]: catalogs, records and heads in lists, until the process ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use instantmirror::core::catalog::{CatalogNode, NodeSource, check_closure};
use instantmirror::core::traits::SnapshotStore;
use instantmirror::core::{
    Directory, NodeId, PublicKey, RecordId, RepoName, SignedHead, Snapshot, SnapshotId, StoreError,
};

/// A store in memory, which never gives nodes back.
#[derive(Debug, Default)]
pub struct ListStore(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    nodes: HashMap<NodeId, Bytes>,
    records: BTreeMap<(RepoName, SnapshotId), Snapshot>,
    heads: BTreeMap<RepoName, SignedHead>,
    keys: BTreeMap<RepoName, Bytes>,
}

impl ListStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeSource for ListStore {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lists().nodes.get(id).cloned())
    }
}

impl SnapshotStore for ListStore {
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        let nodes = nodes.into_iter().map(|node| (node.id(), node.bytes().clone()));
        self.lists().nodes.extend(nodes);
        Ok(())
    }

    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, StoreError> {
        let (node, files, bytes) = (snapshot.root.node, snapshot.root.files, snapshot.root.bytes);
        check_closure(self, None, &Directory { node, files, bytes })?;
        let key = (snapshot.repository.clone(), snapshot.id);
        let mut lists = self.lists();
        if lists.records.get(&key).is_some_and(|known| known != snapshot) {
            return Err(StoreError::Conflict(format!("{} has another record here", snapshot.id)));
        }
        lists.records.insert(key, snapshot.clone());
        Ok(snapshot.encode().0)
    }

    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.lists().records.get(&(repository.clone(), id)).cloned())
    }

    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, StoreError> {
        let records = self.records()?.into_iter().filter(|(of, _)| of == repository);
        Ok(records.map(|(_, id)| id).collect())
    }

    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, StoreError> {
        Ok(self.lists().records.keys().cloned().collect())
    }

    fn put_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        let known = self
            .lists()
            .heads
            .get(&head.head().repository)
            .map(|known| known.head().sequence);
        match known {
            Some(known) if known > head.head().sequence => Err(StoreError::Conflict(format!("head {known} is newer"))),
            _ => self.replace_head(head),
        }
    }

    fn replace_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.lists().heads.insert(head.head().repository.clone(), head.clone());
        Ok(())
    }

    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lists().keys.get(repository).cloned())
    }

    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), StoreError> {
        self.lists().keys.insert(repository.clone(), keys);
        Ok(())
    }

    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, StoreError> {
        let known = self.lists().heads.get(repository).map(|head| head.bytes().clone());
        let verified = known
            .map(|bytes| SignedHead::verify(bytes, repository, trusted))
            .transpose();
        verified.map_err(|error| StoreError::Damaged(error.to_string()))
    }

    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), StoreError> {
        self.lists().records.remove(&(repository.clone(), id));
        Ok(())
    }
}
