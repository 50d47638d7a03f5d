//! What is asked of peers, what comes of it, and what is done when nothing comes.

use std::collections::HashMap;
use std::ops::Range;

use instantmirror_core::Moment;
use instantmirror_core::swarm::{PeerKey, PieceIndex, Pieces, Unit, UnitId};
use instantmirror_core::traits::Class;

use super::join::FIRST_DEPTH;
use super::peer::{Ask, Peer};
use super::{
    ANSWER_MAX, ANSWER_MAX_DEMAND, BLOCK_BYTES, CloseReason, Event, Out, REJECTED_PAUSE, Session, SessionConfig,
};
use crate::wire::{Block, Message};

/// A peer is asked for as much as it sends in so long.
const QUEUE_SPAN: std::time::Duration = std::time::Duration::from_millis(600);
/// Units that a peer is asked for at a time, at most.
const DEPTH_MAX: usize = 128;
/// Blocks of a unit.
const UNIT_BLOCKS: usize = 4;

/// When a unit is asked of a second peer though the first one still may send it.
const SECOND_ASK: std::time::Duration = std::time::Duration::from_millis(1500);

impl Session {
    /// Says that we want something of a peer, or nothing any more.
    pub(super) fn set_interest(&mut self, key: PeerKey, wanted: bool, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.is_wanted == wanted {
            return;
        }
        peer.is_wanted = wanted;
        if peer.is_useless() {
            peer.useless_since = now;
        }
        let message = if wanted {
            Message::Interested
        } else {
            Message::NotInterested
        };
        self.send(key, message, now);
    }

    /// Asks a peer for as much as it should be asked for.
    pub(super) fn ask(&mut self, key: PeerKey, now: Moment) {
        let mut blocks = Vec::new();
        while let Some(unit) = self.next_unit(key, now) {
            let ask = Ask::new(unit, now);
            blocks.extend(ask.blocks(self.config.piece_bytes).map(|(_, block)| block));
            let Some(peer) = self.peers.get_mut(&key) else { break };
            peer.asks.push_back(ask);
            peer.begun = Some(unit.id);
        }
        for block in blocks {
            self.send(key, Message::Request(block), now);
        }
        self.end_interest(key, now);
    }

    /// Tells a peer that we want nothing of it any more, if that is so.
    fn end_interest(&mut self, key: PeerKey, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.is_wanted && peer.asks.is_empty() && !peer.is_of_use(&self.picker) {
            self.set_interest(key, false, now);
        }
    }

