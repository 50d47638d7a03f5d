//! [`FileSystem`]: the requests of the kernel that a read-only file system answers, free of the kernel's wire format.
//!
//! Decision: a trait of our own lies between the tree and `/dev/fuse`. The tree is driven without a kernel in tests, and the
//! session without a tree. Everything answers at once, from memory or a local disk, but for [`read`](FileSystem::read), which
//! may wait for the network: it gets its reply as a value that any thread can complete later. Open and lookup that wait would
//! stop a whole worker of a web server, and every SIGKILL.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// The number by which the kernel names a file, directory or symlink in its requests: FUSE's *nodeid*. It is not what
/// programs see in `st_ino` ([`Attributes::ino`]): hard-linked names share that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root of the mount, a fixed number (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
}

/// The name of an opened file in [`FileSystem::read`] and [`FileSystem::release`]; chosen by [`FileSystem::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// An error number (`errno(3)`) that answers a request.
pub use rustix::io::Errno;

/// File, directory or symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
}

/// The attributes that `stat(2)` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// `st_ino`.
    pub ino: u64,
    /// The kind.
    pub kind: FileKind,
    /// Permission bits, at most `0o7777`.
    pub mode: u16,
    /// Link count.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content, or of the symlink's target.
    pub size: u64,
    /// Modification time in seconds since 1970; the other times are shown as the same.
    pub mtime: i64,
}

/// How long the kernel may keep something without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For ever: it never changes, or [`Kernel::invalidate_entry`] or [`Kernel::invalidate_inode`] tells when it does.
    Forever,
    /// For this time; zero for not at all.
    For(Duration),
}

/// The answer to a lookup that found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number in later requests.
    pub inode: InodeId,
    /// Its attributes.
    pub attributes: Attributes,
    /// How long the name stands for this inode.
    pub entry_validity: Validity,
    /// How long the attributes hold.
    pub attribute_validity: Validity,
}

/// The answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The name exists.
    Found(Found),
    /// It does not, and the kernel may keep that for this time.
    Absent(Validity),
}

/// How the kernel reads an opened file.
#[derive(Debug)]
pub enum OpenMode {
    /// By [`FileSystem::read`], through the page cache, which is kept from one open to the next.
    Cached,
    /// By [`FileSystem::read`], past the page cache.
    Direct,
    /// By itself, from this backing file (FUSE passthrough). All opens of an inode at a time have the same.
    Passthrough(BackingId),
}

/// The number of a backing file that the kernel knows, from [`Kernel::back`] to [`Kernel::unback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackingId(pub u32);

/// An opened file.
#[derive(Debug)]
pub struct Opened {
    /// Its name in later requests.
    pub handle: Handle,
    /// How it is read.
    pub mode: OpenMode,
}

/// One row of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Where the listing goes on behind it; never 0.
    pub next: u64,
    /// Its inode. Listings with attributes (READDIRPLUS) count as a lookup of it, but for `.` and `..`.
    pub found: Found,
}

/// Takes rows until its buffer is full.
pub trait Rows {
    /// Adds a row; `false` if there is no room for it: it is the first one of the next request then.
    #[must_use]
    fn push(&mut self, row: &Row<'_>) -> bool;
}

/// The sizes that `statfs(2)` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemSize {
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that are free.
    pub bytes_free: u64,
    /// Files, directories and symlinks.
    pub files: u64,
}

/// The bytes that a read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// The file.
    pub inode: InodeId,
    /// As it was opened; of no meaning where no open was asked for.
    pub handle: Handle,
    /// The first byte.
    pub offset: u64,
    /// How many; the answer is shorter only at the end of the file.
    pub len: u32,
}

/// The bytes that answer a read.
#[derive(Debug)]
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// These bytes of a file; the session reads them, and answers EIO if the file ends before.
    File {
        /// The file.
        file: OwnedFd,
        /// Where they begin.
        offset: u64,
        /// How many.
        len: usize,
    },
}

