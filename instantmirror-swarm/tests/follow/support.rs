//! A master whose answers the test makes, and a store that rots.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use instantmirror_core::catalog::{CatalogNode, Delta, NodeSource, build_directory, frame};
use instantmirror_core::head::{LiveSnapshot, SnapshotState};
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::traits::{ByteStream, HeadNews, SnapshotStore, StoreError, TransportError, Upstream};
use instantmirror_core::{
    Clock, Entry, FileMeta, Head, Kind, Meta, Name, NodeId, ObjectId, PublicKey, RecordId, RepoName, Root, SecretKey,
    SignedHead, Snapshot, SnapshotId, Timestamp,
};
use tokio::sync::watch;

pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct TestClock(pub(crate) Mutex<Timestamp>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

pub(crate) fn repository() -> RepoName {
    "fedora".parse().unwrap()
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_random([seed; 32])
}

/// How a delta is spoilt on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Spoil {
    #[default]
    Nothing,
    /// The stream ends early without an error.
    Truncated,
    /// The connection breaks.
    Broken,
    /// A bit of a node is flipped.
    Forged,
    /// A node that nobody asked for comes along.
    Unrequested,
    /// A node is left out.
    Holed,
    /// Nothing is sent: "you have it all".
    Empty,
}

/// A master whose answers the test makes.
#[derive(Debug)]
pub(crate) struct FakeMaster {
    /// Sequence and bytes.
    pub(crate) head: watch::Sender<Option<(u64, Bytes)>>,
    pub(crate) store: MemoryStore,
    pub(crate) records: Mutex<BTreeMap<SnapshotId, Vec<u8>>>,
    pub(crate) spoil: Mutex<Spoil>,
    pub(crate) away: Mutex<bool>,
    /// `have` of every delta asked for.
    pub(crate) deltas: Mutex<Vec<Option<NodeId>>>,
    /// How long it takes to answer with one.
    pub(crate) slowness: Mutex<Duration>,
}

impl FakeMaster {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            head: watch::Sender::new(None),
            store: MemoryStore::new(),
            records: Mutex::default(),
            spoil: Mutex::default(),
            away: Mutex::default(),
            deltas: Mutex::default(),
            slowness: Mutex::default(),
        })
    }

    /// A snapshot of `files` files in one directory.
    pub(crate) fn snapshot(&self, seed: u8, files: u32) -> Snapshot {
        let file = |i: u32| Entry {
            name: Name::new(format!("file-{i:05}")).unwrap(),
            meta: Meta {
                mode: 0o644,
                mtime: 0,
                kind: Kind::File(FileMeta {
                    size: 3,
                    object: ObjectId::of(if i == 0 { std::slice::from_ref(&seed) } else { b"shared" }),
                    first_piece: 0,
                    link_group: None,
                }),
            },
        };
        let entries: Vec<_> = (0..files).map(file).collect();
        let top = build_directory(&entries, &mut |node| self.store.insert_node(node)).unwrap();
        let snapshot = Snapshot {
            id: SnapshotId::from_random([seed; 16]),
            repository: repository(),
            created: START,
            parent: None,
            note: String::new(),
            root: Root {
                node: top.node,
                mode: 0o755,
                mtime: 0,
                files: top.files,
                bytes: top.bytes,
            },
        };
        self.records.lock().unwrap().insert(snapshot.id, snapshot.encode().1);
        snapshot
    }

    pub(crate) fn publish(&self, head: &Head) {
        self.publish_signed(head, &key(1));
    }

    pub(crate) fn publish_signed(&self, head: &Head, key: &SecretKey) {
        let bytes = head.sign(&[key]).unwrap().bytes().clone();
        self.head.send_replace(Some((head.sequence, bytes)));
    }

    pub(crate) fn spoil(&self, spoil: Spoil) {
        *self.spoil.lock().unwrap() = spoil;
    }

    pub(crate) fn check_here(&self) -> Result<(), TransportError> {
        if !*self.away.lock().unwrap() {
            return Ok(());
        }
        let (from, reason) = (self.label().to_owned(), "nobody answers".to_owned());
        Err(TransportError::Unreachable { from, reason })
    }
}

