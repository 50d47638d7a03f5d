//! The node API.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{Empty, StreamBody};
use instantmirror_core::batch::{BATCH_ANSWER_BYTES_MAX, BATCH_OBJECTS_MAX, BatchDecoder, encode_request};
use instantmirror_core::catalog::frame::FrameDecoder;
use instantmirror_core::catalog::{CatalogNode, NodeSource as _, check_closure};
use instantmirror_core::heads::HEADS_MAX;
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::{Directory, NodeId, ObjectId, SecretKey, SignedHead, Snapshot};
use instantmirror_http::Stopping;
use instantmirror_http::limits::{LONG_POLL_MAX, REQUEST_BODY_TIMEOUT};
use tokio::time::Instant;

use crate::client::{Reply, get, send};
use crate::world::{Item, Running, World, name, start};

async fn world() -> (Running, Arc<Snapshot>, Arc<World>) {
    let world = World::new();
    let snapshot = world.publish(1, tree(3000), true).await;
    let service = world.service().with_api(world.api());
    (start(service).await, snapshot, world)
}

fn tree(files: usize) -> Vec<(&'static str, Item)> {
    let path = |i: usize| -> &'static str { format!("d{}/f{i}", i % 7).leak() };
    (0..files)
        .map(|i| (path(i), Item::File(Bytes::from(i.to_string()))))
        .collect()
}

#[track_caller]
fn assert_error(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert!(reply.json()["error"].is_string());
}

fn verify(reply: &Reply) -> u64 {
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, "application/vnd.dsse+json")
    );
    let key = SecretKey::from_random([7; 32]).public();
    let head = SignedHead::verify(reply.body.clone().into(), &name(), &[key]).unwrap();
    head.head().sequence
}

#[tokio::test]
async fn heads_and_the_long_poll() {
    let (server, _, world) = world().await;
    let at = server.address;
    assert_eq!(verify(&get(at, "/.im/v1/debian/head").await), 1);
    assert_eq!(verify(&get(at, "/.im/v1/debian/head?after=0").await), 1);
    assert_eq!(get(at, "/.im/v1/debian/head?after=1&wait=0").await.status, 204);
    let waiting = tokio::spawn(async move { get(at, "/.im/v1/debian/head?after=1").await });
    tokio::task::yield_now().await;
    world.publish(2, tree(10), true).await;
    assert_eq!(verify(&waiting.await.unwrap()), 2);
    for query in ["after=", "after=x", "after=-1", "after=1&wait=x", "after=1&wait="] {
        assert_error(&get(at, &format!("/.im/v1/debian/head?{query}")).await, 400);
    }
    assert_error(&get(at, "/.im/v1/fedora/head").await, 404);
    assert_error(&get(at, "/.im/v1/fedora/head?after=0").await, 404);
    assert_error(&get(at, "/.im/v1/debian/head/").await, 404);
    let reply = send(at, "DELETE", "/.im/v1/debian/head", "", b"").await;
    assert_error(&reply, 405);
    assert_eq!(reply.header("allow"), "GET, HEAD, OPTIONS");
    server.stop().await;
}

#[tokio::test]
async fn the_heads_of_many_are_asked_for_at_once() {
    let (server, _, world) = world().await;
    let at = server.address;
    let ask = move |query: &str, body: &str| {
        let (target, body) = (format!("/.im/v1/heads{query}"), body.to_owned());
        async move { send(at, "POST", &target, "", body.as_bytes()).await }
    };
    let moved = ask("", "debian 0\nfedora 4\nsuse -\n").await;
    let said = (moved.status, String::from_utf8_lossy(&moved.body).into_owned());
    assert_eq!(said, (200, "debian 1\nfedora -\n".to_owned()));
    assert_eq!(moved.header("cache-control"), "no-store");
    // A head that was set back is another one too.
    assert_eq!(ask("", "debian 9").await.body, b"debian 1\n");
    assert_eq!(ask("?wait=0", "debian 1\nfedora -").await.status, 204);
    let waiting = tokio::spawn(ask("", "debian 1\nfedora -"));
    tokio::task::yield_now().await;
    world.publish(2, tree(10), true).await;
    assert_eq!(waiting.await.unwrap().body, b"debian 2\n");
    for (query, body, status) in [
        ("", "", 400),
        ("", "debian", 400),
        ("", "debian 1\n\n", 400),
        ("", "debian 1\ndebian 2", 400),
        ("", "../x 1", 400),
        ("?wait=x", "debian 1", 400),
    ] {
        assert_error(&ask(query, body).await, status);
    }
    let many: String = (0..=HEADS_MAX).map(|i| format!("r{i} 1\n")).collect();
    assert_error(&ask("", &many).await, 413);
    let reply = get(at, "/.im/v1/heads").await;
    assert_error(&reply, 405);
    assert_eq!(reply.header("allow"), "POST, OPTIONS");
    server.stop().await;
}

