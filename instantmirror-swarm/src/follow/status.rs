//! What a follower tells of itself: how it goes, and why it does not.

use instantmirror_core::catalog::CatalogError;
use instantmirror_core::traits::{StoreError, TransportError};
use instantmirror_core::{HeadError, KeysError, RecordError, SnapshotId, Timestamp};

/// Why a master could not be followed. What is shown stays as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The master cannot be reached or does not answer as it should.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It sent a head that must not be believed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// It sent key lists that must not be believed.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// It sent a snapshot record that must not be believed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It sent catalog nodes that must not be believed.
    #[error("catalog of snapshot {snapshot}: {source}")]
    Catalog {
        /// The snapshot being fetched.
        snapshot: SnapshotId,
        /// What is wrong.
        source: CatalogError,
    },
    /// Our own store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How the following goes, for status pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowStatus {
    /// The master asked last.
    pub upstream: String,
    /// When a master last gave a valid answer.
    pub last_contact: Option<Timestamp>,
    /// What went wrong since, if anything.
    pub last_error: Option<String>,
    /// The snapshot whose catalog is being fetched.
    pub syncing: Option<SnapshotId>,
    /// Catalog bytes received since the start (uncompressed).
    pub catalog_bytes: u64,
    /// Heads, records and catalogs that were refused since the start.
    pub refused: u64,
}
