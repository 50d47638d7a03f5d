//! `imnode`, the mirror node: arguments, logging, signals. Everything it does is `instantmirror::Node`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

mod prefetch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use instantmirror::bars::{Bar, Unit};
use instantmirror::config::{ConfigError, LogConfig, NodeConfig};
use instantmirror::core::snapshot_ref::SnapshotRef;
use instantmirror::core::{RepoName, TagName};
use instantmirror::node::{AdoptMethod, AdoptRequest, AdoptTrust, NodeStatus, VerifyRequest, routes};
use instantmirror::text::Count;
use instantmirror::{Node, NodeServer, control, daemon, upkeep};
use prefetch::LOOK;

const EXAMPLES: &str = "Examples:
  imnode --print-config > imnode.toml    begin with a configuration in which every key is explained
  imnode --check-config                  check it
  imnode run                             follow the masters and serve their snapshots until SIGTERM
  imnode status                          how a running node is
  imnode prefetch debian dists/stable    have these files here before anybody asks for them
  imnode reload                          take up a changed configuration
  imnode routes                          what it answers, and to whom";

const TAG_EXAMPLES: &str = "Examples:
  imnode tag debian stable-1 0192f3c4-5d6e-7f80-9a1b-2c3d4e5f6071  fetch all of it and keep it
  imnode tags                                                      how much of each is here";

const VERIFY_EXAMPLES: &str = "Examples:
  imnode verify                         read all of the cache
  imnode verify --subset 3/30 --repair  a thirtieth of it each night, and fetch again what is lost";

const ADOPT_EXAMPLES: &str = "Examples:
  imnode adopt debian /srv/debian                                       what has the right hash
  imnode adopt debian /srv/debian --method hardlink --trust size-mtime  hash it when it is read";

const PREFETCH_EXAMPLES: &str = "Examples:
  imnode prefetch debian dists/stable 'pool/main/l/linux/*_amd64.deb'  wait until they are here
  imnode prefetch debian dists --no-wait                               see `imnode status`";

const ROUTES_EXAMPLES: &str = "Examples:
  imnode routes         a line for each
  imnode routes --json  the same for programs";

/// A mirror node of InstantMirror: shows every snapshot of its masters whole, fetches files when they are read.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = "imnode.toml", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and the files, directories and addresses it names, and say so; do nothing else.
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
    #[command(after_help = TAG_EXAMPLES)]
    Tag {
        repository: RepoName,
        name: TagName,
        /// An id or the beginning of it, a tag of the master or of this node, current or current~N.
        snapshot: SnapshotRef,
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
    /// Read the cache, running or not, and put aside what is damaged or does not belong there. Ends with 3 if anything
    /// is lost.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// Only part N of M, so that M nights cover everything.
        #[arg(long, value_name = "N/M", value_parser = subset)]
        subset: Option<(u64, u64)>,
        /// Fetch what is lost again.
        #[arg(long)]
        repair: bool,
    },
    /// Take what lies in a directory into the cache, running or not, instead of downloading it. Ends with 3 if the cache
    /// is full.
    #[command(after_help = ADOPT_EXAMPLES)]
    Adopt {
        repository: RepoName,
        /// The repository's tree as another mirroring tool has left it.
        dir: PathBuf,
        /// The snapshot that it is compared with: current, snap/UUID, master-snap/TAG, local-snap/TAG.
        #[arg(long, default_value = "current")]
        view: String,
        /// reflink (else copy), hardlink (else copy; only if the files there are never edited in place), copy.
        #[arg(long, default_value = "reflink")]
        method: AdoptMethod,
        /// hash, or size-mtime: what has size and time of the snapshot's file is hashed when it is first read.
        #[arg(long, default_value = "hash")]
        trust: AdoptTrust,
    },
    /// Have the running node fetch files now: paths from the top of the repository, or globs as in .gitignore.
    #[command(after_help = PREFETCH_EXAMPLES)]
    Prefetch {
        repository: RepoName,
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
        /// Of this snapshot instead of the current one: an id or the beginning of it, a tag, current or current~N.
        #[arg(long, value_name = "ID")]
        snapshot: Option<SnapshotRef>,
        /// Do not wait until they are here.
        #[arg(long)]
        no_wait: bool,
    },
    /// Have the running node read its configuration again, as SIGHUP does, and say what has changed.
    Reload,
    /// List what a node with this configuration answers: method, path, who may ask, what it does. It need not run.
    #[command(after_help = ROUTES_EXAMPLES)]
    Routes {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn subset(text: &str) -> Result<(u64, u64), String> {
    let parts = text
        .split_once('/')
        .and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
    let is_part = |(n, m): &(u64, u64)| (1..=*m).contains(n);
    parts
        .filter(is_part)
        .ok_or_else(|| "a part is N/M, with N from 1 to M: 3/30".to_owned())
}

/// Something is lost, or not all was done for want of room.
const INCOMPLETE: u8 = 3;

fn main() -> ExitCode {
    daemon::end_with_the_reader();
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("imnode: {}", daemon::explain(error.as_ref()));
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        config: file,
        check_config,
        print_config,
        command,
    } = arguments;
    if print_config {
        print!("{}", include_str!("../../../docs/config/imnode.toml"));
        return Ok(ExitCode::SUCCESS);
    }
    match command {
        _ if check_config => {
            let (config, notes) = NodeConfig::inspect(&file)?;
            notes.iter().for_each(|note| println!("note: {note}"));
            println!(
                "{} is good; repositories: {}",
                file.display(),
                config.repositories.len()
            );
            Ok(ExitCode::SUCCESS)
        }
        Some(command) => daemon::runtime()?.block_on(with_config(&file, &command)),
        None => anyhow::bail!("nothing to do; `imnode --help` shows what there is"),
    }
}

