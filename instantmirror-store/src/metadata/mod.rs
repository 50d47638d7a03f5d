//! Whether a tree agrees with the repository metadata in it: every package that an index names is there, with the size
//! and hash that the index states.
//!
//! Key decision: the check reads a catalog and the objects behind it, never a source tree, which may change under it.
//! And it costs what has changed: of the last tree that was found good it is [known](Known) which metadata there was
//! and where what it names lies, so that most publishes read no metadata at all.
//!
//! - [`Tree`]: what is looked at; [`StoredTree`] is a catalog with the master's objects.
//! - [`check`]: the check. `yum` and `debian` know the formats, and which absences are none of our business.
//! - `unpack`, `xml`, `control`: reading what is compressed, in bounded memory, whatever the bytes are.
//!
//! Without the feature `metadata-check`, on by default, each check is [`MetadataError::NotCompiled`].
//!
//! Invariant: metadata that cannot be read is a [`Problem`] that names it, never a panic and never passed over.

#[cfg_attr(not(feature = "metadata-check"), path = "no_check.rs")]
mod check;
#[cfg(feature = "metadata-check")]
pub mod control;
#[cfg(feature = "metadata-check")]
mod debian;
#[cfg(feature = "metadata-check")]
mod digests;
mod known;
#[cfg_attr(
    not(feature = "metadata-check"),
    allow(dead_code, reason = "few names are looked at")
)]
mod names;
mod problem;
mod stored;
#[cfg(test)]
#[cfg(feature = "metadata-check")]
mod tests;
#[cfg_attr(not(feature = "metadata-check"), allow(dead_code, reason = "nothing is checked"))]
mod touched;
#[cfg(feature = "metadata-check")]
pub mod unpack;
#[cfg(feature = "metadata-check")]
mod xml;
#[cfg(feature = "metadata-check")]
mod yum;

use std::io::Read;

use instantmirror_core::catalog::CatalogError;
use instantmirror_core::{FileMeta, ObjectId, RepoPath};

use crate::error::StoreError;

pub use check::{check, check_since};
pub use known::{Found, Index, Known, KnownError};
pub use names::is_metadata;
pub use problem::{Fault, PROBLEMS_LISTED_MAX, Problem, Problems};
pub use stored::{StoredTree, check_stored};
pub use touched::{TOUCHED_MAX, Touched};
#[cfg(feature = "metadata-check")]
pub use yum::{read_primary, read_repomd};

/// Why a check came to no end. What is wrong with the metadata itself is a [`Problem`] instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The object store or the digest table cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The feature `metadata-check` is missing, so that nothing can be checked.
    #[error("repository metadata cannot be checked: this program was built without the feature `metadata-check`")]
    NotCompiled,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// What is wrong.
    pub problems: Problems,
    /// The metadata of the tree; of use for the next check if nothing is wrong.
    pub found: Vec<Found>,
    /// Bytes of metadata that were read, and of files that were hashed.
    pub read_bytes: u64,
}

/// A tree and the content of its files.
pub trait Tree {
    /// The file that `path` leads to, symlinks followed inside the tree, and the path on which it really lies. `None`
    /// if there is no file.
    ///
    /// # Errors
    /// [`MetadataError::Catalog`].
    fn file(&self, path: &RepoPath) -> Result<Option<(RepoPath, FileMeta)>, MetadataError>;

    /// Whether `path` leads to a directory.
    ///
    /// # Errors
    /// [`MetadataError::Catalog`].
    fn is_directory(&self, path: &RepoPath) -> Result<bool, MetadataError>;

    /// The content of a file, which really lies at `path`.
    ///
    /// # Errors
    /// [`MetadataError::Store`] if it is not there.
    fn open(&self, path: &RepoPath, file: &FileMeta) -> Result<Box<dyn Read + '_>, MetadataError>;

    /// The SHA-256 of an object, if it is known without reading it.
    ///
    /// # Errors
    /// [`MetadataError::Store`].
    fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>, MetadataError>;
}
