//! [`Request`]: what the kernel asks, decoded from the bytes of one read of `/dev/fuse`. Pure: bytes in, values out.
//!
//! Never panics, whatever the bytes are: every access goes through a cursor that says when they end too early. Operations
//! that change something are all one ([`Operation::Change`], answered EROFS), and operations that this file system does not have
//! keep their number ([`Operation::Other`], answered ENOSYS).

use rustix::fs::OFlags;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::abi::{self, opcode};
use crate::filesystem::{Handle, InodeId};

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// The number that its reply bears.
    pub(crate) unique: u64,
    /// The inode that it is about.
    pub(crate) inode: InodeId,
    /// The operation that it asks for.
    pub(crate) operation: Operation<'a>,
}

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    /// The first request of a connection.
    Init(Init),
    Lookup {
        name: &'a [u8],
    },
    Attributes,
    ReadLink,
    Open {
        /// Of `open(2)`.
        flags: OFlags,
    },
    Read {
        handle: Handle,
        offset: u64,
        len: u32,
    },
    Release {
        handle: Handle,
    },
    OpenDirectory,
    ReleaseDirectory,
    /// READDIR, or READDIRPLUS if `plus`.
    List {
        after: u64,
        len: u32,
        plus: bool,
    },
    Statfs,
    /// `len` 0 asks for the size alone.
    Xattr {
        name: &'a [u8],
        len: u32,
    },
    /// `len` 0 asks for the size alone.
    Xattrs {
        len: u32,
    },
    Forget {
        lookups: u64,
    },
    ForgetMany(ForgetMany<'a>),
    /// Of the request with this number.
    Interrupt {
        unique: u64,
    },
    /// The last request of a connection, if there is one.
    Destroy,
    /// Would change something.
    Change,
    /// Anything else.
    Other {
        opcode: u32,
    },
}

/// The features that the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// Bytes.
    pub(crate) max_readahead: u32,
    /// Of [`abi::feature`].
    pub(crate) features: u64,
}

/// The inodes of a BATCH_FORGET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForgetMany<'a>(&'a [u8]);

impl ForgetMany<'_> {
    /// Each inode and how many lookups of it are forgotten.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (InodeId, u64)> {
        self.0.chunks_exact(size_of::<abi::ForgetOne>()).filter_map(|bytes| {
            let one = abi::ForgetOne::read_from_bytes(bytes).ok()?;
            Some((InodeId(one.nodeid), one.nlookup))
        })
    }
}

/// A request that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request of {len} bytes that ends too early or says another length (operation {opcode:?})")]
pub(crate) struct Malformed {
    /// How many bytes came.
    len: usize,
    /// The number of the operation, if the header is there.
    opcode: Option<u32>,
    /// The number that a reply bears, if the header is there.
    unique: Option<u64>,
}

impl Malformed {
    /// The number that a reply bears, if the header is there.
    pub(crate) fn unique(&self) -> Option<u64> {
        self.unique
    }
}

/// The bytes of a request that are not decoded yet.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Option<T> {
        let (value, rest) = T::read_from_prefix(self.0).ok()?;
        self.0 = rest;
        Some(value)
    }

    /// A name, which a NUL ends.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(name)
    }
}

impl<'a> Request<'a> {
    /// Decodes the bytes of one read.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        let header = cursor.take::<abi::InHeader>();
        let malformed = Malformed {
            len: bytes.len(),
            opcode: header.map(|header| header.opcode),
            unique: header.map(|header| header.unique),
        };
        let header = header.ok_or(malformed)?;
        if usize::try_from(header.len) != Ok(bytes.len()) {
            return Err(malformed);
        }
        let operation = Operation::decode(header.opcode, &mut cursor).ok_or(malformed)?;
        Ok(Self {
            unique: header.unique,
            inode: InodeId(header.nodeid),
            operation,
        })
    }
}

