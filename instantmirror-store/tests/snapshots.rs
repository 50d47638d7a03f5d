//! The snapshot store: what is acknowledged survives, what is damaged is named, heads never go back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::catalog::{CatalogNode, NodeSource, build_directory};
use instantmirror_core::traits::SnapshotStore;
use instantmirror_core::{
    Entry, FileMeta, Head, Kind, Meta, Name, ObjectId, RepoName, Root, SecretKey, SignedHead, Snapshot, SnapshotId,
    StoreError, Timestamp,
};
use instantmirror_store::disk::{Disk, Fault, SimDisk};
use instantmirror_store::snapshots::DiskSnapshotStore;

fn open(disk: &SimDisk) -> DiskSnapshotStore {
    DiskSnapshotStore::open(Arc::new(disk.clone()), "store").unwrap()
}

fn repo() -> RepoName {
    "fedora".parse().unwrap()
}

/// A tree of `files` files, its nodes and its record.
fn snapshot(number: u8, files: u32, parent: Option<SnapshotId>) -> (Snapshot, Vec<CatalogNode>) {
    let file = |i: u32| {
        let object = ObjectId::of(&[number]);
        let kind = Kind::File(FileMeta {
            size: 1,
            object,
            first_piece: 0,
            link_group: None,
        });
        Entry {
            name: Name::new(format!("file-{i:05}")).unwrap(),
            meta: Meta {
                mode: 0o644,
                mtime: 0,
                kind,
            },
        }
    };
    let mut nodes = Vec::new();
    let entries: Vec<_> = (0..files).map(file).collect();
    let root = build_directory(&entries, &mut |node| nodes.push(node)).unwrap();
    let root = Root {
        node: root.node,
        mode: 0o755,
        mtime: 0,
        files: root.files,
        bytes: root.bytes,
    };
    let id = SnapshotId::from_random([number; 16]);
    let created = Timestamp::from_millis(1_700_000_000_000);
    (
        Snapshot {
            id,
            repository: repo(),
            created,
            parent,
            note: String::new(),
            root,
        },
        nodes,
    )
}

fn put(store: &DiskSnapshotStore, (snapshot, nodes): &(Snapshot, Vec<CatalogNode>)) -> Result<(), StoreError> {
    store.put_nodes(nodes.clone())?;
    store.put_snapshot(snapshot).map(|_| ())
}

fn head(key: &SecretKey, sequence: u64) -> SignedHead {
    let issued = Timestamp::from_millis(1_700_000_000_000);
    let head = Head {
        repository: repo(),
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
    head.sign(&[key]).unwrap()
}

fn key() -> SecretKey {
    SecretKey::from_random([7; 32])
}

#[test]
fn snapshots_and_heads_survive_a_restart_and_readers_see_them() {
    let disk = SimDisk::new();
    let (first, second) = (
        snapshot(1, 2000, None),
        snapshot(2, 2001, Some(SnapshotId::from_random([1; 16]))),
    );
    {
        let store = open(&disk);
        assert!(store.put_snapshot(&first.0).is_err(), "its nodes are missing");
        put(&store, &first).unwrap();
        put(&store, &second).unwrap();
        put(&store, &second).unwrap();
        let other = Snapshot {
            note: "x".to_owned(),
            ..second.0.clone()
        };
        assert!(matches!(store.put_snapshot(&other), Err(StoreError::Conflict(_))));
        store.put_head(&head(&key(), 5)).unwrap();
        assert!(matches!(store.put_head(&head(&key(), 4)), Err(StoreError::Conflict(_))));
        assert!(
            DiskSnapshotStore::open(Arc::new(disk.clone()), "store").is_err(),
            "one writer"
        );
        let reader = DiskSnapshotStore::open_reader(Arc::new(disk.clone()), "store").unwrap();
        assert_eq!(reader.snapshot(&repo(), second.0.id).unwrap(), Some(second.0.clone()));
    }
    let store = open(&disk.crash(3));
    let mut ids = store.snapshots(&repo()).unwrap();
    ids.sort();
    assert_eq!(ids, [first.0.id, second.0.id]);
    assert_eq!(store.snapshots(&"other".parse().unwrap()).unwrap(), []);
    let kept = store.head(&repo(), &[key().public()]).unwrap().unwrap();
    assert_eq!(kept.head().sequence, 5);
    for node in &second.1 {
        assert_eq!(store.node(&node.id()).unwrap().as_ref(), Some(node.bytes()));
    }
    let stranger = SecretKey::from_random([8; 32]).public();
    assert!(matches!(store.head(&repo(), &[stranger]), Err(StoreError::Damaged(_))));
}

#[test]
fn garbage_collection_keeps_exactly_what_snapshots_refer_to() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let (first, second) = (snapshot(1, 2000, None), snapshot(2, 2000, None));
    put(&store, &first).unwrap();
    put(&store, &second).unwrap();
    store.remove_snapshot(&repo(), first.0.id).unwrap();
    store.remove_snapshot(&repo(), first.0.id).unwrap();
    assert!(store.collect_garbage().unwrap().removed > 0);
    assert_eq!(store.node(&first.0.root.node).unwrap(), None);
    assert!(!store.has_node(&first.0.root.node).unwrap());
    for node in &second.1 {
        assert!(store.node(&node.id()).unwrap().is_some());
    }
    put(&store, &first).unwrap();
}

