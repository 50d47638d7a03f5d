//! A master, a mirror node and a tracker in one process: publishes DIR, mirrors it, and publishes again when DIR changes.
//!
//! ```text
//! cargo run --release --example quickstart -- DIR
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use instantmirror::config::LogConfig;
use instantmirror::core::RepoName;
use instantmirror::core::changes::ChangeSet;
use instantmirror::core::rules::PathGlobs;
use instantmirror::core::traits::CacheLimits;
use instantmirror::node::Repository;
use instantmirror::progress::PublishBar;
use instantmirror::store::tree::TreeWatch;
use instantmirror::{
    Master, MasterServer, Node, NodeServer, PublishOptions, Published, Tracker, TrackerServer, daemon, master,
};
use tokio::sync::Notify;

/// A change is published when the tree has been quiet for so long.
const QUIET: Duration = Duration::from_millis(100);
/// Any free port of this machine.
const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(source) = std::env::args_os().nth(1).map(PathBuf::from) else {
        anyhow::bail!("name a directory: cargo run --release --example quickstart -- DIR");
    };
    let source = source
        .canonicalize()
        .with_context(|| format!("cannot publish {}", source.display()))?;
    daemon::start_logging(&LogConfig::at("warn")).map_err(anyhow::Error::msg)?;
    let storage = tempfile::tempdir()?;
    // From the first moment: a first publish may be long, and what it has stored is removed as well.
    tokio::select! {
        result = run(storage.path(), &source) => result,
        () = daemon::told_to_stop() => Ok(()),
    }
}

async fn run(storage: &Path, source: &Path) -> anyhow::Result<()> {
    let name: RepoName = "quickstart".parse()?;

    let (master, master_address) = start_master(storage, source).await?;
    let tracker = start_tracker(master_address).await?;
    let (node, node_address) = start_node(storage, &master, master_address, &tracker).await?;
    println!("publishing {} ...", source.display());
    // Watched before it is read, so that no edit falls between the two.
    let changed = Arc::new(Notify::new());
    watch(source, Arc::clone(&changed))?;
    publish(&master, &name, &node).await?;
    println!(
        "\nmaster  http://{master_address}/{name}/snap/current/\n\
         mirror  http://{node_address}/{name}/snap/current/\n\
         tracker {tracker}, which tells mirrors of each other\n\
         \nThe mirror shows the whole tree and fetches each file when it is first read. Try:\n\
         \n    curl http://{node_address}/{name}/snap/current/\n\
         \nEdit something in {} and look again. Ctrl-C ends it; storage in {} is removed then.\n",
        source.display(),
        storage.display(),
    );
    publish_changes(&master, &name, &changed, &node).await
}

/// A master with temporary storage on a free port, served in the background.
async fn start_master(storage: &Path, source: &Path) -> anyhow::Result<(Master, SocketAddr)> {
    let master = Master::builder()
        .dir(storage.join("master"))
        .repository(master::Repository::new("quickstart").source(source))
        .listen(ANY_PORT)
        .listen_peers(ANY_PORT)
        .build()?;
    let server = MasterServer::bind(master.clone()).await?;
    let address = *server.addresses().first().context("no address")?;
    tokio::spawn(server.run(std::future::pending()));
    Ok((master, address))
}

/// A tracker of the master's swarm, on a free port, served in the background; returns its URL.
async fn start_tracker(master: SocketAddr) -> anyhow::Result<String> {
    let tracker = Tracker::builder().master(format!("http://{master}/quickstart"));
    let server = TrackerServer::bind(tracker.listen(ANY_PORT).build()?).await?;
    let url = server.urls().into_iter().next().context("no address")?;
    tokio::spawn(server.run(std::future::pending()));
    Ok(url)
}

/// A node that follows the master, with temporary storage on a free port, served in the background.
async fn start_node(
    storage: &Path,
    master: &Master,
    address: SocketAddr,
    tracker: &str,
) -> anyhow::Result<(Node, SocketAddr)> {
    let repository = Repository::new("quickstart").master(format!("http://{address}"));
    let node = Node::builder()
        .dir(storage.join("node"))
        .cache_limits(CacheLimits::bytes(100 << 30))
        .repository(repository.trust(master.public_key()))
        .listen(ANY_PORT)
        .listen_peers(ANY_PORT)
        .tracker(tracker)
        .build()
        .await?;
    let server = NodeServer::bind(node.clone()).await?;
    let address = *server.addresses().first().context("no address")?;
    tokio::spawn(server.run(std::future::pending()));
    Ok((node, address))
}

/// Publishes, and says when the mirror shows it.
async fn publish(master: &Master, name: &RepoName, node: &Node) -> anyhow::Result<()> {
    let (publisher, repository) = (master.clone(), name.clone());
    let published = tokio::task::spawn_blocking(move || {
        let bar = PublishBar::new(&repository, None);
        // A newcomer may well delete the only file.
        let mut options = PublishOptions::default();
        options.allow_empty = true;
        let published = publisher.publish(&repository, &options, &bar);
        bar.finish();
        published
    });
    let published = published.await??;
    let since = Instant::now();
    let Published::Snapshot(snapshot) = &published else {
        return Ok(());
    };
    node.wait_until_current(name, snapshot.snapshot.id).await;
    println!("{published}; on the mirror {} ms later", since.elapsed().as_millis());
    Ok(())
}

/// Tells of every change in the tree.
fn watch(source: &Path, changed: Arc<Notify>) -> anyhow::Result<()> {
    let mut watch = TreeWatch::open(source, PathGlobs::none())?;
    std::thread::spawn(move || {
        loop {
            match watch.wait(Duration::from_secs(1), &mut ChangeSet::default()) {
                Ok(true) => changed.notify_one(),
                Ok(false) => {}
                Err(error) => return println!("changes are not noticed any more: {error}"),
            }
        }
    });
    Ok(())
}

/// Publishes again whenever the tree has changed and come to rest.
async fn publish_changes(master: &Master, name: &RepoName, changed: &Notify, node: &Node) -> anyhow::Result<()> {
    loop {
        changed.notified().await;
        while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {}
        if let Err(error) = publish(master, name, node).await {
            println!("not published: {error:#}");
        }
    }
}
