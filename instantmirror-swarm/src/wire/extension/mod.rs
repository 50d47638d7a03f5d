//! What extended messages (BEP 10) say: the handshake, metadata (BEP 9), peer exchange (BEP 11), DontHave (BEP 54), and
//! what our own nodes say to each other.
//!
//! Dictionaries are read as clients send them: keys in any order, unknown ones passed over, and a field that makes no sense
//! is as none. What is not even a dictionary, is longer than anybody needs, or lacks what the message is for, is refused.
//! Invariant: whatever is taken is bounded, and says the same when it is written and read again.

mod handshake;
mod metadata;
mod node;
mod pex;

use instantmirror_core::bencode::{BencodeError, Strictness, Value};

pub use handshake::{CLIENT_BYTES_MAX, ExtensionHandshake, ExtensionIds, HANDSHAKE_PAYLOAD_BYTES_MAX};
pub use metadata::{METADATA_PIECE_BYTES, MetadataMessage};
pub use node::{NODE_PAYLOAD_BYTES_MAX, NodeMessage, OUTBOARD_BYTES_MAX, OUTBOARD_PART_BYTES};
pub use pex::{PEX_PAYLOAD_BYTES_MAX, PEX_PEERS_MAX, PexMessage, PexPeer};

/// Id of the extension handshake; the others are those that the receiver named in its own.
pub const HANDSHAKE_ID: u8 = 0;

/// What is wrong with the payload of an extended message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionError {
    /// Longer than anybody needs.
    #[error("{what} of {length} bytes, and {most} are enough for anybody")]
    TooLong {
        /// Which message.
        what: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        most: usize,
    },
    /// No bencode.
    #[error("{what} is no bencode: {why}")]
    Bencode {
        /// Which message.
        what: &'static str,
        /// What is wrong.
        why: BencodeError,
    },
    /// Some other value.
    #[error("{0} is no dictionary")]
    NoDictionary(&'static str),
    /// What the message is for is missing, or not what it can be.
    #[error("{what}: {why}")]
    Field {
        /// Which message.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

/// The dictionary at the front of a payload, and where it ends.
fn dictionary<'a>(what: &'static str, payload: &'a [u8], most: usize) -> Result<(Value<'a>, usize), ExtensionError> {
    if payload.len() > most {
        return Err(ExtensionError::TooLong {
            what,
            length: payload.len(),
            most,
        });
    }
    let decoded = Value::decode_first(payload, Strictness::Keys);
    let (value, end) = decoded.map_err(|why| ExtensionError::Bencode { what, why })?;
    match value {
        Value::Dict(_) => Ok((value, end)),
        _ => Err(ExtensionError::NoDictionary(what)),
    }
}

/// A number under a key, if it is one of this width.
fn number<N: TryFrom<i64>>(value: &Value<'_>, key: &str) -> Option<N> {
    N::try_from(value.get(key)?.as_int()?).ok()
}

/// The payload of a DontHave (BEP 54): the sender has this piece no more.
#[must_use]
pub fn encode_dont_have(piece: u32) -> [u8; 4] {
    piece.to_be_bytes()
}

/// Reads a DontHave (BEP 54).
///
/// # Errors
/// [`ExtensionError::Field`] if it has not four bytes.
pub fn decode_dont_have(payload: &[u8]) -> Result<u32, ExtensionError> {
    let piece = payload.try_into().map_err(|_| ExtensionError::Field {
        what: "a DontHave",
        why: "it has four bytes and no more",
    })?;
    Ok(u32::from_be_bytes(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dont_have_is_a_number() {
        assert_eq!(encode_dont_have(0x0102_0304), [1, 2, 3, 4]);
        assert_eq!(decode_dont_have(&[1, 2, 3, 4]), Ok(0x0102_0304));
        for wrong in [&[][..], &[0; 3], &[0; 5]] {
            assert!(decode_dont_have(wrong).is_err());
        }
    }
}
