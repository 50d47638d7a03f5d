//! Published trees in memory: [`Catalogs`] with their content, and the heads that nodes ask for.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use super::MemoryStore;
use crate::catalog::frame::{put_end, put_frame};
use crate::catalog::{CatalogError, Delta, NodeSource, build_directory};
use crate::head::{Head, LiveSnapshot, SignedHead, SnapshotState};
use crate::reader::EmptyReader;
use crate::traits::{
    Annotations, ByteStream, Catalogs, FetchError, NodeApi, ObjectReader, ObjectSource, ReadIntent, SnapshotStore as _,
    StoreError, TransportError, Upstream,
};
use crate::view::RepositoryState;
use crate::{
    CacheError, Directory, Entry, FileMeta, HeadError, HeadMark, Kind, Meta, Name, NameError, NodeId, ObjectId,
    RepoName, RepoPath, Root, SecretKey, Snapshot, SnapshotId, Timestamp,
};

/// The piece length of every repository, in bytes.
const PIECE_BYTES: u32 = 1 << 20;
/// Heads are good for so long.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// Published trees in memory, ready to be served: [`Catalogs`], [`NodeApi`], [`Annotations`] (of which it has none), and asked
/// without a network as an [`Upstream`]. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct MemoryCatalogs(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    nodes: Arc<MemoryStore>,
    objects: Mutex<HashMap<ObjectId, Bytes>>,
    published: Mutex<Published>,
}

#[derive(Debug, Default)]
struct Published {
    states: BTreeMap<RepoName, Arc<RepositoryState>>,
    /// Those who wait for a head.
    waiting: Vec<Waker>,
}

/// Why a tree cannot be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A path is named twice, or is a file and a directory.
    #[error("'/{0}' is there already")]
    Twice(RepoPath),
    /// A name that no file can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The tree cannot be written down.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The record cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head cannot be signed.
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// A directory that is being put together.
#[derive(Debug, Default)]
struct Tree(BTreeMap<Name, Branch>);

#[derive(Debug)]
enum Branch {
    File(Bytes),
    Directory(Tree),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    /// Adds a file below this directory, and the directories on the way.
    fn add(&mut self, path: &RepoPath, content: Bytes) -> Result<(), PublishError> {
        let twice = || PublishError::Twice(path.clone());
        let names: Result<Vec<Name>, _> = path.components().map(Name::new).collect();
        let names = names?;
        let Some((last, parents)) = names.split_last() else {
            return Err(twice());
        };
        let mut here = self;
        for parent in parents {
            let branch = here.0.entry(parent.clone());
            match branch.or_insert_with(|| Branch::Directory(Self::default())) {
                Branch::Directory(below) => here = below,
                Branch::File(_) => return Err(twice()),
            }
        }
        match here.0.insert(last.clone(), Branch::File(content)) {
            None => Ok(()),
            Some(_) => Err(twice()),
        }
    }
}

impl MemoryCatalogs {
    /// Without any repository.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes these files as a snapshot of a repository, which is there from then on, and makes it current. `id` has to be
    /// another one each time; files have `now` as their time, and the head is signed with `key`.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is visible then.
    pub fn publish(
        &self,
        repository: &RepoName,
        files: impl IntoIterator<Item = (RepoPath, Bytes)>,
        id: SnapshotId,
        now: Timestamp,
        key: &SecretKey,
    ) -> Result<Arc<Snapshot>, PublishError> {
        let mut tree = Tree::default();
        for (path, content) in files {
            tree.add(&path, content)?;
        }
        let mtime = now.as_millis().div_euclid(1000);
        let top = self.build(tree, mtime)?;
        let snapshot = Arc::new(Snapshot {
            id,
            repository: repository.clone(),
            created: now,
            parent: None,
            note: String::new(),
            root: Root {
                node: top.node,
                mode: 0o755,
                mtime,
                files: top.files,
                bytes: top.bytes,
            },
        });
        let record = self.0.nodes.put_snapshot(&snapshot)?;
        let mut published = lock(&self.0.published);
        let mut state = match published.states.get(repository) {
            Some(state) => RepositoryState::clone(state),
            None => RepositoryState::empty(repository.clone()),
        };
        let before = state.head.as_ref().map(|signed| signed.head());
        let sequence = before.map_or(0, |head| head.sequence) + 1;
        let mut snapshots = before.map_or_else(Vec::new, |head| head.snapshots.clone());
        snapshots.push(LiveSnapshot {
            id,
            record,
            state: SnapshotState::released(now, sequence),
        });
        let head = Head {
            repository: repository.clone(),
            sequence,
            issued: now,
            expires: now.plus(VALIDITY),
            piece_length: PIECE_BYTES,
            current: Some(id),
            snapshots,
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        };
        state.head = Some(Arc::new(head.sign(&[key])?));
        state.snapshots.insert(id, Arc::clone(&snapshot));
        state.current = Some(id);
        published.states.insert(repository.clone(), Arc::new(state));
        published.waiting.drain(..).for_each(Waker::wake);
        Ok(snapshot)
    }

