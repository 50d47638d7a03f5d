//! Releasing and withdrawing staged snapshots. Releasing moves no data: the head says that everybody may see it.

use instantmirror_core::appearance::{Synced, is_due, overtaken_by, staged};
use instantmirror_core::order::go_back_to;
use instantmirror_core::{Clock as _, Head, RepoName, SnapshotId};

use super::tags::unknown_snapshot;
use super::writer::Writer;
use super::{Master, MasterError};
use crate::clock::SystemClock;

impl Master {
    /// Shows a staged snapshot to everybody and makes it current. Blocks until the new head is durable.
    ///
    /// # Errors
    /// [`MasterError::NotStaged`]; [`MasterError::Overtaken`] if something was published since it was staged, unless
    /// `take_back` says that this shall be undone; else as [`tag`](Self::tag). Nothing has changed then.
    pub fn release(&self, repository: &RepoName, snapshot: SnapshotId, take_back: bool) -> Result<(), MasterError> {
        self.change_staged(repository, snapshot, |head| {
            if let Some(by) = overtaken_by(head, &snapshot).filter(|_| !take_back) {
                let repository = repository.clone();
                return Err(MasterError::Overtaken {
                    repository,
                    snapshot,
                    by,
                });
            }
            let sequence = head.sequence + 1;
            let taken_back = go_back_to(head, snapshot, sequence, SystemClock.now());
            self.note_taken_back(repository, &taken_back, snapshot)
        })
    }

    /// Takes a staged snapshot out of the head, with its tags: nobody will see it. Blocks until the new head is durable.
    ///
    /// # Errors
    /// [`MasterError::NotStaged`], else as [`tag`](Self::tag). Nothing has changed then.
    pub fn withdraw(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<(), MasterError> {
        self.change_staged(repository, snapshot, |head| {
            head.snapshots.retain(|live| live.id != snapshot);
            head.tags.retain(|_, id| *id != snapshot);
            Ok(())
        })
    }

    /// Releases the staged snapshots of a repository whose rule is met, and returns them. `synced` tells how many nodes
    /// have all of one.
    ///
    /// # Errors
    /// As [`release`](Self::release), the first of them after all had their turn: [`MasterError::Overtaken`] for one
    /// that is left to a person.
    pub fn release_due(
        &self,
        repository: &RepoName,
        head: &Head,
        synced: impl Fn(&SnapshotId) -> Synced,
    ) -> Result<Vec<SnapshotId>, MasterError> {
        let now = SystemClock.now();
        let due = staged(head).filter(|live| is_due(&live.state, now, synced(&live.id)));
        let (mut released, mut first_error) = (Vec::new(), Ok(()));
        for live in due {
            match self.release(repository, live.id, false) {
                Ok(()) => {
                    tracing::info!(%repository, snapshot = %live.id, "released: its rule is met");
                    released.push(live.id);
                }
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        first_error.map(|()| released)
    }

    fn change_staged(
        &self,
        repository: &RepoName,
        snapshot: SnapshotId,
        change: impl FnOnce(&mut Head) -> Result<(), MasterError>,
    ) -> Result<(), MasterError> {
        check_staged(&self.published_head(repository)?, repository, snapshot)?;
        let writer = Writer::open(self)?;
        let mut head = self.published_head(repository)?;
        check_staged(&head, repository, snapshot)?;
        change(&mut head)?;
        self.prune(self.repository(repository)?, &mut head, SystemClock.now());
        self.commit(&writer, head, SystemClock.now())?;
        Ok(())
    }
}

fn check_staged(head: &Head, repository: &RepoName, snapshot: SnapshotId) -> Result<(), MasterError> {
    match head.snapshot(&snapshot) {
        None => {
            let staged = staged(head).map(|live| live.id);
            Err(unknown_snapshot(repository, snapshot, staged))
        }
        Some(live) if live.state.is_released() => {
            let repository = repository.clone();
            Err(MasterError::NotStaged { repository, snapshot })
        }
        Some(_) => Ok(()),
    }
}
