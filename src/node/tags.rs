//! Local tags: the node's operator names a snapshot, and the node fetches all of it and keeps it whatever its master does.
//!
//! Key decision: nothing is given up by the cache before it is known what the tags hold. At start that takes a walk of
//! their catalogs in the background; until it is done a file for which there is no room is streamed past the cache.

mod file;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use instantmirror_core::catalog::{CatalogError, NodeSource, Reachable};
use instantmirror_core::snapshot_ref::{ResolveError, SnapshotNames, SnapshotRef};
use instantmirror_core::traits::PinSet;
use instantmirror_core::{Kind, NodeId, ObjectId, RepoName, SnapshotId, StoreError as CoreError, TagName};
use instantmirror_store::StoreError;
use instantmirror_store::disk::Disk;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::parts::{NodeCache, walker};
use super::preseed::Bringer;
use super::{Node, NodeError};
use crate::config::ByteSize;
use crate::text::Count;

/// Before what could not be had is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// All tags of a node.
pub(super) type TagList = BTreeMap<(RepoName, TagName), SnapshotId>;

/// Why a tag was not set or taken away. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// No such repository here.
    #[error("this node follows no repository '{repository}'; it has {known}")]
    UnknownRepository {
        /// What was asked for.
        repository: RepoName,
        /// What there is.
        known: String,
    },
    /// No snapshot is called so.
    #[error("'{repository}': {source} (http://…/{repository}/snap/ lists those that are shown here)")]
    Unresolved {
        /// The repository.
        repository: RepoName,
        /// What is wrong with the name.
        source: ResolveError,
    },
    /// The snapshot is not shown here.
    #[error(
        "snapshot {snapshot} of '{repository}' is not shown here; http://…/{repository}/snap/ lists those that are"
    )]
    NotShown {
        /// The repository.
        repository: RepoName,
        /// What was asked for.
        snapshot: SnapshotId,
    },
    /// The tag names another snapshot.
    #[error("tag '{tag}' of '{repository}' names {snapshot} already; --force moves it")]
    Taken {
        /// The repository.
        repository: RepoName,
        /// The tag.
        tag: TagName,
        /// What it names.
        snapshot: SnapshotId,
    },
    /// There is no such tag.
    #[error("'{repository}' has no local tag '{tag}'; `imnode tags` lists them")]
    UnknownTag {
        /// The repository.
        repository: RepoName,
        /// The tag.
        tag: TagName,
    },
    /// The cache cannot hold it.
    #[error("with it, all tagged snapshots have {} in {objects} objects; the cache holds at most {} (raise [cache] max_size or max_objects, or untag another)", ByteSize(*bytes), ByteSize(*max))]
    TooLarge {
        /// Bytes of what all tags name.
        bytes: u64,
        /// Objects of it.
        objects: u64,
        /// The cache's limit.
        max: u64,
    },
    /// The cache has no pin set.
    #[error("the cache of this node cannot keep a snapshot: it has no pin set")]
    NoPins,
    /// A catalog cannot be read.
    #[error("the catalogs of the tagged snapshots cannot be read: {0}")]
    Catalog(#[from] CatalogError),
    /// The tags cannot be written down.
    #[error("the tags cannot be written down: {0}")]
    Write(#[from] StoreError),
}

/// How far a tag is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagStatus {
    /// The repository.
    pub repository: RepoName,
    /// The tag.
    pub tag: TagName,
    /// What it names.
    pub snapshot: SnapshotId,
    /// Files of the snapshot; one that is in several trees that are the same counts once.
    pub files: u64,
    /// Those looked at that are here and verified.
    pub files_done: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of those that are here.
    pub bytes_done: u64,
    /// Whether all was here when it was last looked at.
    pub complete: bool,
    /// Why it does not go on, if it does not.
    pub trouble: Option<String>,
}

