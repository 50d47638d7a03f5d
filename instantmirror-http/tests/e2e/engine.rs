//! The HTTP/1.1 engine: what it sends how, what it keeps ready, and what becomes of the connection.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use instantmirror_http::{HotLimits, Limits, Server, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::client::{Kept, Reply, get, parse, raw, send};
use crate::world::{Fault, Item, Running, World, start, start_on};

const SMALL: &str = "/debian/snap/current/small";
const LARGE: &str = "/debian/snap/current/large";
const DISK: &str = "/debian/snap/current/disk";

/// Nothing in it repeats at a distance at which a mistake would be made.
fn numbers(count: u32) -> Bytes {
    (0..count)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect::<Vec<u8>>()
        .into()
}

/// An object that lies in a real file.
fn on_disk(world: &World, content: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    world.fault(content, Fault::Described(Arc::new(file.try_clone().unwrap())));
    file
}

async fn world() -> Arc<World> {
    let world = World::new();
    on_disk(&world, &numbers(200_000));
    let items = vec![
        ("small", Item::File("content".into())),
        ("large", Item::File(numbers(100_000))),
        ("disk", Item::File(numbers(200_000))),
        ("empty", Item::File(Bytes::new())),
        ("dir/x", Item::File("x".into())),
        ("link", Item::Link("small")),
    ];
    world.publish(1, items, true).await;
    world
}

fn service(world: &Arc<World>) -> Service {
    world.service().with_api(world.api())
}

async fn server() -> (Running, Arc<World>) {
    let world = world().await;
    (start(service(&world)).await, world)
}

#[tokio::test]
async fn files_are_sent_by_the_kernel() {
    let (server, world) = server().await;
    let content = numbers(200_000);
    let size = content.len() as u64;
    for _ in 0..3 {
        let reply = get(server.address, DISK).await;
        assert!(reply.whole && reply.body == content);
        let reply = send(server.address, "GET", DISK, "Range: bytes=5-600004\r\n", b"").await;
        assert!(reply.status == 206 && reply.whole && reply.body == content[5..600_005]);
        let reply = send(server.address, "GET", DISK, "Range: bytes=0-9,500000-500099\r\n", b"").await;
        assert!(reply.whole && reply.body.windows(100).any(|part| part == &content[500_000..500_100]));
    }
    let stats = server.service.stats();
    assert_eq!(stats.sendfile_bytes, 3 * (size + 600_000 + 110));
    assert_eq!((stats.answers_hot, stats.by_status[&200]), (5, 3));
    // One reader is kept for the next request; the others are gone.
    assert_eq!(world.readers.load(Ordering::SeqCst), 1);
    server.stop().await;
}

/// A file that becomes shorter under the server is the work of somebody who has no business there.
#[tokio::test]
async fn a_file_that_was_cut_breaks_the_answer_off() {
    let world = World::new();
    let content = numbers(200_000);
    let file = on_disk(&world, &content);
    world.publish(1, vec![("disk", Item::File(content))], true).await;
    let server = start(service(&world)).await;
    assert!(get(server.address, DISK).await.whole);
    file.set_len(300_000).unwrap();
    let reply = get(server.address, DISK).await;
    assert!(!reply.whole && reply.body == numbers(200_000)[..300_000]);
    server.stop().await;
}

/// Whatever is asked: the answer that is kept ready is the one that would be made.
#[tokio::test]
async fn answers_kept_ready_are_those_that_would_be_made() {
    let world = world().await;
    let mut nothing_kept = HotLimits::default();
    nothing_kept.answers_max = 0;
    let made = start(service(&world).with_hot_limits(&nothing_kept)).await;
    let kept = start(service(&world)).await;
    let etag = get(made.address, SMALL).await.header("etag").to_owned();
    let lines = [
        String::new(),
        "Range: bytes=0-0\r\n".to_owned(),
        "Range: bytes=2-\r\n".to_owned(),
        "Range: bytes=-3\r\n".to_owned(),
        "Range: bytes=0-1,3-3,5-100\r\n".to_owned(),
        "Range: bytes=900000-\r\n".to_owned(),
        "Range: lines=1-2\r\n".to_owned(),
        format!("If-None-Match: {etag}\r\n"),
        format!("If-None-Match: \"x\", W/{etag}\r\nRange: bytes=1-2\r\n"),
        format!("If-Match: {etag}\r\n"),
        "If-Match: \"other\"\r\n".to_owned(),
        "If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT\r\n".to_owned(),
        "If-Unmodified-Since: Tue, 14 Nov 2023 22:13:19 GMT\r\n".to_owned(),
        format!("If-Range: {etag}\r\nRange: bytes=1-2\r\n"),
        "If-Range: \"other\"\r\nRange: bytes=1-2\r\n".to_owned(),
        "Accept: application/json\r\n".to_owned(),
    ];
    let plain = |reply: Reply| {
        let mut headers: Vec<_> = reply.headers.into_iter().filter(|(name, _)| name != "date").collect();
        headers.sort();
        (reply.status, headers, reply.body, reply.whole)
    };
    for target in [
        SMALL,
        LARGE,
        DISK,
        "/debian/snap/current/empty",
        "/debian/snap/current/link",
    ] {
        for lines in &lines {
            for method in ["GET", "HEAD", "GET"] {
                let expected = plain(send(made.address, method, target, lines, b"").await);
                let found = plain(send(kept.address, method, target, lines, b"").await);
                assert_eq!(found, expected, "{method} {target} {lines}");
            }
        }
    }
    assert_eq!(made.service.stats().answers_hot, 0);
    assert!(kept.service.stats().answers_hot > 100, "{:?}", kept.service.stats());
    made.stop().await;
    kept.stop().await;
}