impl<'a> Operation<'a> {
    fn decode(number: u32, cursor: &mut Cursor<'a>) -> Option<Self> {
        Some(match number {
            opcode::INIT => Self::Init(init(cursor)?),
            opcode::LOOKUP => Self::Lookup { name: cursor.name()? },
            opcode::GETATTR => Self::Attributes,
            opcode::READLINK => Self::ReadLink,
            opcode::OPEN => Self::Open {
                flags: OFlags::from_bits_retain(cursor.take::<abi::OpenIn>()?.flags),
            },
            opcode::READ => {
                let read = cursor.take::<abi::ReadIn>()?;
                Self::Read {
                    handle: Handle(read.fh),
                    offset: read.offset,
                    len: read.size,
                }
            }
            opcode::RELEASE => Self::Release {
                handle: Handle(cursor.take::<abi::ReleaseIn>()?.fh),
            },
            opcode::OPENDIR => Self::OpenDirectory,
            opcode::RELEASEDIR => Self::ReleaseDirectory,
            opcode::READDIR | opcode::READDIRPLUS => {
                let read = cursor.take::<abi::ReadIn>()?;
                Self::List {
                    after: read.offset,
                    len: read.size,
                    plus: number == opcode::READDIRPLUS,
                }
            }
            opcode::STATFS => Self::Statfs,
            opcode::GETXATTR => {
                let len = cursor.take::<abi::GetXattrIn>()?.size;
                Self::Xattr {
                    name: cursor.name()?,
                    len,
                }
            }
            opcode::LISTXATTR => Self::Xattrs {
                len: cursor.take::<abi::GetXattrIn>()?.size,
            },
            opcode::FORGET => Self::Forget {
                lookups: cursor.take::<abi::ForgetIn>()?.nlookup,
            },
            opcode::BATCH_FORGET => Self::ForgetMany(forget_many(cursor)?),
            opcode::INTERRUPT => Self::Interrupt {
                unique: cursor.take::<abi::InterruptIn>()?.unique,
            },
            opcode::DESTROY => Self::Destroy,
            opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::WRITE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::CREATE
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE
            | opcode::TMPFILE => Self::Change,
            opcode => Self::Other { opcode },
        })
    }
}

fn init(cursor: &mut Cursor<'_>) -> Option<Init> {
    let init = cursor.take::<abi::InitIn>()?;
    let mut features = u64::from(init.flags);
    if features & abi::feature::INIT_EXT != 0 {
        features |= u64::from(cursor.take::<u32>()?) << 32;
    }
    Some(Init {
        major: init.major,
        minor: init.minor,
        max_readahead: init.max_readahead,
        features,
    })
}

