//! Which torrents are served, who is in which swarm, and how much anybody may ask.
//!
//! Time and addresses are arguments. Invariant: what is kept is bounded by the allowed torrents and by [`Limits`]; a request
//! for another torrent leaves nothing behind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::RandomState;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::handout::{Asker, Draw, HandOut, Scope};
use crate::peers::{Address, Entered, Peers, Room, Said, Standing};
use crate::rate::Rates;
use crate::{Announce, Announced, Contact, Event, InfoHash, Limits, Refusal, Scraped};

/// What a peer that is not kept is told; its client shows it.
const FULL: &str = "this tracker has no room for more peers now: you get peers, but others do not learn of you";

/// The peers of one torrent; created when the first one comes.
#[derive(Debug, Default)]
struct Swarm {
    v4: Peers<Ipv4Addr>,
    v6: Peers<Ipv6Addr>,
    downloaded: u32,
}

impl Swarm {
    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn enter(&mut self, hasher: &RandomState, from: IpAddr, said: &Said, when: (u32, usize), room: Room) -> Entered {
        match from {
            IpAddr::V4(address) => self.v4.enter(hasher, address, said, when, room),
            IpAddr::V6(address) => self.v6.enter(hasher, address, said, when, room),
        }
    }

    /// Returns whether the peer was there.
    fn leave(&mut self, hasher: &RandomState, from: IpAddr, asked: &Announce) -> bool {
        let (at, id) = ((asked.port, asked.key), asked.peer_id);
        match from {
            IpAddr::V4(address) => self.v4.leave(hasher, address, at, id),
            IpAddr::V6(address) => self.v6.leave(hasher, address, at, id),
        }
    }

    fn scraped(&self) -> Scraped {
        let all = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let complete = self.v4.seeds() + self.v6.seeds();
        let incomplete = all.saturating_sub(complete);
        Scraped {
            complete,
            incomplete,
            downloaders: incomplete.saturating_sub(self.v4.partial() + self.v6.partial()),
            downloaded: self.downloaded,
        }
    }
}

/// How many there are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Torrents that are allowed.
    pub torrents: usize,
    /// Torrents with a peer.
    pub swarms: usize,
    /// Peers by IPv4.
    pub peers_v4: usize,
    /// Peers by IPv6.
    pub peers_v6: usize,
    /// How many of them have all there is of their torrent.
    pub seeds: usize,
}

/// What was asked since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Announces that were answered.
    pub announces: u64,
    /// Scrapes that were answered.
    pub scrapes: u64,
    /// Peers handed out.
    pub handed_out: u64,
    /// Peers that stopped.
    pub stopped: u64,
    /// Peers that were not heard of any more.
    pub expired: u64,
    /// Completions.
    pub completed: u64,
    /// Peers that were answered and not kept, for want of room.
    pub not_kept: u64,
    /// Refused requests by reason.
    pub refused: BTreeMap<Refusal, u64>,
}

/// All that a tracker knows. Time is a duration since any fixed moment, and never runs backwards.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    policy: Box<dyn HandOut>,
    /// The allowed torrents; those that had a peer have a swarm.
    torrents: HashMap<InfoHash, Option<Box<Swarm>>>,
    peers: usize,
    rates: Rates,
    draw: Draw,
    hasher: RandomState,
    /// Whose old peers are forgotten next.
    expiring: Vec<InfoHash>,
    counts: Counts,
}

