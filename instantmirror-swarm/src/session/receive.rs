//! Messages of peers, one by one.

use bytes::Bytes;
use instantmirror_core::Moment;
use instantmirror_core::swarm::{Bitfield, PeerKey, Pieces};

use super::join::OUR_IDS;
use super::{Action, CloseReason, Event, Session};
use crate::wire::extension::{
    ExtensionHandshake, HANDSHAKE_ID, METADATA_PIECE_BYTES, MetadataMessage, NodeMessage, PexMessage, decode_dont_have,
};
use crate::wire::{Block, Message};

/// Pieces that a peer may allow a choked side.
const ALLOWED_MAX: usize = 256;
/// Parts of the info dictionary that a peer may have waiting here; more are rejected.
const METADATA_WAITS_MAX: usize = 64;

/// Why a message is against the protocol.
type Breach = String;

impl Session {
    /// A message has come. Of a [`Message::Piece`] the bytes are the driver's, which is told where they go.
    pub fn message(&mut self, key: PeerKey, message: &Message, now: Moment) -> Option<Event> {
        let peer = self.peers.get_mut(&key)?;
        peer.last_heard = now;
        match self.take(key, message, now) {
            Ok(event) => event,
            Err(breach) => {
                self.close(key, CloseReason::Breach(breach));
                None
            }
        }
    }

