//! The model, the traits and the decisions of InstantMirror.
//!
//! Key decision: **core decides, shells do.** Everything here is data or a plain function of its
//! arguments. There is no file, no socket, no clock, no runtime and no `unsafe`, so all of it can be
//! tested in virtual time, and an embedder can put any I/O around it.
//!
//! * What is published: [`Name`], [`RepoPath`], [`Entry`], [`catalog`], [`changes`], [`Snapshot`], [`Head`].
//! * What proves it: [`ObjectId`], [`outboard`], [`sign`].
//! * What others' torrent clients read: [`bencode`], [`metainfo`].
//! * Where parts meet: [`traits`], with [`memory`] implementations and (feature `conformance`) suites.
//! * What is decided: [`scheduler`], [`fill`], [`sources`], [`throttle`], [`readahead`], [`preseed`], [`bundle`],
//!   [`popularity`], [`expiry`], [`view`], [`order`], [`grace`], [`companion`], [`retention`], [`appearance`].
//!
//! ```
//! use instantmirror_core::catalog::{Catalog, build_directory};
//! use instantmirror_core::memory::MemoryStore;
//! use instantmirror_core::{Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoPath};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let object = ObjectId::of(b"hello\n");
//! let file = FileMeta { size: 6, object, first_piece: 0, link_group: None };
//! let meta = Meta { mode: 0o644, mtime: 1_700_000_000, kind: Kind::File(file) };
//! let store = MemoryStore::new();
//! let root = build_directory(&[Entry { name: Name::new("hello.txt")?, meta: meta.clone() }], &mut |node| {
//!     store.insert_node(node)
//! })?;
//! let root = Meta { mode: 0o755, mtime: 0, kind: Kind::Directory(root) };
//! assert_eq!(Catalog::new(&store, root).lookup(&RepoPath::new("hello.txt")?)?, Some(meta));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod address;
pub mod appearance;
pub mod batch;
pub mod bencode;
pub mod bundle;
pub mod catalog;
pub mod changes;
pub mod companion;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod entry;
pub mod expiry;
pub mod filelist;
pub mod fill;
pub mod grace;
pub mod head;
pub mod heads;
pub mod id;
pub mod keys;
pub mod log_limit;
pub mod memory;
pub mod metainfo;
pub mod name;
pub mod order;
pub mod outboard;
pub mod popularity;
pub mod preseed;
pub mod range_set;
pub mod readahead;
pub mod reader;
pub mod retention;
pub mod rules;
pub mod scheduler;
pub mod sign;
pub mod snapshot;
pub mod snapshot_ref;
pub mod sources;
pub mod spare;
pub mod swarm;
pub mod throttle;
pub mod time;
pub mod traits;
pub mod url;
pub mod view;

pub use entry::{Directory, Entry, FileMeta, Kind, Meta};
pub use head::{Head, HeadError, SignedHead};
pub use heads::{HeadMark, HeadMarks};
pub use id::{IdError, NodeId, NodeName, ObjectId, RecordId, RepoName, SnapshotId, TagName};
pub use keys::{KeyChain, KeyList, KeysError};
pub use name::{Name, NameError, RepoPath};
pub use outboard::Outboard;
pub use range_set::RangeSet;
pub use sign::{PublicKey, SecretKey, SignError};
pub use snapshot::{RecordError, Root, Snapshot};
pub use time::{Clock, Moment, Timestamp};
pub use traits::{CacheError, FetchError, StoreError, TransportError};
