//! The fetch engine as frontends see it: what they read is noted, for it says what to fetch ahead.

use std::sync::Arc;

use async_trait::async_trait;
use instantmirror_core::bundle::{is_anchor, parent};
use instantmirror_core::entry::FileMeta;
use instantmirror_core::traits::{FetchError, ObjectReader, ObjectSource, ReadIntent};
use instantmirror_core::{Clock as _, RepoName, RepoPath};

use super::super::Node;
use super::bring::Bringer;
use crate::clock::SystemClock;

/// An [`ObjectSource`] that notes what is read.
#[derive(Debug)]
pub(in super::super) struct Watched(Node);

impl Watched {
    pub(in super::super) fn new(node: Node) -> Self {
        Self(node)
    }

    async fn note(&self, repository: &RepoName, path: &RepoPath, file: &FileMeta) {
        let ahead = &self.0.ahead;
        ahead.popularity().note(repository, parent(path), SystemClock.now());
        // What is here already had its neighbours fetched.
        if is_anchor(path) && !matches!(self.0.cache.has_whole_now(&file.object).await, Ok(true)) {
            self.bring_siblings(repository, path, file);
        }
    }

    /// A client that reads what names other files will ask for those.
    fn bring_siblings(&self, repository: &RepoName, path: &RepoPath, file: &FileMeta) {
        let Some(follower) = self.0.followers.get(repository) else {
            return;
        };
        let state = follower.state();
        let Some(snapshot) = state.current.and_then(|id| state.snapshots.get(&id)).cloned() else {
            return;
        };
        let config = Arc::clone(&self.0.ahead.config.borrow());
        let Ok(rules) = config.rules_of(repository).rules(&[]) else {
            return;
        };
        let (bringer, anchor, object) = (Bringer::new(&self.0, repository.clone()), path.clone(), file.object);
        let keeps = move |path: &RepoPath| !rules.is_never(path) && !config.cache.never.matches(path);
        tokio::spawn(async move {
            if let Err(error) = bringer.bring_siblings(snapshot, anchor, keeps).await {
                tracing::debug!(%object, "what it names is not fetched ahead: {error}");
            }
        });
    }
}

#[async_trait]
impl ObjectSource for Watched {
    async fn open(
        &self,
        repository: &RepoName,
        file: &FileMeta,
        intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        if let Some(path) = &intent.path {
            self.note(repository, path, file).await;
        }
        self.0.engine.open(repository, file, intent).await
    }
}
