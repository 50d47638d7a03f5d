//! The borders of the system. Whoever replaces a part implements one of these; the conformance suites
//! (feature `conformance`) say whether it does so rightly.
//!
//! | trait | stands for | implemented by | suite |
//! |---|---|---|---|
//! | [`SnapshotStore`] | catalogs, records and heads, durable; synchronous | `DiskSnapshotStore`, [`MemoryStore`] | `snapshot_store` |
//! | [`Objects`] | objects that can be read | `ObjectStore`, `DiskCache`, [`MemoryCache`], [`MemoryStorage`], [`Blocking`] | `objects` |
//! | [`ObjectCache`] | whole and partial objects within hard limits | `DiskCache`, [`MemoryCache`], [`Blocking`] | `object_cache` |
//! | [`ObjectStorage`] | whole objects, durable until they are removed: what a master publishes | [`MemoryStorage`] | `object_storage` |
//! | [`Pins`], [`Inventory`], [`Quota`], [`Sweeper`] | services that a cache may offer | `DiskCache`, [`MemoryCache`], [`Blocking`] | `pins`, … |
//! | [`Scrubber`], [`Adoption`] | the same, of caches on a disk | `DiskCache`, [`Blocking`] | |
//! | [`PeerTransport`] | one side that has objects | `HttpOrigin`, [`MemoryTransport`] | `peer_transport` |
//! | [`Swarm`] | many who have parts of objects | `SwarmTransport`, [`MemorySwarm`] | `swarm` |
//! | [`Scheduler`] | what to fetch next | [`PriorityScheduler`](crate::scheduler::PriorityScheduler) | `scheduler` |
//! | [`Upstream`] | somebody who has heads and catalogs | `HttpOrigin`, [`MemoryCatalogs`] | `upstream` |
//! | [`Catalogs`] | published trees, for frontends | `MasterPublication`, `NodePublication`, [`MemoryCatalogs`] | `catalogs` |
//! | [`ObjectSource`] | their content, brought from wherever it is | `FetchEngine`, those of the three above | `object_source` |
//! | [`NodeApi`] | heads, keys and swarms, for nodes that ask | the same | `node_api` |
//! | [`Annotations`] | digests, duplicates and torrents beside content | the same | `annotations` |
//!
//! Each suite is a macro of this crate (feature `conformance`), `object_cache_conformance!` for instance, and every implementation
//! named here runs it.
//!
//! [`Blocking`]: blocking::Blocking
//! [`MemoryCache`]: crate::memory::MemoryCache
//! [`MemoryCatalogs`]: crate::memory::MemoryCatalogs
//! [`MemoryStore`]: crate::memory::MemoryStore
//! [`MemoryStorage`]: crate::memory::MemoryStorage
//! [`MemorySwarm`]: crate::memory::MemorySwarm
//! [`MemoryTransport`]: crate::memory::MemoryTransport
//!
//! All are object safe and free of any runtime: futures may be polled by any executor, and dropping one
//! cancels the work at the next await point, leaving nothing half done that a later call could see.
//!
//! A future must not block the thread that polls it. An implementation that cannot help it (files) says so in its
//! documentation, and is given to async callers inside [`Blocking`].

pub mod blocking;
mod cache;
mod error;
mod frontend;
mod scheduler;
mod services;
mod storage;
mod store;
mod transport;

pub use cache::{CacheEvent, CacheObserver, CacheUsage, ObjectCache, ObjectFill, ObjectHandle, Objects};
pub use error::{CacheError, Cause, FetchError, StoreError, TransportError};
pub use frontend::{
    Annotations, Catalogs, Duplicate, NodeApi, ObjectReader, ObjectSource, Provenance, ReadIntent, TorrentLink,
    moved_of,
};
pub use scheduler::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket};
pub use services::{
    AdoptedFile, Adoption, CacheLimits, Capacity, Checked, Finding, FreeSpace, Inventory, Marking, PinSet, Pins, Quota,
    Scrub, Scrubber, Standings, Subset, Sweeper, Swept,
};
pub use storage::{ObjectStorage, ObjectUpload};
pub use store::{CatalogGarbage, Collected, SnapshotStore};
pub use transport::{
    BatchItem, ByteStream, Group, GroupRequest, GroupStream, HeadNews, PeerTransport, Receipt, Swarm, Transport,
    Upstream,
};
