//! What one tree has and another lacks: the nodes to transfer, and the proof that a tree is whole.
//!
//! Both walk only where the two trees differ; equal ids are equal subtrees.

use std::collections::HashSet;
use std::sync::Arc;

use super::node::CatalogNode;
use super::read::{load, load_child};
use super::{Catalog, CatalogError, NodeSource, Totals};
use crate::NodeId;
use crate::entry::{Directory, Kind, Meta};

/// Iterator over the nodes of a wanted tree that a held tree lacks, parents before children, each once.
///
/// A directory is compared with the one of the same path in the held tree; one that moved is sent again
/// (the receiver drops what it has). Cost: proportional to the nodes that differ, plus the index nodes
/// of the directories they are in. After an error it ends.
#[derive(Debug)]
pub struct Delta<S> {
    source: S,
    work: Vec<Work>,
    seen: HashSet<NodeId>,
}

#[derive(Debug)]
enum Work {
    /// A directory of the wanted tree, with its counterpart in the held tree.
    Directory { have: Option<NodeId>, want: NodeId },
    /// A node below the top of such a directory.
    Below {
        held: Arc<Held>,
        parent: CatalogNode,
        child: usize,
    },
}

/// The counterpart of a directory: its node, and every node id that makes it up.
#[derive(Debug, Default)]
struct Held {
    top: Option<NodeId>,
    ids: HashSet<NodeId>,
}

/// A root directory by its node alone, for lookups of entries.
fn bare(node: NodeId) -> Directory {
    Directory {
        node,
        files: 0,
        bytes: 0,
    }
}

impl<S: NodeSource> Delta<S> {
    /// The nodes reachable from `want` and not from `have`. Both roots must be whole in `source`
    /// (`have` may be absent from it: then everything is sent).
    pub fn new(source: S, have: Option<NodeId>, want: NodeId) -> Self {
        Self {
            source,
            work: vec![Work::Directory { have, want }],
            seen: HashSet::new(),
        }
    }

    fn advance(&mut self) -> Result<Option<CatalogNode>, CatalogError> {
        while let Some(work) = self.work.pop() {
            let (held, node) = match work {
                Work::Directory { have, want } if have == Some(want) => continue,
                Work::Directory { have, want } => {
                    if self.seen.contains(&want) {
                        continue;
                    }
                    (Arc::new(self.held(have)?), load(&self.source, &want)?)
                }
                Work::Below { held, parent, child } => {
                    let id = parent.child(child).node;
                    if held.ids.contains(&id) || self.seen.contains(&id) {
                        continue;
                    }
                    (held, load_child(&self.source, &parent, child)?)
                }
            };
            self.expand(&held, &node)?;
            if self.seen.insert(node.id()) && !held.ids.contains(&node.id()) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Every node of a held directory; none of its subdirectories. A held tree that is not here (any
    /// more) counts as none.
    fn held(&self, have: Option<NodeId>) -> Result<Held, CatalogError> {
        let Some(top) = have else { return Ok(Held::default()) };
        if self.source.node(&top)?.is_none() {
            return Ok(Held::default());
        }
        let mut ids = HashSet::from([top]);
        let mut indexes = vec![load(&self.source, &top)?];
        while let Some(node) = indexes.pop() {
            if !node.is_index() {
                continue;
            }
            for i in 0..node.len() {
                ids.insert(node.child(i).node);
                if node.level() > 1 {
                    indexes.push(load_child(&self.source, &node, i)?);
                }
            }
        }
        Ok(Held { top: Some(top), ids })
    }

    /// Queues what lies below a node that differs.
    fn expand(&mut self, held: &Arc<Held>, node: &CatalogNode) -> Result<(), CatalogError> {
        if node.is_index() {
            let below = |child| Work::Below {
                held: Arc::clone(held),
                parent: node.clone(),
                child,
            };
            self.work.extend((0..node.len()).rev().map(below));
            return Ok(());
        }
        for i in (0..node.len()).rev() {
            let Kind::Directory(want) = node.meta(i)?.kind else {
                continue;
            };
            let have = match held.top {
                Some(top) => self.held_subdirectory(top, node.entry(i)?.name.as_str())?,
                None => None,
            };
            if have != Some(want.node) {
                self.work.push(Work::Directory { have, want: want.node });
            }
        }
        Ok(())
    }

    fn held_subdirectory(&self, top: NodeId, name: &str) -> Result<Option<NodeId>, CatalogError> {
        let root = Meta {
            mode: 0,
            mtime: 0,
            kind: Kind::Directory(bare(top)),
        };
        let meta = Catalog::new(&self.source, root).entry(&bare(top), name)?;
        Ok(meta
            .as_ref()
            .and_then(Meta::as_directory)
            .map(|directory| directory.node))
    }
}

impl<S: NodeSource> Iterator for Delta<S> {
    type Item = Result<CatalogNode, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.work.clear();
        }
        next.transpose()
    }
}

/// What [`check_closure`] looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closure {
    /// Nodes that the trusted tree does not have.
    pub nodes: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Proves that every node reachable from `root` is in `source` and agrees with what its parent says of it
/// (level, last name, recursive counts). Subtrees of `trusted`, a root proved before, are not walked.
///
/// # Errors
/// [`CatalogError::Missing`] with the first node that is not there, [`CatalogError::Inconsistent`] or
/// [`CatalogError::Malformed`] for one that lies.
pub fn check_closure<S: NodeSource>(
    source: S,
    trusted: Option<NodeId>,
    root: &Directory,
) -> Result<Closure, CatalogError> {
    let mut closure = Closure::default();
    check_counts(&load(&source, &root.node)?, root.files, root.bytes)?;
    for node in Delta::new(&source, trusted, root.node) {
        let node = node?;
        closure.nodes += 1;
        closure.bytes += node.bytes().len() as u64;
        if node.is_index() {
            check_children(&source, &node)?;
        } else {
            check_subdirectories(&source, &node)?;
        }
    }
    Ok(closure)
}

fn check_children(source: &impl NodeSource, node: &CatalogNode) -> Result<(), CatalogError> {
    for i in 0..node.len() {
        let said = node.child(i);
        let child = load_child(source, node, i)?;
        let id = child.id();
        let inconsistent = |reason| CatalogError::Inconsistent { id, reason };
        if child.is_empty() || child.name_bytes(child.len() - 1) != node.name_bytes(i) {
            return Err(inconsistent("its last name is not the one its parent states"));
        }
        if i > 0 && child.name_bytes(0) <= node.name_bytes(i - 1) {
            return Err(inconsistent("its names overlap the node before it"));
        }
        let Totals { entries, files, bytes } = child.totals()?;
        if (entries, files, bytes) != (said.entries, said.files, said.bytes) {
            return Err(inconsistent("its counts are not the ones its parent states"));
        }
    }
    Ok(())
}

fn check_subdirectories(source: &impl NodeSource, node: &CatalogNode) -> Result<(), CatalogError> {
    for i in 0..node.len() {
        if let Kind::Directory(directory) = node.meta(i)?.kind {
            check_counts(&load(source, &directory.node)?, directory.files, directory.bytes)?;
        }
    }
    Ok(())
}

fn check_counts(node: &CatalogNode, files: u64, bytes: u64) -> Result<(), CatalogError> {
    let totals = node.totals()?;
    if (totals.files, totals.bytes) == (files, bytes) {
        return Ok(());
    }
    Err(CatalogError::Inconsistent {
        id: node.id(),
        reason: "its counts are not the ones its parent states",
    })
}
