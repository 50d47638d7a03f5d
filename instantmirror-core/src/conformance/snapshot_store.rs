//! The behaviours of a [`SnapshotStore`]. A factory makes an empty store.

/// Stamps the suite: one `#[test]` per behaviour of a snapshot store. Takes a factory, a function that returns a
/// [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! snapshot_store_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { snapshot_store, $factory,
            an_empty_store_has_nothing
            nodes_come_back_by_their_ids
            nodes_may_be_stored_again
            a_record_comes_back_as_it_was
            a_record_needs_every_node_of_its_tree
            a_record_needs_every_node_even_if_its_parent_is_whole
            a_record_that_miscounts_its_tree_is_refused
            a_record_may_be_stored_again
            another_record_of_the_same_snapshot_is_a_conflict
            snapshots_are_listed_by_repository
            records_are_those_of_all_repositories
            a_removed_snapshot_is_gone_and_others_stay
            removing_what_is_not_here_is_no_error
            a_removed_snapshot_can_be_stored_again
            a_head_comes_back_with_its_bytes
            a_newer_head_replaces_an_older_one
            an_older_head_is_a_conflict
            a_head_whose_keys_were_replaced_is_replaced_by_an_older_one
            key_lists_come_back_as_they_were
            heads_belong_to_their_repositories
            a_head_of_no_trusted_key_is_damaged
            a_head_outlives_the_snapshots_it_names
        }
    };
}
// end of the list

use std::time::Duration;

use super::Subject;
use crate::catalog::{Catalog, CatalogNode, build_directory};
use crate::head::{LiveSnapshot, SnapshotState};
use crate::traits::{SnapshotStore, StoreError};
use crate::{
    Directory, Entry, FileMeta, Head, Kind, Meta, Name, NodeId, ObjectId, PublicKey, RepoName, RepoPath, Root,
    SecretKey, SignedHead, Snapshot, SnapshotId, Timestamp,
};

/// A tree, its nodes (children first) and its record.
struct Tree {
    nodes: Vec<CatalogNode>,
    record: Snapshot,
}

fn repository() -> RepoName {
    "conformance".parse().unwrap()
}

fn entry(name: &str, kind: Kind) -> Entry {
    let (name, mode) = (Name::new(name).unwrap(), 0o644);
    Entry {
        name,
        meta: Meta { mode, mtime: 0, kind },
    }
}

fn files(seed: u8, count: u32) -> Vec<Entry> {
    let file = |i| {
        let kind = Kind::File(FileMeta {
            size: 3,
            object: ObjectId::of(&[seed]),
            first_piece: 0,
            link_group: None,
        });
        entry(&format!("file-{i:05}"), kind)
    };
    (0..count).map(file).collect()
}

/// A directory of `count` files, which takes several nodes if it is large, next to a small one of `seed`'s own.
fn tree(seed: u8, count: u32) -> Tree {
    let mut nodes = Vec::new();
    let mut build = |entries: &[Entry]| build_directory(entries, &mut |node| nodes.push(node)).unwrap();
    let (shared, own) = (build(&files(0, count)), build(&files(seed, 2)));
    let top = build(&[
        entry("own", Kind::Directory(own)),
        entry("pool", Kind::Directory(shared)),
    ]);
    Tree {
        nodes,
        record: record(seed, top),
    }
}

fn record(seed: u8, top: Directory) -> Snapshot {
    Snapshot {
        id: SnapshotId::from_random([seed; 16]),
        repository: repository(),
        created: Timestamp::from_millis(1_700_000_000_000),
        parent: None,
        note: format!("number {seed}"),
        root: Root {
            node: top.node,
            mode: 0o755,
            mtime: -1,
            files: top.files,
            bytes: top.bytes,
        },
    }
}

fn put(store: &impl SnapshotStore, tree: &Tree) {
    store.put_nodes(tree.nodes.clone()).unwrap();
    store.put_snapshot(&tree.record).unwrap();
}

fn stored(store: &impl SnapshotStore, id: SnapshotId) -> Option<Snapshot> {
    store.snapshot(&repository(), id).unwrap()
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_random([seed; 32])
}

