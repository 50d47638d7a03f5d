//! Replays a trace against every expiry policy, with and without the order of snapshots around it, at several sizes of
//! the cache, and prints how many requests and bytes were hits. Made-up traces or real ones; see `trace.rs` for the
//! format. The same arguments print the same table.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

mod replay;
mod synth;
mod trace;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use instantmirror::core::expiry::{Lru, PolicyKind, SnapshotOrder};

use replay::{Outcome, clairvoyant, clairvoyant_by_size, replay};
use synth::Shape;
use trace::Trace;

#[derive(Parser)]
#[command(about = "Replays traces against the expiry policies of the object cache")]
struct Arguments {
    /// A trace to replay instead of a made-up one: lines of `time_s object size [class]`.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Writes the trace there, and replays nothing.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Sizes of the cache in percent of the bytes of all that is asked for.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 5.0, 10.0, 25.0])]
    sizes: Vec<f64>,
    /// Says how long each replay took, a request.
    #[arg(long)]
    timing: bool,
    #[command(flatten)]
    shape: Shape,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let trace = match &arguments.trace {
        Some(file) => Trace::read(file)?,
        None => synth::make(arguments.shape),
    };
    if let Some(file) = &arguments.write {
        return trace.write(file);
    }
    let (requests, bytes, objects, footprint) = trace.totals();
    ensure!(requests > 0, "nothing is asked for in this trace");
    println!(
        "{requests} requests for {:.1} GB; {objects} objects of {:.1} GB\n",
        gigabytes(bytes),
        gigabytes(footprint)
    );
    println!("| cache | policy | hits | byte hits | with snapshots: hits | byte hits |");
    println!("|---|---|---|---|---|---|");
    for percent in &arguments.sizes {
        ensure!((0.0..=100.0).contains(percent), "--sizes are percents");
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let capacity = (footprint as f64 * percent / 100.0) as u64;
        table(&trace, *percent, capacity, arguments.timing);
    }
    Ok(())
}

fn table(trace: &Trace, percent: f64, capacity: u64, timing: bool) {
    for kind in PolicyKind::ALL {
        let begun = Instant::now();
        let plain = replay(trace, capacity, kind.build());
        let took = begun.elapsed();
        let aware = replay(trace, capacity, SnapshotOrder::of_kind(kind));
        println!("| {percent} % | {kind} | {} | {} |", shares(&plain), shares(&aware));
        if timing {
            println!("{kind}: {} ns a request", took.as_nanos() / u128::from(plain.requests));
        }
    }
    if timing {
        let begun = Instant::now();
        let plain = replay(trace, capacity, Lru::new());
        println!(
            "lru, known at compile time: {} ns a request",
            begun.elapsed().as_nanos() / u128::from(plain.requests)
        );
    }
    println!(
        "| {percent} % | *knows the future* | {} | | |",
        shares(&clairvoyant(trace, capacity))
    );
    println!(
        "| {percent} % | *knows the future, by size* | {} | | |",
        shares(&clairvoyant_by_size(trace, capacity))
    );
}

fn shares(outcome: &Outcome) -> String {
    format!(
        "{:.1} % | {:.1} %",
        percent(outcome.hits, outcome.requests),
        percent(outcome.hit_bytes, outcome.bytes)
    )
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn small() -> Trace {
        synth::make(Shape {
            packages: 2000,
            metadata: 40,
            images: 5,
            requests: 3000,
            days: 4,
            snapshot_hours: 6,
            replaced_permille: 5,
            metadata_percent: 60,
            zipf_percent: 90,
            seed: 3,
        })
    }

    #[test]
    fn a_written_trace_replays_as_the_one_it_was_made_of() {
        let trace = small();
        let file = std::env::temp_dir().join(format!("expiry-sim-{}", std::process::id()));
        trace.write(&file).unwrap();
        let read = Trace::read(&file);
        std::fs::remove_file(&file).unwrap();
        let read = read.unwrap();
        assert_eq!(read.totals(), trace.totals());
        for capacity in [10_000_000, 1_000_000_000] {
            let one = replay(&trace, capacity, SnapshotOrder::of_kind(PolicyKind::Lru));
            let other = replay(&read, capacity, SnapshotOrder::of_kind(PolicyKind::Lru));
            assert_eq!((one.hits, one.hit_bytes), (other.hits, other.hit_bytes));
        }
    }

    #[test]
    fn a_cache_for_everything_misses_each_object_once_whatever_the_policy() {
        let trace = small();
        let (requests, _, objects, footprint) = trace.totals();
        for kind in PolicyKind::ALL {
            assert_eq!(replay(&trace, footprint, kind.build()).hits, requests - objects);
        }
        assert_eq!(clairvoyant(&trace, footprint).hits, requests - objects);
        assert_eq!(clairvoyant_by_size(&trace, footprint).hits, requests - objects);
    }

    #[test]
    fn nobody_does_better_than_who_knows_the_future() {
        let mut trace = small();
        trace.sizes.fill(1000);
        for capacity in [20_000, 200_000] {
            let best = clairvoyant(&trace, capacity).hits;
            for kind in PolicyKind::ALL {
                assert!(replay(&trace, capacity, kind.build()).hits <= best);
                assert!(replay(&trace, capacity, SnapshotOrder::of_kind(kind)).hits <= best);
            }
        }
    }
}
