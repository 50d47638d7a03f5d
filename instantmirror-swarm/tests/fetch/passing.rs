//! Objects that the cache has no room for: streamed past it, verified all the same.

use instantmirror_core::conformance::content;
use instantmirror_core::memory::MemoryCache;
use instantmirror_core::rules::PathGlobs;
use instantmirror_core::traits::{
    CacheError, FetchError, ObjectCache, ObjectSource as _, Objects, Provenance, ReadIntent,
};
use instantmirror_core::{ObjectId, RepoPath};

use super::{G, engine, fetch, file, open, read, repository, settle, settle_disk, source};

const SMALL_CACHE: u64 = 1 << 20;

#[tokio::test(start_paused = true)]
async fn an_object_larger_than_the_cache_is_streamed_past_it() {
    let data = content(1, 8 << 20);
    let (cache, master) = (MemoryCache::new(Some(SMALL_CACHE)), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    assert!(fetch(&engine, &data).await.unwrap() == data);
    assert_eq!(master.ranges().as_slice(), [0..data.len() as u64]);
    let (usage, stats) = (cache.usage(), engine.stats());
    assert_eq!((usage.used_bytes, usage.reserved_bytes, usage.objects), (0, 0, 0));
    assert_eq!((stats.passed, stats.objects), (1, 0));
    assert_eq!(stats.bytes["master"], data.len() as u64);
    assert!(engine.transfers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_past_the_cache_takes_no_more_than_it_asks_for_and_holds_no_more_than_its_window() {
    let data = content(1, 8 << 20);
    let (cache, master) = (MemoryCache::new(Some(SMALL_CACHE)), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    let first = reader.ready(0).await.unwrap();
    settle().await;
    assert!(master.delivered() <= 2 * G as u64, "nobody reads ahead of the reader");
    assert!(read(reader.as_ref(), 0..5 << 20).await.unwrap() == data[..5 << 20]);
    let (masters, peers) = (5 << 20, 0);
    assert_eq!(reader.provenance(), Provenance::Streamed { masters, peers });
    for gone in [0..first, (4 << 20) - 1..4 << 20, 6 << 20..(6 << 20) + 1] {
        let error = reader.read(gone).await.unwrap_err();
        assert!(matches!(error, FetchError::Cache(CacheError::Absent { .. })), "{error}");
    }
    let recent = (4 << 20)..(5 << 20);
    assert!(reader.read(recent.start as u64..recent.end as u64).await.unwrap() == data[recent]);
    assert!(reader.descriptor().is_none());
    // Going back costs another transfer, and is right.
    assert!(read(reader.as_ref(), 7..G).await.unwrap() == data[7..G]);
    assert_eq!(reader.ready(data.len() as u64).await.unwrap(), data.len() as u64);
    drop(reader);
    assert_eq!(master.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn readers_past_the_cache_at_different_places_do_not_disturb_each_other() {
    let data = content(1, (8 << 20) + 77);
    let (cache, master) = (MemoryCache::new(Some(SMALL_CACHE)), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    let end = data.len();
    let ranges = [
        0..end,
        end - 10..end,
        3 << 20..4 << 20,
        G - 1..G + 1,
        5..6,
        2 << 20..end,
    ];
    let mut readers = Vec::new();
    for range in ranges.into_iter().cycle().take(24) {
        let (engine, data) = (engine.clone(), data.clone());
        readers.push(tokio::spawn(async move {
            let reader = open(&engine, &file(&data), range.clone()).await.unwrap();
            assert!(read(reader.as_ref(), range.clone()).await.unwrap() == data[range]);
        }));
    }
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(master.ranges().contains(&(128 * G as u64..end as u64)), "the tail only");
    assert_eq!(engine.stats().passed, 24);
}

#[tokio::test(start_paused = true)]
async fn past_the_cache_nothing_forged_is_seen_and_another_source_takes_over() {
    let data = content(1, 8 << 20);
    let (flip, cut) = ((3 << 20) + 5, 1 << 20);
    let (liar, broken, master) = (
        source("liar", &[&data]),
        source("broken", &[&data]),
        source("master", &[&data]),
    );
    liar.flip_at(Some(flip));
    broken.cut_after(Some(cut));
    let cache = MemoryCache::new(Some(SMALL_CACHE));
    let all = engine(&cache, &[&liar, &broken, &master]);
    assert!(fetch(&all, &data).await.unwrap() == data);
    assert_eq!(broken.ranges()[0].start, 3 << 20, "from where the liar began to lie");
    assert!(master.ranges().len() == 1 && master.ranges()[0].start == 4 << 20);
    assert_eq!((all.stats().corrupt["liar"], all.stats().failures["broken"]), (1, 1));

    let alone = engine(&cache, &[&liar]);
    let reader = open(&alone, &file(&data), 0..data.len()).await.unwrap();
    assert!(read(reader.as_ref(), 0..3 << 20).await.unwrap() == data[..3 << 20]);
    let failure = reader.ready(3 << 20).await.unwrap_err();
    assert!(matches!(failure, FetchError::Corrupt { .. }), "{failure}");
    liar.forge_outboards(true);
    let failure = fetch(&alone, &data).await.unwrap_err();
    assert!(matches!(failure, FetchError::Corrupt { .. }), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn past_the_cache_too_a_master_that_comes_back_is_resumed_and_one_that_stays_away_is_an_error() {
    let data = content(1, 2 << 20);
    let (cache, master) = (MemoryCache::new(Some(SMALL_CACHE)), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    let reader = open(&engine, &file(&data), 0..data.len()).await.unwrap();
    master.cut_after(Some(1 << 20));
    assert!(read(reader.as_ref(), 0..1 << 20).await.unwrap() == data[..1 << 20]);
    master.cut_after(None);
    master.fail_next(1);
    assert!(read(reader.as_ref(), 1 << 20..2 << 20).await.unwrap() == data[1 << 20..]);
    assert_eq!(master.ranges().last().unwrap().start, 1 << 20);
    master.fail_next(u64::MAX);
    let failure = fetch(&engine, &data).await.unwrap_err();
    assert!(
        matches!(&failure, FetchError::Unavailable { source, .. } if source.is_transient()),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn while_everything_in_the_cache_is_in_use_objects_are_streamed_past_it() {
    let (held, data) = (content(1, 3 * G), content(2, 3 * G));
    let cache = MemoryCache::new(Some(4 * G as u64));
    let master = source("master", &[&held, &data]);
    let engine = engine(&cache, &[&master]);
    assert!(fetch(&engine, &held).await.unwrap() == held);
    settle_disk().await;
    let reader = open(&engine, &file(&held), 0..held.len()).await.unwrap();
    let in_use = cache.open(&ObjectId::of(&held)).await.unwrap();
    assert!(fetch(&engine, &data).await.unwrap() == data);
    assert_eq!(engine.stats().passed, 1);
    assert!(cache.open(&ObjectId::of(&data)).await.unwrap().is_none());
    assert!(read(reader.as_ref(), 0..held.len()).await.unwrap() == held);
    drop((reader, in_use));
    // With room again it is kept.
    assert!(fetch(&engine, &data).await.unwrap() == data);
    settle_disk().await;
    assert_eq!((engine.stats().passed, engine.stats().objects), (1, 2));
    assert!(cache.open(&ObjectId::of(&data)).await.unwrap().unwrap().is_complete());
}

/// Paths that are never kept: streamed, verified, to each reader by itself; what the cache holds is used all the same.
#[tokio::test(start_paused = true)]
async fn what_is_never_kept_is_streamed() {
    let data = content(1, 20 * G + 7);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = engine(&cache, &[&master]);
    engine.never_keep(PathGlobs::new(["*.iso"]).unwrap());
    let ask = async |path: &str| {
        let intent = ReadIntent {
            range: 0..data.len() as u64,
            path: Some(RepoPath::new(path).unwrap()),
        };
        let reader = engine.open(&repository(), &file(&data), intent).await.unwrap();
        read(reader.as_ref(), 0..data.len()).await.unwrap() == data
    };
    assert!(ask("images/a.iso").await && ask("images/a.iso").await);
    assert_eq!((engine.stats().passed, engine.stats().objects), (2, 0));
    assert_eq!(cache.usage().objects, 0);
    assert!(engine.transfers().is_empty());
    // Under another name it is kept, and then there is no reason to ask anybody again.
    assert!(ask("images/a.img").await);
    settle().await;
    let asked = master.calls().len();
    assert!(ask("images/a.iso").await);
    assert_eq!((master.calls().len(), engine.stats().passed), (asked, 2));
    assert_eq!(cache.usage().objects, 1);
}