/// What the tags hold, and how far they are.
#[derive(Debug)]
pub(super) struct Tags {
    disk: Arc<dyn Disk>,
    /// Held while tags change; what is in it is on the disk.
    list: tokio::sync::Mutex<TagList>,
    status: Mutex<BTreeMap<(RepoName, TagName), TagStatus>>,
    changed: Notify,
}

/// Objects of some snapshots.
struct Holding {
    pins: PinSet,
    bytes: u64,
    objects: u64,
}

impl Tags {
    pub(super) fn open(disk: Arc<dyn Disk>, cache: &NodeCache) -> Result<(Self, TagList), NodeError> {
        let list = file::load(disk.as_ref())?;
        if let Some(pins) = cache.pins().filter(|_| !list.is_empty()) {
            pins.set_pins(None)?;
        }
        let tags = Self {
            disk,
            status: Mutex::new(list.iter().map(|(key, id)| (key.clone(), begun(key, *id))).collect()),
            list: tokio::sync::Mutex::new(list.clone()),
            changed: Notify::new(),
        };
        Ok((tags, list))
    }

    /// Where the node's lists lie.
    pub(super) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    pub(super) fn status(&self) -> Vec<TagStatus> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(RepoName, TagName), TagStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: &(RepoName, TagName), snapshot: SnapshotId, change: impl FnOnce(&mut TagStatus)) {
        if let Some(status) = self.lock().get_mut(key).filter(|status| status.snapshot == snapshot) {
            change(status);
        }
    }
}

fn begun((repository, tag): &(RepoName, TagName), snapshot: SnapshotId) -> TagStatus {
    TagStatus {
        repository: repository.clone(),
        tag: tag.clone(),
        snapshot,
        files: 0,
        files_done: 0,
        bytes: 0,
        bytes_done: 0,
        complete: false,
        trouble: None,
    }
}

impl Node {
    /// Names a snapshot that is shown here: `local-snap/TAG/` shows it at once, and all of it is fetched in the
    /// background and kept until it is untagged. Durable when it returns. Dropping the future may leave the tag set
    /// until the next start.
    ///
    /// # Errors
    /// [`TagError`].
    pub async fn tag(
        &self,
        repository: &RepoName,
        tag: &TagName,
        snapshot: SnapshotId,
        force: bool,
    ) -> Result<(), TagError> {
        let follower = self.follower(repository)?;
        let pins = self.cache.pins().ok_or(TagError::NoPins)?;
        let mut list = self.tags.list.lock().await;
        let key = (repository.clone(), tag.clone());
        let before = list.get(&key).copied();
        if let Some(named) = before.filter(|named| *named != snapshot && !force) {
            let (repository, tag) = key;
            return Err(TagError::Taken {
                repository,
                tag,
                snapshot: named,
            });
        }
        let not_shown = || TagError::NotShown {
            repository: repository.clone(),
            snapshot,
        };
        if !follower.state().snapshots.contains_key(&snapshot) {
            return Err(not_shown());
        }
        let mut next = list.clone();
        next.insert(key.clone(), snapshot);
        let holding = self.holding(&next).await?;
        let limits = self.cache.limits();
        let max = limits.max_bytes.unwrap_or(u64::MAX);
        if holding.bytes > max || holding.objects > limits.max_objects.unwrap_or(u64::MAX) {
            let (bytes, objects) = (holding.bytes, holding.objects);
            return Err(TagError::TooLarge { bytes, objects, max });
        }
        if !follower.tag(tag, snapshot) {
            return Err(not_shown());
        }
        if let Err(error) = file::save(self.tags.disk.as_ref(), &next) {
            match before {
                Some(before) => drop(follower.tag(tag, before)),
                None => follower.untag(tag),
            }
            return Err(error.into());
        }
        *list = next;
        if before != Some(snapshot) {
            self.tags.lock().insert(key.clone(), begun(&key, snapshot));
        }
        if let Err(error) = pins.set_pins(Some(holding.pins)) {
            tracing::warn!(%repository, %tag, "the cache cannot make room: {error}");
        }
        self.tags.changed.notify_one();
        Ok(())
    }

