//! Torrents of a master's snapshots: made on demand, and offered to everybody as the configuration says.
//!
//! Invariant: what is offered was made of a released snapshot, and only of the current one; what cannot be made is not
//! offered, and the log says why.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use instantmirror_core::metainfo::Outside;
use instantmirror_core::traits::{Publication as _, TorrentLink};
use instantmirror_core::{RepoName, RepoPath, Snapshot, SnapshotId};
use instantmirror_http::{Extra, ExtraRequest};

use super::{Master, MasterError, MasterPublication};
use crate::torrent::{PaddedPieces, Sources, TORRENT_PREFIX, TorrentError, TorrentOptions, Torrents, make};

/// The media type of `.torrent` files.
const MEDIA_TYPE: &str = "application/x-bittorrent";

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

/// The torrents that are offered now.
#[derive(Debug, Default)]
pub(super) struct Offers {
    by_repository: RwLock<BTreeMap<RepoName, Arc<Offer>>>,
}

/// What is offered of one repository.
#[derive(Debug)]
struct Offer {
    snapshot: SnapshotId,
    /// With the links that pages show.
    trees: Vec<(Torrents, Vec<TorrentLink>)>,
}

impl Offers {
    fn of(&self, repository: &RepoName) -> Option<Arc<Offer>> {
        let offers = self.by_repository.read().unwrap_or_else(PoisonError::into_inner);
        offers.get(repository).cloned()
    }

    /// Links to the torrents of exactly this directory.
    pub(super) fn links(&self, repository: &RepoName, snapshot: SnapshotId, path: &RepoPath) -> Vec<TorrentLink> {
        let offer = self.of(repository).filter(|offer| offer.snapshot == snapshot);
        let trees = offer.iter().flat_map(|offer| &offer.trees);
        let here = trees.filter(|(tree, _)| tree.path == *path);
        here.flat_map(|(_, links)| links.iter().cloned()).collect()
    }

    fn replace(&self, repository: &RepoName, offer: Offer) {
        let mut offers = self.by_repository.write().unwrap_or_else(PoisonError::into_inner);
        offers.insert(repository.clone(), Arc::new(offer));
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
            offered = Some(snapshot.id);
            let mut known = std::mem::replace(&mut padded, PaddedPieces::with_threads(1));
            let made = tokio::task::spawn_blocking(move || {
                offer(&master, &offers, &snapshot, piece_bytes, &mut known);
                known.forget_others();
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

fn offer(master: &Master, offers: &Offers, snapshot: &Snapshot, piece_bytes: u32, padded: &mut PaddedPieces) {
    let Ok(repository) = master.repository(&snapshot.repository) else {
        return;
    };
    let outside = outside(master);
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
                let links = made.links(&seeded(&made, &outside, master));
                trees.push((made, links));
            }
            Err(error) => {
                let (repository, snapshot) = (&snapshot.repository, snapshot.id);
                tracing::error!(%repository, %snapshot, path = %wanted.path, "no torrent is offered: {error}");
            }
        }
    }
    let count: usize = trees.iter().map(|(tree, _)| tree.torrents.len()).sum();
    let seconds = begun.elapsed().as_secs_f64();
    tracing::info!(repository = %snapshot.repository, snapshot = %snapshot.id, torrents = count, seconds, "torrents are offered");
    let snapshot_id = snapshot.id;
    offers.replace(
        &snapshot.repository,
        Offer {
            snapshot: snapshot_id,
            trees,
        },
    );
}

fn outside(master: &Master) -> Outside {
    Outside {
        trackers: master.config().torrents.trackers.clone(),
        ..Outside::default()
    }
}

fn seeded(torrents: &Torrents, outside: &Outside, master: &Master) -> Outside {
    Outside {
        web_seeds: torrents.web_seeds(&master.config().torrents.web_seeds),
        ..outside.clone()
    }
}

/// Answers `GET /.im/torrent/REPO/FILE`, and `GET /.im/torrent/REPO` with a list of the files.
#[derive(Debug)]
pub(super) struct TorrentPages {
    pub(super) master: Master,
    pub(super) offers: Arc<Offers>,
}

#[async_trait]
impl Extra for TorrentPages {
    fn takes_posts(&self) -> bool {
        false
    }

    async fn answer(&self, request: ExtraRequest<'_>) -> Option<Response<Bytes>> {
        let rest = request.path.strip_prefix(TORRENT_PREFIX)?.strip_prefix('/')?;
        if request.method != Method::GET && request.method != Method::HEAD {
            return None;
        }
        let (repository, file) = rest.split_once('/').unwrap_or((rest, ""));
        let offer = self.offers.of(&repository.parse().ok()?)?;
        if file.is_empty() {
            return list(&offer);
        }
        let outside = outside(&self.master);
        offer.trees.iter().find_map(|(tree, _)| {
            let torrent = tree.torrents.iter().find(|torrent| torrent.file_name == file)?;
            let body = seeded(tree, &outside, &self.master).around(&torrent.info);
            answer(MEDIA_TYPE, body)
        })
    }
}

fn list(offer: &Offer) -> Option<Response<Bytes>> {
    let rows = offer.trees.iter().flat_map(|(tree, links)| {
        links.iter().zip(&tree.torrents).map(|(link, torrent)| {
            serde_json::json!({
                "file": link.file_name,
                "url": link.url,
                "magnet": link.magnet,
                "info_hash": link.hash.to_string(),
                "path": tree.path.as_str(),
                "files": torrent.files,
                "bytes": torrent.bytes,
            })
        })
    });
    let rows: Vec<_> = rows.collect();
    let page = serde_json::json!({ "snapshot": offer.snapshot.to_string(), "torrents": rows });
    answer("application/json", page.to_string().into_bytes())
}

fn answer(media: &str, body: Vec<u8>) -> Option<Response<Bytes>> {
    let response = Response::builder().status(StatusCode::OK);
    let response = response.header(header::CONTENT_TYPE, media);
    // The next snapshot may have another one.
    let response = response.header(header::CACHE_CONTROL, "no-cache");
    response.body(body.into()).ok()
}
