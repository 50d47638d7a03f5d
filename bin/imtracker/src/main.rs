//! `imtracker`, the tracker: arguments, logging, signals. Everything it does is `instantmirror::Tracker`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use instantmirror::config::{ConfigError, TrackerConfig};
use instantmirror::tracker::{TrackerStatus, routes};
use instantmirror::{Tracker, TrackerServer, control, daemon};

const EXAMPLES: &str = "Examples:
  imtracker --print-config > imtracker.toml  begin with a configuration in which every key is explained
  imtracker --check-config                   check it
  imtracker run                              answer BitTorrent clients until SIGTERM
  imtracker status                           how a running tracker is
  imtracker reload                           take up a changed configuration and new torrent files
  imtracker routes                           what it answers by HTTP, and to whom";

const ROUTES_EXAMPLES: &str = "Examples:
  imtracker routes         a line for each
  imtracker routes --json  the same for programs";

/// A BitTorrent tracker: tells the peers of the torrents it serves of each other, by HTTP and UDP.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = "imtracker.toml", value_name = "FILE")]
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
    /// Answer announces and scrapes until SIGTERM.
    Run,
    /// Show torrents, peers and what was asked of a running tracker.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Have the running tracker read its configuration and torrent files again, as SIGHUP does, and say what has changed.
    Reload,
    /// List what a tracker with this configuration answers: method, path, who may ask, what it does. It need not run.
    #[command(after_help = ROUTES_EXAMPLES)]
    Routes {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    daemon::end_with_the_reader();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("imtracker: {}", daemon::explain(error.as_ref()));
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
        print!("{}", include_str!("../../../docs/config/imtracker.toml"));
        return Ok(());
    }
    match command {
        _ if check_config => {
            let (config, notes) = TrackerConfig::inspect(&file)?;
            notes.iter().for_each(|note| println!("note: {note}"));
            println!(
                "{} is good; info-hashes in it: {}",
                file.display(),
                config.torrents.allow.len()
            );
            Ok(())
        }
        Some(command) => daemon::runtime()?.block_on(with_config(&file, &command)),
        None => anyhow::bail!("nothing to do; `imtracker --help` shows what there is"),
    }
}

async fn with_config(file: &Path, command: &Command) -> anyhow::Result<()> {
    let config = TrackerConfig::load(file)?;
    match command {
        Command::Run => serve(file, config).await?,
        Command::Status { json } => {
            let status: TrackerStatus = control::status(&config.control_socket()).await?;
            match json {
                true => println!("{}", serde_json::to_string_pretty(&status)?),
                false => print!("{status}"),
            }
        }
        Command::Routes { json } => print!("{}", routes(&config)?.shown(*json)),
        Command::Reload => {
            let reloaded = control::reload(&config.control_socket()).await?;
            reloaded.changed.iter().for_each(|name| println!("changed: {name}"));
            for name in &reloaded.refused {
                println!("takes a restart: {name}");
            }
            println!("read again");
        }
    }
    Ok(())
}

/// Answers until the process is told to stop.
async fn serve(file: &Path, config: TrackerConfig) -> anyhow::Result<()> {
    daemon::start_logging(&config.log).map_err(anyhow::Error::msg)?;
    daemon::raise_descriptor_limit(config.http.max_connections);
    let read_again = file.to_path_buf();
    let log = config.log.clone();
    let server = TrackerServer::bind(Tracker::open(config)?).await?;
    let server = server.reloading(move || TrackerConfig::load(&read_again));
    let stop = daemon::told_to_stop();
    for url in server.urls() {
        println!("{}", daemon::line(&log, "imtracker", &format!("announce at {url}")));
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