fn head(repository: &RepoName, sequence: u64, keys: &[&SecretKey]) -> SignedHead {
    let issued = Timestamp::from_millis(1_700_000_000_000);
    let head = Head {
        repository: repository.clone(),
        sequence,
        issued,
        expires: issued.plus(Duration::from_secs(3600)),
        piece_length: 1 << 20,
        current: None,
        snapshots: Vec::new(),
        tags: Default::default(),
        key_list: 0,
        preseed: Vec::new(),
        grace_never: Vec::new(),
        removed: Vec::new(),
    };
    head.sign(keys).unwrap()
}

fn sequence(store: &impl SnapshotStore, repository: &RepoName, trusted: &[PublicKey]) -> Option<u64> {
    let head = store.head(repository, trusted).unwrap();
    head.map(|head| head.head().sequence)
}

/// Nothing is there before something was stored, and asking for it is no error.
pub fn an_empty_store_has_nothing<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let node = NodeId::of(b"node");
    assert_eq!(store.node(&node).unwrap(), None);
    assert!(!store.has_node(&node).unwrap());
    assert_eq!(stored(&*store, SnapshotId::from_random([1; 16])), None);
    assert_eq!(store.snapshots(&repository()).unwrap(), []);
    assert_eq!(sequence(&*store, &repository(), &[key(1).public()]), None);
}

/// Bytes are found by their hash, and by nothing else.
pub fn nodes_come_back_by_their_ids<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 2000);
    store.put_nodes(tree.nodes.clone()).unwrap();
    for node in &tree.nodes {
        assert_eq!(store.node(&node.id()).unwrap().as_ref(), Some(node.bytes()));
        assert!(store.has_node(&node.id()).unwrap());
    }
    assert!(!store.has_node(&NodeId::of(b"other")).unwrap());
    store.put_nodes(Vec::new()).unwrap();
}

/// Storing what is there is no error, also within one call.
pub fn nodes_may_be_stored_again<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 10);
    for _ in 0..3 {
        let twice = [tree.nodes.clone(), tree.nodes.clone()].concat();
        store.put_nodes(twice).unwrap();
    }
    put(&*store, &tree);
}

/// A record is named by its hash, and its tree can be walked.
pub fn a_record_comes_back_as_it_was<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 2000);
    store.put_nodes(tree.nodes.clone()).unwrap();
    assert_eq!(stored(&*store, tree.record.id), None, "visible before its record");
    let id = store.put_snapshot(&tree.record).unwrap();
    assert_eq!(id, tree.record.encode().0);
    assert_eq!(stored(&*store, tree.record.id).as_ref(), Some(&tree.record));
    let path = RepoPath::new("pool/file-01999").unwrap();
    let found = Catalog::new(&*store, tree.record.root.meta()).lookup(&path).unwrap();
    assert!(found.is_some_and(|meta| meta.as_file().is_some()));
}

/// A record without its whole tree is not stored, whichever node is missing.
pub fn a_record_needs_every_node_of_its_tree<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let tree = tree(1, 600);
    for missing in 0..tree.nodes.len() {
        let store = make();
        let mut nodes = tree.nodes.clone();
        let last = nodes.remove(missing);
        store.put_nodes(nodes).unwrap();
        let refused = store.put_snapshot(&tree.record).unwrap_err();
        assert!(refused.to_string().contains(&last.id().to_string()), "{refused}");
        assert_eq!(stored(&*store, tree.record.id), None);
        assert_eq!(store.snapshots(&repository()).unwrap(), []);
        store.put_nodes(vec![last]).unwrap();
        store.put_snapshot(&tree.record).unwrap();
    }
}

/// A shortcut through the parent's tree leaves no node out.
pub fn a_record_needs_every_node_even_if_its_parent_is_whole<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let (first, mut second) = (tree(1, 600), tree(2, 601));
    second.record.parent = Some(first.record.id);
    let shared = |node: &CatalogNode| first.nodes.iter().any(|held| held.id() == node.id());
    let new: Vec<_> = second.nodes.iter().filter(|node| !shared(node)).cloned().collect();
    assert!(new.len() >= 3 && new.len() < second.nodes.len());
    for missing in 0..new.len() {
        let store = make();
        put(&*store, &first);
        let mut nodes = new.clone();
        let last = nodes.remove(missing);
        store.put_nodes(nodes).unwrap();
        assert!(store.put_snapshot(&second.record).is_err());
        assert_eq!(stored(&*store, second.record.id), None);
        store.put_nodes(vec![last]).unwrap();
        store.put_snapshot(&second.record).unwrap();
    }
}

