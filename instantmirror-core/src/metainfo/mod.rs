//! `.torrent` files (BEP 3, 12, 19, 47): ours are built from digests that are known, those of others are read with
//! suspicion.
//!
//! What we build has version 1 of the info dictionary, with pad files, so that every file begins with a piece and the
//! pieces of a file are the same in whatever torrent it is. Invariant: the info dictionary is a function of name, piece
//! length, paths and content and of nothing else, so what has not changed keeps its info-hash, and with it its swarm.

mod build;
mod parse;
mod renames;
pub mod shards;
mod webseed;

use std::fmt;
use std::str::FromStr;

use sha1::{Digest as _, Sha1};

use crate::bencode::{BencodeError, Value};
use crate::name::NameError;

pub use build::{Content, Tail, TorrentFile, build};
pub use parse::{FileKind, Metainfo, MetainfoFile};
pub use renames::client_names;
pub use webseed::{WEB_SEED_PREFIX, WebSeedPlace, web_seed_path};

/// Length of a SHA-1 hash in bytes.
pub const SHA1_BYTES: usize = 20;
/// The longest piece that is built or read, in bytes.
pub const PIECE_BYTES_MAX: u64 = 64 << 20;
/// Where pad files lie in the torrents that we build, below the torrent's root.
pub const PAD_DIRECTORY: &str = ".pad";

/// What clients cope with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Most files, pad files included.
    pub files: u64,
    /// Largest info dictionary in bytes.
    pub bytes: u64,
    /// Most pieces.
    pub pieces: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            files: 30_000,
            bytes: 8_000_000,
            pieces: 100_000,
        }
    }
}

impl Limits {
    /// No limits but those of the format.
    pub const NONE: Self = Self {
        files: u64::MAX,
        bytes: u64::MAX,
        pieces: u64::MAX,
    };

    /// Checks what a torrent would come to.
    ///
    /// # Errors
    /// [`MetainfoError::TooLarge`] naming the first limit that it breaks.
    pub fn check(&self, files: u64, pieces: u64, bytes: u64) -> Result<(), MetainfoError> {
        let checks = [
            ("files (with pad files)", files, self.files),
            ("pieces", pieces, self.pieces),
            ("bytes", bytes, self.bytes),
        ];
        match checks.into_iter().find(|(_, is, most)| is > most) {
            Some((what, is, most)) => Err(MetainfoError::TooLarge { what, is, most }),
            None => Ok(()),
        }
    }
}

/// Why a torrent cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// No bencode.
    #[error("it is no bencode: {0}")]
    Bencode(#[from] BencodeError),
    /// A name or path that is not taken.
    #[error("the path '{path}' has {why}")]
    Path {
        /// As far as it can be shown.
        path: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// A field is missing, or not what it should be.
    #[error("{0}")]
    Field(String),
    /// More than clients cope with.
    #[error("it would have {is} {what}, and clients cope with {most}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        is: u64,
        /// How much there may be.
        most: u64,
    },
}

impl MetainfoError {
    fn field(text: impl Into<String>) -> Self {
        Self::Field(text.into())
    }
}

/// Names a torrent of version 1: the SHA-1 of its info dictionary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash([u8; SHA1_BYTES]);

impl InfoHash {
    /// The info-hash of an info dictionary, as it stands in the file.
    #[must_use]
    pub fn of(info: &[u8]) -> Self {
        Self(Sha1::digest(info).into())
    }

    /// The hash with these 20 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SHA1_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SHA1_BYTES] {
        &self.0
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InfoHash({self})")
    }
}

impl FromStr for InfoHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{}' is no info-hash: 40 hexadecimal digits", text.escape_debug());
        if text.len() != 2 * SHA1_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; SHA1_BYTES];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * i..2 * i + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// What stands beside the info dictionary. None of it changes the info-hash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outside {
    /// URLs of trackers.
    pub trackers: Vec<String>,
    /// URLs of web seeds (BEP 19), each ending in a slash: clients add the torrent's name and the file's path.
    pub web_seeds: Vec<String>,
    /// A remark for people.
    pub comment: Option<String>,
}