    /// Takes a tag away: what only it kept may go from now on. Durable when it returns.
    ///
    /// # Errors
    /// [`TagError`].
    pub async fn untag(&self, repository: &RepoName, tag: &TagName) -> Result<(), TagError> {
        let mut list = self.tags.list.lock().await;
        let key = (repository.clone(), tag.clone());
        let mut next = list.clone();
        if next.remove(&key).is_none() {
            let (repository, tag) = key;
            return Err(TagError::UnknownTag { repository, tag });
        }
        file::save(self.tags.disk.as_ref(), &next)?;
        *list = next;
        self.tags.lock().remove(&key);
        if let Some(follower) = self.followers.get(repository) {
            follower.untag(tag);
            if let Err(error) = follower.forget_untagged().await {
                tracing::warn!(%repository, %tag, "its record cannot be removed yet: {error}");
            }
        }
        // What is held on until the keeper has walked the other tags' catalogs is only more than need be.
        drop(list);
        self.hold_tagged().await;
        self.tags.changed.notify_one();
        Ok(())
    }

    /// The snapshot that a person means. A whole id is taken as it is, whether or not it is shown here.
    ///
    /// # Errors
    /// [`TagError::UnknownRepository`], [`TagError::Unresolved`].
    pub fn resolve(&self, repository: &RepoName, asked: &SnapshotRef) -> Result<SnapshotId, TagError> {
        let state = self.follower(repository)?.state();
        if let Ok(id) = asked.to_string().to_ascii_lowercase().parse() {
            return Ok(id);
        }
        let found = SnapshotNames::of_state(&state).resolve(asked);
        found.map_err(|source| {
            let repository = repository.clone();
            TagError::Unresolved { repository, source }
        })
    }

    /// Takes away the tags that name snapshots which their masters removed: the one case in which a master overrules the
    /// node's operator. Durable when it returns.
    ///
    /// # Errors
    /// [`TagError::Write`]; it is tried again.
    pub(super) async fn drop_removed_tags(&self) -> Result<(), TagError> {
        let mut list = self.tags.list.lock().await;
        let mut next = list.clone();
        next.retain(|(repository, tag), id| {
            let head = self.followers.get(repository).and_then(|follower| follower.state().head.clone());
            let removed = head.as_ref().and_then(|head| head.head().removed.iter().find(|removed| removed.id == *id));
            if let Some(removed) = removed {
                let reason = if removed.reason.is_empty() { "none given" } else { &removed.reason };
                tracing::warn!(%repository, %tag, snapshot = %id, reason, "the master removed the snapshot, so the tag of this node goes");
            }
            removed.is_none()
        });
        if next == *list {
            return Ok(());
        }
        file::save(self.tags.disk.as_ref(), &next)?;
        self.tags.lock().retain(|key, _| next.contains_key(key));
        *list = next;
        drop(list);
        self.hold_tagged().await;
        self.tags.changed.notify_one();
        Ok(())
    }

    fn follower(&self, repository: &RepoName) -> Result<&instantmirror_swarm::Follower, TagError> {
        self.followers.get(repository).ok_or_else(|| {
            let known: Vec<_> = self.followers.keys().map(RepoName::as_str).collect();
            TagError::UnknownRepository {
                repository: repository.clone(),
                known: known.join(", "),
            }
        })
    }

    /// Walks the catalogs of tagged snapshots, not on the runtime's threads.
    async fn holding(&self, list: &TagList) -> Result<Holding, CatalogError> {
        let mut roots = Vec::new();
        for ((repository, tag), id) in list {
            let record = self.snapshots.snapshot(repository, *id)?;
            let missing = || CoreError::Damaged(format!("tag '{tag}' of '{repository}': no record of snapshot {id}"));
            roots.push(record.ok_or_else(missing)?.root.node);
        }
        let store = walker(&self.snapshots);
        let walk = tokio::task::spawn_blocking(move || walk(store, &roots));
        walk.await.map_err(|error| CoreError::Damaged(error.to_string()))?
    }

