//! The fetch engine against sources that lie, break off, stall and vanish. Time is virtual; nothing sleeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// A list of one range is meant as that where ranges are compared.
#![allow(clippy::single_range_in_vec_init)]

mod ahead;
mod batch;
mod limits;
mod passing;
mod slow_disk;
mod spare;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use instantmirror_core::conformance::{FaultyTransport, content};
use instantmirror_core::memory::{MemoryCache, MemoryTransport};
use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::{
    CacheError, FetchError, ObjectCache, ObjectReader, ObjectSource, Objects, ReadIntent, Transport, TransportError,
};
use instantmirror_core::{FileMeta, ObjectId, RepoName};
use instantmirror_swarm::fetch::FetchEngine;

const G: usize = 64 * 1024;

fn repository() -> RepoName {
    "fedora".parse().unwrap()
}

fn file(data: &[u8]) -> FileMeta {
    FileMeta {
        size: data.len() as u64,
        object: ObjectId::of(data),
        first_piece: 0,
        link_group: None,
    }
}

/// A source that has these objects.
fn source(label: &'static str, objects: &[&[u8]]) -> FaultyTransport {
    let mut transport = MemoryTransport::new();
    for object in objects {
        transport.insert(object.to_vec());
    }
    FaultyTransport::new(label, transport)
}

fn engine(cache: &MemoryCache, sources: &[&FaultyTransport]) -> FetchEngine {
    let sources = sources.iter().map(|source| Transport::origin((*source).clone()));
    let sources = BTreeMap::from([(repository(), sources.collect())]);
    let scheduler = Box::new(PriorityScheduler::new(SchedulerLimits::default()));
    FetchEngine::new(Arc::new(cache.clone()), sources, scheduler)
}

async fn open(engine: &FetchEngine, file: &FileMeta, range: Range<usize>) -> Result<Arc<dyn ObjectReader>, FetchError> {
    let range = range.start as u64..range.end as u64;
    engine.open(&repository(), file, ReadIntent::of(range)).await
}

async fn read(reader: &dyn ObjectReader, range: Range<usize>) -> Result<Vec<u8>, FetchError> {
    let (mut at, end) = (range.start as u64, range.end as u64);
    let mut bytes = Vec::new();
    while at < end {
        let until = reader.ready(at).await?.min(end);
        bytes.extend_from_slice(&reader.read(at..until).await?);
        at = until;
    }
    Ok(bytes)
}

async fn fetch(engine: &FetchEngine, data: &[u8]) -> Result<Vec<u8>, FetchError> {
    let reader = open(engine, &file(data), 0..data.len()).await?;
    read(reader.as_ref(), 0..data.len()).await
}

/// Lets every other task run until nothing can go on without time passing.
async fn settle() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

