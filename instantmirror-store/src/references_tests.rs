//! Tests of the counts of references.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use instantmirror_core::catalog::build_directory;
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::{Directory, Entry, FileMeta, Meta, Name};
use proptest::prelude::*;

use super::*;
use crate::garbage::Garbage;

type Store = Arc<MemoryStore>;

fn entry(name: String, kind: Kind) -> Entry {
    Entry {
        name: Name::new(name).unwrap(),
        meta: Meta {
            mode: 0o644,
            mtime: 0,
            kind,
        },
    }
}

fn object(content: u32) -> ObjectId {
    ObjectId::of(&content.to_le_bytes())
}

fn directory(store: &Store, contents: &[u32]) -> Directory {
    let file = |content: u32| FileMeta {
        size: 10,
        object: object(content),
        first_piece: 0,
        link_group: None,
    };
    let files: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(number, content)| entry(format!("{number:06}"), Kind::File(file(*content))))
        .collect();
    build_directory(&files, &mut |node| store.insert_node(node)).unwrap()
}

/// A root with a directory for each list of contents: equal lists are one node that is named twice.
fn tree(store: &Store, number: u8, directories: &[Vec<u32>]) -> CountedTree {
    let below: Vec<_> = directories
        .iter()
        .enumerate()
        .map(|(number, contents)| entry(format!("{number:06}"), Kind::Directory(directory(store, contents))))
        .collect();
    let root = build_directory(&below, &mut |node| store.insert_node(node)).unwrap();
    CountedTree {
        repository: "r".parse().unwrap(),
        snapshot: SnapshotId::from_random([number; 16]),
        root: root.node,
    }
}

/// What only the dead tree has, by looking at everything.
fn only_in(store: &Store, dead: &CountedTree, live: &BTreeMap<u8, CountedTree>) -> HashSet<ObjectId> {
    let mut garbage = Garbage::mark(store.clone(), live.values().map(|tree| tree.root)).unwrap();
    garbage.condemn([dead.root]);
    (0..garbage.shards())
        .flat_map(|shard| garbage.objects(shard).unwrap())
        .collect()
}

fn take_dead(references: &mut References) -> HashSet<ObjectId> {
    let dead = references.dead_objects(None, usize::MAX).unwrap();
    references.objects_gone(&dead).unwrap();
    dead.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against marking as the model: trees come and go in any order, share nodes and objects, have some twice.
    #[test]
    fn what_is_listed_as_dead_is_what_only_the_dead_trees_have(
        steps in prop::collection::vec(
            (0u8..6, prop::collection::vec(prop::collection::vec(0u32..40, 0..6), 0..5)), 1..30),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut references = References::open(dir.path()).unwrap();
        let store = Store::default();
        let mut live: BTreeMap<u8, CountedTree> = BTreeMap::new();
        for (number, directories) in steps {
            if let Some(dead) = live.remove(&number) {
                references.count_out(&store, &dead).unwrap();
                prop_assert_eq!(take_dead(&mut references), only_in(&store, &dead, &live));
                let garbage = Garbage::mark(store.clone(), live.values().map(|tree| tree.root)).unwrap();
                for node in references.dead_nodes().unwrap() {
                    prop_assert_eq!(references.uses_node(&node).unwrap(), garbage.is_live(&node));
                }
                references.nodes_gone().unwrap();
            } else {
                let tree = tree(&store, number, &directories);
                references.count_in(&store, &tree).unwrap();
                // Once more changes nothing, and neither does a restart.
                references.count_in(&store, &tree).unwrap();
                references = References::open(dir.path()).unwrap();
                for object_number in directories.iter().flatten() {
                    prop_assert!(references.uses(&object(*object_number)).unwrap());
                }
                live.insert(number, tree);
            }
            prop_assert_eq!(references.trees().unwrap().len(), live.len());
        }
        for (_, dead) in live {
            references.count_out(&store, &dead).unwrap();
        }
        let left = |table: &str| -> i64 {
            references.db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        prop_assert_eq!((left("nodes"), left("objects"), left("trees")), (0, 0, 0));
    }
}

#[test]
fn what_comes_back_is_taken_off_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut references = References::open(dir.path()).unwrap();
    let store = Store::default();
    let old = tree(&store, 1, &[(0..200).collect()]);
    references.count_in(&store, &old).unwrap();
    references.count_out(&store, &old).unwrap();
    let new = tree(&store, 2, &[(3..200).collect()]);
    references.count_in(&store, &new).unwrap();
    let expected: HashSet<ObjectId> = (0..3).map(object).collect();
    let mut found = HashSet::new();
    let mut after = None;
    loop {
        let some = references.dead_objects(after.as_ref(), 10).unwrap();
        let Some(last) = some.last() else { break };
        after = Some(*last);
        found.extend(some);
    }
    assert_eq!(found, expected);
    assert_eq!(references.listed("dead_objects", None, usize::MAX).unwrap().len(), 3);
}

#[test]
fn counts_that_do_not_fit_are_noticed_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut references = References::open(dir.path()).unwrap();
    let store = Store::default();
    let tree = tree(&store, 1, &[vec![1, 2], vec![3]]);
    references.count_in(&store, &tree).unwrap();
    references
        .db
        .execute("DELETE FROM objects WHERE key = ?", [key(&object(3))])
        .unwrap();
    let error = references.count_out(&store, &tree).unwrap_err();
    assert!(matches!(error, ReferenceError::Inconsistent { .. }), "{error}");
    assert_eq!(references.trees().unwrap(), std::slice::from_ref(&tree));
    assert!(references.uses_node(&tree.root).unwrap() && references.dead_nodes().unwrap().is_empty());
    references.forget_all().unwrap();
    references.count_in(&store, &tree).unwrap();
    references.count_out(&store, &tree).unwrap();
    assert_eq!(references.dead_objects(None, 10).unwrap().len(), 3);
}

#[test]
fn a_tree_that_cannot_be_read_is_not_counted_in_and_an_unknown_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut references = References::open(dir.path()).unwrap();
    let store = Store::default();
    let mut missing = tree(&store, 1, &[vec![1]]);
    missing.root = NodeId::of(b"never stored");
    let error = references.count_in(&store, &missing).unwrap_err();
    assert!(
        matches!(error, ReferenceError::Catalog(CatalogError::Missing(_))),
        "{error}"
    );
    assert_eq!(references.trees().unwrap(), []);
    references.db.pragma_update(None, "user_version", 7).unwrap();
    let error = References::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, ReferenceError::UnknownVersion { found: 7, .. }),
        "{error}"
    );
    std::fs::write(dir.path().join(FILE), vec![b'x'; 5000]).unwrap();
    assert_eq!(References::open(dir.path()).unwrap().trees().unwrap(), []);
    assert!(dir.path().join("references.db.damaged").exists());
}
