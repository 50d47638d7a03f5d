//! Torrents of a master's snapshots: made on demand, and offered to everybody as the configuration says.
//!
//! Where there are peers, the master seeds what it offers.
//!
//! Invariant: what is offered was made of a released snapshot that lives: of the current one, and of those that it replaced,
//! for as long as downloads of their torrents are to end well. What cannot be made is not offered, and the log says why.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::grace::replaced_within;
use instantmirror_core::metainfo::Outside;
use instantmirror_core::traits::{Catalogs as _, NodeApi as _};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{Clock as _, RepoName, SignedHead, Snapshot, SnapshotId};

use super::swarm::Seeding;
use super::{Master, MasterError, MasterPublication, NoProgress};
use crate::clock::SystemClock;
use crate::progress::Progress;
use crate::torrent::{
    Offer, Offered, OfferedTree, Offers, PaddedPieces, Sources, TorrentError, TorrentOptions, Torrents, make,
};

/// Whether replaced torrents are over is looked at this often.
const LOOK: Duration = Duration::from_secs(60);

impl Master {
    /// Makes torrents of a snapshot, of the current one if none is named, from stored hashes alone. Blocks for as long as
    /// it takes to hash their padding, on all processors.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::NeverPublished`], [`MasterError::UnknownSnapshot`],
    /// [`MasterError::Torrent`].
    pub fn torrents(
        &self,
        repository: &RepoName,
        snapshot: Option<SnapshotId>,
        options: &TorrentOptions,
        progress: &dyn Progress,
    ) -> Result<Torrents, MasterError> {
        self.repository(repository)?;
        let head = self.head(repository)?;
        let never = || MasterError::NeverPublished {
            repository: repository.clone(),
        };
        let head = head.ok_or_else(never)?;
        let id = snapshot.or(head.head().current).ok_or_else(never)?;
        let snapshot = self.snapshot(repository, id)?;
        let mut padded = PaddedPieces::default();
        Ok(self.make_torrents(&snapshot, head.head().piece_length, options, &mut padded, progress)?)
    }

    fn make_torrents(
        &self,
        snapshot: &Snapshot,
        piece_bytes: u32,
        options: &TorrentOptions,
        padded: &mut PaddedPieces,
        progress: &dyn Progress,
    ) -> Result<Torrents, TorrentError> {
        let mut sources = Sources {
            nodes: &self.catalog_nodes(),
            digest: &|object| self.parts.notes.digest(object),
            piece_bytes,
            padded,
            progress,
        };
        make(snapshot, options, &mut sources)
    }
}

/// Makes torrents of every snapshot that becomes current, for ever. Ends at once where none are wanted.
pub(super) async fn offer_torrents(master: &Master, publication: &MasterPublication) {
    let all = master.config().repositories.iter();
    let wanted = all.filter(|repository| !repository.torrents.is_empty());
    let each = wanted.map(|repository| offer_of(master, publication, &repository.name));
    futures_util::future::join_all(each).await;
    // What runs in the background never ends.
    std::future::pending::<()>().await;
}

async fn offer_of(master: &Master, publication: &MasterPublication, name: &RepoName) {
    // One: whoever is served has the others.
    let mut padded = PaddedPieces::with_threads(1);
    loop {
        let Some(state) = publication.state(name) else { return };
        let sequence = state.head.as_ref().map_or(0, |head| head.head().sequence);
        if let Some(head) = &state.head
            && state.current.is_some()
        {
            let maker = Maker {
                master: master.clone(),
                offers: publication.offers(),
                seeding: publication.seeding(),
                head: Arc::clone(head),
                state,
            };
            let mut known = std::mem::replace(&mut padded, PaddedPieces::with_threads(1));
            let made = tokio::task::spawn_blocking(move || {
                maker.offer(&mut known);
                known
            });
            match made.await {
                Ok(known) => padded = known,
                Err(error) => tracing::error!(repository = %name, "no torrents are offered: {error}"),
            }
        }
        let changed = publication.head_after(name, sequence);
        let offers = publication.offers();
        if offers.of(name).is_some_and(|offered| offered.replaced() > 0) {
            _ = tokio::time::timeout(LOOK, changed).await;
        } else {
            changed.await;
        }
    }
}

