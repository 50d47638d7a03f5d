//! A publication in memory whose objects can be told to be late, to fail, or to break off.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::catalog::{NodeSource, build_directory};
use instantmirror_core::head::{LiveSnapshot, SnapshotState};
use instantmirror_core::memory::{MemoryCache, MemoryStore};
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::outboard::{ObjectHasher, VerifyError};
use instantmirror_core::traits::{
    Annotations, Catalogs, Duplicate, NodeApi, ObjectCache, ObjectReader, ObjectSource, ReadIntent, SnapshotStore as _,
    TorrentLink, TransportError,
};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{
    CacheError, Directory, Entry, FetchError, FileMeta, Head, HeadMark, Kind, Meta, Name, ObjectId, RepoName, RepoPath,
    Root, SecretKey, SignedHead, Snapshot, SnapshotId, Timestamp,
};
use instantmirror_http::{Api, Server, Service};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Content of which a digest is known.
pub(crate) const KNOWN: &[u8] = b"known content";
pub(crate) const MTIME: i64 = 1_700_000_000;

/// What a file of a test tree is.
pub(crate) enum Item {
    File(Bytes),
    Link(&'static str),
    Empty,
}

/// How an object behaves when it is read.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Refused when it is opened.
    Open(FetchError),
    /// Ready up to this byte, then this error.
    At(u64, FetchError),
    /// Ready as far as this says.
    Until(watch::Receiver<u64>),
    /// None, and it lies in a file: it has this descriptor.
    Described(Arc<std::fs::File>),
    /// Opened with another size.
    Size(u64),
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) cache: MemoryCache,
    state: watch::Sender<Arc<RepositoryState>>,
    objects: Mutex<HashMap<ObjectId, Bytes>>,
    faults: Mutex<HashMap<ObjectId, Fault>>,
    pub(crate) readers: Arc<AtomicUsize>,
    pub(crate) opened: Mutex<Vec<ReadIntent>>,
    /// The names of the threads that opened them.
    pub(crate) opened_by: Mutex<Vec<String>>,
    /// How many torrents there are of a directory.
    pub(crate) torrents: Mutex<HashMap<String, u32>>,
}

pub(crate) fn name() -> RepoName {
    "debian".parse().unwrap()
}

pub(crate) fn unavailable(object: ObjectId) -> FetchError {
    let source = TransportError::Unreachable {
        from: "http://master.example".to_owned(),
        reason: "connection refused".to_owned(),
    };
    FetchError::Unavailable {
        object,
        repository: name(),
        source: Arc::new(source),
    }
}

pub(crate) fn corrupt(object: ObjectId) -> FetchError {
    FetchError::Corrupt {
        object,
        repository: name(),
        source: VerifyError::Outboard(object),
    }
}

