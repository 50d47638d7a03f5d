//! What peers ask of us.

use std::time::Duration;

use instantmirror_core::Moment;
use instantmirror_core::swarm::copies::OTHERS;
use instantmirror_core::swarm::{PeerKey, PieceIndex};

use super::peer::Peer;
use super::{Action, CloseReason, REQUESTS_MAX, Session};
use crate::wire::extension::encode_dont_have;
use crate::wire::{BLOCK_BYTES_MAX, Block, Message};

/// Bytes that are read and sent at once ...
const RUN_BYTES_MAX: u32 = 256 * 1024;
/// ... and pieces of which they are: many small ones together, since to wake somebody for each costs more than to read it.
const RUNS_AT_ONCE: usize = 32;

/// What a seed of a torrent could not read is not offered again before this.
const UNREADABLE: Duration = Duration::from_secs(600);

/// Adjacent blocks of a piece, to be read and sent together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The piece.
    pub piece: PieceIndex,
    /// Where the first block begins in it.
    pub begin: u32,
    /// The length of each block.
    pub lengths: Vec<u32>,
}

impl Run {
    /// Bytes of all blocks.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.lengths.iter().sum()
    }

    /// All of it, as if it were one block.
    #[must_use]
    pub fn whole(&self) -> Block {
        Block {
            piece: self.piece,
            begin: self.begin,
            length: self.bytes(),
        }
    }

    /// The blocks.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        let mut begin = self.begin;
        self.lengths.iter().map(move |&length| {
            let block = Block {
                piece: self.piece,
                begin,
                length,
            };
            begin += length;
            block
        })
    }
}

impl Session {
    /// Gives a peer a place or takes it away.
    pub fn set_served(&mut self, key: PeerKey, is_served: bool, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.is_choked != is_served {
            return;
        }
        peer.is_choked = !is_served;
        if is_served {
            return self.send(key, Message::Unchoke, now);
        }
        let waiting = std::mem::take(&mut peer.uploads);
        self.send(key, Message::Choke, now);
        for block in waiting {
            self.reject(key, block, now);
        }
    }

    fn reject(&mut self, key: PeerKey, block: Block, now: Moment) {
        self.counts.rejected += 1;
        if self.peers.get(&key).is_some_and(|peer| peer.speaks_fast) {
            self.send(key, Message::Reject(block), now);
        }
    }

    /// Bytes of a piece that may be asked for.
    fn piece_length(&self, piece: PieceIndex) -> u64 {
        let bytes = u64::from(self.config.piece_bytes);
        match self.config.fixed {
            Some((_, total)) => total.saturating_sub(u64::from(piece) * bytes).min(bytes),
            None => bytes,
        }
    }

    /// A peer asks for a block.
    pub(super) fn requested(&mut self, key: PeerKey, block: Block, now: Moment) -> Result<(), String> {
        let is_there = self.is_here(block.piece);
        let is_hidden = self.hides(block.piece);
        let is_sound =
            block.length > 0 && block.length <= BLOCK_BYTES_MAX && block.range().end <= self.piece_length(block.piece);
        if !is_sound {
            return Err(format!(
                "a request for {} bytes at {} of piece {}",
                block.length, block.begin, block.piece
            ));
        }
        let Some(peer) = self.peers.get_mut(&key) else {
            return Ok(());
        };
        if peer.uploads.len() >= 2 * REQUESTS_MAX {
            return Err(format!("more than {} requests at a time", 2 * REQUESTS_MAX));
        }
        let is_secret = is_hidden && !peer.is_proven;
        let is_full = peer.uploads.len() >= REQUESTS_MAX;
        let is_queued = peer.uploads.contains(&block);
        if peer.is_choked || !is_there || is_secret || is_full {
            self.reject(key, block, now);
            return Ok(());
        }
        if is_queued {
            return Ok(());
        }
        let treats_first = self.config.first_copies && peer.is_node();
        if treats_first && !self.may_have(key, block.piece, now) {
            self.reject(key, block, now);
            return Ok(());
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.uploads.push_back(block);
        }
        self.act(key, Action::Upload);
        Ok(())
    }

    /// Whether a node may have a piece from us now, or better from others.
    fn may_have(&mut self, key: PeerKey, piece: PieceIndex, now: Moment) -> bool {
        let has_it = |(other, peer): &(&PeerKey, &Peer)| **other != key && peer.pieces.has(piece);
        let others = self.peers.iter().filter(has_it).take(OTHERS).count();
        let is_idle = self.peers.values().all(|peer| peer.uploads.is_empty());
        self.copies.may_have(piece, key, others, is_idle, now)
    }

