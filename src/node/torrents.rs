//! The torrents that masters offer, taken over: served as the master serves them, and seeded with what the cache holds.
//!
//! Invariant: nothing is taken over that is not of a snapshot that is here, as its catalog has it: of the current one, or of one
//! that it replaced and whose downloads are to end well. Of what a master says, no more is kept in memory than limits that are
//! named here allow.

mod kept;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use instantmirror_core::bencode::{Strictness, raw_value};
use instantmirror_core::metainfo::{InfoHash, Metainfo, Outside};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{Name, RepoName, RepoPath, Snapshot, SnapshotId, TransportError};
use instantmirror_store::StoreError;
use instantmirror_store::disk::Disk;
use instantmirror_swarm::{Follower, HttpOrigin};
use tokio::time::Instant;

use super::Node;
use crate::peering::{ExportChanges, ExportPieces};
use kept::KeptTorrents;

use crate::torrent::{Offer, Offered, OfferedTree, Offers, ReplacedRow, Torrent, TorrentList, TorrentRow, Torrents};

/// A master that does not offer what it should yet is asked again after this, and twice as long after each try ...
const PAUSE: Duration = Duration::from_secs(1);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Once all is taken over, the master is asked anew this often: it may have been configured otherwise.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// Torrents of a repository that are taken over.
const TORRENTS_MAX: usize = 5000;
/// Bytes of their info dictionaries, all in memory.
const INFO_BYTES_MAX: usize = 512 << 20;

/// What is taken over, and from whom.
#[derive(Debug)]
pub(super) struct TorrentKeeper {
    offers: Arc<Offers>,
    masters: BTreeMap<RepoName, Vec<HttpOrigin>>,
    disk: Arc<dyn Disk>,
}

impl TorrentKeeper {
    pub(super) fn new(disk: &Arc<dyn Disk>) -> Self {
        Self {
            offers: Arc::default(),
            masters: BTreeMap::new(),
            disk: Arc::clone(disk),
        }
    }

    /// Takes over what these masters offer of a repository.
    pub(super) fn follow(&mut self, repository: &RepoName, masters: &[HttpOrigin]) {
        self.masters.insert(repository.clone(), masters.to_vec());
    }

    pub(super) fn offers(&self) -> Arc<Offers> {
        Arc::clone(&self.offers)
    }
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Everything there is.
    All,
    /// The master is away, or not so far yet.
    NotYet,
    /// The master offers none.
    None,
}

/// Why an offer is not taken over.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error(transparent)]
    Master(#[from] TransportError),
    #[error("what the master says is of no use: {0}")]
    Useless(String),
}

/// Info dictionaries by their hashes.
type Infos = HashMap<InfoHash, Bytes>;

impl Node {
    /// Takes over the torrents of all repositories, for ever.
    pub(super) async fn keep_torrents(&self) {
        let each = self.torrents.masters.iter().filter_map(|(name, masters)| {
            let follower = self.followers.get(name)?;
            Some(self.keep_torrents_of(name, masters, follower))
        });
        futures_util::future::join_all(each).await;
        // What runs in the background never ends.
        std::future::pending::<()>().await;
    }

