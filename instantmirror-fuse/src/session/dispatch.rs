//! [`Server`]: takes the requests of one descriptor, hands each to the [`FileSystem`], and sends what it says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use super::counters::{MALFORMED, kind};
use super::options::OpenRequests;
use super::reply::{PendingRead, Reply, Traffic};
use crate::filesystem::{FileSystem, Handle, InodeId, OpenMode, Read};
use crate::kernel::device::Device;
use crate::kernel::reply::{self as wire, Listing};
use crate::kernel::request::{Operation, Request};
use crate::kernel::{REQUEST_BYTES_MAX, abi};

/// The largest listing that answers one request.
const LISTING_BYTES_MAX: usize = 1 << 20;

/// How often in a row the device may fail in a way that we do not know.
const FAILURES_MAX: u32 = 100;

/// How long to wait after such a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// The state that all threads of a session share.
pub(super) struct Server {
    pub(super) file_system: Arc<dyn FileSystem>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) open: OpenRequests,
}

impl Server {
    /// Serves until the mount is gone.
    pub(super) fn run(&self, device: &Arc<Device>) {
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        let mut failures = 0;
        while failures < FAILURES_MAX {
            match device.read(&mut buffer) {
                Ok(len) => {
                    failures = 0;
                    self.take(device, &buffer[..len]);
                }
                Err(Errno::NODEV | Errno::CONNABORTED) => return,
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "cannot read a request from /dev/fuse");
                    std::thread::sleep(FAILURE_PAUSE);
                }
            }
        }
    }

    /// One request. A panic ends it and nothing else.
    fn take(&self, device: &Arc<Device>, bytes: &[u8]) {
        let tally = &self.traffic.tally;
        let request = match Request::decode(bytes) {
            Ok(request) => request,
            Err(error) => {
                tally.operation(MALFORMED);
                tracing::warn!(%error, "cannot understand the kernel");
                if let Some(unique) = error.unique() {
                    Reply::new(device, &self.traffic, unique).refuse(Errno::IO);
                }
                return;
            }
        };
        tally.operation(kind(&request.operation));
        // Nothing of ours is left half-changed: the reply answers for itself, the rest are counters.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.answer(&request, Reply::new(device, &self.traffic, request.unique));
        }));
        if outcome.is_err() {
            tally.panics.add(1);
            tracing::error!(?request, "answering a request panicked; it was answered with EIO");
        }
    }

    fn answer(&self, request: &Request<'_>, reply: Reply) {
        let inode = request.inode;
        match request.operation {
            Operation::Read { handle, offset, len } => {
                let read = Read {
                    inode,
                    handle,
                    offset,
                    len,
                };
                self.file_system.read(read, Box::new(PendingRead::new(reply, len)));
            }
            Operation::Forget { lookups } => {
                reply.none();
                self.file_system.forget(inode, lookups);
            }
            Operation::ForgetMany(many) => {
                reply.none();
                for (inode, lookups) in many.iter() {
                    self.file_system.forget(inode, lookups);
                }
            }
            Operation::Interrupt { unique } => {
                reply.none();
                self.traffic.interrupts.interrupt(unique);
            }
            // A mount that was made writable (`mount -o remount,rw`) would write to backing files.
            Operation::Open { flags } if would_change(flags) => reply.refuse(Errno::ROFS),
            Operation::Open { .. } => self.open(inode, reply),
            Operation::Release { handle } => self.release(inode, handle, reply),
            Operation::Destroy => drop(reply.send_bytes(&[])),
            _ => match self.answer_at_once(request) {
                // Sending has its own way to say what fails.
                Ok(answer) => drop(answer.send(reply)),
                Err(error) => reply.refuse(error),
            },
        }
    }

    /// Requests that have their whole answer at hand.
    fn answer_at_once(&self, request: &Request<'_>) -> Result<Answer> {
        let inode = request.inode;
        match request.operation {
            Operation::Lookup { name } => self.lookup(inode, name),
            Operation::Attributes => self
                .file_system
                .attributes(inode)
                .map(|(attributes, time)| Answer::Attributes(wire::attributes(&attributes, time))),
            Operation::ReadLink => self.file_system.readlink(inode).map(Answer::Bytes),
            Operation::Statfs => Ok(Answer::Statfs(wire::statfs(&self.file_system.statfs()))),
            Operation::List { after, len, plus } => self.list(inode, after, len, plus),
            Operation::Xattr { name, len } => self.file_system.xattr(inode, name).and_then(|value| sized(value, len)),
            Operation::Xattrs { len } => self
                .file_system
                .xattrs(inode)
                .and_then(|names| sized(joined(&names), len)),
            Operation::Change => Err(Errno::ROFS),
            // OPENDIR too: the kernel then opens directories by itself, and caches their listings.
            _ => Err(Errno::NOSYS),
        }
    }

    fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Answer> {
        let lookup = self.file_system.lookup(parent, name)?;
        wire::entry(&lookup).map(Answer::Entry).ok_or(Errno::NOENT)
    }

    fn list(&self, directory: InodeId, after: u64, len: u32, plus: bool) -> Result<Answer> {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(LISTING_BYTES_MAX);
        let mut listing = Listing::new(len, plus);
        self.file_system.list(directory, after, &mut listing)?;
        Ok(Answer::Listing(listing))
    }

    fn open(&self, inode: InodeId, reply: Reply) {
        if self.open == OpenRequests::Never {
            return reply.refuse(Errno::NOSYS);
        }
        let opened = match self.file_system.open(inode) {
            Ok(opened) => opened,
            // It would be taken for "never ask again", for all files.
            Err(Errno::NOSYS) => return reply.refuse(Errno::IO),
            Err(error) => return reply.refuse(error),
        };
        let tally = &self.traffic.tally;
        tally.opens.add(1);
        if matches!(opened.mode, OpenMode::Passthrough(_)) {
            tally.passthrough_opens.add(1);
        }
        if reply.send(&wire::opened(&opened)).is_err() {
            // It was never opened, so nothing will close it.
            tally.releases.add(1);
            self.file_system.release(inode, opened.handle);
        }
    }

    fn release(&self, inode: InodeId, handle: Handle, reply: Reply) {
        self.traffic.tally.releases.add(1);
        self.file_system.release(inode, handle);
        let _ = reply.send_bytes(&[]);
    }
}

