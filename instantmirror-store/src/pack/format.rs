//! The bytes of pack files, version 1. All numbers are little-endian.
//!
//! Segment `seg-NNNNNNNN.pack`: header (16 bytes: magic, version u32, number u32), then records: magic u32, payload
//! length u32, CRC-32 u32 of (length as u64, key, payload), key (32 bytes), payload. The magic lets a scan find the next
//! record after a damaged one.
//!
//! Index `idx-FIRST-LAST.idx`: header (64 bytes), fan-out (256 × u64: number of entries whose first key byte is ≤ i),
//! entries (48 bytes: key, segment u32, payload length u32, record offset u64) sorted by key, CRC-32 of each block of
//! 64 entries, segment table (24 bytes each: number u32, zero u32, entries u64, record bytes u64). The header's CRC-32
//! covers everything but the entries, so opening checks a hundredth of the file and reads nothing of the rest.
//!
//! Nothing here does I/O.

use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};

/// A key: 32 bytes, usually a BLAKE3 hash.
pub type Key = [u8; 32];

/// The version of both file formats.
pub(super) const VERSION: u32 = 1;
/// The largest payload of one record, in bytes.
pub const RECORD_BYTES_MAX: u64 = 1 << 30;

pub(super) const SEGMENT_MAGIC: &[u8; 8] = b"IMPACKSG";
pub(super) const SEGMENT_HEADER_SIZE: usize = 16;
pub(super) const SEGMENT_HEADER_BYTES: u64 = SEGMENT_HEADER_SIZE as u64;
pub(super) const RECORD_MAGIC: [u8; 4] = *b"IMRC";
pub(super) const RECORD_HEADER_SIZE: usize = 44;
pub(super) const RECORD_HEADER_BYTES: u64 = RECORD_HEADER_SIZE as u64;

pub(super) const INDEX_MAGIC: &[u8; 8] = b"IMPACKIX";
pub(super) const INDEX_HEADER_BYTES: usize = 64;
pub(super) const FANOUT_BYTES: usize = 256 * 8;
pub(super) const ENTRIES_START: usize = INDEX_HEADER_BYTES + FANOUT_BYTES;
pub(super) const ENTRY_BYTES: usize = 48;
/// Entries that share one checksum.
pub(super) const BLOCK_ENTRIES: usize = 64;
pub(super) const SEGMENT_USE_BYTES: usize = 24;
/// Where the header's own checksum lies.
pub(super) const INDEX_CRC_AT: usize = 56;

pub(super) const REBUILD_ADVICE: &str =
    "stop writers and start again: the index is then rebuilt from the segments by itself";
pub(super) const RECORD_ADVICE: &str = "this record alone is lost here: fetch or publish its content again";

/// Reads a little-endian u32; zero beyond the end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// Reads a little-endian u64; zero beyond the end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u32,
    /// Of the record's header, from the start of the segment file.
    pub(super) offset: u64,
    /// Of the payload.
    pub(super) len: u32,
}

impl Location {
    /// Bytes that the record takes, header included.
    pub(super) fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES + u64::from(self.len)
    }
}

/// One line of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) at: Location,
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..32].copy_from_slice(&self.key);
        bytes[32..36].copy_from_slice(&self.at.segment.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.at.len.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.at.offset.to_le_bytes());
        bytes
    }

    /// `bytes` is one entry long; callers cut it so.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let key = bytes.get(..32).and_then(|key| key.try_into().ok()).unwrap_or_default();
        let at = Location {
            segment: u32_at(bytes, 32),
            len: u32_at(bytes, 36),
            offset: u64_at(bytes, 40),
        };
        Self { key, at }
    }
}

/// How much of a segment an index refers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentUse {
    pub(super) segment: u32,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// The end of everything that was published when an index was: a writer cuts what lies behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Watermark {
    pub(super) segment: u32,
    pub(super) len: u64,
}

/// The numbers of the batches that an index covers. It replaces every index whose range lies within its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Batches {
    pub(super) last: u64,
    pub(super) first: u64,
}

impl Batches {
    pub(super) fn covers(&self, other: &Self) -> bool {
        self != other && self.first <= other.first && other.last <= self.last
    }

    pub(super) fn file_name(&self) -> String {
        format!("idx-{:010}-{:010}.idx", self.first, self.last)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (first, last) = name.strip_prefix("idx-")?.strip_suffix(".idx")?.split_once('-')?;
        let batches = Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        };
        (batches.first <= batches.last && batches.file_name() == name).then_some(batches)
    }
}

pub(super) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("seg-{number:08}.pack"))
}

pub(super) fn parse_segment(name: &str) -> Option<u32> {
    let number = name.strip_prefix("seg-")?.strip_suffix(".pack")?;
    (number.len() == 8).then(|| number.parse().ok())?
}

pub(super) fn segment_header(number: u32) -> Vec<u8> {
    [SEGMENT_MAGIC.as_slice(), &VERSION.to_le_bytes(), &number.to_le_bytes()].concat()
}

/// Checks the first bytes of a segment file.
pub(super) fn check_segment_header(path: &Path, header: &[u8], number: u32) -> Result<()> {
    check_magic(path, header, SEGMENT_MAGIC, RECORD_ADVICE)?;
    if header.len() as u64 >= SEGMENT_HEADER_BYTES && u32_at(header, 12) == number {
        return Ok(());
    }
    Err(StoreError::damaged(
        path,
        format!("its header does not name segment {number}"),
        RECORD_ADVICE,
    ))
}

/// Checks magic and version, which are the first twelve bytes of every file of ours.
pub(super) fn check_magic(path: &Path, header: &[u8], magic: &[u8; 8], advice: &'static str) -> Result<()> {
    if header.get(..8) != Some(magic) || header.len() < 12 {
        return Err(StoreError::damaged(
            path,
            "it does not begin as such a file must",
            advice,
        ));
    }
    match u32_at(header, 8) {
        VERSION => Ok(()),
        found => Err(StoreError::UnknownVersion {
            path: path.to_path_buf(),
            found,
            supported: VERSION,
        }),
    }
}

pub(super) fn record_crc(key: &Key, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(payload.len() as u64).to_le_bytes());
    crc.update(key);
    crc.update(payload);
    crc.finalize()
}

/// Appends a record to `out`. The caller has checked the length against [`RECORD_BYTES_MAX`].
pub(super) fn encode_record(out: &mut Vec<u8>, key: &Key, len: u32, payload: &[u8]) {
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&record_crc(key, payload).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_foreign_names_are_refused() {
        let batches = Batches { first: 3, last: 12 };
        assert_eq!(Batches::parse(&batches.file_name()), Some(batches));
        for name in [
            "idx-3-12.idx",
            "idx-0000000012-0000000003.idx",
            "idx-.idx",
            "seg-00000001.pack",
            "x",
        ] {
            assert_eq!(Batches::parse(name), None, "{name}");
        }
        assert_eq!(parse_segment("seg-00000007.pack"), Some(7));
        assert_eq!(parse_segment("seg-7.pack"), None);
    }

    #[test]
    fn entry_bytes_are_as_documented() {
        let entry = Entry {
            key: [9; 32],
            at: Location {
                segment: 2,
                offset: 0x0102,
                len: 3,
            },
        };
        let bytes = entry.encode();
        assert_eq!(bytes[32..], [2, 0, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Entry::decode(&bytes), entry);
    }
}
