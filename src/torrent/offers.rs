//! What a server offers of torrents: `.torrent` files, a list of them, links on the pages of directories. Masters make
//! them, nodes take them over.
//!
//! Invariant: what is linked and listed by name is of one released snapshot of each repository, all at once. Beside it stand the
//! torrents that it replaced, by their info-hashes alone, so that whoever downloads them can finish.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use instantmirror_core::metainfo::{InfoHash, Outside};
use instantmirror_core::traits::TorrentLink;
use instantmirror_core::{ObjectId, RepoName, RepoPath, Snapshot, SnapshotId};
use instantmirror_http::{Access, RouteRequest, Routes};
use serde::{Deserialize, Serialize};

use super::{TORRENT_PREFIX, Torrent, Torrents};

/// The media type of `.torrent` files.
const MEDIA_TYPE: &str = "application/x-bittorrent";
/// Replaced torrents of a repository that are gone on with, the newest.
const REPLACED_MAX: usize = 1000;

/// The list of a repository's torrents, as servers tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TorrentList {
    /// Of which snapshot they are.
    pub(crate) snapshot: String,
    /// Another one whenever anything else of the list is another; empty where the server is too old to say.
    #[serde(default)]
    pub(crate) version: String,
    pub(crate) torrents: Vec<TorrentRow>,
    /// Those of earlier snapshots that these replaced, and that some still download.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) replaced: Vec<ReplacedRow>,
}

/// A replaced torrent. Its URL names its info-hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplacedRow {
    /// Of which snapshot it is.
    pub(crate) snapshot: String,
    #[serde(flatten)]
    pub(crate) row: TorrentRow,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TorrentRow {
    pub(crate) file: String,
    pub(crate) url: String,
    pub(crate) magnet: String,
    pub(crate) info_hash: String,
    /// Where its root lies in the snapshot.
    pub(crate) path: String,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What stands beside its info dictionary.
    #[serde(default)]
    pub(crate) trackers: Vec<String>,
    #[serde(default)]
    pub(crate) web_seeds: Vec<String>,
}

/// The torrents of one tree, and what is put around them.
#[derive(Debug, Clone)]
pub(crate) struct OfferedTree {
    pub(crate) torrents: Torrents,
    pub(crate) outside: Outside,
    links: Vec<TorrentLink>,
}

impl OfferedTree {
    pub(crate) fn new(torrents: Torrents, outside: Outside) -> Self {
        let links = torrents.links(&outside);
        Self {
            torrents,
            outside,
            links,
        }
    }

    /// Keeps only some of its torrents.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Torrent) -> bool) {
        self.torrents.torrents.retain(keep);
        self.links = self.torrents.links(&self.outside);
    }
}

/// Torrents of one snapshot.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) trees: Vec<OfferedTree>,
}

impl Offer {
    /// All torrents, with the trees that they are of.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&OfferedTree, &Torrent)> {
        let trees = self.trees.iter();
        trees.flat_map(|tree| tree.torrents.torrents.iter().map(move |torrent| (tree, torrent)))
    }

    fn rows(&self) -> impl Iterator<Item = TorrentRow> {
        self.trees.iter().flat_map(|tree| {
            tree.links
                .iter()
                .zip(&tree.torrents.torrents)
                .map(|(link, torrent)| TorrentRow {
                    file: link.file_name.clone(),
                    url: link.url.clone(),
                    magnet: link.magnet.clone(),
                    info_hash: link.hash.to_string(),
                    path: tree.torrents.path.as_str().to_owned(),
                    files: torrent.files,
                    bytes: torrent.bytes,
                    trackers: tree.outside.trackers.clone(),
                    web_seeds: tree.outside.web_seeds.clone(),
                })
        })
    }

    /// Those that are to stay; `None` if none are.
    fn retained(&self, mut stays: impl FnMut(&Torrent) -> bool) -> Option<Self> {
        let mut trees = self.trees.clone();
        trees.iter_mut().for_each(|tree| tree.retain(&mut stays));
        trees.retain(|tree| !tree.torrents.torrents.is_empty());
        let snapshot = Arc::clone(&self.snapshot);
        (!trees.is_empty()).then_some(Self { snapshot, trees })
    }
}

/// What is offered of one repository: the torrents of its current snapshot, and those that they replaced.
#[derive(Debug)]
pub(crate) struct Offered {
    current: Arc<Offer>,
    /// Newest first. No info-hash is in two offers.
    replaced: Vec<Arc<Offer>>,
    list: OnceLock<TorrentList>,
}

impl Offered {
    /// `current`, and of `others`, newest first, those torrents that no newer offer has and that are to stay.
    pub(crate) fn new(
        current: Arc<Offer>,
        others: impl IntoIterator<Item = Arc<Offer>>,
        stays: impl Fn(&Snapshot, &InfoHash) -> bool,
    ) -> Self {
        let mut taken: HashSet<InfoHash> = current.all().map(|(_, torrent)| torrent.hash).collect();
        let (mut replaced, mut left) = (Vec::new(), REPLACED_MAX);
        for other in others {
            let kept = other.retained(|torrent| {
                let is_kept = left > 0 && stays(&other.snapshot, &torrent.hash) && taken.insert(torrent.hash);
                left -= usize::from(is_kept);
                is_kept
            });
            replaced.extend(kept.map(Arc::new));
        }
        Self {
            current,
            replaced,
            list: OnceLock::new(),
        }
    }

