//! A master and five mirrors in one process, and how they feed each other: publishes DIR and shows what comes from whom.
//!
//! ```text
//! cargo run --release --example swarm -- DIR
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::io::{IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use instantmirror::HttpStatus;
use instantmirror::config::{ByteRate, ByteSize, LogConfig, PeersConfig};
use instantmirror::core::RepoName;
use instantmirror::core::traits::CacheLimits;
use instantmirror::node::{PrefetchRules, Repository};
use instantmirror::{Master, MasterServer, NoProgress, Node, NodeServer, PublishOptions, Published, daemon, master};
use tokio::task::JoinSet;

const MIRRORS: usize = 5;
/// The master sends no more than this: one copy for all, not one for each.
const MASTER_RATE: ByteRate = ByteRate(20 << 20);
/// Any free port of this machine.
const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
/// How often the view is drawn.
const INTERVAL: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(source) = std::env::args_os().nth(1).map(PathBuf::from) else {
        anyhow::bail!("name a directory: cargo run --release --example swarm -- DIR");
    };
    let source = source
        .canonicalize()
        .with_context(|| format!("cannot publish {}", source.display()))?;
    daemon::start_logging(&LogConfig::at("warn")).map_err(anyhow::Error::msg)?;
    let storage = tempfile::tempdir()?;
    tokio::select! {
        result = run(storage.path(), &source) => result,
        () = daemon::told_to_stop() => Ok(()),
    }
}

async fn run(storage: &Path, source: &Path) -> anyhow::Result<()> {
    let name: RepoName = "swarm".parse()?;
    // Whatever runs ends with this, before its storage goes.
    let mut servers = JoinSet::new();
    let (master, address) = start_master(storage, source, &mut servers).await?;
    let mut mirrors = Vec::with_capacity(MIRRORS);
    for number in 0..MIRRORS {
        mirrors.push(start_mirror(storage, &master, address, number, &mut servers).await?);
    }
    println!("publishing {} ...", source.display());
    let (publisher, repository) = (master.clone(), name.clone());
    let publish = move || publisher.publish(&repository, &PublishOptions::default(), &NoProgress);
    let Published::Snapshot(snapshot) = tokio::task::spawn_blocking(publish).await?? else {
        anyhow::bail!("there is nothing to publish in {}", source.display());
    };
    let total = snapshot.snapshot.root.bytes;
    println!(
        "{} in {} files; the master sends {MASTER_RATE} at most.\n",
        ByteSize(total),
        snapshot.snapshot.root.files
    );
    let mut drawn = false;
    loop {
        let done = draw(&mirrors, std::mem::replace(&mut drawn, true))?;
        if done >= mirrors.len() {
            println!("\nAll {MIRRORS} have everything.");
            servers.shutdown().await;
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A master with temporary storage on free ports, served in the background.
async fn start_master(
    storage: &Path,
    source: &Path,
    servers: &mut JoinSet<()>,
) -> anyhow::Result<(Master, SocketAddr)> {
    let mut peers = PeersConfig::default();
    (peers.listen, peers.upload) = (vec![ANY_PORT], Some(MASTER_RATE));
    let master = Master::builder()
        .dir(storage.join("master"))
        .repository(master::Repository::new("swarm").source(source))
        .listen(ANY_PORT)
        .peers(peers)
        .build()?;
    let server = MasterServer::bind(master.clone()).await?;
    let address = *server.addresses().first().context("no address")?;
    servers.spawn(server.run(std::future::pending()));
    Ok((master, address))
}

/// A mirror that fetches everything as soon as it is published, served in the background.
async fn start_mirror(
    storage: &Path,
    master: &Master,
    address: SocketAddr,
    number: usize,
    servers: &mut JoinSet<()>,
) -> anyhow::Result<Node> {
    let repository = Repository::new("swarm").master(format!("http://{address}"));
    let node = Node::builder()
        .dir(storage.join(format!("mirror{number}")))
        .cache_limits(CacheLimits::bytes(100 << 30))
        .repository(repository.trust(master.public_key()))
        .prefetch(PrefetchRules::everything())
        .listen(ANY_PORT)
        .listen_peers(ANY_PORT)
        .build()
        .await?;
    let server = NodeServer::bind(node.clone()).await?;
    servers.spawn(server.run(std::future::pending()));
    Ok(node)
}

/// One line for each mirror, over the last ones on a terminal. Returns how many have everything.
fn draw(mirrors: &[Node], again: bool) -> anyhow::Result<usize> {
    let mut out = std::io::stdout().lock();
    let is_terminal = out.is_terminal();
    if again && is_terminal {
        write!(out, "\x1b[{}A", mirrors.len())?;
    }
    let mut done = 0;
    for (number, mirror) in mirrors.iter().enumerate() {
        let ahead = mirror.preseed_status();
        let mut steps = ahead.iter().flat_map(|repository| &repository.steps);
        let is_done = !ahead.is_empty() && steps.all(|step| step.is_over);
        done += usize::from(is_done);
        let swarms = mirror.swarms().unwrap_or_default();
        let mut line = format!("mirror {number}: ");
        for swarm in &swarms.swarms {
            let rate = |of: fn(&instantmirror::peering::PeerStatus) -> u64| swarm.peers.iter().map(of).sum::<u64>();
            line += &format!(
                "{} peers, {} pieces; {} here ({} from the master), {} in, {} out, {} sent",
                swarm.peers.len(),
                swarm.have,
                ByteSize(swarm.received_bytes),
                ByteSize(swarm.master_bytes),
                ByteRate(rate(|peer| peer.down_rate)),
                ByteRate(rate(|peer| peer.up_rate)),
                ByteSize(swarm.sent_bytes),
            );
        }
        let by_http: u64 = mirror
            .status(HttpStatus::default())
            .sources
            .iter()
            .filter(|source| source.source.starts_with("http"))
            .map(|source| source.bytes)
            .sum();
        line += &format!("; {} from the master by HTTP", ByteSize(by_http));
        let end = if is_done { " - all" } else { "" };
        let rest = if is_terminal { "\x1b[K" } else { "" };
        writeln!(out, "{line}{end}{rest}")?;
    }
    Ok(done)
}