/// The reply to a read, to be completed once, from any thread. Dropping it answers EIO.
pub trait ReadReply: Send {
    /// Answers with content or an error.
    fn complete(self: Box<Self>, result: Result<Content, Errno>);

    /// Calls `wake` once if the reader is interrupted (a signal that kills it) before the reply is complete, at once if it was
    /// already. An interrupted read is to be completed soon, with [`Errno::INTR`].
    fn on_interrupt(&self, wake: Box<dyn FnOnce() + Send>);
}

/// The kernel's side of a mount, as a file system sees it.
///
/// The invalidations must not be called while a request on the same directory is being answered by the caller: the kernel
/// holds a lock of the directory meanwhile.
pub trait Kernel: Send + Sync + 'static {
    /// Makes an open file a backing file for [`OpenMode::Passthrough`]. The caller may close its descriptor afterwards.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN in the initial user namespace, `EOPNOTSUPP` by a kernel without passthrough, others by
    /// files that cannot be backing files.
    fn back(&self, file: BorrowedFd<'_>) -> Result<BackingId, Errno>;

    /// Gives a backing file back; files that are open with it stay readable.
    fn unback(&self, id: BackingId);

    /// The kernel drops a name at once. **It unmounts what is mounted at or below that name**, so this is for names that move
    /// (`current`) alone.
    fn invalidate_entry(&self, parent: InodeId, name: &[u8]) -> Result<(), Errno>;

    /// The kernel asks for a name anew when it is used next; mounts below it stay (`FUSE_EXPIRE_ONLY`).
    fn expire_entry(&self, parent: InodeId, name: &[u8]) -> Result<(), Errno>;

    /// The kernel drops attributes and cached content of an inode; of a directory, its cached listing.
    fn invalidate_inode(&self, inode: InodeId) -> Result<(), Errno>;
}

/// A read-only file system.
///
/// Concurrency: requests overlap and come from any of the session's threads. Only [`read`](Self::read) may wait for the
/// network. Errors: an [`Errno`] for the program that asked.
pub trait FileSystem: Send + Sync + 'static {
    /// The mount is there: from now on `kernel` can be told what changed. Called once, before the first request.
    fn mounted(&self, kernel: Arc<dyn Kernel>) {
        let _ = kernel;
    }

    /// Looks a name up in a directory. `.` and `..` are looked up too, of directories that the kernel knows by their number
    /// alone (an NFS server after a restart): they find the directory itself, and its parent.
    fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Lookup, Errno>;

    /// The kernel forgets `lookups` finds of an inode.
    fn forget(&self, inode: InodeId, lookups: u64) {
        let _ = (inode, lookups);
    }

    /// The attributes of an inode, and how long they hold.
    fn attributes(&self, inode: InodeId) -> Result<(Attributes, Validity), Errno>;

    /// The target of a symlink.
    fn readlink(&self, inode: InodeId) -> Result<Bytes, Errno>;

    /// Opens a file for reading.
    fn open(&self, inode: InodeId) -> Result<Opened, Errno>;

    /// Reads from a file; the reply may be completed later.
    fn read(&self, read: Read, reply: Box<dyn ReadReply>);

    /// The last descriptor of an [`Opened`] is closed.
    fn release(&self, inode: InodeId, handle: Handle);

    /// Lists a directory, from the row behind `after` on (0: from the first one), `.` and `..` included. Rows keep their place
    /// for as long as the inode is known.
    fn list(&self, directory: InodeId, after: u64, rows: &mut dyn Rows) -> Result<(), Errno>;

    /// The size of the file system.
    fn statfs(&self) -> FileSystemSize;

    /// An extended attribute; [`Errno::NODATA`] if there is none of that name.
    fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes, Errno> {
        let _ = (inode, name);
        Err(Errno::NOSYS)
    }

    /// The names of the extended attributes of an inode.
    fn xattrs(&self, inode: InodeId) -> Result<Vec<Bytes>, Errno> {
        let _ = inode;
        Err(Errno::NOSYS)
    }
}
