//! `imserver`, the master: arguments, logging, signals. Everything it does is `instantmirror::Master`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use instantmirror::config::{ConfigError, ServerConfig, TimeSpan};
use instantmirror::core::snapshot_ref::SnapshotRef;
use instantmirror::core::{NodeName, RepoName};
use instantmirror::export::ExportFormat;
use instantmirror::master::{CleanUpOptions, MasterStatus, generate_key, routes, store_key};
use instantmirror::{Master, MasterServer, control, daemon};

mod diff;
mod init;
mod keys;
mod mirrors;
mod publish;
mod retention;
mod show;
mod snapshot;
mod torrent;

const EXAMPLES: &str = "Examples:
  imserver init --repository debian=/srv/debian    write imserver.toml, make store and key
  imserver publish debian                          make a snapshot of /srv/debian and make it current
  imserver serve                                   serve it to nodes and to everybody
  imserver snapshot list debian
  imserver routes                                  what it answers, and to whom";

const EXPORT_EXAMPLES: &str = "Examples:
  imserver export fedora --format fullfiletimelist > fullfiletimelist-fedora
  imserver export debian --format ls-lR | gzip > ls-lR.gz";

const RETENTION_EXAMPLES: &str = "Examples:
  imserver retention --dry-run     which snapshots would go, and why the others stay
  imserver retention debian --now  let them go and delete their data at once";

const ROUTES_EXAMPLES: &str = "Examples:
  imserver routes         a line for each
  imserver routes --json  the same for programs";

/// The master of InstantMirror: publishes source trees as signed snapshots and serves them.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = "imserver.toml", value_name = "FILE")]
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
    /// Make the store and its signing key, and the configuration file if there is none.
    Init {
        /// Repositories for a new configuration file.
        #[arg(long = "repository", value_name = "NAME=DIR")]
        repositories: Vec<String>,
    },
    /// Make a snapshot of a repository's source tree and make it current.
    Publish(publish::Arguments),
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
    /// Look at snapshots, tag, release and withdraw them, go back to one, remove them.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Write a list of a snapshot to standard output, from its catalog: nothing of the source tree is looked at.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export {
        /// The repository.
        repository: RepoName,
        /// fullfiletimelist (of Fedora's mirrors), trace (of Debian's mirrors) or ls-lR.
        #[arg(long)]
        format: ExportFormat,
        /// The snapshot: an id or the beginning of it, a tag, current or current~N; the current one if none is named.
        #[arg(long, value_name = "ID")]
        snapshot: Option<SnapshotRef>,
    },
    Torrent(torrent::Arguments),
    /// Let go the snapshots that no rule of the configuration keeps, and say of each why it stays. Also done by every
    /// publish, and every hour by `serve`.
    #[command(after_help = RETENTION_EXAMPLES)]
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
    /// Change the signing key, and see which ones there are.
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Make a signing key and print its public half.
    Keygen {
        /// The new key file; it is never overwritten.
        file: PathBuf,
    },
    /// Show the mirrors that a running `imserver serve` has heard of: when, which snapshot each has, how far it is behind, and
    /// whether it has what is staged.
    Mirrors {
        /// Only what concerns this repository.
        repository: Option<RepoName>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// List what a master with this configuration answers: method, path, who may ask, what it does. It need not run.
    #[command(after_help = ROUTES_EXAMPLES)]
    Routes {
        /// As JSON.
        #[arg(long)]
        json: bool,
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

fn main() -> ExitCode {
    daemon::end_with_the_reader();
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
            let (config, notes) = ServerConfig::inspect(&file)?;
            notes.iter().for_each(|note| println!("note: {note}"));
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
        Some(command) => daemon::runtime()?.block_on(with_config(&file, command)),
        None => anyhow::bail!("nothing to do; `imserver --help` shows what there is"),
    }
}

async fn with_config(file: &Path, command: Command) -> anyhow::Result<()> {
    let config = ServerConfig::load(file)?;
    daemon::start_logging(&config.log).map_err(anyhow::Error::msg)?;
    let command = match command {
        Command::Status { json } => {
            let status: MasterStatus = control::status(&config.control_socket()).await?;
            return show::status(&status, json);
        }
        Command::Mirrors { repository, json } => return mirrors::run(&config, repository, json).await,
        Command::Routes { json } => {
            print!("{}", routes(&config)?.shown(json));
            return Ok(());
        }
        command => command,
    };
    let master = Master::open(config)?;
    match command {
        Command::Publish(arguments) => publish::run(&master, arguments),
        Command::Retention {
            repositories,
            dry_run,
            now,
            orphans,
            json,
        } => {
            let names = named_or_all(&master, repositories);
            let clean_up = (!dry_run).then(|| {
                let mut options = CleanUpOptions::default();
                (options.now, options.orphans) = (now, orphans);
                options
            });
            tokio::task::block_in_place(|| retention::run(&master, &names, clean_up, json))
        }
        Command::Serve => {
            daemon::raise_descriptor_limit(master.config().http.max_connections);
            let log = master.config().log.clone();
            let server = MasterServer::bind(master).await?;
            let stop = daemon::told_to_stop();
            for url in server.urls() {
                println!("{}", daemon::line(&log, "imserver", &format!("serving on {url}")));
            }
            let (frontend, reloader) = (server.frontend(), server.reloader());
            let obey = daemon::obey(&frontend, || {
                reloader.reload(&ServerConfig::load(file)?);
                Ok(())
            });
            tokio::select! {
                () = server.run(stop) => {}
                () = obey => {}
            }
            Ok(())
        }
        Command::Export {
            repository,
            format,
            snapshot,
        } => {
            let snapshot = snapshot.map(|asked| snapshot::resolve(&master, &repository, &asked));
            show::export(&master, &repository, snapshot.transpose()?, format).await
        }
        Command::Torrent(arguments) => torrent::run(&master, arguments).await,
        Command::Watch { repository, settle } => publish::watch(master, repository, settle.0).await,
        Command::Node(NodeCommand::Add { name }) => {
            println!("{}", master.add_node(&name)?);
            Ok(())
        }
        Command::Node(NodeCommand::Remove { name }) => Ok(master.remove_node(&name)?),
        Command::Node(NodeCommand::List) => {
            master.nodes()?.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        Command::Key(command) => tokio::task::block_in_place(|| keys::run(&master, &command)),
        Command::Snapshot(command) => snapshot::run(&master, command).await,
        Command::Init { .. }
        | Command::Keygen { .. }
        | Command::Status { .. }
        | Command::Mirrors { .. }
        | Command::Routes { .. } => Ok(()),
    }
}

fn named_or_all(master: &Master, named: Vec<RepoName>) -> Vec<RepoName> {
    if !named.is_empty() {
        return named;
    }
    let all = master.config().repositories.iter();
    all.map(|repository| repository.name.clone()).collect()
}
