//! Published trees: what is where, and what every kind of request for it gets.

use bytes::Bytes;
use instantmirror_core::view::View;
use instantmirror_core::{ObjectId, RepoPath, Snapshot};
use instantmirror_http::{Mount, Mounts, OwnFiles};
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use tokio::sync::watch;

use crate::client::{get, on_host, parse, raw, resolve, send};
use crate::world::{Fault, Item, KNOWN, MTIME, Running, World, name, start};

const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

fn file(content: &'static [u8]) -> Item {
    Item::File(Bytes::from_static(content))
}

fn numbers() -> Bytes {
    (0..1000_u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>().into()
}

fn mount(path: &str, view: View, index: bool) -> Mount {
    let mut mount = Mount::new(RepoPath::new(path).unwrap(), name());
    (mount.view, mount.index) = (view, index);
    mount
}

async fn world() -> (Running, Arc<Snapshot>, Arc<World>) {
    let world = World::new();
    let items = vec![
        ("pool/hello.deb", file(b"hello")),
        ("pool/numbers.bin", Item::File(numbers())),
        ("pool/empty", file(b"")),
        ("pool/a b%20#?.txt", file(b"odd")),
        ("dists/stable", Item::Link("sid")),
        ("dists/sid/Release", file(b"release")),
        ("latest.deb", Item::Link("pool/hello.deb")),
        ("loop", Item::Link("loop")),
        ("outside", Item::Link("../../etc/passwd")),
        ("void", Item::Empty),
        ("site/index.html", file(b"<p>hi")),
        (".treeinfo", file(b"[tree]")),
    ];
    let snapshot = world.publish(0xab, items, true).await;
    let mounts = vec![
        mount("pub/debian", View::Current, true),
        mount("pub/frozen", View::Snapshot(snapshot.id), false),
        mount("", View::Current, false),
    ];
    let service = world.service().with_mounts(Mounts::new(mounts).unwrap());
    (start(service).await, snapshot, world)
}

#[tokio::test]
async fn a_file_is_described_and_sent() {
    let (server, snapshot, _) = world().await;
    let id = snapshot.id;
    let reply = get(server.address, &format!("/debian/snap/{id}/pool/hello.deb")).await;
    assert_eq!((reply.status, reply.text()), (200, "hello"));
    assert_eq!(reply.header("etag"), format!("\"{}\"", ObjectId::of(b"hello")));
    assert_eq!(reply.header("last-modified"), DATE);
    assert_eq!(reply.header("content-type"), "application/vnd.debian.binary-package");
    assert_eq!(reply.header("accept-ranges"), "bytes");
    assert_eq!(reply.header("server"), "InstantMirror");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("instantmirror-snapshot"), id.to_string());
    assert!(reply.header("cache-control").contains("immutable"));
    assert!(reply.find("date").is_some() && reply.find("content-location").is_none());

    for (target, rest) in [
        ("/debian/snap/current/pool/hello.deb", "pool/hello.deb"),
        ("/debian/master-snap/stable/pool/hello.deb", "pool/hello.deb"),
        ("/pub/debian/pool/hello.deb", "pool/hello.deb"),
        ("/pub/frozen/pool/hello.deb", "pool/hello.deb"),
        ("/pool/hello.deb", "pool/hello.deb"),
        ("/latest.deb", "latest.deb"),
        ("/%64ebian/snap/current/latest.deb", "latest.deb"),
    ] {
        let reply = get(server.address, target).await;
        assert_eq!((reply.status, reply.text()), (200, "hello"), "{target}");
        assert_eq!(
            reply.header("cache-control"),
            "public, max-age=5, must-revalidate, stale-while-revalidate=0",
            "{target}"
        );
        let permanent = resolve(target, reply.header("content-location"));
        assert_eq!(permanent.replace("%64", "d"), format!("/debian/snap/{id}/{rest}"));
        assert!(!reply.header("content-location").starts_with('/'));
        assert_eq!(get(server.address, &permanent).await.text(), "hello");
    }
    for (target, content) in [
        ("/pool/empty", ""),
        ("/pool/a%20b%2520%23%3F.txt", "odd"),
        ("/dists/stable/Release", "release"),
        ("/.treeinfo", "[tree]"),
        ("/pub/debian/site/", "<p>hi"),
    ] {
        let reply = get(server.address, target).await;
        assert_eq!((reply.status, reply.text()), (200, content), "{target}");
    }
    let stats = server.service.stats();
    assert!(stats.answers[1] > 15 && stats.body_bytes > 80 && stats.bodies_broken == 0);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let (server, snapshot, _) = world().await;
    for target in [
        "/nothing",
        "/pool/hello.deb/",
        "/pool/hello.deb/x",
        "/loop",
        "/loop/x",
        "/outside",
        "/debian/snap/current/nothing",
        "/debian/current/pool/hello.deb",
        "/debian/snap/00000000-0000-4000-8000-000000000000/",
        "/debian/snap/nonsense/",
        "/debian/master-snap/unknown/",
        "/debian/local-snap/stable/",
        "/debian/elsewhere",
        "/.im/v1/debian/head",
        "/.im/status",
        &format!("/debian/snap/{}/pool/hello.deb", snapshot.id.to_string().to_uppercase()),
    ] {
        let reply = get(server.address, target).await;
        assert_eq!(reply.status, 404, "{target}: {reply:?}");
        assert!(reply.text().starts_with("404: "), "{target}");
    }
    server.stop().await;
}

