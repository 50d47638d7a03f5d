//! The suite around a good cache, and one that takes whatever it is given.

use std::collections::{BTreeMap, HashMap};

use instantmirror_core::FileMeta;
use instantmirror_core::conformance::{FaultyTransport, Subject, content};
use instantmirror_core::memory::{MemoryCache, MemoryTransport};
use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::{ObjectSource as _, ReadIntent, Transport};
use instantmirror_swarm::fetch::FetchEngine;

use super::*;

// What is around a good cache is as good.
instantmirror_core::object_cache_conformance!(|max_bytes| {
    Subject::new(Verifying::new(Arc::new(MemoryCache::new(max_bytes)), "memory"))
});

/// A cache that verifies nothing.
#[derive(Debug, Clone, Default)]
struct Gullible(Arc<Mutex<HashMap<ObjectId, Arc<Thing>>>>);

fn place(range: Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

#[derive(Debug, Default)]
struct Content {
    data: Vec<u8>,
    present: RangeSet,
    outboard: Option<Outboard>,
}

#[derive(Debug)]
struct Thing {
    object: ObjectId,
    size: u64,
    content: Mutex<Content>,
}

#[derive(Debug, Clone)]
struct Held(Arc<Thing>);

#[async_trait]
impl Objects for Gullible {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let found = self.0.lock().unwrap().get(object).cloned();
        Ok(found.map(|thing| Arc::new(Held(thing)) as Arc<dyn ObjectHandle>))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let found = self.0.lock().unwrap().get(object).cloned();
        Ok(found.and_then(|thing| thing.content.lock().unwrap().outboard.clone()))
    }
}

#[async_trait]
impl ObjectCache for Gullible {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        let thing = Arc::new(Thing {
            object: *object,
            size,
            content: Mutex::default(),
        });
        let thing = Arc::clone(self.0.lock().unwrap().entry(*object).or_insert(thing));
        Ok(Arc::new(Held(thing)))
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        Ok(self.0.lock().unwrap().remove(object).is_some())
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage::default()
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

#[async_trait]
impl ObjectHandle for Held {
    fn object(&self) -> ObjectId {
        self.0.object
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn present(&self) -> RangeSet {
        self.0.content.lock().unwrap().present.clone()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        let content = self.0.content.lock().unwrap();
        if !content.present.contains(range.clone()) {
            let object = self.0.object;
            return Err(CacheError::Absent { object, range });
        }
        Ok(Bytes::copy_from_slice(&content.data[place(range)]))
    }
}

#[async_trait]
impl ObjectFill for Held {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        Arc::new(self.clone())
    }

    fn outboard(&self) -> Option<Outboard> {
        self.0.content.lock().unwrap().outboard.clone()
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        self.0.content.lock().unwrap().outboard = Some(outboard);
        Ok(())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        let mut content = self.0.content.lock().unwrap();
        let written = offset..offset + data.len() as u64;
        let to = place(written.clone());
        let len = content.data.len().max(to.end);
        content.data.resize(len, 0);
        content.data[to].copy_from_slice(&data);
        content.present.insert(written);
        Ok(())
    }

    async fn finish(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

fn outboard_of(data: &[u8]) -> Outboard {
    let mut hasher = instantmirror_core::outboard::ObjectHasher::new();
    hasher.update(data);
    hasher.finish()
}

fn spoilt(data: &[u8]) -> Bytes {
    let mut data = data.to_vec();
    data[0] ^= 1;
    data.into()
}

#[tokio::test]
async fn nothing_is_written_that_does_not_prove_right() {
    for len in [7, 64 * 1024, 200_000] {
        let (data, gullible) = (content(1, len), Gullible::default());
        let cache = Verifying::new(Arc::new(gullible.clone()), "gullible");
        let object = ObjectId::of(&data);
        let fill = cache.fill(&object, len as u64).await.unwrap();
        let refused = |written| matches!(written, Err(CacheError::Verify(_)));
        if Outboard::len_for(len as u64) > 0 {
            assert!(
                refused(fill.write(0, data.clone().into()).await),
                "nothing proves it yet"
            );
        }
        let other = outboard_of(&content(2, 300_000));
        let _ = fill.set_outboard(other).await;
        assert!(refused(fill.write(0, spoilt(&data)).await), "{len}");
        fill.set_outboard(outboard_of(&data)).await.unwrap();
        assert!(refused(fill.write(0, spoilt(&data)).await), "{len}");
        assert!(fill.handle().present().is_empty());
        fill.write(0, data.clone().into()).await.unwrap();
        assert!(fill.handle().read(0..len as u64).await.unwrap() == data);
    }
}

#[tokio::test]
async fn a_source_that_lies_is_blamed_before_a_cache_that_verifies_nothing() {
    for (len, flip) in [(7, 3), (400_000, 3), (400_000, 300_000)] {
        let data = content(1, len);
        let source = |label| {
            let mut transport = MemoryTransport::new();
            transport.insert(data.clone());
            FaultyTransport::new(label, transport)
        };
        let (wrong, good) = (source("spoilt"), source("good"));
        wrong.flip_at(Some(flip));
        let sources = vec![Transport::origin(wrong), Transport::origin(good)];
        let sources = BTreeMap::from([("fedora".parse().unwrap(), sources)]);
        let cache = Verifying::new(Arc::new(Gullible::default()), "gullible");
        let scheduler = Box::new(PriorityScheduler::new(SchedulerLimits::default()));
        let engine = FetchEngine::new(Arc::new(cache), sources, scheduler);
        let file = FileMeta::new(ObjectId::of(&data), len as u64);
        let intent = ReadIntent::of(0..len as u64);
        let reader = engine.open(&"fedora".parse().unwrap(), &file, intent).await.unwrap();
        let mut at = 0;
        while at < len as u64 {
            let end = reader.ready(at).await.unwrap().min(len as u64);
            assert!(reader.read(at..end).await.unwrap() == data[place(at..end)]);
            at = end;
        }
        let corrupt = engine.stats().corrupt;
        let of = |label| corrupt.get(label).copied().unwrap_or(0);
        assert!(of("spoilt") > 0 && of("good") == 0, "{len} {flip}: {corrupt:?}");
    }
}
