//! Snapshots that a master took away for good: what only they have leaves the node's disk at once.
//!
//! The follower shows nothing of them from the moment it has the head. Here go the tags of the node's operator that name
//! them, then the objects and catalog nodes that no other snapshot refers to. It is done twice, since what was being
//! fetched the first time has arrived by the second; then the snapshot is noted in `taken-down`, one line `REPO UUID`.
//! A crash before that makes the next start do it again.
//!
//! What the newest tree of a repository needs is not known before its catalog is here, so a removal waits a moment for those
//! that are coming. One that does not come holds nothing up: until then whatever whole trees of that repository are on the disk
//! keep their objects ([`Node::kept_meanwhile`]), and what only the new one needs can be fetched again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use instantmirror_core::traits::{CatalogGarbage, Pins, Sweeper, Swept};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{RepoName, SnapshotId};
use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk, read_file, write_atomically};

use super::{CATALOG_RETRY, Node};
use crate::text::Count;

const FILE: &str = "taken-down";
const BYTES_MAX: u64 = 64 << 20;
/// So long after the first time it is done again.
const SECOND_LOOK: Duration = Duration::from_secs(60);
/// So long a removal waits for the catalogs of other repositories.
const CATALOG_WAIT: Duration = Duration::from_secs(10);
/// How often a catalog that is being taken in is waited for, before all of it is tried again later.
const CATALOG_TRIES: u32 = 30;

pub(super) type Removed = BTreeSet<(RepoName, SnapshotId)>;

/// What is done of what the masters removed.
#[derive(Debug, Default)]
pub(super) struct Takedowns {
    /// Read from the disk when it is needed first.
    done: Option<Removed>,
    once: BTreeMap<(RepoName, SnapshotId), Instant>,
    /// Since when catalogs are waited for.
    waiting: Option<Instant>,
}

impl Takedowns {
    fn done(&mut self, disk: &dyn Disk) -> &mut Removed {
        self.done.get_or_insert_with(|| {
            read(disk).unwrap_or_else(|error| {
                tracing::warn!("what was removed is looked for once more: {error}");
                Removed::new()
            })
        })
    }

    /// Those of `removed` that have to be looked for now.
    fn pending(&mut self, disk: &dyn Disk, mut removed: Removed) -> Removed {
        let done = self.done(disk);
        removed.retain(|one| !done.contains(one));
        removed.retain(|one| self.once.get(one).is_none_or(|at| at.elapsed() >= SECOND_LOOK));
        removed
    }

    /// Whether what is pending has to wait for the catalogs of these repositories.
    fn waits_for(&mut self, incomplete: &[&RepoName]) -> bool {
        if incomplete.is_empty() {
            self.waiting = None;
            return false;
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        if since.elapsed() < CATALOG_WAIT {
            return true;
        }
        self.waiting = None;
        let names: Vec<String> = incomplete.iter().map(|name| format!("'{name}'")).collect();
        tracing::warn!(
            "the catalog of {} is not whole here: what removed snapshots had is deleted all the same; what of it the newest \
             snapshot needs is fetched again",
            names.join(", ")
        );
        false
    }

    /// Notes that these were looked for.
    fn looked_for(&mut self, disk: &dyn Disk, removed: Removed) -> Result<(), StoreError> {
        let mut finished = Removed::new();
        for one in removed {
            match self.once.remove(&one) {
                Some(_) => _ = finished.insert(one),
                None => _ = self.once.insert(one, Instant::now()),
            }
        }
        if finished.is_empty() {
            return Ok(());
        }
        let done = self.done(disk);
        done.extend(finished);
        let lines: String = done
            .iter()
            .map(|(repository, id)| format!("{repository} {id}\n"))
            .collect();
        write_atomically(disk, Path::new(FILE), lines.as_bytes())
    }
}

fn read(disk: &dyn Disk) -> Result<Removed, StoreError> {
    let content = match read_file(disk, Path::new(FILE), BYTES_MAX) {
        Err(error) if error.is_not_found() => return Ok(Removed::new()),
        content => content?,
    };
    let line = |line: &str| {
        let (repository, id) = line.split_once(' ')?;
        Some((repository.parse().ok()?, id.parse().ok()?))
    };
    Ok(String::from_utf8_lossy(&content).lines().filter_map(line).collect())
}

impl Node {
    /// What the masters removed and has to be looked for now; tags that name it are gone when this returns.
    pub(super) async fn pending_takedowns(&self, takedowns: &mut Takedowns) -> Removed {
        let mut removed = Removed::new();
        for (name, follower) in self.followers.iter() {
            let head = follower.state().head.clone();
            let ids = head
                .iter()
                .flat_map(|head| head.head().removed.iter().map(|removed| removed.id));
            removed.extend(ids.map(|id| (name.clone(), id)));
        }
        let pending = takedowns.pending(self.tags.disk(), removed);
        let incomplete = self.followers.iter().filter(|(_, one)| !is_whole(&one.state()));
        let incomplete: Vec<&RepoName> = incomplete.map(|(name, _)| name).collect();
        if pending.is_empty() || takedowns.waits_for(&incomplete) {
            return Removed::new();
        }
        if let Err(error) = self.drop_removed_tags().await {
            tracing::error!("tags of removed snapshots cannot be taken away: {error}; it is tried again");
            return Removed::new();
        }
        pending
    }

