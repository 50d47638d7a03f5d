//! Whom to serve: who gets one of the few places, so that each of them gets enough to pass on.
//!
//! Places are budgeted per node, not per swarm. Those go to whom the operator prefers, then to who gave us most lately (BEP
//! 3), and among those who give nothing to who has waited longest; some places are for newcomers, who have nothing to give
//! yet. A change every [`ROUND`], so that a place is worth having.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::PeerKey;
use crate::Moment;

/// Places change hands this often.
pub const ROUND: Duration = Duration::from_secs(10);
/// A newcomer keeps its place for so many rounds.
const NEWCOMER_ROUNDS: u32 = 3;

/// How many are served at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChokerLimits {
    /// Places, at least one.
    pub slots: usize,
}

impl Default for ChokerLimits {
    fn default() -> Self {
        Self { slots: 16 }
    }
}

impl ChokerLimits {
    /// So many places.
    #[must_use]
    pub const fn slots(slots: usize) -> Self {
        Self { slots }
    }

    /// How many of the places are for newcomers.
    fn for_newcomers(self) -> usize {
        if self.slots < 2 { 0 } else { (self.slots / 4).max(1) }
    }
}

/// Somebody who wants to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taker {
    /// Its connection.
    pub peer: PeerKey,
    /// Its place among those that the operator prefers; lower goes first.
    pub preference: u32,
    /// Bytes it gave us in the last round.
    pub gave: u64,
}

#[derive(Debug, Clone, Copy)]
struct Served {
    is_newcomer: bool,
    rounds: u32,
}

/// Who is served now.
#[derive(Debug)]
pub struct Choker {
    limits: ChokerLimits,
    served: BTreeMap<PeerKey, Served>,
    /// When each of the others had a place last, or came.
    waiting: BTreeMap<PeerKey, Moment>,
    next_round: Moment,
}

impl Choker {
    /// Nobody is served yet.
    #[must_use]
    pub fn new(limits: ChokerLimits) -> Self {
        Self {
            limits: ChokerLimits {
                slots: limits.slots.max(1),
            },
            served: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_round: Moment::default(),
        }
    }

    /// Changes the number of places from the next decision on.
    pub fn set_limits(&mut self, limits: ChokerLimits) {
        self.limits = ChokerLimits {
            slots: limits.slots.max(1),
        };
    }

    /// Whether a peer has a place.
    #[must_use]
    pub fn is_served(&self, peer: PeerKey) -> bool {
        self.served.contains_key(&peer)
    }

    /// Decides anew. `takers` are all who want to be served; everybody else loses the place. Free places are given at once,
    /// places change hands once per [`ROUND`]. Returns who is served from now on and who no longer.
    pub fn decide(&mut self, takers: &[Taker], now: Moment) -> (Vec<PeerKey>, Vec<PeerKey>) {
        let before: BTreeSet<PeerKey> = self.served.keys().copied().collect();
        let present: BTreeSet<PeerKey> = takers.iter().map(|taker| taker.peer).collect();
        self.served.retain(|peer, _| present.contains(peer));
        self.waiting.retain(|peer, _| present.contains(peer));
        for peer in &present {
            if !self.served.contains_key(peer) {
                self.waiting.entry(*peer).or_insert(now);
            }
        }
        if now >= self.next_round {
            self.next_round = now.plus(ROUND);
            self.round(takers, now);
        }
        self.shrink(takers, now);
        self.fill_free();
        let after: BTreeSet<PeerKey> = self.served.keys().copied().collect();
        let fresh = after.difference(&before).copied().collect();
        (fresh, before.difference(&after).copied().collect())
    }

    /// Takes places away from those who are worth them least, if others wait.
    fn round(&mut self, takers: &[Taker], now: Moment) {
        self.served.values_mut().for_each(|served| served.rounds += 1);
        if self.waiting.is_empty() {
            return;
        }
        // Newcomers whose time is over are judged like everybody else.
        for served in self.served.values_mut() {
            served.is_newcomer &= served.rounds < NEWCOMER_ROUNDS;
        }
        let regular = self.limits.slots - self.limits.for_newcomers();
        let keep: BTreeSet<PeerKey> = self.ranked(takers).into_iter().take(regular).collect();
        let lost: Vec<PeerKey> = self
            .served
            .iter()
            .filter(|(peer, served)| !served.is_newcomer && !keep.contains(peer))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in lost {
            self.lose(peer, now);
        }
        for peer in keep {
            if self.served.len() >= self.limits.slots {
                break;
            }
            self.serve(peer, false);
        }
    }

    fn lose(&mut self, peer: PeerKey, now: Moment) {
        self.served.remove(&peer);
        // Behind everybody who waits already.
        self.waiting.insert(peer, now);
    }

