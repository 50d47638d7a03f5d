//! [`VerifyingStore`]: a snapshot store that is not believed.
//!
//! Decision: the stores of this project verify what they hold; one that an embedder brings gets its
//! promises checked, which costs one pass of BLAKE3 over each catalog node that is read.
//!
//! Invariant: no bytes leave that do not hash to the id of their node, no head that no trusted key has
//! signed, and no record of a snapshot but the one that was stored or first read. Whether that first
//! one is the one that the head names is for the follower to say, who knows the head. What a store had
//! and does not have any more, though nobody removed a snapshot or collected garbage meanwhile, it has
//! forgotten. The log names the store in both cases, once a minute for each kind.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use bytes::Bytes;
use instantmirror_core::catalog::{CatalogNode, NodeSource};
use instantmirror_core::log_limit::LogLimit;
use instantmirror_core::outboard::Outboard;
use instantmirror_core::traits::{CatalogGarbage, Collected, SnapshotStore};
use instantmirror_core::{NodeId, PublicKey, RecordId, RepoName, SignedHead, Snapshot, SnapshotId, StoreError};

/// A [`SnapshotStore`] around one that may be wrong.
#[derive(Debug)]
pub(crate) struct VerifyingStore<S> {
    inner: S,
    memory: Arc<Memory>,
}

/// What the store is known to have.
#[derive(Debug)]
struct Memory {
    /// What the log calls the store.
    name: &'static str,
    known: RwLock<Known>,
    wrong: LogLimit,
    forgot: LogLimit,
}

#[derive(Debug, Default)]
struct Known {
    /// Some 5 MB for a tree of ten million files: a node has some 100 of them.
    nodes: HashSet<NodeId>,
    records: BTreeMap<(RepoName, SnapshotId), Snapshot>,
    /// The sequence numbers of heads.
    heads: BTreeMap<RepoName, u64>,
}

impl Memory {
    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_node(&self, id: &NodeId) -> bool {
        self.known().nodes.contains(id)
    }

    fn record(&self, key: &(RepoName, SnapshotId)) -> Option<Snapshot> {
        self.known().records.get(key).cloned()
    }

    fn head(&self, repository: &RepoName) -> Option<u64> {
        self.known().heads.get(repository).copied()
    }

    /// A snapshot goes, or garbage: its nodes may go with it, and others may share them.
    fn may_lose(&self, removed: Option<&(RepoName, SnapshotId)>) {
        let mut known = self.change();
        known.nodes.clear();
        if let Some(key) = removed {
            known.records.remove(key);
        }
    }

    /// The bytes of a node, if they are. `was_known` is what was known before they were read.
    fn checked(&self, id: &NodeId, was_known: bool, bytes: Option<Bytes>) -> Result<Option<Bytes>, StoreError> {
        match &bytes {
            Some(bytes) if NodeId::of(bytes) != *id => {
                return Err(self.wrong(&format!("other bytes than those of catalog node {id}")));
            }
            Some(_) if !was_known => _ = self.change().nodes.insert(*id),
            None if was_known && self.has_node(id) => self.forgot(&format!("catalog node {id}")),
            Some(_) | None => {}
        }
        Ok(bytes)
    }

    fn wrong(&self, what: &str) -> StoreError {
        let store = self.name;
        match self.wrong.admit(Instant::now()) {
            Some(line) => tracing::error!(
                suppressed = line.suppressed(),
                store,
                "the snapshot store is wrong: it returned {what}; they are not used"
            ),
            None => tracing::debug!(store, "wrong: {what}"),
        }
        StoreError::Damaged(format!("the snapshot store {store} returned {what}"))
    }

    fn forgot(&self, what: &str) {
        let store = self.name;
        match self.forgot.admit(Instant::now()) {
            Some(line) => tracing::error!(
                suppressed = line.suppressed(),
                store,
                "the snapshot store has forgotten {what}; what needs it cannot be shown"
            ),
            None => tracing::debug!(store, "forgotten: {what}"),
        }
    }
}

impl<S: SnapshotStore> VerifyingStore<S> {
    pub(crate) fn new(inner: S) -> Self {
        let memory = Memory {
            name: std::any::type_name::<S>(),
            known: RwLock::default(),
            wrong: LogLimit::per_minute(),
            forgot: LogLimit::per_minute(),
        };
        Self {
            inner,
            memory: Arc::new(memory),
        }
    }

    /// Collects garbage, after which nothing is known of nodes.
    fn collecting(
        &self,
        collect: impl FnOnce(&dyn CatalogGarbage) -> Result<Collected, StoreError>,
    ) -> Result<Collected, StoreError> {
        self.memory.may_lose(None);
        let collected = self.inner.garbage().map(collect);
        self.memory.may_lose(None);
        collected.unwrap_or_else(|| Ok(Collected::default()))
    }
}

