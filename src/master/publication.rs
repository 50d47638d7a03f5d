//! What a master shows: the released snapshots of its own store, read without a second copy.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::companion::GraceRule;
use instantmirror_core::entry::FileMeta;
use instantmirror_core::grace::fallbacks;
use instantmirror_core::log_limited;
use instantmirror_core::reader::{EmptyReader, HandleReader};
use instantmirror_core::traits::{
    Annotations, Catalogs, FetchError, NodeApi, ObjectReader, ObjectSource, Objects, ReadIntent, TorrentLink,
    TransportError,
};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{
    Clock as _, HeadMark, HeadMarks, ObjectId, RepoName, RepoPath, SignedHead, Snapshot, SnapshotId,
};
use tokio::sync::watch;

use super::embargo::{Embargo, Hidden, Roots};
use super::swarm::{Seeding, SeedingSlot};
use super::{Master, MasterError};
use crate::clock::SystemClock;
use crate::heads::{head_after, rule_of};
use crate::torrent::Offers;

/// The [`Catalogs`], [`NodeApi`] and [`Annotations`] of a [`Master`].
#[derive(Debug)]
pub struct MasterPublication {
    master: Master,
    states: BTreeMap<RepoName, watch::Sender<Arc<RepositoryState>>>,
    /// Changes when a state does: those who wait for any of many wait for this.
    turns: watch::Sender<u64>,
    objects: Arc<StoreSource>,
    /// Worked on by one refresh at a time.
    embargo: tokio::sync::Mutex<Embargo>,
    withheld: RwLock<Withheld>,
    offers: Arc<Offers>,
    seeding: SeedingSlot,
}

/// What is not for everybody.
#[derive(Debug, Default)]
struct Withheld {
    staged: BTreeMap<(RepoName, SnapshotId), Arc<Snapshot>>,
    hidden: Arc<Hidden>,
}