#[test]
fn power_cut_at_every_operation_never_shows_half_a_snapshot() {
    let (first, second) = (snapshot(1, 300, None), snapshot(2, 301, None));
    for at in 1.. {
        let disk = SimDisk::new();
        let store = open(&disk);
        put(&store, &first).unwrap();
        store.put_head(&head(&key(), 1)).unwrap();
        disk.fail_at(at, Fault::PowerCut);
        let second_done = put(&store, &second).is_ok();
        let head_done = store.put_head(&head(&key(), 2)).is_ok();
        let removed = store.remove_snapshot(&repo(), first.0.id).is_ok();
        for seed in 0..20 {
            let store = open(&disk.crash(seed * 31 + at));
            let sequence = store.head(&repo(), &[key().public()]).unwrap().unwrap().head().sequence;
            assert!(sequence == 2 || (sequence == 1 && !head_done), "cut at {at}");
            for ((snapshot, nodes), must, may) in [(&first, !head_done, !removed), (&second, second_done, true)] {
                let found = store.snapshot(&repo(), snapshot.id).unwrap();
                assert!(found.is_some() || !must, "cut at {at}: lost");
                assert!(found.is_none() || may, "cut at {at}: came back");
                if found.is_some() {
                    assert!(
                        nodes.iter().all(|node| store.node(&node.id()).unwrap().is_some()),
                        "cut at {at}"
                    );
                }
            }
            put(&store, &second).unwrap();
        }
        if !disk.is_off() {
            break;
        }
    }
}

#[test]
fn damaged_records_heads_and_nodes_are_named_and_heal() {
    let disk = SimDisk::new();
    let data = snapshot(1, 500, None);
    {
        let store = open(&disk);
        put(&store, &data).unwrap();
        store.put_head(&head(&key(), 1)).unwrap();
    }
    let record = format!("store/records/fedora/{}.record", data.0.id);
    let len = disk.metadata(Path::new(&record)).unwrap().len;
    for at in (0..usize::try_from(len).unwrap()).step_by(5) {
        let damaged = disk.crash(0);
        damaged.tamper(&record, |bytes| bytes[at] ^= 4).unwrap();
        let store = open(&damaged);
        match store.snapshot(&repo(), data.0.id) {
            Err(StoreError::Damaged(text)) => assert!(text.contains(&record), "{text}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    disk.tamper(&record, |bytes| bytes.truncate(90)).unwrap();
    disk.tamper("store/heads/fedora.head", |bytes| bytes[40] ^= 1).unwrap();
    disk.tamper("store/catalog/seg-00000001.pack", |bytes| bytes[100] ^= 1)
        .unwrap();
    let store = open(&disk);
    let broken = data.1.iter().filter(|node| store.node(&node.id()).is_err()).count();
    assert_eq!(broken, 1);
    assert!(matches!(
        store.head(&repo(), &[key().public()]),
        Err(StoreError::Damaged(_))
    ));
    put(&store, &data).unwrap();
    store.put_head(&head(&key(), 1)).unwrap();
    assert!(data.1.iter().all(|node| store.node(&node.id()).unwrap().is_some()));
    assert_eq!(store.snapshot(&repo(), data.0.id).unwrap(), Some(data.0.clone()));
    assert!(store.head(&repo(), &[key().public()]).unwrap().is_some());
}
