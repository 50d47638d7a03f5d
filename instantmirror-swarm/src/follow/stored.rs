//! What a store says it has, against what the signed head names.
//!
//! Invariant: a record that a head names is believed for its hash, which the head binds, and never
//! for where it came from. Only a snapshot that the head does not list any more (an operator's tag
//! keeps it) is believed as it is stored: nothing says what its record was.
//!
//! Decision: stores keep a record without the fields that this version does not know, so that of a
//! newer master may encode to other bytes than it signed for. It counts as damaged too, since a
//! changed one looks the same. The master is then asked for the record once in the life of a
//! [`Follower`](super::Follower); if that says the same as the stored one, the catalog is here, and
//! nothing else is fetched or written.

use instantmirror_core::head::LiveSnapshot;
use instantmirror_core::traits::{SnapshotStore, StoreError};
use instantmirror_core::{RepoName, Snapshot, SnapshotId};

/// The record that the store has. One that is damaged is as good as none: it is fetched again.
pub(super) fn stored(
    store: &dyn SnapshotStore,
    repository: &RepoName,
    id: SnapshotId,
) -> Result<Option<Snapshot>, StoreError> {
    match store.snapshot(repository, id) {
        Err(StoreError::Damaged(reason)) => {
            tracing::error!(%repository, snapshot = %id, "its record is damaged and will be fetched again: {reason}");
            Ok(None)
        }
        found => found,
    }
}

/// Whether this is the record that the head names.
pub(super) fn is_named(repository: &RepoName, live: &LiveSnapshot, found: &Snapshot) -> bool {
    let is_named = found.encode().0 == live.record && found.id == live.id && found.repository == *repository;
    if !is_named {
        tracing::warn!(%repository, snapshot = %live.id, "its stored record is not the one that the signed head names, and will be fetched again: a newer master wrote it, or it was changed");
    }
    is_named
}

/// The record of a snapshot that is whole here.
pub(super) fn whole_here(
    store: &dyn SnapshotStore,
    repository: &RepoName,
    live: &LiveSnapshot,
) -> Result<Option<Snapshot>, StoreError> {
    Ok(stored(store, repository, live.id)?.filter(|found| is_named(repository, live, found)))
}
