//! The swarm of one repository: joined, kept up with its catalogs, hidden where it is staged.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use instantmirror_core::catalog::{CatalogError, Differences, NodeSource};
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::swarm::{Bitfield, PieceIndex};
use instantmirror_core::traits::Objects;
use instantmirror_core::{NodeId, RepoName};
use instantmirror_store::disk::Disk;
use instantmirror_store::piece_map::{PieceMap, PieceMapError};
use instantmirror_swarm::peer::Swarm;
use instantmirror_swarm::session::SessionConfig;
use instantmirror_swarm::wire::PeerId;

use super::{Peering, RepositoryPieces, Share, UNITS_MAX};

/// Trees that are remembered as taken in.
const FOLLOWED_MAX: usize = 10_000;

/// In which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinAs {
    /// Has everything.
    Master,
    /// Has what its cache has.
    Node,
}

/// A repository's swarm that was joined.
#[derive(Debug, Clone)]
pub(crate) struct RepositorySwarm {
    pub(crate) swarm: Arc<Swarm>,
    pub(crate) pieces: Arc<RepositoryPieces>,
    /// Trees that were taken in: each is compared with another one once.
    followed: Arc<Mutex<HashSet<NodeId>>>,
}

impl RepositorySwarm {
    /// Opens the map of the piece space in `dir`. Blocks on the disk.
    pub(crate) fn open_pieces(
        disk: Arc<dyn Disk>,
        dir: &Path,
        piece_bytes: u32,
        objects: Arc<dyn Objects>,
    ) -> Result<Arc<RepositoryPieces>, PieceMapError> {
        disk.create_dir_all(dir)?;
        let map = PieceMap::open(disk, &dir.join("objects"), piece_bytes)?;
        Ok(Arc::new(RepositoryPieces::new(map, objects)))
    }

    /// Joins.
    pub(crate) fn join(
        peering: &Peering,
        pieces: Arc<RepositoryPieces>,
        info_hash: InfoHash,
        secret: Option<[u8; 32]>,
        is_private: bool,
        role: JoinAs,
    ) -> Self {
        let config = SessionConfig {
            info_hash,
            peer_id: PeerId([0; 20]),
            piece_bytes: u32::try_from(pieces.map.piece_bytes()).unwrap_or(u32::MAX),
            fixed: None,
            serves_all: role == JoinAs::Master,
            is_private,
            metadata: None,
            first_copies: role == JoinAs::Master,
            listen_port: peering.port,
            secret,
            units_max: UNITS_MAX,
        };
        let swarm = peering.swarms.join(config, pieces.clone(), peering.seed());
        let this = Self {
            swarm,
            pieces,
            followed: Arc::default(),
        };
        this.set_space();
        this
    }

    fn set_space(&self) {
        self.swarm
            .set_space(PieceIndex::try_from(self.pieces.map.end()).unwrap_or(PieceIndex::MAX));
    }

    /// As whoever keeps swarms told of a cache knows it.
    pub(crate) fn share(&self) -> Share {
        Share {
            swarm: Arc::clone(&self.swarm),
            source: self.pieces.clone(),
            piece_bytes: self.pieces.map.piece_bytes(),
        }
    }

    /// Takes in the trees of snapshots. Blocks. Whether anything was new.
    fn follow<S: NodeSource>(&self, repository: &RepoName, nodes: &S, roots: impl IntoIterator<Item = NodeId>) -> bool {
        let mut added = 0;
        for root in roots {
            let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            if followed.contains(&root) {
                continue;
            }
            match self.pieces.map.advance(nodes, root) {
                Ok(more) => {
                    added += more;
                    if followed.len() >= FOLLOWED_MAX {
                        followed.clear();
                    }
                    followed.insert(root);
                }
                Err(error) => tracing::error!(%repository, "peers cannot be served all there is: {error}"),
            }
        }
        self.set_space();
        added > 0
    }

    /// Hides what staged trees have beyond `current`: to be called before they are [followed](Self::follow). Blocks.
    ///
    /// # Errors
    /// [`CatalogError`] if a tree cannot be read; what was hidden before stays so, and nothing new should be shown.
    fn hide<S: NodeSource>(&self, nodes: &S, current: Option<NodeId>, staged: &[NodeId]) -> Result<(), CatalogError> {
        let (mut hidden, piece_bytes) = (Bitfield::new(), self.pieces.map.piece_bytes());
        for root in staged {
            for difference in Differences::new(nodes, current, *root) {
                let Some(after) = difference?.after else { continue };
                let Some(file) = after.as_file().filter(|file| file.size > 0) else {
                    continue;
                };
                let pieces = file.first_piece..file.first_piece + file.size.div_ceil(piece_bytes);
                pieces
                    .filter_map(|piece| PieceIndex::try_from(piece).ok())
                    .for_each(|piece| _ = hidden.insert(piece));
            }
        }
        self.swarm.set_hidden(hidden);
        Ok(())
    }

    /// Hides what is staged, then takes in all trees. Blocks. Whether anything was new.
    pub(crate) fn keep_up<S: NodeSource>(
        &self,
        repository: &RepoName,
        nodes: &S,
        roots: Vec<NodeId>,
        current: Option<NodeId>,
        staged: &[NodeId],
    ) -> bool {
        match self.hide(nodes, current, staged) {
            Ok(()) => self.follow(repository, nodes, roots),
            Err(error) => {
                tracing::error!(%repository, "peers are not told of what is new, since it cannot be read: {error}");
                false
            }
        }
    }
}
