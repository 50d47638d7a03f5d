//! The info dictionary from peers (BEP 9), in pieces of 16 KiB.

use bytes::Bytes;
use instantmirror_core::bencode::Value;

use super::{ExtensionError, dictionary, number};

/// Length of every piece of the metadata but the last.
pub const METADATA_PIECE_BYTES: u32 = 16 << 10;
/// The longest message: a piece, and a dictionary in front of it.
const PAYLOAD_BYTES_MAX: usize = (16 << 10) + 1024;

const WHAT: &str = "a metadata message";

/// A message of `ut_metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataMessage {
    /// The sender wants this piece of the metadata.
    Request {
        /// Which.
        piece: u32,
    },
    /// A piece of the metadata. Its length is what a metadata of `total_size` bytes has there.
    Data {
        /// Which.
        piece: u32,
        /// Bytes of all metadata.
        total_size: u32,
        /// The piece.
        data: Bytes,
    },
    /// The sender does not have it, or does not give it now.
    Reject {
        /// Which.
        piece: u32,
    },
}

impl MetadataMessage {
    /// How many bytes a piece of the metadata has; `None` if there is no such piece.
    #[must_use]
    pub fn piece_bytes(piece: u32, total_size: u32) -> Option<u32> {
        let begin = piece.checked_mul(METADATA_PIECE_BYTES)?;
        let rest = total_size.checked_sub(begin).filter(|rest| *rest > 0)?;
        Some(rest.min(METADATA_PIECE_BYTES))
    }

    /// The payload of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, piece, data) = match self {
            Self::Request { piece } => (0, piece, None),
            Self::Data {
                piece,
                total_size,
                data,
            } => (1, piece, Some((total_size, data))),
            Self::Reject { piece } => (2, piece, None),
        };
        let int = |number: u32| Value::Int(i64::from(number));
        let mut entries = vec![("msg_type", Value::Int(kind)), ("piece", int(*piece))];
        entries.extend(data.map(|(total_size, _)| ("total_size", int(*total_size))));
        let entries = entries.into_iter().map(|(key, value)| (key.as_bytes(), value));
        let mut out = Value::dict(entries).encode();
        if let Some((_, data)) = data {
            out.extend_from_slice(data);
        }
        out.into()
    }

    /// Reads the payload of the message; `None` if it is of a kind that we do not know, to be passed over. Data is shared
    /// with the payload.
    ///
    /// # Errors
    /// [`ExtensionError`] if it is too long, no dictionary, without its fields, or data of another length than it should
    /// have.
    pub fn decode(payload: &Bytes) -> Result<Option<Self>, ExtensionError> {
        let (value, end) = dictionary(WHAT, payload, PAYLOAD_BYTES_MAX)?;
        let wrong = |why| ExtensionError::Field { what: WHAT, why };
        let kind: i64 = number(&value, "msg_type").ok_or_else(|| wrong("it has no msg_type"))?;
        if !(0..=2).contains(&kind) {
            return Ok(None);
        }
        let piece = number(&value, "piece").ok_or_else(|| wrong("it names no piece"))?;
        Ok(Some(match kind {
            0 => Self::Request { piece },
            2 => Self::Reject { piece },
            _ => {
                let total_size = number(&value, "total_size").ok_or_else(|| wrong("it has no total_size"))?;
                let ought = Self::piece_bytes(piece, total_size);
                let ought = ought.ok_or_else(|| wrong("its piece lies behind the end"))?;
                let data = payload.slice(end..);
                if u32::try_from(data.len()) != Ok(ought) {
                    return Err(wrong("its data has not the length of the piece"));
                }
                Self::Data {
                    piece,
                    total_size,
                    data,
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(payload: &[u8]) -> Result<Option<MetadataMessage>, ExtensionError> {
        MetadataMessage::decode(&Bytes::copy_from_slice(payload))
    }

    #[test]
    fn messages_have_the_bytes_of_the_specification() {
        let data = Bytes::from_static(b"xxxxxxxx");
        for (message, bytes) in [
            (MetadataMessage::Request { piece: 0 }, &b"d8:msg_typei0e5:piecei0ee"[..]),
            (
                MetadataMessage::Data {
                    piece: 0,
                    total_size: 8,
                    data,
                },
                b"d8:msg_typei1e5:piecei0e10:total_sizei8eexxxxxxxx",
            ),
            (MetadataMessage::Reject { piece: 0 }, b"d8:msg_typei2e5:piecei0ee"),
        ] {
            assert_eq!(
                message.encode().escape_ascii().to_string(),
                bytes.escape_ascii().to_string()
            );
            assert_eq!(decode(bytes), Ok(Some(message)));
        }
    }

    #[test]
    fn kinds_that_nobody_knows_are_passed_over() {
        assert_eq!(decode(b"d8:msg_typei3e5:piecei0ee"), Ok(None));
        assert_eq!(decode(b"d8:msg_typei-1ee"), Ok(None));
    }

    #[test]
    fn data_has_the_length_of_its_piece() {
        let piece = |piece: u32, total: u32, len: usize| {
            let head = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{total}ee");
            decode(&[head.as_bytes(), &vec![0; len]].concat())
        };
        assert!(piece(0, 16_384, 16_384).is_ok());
        assert!(piece(1, 16_385, 1).is_ok());
        for (index, total, len) in [
            (0, 16_385, 1),
            (1, 16_385, 2),
            (1, 16_384, 0),
            (0, 0, 0),
            (1, 16_384, 1),
        ] {
            let error = piece(index, total, len).unwrap_err().to_string();
            assert!(
                error.contains("length of the piece") || error.contains("behind the end"),
                "{error}"
            );
        }
        assert!(piece(u32::MAX, u32::MAX, 1).is_err());
        let error = piece(0, 40_000, 20_000).unwrap_err();
        assert!(matches!(error, ExtensionError::TooLong { .. }), "{error}");
    }

    #[test]
    fn messages_without_their_fields_are_refused() {
        for (payload, what) in [
            (&b"de"[..], "msg_type"),
            (b"d8:msg_typei0ee", "no piece"),
            (b"d8:msg_typei0e5:piecei-1ee", "no piece"),
            (b"d8:msg_typei0e5:piecei4294967296ee", "no piece"),
            (b"d8:msg_typei1e5:piecei0eexx", "total_size"),
            (
                b"d8:msg_typei1e5:piecei0e10:total_sizei9223372036854775807eexx",
                "total_size",
            ),
            (b"d8:msg_typei1e5:piecei0e10:total_sizei-2eexx", "total_size"),
            (b"i1e", "no dictionary"),
            (b"d8:msg_type", "no bencode"),
        ] {
            let error = decode(payload).unwrap_err().to_string();
            assert!(error.contains(what), "{}: {error}", payload.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read(kind in 0..3, piece in 0..4_u32, total in 1..60_000_u32) {
            let len = MetadataMessage::piece_bytes(piece, total);
            let sent = match (kind, len) {
                (0, _) => MetadataMessage::Request { piece },
                (1, Some(len)) => MetadataMessage::Data {
                    piece,
                    total_size: total,
                    data: Bytes::from(vec![b'd'; usize::try_from(len).unwrap()]),
                },
                _ => MetadataMessage::Reject { piece },
            };
            prop_assert_eq!(decode(&sent.encode()), Ok(Some(sent)));
        }
    }
}
