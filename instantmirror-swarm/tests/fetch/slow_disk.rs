//! A disk that stands still or refuses what it is given, and the clients that read meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use instantmirror_core::conformance::{FaultyTransport, content};
use instantmirror_core::memory::MemoryCache;
use instantmirror_core::outboard::Outboard;
use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::blocking::{Blocking, Threads};
use instantmirror_core::traits::{
    CacheError, CacheUsage, FetchError, ObjectCache, ObjectFill, ObjectHandle, Objects, Provenance, Transport,
};
use instantmirror_core::{ObjectId, RepoName};
use instantmirror_swarm::fetch::FetchEngine;

use super::{G, file, open, read, repository, settle, settle_disk, source};

/// A test that fails must end.
const STILL_MAX: Duration = Duration::from_secs(20);

/// What becomes of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Works,
    StandsStill,
    Refuses(io::ErrorKind),
}

#[derive(Debug)]
struct Switch {
    disk: Mutex<Disk>,
    changed: Condvar,
    /// Writes that have come so far.
    writes: AtomicUsize,
}

/// A cache on such a disk.
#[derive(Debug, Clone)]
struct SlowCache(MemoryCache, Arc<Switch>);

#[derive(Debug)]
struct SlowFill(Arc<dyn ObjectFill>, Arc<Switch>);

impl SlowCache {
    fn new(disk: Disk) -> Self {
        let switch = Switch {
            disk: Mutex::new(disk),
            changed: Condvar::new(),
            writes: AtomicUsize::new(0),
        };
        Self(MemoryCache::new(None), Arc::new(switch))
    }

    fn set(&self, disk: Disk) {
        *self.1.disk.lock().unwrap() = disk;
        self.1.changed.notify_all();
    }

    /// Waits until something is written: on a thread of its own, which virtual time knows nothing of.
    async fn written_to(&self) {
        while self.1.writes.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
    }

    fn engine(&self, source: &FaultyTransport) -> FetchEngine {
        let sources = vec![Transport::origin(source.clone())];
        let sources: BTreeMap<RepoName, _> = BTreeMap::from([(repository(), sources)]);
        let scheduler = Box::new(PriorityScheduler::new(SchedulerLimits::default()));
        let threads = Threads::new(|work| drop(tokio::task::spawn_blocking(work)));
        FetchEngine::new(
            Arc::new(Blocking::new(Arc::new(self.clone()), threads)),
            sources,
            scheduler,
        )
    }
}

#[async_trait::async_trait]
impl Objects for SlowCache {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        self.0.open(object).await
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        self.0.outboard(object).await
    }
}

#[async_trait::async_trait]
impl ObjectCache for SlowCache {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        let fill = self.0.fill(object, size).await?;
        Ok(Arc::new(SlowFill(fill, Arc::clone(&self.1))))
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        self.0.remove(object).await
    }

    fn overhead_bytes(&self, size: u64) -> u64 {
        self.0.overhead_bytes(size)
    }

    fn usage(&self) -> CacheUsage {
        self.0.usage()
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        self.0.checkpoint().await
    }
}

