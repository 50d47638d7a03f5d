//! Keeping up with a master: head by long poll, catalogs by delta, each checked fully, then persisted,
//! then shown. A snapshot that is not whole is never shown, and one that is shown stays until its
//! successor is whole.

mod keep;
mod status;
mod stored;
mod tags;
mod trust;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use instantmirror_core::appearance;
use instantmirror_core::catalog::frame::FrameDecoder;
use instantmirror_core::catalog::{CatalogError, CatalogNode, check_closure};
use instantmirror_core::head::{LiveSnapshot, Succession};
use instantmirror_core::order::{Turn, newest_first};
use instantmirror_core::retention::RetentionPolicy;
use instantmirror_core::traits::{HeadNews, SnapshotStore, StoreError, Upstream};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{
    Clock, Directory, Kind, NodeId, PublicKey, RepoName, SignedHead, Snapshot, SnapshotId, Timestamp,
};
use tokio::sync::watch;

pub use keep::Intake;
pub use status::{FollowError, FollowStatus};
pub use trust::TrustedKey;

use keep::Wanted;
use stored::{is_named, stored, whole_here};
use tags::is_tagged;
use trust::Trust;

/// First pause after a failure; doubles up to [`RETRY_PAUSE_MAX`].
pub const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between tries.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// While older snapshots are taken in, a newer head is asked for after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Catalog bytes that are stored at a time.
const STORE_BATCH_BYTES: usize = 4 << 20;

/// What came of one round with a master.
struct Round {
    /// Whether anything changed here.
    changed: bool,
    /// Whether the master's head is known to be the one held.
    is_same: bool,
}

/// Follows one repository. [`run`](Self::run) does the work; the rest may be called from anywhere.
#[derive(Debug)]
pub struct Follower {
    repository: RepoName,
    upstreams: Vec<Arc<dyn Upstream>>,
    store: Arc<dyn SnapshotStore>,
    trust: Mutex<Trust>,
    clock: Arc<dyn Clock>,
    state: watch::Sender<Arc<RepositoryState>>,
    status: Mutex<FollowStatus>,
    policy: RetentionPolicy,
    intake: Intake,
    /// Whether the master tells us of what is staged.
    is_registered: bool,
    staged: watch::Sender<Arc<Vec<Arc<Snapshot>>>>,
    /// Whether a tag was taken away, and what it kept not yet forgotten.
    untagged: AtomicBool,
}

impl Follower {
    /// Takes up what the store holds: the last head and every snapshot that is whole. Asks nobody; blocks on the store.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read. A head in it that is damaged, or that no key has signed which `pinned`
    /// or a key list after it made trusted, is no error: nothing is shown then until a good one comes.
    pub fn open(
        repository: RepoName,
        upstreams: Vec<Arc<dyn Upstream>>,
        store: Arc<dyn SnapshotStore>,
        pinned: Vec<PublicKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let mut state = RepositoryState::empty(repository.clone());
        let mut status = FollowStatus::default();
        let trust = Trust::open(store.as_ref(), &repository, pinned)?;
        // One that was believed when it came is shown on, though its key was retired since.
        let stored = match store.head(&repository, &trust.ever_trusted()) {
            Err(StoreError::Damaged(text)) => {
                // One repository's trouble: the others go on, and a new head may come.
                tracing::error!(%repository, "nothing of it is shown until a trusted head comes: {text}");
                status.last_error = Some(text);
                None
            }
            stored => stored?,
        };
        if let Some(head) = stored {
            let head = Arc::new(head);
            for live in head.head().snapshots.iter().filter(|live| live.state.is_released()) {
                if let Some(snapshot) = whole_here(store.as_ref(), &repository, live)? {
                    state.snapshots.insert(live.id, Arc::new(snapshot));
                }
            }
            state.current = newest_whole(&head, &state.snapshots);
            state.head = Some(head);
        }
        let state = watch::Sender::new(Arc::new(state));
        Ok(Self {
            repository,
            upstreams,
            store,
            trust: Mutex::new(trust),
            clock,
            state,
            status: Mutex::new(status),
            policy: RetentionPolicy::default(),
            intake: Intake::default(),
            is_registered: false,
            staged: watch::Sender::default(),
            untagged: AtomicBool::new(false),
        })
    }

