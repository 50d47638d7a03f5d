//! Tags of the node's operator: what they name stays, whatever master and policy say, until the master removes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use instantmirror_core::traits::StoreError;
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{SnapshotId, TagName};

use super::stored::{stored, whole_here};
use super::{FollowError, Follower};

impl Follower {
    /// Takes up the tags of the node's operator: what they name is shown and kept whatever master and policy say, unless
    /// the master removed it.
    ///
    /// # Errors
    /// [`StoreError`] if the store, on which it blocks, cannot be read. A tagged snapshot whose record is not here is only not shown.
    pub fn tagged(self, mut tags: BTreeMap<TagName, SnapshotId>) -> Result<Self, StoreError> {
        let held = self.state().head.clone();
        let head = held.as_ref().map(|held| held.head());
        if let Some(head) = head {
            tags.retain(|_, id| !head.has_removed(id));
        }
        let (store, repository) = (self.store.as_ref(), &self.repository);
        let mut snapshots = Vec::new();
        for id in tags.values() {
            snapshots.extend(match head.and_then(|head| head.snapshot(id)) {
                Some(live) => whole_here(store, repository, live)?,
                None => stored(store, repository, *id)?,
            });
        }
        self.state.send_modify(|state| {
            let mut next = RepositoryState::clone(state);
            next.snapshots
                .extend(snapshots.into_iter().map(|snapshot| (snapshot.id, Arc::new(snapshot))));
            next.local_tags = tags;
            *state = Arc::new(next);
        });
        Ok(self)
    }

    /// Tags a snapshot that is shown, from this moment on; `false` if it is not shown, and nothing was done.
    pub fn tag(&self, tag: &TagName, snapshot: SnapshotId) -> bool {
        self.state.send_if_modified(|state| {
            let shown = state.snapshots.contains_key(&snapshot);
            if shown {
                let mut next = RepositoryState::clone(state);
                next.local_tags.insert(tag.clone(), snapshot);
                *state = Arc::new(next);
            }
            shown
        })
    }

    /// Takes a tag away. What only the tag kept is forgotten with the next head, or at the next wait for one.
    pub fn untag(&self, tag: &TagName) {
        self.state.send_modify(|state| {
            let mut next = RepositoryState::clone(state);
            next.local_tags.remove(tag);
            *state = Arc::new(next);
        });
        let head = self.state().head.clone();
        if let Some(head) = head {
            self.show(&head, None);
        }
        self.untagged.store(true, Ordering::Release);
    }

    /// Forgets what only tags had kept.
    ///
    /// # Errors
    /// [`StoreError`]; it is tried again with the next head.
    pub async fn forget_untagged(&self) -> Result<(), FollowError> {
        let state = self.state();
        match &state.head {
            Some(head) if self.untagged.swap(false, Ordering::AcqRel) => self.drop_expired(head).await,
            _ => Ok(()),
        }
    }
}

pub(super) fn is_tagged(state: &RepositoryState, id: &SnapshotId) -> bool {
    state.local_tags.values().any(|tagged| tagged == id)
}
