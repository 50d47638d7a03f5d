//! A transport of one's own in a fetch engine: objects on a disk that somebody brought, in files that are called by their
//! ids. Each byte is verified; a file that is not what its name says is asked of the next source.
//!
//! ```text
//! cargo run --example custom_transport
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror::core::memory::{MemoryCache, MemoryTransport};
use instantmirror::core::outboard::ObjectHasher;
use instantmirror::core::preseed::Step;
use instantmirror::core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror::core::traits::{BatchItem, ByteStream, Class, PeerTransport, Transport};
use instantmirror::core::{FileMeta, ObjectId, RepoName, TransportError};
use instantmirror::swarm::FetchEngine;

#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    fn read(&self, object: &ObjectId) -> Result<Bytes, TransportError> {
        let (from, what) = ("disk".to_owned(), format!("object {object}"));
        let read = std::fs::read(self.0.join(object.to_string()));
        read.map(Bytes::from)
            .map_err(|_| TransportError::NotFound { from, what })
    }
}

#[async_trait]
impl PeerTransport for Disk {
    fn label(&self) -> &str {
        "disk"
    }
    async fn range(
        &self,
        _: &RepoName,
        id: &ObjectId,
        range: Range<u64>,
        _: Class,
    ) -> Result<ByteStream, TransportError> {
        let content = self.read(id)?;
        let ends = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = ends.filter(|(start, end)| start <= end && *end <= content.len());
        let part = part.map(|(start, end)| content.slice(start..end));
        let short = || TransportError::Protocol {
            from: "disk".to_owned(),
            reason: "too short".to_owned(),
        };
        Ok(Box::pin(futures_util::stream::iter([part.ok_or_else(short)])))
    }
    async fn outboard(&self, _: &RepoName, id: &ObjectId, _: u64, _: Class) -> Result<Bytes, TransportError> {
        let mut hasher = ObjectHasher::new();
        hasher.update(&self.read(id)?);
        Ok(hasher.finish().values().clone())
    }
    async fn batch(
        &self,
        _: &RepoName,
        objects: &[(ObjectId, u64)],
        _: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        objects.iter().for_each(|(id, _)| sink((*id, self.read(id))));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (repository, mut master, disk): (RepoName, _, _) = ("r".parse()?, MemoryTransport::new(), tempfile::tempdir()?);
    let (good, spoilt) = (master.insert("good content"), master.insert("more content"));
    std::fs::write(disk.path().join(good.to_string()), "good content")?;
    std::fs::write(disk.path().join(spoilt.to_string()), "spoilt bytes")?;
    let sources = vec![
        Transport::origin(Disk(disk.path().to_owned())),
        Transport::origin(master),
    ];
    let (sources, scheduler) = (
        BTreeMap::from([(repository.clone(), sources)]),
        SchedulerLimits::default(),
    );
    let cache = Arc::new(MemoryCache::new(None));
    let engine = FetchEngine::new(cache, sources, Box::new(PriorityScheduler::new(scheduler)));
    for object in [good, spoilt] {
        let file = FileMeta {
            size: 12,
            object,
            first_piece: 0,
            link_group: None,
        };
        engine.fetch(&repository, &file, Step::of(Class::Rest)).await?;
    }
    for source in engine.stats().sources {
        println!("{source:?}");
    }
    Ok(())
}
