//! A master in a program of one's own: publishes a tree, serves it, and publishes it again for each line of input.
//!
//! ```text
//! cargo run --example embed_master -- DIR NAME
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::path::PathBuf;

use anyhow::Context as _;
use instantmirror::core::RepoName;
use instantmirror::core::memory::{MemoryStorage, MemoryStore};
use instantmirror::master::Repository;
use instantmirror::{Master, MasterServer, NoProgress, PublishOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(tree), Some(name)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        anyhow::bail!("name a directory and a repository: cargo run --example embed_master -- DIR NAME");
    };
    let name: RepoName = name.to_string_lossy().parse()?;
    let master = Master::builder()
        .snapshots(MemoryStore::new()) // any SnapshotStore
        .objects(MemoryStorage::new()) // any ObjectStorage; `.dir(path)` instead of both keeps all on a disk
        .repository(Repository::new(name.as_str()).source(&tree).exclude("*.tmp"))
        .keep_last(10)
        .listen("127.0.0.1:0".parse()?)
        .build()?;
    println!("mirrors have to trust {}", master.public_key());
    let server = MasterServer::bind(master.clone()).await?;
    println!("master {}", server.urls().first().context("no address")?);
    let (publishing, stopped) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        // Publishing blocks, so it has a thread that may.
        let _ = publishing.send(publish_for_lines(&master, &name));
    });
    let mut published = Ok(());
    let to_the_end = async { published = stopped.await.map_err(Into::into).and_then(|done| done) };
    server.run(to_the_end).await;
    published
}

/// Publishes now, and once more for each line, to the end of the input.
fn publish_for_lines(master: &Master, name: &RepoName) -> anyhow::Result<()> {
    let publish = || master.publish(name, &PublishOptions::default(), &NoProgress);
    println!("{}", publish()?);
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", publish()?);
    }
    Ok(())
}