    /// Keeps of the released snapshots that the master has only those that this policy keeps; without it, all.
    #[must_use]
    pub fn keeping(mut self, policy: RetentionPolicy) -> Self {
        self.policy = policy;
        let head = self.state().head.clone();
        if let Some(head) = head {
            self.show(&head, None);
        }
        self
    }

    /// Shares its store with other followers, and with who cleans it up.
    #[must_use]
    pub fn sharing(mut self, intake: Intake) -> Self {
        self.intake = intake;
        self
    }

    /// Fetches the catalogs of staged snapshots too, since the master knows us. They are shown to nobody.
    #[must_use]
    pub fn registered(mut self) -> Self {
        self.is_registered = true;
        self
    }

    /// Told of every change of the staged snapshots whose catalogs are whole here, oldest first.
    #[must_use]
    pub fn staged(&self) -> watch::Receiver<Arc<Vec<Arc<Snapshot>>>> {
        self.staged.subscribe()
    }

    /// What may be shown now.
    #[must_use]
    pub fn state(&self) -> Arc<RepositoryState> {
        self.state.borrow().clone()
    }

    /// Told of every change of [`state`](Self::state).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<RepositoryState>> {
        self.state.subscribe()
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> FollowStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut FollowStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Follows for ever: asks the masters in turn, moves on to the next after a failure, and pauses
    /// longer the longer nobody gives a valid answer. Drop the future to stop; nothing is half done then.
    pub async fn run(&self) {
        let (mut pause, mut turn, mut complained) = (RETRY_PAUSE, 0, String::new());
        let mut expired = None;
        // The first question to a master is not for something newer: one that was set back must be noticed.
        let mut is_known = false;
        loop {
            let Some(upstream) = self.upstreams.get(turn % self.upstreams.len().max(1)) else {
                return;
            };
            self.note(|status| upstream.label().clone_into(&mut status.upstream));
            match self.round(upstream.as_ref(), is_known).await {
                Ok(round) => {
                    // Who waited in vain for something newer asks the other way: the master may have been set back
                    // meanwhile, and come back so quickly that no request failed. It would never have anything newer.
                    is_known = round.is_same || round.changed || !is_known;
                    if !complained.is_empty() {
                        tracing::info!(repository = %self.repository, master = upstream.label(), "reached again");
                    }
                    pause = RETRY_PAUSE;
                    complained.clear();
                    let now = self.clock.now();
                    self.note(|status| {
                        status.last_contact = Some(now);
                        status.last_error = None;
                    });
                    self.complain_of_age(upstream.label(), &mut expired, now);
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != complained {
                        self.complain(upstream.label(), &error);
                        complained.clone_from(&text);
                    }
                    self.note(|status| status.last_error = Some(text));
                    is_known = false;
                    turn += 1;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    /// A master that answers and never has anything new is one that died, or one from which news are kept. Said once for
    /// each head; `expired` is the last one.
    fn complain_of_age(&self, master: &str, expired: &mut Option<u64>, now: Timestamp) {
        let held = self.state().head.clone();
        let Some(head) = held.filter(|head| head.is_expired(now)) else {
            return;
        };
        let (sequence, expires) = (head.head().sequence, head.head().expires);
        if *expired != Some(sequence) {
            tracing::error!(repository = %self.repository, master, "EXPIRED: head {sequence} was valid until {expires}, and there is no newer one; what is here is served on");
            *expired = Some(sequence);
        }
    }

    fn complain(&self, master: &str, error: &FollowError) {
        let age = self.state().head.as_ref().map_or_else(
            || "no head was ever seen".to_owned(),
            |head| format!("the head held is of {}", head.head().issued),
        );
        if matches!(error, FollowError::Transport(_)) {
            tracing::warn!(repository = %self.repository, master, "{error}; {age}; what is here is served on");
        } else {
            self.note(|status| status.refused += 1);
            let stays = if self.state().head.is_some() {
                "; it stays in force"
            } else {
                "; nothing is shown"
            };
            tracing::error!(repository = %self.repository, master, "REFUSED: {error}; {age}{stays}");
        }
    }

    /// One round with one master: takes its head, or with `wait` waits for one newer than the one held (or
    /// any, if none is held), and makes its released snapshots whole here. Returns whether anything changed.
    ///
    /// # Errors
    /// [`FollowError`]; the head held so far stays in force unless the new one was valid.
    pub async fn poll(&self, upstream: &dyn Upstream, wait: bool) -> Result<bool, FollowError> {
        Ok(self.round(upstream, wait).await?.changed)
    }

    async fn round(&self, upstream: &dyn Upstream, wait: bool) -> Result<Round, FollowError> {
        let held = self.state().head.clone();
        // A snapshot that could not be made whole is tried again before anything is waited for.
        let whole = held.as_ref().is_some_and(|head| self.missing(head).is_empty());
        // One whose keys were all retired protects from nothing, and is replaced by whatever the new ones have signed.
        let counted = held.as_deref().filter(|head| self.is_trusted(head));
        let known = match counted {
            Some(held) if whole => Some(held.head().sequence),
            Some(_) => None,
            None if held.is_some() => None,
            // Sequences begin at 1: a master that has not published yet answers as soon as it has.
            None => Some(0),
        };
        let asked = tokio::time::Instant::now();
        let news = match known {
            Some(sequence) => upstream.head_news(&self.repository, sequence, wait).await?,
            None => {
                let head = upstream.head(&self.repository, None).await?;
                head.map_or(HeadNews::NoneNewer, HeadNews::Head)
            }
        };
        let is_same = news == HeadNews::Same;
        let HeadNews::Head(bytes) = news else {
            if wait || !is_same {
                // "Nothing newer" comes after a wait. From somebody who does not wait it is not asked for in a tight loop.
                tokio::time::sleep_until(asked + RETRY_PAUSE).await;
            }
            return self.look_around(upstream, is_same).await;
        };
        let head = self.verify(bytes, upstream).await?;
        // What was learned on the way may have retired the key of the one held.
        let counted = held.as_deref().filter(|head| self.is_trusted(head));
        match head.succeeds(counted, self.clock.now())? {
            Succession::Same if whole => {
                if wait {
                    // The other side did not wait: do not ask in a tight loop.
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                return self.look_around(upstream, false).await;
            }
            Succession::Same => {}
            Succession::Newer => {
                let (counts, newer) = (counted.is_some(), head.clone());
                self.write(move |store| match counts {
                    true => store.put_head(&newer),
                    false => store.replace_head(&newer),
                })
                .await?;
            }
        }
        self.catch_up(Arc::new(head), upstream).await?;
        self.stage(upstream).await;
        Ok(Round {
            changed: true,
            is_same: false,
        })
    }

    /// What is to be done while the master has nothing new.
    async fn look_around(&self, upstream: &dyn Upstream, is_same: bool) -> Result<Round, FollowError> {
        self.stage(upstream).await;
        let changed = self.drop_aged().await?;
        Ok(Round { changed, is_same })
    }

    /// Makes the staged snapshots of the head whole here. What fails is logged and tried again in the next round: it
    /// keeps nobody from what is released.
    async fn stage(&self, upstream: &dyn Upstream) {
        let Some(head) = self.state().head.clone().filter(|_| self.is_registered) else {
            return;
        };
        let held = self.staged.borrow().clone();
        let mut staged = Vec::new();
        for live in appearance::staged(head.head()) {
            if let Some(snapshot) = held.iter().find(|snapshot| snapshot.id == live.id) {
                staged.push(Arc::clone(snapshot));
                continue;
            }
            match self.bring(live, upstream).await {
                Ok(snapshot) => {
                    tracing::info!(repository = %self.repository, snapshot = %live.id, "staged snapshot is whole here");
                    staged.push(Arc::new(snapshot));
                }
                Err(error) => {
                    tracing::warn!(repository = %self.repository, snapshot = %live.id, "staged snapshot: {error}");
                }
            }
        }
        self.staged.send_if_modified(|known| {
            let changed = **known != staged;
            *known = Arc::new(staged);
            changed
        });
    }

    fn wanted<'a>(&self, head: &'a SignedHead) -> Wanted<'a> {
        Wanted::new(&self.policy, head, self.clock.now())
    }

    /// Drops what has become too old for our own policy. Returns whether there was any.
    async fn drop_aged(&self) -> Result<bool, FollowError> {
        let state = self.state();
        let Some(head) = &state.head else { return Ok(false) };
        let wanted = self.wanted(head);
        let is_kept = |id: &SnapshotId| Some(*id) == state.current || wanted.shows(id) || is_tagged(&state, id);
        if state.snapshots.keys().all(is_kept) {
            return Ok(false);
        }
        self.show(head, None);
        self.drop_expired(head).await?;
        Ok(true)
    }

    /// Released snapshots of a head that are wanted and not whole here, `current` first, then the newest.
    fn missing(&self, head: &SignedHead) -> Vec<LiveSnapshot> {
        let (state, wanted) = (self.state(), self.wanted(head));
        let head = head.head();
        let order = newest_first(head, self.clock.now());
        let mut missing: Vec<_> = order
            .iter()
            .map(|turn| &head.snapshots[turn.position])
            .filter(|live| wanted.shows(&live.id) && !state.snapshots.contains_key(&live.id))
            .cloned()
            .collect();
        missing.sort_by_key(|live| Some(live.id) != head.current);
        missing
    }

    async fn catch_up(&self, head: Arc<SignedHead>, upstream: &dyn Upstream) -> Result<(), FollowError> {
        self.show(&head, None);
        // A removal does not wait for what is new to be whole.
        if !head.head().removed.is_empty() {
            self.drop_expired(&head).await?;
        }
        let begun = tokio::time::Instant::now();
        for live in self.missing(&head) {
            // Older ones can wait: there may be something newer by now, and of a burst only the newest is urgent.
            if Some(live.id) != head.head().current && begun.elapsed() > LOOK_AGAIN {
                return Ok(());
            }
            self.note(|status| status.syncing = Some(live.id));
            let result = self.bring(&live, upstream).await;
            self.note(|status| status.syncing = None);
            let snapshot = result?;
            let (files, bytes) = (snapshot.root.files, snapshot.root.bytes);
            self.show(&head, Some(Arc::new(snapshot)));
            tracing::info!(repository = %self.repository, snapshot = %live.id, files, bytes, "snapshot is whole here");
        }
        self.drop_expired(&head).await
    }

    /// Makes a head, and a snapshot that has become whole, visible.
    fn show(&self, head: &Arc<SignedHead>, snapshot: Option<Arc<Snapshot>>) {
        let wanted = self.wanted(head);
        self.state.send_modify(|state| {
            let mut next = RepositoryState::clone(state);
            if let Some(snapshot) = snapshot {
                next.snapshots.insert(snapshot.id, snapshot);
            }
            // What the master removed goes at once, whatever else would keep it: being current, a tag of the operator.
            let removed: HashSet<SnapshotId> = head.head().removed.iter().map(|removed| removed.id).collect();
            next.snapshots.retain(|id, _| !removed.contains(id));
            next.local_tags.retain(|_, id| !removed.contains(id));
            let newest = newest_whole(head, &next.snapshots);
            let whole = |id: &SnapshotId| next.snapshots.contains_key(id);
            // Until its successor is whole, what was current stays so, even if the master has dropped it.
            next.current = head
                .head()
                .current
                .filter(whole)
                .or(next.current.filter(whole))
                .or(newest);
            let current = next.current;
            let tagged: HashSet<SnapshotId> = next.local_tags.values().copied().collect();
            next.snapshots
                .retain(|id, _| Some(*id) == current || wanted.shows(id) || tagged.contains(id));
            next.head = Some(Arc::clone(head));
            *state = Arc::new(next);
        });
    }

    /// Forgets snapshots that the master or our own policy has dropped, once they are not shown any more.
    async fn drop_expired(&self, head: &SignedHead) -> Result<(), FollowError> {
        let (shown, wanted) = (self.state(), self.wanted(head));
        for id in self.store.snapshots(&self.repository)? {
            if !wanted.keeps(&id) && !shown.snapshots.contains_key(&id) && !is_tagged(&shown, &id) {
                let repository = self.repository.clone();
                self.write(move |store| store.remove_snapshot(&repository, id)).await?;
                self.intake.note_dropped();
                tracing::info!(repository = %self.repository, snapshot = %id, "snapshot dropped: it has expired");
            }
        }
        Ok(())
    }

    /// Fetches record and catalog of one snapshot, proves that they are whole, and stores them.
    async fn bring(&self, live: &LiveSnapshot, upstream: &dyn Upstream) -> Result<Snapshot, FollowError> {
        let mut found = stored(self.store.as_ref(), &self.repository, live.id)?;
        if let Some(found) = found.take_if(|found| is_named(&self.repository, live, found)) {
            return Ok(found);
        }
        let _taking_in = self.intake.taking_in().await;
        let record = upstream.snapshot(&self.repository, live.id).await?;
        let snapshot = Snapshot::decode(&self.repository, live.id, live.record, &record)?;
        if found.as_ref() == Some(&snapshot) {
            // It was stored without fields that this version does not know.
            return Ok(snapshot);
        }
        let state = self.state();
        let base = state.current.or_else(|| state.snapshots.keys().next_back().copied());
        let base = base
            .and_then(|id| state.snapshots.get(&id))
            .map(|snapshot| snapshot.root.node);
        let root = Directory {
            node: snapshot.root.node,
            files: snapshot.root.files,
            bytes: snapshot.root.bytes,
        };
        let catalog = |source| FollowError::Catalog {
            snapshot: live.id,
            source,
        };
        self.receive(upstream, base, root.node, live.id).await?;
        if let Err(error) = self.closure(base, root).await? {
            if base.is_none() {
                return Err(catalog(error));
            }
            tracing::warn!(snapshot = %live.id, "the catalog delta did not make it whole ({error}); fetching all of it");
            self.receive(upstream, None, root.node, live.id).await?;
            self.closure(None, root).await?.map_err(catalog)?;
        }
        let put = self.write(move |store| {
            if found.is_some() {
                // Another record would be in the way.
                store.remove_snapshot(&snapshot.repository, snapshot.id)?;
            }
            // It walks the tree once more.
            store.put_snapshot(&snapshot).map(|_| snapshot)
        });
        Ok(put.await?)
    }

    /// Writes to the store. A disk may take its time: not on the runtime's threads.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&dyn SnapshotStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        let written = tokio::task::spawn_blocking(move || write(store.as_ref())).await;
        written.map_err(|error| StoreError::Damaged(format!("writing to the store failed: {error}")))?
    }

    /// Walks nodes on disk: not on the runtime's threads.
    async fn closure(&self, base: Option<NodeId>, root: Directory) -> Result<Result<(), CatalogError>, FollowError> {
        let store = Arc::clone(&self.store);
        let walk = tokio::task::spawn_blocking(move || check_closure(store, base, &root).map(drop));
        walk.await
            .map_err(|error| StoreError::Damaged(format!("checking a catalog failed: {error}")).into())
    }

    /// Receives a delta. Only nodes that a verified parent has named are taken: the stream cannot be longer
    /// than what the master signed.
    async fn receive(
        &self,
        upstream: &dyn Upstream,
        have: Option<NodeId>,
        want: NodeId,
        snapshot: SnapshotId,
    ) -> Result<(), FollowError> {
        let catalog = |source| FollowError::Catalog { snapshot, source };
        let mut stream = upstream.delta(&self.repository, have, want).await?;
        let mut decoder = FrameDecoder::default();
        let mut named = HashSet::from([want]);
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            self.note(|status| status.catalog_bytes += bytes.len() as u64);
            decoder.push(&bytes);
            while let Some(frame) = decoder.next_frame().map_err(catalog)? {
                let id = NodeId::of(&frame);
                if !named.remove(&id) {
                    return Err(catalog(CatalogError::Unexpected(id)));
                }
                let node = CatalogNode::decode(id, frame).map_err(catalog)?;
                name_children(&node, &mut named).map_err(catalog)?;
                batch_bytes += node.bytes().len();
                batch.push(node);
            }
            if batch_bytes >= STORE_BATCH_BYTES {
                let nodes = std::mem::take(&mut batch);
                self.write(move |store| store.put_nodes(nodes)).await?;
                batch_bytes = 0;
            }
        }
        decoder.finish().map_err(catalog)?;
        Ok(self.write(move |store| store.put_nodes(batch)).await?)
    }
}

/// Adds what a node refers to.
fn name_children(node: &CatalogNode, named: &mut HashSet<NodeId>) -> Result<(), CatalogError> {
    for i in 0..node.len() {
        if node.is_index() {
            named.insert(node.child(i).node);
        } else if let Kind::Directory(directory) = node.meta(i)?.kind {
            named.insert(directory.node);
        }
    }
    Ok(())
}

/// What to show as `current`: the head's, or the newest released one that is whole.
fn newest_whole(head: &SignedHead, whole: &BTreeMap<SnapshotId, Arc<Snapshot>>) -> Option<SnapshotId> {
    let head = head.head();
    // The dates do not matter here.
    let order = newest_first(head, Timestamp::from_millis(0));
    let is_good = |turn: &&Turn| whole.contains_key(&turn.id) && !turn.is_withdrawn;
    let newest = order.iter().find(is_good).map(|turn| turn.id);
    head.current.filter(|id| whole.contains_key(id)).or(newest)
}
