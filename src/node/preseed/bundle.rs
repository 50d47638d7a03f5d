//! Repository metadata at once: when a new snapshot is there, the metadata files that were held in the last one are
//! fetched in this one, all together; and when a client reads the file that names the others, so are those beside it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use instantmirror_core::bundle::{is_anchor, parent, stable_name};
use instantmirror_core::catalog::{Catalog, CatalogError, Differences, NodeSource};
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::Class;
use instantmirror_core::{FileMeta, Kind, NodeId, ObjectId, RepoPath, Snapshot};

use super::super::parts::{NodeCache, walker};
use super::bring::{Bringer, How, Pass, Room};

/// Most bytes of files beside one that a client reads; larger directories wait for the client to ask.
const SIBLINGS_BYTES_MAX: u64 = 64 << 20;
/// Most files that are remembered of the old snapshot, to find their successors.
const OLD_FILES_MAX: usize = 100_000;

impl Bringer {
    /// Fetches the metadata in `after` whose predecessor in `before` is in the cache.
    pub(super) async fn bring_bundle(
        &self,
        before: NodeId,
        after: NodeId,
        keeps: impl Fn(&RepoPath) -> bool + Send + 'static,
    ) -> Result<Pass, CatalogError> {
        let (store, cache) = (walker(&self.store), self.cache.clone());
        let found = tokio::task::spawn_blocking(move || successors(&store, &cache, before, after, &keeps));
        let broke_off = |error: tokio::task::JoinError| instantmirror_core::StoreError::Damaged(error.to_string());
        self.bring_metadata(found.await.map_err(broke_off)??).await
    }

    /// Fetches what lies beside a metadata file that a client reads.
    pub(super) async fn bring_siblings(
        &self,
        snapshot: Arc<Snapshot>,
        anchor: RepoPath,
        keeps: impl Fn(&RepoPath) -> bool + Send + 'static,
    ) -> Result<Pass, CatalogError> {
        let store = walker(&self.store);
        let found = tokio::task::spawn_blocking(move || siblings(&store, &snapshot, &anchor, &keeps));
        let broke_off = |error: tokio::task::JoinError| instantmirror_core::StoreError::Damaged(error.to_string());
        self.bring_metadata(found.await.map_err(broke_off)??).await
    }

    async fn bring_metadata(&self, files: Vec<FileMeta>) -> Result<Pass, CatalogError> {
        if files.is_empty() {
            return Ok(Pass::default());
        }
        let walk = self.given(files);
        let how = How {
            step: Step::of(Class::Bundle),
            room: Room::Made,
            verify: false,
            pacer: None,
            done: &|_, _| {},
        };
        self.bring(walk, &how).await
    }
}

/// Whether a file lies in or below one of these directories.
fn is_below(path: &RepoPath, directories: &BTreeSet<RepoPath>) -> bool {
    let mut above = parent(path);
    loop {
        if directories.contains(&above) {
            return true;
        }
        if above == RepoPath::ROOT {
            return false;
        }
        above = parent(&above);
    }
}

fn successors(
    store: &Arc<dyn NodeSource>,
    cache: &NodeCache,
    before: NodeId,
    after: NodeId,
    keeps: &dyn Fn(&RepoPath) -> bool,
) -> Result<Vec<FileMeta>, CatalogError> {
    let mut directories = BTreeSet::new();
    for difference in Differences::new(store, Some(before), after) {
        let difference = difference?;
        // The top of a tree with everything below it is no bundle.
        if is_anchor(&difference.path) && parent(&difference.path) != RepoPath::ROOT {
            directories.insert(parent(&difference.path));
        }
    }
    if directories.is_empty() {
        return Ok(Vec::new());
    }
    let mut old: HashMap<(RepoPath, String), Vec<ObjectId>> = HashMap::new();
    let mut new: Vec<(RepoPath, FileMeta)> = Vec::new();
    for difference in Differences::new(store, Some(before), after) {
        let difference = difference?;
        if !is_below(&difference.path, &directories) {
            continue;
        }
        if let Some(Kind::File(file)) = difference.before.map(|meta| meta.kind)
            && old.len() < OLD_FILES_MAX
        {
            old.entry(key(&difference.path)).or_default().push(file.object);
        }
        if let Some(Kind::File(file)) = difference.after.map(|meta| meta.kind)
            && keeps(&difference.path)
        {
            new.push((difference.path, file));
        }
    }
    let was_held = |path: &RepoPath| {
        let predecessors = old.get(&key(path)).map_or(&[][..], Vec::as_slice);
        predecessors
            .iter()
            .any(|object| matches!(cache.has_whole(object), Ok(true)))
    };
    new.retain(|(path, _)| was_held(path));
    Ok(new.into_iter().map(|(_, file)| file).collect())
}

fn key(path: &RepoPath) -> (RepoPath, String) {
    let name = path.components().next_back().unwrap_or_default();
    (parent(path), stable_name(name).to_owned())
}

fn siblings(
    store: &Arc<dyn NodeSource>,
    snapshot: &Snapshot,
    anchor: &RepoPath,
    keeps: &dyn Fn(&RepoPath) -> bool,
) -> Result<Vec<FileMeta>, CatalogError> {
    let above = parent(anchor);
    if above == RepoPath::ROOT {
        return Ok(Vec::new());
    }
    let catalog = Catalog::new(store, snapshot.root.meta());
    let Some(meta) = catalog.lookup(&above)? else {
        return Ok(Vec::new());
    };
    let Kind::Directory(directory) = meta.kind else {
        return Ok(Vec::new());
    };
    let (mut files, mut bytes) = (Vec::new(), 0);
    for entry in catalog.list(&directory, None) {
        let entry = entry?;
        let Kind::File(file) = entry.meta.kind else { continue };
        if above.join(&entry.name).is_ok_and(|path| keeps(&path)) {
            bytes += file.size;
            files.push(file);
        }
        if bytes > SIBLINGS_BYTES_MAX {
            return Ok(Vec::new());
        }
    }
    Ok(files)
}
