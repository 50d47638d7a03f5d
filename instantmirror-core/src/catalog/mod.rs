//! Catalogs: a published tree as a Merkle DAG of column nodes (docs/formats/catalog.md).
//!
//! Key decision: a node is its own index. Columns of fixed width let a lookup binary-search the bytes
//! where they lie, in a memory map, with nothing parsed; the id of a node is the BLAKE3 of those same
//! bytes, so what is on disk, on the wire and in the signature is one thing.
//!
//! * [`node`] reads and writes the bytes of one node, and rejects any that are not canonical.
//! * [`build`] turns a directory's entries into nodes, cutting large ones at content-defined borders.
//! * [`read`] looks up paths and lists directories.
//! * [`delta`] finds the nodes one tree has and another lacks, which is also how closure is checked.
//! * [`diff`] tells file by file what two trees differ in.
//! * [`reach`] visits all nodes that many trees use, each once.

pub mod build;
pub mod delta;
pub mod diff;
pub mod frame;
mod layout;
pub mod node;
pub mod reach;
pub mod read;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::name::NameError;
use crate::{NodeId, StoreError};

pub use build::build_directory;
pub use delta::{Closure, Delta, check_closure};
pub use diff::{Difference, Differences};
pub use layout::{LEAF_ENTRIES_MAX, LEAF_ENTRIES_MEAN, NODE_BYTES_MAX};
pub use node::{CatalogNode, Child, Totals};
pub use reach::Reachable;
pub use read::{Catalog, Resolution, SYMLINKS_MAX};

/// Where catalog nodes are read from: a snapshot store, or a map in a test.
pub trait NodeSource: Send + Sync {
    /// The bytes of node `id`, or `None` if it is not here. What is returned was checked against its id
    /// when it was stored; cheap to clone, usually a slice of a memory map.
    ///
    /// # Errors
    /// [`StoreError`] if the node is here but cannot be read.
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError>;
}

impl<T: NodeSource + ?Sized> NodeSource for std::sync::Arc<T> {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        (**self).node(id)
    }
}

impl<T: NodeSource + ?Sized> NodeSource for &T {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        (**self).node(id)
    }
}

/// Why catalog bytes, entries or a walk over them were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The bytes are not a catalog node in canonical form.
    #[error("catalog node {id} is malformed: {reason}")]
    Malformed {
        /// The node.
        id: NodeId,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The bytes do not hash to the id they were asked for by.
    #[error("catalog node {0} was not asked for, or its bytes are not what its id says")]
    Unexpected(NodeId),
    /// A node that the tree refers to is not in the store.
    #[error("catalog node {0} is missing; fetch the snapshot's catalog again")]
    Missing(NodeId),
    /// A node contradicts the node that refers to it (kind, level, names or counts).
    #[error("catalog node {id} contradicts its parent: {reason}")]
    Inconsistent {
        /// The child node.
        id: NodeId,
        /// What disagrees.
        reason: &'static str,
    },
    /// Entries to be encoded are not strictly sorted by name.
    #[error("entry '{0}' is out of order or there twice")]
    Order(String),
    /// A value of an entry does not fit its column.
    #[error("'{name}': {what} is out of range")]
    Range {
        /// The entry.
        name: String,
        /// Which value.
        what: &'static str,
    },
    /// A name or symlink target is not valid.
    #[error("catalog node {id}: {source}")]
    Name {
        /// The node that holds it.
        id: NodeId,
        /// The rule it breaks.
        source: NameError,
    },
    /// A frame of a delta stream is longer than any node, or the stream ended inside one.
    #[error("the catalog stream is damaged: {0}")]
    Frame(&'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
