//! What is known of one peer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use instantmirror_core::swarm::{PieceIndex, Pieces, Unit, UnitId};
use instantmirror_core::{Moment, ObjectId};

use super::BLOCK_BYTES;
use super::rate::Rate;
use crate::wire::extension::ExtensionIds;
use crate::wire::{Block, PeerId};

/// A unit that this peer was asked for.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) unit: Unit,
    /// The blocks that have not come, from the lowest bit on.
    pub(super) missing: u64,
    pub(super) since: Moment,
}

impl Ask {
    pub(super) fn new(unit: Unit, now: Moment) -> Self {
        let blocks = unit.length.div_ceil(BLOCK_BYTES);
        Self {
            unit,
            missing: (1 << blocks) - 1,
            since: now,
        }
    }

    /// The blocks that have not come, with their places in the unit.
    pub(super) fn blocks(&self, piece_bytes: u32) -> Vec<(u32, Block)> {
        let numbers = (0..self.unit.length.div_ceil(BLOCK_BYTES)).filter(|number| self.missing & (1 << number) != 0);
        numbers
            .filter_map(|number| {
                let at = number * BLOCK_BYTES;
                let offset = self.unit.offset + u64::from(at);
                let piece = u32::try_from(offset / u64::from(piece_bytes)).ok()?;
                let block = Block {
                    piece: self.unit.first_piece.checked_add(piece)?,
                    begin: u32::try_from(offset % u64::from(piece_bytes)).ok()?,
                    length: BLOCK_BYTES.min(self.unit.length - at),
                };
                Some((at, block))
            })
            .collect()
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) peer_id: PeerId,
    pub(super) is_outgoing: bool,
    pub(super) speaks_fast: bool,
    pub(super) preference: u32,
    /// From its extension handshake.
    pub(super) ids: ExtensionIds,
    pub(super) client: Option<String>,
    pub(super) listen_port: Option<u16>,
    pub(super) requests_max: usize,
    /// What we drew, and what it drew.
    pub(super) nonce: [u8; 32],
    pub(super) their_nonce: Option<[u8; 32]>,
    pub(super) is_proven: bool,
    pub(super) is_upload_only: bool,
    /// What it has, as far as it said.
    pub(super) pieces: Pieces,
    /// Anything but a bitfield has come.
    pub(super) is_past_bitfield: bool,
    pub(super) chokes_us: bool,
    pub(super) is_choked: bool,
    pub(super) wants_us: bool,
    pub(super) is_wanted: bool,
    /// Pieces that it answers for though it chokes us.
    pub(super) allowed: HashSet<PieceIndex>,
    /// Pieces that it rejected, and until when it is not asked again.
    pub(super) rejected: HashMap<PieceIndex, Moment>,
    pub(super) asks: VecDeque<Ask>,
    pub(super) begun: Option<UnitId>,
    /// There was nothing to ask it for when so many things had become free.
    pub(super) nothing_at: Option<u64>,
    /// Units that it may be asked for at a time.
    pub(super) depth: usize,
    /// What it asked for.
    pub(super) uploads: VecDeque<Block>,
    /// Parts of outboards that it was asked for, and that it asked for.
    pub(super) outboard_asks: HashSet<(ObjectId, u32)>,
    pub(super) outboard_waits: VecDeque<(ObjectId, u32)>,
    pub(super) last_heard: Moment,
    pub(super) last_sent: Moment,
    /// Since when neither side wants anything of the other.
    pub(super) useless_since: Moment,
    pub(super) down: Rate,
    pub(super) up: Rate,
    /// Bytes since the last round of the choker.
    pub(super) gave: u64,
    /// Peers that it was told of.
    pub(super) told: HashSet<SocketAddr>,
    pub(super) next_pex: Moment,
}

impl Peer {
    /// Where others reach it, as far as is known.
    pub(super) fn reachable_at(&self) -> Option<SocketAddr> {
        if self.is_outgoing {
            return Some(self.address);
        }
        let port = self.listen_port.filter(|port| *port != 0)?;
        Some(SocketAddr::new(self.address.ip(), port))
    }

    /// Whether it is one of our own nodes or masters.
    pub(super) fn is_node(&self) -> bool {
        self.ids.node.is_some()
    }

    pub(super) fn is_useless(&self) -> bool {
        !self.wants_us && !self.is_wanted
    }
}
