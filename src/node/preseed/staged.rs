//! Fetching all of a staged snapshot before its release, in the background, and telling the master when it is here.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::catalog::CatalogError;
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::Class;
use instantmirror_core::{RepoName, RepoPath, Snapshot, TransportError};
use instantmirror_swarm::{Follower, HttpOrigin};

use super::super::Node;
use super::Ahead;
use super::bring::{Bringer, How, Pass, Room};

/// After a pass in which something could not be had, and between two reports to the master.
const PAUSE: Duration = Duration::from_secs(30);

/// One repository whose master knows us.
pub(in super::super) struct Preseed {
    bringer: Bringer,
    ahead: Arc<Ahead>,
    origins: Vec<HttpOrigin>,
}

impl Preseed {
    pub(in super::super) fn new(node: &Node, repository: RepoName, origins: Vec<HttpOrigin>) -> Self {
        Self {
            bringer: Bringer::new(node, repository),
            ahead: Arc::clone(&node.ahead),
            origins,
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
        let (repository, id) = (&self.bringer.repository, snapshot.id);
        let never_kept = self.ahead.config.borrow().cache.never.clone();
        let wants = move |path: &RepoPath| !never_kept.matches(path);
        let bytes = match self.bringer.count(snapshot.root.node, wants.clone()).await {
            Ok((_, bytes)) => bytes,
            Err(error) => {
                tracing::warn!(%repository, snapshot = %id, "not fetched ahead: {error}");
                return false;
            }
        };
        if bytes > self.bringer.cache.limits().max_bytes.unwrap_or(u64::MAX) {
            tracing::warn!(%repository, snapshot = %id, bytes, "the cache is too small for this staged snapshot: it is not fetched ahead");
            return false;
        }
        for _ in 0..2 {
            match self.pass(snapshot, wants.clone()).await {
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

    /// Fetches what is missing of the files that are kept at all.
    async fn pass(
        &self,
        snapshot: &Snapshot,
        wants: impl Fn(&RepoPath) -> bool + Send + 'static,
    ) -> Result<Pass, CatalogError> {
        let how = How {
            step: Step::of(Class::Preseed),
            room: Room::Made,
            verify: true,
            pacer: None,
            done: &|_, _| {},
        };
        let walk = self
            .bringer
            .new_files(None, snapshot.root.node, move |path, _| wants(path));
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
