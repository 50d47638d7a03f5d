//! The server over loopback sockets: real requests, published trees and objects in memory, faults on order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admission;
mod api;
mod background;
mod caching;
mod client;
mod engine;
mod failures;
mod hostile;
#[cfg(feature = "http2")]
mod observe;
mod pages;
mod server;
mod slow;
mod torrents;
mod trees;
mod world;
