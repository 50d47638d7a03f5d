//! Objects that are late, cannot be had, or fail on the way.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use instantmirror_core::{CacheError, FetchError, ObjectId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::client::{get, send};
use crate::world::{Fault, Item, Running, World, corrupt, start, unavailable};

fn content() -> Bytes {
    vec![b'x'; 1 << 20].into()
}

async fn world(fault: impl FnOnce(ObjectId) -> Fault) -> (Running, Arc<World>) {
    let world = World::new();
    let object = ObjectId::of(&content());
    world.fault(&content(), fault(object));
    let items = vec![("bad", Item::File(content())), ("good", Item::File("good".into()))];
    world.publish(1, items, true).await;
    let service = world.service();
    (start(service).await, world)
}

const BAD: &str = "/debian/snap/current/bad";

#[tokio::test]
async fn what_cannot_be_had_is_said_before_the_first_byte() {
    type Make = fn(ObjectId) -> Fault;
    let cases: [(Make, u16); 8] = [
        (|object| Fault::Open(unavailable(object)), 504),
        (|object| Fault::At(0, unavailable(object)), 504),
        (|object| Fault::Open(corrupt(object)), 502),
        (|object| Fault::At(0, corrupt(object)), 502),
        (
            |object| Fault::Open(FetchError::Cache(CacheError::Full { object, size: 1 << 20 })),
            503,
        ),
        (
            |object| {
                Fault::Open(FetchError::Cache(CacheError::TooLarge {
                    object,
                    size: 9,
                    max: 1,
                }))
            },
            507,
        ),
        (
            |object| Fault::At(0, FetchError::Cache(CacheError::Absent { object, range: 0..1 })),
            500,
        ),
        (|_| Fault::Size(5), 503),
    ];
    for (make, status) in cases {
        let (server, world) = world(make).await;
        let object = ObjectId::of(&content()).to_string();
        for lines in ["", "Range: bytes=5-9\r\n", "Range: bytes=0-0,9999-9999\r\n"] {
            let reply = send(server.address, "GET", BAD, lines, b"").await;
            assert!(reply.status == status && reply.whole, "{status} {lines}: {reply:?}");
            assert!(
                reply.text().contains(&object) && reply.text().contains("/bad"),
                "{}",
                reply.text()
            );
            assert!(reply.find("etag").is_none() && reply.find("content-range").is_none());
            assert_eq!(reply.header("cache-control"), "no-store");
        }
        assert_eq!(get(server.address, "/debian/snap/current/good").await.text(), "good");
        assert_eq!(world.readers.load(Ordering::SeqCst), 0);
        assert_eq!(server.service.stats().answers[4], 3);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_failure_on_the_way_never_looks_like_the_end() {
    let (server, world) = world(|object| Fault::At(300_000, unavailable(object))).await;
    let reply = get(server.address, BAD).await;
    assert_eq!((reply.status, reply.whole), (200, false));
    assert!(reply.body.len() <= 300_000);
    // In the second of two parts.
    let reply = send(server.address, "GET", BAD, "Range: bytes=0-99,400000-400099\r\n", b"").await;
    assert_eq!((reply.status, reply.whole), (206, false));
    assert_eq!(server.service.stats().bodies_broken, 2);
    assert_eq!(world.readers.load(Ordering::SeqCst), 0);
    assert_eq!(get(server.address, "/debian/snap/current/good").await.text(), "good");
    server.stop().await;
}

#[tokio::test]
async fn bytes_are_sent_as_they_come() {
    let (progress, until) = watch::channel(0_u64);
    let (server, _) = world(|_| Fault::Until(until)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {BAD} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = 0;
    let mut buffer = vec![0; 64 * 1024];
    for step in 1..=16_u64 {
        progress.send_replace(step << 16);
        // Everything that is there arrives while the rest is not.
        while seen < step << 16 {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0);
            let body = match buffer[..read].windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) if seen == 0 => read - end - 4,
                _ => read,
            };
            seen += body as u64;
        }
        assert_eq!(seen, step << 16);
    }
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_withdraws_its_interest() {
    let (progress, until) = watch::channel(0_u64);
    let (server, world) = world(|_| Fault::Until(until)).await;
    for begun in [0, 1 << 16] {
        progress.send_replace(begun);
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET {BAD} HTTP/1.1\r\nHost: h\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        if begun > 0 {
            stream.read_exact(&mut [0; 1]).await.unwrap();
        }
        while world.readers.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        drop(stream);
        while world.readers.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }
    server.stop().await;
}

/// What the log would hold.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The runtime of a test has one thread, so its subscriber sees the server too.
#[tokio::test]
async fn the_log_names_what_could_not_be_served() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        // Where another test has had the line of this minute, it is there at debug.
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let (server, world) = world(|object| Fault::At(0, unavailable(object))).await;
    let object = ObjectId::of(&content());
    get(server.address, BAD).await;
    world.fault(&content(), Fault::At(100, unavailable(object)));
    get(server.address, BAD).await;
    world.publish(2, vec![("loop", Item::Link("loop"))], true).await;
    assert_eq!(get(server.address, "/debian/snap/current/loop").await.status, 404);
    server.stop().await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    // Readers cause them, so they are no warnings.
    assert!(!log.contains(" WARN "), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("path=bad")).collect();
    let expected = ["status=504", "broke off"];
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part) && line.contains("repository=debian"), "{line}");
    }
    assert!(
        lines[..2]
            .iter()
            .all(|line| line.contains(&object.to_string()) && line.contains("path=bad"))
    );
}
