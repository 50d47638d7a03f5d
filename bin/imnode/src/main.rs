//! `imnode`, the mirror node: arguments, logging, signals. Everything it does is `instantmirror::Node`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use instantmirror::config::{ConfigError, NodeConfig};
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
            let server = NodeServer::bind(Node::open(config).await?).await?;
            for url in server.urls() {
                println!("serving on {url}");
            }
            let frontend = server.frontend();
            let obey = daemon::obey(&frontend, || {
                frontend.reload_node(&NodeConfig::load(file)?);
                Ok(())
            });
            tokio::select! {
                () = server.run(daemon::told_to_stop()) => {}
                () = obey => {}
            }
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
