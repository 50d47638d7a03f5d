//! What a body is made of, before it is opened: content of published files, and parts of it.

use std::ops::Range;

use bytes::Bytes;
use instantmirror_core::{FileMeta, RepoName, RepoPath};

/// Content of a published file, and for the log what it was asked for as.
#[derive(Debug, Clone)]
pub struct Content {
    /// The repository.
    pub repository: RepoName,
    /// The path in its snapshot.
    pub path: RepoPath,
    /// The object.
    pub file: FileMeta,
}

/// A multipart/byteranges body: each part's header and range, and what closes the last.
#[derive(Debug, Clone)]
pub struct Multipart {
    /// Header bytes and the range behind them.
    pub parts: Vec<(Bytes, Range<u64>)>,
    /// The closing boundary.
    pub end: Bytes,
}

impl Multipart {
    /// Length of the whole body in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        let part = |(head, range): &(Bytes, Range<u64>)| head.len() as u64 + (range.end - range.start);
        self.parts.iter().map(part).sum::<u64>() + self.end.len() as u64
    }

    /// Whether there is no part.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}
