//! The swarms of a node or master: which there are, where their pieces lie, and who is in them.
//!
//! A repository has one swarm of its own, whose piece space only grows, so a publish costs it no connection. Masters name it
//! (`SwarmOffer`) and are its first peers. A cache tells what it comes to have (`have`); the fetch engine asks the swarm
//! for what it wants ([`SwarmTransport`](instantmirror_swarm::peer::SwarmTransport)). Torrents that are offered to everybody have
//! swarms of their own (`exports`), with the same objects behind them.

mod announce;
mod discover;
mod export;
mod exports;
mod have;
mod identity;
mod memory;
mod pieces;
mod repository;
mod status;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::address::Ipv4Wildcards;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::swarm::Random;
use instantmirror_swarm::announce::{Announcer, Timeouts};
use instantmirror_swarm::peer::{Swarm, Swarms};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{OutgoingConfig, PeersConfig};

use announce::{AnnounceAs, keep_announced};
pub(crate) use discover::discover;
pub(crate) use export::ExportPieces;
pub(crate) use exports::{ExportChanges, ExportTerms, Exports};
pub(crate) use have::{HaveKeeper, Share};
pub(crate) use identity::{SwarmIdentity, hex, unhex};
pub(crate) use memory::Remembered;
pub(crate) use pieces::RepositoryPieces;
pub(crate) use repository::{JoinAs, RepositorySwarm};
pub use status::{PeerStatus, SwarmStatus, SwarmsStatus};

/// Units of a swarm that may be asked for and not verified at a time: 16 MiB in memory.
const UNITS_MAX: usize = 256;

/// Why there is no swarm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// An address cannot be listened on.
    #[error("[peers] listen = {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// No randomness.
    #[error("the system has no random numbers: {0}")]
    Random(String),
}

/// What a master tells of a repository's swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwarmOffer {
    /// Which swarm: 40 hexadecimal digits.
    pub(crate) info_hash: String,
    /// Where the master listens for peers.
    pub(crate) ports: Vec<u16>,
    /// Trackers that know the swarm.
    #[serde(default)]
    pub(crate) trackers: Vec<String>,
    /// What only registered nodes are told: with it they prove to each other that they may have what is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
}

/// 32 bytes that nobody can guess.
pub(crate) fn drawn() -> Result<[u8; 32], SwarmError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| SwarmError::Random(error.to_string()))?;
    Ok(bytes)
}

/// The address and the sockets on which a daemon takes part in swarms.
#[derive(Debug)]
pub(crate) struct Peering {
    pub(crate) swarms: Swarms,
    /// The first port, which peers are told.
    pub(crate) port: Option<u16>,
    ports: Vec<u16>,
    listeners: std::sync::Mutex<Vec<TcpListener>>,
    random: std::sync::Mutex<Random>,
    /// Absent if it cannot be made, which the log has said.
    announcer: Option<Arc<Announcer>>,
    /// Swarms that are announced, each with the way to end it.
    announced: std::sync::Mutex<HashMap<InfoHash, Announced>>,
}

