//! From answers of the file system to the bytes of replies. Pure: values in, bytes out.

use std::time::Duration;

use zerocopy::IntoBytes;

use super::abi;
use crate::filesystem::{
    Attributes, BackingId, FileKind, FileSystemSize, Found, InodeId, Lookup, OpenMode, Opened, Row, Rows, Validity,
};

/// The longest validity that is told, 136 years: jiffies of more seconds would not fit.
const FOREVER_S: u64 = u32::MAX as u64;

/// Bytes of a block of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

/// Bytes of a block of `statfs`.
const BLOCK_BYTES: u32 = 4096;

/// The longest name of a file.
const NAME_BYTES_MAX: u32 = 255;

/// Rows of listings begin at multiples of this.
const ROW_ALIGNMENT: usize = 8;

/// Seconds and nanoseconds.
fn validity(validity: Validity) -> (u64, u32) {
    match validity {
        Validity::Forever => (FOREVER_S, 0),
        Validity::For(time) => {
            let time = time.min(Duration::from_secs(FOREVER_S));
            (time.as_secs(), time.subsec_nanos())
        }
    }
}

/// The bits of `st_mode` that say the kind.
fn kind_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => 0o100_000,
        FileKind::Directory => 0o040_000,
        FileKind::Symlink => 0o120_000,
    }
}

fn attr(attributes: &Attributes) -> abi::Attr {
    // The kernel's seconds are signed, its header says otherwise.
    let mtime = attributes.mtime.cast_unsigned();
    abi::Attr {
        ino: attributes.ino,
        size: attributes.size,
        blocks: attributes.size.div_ceil(STAT_BLOCK_BYTES),
        atime: mtime,
        mtime,
        ctime: mtime,
        mode: kind_bits(attributes.kind) | u32::from(attributes.mode & 0o7777),
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        ..abi::Attr::default()
    }
}

fn found(found: &Found) -> abi::EntryOut {
    let (entry_valid, entry_valid_nsec) = validity(found.entry_validity);
    let (attr_valid, attr_valid_nsec) = validity(found.attribute_validity);
    abi::EntryOut {
        nodeid: found.inode.0,
        generation: 0,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attr(&found.attributes),
    }
}

/// The answer to LOOKUP. A name that is absent and may be kept so is inode 0; `None` is ENOENT, which is not kept.
pub(crate) fn entry(lookup: &Lookup) -> Option<abi::EntryOut> {
    match lookup {
        Lookup::Found(one) => Some(found(one)),
        Lookup::Absent(time) => {
            let (entry_valid, entry_valid_nsec) = validity(*time);
            (entry_valid != 0 || entry_valid_nsec != 0).then(|| abi::EntryOut {
                entry_valid,
                entry_valid_nsec,
                ..abi::EntryOut::default()
            })
        }
    }
}

/// The answer to GETATTR.
pub(crate) fn attributes(attributes: &Attributes, time: Validity) -> abi::AttrOut {
    let (attr_valid, attr_valid_nsec) = validity(time);
    abi::AttrOut {
        attr_valid,
        attr_valid_nsec,
        dummy: 0,
        attr: attr(attributes),
    }
}

/// The answer to OPEN.
pub(crate) fn opened(opened: &Opened) -> abi::OpenOut {
    let (flags, backing_id) = match opened.mode {
        OpenMode::Cached => (abi::open_flag::KEEP_CACHE, 0),
        OpenMode::Direct => (abi::open_flag::DIRECT_IO, 0),
        OpenMode::Passthrough(BackingId(id)) => (abi::open_flag::PASSTHROUGH, id),
    };
    abi::OpenOut {
        fh: opened.handle.0,
        open_flags: flags | abi::open_flag::NOFLUSH,
        backing_id,
    }
}

/// The answer to STATFS.
pub(crate) fn statfs(size: &FileSystemSize) -> abi::StatfsOut {
    let blocks = |bytes: u64| bytes.div_ceil(u64::from(BLOCK_BYTES));
    let free = size.bytes_free / u64::from(BLOCK_BYTES);
    abi::StatfsOut {
        // `df` leaves a file system without blocks out.
        blocks: blocks(size.bytes).saturating_add(free).max(1),
        bfree: free,
        bavail: free,
        files: size.files,
        bsize: BLOCK_BYTES,
        namelen: NAME_BYTES_MAX,
        frsize: BLOCK_BYTES,
        ..abi::StatfsOut::default()
    }
}

/// The answer to READDIR or READDIRPLUS: a buffer that takes rows until it has the length that was asked for.
#[derive(Debug)]
pub(crate) struct Listing {
    bytes: Vec<u8>,
    len_max: usize,
    /// Whether rows bear attributes.
    is_plus: bool,
}

impl Listing {
    /// An empty one that grows to at most `len_max` bytes.
    pub(crate) fn new(len_max: usize, is_plus: bool) -> Self {
        Self {
            bytes: Vec::with_capacity(len_max),
            len_max,
            is_plus,
        }
    }

    /// The bytes so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first part of a row of READDIRPLUS. `.` and `..` are no lookups: they bear inode 0.
    fn plus(row: &Row<'_>) -> abi::EntryOut {
        let mut entry = found(&row.found);
        if matches!(row.name, b"." | b"..") {
            entry.nodeid = 0;
        }
        entry
    }
}

