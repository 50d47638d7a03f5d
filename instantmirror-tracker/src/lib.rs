//! imtracker: who has what, and whom to ask.
//!
//! Key decision: **a tracker moves no data and is never believed about content.** What it hands out are addresses; what is
//! fetched from them is verified by whoever fetches it, so a lying or absent tracker costs time and never a wrong byte.
//!
//! Second decision: **everything that decides is plain code**, driven by arguments, time and source address included.
//!
//! * [`Registry`] knows which torrents are served, who is in which swarm, and how much anybody may ask.
//! * [`handout`] says which of them an asker gets; another policy is another [`HandOut`].
//! * [`http`] turns a query into a bencoded answer, [`udp`] a datagram into a datagram.
//! * [`UdpServer`] is the one driver here: a socket around [`udp`]. HTTP is carried by whatever server the embedder has.
//!
//! Memory is bounded by the torrents that are allowed and by [`Limits`], whatever is sent.
//!
//! ```
//! use std::time::Duration;
//! use instantmirror_tracker::{InfoHash, Limits, RandomSample, Registry, http};
//!
//! let mut registry = Registry::new(Limits::default(), Box::new(RandomSample), 42);
//! let torrent: InfoHash = "0123456789abcdef0123456789abcdef01234567".parse()?;
//! registry.allow([torrent].into());
//!
//! let query = "info_hash=%01%23Eg%89%ab%cd%ef%01%23Eg%89%ab%cd%ef%01%23Eg&peer_id=-XX0000-abcdefghijkl&port=6881&left=0";
//! let answer = http::announce(&mut registry, Duration::ZERO, "127.0.0.1".parse()?, query);
//! assert!(answer.starts_with(b"d8:completei1e"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod announce;
mod connection;
pub mod handout;
pub mod http;
mod id;
mod limits;
mod peers;
mod query;
mod rate;
mod registry;
mod server;
mod torrent;
pub mod udp;

pub use announce::{Announce, Announced, Contact, Event, Refusal, Scraped};
pub use connection::{CONNECTION_LIFETIME, ConnectionIds};
pub use handout::{HandOut, RandomSample};
pub use id::{InfoHash, InfoHashError, PeerId};
pub use limits::Limits;
pub use peers::Standing;
pub use registry::{Census, Counts, Registry};
pub use server::{UdpError, UdpServer};
pub use torrent::{TorrentError, info_hashes};
