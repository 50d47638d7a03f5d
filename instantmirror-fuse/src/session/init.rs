//! The INIT handshake, as a decision without I/O: which of the features that the kernel offers a session takes.

use super::options::{OpenRequests, Passthrough, SessionOptions};
use crate::kernel::abi::{self, feature};
use crate::kernel::request::Init;

/// Taken wherever the kernel has it.
///
/// Not READDIRPLUS_AUTO, which does not help; not AUTO_INVAL_DATA, since content never changes and what does is announced.
const WANTED: u64 = feature::ASYNC_READ
    | feature::ASYNC_DIO
    | feature::EXPORT_SUPPORT
    | feature::SPLICE_READ
    | feature::SPLICE_WRITE
    | feature::SPLICE_MOVE
    | feature::DO_READDIRPLUS
    | feature::PARALLEL_DIROPS
    | feature::MAX_PAGES
    | feature::CACHE_SYMLINKS
    | feature::NO_OPENDIR_SUPPORT
    | feature::EXPLICIT_INVAL_DATA
    | feature::INIT_EXT
    | feature::HAS_EXPIRE_ONLY
    | feature::DIRECT_IO_ALLOW_MMAP;

/// Nothing is ever written, so this is the least that the kernel takes.
const MAX_WRITE_BYTES: u32 = 4096;

/// The protocol that kernel and session have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    minor: u32,
    features: u64,
}

impl Protocol {
    /// The minor version of the kernel's protocol: 45 is Linux 6.18.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.minor
    }

    /// Whether the kernel can read backing files by itself. A backing file may still be refused, without CAP_SYS_ADMIN for example.
    #[must_use]
    pub fn has_passthrough(&self) -> bool {
        self.features & feature::PASSTHROUGH != 0
    }

    /// Whether names can expire without unmounting what is mounted below them.
    #[must_use]
    pub fn has_expiry(&self) -> bool {
        self.features & feature::HAS_EXPIRE_ONLY != 0
    }
}

/// The outcome of an INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Negotiation {
    /// The kernel speaks a newer major version; it asks again after this reply.
    Again(abi::InitOut),
    /// The kernel is older than [`abi::MINOR_MIN`].
    TooOld,
    /// Requests follow.
    Done(abi::InitOut, Protocol),
}

/// Decides.
pub(super) fn negotiate(init: &Init, options: &SessionOptions) -> Negotiation {
    if init.major > abi::MAJOR {
        return Negotiation::Again(abi::InitOut {
            major: abi::MAJOR,
            minor: abi::MINOR,
            ..abi::InitOut::default()
        });
    }
    if init.major < abi::MAJOR || init.minor < abi::MINOR_MIN {
        return Negotiation::TooOld;
    }
    let mut wanted = WANTED;
    if options.open == OpenRequests::Never {
        wanted |= feature::NO_OPEN_SUPPORT;
    }
    let stack_depth = match options.passthrough {
        Passthrough::Off => 0,
        Passthrough::On => 1,
        Passthrough::OnStacked => 2,
    };
    if stack_depth > 0 {
        wanted |= feature::PASSTHROUGH;
    }
    let features = wanted & init.features;
    let has_passthrough = features & feature::PASSTHROUGH != 0;
    let out = abi::InitOut {
        major: abi::MAJOR,
        minor: abi::MINOR.min(init.minor),
        max_readahead: init.max_readahead,
        // Two halves of one number.
        flags: low_half(features),
        flags2: low_half(features >> 32),
        max_background: options.max_background,
        congestion_threshold: options.max_background / 4 * 3,
        max_write: MAX_WRITE_BYTES,
        time_gran: 1,
        max_pages: options.max_pages,
        max_stack_depth: if has_passthrough { stack_depth } else { 0 },
        ..abi::InitOut::default()
    };
    let minor = init.minor;
    Negotiation::Done(out, Protocol { minor, features })
}

fn low_half(features: u64) -> u32 {
    let [a, b, c, d, ..] = features.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(minor: u32, features: u64) -> Init {
        Init {
            major: 7,
            minor,
            max_readahead: 131_072,
            features,
        }
    }

    fn done(init: &Init, options: &SessionOptions) -> (abi::InitOut, Protocol) {
        match negotiate(init, options) {
            Negotiation::Done(out, protocol) => (out, protocol),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn old_kernels_are_refused_and_newer_protocols_asked_again() {
        let options = SessionOptions::default();
        assert_eq!(negotiate(&kernel(30, u64::MAX), &options), Negotiation::TooOld);
        let newer = Init {
            major: 8,
            ..kernel(1, u64::MAX)
        };
        assert!(matches!(negotiate(&newer, &options), Negotiation::Again(out) if out.major == 7 && out.minor == 45));
    }

    #[test]
    fn nothing_is_taken_that_is_not_offered() {
        let (out, protocol) = done(&kernel(31, feature::ASYNC_READ), &SessionOptions::default());
        assert_eq!(
            (u64::from(out.flags), out.flags2, out.max_stack_depth),
            (feature::ASYNC_READ, 0, 0)
        );
        assert_eq!(out.minor, 31);
        assert!(!protocol.has_passthrough() && !protocol.has_expiry());
    }

    #[test]
    fn a_new_kernel_gives_passthrough_and_expiry() {
        let options = SessionOptions::default();
        let (out, protocol) = done(&kernel(46, u64::MAX), &options);
        assert!(protocol.has_passthrough() && protocol.has_expiry());
        assert_eq!((out.minor, out.max_stack_depth, protocol.minor()), (45, 1, 46));
        assert_eq!(u64::from(out.flags2) << 32 & feature::PASSTHROUGH, feature::PASSTHROUGH);
        assert_eq!(u64::from(out.flags) & feature::NO_OPEN_SUPPORT, 0);
        let writeback_cache = 1 << 16;
        assert_eq!(
            out.flags & writeback_cache,
            0,
            "passthrough and a writeback cache exclude each other"
        );
        let stacked = options.passthrough(Passthrough::OnStacked);
        assert_eq!(done(&kernel(45, u64::MAX), &stacked).0.max_stack_depth, 2);
        let off = stacked.passthrough(Passthrough::Off).open(OpenRequests::Never);
        let (out, protocol) = done(&kernel(45, u64::MAX), &off);
        assert_eq!((out.max_stack_depth, protocol.has_passthrough()), (0, false));
        assert_ne!(u64::from(out.flags) & feature::NO_OPEN_SUPPORT, 0);
    }
}
