//! Listening, limits and stopping.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use instantmirror_http::{Access, Limits, RouteRequest, RouteTable, Routes, ServeError, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::client::{get, parse, send};
use crate::world::{Fault, Item, World, start, start_on};

async fn world() -> Arc<World> {
    let world = World::new();
    world.publish(1, vec![("a", Item::File("content".into()))], true).await;
    world
}

const A: &str = "/debian/snap/current/a";

fn routes() -> RouteTable {
    async fn say(request: RouteRequest) -> Response<Bytes> {
        let text = format!("{} {} {}", request.method, request.query, request.body.len());
        Response::new(text.into())
    }
    Routes::new()
        .get("/.im/status", Access::Public, "Says what it was asked", say)
        .post("/.im/status", Access::Public, "Says what it was asked", say)
        .get("/metrics", Access::Public, "Says what it was asked", say)
        .post("/.im/do/{name}", Access::Public, "Says what it was asked", say)
        .get("/.im/secret", Access::Nodes, "Is for nodes", say)
        .get("/.im/control", Access::Control, "Is for the control socket", say)
        .get("/none/{*path}", Access::Public, "Finds nothing", |_| async { None })
        .build()
        .unwrap()
}

#[tokio::test]
async fn routes_are_asked_where_nothing_else_is() {
    let service = world().await.service().with_routes(routes());
    let server = start(service).await;
    assert_eq!(get(server.address, "/.im/status?x").await.text(), "GET x 0");
    assert_eq!(get(server.address, "/.im/status/").await.text(), "GET  0");
    assert_eq!(get(server.address, "/metrics").await.text(), "GET  0");
    assert_eq!(get(server.address, "/%6detrics").await.text(), "GET  0");
    assert_eq!(
        send(server.address, "POST", "/.im/status", "", b"12345").await.text(),
        "POST  5"
    );
    assert_eq!(
        send(server.address, "POST", "/.im/%64o/x", "", b"12345").await.text(),
        "POST  5"
    );
    for absent in ["/.im/other", "/.im/do", "/.im/control", "/none/a/b"] {
        assert_eq!(get(server.address, absent).await.status, 404, "{absent}");
    }
    assert_eq!(get(server.address, "/.im/secret").await.status, 401);
    assert_eq!(get(server.address, A).await.text(), "content");
    server.stop().await;
}

