//! Everything the master has to know of a file's content, in one pass over it; and the table that keeps it.
//!
//! It never reads content twice and never keeps it. Invariant: a digest that is read back from the table belongs to
//! the object it is asked for (its outboard hashes to the object's id), or there is an error.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::outboard::{ObjectHasher, Outboard};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::pack::{PackOptions, PackStore};

/// Bytes read at once: the hashes then work on what is still in the processor's cache.
const READ_BYTES: usize = 256 << 10;
/// Length of a SHA-1 hash in bytes.
pub const SHA1_BYTES: usize = 20;
/// The smallest piece length, in bytes.
pub const PIECE_BYTES_MIN: u32 = 16 << 10;
/// The largest piece length, in bytes.
pub const PIECE_BYTES_MAX: u32 = 64 << 20;
/// The version of the encoding.
const VERSION: u8 = 1;
/// Bytes before the pieces: version, piece length, size, SHA-256, unpadded last piece.
const FIXED_BYTES: usize = 1 + 4 + 8 + 32 + SHA1_BYTES;
const ADVICE: &str = "publish the file again, or remove the digest table: it is then made anew";

/// The hashes of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentDigest {
    outboard: Outboard,
    sha256: [u8; 32],
    piece_bytes: u32,
    last_piece: [u8; SHA1_BYTES],
    pieces: Bytes,
}

impl ContentDigest {
    /// The object's id: the BLAKE3 hash of its content.
    pub fn object(&self) -> ObjectId {
        self.outboard.object()
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.outboard.size()
    }

    /// What makes every 64 KiB group verifiable by itself.
    pub fn outboard(&self) -> &Outboard {
        &self.outboard
    }

    /// SHA-256 of the content, as metalinks and package indexes name it.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Length of a piece, in bytes.
    pub fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// SHA-1 of every piece, 20 bytes each, the last piece filled with zeros to its full length (BEP 47). Empty for an
    /// empty object.
    pub fn pieces(&self) -> &Bytes {
        &self.pieces
    }

    /// SHA-1 of the last piece as it is, without zeros: for the file that comes last in a torrent.
    pub fn last_piece_unpadded(&self) -> &[u8; SHA1_BYTES] {
        &self.last_piece
    }

    /// The compact encoding, version 1, all numbers little-endian: version u8, piece length u32, size u64, SHA-256,
    /// SHA-1 of the unpadded last piece (zeros for an empty object), the pieces, the outboard.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.pieces.len() + self.outboard.values().len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.piece_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.size().to_le_bytes());
        bytes.extend_from_slice(&self.sha256);
        bytes.extend_from_slice(&self.last_piece);
        bytes.extend_from_slice(&self.pieces);
        bytes.extend_from_slice(self.outboard.values());
        bytes
    }

    /// Takes an encoded digest of `object`. `place` is where it was found, for the error. The pieces are slices of
    /// `bytes`.
    pub fn decode(object: ObjectId, bytes: &Bytes, place: &Path) -> Result<Self> {
        let damaged = |what: &str| StoreError::damaged(place, format!("digest of object {object}: {what}"), ADVICE);
        if let Some(&found) = bytes.first().filter(|version| **version != VERSION) {
            let (found, supported) = (u32::from(found), u32::from(VERSION));
            return Err(StoreError::UnknownVersion {
                path: place.to_path_buf(),
                found,
                supported,
            });
        }
        let short = || damaged("it is cut short");
        let mut rest = bytes.get(1..).ok_or_else(short)?;
        let piece_bytes = u32::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        let size = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        let sha256 = take(&mut rest).ok_or_else(short)?;
        let last_piece = take(&mut rest).ok_or_else(short)?;
        if !is_piece_length(piece_bytes) {
            return Err(damaged("its piece length is no power of two within the limits"));
        }
        let pieces_len = size.div_ceil(u64::from(piece_bytes)).checked_mul(SHA1_BYTES as u64);
        let pieces_end = pieces_len
            .and_then(|len| usize::try_from(len).ok())
            .and_then(|len| len.checked_add(FIXED_BYTES));
        let Some(pieces_end) = pieces_end.filter(|end| *end <= bytes.len()) else {
            return Err(short());
        };
        let outboard =
            Outboard::verify(object, size, bytes.slice(pieces_end..)).map_err(|e| damaged(&e.to_string()))?;
        Ok(Self {
            outboard,
            sha256,
            piece_bytes,
            last_piece,
            pieces: bytes.slice(FIXED_BYTES..pieces_end),
        })
    }
}