impl<S: SnapshotStore> NodeSource for VerifyingStore<S> {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        let was_known = self.memory.has_node(id);
        self.memory.checked(id, was_known, self.inner.node(id)?)
    }
}

impl<S: SnapshotStore> SnapshotStore for VerifyingStore<S> {
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        let ids: Vec<NodeId> = nodes.iter().map(CatalogNode::id).collect();
        self.inner.put_nodes(nodes)?;
        self.memory.change().nodes.extend(ids);
        Ok(())
    }

    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, StoreError> {
        let record = self.inner.put_snapshot(snapshot)?;
        let key = (snapshot.repository.clone(), snapshot.id);
        self.memory.change().records.insert(key, snapshot.clone());
        Ok(record)
    }

    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let key = (repository.clone(), id);
        let before = self.memory.record(&key);
        let found = self.inner.snapshot(repository, id)?;
        let expected = before.filter(|before| self.memory.record(&key).as_ref() == Some(before));
        match (&found, expected) {
            (None, Some(_)) => self
                .memory
                .forgot(&format!("the record of snapshot {id} of '{repository}'")),
            (None, None) => {}
            (Some(found), Some(expected)) if *found == expected => {}
            (Some(found), None) if (&found.repository, found.id) == (repository, id) => {
                self.memory.change().records.insert(key, found.clone());
            }
            (Some(_), _) => {
                let what = format!("another record than that of snapshot {id} of '{repository}'");
                return Err(self.memory.wrong(&what));
            }
        }
        Ok(found)
    }

    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, StoreError> {
        self.inner.snapshots(repository)
    }

    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, StoreError> {
        self.inner.records()
    }

    fn put_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.inner.put_head(head)?;
        let head = head.head();
        self.memory
            .change()
            .heads
            .insert(head.repository.clone(), head.sequence);
        Ok(())
    }

    fn replace_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.inner.replace_head(head)?;
        let head = head.head();
        self.memory
            .change()
            .heads
            .insert(head.repository.clone(), head.sequence);
        Ok(())
    }

    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, StoreError> {
        self.inner.keys(repository)
    }

    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), StoreError> {
        self.inner.put_keys(repository, keys)
    }

    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, StoreError> {
        let before = self.memory.head(repository);
        let found = self.inner.head(repository, trusted)?;
        let verified = found.map(|found| SignedHead::verify(found.bytes().clone(), repository, trusted));
        let found = verified
            .transpose()
            .map_err(|error| self.memory.wrong(&format!("a head that cannot be believed ({error})")))?;
        let sequence = found.as_ref().map(|found| found.head().sequence);
        if sequence < before && self.memory.head(repository) == before {
            self.memory.forgot(&format!("the head of '{repository}'"));
        }
        Ok(found)
    }

    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), StoreError> {
        let key = (repository.clone(), id);
        self.memory.may_lose(Some(&key));
        let removed = self.inner.remove_snapshot(repository, id);
        // What was read meanwhile may be gone, too.
        self.memory.may_lose(Some(&key));
        removed
    }

    fn has_node(&self, id: &NodeId) -> Result<bool, StoreError> {
        self.inner.has_node(id)
    }

    fn walker(&self) -> Option<Arc<dyn NodeSource>> {
        let inner = self.inner.walker()?;
        let memory = Arc::clone(&self.memory);
        Some(Arc::new(VerifyingWalker { inner, memory }))
    }

    fn garbage(&self) -> Option<&dyn CatalogGarbage> {
        self.inner.garbage().map(|_| self as &dyn CatalogGarbage)
    }
}

impl<S: SnapshotStore> CatalogGarbage for VerifyingStore<S> {
    fn collect(&self) -> Result<Collected, StoreError> {
        self.collecting(|garbage| garbage.collect())
    }

    fn purge(&self) -> Result<Collected, StoreError> {
        self.collecting(|garbage| garbage.purge())
    }
}

/// The nodes of the same store for a walk.
struct VerifyingWalker {
    inner: Arc<dyn NodeSource>,
    memory: Arc<Memory>,
}

impl NodeSource for VerifyingWalker {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        let was_known = self.memory.has_node(id);
        self.memory.checked(id, was_known, self.inner.node(id)?)
    }
}

/// The bytes of `range` out of `data`, which is what was read of the groups that `cover` it, if the outboard proves all of them.
pub(crate) fn proved_part(outboard: &Outboard, cover: &Range<u64>, data: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let is_right = data.len() as u64 == cover.end - cover.start && outboard.verify_groups(cover.start, data).is_ok();
    let start = usize::try_from(range.start - cover.start).ok()?;
    let end = usize::try_from(range.end - cover.start).ok()?;
    is_right.then(|| data.slice(start..end))
}

#[cfg(test)]
mod tests;
