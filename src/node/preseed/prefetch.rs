//! `imnode prefetch`: what an operator wants to have here, now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use instantmirror_core::catalog::CatalogError;
use instantmirror_core::preseed::Step;
use instantmirror_core::rules::{GlobError, PathGlobs};
use instantmirror_core::snapshot_ref::SnapshotRef;
use instantmirror_core::traits::Class;
use instantmirror_core::{NodeId, RepoName, RepoPath, SnapshotId};
use serde::{Deserialize, Serialize};

use super::super::Node;
use super::Ahead;
use super::bring::{Bringer, How, Room};

/// Most prefetches that are remembered; the oldest that is over goes.
const REMEMBERED_MAX: usize = 32;

/// What to fetch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PrefetchRequest {
    /// Paths and globs.
    pub(crate) paths: Vec<String>,
    /// Of this snapshot instead of the current one.
    pub(crate) snapshot: Option<SnapshotRef>,
}

/// Why nothing is prefetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefetchError {
    /// No such repository here.
    #[error("this node follows no repository '{repository}'; it has {known}")]
    UnknownRepository {
        /// What was asked for.
        repository: RepoName,
        /// What there is.
        known: String,
    },
    /// The snapshot is not shown here, or nothing is yet.
    #[error("{} of '{repository}' is not shown here", snapshot.map_or_else(|| "a current snapshot".to_owned(), |id| format!("snapshot {id}")))]
    NotShown {
        /// The repository.
        repository: RepoName,
        /// What was asked for.
        snapshot: Option<SnapshotId>,
    },
    /// A path or glob that cannot be one.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// Nothing has such a path.
    #[error("no file of snapshot {snapshot} of '{repository}' matches {paths} (what [cache] never names is left out)")]
    NothingMatches {
        /// The repository.
        repository: RepoName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// What was asked for.
        paths: String,
    },
    /// The catalog cannot be read.
    #[error("the catalog cannot be read: {0}")]
    Catalog(#[from] CatalogError),
}

/// How far a prefetch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchStatus {
    /// Names it.
    pub id: u64,
    /// The repository.
    pub repository: RepoName,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What was asked for.
    pub paths: Vec<String>,
    /// Files that match.
    pub files: u64,
    /// Those that are here.
    pub files_done: u64,
    /// Bytes of all that match.
    pub bytes: u64,
    /// Bytes of those that are here.
    pub bytes_done: u64,
    /// Files that could not be had.
    pub failed: u64,
    /// Nothing more is done for it.
    pub is_over: bool,
}

/// All prefetches since the start, as far as they are remembered.
#[derive(Debug, Default)]
pub(in super::super) struct Prefetches(Mutex<BTreeMap<u64, PrefetchStatus>>);

impl Prefetches {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, PrefetchStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in super::super) fn status(&self) -> Vec<PrefetchStatus> {
        self.lock().values().cloned().collect()
    }

    fn add(&self, status: PrefetchStatus) -> u64 {
        let mut all = self.lock();
        let id = all.last_key_value().map_or(0, |(last, _)| *last) + 1;
        if all.len() >= REMEMBERED_MAX {
            let over = all.iter().find(|(_, status)| status.is_over).map(|(id, _)| *id);
            over.map(|id| all.remove(&id));
        }
        all.insert(id, PrefetchStatus { id, ..status });
        id
    }

    fn note(&self, id: u64, change: impl FnOnce(&mut PrefetchStatus)) {
        if let Some(status) = self.lock().get_mut(&id) {
            change(status);
        }
    }
}

/// A path means itself and all below it, a glob what it means in a rule.
fn globs(paths: &[String]) -> Result<PathGlobs, GlobError> {
    let is_glob = |path: &str| path.contains(['*', '?', '[', '{', '\\']);
    let anchored = paths.iter().map(|path| {
        let plain = path.trim_matches('/');
        match is_glob(path) {
            true => path.clone(),
            false if plain.is_empty() || plain == "." => "**".to_owned(),
            false => format!("/{plain}"),
        }
    });
    PathGlobs::new(anchored)
}

