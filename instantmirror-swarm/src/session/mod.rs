//! One swarm, as far as it can be told without sockets: who is connected, who has what, what to ask and to answer.
//!
//! Sans-io: a driver tells what connected, arrived and passed ([`Session::connected`], [`Session::message`],
//! [`Session::tick`]) and carries out what comes of it ([`Session::actions`], [`Session::next_run`]). Bytes never come in
//! here: of a block only place and length are told, and the driver keeps the rest. What is decided (whom to ask for what,
//! whom to serve) is core's.
//!
//! Invariant: what is kept of a peer is bounded by the size of the piece space and by limits that are named here; a peer
//! that breaks them is closed, and nobody else.

mod join;
mod outboard;
mod peer;
mod rate;
mod receive;
mod request;
mod serve;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::swarm::{
    Bitfield, FirstCopies, PeerKey, Picker, PieceIndex, Pieces, Random, Taker, Unit, UnitId, Want, WantId,
};
use instantmirror_core::{Moment, ObjectId};

use crate::wire::extension::PexPeer;
use crate::wire::{Message, PeerId};

use peer::Peer;

pub use join::Hello;
pub use outboard::OUTBOARD_WAITS_MAX;
pub use serve::Run;
pub use status::{PeerStatus, SessionStatus, Standing};

/// Bytes of a block as we ask for it: what every client takes.
pub const BLOCK_BYTES: u32 = 16 * 1024;
/// Requests that a peer may have waiting here (`reqq` of the extension handshake).
pub const REQUESTS_MAX: usize = 1000;
/// A connection on which nothing is sent gets a keep-alive after this: others close after two minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A connection on which nothing comes is closed after this.
const SILENCE_MAX: Duration = Duration::from_secs(150);
/// What was asked for and did not begin to come within this is asked of somebody else.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The same where a client waits for it.
const ANSWER_MAX_DEMAND: Duration = Duration::from_secs(3);
/// What a peer rejected is not asked of it again before this.
const REJECTED_PAUSE: Duration = Duration::from_secs(4);
/// A peer that is of no use for longer makes room when another one comes.
const USELESS_MAX: Duration = Duration::from_secs(60);
/// A peer of an export torrent to which we connected, and which has everything as we do, is let go after so long.
const SEED_MAX: Duration = Duration::from_secs(30);
/// A peer is told of others so long after it came ...
const PEX_FIRST: Duration = Duration::from_millis(500);
/// ... then this often (BEP 11) ...
const PEX_INTERVAL: Duration = Duration::from_secs(60);
/// ... or this, if it is one of our nodes.
const PEX_INTERVAL_NODE: Duration = Duration::from_secs(2);
/// More pieces than these are not told of one by one, all at once: the messages would fill memory before anybody reads them.
pub(super) const TOLD_SINGLY_MAX: usize = 50_000;
/// Peers may be ahead of our catalogs by so many pieces.
const AHEAD_PIECES_MAX: u32 = 1 << 22;

/// What a swarm is about.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Which swarm.
    pub info_hash: InfoHash,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Bytes of a piece.
    pub piece_bytes: u32,
    /// How many pieces there are, and their bytes, where both are fixed: in an export torrent.
    pub fixed: Option<(PieceIndex, u64)>,
    /// We have everything, and will: only a master says so.
    pub serves_all: bool,
    /// Peers are not told of each other.
    pub is_private: bool,
    /// The info dictionary, for those who have it not (BEP 9).
    pub metadata: Option<Bytes>,
    /// Each piece is sent to one of our nodes first, and not to the next before that had time to pass it on.
    pub first_copies: bool,
    /// Where we listen.
    pub listen_port: Option<u16>,
    /// What authorised nodes know, and strangers do not: who proves it is told of hidden pieces.
    pub secret: Option<[u8; 32]>,
    /// Units that may be asked for and not yet verified at a time: what they hold lies in memory.
    pub units_max: usize,
}

/// What the driver shall do on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send(Message),
    /// There is something to upload: a [run](Session::next_run), or part of an [outboard](Session::next_outboard) or of the
    /// [info dictionary](Session::next_metadata).
    Upload,
    /// Close it, and say why in the log.
    Close(CloseReason),
}

