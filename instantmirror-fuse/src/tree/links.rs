//! How many names hard-linked files have.
//!
//! The catalog says which names belong together, not how many there are. Programs want both: `rsync -H`, `cp -a` and `tar` look
//! for other names of a file whose link count is above 1. So the names of a snapshot are counted, once, elsewhere, when the first
//! linked file is looked at; until then each counts 2, and that holds for a second.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource};
use instantmirror_core::{Directory, Kind, ObjectId, Snapshot};

use super::slots::SnapshotKey;
use super::{lock, number};
use crate::imfs::Executor;

/// Entries after which counting is given up: a tree in which nodes are used again and again can be larger than any disk.
const ENTRIES_MAX: u64 = 100_000_000;

/// Names by the number that they share.
type Counts = HashMap<u64, u32>;

#[derive(Debug)]
pub(super) struct Links {
    nodes: Nodes,
    executor: Arc<dyn Executor>,
    /// None while they are counted.
    counts: Mutex<HashMap<SnapshotKey, Option<Arc<Counts>>>>,
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
            if let Some(counts) = counts.get(key) {
                return counts.as_ref().map(|counts| counts.get(&group).copied().unwrap_or(1));
            }
            counts.insert(key.clone(), None);
        }
        let (links, key, snapshot) = (Arc::clone(self), key.clone(), Arc::clone(snapshot));
        self.executor.spawn_blocking(Box::new(move || {
            let counted = count_names(&links.nodes.0, &key, &snapshot);
            let counted = counted.unwrap_or_else(|error| {
                tracing::warn!(repository = %key.0, snapshot = %key.1, %error, "hard links cannot be counted");
                Counts::new()
            });
            lock(&links.counts).insert(key, Some(Arc::new(counted)));
        }));
        None
    }

    pub(super) fn forget(&self, gone: &HashSet<SnapshotKey>) {
        lock(&self.counts).retain(|key, _| !gone.contains(key));
    }
}

fn count_names(nodes: &Arc<dyn NodeSource>, key: &SnapshotKey, snapshot: &Snapshot) -> Result<Counts, CatalogError> {
    let catalog = Catalog::new(Arc::clone(nodes), snapshot.root.meta());
    let mut counts = Counts::new();
    let mut work: Vec<Directory> = catalog.root().as_directory().copied().into_iter().collect();
    let mut left = ENTRIES_MAX;
    while let Some(directory) = work.pop() {
        for entry in catalog.list(&directory, None) {
            left = left.saturating_sub(1);
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
        if left == 0 {
            tracing::warn!(repository = %key.0, snapshot = %key.1, "hard links are not counted to the end: too many entries");
            break;
        }
    }
    Ok(counts)
}
