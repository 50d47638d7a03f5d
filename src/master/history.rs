//! Going back to a kept snapshot, and taking snapshots away for good. Both are changes of the head; neither needs the
//! source tree.
//!
//! Invariant: a repository that has a current snapshot keeps one. What was taken back is noted ([`withdrawn`]) before the
//! head says so, and stays away until the source tree is another one or the operator asks for it.

use std::collections::BTreeSet;

use instantmirror_core::head::{LiveSnapshot, REASON_BYTES_MAX, REMOVED_MAX, RemovedSnapshot};
use instantmirror_core::order::go_back_to;
use instantmirror_core::snapshot_ref::{ResolveError, SnapshotNames, SnapshotRef};
use instantmirror_core::{Clock as _, Head, NodeId, RepoName, Root, SnapshotId, TagName, Timestamp};
use instantmirror_store::garbage::Garbage;

use super::tags::unknown_snapshot;
use super::writer::Writer;
use super::{CleanUpOptions, CleanedUp, Master, MasterError, expired, withdrawn};
use crate::clock::SystemClock;
use crate::progress::Progress;

/// Why a repository did not go back, or a snapshot was not removed. Nothing has changed then, but for
/// [`NotDeleted`](Self::NotDeleted).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// No snapshot is called so.
    #[error("'{repository}': {source} (`imserver snapshot list {repository}` shows all)")]
    Unresolved {
        /// The repository.
        repository: RepoName,
        /// What is wrong with the name.
        source: ResolveError,
    },
    /// It was never released, so nobody can go back to it.
    #[error("snapshot {snapshot} of '{repository}' is staged; `imserver snapshot release` makes it current")]
    Staged {
        /// The repository.
        repository: RepoName,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// It is what everybody sees.
    #[error(
        "snapshot {snapshot} of '{repository}' is the current one, and without it there would be none; go back first \
         (`imserver snapshot rollback {repository} current~1`) or publish a tree without what has to go"
    )]
    RemovesCurrent {
        /// The repository.
        repository: RepoName,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// It has tags, which would go with it.
    #[error(
        "snapshot {snapshot} of '{repository}' has the tags {}, which would go with it; --tags removes both",
        tags.iter().map(TagName::as_str).collect::<Vec<_>>().join(", ")
    )]
    RemovesTagged {
        /// The repository.
        repository: RepoName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its tags.
        tags: Vec<TagName>,
    },
    /// The snapshots are removed: the head that says so is out, and mirrors drop them. Their data is still on the disk.
    #[error(
        "removed from '{repository}': {}; head {sequence} says so, and mirrors drop what it names. But the data is not \
         deleted from the store yet: {source}. The next publish, a running `imserver serve` within the hour, or \
         `imserver retention {repository}` now deletes it; nothing has to be removed again",
        snapshots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    NotDeleted {
        /// The repository.
        repository: RepoName,
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
        /// The head that says so.
        sequence: u64,
        /// Why their data is not deleted.
        source: Box<MasterError>,
    },
    /// The reason of a removal is too long for a head.
    #[error("the reason has {bytes} bytes; at most {REASON_BYTES_MAX} travel with a head")]
    LongReason {
        /// Its length.
        bytes: usize,
    },
}

/// What going back does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// What was current.
    pub from: Option<SnapshotId>,
    /// What is current now. The same as `from`: nothing was done.
    pub to: SnapshotId,
    /// Its tree.
    pub root: Root,
    /// Snapshots that are withdrawn by it: they are kept, and their files are found under their own names alone.
    pub withdrawn: Vec<SnapshotId>,
    /// The head that says so; `None` if nothing was signed.
    pub sequence: Option<u64>,
}

/// How to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoveOptions {
    /// Why, for the head and the logs of nodes: everybody can read it.
    pub reason: String,
    /// Also tagged ones, with their tags.
    pub tags: bool,
    /// Also ones that are not kept here any more: nodes may have kept them for tags of their own.
    pub expired: bool,
}

