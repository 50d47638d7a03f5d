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

const VERSION: u8 = 1;
const TERMS_VERSION: u8 = 1;
/// Stands for no path: none holds a NUL.
const TERMS_KEY: &[u8] = b"\0terms";
/// Bytes per stamp: size, mtime, mtime ns, ctime, ctime ns, inode, device.
const STAMP_BYTES: usize = 8 + 8 + 4 + 8 + 4 + 8 + 8;

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
        bytes.extend_from_slice(&terms.rules);
        bytes.extend_from_slice(&terms.root_ino.to_le_bytes());
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
    let (rules, root_ino) = rest.split_first_chunk::<32>()?;
    Some(Terms {
        rules: *rules,
        root_ino: u64::from_le_bytes(root_ino.try_into().ok()?),
    })
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
        }
        bytes
    }

    fn decode(key: Key, bytes: &[u8]) -> Option<Self> {
        let (&VERSION, rest) = bytes.split_first()? else {
            return None;
        };
        let (node, rest) = rest.split_first_chunk::<32>()?;
        let (stamps, tail) = rest.as_chunks::<STAMP_BYTES>();
        let stamps = stamps.iter().map(decode_stamp).collect::<Option<_>>()?;
        tail.is_empty().then_some(Self {
            key,
            node: NodeId::from_bytes(*node),
            stamps,
        })
    }
}

fn decode_stamp(bytes: &[u8; STAMP_BYTES]) -> Option<FileStamp> {
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
}
