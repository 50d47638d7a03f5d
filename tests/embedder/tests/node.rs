//! A node of these parts serves a real tree to curl; and where one of the parts lies, nothing wrong is served.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lying;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use instantmirror::config::ServerConfig;
use instantmirror::core::scheduler::SchedulerLimits;
use instantmirror::node::{Node, NodeBuilder, Repository};
use instantmirror::swarm::HttpOrigin;
use instantmirror::{HttpStatus, Master, MasterServer, NoProgress, NodeServer, PublishOptions};
use instantmirror_embedder::{LineScheduler, ListStore, ShelfCache, TreeTransport};
use lying::{FalseStore, OtherBytes, Silent, Spoilt};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);
const FILES: [(&str, usize); 4] = [("a", 7), ("empty", 0), ("dir/b", 70_000), ("dir/below/c", 1_000_003)];

/// A master that has published a tree.
struct World {
    dir: TempDir,
    master: Master,
    url: String,
}

fn content(path: &str, size: usize) -> Vec<u8> {
    path.bytes()
        .cycle()
        .zip(0..size)
        .map(|(byte, at)| byte ^ (at / 251) as u8)
        .collect()
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        for (path, size) in FILES {
            let file = source.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content(path, size)).unwrap();
        }
        let quoted = |path: &Path| serde_json::to_string(&path.to_string_lossy()).unwrap();
        let text = format!(
            "[store]\ndir = {}\n[http]\nlisten = [\"127.0.0.1:0\"]\n[[repository]]\nname = \"tree\"\nsource = {}\n",
            quoted(&dir.path().join("master")),
            quoted(&source),
        );
        let config = ServerConfig::parse(Path::new("(built in)"), &text).unwrap();
        Master::init(&config).unwrap();
        let master = Master::open(config).unwrap();
        let publisher = master.clone();
        let publish = move || publisher.publish(&"tree".parse().unwrap(), &PublishOptions::default(), &NoProgress);
        tokio::task::spawn_blocking(publish).await.unwrap().unwrap();
        let server = MasterServer::bind(master.clone()).await.unwrap();
        let url = server.urls().remove(0);
        tokio::spawn(server.run(std::future::pending()));
        Self { dir, master, url }
    }

    /// Heads and catalogs come from the master, by HTTP.
    fn repository(&self) -> Repository {
        let upstream = HttpOrigin::new(&self.url).unwrap();
        Repository::new("tree")
            .upstream(upstream)
            .trust(self.master.public_key())
    }

    fn tree(&self) -> TreeTransport {
        TreeTransport::open(&self.dir.path().join("source")).unwrap()
    }
}

/// Serves a node, and returns it with its URL once it shows the tree.
async fn serve(builder: NodeBuilder) -> (Node, String) {
    let node = builder.listen("127.0.0.1:0".parse().unwrap()).build().await.unwrap();
    let server = NodeServer::bind(node.clone()).await.unwrap();
    let url = server.urls().remove(0);
    tokio::spawn(server.run(std::future::pending()));
    let shown = timeout(LIMIT, node.wait_until_shown(&"tree".parse().unwrap())).await;
    shown.expect("the tree is shown").unwrap();
    (node, url)
}

/// What curl gets, if it gets all of it.
async fn curl(url: &str, path: &str) -> Option<Vec<u8>> {
    curl_within(5, url, path).await
}

/// The same with more patience.
async fn curl_within(seconds: u32, url: &str, path: &str) -> Option<Vec<u8>> {
    let url = format!("{}/tree/snap/current/{path}", url.trim_end_matches('/'));
    let curl = Command::new("curl")
        .args(["-fsS", "--max-time", &seconds.to_string(), &url])
        .output();
    let done = curl.await.unwrap();
    done.status.success().then_some(done.stdout)
}

/// Every file is right, or not there. Returns how many were there.
async fn served(url: &str) -> usize {
    let mut count = 0;
    for (path, size) in FILES {
        if let Some(got) = curl(url, path).await {
            assert!(got == content(path, size), "{path} is another file");
            count += 1;
        }
    }
    count
}

/// What is logged while a test runs, in this process alone.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static LOG: std::sync::OnceLock<Arc<Mutex<Vec<u8>>>> = std::sync::OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&log);
        let make = move || Writer(Arc::clone(&writer));
        tracing_subscriber::fmt().with_ansi(false).with_writer(make).init();
        log
    });
    Arc::clone(log)
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn is_logged(log: &Mutex<Vec<u8>>, text: &str) -> bool {
    is_one_line(log, &[text])
}

/// Whether there is a line with all of these.
fn is_one_line(log: &Mutex<Vec<u8>>, texts: &[&str]) -> bool {
    let log = log.lock().unwrap();
    let log = String::from_utf8_lossy(&log);
    log.lines().any(|line| texts.iter().all(|text| line.contains(text)))
}

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
