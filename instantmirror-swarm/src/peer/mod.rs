//! Swarms on real sockets: the driver around [`Session`](crate::session::Session).
//!
//! [`Swarms`] holds all swarms of one node: they share its address, its budget of connections, its places for those who are
//! served, its rates and its memory of who lied. One task reads and one writes each connection; what comes whole is handed
//! to whoever wanted it ([`SwarmTransport`]), what is asked for is read from a [`PieceSource`].
//!
//! Invariant: nothing that a peer sends reaches anybody but the cache that verifies it; what waits for a slow peer is bounded.

mod book;
mod connection;
mod dial;
mod outboard;
mod status;
mod swarm;
mod transport;
mod write;

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::address::AddressPolicy;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::swarm::{Blame, Choker, ChokerLimits, PeerKey, PieceIndex};
use instantmirror_core::throttle::Throttle;
use instantmirror_core::{Moment, ObjectId};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::session::{CloseReason, SessionConfig};
use crate::wire::{Block, PEER_ID_PREFIX, PeerId};

pub use book::Origin;
pub use status::SwarmStatus;
pub use swarm::Swarm;
pub use transport::SwarmTransport;

/// Sessions are told that time passes this often.
const TICK: Duration = Duration::from_millis(250);
/// Peers have so long to read that we leave.
const LEAVE: Duration = Duration::from_millis(500);

/// Where an object lies in a piece space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectPlace {
    /// Its first piece.
    pub first_piece: PieceIndex,
    /// Its size in bytes.
    pub size: u64,
}

/// What a swarm is about, and where its bytes lie.
#[async_trait]
pub trait PieceSource: Debug + Send + Sync + 'static {
    /// Where an object lies, if it is in this swarm; one of its places if it has several.
    fn place_of(&self, object: &ObjectId) -> Option<ObjectPlace>;

    /// All places where an object lies: the same content may be at several paths of one torrent.
    fn places_of(&self, object: &ObjectId) -> Vec<ObjectPlace> {
        self.place_of(object).into_iter().collect()
    }

    /// `length` bytes at `begin` of a piece, padding included.
    ///
    /// # Errors
    /// A text, if they are not here or cannot be read.
    async fn read(&self, piece: PieceIndex, begin: u32, length: u32) -> Result<Bytes, String>;

    /// The same of several parts, in their order. By default one after the other.
    async fn read_all(&self, parts: &[Block]) -> Vec<Result<Bytes, String>> {
        let mut all = Vec::with_capacity(parts.len());
        for part in parts {
            all.push(self.read(part.piece, part.begin, part.length).await);
        }
        all
    }

    /// The outboard of an object, verified, for nodes that ask for it; `None` if it is not here. By default there is none.
    async fn outboard(&self, object: &ObjectId) -> Option<Bytes> {
        let _ = object;
        None
    }
}

/// Limits that all swarms of a node share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PeerLimits {
    /// Connections at a time, of all swarms.
    pub connections_max: usize,
    /// Connections of one swarm that we look for by ourselves.
    pub connections_sought: usize,
    /// Peers that are served at a time.
    pub slots: usize,
    /// Bytes per second to peers.
    pub upload: Option<u64>,
    /// Bytes per second from peers.
    pub download: Option<u64>,
    /// Addresses that we listen on and connect from; those that stand for all leave the choice to the system.
    pub listen: Vec<IpAddr>,
    /// Whom to deal with.
    pub policy: AddressPolicy,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            connections_max: 200,
            connections_sought: 40,
            slots: ChokerLimits::default().slots,
            upload: None,
            download: None,
            listen: Vec::new(),
            policy: AddressPolicy::default(),
        }
    }
}

/// All swarms of a node. Cheap to clone; everything runs inside [`run`](Self::run) and tasks that end with it.
#[derive(Debug, Clone)]
pub struct Swarms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    peer_id: PeerId,
    /// Drawn at the start, for nonces.
    secret: [u8; 32],
    limits: RwLock<PeerLimits>,
    swarms: RwLock<HashMap<InfoHash, Arc<Swarm>>>,
    choker: Mutex<Choker>,
    blame: Mutex<Blame>,
    upload: Mutex<Option<Throttle>>,
    download: Mutex<Option<Throttle>>,
    last_key: AtomicU64,
    connections: AtomicUsize,
    /// Somebody wants to be served, or no longer.
    takers_changed: Notify,
    /// There is somebody new to connect to.
    known_changed: Arc<Notify>,
    leaving: watch::Sender<bool>,
}

