//! How long each answer may be kept by whom, in every view: what depends on more than its URL is kept by nobody.

use bytes::Bytes;
use instantmirror_core::view::View;
use instantmirror_core::{ObjectId, RepoPath};
use instantmirror_http::{Mount, Mounts};

use crate::client::{parse, raw, send};
use crate::world::{Fault, Item, World, name, start, unavailable};

const FOREVER: &str = "public, max-age=31536000, immutable";
const HOUR: &str = "public, max-age=3600";
const ASK: &str = "no-cache";
/// For a file whose name says nothing of its content.
const SHORT: &str = "public, max-age=5, must-revalidate, stale-while-revalidate=0";
const NEVER: &str = "no-store";

/// A request below a view, its status, and what is said of caching under a snapshot's URL and elsewhere.
const TABLE: &[(&str, &str, &str, u16, &str, &str)] = &[
    ("GET", "a", "", 200, FOREVER, SHORT),
    ("HEAD", "a", "", 200, FOREVER, SHORT),
    ("GET", "a", "Range: bytes=0-0", 206, FOREVER, SHORT),
    ("GET", "a", "Range: bytes=nonsense", 200, FOREVER, SHORT),
    ("GET", "a", "If-None-Match: *", 304, FOREVER, SHORT),
    ("GET", "a", "If-Match: \"x\"", 412, NEVER, NEVER),
    ("HEAD", "a", "If-Match: \"x\"", 412, NEVER, NEVER),
    (
        "GET",
        "a",
        "If-Unmodified-Since: Thu, 14 Nov 1991 22:13:20 GMT",
        412,
        NEVER,
        NEVER,
    ),
    ("GET", "a", "Range: bytes=99-", 416, NEVER, NEVER),
    ("GET", "dir", "", 301, FOREVER, ASK),
    ("GET", "dir/", "", 200, HOUR, ASK),
    ("GET", "dir/", "Accept: application/json", 200, HOUR, ASK),
    ("GET", "dir/", "If-None-Match: *", 304, HOUR, ASK),
    ("GET", "dir/", "If-Match: \"x\"", 412, NEVER, NEVER),
    ("GET", "missing", "", 404, ASK, ASK),
    ("GET", "missing", "If-Match: \"x\"", 404, ASK, ASK),
    ("GET", "a/", "", 404, ASK, ASK),
    ("PUT", "a", "", 405, NEVER, NEVER),
    ("DELETE", "dir/", "", 405, NEVER, NEVER),
    ("POST", "a", "", 405, NEVER, NEVER),
    ("GET", "%00", "", 400, NEVER, NEVER),
    ("GET", "a", "Content-Length: x", 400, NEVER, NEVER),
    ("GET", "a", "Expect: 200-ok", 400, NEVER, NEVER),
    ("GET", "away", "", 504, NEVER, NEVER),
    ("GET", "away", "Range: bytes=0-0", 504, NEVER, NEVER),
];

#[tokio::test]
async fn nobody_keeps_for_others_what_one_request_came_to() {
    let world = World::new();
    let file = |content: &'static [u8]| Item::File(Bytes::from_static(content));
    let items = vec![("a", file(b"content")), ("dir/b", file(b"b")), ("away", file(b"away"))];
    let snapshot = world.publish(1, items, true).await;
    world.fault(b"away", Fault::Open(unavailable(ObjectId::of(b"away"))));
    let object = world.cache_object(b"object").await;
    let mount = |path: &str, view| {
        let mut mount = Mount::new(RepoPath::new(path).unwrap(), name());
        mount.view = view;
        mount
    };
    let mounts = Mounts::new(vec![mount("pub", View::Current)]).unwrap();
    let api = world.api();
    let server = start(world.service().with_mounts(mounts).with_api(api)).await;
    let views = [
        (format!("/debian/snap/{}/", snapshot.id), true),
        ("/debian/snap/current/".to_owned(), false),
        ("/debian/master-snap/stable/".to_owned(), false),
        ("/pub/".to_owned(), false),
    ];
    for (view, is_fixed) in &views {
        for (method, path, line, status, fixed, moving) in TABLE {
            let lines = if line.is_empty() {
                String::new()
            } else {
                format!("{line}\r\n")
            };
            let expected = if *is_fixed { fixed } else { moving };
            // Made the first time, kept ready the second.
            for _ in 0..2 {
                let reply = send(server.address, method, &format!("{view}{path}"), &lines, b"").await;
                let said = reply.find("cache-control").unwrap_or("nothing");
                assert_eq!(
                    (reply.status, said),
                    (*status, *expected),
                    "{method} {view}{path} {line}"
                );
            }
        }
    }
    for (path, lines, status, expected) in [
        (format!("/.im/v1/debian/objects/{object}"), "", 200, FOREVER),
        (
            format!("/.im/v1/debian/objects/{object}"),
            "If-Match: \"x\"\r\n",
            412,
            NEVER,
        ),
        (
            format!("/.im/v1/debian/objects/{object}"),
            "Range: bytes=99-\r\n",
            416,
            NEVER,
        ),
        ("/.im/v1/debian/nonsense".to_owned(), "", 400, NEVER),
        ("/.im/v1/debian%2fhead".to_owned(), "", 400, NEVER),
        (
            format!("/.im/webseed/debian/{}/0/name/.pad/99", snapshot.id),
            "",
            200,
            FOREVER,
        ),
        (
            format!("/.im/webseed/debian/{}/0/name/nothing", snapshot.id),
            "",
            404,
            ASK,
        ),
    ] {
        let reply = send(server.address, "GET", &path, lines, b"").await;
        assert_eq!(
            (reply.status, reply.header("cache-control")),
            (status, expected),
            "{path} {lines}"
        );
    }
    for request in [
        "nonsense\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\n", "a".repeat(40_000)),
    ] {
        let reply = parse(&raw(server.address, request.as_bytes()).await, false);
        assert!(matches!(reply.status, 400 | 414 | 431));
        assert_eq!(reply.header("cache-control"), NEVER);
    }
    server.stop().await;
}
