//! What a node keeps of what its master has, and when its catalogs may be cleaned up.

use std::sync::Arc;

use instantmirror_core::retention::{RetentionPlan, RetentionPolicy};
use instantmirror_core::{SignedHead, SnapshotId, Timestamp};
use tokio::sync::{Notify, OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};

/// Keeps those who take snapshots into a store and the one who cleans it up apart: between the arrival of a catalog's
/// nodes and that of the record which refers to them, nobody may look for garbage. Shared by all followers of a store.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    gate: Arc<RwLock<()>>,
    dropped: Arc<Notify>,
}

impl Intake {
    /// Waits until a snapshot was dropped since this was last ready. Cancellation safe. For one caller.
    pub async fn dropped(&self) {
        self.dropped.notified().await;
    }

    /// Keeps snapshots from being taken in while the guard lives; `None` if one is being taken in now.
    #[must_use]
    pub fn try_pause(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        Arc::clone(&self.gate).try_write_owned().ok()
    }

    pub(super) async fn taking_in(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    pub(super) fn note_dropped(&self) {
        self.dropped.notify_one();
    }
}

/// What of a head is kept here now.
pub(super) struct Wanted<'a> {
    head: &'a SignedHead,
    plan: RetentionPlan,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(policy: &RetentionPolicy, head: &'a SignedHead, now: Timestamp) -> Self {
        Self {
            head,
            plan: policy.plan(head.head(), now),
        }
    }

    /// Whether the record stays: the master still has the snapshot, and our own rules keep it.
    pub(super) fn keeps(&self, id: &SnapshotId) -> bool {
        self.head.head().snapshot(id).is_some() && self.plan.keeps(id)
    }

    /// Whether it is also shown.
    pub(super) fn shows(&self, id: &SnapshotId) -> bool {
        let live = self.head.head().snapshot(id);
        live.is_some_and(|live| live.state.is_released()) && self.plan.keeps(id)
    }
}