/// Makes and offers the torrents of one state of a repository.
struct Maker {
    master: Master,
    offers: Arc<Offers>,
    seeding: Option<Arc<Seeding>>,
    head: Arc<SignedHead>,
    state: Arc<RepositoryState>,
}

impl Maker {
    /// Offers the torrents of the current snapshot, and goes on with those that they replaced: for the grace time, and then for
    /// as long as a peer downloads them; no longer than their snapshots live.
    fn offer(&self, padded: &mut PaddedPieces) {
        let name = &self.state.name;
        let Some(current) = self.state.current.and_then(|id| self.state.snapshots.get(&id)) else {
            return;
        };
        let before = self.offers.of(name);
        let made = match &before {
            Some(before) if before.current().snapshot.id == current.id => Arc::clone(before.current()),
            _ => {
                let Some(made) = self.make(current, padded) else { return };
                made
            }
        };
        let graced = replaced_within(
            self.head.head(),
            self.master.config().snapshots.grace.0,
            SystemClock.now(),
        );
        // A rollback took the withdrawn ones back: they are seeded only while somebody downloads them.
        let graced = graced.iter().filter(|turn| !turn.is_withdrawn).map(|turn| turn.id);
        let graced: Vec<SnapshotId> = graced.collect();
        let earlier: Vec<Arc<Offer>> = match &before {
            Some(before) => before.offers().cloned().collect(),
            // After a start: as it was before.
            None => {
                let graced = graced.iter().filter_map(|id| self.state.snapshots.get(id));
                graced.filter_map(|snapshot| self.make(snapshot, padded)).collect()
            }
        };
        padded.forget_others();
        let offered = Offered::new(made, earlier, |snapshot, hash| {
            let is_wanted = || self.seeding.as_ref().is_some_and(|seeding| seeding.is_wanted(hash));
            self.state.snapshots.contains_key(&snapshot.id) && (graced.contains(&snapshot.id) || is_wanted())
        });
        if before.is_some_and(|before| before.list() == offered.list()) {
            return;
        }
        let offered = Arc::new(offered);
        self.offers.replace(name, Arc::clone(&offered));
        if let Some(seeding) = &self.seeding {
            seeding.seed_torrents(name, &offered, &self.master.catalog_nodes());
        }
    }

    /// Makes the torrents of a snapshot.
    fn make(&self, snapshot: &Arc<Snapshot>, padded: &mut PaddedPieces) -> Option<Arc<Offer>> {
        let (master, piece_bytes) = (&self.master, self.head.head().piece_length);
        let repository = master.repository(&snapshot.repository).ok()?;
        let begun = std::time::Instant::now();
        let mut trees = Vec::new();
        for wanted in &repository.torrents {
            let options = TorrentOptions {
                path: wanted.path.clone(),
                name: wanted.name.clone(),
                shards: wanted.shards,
                beyond_limits: false,
            };
            match master.make_torrents(snapshot, piece_bytes, &options, padded, &NoProgress) {
                Ok(made) => {
                    let outside = outside(master, &made);
                    trees.push(OfferedTree::new(made, outside));
                }
                Err(error) => {
                    let (repository, snapshot) = (&snapshot.repository, snapshot.id);
                    tracing::error!(%repository, %snapshot, path = %wanted.path, "no torrent is offered: {error}");
                }
            }
        }
        let offer = Arc::new(Offer {
            snapshot: Arc::clone(snapshot),
            trees,
        });
        let (torrents, seconds) = (offer.all().count(), begun.elapsed().as_secs_f64());
        tracing::info!(repository = %snapshot.repository, snapshot = %snapshot.id, torrents, seconds, "torrents are offered");
        Some(offer)
    }
}

/// What is put around the torrents of a tree.
fn outside(master: &Master, torrents: &Torrents) -> Outside {
    let config = &master.config().torrents;
    Outside {
        trackers: config.trackers.iter().map(|url| url.without_user().into()).collect(),
        web_seeds: torrents.web_seeds(&config.web_seeds),
        comment: None,
    }
}
