//! What nodes of ours say to each other and to nobody else (`im_node`): dictionaries with a `type`, and bytes behind them.

use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::bencode::Value;

use super::{ExtensionError, dictionary, number};

/// The longest message that is read: a part of an outboard, and a dictionary in front of it.
pub const NODE_PAYLOAD_BYTES_MAX: usize = OUTBOARD_PART_BYTES as usize + 1024;
/// Bytes of an outboard in one message; fewer at its end alone.
pub const OUTBOARD_PART_BYTES: u32 = 64 << 10;
/// The longest outboard that peers give each other: that of an object of 64 GiB. Longer ones come by HTTP.
pub const OUTBOARD_BYTES_MAX: u32 = 32 << 20;

const WHAT: &str = "a message between nodes";

/// A message of `im_node`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeMessage {
    /// Proves that the sender knows a secret: what it made of the secret and of the nonce in the receiver's extension
    /// handshake.
    Proof([u8; 32]),
    /// The sender wants a part of an object's outboard.
    OutboardRequest {
        /// The object.
        object: ObjectId,
        /// Where the part begins: a multiple of [`OUTBOARD_PART_BYTES`], below [`OUTBOARD_BYTES_MAX`].
        offset: u32,
    },
    /// A part of an object's outboard, not verified. As long as an outboard of `total` bytes has it there.
    Outboard {
        /// The object.
        object: ObjectId,
        /// Bytes of the whole outboard.
        total: u32,
        /// Where the part begins.
        offset: u32,
        /// The part.
        data: Bytes,
    },
    /// The sender does not have the object's outboard, or does not give it now.
    NoOutboard {
        /// The object.
        object: ObjectId,
    },
}

impl NodeMessage {
    /// How many bytes of an outboard of `total` bytes the part at `offset` has; `None` if there is no such part.
    #[must_use]
    pub fn part_bytes(offset: u32, total: u32) -> Option<u32> {
        let is_sound = offset.is_multiple_of(OUTBOARD_PART_BYTES) && total <= OUTBOARD_BYTES_MAX;
        let rest = total.checked_sub(offset).filter(|rest| *rest > 0 && is_sound)?;
        Some(rest.min(OUTBOARD_PART_BYTES))
    }

    /// The payload of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let int = |number: &u32| Value::Int(i64::from(*number));
        let of = |object: &'_ ObjectId| Value::bytes(object.as_bytes().to_vec());
        let (entries, data): (Vec<(&str, Value<'_>)>, Option<&Bytes>) = match self {
            Self::Proof(proof) => (
                vec![
                    ("proof", Value::bytes(proof.as_slice())),
                    ("type", Value::text("proof")),
                ],
                None,
            ),
            Self::OutboardRequest { object, offset } => (
                vec![
                    ("object", of(object)),
                    ("offset", int(offset)),
                    ("type", Value::text("outboard?")),
                ],
                None,
            ),
            Self::Outboard {
                object,
                total,
                offset,
                data,
            } => (
                vec![
                    ("object", of(object)),
                    ("offset", int(offset)),
                    ("total", int(total)),
                    ("type", Value::text("outboard")),
                ],
                Some(data),
            ),
            Self::NoOutboard { object } => (vec![("object", of(object)), ("type", Value::text("no outboard"))], None),
        };
        let entries = entries.into_iter().map(|(key, value)| (key.as_bytes(), value));
        let mut out = Value::dict(entries).encode();
        out.extend_from_slice(data.map_or(&[], |data| &data[..]));
        out.into()
    }