/// A panic while a lock is held leaves plain data that is still whole: carry on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Swarms {
    /// Without any swarm yet. `secret` is drawn anew at every start; the peer id is made of it.
    #[must_use]
    pub fn new(secret: [u8; 32], limits: PeerLimits) -> Self {
        let drawn = blake3::derive_key("instantmirror 2026 peer wire: peer id", &secret);
        let mut random = [0; 12];
        random.copy_from_slice(&drawn[..12]);
        let peer_id = PeerId::random(PEER_ID_PREFIX, random);
        let slots = limits.slots;
        let throttle = |rate: Option<u64>| Mutex::new(rate.map(Throttle::new));
        Self(Arc::new(Shared {
            start: Instant::now(),
            peer_id,
            secret,
            upload: throttle(limits.upload),
            download: throttle(limits.download),
            limits: RwLock::new(limits),
            swarms: RwLock::default(),
            choker: Mutex::new(Choker::new(ChokerLimits::slots(slots))),
            blame: Mutex::default(),
            last_key: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            takers_changed: Notify::new(),
            known_changed: Arc::default(),
            leaving: watch::Sender::new(false),
        }))
    }

    /// What we call ourselves.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// Changes the limits for all that begins from now on. Peers that the new policy does not admit are closed.
    pub fn set_limits(&self, limits: PeerLimits) {
        lock(&self.0.choker).set_limits(ChokerLimits::slots(limits.slots));
        for (throttle, rate) in [(&self.0.upload, limits.upload), (&self.0.download, limits.download)] {
            let mut throttle = lock(throttle);
            if throttle.as_ref().map(Throttle::bytes_per_second) != rate {
                *throttle = rate.map(Throttle::new);
            }
        }
        for swarm in self.all() {
            let unwanted = |address: &SocketAddr| !limits.policy.admits(address.ip());
            swarm.with(|session| {
                let keys: Vec<PeerKey> = session
                    .peers()
                    .filter(|(_, at)| unwanted(at))
                    .map(|(key, _)| key)
                    .collect();
                keys.into_iter()
                    .for_each(|key| session.expel(key, CloseReason::Useless));
            });
        }
        *self.0.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.0.takers_changed.notify_one();
    }

    /// Joins a swarm. One that was joined already stays as it is, and is returned. `config.peer_id` is ignored.
    pub fn join(&self, mut config: SessionConfig, source: Arc<dyn PieceSource>, seed: u64) -> Arc<Swarm> {
        config.peer_id = self.0.peer_id;
        let mut swarms = self.0.swarms.write().unwrap_or_else(PoisonError::into_inner);
        let notify = Arc::clone(&self.0.known_changed);
        let fresh = || Arc::new(Swarm::new(config.clone(), source, self.0.start, seed, notify));
        Arc::clone(swarms.entry(config.info_hash).or_insert_with(fresh))
    }

    /// Leaves a swarm and closes its connections.
    pub fn leave(&self, swarm: &InfoHash) {
        let left = self
            .0
            .swarms
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(swarm);
        if let Some(left) = left {
            left.close_all(&CloseReason::Leaving);
        }
    }

    /// A swarm that was joined.
    #[must_use]
    pub fn get(&self, swarm: &InfoHash) -> Option<Arc<Swarm>> {
        self.0.get(swarm)
    }

    fn all(&self) -> Vec<Arc<Swarm>> {
        self.0.all()
    }

    /// Tells of somebody who may be in a swarm.
    pub fn add_peer(&self, swarm: &Swarm, address: SocketAddr, origin: Origin) {
        swarm.learn(address, origin);
        self.0.known_changed.notify_one();
    }

    /// Accepts connections for ever. Cancel it by dropping.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn accept(&self, listener: TcpListener) -> io::Result<()> {
        connection::accept(&self.0, listener).await
    }

    /// Keeps the swarms going: time, places, connections to make. For ever; drop it to stop.
    pub async fn run(&self) {
        tokio::join!(self.0.pass_time(), self.0.give_places(), dial::run(&self.0));
    }

    /// Says goodbye: closes all connections, and gives peers a moment to notice.
    pub async fn shut_down(&self) {
        let _ = self.0.leaving.send_replace(true);
        for swarm in self.all() {
            swarm.close_all(&CloseReason::Leaving);
        }
        let end = Instant::now() + LEAVE;
        while self.0.connections.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Connections that there are now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Addresses that nobody deals with now because they lied, and lies since the start.
    #[must_use]
    pub fn banned(&self) -> (Vec<IpAddr>, u64) {
        let blame = lock(&self.0.blame);
        (blame.banned(self.0.now()), blame.counts().0)
    }
}

impl Shared {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    fn limits(&self) -> PeerLimits {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn get(&self, swarm: &InfoHash) -> Option<Arc<Swarm>> {
        let swarms = self.swarms.read().unwrap_or_else(PoisonError::into_inner);
        swarms.get(swarm).cloned()
    }

    fn all(&self) -> Vec<Arc<Swarm>> {
        let swarms = self.swarms.read().unwrap_or_else(PoisonError::into_inner);
        swarms.values().cloned().collect()
    }

    fn next_key(&self) -> PeerKey {
        PeerKey(self.last_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether to deal with somebody at an address.
    fn admits(&self, address: IpAddr) -> bool {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        limits.policy.admits(address) && !lock(&self.blame).is_banned(address, self.now())
    }

    async fn pass_time(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for swarm in self.all() {
                let now = self.now();
                swarm.with(|session| session.tick(now));
            }
        }
    }

    /// Gives places to those who want to be served, at once where one is free, anew with every round.
    async fn give_places(&self) {
        let mut next_round = self.now();
        loop {
            let now = self.now();
            let is_round = now >= next_round;
            if is_round {
                next_round = now.plus(instantmirror_core::swarm::choker::ROUND);
            }
            self.decide_places(is_round, now);
            let rest = next_round.since(self.now());
            let _ = tokio::time::timeout(rest, self.takers_changed.notified()).await;
        }
    }

    fn decide_places(&self, is_round: bool, now: Moment) {
        let swarms = self.all();
        let mut takers = Vec::new();
        for swarm in &swarms {
            takers.extend(swarm.with(|session| session.takers(is_round)));
        }
        let (fresh, gone) = lock(&self.choker).decide(&takers, now);
        for swarm in &swarms {
            swarm.with(|session| {
                gone.iter().for_each(|key| session.set_served(*key, false, now));
                fresh.iter().for_each(|key| session.set_served(*key, true, now));
            });
        }
    }

    /// Waits until a rate allows for more bytes.
    async fn pace(&self, throttle: &Mutex<Option<Throttle>>, bytes: u64) {
        let now = self.now();
        let next = lock(throttle).as_mut().map(|throttle| throttle.take(now, bytes));
        if let Some(wait) = next.map(|next| next.since(now)).filter(|wait| !wait.is_zero()) {
            tokio::time::sleep(wait).await;
        }
    }
}