/// Whether an open is for more than reading.
fn would_change(flags: OFlags) -> bool {
    flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC)
}

/// An answer to a request, of any kind.
enum Answer {
    Entry(abi::EntryOut),
    Attributes(abi::AttrOut),
    Statfs(abi::StatfsOut),
    Size(abi::GetXattrOut),
    Listing(Listing),
    Bytes(bytes::Bytes),
}

impl Answer {
    fn send(&self, reply: Reply) -> Result<()> {
        match self {
            Self::Entry(out) => reply.send(out),
            Self::Attributes(out) => reply.send(out),
            Self::Statfs(out) => reply.send(out),
            Self::Size(out) => reply.send(out),
            Self::Listing(listing) => reply.send_bytes(listing.as_bytes()),
            Self::Bytes(bytes) => reply.send_bytes(bytes),
        }
    }
}

/// The value of an extended attribute, or its size if no room was offered.
fn sized(value: bytes::Bytes, len: u32) -> Result<Answer> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    match len {
        0 => Ok(Answer::Size(abi::GetXattrOut { size, padding: 0 })),
        len if size > len => Err(Errno::RANGE),
        _ => Ok(Answer::Bytes(value)),
    }
}

/// Names, each with a NUL behind it.
fn joined(names: &[bytes::Bytes]) -> bytes::Bytes {
    let mut list = Vec::new();
    for name in names {
        list.extend_from_slice(name);
        list.push(0);
    }
    list.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_sized_before_they_are_sent() {
        let value = || bytes::Bytes::from_static(b"value");
        assert!(matches!(sized(value(), 0), Ok(Answer::Size(out)) if out.size == 5));
        assert!(matches!(sized(value(), 4), Err(Errno::RANGE)));
        assert!(matches!(sized(value(), 5), Ok(Answer::Bytes(bytes)) if bytes == value()));
        let names = [
            bytes::Bytes::from_static(b"user.a"),
            bytes::Bytes::from_static(b"user.b"),
        ];
        assert_eq!(&joined(&names)[..], b"user.a\0user.b\0");
    }
}