/// What a prefetch is about: what is never kept need not come.
#[derive(Clone)]
struct Wanted {
    globs: PathGlobs,
    never_kept: PathGlobs,
}

impl Wanted {
    fn matches(&self, path: &RepoPath) -> bool {
        self.globs.matches(path) && !self.never_kept.matches(path)
    }
}

impl Node {
    /// Fetches all files of a snapshot, the current one if none is named, that have these paths, lie below them or match
    /// them as globs, but what `[cache] never` names. Returns the number of the prefetch once it is known what that is; it goes on in the background, and
    /// [`status`](Self::status) tells how far it is. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`PrefetchError`].
    pub async fn prefetch(
        &self,
        repository: &RepoName,
        snapshot: Option<SnapshotId>,
        paths: &[String],
    ) -> Result<u64, PrefetchError> {
        let follower = self.followers.get(repository).ok_or_else(|| {
            let known: Vec<_> = self.followers.keys().map(RepoName::as_str).collect();
            PrefetchError::UnknownRepository {
                repository: repository.clone(),
                known: known.join(", "),
            }
        })?;
        let wanted = Wanted {
            globs: globs(paths)?,
            never_kept: self.ahead.config.borrow().cache.never.clone(),
        };
        let state = follower.state();
        let shown = snapshot.or(state.current).and_then(|id| state.snapshots.get(&id));
        let shown = shown.cloned().ok_or_else(|| PrefetchError::NotShown {
            repository: repository.clone(),
            snapshot,
        })?;
        let root = shown.root.node;
        let (bringer, counted) = (Bringer::new(self, repository.clone()), wanted.clone());
        let (files, bytes) = bringer.count(root, move |path| counted.matches(path)).await?;
        if files == 0 {
            return Err(PrefetchError::NothingMatches {
                repository: repository.clone(),
                snapshot: shown.id,
                paths: paths.join(", "),
            });
        }
        let id = self.ahead.prefetches.add(PrefetchStatus {
            id: 0,
            repository: repository.clone(),
            snapshot: shown.id,
            paths: paths.to_vec(),
            files,
            files_done: 0,
            bytes,
            bytes_done: 0,
            failed: 0,
            is_over: false,
        });
        tokio::spawn(bring(bringer, Arc::clone(&self.ahead), id, root, wanted));
        Ok(id)
    }
}

/// Carries a prefetch out and keeps its status up.
async fn bring(bringer: Bringer, ahead: Arc<Ahead>, id: u64, root: NodeId, wanted: Wanted) {
    let done = |size: u64, is_here: bool| {
        ahead.prefetches.note(id, |status| match is_here {
            true => (status.files_done, status.bytes_done) = (status.files_done + 1, status.bytes_done + size),
            false => status.failed += 1,
        });
    };
    let how = How {
        step: Step::of(Class::Preseed),
        room: Room::Made,
        verify: false,
        pacer: None,
        done: &done,
    };
    let walk = bringer.new_files(None, root, move |path, _| wanted.matches(path));
    if let Err(error) = bringer.bring(walk, &how).await {
        tracing::warn!(repository = %bringer.repository, "a prefetch broke off: {error}");
    }
    ahead.prefetches.note(id, |status| {
        // What the walk did not come to is not here.
        status.failed = status.files - status.files_done;
        status.is_over = true;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_from_the_top_and_mean_all_below_them() {
        let matches = |paths: &[&str], path: &str| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            globs(&paths).unwrap().matches(&RepoPath::new(path).unwrap())
        };
        assert!(matches(&["pool/a"], "pool/a/b/c") && matches(&["/pool/a/"], "pool/a/b"));
        assert!(!matches(&["a"], "pool/a/b") && matches(&["a"], "a"));
        assert!(matches(&["*.deb"], "pool/x.deb") && !matches(&["*.deb"], "pool/x.dsc"));
        assert!(matches(&["/"], "x/y") && matches(&["x", "."], "z"));
    }
}
