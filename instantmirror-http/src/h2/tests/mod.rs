//! Connections through memory, with the client of `h2` at the other end, in virtual time.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Method, Request, StatusCode};
use instantmirror_core::catalog::{NodeSource, build_directory};
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::traits::{Catalogs, FetchError, ObjectReader, ObjectSource, ReadIntent};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{
    Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoName, Root, Snapshot, SnapshotId, Timestamp,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod endings;

use super::*;
use crate::admission::Admission;
use crate::limits::{Limits, RequestRate, Stopping};
use crate::routes::{Access, RouteRequest, RouteTable, Routes};
use crate::service::Service;

const BIG_BYTES: usize = 400_000;
const WINDOW: u32 = 1 << 30;

/// A repository with two files. Counts the bytes that were read and are still in memory somewhere.
#[derive(Debug)]
struct Tree {
    store: Arc<MemoryStore>,
    state: Arc<RepositoryState>,
    big: Bytes,
    small: Bytes,
    in_memory: Arc<AtomicUsize>,
    most_in_memory: Arc<AtomicUsize>,
    /// How many bytes each read was for.
    reads: Mutex<Vec<usize>>,
}

fn name() -> RepoName {
    "debian".parse().unwrap()
}

impl Tree {
    fn new() -> Arc<Self> {
        let big = Bytes::from((0..=250).cycle().take(BIG_BYTES).collect::<Vec<u8>>());
        let small = Bytes::from_static(b"content");
        let store = Arc::new(MemoryStore::new());
        let entry = |name: &str, content: &Bytes| {
            let file = FileMeta {
                size: content.len() as u64,
                object: ObjectId::of(content),
                first_piece: 0,
                link_group: None,
            };
            let (mode, mtime, kind) = (0o644, 0, Kind::File(file));
            Entry {
                name: Name::new(name).unwrap(),
                meta: Meta { mode, mtime, kind },
            }
        };
        let entries = [entry("big", &big), entry("small", &small)];
        let root = build_directory(&entries, &mut |node| store.insert_node(node)).unwrap();
        let snapshot = Snapshot {
            id: SnapshotId::from_random([1; 16]),
            repository: name(),
            created: Timestamp::from_millis(0),
            parent: None,
            note: String::new(),
            root: Root {
                node: root.node,
                mode: 0o755,
                mtime: 0,
                files: root.files,
                bytes: root.bytes,
            },
        };
        let mut state = RepositoryState::empty(name());
        state.current = Some(snapshot.id);
        state.snapshots.insert(snapshot.id, Arc::new(snapshot));
        Arc::new(Self {
            store,
            state: Arc::new(state),
            big,
            small,
            in_memory: Arc::default(),
            most_in_memory: Arc::default(),
            reads: Mutex::default(),
        })
    }

    fn in_memory(&self) -> usize {
        self.in_memory.load(Ordering::SeqCst)
    }
}

#[derive(Debug, Clone)]
struct Shown(Arc<Tree>);

impl Catalogs for Shown {
    fn repositories(&self) -> Vec<RepoName> {
        vec![name()]
    }

    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>> {
        (*repository == name()).then(|| Arc::clone(&self.0.state))
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.0.store.clone()
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl ObjectSource for Shown {
    async fn open(&self, _: &RepoName, file: &FileMeta, _: ReadIntent) -> Result<Arc<dyn ObjectReader>, FetchError> {
        let of_big = file.size == BIG_BYTES as u64;
        let content = if of_big {
            self.0.big.clone()
        } else {
            self.0.small.clone()
        };
        Ok(Arc::new(Reader {
            content,
            tree: Arc::clone(&self.0),
        }))
    }
}

#[derive(Debug)]
struct Reader {
    content: Bytes,
    tree: Arc<Tree>,
}

/// Bytes that are counted while they are anywhere.
struct InMemory(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::SeqCst);
    }
}

#[async_trait]
impl ObjectReader for Reader {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    async fn ready(&self, _: u64) -> Result<u64, FetchError> {
        Ok(self.size())
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let place = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        self.tree.reads.lock().unwrap().push(place.len());
        let before = self.tree.in_memory.fetch_add(place.len(), Ordering::SeqCst);
        self.tree
            .most_in_memory
            .fetch_max(before + place.len(), Ordering::SeqCst);
        let in_memory = InMemory(self.content[place].to_vec(), Arc::clone(&self.tree.in_memory));
        Ok(Bytes::from_owner(in_memory))
    }
}

/// Routes: one says what it was told, and one says nothing.
fn routes() -> RouteTable {
    let echo = |request: RouteRequest| async { http::Response::new(request.body) };
    let never = |_: RouteRequest| std::future::pending::<http::Response<Bytes>>();
    let routes = Routes::new().post("/echo", Access::Public, "Says what it was told", echo);
    let routes = routes.get("/never", Access::Public, "Says nothing", never);
    routes.build().unwrap()
}

/// What a connection is served with.
struct Kept {
    _services: watch::Sender<Arc<Service>>,
    place: Arc<Place>,
}

struct World {
    tree: Arc<Tree>,
    service: Arc<Service>,
    /// The connection at the server's end.
    served: JoinHandle<()>,
    kept: Kept,
    client: SendRequest<Bytes>,
    /// The connection at the client's end.
    connection: JoinHandle<Result<(), h2::Error>>,
}

fn serve_on<S>(near: S, limits: Limits, stopping: Stopping) -> (Arc<Tree>, Arc<Service>, JoinHandle<()>, Kept)
where
    S: AsyncRead + AsyncWrite + ResetAtEnd + Unpin + Send + 'static,
{
    let tree = Tree::new();
    let service = Arc::new(Service::new(Arc::new(Shown(Arc::clone(&tree)))).with_routes(routes()));
    let (sender, services) = watch::channel(Arc::clone(&service));
    let shared = Arc::new(Shared {
        services,
        admission: Admission::new(&limits),
        limits,
        background: None,
        stopping,
    });
    let place = Arc::new(shared.admission.admit_anyway());
    let served = tokio::spawn(carry(near, IpAddr::from([192, 0, 2, 1]), shared, Arc::clone(&place)));
    (
        tree,
        service,
        served,
        Kept {
            _services: sender,
            place,
        },
    )
}

/// A client whose streams have this window.
async fn connect(window: u32, limits: Limits) -> World {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (tree, service, served, kept) = serve_on(near, limits, Stopping::never());
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(WINDOW)
        .initial_max_send_streams(100);
    let (client, connection) = builder.handshake(far).await.unwrap();
    World {
        tree,
        service,
        served,
        kept,
        client,
        connection: tokio::spawn(connection),
    }
}

impl World {
    async fn send(&self, method: Method, path: &str, body: Option<&'static [u8]>) -> http::Response<RecvStream> {
        let mut client = self.client.clone().ready().await.unwrap();
        let request = Request::builder().method(method).uri(format!("https://mirror{path}"));
        let (response, mut send) = client.send_request(request.body(()).unwrap(), body.is_none()).unwrap();
        if let Some(body) = body {
            send.send_data(Bytes::from_static(body), true).unwrap();
        }
        response.await.unwrap()
    }

    async fn get(&self, file: &str) -> RecvStream {
        let path = format!("/debian/snap/current/{file}");
        let response = self.send(Method::GET, &path, None).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body()
    }

    /// Waits until nothing more happens now.
    async fn settle(&self) {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// All of a body, with window for `step` bytes after each pause.
async fn read(mut body: RecvStream, step: usize, pause: Duration) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    let mut unreleased = 0;
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        all.extend_from_slice(&bytes);
        unreleased += bytes.len();
        while unreleased > 0 {
            tokio::time::sleep(pause).await;
            let released = unreleased.min(step);
            let _ = body.flow_control().release_capacity(released);
            unreleased -= released;
        }
    }
    Ok(all)
}

async fn read_fast(body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    read(body, usize::MAX, Duration::ZERO).await
}

#[tokio::test(start_paused = true)]
async fn streams_without_window_hold_nothing_and_are_reset() {
    for window in [0, 1000] {
        let world = connect(window, Limits::default()).await;
        let begun = Instant::now();
        let bodies = join_all((0..100).map(|_| world.get("big"))).await;
        world.settle().await;
        // What arrived there is the client's matter.
        let arrived = 100 * window as usize;
        assert!(world.tree.in_memory() <= arrived, "{} bytes", world.tree.in_memory());
        for result in join_all(bodies.into_iter().map(read_stalled)).await {
            assert_eq!(result.unwrap_err().reason(), Some(Reason::CANCEL));
        }
        assert!(begun.elapsed() >= Limits::default().write_timeout);
        // Twice where others of the connection were served meanwhile.
        assert!(begun.elapsed() < 3 * Limits::default().write_timeout);
        assert_eq!(world.service.stats().streams_timed_out, 100);
        assert_eq!(world.service.stats().bodies_broken, 100);
        // Nothing was taken of any of them: the client is told to leave, and does.
        drop(world.client);
        world.served.await.unwrap();
    }
}

/// Waits for the end of a stream without giving it window.
async fn read_stalled(mut body: RecvStream) -> Result<(), h2::Error> {
    while let Some(bytes) = body.data().await {
        bytes?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_connection_holds_its_budget_and_no_more_if_the_client_reads_nothing() {
    let world = connect(WINDOW, Limits::default()).await;
    let bodies = join_all((0..100).map(|_| world.get("small"))).await;
    drop(bodies);
    // The client's end of the connection is not driven any more: nothing is taken from the socket.
    let requests = (0..100).map(|_| {
        let request = Request::get("https://mirror/debian/snap/current/big").body(()).unwrap();
        world.client.clone().send_request(request, true).unwrap()
    });
    let requests: Vec<_> = requests.collect();
    tokio::task::yield_now().await;
    world.connection.abort();
    while world.tree.in_memory() < UNSENT_BYTES_MAX / 2 && !world.served.is_finished() {
        tokio::task::yield_now().await;
    }
    world.settle().await;
    let held = world.tree.in_memory();
    assert!(held <= UNSENT_BYTES_MAX, "{held} bytes");
    world.served.await.unwrap();
    assert_eq!(world.tree.in_memory(), 0);
    drop(requests);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_that_goes_on_is_never_cut_and_its_other_streams_proceed() {
    let limits = Limits {
        write_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let world = connect(1024, limits).await;
    let stalled = join_all((0..50).map(|_| world.get("big"))).await;
    let slow = read(world.get("big").await, 1024, Duration::from_millis(20));
    let fast = async {
        for _ in 0..5 {
            assert_eq!(read_fast(world.get("big").await).await.unwrap(), world.tree.big);
        }
    };
    let (slow, ()) = tokio::join!(slow, fast);
    assert_eq!(slow.unwrap(), world.tree.big);
    for result in join_all(stalled.into_iter().map(read_stalled)).await {
        assert_eq!(result.unwrap_err().reason(), Some(Reason::CANCEL));
    }
    assert_eq!(world.service.stats().streams_timed_out, 50);
    assert_eq!(world.service.stats().connections_timed_out, 0);
}

/// All of them share one window of the connection and a line of 80 kB/s: each waits longer for its turn than a timeout.
#[tokio::test(start_paused = true)]
async fn many_streams_of_a_slow_line_all_arrive() {
    let limits = Limits {
        write_timeout: Duration::from_secs(2),
        ..Limits::default()
    };
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (tree, service, _served, _services) = serve_on(near, limits, Stopping::never());
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW);
    let (client, connection) = builder.handshake::<_, Bytes>(far).await.unwrap();
    tokio::spawn(connection);
    let line = tokio::sync::Mutex::new(());
    let begun = Instant::now();
    let fetch = async || {
        let request = Request::get("https://mirror/debian/snap/current/big").body(()).unwrap();
        let (response, _) = client
            .clone()
            .ready()
            .await
            .unwrap()
            .send_request(request, true)
            .unwrap();
        let mut body = response.await.unwrap().into_body();
        let (mut all, mut longest, mut before) = (Vec::new(), Duration::ZERO, Instant::now());
        while let Some(bytes) = body.data().await {
            let bytes = bytes.unwrap();
            longest = longest.max(before.elapsed());
            before = Instant::now();
            let _line = line.lock().await;
            tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / 80_000.0)).await;
            all.extend_from_slice(&bytes);
            body.flow_control().release_capacity(bytes.len()).unwrap();
        }
        assert_eq!(all, tree.big);
        longest
    };
    let longest = join_all((0..50).map(|_| fetch())).await;
    assert!(longest.into_iter().max().unwrap() > Duration::from_secs(4));
    assert!(begun.elapsed() > Duration::from_secs(200));
    assert_eq!(service.stats().streams_timed_out, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_with_and_without_bodies_are_answered() {
    let world = connect(WINDOW, Limits::default()).await;
    let answer = world.send(Method::POST, "/echo", Some(b"heard")).await;
    assert_eq!(answer.headers()["content-length"], "5");
    assert!(answer.headers().contains_key("date"));
    assert_eq!(read_fast(answer.into_body()).await.unwrap(), b"heard");
    let answer = world.send(Method::HEAD, "/debian/snap/current/big", None).await;
    assert_eq!(answer.headers()["content-length"], BIG_BYTES.to_string());
    assert!(answer.body().is_end_stream());
    let answer = world.send(Method::HEAD, "/debian/snap/current/none", None).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(answer.body().is_end_stream());
    let answer = world.send(Method::GET, "/debian/snap/current/", None).await;
    assert!(!answer.headers().contains_key("content-length"));
    let page = String::from_utf8(read_fast(answer.into_body()).await.unwrap()).unwrap();
    assert!(page.ends_with("</html>\n"), "{page}");
    assert_eq!(read_fast(world.get("small").await).await.unwrap(), b"content");
    assert_eq!(world.service.stats().bodies_broken, 0);
    assert_eq!(world.tree.in_memory(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let limits = Limits::default();
    let world = connect(1024, limits.clone()).await;
    let slow = read(world.get("big").await, 1024, Duration::from_secs(1));
    let mut connection = world.connection;
    tokio::select! {
        ended = &mut connection => panic!("it ended with {ended:?}"),
        read = slow => assert_eq!(read.unwrap(), world.tree.big),
    }
    let begun = Instant::now();
    connection.await.unwrap().unwrap();
    assert!(begun.elapsed() >= limits.idle_timeout);
    assert!(begun.elapsed() <= 2 * limits.idle_timeout);
    world.served.await.unwrap();
    assert_eq!(world.service.stats().connections_timed_out, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut() {
    let (near, _far) = tokio::io::duplex(1024);
    let begun = Instant::now();
    let (_, service, served, _services) = serve_on(near, Limits::default(), Stopping::never());
    served.await.unwrap();
    assert_eq!(begun.elapsed(), Limits::default().header_timeout);
    assert_eq!(service.stats().connections_timed_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_ends_its_answers_first() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (stop, stopping) = Stopping::channel();
    let (tree, _, served, _services) = serve_on(near, Limits::default(), stopping);
    let (client, connection) = h2::client::handshake(far).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("https://mirror/debian/snap/current/big").body(()).unwrap();
    let (response, _): (_, h2::SendStream<Bytes>) = client.ready().await.unwrap().send_request(request, true).unwrap();
    let body = response.await.unwrap().into_body();
    stop.give();
    let read = read(body, 1024, Duration::from_millis(10)).await;
    assert_eq!(read.unwrap(), tree.big);
    served.await.unwrap();
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_makes_room_and_a_busy_one_answers_first() {
    let world = connect(1024, Limits::default()).await;
    assert_eq!(read_fast(world.get("small").await).await.unwrap(), b"content");
    world.settle().await;
    assert!(world.kept.place.is_idle());
    let begun = Instant::now();
    world.kept.place.leaves();
    world.served.await.unwrap();
    assert!(begun.elapsed() <= GOODBYE_TIME);

    let world = connect(1024, Limits::default()).await;
    let slow = read(world.get("big").await, 1024, Duration::from_secs(1));
    world.settle().await;
    world.kept.place.leaves();
    let begun = Instant::now();
    assert_eq!(slow.await.unwrap(), world.tree.big);
    assert!(begun.elapsed() > Duration::from_secs(100));
    let begun = Instant::now();
    // The client was told to open no more streams, and has left.
    world.connection.await.unwrap().unwrap();
    world.served.await.unwrap();
    assert!(begun.elapsed() <= GOODBYE_TIME);
}

/// Its answers are handed over to their ends, and no stream looks after them any more.
#[tokio::test(start_paused = true)]
async fn the_rest_of_an_answer_is_sent_before_a_connection_leaves() {
    for (pause, arrives) in [(Duration::from_millis(500), true), (Duration::from_secs(20), false)] {
        let (near, far) = tokio::io::duplex(512);
        let limits = Limits {
            send_rate_min: 256,
            ..Limits::default()
        };
        let (tree, service, served, kept) = serve_on(near, limits, Stopping::never());
        // A line of 512 bytes in each pause.
        let (line, end) = tokio::io::duplex(64 * 1024);
        tokio::spawn(carry_slowly(far, line, pause));
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let (client, connection) = builder.handshake::<_, Bytes>(end).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://mirror/debian/snap/current/big").body(()).unwrap();
        let (response, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
        let body = response.await.unwrap().into_body();
        kept.place.leaves();
        let begun = Instant::now();
        let read = read_fast(body).await;
        assert!(begun.elapsed() >= Limits::default().write_timeout);
        served.await.unwrap();
        match read {
            Ok(bytes) => assert!(arrives && bytes == tree.big),
            Err(error) => assert!(!arrives, "{error}"),
        }
        assert_eq!(service.stats().connections_timed_out, u64::from(!arrives));
        assert_eq!(tree.in_memory(), 0);
    }
}

async fn carry_slowly(far: DuplexStream, line: DuplexStream, pause: Duration) {
    let (mut from_server, mut to_server) = tokio::io::split(far);
    let (mut from_client, mut to_client) = tokio::io::split(line);
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut bytes = [0; 512];
        while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
            tokio::time::sleep(pause).await;
            to_client.write_all(&bytes[..read]).await?;
        }
        to_client.shutdown().await
    };
    let _ = tokio::join!(there, back);
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_too_fast_are_answered_with_429() {
    let mut limits = Limits::default();
    limits.addresses.requests = Some(RequestRate {
        per_second: NonZeroU32::MIN,
        burst: NonZeroU32::MIN.saturating_add(2),
    });
    let world = connect(WINDOW, limits).await;
    let path = "/debian/snap/current/small";
    for expected in [200, 200, 200, 429, 429] {
        let answer = world.send(Method::GET, path, None).await;
        assert_eq!(answer.status(), expected);
        assert_eq!(answer.headers().contains_key("retry-after"), expected == 429);
    }
    // The body of such a request is not waited for, and the connection is good for others.
    let answer = world.send(Method::POST, "/echo", Some(b"heard")).await;
    assert_eq!(answer.status(), 429);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(read_fast(world.get("small").await).await.unwrap(), b"content");
    assert_eq!(world.service.stats().answers[3], 3, "answers of the class 4xx");
}

#[tokio::test(start_paused = true)]
async fn pieces_grow_for_a_client_that_takes_them() {
    let world = connect(WINDOW, Limits::default()).await;
    assert_eq!(read_fast(world.get("big").await).await.unwrap(), world.tree.big);
    assert_eq!(
        *world.tree.reads.lock().unwrap(),
        [65_536, 131_072, BIG_BYTES - 196_608]
    );
}
