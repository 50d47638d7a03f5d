//! Every node that some roots lead to, each once: for marking what is in use.

use std::collections::HashSet;

use super::node::CatalogNode;
use super::read::load;
use super::{CatalogError, NodeSource};
use crate::NodeId;
use crate::entry::Kind;

/// Iterator over the nodes below the roots that were added, parents before children, each once in its life. What was
/// seen is never read again, so roots that share most of their nodes cost little more than one.
///
/// A node that cannot be read gives its error and the walk goes on beside it: whoever must not miss anything stops.
#[derive(Debug)]
pub struct Reachable<S> {
    source: S,
    seen: HashSet<NodeId>,
    work: Vec<NodeId>,
}

impl<S: NodeSource> Reachable<S> {
    /// A walk that treats `seen` as visited, with all below it.
    pub fn new(source: S, seen: HashSet<NodeId>) -> Self {
        Self {
            source,
            seen,
            work: Vec::new(),
        }
    }

    /// Walks this tree too.
    pub fn add_root(&mut self, root: NodeId) {
        self.add(root);
    }

    /// What was visited, whether or not it could be read.
    #[must_use]
    pub fn into_seen(self) -> HashSet<NodeId> {
        self.seen
    }

    fn add(&mut self, id: NodeId) {
        if self.seen.insert(id) {
            self.work.push(id);
        }
    }

    fn visit(&mut self, id: NodeId) -> Result<CatalogNode, CatalogError> {
        let node = load(&self.source, &id)?;
        for i in 0..node.len() {
            if node.is_index() {
                self.add(node.child(i).node);
            } else if let Kind::Directory(directory) = node.meta(i)?.kind {
                self.add(directory.node);
            }
        }
        Ok(node)
    }
}

impl<S: NodeSource> Iterator for Reachable<S> {
    type Item = Result<CatalogNode, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = self.work.pop()?;
        Some(self.visit(id))
    }
}
