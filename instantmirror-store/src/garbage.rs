//! What no snapshot refers to any more, found by walking catalogs. Nothing here changes a disk.
//!
//! Catalogs are walked node by node, each once however many snapshots share it, and objects are never looked at: the
//! cost is that of the catalogs in use, a hundredth of what they describe, and of what is condemned.
//!
//! Invariant: what [`Garbage`] names is in use by none of the roots it was told of. A root that turns up later has to
//! be [absolved](Garbage::absolve) before anything is removed.

use std::collections::HashSet;

use instantmirror_core::catalog::{CatalogError, CatalogNode, NodeSource, Reachable};
use instantmirror_core::{Kind, NodeId, ObjectId};

/// Most candidates that are held at a time; there are more shards instead.
pub const SHARD_OBJECTS_MAX: u64 = 1 << 20;

/// The difference between what is in use and what is not.
#[derive(Debug)]
pub struct Garbage<S> {
    source: S,
    live: HashSet<NodeId>,
    /// Leaves that only condemned trees have.
    dead: Vec<NodeId>,
    dead_files: u64,
}

impl<S: NodeSource + Clone> Garbage<S> {
    /// Marks what these roots use.
    ///
    /// # Errors
    /// [`CatalogError`] if any of it cannot be read: then nothing is known to be garbage.
    pub fn mark(source: S, live_roots: impl IntoIterator<Item = NodeId>) -> Result<Self, CatalogError> {
        let mut walk = Reachable::new(source.clone(), HashSet::new());
        live_roots.into_iter().for_each(|root| walk.add_root(root));
        for node in walk.by_ref() {
            node?;
        }
        Ok(Self {
            source,
            live: walk.into_seen(),
            dead: Vec::new(),
            dead_files: 0,
        })
    }

    /// Notes what these trees have and no live one has. Nodes that are not there any more, or cannot be read, are passed
    /// over: what only they refer to stays on the disk.
    pub fn condemn(&mut self, roots: impl IntoIterator<Item = NodeId>) {
        let mut walk = Reachable::new(self.source.clone(), self.live.clone());
        roots.into_iter().for_each(|root| walk.add_root(root));
        for node in walk {
            match node {
                Ok(node) if !node.is_index() => {
                    self.dead.push(node.id());
                    self.dead_files += node.len() as u64;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a part of an expired snapshot is gone already"),
            }
        }
    }

    /// In how many portions [`objects`](Self::objects) are given out, so that memory stays bounded.
    #[must_use]
    pub fn shards(&self) -> u64 {
        self.dead_files.div_ceil(SHARD_OBJECTS_MAX)
    }

    /// Objects that condemned trees refer to and live ones do not: one portion of them.
    ///
    /// # Errors
    /// [`CatalogError`] if a live node cannot be read.
    pub fn objects(&self, shard: u64) -> Result<HashSet<ObjectId>, CatalogError> {
        let shards = self.shards().max(1);
        let mut found = HashSet::new();
        for id in &self.dead {
            let node = match load(&self.source, *id) {
                Ok(node) => node,
                Err(error) => {
                    tracing::debug!(%error, "a part of an expired snapshot is gone already");
                    continue;
                }
            };
            for_each_object(&node, |object| {
                if fingerprint(&object) % shards == shard {
                    found.insert(object);
                }
            })?;
        }
        if found.is_empty() {
            return Ok(found);
        }
        for id in &self.live {
            for_each_object(&load(&self.source, *id)?, |object| {
                found.remove(&object);
            })?;
        }
        Ok(found)
    }

    /// Takes a tree that has turned up since as live, and what it refers to out of `objects`.
    ///
    /// # Errors
    /// [`CatalogError`] if it cannot be read: nothing may be removed then.
    pub fn absolve(&mut self, root: NodeId, objects: &mut HashSet<ObjectId>) -> Result<(), CatalogError> {
        let mut walk = Reachable::new(self.source.clone(), std::mem::take(&mut self.live));
        walk.add_root(root);
        let mut result = Ok(());
        for node in walk.by_ref() {
            result = result.and_then(|()| {
                for_each_object(&node?, |object| {
                    objects.remove(&object);
                })
            });
        }
        self.live = walk.into_seen();
        result
    }

    /// All nodes of live trees.
    #[must_use]
    pub fn live_nodes(&self) -> &HashSet<NodeId> {
        &self.live
    }

    /// Whether a live tree has this node.
    #[must_use]
    pub fn is_live(&self, node: &NodeId) -> bool {
        self.live.contains(node)
    }
}

/// Measures how much distinct content trees add to each other.
#[derive(Debug)]
pub struct ContentMeter<S> {
    source: S,
    nodes: HashSet<NodeId>,
    objects: HashSet<u64>,
}

impl<S: NodeSource + Clone> ContentMeter<S> {
    /// A meter that has seen nothing yet.
    pub fn new(source: S) -> Self {
        Self {
            source,
            nodes: HashSet::new(),
            objects: HashSet::new(),
        }
    }

