//! Nodes, lines and connections in virtual time, around the real [`Session`] and core's choker.
//!
//! A line has a rate in each direction. A run of blocks takes its time on the sender's line and then on the receiver's; other
//! messages take the latency alone. Everything is drawn from a seed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use instantmirror_core::Moment;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::outboard::GROUP_BYTES;
use instantmirror_core::swarm::{Choker, ChokerLimits, PeerKey, Random, Unit, UnitId, Urgency, Want};
use instantmirror_core::traits::Class;
use instantmirror_swarm::session::{Action, Event, Hello, Run, Session, SessionConfig};
use instantmirror_swarm::wire::{Message, PeerId, Reserved};

use crate::agenda::Agenda;

pub(crate) const PIECE_BYTES: u32 = 1 << 20;
const LATENCY: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(250);

/// How a node behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) has_all: bool,
    /// The master: sends each piece once, to nodes.
    pub(crate) is_master: bool,
    pub(crate) lies: bool,
    pub(crate) up: u64,
    pub(crate) down: u64,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) session: Session,
    choker: Choker,
    next_round: Moment,
    /// Blocks of units that came, and whether any of them was a lie.
    tainted: HashMap<UnitId, bool>,
    groups: HashMap<u32, u32>,
    sending: VecDeque<PeerKey>,
    is_sending: bool,
    up_free: Moment,
    down_free: Moment,
    pub(crate) done_at: Option<Moment>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) banned: HashSet<usize>,
    pub(crate) is_up: bool,
}

/// A connection between two nodes.
#[derive(Debug)]
struct Conn {
    ends: [usize; 2],
    is_up: bool,
    /// Which of the ends has something to send on it.
    has_queued: [bool; 2],
}

impl Conn {
    /// Which of the ends a node is.
    fn side(&self, node: usize) -> usize {
        usize::from(self.ends[0] != node)
    }

    fn other(&self, node: usize) -> usize {
        self.ends[1 - self.side(node)]
    }
}

#[derive(Debug)]
enum What {
    Message {
        to: usize,
        conn: u64,
        message: Message,
    },
    Blocks {
        to: usize,
        conn: u64,
        run: Run,
        is_lie: bool,
    },
    SendNext {
        node: usize,
    },
    Tick {
        node: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) nodes: Vec<Node>,
    /// By the number of the connection, which is also its key on both sides.
    conns: Vec<Conn>,
    agenda: Agenda<What>,
    pub(crate) now: Moment,
    pub(crate) random: Random,
    pub(crate) size: u64,
    /// Pairs of sides between which nothing passes.
    pub(crate) cut: Option<usize>,
}