enum Tree {
    Leaf(Item),
    Branch(BTreeMap<String, Tree>),
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            store: Arc::new(MemoryStore::new()),
            cache: MemoryCache::new(None),
            state: watch::Sender::new(Arc::new(RepositoryState::empty(name()))),
            objects: Mutex::default(),
            faults: Mutex::default(),
            readers: Arc::default(),
            opened: Mutex::default(),
            opened_by: Mutex::default(),
            torrents: Mutex::default(),
        })
    }

    pub(crate) fn fault(&self, content: &[u8], fault: Fault) -> ObjectId {
        let object = ObjectId::of(content);
        self.faults.lock().unwrap().insert(object, fault);
        object
    }

    /// Publishes a tree and makes it current (or leaves it staged). `seed` names it.
    pub(crate) async fn publish(&self, seed: u8, items: Vec<(&str, Item)>, released: bool) -> Arc<Snapshot> {
        let mut top = BTreeMap::new();
        for (path, item) in items {
            let mut here = &mut top;
            let (parents, last) = path.rsplit_once('/').unwrap_or(("", path));
            for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
                let branch = here
                    .entry(parent.to_owned())
                    .or_insert_with(|| Tree::Branch(BTreeMap::new()));
                let Tree::Branch(inner) = branch else { panic!("{path}") };
                here = inner;
            }
            let tree = if matches!(item, Item::Empty) {
                Tree::Branch(BTreeMap::new())
            } else {
                Tree::Leaf(item)
            };
            here.insert(last.to_owned(), tree);
        }
        let root = self.build(top);
        let snapshot = Arc::new(Snapshot {
            id: SnapshotId::from_random([seed; 16]),
            repository: name(),
            created: Timestamp::from_millis(1000 * MTIME + i64::from(seed)),
            parent: None,
            note: String::new(),
            root: Root {
                node: root.node,
                mode: 0o755,
                mtime: MTIME,
                files: root.files,
                bytes: root.bytes,
            },
        });
        self.store.put_snapshot(&snapshot).unwrap();
        self.announce(&snapshot, released);
        snapshot
    }

    fn build(&self, tree: BTreeMap<String, Tree>) -> Directory {
        let entry = |(name, tree): (String, Tree)| {
            let kind = match tree {
                Tree::Branch(inner) => Kind::Directory(self.build(inner)),
                Tree::Leaf(Item::Link(target)) => Kind::Symlink(target.into()),
                Tree::Leaf(Item::File(content)) => {
                    let object = ObjectId::of(&content);
                    let size = content.len() as u64;
                    self.objects.lock().unwrap().insert(object, content);
                    Kind::File(FileMeta {
                        size,
                        object,
                        first_piece: 0,
                        link_group: None,
                    })
                }
                Tree::Leaf(Item::Empty) => unreachable!("it became a branch"),
            };
            let meta = Meta {
                mode: 0o644,
                mtime: MTIME,
                kind,
            };
            Entry {
                name: Name::new(name).unwrap(),
                meta,
            }
        };
        let entries: Vec<Entry> = tree.into_iter().map(entry).collect();
        build_directory(&entries, &mut |node| self.store.insert_node(node)).unwrap()
    }

    fn announce(&self, snapshot: &Arc<Snapshot>, released: bool) {
        let mut state = RepositoryState::clone(&self.state.borrow());
        let held = state.head.as_ref().map(|signed| signed.head().clone());
        let mut head = held.unwrap_or_else(|| Head {
            repository: name(),
            sequence: 0,
            issued: Timestamp::from_millis(1_000_000),
            expires: Timestamp::from_millis(1_001_000),
            piece_length: 1 << 20,
            current: None,
            snapshots: Vec::new(),
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        });
        head.sequence += 1;
        head.snapshots.push(LiveSnapshot {
            id: snapshot.id,
            record: snapshot.encode().0,
            state: if released {
                SnapshotState::released(Timestamp::from_millis(0), head.sequence)
            } else {
                SnapshotState::Staged {
                    release_at: None,
                    when_synced_percent: None,
                }
            },
        });
        if released {
            head.current = Some(snapshot.id);
            head.tags.insert("stable".parse().unwrap(), snapshot.id);
            state.snapshots.insert(snapshot.id, Arc::clone(snapshot));
            state.current = Some(snapshot.id);
        }
        let signed = head.sign(&[&SecretKey::from_random([7; 32])]).unwrap();
        state.head = Some(Arc::new(signed));
        self.state.send_replace(Arc::new(state));
    }

    /// A service of its trees, with all annotations.
    pub(crate) fn service(self: &Arc<Self>) -> Service {
        let shown = Arc::new(Shown(Arc::clone(self)));
        Service::new(shown.clone()).with_annotations(shown)
    }

    /// The API over its heads and its cache.
    pub(crate) fn api(self: &Arc<Self>) -> Api {
        Api::new(Arc::new(Shown(Arc::clone(self))), Arc::new(self.cache.clone()))
    }

    /// Puts an object into the cache that the API serves from.
    pub(crate) async fn cache_object(&self, content: &[u8]) -> ObjectId {
        let mut hasher = ObjectHasher::new();
        hasher.update(content);
        let outboard = hasher.finish();
        let object = outboard.object();
        let fill = self.cache.fill(&object, content.len() as u64).await.unwrap();
        fill.set_outboard(outboard).await.unwrap();
        fill.write(0, Bytes::copy_from_slice(content)).await.unwrap();
        fill.finish().await.unwrap();
        object
    }
}

/// The world as a server sees it.
#[derive(Debug, Clone)]
pub(crate) struct Shown(pub(crate) Arc<World>);

