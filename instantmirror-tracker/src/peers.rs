//! The peers of one address family in one swarm: found by address and port, drawn by place, forgotten by age.
//!
//! Who a peer is, address and port say: ids can be claimed by anybody. About 46 bytes are kept of an IPv4 peer, 58 of an IPv6
//! peer, and what vectors and tables keep free for growth.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;

use crate::handout::{Candidate, Candidates};
use crate::rate::network;
use crate::{Contact, PeerId};

/// How much a peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It wants something.
    Leecher,
    /// It has all that it wants, and not all there is.
    Partial,
    /// It has all there is.
    Seed,
}

/// An address of one family.
pub(crate) trait Address: Copy + Eq + Into<IpAddr> {}

impl Address for Ipv4Addr {}
impl Address for Ipv6Addr {}

/// What a peer says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) port: u16,
    pub(crate) id: PeerId,
    pub(crate) key: u32,
    pub(crate) standing: Standing,
    /// It completes the torrent now.
    pub(crate) completes: bool,
}

impl Said {
    /// Whether only a client that has the torrent's metadata can say this.
    fn shows_metadata(&self) -> bool {
        self.completes || self.standing != Standing::Seed
    }
}

#[derive(Debug, Clone)]
struct Peer<A> {
    address: A,
    id: PeerId,
    key: u32,
    /// Seconds on the registry's clock.
    seen_s: u32,
    port: u16,
    handed_out: u16,
    standing: Standing,
    /// Its completion was counted.
    is_counted: bool,
    /// See [`Entered`].
    has_metadata: bool,
}

/// What became of a peer that announced. `completed`: a completion is to be counted. `has_metadata`: it has said, now or
/// before, how much it lacks, or that it has just completed; a client that opened a magnet link can say neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It was there.
    Known { completed: bool, has_metadata: bool },
    /// It is new.
    New { completed: bool, has_metadata: bool },
    /// There is no room in this swarm.
    Full,
    /// There are enough of its network.
    TooMany,
}

/// Room in a swarm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// New peers that may come.
    pub(crate) peers: usize,
    /// Peers that one network may be.
    pub(crate) of_network: usize,
}

/// Peers of one family. The table finds a peer's place in the list by the hash of its network, so that those of one network
/// can be counted without a table of networks.
#[derive(Debug)]
pub(crate) struct Peers<A> {
    list: Vec<Peer<A>>,
    places: HashTable<u32>,
    seeds: u32,
    partial: u32,
}

impl<A> Default for Peers<A> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            places: HashTable::new(),
            seeds: 0,
            partial: 0,
        }
    }
}

fn hash<A: Address>(hasher: &RandomState, address: A) -> u64 {
    hasher.hash_one(network(address.into()))
}

impl<A: Address> Peers<A> {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn seeds(&self) -> u32 {
        self.seeds
    }

    pub(crate) fn partial(&self) -> u32 {
        self.partial
    }

    fn place(&self, hash: u64, address: A, port: u16) -> Option<usize> {
        let is_it = |place: &u32| {
            let peer = self.list.get(*place as usize);
            peer.is_some_and(|peer| peer.address == address && peer.port == port)
        };
        self.places.find(hash, is_it).map(|place| *place as usize)
    }

    /// How many of an address's network there are, as far as `enough`.
    fn of_network(&self, hash: u64, address: A, enough: usize) -> usize {
        let wanted = network(address.into());
        let peers = self
            .places
            .iter_hash(hash)
            .filter_map(|place| self.list.get(*place as usize));
        peers
            .filter(|peer| network(peer.address.into()) == wanted)
            .take(enough)
            .count()
    }

