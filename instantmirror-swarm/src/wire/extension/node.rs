//! What nodes of ours say to each other and to nobody else (`im_node`): dictionaries with a `type`.

use bytes::Bytes;
use instantmirror_core::bencode::Value;

use super::{ExtensionError, dictionary};

/// The longest message that is read.
pub const NODE_PAYLOAD_BYTES_MAX: usize = 4096;

const WHAT: &str = "a message between nodes";

/// A message of `im_node`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeMessage {
    /// Proves that the sender knows a secret: what it made of the secret and of the nonce in the receiver's extension
    /// handshake.
    Proof([u8; 32]),
}

impl NodeMessage {
    /// The payload of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self::Proof(proof) = self;
        let entries: [(&[u8], Value<'_>); 2] = [
            (b"proof", Value::bytes(proof.as_slice())),
            (b"type", Value::text("proof")),
        ];
        Value::dict(entries).encode().into()
    }

    /// Reads the payload of the message; `None` if it is of a type that we do not know, to be passed over.
    ///
    /// # Errors
    /// [`ExtensionError`] if it is too long, no dictionary, or without its fields.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, ExtensionError> {
        let (value, _) = dictionary(WHAT, payload, NODE_PAYLOAD_BYTES_MAX)?;
        let wrong = |why| ExtensionError::Field { what: WHAT, why };
        let kind = value.get("type").and_then(Value::as_bytes);
        match kind.ok_or_else(|| wrong("it has no type"))? {
            b"proof" => {
                let proof = value.get("proof").and_then(Value::as_bytes);
                let proof = proof.and_then(|proof| proof.try_into().ok());
                let proof = proof.ok_or_else(|| wrong("a proof has 32 bytes"))?;
                Ok(Some(Self::Proof(proof)))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_has_these_bytes() {
        let message = NodeMessage::Proof([b'p'; 32]);
        let bytes = b"d5:proof32:pppppppppppppppppppppppppppppppp4:type5:proofe";
        assert_eq!(&message.encode()[..], bytes);
        assert_eq!(NodeMessage::decode(bytes), Ok(Some(message)));
    }

    #[test]
    fn types_of_later_versions_are_passed_over() {
        assert_eq!(NodeMessage::decode(b"d4:moreli1ei2ee4:type5:latere"), Ok(None));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (payload, what) in [
            (&b"de"[..], "no type"),
            (b"d4:typei1ee", "no type"),
            (b"d4:type5:proofe", "32 bytes"),
            (b"d5:proof3:abc4:type5:proofe", "32 bytes"),
            (b"l4:type5:proofe", "no dictionary"),
            (b"d4:type", "no bencode"),
            (&[b'l'; 4000], "nested too deep"),
            (&[b'd'; 4097], "4096 are enough"),
            (&[b'l'; 4096], "nested too deep"),
        ] {
            let error = NodeMessage::decode(payload).unwrap_err().to_string();
            assert!(error.contains(what), "{}: {error}", payload.escape_ascii());
        }
    }
}