    fn take(&mut self, key: PeerKey, message: &Message, now: Moment) -> Result<Option<Event>, Breach> {
        match message {
            Message::Bitfield(_) | Message::HaveAll | Message::HaveNone => self.all_pieces(key, message, now)?,
            Message::Have(piece) => {
                if self.config.fixed.is_some_and(|(count, _)| *piece >= count) {
                    return Err(format!("there is no piece {piece}"));
                }
                self.has(key, *piece, now);
            }
            Message::Choke => self.choked(key, now),
            Message::Unchoke => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    (peer.chokes_us, peer.nothing_at) = (false, None);
                }
                self.ask(key, now);
            }
            Message::Interested | Message::NotInterested => {
                let wants = matches!(message, Message::Interested);
                return Ok(self.wants_us(key, wants, now).then_some(Event::Takers));
            }
            Message::Request(block) => self.requested(key, *block, now)?,
            Message::Cancel(block) => self.cancelled(key, *block, now),
            Message::Piece { piece, begin, data } => {
                let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let (piece, begin) = (*piece, *begin);
                return Ok(self.block_came(key, Block { piece, begin, length }, now));
            }
            Message::Reject(block) => self.was_rejected(key, *block, now),
            Message::AllowedFast(piece) => {
                if let Some(peer) = self.peers.get_mut(&key)
                    && peer.allowed.len() < ALLOWED_MAX
                {
                    peer.allowed.insert(*piece);
                    peer.nothing_at = None;
                }
                self.ask(key, now);
            }
            Message::Extended { id, payload } => return self.extended(key, *id, payload, now),
            // A port is of a DHT, which we have not; suggestions we do not follow: we know what is rare ourselves.
            Message::KeepAlive | Message::Port(_) | Message::Suggest(_) | Message::Unknown { .. } => return Ok(None),
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.is_past_bitfield = true;
        }
        Ok(None)
    }

    /// What a peer has, all at once. aria2 says so again instead of many HAVEs, and so does a node to one that has proved itself;
    /// to strangers only the pieces of a torrent are worth that, whose number bounds what it costs.
    fn all_pieces(&mut self, key: PeerKey, message: &Message, now: Moment) -> Result<(), Breach> {
        let Some(peer) = self.peers.get(&key) else {
            return Ok(());
        };
        let may_repeat = (self.config.fixed.is_some() || peer.is_proven) && *message != Message::HaveNone;
        if peer.is_past_bitfield && !may_repeat {
            return Err("a bitfield comes first or not at all".to_owned());
        }
        if *message == Message::HaveAll && peer.pieces == Pieces::All {
            return Ok(());
        }
        let pieces = match message {
            Message::HaveAll => Pieces::All,
            Message::Bitfield(bytes) => self.bitfield_of(bytes)?,
            _ => Pieces::default(),
        };
        self.pieces_came(key, pieces, now);
        Ok(())
    }

    /// A peer has come to have a piece.
    fn has(&mut self, key: PeerKey, piece: u32, now: Moment) {
        let end = self.piece_end();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Pieces::Some(pieces) = &mut peer.pieces else { return };
        // Ahead of what our catalogs know by far: of no use to us, and it would cost memory.
        if piece >= end || !pieces.insert(piece) {
            return;
        }
        let had_nothing = peer.nothing_at == Some(self.freed);
        self.copies.announced(piece, key, now);
        self.picker.peer_changed(piece, true);
        if self.picker.wants_piece(piece) {
            peer.wanted_at = if peer.is_wanted { peer.wanted_at } else { piece };
            self.set_interest(key, true, now);
        }
        // What others were asked for already is not worth looking at all the rest that this peer may have.
        if !self.picker.has_free(piece) || (had_nothing && self.ask_for(key, piece, now)) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.nothing_at = None;
        }
        self.ask(key, now);
    }

    /// A peer has a piece no longer (BEP 54).
    fn has_not(&mut self, key: PeerKey, piece: u32, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match &mut peer.pieces {
            Pieces::Some(pieces) => {
                if pieces.remove(piece) {
                    self.picker.peer_changed(piece, false);
                }
            }
            // It had all the pieces of a torrent: from now on it is known which.
            Pieces::All => {
                let Some((count, _)) = self.config.fixed else { return };
                let mut pieces = Bitfield::new();
                (0..count)
                    .filter(|other| *other != piece)
                    .for_each(|other| _ = pieces.insert(other));
                self.pieces_came(key, Pieces::Some(pieces), now);
            }
        }
    }

    /// Returns whether the choker should know.
    fn wants_us(&mut self, key: PeerKey, wants: bool, now: Moment) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else {
            return false;
        };
        peer.is_past_bitfield = true;
        let changed = peer.wants_us != wants;
        peer.wants_us = wants;
        if peer.is_useless() {
            peer.useless_since = now;
        }
        changed
    }

    fn extended(&mut self, key: PeerKey, id: u8, payload: &Bytes, now: Moment) -> Result<Option<Event>, Breach> {
        let id = Some(id);
        let breach = |error: crate::wire::extension::ExtensionError| error.to_string();
        if id == Some(HANDSHAKE_ID) {
            let said = ExtensionHandshake::decode(payload).map_err(breach)?;
            self.extension_handshake_came(key, said, now);
        } else if id == OUR_IDS.pex {
            // Who is told of peers in a private swarm is told nothing.
            let is_private = self.config.is_private;
            let said = PexMessage::decode(payload).map_err(breach)?;
            return Ok((!is_private).then_some(Event::Peers(said.added)));
        } else if id == OUR_IDS.dont_have {
            self.has_not(key, decode_dont_have(payload).map_err(breach)?, now);
        } else if id == OUR_IDS.metadata {
            let said = MetadataMessage::decode(payload).map_err(breach)?;
            return Ok(said.and_then(|said| self.metadata_message(key, said, now)));
        } else if id == OUR_IDS.node {
            match NodeMessage::decode(payload).map_err(breach)? {
                Some(NodeMessage::Proof(proof)) => self.proof_came(key, &proof, now),
                Some(said) => return Ok(self.outboard_message(key, said, now)),
                None => {}
            }
        }
        Ok(None)
    }

    /// BEP 9: parts of the info dictionary.
    fn metadata_message(&mut self, key: PeerKey, said: MetadataMessage, now: Moment) -> Option<Event> {
        let piece = match said {
            MetadataMessage::Request { piece } => piece,
            MetadataMessage::Data {
                piece,
                total_size,
                data,
            } => return Some(Event::Metadata(piece, total_size, data)),
            MetadataMessage::Reject { piece } => return Some(Event::NoMetadata(piece)),
        };
        let is_there = self.metadata_part(piece).is_some();
        let peer = self.peers.get_mut(&key)?;
        if !is_there || peer.metadata_waits.len() >= METADATA_WAITS_MAX {
            let id = peer.ids.metadata;
            self.send_extended(key, id, MetadataMessage::Reject { piece }.encode(), now);
            return None;
        }
        peer.metadata_waits.push_back(piece);
        self.act(key, Action::Upload);
        None
    }

    fn metadata_part(&self, piece: u32) -> Option<Bytes> {
        let info = self.config.metadata.as_ref()?;
        let start = usize::try_from(u64::from(piece) * u64::from(METADATA_PIECE_BYTES)).ok()?;
        let end = (start + METADATA_PIECE_BYTES as usize).min(info.len());
        (start < end).then(|| info.slice(start..end))
    }

    /// The next part of the info dictionary that a peer waits for, and its bytes. The driver [gives](Self::give_metadata) it.
    pub fn next_metadata(&mut self, key: PeerKey) -> Option<(u32, u64)> {
        let piece = self.peers.get_mut(&key)?.metadata_waits.pop_front()?;
        let part = self.metadata_part(piece)?;
        Some((piece, part.len() as u64))
    }

    /// Sends a part of the info dictionary.
    pub fn give_metadata(&mut self, key: PeerKey, piece: u32, now: Moment) {
        let id = self.peers.get(&key).and_then(|peer| peer.ids.metadata);
        let total = self.config.metadata.as_ref().map_or(0, Bytes::len);
        let Some(data) = self.metadata_part(piece) else { return };
        let part = MetadataMessage::Data {
            piece,
            total_size: u32::try_from(total).unwrap_or(u32::MAX),
            data,
        };
        self.send_extended(key, id, part.encode(), now);
    }
}
