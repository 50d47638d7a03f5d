//! What a directory of a published tree holds.

use crate::{Name, NodeId, ObjectId};

/// Largest size of a file or recursive byte count of a directory: 48 bits, 256 TiB.
pub const SIZE_MAX: u64 = (1 << 48) - 1;
/// Largest first piece index and recursive file count: 40 bits.
pub const COUNT_MAX: u64 = (1 << 40) - 1;
/// Earliest and latest modification time, in seconds since 1970: 40 bits, signed.
pub const MTIME_RANGE: std::ops::RangeInclusive<i64> = -(1 << 39)..=(1 << 39) - 1;
/// The permission bits that a catalog keeps, set-id and sticky bits included.
pub const MODE_MASK: u16 = 0o7777;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, unique in the directory.
    pub name: Name,
    /// What it is.
    pub meta: Meta,
}

/// What is known of a file, directory or symlink besides its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits ([`MODE_MASK`]).
    pub mode: u16,
    /// Modification time in whole seconds since 1970. Catalogs keep no fraction: HTTP dates have none,
    /// and rsync compares seconds.
    pub mtime: i64,
    /// What kind of entry it is, with what only that kind has.
    pub kind: Kind,
}

/// File, directory or symlink. Nothing else is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(FileMeta),
    /// A directory.
    Directory(Directory),
    /// A symlink with its target as it was read ([`crate::name::check_target`]).
    Symlink(Box<str>),
}

/// A regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMeta {
    /// Size in bytes.
    pub size: u64,
    /// Its content.
    pub object: ObjectId,
    /// Index of its first piece in the repository's piece space (design section 8); 0 for empty files.
    pub first_piece: u64,
    /// Names with the same group and object were hard links to each other in the source.
    pub link_group: Option<u64>,
}

impl FileMeta {
    /// A file without a place in a piece space, and without other names.
    #[must_use]
    pub fn new(object: ObjectId, size: u64) -> Self {
        Self {
            size,
            object,
            first_piece: 0,
            link_group: None,
        }
    }
}

/// A directory: its root catalog node and what lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// The leaf or index node at the top of its entries.
    pub node: NodeId,
    /// Regular files below it, at any depth.
    pub files: u64,
    /// Bytes in them, each name counted.
    pub bytes: u64,
}

impl Meta {
    /// The directory, if it is one.
    #[must_use]
    pub fn as_directory(&self) -> Option<&Directory> {
        if let Kind::Directory(directory) = &self.kind {
            Some(directory)
        } else {
            None
        }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn as_file(&self) -> Option<&FileMeta> {
        if let Kind::File(file) = &self.kind {
            Some(file)
        } else {
            None
        }
    }
}

impl Kind {
    /// Files and bytes that this entry adds to its directory's recursive counts.
    pub(crate) fn weight(&self) -> (u64, u64) {
        match self {
            Self::File(file) => (1, file.size),
            Self::Directory(directory) => (directory.files, directory.bytes),
            Self::Symlink(_) => (0, 0),
        }
    }
}