/// What a record says of its tree is true.
pub fn a_record_that_miscounts_its_tree_is_refused<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 10);
    store.put_nodes(tree.nodes.clone()).unwrap();
    let mut wrong = [tree.record.clone(), tree.record.clone()];
    wrong[0].root.files += 1;
    wrong[1].root.bytes -= 1;
    for record in wrong {
        assert!(store.put_snapshot(&record).is_err());
        assert_eq!(stored(&*store, record.id), None);
    }
    store.put_snapshot(&tree.record).unwrap();
}

/// The same record again is the same record.
pub fn a_record_may_be_stored_again<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 10);
    put(&*store, &tree);
    assert_eq!(store.put_snapshot(&tree.record).unwrap(), tree.record.encode().0);
    assert_eq!(store.snapshots(&repository()).unwrap(), [tree.record.id]);
}

/// A snapshot id has one record for ever.
pub fn another_record_of_the_same_snapshot_is_a_conflict<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 10);
    put(&*store, &tree);
    let mut other = tree.record.clone();
    other.note = "something else".to_owned();
    let refused = store.put_snapshot(&other);
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    assert_eq!(stored(&*store, tree.record.id), Some(tree.record));
}

/// Each repository has its own snapshots; the same id in two of them is two records.
pub fn snapshots_are_listed_by_repository<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (first, second) = (tree(1, 10), tree(2, 10));
    put(&*store, &first);
    put(&*store, &second);
    let other: RepoName = "conformance.2".parse().unwrap();
    let mut theirs = first.record.clone();
    theirs.repository = other.clone();
    store.put_snapshot(&theirs).unwrap();
    let mut ids = store.snapshots(&repository()).unwrap();
    ids.sort();
    assert_eq!(ids, [first.record.id, second.record.id]);
    assert_eq!(store.snapshots(&other).unwrap(), [theirs.id]);
    assert_eq!(store.snapshot(&other, theirs.id).unwrap(), Some(theirs));
    assert_eq!(stored(&*store, first.record.id), Some(first.record));
    assert_eq!(store.snapshot(&other, second.record.id).unwrap(), None);
}

/// Each once, whether or not there is a head.
pub fn records_are_those_of_all_repositories<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    assert_eq!(store.records().unwrap(), []);
    let (first, second) = (tree(1, 10), tree(2, 10));
    put(&*store, &first);
    put(&*store, &second);
    let other: RepoName = "conformance.2".parse().unwrap();
    let mut theirs = first.record.clone();
    theirs.repository = other.clone();
    store.put_snapshot(&theirs).unwrap();
    store.remove_snapshot(&repository(), second.record.id).unwrap();
    let mut records = store.records().unwrap();
    records.sort();
    assert_eq!(records, [(repository(), first.record.id), (other, theirs.id)]);
}

/// Removal takes one snapshot, and nothing that another one needs.
pub fn a_removed_snapshot_is_gone_and_others_stay<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (first, second) = (tree(1, 600), tree(2, 600));
    put(&*store, &first);
    put(&*store, &second);
    store.remove_snapshot(&repository(), first.record.id).unwrap();
    assert_eq!(stored(&*store, first.record.id), None);
    assert_eq!(store.snapshots(&repository()).unwrap(), [second.record.id]);
    assert_eq!(stored(&*store, second.record.id).as_ref(), Some(&second.record));
    for node in &second.nodes {
        assert_eq!(store.node(&node.id()).unwrap().as_ref(), Some(node.bytes()));
    }
}

/// Removing twice, or what never was, does nothing.
pub fn removing_what_is_not_here_is_no_error<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 10);
    store.remove_snapshot(&repository(), tree.record.id).unwrap();
    put(&*store, &tree);
    let other: RepoName = "other".parse().unwrap();
    store.remove_snapshot(&other, tree.record.id).unwrap();
    assert_eq!(stored(&*store, tree.record.id), Some(tree.record));
}

/// Removing is not forbidding.
pub fn a_removed_snapshot_can_be_stored_again<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let tree = tree(1, 600);
    for _ in 0..3 {
        put(&*store, &tree);
        assert_eq!(stored(&*store, tree.record.id).as_ref(), Some(&tree.record));
        store.remove_snapshot(&repository(), tree.record.id).unwrap();
    }
}