#[async_trait::async_trait]
impl ObjectFill for SlowFill {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        self.0.handle()
    }

    fn outboard(&self) -> Option<Outboard> {
        self.0.outboard()
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        self.0.set_outboard(outboard).await
    }

    /// Blocks while the disk stands still.
    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        self.1.writes.fetch_add(1, Ordering::Release);
        let disk = {
            let disk = self.1.disk.lock().unwrap();
            let still = self
                .1
                .changed
                .wait_timeout_while(disk, STILL_MAX, |disk| *disk == Disk::StandsStill);
            *still.unwrap().0
        };
        match disk {
            Disk::Refuses(kind) => Err(CacheError::Io {
                what: "cannot write".to_owned(),
                source: Arc::new(io::Error::from(kind)),
            }),
            _ => self.0.write(offset, data).await,
        }
    }

    async fn finish(&self) -> Result<(), CacheError> {
        self.0.finish().await
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_bytes_reach_a_client_while_the_disk_stands_still() {
    for size in [100, G, 3 * G + 5] {
        let data = content(1, size);
        let (cache, master) = (SlowCache::new(Disk::StandsStill), source("master", &[&data]));
        let engine = cache.engine(&master);
        let reader = open(&engine, &file(&data), 0..size).await.unwrap();
        let end = usize::try_from(reader.ready(0).await.unwrap()).unwrap();
        assert!(end >= size.min(G), "{end} of {size}");
        assert_eq!(reader.held(0).unwrap(), data[..end]);
        // Whoever reads no more than these says where they came from.
        let (masters, peers) = (end as u64, 0);
        assert_eq!(reader.provenance(), Provenance::Fetched { masters, peers });
        assert_eq!(reader.held(end as u64 - 1).unwrap(), data[end - 1..end]);
        assert_eq!(reader.read(1..end as u64).await.unwrap(), data[1..end]);
        settle().await;
        assert_eq!(cache.usage().used_bytes, 0, "nothing of it is here");
        cache.set(Disk::Works);
        assert!(read(reader.as_ref(), 0..size).await.unwrap() == data);
        settle_disk().await;
        assert_eq!(reader.held(0), None, "what is in the cache is held no longer");
        assert!(cache.open(&ObjectId::of(&data)).await.unwrap().unwrap().is_complete());
        assert!(engine.transfers().is_empty());
    }
}

/// Whoever keeps what it fetches waits for the disk.
#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_is_here_when_the_disk_has_it() {
    let data = content(1, G);
    let (cache, master) = (SlowCache::new(Disk::StandsStill), source("master", &[&data]));
    let engine = cache.engine(&master);
    let step = instantmirror_core::preseed::Step::of(instantmirror_core::traits::Class::Preseed);
    let fetching = {
        let (engine, file) = (engine.clone(), file(&data));
        tokio::spawn(async move { engine.fetch(&repository(), &file, step).await })
    };
    // A client that reads the same gets it at once.
    settle().await;
    let reader = open(&engine, &file(&data), 0..G).await.unwrap();
    settle().await;
    assert!(!fetching.is_finished());
    cache.set(Disk::Works);
    fetching.await.unwrap().unwrap();
    assert!(read(reader.as_ref(), 0..G).await.unwrap() == data);
}

/// Its own fill waits for the batch, and then finds everything there.
#[tokio::test(start_paused = true)]
async fn what_a_batch_brings_for_a_client_was_kept_and_not_fetched_from_nowhere() {
    let data = content(1, 100);
    let (cache, master) = (SlowCache::new(Disk::StandsStill), source("master", &[&data]));
    let engine = cache.engine(&master);
    let step = instantmirror_core::preseed::Step::of(instantmirror_core::traits::Class::Preseed);
    let fetching = {
        let (engine, files) = (engine.clone(), [file(&data)]);
        tokio::spawn(async move { engine.fetch_batch(&repository(), &files, step).await })
    };
    cache.written_to().await;
    let reader = open(&engine, &file(&data), 0..100).await.unwrap();
    settle().await;
    cache.set(Disk::Works);
    assert_eq!(fetching.await.unwrap().fetched, 1);
    assert!(read(reader.as_ref(), 0..100).await.unwrap() == data);
    assert!(master.ranges().is_empty());
    assert_eq!(reader.provenance(), Provenance::Kept);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_the_disk_refuses_stay_readable_to_whom_they_were_announced() {
    let data = content(1, 3 * G);
    let (cache, master) = (SlowCache::new(Disk::StandsStill), source("master", &[&data]));
    let engine = cache.engine(&master);
    master.hold();
    master.allow(G as u64);
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    assert_eq!(reader.ready(0).await.unwrap(), G as u64);
    cache.set(Disk::Refuses(io::ErrorKind::PermissionDenied));
    let failed = reader.ready(G as u64).await.unwrap_err();
    assert!(matches!(failed, FetchError::Cache(_)), "{failed}");
    assert_eq!(reader.ready(0).await.unwrap(), G as u64);
    assert_eq!(reader.held(0).unwrap(), data[..G]);
    assert_eq!(cache.usage().used_bytes, 0);
}

/// That there is no room for another file shows when the first group is written.
#[tokio::test(start_paused = true)]
async fn what_has_no_file_when_the_disk_turns_out_to_be_full_is_streamed_past_it() {
    let data = content(1, 20 * G + 1);
    let full = Disk::Refuses(io::ErrorKind::StorageFull);
    let (cache, master) = (SlowCache::new(full), source("master", &[&data]));
    let engine = cache.engine(&master);
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    assert!(read(reader.as_ref(), 0..data.len()).await.unwrap() == data);
    assert_eq!(engine.stats().passed, 1);
}