#[tokio::test]
async fn a_route_says_which_methods_it_has() {
    let server = start(world().await.service().with_routes(routes())).await;
    for (method, path, status, allow) in [
        ("HEAD", "/metrics", 200, ""),
        ("OPTIONS", "/metrics", 204, "GET, HEAD, OPTIONS"),
        ("POST", "/metrics", 405, "GET, HEAD, OPTIONS"),
        ("PUT", "/metrics", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/.im/do/x", 405, "POST, OPTIONS"),
        ("HEAD", "/.im/do/x", 405, "POST, OPTIONS"),
        ("OPTIONS", "/.im/do/x", 204, "POST, OPTIONS"),
        ("OPTIONS", "/.im/status", 204, "GET, HEAD, POST, OPTIONS"),
        ("DELETE", "/.im/status", 405, "GET, HEAD, POST, OPTIONS"),
    ] {
        let reply = send(server.address, method, path, "", b"").await;
        let said = reply.headers.iter().find(|(name, _)| name == "allow");
        let said = said.map_or("", |(_, value)| value);
        assert_eq!((reply.status, said), (status, allow), "{method} {path}");
        assert!(!matches!(method, "HEAD" | "OPTIONS") || reply.body.is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_service_lists_all_that_it_answers() {
    let world = world().await;
    let service = world.service().with_api(world.api()).with_routes(routes());
    let list = service.routes();
    let paths: Vec<&str> = list.iter().map(|route| &*route.path).collect();
    for path in ["/.im/v1/heads", "/.im/do/{name}", "/", "/debian/{*path}"] {
        assert!(paths.contains(&path), "{path}: {list}");
    }
    assert!(
        world
            .service()
            .routes()
            .iter()
            .all(|route| !route.path.starts_with("/.im/v1"))
    );
}

#[tokio::test]
async fn an_address_in_use_is_named_with_advice() {
    let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = first.addresses()[0];
    let error = Server::bind(address).await.unwrap_err();
    assert!(matches!(error, ServeError::InUse { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("choose another"),
        "{text}"
    );
    let error = Server::bind("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ServeError::Bind { .. }) && error.to_string().contains("192.0.2.1"));
}

#[tokio::test]
async fn several_listeners_and_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("instantmirror-http-test-{}.sock", std::process::id()));
    let mut server = Server::new(Limits::default());
    let first = server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let second = server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    // What a killed process leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    server.listen_unix(&path).await.unwrap();
    assert_eq!(server.addresses(), [first, second]);
    let mut other = Server::new(Limits::default());
    assert!(matches!(other.listen_unix(&path).await, Err(ServeError::InUse { .. })));
    let running = start_on(server, world().await.service());
    assert_eq!(get(first, A).await.text(), "content");
    assert_eq!(get(second, A).await.text(), "content");
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let request = format!("GET {A} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(parse(&answer, false).text(), "content");
    running.stop().await;
    assert!(!path.exists());
    std::fs::write(&path, "a file of somebody's").unwrap();
    assert!(other.listen_unix(&path).await.is_err());
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn stopping_lets_running_requests_finish_and_closes_idle_connections() {
    let world = world().await;
    let content = Bytes::from(vec![b'y'; 200_000]);
    let (progress, until) = watch::channel(65_536_u64);
    world.fault(&content, Fault::Until(until));
    world
        .publish(2, vec![("slow", Item::File(content.clone()))], true)
        .await;
    let mut server = start(world.service()).await;
    let mut unused = TcpStream::connect(server.address).await.unwrap();
    let mut running = TcpStream::connect(server.address).await.unwrap();
    let request = "GET /debian/snap/current/slow HTTP/1.1\r\nHost: h\r\n\r\n";
    running.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1];
    running.read_exact(&mut answer).await.unwrap();
    server.signal();
    assert_eq!(unused.read(&mut [0; 1]).await.unwrap_or(0), 0);
    progress.send_replace(200_000);
    running.read_to_end(&mut answer).await.unwrap();
    let reply = parse(&answer, false);
    assert!(reply.whole && reply.body == content);
    let address = server.address;
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_grace_ends() {
    let world = world().await;
    let content = Bytes::from_static(b"never");
    let (_progress, until) = watch::channel(0_u64);
    world.fault(&content, Fault::Until(until));
    world.publish(2, vec![("never", Item::File(content))], true).await;
    let mut limits = Limits::default();
    limits.shutdown_grace = std::time::Duration::from_millis(20);
    let mut server = Server::new(limits);
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let running = start_on(server, world.service());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = "GET /debian/snap/current/never HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    while world.readers.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    running.stop().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert_eq!(world.readers.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let mut limits = Limits::default();
    limits.connections_max = 1;
    let mut server = Server::new(limits);
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let running = start_on(server, world().await.service());
    let request = format!("GET {A} HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut first = TcpStream::connect(running.address).await.unwrap();
    first.write_all(request.as_bytes()).await.unwrap();
    first.read_exact(&mut [0; 1]).await.unwrap();
    let at = running.address;
    let second = tokio::spawn(async move { get(at, A).await });
    first.write_all(request.as_bytes()).await.unwrap();
    first.read_exact(&mut [0; 1]).await.unwrap();
    assert_eq!(running.service.stats().connections_accepted, 1);
    drop(first);
    assert_eq!(second.await.unwrap().text(), "content");
    assert_eq!(running.service.stats().connections_accepted, 2);
    running.stop().await;
}

#[tokio::test]
async fn a_header_that_never_ends_is_cut() {
    let mut limits = Limits::default();
    limits.header_timeout = std::time::Duration::from_millis(20);
    let mut server = Server::new(limits);
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let running = start_on(server, world().await.service());
    for begun in ["", "GET / HT"] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    running.stop().await;
}