/// The same, with what is written to the cache beside the runtime: virtual time stands still while that goes on.
async fn settle_disk() {
    settle().await;
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn objects_of_every_shape_arrive_and_are_hits_afterwards() {
    let objects: Vec<_> = (0..)
        .zip([0, 1, G - 1, G, G + 1, 40 * G + 5])
        .map(|(seed, len)| content(seed, len))
        .collect();
    let refs: Vec<&[u8]> = objects.iter().map(Vec::as_slice).collect();
    let (cache, master) = (MemoryCache::new(None), source("master", &refs));
    let engine = engine(&cache, &[&master]);
    for data in &objects {
        assert!(fetch(&engine, data).await.unwrap() == *data);
    }
    settle_disk().await;
    let asked = master.calls().len();
    for data in &objects {
        assert!(fetch(&engine, data).await.unwrap() == *data);
    }
    assert_eq!(master.calls().len(), asked);
    let stats = engine.stats();
    assert_eq!((stats.hits, stats.misses, stats.objects), (5, 5, 5));
    assert!(engine.transfers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_readers_of_one_object_are_one_request() {
    let data = content(1, G + 1);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    let mut readers = Vec::new();
    for _ in 0..10_000 {
        let (engine, data) = (engine.clone(), data.clone());
        readers.push(tokio::spawn(
            async move { fetch(&engine, &data).await.unwrap() == data },
        ));
    }
    settle().await;
    assert_eq!(engine.transfers()[0].readers, 10_000);
    master.release();
    for reader in readers {
        assert!(reader.await.unwrap());
    }
    assert_eq!(master.ranges(), [0..G as u64 + 1]);
    assert_eq!(master.delivered(), G as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_reach_a_reader_as_they_come() {
    let data = content(1, 4 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    for group in 0..4 {
        master.allow(G as u64 - 1);
        settle_disk().await;
        assert_eq!(
            engine.transfers()[0].present,
            (group * G) as u64,
            "half a group is not verified"
        );
        master.allow(1);
        assert_eq!(
            reader.ready((group * G) as u64).await.unwrap(),
            ((group + 1) * G) as u64
        );
    }
    assert!(read(reader.as_ref(), 0..data.len()).await.unwrap() == data);
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_the_tail_overtakes_and_no_byte_comes_twice() {
    let data = content(1, 200 * G + 77);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    let first = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    master.allow(G as u64);
    first.ready(0).await.unwrap();
    let tail = open(&engine, &file(&data), data.len() - 10..data.len()).await.unwrap();
    settle().await;
    assert_eq!(
        master.ranges(),
        [0..data.len() as u64, 200 * G as u64..data.len() as u64]
    );
    master.release();
    assert_eq!(
        read(tail.as_ref(), data.len() - 10..data.len()).await.unwrap(),
        data[data.len() - 10..]
    );
    assert!(read(first.as_ref(), 0..data.len()).await.unwrap() == data);
    settle().await;
    assert_eq!(engine.stats().bytes["master"], data.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn corrupt_data_reaches_nobody() {
    for at in [0, G - 1, 5 * G + 3, 9 * G] {
        let data = content(1, 9 * G + 1);
        let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
        let engine = engine(&cache, &[&master]);
        master.flip_at(Some(at as u64));
        let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
        let whole_before = at / G * G;
        let failure = loop {
            let mut got = 0;
            match reader.ready(got).await {
                Ok(end) => got = end,
                Err(failure) => break failure,
            }
            assert!(got <= whole_before as u64, "the corrupt group was shown");
            match reader.ready(got).await {
                Ok(_) => {}
                Err(failure) => break failure,
            }
        };
        assert!(matches!(failure, FetchError::Corrupt { .. }), "{failure}");
        assert_eq!(engine.stats().corrupt["master"], 1);
        settle().await;
        assert_eq!(cache.usage().reserved_bytes, 0);
        // What came before it is good, and is not asked for again.
        master.flip_at(None);
        assert!(fetch(&engine, &data).await.unwrap() == data);
        assert_eq!(master.ranges().last().unwrap().start, whole_before as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_source_takes_over_where_the_first_was_corrupt_or_broke_off() {
    let data = content(1, 9 * G + 1);
    for (flip, cut) in [
        (Some(5 * G as u64), None),
        (None, Some(5 * G as u64 + 9)),
        (Some(0), None),
        (None, Some(0)),
    ] {
        let (cache, near, far) = (
            MemoryCache::new(None),
            source("near", &[&data]),
            source("far", &[&data]),
        );
        let engine = engine(&cache, &[&near, &far]);
        near.flip_at(flip);
        near.cut_after(cut);
        assert!(fetch(&engine, &data).await.unwrap() == data);
        let good = flip.or(cut).unwrap() / G as u64 * G as u64;
        assert_eq!(far.ranges(), [good..data.len() as u64]);
        let stats = engine.stats();
        let bad = if flip.is_some() {
            &stats.corrupt
        } else {
            &stats.failures
        };
        assert_eq!(bad["near"], 1);
        assert_eq!(stats.bytes.get("near").copied().unwrap_or(0), good);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_lacks_the_object_is_passed_over() {
    let data = content(1, 2 * G);
    let (cache, empty, master) = (MemoryCache::new(None), source("empty", &[]), source("master", &[&data]));
    let engine = engine(&cache, &[&empty, &master]);
    assert!(fetch(&engine, &data).await.unwrap() == data);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_dies_in_the_middle_is_resumed_where_it_stopped() {
    let data = content(1, 9 * G + 1);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    master.allow(4 * G as u64 + 100);
    master.cut_after(Some(4 * G as u64 + 101));
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    reader.ready(0).await.unwrap();
    master.cut_after(None);
    master.fail_next(2);
    master.release();
    assert!(read(reader.as_ref(), 0..data.len()).await.unwrap() == data);
    let (end, resumed) = (data.len() as u64, 4 * G as u64);
    assert_eq!(master.ranges(), [0..end, resumed..end, resumed..end, resumed..end]);
    assert_eq!(engine.stats().bytes["master"], end);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_stays_away_is_an_error_that_says_so() {
    let data = content(1, 3 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.fail_next(u64::MAX);
    let failure = fetch(&engine, &data).await.unwrap_err();
    assert!(
        matches!(&failure, FetchError::Unavailable { source, .. } if source.is_transient()),
        "{failure}"
    );
    settle().await;
    assert_eq!((cache.usage().objects, cache.usage().reserved_bytes), (0, 0));
    // And it is no memory of that: the next reader asks again.
    master.fail_next(0);
    assert!(fetch(&engine, &data).await.unwrap() == data);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_nobody_has_fails_without_a_second_try() {
    let (cache, master) = (MemoryCache::new(None), source("master", &[]));
    let engine = engine(&cache, &[&master]);
    let failure = fetch(&engine, b"absent").await.unwrap_err();
    assert!(matches!(&failure, FetchError::Unavailable { source, .. }
        if matches!(**source, TransportError::NotFound { .. })));
    assert_eq!(master.ranges().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_stops_its_flight_even_if_the_source_is_silent() {
    let data = content(1, 100 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    master.allow(10 * G as u64);
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    reader.ready(9 * G as u64).await.unwrap();
    assert_eq!(master.open_streams(), 1);
    drop(reader);
    settle().await;
    assert_eq!(master.open_streams(), 0);
    assert!(engine.transfers().is_empty());
    assert_eq!(
        (cache.usage().used_bytes, cache.usage().reserved_bytes),
        (10 * G as u64, 0)
    );
    master.release();
    assert!(fetch(&engine, &data).await.unwrap() == data);
    assert_eq!(master.ranges(), [0..100 * G as u64, 10 * G as u64..100 * G as u64]);
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_is_nearly_done_goes_on_without_readers() {
    let data = content(1, 100 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    master.allow(90 * G as u64);
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    reader.ready(89 * G as u64).await.unwrap();
    drop(reader);
    master.release();
    settle_disk().await;
    assert!(cache.open(&ObjectId::of(&data)).await.unwrap().unwrap().is_complete());
    assert_eq!(master.ranges().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_range_moves_no_more_than_its_groups() {
    let data = content(1, 300 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    let range = 200 * G + 7..201 * G + 9;
    let reader = open(&engine, &file(&data), range.clone()).await.unwrap();
    assert_eq!(read(reader.as_ref(), range.clone()).await.unwrap(), data[range]);
    drop(reader);
    settle().await;
    assert_eq!(master.ranges(), [200 * G as u64..202 * G as u64]);
    assert_eq!(master.delivered(), 2 * G as u64);
    assert!(engine.transfers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_forged_outboard_is_blamed_on_its_sender() {
    let data = content(1, 3 * G);
    let (cache, liar, master) = (
        MemoryCache::new(None),
        source("liar", &[&data]),
        source("master", &[&data]),
    );
    liar.forge_outboards(true);
    let alone = engine(&cache, &[&liar]);
    let failure = fetch(&alone, &data).await.unwrap_err();
    assert!(matches!(failure, FetchError::Corrupt { .. }), "{failure}");
    let both = engine(&cache, &[&liar, &master]);
    assert!(fetch(&both, &data).await.unwrap() == data);
    assert_eq!(both.stats().corrupt["liar"], 1);
    assert!(both.stats().bytes.get("liar").is_none_or(|&bytes| bytes == 0));
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_lies_about_a_size_spoils_it_for_nobody_else() {
    let data = content(1, 3 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    let lie = FileMeta {
        size: 5 * G as u64,
        ..file(&data)
    };
    let liar = open(&engine, &lie, 0..5 * G).await.unwrap();
    settle().await;
    let honest = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    assert_eq!((liar.size(), honest.size()), (5 * G as u64, 3 * G as u64));
    master.release();
    assert!(liar.ready(0).await.is_err());
    assert!(read(honest.as_ref(), 0..data.len()).await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_many_objects_on_many_threads_get_their_own_bytes() {
    let objects: Vec<_> = (0..20_u8)
        .map(|seed| content(seed, usize::from(seed) * 40_000 + 1))
        .collect();
    let refs: Vec<&[u8]> = objects.iter().map(Vec::as_slice).collect();
    let cache = MemoryCache::new(Some(3_000_000));
    let (shaky, master) = (source("shaky", &refs), source("master", &refs));
    shaky.cut_after(Some(100_000));
    let engine = engine(&cache, &[&shaky, &master]);
    let mut readers = Vec::new();
    for round in 0..200_usize {
        let (engine, data) = (engine.clone(), objects[round * 7 % 20].clone());
        readers.push(tokio::spawn(async move {
            match fetch(&engine, &data).await {
                Ok(got) => assert!(got == data),
                Err(FetchError::Cache(CacheError::Full { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        }));
        if round % 3 == 0 {
            readers.swap_remove(round / 3).abort();
        }
    }
    for reader in readers {
        reader.await.unwrap();
    }
    let usage = cache.usage();
    assert!(usage.used_bytes + usage.reserved_bytes <= 3_000_000, "{usage:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_reader_does_not_wait_for_the_retry_of_another_ones_flight() {
    let data = content(1, 200 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.fail_next(1);
    let first = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    settle().await;
    assert_eq!(master.ranges().len(), 1, "it failed, and no time has passed");
    let started = tokio::time::Instant::now();
    let tail = 150 * G..151 * G;
    let second = open(&engine, &file(&data), tail.clone()).await.unwrap();
    assert_eq!(read(second.as_ref(), tail.clone()).await.unwrap(), data[tail]);
    assert_eq!(started.elapsed(), std::time::Duration::ZERO);
    assert!(read(first.as_ref(), 0..data.len()).await.unwrap() == data);
    drop((first, second));
    settle().await;
    assert!(
        engine
            .stats()
            .queue
            .iter()
            .all(|(_, status)| status.waiting + status.running == 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_during_the_pause_ends_it() {
    let data = content(1, 200 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    master.fail_next(u64::MAX);
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    settle().await;
    drop(reader);
    settle().await;
    assert!(engine.transfers().is_empty());
    assert_eq!(cache.usage().reserved_bytes, 0);
    assert!(
        engine
            .stats()
            .queue
            .iter()
            .all(|(_, status)| status.waiting + status.running == 0)
    );
}

#[tokio::test(start_paused = true)]
async fn forged_content_is_what_is_told_of_mixed_failures() {
    let data = content(1, 3 * G);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let cache = MemoryCache::new(None);
        let (liar, empty, away) = (source("liar", &[&data]), source("empty", &[]), source("away", &[&data]));
        liar.flip_at(Some(5));
        away.fail_next(u64::MAX);
        let all = [&liar, &empty, &away];
        let engine = engine(&cache, &order.map(|number| all[number]));
        let failure = fetch(&engine, &data).await.unwrap_err();
        assert!(matches!(failure, FetchError::Corrupt { .. }), "{order:?}: {failure}");
        assert!(away.ranges().len() > 1, "one that may come back is asked again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_another_repository_brings_its_sources_along() {
    let data = content(1, 9 * G);
    let (cache, away, other) = (
        MemoryCache::new(None),
        source("away", &[&data]),
        source("other", &[&data]),
    );
    away.fail_next(u64::MAX);
    let debian: RepoName = "debian".parse().unwrap();
    let sources = BTreeMap::from([
        (repository(), vec![Transport::origin(away.clone())]),
        (debian.clone(), vec![Transport::origin(other.clone())]),
    ]);
    let scheduler = Box::new(PriorityScheduler::new(SchedulerLimits::default()));
    let engine = FetchEngine::new(Arc::new(cache), sources, scheduler);
    let first = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    settle().await;
    let intent = ReadIntent::of(0..data.len() as u64);
    let second = engine.open(&debian, &file(&data), intent).await.unwrap();
    let started = tokio::time::Instant::now();
    assert!(read(first.as_ref(), 0..data.len()).await.unwrap() == data);
    assert!(read(second.as_ref(), 0..data.len()).await.unwrap() == data);
    assert_eq!(started.elapsed(), std::time::Duration::ZERO, "not after the pause");
    assert_eq!(other.ranges().len(), 1);
}

/// With one slot only: a reader that has what it wants and does not leave must not keep it from others.
#[tokio::test(start_paused = true)]
async fn a_fill_that_rests_holds_up_nobody() {
    let (first, second) = (content(1, 20 * G), content(2, 3 * G + 1));
    let source = source("master", &[&first, &second]);
    let sources = BTreeMap::from([(repository(), vec![Transport::origin(source.clone())])]);
    let mut limits = SchedulerLimits::default();
    limits.running_max = 1;
    let cache = MemoryCache::new(None);
    let engine = FetchEngine::new(Arc::new(cache), sources, Box::new(PriorityScheduler::new(limits)));
    let lingering = open(&engine, &file(&first), 0..10).await.unwrap();
    assert_eq!(read(lingering.as_ref(), 0..10).await.unwrap(), first[..10]);
    let hour = std::time::Duration::from_secs(3600);
    let other = tokio::time::timeout(hour, fetch(&engine, &second))
        .await
        .expect("it is not held up");
    assert_eq!(other.unwrap(), second);
    // The one that rests is taken up again when somebody wants more of it.
    let more = open(&engine, &file(&first), 15 * G..20 * G).await.unwrap();
    let rest = tokio::time::timeout(hour, read(more.as_ref(), 15 * G..20 * G))
        .await
        .expect("it gets another turn");
    assert_eq!(rest.unwrap(), first[15 * G..]);
    drop(lingering);
}