    fn build(&self, tree: Tree, mtime: i64) -> Result<Directory, CatalogError> {
        let mut entries = Vec::with_capacity(tree.0.len());
        for (name, branch) in tree.0 {
            let (mode, kind) = match branch {
                Branch::Directory(below) => (0o755, Kind::Directory(self.build(below, mtime)?)),
                Branch::File(content) => {
                    let (object, size) = (ObjectId::of(&content), content.len() as u64);
                    lock(&self.0.objects).insert(object, content);
                    let file = FileMeta {
                        size,
                        object,
                        first_piece: 0,
                        link_group: None,
                    };
                    (0o644, Kind::File(file))
                }
            };
            let meta = Meta { mode, mtime, kind };
            entries.push(Entry { name, meta });
        }
        build_directory(&entries, &mut |node| self.0.nodes.insert_node(node))
    }

    fn not_found(&self, what: String) -> TransportError {
        let from = "memory".to_owned();
        TransportError::NotFound { from, what }
    }

    fn state_of(&self, repository: &RepoName) -> Result<Arc<RepositoryState>, TransportError> {
        let missing = || self.not_found(format!("repository '{repository}'"));
        self.state(repository).ok_or_else(missing)
    }
}

impl Catalogs for MemoryCatalogs {
    fn repositories(&self) -> Vec<RepoName> {
        lock(&self.0.published).states.keys().cloned().collect()
    }

    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>> {
        lock(&self.0.published).states.get(repository).cloned()
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.0.nodes.clone()
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl NodeApi for MemoryCatalogs {
    async fn head_after(&self, repository: &RepoName, after: u64) -> Option<Arc<SignedHead>> {
        poll_fn(|context| {
            let mut published = lock(&self.0.published);
            let Some(state) = published.states.get(repository) else {
                return Poll::Ready(None);
            };
            match state.head.as_ref().filter(|head| head.head().sequence > after) {
                Some(head) => Poll::Ready(Some(Arc::clone(head))),
                None => {
                    published.waiting.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn head_mark(&self, repository: &RepoName) -> HeadMark {
        let published = lock(&self.0.published);
        published.states.get(repository).map_or(HeadMark::Absent, |state| {
            HeadMark::Sequence(state.head.as_ref().map_or(0, |head| head.head().sequence))
        })
    }
}

impl Annotations for MemoryCatalogs {}

#[async_trait]
impl ObjectSource for MemoryCatalogs {
    async fn open(
        &self,
        repository: &RepoName,
        file: &FileMeta,
        _intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        if file.size == 0 {
            return Ok(Arc::new(EmptyReader));
        }
        let object = file.object;
        match lock(&self.0.objects).get(&object).cloned() {
            Some(content) => Ok(Arc::new(MemoryReader { object, content })),
            None => Err(FetchError::Unavailable {
                object,
                repository: repository.clone(),
                source: Arc::new(self.not_found(format!("object {object}"))),
            }),
        }
    }
}

#[derive(Debug)]
struct MemoryReader {
    object: ObjectId,
    content: Bytes,
}

#[async_trait]
impl ObjectReader for MemoryReader {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    async fn ready(&self, _offset: u64) -> Result<u64, FetchError> {
        Ok(self.size())
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let place = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let place = place.filter(|&(start, end)| start <= end && end <= self.content.len());
        match place {
            Some((start, end)) => Ok(self.content.slice(start..end)),
            None => Err(FetchError::Cache(CacheError::Absent {
                object: self.object,
                range,
            })),
        }
    }

    fn is_settled(&self) -> bool {
        true
    }
}

#[async_trait]
impl Upstream for MemoryCatalogs {
    fn label(&self) -> &str {
        "memory"
    }

    /// Waits for a newer head as long as it takes: who asks can drop the future.
    async fn head(&self, repository: &RepoName, after: Option<u64>) -> Result<Option<Bytes>, TransportError> {
        let state = self.state_of(repository)?;
        let head = match after {
            Some(after) => self.head_after(repository, after).await,
            None => state.head.clone(),
        };
        Ok(head.map(|head| head.bytes().clone()))
    }

    async fn snapshot(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<Bytes, TransportError> {
        let state = self.state_of(repository)?;
        let record = state.snapshots.get(&snapshot).map(|record| record.encode().1.into());
        record.ok_or_else(|| self.not_found(format!("snapshot {snapshot}")))
    }

    async fn delta(
        &self,
        repository: &RepoName,
        have: Option<NodeId>,
        want: NodeId,
    ) -> Result<ByteStream, TransportError> {
        self.state_of(repository)?;
        if !matches!(self.0.nodes.node(&want), Ok(Some(_))) {
            return Err(self.not_found(format!("catalog node {want}")));
        }
        let mut frames = Vec::new();
        for node in Delta::new(Arc::clone(&self.0.nodes), have, want) {
            let node = node.map_err(|error| self.not_found(error.to_string()))?;
            put_frame(&mut frames, node.bytes());
        }
        put_end(&mut frames);
        Ok(Box::pin(stream::iter([Ok(Bytes::from(frames))])))
    }
}
