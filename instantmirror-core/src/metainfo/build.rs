//! Info dictionaries with pad files, from digests.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Limits, MetainfoError, PAD_DIRECTORY, PIECE_BYTES_MAX, SHA1_BYTES, pad_name};
use crate::bencode::Value;
use crate::{Name, RepoPath};

/// SHA-1 of a last piece that its file does not fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// With zeros behind it up to the piece length: where more follows in the torrent.
    pub padded: [u8; SHA1_BYTES],
    /// As it is: where nothing follows.
    pub bare: [u8; SHA1_BYTES],
}

/// A file of a torrent to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorrentFile {
    /// Its path below the torrent's root.
    pub path: RepoPath,
    /// What it holds.
    pub content: Content,
}

/// Size and hashes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Size in bytes.
    pub size: u64,
    /// SHA-1 of every full piece, 20 bytes each.
    pub full_pieces: Bytes,
    /// What is left behind them.
    pub tail: Option<Tail>,
}

impl Content {
    fn check(&self, piece_bytes: u64) -> Result<(), MetainfoError> {
        let full = self.size / piece_bytes;
        let has_tail = !self.size.is_multiple_of(piece_bytes);
        if self.full_pieces.len() as u64 == full * SHA1_BYTES as u64 && self.tail.is_some() == has_tail {
            return Ok(());
        }
        Err(MetainfoError::field(format!(
            "hashes that are not those of {} bytes in pieces of {piece_bytes}",
            self.size
        )))
    }
}

/// Encodes the info dictionary of these files, in this order, below the directory `name`. A single file with the empty
/// path makes a torrent of a single file, called `name`. Every file but the last one that holds anything is followed by
/// a pad file up to the end of its last piece, which lies where no other pad does ([`pad_name`]).
///
/// # Errors
/// [`MetainfoError::TooLarge`] beyond the limits, [`MetainfoError::Field`] for a piece length that is no power of two up to
/// [`PIECE_BYTES_MAX`], for hashes that do not fit the sizes, and for no files at all.
pub fn build(name: &Name, piece_bytes: u64, files: &[TorrentFile], limits: &Limits) -> Result<Vec<u8>, MetainfoError> {
    if !piece_bytes.is_power_of_two() || piece_bytes > PIECE_BYTES_MAX {
        return Err(MetainfoError::field(format!("{piece_bytes} is no piece length")));
    }
    let last = files.iter().rposition(|file| file.content.size > 0);
    let Some(last) = last else {
        return Err(MetainfoError::field(
            "there is no file that holds anything, so there is nothing to share",
        ));
    };
    let (mut pieces, mut entries) = (Vec::new(), 0_u64);
    for (i, file) in files.iter().enumerate() {
        file.content.check(piece_bytes)?;
        pieces.extend_from_slice(&file.content.full_pieces);
        if let Some(tail) = &file.content.tail {
            pieces.extend_from_slice(if i == last { &tail.bare } else { &tail.padded });
            entries += u64::from(i != last);
        }
        entries += 1;
    }
    // Before anything of that size is made.
    limits.check(entries, (pieces.len() / SHA1_BYTES) as u64, pieces.len() as u64)?;
    let mut info = Vec::with_capacity(pieces.len() + 64 * files.len());
    info.push(b'd');
    match files {
        [file] if file.path.is_root() => put(&mut info, "length", &int(file.content.size)),
        _ => put_files(&mut info, piece_bytes, files, last)?,
    }
    put(&mut info, "name", &Value::text(name.as_str()));
    put(&mut info, "piece length", &int(piece_bytes));
    put(&mut info, "pieces", &Value::bytes(pieces));
    info.push(b'e');
    limits.check(entries, 0, info.len() as u64)?;
    Ok(info)
}

fn int(number: u64) -> Value<'static> {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn put(info: &mut Vec<u8>, key: &str, value: &Value<'_>) {
    Value::text(key).encode_to(info);
    value.encode_to(info);
}

fn put_files(info: &mut Vec<u8>, piece_bytes: u64, files: &[TorrentFile], last: usize) -> Result<(), MetainfoError> {
    let pads = pad_directory(files);
    let mut alike: HashMap<u64, u64> = HashMap::new();
    Value::text("files").encode_to(info);
    info.push(b'l');
    for (i, file) in files.iter().enumerate() {
        if file.path.is_root() {
            return Err(MetainfoError::field("a file without a name among others"));
        }
        let path = file.path.components().map(Value::text).collect();
        Value::dict([
            ("length".as_bytes(), int(file.content.size)),
            (b"path", Value::List(path)),
        ])
        .encode_to(info);
        if i != last && file.content.tail.is_some() {
            let zeros = piece_bytes - file.content.size % piece_bytes;
            let before = alike.entry(zeros).or_default();
            let path = vec![Value::text(&pads), Value::bytes(pad_name(zeros, *before).into_bytes())];
            *before += 1;
            let pad: [(&[u8], _); 3] = [
                (b"attr", Value::text("p")),
                (b"length", int(zeros)),
                (b"path", Value::List(path)),
            ];
            Value::dict(pad).encode_to(info);
        }
    }
    info.push(b'e');
    Ok(())
}

/// `.pad`, or with as many underscores behind it as it takes to be called like nothing in the tree.
fn pad_directory(files: &[TorrentFile]) -> String {
    let tops = files.iter().filter_map(|file| file.path.components().next());
    let taken: std::collections::BTreeSet<&str> = tops.filter(|top| top.starts_with(PAD_DIRECTORY)).collect();
    let mut name = PAD_DIRECTORY.to_owned();
    while taken.contains(name.as_str()) {
        name.push('_');
    }
    name
}
