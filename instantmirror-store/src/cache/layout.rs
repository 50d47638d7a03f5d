//! Names and bytes of the cache directory, version 1.
//!
//! - `format`: the text `instantmirror cache 1`.
//! - `lock`: held by the one process that owns the directory.
//! - `objects/ab/<64 hex digits>`: a whole object, read-only; `<hex>.cvs` beside it is its outboard, if it has more
//!   than one group.
//! - `partial/<hex>`: a sparse file with the groups that are present; `<hex>.map` says which (a hint: every group is
//!   verified again before a new process uses it); `<hex>.cvs` is the outboard.
//! - `checkpoint`: the objects that were durable at one moment, with their order of use.
//! - `quarantine/`: damaged and foreign files. `trash/`: files on their way out.
//!
//! Nothing here does I/O.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use instantmirror_core::outboard::{GROUP_BYTES, group_count};
use instantmirror_core::{ObjectId, RangeSet};

use crate::error::{Result, StoreError};

pub(super) const OBJECTS: &str = "objects";
pub(super) const PARTIAL: &str = "partial";
pub(super) const QUARANTINE: &str = "quarantine";
pub(super) const TRASH: &str = "trash";
pub(super) const LOCK: &str = "lock";
pub(super) const FORMAT: &str = "format";
pub(super) const CHECKPOINT: &str = "checkpoint";
/// Longest `format` file that is read, in bytes.
pub(super) const FORMAT_BYTES_MAX: u64 = 100;
const FORMAT_PREFIX: &str = "instantmirror cache ";
const VERSION: u32 = 1;

const MAP_MAGIC: &[u8; 8] = b"IMPARMAP";
const MAP_HEADER: usize = 24;
const CHECKPOINT_MAGIC: &[u8; 8] = b"IMCACHEK";
const CHECKPOINT_HEADER: usize = 32;
const CHECKPOINT_ENTRY: usize = 56;
const CHECKPOINT_ADVICE: &str = "nothing is lost: objects are verified again before they are served";

pub(super) fn object_path(object: &ObjectId) -> PathBuf {
    let name = object.to_string();
    Path::new(OBJECTS).join(name.get(..2).unwrap_or_default()).join(name)
}

pub(super) fn kept_outboard_path(object: &ObjectId) -> PathBuf {
    object_path(object).with_extension("cvs")
}

pub(super) fn partial_path(object: &ObjectId) -> PathBuf {
    Path::new(PARTIAL).join(object.to_string())
}

pub(super) fn map_path(object: &ObjectId) -> PathBuf {
    Path::new(PARTIAL).join(format!("{object}.map"))
}

pub(super) fn outboard_path(object: &ObjectId) -> PathBuf {
    Path::new(PARTIAL).join(format!("{object}.cvs"))
}

pub(super) fn format_text() -> String {
    format!("{FORMAT_PREFIX}{VERSION}\n")
}

/// Checks the content of `format`.
pub(super) fn check_format(path: &Path, content: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(content);
    let version = text
        .strip_prefix(FORMAT_PREFIX)
        .and_then(|version| version.trim_end().parse().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(found) => Err(StoreError::UnknownVersion {
            path: path.to_path_buf(),
            found,
            supported: VERSION,
        }),
        None => Err(StoreError::damaged(
            path,
            "it does not state the version of a cache",
            "check that this is the cache directory; if it is, remove this file",
        )),
    }
}

/// The bytes of a `.map` file: magic, version u32, CRC-32 u32 of the rest, object size u64, one bit per group.
pub(super) fn encode_map(size: u64, present: &RangeSet) -> Vec<u8> {
    let groups = usize::try_from(group_count(size)).unwrap_or(usize::MAX);
    let mut bits = vec![0u8; groups.div_ceil(8)];
    for range in present.ranges() {
        for group in range.start / GROUP_BYTES..range.end.div_ceil(GROUP_BYTES) {
            let index = usize::try_from(group / 8).unwrap_or(usize::MAX);
            if let Some(byte) = bits.get_mut(index) {
                *byte |= 1 << (group % 8);
            }
        }
    }
    let body = [size.to_le_bytes().as_slice(), &bits].concat();
    let crc = crc32fast::hash(&body);
    [MAP_MAGIC.as_slice(), &VERSION.to_le_bytes(), &crc.to_le_bytes(), &body].concat()
}

/// The groups that a `.map` file claims; `None` if it is damaged or of another size.
pub(super) fn decode_map(bytes: &[u8], size: u64) -> Option<RangeSet> {
    let body = bytes.get(16..)?;
    let crc = u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?);
    let version = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    let stated = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
    let right = bytes.get(..8) == Some(MAP_MAGIC) && version == VERSION && crc32fast::hash(body) == crc;
    if !right || stated != size {
        return None;
    }
    let bits = bytes.get(MAP_HEADER..)?;
    let is_set = |group: u64| {
        let byte = usize::try_from(group / 8).ok().and_then(|index| bits.get(index));
        byte.is_some_and(|byte| byte >> (group % 8) & 1 == 1)
    };
    let present = (0..group_count(size)).filter(|group| is_set(*group));
    Some(
        present
            .map(|group| group * GROUP_BYTES..((group + 1) * GROUP_BYTES).min(size))
            .collect(),
    )
}

