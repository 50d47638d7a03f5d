//! Builds the catalogs of two small trees and reads them: listing, looking up, following symlinks, comparing. Core
//! alone, in memory; a catalog on disk or of a node is read in the same way, from another `NodeSource`.
//!
//! ```text
//! cargo run --example read_catalog
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use anyhow::Context as _;
use instantmirror::core::catalog::{Catalog, Differences, build_directory};
use instantmirror::core::memory::MemoryStore;
use instantmirror::core::{Directory, Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoPath};

fn main() -> anyhow::Result<()> {
    let store = MemoryStore::new();
    let before = tree(&store, &[("hello_1.deb", "one")])?;
    let after = tree(&store, &[("hello_1.deb", "one"), ("hello_2.deb", "two")])?;

    let catalog = Catalog::new(&store, meta(Kind::Directory(after)));
    let pool = catalog.lookup(&RepoPath::new("pool")?)?.context("no pool")?;
    let pool = *pool.as_directory().context("pool is no directory")?;
    println!("pool: {} files of {} bytes", pool.files, pool.bytes);
    for entry in catalog.list(&pool, None) {
        let entry = entry?;
        let file = entry.meta.as_file().context("no file")?;
        println!("  {} {} {}", entry.name, file.size, file.object);
    }
    println!(
        "latest -> {:?}",
        catalog.lookup(&RepoPath::new("latest")?)?.map(|meta| meta.kind)
    );
    println!(
        "latest/hello_2.deb: {:?}",
        catalog.resolve(&RepoPath::new("latest/hello_2.deb")?)?
    );

    // Only nodes that differ are read, so two trees of millions of files are compared in no time.
    for difference in Differences::new(&store, Some(before.node), after.node) {
        let difference = difference?;
        let word = if difference.before.is_none() {
            "added"
        } else {
            "changed"
        };
        println!("{word}: {}", difference.path);
    }
    Ok(())
}

/// A tree with these files in `pool`, and a symlink to it.
fn tree(store: &MemoryStore, files: &[(&str, &str)]) -> anyhow::Result<Directory> {
    let entries = files.iter().map(|(name, content)| {
        let file = FileMeta::new(ObjectId::of(content.as_bytes()), content.len() as u64);
        entry(name, Kind::File(file))
    });
    let entries = entries.collect::<anyhow::Result<Vec<_>>>()?;
    let pool = build_directory(&entries, &mut |node| store.insert_node(node))?;
    // In the order of the bytes of their names.
    let root = [
        entry("latest", Kind::Symlink("pool".into()))?,
        entry("pool", Kind::Directory(pool))?,
    ];
    Ok(build_directory(&root, &mut |node| store.insert_node(node))?)
}

fn entry(name: &str, kind: Kind) -> anyhow::Result<Entry> {
    let name = Name::new(name)?;
    Ok(Entry { name, meta: meta(kind) })
}

fn meta(kind: Kind) -> Meta {
    Meta {
        mode: 0o644,
        mtime: 1_600_000_000,
        kind,
    }
}
