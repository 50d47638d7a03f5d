//! Clients that are slow, on purpose or not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use instantmirror_http::{Limits, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::client::{Kept, parse};
use crate::world::{Fault, Item, Running, World, start, start_on};

const BIG: &str = "/debian/snap/current/big";
const BIG_BYTES: usize = 64 << 20;

async fn server(limits: Limits) -> Running {
    let world = World::new();
    let items = vec![
        ("small", Item::File("content".into())),
        ("big", Item::File(Bytes::from(vec![b'b'; BIG_BYTES]))),
    ];
    world.publish(1, items, true).await;
    let mut server = Server::new(limits);
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    start_on(server, world.service())
}

/// Waits until so many connections were cut.
async fn cut(server: &Running, count: u64) {
    while server.service.stats().connections_timed_out < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_cut() {
    let mut limits = Limits::default();
    limits.header_timeout = Duration::from_millis(150);
    let server = server(limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let begun = Instant::now();
    let (mut input, mut output) = stream.split();
    let writing = async {
        for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'x'))
        {
            if output.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = writing => {}
        _ = input.read_to_end(&mut answer) => {}
    }
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert_eq!(parse(&answer, false).status, 408);
    cut(&server, 1).await;
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let mut limits = Limits::default();
    limits.idle_timeout = Duration::from_millis(50);
    let server = server(limits).await;
    let mut connection = Kept::connect(server.address).await.unwrap();
    connection
        .send(b"GET /debian/snap/current/small HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(connection.answer(false).await.unwrap().text(), "content");
    assert!(connection.answer(false).await.is_none());
    assert_eq!(server.service.stats().connections_timed_out, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let mut limits = Limits::default();
    limits.write_timeout = Duration::from_millis(100);
    let server = server(limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {BIG} HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    cut(&server, 1).await;
    let mut answer = Vec::new();
    // The kernel keeps nothing for it either: it would send what it has, and then say that this is all.
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(answer.len() < BIG_BYTES);
    server.stop().await;
}

/// It takes some all the time, so it is never silent; but so little that it would stay for days.
#[tokio::test]
async fn a_client_that_takes_almost_nothing_is_cut() {
    let mut limits = Limits::default();
    limits.write_timeout = Duration::from_millis(400);
    limits.send_rate_min = 1 << 40;
    let server = server(limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {BIG} HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 512 * 1024];
    let mut taken = 0;
    while server.service.stats().connections_timed_out == 0 {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => taken += read,
            _ => break,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cut(&server, 1).await;
    assert!(taken < BIG_BYTES);
    server.stop().await;
}

#[tokio::test]
async fn a_slow_client_that_takes_enough_is_served() {
    let mut limits = Limits::default();
    limits.write_timeout = Duration::from_secs(1);
    let server = server(limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {BIG} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut buffer, mut answer) = (vec![0; 4 << 20], Vec::new());
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..read]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(parse(&answer, false).whole);
    server.stop().await;
}

/// The time for a header begins anew with each.
#[tokio::test]
async fn headers_in_pieces_have_their_time_each() {
    let mut limits = Limits::default();
    limits.header_timeout = Duration::from_millis(1500);
    let server = server(limits).await;
    let mut connection = Kept::connect(server.address).await.unwrap();
    // Ready in memory, not there, ready again: by every way there is.
    for target in ["small", "none", "small", "none"] {
        connection
            .send(format!("GET /debian/snap/current/{target} HTTP/1.1\r\n").as_bytes())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        connection.send(b"Host: h\r\n\r\n").await.unwrap();
        let status = connection.answer(false).await.unwrap().status;
        assert_eq!(status, if target == "none" { 404 } else { 200 });
        // Together they take longer than one may.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    server.stop().await;
}

/// What is ready goes out although what was asked behind it is not.
#[tokio::test]
async fn a_pipelined_answer_does_not_wait_for_the_next() {
    let world = World::new();
    let (_progress, until) = watch::channel(0_u64);
    world.fault(b"never", Fault::Until(until));
    let items = vec![
        ("small", Item::File("content".into())),
        ("never", Item::File("never".into())),
    ];
    world.publish(1, items, true).await;
    let server = start(world.service()).await;
    let get = |name: &str| format!("GET /debian/snap/current/{name} HTTP/1.1\r\nHost: h\r\n\r\n");
    for _ in 0..2 {
        let mut connection = Kept::connect(server.address).await.unwrap();
        let both = get("small") + &get("never");
        connection.send(both.as_bytes()).await.unwrap();
        assert_eq!(connection.answer(false).await.unwrap().text(), "content");
    }
    drop(server);
}