impl Catalogs for Shown {
    fn repositories(&self) -> Vec<RepoName> {
        vec![name()]
    }

    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>> {
        (*repository == name()).then(|| Arc::clone(&self.0.state.borrow()))
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.0.store.clone()
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl NodeApi for Shown {
    async fn head_after(&self, repository: &RepoName, after: u64) -> Option<Arc<SignedHead>> {
        self.state(repository)?;
        let mut states = self.0.state.subscribe();
        let newer = |state: &Arc<RepositoryState>| state.head.as_ref().is_some_and(|head| head.head().sequence > after);
        let state = states.wait_for(newer).await.ok()?;
        state.head.clone()
    }

    fn head_mark(&self, repository: &RepoName) -> HeadMark {
        let state = self.state(repository);
        state.map_or(HeadMark::Absent, |state| state.head_mark())
    }
}

impl Annotations for Shown {
    /// Known of one object only.
    fn sha256(&self, object: &ObjectId) -> Option<[u8; 32]> {
        (*object == ObjectId::of(KNOWN)).then_some([7; 32])
    }

    fn duplicates(&self, _: &RepoName, path: &RepoPath) -> Vec<Duplicate> {
        if path.as_str() != "known" {
            return Vec::new();
        }
        let place = |url: &str, priority, country: Option<&str>| Duplicate {
            url: url.to_owned(),
            priority,
            country: country.map(str::to_owned),
        };
        vec![
            place("https://a.example/known", 1, Some("DE")),
            place("https://b.example/<\r\n>known", 2, Some("\r\n")),
            place("https://c.example/\">; rel=\"x", 3, None),
        ]
    }

    fn torrents(&self, _: &RepoName, _: SnapshotId, path: &RepoPath) -> Vec<TorrentLink> {
        let count = self.0.torrents.lock().unwrap().get(path.as_str()).copied();
        let link = |n| TorrentLink {
            file_name: format!("\"x\"-{n}.torrent"),
            url: format!("/.im/torrent/debian/%22x%22-{n}.torrent"),
            magnet: format!("magnet:?xt={n}&dn=x"),
            hash: InfoHash::of(b"x"),
            bytes: 7,
        };
        (1..=count.unwrap_or(0)).map(link).collect()
    }
}

#[async_trait]
impl ObjectSource for Shown {
    async fn open(
        &self,
        _: &RepoName,
        file: &FileMeta,
        intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        self.0.opened.lock().unwrap().push(intent);
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.0.opened_by.lock().unwrap().push(thread);
        let fault = self.0.faults.lock().unwrap().get(&file.object).cloned();
        if let Some(Fault::Open(error)) = fault {
            return Err(error);
        }
        let content = self.0.objects.lock().unwrap()[&file.object].clone();
        let readers = Arc::clone(&self.0.readers);
        readers.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Reader {
            content,
            fault,
            readers,
        }))
    }
}

#[derive(Debug)]
struct Reader {
    content: Bytes,
    fault: Option<Fault>,
    readers: Arc<AtomicUsize>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl ObjectReader for Reader {
    fn size(&self) -> u64 {
        match self.fault {
            Some(Fault::Size(size)) => size,
            _ => self.content.len() as u64,
        }
    }

    async fn ready(&self, offset: u64) -> Result<u64, FetchError> {
        match &self.fault {
            Some(Fault::At(end, error)) if offset >= *end => Err(error.clone()),
            Some(Fault::At(end, _)) => Ok(*end),
            Some(Fault::Until(end)) => Ok(*end.clone().wait_for(|end| *end > offset).await.unwrap()),
            _ => Ok(self.size()),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.fault {
            Some(Fault::Described(file)) => Some(file.as_fd()),
            _ => None,
        }
    }

    fn is_settled(&self) -> bool {
        matches!(self.fault, None | Some(Fault::Described(_)))
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let place = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        if place.end > self.content.len() {
            let object = ObjectId::of(&self.content);
            return Err(FetchError::Cache(CacheError::Absent { object, range }));
        }
        Ok(self.content.slice(place))
    }
}

/// A server that runs until it is stopped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Service>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

pub(crate) async fn start(service: Service) -> Running {
    start_on(Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap(), service)
}

/// A subscriber for everybody, who throws everything away: without one, tracing may remember of a line that
/// nobody wants it just when the test that reads the log begins.
fn everybody_logs() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
}

pub(crate) fn start_on(server: Server, service: Service) -> Running {
    everybody_logs();
    let service = Arc::new(service);
    let address = server.addresses()[0];
    let (stop, stopped) = oneshot::channel();
    let serving = server.serve(Arc::clone(&service), async {
        let _ = stopped.await;
    });
    Running {
        address,
        service,
        stop: Some(stop),
        task: tokio::spawn(serving),
    }
}

impl Running {
    /// Gives the signal without waiting for what follows.
    pub(crate) fn signal(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    pub(crate) async fn stop(mut self) {
        self.signal();
        self.task.await.unwrap();
    }
}
