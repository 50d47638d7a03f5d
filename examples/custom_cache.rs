//! A cache of one's own: core's memory cache, counting how often an object was here. Wherever a cache is taken, any
//! `ObjectCache` will do; the suite at the end is the proof that it is one (`cargo test --example custom_cache`), and
//! `cargo run --example custom_cache` shows it at work.

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror::core::memory::MemoryCache;
use instantmirror::core::traits::{CacheUsage, ObjectCache, ObjectFill, ObjectHandle, Objects};
use instantmirror::core::{CacheError, ObjectId, Outboard};

#[derive(Debug)]
struct Counting {
    inner: MemoryCache,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counting {
    fn new(max_bytes: Option<u64>) -> Self {
        let (inner, hits, misses) = (MemoryCache::new(max_bytes), AtomicU64::new(0), AtomicU64::new(0));
        Self { inner, hits, misses }
    }
}

#[async_trait]
impl Objects for Counting {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let handle = self.inner.open(object).await?;
        let counter = if handle.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(handle)
    }
    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        self.inner.outboard(object).await
    }
}

#[async_trait]
impl ObjectCache for Counting {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        self.inner.fill(object, size).await
    }
    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        self.inner.remove(object).await
    }
    fn overhead_bytes(&self, size: u64) -> u64 {
        self.inner.overhead_bytes(size)
    }
    fn usage(&self) -> CacheUsage {
        self.inner.usage()
    }
    async fn checkpoint(&self) -> Result<(), CacheError> {
        self.inner.checkpoint().await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cache = Counting::new(Some(1 << 20));
    let (content, object) = (Bytes::from("content"), ObjectId::of(b"content"));
    println!("before: {}", cache.open(&object).await?.is_some());
    let fill = cache.fill(&object, content.len() as u64).await?;
    fill.write(0, content).await?;
    fill.finish().await?;
    println!("after: {}", cache.open(&object).await?.is_some());
    println!("{} hit, {} miss", cache.hits.into_inner(), cache.misses.into_inner());
    Ok(())
}

#[cfg(test)]
mod suite {
    use instantmirror::core::conformance::Subject;
    instantmirror::core::object_cache_conformance!(|max_bytes| Subject::new(super::Counting::new(max_bytes)));
}