pub(crate) fn head(sequence: u64, snapshots: &[&Snapshot]) -> Head {
    let live = |snapshot: &&Snapshot| LiveSnapshot {
        id: snapshot.id,
        record: snapshot.encode().0,
        state: SnapshotState::released(START, 1),
    };
    Head {
        repository: repository(),
        sequence,
        issued: START,
        expires: START.plus(HOUR),
        piece_length: 1 << 20,
        current: snapshots.last().map(|snapshot| snapshot.id),
        snapshots: snapshots.iter().map(live).collect(),
        tags: BTreeMap::new(),
        key_list: 0,
        preseed: Vec::new(),
        grace_never: Vec::new(),
        removed: Vec::new(),
    }
}

pub(crate) fn frames(nodes: &[Bytes]) -> Vec<u8> {
    let mut out = Vec::new();
    nodes.iter().for_each(|node| frame::put_frame(&mut out, node));
    frame::put_end(&mut out);
    out
}

#[async_trait]
impl Upstream for FakeMaster {
    fn label(&self) -> &str {
        "fake master"
    }

    async fn head(&self, _: &RepoName, after: Option<u64>) -> Result<Option<Bytes>, TransportError> {
        self.check_here()?;
        let mut heads = self.head.subscribe();
        let newest = heads.borrow_and_update().as_ref().map(|(sequence, _)| *sequence);
        if after.is_some_and(|after| newest <= Some(after)) {
            // Like a server: holds the request until there is something else, but not for ever. A lying one then
            // sends what it likes.
            let changed = tokio::time::timeout(Duration::from_secs(30), heads.changed()).await;
            if changed.is_err() {
                return Ok(None);
            }
        }
        self.check_here()?;
        Ok(heads.borrow().as_ref().map(|(_, bytes)| bytes.clone()))
    }

    async fn snapshot(&self, _: &RepoName, snapshot: SnapshotId) -> Result<Bytes, TransportError> {
        self.check_here()?;
        Ok(self.records.lock().unwrap()[&snapshot].clone().into())
    }

    async fn delta(&self, _: &RepoName, have: Option<NodeId>, want: NodeId) -> Result<ByteStream, TransportError> {
        self.check_here()?;
        self.deltas.lock().unwrap().push(have);
        let slowness = *self.slowness.lock().unwrap();
        tokio::time::sleep(slowness).await;
        let mut nodes: Vec<Bytes> = Delta::new(&self.store, have, want)
            .map(|node| node.unwrap().bytes().clone())
            .collect();
        let spoil = *self.spoil.lock().unwrap();
        match spoil {
            Spoil::Forged => {
                let mut forged = nodes[nodes.len() - 1].to_vec();
                *forged.last_mut().unwrap() ^= 1;
                *nodes.last_mut().unwrap() = forged.into();
            }
            Spoil::Unrequested => nodes.push(other_node().bytes().clone()),
            Spoil::Holed => drop(nodes.pop()),
            Spoil::Empty => nodes.clear(),
            _ => {}
        }
        let mut bytes = frames(&nodes);
        if matches!(spoil, Spoil::Truncated | Spoil::Broken) {
            bytes.truncate(bytes.len() - 5);
        }
        let mut parts: Vec<_> = bytes
            .chunks(1000)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        if spoil == Spoil::Broken {
            let (from, reason) = (self.label().to_owned(), "reset".to_owned());
            parts.push(Err(TransportError::Unreachable { from, reason }));
        }
        Ok(Box::pin(stream::iter(parts)))
    }
}

pub(crate) fn other_node() -> CatalogNode {
    let mut nodes = Vec::new();
    build_directory(&[], &mut |node| nodes.push(node)).unwrap();
    nodes.remove(0)
}

/// What is wrong with the records of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rot {
    None,
    /// They cannot be read.
    Damaged,
    /// They are others than were stored.
    Other,
}

/// A store whose records have rotted, until they are written again.
#[derive(Debug)]
pub(crate) struct RottenStore(pub(crate) MemoryStore, pub(crate) Mutex<Rot>);