/// What a removal does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The repository.
    pub repository: RepoName,
    /// The snapshots.
    pub snapshots: Vec<SnapshotId>,
    /// Those of them that had left the head before: nodes may have kept them for tags of their own.
    pub expired: Vec<SnapshotId>,
    /// Tags that go with them.
    pub tags: Vec<TagName>,
    /// Objects that nothing else refers to, and their bytes.
    pub deleted: CleanedUp,
    /// The head that says so; `None` if nothing was signed.
    pub sequence: Option<u64>,
}

impl Master {
    /// The snapshot that a person means. A whole id is taken as it is, whether or not there is such a snapshot.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::NeverPublished`], [`HistoryError::Unresolved`].
    pub fn resolve(&self, repository: &RepoName, asked: &SnapshotRef) -> Result<SnapshotId, MasterError> {
        let head = self.published_head(repository)?;
        if let Ok(id) = asked.to_string().to_ascii_lowercase().parse() {
            return Ok(id);
        }
        let found = SnapshotNames::of_head(&head).resolve(asked);
        found.map_err(|source| {
            let repository = repository.clone();
            HistoryError::Unresolved { repository, source }.into()
        })
    }

    /// What [`rollback`](Self::rollback) would do now. Changes nothing, takes no lock.
    ///
    /// # Errors
    /// As [`rollback`](Self::rollback).
    pub fn plan_rollback(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<Rollback, MasterError> {
        let mut head = self.published_head(repository)?;
        self.go_back(&mut head, snapshot)
    }

    /// Makes a kept snapshot current again, from the store alone. What was published after it is withdrawn. Blocks until
    /// the new head is durable.
    ///
    /// # Errors
    /// [`MasterError::UnknownSnapshot`], [`HistoryError::Staged`]; [`MasterError::Store`] with
    /// [`Locked`](instantmirror_store::StoreError::Locked) while somebody publishes. Nothing has changed then.
    pub fn rollback(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<Rollback, MasterError> {
        self.plan_rollback(repository, snapshot)?;
        let writer = Writer::open(self)?;
        let mut head = self.published_head(repository)?;
        let mut done = self.go_back(&mut head, snapshot)?;
        if done.from == Some(done.to) {
            return Ok(done);
        }
        let now = SystemClock.now();
        self.note_taken_back(repository, &done.withdrawn, done.to)?;
        self.prune(self.repository(repository)?, &mut head, now);
        done.sequence = Some(self.commit(&writer, head, now)?);
        Ok(done)
    }

    /// Remembers the trees of snapshots that are withdrawn, and that the one which `came_back` is wanted.
    pub(super) fn note_taken_back(
        &self,
        repository: &RepoName,
        taken_back: &[SnapshotId],
        came_back: SnapshotId,
    ) -> Result<(), MasterError> {
        let (now, mut trees) = (SystemClock.now(), Vec::new());
        for id in taken_back {
            let lost = self.kept_snapshot(repository, *id)?;
            trees.extend(lost.map(|snapshot| (snapshot.root.node, (*id, now))));
        }
        let wanted = self.kept_snapshot(repository, came_back)?;
        let changed = withdrawn::change(self.notes(), repository, |list| {
            list.extend(trees);
            wanted.map(|snapshot| list.remove(&snapshot.root.node));
        });
        Ok(changed?)
    }

    fn go_back(&self, head: &mut Head, to: SnapshotId) -> Result<Rollback, MasterError> {
        let repository = head.repository.clone();
        match head.snapshot(&to) {
            None => {
                let live = head.snapshots.iter().map(|live| live.id);
                return Err(unknown_snapshot(&repository, to, live));
            }
            Some(live) if !live.state.is_released() => {
                let snapshot = to;
                return Err(HistoryError::Staged { repository, snapshot }.into());
            }
            Some(_) => {}
        }
        let root = self.snapshot(&repository, to)?.root;
        let (from, sequence) = (head.current, head.sequence + 1);
        let withdrawn = match from == Some(to) {
            true => Vec::new(),
            false => go_back_to(head, to, sequence, SystemClock.now()),
        };
        Ok(Rollback {
            from,
            to,
            root,
            withdrawn,
            sequence: None,
        })
    }

    /// What [`remove_snapshots`](Self::remove_snapshots) would do now. Changes nothing, takes no lock; walks the catalogs
    /// of all snapshots to see which objects would go.
    ///
    /// # Errors
    /// As [`remove_snapshots`](Self::remove_snapshots).
    pub fn plan_removal(
        &self,
        repository: &RepoName,
        snapshots: &[SnapshotId],
        options: &RemoveOptions,
    ) -> Result<Removal, MasterError> {
        let mut head = self.published_head(repository)?;
        let mut removal = self.take_out(&mut head, snapshots, options)?;
        let gone: BTreeSet<SnapshotId> = removal.snapshots.iter().copied().collect();
        let (mut live, mut dead) = (Vec::new(), Vec::new());
        for (of, id) in self.snapshots().records()? {
            let is_dead = of == *repository && gone.contains(&id);
            if let Some(record) = self.kept_snapshot(&of, id)? {
                if is_dead { &mut dead } else { &mut live }.push(record.root.node);
            }
        }
        let mut garbage = Garbage::mark(self.catalog_nodes(), live).map_err(MasterError::Catalog)?;
        garbage.condemn(dead.iter().copied());
        for shard in 0..garbage.shards() {
            for object in garbage.objects(shard).map_err(MasterError::Catalog)? {
                if let Some(bytes) = self.parts.objects.size(&object)? {
                    removal.deleted.objects += 1;
                    removal.deleted.bytes += bytes;
                }
            }
        }
        removal.deleted.snapshots = dead.len() as u64;
        Ok(removal)
    }

    /// Takes snapshots away for good: out of every view of master and nodes, grace and the nodes' own tags included. Their
    /// objects are deleted at once where nothing else refers to them, without the time that an expired snapshot waits for
    /// its readers: those who have a file open read it to its end, others get an error. Blocks until that is done, while
    /// `progress` hears how many objects are gone; what a
    /// crash leaves the next [`clean_up`](Self::clean_up) finishes.
    ///
    /// # Errors
    /// [`MasterError::UnknownSnapshot`], [`HistoryError::RemovesCurrent`], [`HistoryError::RemovesTagged`],
    /// [`HistoryError::LongReason`]; [`MasterError::Store`] with [`Locked`](instantmirror_store::StoreError::Locked) while
    /// somebody publishes: nothing has changed then. [`HistoryError::NotDeleted`] if they are removed and only their data
    /// could not be deleted.
    pub fn remove_snapshots(
        &self,
        repository: &RepoName,
        snapshots: &[SnapshotId],
        options: &RemoveOptions,
        progress: &dyn Progress,
    ) -> Result<Removal, MasterError> {
        self.take_out(&mut self.published_head(repository)?, snapshots, options)?;
        let (mut removal, sequence) = {
            let writer = Writer::open(self)?;
            let mut head = self.published_head(repository)?;
            let removal = self.take_out(&mut head, snapshots, options)?;
            let (now, trees) = (SystemClock.now(), self.trees_of(&removal)?);
            withdrawn::change(self.notes(), repository, |list| {
                list.extend(trees.into_iter().map(|(node, id)| (node, (id, now))));
            })?;
            self.note_gone(&removal, now)?;
            (removal, self.commit(&writer, head, now)?)
        };
        removal.sequence = Some(sequence);
        let deleted = self.clean_up_with(CleanUpOptions::default(), progress);
        removal.deleted = deleted.map_err(|error| HistoryError::NotDeleted {
            repository: repository.clone(),
            snapshots: removal.snapshots.clone(),
            sequence,
            source: Box::new(error),
        })?;
        Ok(removal)
    }

    /// Notes those that have no record here any more as expired. An ordinary clean-up has forgotten their names and digests, and left
    /// the bytes in files: the next clean-up, which finds them noted and removed, purges the files.
    fn note_gone(&self, removal: &Removal, now: Timestamp) -> Result<(), MasterError> {
        let recorded = self.snapshots().snapshots(&removal.repository)?;
        let gone: Vec<_> = removal.snapshots.iter().filter(|id| !recorded.contains(id)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut noted = expired::read(self.notes(), &removal.repository)?;
        noted.extend(gone.into_iter().map(|id| (*id, now)));
        Ok(expired::write(self.notes(), &removal.repository, &noted)?)
    }

    /// The trees of removed snapshots that no snapshot has which stays: a source tree like that of a kept one is nothing
    /// that was taken back.
    fn trees_of(&self, removal: &Removal) -> Result<Vec<(NodeId, SnapshotId)>, MasterError> {
        let (mut gone, mut kept) = (Vec::new(), BTreeSet::new());
        for id in self.snapshots().snapshots(&removal.repository)? {
            let Some(record) = self.kept_snapshot(&removal.repository, id)? else {
                continue;
            };
            if removal.snapshots.contains(&id) {
                gone.push((record.root.node, id));
            } else {
                kept.insert(record.root.node);
            }
        }
        gone.retain(|(node, _)| !kept.contains(node));
        Ok(gone)
    }

    /// Takes snapshots out of a head and notes that they are removed.
    fn take_out(
        &self,
        head: &mut Head,
        snapshots: &[SnapshotId],
        options: &RemoveOptions,
    ) -> Result<Removal, MasterError> {
        let repository = head.repository.clone();
        if options.reason.len() > REASON_BYTES_MAX {
            let bytes = options.reason.len();
            return Err(HistoryError::LongReason { bytes }.into());
        }
        let mut removal = Removal {
            repository: repository.clone(),
            snapshots: Vec::new(),
            expired: Vec::new(),
            tags: Vec::new(),
            deleted: CleanedUp::default(),
            sequence: None,
        };
        let now = SystemClock.now();
        let ids: BTreeSet<SnapshotId> = snapshots.iter().copied().collect();
        for snapshot in ids {
            if head.current == Some(snapshot) {
                return Err(HistoryError::RemovesCurrent { repository, snapshot }.into());
            }
            let tags: Vec<TagName> = head
                .tags
                .iter()
                .filter(|(_, id)| **id == snapshot)
                .map(|(tag, _)| tag.clone())
                .collect();
            if !tags.is_empty() && !options.tags {
                return Err(HistoryError::RemovesTagged {
                    repository,
                    snapshot,
                    tags,
                }
                .into());
            }
            if head.snapshot(&snapshot).is_none() {
                let has_record = self.snapshots().snapshots(&repository)?.contains(&snapshot);
                if !has_record && !options.expired {
                    return Err(unknown_snapshot(
                        &repository,
                        snapshot,
                        head.snapshots.iter().map(|live| live.id),
                    ));
                }
                removal.expired.push(snapshot);
            }
            removal.tags.extend(tags);
            removal.snapshots.push(snapshot);
            head.removed.retain(|removed| removed.id != snapshot);
            head.removed.push(RemovedSnapshot {
                id: snapshot,
                removed: now,
                reason: options.reason.clone(),
            });
        }
        let is_gone = |id: &SnapshotId| removal.snapshots.contains(id);
        head.snapshots.retain(|live: &LiveSnapshot| !is_gone(&live.id));
        head.tags.retain(|_, id| !is_gone(id));
        let too_many = head.removed.len().saturating_sub(REMOVED_MAX);
        head.removed.drain(..too_many);
        Ok(removal)
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
