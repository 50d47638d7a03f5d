//! Scans of named paths: what nobody named is taken over from the previous catalog, unseen.
//!
//! The result has exact bytes whatever the names are: an entry is either looked at as in a full scan, or is the one of
//! a snapshot whose objects are kept.

use std::collections::BTreeMap;

use instantmirror_core::catalog::{Catalog, CatalogError};
use instantmirror_core::changes::Change;
use instantmirror_core::{Directory, Entry, Kind, Meta, Name, RepoPath};
use rayon::prelude::*;

use super::{Held, Scan, Seen};
use crate::error::Result;
use crate::tree::{FileStamp, RawKind};

/// Of an entry of which nothing is remembered: no file has it, so a full scan reads the file again.
const UNKNOWN: FileStamp = FileStamp {
    size: 0,
    mtime: 0,
    mtime_ns: 0,
    ctime: 0,
    ctime_ns: 0,
    ino: 0,
    dev: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
};

/// A directory as the previous snapshot has it, in order of name.
type Previous = Vec<(Entry, FileStamp)>;

impl Scan<'_> {
    /// A directory of which `change` is to be looked at.
    pub(super) fn changed_directory(
        &self,
        path: &RepoPath,
        previous: Option<Directory>,
        change: &Change,
    ) -> Result<Directory> {
        match (change, previous) {
            (Change::Below(names), Some(previous)) => self.named_in(path, previous, names),
            _ => self.directory(path, previous),
        }
    }

    fn named_in(&self, path: &RepoPath, previous: Directory, names: &BTreeMap<Name, Change>) -> Result<Directory> {
        let page = self.parts.book.page(path)?;
        let stamps = page.as_ref().filter(|page| page.node == previous.node);
        let held = match self.held(&previous, stamps.map(|page| page.stamps.as_slice())) {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%path, "the previous catalog cannot be read ({error}); looking at the whole directory");
                return self.directory(path, None);
            }
        };
        let looked_at = self.parts.tree.entries(path, names.keys().map(Name::as_str))?;
        self.check_open(path, &RawKind::Dir, looked_at.mode)?;
        let raw = looked_at.entries;
        self.listed(&raw);
        let seen: Vec<Seen> = raw
            .into_par_iter()
            .map(|raw| {
                let change = std::str::from_utf8(&raw.name).ok().and_then(|name| names.get(name));
                let at = held.binary_search_by(|(entry, _)| entry.name.as_str().as_bytes().cmp(&raw.name));
                let seen = at.ok().and_then(|at| held.get(at));
                self.entry(
                    path,
                    raw,
                    Held { seen, trusted: true },
                    change.unwrap_or(&Change::Whole),
                )
            })
            .collect::<Result<_>>()?;
        let (entries, stamps) = merged(held, names, seen.into_iter().flatten().collect());
        self.build(path, Some(previous), entries, stamps, page.as_ref())
    }

    fn held(&self, previous: &Directory, stamps: Option<&[FileStamp]>) -> Result<Previous, CatalogError> {
        let root = Meta {
            mode: 0,
            mtime: 0,
            kind: Kind::Directory(*previous),
        };
        let catalog = Catalog::new(self.parts.nodes, root);
        let mut stamps = stamps.into_iter().flatten().copied();
        let with_stamp = |entry: Result<Entry, CatalogError>| Ok((entry?, stamps.next().unwrap_or(UNKNOWN)));
        catalog.list(previous, None).map(with_stamp).collect()
    }
}

/// What was held, without the names, and what was seen of them; both are in order.
fn merged(held: Previous, names: &BTreeMap<Name, Change>, seen: Previous) -> (Vec<Entry>, Vec<FileStamp>) {
    let mut seen = seen.into_iter().peekable();
    let mut all = (Vec::with_capacity(held.len()), Vec::with_capacity(held.len()));
    for (entry, stamp) in held {
        if names.contains_key(&entry.name) {
            continue;
        }
        while let Some(fresh) = seen.next_if(|(fresh, _)| fresh.name < entry.name) {
            all.extend([fresh]);
        }
        all.extend([(entry, stamp)]);
    }
    all.extend(seen);
    all
}