    /// A peer that had nothing to be asked for has come to have a piece: asks it for that. Whether it did.
    pub(super) fn ask_for(&mut self, key: PeerKey, piece: PieceIndex, now: Moment) -> bool {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.may_be_asked()) else {
            return false;
        };
        let least = least_of(&self.out, &self.config);
        let refuses = |piece: PieceIndex| peer.refuses(piece);
        let Some(unit) = self.picker.pick_piece(piece, &peer.pieces, &refuses, least) else {
            return false;
        };
        let ask = Ask::new(unit, now);
        let blocks = ask.blocks(self.config.piece_bytes);
        peer.asks.push_back(ask);
        peer.begun = Some(unit.id);
        self.out.insert(unit.id, Out::of(key, now));
        for (_, block) in blocks {
            self.send(key, Message::Request(block), now);
        }
        // Of a large piece there is more to ask for.
        if self.picker.has_free(piece) {
            return false;
        }
        true
    }

    fn next_unit(&mut self, key: PeerKey, now: Moment) -> Option<Unit> {
        let peer = self.peers.get(&key)?;
        if !peer.may_be_asked() {
            return None;
        }
        if peer.nothing_at == Some(self.freed) {
            return None;
        }
        let refuses = |piece: PieceIndex| peer.refuses(piece);
        let least = least_of(&self.out, &self.config);
        let is_full = least == Class::Demand;
        if let Some(unit) = self.picker.pick(&peer.pieces, &refuses, peer.begun, least) {
            self.out.insert(unit.id, Out::of(key, now));
            return Some(unit);
        }
        // When what is full has room again it is asked anew.
        let nothing_at = (!is_full).then_some(self.freed);
        // All that it has was asked of others: it takes over what they are slow with.
        if !peer.asks.is_empty() {
            return self.nothing_for(key, nothing_at);
        }
        let overdue = self.out.iter().filter(|(id, out)| {
            let is_slow = now.since(out.since) > SECOND_ASK && !out.is_whole;
            is_slow && out.peers.contains(&None) && !out.peers.contains(&Some(key)) && {
                let ask = self.picker.unit(**id).map(|unit| Ask::new(unit, now));
                let may_ask = |block: Block| peer.pieces.has(block.piece) && !refuses(block.piece);
                ask.is_some_and(|ask| ask.blocks(self.config.piece_bytes).all(|(_, block)| may_ask(block)))
            }
        });
        let Some(id) = overdue.min_by_key(|(id, out)| (out.since, **id)).map(|(id, _)| *id) else {
            return self.nothing_for(key, nothing_at);
        };
        let place = self.out.get_mut(&id)?.peers.iter_mut().find(|peer| peer.is_none());
        *place? = Some(key);
        self.picker.unit(id)
    }

    fn nothing_for(&mut self, key: PeerKey, at: Option<u64>) -> Option<Unit> {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.nothing_at = at;
        }
        None
    }

    /// A block has come, if it was asked for.
    pub(super) fn block_came(&mut self, key: PeerKey, block: Block, now: Moment) -> Option<Event> {
        let piece_bytes = self.config.piece_bytes;
        let peer = self.peers.get_mut(&key)?;
        peer.is_past_bitfield = true;
        let bytes = u64::from(block.length);
        let asks = peer.asks.iter().enumerate();
        let found = asks
            .filter_map(|(place, ask)| Some((place, ask.place_of(&block, piece_bytes)?)))
            .next();
        let Some((place, at)) = found else {
            self.counts.wasted_bytes += bytes;
            return None;
        };
        peer.down.add(bytes);
        peer.gave += bytes;
        let is_master = peer.is_node() && peer.pieces == Pieces::All;
        self.counts.master_bytes += if is_master { bytes } else { 0 };
        let ask = peer.asks.get_mut(place)?;
        ask.missing &= !(1 << (at / BLOCK_BYTES));
        // It sends: what is asked for later is not overdue yet.
        ask.since = now;
        let (unit, is_whole) = (ask.unit, ask.missing == 0);
        if is_whole {
            peer.asks.remove(place);
            peer.deepen();
        }
        let first = self.out.get_mut(&unit.id).filter(|out| !out.is_whole);
        let Some(out) = first else {
            self.counts.wasted_bytes += bytes;
            self.ask(key, now);
            return None;
        };
        if is_whole {
            out.is_whole = true;
            for other in out.peers.into_iter().flatten().filter(|other| *other != key) {
                self.cancel(other, unit.id, now);
            }
            self.ask(key, now);
        }
        Some(Event::Block { unit, at, is_whole })
    }

    /// A unit that was handed on has been verified.
    pub fn verified(&mut self, unit: UnitId, now: Moment) {
        self.all_verified(&[unit], now);
    }

    /// The same of several.
    pub fn all_verified(&mut self, units: &[UnitId], now: Moment) {
        let was_full = self.out.len() >= self.config.units_max;
        for unit in units {
            if let Some(known) = self.picker.unit(*unit) {
                self.counts.good_bytes += u64::from(known.length);
            }
            self.withdraw(*unit, None, now);
            let over = self.picker.done(*unit);
            if !over.is_empty() {
                self.not_wanted(&over, now);
            }
        }
        // Else nobody can be asked for anything who could not be before: what is here makes nothing free.
        if was_full || self.freed != self.all_asked_at {
            self.ask_all(now);
        }
    }

    /// Nothing of these pieces is wanted any more: peers of which nothing else is are told.
    fn not_wanted(&mut self, pieces: &Range<PieceIndex>, now: Moment) {
        for key in self.keys_of(|peer| peer.is_wanted && pieces.contains(&peer.wanted_at)) {
            self.end_interest(key, now);
        }
    }

    /// A unit that a peer sent does not verify: the peer is closed, and others are asked.
    pub fn lied(&mut self, key: PeerKey, unit: UnitId, now: Moment) {
        let length = self.picker.unit(unit).map_or(0, |known| u64::from(known.length));
        self.counts.bad_bytes += length;
        self.withdraw(unit, None, now);
        self.picker.give_back(unit);
        self.freed += 1;
        self.close(key, CloseReason::Lie);
        self.ask_all(now);
    }

    /// A unit that was handed on could not be kept, through nobody's fault.
    pub fn dropped(&mut self, unit: UnitId, now: Moment) {
        self.withdraw(unit, None, now);
        self.picker.give_back(unit);
        self.freed += 1;
    }

    /// Asks those peers that have least to do.
    fn ask_all(&mut self, now: Moment) {
        self.all_asked_at = self.freed;
        let idle = |peer: &Peer| peer.is_wanted && !peer.chokes_us && peer.asks.len() * 2 <= peer.depth;
        for key in self.keys_of(idle) {
            self.ask(key, now);
        }
    }

    /// Nobody is asked for a unit any more, `but` one.
    pub(super) fn withdraw(&mut self, unit: UnitId, but: Option<PeerKey>, now: Moment) {
        let Some(out) = self.out.remove(&unit) else { return };
        for key in out.peers.into_iter().flatten().filter(|key| Some(*key) != but) {
            self.cancel(key, unit, now);
        }
    }

    fn cancel(&mut self, key: PeerKey, unit: UnitId, now: Moment) {
        let piece_bytes = self.config.piece_bytes;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(place) = peer.asks.iter().position(|ask| ask.unit.id == unit) else {
            return;
        };
        let Some(ask) = peer.asks.remove(place) else { return };
        for (_, block) in ask.blocks(piece_bytes) {
            self.send(key, Message::Cancel(block), now);
        }
    }

    /// A peer that was asked for a unit will not send it.
    pub(super) fn release(&mut self, unit: UnitId, key: PeerKey) {
        let Some(out) = self.out.get_mut(&unit) else { return };
        out.peers = out.peers.map(|other| other.filter(|other| *other != key));
        if out.peers == [None; 2] && !out.is_whole {
            self.out.remove(&unit);
            self.picker.give_back(unit);
            self.freed += 1;
        }
    }

    /// A peer chokes us. One that does not speak Fast forgets what it was asked for; others reject it.
    pub(super) fn choked(&mut self, key: PeerKey, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.chokes_us = true;
        peer.depth = FIRST_DEPTH;
        if peer.speaks_fast {
            return;
        }
        let asks = std::mem::take(&mut peer.asks);
        for ask in asks {
            self.release(ask.unit.id, key);
        }
        self.ask_all(now);
    }

    /// A peer will not send a block. The whole unit is asked of others.
    pub(super) fn was_rejected(&mut self, key: PeerKey, block: Block, now: Moment) {
        let piece_bytes = self.config.piece_bytes;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let of_block = |ask: &Ask| ask.place_of(&block, piece_bytes).is_some();
        let Some(place) = peer.asks.iter().position(of_block) else {
            return;
        };
        let Some(ask) = peer.asks.remove(place) else { return };
        if !peer.chokes_us {
            peer.rejected.insert(block.piece, now.plus(REJECTED_PAUSE));
        }
        peer.allowed.remove(&block.piece);
        self.release(ask.unit.id, key);
        self.ask(key, now);
    }

    /// What a peer was asked for long ago is asked of others, and of it little.
    pub(super) fn give_up_overdue(&mut self, key: PeerKey, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.limit_depth();
        // It is silent, or answers others first: what counts is when it sent the last block of anything.
        let last_block = peer.asks.iter().map(|ask| ask.since).max();
        let is_demand = peer.asks.iter().any(|ask| ask.unit.class == Class::Demand);
        let most = if is_demand { ANSWER_MAX_DEMAND } else { ANSWER_MAX };
        if last_block.is_none_or(|last| now.since(last) <= most) {
            return;
        }
        let asks = std::mem::take(&mut peer.asks);
        peer.depth = 1;
        for ask in asks {
            for (_, block) in ask.blocks(self.config.piece_bytes) {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.rejected.insert(block.piece, now.plus(ANSWER_MAX));
                }
                self.send(key, Message::Cancel(block), now);
            }
            self.release(ask.unit.id, key);
        }
    }

    /// Closes a peer that lied elsewhere, or that the operator does not want any more.
    pub fn expel(&mut self, key: PeerKey, reason: CloseReason) {
        self.close(key, reason);
    }
}

