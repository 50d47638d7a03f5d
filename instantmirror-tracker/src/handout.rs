//! Whom an asker is told about. A policy sees a swarm and draws; it keeps nothing and knows no socket.

use std::collections::HashSet;
use std::fmt::Debug;
use std::net::IpAddr;

use crate::Standing;

/// Where an address can be reached from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine.
    Host,
    /// A private network.
    Site,
    /// Anywhere.
    Global,
}

impl Scope {
    /// The scope of an address; `None` if nobody can connect to it.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        if address.is_unspecified() || address.is_multicast() {
            return None;
        }
        let is_private = match address {
            IpAddr::V4(address) => {
                if address.is_broadcast() || address.octets()[0] == 0 {
                    return None;
                }
                let shared = u32::from(address) >> 22 == 0x6440_0000 >> 22;
                address.is_private() || address.is_link_local() || shared
            }
            IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
        };
        Some(match (address.is_loopback(), is_private) {
            (true, _) => Self::Host,
            (false, true) => Self::Site,
            (false, false) => Self::Global,
        })
    }
}

/// A peer as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// How much it has.
    pub standing: Standing,
    /// How often it was handed out.
    pub handed_out: u16,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Its address.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// How much it has, as it says.
    pub standing: Standing,
    /// It has announced before how much it lacks, or that it completed: it knows what the torrent holds. A client that opened
    /// a magnet link announces `left` = 0 until it does, as a seed that has just started.
    pub has_metadata: bool,
    /// Where its address is reached from.
    pub scope: Scope,
}

impl Asker {
    /// Whether it can connect to the other: not the asker itself, and no address of a private network for an asker outside of
    /// private networks.
    #[must_use]
    pub fn can_reach(&self, other: &Candidate) -> bool {
        let is_self = (self.address, self.port) == (other.address, other.port);
        !is_self && Scope::of(other.address) >= Some(self.scope)
    }

    /// Whether one of the two says that it lacks something.
    #[must_use]
    pub fn has_use_for(&self, other: &Candidate) -> bool {
        let one_wants = self.standing == Standing::Leecher || other.standing == Standing::Leecher;
        one_wants && self.can_reach(other)
    }

    /// Whether it says that it lacks nothing, and may be a client that waits for the metadata of a magnet link.
    #[must_use]
    pub fn may_lack_metadata(&self) -> bool {
        self.standing == Standing::Seed && !self.has_metadata
    }
}

/// The peers of one address family in one swarm.
pub trait Candidates {
    /// How many.
    fn count(&self) -> usize;

    /// One of them, by its place; `None` beyond the last.
    fn candidate(&self, place: usize) -> Option<Candidate>;
}

/// A source of numbers that nobody needs to be unable to guess.
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64).
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A place below `count`, 0 if that is 0.
    #[allow(clippy::cast_possible_truncation, reason = "the product's upper half is below count")]
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.number()) * count as u128) >> 64) as usize
    }
}

/// Chooses whom an asker is told about.
pub trait HandOut: Debug + Send + Sync {
    /// Places of at most `wanted` different candidates for whom the asker [has use](Asker::has_use_for), and of some others if
    /// it [may lack the metadata](Asker::may_lack_metadata).
    fn choose(&self, asker: &Asker, swarm: &dyn Candidates, wanted: usize, draw: &mut Draw) -> Vec<usize>;
}

/// Swarms up to so many times what is wanted are looked through; of larger ones is drawn.
const LOOKED_THROUGH: usize = 4;
/// How many draws for each that is wanted, before an asker gets fewer.
const DRAWS: usize = 8;

/// Seeds that an asker is told of which says that it is one, and may be a client with a magnet link: enough to get the metadata
/// from, and no crowd of seeds that connect to each other.
const SEEDS_FOR_METADATA: usize = 10;

/// A random sample in which everybody is handed out about equally often, so that the graph of connections is nearly a
/// regular one: of two that were drawn, the one that was handed out less often is taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomSample;

