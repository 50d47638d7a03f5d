//! The client's side of trackers: telling them of us, and learning of others (BEP 3, 7, 12, 15, 23, 31, 41).
//!
//! [`http`] and [`udp`] are plain code, from request to bytes and from bytes to reply; [`Tiers`] says which tracker is next
//! and [`Schedule`] what it is told and when, driven by time and randomness that are passed in. [`Announcer`] moves the
//! bytes, and [`run`] keeps one swarm announced.
//!
//! A tracker is a stranger: whatever it answers is bounded, and nothing it answers stops us from asking the others. What
//! it tells of peers is hearsay; which of them we may connect to is for the caller to say.

mod client;
pub mod http;
mod keep;
mod schedule;
mod tiers;
pub mod udp;
mod url;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use instantmirror_core::metainfo::InfoHash;

pub use client::{Announcer, Timeouts};
pub use keep::{Heard, run};
pub use schedule::{Membership, Pace, Progress, Schedule, Step};
pub use tiers::{Next, TRACKERS_MAX, Tiers};
pub use url::{TrackerUrl, TrackerUrlError};

use crate::wire::PeerId;

/// The longest reply that is read.
pub const REPLY_BYTES_MAX: usize = 1 << 20;
/// So many peers are taken from one reply; the rest is passed over.
pub const REPLY_PEERS_MAX: usize = 1000;
/// As much is kept of what a tracker says to people.
const TEXT_BYTES_MAX: usize = 256;
/// As long a tracker id is sent back.
const TRACKER_ID_BYTES_MAX: usize = 256;
/// What is assumed of a tracker that does not say when it wants to hear of us again.
const INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Why we announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Event {
    /// Because it is time to.
    #[default]
    Regular,
    /// We begin.
    Started,
    /// We have all there is, since now.
    Completed,
    /// We go.
    Stopped,
    /// It is time to, and we have all that we want and not all there is: a partial seed (BEP 21).
    Paused,
}

/// What a tracker is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// Which torrent.
    pub info_hash: InfoHash,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Where we listen.
    pub port: u16,
    /// Bytes that we sent since we began.
    pub uploaded: u64,
    /// Bytes that we received since we began.
    pub downloaded: u64,
    /// Bytes that we lack.
    pub left: u64,
    /// Why.
    pub event: Event,
    /// How many peers we want; `None` leaves it to the tracker.
    pub wanted: Option<u32>,
    /// A random number that tells the tracker that it is still us after our address has changed.
    pub key: u32,
    /// What this tracker gave us to send back.
    pub tracker_id: Option<Vec<u8>>,
}

/// What a tracker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceReply {
    /// It wants to hear of us again then. As it was said: zero is possible, and so are years.
    pub interval: Duration,
    /// It does not want to hear of us before.
    pub interval_min: Option<Duration>,
    /// How many have everything.
    pub complete: Option<u32>,
    /// How many have not.
    pub incomplete: Option<u32>,
    /// Some of them, IPv4 first. There can be a connection to each of these addresses; whether there may be is not said.
    pub peers: Vec<SocketAddr>,
    /// What a person should know.
    pub warning: Option<String>,
    /// To be sent back with the next announce.
    pub tracker_id: Option<Vec<u8>>,
}

/// When a tracker that refused may be asked again (BEP 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It did not say.
    Unsaid,
    /// Not before.
    After(Duration),
    /// Never.
    Never,
}

/// Why an announce brought no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// The tracker says no, and why.
    #[error("the tracker refuses: {reason}")]
    Refused {
        /// In its words.
        reason: String,
        /// Whether it is worth to ask again.
        retry: Retry,
    },
    /// There was no answer, or no way there.
    #[error("the tracker cannot be reached: {0}")]
    Unreachable(String),
    /// What it answered is no answer.
    #[error("the tracker's answer makes no sense: {0}")]
    Reply(String),
}

impl AnnounceError {
    /// When to ask again, as far as the tracker said so.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { retry, .. } => *retry,
            _ => Retry::Unsaid,
        }
    }
}

/// Whether anybody could be at this address.
fn is_place(address: &SocketAddr) -> bool {
    let is_somewhere = match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    is_somewhere && address.port() != 0
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "regular",
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
        })
    }
}

#[cfg(test)]
fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash::from_bytes(*b"\x00\xffabcdefghijk %&=+-z"),
        peer_id: PeerId(*b"-IM0100-0123456789ab"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: Event::Started,
        wanted: Some(50),
        key: 0xbeef,
        tracker_id: None,
    }
}
