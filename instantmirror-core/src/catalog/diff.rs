//! What differs between two trees, file by file: only nodes that differ are read, since equal ids are equal subtrees.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};

use super::read::{load, load_child};
use super::{CatalogError, NodeSource};
use crate::entry::{Entry, Kind, Meta};
use crate::{NodeId, RepoPath};

/// One path at which two trees differ. Directories are not told of, what is in them is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: RepoPath,
    /// The file or symlink that the first tree has there.
    pub before: Option<Meta>,
    /// The file or symlink that the second tree has there.
    pub after: Option<Meta>,
}

/// Iterator over the [`Difference`]s of two trees, in no order that means anything, each path once.
///
/// Cost: the nodes that differ and the index nodes of the directories they are in. Memory: the differing leaves of one
/// directory. After an error it ends; [`CatalogError::Missing`] means that one of the trees is not here whole.
#[derive(Debug)]
pub struct Differences<S> {
    source: S,
    work: Vec<Pair>,
    found: VecDeque<Difference>,
}

/// A directory that differs, or that one of the trees lacks.
#[derive(Debug)]
struct Pair {
    path: RepoPath,
    before: Option<NodeId>,
    after: Option<NodeId>,
}

impl<S: NodeSource> Differences<S> {
    /// The differences between the trees with these root nodes; without a first one, everything that is in the second.
    pub fn new(source: S, before: Option<NodeId>, after: NodeId) -> Self {
        let root = Pair {
            path: RepoPath::ROOT,
            before,
            after: Some(after),
        };
        Self {
            source,
            work: vec![root],
            found: VecDeque::new(),
        }
    }

    fn advance(&mut self) -> Result<Option<Difference>, CatalogError> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Ok(Some(found));
            }
            match self.work.pop() {
                None => return Ok(None),
                Some(pair) if pair.before == pair.after => {}
                Some(pair) => self.compare(&pair)?,
            }
        }
    }

    fn compare(&mut self, pair: &Pair) -> Result<(), CatalogError> {
        let (before, after) = (self.leaves(pair.before)?, self.leaves(pair.after)?);
        let known: HashSet<NodeId> = before.iter().copied().collect();
        let shared: HashSet<NodeId> = after.iter().copied().filter(|id| known.contains(id)).collect();
        let mut before = self.entries(&before, &shared)?.into_iter().peekable();
        let mut after = self.entries(&after, &shared)?.into_iter().peekable();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(other)) => one.name.cmp(&other.name),
            };
            let one = if order.is_le() { before.next() } else { None };
            let other = if order.is_ge() { after.next() } else { None };
            self.tell(pair, one, other)?;
        }
    }

    /// The leaves of a directory, in order. Reads its index nodes only.
    fn leaves(&self, top: Option<NodeId>) -> Result<Vec<NodeId>, CatalogError> {
        let Some(top) = top else { return Ok(Vec::new()) };
        let node = load(&self.source, &top)?;
        if !node.is_index() {
            return Ok(vec![top]);
        }
        let mut leaves = Vec::new();
        let mut indexes = vec![node];
        while let Some(index) = indexes.pop() {
            if index.level() == 1 {
                leaves.extend((0..index.len()).map(|i| index.child(i).node));
                continue;
            }
            for i in (0..index.len()).rev() {
                indexes.push(load_child(&self.source, &index, i)?);
            }
        }
        Ok(leaves)
    }

    fn entries(&self, leaves: &[NodeId], shared: &HashSet<NodeId>) -> Result<Vec<Entry>, CatalogError> {
        let mut entries = Vec::new();
        for id in leaves.iter().filter(|id| !shared.contains(id)) {
            let node = load(&self.source, id)?;
            for i in 0..node.len() {
                entries.push(node.entry(i)?);
            }
        }
        Ok(entries)
    }

    fn tell(&mut self, pair: &Pair, before: Option<Entry>, after: Option<Entry>) -> Result<(), CatalogError> {
        if before == after {
            return Ok(());
        }
        let Some(name) = before.as_ref().or(after.as_ref()).map(|entry| &entry.name) else {
            return Ok(());
        };
        let id = pair.after.or(pair.before).unwrap_or(NodeId::from_bytes([0; 32]));
        let path = pair.path.join(name);
        let path = path.map_err(|source| CatalogError::Name { id, source })?;
        let (one, before) = part(before);
        let (other, after) = part(after);
        if one.is_some() || other.is_some() {
            self.work.push(Pair {
                path: path.clone(),
                before: one,
                after: other,
            });
        }
        if before != after {
            self.found.push_back(Difference { path, before, after });
        }
        Ok(())
    }
}

/// The directory, or what else it is.
fn part(entry: Option<Entry>) -> (Option<NodeId>, Option<Meta>) {
    match entry.map(|entry| entry.meta) {
        Some(meta) => match meta.kind {
            Kind::Directory(directory) => (Some(directory.node), None),
            _ => (None, Some(meta)),
        },
        None => (None, None),
    }
}

impl<S: NodeSource> Iterator for Differences<S> {
    type Item = Result<Difference, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.work.clear();
            self.found.clear();
        }
        next.transpose()
    }
}
