//! Addresses of those who may be in a swarm, and when to try whom.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use instantmirror_core::Moment;
use instantmirror_core::swarm::Random;

/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 2000;
/// The pause after a failure, doubled with each further one ...
const PAUSE: Duration = Duration::from_secs(4);
/// ... up to this, and up to less for those that the operator named.
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
const PAUSE_MAX_NAMED: Duration = Duration::from_secs(30);
/// Whoever cannot be reached so often in a row is forgotten, unless the operator named them.
const FAILURES_MAX: u32 = 8;

/// Who told us of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The configuration, or a master of ours.
    Named,
    /// A tracker.
    Tracker,
    /// Another peer.
    Peer,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    origin: Origin,
    next: Moment,
    failures: u32,
    is_connected: bool,
}

/// The addresses of one swarm.
#[derive(Debug)]
pub(super) struct AddressBook {
    known: HashMap<SocketAddr, Known>,
    random: Random,
}

impl AddressBook {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            known: HashMap::new(),
            random: Random::new(seed),
        }
    }

    pub(super) fn learn(&mut self, address: SocketAddr, origin: Origin, now: Moment) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            return;
        }
        if let Some(known) = self.known.get_mut(&address) {
            known.origin = known.origin.min(origin);
            return;
        }
        if self.known.len() >= ADDRESSES_MAX && origin != Origin::Named && !self.makes_room(origin) {
            return;
        }
        let fresh = Known {
            origin,
            next: now,
            failures: 0,
            is_connected: false,
        };
        self.known.insert(address, fresh);
    }

    /// Forgets somebody of whom a less trusted source told, so that peers who tell of many that are not there keep nobody out.
    fn makes_room(&mut self, origin: Origin) -> bool {
        let mut others = self.known.iter();
        let less = others.find(|(_, known)| known.origin > origin && !known.is_connected);
        let less = less.map(|(address, _)| *address);
        less.is_some_and(|address| self.known.remove(&address).is_some())
    }

    /// Addresses to try now, at most so many, of all or of those that one kind of source told of; they count as tried. `rank`
    /// orders them, lower first.
    pub(super) fn take(
        &mut self,
        most: usize,
        told_by: Option<Origin>,
        now: Moment,
        rank: impl Fn(&SocketAddr) -> Option<usize>,
    ) -> Vec<SocketAddr> {
        let random = &mut self.random;
        let mut due: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| !known.is_connected && known.next <= now)
            .filter(|(_, known)| told_by.is_none_or(|origin| known.origin == origin))
            .filter_map(|(address, known)| {
                Some((known.failures, rank(address)?, known.origin, random.bits(), *address))
            })
            .collect();
        due.sort_unstable();
        due.truncate(most);
        let taken: Vec<SocketAddr> = due.into_iter().map(|(.., address)| address).collect();
        for address in &taken {
            if let Some(known) = self.known.get_mut(address) {
                known.is_connected = true;
            }
        }
        taken
    }

    /// A connection that was taken is over. `was_good`: it got as far as messages.
    pub(super) fn ended(&mut self, address: SocketAddr, was_good: bool, now: Moment) {
        let share = self.random.share();
        let Some(known) = self.known.get_mut(&address) else {
            return;
        };
        known.is_connected = false;
        known.failures = if was_good { 0 } else { known.failures + 1 };
        if known.failures >= FAILURES_MAX && known.origin != Origin::Named {
            self.known.remove(&address);
            return;
        }
        let most = if known.origin == Origin::Named {
            PAUSE_MAX_NAMED
        } else {
            PAUSE_MAX
        };
        let doubled = PAUSE.saturating_mul(1 << known.failures.min(16)).min(most);
        // From half of it on, so that those who lost somebody together do not come back together.
        known.next = now.plus(doubled.mul_f64(0.5 + share / 2.0));
    }

    /// It is us, or somebody we are connected to already: not before long.
    pub(super) fn is_double(&mut self, address: SocketAddr, now: Moment) {
        if let Some(known) = self.known.get_mut(&address) {
            known.is_connected = false;
            known.next = now.plus(PAUSE_MAX);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 6881))
    }

    #[test]
    fn whoever_fails_is_tried_ever_less_often_and_forgotten_at_last() {
        let mut book = AddressBook::new(1);
        book.learn(address(1), Origin::Peer, at(0));
        book.learn("0.0.0.0:1".parse().unwrap(), Origin::Peer, at(0));
        book.learn("192.0.2.9:0".parse().unwrap(), Origin::Peer, at(0));
        assert_eq!(book.len(), 1);
        let (mut now, mut tries) = (0, 0);
        while book.len() > 0 {
            if !book.take(5, None, at(now), |_| Some(0)).is_empty() {
                tries += 1;
                book.ended(address(1), false, at(now));
            }
            now += 1;
        }
        assert_eq!(tries, FAILURES_MAX);
        assert!((400..1200).contains(&now), "{now}");
    }

    #[test]
    fn named_ones_are_never_forgotten_and_preferred_ones_go_first() {
        let mut book = AddressBook::new(1);
        book.learn(address(1), Origin::Peer, at(0));
        book.learn(address(2), Origin::Named, at(0));
        book.learn(address(3), Origin::Tracker, at(0));
        let first = book.take(1, None, at(0), |address| {
            Some(usize::from(address.ip() != self::address(3).ip()))
        });
        assert_eq!(first, [address(3)]);
        assert_eq!(book.take(1, None, at(0), |_| Some(0)), [address(2)]);
        assert!(
            book.take(9, None, at(0), |_| None).is_empty(),
            "those without a rank are not wanted"
        );
        for round in 0..100 {
            book.ended(address(2), false, at(round * 40));
            assert!(
                book.take(9, None, at(round * 40 + 31), |_| Some(0))
                    .contains(&address(2))
            );
        }
        book.is_double(address(2), at(5000));
        assert!(!book.take(9, None, at(5800), |_| Some(0)).contains(&address(2)));
    }

    #[test]
    fn those_of_one_source_can_be_taken_alone() {
        let mut book = AddressBook::new(1);
        book.learn(address(1), Origin::Peer, at(0));
        book.learn(address(2), Origin::Named, at(0));
        book.learn(address(3), Origin::Tracker, at(0));
        assert_eq!(book.take(9, Some(Origin::Tracker), at(0), |_| Some(0)), [address(3)]);
        assert_eq!(book.take(9, Some(Origin::Tracker), at(0), |_| Some(0)), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut book = AddressBook::new(1);
        for port in 1..=u16::try_from(ADDRESSES_MAX).unwrap() + 50 {
            book.learn(SocketAddr::from(([192, 0, 2, 1], port)), Origin::Peer, at(0));
        }
        assert_eq!(book.len(), ADDRESSES_MAX);
    }

    #[test]
    fn peers_that_tell_of_many_keep_nobody_out_of_whom_a_tracker_tells() {
        let mut book = AddressBook::new(1);
        for port in 1..=u16::try_from(ADDRESSES_MAX).unwrap() {
            book.learn(SocketAddr::from(([203, 0, 113, 1], port)), Origin::Peer, at(0));
        }
        let connected = book.take(2, None, at(0), |_| Some(0));
        book.learn(address(1), Origin::Peer, at(0));
        book.learn(address(2), Origin::Tracker, at(0));
        assert_eq!(book.len(), ADDRESSES_MAX);
        assert_eq!(book.take(1, None, at(0), |_| Some(0)), [address(2)]);
        assert!(connected.iter().all(|address| book.known.contains_key(address)));
    }
}
