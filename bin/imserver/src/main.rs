//! `imserver`, the master: arguments, logging, signals. Everything it does is `instantmirror::Master`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use instantmirror::config::{ConfigError, ServerConfig, TimeSpan};
use instantmirror::core::{NodeName, RepoName, SnapshotId, TagName, Timestamp};
use instantmirror::master::{CleanUpOptions, Hints, MasterStatus, StageRule, generate_key, store_key};
use instantmirror::progress::PublishBar;
use instantmirror::{Master, MasterError, MasterServer, PublishOptions, Published, control, daemon};

mod init;
mod retention;
mod show;

const EXAMPLES: &str = "Examples:
  imserver init --repository debian=/srv/debian    write imserver.toml, make store and key
  imserver publish debian                          make a snapshot of /srv/debian and make it current
  imserver serve                                   serve it to nodes and to everybody
  imserver snapshot list debian";

/// The master of InstantMirror: publishes source trees as signed snapshots and serves them.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = "imserver.toml", value_name = "FILE")]
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
    /// Make the store and its signing key, and the configuration file if there is none.
    Init {
        /// Repositories for a new configuration file.
        #[arg(long = "repository", value_name = "NAME=DIR")]
        repositories: Vec<String>,
    },
    /// Make a snapshot of a repository's source tree and make it current.
    Publish {
        /// The repositories; all of the configuration if none is named.
        repositories: Vec<RepoName>,
        /// A remark that is kept with the snapshot.
        #[arg(long, default_value = "")]
        note: String,
        /// Publish a tree that has lost all its files, instead of asking whether it is mounted.
        #[arg(long)]
        allow_empty: bool,
        /// Look only at these paths, relative to the source tree; of a directory at all below it, of one that is gone at
        /// nothing. Everything else stays as the last publish saw it.
        #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "changed_from")]
        changed: Vec<PathBuf>,
        /// The same, from a file or from standard input (-): paths one a line or with NUL behind each, or a file list
        /// as `fullfiletimelist` of Fedora's mirrors, made of this very tree, from which follows what has changed.
        #[arg(long, value_name = "FILE")]
        changed_from: Option<PathBuf>,
        /// Wait while another process writes to the store, however long; else a publish gives up after 10 seconds.
        #[arg(long)]
        wait: bool,
        /// Do not make the snapshot current: only registered nodes get it, and nobody sees it until it is released.
        #[arg(long)]
        stage: bool,
        /// Release it at this time (RFC 3339, like 2026-04-21T14:00:00Z); done by a running `imserver serve`.
        #[arg(long, value_name = "TIME", requires = "stage")]
        release_at: Option<Timestamp>,
        /// Release it when this share of the registered nodes has all of it; with --release-at, not before both.
        #[arg(long, value_name = "PERCENT", requires = "stage", value_parser = clap::value_parser!(u8).range(0..=100))]
        when_synced: Option<u8>,
    },
    /// Publish a repository now, and by itself whenever its source tree has changed, until SIGTERM.
    Watch {
        /// The repository.
        repository: RepoName,
        /// How long the tree has to rest before it is published. One that never rests is published after 15 times this.
        #[arg(long, value_name = "TIME", default_value = "2 s")]
        settle: TimeSpan,
    },
    /// Serve the API and the published trees until SIGTERM.
    Serve,
    /// Look at snapshots, tag, release and withdraw them.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Let go the snapshots that no rule of the configuration keeps, and say of each why it stays. Also done by every
    /// publish, and every hour by `serve`.
    Retention {
        /// The repositories; all of the configuration if none is named.
        repositories: Vec<RepoName>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Delete at once what has left the head, without waiting for `delete_after`.
        #[arg(long, conflicts_with = "dry_run")]
        now: bool,
        /// Also delete objects that no snapshot refers to, left by publishes that were killed.
        #[arg(long, conflicts_with = "dry_run")]
        orphans: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Register the mirror nodes that may have what is staged.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make a signing key and print its public half.
    Keygen {
        /// The new key file; it is never overwritten.
        file: PathBuf,
    },
    /// Show what a running `imserver serve` serves.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Register a node and print its token, once: it goes into the file that `token_file` of its imnode.toml names.
    Add {
        /// A name for it: 1 to 64 of a-z, 0-9, '.', '_' and '-'.
        name: NodeName,
    },
    /// Take a node's token away.
    Remove {
        /// Its name.
        name: NodeName,
    },
    /// List the registered nodes.
    List,
}

