//! The trait of stores for catalogs, records and heads.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use crate::catalog::{CatalogNode, NodeSource};
use crate::head::SignedHead;
use crate::sign::PublicKey;
use crate::{NodeId, RecordId, RepoName, Snapshot, SnapshotId};

/// Durable store of catalog nodes, snapshot records and heads, the same on master and node.
///
/// Guarantees that every implementation keeps:
/// * What a returned `Ok` acknowledges survives a crash of the process and of the machine.
/// * Nothing is visible in part: after a crash a batch of nodes, a record or a head is there or not.
/// * [`NodeSource::node`] returns only bytes that hash to the id.
/// * Reading never waits for a writer.
///
/// Every call is synchronous and may block on the disk: an async caller makes those that write or walk on
/// [`Threads`](super::blocking::Threads) that may. Reason: catalogs are walked node by node, thousands at a time, through
/// [`NodeSource`], from memory that the disk is mapped into. A future per node would cost more than the node, and a store behind
/// a network could not keep the promise that a whole catalog is known before it is shown: what a node shows it has here. So all
/// of the store is where its nodes are, and code that is not async (a publish, a walk) needs no executor.
///
/// Concurrency: calls may overlap; one process writes at a time (`Busy` names the other).
pub trait SnapshotStore: NodeSource + Debug + 'static {
    /// Stores nodes; those already here cost nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Busy`]; none, some or all of the nodes may be here then.
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError>;

    /// Stores a snapshot record. Every catalog node of it must be here already: a record that is here
    /// means a snapshot that is whole.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another record has this snapshot id, else as
    /// [`put_nodes`](Self::put_nodes).
    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, StoreError>;

    /// The record of a snapshot that is here and whole.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is here but not readable.
    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, StoreError>;

    /// Ids of all snapshots of a repository that are here, in no order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, StoreError>;

    /// All snapshots of all repositories that are here, whether or not any head names them, in no order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, StoreError>;

    /// Replaces the head of its repository.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the stored head has a higher sequence number (a second guard: callers
    /// check [`SignedHead::succeeds`] first), else as [`put_nodes`](Self::put_nodes).
    fn put_head(&self, head: &SignedHead) -> Result<(), StoreError>;

    /// Replaces the head of its repository, whatever the sequence number of the stored one: for a caller to whom that one
    /// does not count any more, since its keys were replaced.
    ///
    /// # Errors
    /// As [`put_nodes`](Self::put_nodes).
    fn replace_head(&self, head: &SignedHead) -> Result<(), StoreError>;

    /// The stored key lists of a repository ([`KeyChain::encode`](crate::KeyChain::encode)), not verified.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they are here but not readable.
    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, StoreError>;

    /// Replaces the key lists of a repository.
    ///
    /// # Errors
    /// As [`put_nodes`](Self::put_nodes).
    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), StoreError>;

    /// The stored head of a repository, verified again with `trusted`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is here but no trusted key has signed it.
    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, StoreError>;

    /// Forgets a snapshot. Nodes that no remaining snapshot refers to are given back to the disk later.
    ///
    /// # Errors
    /// As [`put_nodes`](Self::put_nodes). Removing what is not here is no error.
    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), StoreError>;

    /// Whether a node is here, without touching its bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Damaged`].
    fn has_node(&self, id: &NodeId) -> Result<bool, StoreError> {
        Ok(self.node(id)?.is_some())
    }

    /// The same nodes for a walk through much of them, read in a way that leaves nothing of them in the memory of the process;
    /// `None` if the store itself is as good for that.
    fn walker(&self) -> Option<Arc<dyn NodeSource>> {
        None
    }

    /// Gives the space of nodes back that no snapshot refers to; `None` if the store does so by itself, or keeps them.
    fn garbage(&self) -> Option<&dyn CatalogGarbage> {
        None
    }
}

/// What a clean-up of catalogs gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Nodes that are not here any more.
    pub nodes: u64,
    /// Bytes that this freed.
    pub bytes: u64,
}

/// A [`SnapshotStore`] that removes nodes when it is told to. Not to be called while a snapshot is being taken in: nodes whose
/// record is not here yet would go.
pub trait CatalogGarbage: Debug + Send + Sync {
    /// Removes nodes that no snapshot here refers to, as far as that is worth its cost. Walks all catalogs.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Damaged`]; what is referred to is never removed.
    fn collect(&self) -> Result<Collected, StoreError>;

    /// The same to the last byte: nothing of such a node is on the medium afterwards. May read all catalogs.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    fn purge(&self) -> Result<Collected, StoreError>;
}
