//! A node of these parts serves a real tree to curl; and where one of the parts lies, nothing wrong is served.

use std::sync::atomic::Ordering;

use instantmirror::HttpStatus;
use instantmirror::core::scheduler::SchedulerLimits;
use instantmirror::node::Node;
use instantmirror_embedder::{LineScheduler, ListStore, ShelfCache};

use crate::lying::{FalseStore, OtherBytes, Silent, Spoilt};
use crate::world::{FILES, World, content, curl, curl_within, is_logged, is_one_line, log, serve, served};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_these_parts_serves_a_tree() {
    let (log, world) = (log(), World::new().await);
    let builder = Node::builder()
        .cache(ShelfCache::new(Some(16 << 20)))
        .snapshots(ListStore::new())
        .scheduler(LineScheduler::new(SchedulerLimits::default()))
        .repository(world.repository().transport(world.tree()));
    let (node, url) = serve(builder).await;
    for _ in 0..2 {
        assert_eq!(served(&url).await, FILES.len());
    }
    let listing = curl(&url, "dir/").await.unwrap();
    assert!(String::from_utf8_lossy(&listing).contains("below/"));
    let status = node.status(HttpStatus::default());
    let sources: Vec<(&str, bool)> = status
        .sources
        .iter()
        .map(|one| (one.source.as_str(), one.bytes > 0))
        .collect();
    assert_eq!(sources, [("tree", true)]);
    assert_eq!(
        status.cache.used_bytes,
        FILES.iter().map(|(_, size)| *size as u64).sum::<u64>()
    );
    assert_eq!(status.cache.missing.len(), 5, "{:?}", status.cache.missing);
    assert!(is_logged(&log, "the cache has no pin set"));
    let snapshot = node.wait_until_shown(&"tree".parse().unwrap()).await.unwrap().id;
    let tagged = node
        .tag(&"tree".parse().unwrap(), &"kept".parse().unwrap(), snapshot, false)
        .await;
    assert!(tagged.unwrap_err().to_string().contains("no pin set"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_returns_other_bytes_is_found_out() {
    let (log, world) = (log(), World::new().await);
    let builder = Node::builder()
        .cache(OtherBytes(ShelfCache::new(None)))
        .repository(world.repository().transport(world.tree()));
    let (_node, url) = serve(builder).await;
    for _ in 0..3 {
        served(&url).await;
    }
    assert!(is_logged(&log, "OtherBytes"), "the log names the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_shows_nothing_wrong() {
    let (log, world) = (log(), World::new().await);
    let store = FalseStore::default();
    let forget = store.forget.clone();
    let builder = Node::builder()
        .snapshots(store)
        .repository(world.repository().transport(world.tree()));
    let (_node, url) = serve(builder).await;
    assert_eq!(served(&url).await, FILES.len());
    forget.store(true, Ordering::SeqCst);
    served(&url).await;
    assert!(curl(&url, "no-such-file").await.is_none());
    assert!(
        is_one_line(&log, &["FalseStore", "has forgotten"]),
        "the log names the store"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_returns_other_bytes_is_found_out() {
    let (log, world) = (log(), World::new().await);
    let store = FalseStore::default();
    let lie = store.lie.clone();
    let builder = Node::builder()
        .snapshots(store)
        .repository(world.repository().transport(world.tree()));
    let (_node, url) = serve(builder).await;
    lie.store(true, Ordering::SeqCst);
    served(&url).await;
    assert!(curl(&url, "no-such-file").await.is_none());
    assert!(
        is_one_line(&log, &["FalseStore", "it returned other bytes"]),
        "the log names the store"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_a_transport_are_not_served_and_another_one_is_asked() {
    let (log, world) = (log(), World::new().await);
    let spoilt = Spoilt(world.tree());
    let builder = Node::builder().repository(world.repository().transport(spoilt).transport(world.tree()));
    let (node, url) = serve(builder).await;
    assert_eq!(served(&url).await, FILES.len());
    let status = node.status(HttpStatus::default());
    let spoilt = status.sources.iter().find(|one| one.source == "spoilt").unwrap();
    assert!(spoilt.corrupt > 0, "{spoilt:?}");
    assert!(is_logged(&log, "spoilt"), "the log names the transport");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_that_never_answers_serves_nothing_and_holds_up_no_other_repository() {
    let (log, world) = (log(), World::new().await);
    let builder = Node::builder().repository(world.repository().transport(Silent));
    let (_node, url) = serve(builder).await;
    assert!(curl(&url, "a").await.is_none());
    assert!(curl(&url, "dir/").await.is_some(), "catalogs are here");
    assert_eq!(curl(&url, "empty").await, Some(Vec::new()));
    // Its limit is 30 s.
    assert_eq!(curl_within(40, &url, "dir/b").await, None);
    assert!(
        is_one_line(&log, &["lying::Silent", "silent", "within 30 s"]),
        "the log names the transport"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_transport_that_never_answers_another_one_is_asked() {
    let world = World::new().await;
    let builder = Node::builder().repository(world.repository().transport(Silent).transport(world.tree()));
    let (_node, url) = serve(builder).await;
    let (path, size) = FILES[2];
    assert_eq!(curl_within(50, &url, path).await, Some(content(path, size)));
}