    /// Bytes of content in this tree that no tree measured before has.
    ///
    /// # Errors
    /// [`CatalogError`] if it cannot be read.
    pub fn added(&mut self, root: NodeId) -> Result<u64, CatalogError> {
        let mut walk = Reachable::new(self.source.clone(), std::mem::take(&mut self.nodes));
        walk.add_root(root);
        let mut bytes = 0;
        for node in walk.by_ref() {
            let node = node?;
            for i in 0..leaf_len(&node) {
                if let Kind::File(file) = node.meta(i)?.kind
                    && self.objects.insert(fingerprint(&file.object))
                {
                    bytes += file.size;
                }
            }
        }
        self.nodes = walk.into_seen();
        Ok(bytes)
    }
}

/// The first bytes of a hash are as good as any.
fn fingerprint(object: &ObjectId) -> u64 {
    object
        .as_bytes()
        .first_chunk()
        .map_or(0, |low| u64::from_le_bytes(*low))
}

fn load(source: &impl NodeSource, id: NodeId) -> Result<CatalogNode, CatalogError> {
    let bytes = source.node(&id)?.ok_or(CatalogError::Missing(id))?;
    CatalogNode::open(id, bytes)
}

fn leaf_len(node: &CatalogNode) -> usize {
    if node.is_index() { 0 } else { node.len() }
}

fn for_each_object(node: &CatalogNode, mut visit: impl FnMut(ObjectId)) -> Result<(), CatalogError> {
    for i in 0..leaf_len(node) {
        if let Kind::File(file) = node.meta(i)?.kind {
            visit(file.object);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use instantmirror_core::catalog::build_directory;
    use instantmirror_core::memory::MemoryStore;
    use instantmirror_core::{Entry, FileMeta, Meta, Name};

    use super::*;

    type Store = Arc<MemoryStore>;

    fn object(content: u32) -> ObjectId {
        ObjectId::of(&content.to_le_bytes())
    }

    /// A directory with one file of ten bytes for each content, below the directory `sub`.
    fn tree(store: &Store, contents: impl IntoIterator<Item = u32>) -> NodeId {
        let entry = |name: String, kind| Entry {
            name: Name::new(name).unwrap(),
            meta: Meta {
                mode: 0o644,
                mtime: 0,
                kind,
            },
        };
        let file = |content: u32| FileMeta {
            size: 10,
            object: object(content),
            first_piece: 0,
            link_group: None,
        };
        let files: Vec<_> = contents
            .into_iter()
            .map(|content| entry(format!("{content:06}"), Kind::File(file(content))))
            .collect();
        let mut keep = |node: CatalogNode| store.insert_node(node);
        let sub = build_directory(&files, &mut keep).unwrap();
        build_directory(&[entry("sub".to_owned(), Kind::Directory(sub))], &mut keep)
            .unwrap()
            .node
    }

    fn objects(garbage: &Garbage<Store>) -> HashSet<ObjectId> {
        (0..garbage.shards())
            .flat_map(|shard| garbage.objects(shard).unwrap())
            .collect()
    }

    #[test]
    fn garbage_is_what_only_condemned_trees_have() {
        let store = Store::default();
        let (old, middle, new) = (tree(&store, 0..1000), tree(&store, 5..1005), tree(&store, 10..1010));
        let mut garbage = Garbage::mark(store.clone(), [old, new]).unwrap();
        garbage.condemn([middle]);
        assert_eq!(objects(&garbage), HashSet::new(), "the others have it all between them");
        let mut garbage = Garbage::mark(store.clone(), [new]).unwrap();
        garbage.condemn([old, middle]);
        assert_eq!(objects(&garbage), (0..10).map(object).collect());
        assert!(garbage.is_live(&new) && !garbage.is_live(&old));

        // One that turns up later and has some of it again.
        let late = tree(&store, (3..6).chain(2000..2003));
        let mut found = garbage.objects(0).unwrap();
        garbage.absolve(late, &mut found).unwrap();
        assert_eq!(found, [0, 1, 2, 6, 7, 8, 9].map(object).into());
        assert_eq!(objects(&garbage), found);
        assert!(garbage.is_live(&late));
    }

    #[test]
    fn what_is_in_use_must_be_readable_and_what_is_condemned_need_not() {
        let store = Store::default();
        let whole = tree(&store, 0..10);
        let missing = NodeId::of(b"never stored");
        assert!(matches!(
            Garbage::mark(store.clone(), [whole, missing]),
            Err(CatalogError::Missing(_))
        ));
        let mut garbage = Garbage::mark(store.clone(), []).unwrap();
        garbage.condemn([missing, whole]);
        assert_eq!(objects(&garbage).len(), 10);
        assert!(garbage.absolve(missing, &mut HashSet::new()).is_err());
        assert!(ContentMeter::new(store).added(missing).is_err());
    }

    #[test]
    fn the_meter_counts_content_once() {
        let store = Store::default();
        let mut meter = ContentMeter::new(store.clone());
        assert_eq!(meter.added(tree(&store, 0..100)).unwrap(), 1000);
        assert_eq!(meter.added(tree(&store, 50..150)).unwrap(), 500);
        assert_eq!(meter.added(tree(&store, 0..100)).unwrap(), 0);
    }
}
