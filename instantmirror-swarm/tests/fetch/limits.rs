//! Limits of classes and sources, strict preemption, and who is asked first.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::conformance::{FaultyTransport, content};
use instantmirror_core::memory::MemoryCache;
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::{Class, ObjectCache, ObjectReader};

use instantmirror_swarm::fetch::{FetchEngine, FetchLimits};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{G, engine, fetch, file, open, read, repository, settle_disk, source};

fn ahead(engine: &FetchEngine, data: &[u8]) -> JoinHandle<bool> {
    let (engine, file) = (engine.clone(), file(data));
    tokio::spawn(async move {
        let step = Step::of(Class::Preseed);
        engine.fetch(&repository(), &file, step).await.is_ok()
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_stands_still_while_a_client_waits() {
    let (background, wanted) = (content(1, 100 * G), content(2, 4 * G));
    let (cache, busy, free) = (
        MemoryCache::new(None),
        source("busy", &[&background]),
        source("free", &[&wanted]),
    );
    let engine = engine(&cache, &[&busy, &free]);
    busy.hold();
    free.hold();
    let task = ahead(&engine, &background);
    settle_disk().await;
    busy.allow(10 * G as u64);
    settle_disk().await;
    assert_eq!(engine.transfers()[0].present, 10 * G as u64);
    // A client's transfer hangs at its source: whatever the other one would deliver, nothing more is taken.
    let reader = open(&engine, &file(&wanted), 0..wanted.len()).await.unwrap();
    settle_disk().await;
    busy.release();
    settle_disk().await;
    let present = |data: &[u8]| {
        let size = data.len() as u64;
        let transfer = engine.transfers().into_iter().find(|transfer| transfer.size == size);
        transfer.map(|transfer| transfer.present)
    };
    // One chunk may have been on its way.
    assert!(
        present(&background).unwrap() <= 11 * G as u64,
        "{:?}",
        present(&background)
    );
    free.release();
    assert!(read(reader.as_ref(), 0..wanted.len()).await.unwrap() == wanted);
    assert!(task.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_for_what_is_fetched_ahead_makes_it_urgent() {
    let (one, other) = (content(1, 50 * G), content(2, 50 * G));
    let (cache, master) = (MemoryCache::new(None), source("master", &[&one, &other]));
    let engine = engine(&cache, &[&master]);
    master.hold();
    let (first, second) = (ahead(&engine, &one), ahead(&engine, &other));
    settle_disk().await;
    let reader = open(&engine, &file(&other), 0..other.len()).await.unwrap();
    settle_disk().await;
    master.allow(60 * G as u64);
    settle_disk().await;
    assert!(reader.ready(0).await.is_ok() && engine.holds(&file(&other)).await.unwrap());
    drop(reader);
    assert!(!engine.holds(&file(&one)).await.unwrap());
    master.release();
    assert!(first.await.unwrap() && second.await.unwrap());
}

fn limited(engine: &FetchEngine, change: impl FnOnce(&mut FetchLimits)) {
    let mut limits = FetchLimits::default();
    change(&mut limits);
    engine.set_limits(limits);
}

#[tokio::test(start_paused = true)]
async fn rates_of_classes_and_sources_are_kept_and_hold_back_nobody_else() {
    let (ahead_of_time, wanted) = (content(1, 160 * G), content(2, 160 * G));
    let (cache, master) = (MemoryCache::new(None), source("master", &[&ahead_of_time, &wanted]));
    let engine = engine(&cache, &[&master]);
    limited(&engine, |limits| limits.background_rate = Some(1 << 20));
    let begun = Instant::now();
    assert!(fetch(&engine, &wanted).await.unwrap() == wanted);
    assert_eq!(begun.elapsed(), Duration::ZERO, "demand is no background");
    assert!(ahead(&engine, &ahead_of_time).await.unwrap());
    let took = begun.elapsed().as_secs_f64();
    assert!((9.0..=10.1).contains(&took), "10 MiB at 1 MiB/s took {took} s");

    let third = content(3, 160 * G);
    let slow = source("slow", &[&third]);
    let (cache, begun) = (MemoryCache::new(None), Instant::now());
    let engine = super::engine(&cache, &[&slow]);
    limited(&engine, |limits| limits.source_rate = Some(2 << 20));
    assert!(fetch(&engine, &third).await.unwrap() == third);
    let took = begun.elapsed().as_secs_f64();
    assert!((4.5..=5.1).contains(&took), "10 MiB at 2 MiB/s took {took} s");

    // Past the cache no less.
    let (cache, begun) = (MemoryCache::new(Some(1 << 20)), Instant::now());
    let engine = super::engine(&cache, &[&slow]);
    limited(&engine, |limits| limits.source_rate = Some(2 << 20));
    assert!(fetch(&engine, &third).await.unwrap() == third);
    let took = begun.elapsed().as_secs_f64();
    assert!(
        (4.5..=5.1).contains(&took),
        "10 MiB at 2 MiB/s took {took} s past the cache"
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_has_no_more_transfers_than_it_may_and_clients_find_a_place() {
    let data: Vec<_> = (0..12).map(|seed| content(seed, G)).collect();
    let refs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let (cache, master) = (MemoryCache::new(None), source("master", &refs));
    let engine = engine(&cache, &[&master]);
    limited(&engine, |limits| limits.source_running_max = Some(4));
    master.hold();
    let tasks: Vec<_> = data[..8].iter().map(|data| ahead(&engine, data)).collect();
    settle_disk().await;
    assert_eq!(master.open_streams(), 3, "one place is left for clients");
    // Other limits that change give nobody a second place.
    limited(&engine, |limits| {
        limits.source_running_max = Some(4);
        limits.background_rate = Some(1 << 30);
    });
    let more = ahead(&engine, &data[10]);
    settle_disk().await;
    assert_eq!(master.open_streams(), 3);
    let reader = open(&engine, &file(&data[9]), 0..G).await.unwrap();
    settle_disk().await;
    assert_eq!(master.open_streams(), 4);
    master.release();
    assert!(read(reader.as_ref(), 0..G).await.unwrap() == data[9]);
    for task in tasks.into_iter().chain([more]) {
        assert!(task.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_through_however_few_transfers_a_source_may_have() {
    for running_max in 1..6 {
        let data: Vec<_> = (0..12).map(|seed| content(seed, 3 * G)).collect();
        let refs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let (cache, master) = (MemoryCache::new(None), source("master", &refs));
        let engine = engine(&cache, &[&master]);
        limited(&engine, |limits| limits.source_running_max = Some(running_max));
        master.hold();
        let tasks: Vec<_> = data[..8].iter().map(|data| ahead(&engine, data)).collect();
        settle_disk().await;
        // They have begun and hold still from here on, with what they have of the source.
        master.allow(G as u64);
        settle_disk().await;
        let reader = open(&engine, &file(&data[9]), 0..3 * G).await.unwrap();
        settle_disk().await;
        master.release();
        assert!(read(reader.as_ref(), 0..3 * G).await.unwrap() == data[9]);
        for task in tasks {
            assert!(task.await.unwrap());
        }
    }
}

async fn fetched_from(engine: &FetchEngine, transports: &[&FaultyTransport], seed: u8) -> Vec<u64> {
    let before: Vec<_> = transports.iter().map(|transport| transport.delivered()).collect();
    let data = content(seed, 20 * G);
    assert!(fetch(engine, &data).await.unwrap() == data);
    let now = transports.iter().map(|transport| transport.delivered());
    now.zip(before).map(|(now, before)| now - before).collect()
}

#[tokio::test(start_paused = true)]
async fn who_failed_is_asked_last_and_who_is_preferred_first() {
    let data: Vec<_> = (0..6).map(|seed| content(seed, 20 * G)).collect();
    let refs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let (cache, one, other) = (MemoryCache::new(None), source("one", &refs), source("other", &refs));
    let engine = engine(&cache, &[&one, &other]);
    let all = 20 * G as u64;
    assert_eq!(fetched_from(&engine, &[&one, &other], 0).await, [all, 0]);
    one.fail_next(1);
    assert_eq!(fetched_from(&engine, &[&one, &other], 1).await, [0, all]);
    assert_eq!(
        fetched_from(&engine, &[&one, &other], 2).await,
        [0, all],
        "it waits out its pause"
    );
    limited(&engine, |limits| limits.preferred = vec!["one".to_owned()]);
    assert_eq!(
        fetched_from(&engine, &[&one, &other], 3).await,
        [0, all],
        "health goes before preference"
    );
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(fetched_from(&engine, &[&one, &other], 4).await, [all, 0]);
}

async fn read_part(engine: &FetchEngine, data: &[u8], start: usize, len: usize) {
    let reader: Arc<dyn ObjectReader> = open(engine, &file(data), start..start + len).await.unwrap();
    assert!(read(reader.as_ref(), start..start + len).await.unwrap() == data[start..start + len]);
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_piece_by_piece_finds_the_next_piece_there() {
    let data = content(1, 400 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    for piece in 0..100 {
        read_part(&engine, &data, piece * 2 * G, 2 * G).await;
        settle_disk().await;
    }
    let requests = master.ranges().len();
    assert!(requests < 40, "{requests} requests for 100 pieces");
    assert!(engine.stats().hits >= 60);
    // Here and there is no sequence: exactly what is asked for is fetched.
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = super::engine(&cache, &[&master]);
    for piece in [7, 90, 3, 55, 20] {
        read_part(&engine, &data, piece * 2 * G, G).await;
        settle_disk().await;
    }
    assert_eq!(master.delivered(), 5 * G as u64);
    assert_eq!(cache.usage().used_bytes, 5 * G as u64);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_misses_survive_their_leader_with_no_request_more_and_its_source_with_one() {
    let data = content(1, 8 * G);
    let (cache, master, second) = (
        MemoryCache::new(None),
        source("master", &[&data]),
        source("second", &[&data]),
    );
    let engine = engine(&cache, &[&master, &second]);
    master.hold();
    second.hold();
    let reader = || {
        let (engine, data) = (engine.clone(), data.clone());
        tokio::spawn(async move { fetch(&engine, &data).await.unwrap() == data })
    };
    let leader = reader();
    settle_disk().await;
    let readers: Vec<_> = (0..10_000).map(|_| reader()).collect();
    settle_disk().await;
    assert_eq!(engine.transfers()[0].readers, 10_001);
    // The client that began it goes away.
    leader.abort();
    settle_disk().await;
    assert_eq!((engine.transfers()[0].readers, master.ranges().len()), (10_000, 1));
    // The source breaks off: the next one is asked for the rest, once.
    master.allow(3 * G as u64);
    settle_disk().await;
    master.fail_open_streams();
    second.release();
    for reader in readers {
        assert!(reader.await.unwrap());
    }
    assert_eq!(master.ranges().len(), 1);
    assert_eq!(second.ranges(), [3 * G as u64..8 * G as u64]);
}
