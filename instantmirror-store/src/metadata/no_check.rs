//! The check where the feature `metadata-check` is missing: there is none, and whoever asks for it is told so.

use instantmirror_core::RepoPath;

use super::{Checked, Known, MetadataError, Touched, Tree};

/// Checks nothing.
///
/// # Errors
/// [`MetadataError::NotCompiled`], always.
pub fn check(_: &dyn Tree, _: impl IntoIterator<Item = RepoPath>) -> Result<Checked, MetadataError> {
    Err(MetadataError::NotCompiled)
}

/// Checks nothing.
///
/// # Errors
/// [`MetadataError::NotCompiled`], always.
pub fn check_since(_: &dyn Tree, _: &Known, _: &Touched) -> Result<Checked, MetadataError> {
    Err(MetadataError::NotCompiled)
}
