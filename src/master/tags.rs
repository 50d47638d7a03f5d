//! Tags: names that the operator gives to snapshots. A tagged snapshot shows at `master-snap/NAME/` and never expires.

use std::fmt;

use instantmirror_core::snapshot_ref::hint;
use instantmirror_core::{Clock as _, Head, RepoName, SnapshotId, TagName};

use super::writer::Writer;
use super::{Master, MasterError};
use crate::clock::SystemClock;

/// What tagging did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tagged {
    /// The tag is new.
    New,
    /// It named this snapshot before.
    Moved(SnapshotId),
    /// It named the snapshot already; nothing was done.
    Already,
}

/// For people.
impl fmt::Display for Tagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("tagged"),
            Self::Moved(before) => write!(f, "tagged; the tag named {before} before"),
            Self::Already => f.write_str("was tagged so already"),
        }
    }
}

impl Master {
    /// Names a snapshot: `master-snap/TAG/` shows it on master and nodes, and retention keeps it. A tag that is there
    /// moves. Blocks until the new head is durable; a running `imserver serve` takes it up by itself.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::NeverPublished`], [`MasterError::UnknownSnapshot`] with what
    /// was probably meant; [`MasterError::Store`] with [`StoreError::Locked`](instantmirror_store::StoreError::Locked)
    /// while somebody publishes. Nothing has changed then.
    pub fn tag(&self, repository: &RepoName, tag: &TagName, snapshot: SnapshotId) -> Result<Tagged, MasterError> {
        self.change_tags(repository, |head| {
            if head.snapshot(&snapshot).is_none() {
                let live = head.snapshots.iter().map(|live| live.id);
                return Err(unknown_snapshot(repository, snapshot, live));
            }
            Ok(match head.tags.insert(tag.clone(), snapshot) {
                None => Tagged::New,
                Some(before) if before == snapshot => Tagged::Already,
                Some(before) => Tagged::Moved(before),
            })
        })
    }

    /// Takes a tag away, and returns the snapshot that it named. From now on retention may expire it.
    ///
    /// # Errors
    /// [`MasterError::UnknownTag`] with the tags there are, else as [`tag`](Self::tag).
    pub fn untag(&self, repository: &RepoName, tag: &TagName) -> Result<SnapshotId, MasterError> {
        self.change_tags(repository, |head| {
            head.tags.remove(tag).ok_or_else(|| MasterError::UnknownTag {
                repository: repository.clone(),
                tag: tag.clone(),
                hint: hint(tag.as_str(), head.tags.keys().map(ToString::to_string).collect()),
            })
        })
    }

    fn change_tags<T>(
        &self,
        repository: &RepoName,
        change: impl FnOnce(&mut Head) -> Result<T, MasterError>,
    ) -> Result<T, MasterError> {
        // Before anything is opened for writing: a mistyped name must not wait for a publish.
        self.published_head(repository)?;
        let writer = Writer::open(self)?;
        let held = self.published_head(repository)?;
        let mut head = held.clone();
        let done = change(&mut head)?;
        if head != held {
            self.commit(&writer, head, SystemClock.now())?;
        }
        Ok(done)
    }
}

/// [`MasterError::UnknownSnapshot`] with the nearest id, or the newest ones. `live` is ordered from old to new.
pub(super) fn unknown_snapshot(
    repository: &RepoName,
    snapshot: SnapshotId,
    live: impl Iterator<Item = SnapshotId>,
) -> MasterError {
    let mut newest_first: Vec<String> = live.map(|id| id.to_string()).collect();
    newest_first.reverse();
    MasterError::UnknownSnapshot {
        repository: repository.clone(),
        snapshot,
        hint: hint(&snapshot.to_string(), newest_first),
    }
}
