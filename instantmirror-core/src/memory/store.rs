//! [`SnapshotStore`] in memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::catalog::{CatalogNode, NodeSource, Reachable, check_closure};
use crate::head::SignedHead;
use crate::sign::PublicKey;
use crate::traits::{CatalogGarbage, Collected, SnapshotStore, StoreError};
use crate::{Directory, NodeId, RecordId, RepoName, Snapshot, SnapshotId};

/// A [`SnapshotStore`] that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    nodes: HashMap<NodeId, Bytes>,
    snapshots: HashMap<(RepoName, SnapshotId), Snapshot>,
    heads: HashMap<RepoName, SignedHead>,
    keys: HashMap<RepoName, Bytes>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    // Every change is one insertion, so a panic elsewhere cannot leave half a change behind.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores one node.
    pub fn insert_node(&self, node: CatalogNode) {
        self.inner().nodes.insert(node.id(), node.bytes().clone());
    }

    /// Number of nodes held.
    pub fn node_count(&self) -> usize {
        self.inner().nodes.len()
    }
}

impl NodeSource for MemoryStore {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inner().nodes.get(id).cloned())
    }
}

impl SnapshotStore for MemoryStore {
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        nodes.into_iter().for_each(|node| self.insert_node(node));
        Ok(())
    }

    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, StoreError> {
        let root = Directory {
            node: snapshot.root.node,
            files: snapshot.root.files,
            bytes: snapshot.root.bytes,
        };
        check_closure(self, None, &root)?;
        let key = (snapshot.repository.clone(), snapshot.id);
        let mut inner = self.inner();
        if inner.snapshots.get(&key).is_some_and(|held| held != snapshot) {
            return Err(StoreError::Conflict(format!(
                "another record of snapshot {} is stored",
                snapshot.id
            )));
        }
        inner.snapshots.insert(key, snapshot.clone());
        Ok(snapshot.encode().0)
    }

    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.inner().snapshots.get(&(repository.clone(), id)).cloned())
    }

    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, StoreError> {
        Ok(self
            .inner()
            .snapshots
            .keys()
            .filter(|(name, _)| name == repository)
            .map(|(_, id)| *id)
            .collect())
    }

    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, StoreError> {
        Ok(self.inner().snapshots.keys().cloned().collect())
    }

    fn put_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let name = head.head().repository.clone();
        if let Some(held) = inner.heads.get(&name)
            && held.head().sequence > head.head().sequence
        {
            return Err(StoreError::Conflict(format!("a newer head of '{name}' is stored")));
        }
        inner.heads.insert(name, head.clone());
        Ok(())
    }

    fn replace_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        let name = head.head().repository.clone();
        self.inner().heads.insert(name, head.clone());
        Ok(())
    }

    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inner().keys.get(repository).cloned())
    }

    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), StoreError> {
        self.inner().keys.insert(repository.clone(), keys);
        Ok(())
    }

    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, StoreError> {
        let Some(held) = self.inner().heads.get(repository).cloned() else {
            return Ok(None);
        };
        let verified = SignedHead::verify(held.bytes().clone(), repository, trusted);
        verified
            .map(Some)
            .map_err(|error| StoreError::Damaged(error.to_string()))
    }

    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), StoreError> {
        self.inner().snapshots.remove(&(repository.clone(), id));
        Ok(())
    }

    fn garbage(&self) -> Option<&dyn CatalogGarbage> {
        Some(self)
    }
}

impl CatalogGarbage for MemoryStore {
    fn collect(&self) -> Result<Collected, StoreError> {
        let roots: Vec<NodeId> = self
            .inner()
            .snapshots
            .values()
            .map(|snapshot| snapshot.root.node)
            .collect();
        let mut walk = Reachable::new(self, HashSet::new());
        roots.into_iter().for_each(|root| walk.add_root(root));
        for node in walk.by_ref() {
            node?;
        }
        let live = walk.into_seen();
        let mut collected = Collected::default();
        self.inner().nodes.retain(|id, bytes| {
            let is_live = live.contains(id);
            if !is_live {
                collected.nodes += 1;
                collected.bytes += bytes.len() as u64;
            }
            is_live
        });
        Ok(collected)
    }

    fn purge(&self) -> Result<Collected, StoreError> {
        self.collect()
    }
}
