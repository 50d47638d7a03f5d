//! imfs: the snapshots of a [`Catalogs`] as a file system. Under construction: the border between the tree and the kernel is there.
//!
//! Key decision: **the inode logic is pure and the kernel's side is thin.** Snapshots never change, so a file needs no
//! inode table: its number will follow from its place in the catalog, and the kernel may keep names and attributes for
//! ever. A frontend meets the rest of the system where imhttpd does, and implements nothing of its own there:
//!
//! * [`Catalogs`] says which repositories and snapshots there are;
//! * [`NodeSource`] gives the catalog's nodes, for lookups and listings;
//! * [`ObjectSource`] opens a file that is here or being fetched, and
//!   [`ObjectReader::descriptor`](instantmirror_core::traits::ObjectReader::descriptor) is what the kernel can be handed
//!   to read a complete one by itself.
//!
//! It will know nothing of HTTP, and nothing of how objects arrive.
//!
//! [`Catalogs`]: instantmirror_core::traits::Catalogs
//! [`NodeSource`]: instantmirror_core::catalog::NodeSource
//! [`ObjectSource`]: instantmirror_core::traits::ObjectSource

mod filesystem;
mod kernel;
mod session;

pub use kernel::mount::{Method, Mount, MountError, MountOptions, Unmount};
pub use session::{Counters, OpenRequests, Passthrough, Protocol, Session, SessionError, SessionOptions};

pub use filesystem::{
    Attributes, BackingId, Content, Errno, FileKind, FileSystem, FileSystemSize, Found, Handle, InodeId, Kernel,
    Lookup, OpenMode, Opened, Read, ReadReply, Row, Rows, Validity,
};
