//! The peer wire of BitTorrent (BEP 3, 6, 10), from bytes to messages and back (docs/formats/peer_wire.md).
//!
//! Sans-io: a [`Decoder`] is fed whatever a socket brought, [`Message::encode`] writes what a socket shall send. Nothing
//! here knows what a message means for a connection; what is checked is what the bytes alone can be checked for.
//! Invariant: no length that the other side states is believed, or waited for, before it was held against its limit.

mod decoder;
pub mod extension;
mod handshake;
mod message;

use std::fmt;

pub use decoder::{BLOCK_BYTES, BLOCK_BYTES_MAX, Decoder, EXTENDED_BYTES, Limits, UNKNOWN_BYTES_MAX, WireError};
pub use handshake::{HANDSHAKE_BYTES, HANDSHAKE_PREFIX_BYTES, Handshake, Reserved};
pub use message::{Block, Message, PIECE_HEADER_BYTES, piece_header};

/// What our peer ids begin with (BEP 20): InstantMirror, version 0.1.
pub const PEER_ID_PREFIX: [u8; 8] = *b"-IM0100-";

/// What a random byte becomes in a peer id: 64 characters that need no escape in a URL.
const PEER_ID_CHARACTERS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

/// What a peer calls itself: 20 bytes that say nothing about who it is, since anybody can claim them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// An id of a prefix and 12 random bytes (the caller's: this module has no source of them), of which six bits each
    /// count, so that it can be read and needs no escape.
    #[must_use]
    pub fn random(prefix: [u8; 8], random: [u8; 12]) -> Self {
        let mut id = [0; 20];
        let (front, back) = id.split_at_mut(prefix.len());
        front.copy_from_slice(&prefix);
        for (to, from) in back.iter_mut().zip(random) {
            *to = PEER_ID_CHARACTERS[usize::from(from & 63)];
        }
        Self(id)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_can_be_read_and_holds_what_was_drawn() {
        let id = PeerId::random(PEER_ID_PREFIX, [0, 1, 2, 3, 61, 62, 63, 64, 128, 255, 254, 10]);
        assert_eq!(id.to_string(), "-IM0100-0123z-_00_-A");
        assert_eq!(
            PeerId(*b"\x00\xffabcdefghijklmnopqr").to_string(),
            "\\x00\\xffabcdefghijklmnopqr"
        );
    }
}
