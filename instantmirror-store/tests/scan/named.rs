//! Scans of named paths: what they look at, and that they come to what a full scan comes to.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use instantmirror_core::changes::ChangeSet;
use instantmirror_core::{ObjectId, RepoPath};
use instantmirror_store::scan::{Scanned, StampBook};

use super::{World, copying, file, opened};

impl World {
    /// A scan of what these directories are, and of nothing below those that are as they were.
    pub(super) fn scan_entries(&self, previous: &Scanned, paths: &[&str]) -> Scanned {
        let mut changes = ChangeSet::default();
        paths
            .iter()
            .for_each(|path| changes.insert_entry(&RepoPath::new(path).unwrap()));
        *self.changes.lock().unwrap() = Some(changes);
        let scanned = self.scan(Some(previous));
        *self.changes.lock().unwrap() = None;
        scanned
    }

    /// A scan of these paths, long after the last change.
    pub(super) fn scan_named(&self, previous: &Scanned, paths: &[&str]) -> Scanned {
        let mut changes = ChangeSet::default();
        paths
            .iter()
            .for_each(|path| changes.insert(&RepoPath::new(path).unwrap()));
        *self.changes.lock().unwrap() = Some(changes);
        let scanned = self.scan(Some(previous));
        *self.changes.lock().unwrap() = None;
        scanned
    }

    /// What a full scan finds after a scan of named paths: nothing new, and nothing to read.
    pub(super) fn assert_complete(&self, scanned: &Scanned) {
        let full = self.scan(Some(scanned));
        assert_eq!(full.root, scanned.root);
        assert_eq!(full.counts.read_files, 0);
    }
}

#[test]
fn named_paths_are_looked_at_and_nothing_else_is() {
    let world = World::new();
    world.write("a/one", "1");
    world.write("a/two", "2");
    world.write("b/three", "3");
    let first = world.scan(None);
    for path in ["a/one", "a/two", "b/three"] {
        world.write(path, "changed");
    }
    let second = world.scan_named(&first, &["a/one"]);
    assert_eq!((second.counts.read_files, second.counts.files), (1, 3));
    assert_eq!(file(&world, &second, "a/one").object, ObjectId::of(b"changed"));
    assert_eq!(file(&world, &second, "a/two").object, ObjectId::of(b"2"));
    assert_eq!(file(&world, &second, "b/three").object, ObjectId::of(b"3"));
    let third = world.scan_named(&second, &["a/two", "b"]);
    assert_eq!(third.counts.read_files, 2);
    world.assert_complete(&third);
}

#[test]
fn what_came_went_or_became_something_else_is_seen_by_its_name() {
    let world = World::new();
    for path in [
        "gone",
        "dir/gone",
        "dir/stays",
        "kind/was/dir",
        "file-then-dir",
        "swapped/old",
    ] {
        world.write(path, path);
    }
    let first = world.scan(None);
    fs::remove_file(world.path("gone")).unwrap();
    fs::remove_file(world.path("dir/gone")).unwrap();
    fs::remove_dir_all(world.path("kind/was")).unwrap();
    symlink("../dir", world.path("kind/was")).unwrap();
    fs::remove_file(world.path("file-then-dir")).unwrap();
    world.write("file-then-dir/inner", "x");
    world.write("new/deep/er", "x");
    world.write("new/beside", "x");
    // Another directory under the old name: all of it is new, whatever was named.
    world.write("elsewhere/one", "x");
    world.write("elsewhere/two", "x");
    fs::remove_dir_all(world.path("swapped")).unwrap();
    fs::rename(world.path("elsewhere"), world.path("swapped")).unwrap();
    let named = [
        "gone",
        "dir/gone",
        "dir/never",
        "kind/was/dir",
        "file-then-dir/inner",
        "new/deep/er",
        "swapped/one",
    ];
    let second = world.scan_named(&first, &named);
    world.assert_complete(&second);
    assert!(world.lookup(&second, "gone").is_none() && world.lookup(&second, "swapped/old").is_none());
    assert!(world.lookup(&second, "new/beside").is_some() && world.lookup(&second, "swapped/two").is_some());
}

#[test]
fn attributes_of_a_directory_are_seen_without_looking_below_it() {
    let world = World::new();
    world.write("dir/file", "x");
    let first = world.scan(None);
    fs::set_permissions(world.path("dir"), fs::Permissions::from_mode(0o775)).unwrap();
    fs::remove_file(world.path("dir/file")).unwrap();
    let second = world.scan_entries(&first, &["dir"]);
    assert_eq!(world.lookup(&second, "dir").unwrap().mode, 0o775);
    assert!(world.lookup(&second, "dir/file").is_some());
}

#[test]
fn a_lost_book_costs_reading_again_and_no_wrong_entry() {
    let world = World::new();
    (0..300).for_each(|n| world.write(&n.to_string(), format!("{n}")));
    let first = world.scan(None);
    fs::remove_dir_all(world.dir.path().join("store/stamps")).unwrap();
    world.write("7", "seven");
    let second = world.scan_named(&first, &["7"]);
    assert_eq!(second.counts.read_files, 1);
    assert_eq!(file(&world, &second, "7").object, ObjectId::of(b"seven"));
    let full = world.scan(Some(&second));
    assert_eq!(full.root, second.root);
    assert_eq!(full.counts.read_files, 299, "all that is not remembered");
}

#[test]
fn without_a_previous_snapshot_everything_is_looked_at() {
    let world = World::new();
    world.write("a", "a");
    world.write("b", "b");
    *world.changes.lock().unwrap() = Some(ChangeSet::default());
    assert_eq!(world.scan(None).counts.read_files, 2);
}

#[test]
fn the_book_tells_which_tree_it_belongs_to() {
    let world = World::new();
    world.write("a", "a");
    let root = || {
        let book = opened(|| StampBook::open(std::sync::Arc::clone(&world.disk), "stamps"));
        book.root().unwrap()
    };
    assert_eq!(root(), None);
    let first = world.scan(None);
    assert_eq!(root(), Some(first.root.node));
    world.write("a", "b");
    world.write("bad\u{1}name", "");
    assert!(world.try_scan(Some(&first), copying(), 3600).is_err());
    let refused = root().unwrap();
    assert_ne!(
        refused, first.root.node,
        "what was scanned and not published is no base for hints"
    );
}

/// A small generator of numbers; the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn with_right_hints_it_comes_to_what_a_full_scan_comes_to() {
    for seed in 0..20 {
        let (world, mut numbers) = (World::new(), Numbers(seed));
        world.write("keep", "x");
        let mut scanned = world.scan(None);
        for round in 0..6 {
            let mut named = Vec::new();
            for step in 0..8 {
                let dir = format!("d{}/e{}", numbers.below(3), numbers.below(3));
                let path = format!("{dir}/f{}", numbers.below(200));
                match numbers.below(10) {
                    0 => drop(fs::remove_dir_all(world.path(&dir))),
                    1..=3 => drop(fs::remove_file(world.path(&path))),
                    _ => world.write(&path, format!("{seed} {round} {step}")),
                }
                named.extend([dir, path]);
            }
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            scanned = world.scan_named(&scanned, &named);
            world.assert_complete(&scanned);
        }
    }
}
