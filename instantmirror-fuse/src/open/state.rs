//! The open-state machine of one inode: how it may be opened next to how it is open. Pure; the caller holds a lock around it.
//!
//! The kernel answers EIO to a passthrough open of an inode that is open through its cache (or mapped through it), and the other
//! way round, and to a second backing file of one inode. So all opens of an inode at a time are of one kind, and one backing
//! file: an object that becomes complete while it is open is handed over at the first open after the last close.

use crate::filesystem::BackingId;

/// How an inode is open, and how often. Not at all: there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenState {
    /// Through the page cache.
    Cached(u32),
    /// By the kernel itself, from this backing file.
    Pass(BackingId, u32),
}

impl OpenState {
    /// The first open, with a backing file if there is one.
    pub(crate) fn first(backing: Option<BackingId>) -> Self {
        match backing {
            Some(id) => Self::Pass(id, 1),
            None => Self::Cached(1),
        }
    }

    /// One more open, of the same kind.
    pub(crate) fn open(&mut self) {
        match self {
            Self::Cached(count) | Self::Pass(_, count) => *count = count.saturating_add(1),
        }
    }

    /// One open less; whether it was the last one.
    pub(crate) fn release(&mut self) -> bool {
        match self {
            Self::Cached(count) | Self::Pass(_, count) => {
                *count = count.saturating_sub(1);
                *count == 0
            }
        }
    }

    /// The backing file.
    pub(crate) fn backing(self) -> Option<BackingId> {
        match self {
            Self::Cached(_) => None,
            Self::Pass(id, _) => Some(id),
        }
    }
}
