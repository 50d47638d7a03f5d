//! A master and a node of these parts, and parts that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lying;
mod master;
mod node;
mod world;
