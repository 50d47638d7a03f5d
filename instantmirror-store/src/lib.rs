//! The disk side of InstantMirror.
//!
//! Key decision: everything durable is either *published by rename* (whole or not there) or *appended and then
//! published by an index that is* (packs). Nothing that a reader can see is ever changed in place. The reason is that
//! this leaves two things to prove (a rename is atomic, a synced file keeps its bytes), and both are proved against a
//! disk that loses power (`disk::SimDisk`, feature `sim`).
//!
//! - [`disk`]: the seam to the file system, and its simulation.
//! - [`pack`]: append-only store of small immutable values by 32-byte key; catalogs and digests live in it.
//! - [`cache`]: whole and partial objects within hard limits, core's `ObjectCache`.
//! - [`snapshots`]: catalogs, records and heads, core's `SnapshotStore`.
//! - [`keyfile`]: which keys of a master are trusted.
//! - [`tree`], [`digest`], [`import`]: reading a source tree, hashing it in one pass, taking its files in.
//! - [`objects`], [`scan`]: the master's objects, and how a source tree becomes a catalog.
//! - `references`, [`garbage`]: what no snapshot refers to any more, counted and by looking at everything.
//! - [`metadata`]: whether a tree agrees with the repository metadata in it.
//!
//! Features, on by default: `metadata-check` (parsers and decoders of repository metadata) and `references` (SQLite, for masters).
//!
//! This crate never opens a socket, never needs an async runtime, and never trusts a byte that it has not checked.

pub mod cache;
pub mod digest;
pub mod disk;
mod error;
pub mod garbage;
pub mod import;
pub mod keyfile;
pub mod metadata;
pub mod objects;
pub mod pack;
pub mod piece_map;
mod read_once;
#[cfg(feature = "references")]
pub mod references;
pub mod scan;
pub mod snapshots;
mod sparse;
pub mod tree;

pub use error::{Result, StoreError};
