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

/// A piece that one peer got is kept from others for so long, unless that peer leaves.
pub const HOLD: Duration = Duration::from_secs(20);
/// Pieces that are remembered at a time; beyond them the oldest are sent to whoever asks.
pub const PIECES_MAX: usize = 65_536;

/// Who got which piece lately.
#[derive(Debug, Default)]
pub struct FirstCopies {
    taken: HashMap<PieceIndex, (PeerKey, Moment)>,
    /// In the order in which they were taken; some are taken anew meanwhile.
    order: VecDeque<(Moment, PieceIndex)>,
}

impl FirstCopies {
    /// Nobody got anything yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `peer` may have a piece now. If so it counts as its owner.
    pub fn may_have(&mut self, piece: PieceIndex, peer: PeerKey, now: Moment) -> bool {
        self.forget_old(now);
        match self.taken.get(&piece) {
            Some((owner, _)) if *owner != peer => false,
            Some(_) => true,
            None => {
                self.taken.insert(piece, (peer, now));
                self.order.push_back((now, piece));
                true
            }
        }
    }

    fn forget_old(&mut self, now: Moment) {
        while let Some(&(since, piece)) = self.order.front() {
            if now.since(since) < HOLD && self.order.len() <= PIECES_MAX {
                return;
            }
            self.order.pop_front();
            if self.taken.get(&piece).is_some_and(|(_, taken)| *taken == since) {
                self.taken.remove(&piece);
            }
        }
    }

    /// A peer has gone: what it got may have gone with it.
    pub fn left(&mut self, peer: PeerKey) {
        self.taken.retain(|_, (owner, _)| *owner != peer);
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
        assert!(copies.may_have(7, one, at(0)));
        assert!(copies.may_have(7, one, at(1)));
        assert!(!copies.may_have(7, other, at(19)));
        assert!(copies.may_have(8, other, at(19)));
        assert!(copies.may_have(7, other, at(20)));
        assert!(!copies.may_have(7, one, at(21)));
        copies.left(other);
        assert!(copies.may_have(7, one, at(21)) && copies.may_have(8, one, at(21)));
        assert!(
            !copies.may_have(7, other, at(39)),
            "the hold counts from the last time it was given"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut copies = FirstCopies::new();
        for piece in 0..2 * u32::try_from(PIECES_MAX).unwrap() {
            assert!(copies.may_have(piece, PeerKey(1), at(0)));
        }
        assert!(copies.taken.len() <= PIECES_MAX + 1);
        assert!(copies.may_have(0, PeerKey(2), at(0)));
    }
}