/// A repository as it is to be shown next.
struct Next {
    state: Arc<RepositoryState>,
    staged: Vec<Arc<Snapshot>>,
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
        let objects = Arc::new(StoreSource(master.readable_objects()));
        let publication = Self {
            states: states.collect(),
            turns: watch::Sender::default(),
            objects,
            master,
            embargo: tokio::sync::Mutex::default(),
            withheld: RwLock::default(),
            offers: Arc::default(),
            seeding: SeedingSlot::new(),
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
        let mut embargo = self.embargo.lock().await;
        let (mut news, mut first_error) = (Vec::new(), Ok(()));
        let has_removed =
            |state: &RepositoryState| state.head.as_ref().is_some_and(|head| !head.head().removed.is_empty());
        if self.states.values().any(|state| has_removed(&state.borrow())) {
            // Whoever removed it deletes catalog nodes too: they must not be read on from files that are open here.
            first_error = self.master.parts.catalogs.refresh().map_err(MasterError::from);
        }
        for (name, state) in &self.states {
            let held = Arc::clone(&state.borrow());
            match self.next(name, &held) {
                Ok(Some(next)) => news.push((state, next)),
                Ok(None) => {}
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        if !news.is_empty() {
            // Before anybody hears of what is staged, it is hidden.
            let withheld = self.withhold(&mut embargo, &news).await;
            // What cannot be hidden is not told of; repositories without anything staged go on.
            for (state, next) in news {
                if withheld.is_ok() || next.staged.is_empty() {
                    state.send_replace(next.state);
                }
            }
            self.turns.send_modify(|turn| *turn += 1);
            first_error = first_error.and(withheld);
        }
        first_error
    }

    /// What is to be shown of a repository, if that has changed.
    fn next(&self, name: &RepoName, held: &RepositoryState) -> Result<Option<Next>, MasterError> {
        let Some(head) = self.master.head(name)? else {
            return Ok(None);
        };
        let shown = held.head.as_ref().map(|shown| shown.head().sequence);
        if shown.is_some_and(|shown| shown >= head.head().sequence) {
            return Ok(None);
        }
        let (mut state, mut staged) = (RepositoryState::empty(name.clone()), Vec::new());
        for live in &head.head().snapshots {
            let snapshot = match held.snapshots.get(&live.id) {
                Some(snapshot) => Some(Arc::clone(snapshot)),
                None => self.master.kept_snapshot(name, live.id)?.map(Arc::new),
            };
            match snapshot {
                Some(snapshot) if live.state.is_released() => _ = state.snapshots.insert(live.id, snapshot),
                snapshot => staged.extend(snapshot),
            }
        }
        state.current = head.head().current.filter(|id| state.snapshots.contains_key(id));
        state.head = Some(Arc::new(head));
        let state = Arc::new(state);
        Ok(Some(Next { state, staged }))
    }

    /// Works out what only staged snapshots have, when `news` are shown, and hides it.
    async fn withhold(
        &self,
        embargo: &mut Embargo,
        news: &[(&watch::Sender<Arc<RepositoryState>>, Next)],
    ) -> Result<(), MasterError> {
        let mut all = self.withheld().staged.clone();
        for (_, next) in news {
            all.retain(|(repository, _), _| *repository != next.state.name);
            let staged = next.staged.iter();
            all.extend(staged.map(|snapshot| ((next.state.name.clone(), snapshot.id), Arc::clone(snapshot))));
        }
        let mut released = Roots::new();
        for (name, state) in &self.states {
            let next = news.iter().find(|(_, next)| next.state.name == *name);
            let state = next.map_or_else(|| Arc::clone(&state.borrow()), |(_, next)| Arc::clone(&next.state));
            let roots = state.snapshots.values();
            released.extend(roots.map(|snapshot| ((name.clone(), snapshot.id), snapshot.root.node)));
        }
        let roots =
            |(record, snapshot): (&(RepoName, SnapshotId), &Arc<Snapshot>)| (record.clone(), snapshot.root.node);
        let staged: Roots = all.iter().map(roots).collect();
        let (mut worked_on, store) = (std::mem::take(embargo), self.master.catalog_nodes());
        let update = tokio::task::spawn_blocking(move || {
            let hidden = worked_on.update(&store, staged, released);
            (worked_on, hidden)
        });
        let broke_off = |error: tokio::task::JoinError| instantmirror_core::StoreError::Damaged(error.to_string());
        let (worked_on, hidden) = update.await.map_err(broke_off)?;
        *embargo = worked_on;
        let hidden = hidden.map_err(MasterError::Catalog)?;
        *self.withheld.write().unwrap_or_else(PoisonError::into_inner) = Withheld { staged: all, hidden };
        Ok(())
    }

    fn withheld(&self) -> RwLockReadGuard<'_, Withheld> {
        self.withheld.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The torrents that are offered.
    pub(super) fn offers(&self) -> Arc<Offers> {
        Arc::clone(&self.offers)
    }

    /// The record of a staged snapshot.
    pub(super) fn staged(&self, repository: &RepoName, snapshot: SnapshotId) -> Option<Arc<Snapshot>> {
        self.withheld().staged.get(&(repository.clone(), snapshot)).cloned()
    }

    /// The records of all staged snapshots of a repository.
    pub(super) fn staged_of(&self, repository: &RepoName) -> Vec<Arc<Snapshot>> {
        let withheld = self.withheld();
        let own = withheld.staged.iter().filter(|((name, _), _)| name == repository);
        own.map(|(_, snapshot)| Arc::clone(snapshot)).collect()
    }

    /// The swarms that it takes part in, if it serves and has any.
    pub(super) fn seeding(&self) -> Option<Arc<Seeding>> {
        self.seeding.get().cloned()
    }

    /// Tells nodes of these swarms from now on.
    pub(super) fn set_seeding(&self, seeding: Arc<Seeding>) {
        let _ = self.seeding.set(seeding);
    }

    /// What only staged snapshots have.
    pub(super) fn hidden(&self) -> Arc<Hidden> {
        Arc::clone(&self.withheld().hidden)
    }
}

impl Catalogs for MasterPublication {
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

    fn grace_rule(&self, _: &RepoName) -> GraceRule {
        let config = &self.master.config().snapshots;
        rule_of(config.grace_never.texts(), &[], config.grace_optional)
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.master.catalog_nodes()
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        self.objects.clone()
    }
}

#[async_trait]
impl NodeApi for MasterPublication {
    async fn head_after(&self, repository: &RepoName, after: u64) -> Option<Arc<SignedHead>> {
        head_after(self.states.get(repository)?.subscribe(), after).await
    }

    fn head_mark(&self, repository: &RepoName) -> HeadMark {
        let state = self.states.get(repository);
        state.map_or(HeadMark::Absent, |state| state.borrow().head_mark())
    }

    /// Waits for one thing, however many repositories are asked for, and looks none of them up again.
    async fn heads_moved(&self, known: &HeadMarks) -> HeadMarks {
        let mut turns = self.turns.subscribe();
        let asked: Vec<_> = known
            .iter()
            .map(|(name, mark)| (name, *mark, self.states.get(name)))
            .collect();
        loop {
            // Before the look: what comes meanwhile is another turn.
            turns.borrow_and_update();
            let moved = asked.iter().filter_map(|(name, mark, state)| {
                let now = state.map_or(HeadMark::Absent, |state| state.borrow().head_mark());
                (now != *mark).then(|| (RepoName::clone(name), now))
            });
            let moved: HeadMarks = moved.collect();
            if !moved.is_empty() {
                return moved;
            }
            if turns.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn keys(&self, _: &RepoName) -> Option<Bytes> {
        let lists = self.master.key_lists();
        lists.unwrap_or_else(|error| {
            log_limited!(Instant::now(), error, "the key lists cannot be served: {error}");
            None
        })
    }

    fn swarm(&self, repository: &RepoName, is_node: bool) -> Option<Bytes> {
        self.seeding.get()?.offer(repository, is_node)
    }
}

impl Annotations for MasterPublication {
    fn sha256(&self, object: &ObjectId) -> Option<[u8; 32]> {
        // A digest that cannot be read is reported when the object is opened, which needs it.
        self.master.parts.notes.sha256(object).ok().flatten()
    }

    fn torrents(&self, repository: &RepoName, snapshot: SnapshotId, path: &RepoPath) -> Vec<TorrentLink> {
        self.offers.links(repository, snapshot, path)
    }
}

/// Opens objects of the store.
#[derive(Debug)]
struct StoreSource(Arc<dyn Objects>);

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
