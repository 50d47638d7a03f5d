//! Pages about directories: where symlinks lead, in which form and coding a page comes, what it is known by.

use std::io::Read as _;

use bytes::Bytes;
use instantmirror_core::RepoPath;
use instantmirror_http::{Mount, Mounts};

use crate::client::{Reply, get, send};
use crate::world::{Item, Running, World, name, start};

/// Longer than what is followed of symlinks to symlinks.
const CHAIN: usize = 50;

async fn world() -> Running {
    let world = World::new();
    let file = |content: &'static [u8]| Item::File(Bytes::from_static(content));
    let chain: Vec<String> = (0..=CHAIN).map(|number| format!("links/chain-{number:02}")).collect();
    let mut items = vec![
        ("dists/sid/Release", file(b"release")),
        ("dists/stable", Item::Link("sid")),
        ("dists/oldstable", Item::Link("stable")),
        ("links/up", Item::Link("..")),
        ("links/over", Item::Link("../dists/oldstable/../stable")),
        ("links/file", Item::Link("../dists/stable/Release")),
        ("links/dangling", Item::Link("nowhere")),
        ("links/outside", Item::Link("../../../etc")),
        ("links/absolute", Item::Link("/dists")),
        ("links/loop", Item::Link("loop")),
        ("links/beneath", Item::Link("file/x")),
        ("links/chain-50", Item::Link("../dists")),
    ];
    let targets: Vec<&'static str> = (1..=CHAIN)
        .map(|number| &*Box::leak(format!("chain-{number:02}").into_boxed_str()))
        .collect();
    items.extend(
        chain
            .iter()
            .zip(targets)
            .map(|(link, target)| (link.as_str(), Item::Link(target))),
    );
    world.publish(1, items, true).await;
    let mount = Mount::new(RepoPath::new("pub").unwrap(), name());
    start(world.service().with_mounts(Mounts::new(vec![mount]).unwrap())).await
}

#[tokio::test]
async fn a_symlink_to_a_directory_is_shown_as_one() {
    let server = world().await;
    for (target, expected) in [
        (
            "/pub/dists/",
            vec![("oldstable", "directory"), ("sid", ""), ("stable", "directory")],
        ),
        // A directory that was come to through a symlink itself.
        ("/pub/links/over/", vec![("Release", "")]),
        (
            "/pub/links/",
            vec![
                ("absolute", "nowhere"),
                ("beneath", "nowhere"),
                ("dangling", "nowhere"),
                ("file", "file"),
                ("loop", "nowhere"),
                ("outside", "nowhere"),
                ("over", "directory"),
                ("up", "directory"),
                ("chain-00", "nowhere"),
                ("chain-11", "directory"),
            ],
        ),
    ] {
        let (json, html) = (
            get(server.address, &format!("{target}?json")).await,
            get(server.address, target).await,
        );
        let page = json.json();
        for (name, leads_to) in expected {
            let row = page["entries"]
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["name"] == name);
            let row = row.unwrap_or_else(|| panic!("{target} shows no {name}"));
            let slash = if leads_to == "directory" || row["type"] == "directory" {
                "/"
            } else {
                ""
            };
            assert_eq!(row["href"], format!("{name}{slash}"), "{target}");
            assert!(
                html.text()
                    .contains(&format!("<a href=\"{name}{slash}\">{name}{slash}</a>")),
                "{name}"
            );
            if row["type"] == "symlink" {
                assert_eq!(row["leads_to"].as_str().unwrap_or("nowhere"), leads_to, "{name}");
                // The page says what a request finds.
                let status = get(server.address, &format!("{target}{name}{slash}")).await.status;
                assert_eq!(status == 200, leads_to != "nowhere", "{name}");
            }
            if leads_to == "file" {
                assert_eq!(row["size"], 7);
            }
        }
    }
    server.stop().await;
}

/// Sorted or not: the same.
#[tokio::test]
async fn columns_stand_as_listing_readers_expect_them() {
    let server = world().await;
    for query in ["", "?C=S", "?C=M&O=D"] {
        let page = get(server.address, &format!("/pub/dists/sid/{query}")).await;
        let row = "<tr><td><a href=\"Release\">Release</a></td> <td class=\"d\">14-Nov-2023 22:13</td> \
                   <td class=\"n\" title=\"7 bytes\" data-size=\"7 B\">7</td>";
        assert!(page.text().contains(row), "{}", page.text());
        assert!(page.text().contains("<title>Index of /pub/dists/sid/</title>"));
    }
    assert!(
        get(server.address, "/")
            .await
            .text()
            .contains("<title>Index of /</title>")
    );
    server.stop().await;
}

