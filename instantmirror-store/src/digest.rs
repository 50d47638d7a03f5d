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
use sha1::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::pack::{PackOptions, PackStore};

/// Bytes read at once: the hashes then work on what is still in the processor's cache.
pub(crate) const READ_BYTES: usize = 256 << 10;
/// Length of a SHA-1 hash in bytes.
pub const SHA1_BYTES: usize = 20;
/// The smallest piece length, in bytes.
pub const PIECE_BYTES_MIN: u32 = 16 << 10;
/// The largest piece length, in bytes.
pub const PIECE_BYTES_MAX: u32 = 64 << 20;
/// The version of the encoding.
const VERSION: u8 = 1;
/// Bytes before the variable parts: version, piece length, size, SHA-256.
const FIXED_BYTES: usize = 1 + 4 + 8 + 32;
const ADVICE: &str = "publish the file again, or remove the digest table: it is then made anew";

/// The hashes of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentDigest {
    outboard: Outboard,
    sha256: [u8; 32],
    piece_bytes: u32,
    pieces: Bytes,
    tail: Option<TailPiece>,
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

    /// SHA-1 of every full piece, 20 bytes each.
    pub fn full_pieces(&self) -> &Bytes {
        &self.pieces
    }

    /// What is known of the last piece, if it is not a full one.
    pub fn tail(&self) -> Option<&TailPiece> {
        self.tail.as_ref()
    }

    /// Number of pieces.
    pub fn piece_count(&self) -> u64 {
        self.size().div_ceil(u64::from(self.piece_bytes))
    }

    /// The compact encoding, version 1, all numbers little-endian: version u8, piece length u32, size u64, SHA-256,
    /// SHA-1 of the full pieces, for a tail piece its SHA-1 state (20 bytes) and the bytes behind its last whole
    /// 64-byte block, the outboard.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + 128 + self.pieces.len() + self.outboard.values().len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.piece_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.size().to_le_bytes());
        bytes.extend_from_slice(&self.sha256);
        bytes.extend_from_slice(&self.pieces);
        if let Some(tail) = &self.tail {
            bytes.extend_from_slice(&tail.state);
            bytes.extend_from_slice(&tail.rest);
        }
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
        if !is_piece_length(piece_bytes) {
            return Err(damaged("its piece length is no power of two within the limits"));
        }
        let full = usize::try_from(size / u64::from(piece_bytes)).ok();
        let pieces_end = full.and_then(|full| full.checked_mul(SHA1_BYTES)?.checked_add(FIXED_BYTES));
        let pieces_end = pieces_end.filter(|end| *end <= bytes.len()).ok_or_else(short)?;
        let tail_bytes = size % u64::from(piece_bytes);
        let (tail, tail_end) = if tail_bytes == 0 {
            (None, pieces_end)
        } else {
            let (tail, len) = TailPiece::decode(tail_bytes, &bytes[pieces_end..]).ok_or_else(short)?;
            (Some(tail), pieces_end + len)
        };
        let outboard = Outboard::verify(object, size, bytes.slice(tail_end..)).map_err(|e| damaged(&e.to_string()))?;
        Ok(Self {
            outboard,
            sha256,
            piece_bytes,
            pieces: bytes.slice(FIXED_BYTES..pieces_end),
            tail,
        })
    }
}

/// Where an encoded digest has the SHA-256: behind version, piece length and size.
const SHA256_AT: usize = 1 + 4 + 8;
/// Where a serialised SHA-1 keeps the bytes that do not fill a block: behind the state and the count of blocks, and
/// one byte that says how many there are.
const BUFFER_AT: usize = SHA1_BYTES + 8 + 1;
/// Bytes that SHA-1 takes at a time.
const SHA1_BLOCK: u64 = 64;

/// The last piece of an object that does not fill it: a SHA-1 that can be carried on.
///
/// In a torrent with pad files (BEP 47) the piece is filled with zeros, in one where its file comes last it is not.
/// Hashing a megabyte of zeros behind every small file at import would cost more than everything else, so the
/// state is kept and the zeros are hashed when a torrent is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailPiece {
    /// Bytes of the object in this piece.
    len: u64,
    /// SHA-1 state after the last whole block, five words in the byte order of [`SerializableState`].
    state: [u8; SHA1_BYTES],
    /// The bytes behind that block.
    rest: Vec<u8>,
}

impl TailPiece {
    fn new(len: u64, hasher: &Sha1) -> Self {
        let serialized = hasher.serialize();
        let (mut state, rest_len) = ([0; SHA1_BYTES], usize::try_from(len % SHA1_BLOCK).unwrap_or(0));
        state.copy_from_slice(&serialized[..SHA1_BYTES]);
        let buffered = &serialized[BUFFER_AT..];
        Self {
            len,
            state,
            rest: buffered[..rest_len].to_vec(),
        }
    }

    fn decode(len: u64, bytes: &[u8]) -> Option<(Self, usize)> {
        let state = *bytes.first_chunk::<SHA1_BYTES>()?;
        let end = SHA1_BYTES + usize::try_from(len % SHA1_BLOCK).ok()?;
        let rest = bytes.get(SHA1_BYTES..end)?.to_vec();
        Some((Self { len, state, rest }, end))
    }

    fn hasher(&self) -> Sha1 {
        let mut serialized = SerializedState::<Sha1>::default();
        serialized[..SHA1_BYTES].copy_from_slice(&self.state);
        serialized[SHA1_BYTES..SHA1_BYTES + 8].copy_from_slice(&(self.len / SHA1_BLOCK).to_le_bytes());
        // An empty buffer is all zeros, which always deserialises; the tests pin this layout.
        let mut hasher = Sha1::deserialize(&serialized).unwrap_or_default();
        hasher.update(&self.rest);
        hasher
    }

