//! Fetching all of a staged snapshot before its release, in the background, and telling the master when it is here.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::catalog::CatalogError;
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::Class;
use instantmirror_core::{RepoName, Snapshot, TransportError};
use instantmirror_swarm::{Follower, HttpOrigin};

use super::super::Node;
use super::bring::{Bringer, How, Pass, Room};

/// After a pass in which something could not be had, and between two reports to the master.
const PAUSE: Duration = Duration::from_secs(30);

/// One repository whose master knows us.
pub(in super::super) struct Preseed {
    bringer: Bringer,
    origins: Vec<HttpOrigin>,
    /// What the cache may hold, in bytes.
    room: u64,
}

impl Preseed {
    pub(in super::super) fn new(node: &Node, repository: RepoName, origins: Vec<HttpOrigin>) -> Self {
        Self {
            bringer: Bringer::new(node, repository),
            origins,
            room: node.cache.limits().max_bytes.unwrap_or(u64::MAX),
        }
    }

    /// Works on whatever is staged, for ever. Drop the future to stop; what was fetched stays.
    pub(in super::super) async fn run(&self, follower: &Follower) {
        let mut staged = follower.staged();
        loop {
            let snapshots = Arc::clone(&staged.borrow_and_update());
            tokio::select! {
                changed = staged.changed() => if changed.is_err() { return },
                () = self.bring(&snapshots), if !snapshots.is_empty() => {}
            }
        }
    }

    /// Brings these snapshots, and reports them again and again: a master that was restarted has forgotten it.
    async fn bring(&self, snapshots: &[Arc<Snapshot>]) {
        loop {
            for snapshot in snapshots {
                if self.bring_one(snapshot).await {
                    self.report(snapshot).await;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns whether all of it is in the cache: a pass over it has found nothing missing.
    async fn bring_one(&self, snapshot: &Arc<Snapshot>) -> bool {
        let (repository, id, bytes) = (&self.bringer.repository, snapshot.id, snapshot.root.bytes);
        if bytes > self.room {
            tracing::warn!(%repository, snapshot = %id, bytes, "the cache is too small for this staged snapshot: it is not fetched ahead");
            return false;
        }
        for _ in 0..2 {
            match self.pass(snapshot, &|_, _| {}).await {
                Ok(Pass {
                    fetched: 0, failed: 0, ..
                }) => return true,
                Ok(Pass { fetched, failed, .. }) => {
                    tracing::info!(%repository, snapshot = %id, fetched, failed, "fetched ahead of the release");
                    if failed > 0 {
                        return false;
                    }
                }
                Err(error) => {
                    tracing::warn!(%repository, snapshot = %id, "not fetched ahead: {error}");
                    return false;
                }
            }
        }
        tracing::warn!(%repository, snapshot = %id, "the cache gives up what was fetched ahead: it is too small");
        false
    }

    /// Fetches what is missing; `done` is told each file's size and whether it is here then.
    pub(in super::super) async fn pass(
        &self,
        snapshot: &Arc<Snapshot>,
        done: &(dyn Fn(u64, bool) + Sync),
    ) -> Result<Pass, CatalogError> {
        let how = How {
            step: Step::of(Class::Preseed),
            room: Room::Made,
            verify: true,
            pacer: None,
            done,
        };
        let walk = self.bringer.files_of(snapshot.root.node);
        self.bringer.bring(walk, &how).await
    }

    /// Tells the first master that listens.
    async fn report(&self, snapshot: &Snapshot) {
        for origin in &self.origins {
            match origin.report_synced(&self.bringer.repository, snapshot.id).await {
                // It was released or withdrawn just now.
                Ok(()) | Err(TransportError::NotFound { .. }) => return,
                Err(error) => {
                    tracing::warn!(repository = %self.bringer.repository, snapshot = %snapshot.id, "cannot report it as synced: {error}");
                }
            }
        }
    }
}
