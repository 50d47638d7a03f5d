//! InstantMirror: software trees as signed snapshots that every mirror shows whole at once.
//!
//! Key decision: **this crate assembles, it decides nothing.** [`Master`], [`Node`] and [`Tracker`] put the parts of the
//! library crates together as the reference programs `imserver`, `imnode` and `imtracker` run them; who needs another
//! assembly takes the parts themselves.
//!
//! * [`config`]: the TOML files of the daemons.
//! * [`Master`]: publishes source trees and serves them to nodes; [`MasterServer`] is it with open sockets.
//! * [`Node`]: shows every snapshot whole and fetches on demand; [`NodeServer`] likewise.
//! * [`Tracker`]: who is in which swarm; [`TrackerServer`] likewise.
//! * [`control`], [`daemon`]: what the programs around them need.
//!
//! ```no_run
//! use std::path::Path;
//! use instantmirror::config::ServerConfig;
//! use instantmirror::{Master, NoProgress, PublishOptions};
//!
//! let config = ServerConfig::load(Path::new("imserver.toml"))?;
//! Master::init(&config)?;
//! let master = Master::open(config)?;
//! println!("nodes have to trust {}", master.public_key());
//! println!("{:?}", master.publish(&"debian".parse()?, &PublishOptions::default(), &NoProgress)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod background;
pub mod bars;
pub mod blocking;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod export;
mod logging;
pub mod master;
pub mod node;
pub mod peering;
pub mod progress;
mod serve;
pub mod text;
mod tls;
pub mod torrent;
pub mod tracker;
pub mod upkeep;

pub use instantmirror_core as core;
pub use instantmirror_http as httpd;
pub use instantmirror_store as store;
pub use instantmirror_swarm as swarm;
pub use instantmirror_tracker as trackerd;

pub use master::{Master, MasterError, MasterServer, NoProgress, PublishOptions, PublishProgress, Published};
pub use node::{Node, NodeBuilder, NodeError, NodeServer};
pub use serve::{Frontend, HttpStatus, OpenError};
pub use tls::TlsError;
pub use tracker::{Tracker, TrackerError, TrackerServer};

/// Its code is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
