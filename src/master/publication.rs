//! What a master shows: the released snapshots of its own store, read without a second copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::entry::FileMeta;
use instantmirror_core::grace::fallbacks;
use instantmirror_core::reader::{EmptyReader, HandleReader};
use instantmirror_core::traits::{
    FetchError, ObjectCache as _, ObjectReader, ObjectSource, Publication, ReadIntent, TransportError,
};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{Clock as _, RepoName, SignedHead, Snapshot};
use instantmirror_store::objects::ObjectStore;
use tokio::sync::watch;

use super::{Master, MasterError};
use crate::clock::SystemClock;

/// The [`Publication`] of a [`Master`].
#[derive(Debug)]
pub struct MasterPublication {
    master: Master,
    states: BTreeMap<RepoName, watch::Sender<Arc<RepositoryState>>>,
    objects: Arc<StoreSource>,
}

impl MasterPublication {
    /// Shows what the store holds now, but not repositories whose head cannot be read: that is logged, and tried
    /// again by [`refresh`](Self::refresh), which also takes up what was published since.
    pub async fn new(master: Master) -> Self {
        let names = master
            .config()
            .repositories
            .iter()
            .map(|repository| repository.name.clone());
        let states = names.map(|name| (name.clone(), watch::Sender::new(Arc::new(RepositoryState::empty(name)))));
        let objects = Arc::new(StoreSource(Arc::clone(&master.objects)));
        let publication = Self {
            states: states.collect(),
            objects,
            master,
        };
        if let Err(error) = publication.refresh().await {
            tracing::error!("a repository is not shown: {error}");
        }
        publication
    }

    /// Takes up new heads and wakes whoever waits for them. A repository that cannot be read keeps nobody from the
    /// others.
    ///
    /// # Errors
    /// The first [`MasterError`], after all repositories had their turn; what was shown before of those that
    /// failed stays.
    pub async fn refresh(&self) -> Result<(), MasterError> {
        let mut first_error = Ok(());
        for (name, state) in &self.states {
            let refreshed = self.refresh_one(name, state).await;
            first_error = first_error.and(refreshed);
        }
        first_error
    }

    async fn refresh_one(
        &self,
        name: &RepoName,
        state: &watch::Sender<Arc<RepositoryState>>,
    ) -> Result<(), MasterError> {
        let Some(head) = self.master.head(name).await? else {
            return Ok(());
        };
        let held = state.borrow().head.as_ref().map(|held| held.head().sequence);
        if held.is_some_and(|held| held >= head.head().sequence) {
            return Ok(());
        }
        let mut next = RepositoryState::empty(name.clone());
        let known = state.borrow().snapshots.clone();
        for live in head.head().snapshots.iter().filter(|live| live.state.is_released()) {
            let snapshot = match known.get(&live.id) {
                Some(snapshot) => Some(Arc::clone(snapshot)),
                None => self.master.kept_snapshot(name, live.id).await?.map(Arc::new),
            };
            next.snapshots.extend(snapshot.map(|snapshot| (live.id, snapshot)));
        }
        next.current = head.head().current.filter(|id| next.snapshots.contains_key(id));
        next.head = Some(Arc::new(head));
        state.send_replace(Arc::new(next));
        Ok(())
    }
}

#[async_trait]
impl Publication for MasterPublication {
    fn repositories(&self) -> Vec<RepoName> {
        self.states.keys().cloned().collect()
    }

    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>> {
        self.states.get(repository).map(|state| state.borrow().clone())
    }

    fn fallbacks(&self, repository: &RepoName) -> Vec<Arc<Snapshot>> {
        let grace = self.master.config().snapshots.grace.0;
        let state = self.state(repository);
        state.map_or_else(Vec::new, |state| fallbacks(&state, grace, SystemClock.now()))
    }

    async fn head_after(&self, repository: &RepoName, after: u64) -> Option<Arc<SignedHead>> {
        head_after(self.states.get(repository)?.subscribe(), after).await
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.master.snapshots.clone()
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        self.objects.clone()
    }
}

/// Waits for a head with a sequence number above `after`.
pub(crate) async fn head_after(
    mut state: watch::Receiver<Arc<RepositoryState>>,
    after: u64,
) -> Option<Arc<SignedHead>> {
    let newer = |state: &Arc<RepositoryState>| state.head.as_ref().is_some_and(|head| head.head().sequence > after);
    let state = state.wait_for(newer).await.ok()?;
    state.head.clone()
}

/// Opens objects of the store.
#[derive(Debug)]
struct StoreSource(Arc<ObjectStore>);

#[async_trait]
impl ObjectSource for StoreSource {
    async fn open(
        &self,
        repository: &RepoName,
        file: &FileMeta,
        _intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        if file.size == 0 {
            return Ok(Arc::new(EmptyReader));
        }
        match self.0.open(&file.object).await? {
            Some(handle) => Ok(Arc::new(HandleReader::new(handle))),
            None => {
                let (object, repository) = (file.object, repository.clone());
                let what = format!("object {object}");
                let source = TransportError::NotFound {
                    from: "the master's store".to_owned(),
                    what,
                };
                Err(FetchError::Unavailable {
                    object,
                    repository,
                    source: Arc::new(source),
                })
            }
        }
    }
}
