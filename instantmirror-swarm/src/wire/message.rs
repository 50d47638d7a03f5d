//! The messages of BEP 3, 6 and 10, and how they are written.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Length of what stands before the data of a [`Message::Piece`].
pub const PIECE_HEADER_BYTES: usize = 13;

pub(super) const CHOKE: u8 = 0;
pub(super) const UNCHOKE: u8 = 1;
pub(super) const INTERESTED: u8 = 2;
pub(super) const NOT_INTERESTED: u8 = 3;
pub(super) const HAVE: u8 = 4;
pub(super) const BITFIELD: u8 = 5;
pub(super) const REQUEST: u8 = 6;
pub(super) const PIECE: u8 = 7;
pub(super) const CANCEL: u8 = 8;
pub(super) const PORT: u8 = 9;
pub(super) const SUGGEST: u8 = 13;
pub(super) const HAVE_ALL: u8 = 14;
pub(super) const HAVE_NONE: u8 = 15;
pub(super) const REJECT: u8 = 16;
pub(super) const ALLOWED_FAST: u8 = 17;
pub(super) const EXTENDED: u8 = 20;

/// A part of a piece, as it is asked for. Whether there is such a piece, and whether it is that long, is for the reader
/// of the message to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Index of the piece.
    pub piece: u32,
    /// First byte within the piece.
    pub begin: u32,
    /// How many bytes.
    pub length: u32,
}

impl Block {
    /// The bytes within the piece. Wider than the fields, so that no block wraps around.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let begin = u64::from(self.begin);
        begin..begin + u64::from(self.length)
    }
}

/// What peers say to each other after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Nothing, so that the connection is not taken for dead.
    KeepAlive,
    /// Requests will not be answered.
    Choke,
    /// Requests will be answered.
    Unchoke,
    /// The sender would ask for something.
    Interested,
    /// It would not.
    NotInterested,
    /// The sender has this piece now.
    Have(u32),
    /// Which pieces the sender has, the highest bit of the first byte for piece 0. Length and spare bits are as they came.
    Bitfield(Bytes),
    /// The sender wants this block.
    Request(Block),
    /// A block, at least one byte of it.
    Piece {
        /// Index of the piece.
        piece: u32,
        /// First byte within the piece.
        begin: u32,
        /// What was asked for.
        data: Bytes,
    },
    /// The sender does not want this block any more.
    Cancel(Block),
    /// Where the sender's DHT node listens (BEP 5).
    Port(u16),
    /// The receiver should ask for this piece (BEP 6).
    Suggest(u32),
    /// The sender has every piece (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// This request will not be answered (BEP 6).
    Reject(Block),
    /// Requests for this piece are answered though the receiver is choked (BEP 6).
    AllowedFast(u32),
    /// A message of an extension (BEP 10). Id 0 is the extension handshake, others are those that the receiver chose.
    Extended {
        /// Which extension.
        id: u8,
        /// What it says; [`extension`](super::extension) reads it.
        payload: Bytes,
    },
    /// A message of an id that we do not know. What it said is gone.
    Unknown {
        /// The id.
        id: u8,
    },
}

impl Message {
    /// Appends the message as it is sent. Payloads are at most 2^32 - 14 bytes long; readers take far less.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::KeepAlive => out.put_u32(0),
            Self::Choke => plain(out, CHOKE),
            Self::Unchoke => plain(out, UNCHOKE),
            Self::Interested => plain(out, INTERESTED),
            Self::NotInterested => plain(out, NOT_INTERESTED),
            Self::Have(piece) => number(out, HAVE, *piece),
            Self::Bitfield(bits) => {
                head(out, BITFIELD, bits.len());
                out.put_slice(bits);
            }
            Self::Request(asked) => block(out, REQUEST, asked),
            Self::Piece { piece, begin, data } => {
                head(out, PIECE, 8 + data.len());
                out.put_u32(*piece);
                out.put_u32(*begin);
                out.put_slice(data);
            }
            Self::Cancel(asked) => block(out, CANCEL, asked),
            Self::Port(port) => {
                head(out, PORT, 2);
                out.put_u16(*port);
            }
            Self::Suggest(piece) => number(out, SUGGEST, *piece),
            Self::HaveAll => plain(out, HAVE_ALL),
            Self::HaveNone => plain(out, HAVE_NONE),
            Self::Reject(asked) => block(out, REJECT, asked),
            Self::AllowedFast(piece) => number(out, ALLOWED_FAST, *piece),
            Self::Extended { id, payload } => {
                head(out, EXTENDED, 1 + payload.len());
                out.put_u8(*id);
                out.put_slice(payload);
            }
            Self::Unknown { id } => plain(out, *id),
        }
    }
}

/// What is sent before the `length` bytes of a block, so that these need not be copied behind it.
#[must_use]
pub fn piece_header(piece: u32, begin: u32, length: u32) -> [u8; PIECE_HEADER_BYTES] {
    let mut header = [0; PIECE_HEADER_BYTES];
    header[..4].copy_from_slice(&length.saturating_add(9).to_be_bytes());
    header[4] = PIECE;
    header[5..9].copy_from_slice(&piece.to_be_bytes());
    header[9..].copy_from_slice(&begin.to_be_bytes());
    header
}

/// Length and id of a message with so many bytes behind its id.
fn head(out: &mut BytesMut, id: u8, body: usize) {
    out.reserve(5 + body);
    out.put_u32(u32::try_from(body).unwrap_or(u32::MAX).saturating_add(1));
    out.put_u8(id);
}

fn plain(out: &mut BytesMut, id: u8) {
    head(out, id, 0);
}

fn number(out: &mut BytesMut, id: u8, number: u32) {
    head(out, id, 4);
    out.put_u32(number);
}

fn block(out: &mut BytesMut, id: u8, block: &Block) {
    head(out, id, 12);
    for number in [block.piece, block.begin, block.length] {
        out.put_u32(number);
    }
}