/// The least urgent that may be asked for now: what waits in memory to be verified must not keep a client waiting.
fn least_of(out: &HashMap<UnitId, Out>, config: &SessionConfig) -> Class {
    if out.len() >= config.units_max {
        Class::Demand
    } else {
        Class::Rest
    }
}

impl Out {
    fn of(peer: PeerKey, now: Moment) -> Self {
        Self {
            peers: [Some(peer), None],
            since: now,
            is_whole: false,
        }
    }
}

impl Peer {
    /// Whether it may be asked for one more.
    fn may_be_asked(&self) -> bool {
        let depth = self.depth.min(self.requests_max / UNIT_BLOCKS).max(1);
        self.asks.len() < depth && self.is_wanted && !(self.chokes_us && self.allowed.is_empty())
    }

    /// A unit has come: one more may be asked for, until what waits is worth [`QUEUE_SPAN`].
    fn deepen(&mut self) {
        let enough = self.enough();
        if self.depth < enough {
            self.depth = (self.depth + 1).min(DEPTH_MAX);
        }
    }

    /// Takes the depth back to what the rate is worth.
    fn limit_depth(&mut self) {
        if self.down.get() > 0.0 {
            self.depth = self.depth.min(self.enough()).max(2);
        }
    }

    fn enough(&self) -> usize {
        let unit = u64::from(BLOCK_BYTES) * UNIT_BLOCKS as u64;
        // Half as much again, as room to grow: the rate follows the depth as well.
        let units = self.down.bytes_within(QUEUE_SPAN) * 3 / 2 / unit;
        // Not more than that on top: what waits elsewhere keeps what is rare from being sent, and passed on.
        usize::try_from(units).unwrap_or(DEPTH_MAX).max(FIRST_DEPTH)
    }
}
