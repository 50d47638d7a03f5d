//! Names and bytes of the cache directory, version 1.
//!
//! - `format`: the text `instantmirror cache 1`.
//! - `lock`: held by the one process that owns the directory.
//! - `objects/ab/<64 hex digits>`: a whole object, read-only; `<hex>.cvs` beside it is its outboard, if it has more
//!   than one group.
//! - `partial/<hex>`: a sparse file with the groups that are present; `<hex>.map` says which (a hint: every group is
//!   verified again before a new process uses it); `<hex>.cvs` is the outboard.
//! - `checkpoint`: the objects that were durable at one moment, with their order of use; `journal`: what has changed
//!   since. See `checkpoint.rs`.
//! - `quarantine/`: damaged and foreign files. `trash/`: files on their way out.
//!
//! Nothing here does I/O.

use std::path::{Path, PathBuf};

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
pub(super) const JOURNAL: &str = "journal";
/// Longest `format` file that is read, in bytes.
pub(super) const FORMAT_BYTES_MAX: u64 = 100;
const FORMAT_PREFIX: &str = "instantmirror cache ";
const VERSION: u32 = 1;

const MAP_MAGIC: &[u8; 8] = b"IMPARMAP";
pub(super) const MAP_HEADER: usize = 24;

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
}
