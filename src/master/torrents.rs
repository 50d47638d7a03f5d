//! Torrents of a master's snapshots: made on demand, and offered to everybody as the configuration says.
//!
//! Where there are peers, the master seeds what it offers.
//!
//! Invariant: what is offered was made of a released snapshot, and only of the current one; what cannot be made is not
//! offered, and the log says why.

use std::sync::Arc;

use instantmirror_core::metainfo::Outside;
use instantmirror_core::traits::Publication as _;
use instantmirror_core::{RepoName, Snapshot, SnapshotId};

use super::{Master, MasterError, MasterPublication};
use crate::torrent::{Offer, OfferedTree, Offers, PaddedPieces, Sources, TorrentError, TorrentOptions, Torrents, make};

impl Master {
    /// Makes torrents of a snapshot, of the current one if none is named, from stored hashes alone. Blocks for as long as
    /// it takes to hash their padding, on all processors.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::NeverPublished`], [`MasterError::UnknownSnapshot`],
    /// [`MasterError::Torrent`].
    pub async fn torrents(
        &self,
        repository: &RepoName,
        snapshot: Option<SnapshotId>,
        options: &TorrentOptions,
    ) -> Result<Torrents, MasterError> {
        self.repository(repository)?;
        let head = self.head(repository).await?;
        let never = || MasterError::NeverPublished {
            repository: repository.clone(),
        };
        let head = head.ok_or_else(never)?;
        let id = snapshot.or(head.head().current).ok_or_else(never)?;
        let snapshot = self.snapshot(repository, id).await?;
        let mut padded = PaddedPieces::default();
        Ok(self.make_torrents(&snapshot, head.head().piece_length, options, &mut padded)?)
    }

    fn make_torrents(
        &self,
        snapshot: &Snapshot,
        piece_bytes: u32,
        options: &TorrentOptions,
        padded: &mut PaddedPieces,
    ) -> Result<Torrents, TorrentError> {
        let mut sources = Sources {
            nodes: self.snapshots.as_ref(),
            digest: &|object| self.objects.digest(object),
            piece_bytes,
            padded,
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
    let (mut offered, mut padded) = (None, PaddedPieces::with_threads(1));
    loop {
        let Some(state) = publication.state(name) else { return };
        let sequence = state.head.as_ref().map_or(0, |head| head.head().sequence);
        let current = state.current.and_then(|id| state.snapshots.get(&id)).cloned();
        if let (Some(snapshot), Some(head)) = (current, &state.head)
            && offered != Some(snapshot.id)
        {
            let (master, offers, piece_bytes) = (master.clone(), publication.offers(), head.head().piece_length);
            let seeding = publication.seeding();
            offered = Some(snapshot.id);
            let mut known = std::mem::replace(&mut padded, PaddedPieces::with_threads(1));
            let made = tokio::task::spawn_blocking(move || {
                let offer = offer(&master, &offers, &snapshot, piece_bytes, &mut known);
                known.forget_others();
                if let (Some(seeding), Some(offer)) = (seeding, offer) {
                    seeding.seed_torrents(&offer, &snapshot, master.snapshots.as_ref());
                }
                known
            });
            match made.await {
                Ok(known) => padded = known,
                Err(error) => tracing::error!(repository = %name, "no torrents are offered: {error}"),
            }
        }
        publication.head_after(name, sequence).await;
    }
}

/// Makes the torrents of a snapshot, and offers them.
fn offer(
    master: &Master,
    offers: &Offers,
    snapshot: &Snapshot,
    piece_bytes: u32,
    padded: &mut PaddedPieces,
) -> Option<Arc<Offer>> {
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
        match master.make_torrents(snapshot, piece_bytes, &options, padded) {
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
        snapshot: snapshot.id,
        trees,
    });
    let (torrents, seconds) = (offer.all().count(), begun.elapsed().as_secs_f64());
    tracing::info!(repository = %snapshot.repository, snapshot = %snapshot.id, torrents, seconds, "torrents are offered");
    offers.replace(&snapshot.repository, Arc::clone(&offer));
    Some(offer)
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