impl HandOut for RandomSample {
    fn choose(&self, asker: &Asker, swarm: &dyn Candidates, wanted: usize, draw: &mut Draw) -> Vec<usize> {
        let mut chosen = sample(swarm, wanted, draw, |one| asker.has_use_for(one));
        if asker.may_lack_metadata() {
            let most = SEEDS_FOR_METADATA.min(wanted.saturating_sub(chosen.len()));
            let is_further = |one: &Candidate| asker.can_reach(one) && !asker.has_use_for(one);
            chosen.extend(sample(swarm, most, draw, is_further));
        }
        chosen
    }
}

/// Places of at most `wanted` of those who are `fit`.
fn sample(swarm: &dyn Candidates, wanted: usize, draw: &mut Draw, fit: impl Fn(&Candidate) -> bool) -> Vec<usize> {
    let count = swarm.count();
    let useful = |place: usize| swarm.candidate(place).filter(&fit);
    if count <= wanted.saturating_mul(LOOKED_THROUGH) {
        let ranked = |place| useful(place).map(|one| (one.handed_out, place));
        let mut all: Vec<_> = (0..count)
            .filter_map(ranked)
            .map(|(handed_out, place)| (handed_out, draw.number(), place))
            .collect();
        all.sort_unstable();
        return all.into_iter().take(wanted).map(|(_, _, place)| place).collect();
    }
    let (mut chosen, mut taken) = (Vec::with_capacity(wanted), HashSet::with_capacity(wanted));
    for _ in 0..wanted * DRAWS {
        if chosen.len() == wanted {
            break;
        }
        let pair = [draw.below(count), draw.below(count)].map(|place| Some((useful(place)?.handed_out, place)));
        let Some((_, place)) = pair.into_iter().flatten().min() else {
            continue;
        };
        if taken.insert(place) {
            chosen.push(place);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    struct Crowd(Vec<Candidate>);

    impl Candidates for Crowd {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn candidate(&self, place: usize) -> Option<Candidate> {
            self.0.get(place).copied()
        }
    }

    fn crowd(count: u32, standing: Standing) -> Crowd {
        let one = |number: u32| Candidate {
            address: Ipv4Addr::from(0xc633_6400 + number).into(),
            port: 6881,
            standing,
            handed_out: 0,
        };
        Crowd((0..count).map(one).collect())
    }

    fn asker(standing: Standing) -> Asker {
        Asker {
            address: "203.0.113.1".parse().unwrap(),
            port: 1,
            standing,
            has_metadata: true,
            scope: Scope::Global,
        }
    }

    #[test]
    fn a_sample_has_no_peer_twice_and_as_many_as_wanted() {
        let mut draw = Draw::new(1);
        for (count, wanted, got) in [
            (0, 50, 0),
            (10, 50, 10),
            (100, 50, 50),
            (10_000, 50, 50),
            (10_000, 0, 0),
        ] {
            let crowd = crowd(count, Standing::Seed);
            let mut chosen = RandomSample.choose(&asker(Standing::Leecher), &crowd, wanted, &mut draw);
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), got, "{wanted} of {count}");
            assert!(chosen.iter().all(|place| *place < count as usize));
        }
    }

    #[test]
    fn everybody_is_handed_out_about_equally_often() {
        let (mut crowd, mut draw) = (crowd(2_000, Standing::Leecher), Draw::new(2));
        for _ in 0..2_000 {
            for place in RandomSample.choose(&asker(Standing::Leecher), &crowd, 50, &mut draw) {
                crowd.0[place].handed_out += 1;
            }
        }
        // Drawn without regard to it, some would be at 25 and some at 75.
        let counts: Vec<u16> = crowd.0.iter().map(|one| one.handed_out).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least >= 42 && *most <= 58, "from {least} to {most}");
    }

    #[test]
    fn those_who_want_nothing_are_not_told_of_each_other() {
        for count in [20, 1_000] {
            let chosen = |mine, theirs| {
                let mut draw = Draw::new(3);
                RandomSample
                    .choose(&asker(mine), &crowd(count, theirs), 5, &mut draw)
                    .len()
            };
            assert_eq!(chosen(Standing::Seed, Standing::Seed), 0);
            assert_eq!(chosen(Standing::Seed, Standing::Partial), 0);
            assert_eq!(chosen(Standing::Seed, Standing::Leecher), 5);
            assert_eq!(chosen(Standing::Leecher, Standing::Seed), 5);
        }
    }

    #[test]
    fn an_asker_that_may_have_a_magnet_link_is_told_of_some_seeds() {
        let unsure = Asker {
            has_metadata: false,
            ..asker(Standing::Seed)
        };
        let mut draw = Draw::new(4);
        let mut told = |crowd: &Crowd, wanted| RandomSample.choose(&unsure, crowd, wanted, &mut draw);
        assert_eq!(told(&crowd(20, Standing::Seed), 50).len(), 10);
        assert_eq!(told(&crowd(1_000, Standing::Seed), 50).len(), 10);
        assert_eq!(told(&crowd(1_000, Standing::Partial), 5).len(), 5);
        assert_eq!(told(&crowd(1_000, Standing::Seed), 0), [0; 0]);
        // Those who lack something come first.
        let mut mixed = crowd(100, Standing::Seed);
        mixed
            .0
            .iter_mut()
            .take(40)
            .for_each(|one| one.standing = Standing::Leecher);
        let chosen = told(&mixed, 60);
        assert_eq!(
            (chosen.len(), chosen.iter().filter(|place| **place < 40).count()),
            (50, 40)
        );
        // Never of itself, whatever it says.
        let mut own = crowd(3, Standing::Seed);
        own.0[1] = Candidate {
            address: unsure.address,
            port: unsure.port,
            ..own.0[1]
        };
        let mut chosen = told(&own, 50);
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 2]);
        let partial = Asker {
            standing: Standing::Partial,
            ..unsure
        };
        assert_eq!(RandomSample.choose(&partial, &own, 50, &mut draw), [0; 0]);
    }

    #[test]
    fn private_addresses_stay_inside() {
        let scope = |text: &str| Scope::of(text.parse().unwrap());
        for (text, expected) in [
            ("127.3.0.1", Some(Scope::Host)),
            ("::1", Some(Scope::Host)),
            ("10.0.0.1", Some(Scope::Site)),
            ("100.64.0.1", Some(Scope::Site)),
            ("fe80::1", Some(Scope::Site)),
            ("fd00::1", Some(Scope::Site)),
            ("100.128.0.1", Some(Scope::Global)),
            ("192.0.2.1", Some(Scope::Global)),
            ("2001:db8::1", Some(Scope::Global)),
            ("0.0.0.0", None),
            ("0.1.2.3", None),
            ("255.255.255.255", None),
            ("224.0.0.1", None),
            ("ff02::1", None),
            ("::", None),
        ] {
            assert_eq!(scope(text), expected, "{text}");
        }
        let meets = |asking: &str, other: &str| {
            let other = Candidate {
                address: other.parse().unwrap(),
                port: 2,
                standing: Standing::Seed,
                handed_out: 0,
            };
            let scope = scope(asking).unwrap();
            let address = asking.parse().unwrap();
            Asker {
                address,
                scope,
                ..asker(Standing::Leecher)
            }
            .has_use_for(&other)
        };
        assert!(meets("127.0.0.1", "127.0.0.1") && meets("127.0.0.1", "10.0.0.1") && meets("10.0.0.1", "192.0.2.1"));
        assert!(!meets("192.0.2.1", "10.0.0.1") && !meets("10.0.0.1", "127.0.0.1") && !meets("192.0.2.1", "127.0.0.1"));
    }
}
