//! What has changed since the last scan, going by a file list: nothing of the tree is touched.

use std::cmp::Ordering;
use std::path::Path;

use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource};
use instantmirror_core::changes::ChangeSet;
use instantmirror_core::filelist::{FileList, Listed, ListedKind};
use instantmirror_core::{Directory, Entry, Kind, Meta, RepoPath};

use super::{ScanRules, StampBook};
use crate::error::{Result, StoreError};
use crate::tree::FileStamp;

/// Compares a list of the whole tree with the catalog of the last scan and what that scan saw: whatever differs in
/// kind, size or time, is only in the list or only in the catalog has to be looked at. The list's times have to be those
/// of this very tree: a list that was made of another copy names everything. Excluded paths are no difference.
///
/// # Errors
/// Those of reading the book; [`StoreError::Damaged`] if the catalog cannot be read.
pub fn changes_of_list(
    list: &FileList,
    nodes: &dyn NodeSource,
    book: &StampBook,
    previous: Directory,
    rules: &ScanRules,
) -> Result<ChangeSet> {
    let mut comparison = Comparison {
        list,
        nodes,
        book,
        rules,
        changes: ChangeSet::default(),
    };
    comparison.directory(&RepoPath::ROOT, previous)?;
    Ok(comparison.changes)
}

struct Comparison<'a> {
    list: &'a FileList,
    nodes: &'a dyn NodeSource,
    book: &'a StampBook,
    rules: &'a ScanRules,
    changes: ChangeSet,
}

impl Comparison<'_> {
    fn directory(&mut self, path: &RepoPath, previous: Directory) -> Result<()> {
        let page = self.book.page(path)?.filter(|page| page.node == previous.node);
        let mut stamps = page.iter().flat_map(|page| &page.stamps).copied();
        let root = Meta {
            mode: 0,
            mtime: 0,
            kind: Kind::Directory(previous),
        };
        let catalog = Catalog::new(self.nodes, root);
        let mut listed = self.list.directory(path).iter().peekable();
        for entry in catalog.list(&previous, None) {
            let entry = entry.map_err(unreadable)?;
            let stamp = stamps.next();
            while let Some(new) = listed.next_if(|listed| listed.name < entry.name) {
                self.came(path, new);
            }
            match listed.peek().map(|listed| listed.name.cmp(&entry.name)) {
                Some(Ordering::Equal) => {}
                _ => {
                    self.changed(path, entry.name.as_str());
                    continue;
                }
            }
            if let Some(listed) = listed.next() {
                self.both(path, &entry, stamp, listed)?;
            }
        }
        listed.for_each(|new| self.came(path, new));
        Ok(())
    }

    /// It is in the list and not in the catalog.
    fn came(&mut self, dir: &RepoPath, new: &Listed) {
        let is_directory = new.kind == ListedKind::Directory;
        let path = full(dir, new.name.as_str());
        if !self.rules.exclude.matches_entry(path, is_directory) {
            self.changed(dir, new.name.as_str());
        }
    }

    fn both(&mut self, dir: &RepoPath, entry: &Entry, stamp: Option<FileStamp>, listed: &Listed) -> Result<()> {
        let is_same = stamp.is_some_and(|stamp| stamp.ino != 0 && stamp.mtime.max(stamp.ctime) == listed.time);
        match (&entry.meta.kind, listed.kind) {
            (Kind::File(file), ListedKind::File) if is_same && file.size == listed.size => {}
            (Kind::Symlink(_), ListedKind::Symlink) if is_same => {}
            (Kind::Directory(directory), ListedKind::Directory) => {
                let Ok(path) = dir.join(&entry.name) else { return Ok(()) };
                if !is_same {
                    self.changes.insert_entry(&path);
                }
                return self.directory(&path, *directory);
            }
            _ => self.changed(dir, entry.name.as_str()),
        }
        Ok(())
    }

    fn changed(&mut self, dir: &RepoPath, name: &str) {
        // A name that does not fit below its directory is in no catalog and cannot be published.
        if let Ok(path) = RepoPath::new(full(dir, name)) {
            self.changes.insert(&path);
        }
    }
}

fn full(dir: &RepoPath, name: &str) -> String {
    if dir.is_root() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

fn unreadable(error: CatalogError) -> StoreError {
    StoreError::damaged(Path::new("catalog"), error.to_string(), "publish the whole tree")
}
