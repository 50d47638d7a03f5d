//! Reading `.torrent` files, whoever made them.
//!
//! Invariants: every path is one that a published tree could have, no two files lie at one path or inside each other,
//! sizes add up to the pieces. What a client could be made to write elsewhere does not get through.

use std::collections::HashSet;

use bytes::Bytes;

use super::{InfoHash, MetainfoError, Outside, PIECE_BYTES_MAX, SHA1_BYTES};
use crate::bencode::{Strictness, Value, raw_value};
use crate::{Name, RepoPath};

/// Largest sum of sizes: what fits a signed 64-bit number, with room for a piece.
const TOTAL_BYTES_MAX: u64 = i64::MAX as u64 - PIECE_BYTES_MAX;
/// Most trackers and most web seeds that are kept of a file.
const URLS_MAX: usize = 1000;

/// What a file of a torrent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Content.
    Content,
    /// Zeros, up to where a piece begins (BEP 47).
    Pad,
}

/// A file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetainfoFile {
    /// Its path below the torrent's name; the root for the file of a torrent of a single file.
    pub path: RepoPath,
    /// Size in bytes.
    pub size: u64,
    /// Where it begins in the torrent, in bytes.
    pub offset: u64,
    /// Content or pad.
    pub kind: FileKind,
}

/// A torrent as its file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// Its info-hash.
    pub hash: InfoHash,
    /// Name of the directory that clients make, or of the single file.
    pub name: Name,
    /// Length of a piece in bytes.
    pub piece_bytes: u64,
    /// SHA-1 of every piece, 20 bytes each.
    pub pieces: Bytes,
    /// The files in order.
    pub files: Vec<MetainfoFile>,
    /// Sum of all sizes in bytes.
    pub total_bytes: u64,
    /// Whether peers may come from its trackers only (BEP 27).
    pub is_private: bool,
    /// Trackers, web seeds, comment.
    pub outside: Outside,
}

impl Metainfo {
    /// Reads a `.torrent` file of version 1, or the version 1 part of a hybrid.
    ///
    /// # Errors
    /// [`MetainfoError`] says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        let whole = Value::decode(bytes, Strictness::Keys)?;
        let raw = raw_value(bytes, "info", Strictness::Keys)?;
        let (Some(info), Some(raw)) = (whole.get("info"), raw) else {
            return Err(MetainfoError::field("it has no info dictionary"));
        };
        let mut torrent = Self::parse_info(info, raw)?;
        torrent.outside = outside(&whole);
        Ok(torrent)
    }

    /// Reads an info dictionary alone, as peers send it (BEP 9).
    ///
    /// # Errors
    /// [`MetainfoError`].
    pub fn parse_bare(info: &[u8]) -> Result<Self, MetainfoError> {
        Self::parse_info(&Value::decode(info, Strictness::Keys)?, info)
    }

    /// Number of pieces.
    #[must_use]
    pub fn piece_count(&self) -> u64 {
        (self.pieces.len() / SHA1_BYTES) as u64
    }

    fn parse_info(info: &Value<'_>, raw: &[u8]) -> Result<Self, MetainfoError> {
        if info.as_dict().is_none() {
            return Err(MetainfoError::field("info is no dictionary"));
        }
        let name = name(info)?;
        let piece_bytes = size(info, "piece length")?;
        if piece_bytes == 0 || piece_bytes > PIECE_BYTES_MAX {
            return Err(MetainfoError::field(format!(
                "a piece length of {piece_bytes}; it is from 1 to {PIECE_BYTES_MAX}"
            )));
        }
        let Some(pieces) = info.get("pieces").and_then(Value::as_bytes) else {
            return Err(MetainfoError::field(
                "info has no pieces: a torrent of version 2 alone, which is not read here",
            ));
        };
        let (files, total_bytes) = files(info)?;
        if total_bytes.div_ceil(piece_bytes) * SHA1_BYTES as u64 != pieces.len() as u64 {
            return Err(MetainfoError::field(format!(
                "hashes of {} bytes, which are not those of {total_bytes} bytes in pieces of {piece_bytes}",
                pieces.len()
            )));
        }
        Ok(Self {
            hash: InfoHash::of(raw),
            name,
            piece_bytes,
            pieces: Bytes::copy_from_slice(pieces),
            files,
            total_bytes,
            is_private: info.get("private").and_then(Value::as_int) == Some(1),
            outside: Outside::default(),
        })
    }
}

fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn hostile(path: &[u8], why: crate::NameError) -> MetainfoError {
    MetainfoError::Path { path: shown(path), why }
}

