//! Makes snapshots of millions of files without the files, in the store of a real master, and measures lookups.
//!
//! `run.py` beside it drives it. Every result is one line of JSON on standard output; `make` waits for a line on standard
//! input before each further step, so that the real programs can be measured in between.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program")]

mod model;

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use instantmirror::config::ServerConfig;
use instantmirror::core::catalog::{Catalog, CatalogNode};
use instantmirror::core::head::{HEAD_VALIDITY_MAX, LiveSnapshot, SnapshotState};
use instantmirror::core::traits::SnapshotStore as _;
use instantmirror::core::{Directory, Head, RepoName, RepoPath, Root, SecretKey, Snapshot, SnapshotId, Timestamp};
use instantmirror::master::load_key;
use instantmirror::store::digest::ContentHasher;
use instantmirror::store::disk::RealDisk;
use instantmirror::store::references::{CountedTree, FILE, References};
use instantmirror::store::snapshots::DiskSnapshotStore;
use serde_json::json;
use sha2::Digest as _;

use model::{Shape, Tree};

#[derive(Parser)]
struct Arguments {
    /// The master's configuration; its first repository is used.
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a snapshot, then one with a few changes, then many more.
    Make {
        #[command(flatten)]
        shape: Shape,
        /// Directories that change from snapshot to snapshot.
        #[arg(long, default_value_t = 300)]
        changed_directories: usize,
        /// Files that change in each of them.
        #[arg(long, default_value_t = 10)]
        changed_files: usize,
        /// How many more snapshots.
        #[arg(long, default_value_t = 1000)]
        snapshots: usize,
        /// Where paths for `lookup` are written.
        #[arg(long)]
        paths: PathBuf,
    },
    /// Looks paths up in the current snapshot.
    Lookup {
        /// The paths, one a line: the first 1,000 one by one, then all of them again.
        paths: PathBuf,
    },
    /// Hashes memory on one core: each digest that an import needs by itself, then all in one pass.
    Digests {
        /// How much, in MiB.
        #[arg(long, default_value_t = 1024)]
        mib: usize,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let config = ServerConfig::load(&arguments.config)?;
    let repository = config.repositories.first().context("no repository is configured")?;
    let name = repository.name.clone();
    let key = load_key(&config.store.key_file())?;
    match arguments.command {
        Command::Make {
            shape,
            changed_directories,
            changed_files,
            snapshots,
            paths,
        } => {
            let mut maker = Maker::new(&config.store.dir, name, key, shape)?;
            maker.report("base", Instant::now(), 1)?;
            std::fs::write(&paths, maker.tree.paths(20_000).join("\n"))?;
            for (step, count) in [("delta", 1), ("many", snapshots)] {
                std::io::stdin().lock().read_line(&mut String::new())?;
                let begun = Instant::now();
                for _ in 0..count {
                    maker.tree.change(changed_directories, changed_files)?;
                    maker.snapshot()?;
                }
                maker.commit()?;
                maker.report(step, begun, count)?;
            }
            Ok(())
        }
        Command::Lookup { paths } => lookup(&config.store.dir, &name, &key, &paths),
        Command::Digests { mib } => digests(mib),
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.unwrap_or(Duration::ZERO).as_millis();
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(0))
}

struct Maker {
    dir: PathBuf,
    store: DiskSnapshotStore,
    references: References,
    tree: Tree,
    key: SecretKey,
    head: Head,
    node_bytes: usize,
}

impl Maker {
    fn new(dir: &Path, name: RepoName, key: SecretKey, shape: Shape) -> Result<Self> {
        let store = DiskSnapshotStore::open(Arc::new(RealDisk::open(dir)?), "")?;
        let head = Head {
            repository: name,
            sequence: 0,
            issued: now(),
            expires: now(),
            piece_length: 1 << 20,
            current: None,
            snapshots: Vec::new(),
            tags: std::collections::BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        };
        let tree = Tree::new(shape)?;
        let dir = dir.to_path_buf();
        let mut maker = Self {
            references: References::open(&dir)?,
            dir,
            store,
            tree,
            key,
            head,
            node_bytes: 0,
        };
        maker.snapshot()?;
        maker.commit()?;
        Ok(maker)
    }

