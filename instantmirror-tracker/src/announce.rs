//! What is asked and what is answered, whatever carries it.

use std::net::IpAddr;

use crate::{InfoHash, PeerId};

/// Why a peer announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Event {
    /// Because it is time to.
    #[default]
    Regular,
    /// It begins.
    Started,
    /// It goes.
    Stopped,
    /// It has all there is, since now.
    Completed,
    /// It has all that it wants and not all there is: a partial seed (BEP 21).
    Paused,
}

/// A peer tells that it is there. Its address is where the request comes from, never what the request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// Of which torrent.
    pub info_hash: InfoHash,
    /// What it calls itself.
    pub peer_id: PeerId,
    /// Where it listens, not 0.
    pub port: u16,
    /// Bytes that it lacks; `None` if it does not say.
    pub left: Option<u64>,
    /// Why.
    pub event: Event,
    /// How many peers it wants; `None` if it leaves that to us.
    pub wanted: Option<u32>,
    /// A number that only this run of the peer knows; 0 if it has none. Who has neither it nor the id cannot take it out.
    pub key: u32,
}

/// Somebody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// Its address.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// What it calls itself.
    pub id: PeerId,
}

/// How many there are of one torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scraped {
    /// Peers that have all of it.
    pub complete: u32,
    /// Peers that do not, partial seeds among them.
    pub incomplete: u32,
    /// Those of the incomplete that still want something (BEP 21).
    pub downloaders: u32,
    /// How often somebody completed it, since the tracker was started.
    pub downloaded: u32,
}

/// The answer to an [`Announce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Seconds until the next one is expected.
    pub interval_s: u32,
    /// Seconds before which the next one is not wanted.
    pub interval_min_s: u32,
    /// How many there are.
    pub swarm: Scraped,
    /// Some of them.
    pub peers: Vec<Contact>,
    /// What the peer should know though it is served.
    pub warning: Option<&'static str>,
}

/// Why a request gets no answer but this. The text is sent to the client, which shows it to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The torrent is not on the list.
    #[error("this tracker does not serve this torrent")]
    NotAllowed,
    /// Too many requests from this address.
    #[error("too many requests from your address; wait a minute")]
    TooOften,
    /// One address wants to be many peers.
    #[error("too many peers of this torrent at your address")]
    TooManyPeers,
    /// Nobody can connect to where the request comes from.
    #[error("requests from this address cannot be served: nobody could connect to it")]
    Unreachable,
}