    async fn keep_torrents_of(&self, name: &RepoName, masters: &[HttpOrigin], follower: &Follower) {
        let mut states = follower.subscribe();
        let kept = KeptTorrents::of(&self.torrents.disk, name);
        let state = Arc::clone(&states.borrow());
        let mut infos = self.take_up(&kept, &state).await;
        let (mut pause, mut none_since) = (PAUSE, None);
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            let taken = self.take_over(name, masters, &state, &mut infos).await;
            if taken == Taken::None {
                // A master that has just started has made none yet.
                let since = *none_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= ASK_AGAIN {
                    self.drop_torrents(name, &kept).await;
                }
            } else {
                none_since = None;
            }
            let rest = if taken == Taken::All { ASK_AGAIN } else { pause };
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::select! {
                changed = states.changed() => match changed {
                    Ok(()) => pause = PAUSE,
                    Err(_) => return,
                },
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Takes up what was taken over before the start, if it is of the current snapshot.
    async fn take_up(&self, kept: &KeptTorrents, state: &RepositoryState) -> Infos {
        let kept = kept.clone();
        let loaded = tokio::task::spawn_blocking(move || kept.load()).await;
        let Some((list, infos)) = loaded.ok().flatten() else {
            return Infos::new();
        };
        let current = state.current.as_ref().and_then(|id| state.snapshots.get(id));
        let Some(snapshot) = current.filter(|snapshot| list.snapshot == snapshot.id.to_string()) else {
            return infos;
        };
        match offers_of(snapshot, state, list, &infos) {
            Ok(offers) => self.taken(state, offers).await,
            Err(error) => tracing::warn!(repository = %state.name, "torrents are asked of the master anew: {error}"),
        }
        infos
    }

    /// Takes over what is offered of the current snapshot.
    async fn take_over(
        &self,
        name: &RepoName,
        masters: &[HttpOrigin],
        state: &RepositoryState,
        infos: &mut Infos,
    ) -> Taken {
        let current = state.current.as_ref().and_then(|id| state.snapshots.get(id));
        let Some(snapshot) = current else { return Taken::NotYet };
        let mut taken = Taken::None;
        for master in masters {
            match ask(master, snapshot, state, infos).await {
                Ok(Some((list, offers))) => {
                    self.keep(name, list, infos.clone()).await;
                    self.taken(state, offers).await;
                    return Taken::All;
                }
                Ok(None) => taken = Taken::NotYet,
                Err(TakeError::Master(TransportError::NotFound { .. })) => {}
                Err(error) => {
                    taken = Taken::NotYet;
                    tracing::debug!(repository = %name, master = master.label(), "torrents are not taken over: {error}");
                }
            }
        }
        taken
    }

    /// Keeps what was taken over for the next start.
    async fn keep(&self, name: &RepoName, list: TorrentList, infos: Infos) {
        let kept = KeptTorrents::of(&self.torrents.disk, name);
        let stored = tokio::task::spawn_blocking(move || kept.store(&list, &infos)).await;
        if let Err(error) = stored.unwrap_or(Ok(())) {
            tracing::warn!(repository = %name, "the next start will have to ask the master for its torrents: {error}");
        }
    }

    /// Serves and seeds offers of the current snapshot and of those that it replaced from now on, as far as they are of the
    /// snapshots that they name. Goes on with replaced torrents that the master does not name any more for as long as a peer
    /// downloads them, and no longer than their snapshots are here.
    async fn taken(&self, state: &RepositoryState, offers: Vec<Offer>) {
        let (node, name) = (self.clone(), state.name.clone());
        let live: HashSet<SnapshotId> = state.snapshots.keys().copied().collect();
        let work = move || {
            let before = node.torrents.offers.of(&name);
            let mut offers = offers.into_iter().map(|offer| Arc::new(node.checked(offer)));
            let Some(current) = offers.next() else { return };
            let replaced: Vec<_> = offers.collect();
            let named: HashSet<InfoHash> = replaced
                .iter()
                .flat_map(|offer| offer.all())
                .map(|(_, torrent)| torrent.hash)
                .collect();
            let earlier = before.iter().flat_map(|before| before.offers().cloned());
            let offered = Offered::new(current, replaced.into_iter().chain(earlier), |snapshot, hash| {
                live.contains(&snapshot.id) && (named.contains(hash) || node.is_wanted(hash))
            });
            if before.is_some_and(|before| before.list() == offered.list()) {
                return;
            }
            let offered = Arc::new(offered);
            if let Some(swarming) = &node.swarming {
                let changes = swarming.exports.follow(&name, &offered, &node.snapshots);
                node.exports_changed(&name, &changes);
            }
            let (snapshot, torrents) = (offered.current().snapshot.id, offered.current().all().count());
            let replaced = offered.replaced();
            if torrents > 0 {
                tracing::info!(repository = %name, %snapshot, torrents, replaced, "torrents are offered");
            }
            node.torrents.offers.replace(&name, offered);
        };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!("torrents are not taken over: {error}");
        }
    }

    /// Whether a peer downloads the torrent with this info-hash from us.
    fn is_wanted(&self, hash: &InfoHash) -> bool {
        let exports = self.swarming.as_ref().map(|swarming| &swarming.exports);
        exports.is_some_and(|exports| exports.is_wanted(hash))
    }

    fn exports_changed(&self, name: &RepoName, changes: &ExportChanges) {
        if let Some(swarming) = &self.swarming {
            swarming.exports_changed(name, changes, &self.config.peers.connect);
        }
    }

    /// Without those torrents that are not of the snapshot. Blocks on the disk.
    fn checked(&self, mut offer: Offer) -> Offer {
        let snapshot = Arc::clone(&offer.snapshot);
        let before = self.torrents.offers.of(&snapshot.repository);
        let known = |hash: &InfoHash| {
            let mut all = before.iter().flat_map(|offered| offered.all());
            all.any(|(_, _, torrent)| torrent.hash == *hash)
        };
        for tree in &mut offer.trees {
            let path = tree.torrents.path.clone();
            tree.retain(|torrent| {
                // What its hash stands for has been checked already.
                if known(&torrent.hash) {
                    return true;
                }
                let objects = self.cache.shared();
                let checked = Metainfo::parse_bare(&torrent.info)
                    .map_err(|error| error.to_string())
                    .and_then(|parsed| {
                        let pieces = ExportPieces::new(&parsed, &self.snapshots, &snapshot, &path, objects);
                        pieces.map_err(|error| error.to_string())
                    });
                if let Err(error) = &checked {
                    let (repository, file) = (&snapshot.repository, &torrent.file_name);
                    tracing::error!(%repository, file, "this torrent is not taken over from the master: {error}");
                }
                checked.is_ok()
            });
        }
        offer
    }

    /// Nothing is offered of a repository any more.
    async fn drop_torrents(&self, name: &RepoName, kept: &KeptTorrents) {
        let kept = kept.clone();
        let forgotten: Result<(), StoreError> = tokio::task::spawn_blocking(move || kept.forget())
            .await
            .unwrap_or(Ok(()));
        if let Err(error) = forgotten {
            tracing::warn!(repository = %name, "torrents that are not offered any more stay on the disk: {error}");
        }
        self.torrents.offers.remove(name);
        if let Some(swarming) = &self.swarming {
            let changes = swarming.exports.leave_all(name);
            self.exports_changed(name, &changes);
        }
    }
}

/// Asks a master for what it offers of a snapshot; `None` if its offer is of another one.
async fn ask(
    master: &HttpOrigin,
    snapshot: &Arc<Snapshot>,
    state: &RepositoryState,
    infos: &mut Infos,
) -> Result<Option<(TorrentList, Vec<Offer>)>, TakeError> {
    let name = &state.name;
    let mut list: TorrentList = serde_json::from_slice(&master.torrents(name).await?).map_err(useless)?;
    if list.snapshot != snapshot.id.to_string() {
        return Ok(None);
    }
    let replaced = std::mem::take(&mut list.replaced).into_iter();
    list.replaced = replaced.filter(|row| replaced_snapshot(row, state).is_some()).collect();
    if list.torrents.len() + list.replaced.len() > TORRENTS_MAX {
        return Err(useless(format!("{} torrents", list.torrents.len())));
    }
    let named = list.torrents.iter().map(|row| (row, row.file.clone()));
    let replaced = list.replaced.iter().map(|row| (&row.row, row.row.info_hash.clone()));
    let files: Vec<(InfoHash, String)> = named
        .chain(replaced)
        .map(|(row, file)| Ok((row.info_hash.parse().map_err(useless)?, file)))
        .collect::<Result<_, TakeError>>()?;
    let hashes: HashSet<InfoHash> = files.iter().map(|(hash, _)| *hash).collect();
    infos.retain(|hash, _| hashes.contains(hash));
    for (hash, file) in &files {
        if infos.contains_key(hash) {
            continue;
        }
        let held: usize = infos.values().map(Bytes::len).sum();
        let info = info_of(&master.torrent(name, file).await?)?;
        if InfoHash::of(&info) != *hash {
            return Err(useless(format!("'{file}' is another torrent than the list has")));
        }
        if held + info.len() > INFO_BYTES_MAX {
            return Err(useless(format!("torrents of more than {INFO_BYTES_MAX} bytes")));
        }
        infos.insert(*hash, info);
    }
    let offers = offers_of(snapshot, state, list.clone(), infos)?;
    Ok(Some((list, offers)))
}

/// The snapshot that a replaced torrent is of, if it is here.
fn replaced_snapshot(row: &ReplacedRow, state: &RepositoryState) -> Option<Arc<Snapshot>> {
    state.snapshots.get(&row.snapshot.parse().ok()?).cloned()
}

/// The offers that a list and its info dictionaries are: that of the current snapshot, and of each that it replaced and that is
/// here.
fn offers_of(
    snapshot: &Arc<Snapshot>,
    state: &RepositoryState,
    list: TorrentList,
    infos: &Infos,
) -> Result<Vec<Offer>, TakeError> {
    let mut offers = vec![offer_of(snapshot, list.torrents, infos)?];
    let mut rows: Vec<(Arc<Snapshot>, Vec<TorrentRow>)> = Vec::new();
    for replaced in list.replaced {
        let Some(of) = replaced_snapshot(&replaced, state) else {
            continue;
        };
        match rows.last_mut() {
            Some((last, rows)) if last.id == of.id => rows.push(replaced.row),
            _ => rows.push((of, vec![replaced.row])),
        }
    }
    for (of, rows) in rows {
        offers.push(offer_of(&of, rows, infos)?);
    }
    Ok(offers)
}

/// The offer of one snapshot.
fn offer_of(snapshot: &Arc<Snapshot>, rows: Vec<TorrentRow>, infos: &Infos) -> Result<Offer, TakeError> {
    let mut trees: Vec<(Torrents, Outside)> = Vec::new();
    for row in rows {
        let hash: InfoHash = row.info_hash.parse().map_err(useless)?;
        let info = infos.get(&hash).cloned();
        let info = info.ok_or_else(|| useless(format!("'{}' is missing", row.file)))?;
        add(&mut trees, snapshot, row, hash, info)?;
    }
    Ok(Offer {
        snapshot: Arc::clone(snapshot),
        trees: trees
            .into_iter()
            .map(|(torrents, outside)| OfferedTree::new(torrents, outside))
            .collect(),
    })
}

fn useless(error: impl ToString) -> TakeError {
    TakeError::Useless(error.to_string())
}

/// The info dictionary of a `.torrent` file, as it stands there.
fn info_of(torrent: &Bytes) -> Result<Bytes, TakeError> {
    let raw = raw_value(torrent, "info", Strictness::Keys).map_err(useless)?;
    let raw = raw.ok_or_else(|| useless("a torrent without info dictionary"))?;
    Ok(Bytes::copy_from_slice(raw))
}

/// Adds a torrent to those of its tree, which stand together in the list.
fn add(
    trees: &mut Vec<(Torrents, Outside)>,
    snapshot: &Snapshot,
    row: TorrentRow,
    hash: InfoHash,
    info: Bytes,
) -> Result<(), TakeError> {
    let parsed = Metainfo::parse_bare(&info).map_err(useless)?;
    let file_name = Name::new(&row.file).map_err(|error| useless(format!("a file whose name has {error}")))?;
    let path = RepoPath::new(&row.path).map_err(|error| useless(format!("the path '{}' has {error}", row.path)))?;
    let is_of_file = parsed.files.iter().all(|file| file.path.is_root());
    let torrent = Torrent {
        file_name: file_name.as_str().to_owned(),
        name: parsed.name,
        info,
        hash,
        files: row.files,
        bytes: row.bytes,
        is_of_file,
    };
    let outside = Outside {
        trackers: row.trackers,
        web_seeds: row.web_seeds,
        comment: None,
    };
    if let Some((last, around)) = trees.last_mut()
        && last.path == path
        && *around == outside
    {
        last.torrents.push(torrent);
        return Ok(());
    }
    let torrents = Torrents {
        repository: snapshot.repository.clone(),
        snapshot: snapshot.id,
        path,
        torrents: vec![torrent],
        symlinks: 0,
        empty_files: 0,
        renamed: Vec::new(),
    };
    trees.push((torrents, outside));
    Ok(())
}