impl Outside {
    /// A `.torrent` file of an encoded info dictionary and this. Every tracker is a tier of its own, in this order.
    #[must_use]
    pub fn around(&self, info: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(info.len() + 1024);
        let mut put = |key: &str, value: Value<'_>| {
            Value::text(key).encode_to(&mut out);
            value.encode_to(&mut out);
        };
        if let Some(first) = self.trackers.first() {
            put("announce", Value::text(first));
        }
        if self.trackers.len() > 1 {
            let tiers = self.trackers.iter().map(|url| Value::List(vec![Value::text(url)]));
            put("announce-list", Value::List(tiers.collect()));
        }
        if let Some(comment) = &self.comment {
            put("comment", Value::text(comment));
        }
        Value::text("info").encode_to(&mut out);
        out.extend_from_slice(info);
        if !self.web_seeds.is_empty() {
            Value::text("url-list").encode_to(&mut out);
            let urls = self.web_seeds.iter().map(|url| Value::text(url));
            Value::List(urls.collect()).encode_to(&mut out);
        }
        out.insert(0, b'd');
        out.push(b'e');
        out
    }

    /// A magnet link (BEP 9) to a torrent of this name.
    #[must_use]
    pub fn magnet(&self, hash: InfoHash, name: &str) -> String {
        let mut link = format!("magnet:?xt=urn:btih:{hash}&dn=");
        encode_query(&mut link, name);
        for (key, urls) in [("&tr=", &self.trackers), ("&ws=", &self.web_seeds)] {
            for url in urls {
                link.push_str(key);
                encode_query(&mut link, url);
            }
        }
        link
    }
}

/// Percent-encodes everything that is not unreserved (RFC 3986).
fn encode_query(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// What a pad of `size` zeros is called that follows `before` pads of the same size in its torrent: `N`, then `N.2`, `N.3`. BEP 47
/// lets pads of one size share a path, and clients that lay pads out as files (rTorrent) refuse that.
///
/// ```
/// use instantmirror_core::metainfo::{pad_name, pad_size};
/// assert_eq!(pad_name(1000, 0), "1000");
/// assert_eq!(pad_name(1000, 1), "1000.2");
/// assert_eq!(pad_size(&format!(".pad/{}", pad_name(1000, 41))), Some(1000));
/// ```
#[must_use]
pub fn pad_name(size: u64, before: u64) -> String {
    match before {
        0 => size.to_string(),
        _ => format!("{size}.{}", before.saturating_add(1)),
    }
}

/// The size of the pad file that this path (below a torrent's root) names, if it names one of ours: `.pad/` and a
/// [name](pad_name), with underscores behind `.pad` where a tree has a `.pad` of its own.
///
/// ```
/// use instantmirror_core::metainfo::pad_size;
/// assert_eq!(pad_size(".pad/1000"), Some(1000));
/// assert_eq!(pad_size(".pad_/1000.30000"), Some(1000));
/// for none in ["pad/1", ".pad/01", ".pad/0", ".pad/-1", ".pad/67108864", ".pad/1/2", ".padx/1", ".pad/99999999999999999999"] {
///     assert_eq!(pad_size(none), None);
/// }
/// for none in [".pad/1.", ".pad/1.0", ".pad/1.1", ".pad/1.02", ".pad/1.2.3", ".pad/1.x", ".pad/.2"] {
///     assert_eq!(pad_size(none), None);
/// }
/// ```
#[must_use]
pub fn pad_size(path: &str) -> Option<u64> {
    let (directory, name) = path.split_once('/')?;
    let marks = directory.strip_prefix(PAD_DIRECTORY)?;
    if !marks.bytes().all(|byte| byte == b'_') {
        return None;
    }
    let (size, number) = match name.split_once('.') {
        Some((size, number)) => (size, Some(plain_number(number)?)),
        None => (name, None),
    };
    // The first pad of a size has no number. A pad is shorter than a piece.
    let size = plain_number(size).filter(|size| *size < PIECE_BYTES_MAX)?;
    number.is_none_or(|number| number > 1).then_some(size)
}

/// A number from 1 on, as we write it.
fn plain_number(text: &str) -> Option<u64> {
    let is_number = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests;
