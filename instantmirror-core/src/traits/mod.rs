//! The borders of the system. Whoever replaces a part implements one of these; the conformance suites
//! (feature `conformance`) say whether it does so rightly.
//!
//! | trait | stands for | implemented by |
//! |---|---|---|
//! | [`SnapshotStore`] | catalogs, records and heads, durable | disk packs, memory |
//! | [`Objects`] | objects that can be read | disk cache, master's store, memory |
//! | [`ObjectCache`] | whole and partial objects within hard limits | disk, memory |
//! | [`PeerTransport`] | one side that has objects | HTTP origin, memory |
//! | [`Swarm`] | many who have parts of objects | BitTorrent swarms |
//! | [`Scheduler`] | what to fetch next | [`PriorityScheduler`](crate::scheduler::PriorityScheduler) |
//! | [`Upstream`] | somebody who has heads and catalogs | HTTP origin |
//! | [`Catalogs`], [`ObjectSource`] | the published trees and their content, for frontends | node, master |
//! | [`NodeApi`] | heads, keys and swarms, for nodes that ask | node, master |
//! | [`Annotations`] | digests, duplicates and torrents beside content | node, master |
//!
//! All are object safe and free of any runtime: futures may be polled by any executor, and dropping one
//! cancels the work at the next await point, leaving nothing half done that a later call could see.
//!
//! A future must not block the thread that polls it. An implementation that cannot help it (files) says so in its
//! documentation, and is given to async callers inside [`Blocking`](blocking::Blocking).

pub mod blocking;
mod cache;
mod error;
mod frontend;
mod scheduler;
mod store;
mod transport;

pub use cache::{CacheEvent, CacheObserver, CacheUsage, ObjectCache, ObjectFill, ObjectHandle, Objects};
pub use error::{CacheError, Cause, FetchError, StoreError, TransportError};
pub use frontend::{
    Annotations, Catalogs, Duplicate, NodeApi, ObjectReader, ObjectSource, Provenance, ReadIntent, TorrentLink,
    moved_of,
};
pub use scheduler::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket};
pub use store::SnapshotStore;
pub use transport::{
    BatchItem, ByteStream, Group, GroupRequest, GroupStream, HeadNews, PeerTransport, Receipt, Swarm, Transport,
    Upstream,
};