impl Registry {
    /// One that serves nothing yet. `seed` decides what is drawn.
    #[must_use]
    pub fn new(limits: Limits, policy: Box<dyn HandOut>, seed: u64) -> Self {
        Self {
            limits,
            policy,
            torrents: HashMap::new(),
            peers: 0,
            rates: Rates::new(),
            draw: Draw::new(seed),
            hasher: RandomState::new(),
            expiring: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Serves exactly these torrents from now on. What is known of others is forgotten; the rest stays.
    pub fn allow(&mut self, allowed: HashSet<InfoHash>) {
        let mut gone = 0;
        self.torrents.retain(|hash, swarm| {
            let stays = allowed.contains(hash);
            if !stays {
                gone += swarm.as_ref().map_or(0, |swarm| swarm.len());
            }
            stays
        });
        self.peers -= gone;
        for hash in allowed {
            self.torrents.entry(hash).or_default();
        }
        self.torrents.shrink_to_fit();
    }

    /// Other limits, for what comes.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes note of a peer, and tells it of others.
    ///
    /// # Errors
    /// [`Refusal`]; nothing of the peer is kept then.
    pub fn announce(&mut self, now: Duration, from: IpAddr, asked: &Announce) -> Result<Announced, Refusal> {
        let done = self.try_announce(now, from.to_canonical(), asked);
        match &done {
            Ok(_) => self.counts.announces += 1,
            Err(refusal) => self.count_refusal(*refusal),
        }
        done
    }

    /// How many there are of some torrents: `None` for those that are not allowed.
    ///
    /// # Errors
    /// [`Refusal::TooOften`].
    pub fn scrape(
        &mut self,
        now: Duration,
        from: IpAddr,
        torrents: &[InfoHash],
    ) -> Result<Vec<Option<Scraped>>, Refusal> {
        let per_minute = self.limits.requests_per_minute;
        if !self.rates.admits(from.to_canonical(), now, per_minute) {
            self.count_refusal(Refusal::TooOften);
            return Err(Refusal::TooOften);
        }
        self.counts.scrapes += 1;
        let scraped = |hash| {
            let swarm = self.torrents.get(hash)?;
            Some(swarm.as_ref().map_or_else(Scraped::default, |swarm| swarm.scraped()))
        };
        Ok(torrents.iter().map(scraped).collect())
    }

    /// Forgets peers that were not heard of for too long, in at most so many swarms; the next call goes on where this one
    /// ended. A caller that does this every second with a part of the swarms keeps nobody waiting. Returns how many went.
    pub fn expire(&mut self, now: Duration, swarms: usize) -> usize {
        let since = seconds(now.saturating_sub(self.limits.peer_lifetime()));
        if self.expiring.is_empty() {
            let live = self.torrents.iter().filter(|(_, swarm)| swarm.is_some());
            self.expiring = live.map(|(hash, _)| *hash).collect();
        }
        let mut gone = 0;
        for _ in 0..swarms {
            let Some(hash) = self.expiring.pop() else { break };
            if let Some(Some(swarm)) = self.torrents.get_mut(&hash) {
                gone += swarm.v4.expire(&self.hasher, since) + swarm.v6.expire(&self.hasher, since);
            }
        }
        self.peers -= gone;
        self.counts.expired += gone as u64;
        gone
    }

    /// How many torrents are allowed.
    #[must_use]
    pub fn torrents(&self) -> usize {
        self.torrents.len()
    }

    /// How many there are now. Looks at every torrent.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            torrents: self.torrents.len(),
            ..Census::default()
        };
        for swarm in self.torrents.values().flatten().filter(|swarm| swarm.len() > 0) {
            census.swarms += 1;
            census.peers_v4 += swarm.v4.len();
            census.peers_v6 += swarm.v6.len();
            census.seeds += swarm.scraped().complete as usize;
        }
        census
    }

