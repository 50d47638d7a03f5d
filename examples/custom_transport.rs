//! A transport of one's own in a fetch engine: objects that somebody brought, called by their ids. Each byte is verified; what is not
//! what its name says is asked of the next source.
//!
//! ```text
//! cargo run --example custom_transport
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror::core::memory::{MemoryCache, MemoryTransport};
use instantmirror::core::outboard::ObjectHasher;
use instantmirror::core::preseed::Step;
use instantmirror::core::scheduler::PriorityScheduler;
use instantmirror::core::traits::{BatchItem, ByteStream, Class, PeerTransport, Transport};
use instantmirror::core::{FileMeta, ObjectId, RepoName, TransportError};
use instantmirror::swarm::FetchEngine;

type Answer<T> = Result<T, TransportError>;
type Sink<'a> = &'a mut (dyn FnMut(BatchItem) + Send);

#[derive(Debug)]
struct Brought(BTreeMap<ObjectId, Bytes>);

impl Brought {
    fn part(&self, object: &ObjectId, range: Range<u64>) -> Answer<Bytes> {
        let ends = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let found = self.0.get(object).zip(ends);
        let part = found.and_then(|(content, (start, end))| Some(content.slice_ref(content.get(start..end)?)));
        let (from, what) = (self.label().to_owned(), object.to_string());
        part.ok_or(TransportError::NotFound { from, what })
    }
}

#[async_trait]
impl PeerTransport for Brought {
    fn label(&self) -> &str {
        "what was brought"
    }
    async fn range(&self, _: &RepoName, id: &ObjectId, range: Range<u64>, _: Class) -> Answer<ByteStream> {
        let part = self.part(id, range)?;
        Ok(Box::pin(futures_util::stream::iter([Ok(part)])))
    }
    async fn outboard(&self, _: &RepoName, id: &ObjectId, size: u64, _: Class) -> Answer<Bytes> {
        let mut hasher = ObjectHasher::new();
        hasher.update(&self.part(id, 0..size)?);
        Ok(hasher.finish().values().clone())
    }
    async fn batch(&self, _: &RepoName, all: &[(ObjectId, u64)], _: Class, sink: Sink<'_>) -> Answer<()> {
        for (id, size) in all {
            sink((*id, self.part(id, 0..*size)));
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (repository, mut master): (RepoName, _) = ("r".parse()?, MemoryTransport::new());
    let (good, spoilt) = (master.insert("good content"), master.insert("more content"));
    let brought = [(good, "good content".into()), (spoilt, "spoilt bytes".into())].into();
    let sources = vec![Transport::origin(Brought(brought)), Transport::origin(master)];
    let (sources, scheduler) = ([(repository.clone(), sources)].into(), PriorityScheduler::default());
    let engine = FetchEngine::new(Arc::new(MemoryCache::new(None)), sources, Box::new(scheduler));
    for object in [good, spoilt] {
        let (file, step) = (FileMeta::new(object, 12), Step::of(Class::Rest));
        engine.fetch(&repository, &file, step).await?;
    }
    let sources = engine.stats().sources;
    sources.iter().for_each(|source| println!("{source:?}"));
    Ok(())
}
