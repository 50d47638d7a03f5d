//! Dry runs: they come to what a scan comes to, and leave nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use instantmirror_core::catalog::Differences;
use instantmirror_store::StoreError;
use instantmirror_store::digest::DigestTable;
use instantmirror_store::disk::RealDisk;
use instantmirror_store::objects::ObjectStore;
use instantmirror_store::pack::{PackOptions, PackStore};
use instantmirror_store::scan::{LeftOutWhy, PieceSpace, ScanParts, Scanned, StampBook, scan_dry};
use instantmirror_store::snapshots::DiskSnapshotStore;
use instantmirror_store::tree::SourceTree;

use super::{Open, PIECE, World, copying, directory};

/// All below a directory: mode, times, inode and content.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut work = vec![dir.to_path_buf()];
    while let Some(path) = work.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            work.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let times = (
            meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
        );
        found.insert(path, (meta.mode(), times.0, times.1, meta.ino(), content));
    }
    found
}

impl World {
    /// A dry run, and the paths that differ from `previous`.
    fn scan_dry(&self, previous: Option<&Scanned>) -> (Scanned, Option<StoreError>, Vec<String>) {
        let disk = || Arc::clone(&self.disk);
        let digests = Arc::new(DigestTable::open_overlay(disk(), "digests").unwrap());
        let open = Open {
            snapshots: DiskSnapshotStore::open_overlay(disk(), "").unwrap(),
            objects: ObjectStore::open_dry(disk(), digests),
            read_bytes: AtomicU64::new(0),
            once_listed: std::sync::Mutex::default(),
        };
        let tree = SourceTree::open(self.dir.path().join("source")).unwrap();
        let rules = self.rules.lock().unwrap().clone();
        let parts = ScanParts {
            tree: &tree,
            objects: &open.objects,
            nodes: &open.snapshots,
            book: &StampBook::open_overlay(disk(), "stamps").unwrap(),
            pieces: &PieceSpace::open_overlay(disk(), "pieces", PIECE).unwrap(),
            previous: previous.map(directory),
            changes: None,
            import: copying(),
            rules: &rules,
            now: i64::MAX,
        };
        let (scanned, refusal) = scan_dry(&parts, &open).unwrap();
        let before = previous.map(|previous| previous.root.node);
        let differences = Differences::new(open.snapshots.walker(), before, scanned.root.node);
        let mut paths: Vec<String> = differences.map(|found| found.unwrap().path.to_string()).collect();
        paths.sort();
        (scanned, refusal, paths)
    }
}

#[test]
fn a_dry_run_comes_to_what_the_scan_comes_to_and_leaves_the_store_as_it_was() {
    let world = World::new();
    for n in 0..40 {
        world.write(&format!("d{}/f{n}", n % 5), format!("content {n}"));
    }
    let store = world.dir.path().join("store");
    // Before the first scan there is nothing at all, and nothing comes.
    let empty = everything(&store);
    let (dry, refusal, paths) = world.scan_dry(None);
    assert_eq!(everything(&store), empty);
    assert_eq!((dry.counts.read_files, paths.len(), refusal.is_none()), (40, 40, true));
    let first = world.scan(None);
    assert_eq!((dry.root.files, dry.root.bytes), (first.root.files, first.root.bytes));

    world.write("d1/f1", "another content");
    fs::remove_file(world.path("d2/f2")).unwrap();
    // A second name of a file that was known, and one of a new file: the tree is walked twice.
    fs::hard_link(world.path("d3/f3"), world.path("d3/linked")).unwrap();
    world.write("new", "new");
    fs::hard_link(world.path("new"), world.path("new too")).unwrap();
    symlink("new", world.path("link")).unwrap();
    world.write("key", "key");
    fs::set_permissions(world.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = everything(&store);
    let (dry, refusal, paths) = world.scan_dry(Some(&first));
    assert_eq!(everything(&store), before);
    assert!(refusal.is_none());
    assert_eq!(dry.left_out[&LeftOutWhy::Private].count, 1);
    assert_eq!(dry.counts.read_files, 3);
    assert_eq!(
        paths,
        ["d1/f1", "d2/f2", "d3/f3", "d3/linked", "link", "new", "new too"]
    );
    let second = world.scan(Some(&first));
    assert_eq!(dry.left_out, second.left_out);
    let snapshots = DiskSnapshotStore::open_reader(Arc::clone(&world.disk), "").unwrap();
    let differences = Differences::new(snapshots.walker(), Some(first.root.node), second.root.node);
    let mut real: Vec<String> = differences.map(|found| found.unwrap().path.to_string()).collect();
    real.sort();
    assert_eq!(real, paths);
    // What was published once has its place in the piece space, so a dry run finds the very same tree.
    let (dry, _, paths) = world.scan_dry(Some(&second));
    assert_eq!((dry.root, paths.len()), (second.root, 0));
}

#[test]
fn a_dry_run_says_what_would_be_refused_and_what_the_rest_would_be() {
    let world = World::new();
    world.write("a", "a");
    let first = world.scan(None);
    world.write("bad\u{1}name", "x");
    world.write("b", "b");
    let before = everything(&world.dir.path().join("store"));
    let (dry, refusal, paths) = world.scan_dry(Some(&first));
    let Some(StoreError::Unpublishable { count: 1, problems, .. }) = refusal else {
        panic!("{refusal:?}")
    };
    assert!(problems[0].starts_with("bad\\x01name"), "{problems:?}");
    assert_eq!((paths, dry.root.files), (vec!["b".to_owned()], 2));
    assert_eq!(everything(&world.dir.path().join("store")), before);
    let real = world.try_scan(Some(&first), copying(), 3600);
    assert!(matches!(real, Err(StoreError::Unpublishable { .. })), "{real:?}");
}

#[test]
fn an_overlay_is_seen_by_itself_alone_and_sees_what_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::open(dir.path()).unwrap());
    let absent = PackStore::open_overlay(disk(), "absent").unwrap();
    assert_eq!(absent.get(&[1; 32]).unwrap(), None);
    absent.put_batch([([1; 32], "one")]).unwrap();
    assert_eq!(absent.get(&[1; 32]).unwrap().as_deref(), Some(b"one".as_slice()));
    assert!(!dir.path().join("absent").exists());

    let writer = PackStore::open_writer(disk(), "packs", PackOptions::default()).unwrap();
    writer.put_batch([([1; 32], "one"), ([2; 32], "two")]).unwrap();
    let overlay = PackStore::open_overlay(disk(), "packs").unwrap();
    assert_eq!(overlay.put_missing([([1; 32], "same"), ([3; 32], "three")]).unwrap(), 1);
    overlay.put_batch([([2; 32], "another")]).unwrap();
    let read = |store: &PackStore, key| store.get(&[key; 32]).unwrap().map(|value| value.to_vec());
    assert_eq!(read(&overlay, 1), Some(b"one".to_vec()));
    assert_eq!(read(&overlay, 2), Some(b"another".to_vec()));
    assert_eq!(read(&overlay, 3), Some(b"three".to_vec()));
    assert_eq!((read(&writer, 2), read(&writer, 3)), (Some(b"two".to_vec()), None));
    writer.put_batch([([4; 32], "four")]).unwrap();
    assert_eq!(read(&overlay, 4), Some(b"four".to_vec()));
    let copier = Arc::new(overlay).copier();
    assert_eq!(copier.get(&[3; 32]).unwrap().as_deref(), Some(b"three".as_slice()));
    assert_eq!(copier.get(&[2; 32]).unwrap().as_deref(), Some(b"another".as_slice()));
}