    /// Deletes what no snapshot refers to, when that has just been found out. Returns whether that is done.
    pub(super) async fn delete_removed(&self, takedowns: &mut Takedowns, removed: Removed) -> bool {
        if removed.is_empty() {
            return true;
        }
        if self.cache.pins().is_some_and(Pins::pins_everything) {
            tracing::warn!(
                "what was removed is not deleted yet, since it is not known what tags keep; mend what the log says of tags                  (`imnode verify`), or take the tag away"
            );
            return false;
        }
        let cache = self.cache.clone();
        let deleted = tokio::task::spawn_blocking(move || cache.sweeper().map(Sweeper::sweep).transpose()).await;
        match deleted {
            Ok(Ok(None)) => {
                let snapshots = Count::of(removed.len(), "snapshot");
                tracing::warn!(
                    "{snapshots} removed by the master: the cache has no sweeper, so what only they had stays until it is evicted"
                );
            }
            Ok(Ok(Some(Swept { objects, bytes }))) => {
                let snapshots = Count::of(removed.len(), "snapshot");
                tracing::info!(
                    objects,
                    bytes,
                    "{snapshots} removed by the master: what only they had is deleted"
                );
            }
            Ok(Err(error)) => {
                tracing::error!("what was removed cannot be deleted: {error}; it is tried again");
                return false;
            }
            Err(error) => {
                tracing::error!("what was removed cannot be deleted: {error}; it is tried again");
                return false;
            }
        }
        if !self.forget_catalogs().await {
            return false;
        }
        if let Err(error) = takedowns.looked_for(self.tags.disk(), removed) {
            tracing::warn!("that removed snapshots are deleted cannot be written down: {error}");
            return false;
        }
        true
    }

    /// Gives up the catalog nodes that no record refers to. Returns whether that is done.
    async fn forget_catalogs(&self) -> bool {
        for _ in 0..CATALOG_TRIES {
            let Some(pause) = self.intake.try_pause() else {
                tokio::time::sleep(CATALOG_RETRY).await;
                continue;
            };
            let store = Arc::clone(&self.snapshots);
            let cleaned = tokio::task::spawn_blocking(move || {
                let cleaned = store.garbage().map(CatalogGarbage::purge).transpose();
                drop(pause);
                cleaned
            });
            let error = match cleaned.await {
                Ok(Ok(_)) => return true,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!("the catalogs cannot be cleaned of what was removed: {error}; it is tried again");
            return false;
        }
        tracing::warn!("the catalogs are not cleaned of what was removed yet, since one is being taken in");
        false
    }
}

/// Whether the catalog of what the newest head shows as current is here. Without a head nothing is known.
pub(super) fn is_whole(state: &RepositoryState) -> bool {
    state.head.as_ref().is_some_and(|head| {
        let current = head.head().current;
        current.is_none_or(|current| state.snapshots.contains_key(&current))
    })
}

#[cfg(test)]
mod tests {
    use instantmirror_store::disk::RealDisk;

    use super::*;

    #[test]
    fn a_catalog_that_does_not_come_is_waited_for_and_no_longer() {
        let (name, mut takedowns): (RepoName, _) = ("b".parse().unwrap(), Takedowns::default());
        assert!(!takedowns.waits_for(&[]));
        assert!(takedowns.waits_for(&[&name]) && takedowns.waits_for(&[&name]));
        let long_ago = || Instant::now().checked_sub(CATALOG_WAIT);
        takedowns.waiting = long_ago();
        assert!(!takedowns.waits_for(&[&name]));
        assert!(takedowns.waits_for(&[&name]), "the next removal waits for its own time");
        takedowns.waiting = long_ago();
        assert!(!takedowns.waits_for(&[]), "it came");
        assert!(takedowns.waits_for(&[&name]));
    }

    #[test]
    fn each_is_looked_for_twice_and_then_never_again() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let one = ("r".parse().unwrap(), SnapshotId::from_random([1; 16]));
        let removed = Removed::from([one.clone()]);
        let mut takedowns = Takedowns::default();
        assert_eq!(takedowns.pending(&disk, removed.clone()), removed);
        takedowns.looked_for(&disk, removed.clone()).unwrap();
        assert_eq!(takedowns.pending(&disk, removed.clone()), Removed::new());
        // Killed between the two: it begins anew.
        assert_eq!(Takedowns::default().pending(&disk, removed.clone()), removed);
        takedowns
            .once
            .insert(one, Instant::now().checked_sub(SECOND_LOOK).unwrap());
        assert_eq!(takedowns.pending(&disk, removed.clone()), removed);
        takedowns.looked_for(&disk, removed.clone()).unwrap();
        assert_eq!(takedowns.pending(&disk, removed.clone()), Removed::new());
        assert_eq!(Takedowns::default().pending(&disk, removed), Removed::new());
    }
}
