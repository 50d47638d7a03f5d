//! From bytes to messages.

use bytes::{Buf as _, Bytes, BytesMut};

use super::message as id;
use super::{Block, Message};

/// Length of the blocks that everybody asks for.
pub const BLOCK_BYTES: u32 = 16 << 10;
/// The longest block that is ever taken, whatever [`Limits`] say.
pub const BLOCK_BYTES_MAX: u32 = 128 << 10;
/// The longest extended message that is taken by default: those who list what they have, and some room for what names it.
pub const EXTENDED_BYTES: u32 = (1 << 20) + (16 << 10);
/// The longest message of an unknown id that is passed over.
pub const UNKNOWN_BYTES_MAX: u32 = 1 << 20;
/// The longest bitfield that is taken by default: eight million pieces.
const BITFIELD_BYTES: u32 = 1 << 20;

/// How long messages may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest bitfield, in bytes.
    pub bitfield_bytes: u32,
    /// Longest data of a piece message, in bytes; at most [`BLOCK_BYTES_MAX`].
    pub block_bytes: u32,
    /// Longest payload of an extended message, in bytes.
    pub extended_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bitfield_bytes: BITFIELD_BYTES,
            block_bytes: BLOCK_BYTES,
            extended_bytes: EXTENDED_BYTES,
        }
    }
}

impl Limits {
    /// The limits for a torrent of so many pieces.
    #[must_use]
    pub fn for_pieces(pieces: u32) -> Self {
        Self {
            bitfield_bytes: pieces.div_ceil(8),
            ..Self::default()
        }
    }

    /// The lengths that a message may have, its id included; and whether we know what it is.
    fn of(&self, id: u8) -> (u64, u64, bool) {
        let exactly = |body: u64| (1 + body, 1 + body, true);
        match id {
            id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => exactly(0),
            id::HAVE | id::SUGGEST | id::ALLOWED_FAST => exactly(4),
            id::REQUEST | id::CANCEL | id::REJECT => exactly(12),
            id::PORT => exactly(2),
            id::BITFIELD => (1, 1 + u64::from(self.bitfield_bytes), true),
            // At least one byte of data.
            id::PIECE => (10, 9 + u64::from(self.block_bytes.min(BLOCK_BYTES_MAX)), true),
            id::EXTENDED => (2, 2 + u64::from(self.extended_bytes), true),
            _ => (1, u64::from(UNKNOWN_BYTES_MAX), false),
        }
    }

    /// The longest that any message may be.
    fn longest(&self) -> u64 {
        let ids = [id::BITFIELD, id::PIECE, id::EXTENDED, u8::MAX];
        ids.into_iter().map(|id| self.of(id).1).max().unwrap_or_default()
    }
}

/// What is wrong with what a peer sent. The connection is of no use after it: where the next message begins is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It speaks something else.
    #[error("it does not begin with a BitTorrent handshake")]
    Protocol,
    /// It announces a message that is longer than any may be.
    #[error("it announces a message of {length} bytes, and no message may be longer than {most}")]
    TooLong {
        /// Bytes that it announces.
        length: u32,
        /// Bytes that would be taken.
        most: u64,
    },
    /// It announces a message that has not the length of its kind.
    #[error("it announces a message with id {id} of {length} bytes, and such a message has {least} to {most}")]
    Length {
        /// Which message.
        id: u8,
        /// Bytes that it announces.
        length: u32,
        /// Fewest bytes of such a message.
        least: u64,
        /// Most bytes of such a message.
        most: u64,
    },
}

