//! What is known of one peer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use instantmirror_core::swarm::{Picker, PieceIndex, Pieces, Unit, UnitId};
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
    pub(super) fn blocks(&self, piece_bytes: u32) -> impl Iterator<Item = (u32, Block)> + use<> {
        let (unit, missing) = (self.unit, self.missing);
        let numbers = (0..unit.length.div_ceil(BLOCK_BYTES)).filter(move |number| missing & (1 << number) != 0);
        numbers.filter_map(move |number| {
            let at = number * BLOCK_BYTES;
            let offset = unit.offset + u64::from(at);
            let piece = u32::try_from(offset / u64::from(piece_bytes)).ok()?;
            let block = Block {
                piece: unit.first_piece.checked_add(piece)?,
                begin: u32::try_from(offset % u64::from(piece_bytes)).ok()?,
                length: BLOCK_BYTES.min(unit.length - at),
            };
            Some((at, block))
        })
    }

    /// Where in the unit a block is, if it is one of those that have not come.
    pub(super) fn place_of(&self, block: &Block, piece_bytes: u32) -> Option<u32> {
        let piece = block.piece.checked_sub(self.unit.first_piece)?;
        let offset = u64::from(piece) * u64::from(piece_bytes) + u64::from(block.begin);
        let at = u32::try_from(offset.checked_sub(self.unit.offset)?).ok()?;
        // Of another unit, mostly.
        if at >= self.unit.length {
            return None;
        }
        let mut blocks = self.blocks(piece_bytes);
        blocks.find_map(|(at, missing)| (missing == *block).then_some(at))
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
    /// The piece of it that was found to be wanted last: as long as that is so, something is.
    pub(super) wanted_at: PieceIndex,
    /// There was nothing to ask it for when so many things had become free.
    pub(super) nothing_at: Option<u64>,
    /// Units that it may be asked for at a time.
    pub(super) depth: usize,
    /// What it asked for.
    pub(super) uploads: VecDeque<Block>,
    /// Parts of outboards that it was asked for, and that it asked for.
    pub(super) outboard_asks: HashSet<(ObjectId, u32)>,
    pub(super) outboard_waits: VecDeque<(ObjectId, u32)>,
    /// Parts of the info dictionary that it asked for.
    pub(super) metadata_waits: VecDeque<u32>,
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

    /// Whether it has anything that is wanted.
    pub(super) fn is_of_use(&mut self, picker: &Picker) -> bool {
        let found = picker.wanted_of(&self.pieces, self.wanted_at);
        self.wanted_at = found.unwrap_or(self.wanted_at);
        found.is_some()
    }

    /// Whether it does not give a piece now, though it has it.
    pub(super) fn refuses(&self, piece: PieceIndex) -> bool {
        let is_closed = self.chokes_us && !self.allowed.contains(&piece);
        is_closed || (!self.rejected.is_empty() && self.rejected.contains_key(&piece))
    }

    pub(super) fn is_useless(&self) -> bool {
        !self.wants_us && !self.is_wanted
    }
}
