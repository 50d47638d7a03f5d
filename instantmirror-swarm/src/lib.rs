//! Where InstantMirror gets its bytes from.
//!
//! Key decision: **what to fetch is decided in core, this crate carries it out.** A [`FetchEngine`] drives
//! core's scheduler and fill plans over any number of [`Transport`](instantmirror_core::traits::Transport)s
//! and lets nothing into the cache that was not verified; a [`Follower`] keeps a repository's head and
//! catalogs up with its master. [`HttpOrigin`] talks to a master over HTTP. BitTorrent stands in layers: [`wire`] is what
//! peers say to each other and [`session`] one swarm, both plain code; [`peer`] carries swarms on sockets, as a source of the
//! engine; [`announce`] finds peers by their trackers.
//!
//! This crate runs on tokio and never opens a file: objects go to an
//! [`ObjectCache`](instantmirror_core::traits::ObjectCache), catalogs to a
//! [`SnapshotStore`](instantmirror_core::traits::SnapshotStore).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod announce;
mod contacts;
pub mod fetch;
pub mod follow;
pub mod origin;
pub mod peer;
pub mod session;
mod text;
pub mod wire;

pub use fetch::{BatchDone, FetchEngine, FetchLimits, FetchStats, Transfer};
pub use follow::{FollowError, FollowStatus, Follower, Intake, TrustedKey};
pub use origin::HttpOrigin;
