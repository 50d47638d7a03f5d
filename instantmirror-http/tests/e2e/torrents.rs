//! What torrent clients and their users ask for: web seeds with pad files, links on the pages of directories.

use std::sync::Arc;

use bytes::Bytes;
use instantmirror_core::RepoPath;
use instantmirror_core::metainfo::web_seed_path;

use crate::client::{get, send};
use crate::world::{Item, Running, World, name, start};

async fn world() -> (Running, String, Arc<World>) {
    let world = World::new();
    let file = |content: &'static [u8]| Item::File(Bytes::from_static(content));
    let items = vec![
        ("iso/images/a b.iso", file(b"hello")),
        ("iso/images/.pad/5", file(b"in the tree")),
        ("iso/images/what? a\\b", file(b"renamed")),
        ("iso/images/dir. /x:y", file(b"twice renamed")),
        ("iso/images/a*b", file(b"one")),
        ("iso/images/a|b", file(b"other")),
        ("top", file(b"top")),
    ];
    let snapshot = world.publish(0xab, items, true).await;
    let hidden = world
        .publish(0xcd, vec![("iso/images/a", file(b"staged"))], false)
        .await;
    let base = web_seed_path(&name(), snapshot.id, &RepoPath::new("iso/images").unwrap());
    let service = world.service();
    let server = start(service).await;
    let staged = web_seed_path(&name(), hidden.id, &RepoPath::new("iso/images").unwrap());
    for path in ["n/a", "n/.pad/17"] {
        assert_eq!(
            get(server.address, &format!("{staged}{path}")).await.status,
            404,
            "{path}"
        );
    }
    (server, base, world)
}

#[tokio::test]
async fn a_web_seed_has_every_file_where_clients_look_for_it() {
    let (server, base, _) = world().await;
    let reply = get(server.address, &format!("{base}any%20name/a%20b.iso")).await;
    assert_eq!((reply.status, reply.text()), (200, "hello"));
    assert!(reply.header("cache-control").contains("immutable"));
    let reply = send(
        server.address,
        "GET",
        &format!("{base}n/a%20b.iso"),
        "Range: bytes=1-2\r\n",
        b"",
    )
    .await;
    assert_eq!((reply.status, reply.text()), (206, "el"));
    let root = base.replace("/2/iso/images/", "/0/");
    assert_eq!(get(server.address, &format!("{root}debian/top")).await.text(), "top");
    for missing in ["n/b", "a%20b.iso", "n/../top", "n/%2e%2e/%2e%2e/top"] {
        assert!(
            get(server.address, &format!("{base}{missing}")).await.status >= 300,
            "{missing}"
        );
    }
}

#[tokio::test]
async fn a_file_is_found_by_the_names_that_clients_make_of_its_own() {
    let (server, base, _) = world().await;
    for (asked, expected) in [
        ("what%3F%20a%5Cb", "renamed"),
        ("what%3F%20ab", "renamed"),
        ("what_%20a_b", "renamed"),
        ("dir/x_y", "twice renamed"),
        ("dir.%20/x_y", "twice renamed"),
        ("a*b", "one"),
    ] {
        let reply = get(server.address, &format!("{base}n/{asked}")).await;
        assert_eq!((reply.status, reply.text()), (200, expected), "{asked}");
    }
    // It could be either of two; and a directory is no file.
    for none in ["a_b", "dir", "dir/", "what_", "dir/x_y/z"] {
        assert_eq!(
            get(server.address, &format!("{base}n/{none}")).await.status,
            404,
            "{none}"
        );
    }
    // Elsewhere names are what they are.
    assert_eq!(
        get(server.address, "/debian/snap/current/iso/images/dir/x_y")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn pads_are_zeros_of_their_size_and_a_file_of_that_name_is_itself() {
    let (server, base, _) = world().await;
    for size in [1_usize, 16 << 10, (16 << 10) + 1, 1_000_000] {
        for number in ["", ".2", ".30000"] {
            let reply = get(server.address, &format!("{base}n/.pad/{size}{number}")).await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.body, vec![0; size], "{size}{number}");
        }
    }
    let target = format!("{base}n/.pad/100000");
    for (range, status, bytes, said) in [
        ("bytes=0-0", 206, 1, "bytes 0-0/100000"),
        ("bytes=50000-", 206, 50_000, "bytes 50000-99999/100000"),
        ("bytes=-7", 206, 7, "bytes 99993-99999/100000"),
        ("bytes=100000-", 416, 0, "bytes */100000"),
    ] {
        let reply = send(server.address, "GET", &target, &format!("Range: {range}\r\n"), b"").await;
        assert_eq!((reply.status, reply.header("content-range")), (status, said), "{range}");
        assert!(bytes == 0 || reply.body == vec![0; bytes], "{range}");
    }
    let head = send(server.address, "HEAD", &target, "", b"").await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, "100000", 0)
    );
    let tag = head.header("etag").to_owned();
    let again = send(
        server.address,
        "GET",
        &target,
        &format!("If-None-Match: {tag}\r\n"),
        b"",
    )
    .await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    let reply = get(server.address, &format!("{base}n/.pad/5")).await;
    assert_eq!(reply.text(), "in the tree");
    // 64 MiB is no pad: it would be a piece.
    for none in [
        ".pad/0",
        ".pad/007",
        ".pad/67108864",
        ".pad/99999999999999999999",
        ".pad/1x",
        ".pad/9.1",
        ".pad/9/",
        "x/.pad/9",
    ] {
        let reply = get(server.address, &format!("{base}n/{none}")).await;
        assert_eq!(reply.status, 404, "{none}");
    }
}

#[tokio::test]
async fn a_directory_shows_the_torrents_of_what_lies_in_it() {
    let (server, _, world) = world().await;
    let plain = get(server.address, "/debian/snap/current/iso/").await;
    assert!(!plain.text().contains("magnet:"));
    world.torrents.lock().unwrap().insert("iso".into(), 1);
    let page = get(server.address, "/debian/snap/current/iso/").await;
    let link = "<li><a href=\"../../../../.im/torrent/debian/%22x%22-1.torrent\">&quot;x&quot;-1.torrent</a> · <a href=\"magnet:?xt=1&amp;dn=x\">";
    assert!(page.text().contains(link), "{}", page.text());
    assert_ne!(
        plain.header("etag"),
        page.header("etag"),
        "a page without them is another page"
    );
    assert!(
        !get(server.address, "/debian/snap/current/")
            .await
            .text()
            .contains("magnet:")
    );
    world.torrents.lock().unwrap().insert("iso".into(), 9);
    let page = get(server.address, "/debian/snap/current/iso/").await;
    assert!(page.text().contains("<summary>9 torrents</summary>"));
}