    /// What was asked since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn count_refusal(&mut self, refusal: Refusal) {
        *self.counts.refused.entry(refusal).or_default() += 1;
    }

    fn try_announce(&mut self, now: Duration, from: IpAddr, asked: &Announce) -> Result<Announced, Refusal> {
        let scope = Scope::of(from).ok_or(Refusal::Unreachable)?;
        if !self.rates.admits(from, now, self.limits.requests_per_minute) {
            return Err(Refusal::TooOften);
        }
        let swarm = self.torrents.get_mut(&asked.info_hash).ok_or(Refusal::NotAllowed)?;
        let limits = &self.limits;
        let mut announced = Announced {
            interval_s: seconds(interval(limits, asked)),
            interval_min_s: seconds(limits.interval_min),
            swarm: Scraped::default(),
            peers: Vec::new(),
            warning: None,
        };
        if asked.event == Event::Stopped {
            if let Some(swarm) = swarm {
                let left = swarm.leave(&self.hasher, from, asked);
                self.peers -= usize::from(left);
                self.counts.stopped += u64::from(left);
                announced.swarm = swarm.scraped();
            }
            return Ok(announced);
        }
        let swarm = swarm.get_or_insert_default();
        let said = said(asked);
        let room = Room {
            peers: (limits.swarm_peers_max.saturating_sub(swarm.len()))
                .min(limits.peers_max.saturating_sub(self.peers)),
            of_network: limits.address_peers_max,
        };
        let drawn = self.draw.below(swarm.len());
        let when = (seconds(now), drawn);
        let entered = swarm.enter(&self.hasher, from, &said, when, room);
        let (completed, has_metadata) = match entered {
            Entered::Known {
                completed,
                has_metadata,
            } => (completed, has_metadata),
            Entered::New {
                completed,
                has_metadata,
            } => {
                self.peers += 1;
                (completed, has_metadata)
            }
            Entered::TooMany => return Err(Refusal::TooManyPeers),
            Entered::Full => {
                self.counts.not_kept += 1;
                announced.warning = Some(FULL);
                (false, false)
            }
        };
        if completed {
            swarm.downloaded = swarm.downloaded.saturating_add(1);
            self.counts.completed += 1;
        }
        let wanted = asked.wanted.map_or(limits.handed_out, |wanted| wanted as usize);
        let asker = Asker {
            address: from,
            port: asked.port,
            standing: said.standing,
            has_metadata,
            scope,
        };
        let wanted = wanted.min(limits.handed_out_max);
        announced.peers = choose(self.policy.as_ref(), &mut self.draw, swarm, &asker, wanted);
        self.counts.handed_out += announced.peers.len() as u64;
        announced.swarm = swarm.scraped();
        Ok(announced)
    }
}

fn standing(asked: &Announce) -> Standing {
    match (asked.left, asked.event) {
        (Some(0), _) => Standing::Seed,
        (_, Event::Paused) => Standing::Partial,
        _ => Standing::Leecher,
    }
}

/// How soon a peer shall announce again.
fn interval(limits: &Limits, asked: &Announce) -> Duration {
    match standing(asked) {
        Standing::Leecher => limits.interval,
        Standing::Seed | Standing::Partial => limits.interval.min(limits.interval_seeds.max(limits.interval_min)),
    }
}

fn said(asked: &Announce) -> Said {
    let standing = standing(asked);
    Said {
        port: asked.port,
        id: asked.peer_id,
        key: asked.key,
        standing,
        completes: asked.event == Event::Completed && standing == Standing::Seed,
    }
}

/// Of the asker's own family first: whether it has the other one too nobody knows.
fn choose(policy: &dyn HandOut, draw: &mut Draw, swarm: &mut Swarm, asker: &Asker, wanted: usize) -> Vec<Contact> {
    fn of<A: Address>(
        policy: &dyn HandOut,
        draw: &mut Draw,
        peers: &mut Peers<A>,
        asker: &Asker,
        wanted: usize,
        into: &mut Vec<Contact>,
    ) {
        let left = wanted - into.len().min(wanted);
        let places = policy.choose(asker, peers, left, draw);
        into.extend(places.into_iter().take(left).filter_map(|place| peers.hand_out(place)));
    }
    let mut chosen = Vec::with_capacity(wanted.min(swarm.len()));
    if asker.address.is_ipv4() {
        of(policy, draw, &mut swarm.v4, asker, wanted, &mut chosen);
        of(policy, draw, &mut swarm.v6, asker, wanted, &mut chosen);
    } else {
        of(policy, draw, &mut swarm.v6, asker, wanted, &mut chosen);
        of(policy, draw, &mut swarm.v4, asker, wanted, &mut chosen);
    }
    chosen
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