    /// Reads the payload of the message; `None` if it is of a type that we do not know, to be passed over. Data is shared
    /// with the payload.
    ///
    /// # Errors
    /// [`ExtensionError`] if it is too long, no dictionary, without its fields, or a part of another length than it should
    /// have.
    pub fn decode(payload: &Bytes) -> Result<Option<Self>, ExtensionError> {
        let (value, end) = dictionary(WHAT, payload, NODE_PAYLOAD_BYTES_MAX)?;
        let wrong = |why| ExtensionError::Field { what: WHAT, why };
        let digest = |key: &str| -> Option<[u8; 32]> { value.get(key)?.as_bytes()?.try_into().ok() };
        let object = || {
            let id = digest("object").ok_or_else(|| wrong("an object has 32 bytes"))?;
            Ok(ObjectId::from_bytes(id))
        };
        let offset = || number(&value, "offset").ok_or_else(|| wrong("it names no place"));
        let kind = value.get("type").and_then(Value::as_bytes);
        Ok(Some(match kind.ok_or_else(|| wrong("it has no type"))? {
            b"proof" => Self::Proof(digest("proof").ok_or_else(|| wrong("a proof has 32 bytes"))?),
            b"outboard?" => {
                let (object, offset) = (object()?, offset()?);
                let is_one = Self::part_bytes(offset, OUTBOARD_BYTES_MAX).is_some();
                if !is_one {
                    return Err(wrong("no part of an outboard begins there"));
                }
                Self::OutboardRequest { object, offset }
            }
            b"outboard" => {
                let (object, offset) = (object()?, offset()?);
                let total = number(&value, "total").ok_or_else(|| wrong("it has no total"))?;
                let ought = Self::part_bytes(offset, total);
                let ought = ought.ok_or_else(|| wrong("no part of an outboard begins there"))?;
                let data = payload.slice(end..);
                if u32::try_from(data.len()) != Ok(ought) {
                    return Err(wrong("its data has not the length of the part"));
                }
                Self::Outboard {
                    object,
                    total,
                    offset,
                    data,
                }
            }
            b"no outboard" => Self::NoOutboard { object: object()? },
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(payload: &[u8]) -> Result<Option<NodeMessage>, ExtensionError> {
        NodeMessage::decode(&Bytes::copy_from_slice(payload))
    }

    fn check(message: NodeMessage, bytes: &[u8]) {
        assert_eq!(
            message.encode().escape_ascii().to_string(),
            bytes.escape_ascii().to_string()
        );
        assert_eq!(decode(bytes), Ok(Some(message)));
    }

    const OBJECT: ObjectId = ObjectId::from_bytes([b'o'; 32]);

    #[test]
    fn messages_have_these_bytes() {
        check(
            NodeMessage::Proof([b'p'; 32]),
            b"d5:proof32:pppppppppppppppppppppppppppppppp4:type5:proofe",
        );
        check(
            NodeMessage::OutboardRequest {
                object: OBJECT,
                offset: 65536,
            },
            b"d6:object32:oooooooooooooooooooooooooooooooo6:offseti65536e4:type9:outboard?e",
        );
        check(
            NodeMessage::Outboard {
                object: OBJECT,
                total: 65540,
                offset: 65536,
                data: Bytes::from_static(b"rest"),
            },
            b"d6:object32:oooooooooooooooooooooooooooooooo6:offseti65536e5:totali65540e4:type8:outboarderest",
        );
        check(
            NodeMessage::NoOutboard { object: OBJECT },
            b"d6:object32:oooooooooooooooooooooooooooooooo4:type11:no outboarde",
        );
    }

    #[test]
    fn the_longest_message_is_read() {
        let message = NodeMessage::Outboard {
            object: OBJECT,
            total: OUTBOARD_BYTES_MAX,
            offset: OUTBOARD_BYTES_MAX - OUTBOARD_PART_BYTES,
            data: vec![7; OUTBOARD_PART_BYTES as usize].into(),
        };
        assert_eq!(NodeMessage::decode(&message.encode()), Ok(Some(message)));
    }

    #[test]
    fn types_of_later_versions_are_passed_over() {
        assert_eq!(decode(b"d4:moreli1ei2ee4:type5:latere"), Ok(None));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let id = "6:object32:oooooooooooooooooooooooooooooooo";
        let owned: Vec<(String, &str)> = vec![
            (format!("d{id}4:type9:outboard?e"), "no place"),
            (format!("d{id}6:offseti1e4:type9:outboard?e"), "begins there"),
            (format!("d{id}6:offseti-65536e4:type9:outboard?e"), "no place"),
            (format!("d{id}6:offseti33554432e4:type9:outboard?e"), "begins there"),
            ("d6:object3:abc6:offseti0e4:type9:outboard?e".to_owned(), "32 bytes"),
            ("d4:type11:no outboarde".to_owned(), "32 bytes"),
            (format!("d{id}6:offseti0e4:type8:outboarde"), "no total"),
            (format!("d{id}6:offseti0e5:totali0e4:type8:outboarde"), "begins there"),
            (
                format!("d{id}6:offseti0e5:totali33554433e4:type8:outboarde"),
                "begins there",
            ),
            (
                format!("d{id}6:offseti65536e5:totali65536e4:type8:outboarde"),
                "begins there",
            ),
            (
                format!("d{id}6:offseti0e5:totali4e4:type8:outboardeabc"),
                "the length of the part",
            ),
            (
                format!("d{id}6:offseti0e5:totali4e4:type8:outboardeabcde"),
                "the length of the part",
            ),
        ];
        let long = vec![b'd'; NODE_PAYLOAD_BYTES_MAX + 1];
        let fixed = [
            (&b"de"[..], "no type"),
            (b"d4:typei1ee", "no type"),
            (b"d4:type5:proofe", "32 bytes"),
            (b"d5:proof3:abc4:type5:proofe", "32 bytes"),
            (b"l4:type5:proofe", "no dictionary"),
            (b"d4:type", "no bencode"),
            (&[b'l'; 4000], "nested too deep"),
            (&long, "66560 are enough"),
            (&long[1..], "no bencode"),
        ];
        let owned = owned.iter().map(|(payload, what)| (payload.as_bytes(), *what));
        for (payload, what) in fixed.into_iter().chain(owned) {
            let error = decode(payload).unwrap_err().to_string();
            assert!(
                error.contains(what),
                "{}: {error}",
                payload[..payload.len().min(99)].escape_ascii()
            );
        }
    }
}
