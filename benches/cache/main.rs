//! Measures the object cache with very many objects: filling, starting, what it takes in memory, what it writes down.
//!
//! `make DIR` fills a cache directory; `start DIR` takes it up in a new process, as a node does after a stop. One line of
//! JSON each. To measure a cold start, drop the page cache in between (`echo 3 > /proc/sys/vm/drop_caches`).

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use futures_executor::block_on;
use instantmirror::core::ObjectId;
use instantmirror::core::traits::{ObjectCache as _, Objects as _};
use instantmirror::store::cache::{CacheLimits, CacheOptions, DiskCache};
use instantmirror::store::disk::RealDisk;
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fills a cache with small objects.
    Make {
        /// An empty directory.
        dir: PathBuf,
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        objects: u64,
        /// Ends without writing anything down, as a kill does.
        #[arg(long)]
        unclean: bool,
    },
    /// Takes the cache up and uses it.
    Start {
        /// What `make` filled.
        dir: PathBuf,
        /// As many as were made.
        #[arg(long, default_value_t = 100_000)]
        objects: u64,
    },
}

/// Objects that are read in a row.
const READS: u64 = 10_000;

fn content(number: u64) -> Vec<u8> {
    let mut content = vec![b'x'; 100];
    content[..8].copy_from_slice(&number.to_le_bytes());
    content
}

fn open(dir: &Path, objects: u64) -> Result<DiskCache> {
    let limits = CacheLimits::bytes(objects * 100 + (1 << 20));
    let mut options = CacheOptions::default();
    options.limits = limits;
    Ok(DiskCache::open(Arc::new(RealDisk::open(dir)?), options)?)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Resident memory of this process that is no file's, in KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .context("no RssAnon in /proc/self/status")?
        .parse()
        .context("RssAnon")
}

/// Bytes in the files that a restart reads.
fn written_down(dir: &Path) -> u64 {
    let len = |name| std::fs::metadata(dir.join(name)).map_or(0, |meta| meta.len());
    len("checkpoint") + len("journal")
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Make { dir, objects, unclean } => make(&dir, objects, unclean),
        Command::Start { dir, objects } => start(&dir, objects),
    }
}

fn put(cache: &DiskCache, number: u64) -> Result<()> {
    let data = content(number);
    let fill = block_on(cache.fill(&ObjectId::of(&data), data.len() as u64))?;
    block_on(fill.write(0, data.into()))?;
    block_on(fill.finish())?;
    Ok(())
}

fn make(dir: &Path, objects: u64, unclean: bool) -> Result<()> {
    let cache = open(dir, objects)?;
    cache.load()?;
    let (empty, begun) = (resident()?, Instant::now());
    for number in 0..objects {
        put(&cache, number)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let bytes_each = (resident()?.saturating_sub(empty)) * 1024 / objects.max(1);
    println!(
        "{}",
        json!({"step": "make", "objects": objects, "seconds": seconds, "memory_bytes_each": bytes_each})
    );
    if !unclean {
        let begun = Instant::now();
        block_on(cache.checkpoint())?;
        println!(
            "{}",
            json!({"step": "first checkpoint", "ms": millis(begun), "bytes": written_down(dir)})
        );
    }
    Ok(())
}

/// Some number below `objects`, another one for each `step`.
fn scattered(step: u64, objects: u64) -> u64 {
    (step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % objects.max(1)
}

fn read(cache: &DiskCache, number: u64) -> Result<()> {
    let data = content(number);
    let handle = block_on(cache.open(&ObjectId::of(&data)))?.context("it should be here")?;
    ensure!(block_on(handle.read(0..data.len() as u64))? == data, "wrong bytes");
    Ok(())
}

fn start(dir: &Path, objects: u64) -> Result<()> {
    let (empty, begun) = (resident()?, Instant::now());
    let cache = open(dir, objects)?;
    read(&cache, scattered(1, objects))?;
    println!("{}", json!({"step": "first good byte", "ms": millis(begun)}));
    let begun = Instant::now();
    cache.load()?;
    let bytes_each = (resident()?.saturating_sub(empty)) * 1024 / objects.max(1);
    println!(
        "{}",
        json!({"step": "listed", "ms": millis(begun), "memory_bytes_each": bytes_each})
    );
    let begun = Instant::now();
    for step in 0..READS {
        read(&cache, scattered(step, objects))?;
    }
    println!(
        "{}",
        json!({"step": "reads with verification", "count": READS, "ms": millis(begun)})
    );
    let (begun, before) = (Instant::now(), written_down(dir));
    block_on(cache.checkpoint())?;
    let bytes = written_down(dir).abs_diff(before);
    println!(
        "{}",
        json!({"step": "checkpoint of these reads", "ms": millis(begun), "bytes": bytes})
    );
    let begun = Instant::now();
    for number in objects..objects + 1000 {
        put(&cache, number)?;
    }
    println!(
        "{}",
        json!({"step": "objects put, some for others", "count": 1000, "ms": millis(begun)})
    );
    let begun = Instant::now();
    let marks = cache.reclassify();
    for number in 0..objects / 2 {
        marks.mark(
            [&ObjectId::of(&content(number))],
            instantmirror::core::expiry::Standing::Live,
        );
    }
    let (garbage, _) = marks.finish();
    println!(
        "{}",
        json!({"step": "standings of half of them", "garbage": garbage, "ms": millis(begun)})
    );
    let usage = cache.usage();
    ensure!(
        usage.used_bytes <= usage.max_bytes.unwrap_or(u64::MAX),
        "over the limit"
    );
    Ok(())
}
