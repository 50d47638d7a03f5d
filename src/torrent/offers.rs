//! What a server offers of torrents: `.torrent` files, a list of them, links on the pages of directories. Masters make
//! them, nodes take them over.
//!
//! Invariant: what is offered is of one released snapshot of each repository, all at once.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use instantmirror_core::metainfo::Outside;
use instantmirror_core::traits::TorrentLink;
use instantmirror_core::{RepoName, RepoPath, SnapshotId};
use instantmirror_http::{Extra, ExtraRequest};
use serde::{Deserialize, Serialize};

use super::{TORRENT_PREFIX, Torrent, Torrents};

/// The media type of `.torrent` files.
const MEDIA_TYPE: &str = "application/x-bittorrent";

/// The list of a repository's torrents, as servers tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TorrentList {
    /// Of which snapshot they are.
    pub(crate) snapshot: String,
    pub(crate) torrents: Vec<TorrentRow>,
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
#[derive(Debug)]
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

/// What is offered of one repository.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) snapshot: SnapshotId,
    pub(crate) trees: Vec<OfferedTree>,
}

impl Offer {
    /// All torrents, with the trees that they are of.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&OfferedTree, &Torrent)> {
        let trees = self.trees.iter();
        trees.flat_map(|tree| tree.torrents.torrents.iter().map(move |torrent| (tree, torrent)))
    }

    fn list(&self) -> TorrentList {
        let rows = self.trees.iter().flat_map(|tree| {
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
        });
        TorrentList {
            snapshot: self.snapshot.to_string(),
            torrents: rows.collect(),
        }
    }
}

/// The torrents that are offered now, by repository.
#[derive(Debug, Default)]
pub(crate) struct Offers(RwLock<BTreeMap<RepoName, Arc<Offer>>>);

impl Offers {
    pub(crate) fn of(&self, repository: &RepoName) -> Option<Arc<Offer>> {
        let offers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        offers.get(repository).cloned()
    }

    /// Links to the torrents of exactly this directory.
    pub(crate) fn links(&self, repository: &RepoName, snapshot: SnapshotId, path: &RepoPath) -> Vec<TorrentLink> {
        let offer = self.of(repository).filter(|offer| offer.snapshot == snapshot);
        let trees = offer.iter().flat_map(|offer| &offer.trees);
        let here = trees.filter(|tree| tree.torrents.path == *path);
        here.flat_map(|tree| tree.links.iter().cloned()).collect()
    }

    /// Offers this from now on, and nothing else of the repository.
    pub(crate) fn replace(&self, repository: &RepoName, offer: Arc<Offer>) {
        let mut offers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        offers.insert(repository.clone(), offer);
    }

    /// Offers nothing of a repository any more.
    pub(crate) fn remove(&self, repository: &RepoName) {
        let mut offers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        offers.remove(repository);
    }
}

/// Answers `GET /.im/torrent/REPO/FILE`, and `GET /.im/torrent/REPO` with a list of the files.
#[derive(Debug)]
pub(crate) struct TorrentPages(pub(crate) Arc<Offers>);

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
        let offer = self.0.of(&repository.parse().ok()?)?;
        if file.is_empty() {
            return answer("application/json", serde_json::to_vec(&offer.list()).ok()?);
        }
        let (tree, torrent) = offer.all().find(|(_, torrent)| torrent.file_name == file)?;
        answer(MEDIA_TYPE, tree.outside.around(&torrent.info))
    }
}

fn answer(media: &str, body: Vec<u8>) -> Option<Response<Bytes>> {
    let response = Response::builder().status(StatusCode::OK);
    let response = response.header(header::CONTENT_TYPE, media);
    // The next snapshot may have another one.
    let response = response.header(header::CACHE_CONTROL, "no-cache");
    response.body(body.into()).ok()
}