    /// Fetches what is tagged, for ever.
    pub(super) async fn keep_tags(&self) {
        if self.cache.pins().is_none() {
            return std::future::pending().await;
        }
        loop {
            let changed = self.tags.changed.notified();
            let all = async {
                if self.hold_tagged().await && self.fetch_tagged().await {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                () = changed => {}
                () = all => {}
            }
        }
    }

    async fn hold_tagged(&self) -> bool {
        let Some(pins) = self.cache.pins() else { return true };
        let list = self.tags.list.lock().await;
        let held = match self.holding(&list).await {
            Ok(holding) => pins.set_pins(Some(holding.pins)).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &held {
            tracing::error!("what is tagged is not known, so the cache gives nothing up: {error}");
            for status in self.tags.lock().values_mut() {
                status.trouble = Some(error.clone());
            }
        }
        held.is_ok()
    }

    async fn fetch_tagged(&self) -> bool {
        let list = self.tags.list.lock().await.clone();
        let mut all = true;
        for (key, id) in &list {
            let done = self.tags.lock().get(key).is_some_and(|status| status.complete);
            if done || !self.followers.contains_key(&key.0) {
                continue;
            }
            let trouble = self.fetch_tag(key, *id).await.err();
            if let Some(trouble) = &trouble {
                tracing::warn!(repository = %key.0, tag = %key.1, "not all that is tagged is here: {trouble}");
            } else {
                tracing::info!(repository = %key.0, tag = %key.1, snapshot = %id, "all that is tagged is here");
            }
            all &= trouble.is_none();
            self.tags.note(key, *id, |status| {
                status.complete = trouble.is_none();
                status.trouble = trouble;
            });
        }
        all
    }

    async fn fetch_tag(&self, key: &(RepoName, TagName), id: SnapshotId) -> Result<(), String> {
        let record = self.snapshots.snapshot(&key.0, id).map_err(|error| error.to_string())?;
        let snapshot = Arc::new(record.ok_or("its record is not here")?);
        self.tags.note(key, id, |status| {
            (status.files, status.bytes) = (snapshot.root.files, snapshot.root.bytes);
            (status.files_done, status.bytes_done) = (0, 0);
        });
        let done = |size: u64, is_here: bool| {
            self.tags.note(key, id, |status| {
                status.files_done += u64::from(is_here);
                status.bytes_done += if is_here { size } else { 0 };
            });
        };
        let bringer = Bringer::new(self, key.0.clone());
        let pass = bringer.bring_all(snapshot.root.node, &done).await;
        match pass.map_err(|error| error.to_string())?.failed {
            0 => {
                // Trees that are the same were walked once.
                self.tags.note(key, id, |status| {
                    (status.files_done, status.bytes_done) = (status.files, status.bytes);
                });
                Ok(())
            }
            failed => Err(format!(
                "{} could not be fetched; it is tried again",
                Count(failed, "file")
            )),
        }
    }
}

fn walk(store: Arc<dyn NodeSource>, roots: &[NodeId]) -> Result<Holding, CatalogError> {
    let mut walk = Reachable::new(store, std::collections::HashSet::new());
    roots.iter().for_each(|root| walk.add_root(*root));
    let mut objects: Vec<(ObjectId, u64)> = Vec::new();
    for node in walk {
        let node = node?;
        for i in 0..if node.is_index() { 0 } else { node.len() } {
            if let Kind::File(file) = node.meta(i)?.kind {
                objects.push((file.object, file.size));
            }
        }
    }
    objects.sort_unstable();
    objects.dedup();
    Ok(Holding {
        bytes: objects.iter().map(|(_, size)| size).sum(),
        objects: objects.len() as u64,
        pins: objects.into_iter().map(|(object, _)| object).collect(),
    })
}