#[derive(Subcommand)]
enum SnapshotCommand {
    /// List the live snapshots of a repository, oldest first.
    List {
        /// The repository.
        repository: RepoName,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one snapshot.
    Show {
        /// The repository.
        repository: RepoName,
        /// The snapshot; the current one if none is named.
        snapshot: Option<SnapshotId>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Name a snapshot: it shows at master-snap/NAME/ and never expires. A name that is taken moves.
    Tag {
        /// The repository.
        repository: RepoName,
        /// The name: 1 to 64 of a-z, 0-9, '.', '_' and '-'.
        name: TagName,
        /// The snapshot; `snapshot list` shows them.
        snapshot: SnapshotId,
    },
    /// Show a staged snapshot to everybody and make it current, whatever its rule says.
    Release {
        /// The repository.
        repository: RepoName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Even if something was published since it was staged, which this takes back.
        #[arg(long)]
        take_back: bool,
    },
    /// Drop a staged snapshot.
    Withdraw {
        /// The repository.
        repository: RepoName,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Take a name away.
    Untag {
        /// The repository.
        repository: RepoName,
        /// The name.
        name: TagName,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("imserver: {}", daemon::explain(error.as_ref()));
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
        print!("{}", include_str!("../../../docs/config/imserver.toml"));
        return Ok(());
    }
    match command {
        _ if check_config => {
            let config = ServerConfig::load(&file)?;
            println!(
                "{} is good; repositories: {}",
                file.display(),
                config.repositories.len()
            );
            Ok(())
        }
        Some(Command::Keygen { file }) => {
            let key = generate_key()?;
            store_key(&file, &key)?;
            println!("{}", key.public());
            Ok(())
        }
        Some(Command::Init { repositories }) => init::init(&file, &repositories),
        Some(command) => with_config(&file, command),
        None => anyhow::bail!("nothing to do; `imserver --help` shows what there is"),
    }
}

#[tokio::main]
async fn with_config(file: &Path, command: Command) -> anyhow::Result<()> {
    let config = ServerConfig::load(file)?;
    daemon::start_logging(&config.log.level).map_err(anyhow::Error::msg)?;
    if let Command::Status { json } = command {
        let status: MasterStatus = control::status(&config.control_socket()).await?;
        return show::status(&status, json);
    }
    let master = Master::open(config)?;
    match command {
        Command::Publish {
            repositories,
            note,
            allow_empty,
            changed,
            changed_from,
            wait,
            stage,
            release_at,
            when_synced,
        } => {
            let hints = hints(&master, &repositories, &changed, changed_from.as_deref())?;
            let stage = stage.then_some(StageRule {
                release_at,
                when_synced_percent: when_synced,
            });
            let options = PublishOptions {
                note,
                allow_empty,
                stage,
                hints,
                wait,
            };
            publish(&master, repositories, &options)
        }
        Command::Retention {
            repositories,
            dry_run,
            now,
            orphans,
            json,
        } => {
            let names = named_or_all(&master, repositories);
            let clean_up = (!dry_run).then_some(CleanUpOptions { now, orphans });
            tokio::task::block_in_place(|| retention::run(&master, &names, clean_up, json))
        }
        Command::Serve => {
            daemon::raise_descriptor_limit(master.config().http.max_connections);
            let server = MasterServer::bind(master).await?;
            for url in server.urls() {
                println!("serving on {url}");
            }
            let frontend = server.frontend();
            let obey = daemon::obey(&frontend, || {
                frontend.reload_master(&ServerConfig::load(file)?);
                Ok(())
            });
            tokio::select! {
                () = server.run(daemon::told_to_stop()) => {}
                () = obey => {}
            }
            Ok(())
        }
        Command::Watch { repository, settle } => watch(master, repository, settle.0).await,
        Command::Node(NodeCommand::Add { name }) => {
            println!("{}", master.add_node(&name)?);
            Ok(())
        }
        Command::Node(NodeCommand::Remove { name }) => Ok(master.remove_node(&name)?),
        Command::Node(NodeCommand::List) => {
            master.nodes()?.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        Command::Snapshot(command) => on_snapshots(&master, command).await,
        Command::Init { .. } | Command::Keygen { .. } | Command::Status { .. } => Ok(()),
    }
}

async fn on_snapshots(master: &Master, command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::List { repository, json } => show::list(master, &repository, json).await?,
        SnapshotCommand::Show {
            repository,
            snapshot,
            json,
        } => show::snapshot(master, &repository, snapshot, json).await?,
        SnapshotCommand::Tag {
            repository,
            name,
            snapshot,
        } => {
            let tagged = tokio::task::block_in_place(|| master.tag(&repository, &name, snapshot))?;
            println!("{repository}: '{name}' is {snapshot}: {tagged}");
        }
        SnapshotCommand::Release {
            repository,
            snapshot,
            take_back,
        } => {
            tokio::task::block_in_place(|| master.release(&repository, snapshot, take_back))?;
            println!("{repository}: {snapshot} is current");
        }
        SnapshotCommand::Withdraw { repository, snapshot } => {
            tokio::task::block_in_place(|| master.withdraw(&repository, snapshot))?;
            println!("{repository}: {snapshot} is withdrawn");
        }
        SnapshotCommand::Untag { repository, name } => {
            let snapshot = tokio::task::block_in_place(|| master.untag(&repository, &name))?;
            println!("{repository}: '{name}' is no longer {snapshot}");
        }
    }
    Ok(())
}

/// Publishes the repositories one by one; one that fails keeps none of the others back.
fn publish(master: &Master, named: Vec<RepoName>, options: &PublishOptions) -> anyhow::Result<()> {
    let names = named_or_all(master, named);
    let mut failed = Vec::new();
    for name in &names {
        let bar = PublishBar::new();
        let published = tokio::task::block_in_place(|| master.publish(name, options, &bar));
        bar.finish();
        match published {
            Ok(published) => println!("{name}: {published}"),
            Err(error) if names.len() == 1 => return Err(error.into()),
            Err(error) => {
                eprintln!("imserver: {name}: {}", daemon::explain(&error));
                failed.push(name.as_str());
            }
        }
    }
    tokio::task::block_in_place(|| retention::after_publish(master, &names));
    anyhow::ensure!(failed.is_empty(), "not published: {}", failed.join(", "));
    Ok(())
}

/// Watches until SIGTERM; a publish that runs then is finished.
async fn watch(master: Master, repository: RepoName, settle: Duration) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let watching = tokio::task::spawn_blocking(move || {
        let hear = |published: &Result<Published, MasterError>| {
            if let Ok(published) = published {
                println!("{repository}: {published}");
            }
        };
        master.watch(&repository, settle, &|| told.load(Ordering::Relaxed), &hear)
    });
    let stopping = async {
        daemon::told_to_stop().await;
        stop.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = watching => Ok(done??),
        () = stopping => Ok(()),
    }
}

/// What the command line says has changed.
fn hints(
    master: &Master,
    repositories: &[RepoName],
    changed: &[PathBuf],
    changed_from: Option<&Path>,
) -> anyhow::Result<Option<Hints>> {
    if changed.is_empty() && changed_from.is_none() {
        return Ok(None);
    }
    let names = named_or_all(master, repositories.to_vec());
    let [name] = names.as_slice() else {
        anyhow::bail!("--changed and --changed-from are about one repository: name it before them");
    };
    let source = &master.repository(name)?.source;
    let hints = match changed_from {
        None => Hints::of_paths(source, changed),
        Some(file) if file == Path::new("-") => Hints::read(source, std::io::stdin().lock()),
        Some(file) => {
            let list = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
            Hints::read(source, BufReader::new(list))
        }
    };
    Ok(Some(hints?))
}

fn named_or_all(master: &Master, named: Vec<RepoName>) -> Vec<RepoName> {
    if !named.is_empty() {
        return named;
    }
    let all = master.config().repositories.iter();
    all.map(|repository| repository.name.clone()).collect()
}