    /// What is of the current snapshot.
    pub(crate) fn current(&self) -> &Arc<Offer> {
        &self.current
    }

    /// All offers, newest first.
    pub(crate) fn offers(&self) -> impl Iterator<Item = &Arc<Offer>> {
        std::iter::once(&self.current).chain(&self.replaced)
    }

    /// All torrents, replaced ones behind the others, with the offers and the trees that they are of.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Offer, &OfferedTree, &Torrent)> {
        self.offers()
            .flat_map(|offer| offer.all().map(move |(tree, torrent)| (&**offer, tree, torrent)))
    }

    /// How many torrents are gone on with though others replaced them.
    pub(crate) fn replaced(&self) -> usize {
        self.replaced.iter().map(|offer| offer.all().count()).sum()
    }

    /// As servers tell it.
    pub(crate) fn list(&self) -> &TorrentList {
        self.list.get_or_init(|| self.listed())
    }

    fn listed(&self) -> TorrentList {
        let replaced = self.replaced.iter().flat_map(|offer| {
            let (snapshot, repository) = (offer.snapshot.id.to_string(), &offer.snapshot.repository);
            offer.rows().map(move |row| ReplacedRow {
                snapshot: snapshot.clone(),
                row: TorrentRow {
                    url: format!("/{TORRENT_PREFIX}/{repository}/{}", row.info_hash),
                    ..row
                },
            })
        });
        let mut list = TorrentList {
            snapshot: self.current.snapshot.id.to_string(),
            version: String::new(),
            torrents: self.current.rows().collect(),
            replaced: replaced.collect(),
        };
        list.version = ObjectId::of(&serde_json::to_vec(&list).unwrap_or_default()).to_string();
        list
    }
}

/// The torrents that are offered now, by repository.
#[derive(Debug, Default)]
pub(crate) struct Offers(RwLock<BTreeMap<RepoName, Arc<Offered>>>);

impl Offers {
    pub(crate) fn of(&self, repository: &RepoName) -> Option<Arc<Offered>> {
        let offers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        offers.get(repository).cloned()
    }

    /// Links to the torrents of exactly this directory.
    pub(crate) fn links(&self, repository: &RepoName, snapshot: SnapshotId, path: &RepoPath) -> Vec<TorrentLink> {
        let offered = self.of(repository);
        let offer = offered.iter().map(|offered| offered.current());
        let trees = offer
            .filter(|offer| offer.snapshot.id == snapshot)
            .flat_map(|offer| &offer.trees);
        let here = trees.filter(|tree| tree.torrents.path == *path);
        here.flat_map(|tree| tree.links.iter().cloned()).collect()
    }

    /// Offers this from now on, and nothing else of the repository.
    pub(crate) fn replace(&self, repository: &RepoName, offer: Arc<Offered>) {
        let mut offers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        offers.insert(repository.clone(), offer);
    }

    /// Offers nothing of a repository any more.
    pub(crate) fn remove(&self, repository: &RepoName) {
        let mut offers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        offers.remove(repository);
    }
}

/// Whoever has this version of the list wants it only if there is another one.
const UNLESS: &str = "unless=";

/// The routes of what is offered.
pub(crate) fn torrent_routes() -> Routes<Arc<Offers>> {
    Routes::<Arc<Offers>>::new()
        .get(
            "/.im/torrent/{repository}",
            Access::Public,
            "Lists the torrents of a repository, as JSON; nothing with ?unless=VERSION of the list",
            |request| async move { list(&request) },
        )
        .get(
            "/.im/torrent/{repository}/{file}",
            Access::Public,
            "Sends a .torrent file, by its name or by its info-hash",
            |request| async move { torrent(&request) },
        )
}

fn offered(request: &RouteRequest<Arc<Offers>>) -> Option<Arc<Offered>> {
    request.state.of(&request.parameter("repository").parse().ok()?)
}

fn list(request: &RouteRequest<Arc<Offers>>) -> Option<Response<Bytes>> {
    let offer = offered(request)?;
    let list = offer.list();
    if request.query.strip_prefix(UNLESS) == Some(&*list.version) {
        return Response::builder()
            .status(StatusCode::NO_CONTENT)
            .header(header::CACHE_CONTROL, "no-cache")
            .body(Bytes::new())
            .ok();
    }
    answer("application/json", serde_json::to_vec(list).ok()?)
}

/// Replaced ones are found by their info-hashes alone.
fn torrent(request: &RouteRequest<Arc<Offers>>) -> Option<Response<Bytes>> {
    let (offer, file) = (offered(request)?, request.parameter("file"));
    // The name of a file ends in `.torrent`.
    let (tree, torrent) = match file.parse::<InfoHash>() {
        Ok(hash) => offer.all().find(|(_, _, torrent)| torrent.hash == hash),
        Err(_) => None,
    }
    .map(|(_, tree, torrent)| (tree, torrent))
    .or_else(|| offer.current().all().find(|(_, torrent)| torrent.file_name == file))?;
    answer(MEDIA_TYPE, tree.outside.around(&torrent.info))
}

fn answer(media: &str, body: Vec<u8>) -> Option<Response<Bytes>> {
    let response = Response::builder().status(StatusCode::OK);
    let response = response.header(header::CONTENT_TYPE, media);
    // The next snapshot may have another one.
    let response = response.header(header::CACHE_CONTROL, "no-cache");
    response.body(body.into()).ok()
}
