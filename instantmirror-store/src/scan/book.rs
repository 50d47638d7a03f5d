//! What the last scan saw of each file, kept beside the catalog: per directory one page with the stamps of its
//! entries, in the order of the catalog node that the page names.
//!
//! It is a memory, not a truth: a page that is lost or damaged costs reading files again, never a wrong snapshot.

use std::path::Path;
use std::sync::Arc;

use instantmirror_core::{NodeId, RepoPath};

use super::rules::Terms;
use crate::disk::Disk;
use crate::error::Result;
use crate::pack::{Key, PackOptions, PackStore};
use crate::tree::FileStamp;

const VERSION: u8 = 2;
/// Without links, owner and group.
const OLD_VERSION: u8 = 1;
const TERMS_VERSION: u8 = 1;
/// Stands for no path: none holds a NUL.
const TERMS_KEY: &[u8] = b"\0terms";
/// Bytes per stamp: size, mtime, mtime ns, ctime, ctime ns, inode, device.
const OLD_STAMP_BYTES: usize = 8 + 8 + 4 + 8 + 4 + 8 + 8;
/// The same, and links, owner, group.
const STAMP_BYTES: usize = OLD_STAMP_BYTES + 4 + 4 + 4;

/// The pages of one repository.
#[derive(Debug)]
pub struct StampBook {
    packs: PackStore,
}

/// The stamps of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    key: Key,
    /// The directory's catalog node when the stamps were taken.
    pub(super) node: NodeId,
    pub(super) stamps: Vec<FileStamp>,
}

impl StampBook {
    /// Opens (making it where needed) the book in `dir`.
    ///
    /// Errors: those of [`PackStore::open_writer`].
    pub fn open(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            packs: PackStore::open_writer(disk, dir, PackOptions::default())?,
        })
    }

    /// Opens the book in `dir` for reading; pages that are put stay in memory.
    ///
    /// Errors: those of [`PackStore::open_overlay`].
    pub fn open_overlay(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            packs: PackStore::open_overlay(disk, dir)?,
        })
    }

    /// The root node of the tree that the last scan saw, if it was not cut off. `None` if there was none.
    ///
    /// Errors: those of reading the book.
    pub fn root(&self) -> Result<Option<NodeId>> {
        Ok(self.page(&RepoPath::ROOT)?.map(|page| page.node))
    }

    /// What the last scan that came to its end went by. `None` if there was none, or an older program made it.
    ///
    /// Errors: those of reading the book.
    pub fn terms(&self) -> Result<Option<Terms>> {
        match self.packs.get(&key_of(TERMS_KEY)) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| decode_terms(&bytes))),
            Err(crate::StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn put_terms(&self, terms: Terms) -> Result<()> {
        if self.terms()? == Some(terms) {
            return Ok(());
        }
        let mut bytes = vec![TERMS_VERSION];
        bytes.extend_from_slice(&terms.0);
        self.packs.put_batch([(key_of(TERMS_KEY), bytes)])
    }

    pub(super) fn page(&self, path: &RepoPath) -> Result<Option<Page>> {
        let key = key(path);
        match self.packs.get(&key) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| Page::decode(key, &bytes))),
            Err(crate::StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn put(&self, pages: Vec<Page>) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        self.packs.put_batch(pages.iter().map(|page| (page.key, page.encode())))
    }
}

fn key(path: &RepoPath) -> Key {
    key_of(path.as_str().as_bytes())
}

fn key_of(name: &[u8]) -> Key {
    *blake3::hash(name).as_bytes()
}

fn decode_terms(bytes: &[u8]) -> Option<Terms> {
    let (&TERMS_VERSION, rest) = bytes.split_first()? else {
        return None;
    };
    rest.try_into().ok().map(Terms)
}

impl Page {
    pub(super) fn new(path: &RepoPath, node: NodeId, stamps: Vec<FileStamp>) -> Self {
        Self {
            key: key(path),
            node,
            stamps,
        }
    }

