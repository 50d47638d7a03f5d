//! Fetching ahead of demand: whole, into the cache or not at all, and never in the way of a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use instantmirror_core::conformance::content;
use instantmirror_core::memory::MemoryCache;
use instantmirror_core::preseed::Step;
use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::{Class, ObjectCache, Transport};
use instantmirror_swarm::fetch::FetchEngine;

use super::{G, engine, fetch, file, open, repository, settle_disk, source};

#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_is_whole_in_the_cache_and_costs_no_second_request() {
    let data = content(1, 5 * G + 3);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    assert!(!engine.holds(&file(&data)).await.unwrap());
    engine
        .fetch(&repository(), &file(&data), Step::of(Class::Preseed))
        .await
        .unwrap();
    settle_disk().await;
    assert!(engine.holds(&file(&data)).await.unwrap());
    engine
        .fetch(&repository(), &file(&data), Step::of(Class::Preseed))
        .await
        .unwrap();
    engine
        .fetch(&repository(), &file(b""), Step::of(Class::Preseed))
        .await
        .unwrap();
    assert!(fetch(&engine, &data).await.unwrap() == data);
    assert_eq!(master.delivered(), data.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn what_the_cache_has_no_room_for_is_not_streamed_to_nobody() {
    let data = content(1, 8 << 20);
    let (cache, master) = (MemoryCache::new(Some(1 << 20)), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    assert!(
        engine
            .fetch(&repository(), &file(&data), Step::of(Class::Preseed))
            .await
            .is_err()
    );
    settle_disk().await;
    assert_eq!((master.delivered(), cache.usage().objects), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_behind_what_is_fetched_ahead() {
    let (first, second) = (content(1, 2 * G), content(2, 3 * G));
    let (cache, master) = (MemoryCache::new(None), source("master", &[&first, &second]));
    let sources = BTreeMap::from([(repository(), vec![Transport::origin(master.clone())])]);
    let mut limits = SchedulerLimits::default();
    limits.background_running_max = 1;
    let scheduler = Box::new(PriorityScheduler::new(limits));
    let engine = FetchEngine::new(Arc::new(cache.clone()), sources, scheduler);
    master.hold();
    let ahead = |data: &[u8]| {
        let (engine, file) = (engine.clone(), file(data));
        tokio::spawn(async move { engine.fetch(&repository(), &file, Step::of(Class::Preseed)).await })
    };
    let (one, other) = (ahead(&first), ahead(&second));
    settle_disk().await;
    assert_eq!(master.ranges(), [0..2 * G as u64], "one at a time in the background");
    let _reader = open(&engine, &file(&second), 0..second.len()).await.unwrap();
    settle_disk().await;
    assert_eq!(master.ranges(), [0..2 * G as u64, 0..3 * G as u64]);
    master.release();
    assert!(one.await.unwrap().is_ok() && other.await.unwrap().is_ok());
}
