//! `imnode`, the mirror node: arguments, logging, signals. Everything it does is `instantmirror::Node`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

mod prefetch;

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
  imnode status                          how a running node is
  imnode prefetch debian dists/stable    have these files here before anybody asks for them
  imnode reload                          take up a changed configuration";

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
    /// Have the running node fetch files now: paths from the top of the repository, or globs as in .gitignore.
    Prefetch {
        repository: RepoName,
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
        /// Of this snapshot instead of the current one.
        #[arg(long, value_name = "UUID")]
        snapshot: Option<SnapshotId>,
        /// Do not wait until they are here.
        #[arg(long)]
        no_wait: bool,
    },
    /// Have the running node read its configuration again, as SIGHUP does, and say what has changed.
    Reload,
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
            return serve(file, config).await;
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
        Command::Prefetch {
            repository,
            paths,
            snapshot,
            no_wait,
        } => {
            let socket = config.control_socket();
            let id = control::prefetch(&socket, repository, *snapshot, paths).await?;
            prefetch::wait(&socket, id, !no_wait).await?;
        }
        Command::Reload => {
            let reloaded = control::reload(&config.control_socket()).await?;
            reloaded.changed.iter().for_each(|name| println!("changed: {name}"));
            for name in &reloaded.refused {
                println!("takes a restart: {name}");
            }
            if reloaded.changed.is_empty() && reloaded.refused.is_empty() {
                println!("nothing has changed");
            }
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

/// Follows and serves until the process is told to stop.
async fn serve(file: &Path, config: NodeConfig) -> anyhow::Result<()> {
    daemon::start_logging(&config.log.level).map_err(anyhow::Error::msg)?;
    daemon::raise_descriptor_limit(config.http.max_connections);
    let read_again = file.to_path_buf();
    let server = NodeServer::bind(Node::open(config).await?).await?;
    let server = server.reloading(move || NodeConfig::load(&read_again));
    for url in server.urls() {
        println!("serving on {url}");
    }
    let (frontend, reload) = (server.frontend(), server.reloader());
    let obey = daemon::obey(&frontend, || match &reload {
        Some(reload) => reload().map(drop),
        None => Ok(()),
    });
    tokio::select! {
        () = server.run(daemon::told_to_stop()) => {}
        () = obey => {}
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