    fn count(&mut self, standing: Standing, add: bool) {
        let count = match standing {
            Standing::Leecher => return,
            Standing::Partial => &mut self.partial,
            Standing::Seed => &mut self.seeds,
        };
        *count = if add { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Takes a peer in, or takes note that it is still there. `drawn` is any number: a newcomer stands where somebody stands
    /// who is there, or everybody would be sent to it until it has caught up.
    pub(crate) fn enter(
        &mut self,
        hasher: &RandomState,
        address: A,
        said: &Said,
        (now_s, drawn): (u32, usize),
        room: Room,
    ) -> Entered {
        let hash_of = hash(hasher, address);
        if let Some(place) = self.place(hash_of, address, said.port)
            && let Some(peer) = self.list.get_mut(place)
        {
            let before = std::mem::replace(&mut peer.standing, said.standing);
            let completed = said.completes && !peer.is_counted && before != Standing::Seed;
            (peer.id, peer.key, peer.seen_s) = (said.id, said.key, now_s);
            peer.is_counted |= completed;
            peer.has_metadata |= said.shows_metadata();
            let has_metadata = peer.has_metadata;
            self.count(before, false);
            self.count(said.standing, true);
            return Entered::Known {
                completed,
                has_metadata,
            };
        }
        if self.of_network(hash_of, address, room.of_network) >= room.of_network {
            return Entered::TooMany;
        }
        let (true, Ok(place)) = (room.peers > 0, u32::try_from(self.list.len())) else {
            return Entered::Full;
        };
        let somebody = self.list.get(drawn.checked_rem(self.list.len()).unwrap_or(0));
        let peer = Peer {
            address,
            id: said.id,
            key: said.key,
            seen_s: now_s,
            port: said.port,
            handed_out: somebody.map_or(0, |peer| peer.handed_out),
            standing: said.standing,
            is_counted: said.completes,
            has_metadata: said.shows_metadata(),
        };
        self.list.push(peer);
        let Self { list, places, .. } = self;
        places.insert_unique(hash_of, place, |place| {
            list.get(*place as usize).map_or(0, |peer| hash(hasher, peer.address))
        });
        self.count(said.standing, true);
        Entered::New {
            completed: said.completes,
            has_metadata: said.shows_metadata(),
        }
    }

    /// Takes a peer out that says it goes. One that announced another key and another id stays: somebody else behind the
    /// same address cannot send it away. (The key alone would not do: aria2 1.36 has another in every datagram.)
    pub(crate) fn leave(&mut self, hasher: &RandomState, address: A, (port, key): (u16, u32), id: PeerId) -> bool {
        let Some(place) = self.place(hash(hasher, address), address, port) else {
            return false;
        };
        let is_it = |peer: &Peer<A>| peer.key == key || peer.key == 0 || peer.id == id;
        let is_its = self.list.get(place).is_some_and(is_it);
        if is_its {
            self.remove(hasher, place);
        }
        is_its
    }

    fn remove(&mut self, hasher: &RandomState, place: usize) {
        let Some(peer) = self.list.get(place) else { return };
        let (standing, hash_of) = (peer.standing, hash(hasher, peer.address));
        if let Ok(entry) = self.places.find_entry(hash_of, |at| *at as usize == place) {
            entry.remove();
        }
        let last = self.list.len() - 1;
        let moved = self.list.get(last).map(|peer| hash(hasher, peer.address));
        self.list.swap_remove(place);
        self.count(standing, false);
        if let (true, Some(moved), Ok(new)) = (place != last, moved, u32::try_from(place))
            && let Some(at) = self.places.find_mut(moved, |at| *at as usize == last)
        {
            *at = new;
        }
    }

    /// Forgets those that were not seen since `since_s`, and gives back memory when much is free. Returns how many went.
    pub(crate) fn expire(&mut self, hasher: &RandomState, since_s: u32) -> usize {
        let before = self.list.len();
        for place in (0..before).rev() {
            if self.list.get(place).is_some_and(|peer| peer.seen_s < since_s) {
                self.remove(hasher, place);
            }
        }
        if self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to_fit();
            let Self { list, places, .. } = self;
            places.shrink_to_fit(|place| list.get(*place as usize).map_or(0, |peer| hash(hasher, peer.address)));
        }
        before - self.list.len()
    }

    /// The peer at a place, and that it was handed out.
    pub(crate) fn hand_out(&mut self, place: usize) -> Option<Contact> {
        let peer = self.list.get_mut(place)?;
        peer.handed_out = peer.handed_out.saturating_add(1);
        Some(Contact {
            address: peer.address.into(),
            port: peer.port,
            id: peer.id,
        })
    }
}

impl<A: Address> Candidates for Peers<A> {
    fn count(&self) -> usize {
        self.list.len()
    }

