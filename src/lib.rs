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
//! The features `master`, `node` and `tracker`, all on by default, choose among the three.
//!
#![cfg_attr(feature = "master", doc = "```no_run")]
#![cfg_attr(not(feature = "master"), doc = "```ignore")]
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
// The build with all features tells what nobody uses.
#![cfg_attr(
    not(all(feature = "master", feature = "node", feature = "tracker")),
    allow(
        dead_code,
        unused_imports,
        reason = "some of what the daemons share is used by one of them alone"
    )
)]

mod background;
pub mod bars;
pub mod blocking;
mod build_error;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod export;
mod heads;
mod layout;
mod logging;
#[cfg(feature = "master")]
pub mod master;
#[cfg(feature = "node")]
pub mod node;
pub mod peering;
pub mod progress;
mod reload;
#[cfg(any(feature = "master", feature = "node"))]
mod repositories;
mod serve;
pub mod text;
mod tls;
pub mod torrent;
#[cfg(feature = "tracker")]
pub mod tracker;
#[cfg(feature = "node")]
pub mod upkeep;
#[cfg(any(feature = "master", feature = "node"))]
mod verifying_store;

pub use instantmirror_core as core;
pub use instantmirror_http as httpd;
pub use instantmirror_store as store;
pub use instantmirror_swarm as swarm;
#[cfg(feature = "tracker")]
pub use instantmirror_tracker as trackerd;

pub use build_error::BuildError;
#[cfg(feature = "master")]
pub use master::{
    Master, MasterBuilder, MasterError, MasterServer, NoProgress, PublishOptions, PublishProgress, Published,
};
#[cfg(feature = "node")]
pub use node::{Node, NodeBuilder, NodeError, NodeServer};
pub use reload::{Reloaded, Reloader};
pub use serve::{Frontend, HttpStatus, OpenError};
pub use tls::TlsError;
#[cfg(feature = "tracker")]
pub use tracker::{Tracker, TrackerBuilder, TrackerError, TrackerServer};

/// Its code is compiled with the documentation tests.
#[cfg(all(doctest, feature = "master", feature = "node", feature = "tracker", feature = "tls"))]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