#[tokio::test]
async fn a_waiting_poll_is_told_that_the_server_stops() {
    let (mut server, ..) = world().await;
    let at = server.address;
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // The first answer shows that the connection is being served; the second request waits.
    let poll = "GET /.im/v1/debian/head?after=1&wait=0 HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(poll.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 204");
    let wait = "GET /.im/v1/debian/head?after=1 HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(wait.as_bytes()).await.unwrap();
    while server.service.stats().answers[1] < 1 {
        tokio::task::yield_now().await;
    }
    server.signal();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    let rest = String::from_utf8_lossy(&rest);
    // Either it was waiting already, or it was not read any more.
    assert!(rest.contains("HTTP/1.1 503") || !rest.contains("HTTP/1.1"), "{rest}");
    server.stop().await;
}

#[tokio::test]
async fn records_of_released_snapshots_only() {
    let (server, snapshot, world) = world().await;
    let reply = get(server.address, &format!("/.im/v1/debian/snapshots/{}", snapshot.id)).await;
    let (record, bytes) = snapshot.encode();
    assert_eq!((reply.status, &reply.body), (200, &bytes));
    assert_eq!(
        Snapshot::decode(&name(), snapshot.id, record, &reply.body).unwrap(),
        *snapshot
    );
    let staged = world.publish(2, tree(2), false).await;
    assert_error(
        &get(server.address, &format!("/.im/v1/debian/snapshots/{}", staged.id)).await,
        404,
    );
    assert_error(&get(server.address, "/.im/v1/debian/snapshots/current").await, 400);
    server.stop().await;
}

/// Takes a delta into `store` and returns the number of nodes that came.
fn receive(reply: &Reply, store: &MemoryStore) -> usize {
    assert!(reply.status == 200 && reply.whole, "{reply:?}");
    assert_eq!(
        reply.header("content-type"),
        "application/vnd.instantmirror.catalog.v1+zstd"
    );
    let mut decoder = FrameDecoder::default();
    decoder.push(&zstd::decode_all(&reply.body[..]).unwrap());
    let mut count = 0;
    while let Some(bytes) = decoder.next_frame().unwrap() {
        let node = CatalogNode::open(NodeId::of(&bytes), bytes).unwrap();
        store.insert_node(node);
        count += 1;
    }
    decoder.finish().unwrap();
    count
}

