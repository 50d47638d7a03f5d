//! Helps `run.py` to measure what a node fetches ahead.
//!
//! `delay` is a TCP proxy that makes a short way long: every byte arrives a fixed time after it was sent, and as many as
//! were sent meanwhile are on the way, so that it delays without limiting the rate. `first-byte` is a client that asks for
//! file after file and notes when the first byte of each body came.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

mod delay;
mod first_byte;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Passes connections on to an address, with a delay. Prints its own address, and runs until it is killed.
    Delay {
        /// Where to listen; port 0 is any.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Where connections go.
        #[arg(long)]
        to: SocketAddr,
        /// Milliseconds of a round trip.
        #[arg(long)]
        rtt_ms: f64,
    },
    /// Reads PREFIX0, PREFIX1, ... one after the other, each over a connection of its own; prints a JSON list of
    /// milliseconds from the request to the first byte of the body.
    FirstByte {
        /// The node.
        #[arg(long)]
        address: SocketAddr,
        /// Path without the number.
        #[arg(long)]
        prefix: String,
        /// The first number.
        #[arg(long, default_value_t = 0)]
        from: usize,
        /// How many files.
        #[arg(long)]
        files: usize,
        /// Bytes that each file has.
        #[arg(long)]
        size: usize,
        /// Longest pause between two requests, in milliseconds; half of it is the mean.
        #[arg(long, default_value_t = 40)]
        pause_ms: u64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Delay { listen, to, rtt_ms } => delay::run(listen, to, Duration::from_secs_f64(rtt_ms / 1000.0)),
        Command::FirstByte {
            address,
            prefix,
            from,
            files,
            size,
            pause_ms,
        } => {
            let times = first_byte::run(address, &prefix, from..from + files, size, pause_ms)?;
            println!("{}", serde_json::to_string(&times)?);
            Ok(())
        }
    }
}
