//! How somebody who has everything sends each piece about once: what was just sent to one node is not sent to another,
//! who can get it from the first.
//!
//! Super-seeding (BEP 16) reaches the same by hiding what the seeder has; here requests are rejected (BEP 6), which costs
//! the other side a round trip and lets it choose what it wants. Only peers that speak our extension are treated so: others
//! might ask again and again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{PeerKey, PieceIndex};
use crate::Moment;

/// A piece that a peer was promised is kept from others for so long after it was promised, after the last bytes of it were
/// sent, and after the peer said that it has it: whoever still asks then has neighbours that are slow to pass it on ...
pub const HOLD: Duration = Duration::from_secs(6);
/// ... and for so long while there is nothing else to send.
pub const HOLD_IDLE: Duration = Duration::from_millis(1500);
/// Whoever asks for what others have has to ask again after so long: then it found nobody else.
pub const SECOND_ASK: Duration = Duration::from_secs(3);
/// So many others have to have it.
pub const OTHERS: usize = 2;
/// Pieces that are remembered at a time; beyond them the oldest are sent to whoever asks.
pub const PIECES_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy)]
struct Taken {
    owner: PeerKey,
    /// When it was promised, sent or announced last.
    last: Moment,
    has_it: bool,
    has_left: bool,
}

/// Who got which piece lately.
#[derive(Debug, Default)]
pub struct FirstCopies {
    taken: HashMap<PieceIndex, Taken>,
    /// In the order in which they were taken; some are taken anew meanwhile.
    order: VecDeque<PieceIndex>,
    /// Who asked first when for what others have.
    asked: HashMap<(PieceIndex, PeerKey), Moment>,
}

impl FirstCopies {
    /// Nobody got anything yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `peer` may have a piece now that so many `others` have. If so it counts as its owner. `is_idle` tells whether
    /// there is nothing else to send.
    pub fn may_have(&mut self, piece: PieceIndex, peer: PeerKey, others: usize, is_idle: bool, now: Moment) -> bool {
        if others >= OTHERS && !self.asks_again(piece, peer, now) {
            return false;
        }
        let hold = if is_idle { HOLD_IDLE } else { HOLD };
        match self.taken.get(&piece) {
            Some(taken) if taken.owner == peer => true,
            Some(taken) if !taken.has_left && now.since(taken.last) < hold => false,
            before => {
                let is_new = before.is_none();
                let taken = Taken {
                    owner: peer,
                    last: now,
                    has_it: false,
                    has_left: false,
                };
                self.taken.insert(piece, taken);
                if is_new {
                    self.remember(piece);
                }
                true
            }
        }
    }

    fn asks_again(&mut self, piece: PieceIndex, peer: PeerKey, now: Moment) -> bool {
        if self.taken.get(&piece).is_some_and(|taken| taken.owner == peer) {
            return true;
        }
        if self.asked.len() >= PIECES_MAX {
            self.asked.clear();
        }
        let first = *self.asked.entry((piece, peer)).or_insert(now);
        now.since(first) >= SECOND_ASK
    }

    fn remember(&mut self, piece: PieceIndex) {
        self.order.push_back(piece);
        if self.order.len() > PIECES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.taken.remove(&oldest);
        }
    }

    /// Bytes of a piece were sent to a peer.
    pub fn sent(&mut self, piece: PieceIndex, peer: PeerKey, now: Moment) {
        if let Some(taken) = self
            .taken
            .get_mut(&piece)
            .filter(|taken| taken.owner == peer && !taken.has_it)
        {
            taken.last = now;
        }
    }

    /// A peer says that it has a piece.
    pub fn announced(&mut self, piece: PieceIndex, peer: PeerKey, now: Moment) {
        if let Some(taken) = self
            .taken
            .get_mut(&piece)
            .filter(|taken| taken.owner == peer && !taken.has_it)
        {
            (taken.has_it, taken.last) = (true, now);
        }
    }

    /// A peer has gone: what it got may have gone with it.
    pub fn left(&mut self, peer: PeerKey) {
        for taken in self.taken.values_mut().filter(|taken| taken.owner == peer) {
            taken.has_left = true;
        }
        self.asked.retain(|(_, asker), _| *asker != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_piece_goes_to_one_peer_until_that_leaves_or_time_has_passed() {
        let (one, other) = (PeerKey(1), PeerKey(2));
        let mut copies = FirstCopies::new();
        assert!(copies.may_have(7, one, 0, false, at(0)));
        assert!(copies.may_have(7, one, 0, false, at(1)));
        copies.sent(7, one, at(5));
        assert!(!copies.may_have(7, other, 0, false, at(10)));
        assert!(copies.may_have(8, other, 0, false, at(10)));
        assert!(copies.may_have(9, other, 0, false, at(10)));
        assert!(
            !copies.may_have(9, one, 0, true, at(11)) && copies.may_have(9, one, 0, true, at(12)),
            "nothing else to send"
        );
        copies.announced(7, one, at(10));
        copies.announced(7, one, at(12));
        copies.sent(7, one, at(15));
        assert!(!copies.may_have(7, other, 0, false, at(15)));
        assert!(copies.may_have(7, other, 0, false, at(16)), "it had time to spread");
        assert!(!copies.may_have(7, one, 0, false, at(17)));
        copies.left(other);
        assert!(copies.may_have(7, one, 0, false, at(17)) && copies.may_have(8, one, 0, false, at(17)));
        assert!(
            copies.may_have(7, other, 0, false, at(23)),
            "whoever is promised it and does not take it has it not for ever"
        );
    }

    #[test]
    fn what_others_have_is_for_those_who_found_nobody_else() {
        let (one, other) = (PeerKey(1), PeerKey(2));
        let mut copies = FirstCopies::new();
        assert!(!copies.may_have(7, one, OTHERS, true, at(0)));
        assert!(!copies.may_have(7, one, OTHERS, true, at(2)));
        assert!(!copies.may_have(7, other, OTHERS, true, at(3)));
        assert!(copies.may_have(7, one, OTHERS, true, at(3)));
        assert!(copies.may_have(7, one, OTHERS, true, at(3)));
        assert!(copies.may_have(8, other, OTHERS - 1, true, at(3)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut copies = FirstCopies::new();
        for piece in 0..2 * u32::try_from(PIECES_MAX).unwrap() {
            assert!(copies.may_have(piece, PeerKey(1), 0, false, at(0)));
        }
        assert_eq!((copies.taken.len(), copies.order.len()), (PIECES_MAX, PIECES_MAX));
        assert!(copies.may_have(0, PeerKey(2), 0, false, at(0)));
    }
}
