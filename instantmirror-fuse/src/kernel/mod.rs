//! The wire: FUSE's structures, requests and replies as bytes, the device, and mounts. Knows nothing of who answers.

pub(crate) mod abi;
pub(crate) mod device;
pub(crate) mod mount;
pub(crate) mod reply;
pub(crate) mod request;

/// The largest request that is taken, and the size of the buffer that the kernel writes one into. Nothing is written through this
/// file system, so it is what many FORGETs fit into.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 << 10;
