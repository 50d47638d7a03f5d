//! What nobody waits for asks for no more at a time than fits on the line.

use std::time::Duration;

use instantmirror_core::conformance::{FaultyTransport, content};
use instantmirror_core::memory::MemoryCache;
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::Class;
use instantmirror_swarm::fetch::{FetchEngine, FetchLimits};
use tokio::task::JoinHandle;

use super::{G, engine, fetch, file, open, read, repository, settle_disk, source};

/// What may be on its way before anything is known of the line.
const WINDOW: u64 = 2 << 20;

fn yielding(cache: &MemoryCache, master: &FaultyTransport) -> FetchEngine {
    let engine = engine(cache, &[master]);
    let mut limits = FetchLimits::default();
    limits.yields = true;
    engine.set_limits(limits);
    engine
}

fn ahead(engine: &FetchEngine, data: &[u8]) -> JoinHandle<bool> {
    let (engine, file) = (engine.clone(), file(data));
    tokio::spawn(async move {
        let step = Step::of(Class::Preseed);
        engine.fetch(&repository(), &file, step).await.is_ok()
    })
}

/// Bytes that were asked for and not delivered.
fn outstanding(master: &FaultyTransport) -> u64 {
    let asked: u64 = master.ranges().iter().map(|range| range.end - range.start).sum();
    asked - master.delivered()
}

#[tokio::test(start_paused = true)]
async fn transfers_share_the_window_and_all_comes() {
    let objects: Vec<_> = (0..4).map(|seed| content(seed, 100 * G + 7)).collect();
    let refs: Vec<&[u8]> = objects.iter().map(Vec::as_slice).collect();
    let (cache, master) = (MemoryCache::new(None), source("master", &refs));
    master.answer_after(Some(Duration::from_millis(20)));
    master.hold();
    let engine = yielding(&cache, &master);
    let tasks: Vec<_> = objects.iter().map(|data| ahead(&engine, data)).collect();
    for step in 0..20 {
        settle_disk().await;
        let outstanding = outstanding(&master);
        assert!(
            (1..=WINDOW + WINDOW / 8).contains(&outstanding),
            "{outstanding} bytes after {step} MiB"
        );
        master.allow(1 << 20);
    }
    assert!(engine.stats().windows["master"] >= 256 << 10);
    master.release();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    let asked = master.ranges().len();
    for data in &objects {
        assert!(fetch(&engine, data).await.unwrap() == *data);
    }
    // No part came twice.
    assert_eq!((master.ranges().len(), outstanding(&master)), (asked, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_for_no_window() {
    let (background, next, wanted) = (content(1, 100 * G), content(2, 100 * G), content(3, 100 * G));
    let (cache, master) = (MemoryCache::new(None), source("master", &[&background, &next, &wanted]));
    master.answer_after(Some(Duration::from_millis(20)));
    master.hold();
    let engine = yielding(&cache, &master);
    // The first one takes the window, whichever thread is quicker.
    let one = ahead(&engine, &background);
    settle_disk().await;
    let other = ahead(&engine, &next);
    settle_disk().await;
    let full = outstanding(&master);
    // One that nobody fetches yet, and one that waits for the window.
    for data in [&wanted, &next] {
        let before = master.ranges().len();
        let reader = open(&engine, &file(data), 0..data.len()).await.unwrap();
        settle_disk().await;
        assert!(
            master.ranges().len() > before,
            "nothing more than {full} bytes was asked for"
        );
        drop(reader);
    }
    master.release();
    let reader = open(&engine, &file(&wanted), 0..wanted.len()).await.unwrap();
    assert!(reader.ready(0).await.is_ok());
    assert!(read(reader.as_ref(), 0..wanted.len()).await.unwrap() == wanted);
    assert!(one.await.unwrap() && other.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_cannot_be_watched_is_used_as_it_comes() {
    let data = content(1, 100 * G);
    let (cache, master) = (MemoryCache::new(None), source("master", &[&data]));
    let engine = yielding(&cache, &master);
    master.hold();
    let task = ahead(&engine, &data);
    settle_disk().await;
    // It answers nothing, so it is asked for something, and then nothing is learned.
    assert!(outstanding(&master) > 0);
    master.release();
    assert!(task.await.unwrap());
}
