//! Fetching all of a staged snapshot before its release, in the background, and telling the master when it is here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use instantmirror_core::catalog::{CatalogError, Reachable};
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::Class;
use instantmirror_core::{FileMeta, Kind, RepoName, Snapshot, TransportError};
use instantmirror_store::snapshots::DiskSnapshotStore;
use instantmirror_swarm::{FetchEngine, Follower, HttpOrigin};
use tokio::sync::mpsc;

use super::Node;

/// Objects that are asked for at a time; the scheduler has its own limit for all that nobody waits for.
const FETCHES_MAX: usize = 8;
/// Files that are read from a catalog ahead of their fetch.
const FILES_AHEAD: usize = 256;
/// After a pass in which something could not be had, and between two reports to the master.
const PAUSE: Duration = Duration::from_secs(30);

/// One repository whose master knows us.
pub(super) struct Preseed {
    repository: RepoName,
    origins: Vec<HttpOrigin>,
    store: Arc<DiskSnapshotStore>,
    engine: FetchEngine,
    /// What the cache may hold, in bytes.
    room: u64,
}

/// What one pass over a snapshot found missing.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) fetched: u64,
    pub(super) failed: u64,
}

impl Preseed {
    pub(super) fn new(node: &Node, repository: RepoName, origins: Vec<HttpOrigin>) -> Self {
        Self {
            repository,
            origins,
            store: Arc::clone(&node.snapshots),
            engine: node.engine.clone(),
            room: node.config.cache.max_size.0,
        }
    }

    /// Works on whatever is staged, for ever. Drop the future to stop; what was fetched stays.
    pub(super) async fn run(&self, follower: &Follower) {
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
        let (repository, id, bytes) = (&self.repository, snapshot.id, snapshot.root.bytes);
        if bytes > self.room {
            tracing::warn!(%repository, snapshot = %id, bytes, "the cache is too small for this staged snapshot: it is not fetched ahead");
            return false;
        }
        for _ in 0..2 {
            match self.pass(snapshot, &|_, _| {}).await {
                Ok(Pass { fetched: 0, failed: 0 }) => return true,
                Ok(Pass { fetched, failed }) => {
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
    pub(super) async fn pass(
        &self,
        snapshot: &Arc<Snapshot>,
        done: &(dyn Fn(u64, bool) + Sync),
    ) -> Result<Pass, CatalogError> {
        let (sender, files) = mpsc::channel(FILES_AHEAD);
        let (store, root) = (Arc::clone(&self.store), snapshot.root.node);
        let walk = tokio::task::spawn_blocking(move || {
            let mut walk = Reachable::new(store, std::collections::HashSet::new());
            walk.add_root(root);
            for node in walk {
                let node = node?;
                for i in 0..if node.is_index() { 0 } else { node.len() } {
                    if let Kind::File(file) = node.meta(i)?.kind
                        && sender.blocking_send(file).is_err()
                    {
                        // Nobody wants the rest.
                        return Ok::<(), CatalogError>(());
                    }
                }
            }
            Ok(())
        });
        let files = stream::unfold(files, |mut files| async move { Some((files.recv().await?, files)) });
        let fetched = files.map(|file| async move {
            let size = file.size;
            let outcome = self.fetch(file).await;
            done(size, outcome != Some(false));
            outcome
        });
        let fetched = fetched.buffer_unordered(FETCHES_MAX);
        let pass = fetched.fold(Pass::default(), |mut pass, outcome| async move {
            match outcome {
                Some(true) => pass.fetched += 1,
                Some(false) => pass.failed += 1,
                None => {}
            }
            pass
        });
        let pass = pass.await;
        let broke_off = |error: tokio::task::JoinError| instantmirror_core::StoreError::Damaged(error.to_string());
        walk.await.map_err(broke_off)??;
        Ok(pass)
    }

    /// `None` if the file was here, else whether it is now.
    async fn fetch(&self, file: FileMeta) -> Option<bool> {
        if matches!(self.engine.holds(&file).await, Ok(true)) {
            return None;
        }
        Some(
            self.engine
                .fetch(&self.repository, &file, Step::of(Class::Preseed))
                .await
                .is_ok(),
        )
    }

    /// Tells the first master that listens.
    async fn report(&self, snapshot: &Snapshot) {
        for origin in &self.origins {
            match origin.report_synced(&self.repository, snapshot.id).await {
                // It was released or withdrawn just now.
                Ok(()) | Err(TransportError::NotFound { .. }) => return,
                Err(error) => {
                    tracing::warn!(repository = %self.repository, snapshot = %snapshot.id, "cannot report it as synced: {error}");
                }
            }
        }
    }
}