    /// Builds the catalog, as a publish does behind its scan, and records the snapshot.
    fn snapshot(&mut self) -> Result<()> {
        let mut nodes: Vec<CatalogNode> = Vec::new();
        let Directory { node, files, bytes } = self.tree.build(&mut |node| nodes.push(node))?;
        self.node_bytes = nodes.iter().map(|node| node.bytes().len()).sum();
        for batch in nodes.chunks(10_000) {
            self.store.put_nodes_now(batch)?;
        }
        let number = u128::try_from(self.head.snapshots.len()).unwrap_or(0) + 1;
        let snapshot = Snapshot {
            id: SnapshotId::from_random(number.to_le_bytes()),
            repository: self.head.repository.clone(),
            created: now(),
            parent: self.head.current,
            note: String::new(),
            root: Root {
                node,
                mode: 0o755,
                mtime: 1_700_000_000,
                files,
                bytes,
            },
        };
        let tree = CountedTree {
            repository: snapshot.repository.clone(),
            snapshot: snapshot.id,
            root: node,
        };
        self.references.count_in(&self.store, &tree)?;
        let record = self.store.put_snapshot(&snapshot)?;
        self.head.current = Some(snapshot.id);
        self.head.snapshots.push(LiveSnapshot {
            id: snapshot.id,
            record,
            state: SnapshotState::released(now(), self.head.sequence + 1),
        });
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.head.sequence += 1;
        self.head.issued = now();
        self.head.expires = now().plus(HEAD_VALIDITY_MAX);
        let signed = self.head.sign(&[&self.key])?;
        self.store.put_head(&signed)?;
        Ok(())
    }

    fn report(&self, step: &str, begun: Instant, snapshots: usize) -> Result<()> {
        let id = self.head.current.context("no snapshot")?;
        let snapshot = self.store.snapshot(&self.head.repository, id)?.context("no record")?;
        let line = json!({
            "step": step,
            "snapshots": snapshots,
            "seconds": begun.elapsed().as_secs_f64(),
            "snapshot": id,
            "node": snapshot.root.node,
            "files": snapshot.root.files,
            "node_bytes": self.node_bytes,
            "disk": disk(&self.dir.join("catalog"))?,
            "references": std::fs::metadata(self.dir.join(FILE))?.len(),
        });
        println!("{line}");
        Ok(())
    }
}

/// Bytes of the files in a directory.
fn disk(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for file in std::fs::read_dir(dir)? {
        total += file?.metadata()?.len();
    }
    Ok(total)
}

fn lookup(dir: &Path, name: &RepoName, key: &SecretKey, paths: &Path) -> Result<()> {
    let paths = std::fs::read_to_string(paths)?;
    let paths = paths.lines().map(RepoPath::new).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let store = DiskSnapshotStore::open_reader(Arc::new(RealDisk::open(dir)?), "")?;
    let head = store.head(name, &[key.public()])?.context("no head")?;
    let id = head.head().current.context("no snapshot")?;
    let snapshot = store.snapshot(name, id)?.context("no record")?;
    let catalog = Catalog::new(&store, snapshot.root.meta());
    let opened = begun.elapsed();
    let mut cold = Vec::new();
    for path in paths.iter().take(1000) {
        let begun = Instant::now();
        catalog.lookup(path)?;
        cold.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    for path in &paths {
        catalog.lookup(path)?;
    }
    let begun = Instant::now();
    let mut found = 0;
    for path in &paths {
        found += usize::from(catalog.lookup(path)?.is_some());
    }
    let warm = begun.elapsed().as_secs_f64() * 1e6 / paths.len().max(1) as f64;
    cold.sort_by(f64::total_cmp);
    let at = |share: usize| cold.get(cold.len() * share / 100).copied().unwrap_or(0.0);
    println!(
        "{}",
        json!({
            "open_ms": opened.as_secs_f64() * 1e3,
            "cold_us": { "median": at(50), "p90": at(90), "p99": at(99) },
            "warm_us": warm,
            "found": found,
            "paths": paths.len(),
        })
    );
    Ok(())
}

/// Bytes that an import reads at a time.
const READ_BYTES: usize = 1 << 20;

/// The piece length of a repository, unless it is configured.
const PIECE_BYTES: u32 = 1 << 20;

/// Rates in MB/s on one core, best of three: memory that is in no cache of the processor.
fn digests(mib: usize) -> Result<()> {
    let data: Vec<u8> = (0..mib << 20)
        .map(|i: usize| i.wrapping_mul(0x9e37_79b9).to_le_bytes()[2])
        .collect();
    let rate = |hash: &dyn Fn()| {
        let measure = |_| {
            let begun = Instant::now();
            hash();
            data.len() as f64 / 1e6 / begun.elapsed().as_secs_f64()
        };
        (0..3).map(measure).fold(0.0, f64::max)
    };
    let sha256 = rate(&|| _ = std::hint::black_box(sha2::Sha256::digest(&data)));
    let sha1 = rate(&|| _ = std::hint::black_box(sha1::Sha1::digest(&data)));
    let blake3 = rate(&|| _ = std::hint::black_box(blake3::hash(&data)));
    ContentHasher::new(PIECE_BYTES)?;
    let all = rate(&|| {
        if let Ok(mut all) = ContentHasher::new(PIECE_BYTES) {
            data.chunks(READ_BYTES).for_each(|part| all.update(part));
            std::hint::black_box(all.finish());
        }
    });
    println!(
        "{}",
        json!({ "sha256": sha256, "sha1": sha1, "blake3": blake3, "all": all })
    );
    Ok(())
}