    /// This page, unless it says what `old` says already.
    pub(super) fn replacing(self, old: Option<&Self>) -> Option<Self> {
        (old != Some(&self)).then_some(self)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(33 + self.stamps.len() * STAMP_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(self.node.as_bytes());
        for stamp in &self.stamps {
            bytes.extend_from_slice(&stamp.size.to_le_bytes());
            bytes.extend_from_slice(&stamp.mtime.to_le_bytes());
            bytes.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
            bytes.extend_from_slice(&stamp.ctime.to_le_bytes());
            bytes.extend_from_slice(&stamp.ctime_ns.to_le_bytes());
            bytes.extend_from_slice(&stamp.ino.to_le_bytes());
            bytes.extend_from_slice(&stamp.dev.to_le_bytes());
            bytes.extend_from_slice(&stamp.nlink.to_le_bytes());
            bytes.extend_from_slice(&stamp.uid.to_le_bytes());
            bytes.extend_from_slice(&stamp.gid.to_le_bytes());
        }
        bytes
    }

    fn decode(key: Key, bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let stamp_bytes = match version {
            VERSION => STAMP_BYTES,
            OLD_VERSION => OLD_STAMP_BYTES,
            _ => return None,
        };
        let (node, rest) = rest.split_first_chunk::<32>()?;
        let stamps = rest.chunks_exact(stamp_bytes);
        stamps.remainder().is_empty().then_some(Self {
            key,
            node: NodeId::from_bytes(*node),
            stamps: stamps.map(decode_stamp).collect::<Option<_>>()?,
        })
    }
}

/// One of the old version has no links, owner and group.
fn decode_stamp(bytes: &[u8]) -> Option<FileStamp> {
    let wide = |at: usize| bytes.get(at..at + 8)?.first_chunk::<8>().copied();
    let half = |at: usize| bytes.get(at..at + 4)?.first_chunk::<4>().copied();
    Some(FileStamp {
        size: u64::from_le_bytes(wide(0)?),
        mtime: i64::from_le_bytes(wide(8)?),
        mtime_ns: u32::from_le_bytes(half(16)?),
        ctime: i64::from_le_bytes(wide(20)?),
        ctime_ns: u32::from_le_bytes(half(28)?),
        ino: u64::from_le_bytes(wide(32)?),
        dev: u64::from_le_bytes(wide(40)?),
        nlink: half(48).map_or(0, u32::from_le_bytes),
        uid: half(52).map_or(0, u32::from_le_bytes),
        gid: half(56).map_or(0, u32::from_le_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_round_trip_and_damaged_ones_are_no_pages() {
        let stamp = FileStamp {
            size: 1,
            mtime: -2,
            mtime_ns: 3,
            ctime: 4,
            ctime_ns: 5,
            ino: 6,
            dev: 7,
            nlink: 8,
            uid: 9,
            gid: 10,
        };
        let page = Page::new(
            &RepoPath::ROOT,
            NodeId::of(b"x"),
            vec![stamp, FileStamp { size: 9, ..stamp }],
        );
        let bytes = page.encode();
        assert_eq!(Page::decode(page.key, &bytes), Some(page.clone()));
        for cut in [0, 1, 32, 34, bytes.len() - 1] {
            assert_eq!(Page::decode(page.key, &bytes[..cut]), None);
        }
    }

    #[test]
    fn pages_of_the_old_version_are_read() {
        let node = NodeId::of(b"x");
        let mut bytes = vec![OLD_VERSION];
        bytes.extend_from_slice(node.as_bytes());
        for number in [100_u64, 1_700_000_000] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&5_u32.to_le_bytes());
        bytes.extend_from_slice(&1_700_000_001_u64.to_le_bytes());
        bytes.extend_from_slice(&6_u32.to_le_bytes());
        for number in [77_u64, 8 << 32 | 1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let page = Page::decode(key(&RepoPath::ROOT), &bytes).unwrap();
        let known = FileStamp {
            size: 100,
            mtime: 1_700_000_000,
            mtime_ns: 5,
            ctime: 1_700_000_001,
            ctime_ns: 6,
            ino: 77,
            dev: 8 << 32 | 1,
            nlink: 0,
            uid: 0,
            gid: 0,
        };
        assert_eq!((page.node, page.stamps), (node, vec![known]));
        // Nothing is read again at an upgrade; another ctime is not explained by what is not known.
        let (now, rule) = (
            FileStamp {
                nlink: 1,
                uid: 5,
                ..known
            },
            crate::tree::StampRule::default(),
        );
        assert!(known.is_same_content(&now, false, rule));
        assert!(!known.is_same_content(&FileStamp { ctime: 0, ..now }, false, rule));
    }
}
