//! Looking up paths and listing directories of one snapshot, node by node, straight from the source.

use super::node::CatalogNode;
use super::{CatalogError, NodeSource};
use crate::NodeId;
use crate::entry::{Directory, Entry, Kind, Meta};
use crate::name::{Name, RepoPath};

/// Most symlinks followed for one path, as Linux does.
pub const SYMLINKS_MAX: usize = 40;

/// The tree below one root directory.
#[derive(Debug, Clone)]
pub struct Catalog<S> {
    source: S,
    root: Meta,
}

/// Where a path leads when symlinks are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// A file or directory, and the path without symlinks on which it lies.
    Found(RepoPath, Meta),
    /// Nothing there, or a symlink that leads out of the tree.
    NotFound,
    /// More than [`SYMLINKS_MAX`] symlinks: a loop.
    Loop,
}

impl<S: NodeSource> Catalog<S> {
    /// The tree whose root directory is `root`; its nodes are read from `source`.
    pub fn new(source: S, root: Meta) -> Self {
        Self { source, root }
    }

    /// The root directory's own attributes.
    pub fn root(&self) -> &Meta {
        &self.root
    }

    /// What lies at `path`; the last component is not followed if it is a symlink, and a symlink
    /// on the way is no directory.
    ///
    /// # Errors
    /// [`CatalogError::Missing`] if a node on the way is not in the source, or what reading it gave.
    pub fn lookup(&self, path: &RepoPath) -> Result<Option<Meta>, CatalogError> {
        let mut here = self.root.clone();
        for name in path.components() {
            let Some(directory) = here.as_directory() else {
                return Ok(None);
            };
            match self.entry(directory, name)? {
                Some(meta) => here = meta,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The entry `name` of one directory.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entry(&self, directory: &Directory, name: &str) -> Result<Option<Meta>, CatalogError> {
        let mut node = load(&self.source, &directory.node)?;
        while node.is_index() {
            let i = node.lower_bound(name.as_bytes());
            if i == node.len() {
                return Ok(None);
            }
            node = load_child(&self.source, &node, i)?;
        }
        node.position(name).map(|i| node.meta(i)).transpose()
    }

    /// What `path` leads to, symlinks followed inside the tree. Absolute targets and targets that climb
    /// above the root lead nowhere.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn resolve(&self, path: &RepoPath) -> Result<Resolution, CatalogError> {
        let mut pending: Vec<String> = path.components().rev().map(str::to_owned).collect();
        let mut trail: Vec<(Name, Meta)> = Vec::new();
        let mut followed = 0;
        while let Some(name) = pending.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    if trail.pop().is_none() {
                        return Ok(Resolution::NotFound);
                    }
                    continue;
                }
                _ => {}
            }
            let here = trail.last().map_or(&self.root, |(_, meta)| meta);
            let Some(directory) = here.as_directory() else {
                return Ok(Resolution::NotFound);
            };
            let Some(meta) = self.entry(directory, &name)? else {
                return Ok(Resolution::NotFound);
            };
            let Kind::Symlink(target) = &meta.kind else {
                // An entry that was found has a valid name.
                let Ok(name) = Name::new(&name) else {
                    return Ok(Resolution::NotFound);
                };
                trail.push((name, meta));
                continue;
            };
            followed += 1;
            if followed > SYMLINKS_MAX {
                return Ok(Resolution::Loop);
            }
            if target.starts_with('/') {
                return Ok(Resolution::NotFound);
            }
            pending.extend(target.split('/').rev().map(str::to_owned));
        }
        let found = trail.last().map_or(&self.root, |(_, meta)| meta).clone();
        let mut real = RepoPath::ROOT;
        for (name, _) in &trail {
            match real.join(name) {
                Ok(longer) => real = longer,
                Err(_) => return Ok(Resolution::NotFound),
            }
        }
        Ok(Resolution::Found(real, found))
    }

    /// The entry `name` of one directory, and its place among the directory's entries in name order, from 0 on. Costs one
    /// descent, however large the directory is.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn position(&self, directory: &Directory, name: &str) -> Result<Option<(u64, Meta)>, CatalogError> {
        let mut node = load(&self.source, &directory.node)?;
        let mut before = 0;
        while node.is_index() {
            let i = node.lower_bound(name.as_bytes());
            if i == node.len() {
                return Ok(None);
            }
            before += (0..i).map(|row| node.child(row).entries).sum::<u64>();
            node = load_child(&self.source, &node, i)?;
        }
        let found = node.position(name);
        let found = found.map(|i| Ok((before + i as u64, node.meta(i)?)));
        found.transpose()
    }

    /// The entry at `place` of one directory, counted from 0 in name order; `None` behind the last. Costs one descent, as
    /// [`position`](Self::position).
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entry_at(&self, directory: &Directory, place: u64) -> Result<Option<Entry>, CatalogError> {
        self.list_from(directory, place).next().transpose()
    }

    /// The entries of a directory in name order, read leaf by leaf: memory stays that of one leaf.
    /// `after` skips the names up to and including it.
    pub fn list(&self, directory: &Directory, after: Option<&Name>) -> Entries<'_, S> {
        self.entries(directory, Start::Behind(after.cloned()))
    }

    /// The same from the entry at `place` on, counted from 0.
    pub fn list_from(&self, directory: &Directory, place: u64) -> Entries<'_, S> {
        self.entries(directory, Start::At(place))
    }

    fn entries(&self, directory: &Directory, start: Start) -> Entries<'_, S> {
        Entries {
            source: &self.source,
            start,
            top: Some(directory.node),
            stack: Vec::new(),
        }
    }
}

