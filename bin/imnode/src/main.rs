//! `imnode`, the mirror node: arguments, logging, signals. Everything it does is `instantmirror::Node`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use instantmirror::config::{ConfigError, NodeConfig};
use instantmirror::core::{RepoName, SnapshotId, TagName};
use instantmirror::node::NodeStatus;
use instantmirror::{Node, NodeServer, control, daemon};

const EXAMPLES: &str = "Examples:
  imnode --print-config > imnode.toml    begin with a configuration in which every key is explained
  imnode --check-config                  check it
  imnode run                             follow the masters and serve their snapshots until SIGTERM
  imnode status                          how a running node is";

/// A mirror node of InstantMirror: shows every snapshot of its masters whole, fetches files when they are read.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = "imnode.toml", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and say so; do nothing else.
    #[arg(long)]
    check_config: bool,
    /// Print a configuration with every key explained; do nothing else.
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Follow the masters and serve their snapshots over HTTP until SIGTERM.
    Run,
    /// Show repositories, head age, cache use and transfers of a running node.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Name a snapshot that the running node shows: it is fetched whole and kept, at REPO/local-snap/NAME/.
    Tag {
        repository: RepoName,
        name: TagName,
        snapshot: SnapshotId,
        /// Move the tag if it names another snapshot.
        #[arg(long)]
        force: bool,
        /// Do not wait until all of it is here.
        #[arg(long)]
        no_wait: bool,
    },
    /// Take a tag away; what only it kept may go.
    Untag { repository: RepoName, name: TagName },
    /// List the tags of the running node, and how much of them is here.
    Tags,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("imnode: {}", daemon::explain(error.as_ref()));
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        config: file,
        check_config,
        print_config,
        command,
    } = arguments;
    if print_config {
        print!("{}", include_str!("../../../docs/config/imnode.toml"));
        return Ok(());
    }
    match command {
        _ if check_config => {
            let config = NodeConfig::load(&file)?;
            println!(
                "{} is good; repositories: {}",
                file.display(),
                config.repositories.len()
            );
            Ok(())
        }
        Some(command) => daemon::runtime()?.block_on(with_config(&file, &command)),
        None => anyhow::bail!("nothing to do; `imnode --help` shows what there is"),
    }
}

async fn with_config(file: &Path, command: &Command) -> anyhow::Result<()> {
    let config = NodeConfig::load(file)?;
    match command {
        Command::Run => {
            daemon::start_logging(&config.log.level).map_err(anyhow::Error::msg)?;
            daemon::raise_descriptor_limit(config.http.max_connections);
            let node = Node::open(config).await?;
            let server = NodeServer::bind(node.clone()).await?;
            for url in server.urls() {
                println!("serving on {url}");
            }
            let frontend = server.frontend();
            let obey = daemon::obey(&frontend, || {
                let config = NodeConfig::load(file)?;
                frontend.reload_node(&config);
                node.reload(&config);
                Ok(())
            });
            tokio::select! {
                () = server.run(daemon::told_to_stop()) => {}
                () = obey => {}
            }
        }
        Command::Tag {
            repository,
            name,
            snapshot,
            force,
            no_wait,
        } => {
            let socket = config.control_socket();
            control::tag(&socket, repository, name, *snapshot, *force).await?;
            println!("tagged: {repository}/local-snap/{name}/");
            if !no_wait {
                wait_for_tag(&socket, repository, name, *snapshot).await?;
            }
        }
        Command::Untag { repository, name } => {
            control::untag(&config.control_socket(), repository, name).await?;
            println!("untagged");
        }
        Command::Tags => {
            let status: NodeStatus = control::status(&config.control_socket()).await?;
            status.tags.iter().for_each(|tag| println!("{tag}"));
        }
        Command::Status { json } => {
            let status: NodeStatus = control::status(&config.control_socket()).await?;
            match json {
                true => println!("{}", serde_json::to_string_pretty(&status)?),
                false => print!("{status}"),
            }
        }
    }
    Ok(())
}

/// Says how far a tag is, once a second, until it is complete.
async fn wait_for_tag(
    socket: &Path,
    repository: &RepoName,
    name: &TagName,
    snapshot: SnapshotId,
) -> anyhow::Result<()> {
    let mut said = String::new();
    loop {
        let status: NodeStatus = control::status(socket).await?;
        let mut tags = status.tags.iter();
        let tag = tags.find(|tag| tag.repository == *repository && tag.tag == *name && tag.snapshot == snapshot);
        let tag = tag.ok_or_else(|| anyhow::anyhow!("tag '{name}' was moved or taken away meanwhile"))?;
        let text = tag.to_string();
        if text != said {
            println!("{text}");
        }
        if tag.complete {
            return Ok(());
        }
        said = text;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}
