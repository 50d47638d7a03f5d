//! Swarms as status pages show them.

use std::fmt::{self, Write as _};

use instantmirror_swarm::peer::Swarms;
use serde::{Deserialize, Serialize};

use crate::config::{ByteRate, ByteSize};

/// All swarms of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SwarmsStatus {
    /// Each of them.
    pub swarms: Vec<SwarmStatus>,
    /// Connections of all.
    pub connections: usize,
    /// Addresses that nobody deals with now, because what came from there did not verify.
    pub banned: Vec<String>,
    /// Groups that did not verify since the start.
    pub lies: u64,
}

/// One swarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwarmStatus {
    /// Which.
    pub info_hash: String,
    /// What it is of.
    pub name: String,
    /// It is that of an export torrent.
    #[serde(default)]
    pub is_torrent: bool,
    /// Pieces that are here.
    pub have: u64,
    /// Copies of a piece on average, ours included.
    pub availability: f64,
    /// Addresses that are known.
    pub known: usize,
    /// Bytes that came and were good.
    pub received_bytes: u64,
    /// Bytes that came from masters as peers; the rest is what mirrors gave each other.
    pub master_bytes: u64,
    /// Bytes that came twice or too late.
    pub wasted_bytes: u64,
    /// Bytes that came and did not verify.
    pub bad_bytes: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Where it is.
    pub address: String,
    /// What it says that it is.
    pub client: String,
    /// Bytes per second from it.
    pub down_rate: u64,
    /// Bytes per second to it.
    pub up_rate: u64,
    /// Bytes from it.
    pub down_bytes: u64,
    /// Bytes to it.
    pub up_bytes: u64,
    /// It answers us.
    pub serves_us: bool,
    /// We answer it.
    pub is_served: bool,
    /// It proved that it may have what is not released.
    pub is_authorised: bool,
    /// Pieces that it has; without a number: all.
    pub pieces: Option<u64>,
}

impl SwarmStatus {
    /// One of perhaps hundreds in which nothing happens, and nothing has happened.
    fn is_quiet(&self) -> bool {
        self.is_torrent && self.peers.is_empty() && self.received_bytes + self.sent_bytes == 0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and below 2^53"
)]
fn whole(rate: f64) -> u64 {
    rate.max(0.0) as u64
}

impl SwarmsStatus {
    /// As it is now. `name` tells what a swarm is of.
    #[must_use]
    pub fn of(swarms: &Swarms, name: &dyn Fn(&str) -> Option<String>) -> Self {
        let (banned, lies) = swarms.banned();
        let all = swarms.status().into_iter().map(|status| {
            let info_hash = status.info_hash.to_string();
            let peers = status.session.peers.iter().map(|peer| PeerStatus {
                address: peer.address.to_string(),
                client: peer.client.clone().unwrap_or_default(),
                down_rate: whole(peer.down),
                up_rate: whole(peer.up),
                down_bytes: peer.down_bytes,
                up_bytes: peer.up_bytes,
                serves_us: !peer.chokes_us,
                is_served: !peer.is_choked,
                is_authorised: peer.is_proven,
                pieces: peer.pieces,
            });
            let counts = status.session.counts;
            SwarmStatus {
                name: name(&info_hash).unwrap_or_default(),
                is_torrent: swarms.get(&status.info_hash).is_some_and(|swarm| swarm.is_fixed()),
                info_hash,
                have: status.session.have,
                availability: status.session.availability,
                known: status.known,
                received_bytes: counts.good_bytes,
                master_bytes: counts.master_bytes,
                wasted_bytes: counts.wasted_bytes,
                bad_bytes: counts.bad_bytes,
                sent_bytes: counts.sent_bytes,
                peers: peers.collect(),
            }
        });
        Self {
            swarms: all.collect(),
            connections: swarms.connections(),
            banned: banned.iter().map(ToString::to_string).collect(),
            lies,
        }
    }
}

impl fmt::Display for SwarmsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut quiet = 0;
        for swarm in &self.swarms {
            if swarm.is_quiet() {
                quiet += 1;
                continue;
            }
            writeln!(
                f,
                "swarm {} ({}): {} peers, {} addresses known; {} received ({} from masters), {} sent, {} wasted; \
                 {:.1} copies of a piece",
                swarm.name,
                &swarm.info_hash[..swarm.info_hash.len().min(8)],
                swarm.peers.len(),
                swarm.known,
                ByteSize(swarm.received_bytes),
                ByteSize(swarm.master_bytes),
                ByteSize(swarm.sent_bytes),
                ByteSize(swarm.wasted_bytes + swarm.bad_bytes),
                swarm.availability,
            )?;
            for peer in &swarm.peers {
                let pieces = peer
                    .pieces
                    .map_or_else(|| "all".to_owned(), |pieces| pieces.to_string());
                let mut notes = String::new();
                for (holds, note) in [
                    (!peer.serves_us, ", chokes us"),
                    (!peer.is_served, ", choked"),
                    (peer.is_authorised, ", authorised"),
                ] {
                    if holds {
                        write!(notes, "{note}")?;
                    }
                }
                writeln!(
                    f,
                    "  {} {}: {pieces} pieces; {} ({}) from it, {} ({}) to it{notes}",
                    peer.address,
                    peer.client,
                    ByteSize(peer.down_bytes),
                    ByteRate(peer.down_rate),
                    ByteSize(peer.up_bytes),
                    ByteRate(peer.up_rate),
                )?;
            }
        }
        if quiet > 0 {
            writeln!(f, "swarms of torrents without peers: {quiet}")?;
        }
        if !self.banned.is_empty() {
            writeln!(f, "peers that lied, left alone: {}", self.banned.join(", "))?;
        }
        Ok(())
    }
}