    fn candidate(&self, place: usize) -> Option<Candidate> {
        let peer = self.list.get(place)?;
        Some(Candidate {
            address: peer.address.into(),
            port: peer.port,
            standing: peer.standing,
            handed_out: peer.handed_out,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room {
        peers: 1_000,
        of_network: 1_000,
    };

    fn said(port: u16, standing: Standing) -> Said {
        Said {
            port,
            id: PeerId([0; 20]),
            key: 0,
            standing,
            completes: false,
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(u8, u16, u8),
        Leave(u8, u16),
        Expire(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u8, 1..5u16, 0..3u8).prop_map(|(host, port, standing)| Step::Enter(host, port, standing)),
            2 => (0..6u8, 1..5u16).prop_map(|(host, port)| Step::Leave(host, port)),
            1 => (0..6u32).prop_map(Step::Expire),
        ]
    }

    proptest! {
        #[test]
        fn peers_are_a_map_by_address_and_port(steps in prop::collection::vec(step(), 0..200)) {
            let (hasher, mut peers) = (RandomState::new(), Peers::<Ipv4Addr>::default());
            let mut model = BTreeMap::new();
            for (now, step) in (10u32..).zip(steps) {
                match step {
                    Step::Enter(host, port, standing) => {
                        let standing = [Standing::Leecher, Standing::Partial, Standing::Seed][usize::from(standing)];
                        let entered = peers.enter(&hasher, Ipv4Addr::new(10, 0, 0, host), &said(port, standing), (now, 0), ROOM);
                        let is_new = model.insert((host, port), (now, standing)).is_none();
                        prop_assert_eq!(matches!(entered, Entered::New { .. }), is_new);
                    }
                    Step::Leave(host, port) => {
                        let left = peers.leave(&hasher, Ipv4Addr::new(10, 0, 0, host), (port, 0), PeerId([0; 20]));
                        prop_assert_eq!(left, model.remove(&(host, port)).is_some());
                    }
                    Step::Expire(age) => {
                        peers.expire(&hasher, now - age);
                        model.retain(|_, (seen, _)| *seen >= now - age);
                    }
                }
                let count = |wanted| model.values().filter(|(_, standing)| *standing == wanted).count();
                prop_assert_eq!(peers.len(), model.len());
                prop_assert_eq!(peers.seeds() as usize, count(Standing::Seed));
                prop_assert_eq!(peers.partial() as usize, count(Standing::Partial));
                let all = (0..peers.len()).filter_map(|place| peers.candidate(place));
                for one in all {
                    let IpAddr::V4(address) = one.address else { unreachable!() };
                    prop_assert!(model.contains_key(&(address.octets()[3], one.port)));
                }
            }
        }
    }

    #[test]
    fn a_peer_of_forty_bytes() {
        assert_eq!(size_of::<Peer<Ipv4Addr>>(), 40);
        assert_eq!(size_of::<Peer<Ipv6Addr>>(), 52);
    }

    #[test]
    fn one_network_is_not_many_peers() {
        let (hasher, mut peers) = (RandomState::new(), Peers::<Ipv6Addr>::default());
        let room = Room { of_network: 3, ..ROOM };
        let mut enter = |host: u16, net: u16, port| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host);
            peers.enter(&hasher, address, &said(port, Standing::Seed), (0, 0), room)
        };
        for host in 0..3 {
            assert!(matches!(enter(host, 1, 1), Entered::New { completed: false, .. }));
        }
        assert_eq!(enter(9, 1, 1), Entered::TooMany);
        assert!(matches!(enter(0, 1, 1), Entered::Known { completed: false, .. }));
        assert!(matches!(enter(9, 2, 1), Entered::New { completed: false, .. }));
    }

    #[test]
    fn who_has_neither_key_nor_id_cannot_send_a_peer_away() {
        let (hasher, mut peers) = (RandomState::new(), Peers::<Ipv4Addr>::default());
        let keyed = Said {
            key: 7,
            ..said(1, Standing::Seed)
        };
        peers.enter(&hasher, Ipv4Addr::LOCALHOST, &keyed, (0, 0), ROOM);
        let mut leave = |key, id| {
            peers.enter(&hasher, Ipv4Addr::LOCALHOST, &keyed, (0, 0), ROOM);
            peers.leave(&hasher, Ipv4Addr::LOCALHOST, (1, key), PeerId([id; 20]))
        };
        assert!(!leave(8, 1));
        assert!(leave(7, 1));
        assert!(leave(8, 0));
        assert_eq!((peers.len(), peers.seeds()), (0, 0));
    }
}
