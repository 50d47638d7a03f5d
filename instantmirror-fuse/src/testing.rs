//! Published trees of every kind, and a kernel that only takes notes, for the tests of this crate.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::catalog::{NodeSource, build_directory};
use instantmirror_core::companion::GraceRule;
use instantmirror_core::grace::fallbacks;
use instantmirror_core::head::{Head, LiveSnapshot, SnapshotState};
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::traits::{
    Catalogs, FetchError, ObjectReader, ObjectSource, ReadIntent, SnapshotStore as _, TransportError,
};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{
    Directory, Entry, FileMeta, Kind, Meta, Name, ObjectId, RecordId, RepoName, Root, SecretKey, Snapshot, SnapshotId,
    Timestamp,
};

use crate::FileSystem as _;
use crate::filesystem::{BackingId, Content, Errno, Found, InodeId, Kernel, Lookup, ReadReply, Row, Rows};
use crate::imfs::{Imfs, ImfsOptions, Shown, ThreadExecutor};
use crate::tree::lock;
use crate::tree::slot_log::NoSlotStore;

/// When the first snapshot is published; one comes every hour.
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const MTIME: i64 = 1_600_000_000;

/// The content of a test's tree.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    File(&'static str),
    Linked(u64, &'static str),
    Symlink(&'static str),
    Dir(Vec<(String, Item)>),
}

pub(crate) fn dir<const N: usize>(items: [(&str, Item); N]) -> Item {
    Item::Dir(items.map(|(name, item)| (name.to_owned(), item)).into())
}

pub(crate) fn id(number: u8) -> SnapshotId {
    SnapshotId::from_random([number; 16])
}

/// One repository, `debian`, whose snapshots are called by numbers.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) objects: Arc<TestObjects>,
    state: Mutex<Arc<RepositoryState>>,
    published: Mutex<Vec<u8>>,
    pub(crate) never: Mutex<Vec<String>>,
}

pub(crate) fn debian() -> RepoName {
    "debian".parse().unwrap()
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            store: Arc::default(),
            objects: Arc::default(),
            state: Mutex::new(Arc::new(RepositoryState::empty(debian()))),
            published: Mutex::default(),
            never: Mutex::default(),
        })
    }

    pub(crate) fn build(&self, item: &Item) -> Directory {
        let Item::Dir(items) = item else { panic!("no directory") };
        let mut items = items.clone();
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let mut entries = Vec::new();
        for (name, item) in items {
            let file = |content: &'static str, link_group| {
                let mut file = FileMeta::new(ObjectId::of(content.as_bytes()), content.len() as u64);
                file.link_group = link_group;
                lock(&self.objects.0).insert(file.object, TestObject::whole(content.as_bytes().into()));
                (0o644, Kind::File(file))
            };
            let (mode, kind) = match &item {
                Item::File(content) => file(content, None),
                Item::Linked(group, content) => file(content, Some(*group)),
                Item::Symlink(target) => (0o777, Kind::Symlink((*target).into())),
                Item::Dir(_) => (0o755, Kind::Directory(self.build(&item))),
            };
            entries.push(Entry {
                name: Name::new(name).unwrap(),
                meta: Meta {
                    mode,
                    mtime: MTIME,
                    kind,
                },
            });
        }
        self.build_entries(&entries)
    }

    pub(crate) fn build_entries(&self, entries: &[Entry]) -> Directory {
        let mut nodes = Vec::new();
        let top = build_directory(entries, &mut |node| nodes.push(node)).unwrap();
        self.store.put_nodes(nodes).unwrap();
        top
    }

    /// Publishes a tree as snapshot `number` and makes it current.
    pub(crate) fn publish(&self, number: u8, item: &Item) {
        let top = self.build(item);
        self.publish_directory(number, top);
    }

    pub(crate) fn publish_directory(&self, number: u8, top: Directory) {
        let snapshot = Snapshot {
            id: id(number),
            repository: debian(),
            created: START,
            parent: None,
            note: String::new(),
            root: Root {
                node: top.node,
                mode: 0o755,
                mtime: MTIME + i64::from(number),
                files: top.files,
                bytes: top.bytes,
            },
        };
        lock(&self.published).push(number);
        self.change(|state| {
            state.snapshots.insert(snapshot.id, Arc::new(snapshot));
            state.current = Some(id(number));
        });
    }

    /// Takes a snapshot away, from the head too; if it was current, the one before it is.
    pub(crate) fn remove(&self, number: u8) {
        let last = {
            let mut published = lock(&self.published);
            published.retain(|known| *known != number);
            published.last().copied()
        };
        self.change(|state| {
            state.snapshots.remove(&id(number));
            if state.current == Some(id(number)) {
                state.current = last.map(id);
            }
        });
    }

    pub(crate) fn tag(&self, tag: &str, number: u8) {
        self.change(|state| {
            state.local_tags.insert(tag.parse().unwrap(), id(number));
        });
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut RepositoryState)) {
        let mut held = lock(&self.state);
        let mut state = RepositoryState::clone(&held);
        change(&mut state);
        let live = |(at, number): (u32, &u8)| LiveSnapshot {
            id: id(*number),
            record: RecordId::of(b""),
            state: SnapshotState::released(START.plus(HOUR * at), u64::from(at) + 1),
        };
        let published = lock(&self.published);
        let head = Head {
            repository: debian(),
            sequence: state.head.as_ref().map_or(0, |head| head.head().sequence) + 1,
            issued: START,
            expires: START.plus(HOUR),
            piece_length: 1 << 20,
            current: state.current,
            snapshots: (0..).zip(published.iter()).map(live).collect(),
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        };
        state.head = Some(Arc::new(head.sign(&[&SecretKey::from_random([1; 32])]).unwrap()));
        *held = Arc::new(state);
    }

    pub(crate) fn imfs(self: &Arc<Self>, shown: Shown) -> Imfs {
        self.imfs_with(ImfsOptions::new(shown))
    }

    pub(crate) fn imfs_with(self: &Arc<Self>, options: ImfsOptions) -> Imfs {
        let catalogs: Arc<dyn Catalogs> = Arc::clone(self) as _;
        Imfs::new(catalogs, Arc::new(ThreadExecutor), NoSlotStore, options).unwrap()
    }
}

