//! A mirror of one tree in a program of one's own: follows a master, waits for its tree, and serves it.
//!
//! ```text
//! cargo run --example embed_node -- URL NAME KEY
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use anyhow::Context as _;
use instantmirror::core::traits::CacheLimits;
use instantmirror::node::{Node, PrefetchRules, Repository};
use instantmirror::{NodeServer, daemon};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, name, key] = arguments.as_slice() else {
        anyhow::bail!("name a master: cargo run --example embed_node -- URL NAME KEY");
    };
    let node = Node::builder()
        .cache_limits(CacheLimits::bytes(64 << 20))
        .repository(Repository::new(name).master(url.as_str()).trust(key.parse()?))
        .prefetch(PrefetchRules::everything())
        .listen("127.0.0.1:0".parse()?)
        .build()
        .await?;
    let server = NodeServer::bind(node.clone()).await?;
    println!("mirror {}", server.urls().first().context("no address")?);
    let serving = tokio::spawn(server.run(daemon::told_to_stop()));
    let snapshot = node
        .wait_until_shown(&name.parse()?)
        .await
        .context("no such repository")?;
    println!("{} files, {} bytes", snapshot.root.files, snapshot.root.bytes);
    serving.await?;
    Ok(())
}
