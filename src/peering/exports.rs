//! Export torrents that are taken part in: joined when they are offered, left when they are not any more.
//!
//! Invariant: one whose info-hash has not changed keeps its connections, whatever else was published.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use instantmirror_core::RepoName;
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::metainfo::{InfoHash, Metainfo};
use instantmirror_core::traits::Objects;
use instantmirror_swarm::peer::Swarm;
use instantmirror_swarm::session::SessionConfig;
use instantmirror_swarm::wire::PeerId;

use super::export::ExportPieces;
use super::{JoinAs, Peering, Share, UNITS_MAX};
use crate::torrent::{Offered, Torrent};

/// An export torrent that was joined.
#[derive(Debug, Clone)]
pub(crate) struct ExportSwarm {
    pub(crate) swarm: Arc<Swarm>,
    pub(crate) pieces: Arc<ExportPieces>,
    /// What status pages call it.
    label: String,
    trackers: Vec<String>,
}

impl ExportSwarm {
    /// As whoever keeps swarms told of a cache knows it.
    pub(crate) fn share(&self) -> Share {
        Share {
            swarm: Arc::clone(&self.swarm),
            source: self.pieces.clone(),
            piece_bytes: u64::from(self.pieces.piece_bytes()),
        }
    }
}

/// What an offer changed.
#[derive(Debug, Default)]
pub(crate) struct ExportChanges {
    pub(crate) joined: Vec<ExportSwarm>,
    pub(crate) left: Vec<Arc<Swarm>>,
}

/// In which part and with what torrents are joined.
#[derive(Debug)]
pub(crate) struct ExportTerms {
    pub(crate) peering: Arc<Peering>,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) role: JoinAs,
    /// Peers are not told of each other.
    pub(crate) is_private: bool,
}

type ByHash = BTreeMap<InfoHash, ExportSwarm>;

/// The export torrents of a daemon.
#[derive(Debug)]
pub(crate) struct Exports {
    terms: ExportTerms,
    joined: Mutex<BTreeMap<RepoName, ByHash>>,
}

impl Exports {
    pub(crate) fn new(terms: ExportTerms) -> Self {
        Self {
            terms,
            joined: Mutex::default(),
        }
    }

    fn joined(&self) -> MutexGuard<'_, BTreeMap<RepoName, ByHash>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes part in exactly what is offered of a repository. What is no torrent of its snapshot is left out, and the log
    /// says why. Blocks on the disk.
    pub(crate) fn follow<S: NodeSource>(&self, repository: &RepoName, offered: &Offered, nodes: &S) -> ExportChanges {
        let mut changes = ExportChanges::default();
        let held = self.joined().get(repository).cloned().unwrap_or_default();
        let mut next = ByHash::new();
        for (offer, tree, torrent) in offered.all() {
            let snapshot = &offer.snapshot;
            let known = held
                .get(&torrent.hash)
                .cloned()
                .or_else(|| self.elsewhere(&torrent.hash));
            if let Some(known) = known {
                if !held.contains_key(&torrent.hash) {
                    changes.joined.push(known.clone());
                }
                let known = self.announced(known, &tree.outside.trackers);
                next.insert(torrent.hash, known);
                continue;
            }
            let made = Metainfo::parse_bare(&torrent.info)
                .map_err(|error| error.to_string())
                .and_then(|parsed| {
                    let objects = Arc::clone(&self.terms.objects);
                    let pieces = ExportPieces::new(&parsed, nodes, snapshot, &tree.torrents.path, objects);
                    let pieces = pieces.map_err(|error| error.to_string())?;
                    Ok(self.join(torrent, pieces, repository, parsed.is_private))
                });
            match made {
                Ok(export) => {
                    let export = self.announced(export, &tree.outside.trackers);
                    changes.joined.push(export.clone());
                    next.insert(torrent.hash, export);
                }
                Err(error) => {
                    let file = &torrent.file_name;
                    tracing::error!(%repository, file, "this torrent is not seeded: {error}");
                }
            }
        }
        let gone = held.into_iter().filter(|(hash, _)| !next.contains_key(hash)).collect();
        self.joined().insert(repository.clone(), next);
        changes.left = self.leave(gone);
        changes
    }

    /// Takes part in no torrent of a repository any more.
    pub(crate) fn leave_all(&self, repository: &RepoName) -> ExportChanges {
        let gone = self.joined().remove(repository).unwrap_or_default();
        ExportChanges {
            joined: Vec::new(),
            left: self.leave(gone),
        }
    }

    /// Leaves torrents, unless another repository offers the same content under the same name.
    fn leave(&self, gone: ByHash) -> Vec<Arc<Swarm>> {
        let needed: HashSet<InfoHash> = self.joined().values().flat_map(BTreeMap::keys).copied().collect();
        let gone = gone.into_iter().filter(|(hash, _)| !needed.contains(hash));
        gone.map(|(hash, export)| {
            self.terms.peering.leave(&hash);
            export.swarm
        })
        .collect()
    }

    fn elsewhere(&self, hash: &InfoHash) -> Option<ExportSwarm> {
        self.joined().values().find_map(|torrents| torrents.get(hash).cloned())
    }

    fn join(&self, torrent: &Torrent, pieces: ExportPieces, repository: &RepoName, is_private: bool) -> ExportSwarm {
        let (pieces, peering) = (Arc::new(pieces), &self.terms.peering);
        let config = SessionConfig {
            info_hash: torrent.hash,
            peer_id: PeerId([0; 20]),
            piece_bytes: pieces.piece_bytes(),
            fixed: Some(pieces.extent()),
            serves_all: self.terms.role == JoinAs::Master,
            is_private: self.terms.is_private || is_private,
            metadata: Some(torrent.info.clone()),
            // Nodes get what is new by the repository's swarm.
            first_copies: false,
            listen_port: peering.port,
            secret: None,
            units_max: UNITS_MAX,
        };
        ExportSwarm {
            swarm: peering.swarms.join(config, pieces.clone(), peering.seed()),
            pieces,
            label: format!("{repository}: {}", torrent.file_name),
            trackers: Vec::new(),
        }
    }

    /// Announced to these trackers, if it is not yet.
    fn announced(&self, export: ExportSwarm, trackers: &[String]) -> ExportSwarm {
        if export.trackers != trackers {
            self.terms.peering.announce_in_order(&export.swarm, trackers);
        }
        ExportSwarm {
            trackers: trackers.to_vec(),
            ..export
        }
    }

    /// Whether a peer wants something of the torrent with this info-hash.
    pub(crate) fn is_wanted(&self, hash: &InfoHash) -> bool {
        self.elsewhere(hash).is_some_and(|export| export.swarm.is_wanted())
    }

    /// Those of one repository.
    pub(crate) fn of(&self, repository: &RepoName) -> Vec<ExportSwarm> {
        let joined = self.joined();
        joined
            .get(repository)
            .into_iter()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    /// What the torrent with this info-hash is called.
    pub(crate) fn label(&self, hash: &str) -> Option<String> {
        Some(self.elsewhere(&hash.parse().ok()?)?.label)
    }
}