/// What a checkpoint says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) last_use: u64,
}

/// A checkpoint file: searched in the map, checked as a whole when opened.
#[derive(Debug, Default)]
pub(super) struct Checkpoint(Bytes);

impl Checkpoint {
    /// Takes the bytes of a file: magic, version u32, CRC-32 u32 of the rest, count u64, zeros u64, then entries sorted
    /// by id: id, size u64, mtime in ns i64, last use u64.
    pub(super) fn open(path: &Path, bytes: Bytes) -> Result<Self> {
        let damaged = |what: &str| StoreError::damaged(path, what, CHECKPOINT_ADVICE);
        let word = |at: usize| {
            bytes
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_le_bytes)
        };
        if bytes.get(..8) != Some(CHECKPOINT_MAGIC) || bytes.len() < CHECKPOINT_HEADER {
            return Err(damaged("it does not begin as a checkpoint must"));
        }
        if word(8) != VERSION {
            return Err(StoreError::UnknownVersion {
                path: path.to_path_buf(),
                found: word(8),
                supported: VERSION,
            });
        }
        if crc32fast::hash(&bytes[16..]) != word(12)
            || !(bytes.len() - CHECKPOINT_HEADER).is_multiple_of(CHECKPOINT_ENTRY)
        {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(Self(bytes))
    }

    pub(super) fn find(&self, object: &ObjectId) -> Option<Recorded> {
        let entries = self.0.get(CHECKPOINT_HEADER..)?;
        let entry = |number: usize| entries.get(number * CHECKPOINT_ENTRY..(number + 1) * CHECKPOINT_ENTRY);
        let (mut low, mut high) = (0, entries.len() / CHECKPOINT_ENTRY);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = entry(middle)?;
            match found.get(..32)?.cmp(object.as_bytes().as_slice()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let number = |at: usize| found.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
                    let mtime_ns = number(40)?.cast_signed();
                    return Some(Recorded {
                        size: number(32)?,
                        mtime_ns,
                        last_use: number(48)?,
                    });
                }
            }
        }
        None
    }

    /// The bytes of a checkpoint of these objects, in any order.
    pub(super) fn encode(mut objects: Vec<(ObjectId, Recorded)>) -> Vec<u8> {
        objects.sort_unstable_by_key(|(object, _)| *object);
        let mut body = Vec::with_capacity(16 + objects.len() * CHECKPOINT_ENTRY);
        body.extend_from_slice(&(objects.len() as u64).to_le_bytes());
        body.extend_from_slice(&[0; 8]);
        for (object, recorded) in objects {
            body.extend_from_slice(object.as_bytes());
            body.extend_from_slice(&recorded.size.to_le_bytes());
            body.extend_from_slice(&recorded.mtime_ns.to_le_bytes());
            body.extend_from_slice(&recorded.last_use.to_le_bytes());
        }
        let crc = crc32fast::hash(&body);
        [
            CHECKPOINT_MAGIC.as_slice(),
            &VERSION.to_le_bytes(),
            &crc.to_le_bytes(),
            &body,
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn map_round_trips_and_damage_is_noticed() {
        let size = 20 * GROUP_BYTES + 5;
        let mut present = RangeSet::new();
        present.insert(0..GROUP_BYTES);
        present.insert(9 * GROUP_BYTES..size);
        let bytes = encode_map(size, &present);
        assert_eq!(decode_map(&bytes, size), Some(present));
        assert_eq!(decode_map(&bytes, size - 1), None);
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert_eq!(decode_map(&wrong, size), None, "{at}");
            assert_eq!(decode_map(&bytes[..at], size), None, "{at}");
        }
    }

    #[test]
    fn checkpoint_finds_what_was_put_in_and_refuses_damage() {
        let object = |number: u64| ObjectId::of(&number.to_le_bytes());
        let recorded = |number: u64| Recorded {
            size: number,
            mtime_ns: -1,
            last_use: number * 2,
        };
        let bytes = Checkpoint::encode((0..100).map(|number| (object(number), recorded(number))).collect());
        let checkpoint = Checkpoint::open(Path::new("c"), bytes.clone().into()).unwrap();
        for number in 0..100 {
            assert_eq!(checkpoint.find(&object(number)), Some(recorded(number)));
        }
        assert_eq!(checkpoint.find(&object(100)), None);
        for at in (0..bytes.len()).step_by(7) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(Checkpoint::open(Path::new("c"), wrong.into()).is_err(), "{at}");
            assert!(
                Checkpoint::open(Path::new("c"), bytes[..at].to_vec().into()).is_err(),
                "{at}"
            );
        }
    }
}