impl Catalogs for World {
    fn repositories(&self) -> Vec<RepoName> {
        vec![debian()]
    }

    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>> {
        (*repository == debian()).then(|| Arc::clone(&lock(&self.state)))
    }

    fn fallbacks(&self, repository: &RepoName) -> Vec<Arc<Snapshot>> {
        let state = self.state(repository);
        state.map_or_else(Vec::new, |state| fallbacks(&state, HOUR * 24, START.plus(HOUR * 3)))
    }

    fn grace_rule(&self, _repository: &RepoName) -> GraceRule {
        GraceRule::new(lock(&self.never).clone(), false).unwrap()
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        Arc::clone(&self.store) as _
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Arc::clone(&self.objects) as _
    }
}

/// Objects by id: whole in a file, or coming.
#[derive(Debug, Default)]
pub(crate) struct TestObjects(pub(crate) Mutex<BTreeMap<ObjectId, TestObject>>);

#[derive(Debug, Clone)]
pub(crate) struct TestObject {
    content: Bytes,
    file: Option<Arc<std::fs::File>>,
    /// Bytes that never come are waited for, for ever.
    pub(crate) present: u64,
    /// The paths that were asked for.
    pub(crate) asked: Arc<Mutex<Vec<Range<u64>>>>,
    /// How many readers there are.
    pub(crate) readers: Arc<AtomicU32>,
}

impl TestObject {
    pub(crate) fn whole(content: Bytes) -> Self {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        Self {
            present: content.len() as u64,
            content,
            file: Some(Arc::new(file)),
            asked: Arc::default(),
            readers: Arc::default(),
        }
    }

