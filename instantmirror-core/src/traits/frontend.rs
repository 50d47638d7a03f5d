//! What frontends (HTTP, FUSE) read from; the node implements it by fetching, the master by opening.

use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::FetchError;
use crate::catalog::NodeSource;
use crate::companion::GraceRule;
use crate::entry::FileMeta;
use crate::head::SignedHead;
use crate::heads::{HeadMark, HeadMarks};
use crate::metainfo::InfoHash;
use crate::view::RepositoryState;
use crate::{ObjectId, RepoName, RepoPath, Snapshot, SnapshotId};

/// What a reader is going to read, so that no more is fetched than it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadIntent {
    /// The bytes wanted; everything is read from its start on.
    pub range: Range<u64>,
    /// The path in the repository under which it is wanted, for rules about paths.
    pub path: Option<RepoPath>,
}

impl ReadIntent {
    /// To read these bytes of an object, wherever it may be named.
    #[must_use]
    pub fn of(range: Range<u64>) -> Self {
        Self { range, path: None }
    }
}

/// Brings objects to readers, from wherever they are.
#[async_trait]
pub trait ObjectSource: Debug + Send + Sync + 'static {
    /// Opens a file of a catalog for reading. Returns at once, also if nothing of it is here yet: the
    /// fetch starts (or is joined) and the reader waits for its bytes.
    ///
    /// Cancellation: dropping the future or the reader withdraws the reader's interest.
    ///
    /// # Errors
    /// [`FetchError`] if it is clear already that the object cannot be had.
    async fn open(
        &self,
        repository: &RepoName,
        file: &FileMeta,
        intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError>;
}

/// Where the bytes of a reader come from, for an access log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provenance {
    /// They were here when it was opened.
    #[default]
    Kept,
    /// They are fetched, and kept.
    Fetched {
        /// Bytes of the object that came from masters so far, for all of its readers.
        masters: u64,
        /// The same from other peers.
        peers: u64,
    },
    /// They are fetched, and not kept.
    Streamed {
        /// Bytes of the object that came from masters so far, for this reader.
        masters: u64,
        /// The same from other peers.
        peers: u64,
    },
}

/// One reader of one object, complete or being filled.
#[async_trait]
pub trait ObjectReader: Debug + Send + Sync {
    /// The object's whole size in bytes.
    fn size(&self) -> u64;

    /// Waits until the byte at `offset` is present and verified, and returns the end of the run of
    /// present bytes that starts there (at least `offset + 1`; `offset` itself at the end of the object).
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// [`FetchError`] when it cannot be had any more; bytes read before stay good.
    async fn ready(&self, offset: u64) -> Result<u64, FetchError>;

    /// The verified bytes from `offset` on that were announced and are not in the file yet: they are in memory, so
    /// nobody need wait for the disk. `None`: all that was announced is there.
    fn held(&self, offset: u64) -> Option<Bytes> {
        let _ = offset;
        None
    }

    /// Reads exactly `range`, which [`ready`](Self::ready) has announced; as [`ObjectHandle::read`](super::ObjectHandle::read).
    ///
    /// # Errors
    /// [`FetchError::Cache`].
    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError>;

    /// A descriptor from which announced ranges can be sent, as
    /// [`ObjectHandle::descriptor`](super::ObjectHandle::descriptor), but for what is [`held`](Self::held).
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Where its bytes come from.
    fn provenance(&self) -> Provenance {
        Provenance::Kept
    }

    /// Whether the whole object is here to stay: [`ready`](Self::ready) will wait for nothing, and the reader
    /// is not part of a fetch. A frontend may keep such a reader and answer later requests from it, for as
    /// long as it likes to hold the object's bytes.
    fn is_settled(&self) -> bool {
        false
    }
}

/// The published trees: which repositories there are, which snapshots of them are visible, and where catalogs and content
/// are read. A frontend needs no more to serve trees.
///
/// Concurrency: calls may overlap, and come from any thread. No method waits for the network; those that may read a disk
/// say so. Cancellation: no method is async.
pub trait Catalogs: Debug + Send + Sync + 'static {
    /// The repositories, in order of name.
    fn repositories(&self) -> Vec<RepoName>;

    /// The visible state of a repository now; `None` if there is no such repository. Must not wait: it is asked for each
    /// request.
    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>>;

    /// The older snapshots in which a file is looked up, in this order, that the current one lacks: see
    /// [`grace`](crate::grace). Called only when a file was not found, so it may cost a little.
    fn fallbacks(&self, repository: &RepoName) -> Vec<Arc<Snapshot>> {
        let _ = repository;
        Vec::new()
    }

    /// The paths that are not looked up in [`fallbacks`](Self::fallbacks). Called only when one was found there, so it may
    /// cost a little.
    fn grace_rule(&self, repository: &RepoName) -> GraceRule {
        let _ = repository;
        GraceRule::default()
    }

    /// The source of catalog nodes. Every node below the root of a visible snapshot is there.
    fn nodes(&self) -> Arc<dyn NodeSource>;

    /// The source of content.
    fn objects(&self) -> Arc<dyn ObjectSource>;
}