/// Takes messages off a buffer.
///
/// ```
/// use bytes::BytesMut;
/// use instantmirror_swarm::wire::{Decoder, Limits, Message};
///
/// let mut buffer = BytesMut::from(&b"\0\0\0\x05\x04\0\0\0\x07\0\0\0\x01"[..]);
/// let mut decoder = Decoder::new(Limits::default());
/// assert_eq!(decoder.next(&mut buffer), Ok(Some(Message::Have(7))));
/// assert_eq!(decoder.next(&mut buffer), Ok(None));
/// buffer.extend_from_slice(b"\x01");
/// assert_eq!(decoder.next(&mut buffer), Ok(Some(Message::Unchoke)));
/// ```
#[derive(Debug, Clone)]
pub struct Decoder {
    limits: Limits,
    /// A message of an unknown id, and how much of it is still to come: it is dropped as it arrives.
    passing: Option<(u8, usize)>,
}

impl Decoder {
    /// A decoder for what follows a handshake.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, passing: None }
    }

    /// Changes the limits for messages that begin from now on, for instance when the number of pieces becomes known.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes the next message off the front of the buffer; `None` if it is not whole yet. Data, bitfields and payloads
    /// are split off, not copied: they keep the memory of the buffer that they came in. A buffer never has to hold more than one message of the [`Limits`] for this to go on.
    ///
    /// # Errors
    /// [`WireError`], as soon as the first bytes of a message show it; the same one again if it is called again.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, WireError> {
        if let Some((id, left)) = self.passing {
            return Ok(self.pass(buffer, id, left));
        }
        let Some(length) = buffer.first_chunk::<4>().copied().map(u32::from_be_bytes) else {
            return Ok(None);
        };
        if length == 0 {
            buffer.advance(4);
            return Ok(Some(Message::KeepAlive));
        }
        let most = self.limits.longest();
        if u64::from(length) > most {
            return Err(WireError::TooLong { length, most });
        }
        let Some(&id) = buffer.get(4) else { return Ok(None) };
        let (least, most, is_known) = self.limits.of(id);
        if !(least..=most).contains(&u64::from(length)) {
            return Err(WireError::Length {
                id,
                length,
                least,
                most,
            });
        }
        // Held against the limits above; 32 bits fit wherever this runs.
        let body = usize::try_from(length - 1).unwrap_or(usize::MAX);
        if !is_known {
            buffer.advance(5);
            return Ok(self.pass(buffer, id, body));
        }
        if buffer.len() - 5 < body {
            return Ok(None);
        }
        buffer.advance(5);
        Ok(Some(read(id, buffer.split_to(body).freeze())))
    }

    fn pass(&mut self, buffer: &mut BytesMut, id: u8, left: usize) -> Option<Message> {
        let here = left.min(buffer.len());
        buffer.advance(here);
        self.passing = (here < left).then_some((id, left - here));
        self.passing.is_none().then_some(Message::Unknown { id })
    }
}

/// A message of an id that we know, of which the length was seen to be right.
fn read(id: u8, mut body: Bytes) -> Message {
    let mut block = || Block {
        piece: body.get_u32(),
        begin: body.get_u32(),
        length: body.get_u32(),
    };
    match id {
        id::CHOKE => Message::Choke,
        id::UNCHOKE => Message::Unchoke,
        id::INTERESTED => Message::Interested,
        id::NOT_INTERESTED => Message::NotInterested,
        id::HAVE => Message::Have(body.get_u32()),
        id::BITFIELD => Message::Bitfield(body),
        id::REQUEST => Message::Request(block()),
        id::PIECE => Message::Piece {
            piece: body.get_u32(),
            begin: body.get_u32(),
            data: body,
        },
        id::CANCEL => Message::Cancel(block()),
        id::PORT => Message::Port(body.get_u16()),
        id::SUGGEST => Message::Suggest(body.get_u32()),
        id::HAVE_ALL => Message::HaveAll,
        id::HAVE_NONE => Message::HaveNone,
        id::REJECT => Message::Reject(block()),
        id::ALLOWED_FAST => Message::AllowedFast(body.get_u32()),
        id::EXTENDED => Message::Extended {
            id: body.get_u8(),
            payload: body,
        },
        _ => Message::Unknown { id },
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