    /// Of which so much is there.
    pub(crate) fn partial(content: Bytes, present: u64) -> Self {
        Self {
            file: None,
            present,
            ..Self::whole(content)
        }
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

#[derive(Debug)]
struct TestReader(TestObject);

impl Drop for TestReader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl ObjectSource for TestObjects {
    async fn open(
        &self,
        repository: &RepoName,
        file: &FileMeta,
        intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        let object = lock(&self.0).get(&file.object).cloned();
        match object {
            Some(object) => {
                lock(&object.asked).push(intent.range);
                object.readers.fetch_add(1, Ordering::SeqCst);
                Ok(Arc::new(TestReader(object)))
            }
            None => Err(FetchError::Unavailable {
                object: file.object,
                repository: repository.clone(),
                source: Arc::new(TransportError::NotFound {
                    from: "a test".to_owned(),
                    what: "it".to_owned(),
                }),
            }),
        }
    }
}

#[async_trait]
impl ObjectReader for TestReader {
    fn size(&self) -> u64 {
        self.0.content.len() as u64
    }

    async fn ready(&self, offset: u64) -> Result<u64, FetchError> {
        if offset < self.0.present {
            // In pieces, as content comes.
            return Ok((offset + 10_000).min(self.0.present));
        }
        std::future::pending().await
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        Ok(self.0.content.slice(place(range.start)..place(range.end)))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.file.as_ref().map(|file| file.as_fd())
    }

    fn is_settled(&self) -> bool {
        self.0.file.is_some()
    }
}

/// Notes what it is told, and keeps the books of backing files.
#[derive(Debug, Default)]
pub(crate) struct TestKernel {
    pub(crate) told: Mutex<Vec<String>>,
    pub(crate) dropped: Mutex<Vec<InodeId>>,
    next: AtomicU32,
    pub(crate) backed: Mutex<Vec<BackingId>>,
    pub(crate) refuses: Mutex<Option<Errno>>,
}

impl Kernel for TestKernel {
    fn back(&self, _file: BorrowedFd<'_>) -> Result<BackingId, Errno> {
        if let Some(error) = *lock(&self.refuses) {
            return Err(error);
        }
        let id = BackingId(self.next.fetch_add(1, Ordering::SeqCst) + 1);
        lock(&self.backed).push(id);
        Ok(id)
    }
    fn unback(&self, id: BackingId) {
        let mut backed = lock(&self.backed);
        let at = backed.iter().position(|known| *known == id).expect("given back twice");
        backed.swap_remove(at);
    }
    fn invalidate_entry(&self, _parent: InodeId, name: &[u8]) -> Result<(), Errno> {
        lock(&self.told).push(format!("invalidate {}", String::from_utf8_lossy(name)));
        Ok(())
    }
    fn expire_entry(&self, _parent: InodeId, name: &[u8]) -> Result<(), Errno> {
        lock(&self.told).push(format!("expire {}", String::from_utf8_lossy(name)));
        Err(Errno::NOENT)
    }
    fn invalidate_inode(&self, inode: InodeId) -> Result<(), Errno> {
        lock(&self.dropped).push(inode);
        Ok(())
    }
}

/// A reply that can be waited for.
#[derive(Clone, Default)]
pub(crate) struct TestReply(Arc<(Mutex<ReplyState>, std::sync::Condvar)>);

#[derive(Default)]
struct ReplyState {
    result: Option<Result<Bytes, Errno>>,
    wake: Option<Box<dyn FnOnce() + Send>>,
}

impl TestReply {
    pub(crate) fn wait(&self) -> Result<Bytes, Errno> {
        let (state, changed) = &*self.0;
        let mut state = lock(state);
        loop {
            if let Some(result) = state.result.take() {
                return result;
            }
            let (next, over) = changed.wait_timeout(state, Duration::from_secs(20)).unwrap();
            assert!(!over.timed_out(), "no reply");
            state = next;
        }
    }

    pub(crate) fn is_there(&self) -> bool {
        lock(&self.0.0).result.is_some()
    }

    pub(crate) fn interrupt(&self) {
        let wake = lock(&self.0.0).wake.take().expect("cannot be interrupted");
        wake();
    }
}

impl ReadReply for TestReply {
    fn complete(self: Box<Self>, result: Result<Content, Errno>) {
        let result = result.map(|content| match content {
            Content::Bytes(bytes) => bytes,
            Content::File { .. } => panic!("bytes were expected"),
        });
        let mut state = lock(&self.0.0);
        assert!(state.result.replace(result).is_none(), "two replies");
        self.0.1.notify_all();
    }
    fn on_interrupt(&self, wake: Box<dyn FnOnce() + Send>) {
        lock(&self.0.0).wake = Some(wake);
    }
}

/// Rows that were listed, as many as there is room for.
#[derive(Debug, Default)]
pub(crate) struct TestRows {
    pub(crate) rows: Vec<(String, u64, Found)>,
    pub(crate) room: usize,
}

impl Rows for TestRows {
    fn push(&mut self, row: &Row<'_>) -> bool {
        if self.rows.len() >= self.room {
            return false;
        }
        let name = String::from_utf8(row.name.to_vec()).unwrap();
        self.rows.push((name, row.next, row.found));
        true
    }
}

impl Imfs {
    pub(crate) fn list_some(&self, directory: InodeId, after: u64, room: usize) -> Vec<(String, u64, Found)> {
        let mut rows = TestRows {
            room,
            ..TestRows::default()
        };
        self.list(directory, after, &mut rows).unwrap();
        rows.rows
    }

    /// All names of a directory, without dots, listed a few at a time.
    pub(crate) fn names(&self, directory: InodeId) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), 0);
        loop {
            let rows = self.list_some(directory, after, 3);
            let Some(last) = rows.last() else { break };
            after = last.1;
            names.extend(rows.into_iter().map(|row| row.0));
        }
        assert_eq!(names[..2], [".", ".."]);
        names.split_off(2)
    }

    /// Walks a path, name by name, without following symlinks.
    pub(crate) fn walk(&self, path: &str) -> Option<Found> {
        let mut here = InodeId::ROOT;
        let mut last = None;
        for name in path.split('/') {
            match self.lookup(here, name.as_bytes()).unwrap() {
                Lookup::Found(found) => {
                    here = found.inode;
                    last = Some(found);
                }
                Lookup::Absent(_) => return None,
            }
        }
        last
    }

    pub(crate) fn inode(&self, path: &str) -> InodeId {
        self.walk(path).unwrap_or_else(|| panic!("no {path}")).inode
    }

    pub(crate) fn start_read(&self, inode: InodeId, range: Range<u64>) -> TestReply {
        let reply = TestReply::default();
        let read = crate::Read {
            inode,
            handle: crate::Handle(0),
            offset: range.start,
            len: u32::try_from(range.end - range.start).unwrap(),
        };
        self.read(read, Box::new(reply.clone()));
        reply
    }
}