#[tokio::test]
async fn what_is_kept_ready_ends_with_its_snapshot() {
    let (server, world) = server().await;
    for _ in 0..3 {
        assert_eq!(get(server.address, SMALL).await.text(), "content");
    }
    assert!(server.service.stats().answers_hot > 0);
    world
        .publish(2, vec![("small", Item::File("newer".into()))], true)
        .await;
    for _ in 0..3 {
        assert_eq!(get(server.address, SMALL).await.text(), "newer");
        assert_eq!(get(server.address, LARGE).await.status, 404);
    }
    world.publish(3, vec![("other", Item::File("x".into()))], true).await;
    assert_eq!(get(server.address, SMALL).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (server, _) = server().await;
    let mut expected = Vec::new();
    let mut requests = String::new();
    for round in 0..40 {
        for (target, status) in [
            (SMALL, 200),
            (DISK, 200),
            ("/debian/snap/current/none", 404),
            ("/debian/snap/current/dir", 301),
            ("/%zz", 400),
        ] {
            let method = if round % 2 == 0 { "GET" } else { "HEAD" };
            requests.push_str(&format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            expected.push((method, target, status));
        }
    }
    let mut connection = Kept::connect(server.address).await.unwrap();
    let (_, unused) = TcpStream::connect(server.address).await.unwrap().into_split();
    let mut output = std::mem::replace(&mut connection.output, unused);
    let writing = tokio::spawn(async move {
        output.write_all(requests.as_bytes()).await.unwrap();
        output
    });
    for (method, target, status) in expected {
        let reply = connection.answer(method == "HEAD").await.unwrap();
        assert_eq!(
            (reply.status, reply.whole || method == "HEAD"),
            (status, true),
            "{method} {target}"
        );
        if target == DISK && method == "GET" {
            assert_eq!(reply.body, numbers(200_000));
        }
    }
    drop(writing.await.unwrap());
    assert!(connection.answer(false).await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn clients_of_http_1_0_are_told() {
    let (server, _) = server().await;
    let mut connection = Kept::connect(server.address).await.unwrap();
    for _ in 0..2 {
        let request = format!("GET {SMALL} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        connection.send(request.as_bytes()).await.unwrap();
        let reply = connection.answer(false).await.unwrap();
        assert_eq!((reply.text(), reply.header("connection")), ("content", "keep-alive"));
    }
    let reply = parse(
        &raw(server.address, format!("GET {SMALL} HTTP/1.0\r\n\r\n").as_bytes()).await,
        false,
    );
    assert_eq!((reply.text(), reply.header("connection")), ("content", "close"));
    // A page of unknown length: chunks for HTTP/1.1, the end of the connection for HTTP/1.0.
    let page = get(server.address, "/debian/snap/current/").await;
    assert!(page.whole && page.header("transfer-encoding") == "chunked");
    let request = b"GET /debian/snap/current/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let answer = String::from_utf8(raw(server.address, request).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("connection: close") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert_eq!(body, page.text());
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_gets_it() {
    let (server, _) = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /.im/v1/debian/batch HTTP/1.1\r\nHost: h\r\nContent-Length: 32\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut leave = [0; 25];
    stream.read_exact(&mut leave).await.unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&[7; 32]).await.unwrap();
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    // Nobody is asked to send what would be refused.
    let head =
        "POST /.im/v1/debian/batch HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n";
    let reply = parse(&raw(server.address, head.as_bytes()).await, false);
    assert_eq!((reply.status, reply.header("connection")), (413, "close"));
    server.stop().await;
}

/// `printf 'GET ...' | nc -N` closes its side at once, and still wants the answer.
#[tokio::test]
async fn half_closed_is_not_gone() {
    let (server, _) = server().await;
    for target in [SMALL, LARGE, DISK, "/debian/snap/current/", SMALL] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(parse(&answer, false).whole, "{target}");
    }
    server.stop().await;
}

/// A refusal reaches a client that is still sending: the connection is not reset under it.
#[tokio::test]
async fn a_refused_client_gets_to_see_why() {
    let (server, _) = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\nHost: h\n\n").await.unwrap();
    for _ in 0..20 {
        // Its end may have come already, which is as good.
        let _ = stream.write_all(&[b'x'; 10_000]).await;
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(parse(&answer, false).status, 400);
    server.stop().await;
}

/// Clients that ask without pause while the server stops: whoever has sent a request gets its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_loses_no_request() {
    let (mut server, _) = server().await;
    let (address, answered) = (server.address, Arc::new(Semaphore::new(0)));
    let client = |target: &'static str, close: bool, answered: Arc<Semaphore>| async move {
        loop {
            let Ok(mut connection) = Kept::connect(address).await else {
                return;
            };
            let line = if close { "Connection: close\r\n" } else { "" };
            loop {
                let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{line}\r\n");
                connection.send(request.as_bytes()).await.unwrap();
                let reply = connection.answer(false).await.expect("a request was lost");
                assert!(reply.status == 200 && reply.whole);
                answered.add_permits(1);
                if reply.find("connection") == Some("close") {
                    break;
                }
            }
        }
    };
    let clients: Vec<_> = (0..30)
        .map(|number| {
            let target = [SMALL, LARGE, DISK][number % 3];
            // Who connects anew for each request can meet the very end of the listening socket, as with every
            // server; those who are connected cannot.
            tokio::spawn(client(target, false, Arc::clone(&answered)))
        })
        .collect();
    drop(answered.acquire_many(300).await.unwrap());
    server.signal();
    for client in clients {
        client.await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_reload_changes_the_answers_and_closes_nothing() {
    let world = world().await;
    let (services, newest) = watch::channel(Arc::new(service(&world)));
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.addresses()[0];
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve_newest(newest, async {
        let _ = stopped.await;
    }));
    let mut connection = Kept::connect(address).await.unwrap();
    let request = format!("GET {SMALL} HTTP/1.1\r\nHost: h\r\n\r\n");
    connection.send(request.as_bytes()).await.unwrap();
    assert_eq!(connection.answer(false).await.unwrap().text(), "content");
    let other = World::new();
    other
        .publish(1, vec![("small", Item::File("other".into()))], true)
        .await;
    let next = service(&other).continuing(&services.borrow());
    services.send_replace(Arc::new(next));
    connection.send(request.as_bytes()).await.unwrap();
    assert_eq!(connection.answer(false).await.unwrap().text(), "other");
    let stats = services.borrow().stats();
    assert_eq!((stats.connections_accepted, stats.answers[1]), (1, 2));
    drop((connection, stop));
    serving.await.unwrap();
}

#[tokio::test]
async fn what_is_kept_open_is_let_go() {
    let world = world().await;
    let mut limits = HotLimits::default();
    limits.lifetime = Duration::from_millis(1);
    let server = start(service(&world).with_hot_limits(&limits)).await;
    get(server.address, DISK).await;
    assert_eq!(world.readers.load(Ordering::SeqCst), 1);
    while world.readers.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.stop().await;
    // Nor is anything kept that holds more than may be held.
    let mut limits = HotLimits::default();
    limits.held_bytes_max = 700_000;
    let server = start(service(&world).with_hot_limits(&limits)).await;
    get(server.address, DISK).await;
    assert_eq!(world.readers.load(Ordering::SeqCst), 0);
    server.stop().await;
}

#[tokio::test]
async fn too_many_connections_at_once_only_wait() {
    let world = world().await;
    let mut limits = Limits::default();
    limits.connections_max = 8;
    let mut server = Server::new(limits);
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let server = start_on(server, service(&world));
    let address = server.address;
    let storm: Vec<_> = (0..400)
        .map(|_| tokio::spawn(async move { get(address, SMALL).await }))
        .collect();
    for client in storm {
        let reply = client.await.unwrap();
        assert_eq!((reply.text(), reply.header("connection")), ("content", "close"));
    }
    assert_eq!(server.service.stats().connections_accepted, 400);
    server.stop().await;
}
