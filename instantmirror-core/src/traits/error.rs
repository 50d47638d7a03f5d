//! The errors of the traits. A variant is a decision that a caller can take.

use std::ops::Range;
use std::sync::Arc;

use crate::catalog::CatalogError;
use crate::outboard::VerifyError;
use crate::{ObjectId, RepoName};

/// Any error below, kept as the cause of one here.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why a snapshot store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The medium failed or is full; trying again later may help.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which file.
        what: String,
        /// What the system said.
        source: Cause,
    },
    /// What is stored is damaged; the text says where and what to do.
    #[error("{0}")]
    Damaged(String),
    /// Another process holds the right to write; the text says which.
    #[error("{0}")]
    Busy(String),
    /// What was to be stored contradicts what is stored (a different record under a used id).
    #[error("{0}")]
    Conflict(String),
}

/// Why an object cache could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The object can never fit; stream it through instead.
    #[error("object {object} of {size} bytes is larger than the cache ({max} bytes)")]
    TooLarge {
        /// The object.
        object: ObjectId,
        /// Its size.
        size: u64,
        /// What the cache may hold at most.
        max: u64,
    },
    /// Everything that could make room is in use; later there may be room.
    #[error("no room for object {object} ({size} bytes): everything in the cache is in use or pinned")]
    Full {
        /// The object.
        object: ObjectId,
        /// Its size.
        size: u64,
    },
    /// Somebody else fills the object already; read from their fill.
    #[error("object {0} is being filled already")]
    Busy(ObjectId),
    /// Content or outboard handed in is not the object's. Nothing was stored: blame the sender.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Bytes were read that are not present.
    #[error("bytes {} to {} of object {object} are not in the cache", range.start, range.end)]
    Absent {
        /// The object.
        object: ObjectId,
        /// What was asked for.
        range: Range<u64>,
    },
    /// A stored object turned out damaged and was put aside; fetch it again.
    #[error("object {object} was damaged on disk and has been put aside: {reason}")]
    Damaged {
        /// The object.
        object: ObjectId,
        /// What was found.
        reason: String,
    },
    /// The medium failed or is full; what is held stays readable.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which file.
        what: String,
        /// What the system said.
        source: Cause,
    },
}

/// Why a transport did not deliver.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nobody answers there, the connection broke, or it made no progress: try again, or elsewhere.
    #[error("{from}: {reason}")]
    Unreachable {
        /// The other side.
        from: String,
        /// What happened.
        reason: String,
    },
    /// The other side answers, but does not have it: try elsewhere.
    #[error("{from} does not have {what}")]
    NotFound {
        /// The other side.
        from: String,
        /// What was asked for.
        what: String,
    },
    /// The other side refuses: credentials or policy. Trying again will not help.
    #[error("{from} refuses: {reason}")]
    Refused {
        /// The other side.
        from: String,
        /// What it said.
        reason: String,
    },
    /// The other side broke the protocol: do not trust it with this.
    #[error("{from} broke the protocol: {reason}")]
    Protocol {
        /// The other side.
        from: String,
        /// What it did.
        reason: String,
    },
}

impl TransportError {
    /// Whether the same request to the same side can succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Why an object could not be brought to a reader.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It is not in the cache and no source could be reached: HTTP says 504.
    #[error("object {object} of '{repository}' is not cached and could not be fetched: {source}")]
    Unavailable {
        /// The object.
        object: ObjectId,
        /// The repository it was read for.
        repository: RepoName,
        /// The last failure.
        source: Arc<TransportError>,
    },
    /// Every source delivered something else: HTTP says 502.
    #[error("object {object} of '{repository}' could not be verified: {source}")]
    Corrupt {
        /// The object.
        object: ObjectId,
        /// The repository it was read for.
        repository: RepoName,
        /// What was wrong.
        source: VerifyError,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl From<CatalogError> for StoreError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Store(store) => store,
            other => Self::Damaged(other.to_string()),
        }
    }
}