impl NodeSource for RottenStore {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        self.0.node(id)
    }
}

impl SnapshotStore for RottenStore {
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        self.0.put_nodes(nodes)
    }

    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, StoreError> {
        let rot = std::mem::replace(&mut *self.1.lock().unwrap(), Rot::None);
        if rot == Rot::Other && self.0.snapshot(&snapshot.repository, snapshot.id)?.is_some() {
            return Err(StoreError::Conflict("another record is stored".to_owned()));
        }
        self.0.put_snapshot(snapshot)
    }

    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let found = self.0.snapshot(repository, id)?;
        match *self.1.lock().unwrap() {
            Rot::None => Ok(found),
            Rot::Damaged => Err(StoreError::Damaged("a record file is damaged".to_owned())),
            Rot::Other => Ok(found.map(|mut found| {
                found.root = Root { mtime: 1, ..found.root };
                found
            })),
        }
    }

    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, StoreError> {
        self.0.snapshots(repository)
    }

    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, StoreError> {
        self.0.records()
    }

    fn put_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.0.put_head(head)
    }

    fn replace_head(&self, head: &SignedHead) -> Result<(), StoreError> {
        self.0.replace_head(head)
    }

    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, StoreError> {
        self.0.keys(repository)
    }

    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), StoreError> {
        self.0.put_keys(repository, keys)
    }

    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, StoreError> {
        self.0.head(repository, trusted)
    }

    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), StoreError> {
        self.0.remove_snapshot(repository, id)
    }
}

/// A master, or something in front of it, that says "nothing newer" at once instead of waiting.
#[derive(Debug, Default)]
pub(crate) struct Impatient {
    pub(crate) asked: AtomicU32,
}

#[async_trait]
impl Upstream for Impatient {
    fn label(&self) -> &str {
        "impatient master"
    }

    async fn head(&self, _: &RepoName, _: Option<u64>) -> Result<Option<Bytes>, TransportError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // Lets the test's clock run even if whoever asks never pauses.
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(None)
    }

    async fn snapshot(&self, _: &RepoName, _: SnapshotId) -> Result<Bytes, TransportError> {
        unreachable!("it never said that there is one")
    }

    async fn delta(&self, _: &RepoName, _: Option<NodeId>, _: NodeId) -> Result<ByteStream, TransportError> {
        unreachable!("it never said that there is one")
    }
}

/// A master that knows when its head is the one that is held.
#[derive(Debug)]
pub(crate) struct Certain {
    pub(crate) master: Arc<FakeMaster>,
    /// What was held by whoever asked, and whether it waited.
    pub(crate) asked: Mutex<Vec<(u64, bool)>>,
}

#[async_trait]
impl Upstream for Certain {
    fn label(&self) -> &str {
        "certain master"
    }

    async fn head(&self, _: &RepoName, _: Option<u64>) -> Result<Option<Bytes>, TransportError> {
        unreachable!("it is asked for news, as long as what is held is whole")
    }

    async fn head_news(&self, _: &RepoName, held: u64, wait: bool) -> Result<HeadNews, TransportError> {
        self.master.check_here()?;
        self.asked.lock().unwrap().push((held, wait));
        let mut heads = self.master.head.subscribe();
        let sequence = |head: &Option<(u64, Bytes)>| head.as_ref().map_or(0, |(sequence, _)| *sequence);
        let limit = Duration::from_secs(if wait { 55 } else { 0 });
        let moved = tokio::time::timeout(limit, heads.wait_for(|head| sequence(head) != held)).await;
        let moved = moved.map(|head| head.unwrap().as_ref().map(|(_, bytes)| bytes.clone()));
        Ok(moved.ok().flatten().map_or(HeadNews::Same, HeadNews::Head))
    }

    async fn snapshot(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<Bytes, TransportError> {
        Upstream::snapshot(self.master.as_ref(), repository, snapshot).await
    }

    async fn delta(
        &self,
        repository: &RepoName,
        have: Option<NodeId>,
        want: NodeId,
    ) -> Result<ByteStream, TransportError> {
        self.master.delta(repository, have, want).await
    }
}