/// Where a listing begins.
#[derive(Debug)]
enum Start {
    /// Behind this name, or at the first one.
    Behind(Option<Name>),
    /// So many entries further on.
    At(u64),
}

impl Start {
    /// The row of `node` to begin with.
    fn row_in(&mut self, node: &CatalogNode) -> usize {
        match self {
            Self::Behind(None) => 0,
            Self::Behind(Some(after)) => {
                let at = node.lower_bound(after.as_str().as_bytes());
                at + usize::from(!node.is_index() && node.position(after.as_str()).is_some())
            }
            Self::At(left) => {
                let mut row = 0;
                while row < node.len() {
                    let entries = if node.is_index() { node.child(row).entries } else { 1 };
                    if *left < entries {
                        break;
                    }
                    *left -= entries;
                    row += 1;
                }
                row
            }
        }
    }
}

/// Iterator over a directory; see [`Catalog::list`] and [`Catalog::list_from`]. After an error it ends.
#[derive(Debug)]
pub struct Entries<'a, S> {
    source: &'a S,
    start: Start,
    top: Option<NodeId>,
    stack: Vec<(CatalogNode, usize)>,
}

impl<S: NodeSource> Entries<'_, S> {
    fn push(&mut self, node: CatalogNode) {
        let at = self.start.row_in(&node);
        self.stack.push((node, at));
    }

    fn advance(&mut self) -> Result<Option<Entry>, CatalogError> {
        if let Some(top) = self.top.take() {
            let node = load(self.source, &top)?;
            self.push(node);
        }
        while let Some((node, at)) = self.stack.last_mut() {
            if *at >= node.len() {
                self.stack.pop();
                continue;
            }
            let i = *at;
            *at += 1;
            if !node.is_index() {
                return node.entry(i).map(Some);
            }
            let child = load_child(self.source, node, i)?;
            self.push(child);
        }
        Ok(None)
    }
}

impl<S: NodeSource> Iterator for Entries<'_, S> {
    type Item = Result<Entry, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.stack.clear();
        }
        next.transpose()
    }
}

/// Reads one node that must be there.
pub(super) fn load(source: &impl NodeSource, id: &NodeId) -> Result<CatalogNode, CatalogError> {
    let bytes = source.node(id)?.ok_or(CatalogError::Missing(*id))?;
    CatalogNode::open(*id, bytes)
}

/// Reads child `i` of an index node, which must be one level below it: no walk can be led in circles.
pub(super) fn load_child(
    source: &impl NodeSource,
    parent: &CatalogNode,
    i: usize,
) -> Result<CatalogNode, CatalogError> {
    let id = parent.child(i).node;
    let child = load(source, &id)?;
    if child.level() + 1 != parent.level() {
        return Err(CatalogError::Inconsistent {
            id,
            reason: "its level is not one below its parent's",
        });
    }
    Ok(child)
}
