//! The scanner over real trees: what is read, what is not, and what a snapshot may never contain.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod dry;
mod named;
mod rules;
mod sparse;
mod stamps;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use instantmirror_core::catalog::{Catalog, CatalogNode, check_closure};
use instantmirror_core::changes::ChangeSet;
use instantmirror_core::conformance::ReadNow as _;
use instantmirror_core::traits::Objects as _;
use instantmirror_core::{CacheError, Directory, Kind, Meta, ObjectId, RepoPath};
use instantmirror_store::StoreError;
use instantmirror_store::digest::DigestTable;
use instantmirror_store::disk::{Disk, RealDisk};
use instantmirror_store::import::ImportOptions;
use instantmirror_store::objects::ObjectStore;
use instantmirror_store::scan::{
    LeftOutWhy, OnUnpublishable, PieceSpace, ScanParts, ScanRules, ScanSink, Scanned, StampBook, scan,
};
use instantmirror_store::snapshots::DiskSnapshotStore;
use instantmirror_store::tree::SourceTree;

const PIECE: u32 = 64 << 10;
/// Files come into the store as copies.
fn copying() -> ImportOptions {
    let mut options = ImportOptions::default();
    options.reflink = false;
    options
}

/// Files come into the store as hard links.
fn linking() -> ImportOptions {
    let mut options = copying();
    options.hardlink = true;
    options
}

/// A source tree and a store beside it, on one file system.
struct World {
    dir: tempfile::TempDir,
    disk: Arc<dyn Disk>,
    read_bytes: AtomicU64,
    rules: Mutex<ScanRules>,
    changes: Mutex<Option<ChangeSet>>,
}

/// The store, open for one scan.
struct Open {
    snapshots: DiskSnapshotStore,
    objects: ObjectStore,
    read_bytes: AtomicU64,
    /// Done as soon as the scan has listed the root, before it has opened anything in it.
    once_listed: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl ScanSink for Open {
    fn listed(&self, _: u64) {
        if let Some(act) = self.once_listed.lock().unwrap().take() {
            act();
        }
    }

    fn nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        self.snapshots.put_nodes_now(&nodes)
    }

    fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Opens for writing. A `cp` that another test has just forked holds copies of our descriptors, and with them a lock that was
/// given up, until it has become `cp`.
fn opened<T>(open: impl Fn() -> Result<T, StoreError>) -> T {
    let begun = std::time::Instant::now();
    loop {
        match open() {
            Err(StoreError::Locked { .. }) if begun.elapsed().as_secs() < 60 => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        let disk = Arc::new(RealDisk::open(dir.path().join("store")).unwrap());
        Self {
            dir,
            disk,
            read_bytes: AtomicU64::new(0),
            rules: Mutex::default(),
            changes: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("source").join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn open(&self) -> Open {
        let digests = Arc::new(opened(|| DigestTable::open(Arc::clone(&self.disk), "digests")));
        Open {
            snapshots: opened(|| DiskSnapshotStore::open(Arc::clone(&self.disk), "")),
            objects: ObjectStore::open(Arc::clone(&self.disk), digests).unwrap(),
            read_bytes: AtomicU64::new(0),
            once_listed: Mutex::default(),
        }
    }

    fn try_scan(&self, previous: Option<&Scanned>, import: ImportOptions, later: i64) -> Result<Scanned, StoreError> {
        self.scan_with(self.open(), previous, import, later)
    }

    fn scan_with(
        &self,
        open: Open,
        previous: Option<&Scanned>,
        import: ImportOptions,
        later: i64,
    ) -> Result<Scanned, StoreError> {
        let tree = SourceTree::open(self.dir.path().join("source")).unwrap();
        let book = opened(|| StampBook::open(Arc::clone(&self.disk), "stamps"));
        let pieces = opened(|| PieceSpace::open(Arc::clone(&self.disk), "pieces", PIECE));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let changes = self.changes.lock().unwrap().clone();
        let rules = self.rules.lock().unwrap().clone();
        let parts = ScanParts {
            tree: &tree,
            objects: &open.objects,
            nodes: &open.snapshots,
            book: &book,
            pieces: &pieces,
            previous: previous.map(directory),
            changes: changes.as_ref(),
            import,
            rules: &rules,
            now: i64::try_from(now).unwrap() + later,
        };
        let scanned = scan(&parts, &open);
        self.read_bytes
            .store(open.read_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        let scanned = scanned?;
        check_closure(&open.snapshots, None, &directory(&scanned)).unwrap();
        Ok(scanned)
    }

    /// A scan long after the last change, so that time stamps can be relied on.
    fn scan(&self, previous: Option<&Scanned>) -> Scanned {
        self.try_scan(previous, copying(), 3600).unwrap()
    }

    fn lookup(&self, scanned: &Scanned, path: &str) -> Option<Meta> {
        let snapshots = DiskSnapshotStore::open_reader(Arc::clone(&self.disk), "").unwrap();
        Catalog::new(&snapshots, scanned.root.meta())
            .lookup(&RepoPath::new(path).unwrap())
            .unwrap()
    }

    fn object_file(&self, content: &[u8]) -> PathBuf {
        let id = ObjectId::of(content).to_string();
        self.dir.path().join("store/objects").join(&id[..2]).join(id)
    }

    fn reader(&self) -> ObjectStore {
        let digests = DigestTable::open_reader(Arc::clone(&self.disk), "digests").unwrap();
        ObjectStore::open(Arc::clone(&self.disk), Arc::new(digests)).unwrap()
    }
}

fn directory(scanned: &Scanned) -> Directory {
    Directory {
        node: scanned.root.node,
        files: scanned.root.files,
        bytes: scanned.root.bytes,
    }
}

fn file(world: &World, scanned: &Scanned, path: &str) -> instantmirror_core::FileMeta {
    *world
        .lookup(scanned, path)
        .unwrap_or_else(|| panic!("no {path}"))
        .as_file()
        .unwrap()
}

#[test]
fn what_is_in_the_tree_is_in_the_catalog_and_its_content_in_the_store() {
    let world = World::new();
    world.write("a", "content of a");
    world.write("dir/deep/b", vec![b'b'; 200_000]);
    world.write("empty", "");
    std::fs::create_dir(world.path("nothing")).unwrap();
    symlink("dir/deep/b", world.path("link")).unwrap();
    let scanned = world.scan(None);
    let counts = scanned.counts;
    assert_eq!(
        (counts.files, counts.directories, counts.symlinks, counts.read_files),
        (3, 4, 1, 3)
    );
    assert_eq!(scanned.root.bytes, 12 + 200_000);
    assert_eq!(
        file(&world, &scanned, "dir/deep/b").object,
        ObjectId::of(&[b'b'; 200_000])
    );
    assert_eq!(
        std::fs::read(world.object_file(b"content of a")).unwrap(),
        b"content of a"
    );
    assert!(matches!(world.lookup(&scanned, "link").unwrap().kind, Kind::Symlink(target) if &*target == "dir/deep/b"));
    assert_eq!(
        world.lookup(&scanned, "nothing").unwrap().as_directory().unwrap().files,
        0
    );
}

#[test]
fn unchanged_files_are_not_read_again_and_the_catalog_is_the_same() {
    let world = World::new();
    for i in 0..300 {
        world.write(&format!("d{}/f{i}", i % 7), format!("content {i}"));
    }
    let first = world.scan(None);
    let second = world.scan(Some(&first));
    assert_eq!((second.counts.read_files, second.root), (0, first.root));
    world.write("d3/f3", "another content");
    let third = world.scan(Some(&second));
    assert_eq!(third.counts.read_files, 1);
    assert_ne!(third.root.node, first.root.node);
    assert_eq!(world.lookup(&third, "d4"), world.lookup(&first, "d4"));
    std::fs::remove_file(world.path("d3/f3")).unwrap();
    let fourth = world.scan(Some(&third));
    assert_eq!((fourth.counts.files, fourth.counts.read_files), (299, 0));
    assert_eq!(world.lookup(&fourth, "d3/f3"), None);
}

#[test]
fn a_change_of_mode_or_time_alone_is_seen() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    world.write("f", "same content");
    let first = world.scan(None);
    std::fs::set_permissions(world.path("f"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let second = world.scan(Some(&first));
    assert_eq!(world.lookup(&second, "f").unwrap().mode, 0o755);
    let old = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::open(world.path("f")).unwrap().set_modified(old).unwrap();
    let third = world.scan(Some(&second));
    assert_eq!(world.lookup(&third, "f").unwrap().mtime, 1_000_000_000);
    assert_eq!(file(&world, &third, "f").object, file(&world, &first, "f").object);
}

#[test]
fn a_file_changed_within_the_clocks_grain_is_read_again() {
    let world = World::new();
    world.write("f", "version 1");
    let first = world.try_scan(None, copying(), 0).unwrap();
    // The worst case: same size, and time stamps put back to what they were.
    let modified = std::fs::metadata(world.path("f")).unwrap().modified().unwrap();
    world.write("f", "version 2");
    std::fs::File::open(world.path("f"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    let second = world.try_scan(Some(&first), copying(), 0).unwrap();
    assert_eq!(file(&world, &second, "f").object, ObjectId::of(b"version 2"));
}

#[test]
fn a_scan_that_was_cut_off_is_taken_up_unless_its_objects_are_gone() {
    let world = World::new();
    world.write("kept", "kept content");
    world.write("lost", "lost content");
    // Its snapshot was never committed, so the next scan has no previous root.
    world.scan(None);
    std::fs::remove_file(world.object_file(b"lost content")).unwrap();
    let scanned = world.scan(None);
    assert_eq!(scanned.counts.read_files, 1);
    assert!(world.object_file(b"lost content").is_file());
}

#[test]
fn hard_links_are_read_once_and_grouped() {
    for import in [copying(), linking()] {
        let world = World::new();
        world.write("a", vec![b'a'; 100_000]);
        world.write("other", "alone");
        std::fs::create_dir(world.path("dir")).unwrap();
        for name in ["b", "dir/c"] {
            std::fs::hard_link(world.path("a"), world.path(name)).unwrap();
        }
        let first = world.try_scan(None, import, 3600).unwrap();
        assert_eq!(first.counts.read_files, 2, "{import:?}");
        let groups: Vec<_> = ["a", "b", "dir/c"]
            .iter()
            .map(|path| file(&world, &first, path).link_group)
            .collect();
        assert!(groups[0].is_some() && groups.iter().all(|group| *group == groups[0]));
        let second = world.try_scan(Some(&first), import, 3600).unwrap();
        assert_eq!(
            (second.counts.read_files, second.root.node),
            (0, first.root.node),
            "{import:?}"
        );
    }
}

#[test]
fn a_hard_linked_import_shares_the_inode_and_is_not_read_again() {
    use std::os::unix::fs::MetadataExt as _;
    let world = World::new();
    world.write("f", "shared");
    let first = world.try_scan(None, linking(), 3600).unwrap();
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&world.path("f")), inode(&world.object_file(b"shared")));
    // The link made in the store is no name of the tree, and its ctime, which is that of now, says nothing.
    for _ in 0..3 {
        let again = world.try_scan(Some(&first), linking(), 0).unwrap();
        assert_eq!((again.counts.read_files, again.root), (0, first.root));
    }
}

#[test]
fn pieces_are_numbered_without_gaps_once_per_content_and_for_ever() {
    let world = World::new();
    world.write("a", vec![1; 3 * PIECE as usize]);
    world.write("copy-of-a", vec![1; 3 * PIECE as usize]);
    world.write("b", vec![2; PIECE as usize + 1]);
    world.write("empty", "");
    let first = world.scan(None);
    let number = |scanned: &Scanned, path: &str| file(&world, scanned, path).first_piece;
    assert_eq!(number(&first, "a"), number(&first, "copy-of-a"));
    assert_eq!(number(&first, "empty"), 0);
    let mut runs = [(number(&first, "a"), 3), (number(&first, "b"), 2)];
    runs.sort_unstable();
    assert_eq!((runs[0].0, runs[1].0), (0, runs[0].1), "no gap");
    world.write("c", vec![3; 10]);
    std::fs::remove_file(world.path("b")).unwrap();
    let second = world.scan(Some(&first));
    assert_eq!(number(&second, "a"), number(&first, "a"));
    assert_eq!(number(&second, "c"), 5, "indices of what is gone are not given again");
    world.write("b", vec![2; PIECE as usize + 1]);
    let third = world.scan(Some(&second));
    assert_eq!(
        number(&third, "b"),
        number(&first, "b"),
        "the same content comes back under its old number"
    );
}

#[test]
fn everything_unpublishable_is_listed_and_special_files_are_left_out() {
    use std::os::unix::ffi::OsStrExt as _;
    let world = World::new();
    world.write("good", "good");
    world.write("dir/control\u{1}", "x");
    world.write("new\nline", "x");
    std::fs::write(world.path("").join(std::ffi::OsStr::from_bytes(b"latin1-\xe9")), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
    let error = world.try_scan(None, copying(), 3600).unwrap_err();
    let StoreError::Unpublishable { count: 3, problems, .. } = &error else {
        panic!("{error}")
    };
    for part in ["dir/control\\x01", "new\\nline", "latin1-\\xe9"] {
        assert!(
            problems.iter().any(|problem| problem.contains(part)),
            "{part} in {problems:?}"
        );
    }
    assert!(error.to_string().contains("unpublishable = \"skip\""), "{error}");
    world.rules.lock().unwrap().unpublishable = OnUnpublishable::Skip;
    let scanned = world.scan(None);
    let left_out = |why| scanned.left_out.get(&why).map_or(0, |noted| noted.count);
    assert_eq!(scanned.counts.files, 1);
    assert_eq!(
        (left_out(LeftOutWhy::Unpublishable), left_out(LeftOutWhy::Special)),
        (3, 1)
    );
    world.rules.lock().unwrap().unpublishable = OnUnpublishable::Refuse;
    std::fs::remove_dir_all(world.path("dir")).unwrap();
    for entry in std::fs::read_dir(world.path("")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("good") && !path.ends_with("socket") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let scanned = world.scan(None);
    assert_eq!(scanned.counts.files, 1);
    assert_eq!(
        scanned.left_out[&LeftOutWhy::Special].example(),
        Some(("socket", "not a file, directory or symlink"))
    );
    assert_eq!(scanned.left_out.len(), 1);
}

#[test]
fn rotten_missing_and_foreign_objects_are_errors_never_wrong_bytes() {
    let world = World::new();
    let content = vec![b'x'; 200_000];
    world.write("f", &content);
    world.scan(None);
    let path = world.object_file(&content);
    let id = ObjectId::of(&content);
    let open = || futures_executor::block_on(world.reader().open(&id));
    assert_eq!(open().unwrap().unwrap().read_now(0..200_000).unwrap(), content);
    assert_eq!(open().unwrap().unwrap().read_now(70_000..70_001).unwrap(), b"x"[..]);
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a file of the test")]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).unwrap();
    let mut rotten = content.clone();
    rotten[150_000] ^= 1;
    std::fs::write(&path, &rotten).unwrap();
    let handle = open().unwrap().unwrap();
    assert!(handle.read_now(0..65_536).is_ok(), "groups that are right are served");
    assert!(matches!(
        handle.read_now(149_999..150_001),
        Err(CacheError::Damaged { .. })
    ));
    std::fs::write(&path, &content[..100_000]).unwrap();
    assert!(matches!(
        open().unwrap().unwrap().read_now(90_000..120_000),
        Err(CacheError::Damaged { .. })
    ));
    std::fs::remove_file(&path).unwrap();
    assert!(open().unwrap().is_none());
}

#[test]
fn what_a_killed_publisher_left_is_removed_before_the_next_publish() {
    let world = World::new();
    world.write("f", "x");
    std::fs::create_dir_all(world.dir.path().join("store/tmp")).unwrap();
    std::fs::write(world.dir.path().join("store/tmp/123-4"), "half a file").unwrap();
    world.open().objects.remove_leftovers().unwrap();
    world.scan(None);
    assert_eq!(
        std::fs::read_dir(world.dir.path().join("store/tmp")).unwrap().count(),
        0
    );
}

#[test]
fn an_object_that_a_cut_off_publish_left_without_content_is_written_again() {
    let world = World::new();
    let content = vec![b'p'; 100_000];
    world.write("f", &content);
    // What a power cut may leave of a file that was renamed and never synced: its length, and nothing in it.
    let path = world.object_file(&content);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, vec![0; content.len()]).unwrap();
    for import in [copying(), linking()] {
        world.try_scan(None, import, 3600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content, "{import:?}");
        assert_eq!(
            std::fs::read_dir(world.dir.path().join("store/tmp")).unwrap().count(),
            0
        );
    }
}

#[test]
fn a_part_of_the_store_that_is_gone_fails_the_scan_and_leaves_no_file_out() {
    for import in [copying(), ImportOptions::default()] {
        let world = World::new();
        world.write("file", "content");
        let (open, tmp) = (world.open(), world.dir.path().join("store/tmp"));
        *open.once_listed.lock().unwrap() = Some(Box::new(|| std::fs::remove_dir(tmp).unwrap()));
        let failed = world.scan_with(open, None, import, 3600);
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    }
}

#[test]
fn a_file_that_grows_as_fast_as_it_is_read_is_given_up() {
    use std::io::Write as _;
    let world = World::new();
    world.write("log", vec![1; 4 << 20]);
    let mut log = std::fs::File::options().append(true).open(world.path("log")).unwrap();
    let tree = SourceTree::open(world.dir.path().join("source")).unwrap();
    let mut source = tree.open_file(&RepoPath::new("log").unwrap()).unwrap();
    let mut read = 0;
    let imported = world
        .open()
        .objects
        .import(&mut source, PIECE, copying(), &mut |bytes| {
            read += bytes;
            assert!(read < 16 << 20, "it reads on and on");
            log.write_all(&vec![2; usize::try_from(bytes).unwrap()]).unwrap();
        });
    assert!(
        matches!(imported, Err(StoreError::SourceChanged { .. })),
        "{imported:?}"
    );
}
