//! A tree, a master that has published it, and those who read it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use instantmirror::core::{RepoName, SnapshotId};
use instantmirror::master::MasterBuilder;
use instantmirror::node::{Node, NodeBuilder, Repository};
use instantmirror::swarm::HttpOrigin;
use instantmirror::{Master, MasterServer, NoProgress, NodeServer, PublishOptions, Published, master};
use instantmirror_embedder::TreeTransport;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

pub const LIMIT: Duration = Duration::from_secs(60);
pub const FILES: [(&str, usize); 4] = [("a", 7), ("empty", 0), ("dir/b", 70_000), ("dir/below/c", 1_000_003)];

/// A master that has published a tree.
pub struct World {
    pub dir: TempDir,
    pub master: Master,
    pub url: String,
}

pub fn name() -> RepoName {
    "tree".parse().unwrap()
}

pub fn content(path: &str, size: usize) -> Vec<u8> {
    path.bytes()
        .cycle()
        .zip(0..size)
        .map(|(byte, at)| byte ^ (at / 251) as u8)
        .collect()
}

impl World {
    /// A master in memory.
    pub async fn new() -> Self {
        Self::with(|builder, _| builder).await
    }

    /// A master of the parts that it is given; `dir` is for them.
    pub async fn with(parts: impl FnOnce(MasterBuilder, &std::path::Path) -> MasterBuilder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        for (path, size) in FILES {
            let file = source.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content(path, size)).unwrap();
        }
        let repository = master::Repository::new("tree").source(source);
        let builder = Master::builder().repository(repository);
        let builder = parts(builder.listen("127.0.0.1:0".parse().unwrap()), dir.path());
        let master = builder.build().unwrap();
        publish(&master, PublishOptions::default()).await;
        let server = MasterServer::bind(master.clone()).await.unwrap();
        let url = server.urls().remove(0);
        tokio::spawn(server.run(std::future::pending()));
        Self { dir, master, url }
    }

    /// Heads and catalogs come from the master, by HTTP.
    pub fn repository(&self) -> Repository {
        let upstream = HttpOrigin::new(&self.url).unwrap();
        Repository::new("tree")
            .upstream(upstream)
            .trust(self.master.public_key())
    }

    /// Content comes from it as well.
    pub fn mirrored(&self) -> Repository {
        let key = self.master.public_key();
        Repository::new("tree").master(self.url.as_str()).trust(key)
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn tree(&self) -> TreeTransport {
        TreeTransport::open(&self.source()).unwrap()
    }
}

/// Publishes what has changed, on a thread that may block.
pub async fn publish(master: &Master, options: PublishOptions) -> SnapshotId {
    let publisher = master.clone();
    let publish = move || publisher.publish(&name(), &options, &NoProgress);
    match tokio::task::spawn_blocking(publish).await.unwrap().unwrap() {
        Published::Snapshot(new) => new.snapshot.id,
        other => panic!("{other:?}"),
    }
}

/// Serves a node, and returns it with its URL once it shows the tree.
pub async fn serve(builder: NodeBuilder) -> (Node, String) {
    let node = builder.listen("127.0.0.1:0".parse().unwrap()).build().await.unwrap();
    let server = NodeServer::bind(node.clone()).await.unwrap();
    let url = server.urls().remove(0);
    tokio::spawn(server.run(std::future::pending()));
    let shown = timeout(LIMIT, node.wait_until_shown(&"tree".parse().unwrap())).await;
    shown.expect("the tree is shown").unwrap();
    (node, url)
}

/// The answer that curl gets, if it gets all of it.
pub async fn curl(url: &str, path: &str) -> Option<Vec<u8>> {
    curl_within(5, url, path).await
}

/// The same with more patience.
pub async fn curl_within(seconds: u32, url: &str, path: &str) -> Option<Vec<u8>> {
    let url = format!("{}/tree/snap/current/{path}", url.trim_end_matches('/'));
    let curl = Command::new("curl")
        .args(["-fsS", "--max-time", &seconds.to_string(), &url])
        .output();
    let done = curl.await.unwrap();
    done.status.success().then_some(done.stdout)
}

/// Every file is right, or not there. Returns how many were there.
pub async fn served(url: &str) -> usize {
    let mut count = 0;
    for (path, size) in FILES {
        if let Some(got) = curl(url, path).await {
            assert!(got == content(path, size), "{path} is another file");
            count += 1;
        }
    }
    count
}

/// The log while a test runs, in this process alone.
pub fn log() -> Arc<Mutex<Vec<u8>>> {
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

pub fn is_logged(log: &Mutex<Vec<u8>>, text: &str) -> bool {
    is_one_line(log, &[text])
}

/// Whether there is a line with all of these.
pub fn is_one_line(log: &Mutex<Vec<u8>>, texts: &[&str]) -> bool {
    let log = log.lock().unwrap();
    let log = String::from_utf8_lossy(&log);
    log.lines().any(|line| texts.iter().all(|text| line.contains(text)))
}
