//! Internals for the fuzz targets alone. They exist under `--cfg fuzzing` only.

use crate::kernel::request::{Operation, Request};

/// The decoded request: the number of the request, the inode, a letter for the operation, its name, and its numbers in the order of
/// the kernel's structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The number of the request.
    pub unique: u64,
    /// The inode.
    pub inode: u64,
    /// A name, if the operation has one.
    pub name: Option<Vec<u8>>,
    /// Its numbers.
    pub numbers: Vec<u64>,
    /// Whether the operation is one that is looked into.
    pub is_known: bool,
}

/// Decodes a request.
#[must_use]
pub fn decode_request(bytes: &[u8]) -> Option<Decoded> {
    let request = Request::decode(bytes).ok()?;
    let (name, numbers): (Option<&[u8]>, Vec<u64>) = match request.operation {
        Operation::Init(init) => {
            let numbers = [
                init.major.into(),
                init.minor.into(),
                init.max_readahead.into(),
                init.features,
            ];
            (None, numbers.to_vec())
        }
        Operation::Lookup { name } => (Some(name), Vec::new()),
        Operation::Open { flags } => (None, vec![flags.bits().into()]),
        Operation::Read { handle, offset, len } => (None, vec![handle.0, offset, len.into()]),
        Operation::List { after, len, .. } => (None, vec![after, len.into()]),
        Operation::Release { handle } => (None, vec![handle.0]),
        Operation::Xattr { name, len } => (Some(name), vec![len.into()]),
        Operation::Xattrs { len } => (None, vec![len.into()]),
        Operation::Forget { lookups } => (None, vec![lookups]),
        Operation::ForgetMany(many) => (
            None,
            many.iter().flat_map(|(inode, lookups)| [inode.0, lookups]).collect(),
        ),
        Operation::Interrupt { unique } => (None, vec![unique]),
        _ => (None, Vec::new()),
    };
    Some(Decoded {
        unique: request.unique,
        inode: request.inode.0,
        name: name.map(<[u8]>::to_vec),
        numbers,
        is_known: !matches!(request.operation, Operation::Change | Operation::Other { .. }),
    })
}
