//! What the snapshots say of the objects in the cache: which are garbage, which only an old snapshot refers to.
//!
//! One walk of the catalogs each time the set of snapshots has changed, in the background, and no more often than costs
//! a twentieth of one core. What a master has removed is looked for at once, and deleted.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use instantmirror_core::catalog::{CatalogError, CatalogNode, NodeSource, Reachable};
use instantmirror_core::expiry::Standing;
use instantmirror_core::traits::Standings;
use instantmirror_core::{Clock as _, Kind, NodeId, ObjectId, RepoName, SnapshotId, grace};

use super::Node;
use super::parts::{NodeCache, walker};
use super::takedown::{Removed, Takedowns, is_whole};
use crate::clock::SystemClock;

/// How often the set of snapshots is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// After a walk the next one waits for so many times what it took.
const REST: u32 = 20;
/// What masters removed is looked for again after this time if it could not be deleted.
const RETRY: Duration = Duration::from_secs(30);
/// What was fetched for an old snapshot since the last walk is found out after this time at the latest.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Roots of trees: of those that clients are sent to, and of the others that are shown.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Roots {
    live: BTreeSet<NodeId>,
    old: BTreeSet<NodeId>,
}

impl Node {
    /// Keeps the cache told, for ever.
    pub(super) async fn classify_objects(&self) {
        let mut last: Option<(Roots, Instant)> = None;
        let (mut takedowns, mut not_before) = (Takedowns::default(), Instant::now());
        let mut takedowns_not_before = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.cache.is_loaded() {
                continue;
            }
            let removed = if Instant::now() < takedowns_not_before {
                Removed::new()
            } else {
                self.pending_takedowns(&mut takedowns).await
            };
            let is_takedown = !removed.is_empty();
            let roots = self.roots();
            let is_known = |(known, at): &(Roots, Instant)| *known == roots && at.elapsed() < INTERVAL;
            if removed.is_empty() && (Instant::now() < not_before || last.as_ref().is_some_and(is_known)) {
                continue;
            }
            let begun = Instant::now();
            let (cache, store, walked) = (self.cache.clone(), walker(&self.snapshots), roots.clone());
            let done = tokio::task::spawn_blocking(move || walk(&cache, store, &walked)).await;
            match done {
                Ok(Ok(Standings { garbage, old })) => {
                    tracing::debug!(garbage, old, took = ?begun.elapsed(), "what the snapshots say of cached objects");
                    last = Some((roots, Instant::now()));
                    if !self.delete_removed(&mut takedowns, removed).await {
                        takedowns_not_before = Instant::now() + RETRY;
                    }
                    if garbage > 0 {
                        self.ahead.freed.send_replace(());
                    }
                }
                // A snapshot that is dropped meanwhile may take catalog nodes with it: the next look knows.
                Ok(Err(error)) if is_takedown => {
                    takedowns_not_before = Instant::now() + RETRY;
                    tracing::warn!(
                        "removed snapshots are not deleted yet, since the catalogs cannot be walked: {error}"
                    );
                }
                Ok(Err(error)) => tracing::debug!("the catalogs could not be walked to the end: {error}"),
                Err(error) => tracing::error!("the catalogs could not be walked: {error}"),
            }
            not_before = Instant::now() + begun.elapsed() * REST;
        }
    }

    fn roots(&self) -> Roots {
        let mut roots = Roots::default();
        let now = SystemClock.now();
        for follower in self.followers.values() {
            let state = follower.state();
            let current = state.current.and_then(|id| state.snapshots.get(&id));
            let graced = grace::fallbacks(&state, self.config.snapshots.grace.0, now);
            roots.live.extend(current.map(|snapshot| snapshot.root.node));
            roots.live.extend(graced.iter().map(|snapshot| snapshot.root.node));
            // What is staged will be current, unless it was removed.
            let head = state.head.as_ref().map(|head| head.head());
            let is_removed = |id: &SnapshotId| head.is_some_and(|head| head.has_removed(id));
            let staged = follower.staged().borrow().clone();
            let staged = staged.iter().filter(|snapshot| !is_removed(&snapshot.id));
            roots.live.extend(staged.map(|snapshot| snapshot.root.node));
            roots
                .old
                .extend(state.snapshots.values().map(|snapshot| snapshot.root.node));
        }
        roots.old.extend(self.kept_meanwhile());
        roots.old = &roots.old - &roots.live;
        roots
    }
}

impl Node {
    /// Roots of the whole trees on the disk of repositories whose newest one is not whole yet, but for those that were removed:
    /// no head names them any more, and after a restart nothing shows them, but their successor needs most of what they have.
    fn kept_meanwhile(&self) -> Vec<NodeId> {
        let is_waiting = |name: &RepoName| self.followers.get(name).is_some_and(|one| !is_whole(&one.state()));
        if !self.followers.keys().any(is_waiting) {
            return Vec::new();
        }
        let records = self.snapshots.records().unwrap_or_default();
        let mut roots = Vec::new();
        for (name, id) in records.into_iter().filter(|(name, _)| is_waiting(name)) {
            let head = self.followers.get(&name).and_then(|one| one.state().head.clone());
            if head.is_some_and(|head| head.head().has_removed(&id)) {
                continue;
            }
            if let Ok(Some(snapshot)) = self.snapshots.snapshot(&name, id) {
                roots.push(snapshot.root.node);
            }
        }
        roots
    }
}

/// Tells the cache what the trees below these roots refer to; nothing, if it does not want to know.
fn walk(cache: &NodeCache, store: Arc<dyn NodeSource>, roots: &Roots) -> Result<Standings, CatalogError> {
    let Some(sweeper) = cache.sweeper() else {
        return Ok(Standings::default());
    };
    let marks = sweeper.mark();
    let mut walk = Reachable::new(store, HashSet::new());
    for (roots, standing) in [(&roots.live, Standing::Live), (&roots.old, Standing::Old)] {
        roots.iter().for_each(|root| walk.add_root(*root));
        for node in walk.by_ref() {
            marks.mark(&objects_of(&node?)?, standing);
        }
    }
    Ok(marks.finish())
}

fn objects_of(node: &CatalogNode) -> Result<Vec<ObjectId>, CatalogError> {
    let mut objects = Vec::new();
    for i in 0..if node.is_index() { 0 } else { node.len() } {
        if let Kind::File(file) = node.meta(i)?.kind {
            objects.push(file.object);
        }
    }
    Ok(objects)
}