fn forget_many<'a>(cursor: &mut Cursor<'a>) -> Option<ForgetMany<'a>> {
    let count = usize::try_from(cursor.take::<abi::BatchForgetIn>()?.count).ok()?;
    let len = count.checked_mul(size_of::<abi::ForgetOne>())?;
    Some(ForgetMany(cursor.0.get(..len)?))
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    /// The bytes of a request with number 7 about inode 5.
    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let header = abi::InHeader {
            len: u32::try_from(40 + body.len()).unwrap(),
            opcode,
            unique: 7,
            nodeid: 5,
            ..abi::InHeader::default()
        };
        [header.as_bytes(), body].concat()
    }

    fn operation(bytes: &[u8]) -> Operation<'_> {
        let request = Request::decode(bytes).unwrap();
        assert_eq!((request.unique, request.inode), (7, InodeId(5)));
        request.operation
    }

    #[test]
    fn bytes_of_a_real_lookup() {
        // As Linux 6.18 sent it on a little-endian machine: LOOKUP of "proc" in the root, by uid 1000.
        let bytes = [
            45, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 232, 3, 0, 0, 232, 3, 0, 0, 57,
            48, 0, 0, 0, 0, 0, 0, b'p', b'r', b'o', b'c', 0,
        ];
        if cfg!(target_endian = "big") {
            return;
        }
        let request = Request::decode(&bytes).unwrap();
        assert_eq!((request.unique, request.inode), (4, InodeId::ROOT));
        assert_eq!(request.operation, Operation::Lookup { name: b"proc" });
    }

    #[test]
    fn init_of_an_old_and_of_a_new_kernel() {
        let words = |words: &[u32]| words.as_bytes().to_vec();
        let old = request(opcode::INIT, &words(&[7, 31, 65536, 1]));
        let wanted = Init {
            major: 7,
            minor: 31,
            max_readahead: 65536,
            features: 1,
        };
        assert_eq!(operation(&old), Operation::Init(wanted));
        let mut new = vec![7, 45, 65536, 1 << 30, 1 << 3];
        new.extend([0; 11]);
        let wanted = Init {
            minor: 45,
            features: abi::feature::INIT_EXT | abi::feature::HAS_EXPIRE_ONLY,
            ..wanted
        };
        assert_eq!(operation(&request(opcode::INIT, &words(&new))), Operation::Init(wanted));
        // The second word of features is announced and missing.
        assert!(Request::decode(&request(opcode::INIT, &words(&[7, 45, 65536, 1 << 30]))).is_err());
    }

    #[test]
    fn reads_and_listings() {
        let body = abi::ReadIn {
            fh: 9,
            offset: 1 << 40,
            size: 131_072,
            ..abi::ReadIn::default()
        };
        let wanted = Operation::Read {
            handle: Handle(9),
            offset: 1 << 40,
            len: 131_072,
        };
        assert_eq!(operation(&request(opcode::READ, body.as_bytes())), wanted);
        for (number, plus) in [(opcode::READDIR, false), (opcode::READDIRPLUS, true)] {
            let wanted = Operation::List {
                after: 1 << 40,
                len: 131_072,
                plus,
            };
            assert_eq!(operation(&request(number, body.as_bytes())), wanted);
        }
    }

    #[test]
    fn forgets_one_and_many() {
        let one = request(opcode::FORGET, 3_u64.as_bytes());
        assert_eq!(operation(&one), Operation::Forget { lookups: 3 });
        let mut body = [2_u32, 0].as_bytes().to_vec();
        body.extend_from_slice([11_u64, 1, 12, 2].as_bytes());
        let bytes = request(opcode::BATCH_FORGET, &body);
        let Operation::ForgetMany(many) = operation(&bytes) else {
            panic!("another operation")
        };
        assert_eq!(many.iter().collect::<Vec<_>>(), [(InodeId(11), 1), (InodeId(12), 2)]);
        for count in [3_u32, u32::MAX] {
            body[..4].copy_from_slice(count.as_bytes());
            assert!(Request::decode(&request(opcode::BATCH_FORGET, &body)).is_err());
        }
    }

    #[test]
    fn extended_attributes() {
        let mut body = [64_u32, 0].as_bytes().to_vec();
        assert_eq!(
            operation(&request(opcode::LISTXATTR, &body)),
            Operation::Xattrs { len: 64 }
        );
        body.extend_from_slice(b"user.a\0");
        let wanted = Operation::Xattr {
            name: b"user.a",
            len: 64,
        };
        assert_eq!(operation(&request(opcode::GETXATTR, &body)), wanted);
    }

    #[test]
    fn changes_are_one_and_the_unknown_keeps_its_number() {
        for number in [opcode::WRITE, opcode::CREATE, opcode::TMPFILE] {
            assert_eq!(operation(&request(number, b"")), Operation::Change);
        }
        let unknown = request(4711, b"whatever");
        assert_eq!(operation(&unknown), Operation::Other { opcode: 4711 });
    }

    #[test]
    fn whatever_ends_too_early_is_malformed() {
        let lookup = request(opcode::LOOKUP, b"name\0");
        for len in 0..lookup.len() {
            let error = Request::decode(&lookup[..len]).unwrap_err();
            assert_eq!(error.unique(), (len >= 40).then_some(7));
        }
        assert!(Request::decode(&request(opcode::LOOKUP, b"no end")).is_err());
        assert!(Request::decode(&request(opcode::READ, &[0; 39])).is_err());
        let mut longer = lookup;
        longer.push(0);
        assert!(Request::decode(&longer).is_err(), "the length in the header is another");
    }
}