    /// SHA-1 of the piece as it is: for the file that comes last in a torrent.
    pub fn sha1(&self) -> [u8; SHA1_BYTES] {
        self.hasher().finalize().into()
    }

    /// SHA-1 of the piece filled with zeros to `piece_bytes` (BEP 47).
    pub fn sha1_padded(&self, piece_bytes: u32) -> [u8; SHA1_BYTES] {
        let mut hasher = self.hasher();
        pad(&mut hasher, u64::from(piece_bytes).saturating_sub(self.len));
        hasher.finalize().into()
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

/// As many zeros as are read at once.
pub(crate) static ZEROS: [u8; READ_BYTES] = [0; READ_BYTES];

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
    /// SHA-1 of a piece of zeros, once it was needed.
    zero_piece: Option<[u8; SHA1_BYTES]>,
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
            zero_piece: None,
        })
    }

    /// Adds the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.object.update(data);
        self.sha256.update(data);
        self.update_pieces(data);
    }

    /// Adds as many zeros. `progress` is told the bytes of each step.
    pub fn update_zeros(&mut self, len: u64, progress: &mut dyn FnMut(u64)) {
        let mut left = len;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            self.object.update(&ZEROS[..step]);
            self.sha256.update(&ZEROS[..step]);
            left -= step as u64;
            progress(step as u64);
        }
        // Pieces are hashed each by itself, so whole ones of zeros are all the same.
        let piece_bytes = u64::from(self.piece_bytes);
        let before = (piece_bytes - u64::from(self.filled)) % piece_bytes;
        let before = before.min(len);
        self.update_zero_part(before);
        for _ in 0..(len - before) / piece_bytes {
            let zero_piece = *self.zero_piece.get_or_insert_with(|| {
                let mut piece = Sha1::new();
                pad(&mut piece, piece_bytes);
                piece.finalize().into()
            });
            self.pieces.extend_from_slice(&zero_piece);
        }
        self.update_zero_part((len - before) % piece_bytes);
    }

    fn update_zero_part(&mut self, len: u64) {
        let mut left = len;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            self.update_pieces(&ZEROS[..step]);
            left -= step as u64;
        }
    }

    fn update_pieces(&mut self, data: &[u8]) {
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
    pub fn finish(self) -> ContentDigest {
        ContentDigest {
            tail: (self.filled > 0).then(|| TailPiece::new(u64::from(self.filled), &self.piece)),
            outboard: self.object.finish(),
            sha256: self.sha256.finalize().into(),
            piece_bytes: self.piece_bytes,
            pieces: self.pieces.into(),
        }
    }
}

fn pad(piece: &mut Sha1, zeros: u64) {
    let mut left = zeros;
    while left > 0 {
        let part = ZEROS.len().min(usize::try_from(left).unwrap_or(ZEROS.len()));
        piece.update(&ZEROS[..part]);
        left -= part as u64;
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
    is_overlay: bool,
}

impl DigestTable {
    /// Opens (making it where needed) the table in `dir` for reading and writing.
    pub fn open(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            packs: PackStore::open_writer(disk, dir, PackOptions::default())?,
            is_overlay: false,
        })
    }

    /// Opens the table in `dir` for reading, beside a writer in this or another process.
    pub fn open_reader(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            packs: PackStore::open_reader(disk, dir)?,
            is_overlay: false,
        })
    }

    /// Opens the table in `dir` for reading; what is put stays in memory, and of it only the [SHA-256](Self::sha256).
    ///
    /// Errors: those of [`PackStore::open_overlay`].
    pub fn open_overlay(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            packs: PackStore::open_overlay(disk, dir)?,
            is_overlay: true,
        })
    }

    /// The digest of an object, if it is known.
    pub fn digest(&self, object: &ObjectId) -> Result<Option<ContentDigest>> {
        let Some(bytes) = self.packs.get(object.as_bytes())? else {
            return Ok(None);
        };
        ContentDigest::decode(*object, &bytes, self.packs.dir()).map(Some)
    }

    /// The SHA-256 of an object, if it is known, without looking at the rest of its digest.
    pub fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>> {
        let bytes = self.packs.get(object.as_bytes())?;
        let known = bytes.filter(|bytes| bytes.first() == Some(&VERSION));
        Ok(known.and_then(|bytes| bytes.get(SHA256_AT..SHA256_AT + 32)?.try_into().ok()))
    }

    /// Adds digests; durable when it returns.
    pub fn put(&self, digests: &[ContentDigest]) -> Result<()> {
        if self.is_overlay {
            // Pieces and outboards are long, and nobody asks for them.
            let short = |digest: &ContentDigest| digest.encode().into_iter().take(FIXED_BYTES).collect::<Vec<_>>();
            let records = digests
                .iter()
                .map(|digest| (*digest.object().as_bytes(), short(digest)));
            return self.packs.put_missing(records).map(drop);
        }
        self.packs.put_batch(
            digests
                .iter()
                .map(|digest| (*digest.object().as_bytes(), digest.encode())),
        )
    }

    /// How many digests there are; those put several times may count several times.
    pub fn entries(&self) -> u64 {
        self.packs.stats().entries
    }

    /// The same to the last byte: no file holds a refused digest afterwards, nor the short contents in it. Reads all digests.
    pub fn purge(&self, keep: &dyn Fn(&ObjectId) -> bool) -> Result<()> {
        self.packs.purge(&|key| keep(&ObjectId::from_bytes(*key))).map(|_| ())
    }

    /// Forgets the digests of objects that `keep` refuses.
    pub fn retain(&self, keep: &dyn Fn(&ObjectId) -> bool) -> Result<()> {
        self.packs.compact(&|key| keep(&ObjectId::from_bytes(*key))).map(|_| ())
    }
}
