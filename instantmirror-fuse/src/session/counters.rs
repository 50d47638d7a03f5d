//! [`Counters`]: what a session has done, for status and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::kernel::request::Operation;

/// The kinds of operations, by their index.
const KINDS: [&str; 17] = [
    "lookup",
    "getattr",
    "readlink",
    "open",
    "read",
    "release",
    "opendir",
    "readdir",
    "readdirplus",
    "statfs",
    "getxattr",
    "listxattr",
    "forget",
    "interrupt",
    "change",
    "unsupported",
    "malformed",
];

/// The index of what cannot be decoded.
pub(super) const MALFORMED: usize = KINDS.len() - 1;

/// The index of an operation in [`KINDS`].
pub(super) fn kind(operation: &Operation<'_>) -> usize {
    match operation {
        Operation::Lookup { .. } => 0,
        Operation::Attributes => 1,
        Operation::ReadLink => 2,
        Operation::Open { .. } => 3,
        Operation::Read { .. } => 4,
        Operation::Release { .. } => 5,
        Operation::OpenDirectory | Operation::ReleaseDirectory => 6,
        Operation::List { plus: false, .. } => 7,
        Operation::List { plus: true, .. } => 8,
        Operation::Statfs => 9,
        Operation::Xattr { .. } => 10,
        Operation::Xattrs { .. } => 11,
        Operation::Forget { .. } | Operation::ForgetMany(_) => 12,
        Operation::Interrupt { .. } => 13,
        Operation::Change => 14,
        Operation::Init(_) | Operation::Destroy | Operation::Other { .. } => 15,
    }
}

/// Counters of a session since it began. Reads by passthrough and from the page cache are not seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Requests by kind; those that came at least once.
    pub operations: Vec<(&'static str, u64)>,
    /// Requests that were answered with an error, but for names and attributes that do not exist and operations that this file
    /// system does not have.
    pub errors: u64,
    /// Replies that the kernel did not take; those to readers that were gone are not counted.
    pub failed_replies: u64,
    /// Requests whose answering panicked; they were answered EIO.
    pub panics: u64,
    /// Files that are open now.
    pub open_files: u64,
    /// Opens that the kernel serves by itself, since the beginning.
    pub passthrough_opens: u64,
    /// Backing files that the kernel holds now.
    pub backing_files: u64,
    /// Bytes of content that answered reads.
    pub read_bytes: u64,
    /// Reads that wait now.
    pub waiting_reads: u64,
}

impl Counters {
    /// How many requests of this kind came (`lookup`, `open`, `read`, …).
    #[must_use]
    pub fn operations_of(&self, kind: &str) -> u64 {
        let found = self.operations.iter().find(|(name, _)| *name == kind);
        found.map_or(0, |(_, count)| *count)
    }
}

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    operations: [AtomicU64; KINDS.len()],
    pub(super) errors: Count,
    pub(super) failed_replies: Count,
    pub(super) panics: Count,
    pub(super) opens: Count,
    pub(super) releases: Count,
    pub(super) passthrough_opens: Count,
    pub(super) backed: Count,
    pub(super) unbacked: Count,
    pub(super) read_bytes: Count,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// One more request of this kind.
    pub(super) fn operation(&self, kind: usize) {
        if let Some(count) = self.operations.get(kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts now.
    pub(super) fn counters(&self, waiting_reads: usize) -> Counters {
        let operations = KINDS.iter().zip(&self.operations);
        let operations = operations.map(|(name, count)| (*name, count.load(Ordering::Relaxed)));
        Counters {
            operations: operations.filter(|(_, count)| *count > 0).collect(),
            errors: self.errors.value(),
            failed_replies: self.failed_replies.value(),
            panics: self.panics.value(),
            open_files: self.opens.value().saturating_sub(self.releases.value()),
            passthrough_opens: self.passthrough_opens.value(),
            backing_files: self.backed.value().saturating_sub(self.unbacked.value()),
            read_bytes: self.read_bytes.value(),
            waiting_reads: waiting_reads as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_names() {
        let tally = Tally::default();
        tally.operation(kind(&Operation::Open {
            flags: rustix::fs::OFlags::RDONLY,
        }));
        tally.operation(kind(&Operation::List {
            after: 0,
            len: 0,
            plus: true,
        }));
        tally.operation(kind(&Operation::Other { opcode: 99 }));
        tally.operation(MALFORMED);
        let counters = tally.counters(2);
        let wanted = [("open", 1), ("readdirplus", 1), ("unsupported", 1), ("malformed", 1)];
        assert_eq!(counters.operations, wanted);
        assert_eq!((counters.operations_of("open"), counters.operations_of("read")), (1, 0));
        assert_eq!(counters.waiting_reads, 2);
    }
}