/// Why a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// It broke the protocol.
    #[error("it broke the protocol: {0}")]
    Breach(String),
    /// It sent what does not verify.
    #[error("it sent bytes that do not verify")]
    Lie,
    /// Nothing came for too long.
    #[error("nothing came from it for too long")]
    Silent,
    /// It cannot be told that a piece is gone, or of so many that have come; it may come back and be told what there is.
    #[error("it cannot be told what has changed")]
    Outdated,
    /// Neither side has use for it.
    #[error("neither side has use for it")]
    Useless,
    /// Its host has many connections, and somebody else none.
    #[error("its host has more connections than its share")]
    Crowded,
    /// Two connections to one peer, or one to ourselves.
    #[error("there is a connection to this peer already")]
    Duplicate,
    /// We go.
    #[error("this side leaves")]
    Leaving,
}

/// What a message brought that the driver has to see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Peers that another one knows.
    Peers(Vec<PexPeer>),
    /// A block that was asked for; its bytes go to `at` of the unit.
    Block {
        /// The unit.
        unit: Unit,
        /// Where in it the block begins.
        at: u32,
        /// Whether the unit is whole now: the driver hands it on, and tells
        /// [`verified`](Session::verified) or [`lied`](Session::lied).
        is_whole: bool,
    },
    /// Part of the info dictionary (BEP 9): number, total size and bytes.
    Metadata(u32, u32, Bytes),
    /// The other side will not give this part of the info dictionary.
    NoMetadata(u32),
    /// A part of an outboard that was asked for, not verified.
    Outboard {
        /// The object.
        object: ObjectId,
        /// Bytes of the whole outboard.
        total: u32,
        /// Where the part begins.
        offset: u32,
        /// The part.
        data: Bytes,
    },
    /// The peer does not give what it was asked for of this object's outboard.
    NoOutboard(ObjectId),
    /// Who wants to be served has changed: the choker should decide.
    Takers,
}

/// A unit that was asked of somebody.
#[derive(Debug)]
struct Out {
    /// Of whom: of a second one too if the first is slow.
    peers: [Option<PeerKey>; 2],
    since: Moment,
    /// It is whole and waits to be verified.
    is_whole: bool,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that came and were good.
    pub good_bytes: u64,
    /// Bytes that came, good or not, from masters: nodes of ours that have everything.
    pub master_bytes: u64,
    /// Bytes that came and were of no use: asked of two, or no longer wanted.
    pub wasted_bytes: u64,
    /// Bytes that came and did not verify.
    pub bad_bytes: u64,
    /// Bytes of blocks that were sent.
    pub sent_bytes: u64,
    /// Requests that we rejected.
    pub rejected: u64,
}

/// A swarm.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    picker: Picker,
    random: Random,
    have: Bitfield,
    /// Pieces that could not be read though we have everything, and until when they are not offered.
    unreadable: BTreeMap<PieceIndex, Moment>,
    /// Pieces that only those who proved themselves may know of.
    hidden: Bitfield,
    /// It was not said yet which those are: until then all are, wherever there is a secret.
    is_closed: bool,
    /// Pieces that our catalogs know of.
    space: PieceIndex,
    peers: BTreeMap<PeerKey, Peer>,
    out: HashMap<UnitId, Out>,
    copies: FirstCopies,
    actions: Vec<(PeerKey, Action)>,
    counts: Counts,
    /// Grows whenever something can be asked for that could not before.
    freed: u64,
    /// What it was when all were asked last.
    all_asked_at: u64,
}

