//! A store that changes its mind, what is said of it, and the suite around a good store.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use instantmirror_core::catalog::build_directory;
use instantmirror_core::conformance::Subject;
use instantmirror_core::head::{LiveSnapshot, SnapshotState};
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::{Entry, FileMeta, Head, Kind, Meta, Name, ObjectId, Root, SecretKey, Timestamp};
use instantmirror_swarm::Follower;

use super::*;
use crate::clock::SystemClock;

// What is around a good store is as good.
instantmirror_core::snapshot_store_conformance!(|| Subject::new(VerifyingStore::new(MemoryStore::new())));

const GOOD: u8 = 0;
const FORGETS: u8 = 1;
const LIES: u8 = 2;
/// It lies of records alone.
const OTHER_RECORDS: u8 = 3;
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A store that is good until it is told otherwise.
#[derive(Debug, Default)]
struct Fickle {
    inner: MemoryStore,
    mood: Arc<AtomicU8>,
}

impl Fickle {
    fn in_its_mood<T>(&self, good: Option<T>, other: impl FnOnce(T) -> T) -> Option<T> {
        match self.mood.load(Ordering::SeqCst) {
            FORGETS => None,
            LIES => good.map(other),
            _ => good,
        }
    }
}

impl NodeSource for Fickle {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.in_its_mood(self.inner.node(id)?, |_| Bytes::from_static(b"other bytes")))
    }
}

impl SnapshotStore for Fickle {
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        self.inner.put_nodes(nodes)
    }

    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, StoreError> {
        self.inner.put_snapshot(snapshot)
    }

    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let other = |mut snapshot: Snapshot| {
            snapshot.note = "other".to_owned();
            snapshot
        };
        let found = self.inner.snapshot(repository, id)?;
        Ok(match self.mood.load(Ordering::SeqCst) {
            OTHER_RECORDS => found.map(other),
            _ => self.in_its_mood(found, other),
        })
    }

    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, StoreError> {
        self.inner.snapshots(repository)
    }

    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, StoreError> {
        self.inner.records()
    }

    fn put_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.inner.put_head(head)
    }

    fn replace_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.inner.replace_head(head)
    }

    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, StoreError> {
        self.inner.keys(repository)
    }

    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), StoreError> {
        self.inner.put_keys(repository, keys)
    }

    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, StoreError> {
        let other = |head: SignedHead| head.head().sign(&[&key(2)]).unwrap();
        Ok(self.in_its_mood(self.inner.head(repository, trusted)?, other))
    }

    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), StoreError> {
        self.inner.remove_snapshot(repository, id)
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_random([seed; 32])
}