    fn serve(&mut self, peer: PeerKey, is_newcomer: bool) {
        self.waiting.remove(&peer);
        self.served.entry(peer).or_insert(Served { is_newcomer, rounds: 0 });
    }

    /// Everybody but newcomers that have a place, who deserves one most first.
    fn ranked(&self, takers: &[Taker]) -> Vec<PeerKey> {
        let mut ranked: Vec<&Taker> = takers
            .iter()
            .filter(|taker| !self.served.get(&taker.peer).is_some_and(|served| served.is_newcomer))
            .collect();
        ranked.sort_by_key(|taker| {
            let since = self.waiting.get(&taker.peer).copied();
            // Who gave nothing takes turns: whoever waits goes before who was served.
            (
                taker.preference,
                std::cmp::Reverse(taker.gave),
                since.is_none(),
                since,
                taker.peer,
            )
        });
        ranked.into_iter().map(|taker| taker.peer).collect()
    }

    fn shrink(&mut self, takers: &[Taker], now: Moment) {
        if self.served.len() <= self.limits.slots {
            return;
        }
        let ranked = self.ranked(takers);
        for peer in ranked.into_iter().rev() {
            if self.served.len() <= self.limits.slots {
                return;
            }
            if self.served.contains_key(&peer) {
                self.lose(peer, now);
            }
        }
        while self.served.len() > self.limits.slots
            && let Some((&peer, _)) = self.served.last_key_value()
        {
            self.lose(peer, now);
        }
    }

    /// Gives free places to who has waited longest.
    fn fill_free(&mut self) {
        while self.served.len() < self.limits.slots {
            let longest = self.waiting.iter().min_by_key(|(peer, since)| (**since, **peer));
            let Some((&peer, _)) = longest else { return };
            self.serve(peer, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn takers(gave: &[u64]) -> Vec<Taker> {
        let taker = |(number, gave): (usize, &u64)| Taker {
            peer: PeerKey(number as u64),
            preference: 1,
            gave: *gave,
        };
        gave.iter().enumerate().map(taker).collect()
    }

    #[test]
    fn everybody_is_served_while_there_is_room_and_at_once() {
        let mut choker = Choker::new(ChokerLimits { slots: 4 });
        let (fresh, gone) = choker.decide(&takers(&[0, 0, 0]), at(1));
        assert_eq!((fresh.len(), gone.len()), (3, 0));
        let (fresh, gone) = choker.decide(&takers(&[0, 0, 0, 0, 0]), at(2));
        assert_eq!((fresh, gone), (vec![PeerKey(3)], vec![]));
        let (fresh, gone) = choker.decide(&takers(&[0]), at(3));
        assert_eq!((fresh.len(), gone.len()), (0, 3));
    }

    #[test]
    fn who_gives_most_keeps_a_place_and_newcomers_have_theirs() {
        let mut choker = Choker::new(ChokerLimits { slots: 4 });
        let all = takers(&[90, 80, 70, 0, 0, 0, 0, 0]);
        let mut newcomers = BTreeSet::new();
        for round in 0..30 {
            choker.decide(&all, at(round * 10));
            let served: Vec<u64> = choker.served.keys().map(|peer| peer.0).collect();
            assert_eq!(served.len(), 4);
            if round >= 4 {
                assert_eq!(&served[..3], [0, 1, 2], "round {round}");
                newcomers.insert(served[3]);
            }
        }
        assert_eq!(newcomers.len(), 5, "each of them had its turn");
    }

    #[test]
    fn those_who_give_nothing_take_turns_and_the_preferred_do_not() {
        let mut choker = Choker::new(ChokerLimits { slots: 4 });
        let mut all = takers(&[0; 12]);
        all[11].preference = 0;
        let mut rounds = [0; 12];
        for round in 0..60 {
            choker.decide(&all, at(round * 10));
            choker
                .served
                .keys()
                .for_each(|peer| rounds[usize::try_from(peer.0).unwrap()] += 1);
        }
        assert!(rounds[11] >= 57, "{rounds:?}");
        assert!(
            rounds[..11].iter().all(|&count| (8..=30).contains(&count)),
            "{rounds:?}"
        );
    }

    #[test]
    fn fewer_places_are_taken_away_at_once() {
        let mut choker = Choker::new(ChokerLimits { slots: 8 });
        let all = takers(&[8, 7, 6, 5, 4, 3, 2, 1]);
        choker.decide(&all, at(0));
        choker.set_limits(ChokerLimits { slots: 0 });
        let (_, gone) = choker.decide(&all, at(1));
        assert_eq!((gone.len(), choker.served.len()), (7, 1));
    }
}
