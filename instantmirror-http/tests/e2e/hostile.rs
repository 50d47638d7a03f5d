//! Requests that mean no good, at every entry point: all refused, nothing panics, nothing escapes.

use http::{Method, Request};
use http_body_util::Empty;
use instantmirror_core::RepoPath;
use instantmirror_http::{Mount, Mounts, Service, Stopping};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{parse, raw};
use crate::world::{Item, World, name, start};

const PREFIXES: [&str; 9] = [
    "/",
    "/debian/",
    "/debian/snap/",
    "/debian/snap/current/",
    "/debian/master-snap/",
    "/pub/debian/",
    "/pub/debian/pool/",
    "/.im/v1/debian/objects/",
    "/.im/v1/",
];

const HOSTILE: [&str; 23] = [
    "..",
    "../",
    "../../etc/passwd",
    "%2e%2e",
    "%2e%2e/",
    "%2E%2E/%2E%2E/etc/passwd",
    ".%2e/x",
    "..%2f..%2fetc%2fpasswd",
    "%252e%252e/x",
    "..%5c..%5cwindows",
    "..\\..\\windows",
    "a%00",
    "a%00.deb",
    "a%0d%0aX:%20y",
    "%0a",
    "%7f",
    "%",
    "%zz",
    "%c0%ae%c0%ae/x",
    "%ff%fe",
    "%2f",
    "CON/x",
    "x/../../../debian",
];

async fn service() -> Service {
    let world = World::new();
    world.publish(1, vec![("pool/a", Item::File("a".into()))], true).await;
    let mut mount = Mount::new(RepoPath::new("pub/debian").unwrap(), name());
    mount.index = true;
    world
        .service()
        .with_mounts(Mounts::new(vec![mount]).unwrap())
        .with_api(world.api())
}

#[tokio::test]
async fn hostile_paths_are_refused_at_every_entry_point() {
    let server = start(service().await).await;
    for prefix in PREFIXES {
        for hostile in HOSTILE
            .map(str::to_owned)
            .into_iter()
            .chain(["a".repeat(300), "a/".repeat(3000)])
        {
            let request = format!("GET {prefix}{hostile} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            let reply = parse(&raw(server.address, request.as_bytes()).await, false);
            assert!(matches!(reply.status, 400 | 404), "{prefix}{hostile}: {reply:?}");
        }
    }
    server.stop().await;
}

/// apt asks for `URL/./Release` of a flat repository; others join URLs with a slash too many.
#[tokio::test]
async fn idle_segments_mean_nothing_for_files_and_directories_are_told_the_one_spelling() {
    let server = start(service().await).await;
    let get = async |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        parse(&raw(server.address, request.as_bytes()).await, false)
    };
    let plain = get("/pub/debian/pool/a").await;
    for target in [
        "/pub/debian/./pool/a",
        "/pub/debian//pool/a",
        "/pub/.//debian/pool/././a",
        "/pub/debian//pool/a?x=y",
    ] {
        let reply = get(target).await;
        assert_eq!((reply.status, &reply.body), (200, &plain.body), "{target}");
    }
    for (target, location) in [
        ("/pub/debian/./", "../../pub/debian/"),
        ("/pub/debian/.", "../../pub/debian/"),
        ("/pub//debian", "../../pub/debian"),
        ("/./", "./"),
        ("/.", "./"),
        ("/pub/debian//pool/?x=y", "../../../../pub/debian/pool/?x=y"),
        ("/pub/debian/.//nothing%20%22", "../../../pub/debian/nothing%20%22"),
    ] {
        let reply = get(target).await;
        assert_eq!((reply.status, reply.header("location")), (301, location), "{target}");
    }
    for target in [
        "//pub/debian/pool/a",
        "/pub/debian/./../x",
        "/pub/debian/%2e/pool/a",
        "/pub//debian/%00",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let reply = parse(&raw(server.address, request.as_bytes()).await, false);
        assert_eq!(reply.status, 400, "{target}");
    }
    server.stop().await;
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let server = start(service().await).await;
    let smuggled = "GET /pub/debian/pool/a HTTP/1.1\r\nHost: h\r\n\r\n";
    let len = smuggled.len();
    for head in [
        format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: {len}\r\n\r\n"),
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n".to_owned(),
        "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: {len}\r\n\r\n"),
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 2\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: h\r\nbad header: x\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\nHost: h\r\n\r\n".to_owned(),
        "GET nopath HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024)),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(200)),
    ] {
        let answer = raw(server.address, format!("{head}{smuggled}").as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.0 4"),
            "{head}\n{text}"
        );
        assert_eq!(text.matches("content-length: ").count(), 1, "{head}\n{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_in_a_row_on_one_connection() {
    let server = start(service().await).await;
    let one = "GET /pub/debian/pool/a HTTP/1.1\r\nHost: h\r\n\r\n";
    let bad = "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n";
    let last = "GET /pub/debian/pool/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let answer = raw(server.address, format!("{one}{bad}{one}{last}").as_bytes()).await;
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
    assert_eq!(text.matches("HTTP/1.1 400").count(), 1, "{text}");
    server.stop().await;
}

/// Arbitrary targets, straight into the service: always an answer, and a redirect stays on this host.
#[test]
fn arbitrary_targets_always_get_an_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let service = runtime.block_on(service());
    let part = prop_oneof![
        "[ -~]{0,8}",
        Just("..".to_owned()),
        Just("%2e".to_owned()),
        Just("debian".to_owned()),
        Just("snap".to_owned()),
        Just("current".to_owned()),
        Just("pool".to_owned()),
        Just("pub".to_owned()),
        Just(".im/v1".to_owned()),
        "%[0-9a-f]{2}",
    ];
    let targets = (
        proptest::collection::vec(part, 0..7),
        "(\\?[!-~]{0,20})?",
        "bytes=[0-9,-]{0,12}",
    );
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&targets, |(parts, query, range)| {
        let target = format!("/{}{query}", parts.join("/"));
        let built = Request::builder()
            .method(Method::GET)
            .uri(&target)
            .header("Host", "h")
            .header("Range", range)
            .body(Empty::new());
        let Ok(request) = built else { return Ok(()) };
        let answer = runtime.block_on(service.handle(request, &Stopping::never()));
        prop_assert!(
            matches!(answer.status().as_u16(), 200 | 206 | 301 | 400 | 404 | 405 | 416),
            "{}",
            target
        );
        if let Some(location) = answer.headers().get("location") {
            let location = location.to_str().unwrap().split('?').next().unwrap();
            prop_assert!(!location.contains(':') && !location.starts_with("//") && !location.contains('\\'));
        }
        Ok(())
    });
    result.unwrap();
}

/// A socket that is closed over bytes that nobody read is reset, and the client loses the answer for that.
#[tokio::test]
async fn a_body_that_is_not_wanted_costs_the_client_no_answer() {
    let server = start(service().await).await;
    for request in ["PUT /debian/snap/current/a", "POST /.im/v1/nothing"] {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let body = vec![b'x'; 700 << 10];
        let head = format!(
            "{request} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
            .write_all(&body)
            .await
            .unwrap_or_else(|error| panic!("{request}: {error}"));
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        read.unwrap_or_else(|error| panic!("{request}: {error}"));
        let reply = parse(&answer, false);
        assert!((400..=405).contains(&reply.status), "{request}: {reply:?}");
        assert_eq!(reply.header("connection"), "close");
    }
    server.stop().await;
}