/// A head is kept as the bytes that prove it to others.
pub fn a_head_comes_back_with_its_bytes<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let head = head(&repository(), 7, &[&key(1)]);
    store.put_head(&head).unwrap();
    let kept = store.head(&repository(), &[key(1).public()]).unwrap().unwrap();
    assert_eq!(kept, head);
    assert_eq!(kept.bytes(), head.bytes());
}

/// There is one head per repository: the newest.
pub fn a_newer_head_replaces_an_older_one<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (key, trusted) = (key(1), [key(1).public()]);
    for number in [1, 2, 2, 5, 1_700_000_000_000] {
        store.put_head(&head(&repository(), number, &[&key])).unwrap();
        assert_eq!(sequence(&*store, &repository(), &trusted), Some(number));
    }
}

/// Heads never go back, not by accident either.
pub fn an_older_head_is_a_conflict<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (key, trusted) = (key(1), [key(1).public()]);
    store.put_head(&head(&repository(), 5, &[&key])).unwrap();
    for number in [0, 4] {
        let refused = store.put_head(&head(&repository(), number, &[&key]));
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
        assert_eq!(sequence(&*store, &repository(), &trusted), Some(5));
    }
}

/// What a caller knows not to count any more goes.
pub fn a_head_whose_keys_were_replaced_is_replaced_by_an_older_one<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (key, trusted) = (key(1), [key(1).public()]);
    store.put_head(&head(&repository(), 9, &[&key])).unwrap();
    store.replace_head(&head(&repository(), 2, &[&key])).unwrap();
    assert_eq!(sequence(&*store, &repository(), &trusted), Some(2));
}

/// Key lists belong to a repository, and new ones replace old ones.
pub fn key_lists_come_back_as_they_were<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let keys = |repository: &RepoName| store.keys(repository).unwrap();
    assert_eq!(keys(&repository()), None);
    for content in ["one\n", "one\ntwo\n", ""] {
        store.put_keys(&repository(), content.into()).unwrap();
        assert_eq!(keys(&repository()).as_deref(), Some(content.as_bytes()));
    }
    assert_eq!(keys(&"other".parse().unwrap()), None);
}

/// One repository's head says nothing of another's.
pub fn heads_belong_to_their_repositories<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (key, trusted) = (key(1), [key(1).public()]);
    let other: RepoName = "other".parse().unwrap();
    store.put_head(&head(&repository(), 5, &[&key])).unwrap();
    assert_eq!(sequence(&*store, &other, &trusted), None);
    store.put_head(&head(&other, 2, &[&key])).unwrap();
    assert_eq!(sequence(&*store, &repository(), &trusted), Some(5));
    assert_eq!(sequence(&*store, &other, &trusted), Some(2));
}

/// What is stored is verified with the keys that are trusted now, not with those of the day it came.
pub fn a_head_of_no_trusted_key_is_damaged<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (old, new, stranger) = (key(1), key(2), key(3));
    store.put_head(&head(&repository(), 1, &[&old, &new])).unwrap();
    for trusted in [
        vec![old.public()],
        vec![new.public()],
        vec![stranger.public(), new.public()],
    ] {
        assert_eq!(sequence(&*store, &repository(), &trusted), Some(1));
    }
    for trusted in [vec![stranger.public()], vec![]] {
        let refused = store.head(&repository(), &trusted);
        assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    }
    assert_eq!(sequence(&*store, &repository(), &[new.public()]), Some(1));
}

/// Head and snapshots are kept apart: the store does not judge what a head names.
pub fn a_head_outlives_the_snapshots_it_names<S: SnapshotStore>(make: &dyn Fn() -> Subject<S>) {
    let store = make();
    let (tree, key) = (tree(1, 10), key(1));
    let mut naming = head(&repository(), 3, &[&key]).head().clone();
    let released = naming.issued;
    naming.current = Some(tree.record.id);
    naming.snapshots = vec![LiveSnapshot {
        id: tree.record.id,
        record: tree.record.encode().0,
        state: SnapshotState::released(released, 1),
    }];
    store.put_head(&naming.sign(&[&key]).unwrap()).unwrap();
    assert_eq!(stored(&*store, tree.record.id), None);
    put(&*store, &tree);
    store.remove_snapshot(&repository(), tree.record.id).unwrap();
    assert_eq!(sequence(&*store, &repository(), &[key.public()]), Some(3));
}