impl Net {
    pub(crate) fn new(size: u64, seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            conns: Vec::new(),
            agenda: Agenda::new(),
            now: Moment(Duration::from_secs(1)),
            random: Random::new(seed),
            size,
            cut: None,
        }
    }

    fn pieces(&self) -> u32 {
        u32::try_from(self.size.div_ceil(u64::from(PIECE_BYTES))).unwrap()
    }

    pub(crate) fn add(&mut self, kind: Kind) -> usize {
        let number = self.nodes.len();
        let mut id = [0; 20];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let config = SessionConfig {
            info_hash: InfoHash::from_bytes([7; 20]),
            peer_id: PeerId(id),
            piece_bytes: PIECE_BYTES,
            fixed: None,
            serves_all: kind.has_all,
            is_private: true,
            metadata: None,
            first_copies: kind.is_master,
            listen_port: Some(1),
            secret: None,
            units_max: 512,
        };
        let mut session = Session::new(config, self.random.bits());
        session.set_space(self.pieces());
        if !kind.has_all {
            let want = Want {
                first_piece: 0,
                size: self.size,
                range: 0..self.size,
                urgency: Urgency {
                    class: Class::Preseed,
                    rank: 0,
                },
            };
            session.want(want, self.now);
        }
        self.nodes.push(Node {
            kind,
            session,
            choker: Choker::new(ChokerLimits::default()),
            next_round: Moment::default(),
            tainted: HashMap::new(),
            groups: HashMap::new(),
            sending: VecDeque::new(),
            is_sending: false,
            up_free: self.now,
            down_free: self.now,
            done_at: None,
            sent: 0,
            received: 0,
            banned: HashSet::new(),
            is_up: true,
        });
        let first = self.now.plus(Duration::from_micros(self.random.bits() % 250_000));
        self.agenda.at(first, What::Tick { node: number });
        number
    }

    fn address(node: usize) -> SocketAddr {
        let bits = 0x0a00_0000 | u32::try_from(node).unwrap();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::from(bits)), 6881)
    }

    pub(crate) fn connect(&mut self, one: usize, other: usize) {
        let may = |a: usize, b: usize| !self.nodes[a].banned.contains(&b) && self.nodes[a].is_up;
        if one == other || !may(one, other) || !may(other, one) || self.is_cut(one, other) {
            return;
        }
        let conn = self.conns.len() as u64;
        self.conns.push(Conn {
            ends: [one, other],
            is_up: true,
            has_queued: [false; 2],
        });
        for (node, peer, is_outgoing) in [(one, other, true), (other, one, false)] {
            let hello = Hello {
                address: Self::address(peer),
                peer_id: self.nodes[peer].session.config().peer_id,
                reserved: Reserved::OURS,
                is_outgoing,
                preference: 1,
                nonce: [0; 32],
            };
            let now = self.now;
            self.nodes[node].session.connected(PeerKey(conn), hello, now);
        }
        self.carry_out(one);
        self.carry_out(other);
    }

    /// Connects every node with some others by chance, with about `degree` of them: of two that are drawn it takes the one
    /// that was taken less often, as the tracker hands out peers, so that the graph is nearly a regular one.
    pub(crate) fn random_graph(&mut self, degree: usize) {
        let count = self.nodes.len();
        let mut taken = vec![0_u32; count];
        for node in 0..count {
            for _ in 0..degree / 2 {
                let pair = [self.random.below(count), self.random.below(count)];
                let is_fresh = |other: &usize| *other != node && !self.are_connected(node, *other);
                let Some(other) = pair.into_iter().filter(is_fresh).min_by_key(|other| taken[*other]) else {
                    continue;
                };
                taken[other] += 1;
                self.connect(node, other);
            }
        }
    }

    fn are_connected(&self, one: usize, other: usize) -> bool {
        let address = Self::address(other);
        self.nodes[one].session.peers().any(|(_, held)| held == address)
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut.is_some_and(|cut| (one < cut) != (other < cut))
    }

    /// Whatever two sides of the cut had between them breaks.
    pub(crate) fn partition(&mut self, cut: usize) {
        self.cut = Some(cut);
        self.disconnect_all(|net, conn| net.is_cut(conn.ends[0], conn.ends[1]));
    }

    pub(crate) fn leave(&mut self, node: usize) {
        self.nodes[node].is_up = false;
        self.disconnect_all(|_, conn| conn.ends.contains(&node));
    }

    fn disconnect_all(&mut self, is_broken: impl Fn(&Self, &Conn) -> bool) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].is_up && is_broken(self, &self.conns[conn]) {
                self.conns[conn].is_up = false;
                for node in self.conns[conn].ends {
                    self.nodes[node].session.gone(PeerKey(conn as u64));
                    self.choose(node, false);
                }
            }
        }
    }

    /// A connection that is up.
    fn conn(&mut self, conn: u64) -> Option<&mut Conn> {
        self.conns.get_mut(conn as usize).filter(|conn| conn.is_up)
    }

    fn carry_out(&mut self, node: usize) {
        loop {
            let actions = self.nodes[node].session.actions();
            if actions.is_empty() {
                return;
            }
            for (key, action) in actions {
                match action {
                    Action::Send(message) => {
                        let Some(to) = self.conn(key.0).map(|conn| conn.other(node)) else {
                            continue;
                        };
                        let at = self.now.plus(LATENCY);
                        self.agenda.soon(
                            at,
                            What::Message {
                                to,
                                conn: key.0,
                                message,
                            },
                        );
                    }
                    Action::Upload => {
                        let Some(conn) = self.conn(key.0) else { continue };
                        let side = conn.side(node);
                        let was_queued = std::mem::replace(&mut conn.has_queued[side], true);
                        let sender = &mut self.nodes[node];
                        if !was_queued {
                            sender.sending.push_back(key);
                        }
                        if !sender.is_sending {
                            sender.is_sending = true;
                            let at = self.nodes[node].up_free.max(self.now);
                            self.agenda.at(at, What::SendNext { node });
                        }
                    }
                    Action::Close(_) => {
                        // The session has let go of it already.
                        if let Some(conn) = self.conn(key.0) {
                            conn.is_up = false;
                            let peer = conn.other(node);
                            self.nodes[peer].session.gone(key);
                            self.choose(peer, false);
                        }
                    }
                }
            }
        }
    }

    /// The sender's line is free: one run for the next peer in turn.
    fn send_next(&mut self, node: usize) {
        let now = self.now;
        let sender = &mut self.nodes[node];
        sender.is_sending = false;
        while let Some(key) = sender.sending.pop_front() {
            let conn = &mut self.conns[key.0 as usize];
            let Some(run) = sender.session.next_run(key) else {
                let side = conn.side(node);
                conn.has_queued[side] = false;
                continue;
            };
            sender.sending.push_back(key);
            sender.session.sent(key, &run, now);
            let bytes = u64::from(run.bytes());
            sender.sent += bytes;
            let took = Duration::from_secs_f64(bytes as f64 / sender.kind.up as f64);
            sender.up_free = now.plus(took);
            sender.is_sending = true;
            let (free, is_lie) = (sender.up_free, sender.kind.lies);
            if !conn.is_up {
                self.agenda.at(free, What::SendNext { node });
                return;
            }
            let to = conn.other(node);
            let receiver = &mut self.nodes[to];
            let took_down = Duration::from_secs_f64(bytes as f64 / receiver.kind.down as f64);
            let arrives = receiver
                .down_free
                .max(now.plus(LATENCY))
                .plus(took_down)
                .max(free.plus(LATENCY));
            receiver.down_free = receiver.down_free.max(now.plus(LATENCY)).plus(took_down);
            let conn = key.0;
            self.agenda.at(arrives, What::Blocks { to, conn, run, is_lie });
            self.agenda.at(free, What::SendNext { node });
            return;
        }
    }

    fn choose(&mut self, node: usize, is_round: bool) {
        let now = self.now;
        let chooser = &mut self.nodes[node];
        let takers = chooser.session.takers(is_round);
        let (fresh, gone) = chooser.choker.decide(&takers, now);
        for (keys, served) in [(gone, false), (fresh, true)] {
            keys.into_iter()
                .for_each(|key| chooser.session.set_served(key, served, now));
        }
        self.carry_out(node);
    }

    fn message(&mut self, to: usize, conn: u64, message: &Message, is_lie: bool) {
        if self.conn(conn).is_none() {
            return;
        }
        let (now, key) = (self.now, PeerKey(conn));
        let event = self.nodes[to].session.message(key, message, now);
        match event {
            Some(Event::Takers) => self.choose(to, false),
            Some(Event::Block { unit, is_whole, .. }) => {
                let node = &mut self.nodes[to];
                let tainted = node.tainted.entry(unit.id).or_default();
                *tainted |= is_lie;
                if is_whole {
                    let is_bad = node.tainted.remove(&unit.id).unwrap_or(false);
                    self.whole(to, key, unit, is_bad);
                }
            }
            _ => {}
        }
        self.carry_out(to);
    }

    fn blocks(&mut self, to: usize, conn: u64, run: &Run, is_lie: bool) {
        for block in run.blocks() {
            let message = Message::Piece {
                piece: block.piece,
                begin: block.begin,
                data: Bytes::from_static(&ZEROS[..block.length as usize]),
            };
            self.message(to, conn, &message, is_lie);
        }
    }

    fn whole(&mut self, to: usize, key: PeerKey, unit: Unit, is_bad: bool) {
        let now = self.now;
        let from = self.conn(key.0).map(|conn| conn.other(to));
        let node = &mut self.nodes[to];
        if is_bad {
            node.banned.extend(from);
            return node.session.lied(key, unit.id, now);
        }
        node.received += u64::from(unit.length);
        node.session.verified(unit.id, now);
        let piece = u32::try_from(unit.offset / u64::from(PIECE_BYTES)).unwrap();
        let groups = node.groups.entry(piece).or_default();
        *groups += 1;
        let start = u64::from(piece) * u64::from(PIECE_BYTES);
        let bytes = u64::from(PIECE_BYTES).min(self.size - start);
        if u64::from(*groups) == bytes.div_ceil(GROUP_BYTES) {
            node.session.set_have(piece, true, now);
            if node.session.have().len() == u64::from(self.size.div_ceil(u64::from(PIECE_BYTES)) as u32) {
                node.done_at = Some(now);
            }
        }
    }

    fn tick(&mut self, node: usize) {
        let now = self.now;
        if self.nodes[node].is_up {
            self.nodes[node].session.tick(now);
            let is_round = now >= self.nodes[node].next_round;
            if is_round {
                self.nodes[node].next_round = now.plus(Duration::from_secs(10));
                self.choose(node, true);
            }
            self.carry_out(node);
        }
        self.agenda.at(now.plus(TICK), What::Tick { node });
    }

    /// Runs until everybody that is up has everything, or `end`. Calls `each_second`.
    pub(crate) fn run(&mut self, end: Duration, mut each_second: impl FnMut(&mut Self, u64)) {
        let mut second = self.now.0.as_secs();
        while let Some((at, what)) = self.agenda.next() {
            self.now = self.now.max(at);
            if self.now.0 > end {
                return;
            }
            match what {
                What::Message { to, conn, message } => self.message(to, conn, &message, false),
                What::Blocks { to, conn, run, is_lie } => self.blocks(to, conn, &run, is_lie),
                What::SendNext { node } => self.send_next(node),
                What::Tick { node } => self.tick(node),
            }
            if self.now.0.as_secs() > second {
                second = self.now.0.as_secs();
                each_second(self, second);
                let is_missing =
                    |node: &Node| node.is_up && !node.kind.has_all && !node.kind.lies && node.done_at.is_none();
                if !self.nodes.iter().any(is_missing) {
                    return;
                }
            }
        }
    }

    /// When those who have everything had it, in seconds, the first one first.
    pub(crate) fn done(&self) -> Vec<f64> {
        let mut done: Vec<f64> = self
            .nodes
            .iter()
            .filter_map(|node| node.done_at)
            .map(|at| at.0.as_secs_f64() - 1.0)
            .collect();
        done.sort_by(f64::total_cmp);
        done
    }
}

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