impl Session {
    /// A swarm without peers. `seed` decides what is drawn.
    #[must_use]
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let picker = Picker::new(config.piece_bytes, Random::new(random.bits()));
        let space = config.fixed.map_or(0, |(pieces, _)| pieces);
        Self {
            is_closed: config.secret.is_some(),
            config,
            picker,
            random,
            have: Bitfield::new(),
            unreadable: BTreeMap::new(),
            hidden: Bitfield::new(),
            space,
            peers: BTreeMap::new(),
            out: HashMap::new(),
            copies: FirstCopies::new(),
            actions: Vec::new(),
            counts: Counts::default(),
            freed: 0,
            all_asked_at: 0,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Sets how many pieces our catalogs know of; peers may be some ahead.
    pub fn set_space(&mut self, pieces: PieceIndex) {
        if self.config.fixed.is_none() {
            self.space = pieces;
        }
    }

    /// One behind the highest piece that a peer may speak of.
    #[must_use]
    pub fn piece_end(&self) -> PieceIndex {
        match self.config.fixed {
            Some((pieces, _)) => pieces,
            None => self.space.saturating_add(AHEAD_PIECES_MAX),
        }
    }

    /// What to do now, in order. Ask after every call that changes something.
    #[must_use]
    pub fn actions(&mut self) -> Vec<(PeerKey, Action)> {
        std::mem::take(&mut self.actions)
    }

    fn keys_of(&self, is_one: impl Fn(&Peer) -> bool) -> Vec<PeerKey> {
        let those = self.peers.iter().filter(|(_, peer)| is_one(peer));
        those.map(|(key, _)| *key).collect()
    }

    /// Whether any of the [actions](Self::actions) that wait answers what this peer asked: who asks on without reading such
    /// must not be listened to meanwhile.
    #[must_use]
    pub fn owes_answers(&self, peer: PeerKey) -> bool {
        let is_answer = |action: &Action| {
            matches!(
                action,
                Action::Upload | Action::Send(Message::Reject(_) | Message::Extended { .. })
            )
        };
        let mut of_peer = self.actions.iter().filter(|(key, _)| *key == peer);
        of_peer.any(|(_, action)| is_answer(action))
    }

    fn act(&mut self, peer: PeerKey, action: Action) {
        self.actions.push((peer, action));
    }

    fn send(&mut self, key: PeerKey, message: Message, now: Moment) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.last_sent = now;
            self.act(key, Action::Send(message));
        }
    }

    fn close(&mut self, key: PeerKey, reason: CloseReason) {
        if self.peers.contains_key(&key) {
            self.act(key, Action::Close(reason));
            self.gone(key);
        }
    }

    /// Adds a want: its units are asked of peers from now on.
    pub fn want(&mut self, want: Want, now: Moment) -> WantId {
        let peers = &self.peers;
        let with = |piece| {
            let has_it = |peer: &&Peer| matches!(&peer.pieces, Pieces::Some(pieces) if pieces.has(piece));
            let count = peers.values().filter(has_it).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let id = self.picker.want(want, &with);
        self.freed += 1;
        for key in self.keys_of(|peer| self.picker.wants_of(id, &peer.pieces)) {
            self.set_interest(key, true, now);
            self.ask(key, now);
        }
        id
    }

    /// Whether any peer has all or some of what a want is about.
    #[must_use]
    pub fn can_serve(&self, want: WantId) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| self.picker.wants_of(want, &peer.pieces))
    }

    /// Whether any peer has a piece.
    #[must_use]
    pub fn is_available(&self, piece: PieceIndex) -> bool {
        self.peers.values().any(|peer| peer.pieces.has(piece))
    }

    /// Whether a peer that has a piece would send it now.
    #[must_use]
    pub fn is_ready(&self, piece: PieceIndex) -> bool {
        self.peers
            .values()
            .any(|peer| !peer.chokes_us && peer.pieces.has(piece))
    }

    /// Withdraws a want, and what was asked for it alone.
    pub fn forget(&mut self, want: WantId, now: Moment) {
        if self.picker.is_over(want) {
            return self.picker.forget(want);
        }
        let of_want = |unit: &UnitId| self.picker.unit(*unit).is_some_and(|known| known.want == want);
        let units: Vec<UnitId> = self.out.keys().filter(|unit| of_want(unit)).copied().collect();
        self.picker.forget(want);
        for unit in units {
            self.withdraw(unit, None, now);
        }
    }

    /// We have a piece from now on, or no longer.
    pub fn set_have(&mut self, piece: PieceIndex, has: bool, now: Moment) {
        if !has {
            if self.have.remove(piece) {
                self.lost(piece, now);
            }
            return;
        }
        if !self.have.insert(piece) {
            return;
        }
        let is_hidden = self.hides(piece);
        // Whoever has it need not know, except a master that wants to know where its first copies are.
        let wants_to_know = |peer: &Peer| !peer.pieces.has(piece) || (peer.is_node() && peer.pieces == Pieces::All);
        for key in self.keys_of(|peer| wants_to_know(peer) && (!is_hidden || peer.is_proven)) {
            self.send(key, Message::Have(piece), now);
        }
    }

    /// Whether only those may know of a piece who proved that they may.
    fn hides(&self, piece: PieceIndex) -> bool {
        self.is_closed || self.hidden.has(piece)
    }

    /// Whether there is nothing that we lack, and nothing more will come: in an export torrent.
    fn has_everything(&self) -> bool {
        let is_whole = self.have.len() >= u64::from(self.space);
        self.config.fixed.is_some() && (self.config.serves_all || is_whole)
    }

    /// What we have.
    #[must_use]
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// Sets which pieces only those may know of who proved that they may: none is shown to others before, where there is a
    /// secret. What is no longer hidden is told to everybody.
    pub fn set_hidden(&mut self, hidden: Bitfield, now: Moment) {
        let before = std::mem::replace(&mut self.hidden, hidden);
        let before = if std::mem::take(&mut self.is_closed) {
            self.have.clone()
        } else {
            before
        };
        let is_shown = |piece: &PieceIndex| !self.hidden.has(*piece) && self.have.has(*piece);
        let shown: Vec<PieceIndex> = before.iter().filter(is_shown).collect();
        for key in self.keys_of(|peer| !peer.is_proven) {
            if shown.len() > TOLD_SINGLY_MAX {
                self.close(key, CloseReason::Outdated);
                continue;
            }
            for piece in &shown {
                self.send(key, Message::Have(*piece), now);
            }
        }
    }

    /// Those who want to be served, with what they gave since this was asked last.
    pub fn takers(&mut self, is_round: bool) -> Vec<Taker> {
        let mut takers = Vec::new();
        for (key, peer) in &mut self.peers {
            if peer.wants_us {
                takers.push(Taker {
                    peer: *key,
                    preference: peer.preference,
                    gave: peer.gave,
                });
            }
            if is_round {
                peer.gave = 0;
            }
        }
        takers
    }

    /// Whether any peer wants something of us.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.peers.values().any(|peer| peer.wants_us)
    }

    /// Units that a peer is asked for.
    #[must_use]
    pub fn asked_of(&self, key: PeerKey) -> HashSet<UnitId> {
        let asks = self.peers.get(&key).map(|peer| &peer.asks);
        asks.into_iter().flatten().map(|ask| ask.unit.id).collect()
    }

    /// Closes the peer that has been of no use for longest, to make room for another. Whether there was one.
    pub fn close_useless(&mut self, now: Moment) -> bool {
        let useless = self.peers.iter().filter(|(_, peer)| peer.is_useless());
        let longest = useless.min_by_key(|(key, peer)| (peer.useless_since, **key));
        let Some((&key, peer)) = longest else { return false };
        let is_long = now.since(peer.useless_since) > USELESS_MAX;
        if is_long {
            self.close(key, CloseReason::Useless);
        }
        is_long
    }

    /// Peers that are connected, with their addresses.
    pub fn peers(&self) -> impl Iterator<Item = (PeerKey, SocketAddr)> {
        self.peers.iter().map(|(key, peer)| (*key, peer.address))
    }

    /// Where connected peers can be reached later, our nodes first.
    #[must_use]
    pub fn reachable(&self) -> Vec<SocketAddr> {
        let mut all: Vec<(bool, SocketAddr)> = self
            .peers
            .values()
            .filter_map(|peer| Some((!peer.is_node(), peer.reachable_at()?)))
            .collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|(_, address)| address).collect()
    }

    /// Number of peers.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Time has passed. Called several times a second.
    pub fn tick(&mut self, now: Moment) {
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            self.tick_peer(key, now);
        }
        self.offer_again(now);
        if !self.config.is_private {
            self.tell_peers(now);
        }
    }

    fn tick_peer(&mut self, key: PeerKey, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.down.tick(now);
        peer.up.tick(now);
        let rejected = peer.rejected.len();
        peer.rejected.retain(|_, until| *until > now);
        if peer.rejected.len() < rejected {
            peer.nothing_at = None;
        }
        let may_take_over = peer.asks.is_empty();
        peer.nothing_at = peer.nothing_at.filter(|_| !may_take_over);
        if now.since(peer.last_heard) > SILENCE_MAX {
            return self.close(key, CloseReason::Silent);
        }
        // Seeds that a tracker named to each other.
        let is_idle = peer.is_outgoing && peer.is_useless() && now.since(peer.useless_since) > SEED_MAX;
        let is_seed = match &peer.pieces {
            Pieces::All => true,
            Pieces::Some(pieces) => pieces.len() >= u64::from(self.space),
        };
        if is_idle && is_seed && self.has_everything() {
            return self.close(key, CloseReason::Useless);
        }
        let Some(peer) = self.peers.get(&key) else { return };
        if now.since(peer.last_sent) > KEEP_ALIVE {
            self.send(key, Message::KeepAlive, now);
        }
        self.give_up_overdue(key, now);
        self.ask(key, now);
    }
}

#[cfg(test)]
mod tests;
