//! What a swarm looks like from outside.

use std::net::SocketAddr;

use super::{Counts, Session};

/// One peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStatus {
    /// Where it is.
    pub address: SocketAddr,
    /// What it says that it is.
    pub client: Option<String>,
    /// We connected to it.
    pub is_outgoing: bool,
    /// It is one of our nodes or masters.
    pub is_node: bool,
    /// It proved that it may have what is not released.
    pub is_proven: bool,
    /// Bytes per second from it.
    pub down: f64,
    /// Bytes per second to it.
    pub up: f64,
    /// Bytes from it.
    pub down_bytes: u64,
    /// Bytes to it.
    pub up_bytes: u64,
    /// It does not answer us now.
    pub chokes_us: bool,
    /// We do not answer it now.
    pub is_choked: bool,
    /// It wants something of us.
    pub wants_us: bool,
    /// We want something of it.
    pub is_wanted: bool,
    /// Pieces that it has; `None`: all.
    pub pieces: Option<u64>,
}

/// A swarm.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionStatus {
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// Pieces that we have.
    pub have: u64,
    /// Whether it is about what will not change: an export torrent.
    pub is_fixed: bool,
    /// Bytes that we lack of all there is, as far as we know. Never 0 where more is to come: who has everything now wants
    /// to know of those who will have the next.
    pub left_bytes: u64,
    /// Spans that are wanted.
    pub wanted: usize,
    /// Units asked for.
    pub asked: usize,
    /// Copies of a piece on average, ours included, over a sample of the piece space.
    pub availability: f64,
    /// Counts since the start.
    pub counts: Counts,
}

/// How far we have come in a swarm, as trackers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Bytes that we lack of all there is, as in [`SessionStatus::left_bytes`].
    pub left_bytes: u64,
    /// We have anything of it.
    pub has_some: bool,
    /// Spans that are wanted of peers that have some of them.
    pub wanted: usize,
    /// Somebody asked for something of it within the last minute, had by peers or not.
    pub seeks: bool,
    /// Number of peers.
    pub peers: usize,
    /// Counts since the start.
    pub counts: Counts,
}

/// Pieces that availability is measured with.
const SAMPLE: usize = 200;

impl Session {
    /// What it looks like now.
    #[must_use]
    pub fn status(&mut self) -> SessionStatus {
        let peers = self
            .peers
            .values()
            .map(|peer| PeerStatus {
                address: peer.address,
                client: peer.client.clone(),
                is_outgoing: peer.is_outgoing,
                is_node: peer.is_node(),
                is_proven: peer.is_proven,
                down: peer.down.get(),
                up: peer.up.get(),
                down_bytes: peer.down.total,
                up_bytes: peer.up.total,
                chokes_us: peer.chokes_us,
                is_choked: peer.is_choked,
                wants_us: peer.wants_us,
                is_wanted: peer.is_wanted,
                pieces: match &peer.pieces {
                    instantmirror_core::swarm::Pieces::All => None,
                    instantmirror_core::swarm::Pieces::Some(pieces) => Some(pieces.len()),
                },
            })
            .collect();
        SessionStatus {
            peers,
            have: self.have.len(),
            is_fixed: self.config.fixed.is_some(),
            left_bytes: self.left_bytes(),
            wanted: self.picker.len(),
            asked: self.out.len(),
            availability: self.availability(),
            counts: self.counts,
        }
    }

    /// The same without what takes time. What is sought the driver knows.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            left_bytes: self.left_bytes(),
            has_some: self.config.serves_all || !self.have.is_empty(),
            wanted: self.picker.len(),
            seeks: false,
            peers: self.peers.len(),
            counts: self.counts,
        }
    }

    fn left_bytes(&self) -> u64 {
        if self.config.serves_all {
            return 0;
        }
        let piece_bytes = u64::from(self.config.piece_bytes);
        let missing = u64::from(self.space).saturating_sub(self.have.len()) * piece_bytes;
        let Some((pieces, bytes)) = self.config.fixed else {
            return missing.max(1);
        };
        // The last piece may be shorter.
        let lacks_last = pieces.checked_sub(1).is_some_and(|last| !self.have.has(last));
        let short = (u64::from(pieces) * piece_bytes).saturating_sub(bytes);
        missing.saturating_sub(if lacks_last { short } else { 0 })
    }

    /// How many copies of a piece there are on average, ours included, over a sample of the piece space.
    fn availability(&mut self) -> f64 {
        let space = usize::try_from(self.space).unwrap_or(usize::MAX);
        if space == 0 {
            return 0.0;
        }
        let mut copies = 0;
        for _ in 0..SAMPLE {
            let piece = u32::try_from(self.random.below(space)).unwrap_or(0);
            copies += usize::from(self.config.serves_all || self.have.has(piece));
            copies += self.peers.values().filter(|peer| peer.pieces.has(piece)).count();
        }
        copies as f64 / SAMPLE as f64
    }
}