fn name(info: &Value<'_>) -> Result<Name, MetainfoError> {
    let Some(bytes) = info.get("name").and_then(Value::as_bytes) else {
        return Err(MetainfoError::field("info has no name"));
    };
    Name::new(bytes).map_err(|why| hostile(bytes, why))
}

fn size(dict: &Value<'_>, key: &str) -> Result<u64, MetainfoError> {
    let number = dict.get(key).and_then(Value::as_int);
    let number = number.and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| MetainfoError::field(format!("'{key}' is missing or no number from 0 on")))
}

/// The files and the sum of their sizes.
fn files(info: &Value<'_>) -> Result<(Vec<MetainfoFile>, u64), MetainfoError> {
    let Some(list) = info.get("files") else {
        let size = size(info, "length")?;
        let path = RepoPath::ROOT;
        let (offset, kind) = (0, FileKind::Content);
        let total = add(0, size)?;
        return Ok((
            vec![MetainfoFile {
                path,
                size,
                offset,
                kind,
            }],
            total,
        ));
    };
    if info.get("length").is_some() {
        return Err(MetainfoError::field("info has both length and files"));
    }
    let list = list.as_list().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| MetainfoError::field("'files' is no list, or an empty one"))?;
    let (mut files, mut total) = (Vec::with_capacity(list.len()), 0);
    for entry in list {
        let size = size(entry, "length")?;
        let attributes = entry.get("attr").and_then(Value::as_bytes).unwrap_or_default();
        if attributes.contains(&b'l') {
            return Err(MetainfoError::field("a file that is a symlink, which is not read here"));
        }
        let kind = if attributes.contains(&b'p') {
            FileKind::Pad
        } else {
            FileKind::Content
        };
        files.push(MetainfoFile {
            path: path(entry)?,
            size,
            offset: total,
            kind,
        });
        total = add(total, size)?;
    }
    check_places(&files)?;
    Ok((files, total))
}

fn add(total: u64, size: u64) -> Result<u64, MetainfoError> {
    let total = total.checked_add(size).filter(|total| *total <= TOTAL_BYTES_MAX);
    total.ok_or_else(|| MetainfoError::field("sizes that add up to more than anybody has"))
}

fn path(entry: &Value<'_>) -> Result<RepoPath, MetainfoError> {
    let list = entry
        .get("path")
        .and_then(Value::as_list)
        .filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| MetainfoError::field("a file without path"))?;
    let mut path = RepoPath::ROOT;
    for part in list {
        let part = part
            .as_bytes()
            .ok_or_else(|| MetainfoError::field("a path whose parts are no text"))?;
        let joined = Name::new(part).and_then(|name| path.join(&name));
        path = joined.map_err(|why| hostile(part, why))?;
    }
    Ok(path)
}

/// No file lies where another one does, nor inside another one. Pads lie nowhere.
fn check_places(files: &[MetainfoFile]) -> Result<(), MetainfoError> {
    let content = || files.iter().filter(|file| file.kind == FileKind::Content);
    let mut taken: HashSet<&str> = HashSet::with_capacity(files.len());
    for file in content() {
        if !taken.insert(file.path.as_str()) {
            let path = shown(file.path.as_str().as_bytes());
            return Err(MetainfoError::field(format!("two files at '{path}'")));
        }
    }
    for file in content() {
        let path = file.path.as_str();
        let mut above = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
        if let Some(above) = above.find(|above| taken.contains(above)) {
            let above = shown(above.as_bytes());
            return Err(MetainfoError::field(format!("'{above}' is a file and a directory")));
        }
    }
    Ok(())
}

/// What of the rest can be used; what cannot is left out, since nothing depends on it.
fn outside(whole: &Value<'_>) -> Outside {
    let text = |value: &Value<'_>| value.as_text().filter(|text| !text.is_empty()).map(str::to_owned);
    let texts = |value: &Value<'_>| -> Vec<String> {
        let list = value.as_list().unwrap_or(std::slice::from_ref(value));
        list.iter().filter_map(text).take(URLS_MAX).collect()
    };
    let tiers = whole.get("announce-list").and_then(Value::as_list).unwrap_or_default();
    let mut trackers: Vec<String> = tiers.iter().flat_map(texts).take(URLS_MAX).collect();
    if trackers.is_empty() {
        trackers.extend(whole.get("announce").and_then(text));
    }
    Outside {
        trackers,
        web_seeds: whole.get("url-list").map(texts).unwrap_or_default(),
        comment: whole.get("comment").and_then(text),
    }
}