#[tokio::test]
async fn a_delta_brings_the_whole_catalog_then_only_what_changed() {
    let (server, first, world) = world().await;
    let root = first.root.node;
    let store = MemoryStore::new();
    let all = receive(
        &get(server.address, &format!("/.im/v1/debian/catalog/{root}")).await,
        &store,
    );
    let closure = |snapshot: &Snapshot| {
        let Snapshot { root, .. } = snapshot;
        let directory = Directory {
            node: root.node,
            files: root.files,
            bytes: root.bytes,
        };
        check_closure(&store, None, &directory)
    };
    assert_eq!(closure(&first).unwrap().nodes, all as u64);

    let second = world.publish(2, tree(3001), true).await;
    assert!(store.node(&second.root.node).unwrap().is_none());
    let target = format!("/.im/v1/debian/catalog/{}?have={root}", second.root.node);
    let some = receive(&get(server.address, &target).await, &store);
    assert!(some < all / 2, "{some} of {all}");
    closure(&second).unwrap();

    let unknown = NodeId::of(b"unknown");
    let target = format!("/.im/v1/debian/catalog/{}?have={unknown}", second.root.node);
    assert!(receive(&get(server.address, &target).await, &MemoryStore::new()) >= all);
    assert_error(
        &get(server.address, &format!("/.im/v1/debian/catalog/{unknown}")).await,
        404,
    );
    assert_error(
        &get(server.address, &format!("/.im/v1/debian/catalog/{root}?have=x")).await,
        400,
    );
    assert_eq!(
        send(
            server.address,
            "HEAD",
            &format!("/.im/v1/debian/catalog/{root}"),
            "",
            b""
        )
        .await
        .status,
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn objects_and_outboards_that_are_held_whole() {
    let (server, _, world) = world().await;
    let content: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let object = world.cache_object(&content).await;
    let target = format!("/.im/v1/debian/objects/{object}");
    let reply = get(server.address, &target).await;
    assert_eq!((reply.status, &reply.body), (200, &content));
    assert_eq!(reply.header("etag"), format!("\"{object}\""));
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    let ask = |lines: &'static str| send(server.address, "GET", &target, lines, b"");
    let reply = ask("Range: bytes=65536-131071\r\n").await;
    assert_eq!((reply.status, &reply.body[..]), (206, &content[65536..131_072]));
    assert_eq!(ask("Range: bytes=0-0,200000-200000\r\n").await.status, 200);
    let reply = ask("Range: bytes=300000-\r\n").await;
    assert_error(&reply, 416);
    assert_eq!(reply.header("content-range"), "bytes */300000");
    let reply = send(server.address, "HEAD", &target, "", b"").await;
    assert_eq!(reply.header("content-length"), "300000");
    let reply = get(server.address, &format!("{target}/outboard")).await;
    assert_eq!((reply.status, reply.body.len()), (200, 5 * 32));
    let lines = format!("If-None-Match: \"{object}\"\r\n");
    assert_eq!(send(server.address, "GET", &target, &lines, b"").await.status, 304);

    let absent = ObjectId::of(b"absent");
    assert_error(
        &get(server.address, &format!("/.im/v1/debian/objects/{absent}")).await,
        404,
    );
    assert_error(
        &get(server.address, &format!("/.im/v1/debian/objects/{absent}/outboard")).await,
        404,
    );
    assert!(world.opened.lock().unwrap().is_empty(), "the API never fetches");
    server.stop().await;
}

#[tokio::test]
async fn a_partial_object_is_not_there() {
    use instantmirror_core::outboard::ObjectHasher;
    use instantmirror_core::traits::ObjectCache as _;
    let (server, _, world) = world().await;
    let content = vec![9; 200_000];
    let mut hasher = ObjectHasher::new();
    hasher.update(&content);
    let outboard = hasher.finish();
    let object = outboard.object();
    let fill = world.cache.fill(&object, 200_000).await.unwrap();
    fill.set_outboard(outboard).await.unwrap();
    fill.write(0, Bytes::copy_from_slice(&content[..65_536])).await.unwrap();
    assert_error(
        &get(server.address, &format!("/.im/v1/debian/objects/{object}")).await,
        404,
    );
    let reply = send(
        server.address,
        "POST",
        "/.im/v1/debian/batch",
        "",
        &encode_request([&object]),
    )
    .await;
    assert_eq!(reply.body, [1]);
    server.stop().await;
}

#[tokio::test]
async fn batches_answer_in_order() {
    let (server, _, world) = world().await;
    let mut objects = Vec::new();
    for i in 0..1000_usize {
        let content = vec![u8::try_from(i % 256).unwrap(); i * 3];
        let object = if i % 10 == 3 {
            ObjectId::of(&content)
        } else {
            world.cache_object(&content).await
        };
        objects.push((object, content.len() as u64));
    }
    let large = vec![1; (4 << 20) + 1];
    objects.push((world.cache_object(&large).await, large.len() as u64));
    let body = encode_request(objects.iter().map(|(object, _)| object));
    let reply = send(server.address, "POST", "/.im/v1/debian/batch", "", &body).await;
    assert!(reply.status == 200 && reply.whole);
    let mut decoder = BatchDecoder::new(&objects);
    decoder.push(&reply.body);
    let mut count = 0;
    while let Some((object, content)) = decoder.next_item().unwrap() {
        assert_eq!(content.is_none(), count % 10 == 3 || count == 1000, "{count}");
        assert!(content.is_none_or(|content| ObjectId::of(&content) == object));
        count += 1;
    }
    decoder.finish().unwrap();
    assert_eq!(count, 1001);

    let unknown: Vec<u8> = (0..BATCH_OBJECTS_MAX)
        .flat_map(|number| *ObjectId::of(&number.to_le_bytes()).as_bytes())
        .collect();

    assert_eq!(
        send(server.address, "POST", "/.im/v1/debian/batch", "", &unknown)
            .await
            .status,
        200
    );
    assert_error(
        &send(server.address, "POST", "/.im/v1/debian/batch", "", &[0; 31]).await,
        400,
    );
    assert_error(
        &send(server.address, "POST", "/.im/v1/debian/batch", "", b"").await,
        400,
    );
    let reply = send(server.address, "GET", "/.im/v1/debian/batch", "", b"").await;
    assert_error(&reply, 405);
    assert_eq!(reply.header("allow"), "POST, OPTIONS");
    let too_long = format!("Content-Length: {}\r\n", 32 * BATCH_OBJECTS_MAX + 1);
    assert_error(
        &send(server.address, "POST", "/.im/v1/debian/batch", &too_long, b"").await,
        413,
    );
    server.stop().await;
}

#[tokio::test]
async fn a_batch_is_bounded_whatever_it_asks_for() {
    let (server, _, world) = world().await;
    let mut objects = Vec::new();
    for i in 0..20_u8 {
        let content = vec![i; (4 << 20) - usize::from(i)];
        objects.push((world.cache_object(&content).await, content.len() as u64));
    }
    let body = encode_request(objects.iter().map(|(object, _)| object));
    let reply = send(server.address, "POST", "/.im/v1/debian/batch", "", &body).await;
    let mut decoder = BatchDecoder::new(&objects);
    decoder.push(&reply.body);
    let mut came = Vec::new();
    while let Some((object, content)) = decoder.next_item().unwrap() {
        assert!(content.as_ref().is_none_or(|content| ObjectId::of(content) == object));
        came.push(content.map_or(0, |content| content.len() as u64));
    }
    decoder.finish().unwrap();
    let bytes: u64 = came.iter().sum();
    assert!(
        came[..16].iter().all(|bytes| *bytes > 0) && bytes <= BATCH_ANSWER_BYTES_MAX,
        "{came:?}"
    );
    // What is there twice is read for nobody.
    let twice = [&body[..], &body[..32]].concat();
    let reply = send(server.address, "POST", "/.im/v1/debian/batch", "", &twice).await;
    assert_error(&reply, 400);
    assert!(reply.text().contains(&objects[0].0.to_string()), "{}", reply.text());
    server.stop().await;
}

/// The limits that are too long to wait for, in virtual time and without a socket.
#[tokio::test(start_paused = true)]
async fn polls_and_bodies_have_their_time() {
    let world = World::new();
    world.publish(1, tree(3), true).await;
    let service = world.service().with_api(world.api());
    for (query, waited) in [
        ("after=1", LONG_POLL_MAX.as_secs()),
        ("after=1&wait=9999", 55),
        ("after=1&wait=7", 7),
    ] {
        let request = Request::get(format!("/.im/v1/debian/head?{query}")).header("Host", "h");
        let begun = Instant::now();
        let answer = service
            .handle(request.body(Empty::new()).unwrap(), &Stopping::never())
            .await;
        assert_eq!((answer.status().as_u16(), begun.elapsed().as_secs()), (204, waited));
    }
    let never = futures_util::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>();
    let request = Request::post("/.im/v1/debian/batch").header("Host", "h");
    let begun = Instant::now();
    let answer = service
        .handle(request.body(StreamBody::new(never)).unwrap(), &Stopping::never())
        .await;
    assert_eq!((answer.status().as_u16(), begun.elapsed()), (408, REQUEST_BODY_TIMEOUT));
}
