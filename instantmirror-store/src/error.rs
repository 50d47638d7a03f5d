//! The one error type of this crate.
//!
//! A variant is a decision a caller can take (evict and retry, wait for the other process, repair a file, give up);
//! the text is for a person and names the file and what to do. Nothing here panics and nothing is swallowed: the
//! operating system's own error is always the `source`, and told in the text, for many a log line shows nothing else.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What can go wrong between this crate and a disk.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation on one file or directory.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "open", "rename".
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The file system has no bytes or no inodes left. Free some space, then retry: nothing was half done.
    #[error("no space left while trying to {op} {}: free some space, then retry", path.display())]
    NoSpace {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process owns this directory. Stop it first, or use another directory.
    #[error("{} is in use by process {}: stop it first, or choose another directory", path.display(), pid.map_or_else(|| "(unknown)".to_owned(), |p| p.to_string()))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds the lock, as it wrote itself into the file.
        pid: Option<u32>,
    },
    /// The file was written by a program that is newer than this one. Nothing was changed.
    #[error("{} has format version {found}, this program knows up to {supported}: use a newer program", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version that it states.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// The content of a file is not what was written into it.
    #[error("{} is damaged: {what}; {advice}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        what: String,
        /// What a person can do about it.
        advice: &'static str,
    },
    /// A value is beyond a named limit of a format.
    #[error("{what} is {size} bytes long, the limit is {limit}")]
    TooLarge {
        /// The thing that is too large.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The store was opened for reading only.
    #[error("{} is open for reading only", path.display())]
    ReadOnly {
        /// The directory of the store.
        path: PathBuf,
    },
    /// Root is about to write into a directory of another user, whose daemon may not be able to read what it writes.
    #[error("{} belongs to {owner}: what root writes there, the daemon of that user may not read. Run it as that user: {command}", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner's name, or number.
        owner: String,
        /// This very command, as that user.
        command: String,
    },
    /// A path that would leave the directory it has to stay in, or that is no plain relative path.
    #[error("{} is not a path below {}: {why}", path.display(), root.display())]
    OutsideRoot {
        /// The path.
        path: PathBuf,
        /// The directory that must not be left.
        root: PathBuf,
        /// Why it was refused.
        why: &'static str,
    },
    /// A source file changed while it was read or imported. Publish again when it is quiet.
    #[error("{} changed while it was read: {what}", path.display())]
    SourceChanged {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Others may not read a file or directory of a source tree, and so it is not published.
    #[error("{} is closed to others (mode {mode:04o})", path.display())]
    SourceClosed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u16,
    },
    /// A source tree holds names or files that no snapshot can contain. Mend them, then publish again.
    #[error("{count} path(s) cannot be published:\n  {}{}{advice}", problems.join("\n  "), if *count > problems.len() { "\n  ..." } else { "" })]
    Unpublishable {
        /// How many.
        count: usize,
        /// The first of them, each with its path and the reason.
        problems: Vec<String>,
        /// What can be done about them, as the end of the message; empty where the reasons say it.
        advice: String,
    },
}

/// The result of everything in this crate that touches a disk.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// Wraps an operating system error; running out of space gets its own variant.
    pub fn io(op: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { op, path, source },
            _ => Self::Io { op, path, source },
        }
    }

    /// A damaged file.
    pub fn damaged(path: &Path, what: impl Into<String>, advice: &'static str) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            what: what.into(),
            advice,
        }
    }

    /// Whether the file or directory simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether this process may not read it.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether a file of that name is there already.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Whether it says something of this process, and nothing of the file: too many are open, or it has no right to it.
    pub fn is_of_process(&self) -> bool {
        const OURS: [Errno; 6] = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::ACCESS,
            Errno::PERM,
            Errno::AGAIN,
        ];
        let Self::Io { source, .. } = self else { return false };
        Errno::from_io_error(source).is_some_and(|errno| OURS.contains(&errno))
    }

    /// Whether the disk is full: freeing space may help.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}
