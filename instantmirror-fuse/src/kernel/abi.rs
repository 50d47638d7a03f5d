//! The structures and numbers of the FUSE protocol, as `<linux/fuse.h>` lays them out: plain data, no behaviour.
//!
//! Every structure has the kernel's field order, the machine's byte order and no padding; zerocopy's derives prove that at
//! compile time, so that this crate casts no pointer. Names are the kernel's without `fuse_`.
//!
//! Versions: the protocol of Linux 5.4 (7.31) is the oldest one that a session takes. Newer kernels say in INIT which features
//! they have (`flags`), and structures have only grown at their ends, so nothing else depends on the minor version.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The major version of the protocol.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version that this code knows (Linux 6.18).
pub(crate) const MINOR: u32 = 45;
/// The oldest minor version that a session works with (Linux 5.4): with NO_OPENDIR, CACHE_SYMLINKS and EXPLICIT_INVAL_DATA.
pub(crate) const MINOR_MIN: u32 = 31;

/// Features of INIT, `flags` below bit 32 and `flags2` above.
pub(crate) mod feature {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const EXPORT_SUPPORT: u64 = 1 << 4;
    pub(crate) const SPLICE_WRITE: u64 = 1 << 7;
    pub(crate) const SPLICE_MOVE: u64 = 1 << 8;
    pub(crate) const SPLICE_READ: u64 = 1 << 9;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub(crate) const PASSTHROUGH: u64 = 1 << 37;
}

/// Numbers of operations.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
}

/// Numbers of notifications, which stand in [`OutHeader::error`].
pub(crate) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
    /// Of [`super::NotifyInvalEntryOut::flags`]: the name is looked up again, and nothing below it is unmounted.
    pub(crate) const EXPIRE_ONLY: u32 = 1 << 0;
}

/// Flags of [`OpenOut`].
pub(crate) mod open_flag {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    /// Spares the FLUSH of each close.
    pub(crate) const NOFLUSH: u32 = 1 << 5;
    pub(crate) const PASSTHROUGH: u32 = 1 << 7;
}

/// Derives what makes a structure of plain bytes.
macro_rules! wire {
    ($($(#[$attribute:meta])* struct $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$attribute])*
            #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
            #[repr(C)]
            pub(crate) struct $name { $(pub(crate) $field: $type,)* }
        )*
    };
}

wire! {
    /// Begins every request.
    struct InHeader {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        total_extlen: u16,
        padding: u16,
    }

    /// Begins every reply; `error` is 0 or a negative errno, or the number of a notification if `unique` is 0.
    struct OutHeader {
        len: u32,
        error: i32,
        unique: u64,
    }

    /// INIT; kernels before 7.36 send the first four fields.
    struct InitIn {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    }

    /// The answer to INIT.
    struct InitOut {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }

    /// Attributes of an inode.
    struct Attr {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }

    /// The answer to LOOKUP, and the first part of a row of READDIRPLUS.
    struct EntryOut {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }

    /// The answer to GETATTR.
    struct AttrOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: Attr,
    }

    /// FORGET, and with a node id each part of BATCH_FORGET.
    struct ForgetIn {
        nlookup: u64,
    }

    /// One part of BATCH_FORGET.
    struct ForgetOne {
        nodeid: u64,
        nlookup: u64,
    }

    /// BATCH_FORGET.
    struct BatchForgetIn {
        count: u32,
        dummy: u32,
    }

    /// OPEN.
    struct OpenIn {
        flags: u32,
        open_flags: u32,
    }

    /// The answer to OPEN.
    struct OpenOut {
        fh: u64,
        open_flags: u32,
        backing_id: u32,
    }

    /// READ, READDIR and READDIRPLUS.
    struct ReadIn {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    /// RELEASE and RELEASEDIR.
    struct ReleaseIn {
        fh: u64,
        flags: u32,
        release_flags: u32,
        lock_owner: u64,
    }

    /// GETXATTR, which a name follows, and LISTXATTR.
    struct GetXattrIn {
        size: u32,
        padding: u32,
    }

    /// The answer to GETXATTR and LISTXATTR of size 0.
    struct GetXattrOut {
        size: u32,
        padding: u32,
    }

    /// INTERRUPT: the number of the request that is interrupted.
    struct InterruptIn {
        unique: u64,
    }

    /// The answer to STATFS.
    struct StatfsOut {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }

    /// One row of READDIR, which its name follows, filled with zeros up to 8 bytes.
    struct Dirent {
        ino: u64,
        off: u64,
        namelen: u32,
        kind: u32,
    }

    /// The notification INVAL_INODE.
    struct NotifyInvalInodeOut {
        ino: u64,
        off: i64,
        len: i64,
    }

    /// The notification INVAL_ENTRY, which a name and a NUL follow.
    struct NotifyInvalEntryOut {
        parent: u64,
        namelen: u32,
        flags: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel_header() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<OpenOut>(), 16);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<ReleaseIn>(), 24);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<Dirent>(), 24);
        assert_eq!(size_of::<NotifyInvalInodeOut>(), 24);
        assert_eq!(size_of::<NotifyInvalEntryOut>(), 16);
    }
}