impl Rows for Listing {
    fn push(&mut self, row: &Row<'_>) -> bool {
        let head = if self.is_plus { size_of::<abi::EntryOut>() } else { 0 } + size_of::<abi::Dirent>();
        let Ok(namelen) = u32::try_from(row.name.len()) else {
            return false;
        };
        let end = (self.bytes.len() + head + row.name.len()).next_multiple_of(ROW_ALIGNMENT);
        if end > self.len_max {
            return false;
        }
        if self.is_plus {
            self.bytes.extend_from_slice(Self::plus(row).as_bytes());
        }
        let dirent = abi::Dirent {
            ino: row.found.attributes.ino,
            off: row.next,
            namelen,
            kind: kind_bits(row.found.attributes.kind) >> 12,
        };
        self.bytes.extend_from_slice(dirent.as_bytes());
        self.bytes.extend_from_slice(row.name);
        self.bytes.resize(end, 0);
        true
    }
}

/// The notification that drops a name, or with `expires` lets it be looked up again. A NUL follows the name.
pub(crate) fn inval_entry(parent: InodeId, name: &[u8], expires: bool) -> Option<abi::NotifyInvalEntryOut> {
    Some(abi::NotifyInvalEntryOut {
        parent: parent.0,
        namelen: u32::try_from(name.len()).ok()?,
        flags: if expires { abi::notify::EXPIRE_ONLY } else { 0 },
    })
}

/// The notification that drops attributes and all content of an inode.
pub(crate) fn inval_inode(inode: InodeId) -> abi::NotifyInvalInodeOut {
    abi::NotifyInvalInodeOut {
        ino: inode.0,
        off: 0,
        // All of it.
        len: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_file() -> Found {
        Found {
            inode: InodeId(77),
            attributes: Attributes {
                ino: 5,
                kind: FileKind::File,
                mode: 0o644,
                links: 2,
                uid: 1,
                gid: 2,
                size: 1025,
                mtime: -1,
            },
            entry_validity: Validity::Forever,
            attribute_validity: Validity::For(Duration::from_millis(1500)),
        }
    }

    #[test]
    fn st_ino_is_not_the_node_id() {
        let out = entry(&Lookup::Found(some_file())).unwrap();
        assert_eq!((out.nodeid, out.attr.ino, out.attr.nlink), (77, 5, 2));
        assert_eq!((out.attr.mode, out.attr.blocks), (0o100_644, 3));
        assert_eq!(out.attr.mtime.cast_signed(), -1);
        assert_eq!(
            (out.entry_valid, out.attr_valid, out.attr_valid_nsec),
            (FOREVER_S, 1, 500_000_000)
        );
    }

    #[test]
    fn absent_names_are_kept_or_not() {
        let kept = entry(&Lookup::Absent(Validity::Forever)).unwrap();
        assert_eq!((kept.nodeid, kept.entry_valid), (0, FOREVER_S));
        assert_eq!(entry(&Lookup::Absent(Validity::For(Duration::ZERO))), None);
    }

    #[test]
    fn open_modes() {
        let mode = |mode| {
            let out = opened(&Opened {
                handle: Handle(3),
                mode,
            });
            assert_eq!(out.fh, 3);
            (out.open_flags & !abi::open_flag::NOFLUSH, out.backing_id)
        };
        assert_eq!(mode(OpenMode::Cached), (2, 0));
        assert_eq!(mode(OpenMode::Direct), (1, 0));
        assert_eq!(mode(OpenMode::Passthrough(BackingId(9))), (128, 9));
    }

    use crate::filesystem::Handle;

    /// How many rows of this name fit into so many bytes, and the bytes.
    fn listed(len_max: usize, is_plus: bool, name: &[u8]) -> (usize, Vec<u8>) {
        let mut listing = Listing::new(len_max, is_plus);
        let row = Row {
            name,
            next: 1,
            found: some_file(),
        };
        let mut rows = 0;
        while listing.push(&row) {
            rows += 1;
        }
        (rows, listing.as_bytes().to_vec())
    }

    #[test]
    fn listings_take_exactly_what_fits() {
        assert_eq!(listed(31, false, b"name").0, 0);
        assert_eq!(listed(32, false, b"name").0, 1);
        assert_eq!(listed(159, true, b"name").0, 0);
        let (rows, bytes) = listed(320, true, b"name");
        assert_eq!((rows, bytes.len()), (2, 320));
        assert_eq!(&bytes[152..160], b"name\0\0\0\0");
        assert_eq!(bytes[..8], 77_u64.to_ne_bytes());
        assert_eq!(bytes[128..136], 5_u64.to_ne_bytes());
        assert_eq!(bytes[148..152], 8_u32.to_ne_bytes(), "a regular file");
    }

    #[test]
    fn the_directory_itself_is_no_lookup() {
        for name in [&b"."[..], b".."] {
            assert_eq!(listed(160, true, name).1[..8], [0; 8]);
        }
    }

    #[test]
    fn statfs_says_what_is_there_and_what_is_free() {
        let out = statfs(&FileSystemSize {
            bytes: 4097,
            bytes_free: 8192,
            files: 9,
        });
        assert_eq!((out.blocks, out.bfree, out.bavail, out.files), (4, 2, 2, 9));
        let (bytes, bytes_free, files) = (0, 0, 0);
        assert_eq!(
            statfs(&FileSystemSize {
                bytes,
                bytes_free,
                files
            })
            .blocks,
            1
        );
    }
}