fn is_piece_length(bytes: u32) -> bool {
    bytes.is_power_of_two() && (PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&bytes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// Computes a [`ContentDigest`] from content that is handed in piece by piece.
#[derive(Debug)]
pub struct ContentHasher {
    object: ObjectHasher,
    sha256: Sha256,
    piece: Sha1,
    /// Bytes in the current piece.
    filled: u32,
    piece_bytes: u32,
    pieces: Vec<u8>,
}

impl ContentHasher {
    /// A hasher for pieces of `piece_bytes`, a power of two: [`StoreError::TooLarge`] if it is none or lies outside
    /// [`PIECE_BYTES_MIN`] and [`PIECE_BYTES_MAX`].
    pub fn new(piece_bytes: u32) -> Result<Self> {
        if !is_piece_length(piece_bytes) {
            let what = format!("the piece length (a power of two, at least {PIECE_BYTES_MIN})");
            return Err(StoreError::TooLarge {
                what,
                size: u64::from(piece_bytes),
                limit: u64::from(PIECE_BYTES_MAX),
            });
        }
        let (object, sha256, piece) = (ObjectHasher::new(), Sha256::new(), Sha1::new());
        Ok(Self {
            object,
            sha256,
            piece,
            filled: 0,
            piece_bytes,
            pieces: Vec::new(),
        })
    }

    /// Adds the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.object.update(data);
        self.sha256.update(data);
        let mut rest = data;
        while !rest.is_empty() {
            let room = (self.piece_bytes - self.filled) as usize;
            let (part, after) = rest.split_at(rest.len().min(room));
            self.piece.update(part);
            // No more than `room`, which is a u32.
            self.filled += u32::try_from(part.len()).unwrap_or(u32::MAX);
            if self.filled == self.piece_bytes {
                self.pieces
                    .extend_from_slice(&std::mem::take(&mut self.piece).finalize());
                self.filled = 0;
            }
            rest = after;
        }
    }

    /// All hashes of what was added.
    pub fn finish(mut self) -> ContentDigest {
        let mut last_piece = [0; SHA1_BYTES];
        if self.filled > 0 {
            last_piece = self.piece.clone().finalize().into();
            pad(&mut self.piece, self.piece_bytes - self.filled);
            self.pieces.extend_from_slice(&self.piece.finalize());
        } else if let Some(last) = self.pieces.last_chunk() {
            last_piece = *last;
        }
        ContentDigest {
            outboard: self.object.finish(),
            sha256: self.sha256.finalize().into(),
            piece_bytes: self.piece_bytes,
            last_piece,
            pieces: self.pieces.into(),
        }
    }
}

fn pad(piece: &mut Sha1, zeros: u32) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut left = zeros as usize;
    while left > 0 {
        let part = left.min(ZEROS.len());
        piece.update(&ZEROS[..part]);
        left -= part;
    }
}

/// Reads to the end and returns all hashes. `progress` is told the bytes of each step.
pub fn digest_reader(
    reader: &mut dyn Read,
    path: &Path,
    piece_bytes: u32,
    progress: &mut dyn FnMut(u64),
) -> Result<ContentDigest> {
    let mut hasher = ContentHasher::new(piece_bytes)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                progress(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::io("read", path, error)),
        }
    }
}

/// The digests of all objects of a master, by object id. Durable as [`PackStore`] is.
#[derive(Debug)]
pub struct DigestTable {
    packs: PackStore,
}

impl DigestTable {
    /// Opens (making it where needed) the table in `dir` for reading and writing.
    pub fn open(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            packs: PackStore::open_writer(disk, dir, PackOptions::default())?,
        })
    }

    /// Opens the table in `dir` for reading, beside a writer in this or another process.
    pub fn open_reader(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            packs: PackStore::open_reader(disk, dir)?,
        })
    }

    /// The digest of an object, if it is known.
    pub fn digest(&self, object: &ObjectId) -> Result<Option<ContentDigest>> {
        let Some(bytes) = self.packs.get(object.as_bytes())? else {
            return Ok(None);
        };
        ContentDigest::decode(*object, &bytes, self.packs.dir()).map(Some)
    }

    /// Adds digests; durable when it returns.
    pub fn put(&self, digests: &[ContentDigest]) -> Result<()> {
        self.packs.put_batch(
            digests
                .iter()
                .map(|digest| (*digest.object().as_bytes(), digest.encode())),
        )
    }

    /// Forgets the digests of objects that `keep` refuses.
    pub fn retain(&self, keep: &dyn Fn(&ObjectId) -> bool) -> Result<()> {
        self.packs.compact(&|key| keep(&ObjectId::from_bytes(*key))).map(|_| ())
    }
}
