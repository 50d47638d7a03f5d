//! Whom to believe no longer: which peers delivered what does not verify, or broke the protocol, and for how long nobody
//! deals with their address.
//!
//! A group of blocks is asked of one peer alone, so what does not verify has exactly one author. Invariant: an address is
//! banned only for what came from it, and what is remembered is bounded.

use core::net::IpAddr;
use std::collections::HashMap;
use std::time::Duration;

use crate::Moment;

/// The first ban lasts so long, each further one twice as long ...
pub const BAN: Duration = Duration::from_secs(15 * 60);
/// ... and none longer than this.
pub const BAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// So many breaches of the protocol, from one address, within [`FORGET`], are as bad as a lie.
pub const BREACHES_MAX: u32 = 8;
/// What an address did is forgotten when nothing came after it for so long.
pub const FORGET: Duration = Duration::from_secs(48 * 3600);
/// Addresses that are remembered; beyond them the oldest memories go.
pub const ADDRESSES_MAX: usize = 4096;

/// What a peer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// It sent bytes that are not what was asked for. Verified against the signed catalog: no accident of the network, whose
    /// checksums would have had to agree, and no other peer's fault.
    Lie,
    /// It sent what the protocol forbids.
    Breach,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    lies: u32,
    breaches: u32,
    bans: u32,
    banned_until: Moment,
    last: Moment,
}

/// The offences of all addresses.
#[derive(Debug, Default)]
pub struct Blame {
    records: HashMap<IpAddr, Record>,
    lies: u64,
    bans: u64,
}

impl Blame {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of an offence. Whether the address is banned from now on: a liar at once.
    pub fn note(&mut self, address: IpAddr, offence: Offence, now: Moment) -> bool {
        let address = address.to_canonical();
        if self.records.len() >= ADDRESSES_MAX && !self.records.contains_key(&address) {
            self.make_room(now);
        }
        let record = self.records.entry(address).or_insert(Record {
            lies: 0,
            breaches: 0,
            bans: 0,
            banned_until: Moment::default(),
            last: now,
        });
        if now.since(record.last) > FORGET {
            (record.lies, record.breaches, record.bans) = (0, 0, 0);
        }
        record.last = now;
        let is_enough = match offence {
            Offence::Lie => {
                record.lies += 1;
                self.lies += 1;
                true
            }
            Offence::Breach => {
                record.breaches += 1;
                record.breaches.is_multiple_of(BREACHES_MAX)
            }
        };
        if is_enough {
            let doubled = BAN.saturating_mul(1 << record.bans.min(16));
            record.banned_until = now.plus(doubled.min(BAN_MAX));
            record.bans += 1;
            self.bans += 1;
        }
        is_enough
    }

    fn make_room(&mut self, now: Moment) {
        self.records
            .retain(|_, record| record.banned_until > now || now.since(record.last) < FORGET);
        if self.records.len() >= ADDRESSES_MAX
            && let Some(oldest) = self
                .records
                .iter()
                .min_by_key(|(_, record)| record.last)
                .map(|(address, _)| *address)
        {
            self.records.remove(&oldest);
        }
    }

    /// Whether nobody should deal with an address now.
    #[must_use]
    pub fn is_banned(&self, address: IpAddr, now: Moment) -> bool {
        let record = self.records.get(&address.to_canonical());
        record.is_some_and(|record| record.banned_until > now)
    }

    /// Addresses that are banned now.
    #[must_use]
    pub fn banned(&self, now: Moment) -> Vec<IpAddr> {
        let banned = self.records.iter().filter(|(_, record)| record.banned_until > now);
        banned.map(|(address, _)| *address).collect()
    }

    /// Lies, and bans, since the start.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.lies, self.bans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_liar_is_banned_at_once_for_longer_each_time_and_nobody_else_is() {
        let (liar, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        let mut blame = Blame::new();
        assert!(blame.note(liar, Offence::Lie, at(0)));
        assert!(blame.is_banned(mapped, at(899)) && !blame.is_banned(liar, at(900)));
        assert!(!blame.is_banned(other, at(0)));
        assert!(blame.note(mapped, Offence::Lie, at(1000)));
        assert!(blame.is_banned(liar, at(2799)) && !blame.is_banned(liar, at(2800)));
        (0..20).for_each(|_| _ = blame.note(liar, Offence::Lie, at(3000)));
        assert!(!blame.is_banned(liar, at(3000 + 24 * 3600)));
        assert_eq!((blame.counts(), blame.banned(at(3001)).len()), ((22, 22), 1));
    }

    #[test]
    fn breaches_add_up_and_are_forgotten() {
        let peer = "2001:db8::1".parse().unwrap();
        let mut blame = Blame::new();
        for breach in 1..BREACHES_MAX {
            assert!(!blame.note(peer, Offence::Breach, at(u64::from(breach))));
        }
        let later = at(0).plus(FORGET * 2);
        assert!(!blame.note(peer, Offence::Breach, later));
        for _ in 2..BREACHES_MAX {
            assert!(!blame.note(peer, Offence::Breach, later));
        }
        assert!(blame.note(peer, Offence::Breach, later) && blame.is_banned(peer, later));
    }

    #[test]
    fn memory_is_bounded() {
        let mut blame = Blame::new();
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 100 {
            let address = IpAddr::from(number.to_be_bytes());
            blame.note(address, Offence::Lie, at(u64::from(number)));
        }
        assert_eq!(blame.records.len(), ADDRESSES_MAX);
        assert!(!blame.records.contains_key(&IpAddr::from([0, 0, 0, 1])));
    }
}
