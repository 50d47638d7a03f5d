//! [`MountError`]: why there is no mount, or why it does not go.

use std::io;
use std::path::PathBuf;

/// Why a mount was not made or not undone. Each text says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// There is no such directory.
    #[error("the mount point {} does not exist; create the directory", mountpoint.display())]
    Missing {
        /// Where.
        mountpoint: PathBuf,
    },
    /// The mount point is something else.
    #[error("the mount point {} is not a directory", mountpoint.display())]
    NotDirectory {
        /// Where.
        mountpoint: PathBuf,
    },
    /// The mount would hide something.
    #[error("the mount point {} is not empty; mount on an empty directory, or allow that its content is hidden", mountpoint.display())]
    NotEmpty {
        /// Where.
        mountpoint: PathBuf,
    },
    /// A mount of ours is there, and answers.
    #[error("{} is mounted already, by a program that runs; stop that one or unmount it first", mountpoint.display())]
    AlreadyMounted {
        /// Where.
        mountpoint: PathBuf,
    },
    /// Another program's mount is there, and that program is gone.
    #[error("{} is a dead mount of type {kind}, whose program has ended; unmount it: umount -l {}", mountpoint.display(), mountpoint.display())]
    ForeignStale {
        /// Where.
        mountpoint: PathBuf,
        /// The type of the file system.
        kind: String,
    },
    /// This system has no FUSE.
    #[error(
        "/dev/fuse does not exist or has no driver; load the kernel module (modprobe fuse), or pass the device into the container"
    )]
    NoDevice,
    /// This user must not mount.
    #[error("no permission to mount on {}: {reason}", mountpoint.display())]
    NotPermitted {
        /// Where.
        mountpoint: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Users who are not root mount through this program.
    #[error("no permission to mount on {}, and fusermount3 is not installed; install the package fuse3, or run as root", mountpoint.display())]
    NoFusermount {
        /// Where.
        mountpoint: PathBuf,
    },
    /// `fusermount3` refused for another reason.
    #[error("fusermount3 failed for {}: {text}", mountpoint.display())]
    Fusermount {
        /// Where.
        mountpoint: PathBuf,
        /// Its words.
        text: String,
    },
    /// A name of the file system that would break what shows or parses it.
    #[error(
        "`{name}` cannot be the name of a file system: use letters, digits and any of . _ - + @ /, without a colon (df -l would hide it)"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The mount is in use.
    #[error("{} is busy: files are open on it, or something is mounted on it or over it", mountpoint.display())]
    Busy {
        /// Where.
        mountpoint: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step that failed.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl MountError {
    /// Of a system call.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: path.into(),
            source: source.into(),
        }
    }
}
