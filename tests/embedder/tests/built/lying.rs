//! Parts that do not keep what their traits promise.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use instantmirror::core::catalog::{CatalogNode, NodeSource};
use instantmirror::core::memory::MemoryStorage;
use instantmirror::core::traits::{
    BatchItem, ByteStream, CacheUsage, Class, ObjectCache, ObjectFill, ObjectHandle, ObjectStorage, ObjectUpload,
    Objects, PeerTransport, SnapshotStore, Swept,
};
use instantmirror::core::{
    CacheError, NodeId, ObjectId, Outboard, PublicKey, RangeSet, RecordId, RepoName, SignedHead, Snapshot, SnapshotId,
    StoreError, TransportError,
};
use instantmirror_embedder::{ListStore, ShelfCache, TreeTransport};

fn spoil(data: &[u8]) -> Bytes {
    let mut data = data.to_vec();
    if let Some(last) = data.last_mut() {
        *last ^= 1;
    }
    data.into()
}

/// A cache that changes a bit of whatever is read.
#[derive(Debug)]
pub struct OtherBytes(pub ShelfCache);

#[async_trait]
impl Objects for OtherBytes {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let opened = self.0.open(object).await?;
        Ok(opened.map(|handle| Arc::new(OtherHandle(handle)) as Arc<dyn ObjectHandle>))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        self.0.outboard(object).await
    }
}

#[async_trait]
impl ObjectCache for OtherBytes {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        Ok(Arc::new(OtherFill(self.0.fill(object, size).await?)))
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        self.0.remove(object).await
    }

    fn usage(&self) -> CacheUsage {
        self.0.usage()
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

#[derive(Debug)]
struct OtherHandle(Arc<dyn ObjectHandle>);

#[async_trait]
impl ObjectHandle for OtherHandle {
    fn object(&self) -> ObjectId {
        self.0.object()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn present(&self) -> RangeSet {
        self.0.present()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        Ok(spoil(&self.0.read(range).await?))
    }
}

#[derive(Debug)]
struct OtherFill(Arc<dyn ObjectFill>);

#[async_trait]
impl ObjectFill for OtherFill {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        Arc::new(OtherHandle(self.0.handle()))
    }

    fn outboard(&self) -> Option<Outboard> {
        self.0.outboard()
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        self.0.set_outboard(outboard).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        self.0.write(offset, data).await
    }

    async fn finish(&self) -> Result<(), CacheError> {
        self.0.finish().await
    }
}

/// A store that has nothing any more once it was told to forget, and returns other bytes once it was told to lie.
#[derive(Debug, Default)]
pub struct FalseStore {
    inner: ListStore,
    pub forget: Arc<AtomicBool>,
    pub lie: Arc<AtomicBool>,
}

impl FalseStore {
    fn unless_forgotten<T>(&self, known: T, nothing: T) -> T {
        if self.forget.load(Ordering::SeqCst) {
            nothing
        } else {
            known
        }
    }
}

impl NodeSource for FalseStore {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        let node = self.unless_forgotten(self.inner.node(id)?, None);
        Ok(match self.lie.load(Ordering::SeqCst) {
            true => node.map(|bytes| spoil(&bytes)),
            false => node,
        })
    }
}

impl SnapshotStore for FalseStore {
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        self.inner.put_nodes(nodes)
    }

    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, StoreError> {
        self.inner.put_snapshot(snapshot)
    }

    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.unless_forgotten(self.inner.snapshot(repository, id)?, None))
    }

    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, StoreError> {
        Ok(self.unless_forgotten(self.inner.snapshots(repository)?, Vec::new()))
    }

    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, StoreError> {
        Ok(self.unless_forgotten(self.inner.records()?, Vec::new()))
    }

    fn put_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.inner.put_head(head)
    }

    fn replace_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.inner.replace_head(head)
    }

    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, StoreError> {
        Ok(self.unless_forgotten(self.inner.keys(repository)?, None))
    }

    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), StoreError> {
        self.inner.put_keys(repository, keys)
    }

    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, StoreError> {
        Ok(self.unless_forgotten(self.inner.head(repository, trusted)?, None))
    }

    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), StoreError> {
        self.inner.remove_snapshot(repository, id)
    }
}

/// A storage of objects that changes a bit of whatever is read once it was told to lie, and has nothing any more once it was told
/// to forget.
#[derive(Debug, Default)]
pub struct FalseStorage {
    inner: MemoryStorage,
    pub forget: Arc<AtomicBool>,
    pub lie: Arc<AtomicBool>,
}

#[async_trait]
impl Objects for FalseStorage {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        if self.forget.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let opened = self.inner.open(object).await?;
        Ok(match self.lie.load(Ordering::SeqCst) {
            true => opened.map(|handle| Arc::new(OtherHandle(handle)) as Arc<dyn ObjectHandle>),
            false => opened,
        })
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        self.inner.outboard(object).await
    }
}

#[async_trait]
impl ObjectStorage for FalseStorage {
    async fn upload(&self, outboard: &Outboard) -> Result<Box<dyn ObjectUpload>, CacheError> {
        self.inner.upload(outboard).await
    }

    async fn size(&self, object: &ObjectId) -> Result<Option<u64>, CacheError> {
        self.inner.size(object).await
    }

    async fn remove(&self, objects: &[ObjectId]) -> Result<Swept, CacheError> {
        self.inner.remove(objects).await
    }

    async fn list(&self, each: &mut (dyn FnMut(ObjectId, u64) + Send)) -> Result<(), CacheError> {
        self.inner.list(each).await
    }
}

/// A transport whose content is never right.
#[derive(Debug)]
pub struct Spoilt(pub TreeTransport);

#[async_trait]
impl PeerTransport for Spoilt {
    fn label(&self) -> &str {
        "spoilt"
    }

    async fn range(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        class: Class,
    ) -> Result<ByteStream, TransportError> {
        let stream = self.0.range(repository, object, range, class).await?;
        Ok(Box::pin(stream.map(|part| part.map(|bytes| spoil(&bytes)))))
    }

    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError> {
        self.0.outboard(repository, object, size, class).await
    }

    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        let spoilt = &mut |(object, content): BatchItem| sink((object, content.map(|bytes| spoil(&bytes))));
        self.0.batch(repository, objects, class, spoilt).await
    }
}

/// A transport that never answers, against its promise to bound its own waiting.
#[derive(Debug)]
pub struct Silent;

#[async_trait]
impl PeerTransport for Silent {
    fn label(&self) -> &str {
        "silent"
    }

    async fn range(&self, _: &RepoName, _: &ObjectId, _: Range<u64>, _: Class) -> Result<ByteStream, TransportError> {
        std::future::pending().await
    }

    async fn outboard(&self, _: &RepoName, _: &ObjectId, _: u64, _: Class) -> Result<Bytes, TransportError> {
        std::future::pending().await
    }

    async fn batch(
        &self,
        _: &RepoName,
        _: &[(ObjectId, u64)],
        _: Class,
        _: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        std::future::pending().await
    }
}
