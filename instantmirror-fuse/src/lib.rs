//! imfs: the snapshots of a [`Catalogs`] as a file system.
//!
//! Key decision: **the inode logic is pure and the kernel's side is thin.** Snapshots never change, so a file needs no
//! inode table: its number follows from its place in the catalog, and the kernel may keep names and attributes for
//! ever. A frontend meets the rest of the system where imhttpd does, and implements nothing of its own there:
//!
//! * [`Catalogs`] says which repositories and snapshots there are;
//! * [`NodeSource`] gives the catalog's nodes, for lookups and listings;
//! * [`ObjectSource`] opens a file that is here or being fetched, and
//!   [`ObjectReader::descriptor`](instantmirror_core::traits::ObjectReader::descriptor) is what the kernel can be handed
//!   to read a complete one by itself.
//!
//! It knows nothing of HTTP, and nothing of how objects arrive.
//!
//! [`Catalogs`]: instantmirror_core::traits::Catalogs
//! [`NodeSource`]: instantmirror_core::catalog::NodeSource
//! [`ObjectSource`]: instantmirror_core::traits::ObjectSource

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod filesystem;
#[cfg(fuzzing)]
pub mod fuzzing;
mod imfs;
mod kernel;
mod mount;
mod open;
mod session;
#[cfg(test)]
mod testing;
mod tree;

pub use imfs::{Executor, Imfs, ImfsOptions, ImfsStatus, Shown, ThreadExecutor};
pub use kernel::mount::{Method, Mount, MountError, MountOptions, Unmount};
pub use mount::{ImfsMountError, MountedImfs};
pub use session::{Counters, OpenRequests, Passthrough, Protocol, Session, SessionError, SessionOptions};
pub use tree::slot_log::{NoSlotStore, SlotFile, SlotStore};

pub use filesystem::{
    Attributes, BackingId, Content, Errno, FileKind, FileSystem, FileSystemSize, Found, Handle, InodeId, Kernel,
    Lookup, OpenMode, Opened, Read, ReadReply, Row, Rows, Validity,
};
