//! How many names hard-linked files have.
//!
//! The catalog says which names belong together, not how many there are. Programs want both: `rsync -H`, `cp -a` and `tar` look
//! for other names of a file whose link count is above 1. So the names of a snapshot are counted, once, elsewhere, when the first
//! linked file is looked at; until then each counts 2, and that holds for a second.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource};
use instantmirror_core::{Directory, Kind, ObjectId, Snapshot};

use super::slots::SnapshotKey;
use super::{lock, number};
use crate::imfs::Executor;

/// Entries after which counting is given up: a tree in which nodes are used again and again can be larger than any disk.
const ENTRIES_MAX: u64 = 100_000_000;
/// How long it takes until a catalog that could not be read is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// Names by the number that they share.
type Counts = HashMap<u64, u32>;

#[derive(Debug)]
pub(super) struct Links {
    nodes: Nodes,
    executor: Arc<dyn Executor>,
    counts: Mutex<HashMap<SnapshotKey, Count>>,
}

/// How far the counting of a snapshot is.
#[derive(Debug)]
enum Count {
    Running,
    Done(Counts),
    /// A catalog could not be read then; it is tried again later.
    Failed(Instant),
    /// There are too many entries: no number is known, ever.
    GivenUp,
}

/// The number that the names of a group share.
pub(super) fn number(key: &SnapshotKey, group: u64, object: &ObjectId) -> u64 {
    number::group(format!("group {} {} {group} {object}", key.0, key.1).as_bytes())
}

/// A source of nodes that can be shown in a debug text.
struct Nodes(Arc<dyn NodeSource>);

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nodes")
    }
}

impl Links {
    pub(super) fn new(nodes: Arc<dyn NodeSource>, executor: Arc<dyn Executor>) -> Self {
        Self {
            nodes: Nodes(nodes),
            executor,
            counts: Mutex::default(),
        }
    }

    /// How many names a group has; `None` until that is known.
    pub(super) fn count(self: &Arc<Self>, key: &SnapshotKey, snapshot: &Arc<Snapshot>, group: u64) -> Option<u32> {
        {
            let mut counts = lock(&self.counts);
            match counts.get(key) {
                Some(Count::Done(counts)) => return Some(counts.get(&group).copied().unwrap_or(1)),
                Some(Count::Running | Count::GivenUp) => return None,
                Some(Count::Failed(at)) if at.elapsed() < RETRY_EVERY => return None,
                Some(Count::Failed(_)) | None => {}
            }
            counts.insert(key.clone(), Count::Running);
        }
        let (links, key, snapshot) = (Arc::clone(self), key.clone(), Arc::clone(snapshot));
        self.executor.spawn_blocking(Box::new(move || {
            let counted = match count_names(&links.nodes.0, &key, &snapshot, ENTRIES_MAX) {
                Ok(Some(counts)) => Count::Done(counts),
                Ok(None) => {
                    tracing::warn!(repository = %key.0, snapshot = %key.1, "hard links are not counted: too many entries");
                    Count::GivenUp
                }
                Err(error) => {
                    tracing::warn!(repository = %key.0, snapshot = %key.1, %error, "hard links cannot be counted");
                    Count::Failed(Instant::now())
                }
            };
            // Of a snapshot that was forgotten meanwhile nothing is kept.
            if let Some(count) = lock(&links.counts).get_mut(&key) {
                *count = counted;
            }
        }));
        None
    }

    pub(super) fn forget(&self, gone: &HashSet<SnapshotKey>) {
        lock(&self.counts).retain(|key, _| !gone.contains(key));
    }
}

/// The names of all groups; `None` if there are more than `left` entries.
fn count_names(
    nodes: &Arc<dyn NodeSource>,
    key: &SnapshotKey,
    snapshot: &Snapshot,
    mut left: u64,
) -> Result<Option<Counts>, CatalogError> {
    let catalog = Catalog::new(Arc::clone(nodes), snapshot.root.meta());
    let mut counts = Counts::new();
    let mut work: Vec<Directory> = catalog.root().as_directory().copied().into_iter().collect();
    while let Some(directory) = work.pop() {
        for entry in catalog.list(&directory, None) {
            let Some(rest) = left.checked_sub(1) else {
                return Ok(None);
            };
            left = rest;
            match entry?.meta.kind {
                Kind::File(file) => {
                    if let Some(group) = file.link_group {
                        *counts.entry(number(key, group, &file.object)).or_default() += 1;
                    }
                }
                Kind::Directory(directory) if directory.files > 0 => work.push(directory),
                Kind::Directory(_) | Kind::Symlink(_) => {}
            }
        }
    }
    Ok(Some(counts))
}

#[cfg(test)]
mod tests {
    use instantmirror_core::traits::Catalogs as _;

    use super::*;
    use crate::testing::{Item, World, debian, dir, id};

    #[test]
    fn what_is_not_counted_to_its_end_has_no_count() {
        let world = World::new();
        world.publish(
            1,
            &dir([("a", Item::Linked(1, "same")), ("b", Item::Linked(1, "same"))]),
        );
        let (nodes, state) = (world.nodes(), world.state(&debian()).unwrap());
        let (key, snapshot) = ((debian(), id(1)), &state.snapshots[&id(1)]);
        assert!(count_names(&nodes, &key, snapshot, 1).unwrap().is_none());
        let counts = count_names(&nodes, &key, snapshot, 2).unwrap().unwrap();
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [2]);
    }
}