    /// A peer does not want a block any more.
    pub(super) fn cancelled(&mut self, key: PeerKey, block: Block, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let before = peer.uploads.len();
        peer.uploads.retain(|waiting| *waiting != block);
        // BEP 6: what is cancelled is answered, with the block or a rejection.
        if peer.uploads.len() < before {
            self.reject(key, block, now);
        }
    }

    /// What to send next to a peer: adjacent blocks, as they were asked for. The driver tells [`sent`](Self::sent) or
    /// [`not_sent`](Self::not_sent).
    pub fn next_run(&mut self, key: PeerKey) -> Option<Run> {
        self.run_within(key, RUN_BYTES_MAX)
    }

    /// The same, several at once while they are small.
    pub fn next_runs(&mut self, key: PeerKey) -> Vec<Run> {
        let (mut runs, mut left) = (Vec::new(), RUN_BYTES_MAX);
        while runs.len() < RUNS_AT_ONCE
            && let Some(run) = self.run_within(key, left)
        {
            left = left.saturating_sub(run.bytes());
            runs.push(run);
            let next = self.peers.get(&key).and_then(|peer| peer.uploads.front());
            if next.is_some_and(|next| next.length > left) {
                break;
            }
        }
        runs
    }

    /// The first block whatever its length, and those behind it that are within `bytes_max`.
    fn run_within(&mut self, key: PeerKey, bytes_max: u32) -> Option<Run> {
        let peer = self.peers.get_mut(&key)?;
        let first = peer.uploads.pop_front()?;
        let mut run = Run {
            piece: first.piece,
            begin: first.begin,
            lengths: vec![first.length],
        };
        let mut end = first.range().end;
        while let Some(next) = peer.uploads.front()
            && next.piece == run.piece
            && u64::from(next.begin) == end
            && run.bytes() + next.length <= bytes_max
        {
            end = next.range().end;
            run.lengths.push(next.length);
            peer.uploads.pop_front();
        }
        Some(run)
    }

    /// A run was sent.
    pub fn sent(&mut self, key: PeerKey, run: &Run, now: Moment) {
        let bytes = u64::from(run.bytes());
        self.counts.sent_bytes += bytes;
        self.copies.sent(run.piece, key, now);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.up.add(bytes);
            peer.last_sent = now;
        }
    }

    fn is_here(&self, piece: PieceIndex) -> bool {
        (self.config.serves_all && !self.unreadable.contains_key(&piece)) || self.have.has(piece)
    }

    /// Says that what could not be read is here again: by now it may have been mended.
    pub(super) fn offer_again(&mut self, now: Moment) {
        let due = self.unreadable.iter().filter(|(_, until)| **until <= now);
        let due: Vec<PieceIndex> = due.map(|(piece, _)| *piece).collect();
        for piece in due {
            self.unreadable.remove(&piece);
            for key in self.keys_of(|peer| !peer.pieces.has(piece)) {
                self.send(key, Message::Have(piece), now);
            }
        }
    }

    /// A run could not be read: it is gone from the cache, or the medium failed. Of a torrent that we said to have all of, others
    /// hear that the piece is gone: some clients would ask for it without end. Nodes of ours ask somebody else by themselves.
    pub fn not_sent(&mut self, key: PeerKey, run: &Run, now: Moment) {
        if self.config.serves_all
            && self.config.fixed.is_some()
            && self.unreadable.insert(run.piece, now.plus(UNREADABLE)).is_none()
        {
            self.lost(run.piece, now);
        }
        let Some(peer) = self.peers.get(&key) else { return };
        if !peer.speaks_fast {
            return self.close(key, CloseReason::Outdated);
        }
        for block in run.blocks() {
            self.reject(key, block, now);
        }
    }

    /// A piece is gone: those who were told that we have it are told, or closed.
    pub(super) fn lost(&mut self, piece: PieceIndex, now: Moment) {
        let is_hidden = self.hides(piece);
        for key in self.keys_of(|peer| !is_hidden || peer.is_proven) {
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            let asked: Vec<Block> = peer
                .uploads
                .iter()
                .filter(|block| block.piece == piece)
                .copied()
                .collect();
            peer.uploads.retain(|block| block.piece != piece);
            // Whoever has it will not ask for it.
            if asked.is_empty() && peer.pieces.has(piece) {
                continue;
            }
            match (peer.ids.dont_have, peer.speaks_fast) {
                (Some(id), true) => {
                    let payload = bytes::Bytes::copy_from_slice(&encode_dont_have(piece));
                    self.send_extended(key, Some(id), payload, now);
                    for block in asked {
                        self.reject(key, block, now);
                    }
                }
                _ => self.close(key, CloseReason::Outdated),
            }
        }
    }
}
