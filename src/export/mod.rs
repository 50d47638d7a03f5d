//! Lists of a snapshot in the formats that mirrors know, made from its catalog alone: no source tree is touched.
//!
//! What a catalog does not keep is written as every reader of these formats copes with: owner and group are 0, the time
//! of a file is that of its content, a directory has 4096 bytes.

mod calendar;
mod filelist;
mod ls;
mod trace;

use std::io::{self, Write};
use std::str::FromStr;

use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource};
use instantmirror_core::{Directory, Entry, ObjectId, RepoPath, Snapshot};

use crate::progress::{Counted, Progress};

pub use calendar::Civil;

/// Bytes that a directory is said to have.
const DIRECTORY_BYTES: u64 = 4096;

/// A format to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// `fullfiletimelist-MODULE` of Fedora's mirrors, with SHA-256 of the `repomd.xml` files.
    FullFileTimeList,
    /// A file for `project/trace/` of Debian's mirrors.
    Trace,
    /// `ls -lRAn` of GNU, in the C locale and UTC.
    LsLr,
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fullfiletimelist" => Ok(Self::FullFileTimeList),
            "trace" => Ok(Self::Trace),
            "ls-lR" => Ok(Self::LsLr),
            _ => Err("the formats are fullfiletimelist, trace and ls-lR".to_owned()),
        }
    }
}

/// Why a list was not finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// It cannot be written.
    #[error("the list cannot be written: {0}")]
    Write(#[from] io::Error),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A digest cannot be read.
    #[error(transparent)]
    Digest(#[from] crate::store::StoreError),
}

/// SHA-256 of an object, if it is known.
pub type Sha256Of<'a> = dyn Fn(&ObjectId) -> Result<Option<[u8; 32]>, crate::store::StoreError> + 'a;

/// Writes a list of `snapshot`, whose catalog is in `nodes`, to `out`. Memory is that of the largest directory, and of the
/// directories on the way to it. `progress` hears of files.
///
/// # Errors
/// [`ExportError`]; what was written until then is no whole list.
pub fn export(
    format: ExportFormat,
    snapshot: &Snapshot,
    nodes: &dyn NodeSource,
    sha256: &Sha256Of<'_>,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<(), ExportError> {
    let listing = Listing {
        snapshot,
        nodes,
        progress: &Counted::new(progress, snapshot.root.files),
    };
    match format {
        ExportFormat::FullFileTimeList => filelist::write(&listing, sha256, out),
        ExportFormat::Trace => trace::write(snapshot, out),
        ExportFormat::LsLr => ls::write(&listing, out),
    }
}

/// A snapshot that is listed.
struct Listing<'a> {
    snapshot: &'a Snapshot,
    nodes: &'a dyn NodeSource,
    /// Of files.
    progress: &'a Counted<'a>,
}

/// Is handed a directory and what it holds.
type Visit<'a> = dyn FnMut(&RepoPath, &[Entry]) -> Result<(), ExportError> + 'a;

/// Hands over the directories of a snapshot, each before those in it, in order of name, as `ls -R` does.
fn walk(listing: &Listing<'_>, visit: &mut Visit<'_>) -> Result<(), ExportError> {
    let catalog = Catalog::new(listing.nodes, listing.snapshot.root.meta());
    let root = catalog.root().as_directory().copied();
    let mut pending: Vec<(RepoPath, Directory)> = root.map(|root| (RepoPath::ROOT, root)).into_iter().collect();
    while let Some((path, directory)) = pending.pop() {
        let entries = catalog.list(&directory, None).collect::<Result<Vec<_>, _>>()?;
        visit(&path, &entries)?;
        let files = entries.iter().filter(|entry| entry.meta.as_file().is_some());
        listing.progress.add(files.count() as u64);
        for entry in entries.iter().rev() {
            // A path too long for the model cannot be in a catalog that was published.
            if let (Some(directory), Ok(below)) = (entry.meta.as_directory(), path.join(&entry.name)) {
                pending.push((below, *directory));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