async fn with_config(file: &Path, command: &Command) -> anyhow::Result<ExitCode> {
    let config = NodeConfig::load(file)?;
    match command {
        Command::Run => serve(file, config).await?,
        Command::Tag {
            repository,
            name,
            snapshot,
            force,
            no_wait,
        } => {
            let socket = config.control_socket();
            control::tag(&socket, repository, name, snapshot.clone(), *force).await?;
            println!("tagged: {repository}/local-snap/{name}/");
            if !no_wait {
                wait_for_tag(&socket, repository, name).await?;
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
            let id = control::prefetch(&socket, repository, snapshot.clone(), paths).await?;
            prefetch::wait(&socket, id, !no_wait).await?;
        }
        Command::Reload => reload(&config.control_socket()).await?,
        Command::Routes { json } => print!("{}", routes(&config)?.shown(*json)),
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
        Command::Verify { subset, repair } => {
            let request = VerifyRequest {
                subset: *subset,
                repair: *repair,
            };
            return verify(config, request).await;
        }
        Command::Adopt {
            repository,
            dir,
            view,
            method,
            trust,
        } => {
            let request = AdoptRequest {
                repository: repository.clone(),
                dir: std::path::absolute(dir)?,
                view: view.clone(),
                method: *method,
                trust: *trust,
            };
            return adopt(config, request).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn reload(socket: &Path) -> anyhow::Result<()> {
    let reloaded = control::reload(socket).await?;
    reloaded.changed.iter().for_each(|name| println!("changed: {name}"));
    for name in &reloaded.refused {
        println!("takes a restart: {name}");
    }
    if reloaded.changed.is_empty() && reloaded.refused.is_empty() {
        println!("nothing has changed");
    }
    Ok(())
}

async fn verify(config: NodeConfig, request: VerifyRequest) -> anyhow::Result<ExitCode> {
    daemon::start_logging(&LogConfig::at("error")).map_err(anyhow::Error::msg)?;
    let status = upkeep::verify(config, request).await?;
    status.findings.iter().for_each(|finding| println!("{finding}"));
    println!("{status}");
    Ok(code(status.unrepaired() == 0))
}

async fn adopt(config: NodeConfig, request: AdoptRequest) -> anyhow::Result<ExitCode> {
    daemon::start_logging(&LogConfig::at("error")).map_err(anyhow::Error::msg)?;
    let status = upkeep::adopt(config, request).await?;
    println!("{status}");
    Ok(code(!status.full))
}

fn code(is_whole: bool) -> ExitCode {
    if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INCOMPLETE)
    }
}

/// Follows and serves until the process is told to stop.
async fn serve(file: &Path, config: NodeConfig) -> anyhow::Result<()> {
    daemon::start_logging(&config.log).map_err(anyhow::Error::msg)?;
    daemon::raise_descriptor_limit(config.http.max_connections);
    let read_again = file.to_path_buf();
    let log = config.log.clone();
    let server = NodeServer::bind(Node::open(config).await?).await?;
    let server = server.reloading(move || NodeConfig::load(&read_again));
    let stop = daemon::told_to_stop();
    for url in server.urls() {
        println!("{}", daemon::line(&log, "imnode", &format!("serving on {url}")));
    }
    let (frontend, reload) = (server.frontend(), server.reloader());
    let obey = daemon::obey(&frontend, || match &reload {
        Some(reload) => reload().map(drop),
        None => Ok(()),
    });
    tokio::select! {
        () = server.run(stop) => {}
        () = obey => {}
    }
    Ok(())
}

/// Shows how far a tag is until it is complete. Why it does not go on is said once.
async fn wait_for_tag(socket: &Path, repository: &RepoName, name: &TagName) -> anyhow::Result<()> {
    let bar = Bar::new(format!("tag {repository} {name}"), Unit::Bytes);
    let (mut trouble, mut named) = (None, None);
    loop {
        let status: NodeStatus = control::status(socket).await?;
        let mut tags = status.tags.iter();
        let tag = tags.find(|tag| tag.repository == *repository && tag.tag == *name);
        let tag = tag.filter(|tag| *named.get_or_insert(tag.snapshot) == tag.snapshot);
        let tag = tag.ok_or_else(|| anyhow::anyhow!("tag '{name}' was moved or taken away meanwhile"))?;
        let note = format!("; {} of {}", tag.files_done, Count(tag.files, "file"));
        bar.set(tag.bytes_done, Some(tag.bytes), &note);
        if tag.complete {
            bar.finish();
            println!("{tag}");
            return Ok(());
        }
        if tag.trouble.is_some() && tag.trouble != trouble {
            bar.above(&tag.to_string());
        }
        trouble.clone_from(&tag.trouble);
        tokio::time::sleep(LOOK).await;
    }
}
