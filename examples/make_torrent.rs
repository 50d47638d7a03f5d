//! Makes a `.torrent` file of a directory: one pass over the content, then core alone.
//!
//! ```text
//! cargo run --release --example make_torrent -- DIR OUT.torrent [TRACKER]
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use instantmirror::core::metainfo::{self, Content, InfoHash, Limits, Outside, Tail, TorrentFile};
use instantmirror::core::{Name, RepoPath};
use instantmirror::store::digest::digest_reader;

const PIECE_BYTES: u32 = 256 << 10;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (dir, out, trackers) = match arguments.as_slice() {
        [dir, out, trackers @ ..] => (Path::new(dir), Path::new(out), trackers),
        _ => anyhow::bail!("name a directory and the file to write"),
    };
    let dir = dir
        .canonicalize()
        .with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files = Vec::new();
    collect(&dir, &RepoPath::ROOT, &mut files)?;

    let name = dir
        .file_name()
        .and_then(|name| name.to_str())
        .context("the directory has no name")?;
    let info = metainfo::build(&Name::new(name)?, u64::from(PIECE_BYTES), &files, &Limits::default())?;
    let outside = Outside {
        trackers: trackers.to_vec(),
        ..Outside::default()
    };
    std::fs::write(out, outside.around(&info)).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{} files, info-hash {}", files.len(), InfoHash::of(&info));
    println!("{}", outside.magnet(InfoHash::of(&info), name));
    Ok(())
}

/// The files below a directory, in the order of their names, hashed. Symlinks are left out.
fn collect(dir: &Path, path: &RepoPath, files: &mut Vec<TorrentFile>) -> anyhow::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| anyhow::anyhow!("{name:?} is not UTF-8"))?;
        let path = path.join(&Name::new(&name)?)?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), &path, files)?;
        } else if kind.is_file() {
            let content = hash(&entry.path())?;
            files.push(TorrentFile { path, content });
        }
    }
    Ok(())
}

fn hash(file: &Path) -> anyhow::Result<Content> {
    let digest = digest_reader(&mut File::open(file)?, file, PIECE_BYTES, &mut |_| ())?;
    Ok(Content {
        size: digest.size(),
        full_pieces: digest.full_pieces().clone(),
        tail: digest.tail().map(|tail| Tail {
            padded: tail.sha1_padded(PIECE_BYTES),
            bare: tail.sha1(),
        }),
    })
}
