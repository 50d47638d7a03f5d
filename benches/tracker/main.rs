//! Measures a tracker: what a million peers take in memory, and how many announces by UDP are answered.
//!
//! `memory` fills a registry in this process; `load ADDRESS` asks a tracker on loopback for a time that ends. One line of JSON
//! each. `run.py` beside it runs both, the second against imtracker and opentracker.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use instantmirror::trackerd::udp::{PACKET_BYTES_MAX, Request};
use instantmirror::trackerd::{Announce, Event, InfoHash, Limits, PeerId, RandomSample, Registry};
use serde_json::json;

/// Announces that are under way at a time, each from an address of its own.
const SOCKETS: u8 = 64;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fills a registry, and says what a peer takes.
    Memory {
        /// How many peers.
        #[arg(long, default_value_t = 1_000_000)]
        peers: u32,
        /// In how many swarms.
        #[arg(long, default_value_t = 10_000)]
        torrents: u32,
    },
    /// Announces to a tracker on loopback as fast as it answers.
    Load {
        /// Its UDP address.
        address: SocketAddr,
        /// Of how many torrents.
        #[arg(long, default_value_t = 10_000)]
        torrents: u32,
        /// For how long; half of it is not measured, so that swarms have grown.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Memory { peers, torrents } => memory(peers, torrents),
        Command::Load {
            address,
            torrents,
            seconds,
        } => load(address, torrents, Duration::from_secs(seconds)),
    }
}

/// The torrent of a number; `run.py` writes the same ones into the configuration.
fn torrent(number: u32) -> InfoHash {
    let mut hash = [0; 20];
    hash.chunks_exact_mut(4)
        .for_each(|part| part.copy_from_slice(&number.to_be_bytes()));
    InfoHash(hash)
}

fn announce(number: u32, torrents: u32, port: u16) -> Announce {
    Announce {
        info_hash: torrent(number % torrents),
        peer_id: PeerId(*b"-XX0000-abcdefghijkl"),
        port,
        left: Some(u64::from(number % 3)),
        event: Event::Regular,
        wanted: None,
        key: number,
    }
}

/// Resident bytes of this process.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("no VmRSS")?;
    Ok(kib.parse::<u64>()? << 10)
}

fn memory(peers: u32, torrents: u32) -> Result<()> {
    let mut registry = Registry::new(Limits::default(), Box::new(RandomSample), 1);
    registry.allow((0..torrents).map(torrent).collect());
    let before = resident()?;
    let begin = Instant::now();
    for number in 0..peers {
        let from = Ipv4Addr::from(0x0b00_0000 + number).into();
        let done = registry.announce(Duration::from_secs(1), from, &announce(number, torrents, 6881))?;
        ensure!(done.warning.is_none(), "a peer was not kept");
    }
    let filled = begin.elapsed();
    let grown = resident()?.saturating_sub(before);
    let begin = Instant::now();
    let gone = registry.expire(Duration::from_secs(100_000), torrents as usize);
    ensure!(gone == peers as usize, "{gone} of {peers} peers were forgotten");
    let forgotten = begin.elapsed();
    let line = json!({
        "peers": peers, "torrents": torrents, "bytes": grown, "bytes_per_peer": grown / u64::from(peers.max(1)),
        "announces_per_s": f64::from(peers) / filled.as_secs_f64(), "expire_all_s": forgotten.as_secs_f64(),
    });
    println!("{line}");
    Ok(())
}

fn load(address: SocketAddr, torrents: u32, time: Duration) -> Result<()> {
    ensure!(
        address.ip().is_loopback(),
        "{address} is not on this machine: this is for loopback only"
    );
    let mut clients = Vec::new();
    for host in 1..=SOCKETS {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, host), 0))?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut answer = [0; PACKET_BYTES_MAX];
        socket.send(&Request::Connect { transaction: 1 }.encode())?;
        ensure!(
            socket.recv(&mut answer).context("no answer to a connect")? >= 16,
            "a short answer"
        );
        let mut id = [0; 8];
        id.copy_from_slice(&answer[8..16]);
        clients.push((socket, u64::from_be_bytes(id)));
    }
    let (mut number, mut answers, mut bytes, mut lost) = (0u32, 0u64, 0u64, 0u64);
    let begin = Instant::now();
    let mut measured = None;
    let mut send = |(socket, connection): &(UdpSocket, u64)| {
        number = number.wrapping_add(1);
        let port = u16::try_from(1 + number / torrents % 8)?;
        let request = Request::Announce {
            connection: *connection,
            transaction: number,
            announce: announce(number, torrents, port),
        };
        socket.send(&request.encode()).map(drop).map_err(anyhow::Error::from)
    };
    clients.iter().try_for_each(&mut send)?;
    let mut answer = [0; PACKET_BYTES_MAX];
    while begin.elapsed() < time {
        if measured.is_none() && begin.elapsed() > time / 2 {
            (measured, answers, bytes) = (Some(Instant::now()), 0, 0);
        }
        for client in &clients {
            match client.0.recv(&mut answer) {
                Ok(length) => {
                    ensure!(
                        answer[..4] == [0, 0, 0, 1],
                        "refused: {:?}",
                        String::from_utf8_lossy(&answer[8..length])
                    );
                    (answers, bytes) = (answers + 1, bytes + length as u64);
                }
                Err(_) => lost += 1,
            }
            send(client)?;
        }
    }
    let seconds = measured.context("too short a time")?.elapsed().as_secs_f64();
    let line = json!({
        "answers_per_s": answers as f64 / seconds, "bytes_per_answer": bytes / answers.max(1), "lost": lost,
    });
    println!("{line}");
    Ok(())
}