/// The mutable facts that nodes ask a master (or another node) for, beside catalogs and content: heads, key lists, swarms.
#[async_trait]
pub trait NodeApi: Debug + Send + Sync + 'static {
    /// Waits for a head with a sequence number above `after` and returns it; `None` if there is no such
    /// repository. Waits for ever if none comes: the caller sets the limit. Cancellation safe.
    async fn head_after(&self, repository: &RepoName, after: u64) -> Option<Arc<SignedHead>>;

    /// Where the head of a repository is now. Must not wait.
    fn head_mark(&self, repository: &RepoName) -> HeadMark;

    /// Waits until the head of one of these repositories is somewhere else than `known` says, and returns where it is, for
    /// all for which that is so. Waits for ever if none moves: the caller sets the limit. Cancellation safe.
    ///
    /// This one waits for each of them by itself; who has many of them and many who ask has a cheaper way.
    async fn heads_moved(&self, known: &HeadMarks) -> HeadMarks {
        loop {
            let moved = moved_of(known, |repository| self.head_mark(repository));
            if !moved.is_empty() {
                return moved;
            }
            let (mut names, mut waits) = (Vec::new(), Vec::new());
            for (repository, mark) in known {
                if let HeadMark::Sequence(sequence) = mark {
                    names.push(repository);
                    waits.push(self.head_after(repository, *sequence));
                }
            }
            if waits.is_empty() {
                return std::future::pending().await;
            }
            let (head, at, _) = futures_util::future::select_all(waits).await;
            if head.is_none() {
                return HeadMarks::from([(names[at].clone(), HeadMark::Absent)]);
            }
        }
    }

    /// The key lists of the repository's master ([`KeyChain::encode`](crate::KeyChain::encode)); `None` if there are none.
    /// May read a disk.
    fn keys(&self, repository: &RepoName) -> Option<Bytes> {
        let _ = repository;
        None
    }

    /// The JSON with which a node joins the repository's swarm (docs/formats/api.md); `None` if there is no swarm.
    /// `is_node`: a registered node asks, which is told what strangers are not. Must not wait.
    fn swarm(&self, repository: &RepoName, is_node: bool) -> Option<Bytes> {
        let _ = (repository, is_node);
        None
    }
}

/// What is said beside content: digests (RFC 9530), duplicates (RFC 6249), torrents. Every method has a default that says
/// nothing, so an implementation overrides what it knows.
pub trait Annotations: Debug + Send + Sync + 'static {
    /// The SHA-256 of an object, if it is known without reading the object. May read a disk.
    fn sha256(&self, object: &ObjectId) -> Option<[u8; 32]> {
        let _ = object;
        None
    }

    /// Other places that have a file, best first: what a tracker knows. Must not wait.
    fn duplicates(&self, repository: &RepoName, path: &RepoPath) -> Vec<Duplicate> {
        let _ = (repository, path);
        Vec::new()
    }

    /// The torrents that are offered of exactly this directory of a snapshot, for its page. Must not wait.
    fn torrents(&self, repository: &RepoName, snapshot: SnapshotId, path: &RepoPath) -> Vec<TorrentLink> {
        let _ = (repository, snapshot, path);
        Vec::new()
    }
}

/// Of `known`, what is somewhere else now: the comparison of every [`NodeApi::heads_moved`].
pub fn moved_of(known: &HeadMarks, now: impl Fn(&RepoName) -> HeadMark) -> HeadMarks {
    let moved = known.iter().filter_map(|(repository, mark)| {
        let now = now(repository);
        (now != *mark).then(|| (repository.clone(), now))
    });
    moved.collect()
}

/// Where a torrent is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorrentLink {
    /// The name of its file.
    pub file_name: String,
    /// The path of its URL on this server, beginning with a slash, ready to be used.
    pub url: String,
    /// The magnet link.
    pub magnet: String,
    /// Its info-hash.
    pub hash: InfoHash,
    /// Bytes of content in it.
    pub bytes: u64,
}

/// Another place that has a file (RFC 6249).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The URL of the file there.
    pub url: String,
    /// From 1 (best) to 999,999.
    pub priority: u32,
    /// The country it is in, as ISO 3166 has it in two letters, if that is known.
    pub country: Option<String>,
}