#[tokio::test]
async fn directories_redirect_to_their_slash_and_nowhere_else() {
    let (server, _, _) = world().await;
    for (target, location) in [
        ("/pool", "pool/"),
        ("/pool?C=S&O=D", "pool/?C=S&O=D"),
        ("/dists/stable", "stable/"),
        ("/pub/debian", "debian/"),
        ("/debian", "debian/"),
        ("/debian/snap", "snap/"),
        ("/debian/snap/current", "current/"),
        ("/void", "void/"),
        ("/debian%2fsnap", "debian/snap/"),
        ("/debian%2fsnap/", "../debian/snap/"),
        ("/pub/debian%2Fsite", "../pub/debian/site/"),
        ("http://evil.example/pool", "pool/"),
    ] {
        let reply = get(server.address, target).await;
        assert_eq!((reply.status, reply.header("location")), (301, location), "{target}");
    }
    for target in [
        "//evil.example",
        "//evil.example/",
        "/%5c%5cevil.example",
        "/%2f%2fevil.example/",
    ] {
        let reply = get(server.address, target).await;
        assert!(
            matches!(reply.status, 400 | 404) && reply.find("location").is_none(),
            "{target}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn listings_show_every_level() {
    let (server, snapshot, _) = world().await;
    let id = snapshot.id.to_string();
    for (target, names) in [
        ("/debian/", vec!["snap", "master-snap", "local-snap"]),
        ("/debian/snap/", vec!["current", &id]),
        ("/debian/master-snap/", vec!["stable"]),
        ("/debian/local-snap/", vec![]),
        ("/dists/stable/", vec!["Release"]),
        ("/void/", vec![]),
        ("/pub/frozen/site/", vec!["index.html"]),
        ("/pool/", vec!["a b%20#?.txt", "empty", "hello.deb", "numbers.bin"]),
    ] {
        let reply = get(server.address, &format!("{target}?json")).await;
        assert!(reply.status == 200 && reply.whole, "{target}");
        assert_eq!(reply.header("content-type"), "application/json");
        let page = reply.json();
        let shown: Vec<_> = page["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["name"])
            .collect();
        assert_eq!(shown, names, "{target}");
        // Every link of the page leads somewhere.
        for row in page["entries"].as_array().unwrap() {
            let link = format!("{target}{}", row["href"].as_str().unwrap());
            assert_eq!(get(server.address, &link).await.status, 200, "{link}");
        }
        let html = get(server.address, target).await;
        assert!(html.header("content-type").starts_with("text/html") && html.whole);
    }
    let accepting = send(server.address, "GET", "/pool/", "Accept: application/json\r\n", b"").await;
    assert_eq!(accepting.json()["snapshot"], id);
    let browser = "Accept: text/html,application/xhtml+xml,application/json;q=0.9\r\n";
    let html = send(server.address, "GET", "/pool/", browser, b"").await;
    assert!(html.text().contains("href=\"a%20b%2520%23%3F.txt\""));
    assert_eq!(send(server.address, "HEAD", "/pool/", "", b"").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn what_lies_above_mounts_can_be_walked() {
    let world = World::new();
    world.publish(1, vec![("a", file(b"a"))], true).await;
    let mounts = ["pub/linux/debian", "pub/debian", "debian/old"].map(|path| mount(path, View::Current, false));
    let service = world.service().with_mounts(Mounts::new(mounts.into()).unwrap());
    let server = start(service).await;
    assert_eq!(get(server.address, "/pub").await.header("location"), "pub/");
    for (target, names) in [
        ("/", vec!["debian", "pub"]),
        ("/pub/", vec!["debian", "linux"]),
        ("/pub/linux/", vec!["debian"]),
        ("/pub/linux/debian/", vec!["a"]),
        ("/debian/old/", vec!["a"]),
        ("/debian/", vec!["snap", "master-snap", "local-snap"]),
    ] {
        let page = get(server.address, &format!("{target}?json")).await.json();
        let shown: Vec<_> = page["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["name"])
            .collect();
        assert_eq!(shown, names, "{target}");
    }
    assert_eq!(get(server.address, "/pub/other").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_mount_at_a_repository_s_place_hides_no_snapshot() {
    let world = World::new();
    let plain = world
        .publish(1, vec![("pool/a.deb", file(b"a")), ("debian/b", file(b"b"))], true)
        .await;
    let id = plain.id;
    for path in ["debian", ""] {
        let mounts = Mounts::new(vec![mount(path, View::Current, false)]).unwrap();
        let server = start(world.service().with_mounts(mounts)).await;
        let own = if path.is_empty() {
            "/pool/a.deb"
        } else {
            "/debian/pool/a.deb"
        };
        let permanent = format!("/debian/snap/{id}/pool/a.deb");
        let reply = get(server.address, own).await;
        assert_eq!(
            (reply.text(), resolve(own, reply.header("content-location"))),
            ("a", permanent.clone()),
            "{path}"
        );
        for target in [
            permanent.as_str(),
            "/debian/snap/current/pool/a.deb",
            "/debian/master-snap/stable/pool/a.deb",
        ] {
            let reply = get(server.address, target).await;
            assert_eq!((reply.status, reply.text()), (200, "a"), "{path}: {target}");
        }
        for target in ["/debian/snap/", "/debian/master-snap/", "/debian/local-snap/"] {
            assert_eq!(get(server.address, target).await.status, 200, "{path}: {target}");
        }
        assert_eq!(get(server.address, "/debian/snap/nonsense").await.status, 404);
        server.stop().await;
    }
    // What the tree of a mount has is shown as it was published, and no answer names a URL that is not there.
    let own = world
        .publish(2, vec![("snap/c", file(b"c")), ("debian/b", file(b"b"))], true)
        .await;
    for (path, target, content) in [("debian", "/debian/snap/c", "c"), ("", "/debian/b", "b")] {
        let mounts = Mounts::new(vec![mount(path, View::Snapshot(own.id), false)]).unwrap();
        let server = start(world.service().with_mounts(mounts)).await;
        let reply = get(server.address, target).await;
        assert_eq!((reply.status, reply.text()), (200, content), "{target}");
        assert_eq!(reply.find("content-location").is_some(), path.is_empty(), "{target}");
        assert_eq!(
            get(server.address, "/debian/master-snap/stable/").await.status,
            200,
            "{path}"
        );
        server.stop().await;
    }
}

#[tokio::test]
async fn each_host_shows_its_own_mounts_and_every_host_the_repositories() {
    let world = World::new();
    let snapshot = world.publish(1, vec![("pool/a.deb", file(b"a"))], true).await;
    let of = |host: &str, path: &str, view: View| {
        let mut mount = mount(path, view, false);
        mount.host = Some(host.parse().unwrap());
        mount
    };
    let mounts = vec![
        mount("pub", View::Current, false),
        of("deb.example.org", "", View::Current),
        of("old.example.org", "", View::Snapshot(snapshot.id)),
    ];
    let service = world.service().with_mounts(Mounts::new(mounts).unwrap());
    let server = start(service).await;
    world.publish(2, vec![("pool/a.deb", file(b"new"))], true).await;
    // Twice, so that the second answer is one that was kept ready, as those of files on a disk are.
    for content in [&b"a"[..], b"new"] {
        let mut kept = tempfile::tempfile().unwrap();
        kept.write_all(content).unwrap();
        world.fault(content, Fault::Described(Arc::new(kept)));
    }
    for _ in 0..2 {
        for (host, target, content) in [
            ("deb.example.org", "/pool/a.deb", Some("new")),
            ("DEB.example.org.:8080", "/pool/a.deb", Some("new")),
            ("old.example.org", "/pool/a.deb", Some("a")),
            ("other.example.org", "/pool/a.deb", None),
            ("other.example.org", "http://old.example.org/pool/a.deb", Some("a")),
            ("old.example.org", "/pub/pool/a.deb", Some("new")),
            ("old.example.org", "/debian/snap/current/pool/a.deb", Some("new")),
            ("other.example.org", "/pub/pool/a.deb", Some("new")),
        ] {
            let reply = on_host(server.address, host, target).await;
            let found = (reply.status == 200).then(|| reply.text());
            assert_eq!(found, content, "{host} {target}");
        }
    }
    assert!(server.service.stats().answers_hot >= 5);
    server.stop().await;
}

/// A directory as an operator may have it, with what must not get out.
fn own_files(dir: &std::path::Path) -> std::path::PathBuf {
    let root = dir.join("root");
    for (name, content) in [
        ("robots.txt", "ours"),
        ("index.html", "<h1>front"),
        ("about/index.html", "<h1>about"),
        (".htpasswd", "secret"),
        ("about/.well-known", "secret"),
        (".well-known/acme-challenge/token", "proof"),
        ("debian/snap/current/nothing", "forged"),
        ("pub/nothing", "forged"),
        ("secret.env", "secret"),
        ("closed/page", "secret"),
    ] {
        let file = root.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
    for (name, mode) in [("secret.env", 0o640), ("closed", 0o750)] {
        std::fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
    std::fs::write(dir.join("outside"), "secret").unwrap();
    for (name, target) in [
        ("leaves", "../outside"),
        ("absolute", "/etc/passwd"),
        ("stays", "robots.txt"),
    ] {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    }
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    root
}

#[tokio::test]
async fn files_of_one_s_own_are_there_where_nothing_else_is() {
    let world = World::new();
    world
        .publish(
            1,
            vec![("pool/a.deb", file(b"a")), ("robots.txt", file(b"theirs"))],
            true,
        )
        .await;
    let dir = tempfile::tempdir().unwrap();
    let root = own_files(dir.path());
    let big: Vec<u8> = (0..200_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    std::fs::write(root.join("big.bin"), &big).unwrap();
    let serve = |path: &str| {
        let mounts = Mounts::new(vec![mount(path, View::Current, false)]).unwrap();
        let service = world.service().with_mounts(mounts);
        start(service.with_own_files(OwnFiles::new(&root)))
    };
    let server = serve("pub").await;
    for (target, content) in [
        ("/", Some("<h1>front")),
        ("/robots.txt", Some("ours")),
        ("/about/", Some("<h1>about")),
        ("/stays", Some("ours")),
        ("/.well-known/acme-challenge/token", Some("proof")),
        ("/.htpasswd", None),
        ("/about/.well-known", None),
        ("/leaves", None),
        ("/absolute", None),
        ("/fifo", None),
        ("/secret.env", None),
        ("/closed/page", None),
        ("/robots.txt/", None),
        ("/pub/nothing", None),
        ("/debian/snap/current/nothing", None),
        ("/pub/robots.txt", Some("theirs")),
    ] {
        let reply = get(server.address, target).await;
        let found = (reply.status == 200).then(|| reply.text());
        assert_eq!(found, content, "{target}");
    }
    let reply = get(server.address, "/about").await;
    let location = resolve("/about", reply.header("location"));
    assert_eq!((reply.status, location.as_str()), (301, "/about/"));
    let reply = get(server.address, "/robots.txt").await;
    assert_eq!(
        (reply.header("content-type"), reply.header("content-length")),
        ("text/plain; charset=utf-8", "4")
    );
    assert!(reply.header("cache-control").contains("max-age=300"));
    let condition = format!("If-None-Match: {}\r\n", reply.header("etag"));
    assert_eq!(
        send(server.address, "GET", "/robots.txt", &condition, b"").await.status,
        304
    );
    assert_eq!(get(server.address, "/big.bin").await.body, big);
    let part = send(server.address, "GET", "/big.bin", "Range: bytes=100000-100009\r\n", b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &big[100_000..100_010]));
    assert_eq!(send(server.address, "POST", "/robots.txt", "", b"").await.status, 405);
    server.stop().await;

    // Where the root is mounted, the tree wins there too.
    let server = serve("").await;
    assert_eq!(get(server.address, "/robots.txt").await.text(), "theirs");
    assert_eq!(
        get(server.address, "/.well-known/acme-challenge/token").await.text(),
        "proof"
    );
    assert!(get(server.address, "/").await.text().contains("pool/"));
    assert_eq!(get(server.address, "/debian/snap/current/nothing").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn methods() {
    let (server, _, world) = world().await;
    let head = send(server.address, "HEAD", "/pool/hello.deb", "", b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    assert!(world.opened.lock().unwrap().is_empty(), "HEAD fetches nothing");
    let head = send(server.address, "HEAD", "/pool/hello.deb", "Range: bytes=0-1\r\n", b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    for target in ["/pool/hello.deb", "/pool/", "/nothing", "*"] {
        let options = send(server.address, "OPTIONS", target, "", b"").await;
        assert_eq!((options.status, options.header("allow")), (204, "GET, HEAD, OPTIONS"));
    }
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "POST", "PROPFIND", "get"] {
        let reply = send(server.address, method, "/pool/hello.deb", "", b"").await;
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, "GET, HEAD, OPTIONS"),
            "{method}"
        );
    }
    server.stop().await;
}

/// A body does not make it another answer; it is not read, and nothing behind it is taken for a request.
#[tokio::test]
async fn a_body_of_a_method_that_is_not_there_is_left_unread() {
    let (server, _, _) = world().await;
    let smuggled = "GET /pool/hello.deb HTTP/1.1\r\nHost: h\r\n\r\n";
    let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    for method in ["PUT", "PROPFIND", "DELETE", "PATCH", "MKCOL", "REPORT"] {
        for (line, body) in [
            (format!("Content-Length: {}", smuggled.len()), smuggled),
            ("Transfer-Encoding: chunked".to_owned(), chunk.as_str()),
            (
                format!("Expect: 100-continue\r\nContent-Length: {}", smuggled.len()),
                smuggled,
            ),
        ] {
            let request = format!("{method} /pool/hello.deb HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n{body}");
            let bytes = raw(server.address, request.as_bytes()).await;
            let answers = bytes.windows(9).filter(|window| window == b"HTTP/1.1 ").count();
            assert_eq!(answers, 1, "{method} {line}");
            let reply = parse(&bytes, false);
            assert_eq!(
                (reply.status, reply.header("connection")),
                (405, "close"),
                "{method} {line}"
            );
            assert_eq!(reply.header("allow"), "GET, HEAD, OPTIONS");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn ranges_and_conditions_over_the_wire() {
    let (server, _, world) = world().await;
    let (all, target) = (numbers(), "/pool/numbers.bin");
    // Not settled, so that it is opened for each request.
    let (_progress, until) = watch::channel(4000_u64);
    world.fault(&all, Fault::Until(until));
    let etag = format!("\"{}\"", ObjectId::of(&all));
    let ask = |lines: String| async move { send(server.address, "GET", target, &lines, b"").await };
    for (range, from, to) in [
        ("0-0", 0, 1),
        ("3990-", 3990, 4000),
        ("-10", 3990, 4000),
        ("8-11,12-15", 8, 16),
    ] {
        let reply = ask(format!("Range: bytes={range}\r\n")).await;
        assert_eq!((reply.status, &reply.body[..]), (206, &all[from..to]), "{range}");
        assert_eq!(reply.header("content-range"), format!("bytes {from}-{}/4000", to - 1));
        assert_eq!(
            world.opened.lock().unwrap().last().unwrap().range,
            from as u64..to as u64
        );
    }
    let reply = ask("Range: bytes=4000-\r\n".to_owned()).await;
    assert_eq!((reply.status, reply.header("content-range")), (416, "bytes */4000"));

    let reply = ask("Range: bytes=2000-2003,0-3\r\n".to_owned()).await;
    assert!(reply.status == 206 && reply.whole);
    let boundary = reply.header("content-type").split_once("boundary=").unwrap().1;
    let mut expected = Vec::new();
    for (from, to) in [(2000, 2004), (0, 4)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {from}-{}/4000\r\n\r\n",
            to - 1
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&all[from..to]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(reply.body, expected);
    // Parts that would be longer than the file and a tenth: the file.
    let many: String = (0..16).map(|i| format!("{0}-{1},", i * 240, i * 240 + 150)).collect();
    let reply = ask(format!("Range: bytes={many}\r\n")).await;
    assert_eq!((reply.status, reply.body.len()), (200, 4000));

    for (lines, status) in [
        (format!("If-None-Match: {etag}\r\n"), 304),
        (format!("If-None-Match: \"x\"\r\nIf-None-Match: {etag}\r\n"), 304),
        (format!("If-None-Match: {etag}\r\nRange: bytes=0-0\r\n"), 304),
        (format!("If-Modified-Since: {DATE}\r\n"), 304),
        ("If-Modified-Since: Mon, 14 Nov 2033 22:13:20 GMT\r\n".to_owned(), 200),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        ("If-Unmodified-Since: Thu, 14 Nov 2013 22:13:20 GMT\r\n".to_owned(), 412),
        (format!("If-Range: {etag}\r\nRange: bytes=0-0\r\n"), 206),
        (format!("If-Range: {DATE}\r\nRange: bytes=0-0\r\n"), 206),
        ("If-Range: \"x\"\r\nRange: bytes=0-0\r\n".to_owned(), 200),
        ("Range: bytes=0-0\r\nRange: bytes=2-2\r\n".to_owned(), 200),
    ] {
        let reply = ask(lines.clone()).await;
        assert_eq!(reply.status, status, "{lines}");
        assert_eq!(reply.find("etag").is_some(), status != 412, "{lines}");
    }
    assert_eq!(MTIME, 1_700_000_000, "what DATE says");
    server.stop().await;
}

#[tokio::test]
async fn a_new_snapshot_shows_at_once_and_the_old_one_stays() {
    let (server, old, world) = world().await;
    let new = world.publish(2, vec![("pool/hello.deb", file(b"newer"))], true).await;
    let reply = get(server.address, "/pool/hello.deb").await;
    assert_eq!(
        (reply.text(), reply.header("instantmirror-snapshot")),
        ("newer", &*new.id.to_string())
    );
    let reply = get(server.address, &format!("/debian/snap/{}/pool/hello.deb", old.id)).await;
    assert_eq!(reply.text(), "hello");
    let staged = world.publish(3, vec![("secret", file(b"secret"))], false).await;
    let reply = get(server.address, &format!("/debian/snap/{}/secret", staged.id)).await;
    assert_eq!(reply.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_repository_without_a_whole_snapshot_is_not_there_yet_rather_than_not_there() {
    let world = World::new();
    let mounts = Mounts::new(vec![mount("pub", View::Current, false)]).unwrap();
    let server = start(world.service().with_mounts(mounts)).await;
    let targets = [
        "/pub/dists/stable/InRelease",
        "/pub/",
        "/debian/",
        "/debian/snap/",
        "/debian/snap/current/",
        "/debian/snap/00000000-0000-4000-8000-000000000000/x",
        "/debian/master-snap/stable/x",
    ];
    for target in targets {
        let reply = get(server.address, target).await;
        assert_eq!(reply.status, 503, "{target}: {reply:?}");
        assert_eq!(
            (reply.header("retry-after"), reply.header("cache-control")),
            ("10", "no-store")
        );
    }
    assert_eq!(get(server.address, "/other/").await.status, 404);
    world.publish(1, vec![("x", file(b"x"))], true).await;
    for (target, status) in targets.into_iter().zip([404, 200, 200, 200, 200, 404, 200]) {
        assert_eq!(get(server.address, target).await.status, status, "{target}");
    }
    server.stop().await;
}

#[tokio::test]
async fn digests_and_other_places_are_named_where_they_are_known() {
    let world = World::new();
    let items = vec![("known", Item::File(Bytes::from_static(KNOWN))), ("other", file(b"x"))];
    world.publish(1, items, true).await;
    let server = start(world.service()).await;
    for lines in ["", "Range: bytes=0-1\r\n", "", "Range: bytes=0-1\r\n"] {
        let reply = send(server.address, "GET", "/debian/snap/current/known", lines, b"").await;
        let encoded = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        assert_eq!(reply.header("repr-digest"), format!("sha-256=:{encoded}:"));
        assert_eq!(reply.header("digest"), format!("SHA-256={encoded}"));
        let links = reply.headers.iter().filter(|(name, _)| name == "link");
        // What could end the field or the header line is gone.
        assert_eq!(
            links.map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
            [
                "<https://a.example/known>; rel=duplicate; pri=1; geo=de",
                "<https://c.example/;rel=x>; rel=duplicate; pri=3",
            ]
        );
    }
    let reply = get(server.address, "/debian/snap/current/other").await;
    assert!(reply.find("repr-digest").is_none() && reply.find("link").is_none());
    server.stop().await;
}

#[tokio::test]
async fn pages_are_asked_about_and_not_sent_again() {
    let (server, _, world) = world().await;
    let target = "/debian/snap/current/pool/";
    let tag = get(server.address, target).await.header("etag").to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let ask = format!("If-None-Match: {tag}\r\n");
    let reply = send(server.address, "GET", target, &ask, b"").await;
    assert_eq!((reply.status, reply.header("etag")), (304, tag.as_str()));
    for (target, lines) in [
        ("/debian/snap/current/pool/?C=S", ask.clone()),
        ("/debian/snap/current/pool/?json", ask.clone()),
        ("/debian/snap/current/", ask.clone()),
        (target, format!("{ask}Accept: application/json\r\n")),
    ] {
        assert_eq!(
            send(server.address, "GET", target, &lines, b"").await.status,
            200,
            "{target}"
        );
    }
    let reply = send(server.address, "GET", target, &format!("If-Match: {tag}\r\n"), b"").await;
    assert_eq!(reply.status, 412);
    world.publish(9, vec![("pool/new", file(b"new"))], true).await;
    assert_eq!(send(server.address, "GET", target, &ask, b"").await.status, 200);
    server.stop().await;
}