#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// The lines so far, which are gone then.
    fn take(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(text).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A store with a snapshot of one file.
struct World {
    store: VerifyingStore<Fickle>,
    mood: Arc<AtomicU8>,
    snapshot: Snapshot,
}

impl World {
    fn new() -> Self {
        let meta = Meta {
            mode: 0o644,
            mtime: 0,
            kind: Kind::File(FileMeta::new(ObjectId::of(b"x"), 1)),
        };
        let name = Name::new("a").unwrap();
        let mut nodes = Vec::new();
        let top = build_directory(&[Entry { name, meta }], &mut |node| nodes.push(node)).unwrap();
        let root = Root {
            node: top.node,
            mode: 0o755,
            mtime: 0,
            files: top.files,
            bytes: top.bytes,
        };
        let snapshot = Snapshot {
            id: SnapshotId::from_random([1; 16]),
            repository: "debian".parse().unwrap(),
            created: Timestamp::from_millis(0),
            parent: None,
            note: String::new(),
            root,
        };
        let fickle = Fickle::default();
        let mood = Arc::clone(&fickle.mood);
        let store = VerifyingStore::new(fickle);
        store.put_nodes(nodes).unwrap();
        store.put_snapshot(&snapshot).unwrap();
        Self { store, mood, snapshot }
    }

    fn set(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    fn node(&self) -> Result<Option<Bytes>, StoreError> {
        self.store.node(&self.snapshot.root.node)
    }

    fn record(&self) -> Result<Option<Snapshot>, StoreError> {
        self.store.snapshot(&self.snapshot.repository, self.snapshot.id)
    }

    /// Stores a head that names the snapshot, and starts anew with a store in this mood.
    fn restarted(self, mood: u8) -> Self {
        let Self { store, snapshot, .. } = self;
        let mut head = Head::first(snapshot.repository.clone(), 1 << 20, NOW);
        head.sequence = 1;
        head.snapshots.push(LiveSnapshot {
            id: snapshot.id,
            record: snapshot.encode().0,
            state: SnapshotState::released(NOW, 1),
        });
        store.put_head(&head.sign(&[&key(1)]).unwrap()).unwrap();
        let mood_of = Arc::clone(&store.inner.mood);
        mood_of.store(mood, Ordering::SeqCst);
        Self {
            store: VerifyingStore::new(store.inner),
            mood: mood_of,
            snapshot,
        }
    }

    fn head(&self) -> Result<Option<SignedHead>, StoreError> {
        self.store.head(&self.snapshot.repository, &[key(1).public()])
    }
}

/// Runs with a log.
fn logged(test: impl FnOnce(&World, &Written)) {
    let written = Written::default();
    let writer = written.clone();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    tracing::subscriber::with_default(lines.finish(), || test(&World::new(), &written));
}

fn names(lines: &[String], what: &str) {
    assert_eq!(lines.len(), 1, "{lines:?}");
    let type_name = std::any::type_name::<Fickle>();
    for expected in ["ERROR", type_name, what] {
        assert!(lines[0].contains(expected), "{expected}: {lines:?}");
    }
}

#[test]
fn a_store_that_forgets_is_named_once_a_minute() {
    logged(|world, log| {
        assert_eq!(world.record().unwrap().as_ref(), Some(&world.snapshot));
        assert!(world.node().unwrap().is_some());
        world.set(FORGETS);
        (0..3).for_each(|_| assert!(world.node().unwrap().is_none()));
        names(&log.take(), "has forgotten catalog node");
        assert!(world.record().unwrap().is_none());
        world.set(GOOD);
        assert!(world.record().unwrap().is_some());
        assert_eq!(log.take(), [""; 0]);
    });
    logged(|world, log| {
        world.set(FORGETS);
        assert!(world.record().unwrap().is_none());
        names(&log.take(), "has forgotten the record of snapshot");
    });
}

#[test]
fn other_bytes_are_not_used_and_the_store_is_named() {
    logged(|world, log| {
        world.set(LIES);
        for _ in 0..3 {
            assert!(matches!(world.node(), Err(StoreError::Damaged(_))));
        }
        names(&log.take(), "other bytes than those of catalog node");
    });
    logged(|world, log| {
        world.set(LIES);
        assert!(matches!(world.record(), Err(StoreError::Damaged(_))));
        names(&log.take(), "another record than that of snapshot");
    });
}

#[test]
fn a_head_that_no_trusted_key_signed_is_not_used_though_nothing_was_put_before() {
    logged(|_, log| {
        let world = World::new().restarted(LIES);
        assert!(matches!(world.head(), Err(StoreError::Damaged(_))));
        names(&log.take(), "a head that cannot be believed");
        world.set(GOOD);
        assert_eq!(world.head().unwrap().unwrap().head().sequence, 1);
    });
}

#[test]
fn a_follower_does_not_believe_a_store_whose_first_record_is_another() {
    for (is_other, shown) in [(false, 1), (true, 0)] {
        let world = World::new().restarted(if is_other { OTHER_RECORDS } else { GOOD });
        let (repository, trusted) = (world.snapshot.repository.clone(), vec![key(1).public()]);
        assert_eq!(world.record().unwrap().unwrap() != world.snapshot, is_other);
        let clock = Arc::new(SystemClock);
        let follower = Follower::open(repository, Vec::new(), Arc::new(world.store), trusted, clock).unwrap();
        assert_eq!(follower.state().snapshots.len(), shown);
    }
}

#[test]
fn what_was_never_here_or_may_be_gone_is_not_forgotten() {
    logged(|world, log| {
        assert!(world.store.node(&NodeId::of(b"elsewhere")).unwrap().is_none());
        let (repository, id) = (&world.snapshot.repository, world.snapshot.id);
        let other = SnapshotId::from_random([2; 16]);
        assert!(world.store.snapshot(repository, other).unwrap().is_none());
        world.store.remove_snapshot(repository, id).unwrap();
        world.set(FORGETS);
        assert!(world.node().unwrap().is_none());
        assert!(world.record().unwrap().is_none());
        assert_eq!(log.take(), [""; 0]);
    });
}