fn unpacked(reply: &Reply) -> String {
    let mut text = String::new();
    match reply.find("content-encoding") {
        None => reply.text().clone_into(&mut text),
        Some("gzip") => {
            flate2::read::GzDecoder::new(&reply.body[..])
                .read_to_string(&mut text)
                .unwrap();
        }
        Some("zstd") => text = String::from_utf8(zstd::decode_all(&reply.body[..]).unwrap()).unwrap(),
        Some(other) => panic!("{other}"),
    }
    text
}

#[tokio::test]
async fn pages_are_packed_for_those_who_take_it() {
    let world = World::new();
    let names: Vec<String> = (0..3000)
        .map(|number| format!("package-{number:04}_1.0_all.deb"))
        .collect();
    let items = names
        .iter()
        .map(|name| (name.as_str(), Item::File(Bytes::from_static(b"x"))));
    world.publish(1, items.collect(), true).await;
    let server = start(world.service()).await;
    let target = "/debian/snap/current/";
    for target in [target, "/debian/", "/debian/snap/current/?json"] {
        let plain = get(server.address, target).await;
        let mut tags = vec![plain.find("etag").map(str::to_owned)];
        for (accept, coding) in [("gzip, deflate", "gzip"), ("gzip, deflate, br, zstd", "zstd")] {
            let lines = format!("Accept-Encoding: {accept}\r\n");
            let reply = send(server.address, "GET", target, &lines, b"").await;
            assert_eq!(
                (reply.status, reply.header("content-encoding"), reply.whole),
                (200, coding, true)
            );
            assert_eq!(reply.header("vary"), "Accept, Accept-Encoding");
            assert_eq!(unpacked(&reply), plain.text(), "{target} {coding}");
            assert!(plain.body.len() < 100_000 || reply.body.len() * 8 < plain.body.len());
            tags.push(reply.find("etag").map(str::to_owned));
            let head = send(server.address, "HEAD", target, &lines, b"").await;
            assert_eq!((head.status, head.header("content-encoding")), (200, coding));
            if let Some(tag) = reply.find("etag") {
                let again = send(
                    server.address,
                    "GET",
                    target,
                    &format!("{lines}If-None-Match: {tag}\r\n"),
                    b"",
                )
                .await;
                assert_eq!((again.status, again.header("vary")), (304, "Accept, Accept-Encoding"));
                let plain = send(server.address, "GET", target, &format!("If-None-Match: {tag}\r\n"), b"").await;
                assert_eq!(plain.status, 200, "another coding is another page");
            }
        }
        tags.dedup();
        assert!(tags.len() == 3 || tags == [None], "{tags:?}");
    }
    // Files are what was signed, whatever is accepted.
    let file = format!("{target}{}", names[0]);
    let reply = send(
        server.address,
        "GET",
        &file,
        "Accept-Encoding: gzip, identity;q=0\r\n",
        b"",
    )
    .await;
    assert_eq!(
        (reply.status, reply.text(), reply.find("content-encoding")),
        (200, "x", None)
    );
    server.stop().await;
}

#[tokio::test]
async fn the_form_is_what_the_client_likes_best() {
    let server = world().await;
    for (accept, media) in [
        ("", "text/html"),
        ("*/*", "text/html"),
        (
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
            "text/html",
        ),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.9, text/html", "text/html"),
        ("text/html;q=0.9, application/json", "application/json"),
        ("application/json;q=0.5, */*", "text/html"),
        ("application/json;q=0", "text/html"),
        ("text/html;q=0, */*", "application/json"),
        ("text/*;q=0.3, application/*;q=0.7", "application/json"),
        ("image/png", "text/html"),
    ] {
        let lines = if accept.is_empty() {
            String::new()
        } else {
            format!("Accept: {accept}\r\n")
        };
        let reply = send(server.address, "GET", "/pub/dists/", &lines, b"").await;
        assert!(reply.header("content-type").starts_with(media), "{accept}: {reply:?}");
    }
    server.stop().await;
}
