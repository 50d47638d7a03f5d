//! End to end: the real programs, real input, real clients. One binary, so that it links once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod ahead;
mod announce;
mod attacks;
mod bad_input;
mod between;
mod browser;
mod cache;
mod clients;
mod command_line;
mod consistency;
mod crowd;
mod curl;
mod debian;
mod delta_clients;
mod export;
mod grace;
mod keys;
mod kill;
mod kill_cache;
mod kill_heads;
mod lifecycle;
mod link;
mod local_tags;
mod mirror_clients;
mod owner;
mod publish;
mod restart;
mod sites;
mod source_rules;
mod staging;
mod swarm;
mod swarm_clients;
mod takedown;
mod tls;
mod torrent;
mod torrents_of_others;
mod tracker;
mod tracker_world;
mod tree;
mod upkeep;
mod visitors;
mod wire;
mod world;
mod yum;