#[derive(Debug)]
struct Announced {
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn announcer(config: &PeersConfig, outgoing: &OutgoingConfig) -> Option<Arc<Announcer>> {
    let listen = config.limits().listen;
    let outgoing = config.outgoing.as_ref().unwrap_or(outgoing).load(&config.policy());
    let announcer = outgoing.and_then(|outgoing| {
        let announcer = Announcer::from_addresses(&outgoing, Timeouts::default(), &listen);
        announcer.map_err(|error| error.to_string())
    });
    match announcer {
        Ok(announcer) => Some(Arc::new(announcer)),
        Err(error) => {
            tracing::error!("trackers are not told of us: {error}");
            None
        }
    }
}

/// A new export torrent is announced so long after it was joined: trackers that ask masters what they offer do so every two
/// seconds.
const FIRST_ANNOUNCE: Duration = Duration::from_secs(3);
/// Connections that may wait to be accepted, as many as with tokio's `bind`.
const BACKLOG: u32 = 1024;
/// Trackers have so long to hear that we go.
const FAREWELL: Duration = Duration::from_secs(3);

/// What tokio's `bind` does, explicit about `IPV6_V6ONLY`.
fn open(address: SocketAddr, others: &Ipv4Wildcards) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, others.take_ipv4_of(&address))?;
        socket
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Peering {
    /// Opens the sockets; `None` if the configuration wants no swarm.
    ///
    /// # Errors
    /// [`SwarmError`].
    pub(crate) async fn open(config: &PeersConfig, outgoing: &OutgoingConfig) -> Result<Option<Arc<Self>>, SwarmError> {
        if config.listen.is_empty() {
            return Ok(None);
        }
        let mut listeners = Vec::with_capacity(config.listen.len());
        let wildcards = Ipv4Wildcards::among(&config.listen);
        for address in &config.listen {
            let listen = |source| SwarmError::Listen {
                address: *address,
                source,
            };
            listeners.push(open(*address, &wildcards).map_err(listen)?);
        }
        let secret = drawn()?;
        let ports: Vec<u16> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .map(|address| address.port())
            .collect();
        let seed = secret
            .iter()
            .fold(0_u64, |seed, byte| seed.rotate_left(8) ^ u64::from(*byte));
        Ok(Some(Arc::new(Self {
            swarms: Swarms::new(secret, config.limits()),
            port: ports.first().copied(),
            ports,
            listeners: std::sync::Mutex::new(listeners),
            random: std::sync::Mutex::new(Random::new(seed)),
            announcer: announcer(config, outgoing),
            announced: std::sync::Mutex::default(),
        })))
    }

    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    pub(crate) fn seed(&self) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        random.bits()
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, HashMap<InfoHash, Announced>> {
        self.announced.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells trackers of a swarm until it is [left](Self::leave). Must be called inside a tokio runtime.
    pub(crate) fn announce(&self, swarm: &Arc<Swarm>, trackers: &[String]) {
        self.announce_to(swarm, vec![trackers.to_vec()], Duration::ZERO);
    }

    /// The same of an export torrent, each tracker being asked when those before it do not answer: as everybody does who has
    /// the same list. A tracker has a moment to learn of a torrent that is new.
    pub(crate) fn announce_in_order(&self, swarm: &Arc<Swarm>, trackers: &[String]) {
        let tiers = trackers.iter().map(|tracker| vec![tracker.clone()]);
        self.announce_to(swarm, tiers.collect(), FIRST_ANNOUNCE);
    }

    fn announce_to(&self, swarm: &Arc<Swarm>, tiers: Vec<Vec<String>>, after: Duration) {
        let (Some(port), Some(announcer)) = (self.port, &self.announcer) else {
            return;
        };
        if tiers.iter().all(Vec::is_empty) {
            return self.say_goodbye(&swarm.info_hash());
        }
        let us = AnnounceAs {
            swarms: self.swarms.clone(),
            port,
            key: u32::try_from(self.seed() >> 32).unwrap_or(0),
            announcer: Arc::clone(announcer),
        };
        let (leave, leaves) = watch::channel(false);
        let announcing = keep_announced(us, Arc::clone(swarm), tiers, after, leaves);
        let task = tokio::spawn(announcing);
        if let Some(before) = self.announced().insert(swarm.info_hash(), Announced { leave, task }) {
            before.task.abort();
        }
    }

    /// Leaves a swarm: its trackers hear of it, its connections are closed.
    pub(crate) fn leave(&self, swarm: &InfoHash) {
        self.swarms.leave(swarm);
        self.say_goodbye(swarm);
    }

    /// Trackers are told that we are not in a swarm any more.
    fn say_goodbye(&self, swarm: &InfoHash) {
        if let Some(announced) = self.announced().remove(swarm) {
            // The task does so by itself.
            let _ = announced.leave.send(true);
        }
    }

    /// Leaves all swarms, and waits a moment for trackers and peers to hear of it.
    pub(crate) async fn shut_down(&self) {
        let announced: Vec<Announced> = self.announced().drain().map(|(_, announced)| announced).collect();
        for one in &announced {
            let _ = one.leave.send(true);
        }
        let farewells = futures_util::future::join_all(announced.into_iter().map(|one| one.task));
        let farewells = tokio::time::timeout(FAREWELL, farewells);
        let _ = futures_util::future::join(farewells, self.swarms.shut_down()).await;
    }

    /// Keeps all swarms going, for ever.
    pub(crate) async fn run(&self) {
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let accepting = listeners.into_iter().map(|listener| async {
            if let Err(error) = self.swarms.accept(listener).await {
                tracing::error!("peers cannot be accepted any more: {error}");
            }
        });
        let accepting = futures_util::future::join_all(accepting);
        futures_util::future::join(accepting, self.swarms.run()).await;
    }
}
