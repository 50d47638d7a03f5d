//! Many small objects in one request.

use instantmirror_core::conformance::{Call, content};
use instantmirror_core::memory::MemoryCache;
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::{Class, ObjectCache, Objects};
use instantmirror_core::{FileMeta, ObjectId};
use instantmirror_swarm::fetch::{BATCH_BYTES_MAX, BATCHED_OBJECT_BYTES_MAX, BatchDone};

use super::{G, engine, fetch, file, repository, settle_disk, source};

const STEP: Step = Step::of(Class::Preseed);

/// Of different lengths, so all are different.
fn objects(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|seed| content(1, 100 + seed)).collect()
}

fn files(objects: &[Vec<u8>]) -> Vec<FileMeta> {
    objects.iter().map(|data| file(data)).collect()
}

fn refs(objects: &[Vec<u8>]) -> Vec<&[u8]> {
    objects.iter().map(Vec::as_slice).collect()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_objects_are_one_request_and_later_none() {
    let data = objects(1000);
    let (cache, master) = (MemoryCache::new(None), source("master", &refs(&data)));
    let engine = engine(&cache, &[&master]);
    let done = engine.fetch_batch(&repository(), &files(&data), STEP).await;
    assert_eq!((done.fetched, done.present, done.failed), (1000, 0, 0));
    assert!(matches!(master.calls().as_slice(), [Call::Batch(asked)] if asked.len() == 1000));
    let done = engine.fetch_batch(&repository(), &files(&data), STEP).await;
    assert_eq!((done.fetched, done.present), (0, 1000));
    for data in &data {
        assert!(fetch(&engine, data).await.unwrap() == *data);
    }
    assert_eq!(master.calls().len(), 1);
    let stats = engine.stats();
    assert_eq!(stats.objects, 1000);
    assert_eq!(
        stats.class_bytes[Class::Preseed.index()],
        data.iter().map(|data| data.len() as u64).sum::<u64>()
    );
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_large_objects_stay_out_of_them() {
    let large = usize::try_from(BATCHED_OBJECT_BYTES_MAX).unwrap();
    let mut data: Vec<_> = (0..20).map(|seed| content(seed, large)).collect();
    data.push(content(99, large + 1));
    let (cache, master) = (MemoryCache::new(None), source("master", &refs(&data)));
    let engine = engine(&cache, &[&master]);
    let done = engine.fetch_batch(&repository(), &files(&data), STEP).await;
    assert_eq!((done.fetched, done.failed), (20, 0));
    let calls = master.calls();
    assert_eq!(calls.len(), 3);
    for call in calls {
        let Call::Batch(asked) = call else { panic!("{call:?}") };
        assert!(asked.len() as u64 * BATCHED_OBJECT_BYTES_MAX <= BATCH_BYTES_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_source_lacks_or_forges_the_next_one_brings() {
    let data = objects(10);
    let (cache, liar, honest) = (
        MemoryCache::new(None),
        source("liar", &refs(&data[..5])),
        source("honest", &refs(&data)),
    );
    liar.flip_at(Some(7));
    let engine = engine(&cache, &[&liar, &honest]);
    let done = engine.fetch_batch(&repository(), &files(&data), STEP).await;
    assert_eq!((done.fetched, done.failed), (10, 0));
    assert!(engine.stats().corrupt["liar"] > 0);
    for data in &data {
        assert!(fetch(&engine, data).await.unwrap() == *data);
    }
    // From now on the liar is asked last.
    let (lies, more) = (liar.calls().len(), content(50, 300));
    assert!(fetch(&engine, &more).await.is_err());
    assert!(
        engine
            .stats()
            .sources
            .iter()
            .any(|(label, score)| label == "liar" && score.failures > 0)
    );
    assert!(matches!(honest.calls().last(), Some(Call::Range(..))));
    assert!(liar.calls().len() > lies, "it is still better than nobody");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_breaks_off_is_taken_up_where_it_ended() {
    let data = objects(100);
    let (cache, master) = (MemoryCache::new(None), source("master", &refs(&data)));
    let engine = engine(&cache, &[&master]);
    master.fail_next(1);
    let done = engine.fetch_batch(&repository(), &files(&data), STEP).await;
    assert_eq!((done.fetched, done.failed), (100, 0));
    // Nothing is left of the request when it is given up.
    master.fail_next(100);
    let gone = vec![content(200, 10)];
    let done = engine.fetch_batch(&repository(), &files(&gone), STEP).await;
    assert_eq!(
        done,
        BatchDone {
            failed: 1,
            ..BatchDone::default()
        }
    );
    let queue = engine.stats().queue;
    assert!(queue.iter().all(|(_, status)| status.running + status.waiting == 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_ends_the_batch_without_asking_for_more() {
    let data: Vec<_> = (0..30).map(|seed| content(seed, G)).collect();
    let (cache, master) = (MemoryCache::new(Some(0)), source("master", &refs(&data)));
    let engine = engine(&cache, &[&master]);
    let done = engine.fetch_batch(&repository(), &files(&data), STEP).await;
    assert!(done.is_full && done.fetched == 0, "{done:?}");
    assert_eq!((master.calls().len(), cache.usage().objects), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_its_object_while_the_batch_with_it_is_held() {
    let data = objects(50);
    let (cache, master) = (MemoryCache::new(None), source("master", &refs(&data)));
    let engine = engine(&cache, &[&master]);
    // The batch has brought one object and hangs.
    master.hold();
    master.allow(200);
    let batch = {
        let (engine, files) = (engine.clone(), files(&data));
        tokio::spawn(async move { engine.fetch_batch(&repository(), &files, STEP).await })
    };
    settle_disk().await;
    assert_eq!(cache.usage().objects, 1);
    let missing = data.iter().find(|data| !cached(&cache, data)).unwrap().clone();
    let reader = {
        let (engine, missing) = (engine.clone(), missing.clone());
        tokio::spawn(async move { fetch(&engine, &missing).await.unwrap() == missing })
    };
    settle_disk().await;
    assert_eq!(master.ranges().len(), 1, "it is asked for by itself, at once");
    master.release();
    assert!(reader.await.unwrap());
    assert_eq!(batch.await.unwrap().failed, 0);
    settle_disk().await;
    assert_eq!(cache.usage().objects, 50);
    let queue = engine.stats().queue;
    assert!(queue.iter().all(|(_, status)| status.running + status.waiting == 0));
}

fn cached(cache: &MemoryCache, data: &[u8]) -> bool {
    futures_executor::block_on(cache.open(&ObjectId::of(data)))
        .unwrap()
        .is_some()
}

#[tokio::test(start_paused = true)]
async fn batches_that_come_together_are_written_together_and_one_that_is_given_up_holds_up_nobody() {
    let data = objects(300);
    let (cache, master) = (MemoryCache::new(None), source("master", &refs(&data)));
    let engine = engine(&cache, &[&master]);
    let (repository, files) = (repository(), files(&data));
    let (first, rest) = files.split_at(100);
    let (second, third) = rest.split_at(100);
    let given_up = engine.fetch_batch(&repository, third, STEP);
    let given_up = tokio::time::timeout(std::time::Duration::from_nanos(1), given_up);
    let (first, second, _) = tokio::join!(
        engine.fetch_batch(&repository, first, STEP),
        engine.fetch_batch(&repository, second, STEP),
        given_up,
    );
    assert_eq!((first.fetched, first.failed), (100, 0));
    assert_eq!((second.fetched, second.failed), (100, 0));
    let third = engine.fetch_batch(&repository, third, STEP).await;
    assert_eq!((third.fetched + third.present, third.failed), (100, 0));
    for data in &data {
        assert!(fetch(&engine, data).await.unwrap() == *data);
    }
}
