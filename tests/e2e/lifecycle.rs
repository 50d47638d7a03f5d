//! The life of snapshots after they were published: tags, expiry, grace.

use std::path::Path;

use instantmirror::core::ObjectId;
use instantmirror_testkit::debian::{AptClient, Archive};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::world::{LIMIT, Master, Node};

fn status(url: &str) -> u16 {
    http::get(url).unwrap().status
}

/// Waits until a URL is answered with this status.
fn wait_for_status(url: &str, wanted: u16) {
    let seen = poll(LIMIT, || (status(url) == wanted).then_some(()));
    seen.unwrap_or_else(|| panic!("{url} is still answered with {}", status(url)));
}

#[test]
fn a_tag_shows_on_master_and_node_until_it_is_taken_away() {
    let dir = TestDir::new("e2e-tags").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "first").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let (_, said) = master.fail(&["snapshot", "tag", "r", "stable", "00000000-0000-4000-8000-000000000000"]);
    assert!(said.contains("never published"), "{said}");
    let first = master.publish("r");
    std::fs::write(source.join("file"), "second").unwrap();
    let second = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &second);

    master.run(&["snapshot", "tag", "r", "stable", &first]);
    let shown = |server: &str| format!("{server}/r/master-snap/stable/file");
    for server in [master.url(), node.url()] {
        wait_for_status(&shown(&server), 200);
        assert_eq!(http::get(&shown(&server)).unwrap().text(), "first");
    }
    let said = master.run(&["snapshot", "tag", "r", "stable", &first]).text();
    assert!(said.contains("already"), "{said}");
    let listed = master.run(&["snapshot", "list", "r"]).text();
    assert!(listed.lines().next().unwrap().contains("[stable]"), "{listed}");

    let said = master.run(&["snapshot", "tag", "r", "stable", &second]).text();
    assert!(said.contains(&first), "it says what the tag named before: {said}");
    let moved = poll(LIMIT, || {
        (http::get(&shown(&node.url())).ok()?.text() == "second").then_some(())
    });
    assert!(moved.is_some());

    master.run(&["snapshot", "untag", "r", "stable"]);
    for server in [master.url(), node.url()] {
        wait_for_status(&shown(&server), 404);
    }

    // What is mistyped is told with what was meant.
    let mistyped = format!("{}{}", &first[..35], if first.ends_with('0') { "1" } else { "0" });
    let (_, said) = master.fail(&["snapshot", "tag", "r", "stable", &mistyped]);
    assert!(said.contains(&format!("did you mean {first}?")), "{said}");
    let (_, said) = master.fail(&["snapshot", "untag", "r", "stable"]);
    assert!(
        said.contains("no tag 'stable'") && said.contains("it has none"),
        "{said}"
    );
    let (code, said) = master.fail(&["snapshot", "tag", "r", "Not A Tag", &first]);
    assert!(code == 2 && said.contains("1 to 64 of a-z"), "{said}");
}

/// Publishes trees that share one file and have one of their own each; returns their ids.
fn publish_generations(master: &Master, source: &Path, count: usize) -> Vec<String> {
    std::fs::write(source.join("shared"), "shared").unwrap();
    let mut ids = Vec::new();
    for number in 0..count {
        std::fs::write(source.join("own"), format!("own {number}")).unwrap();
        ids.push(master.publish("r"));
    }
    ids
}

fn object(content: &str) -> String {
    ObjectId::of(content.as_bytes()).to_string()
}

/// Ends with `keep_last = 2` configured and no grace; the first snapshot is tagged.
fn dry_run_says_what_would_go(master: &Master, ids: &[String]) {
    // Without rules everything stays; with rules a dry run says what would go and does nothing.
    assert!(master.run(&["retention", "r"]).text().contains("no rule"));
    master.configure("[retention]\nkeep_last = 2\n");
    let said = master.run(&["retention", "r", "--dry-run"]).text();
    assert!(
        said.contains("4 snapshots, 0 would go") && said.contains("grace"),
        "{said}"
    );
    master.configure("[snapshots]\ngrace = \"0 s\"\n");
    let said = master.run(&["retention", "r", "--dry-run"]).text();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("4 snapshots, 1 would go"), "{said}");
    assert!(
        lines[1].contains(&ids[0]) && lines[1].contains("stays  tag gold"),
        "{said}"
    );
    assert!(
        lines[2].contains(&ids[1]) && lines[2].contains("GOES   no rule keeps it"),
        "{said}"
    );
    assert!(
        lines[3].contains("stays  last") && lines[4].contains("stays  current, last"),
        "{said}"
    );
    assert_eq!(master.live("r").len(), 4);
}

#[test]
fn retention_deletes_exactly_what_no_kept_snapshot_needs() {
    let dir = TestDir::new("e2e-retention").unwrap();
    let source = dir.folder("source").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let ids = publish_generations(&master, &source, 4);
    master.run(&["snapshot", "tag", "r", "gold", &ids[0]]);
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &ids[3]);
    assert_eq!(master.objects().len(), 5);

    dry_run_says_what_would_go(&master, &ids);

    // It leaves the head at once, and its data when the readers had time.
    let said = master.run(&["retention", "r"]).text();
    assert!(
        said.contains("deleted 0 objects") && said.contains("1 more wait"),
        "{said}"
    );
    assert_eq!(master.live("r"), [&ids[0], &ids[2], &ids[3]].map(String::clone));
    assert_eq!(master.objects().len(), 5);
    for server in [master.url(), node.url()] {
        wait_for_status(&format!("{server}/r/snap/{}/own", ids[1]), 404);
        assert_eq!(status(&format!("{server}/r/snap/{}/own", ids[2])), 200);
    }
    let said = master.run(&["retention", "r", "--now"]).text();
    assert!(said.contains("deleted 1 object (5 B) of 1 expired"), "{said}");
    let mut left = ["shared", "own 0", "own 2", "own 3"].map(object);
    left.sort();
    assert_eq!(master.objects(), left);
    assert!(
        master
            .run(&["retention", "r", "--now"])
            .text()
            .contains("deleted 0 objects (0 B) of 0")
    );

    // What was deleted can be published again, and everything that is live is still served.
    std::fs::write(source.join("own"), "own 1").unwrap();
    let again = master.publish("r");
    node.wait_for("r", &again);
    assert_eq!(node.get("/r/snap/current/own"), b"own 1");
    assert_eq!(node.get("/r/master-snap/gold/own"), b"own 0");
    assert_eq!(
        master.live("r"),
        [&ids[0], &ids[3], &again].map(String::clone),
        "a publish applies the rules"
    );
}

#[test]
fn orphans_of_a_killed_publish_go_when_asked_for() {
    let dir = TestDir::new("e2e-orphans").unwrap();
    let source = dir.folder("source").unwrap();
    let master = Master::new(&dir, &[("r", &source)]);
    publish_generations(&master, &source, 1);
    let orphan = master.object_file(b"orphan");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "orphan").unwrap();
    master.run(&["retention", "r", "--now"]);
    assert!(orphan.exists());
    assert!(
        master
            .run(&["retention", "r", "--orphans"])
            .text()
            .contains("deleted 1 object")
    );
    assert!(!orphan.exists());
    assert_eq!(master.objects().len(), 2);
}

#[test]
fn a_byte_limit_lets_the_oldest_go() {
    let dir = TestDir::new("e2e-max-bytes").unwrap();
    let source = dir.folder("source").unwrap();
    let master = Master::new(&dir, &[("r", &source)]);
    master.configure("[retention]\nmax_bytes = \"17 B\"\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n");
    // 6 bytes of "shared", and 5 for each: two and a bit fit in.
    let ids = publish_generations(&master, &source, 4);
    assert_eq!(master.live("r"), ids[2..]);
    assert_eq!(master.objects().len(), 3);
}

#[test]
fn a_node_keeps_what_its_own_rules_say_and_gives_the_catalogs_of_the_rest_back() {
    let dir = TestDir::new("e2e-node-snapshots").unwrap();
    let source = dir.folder("source").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    for number in 0..2000 {
        std::fs::write(source.join(format!("file-{number}")), "x").unwrap();
    }
    let ids = publish_generations(&master, &source, 3);
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "1 GiB");
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(
        &node.config,
        format!("{text}[snapshots]\nkeep_last = 2\ngrace = \"0 s\"\n"),
    )
    .unwrap();
    node.run();
    node.wait_for("r", &ids[2]);
    wait_for_status(&format!("{}/r/snap/{}/own", node.url(), ids[1]), 200);
    assert_eq!(status(&format!("{}/r/snap/{}/own", node.url(), ids[0])), 404);
    assert_eq!(status(&format!("{}/r/snap/{}/own", master.url(), ids[0])), 200);
    assert_eq!(node.get("/r/snap/current/own"), b"own 2");

    std::fs::write(source.join("own"), "own 3").unwrap();
    let newest = master.publish("r");
    node.wait_for("r", &newest);
    wait_for_status(&format!("{}/r/snap/{}/own", node.url(), ids[1]), 404);
    node.daemon().wait_for_line("catalogs cleaned up", LIMIT).unwrap();
    assert_eq!(node.get("/r/snap/current/own"), b"own 3");
    assert_eq!(node.get(&format!("/r/snap/{}/own", ids[2])), b"own 2");
    node.stop(true);
    node.run();
    assert_eq!(node.get(&format!("/r/snap/{}/own", ids[2])), b"own 2");
}

#[test]
fn a_client_with_old_metadata_installs_while_the_master_is_three_snapshots_on() {
    let dir = TestDir::new("e2e-grace").unwrap();
    let archive = Archive::build(&dir.folder("archive").unwrap()).unwrap();
    let mut master = Master::new(&dir, &[("debian", archive.root())]);
    // Without grace both snapshots but the last would go.
    master.configure("[retention]\nkeep_last = 1\ndelete_after = \"0 s\"\n");
    let first = master.publish("debian");
    master.serve();
    let node = Node::start(&dir, &master, &["debian"]);
    node.wait_for("debian", &first);
    let client = AptClient::new(&dir.folder("client").unwrap(), &format!("{}/pub/debian", node.url())).unwrap();
    client.update().unwrap();
    let old = archive.version("hello").unwrap();
    let old_file = archive.package_file("hello").unwrap();
    let old_content = std::fs::read(&old_file).unwrap();

    for _ in 0..3 {
        archive.upgrade("hello").unwrap();
        node.wait_for("debian", &master.publish("debian"));
    }
    assert_eq!(
        client.candidate("hello").unwrap().as_deref(),
        Some(old.as_str()),
        "it has not updated"
    );
    assert_eq!(client.download("hello").unwrap(), old_content);

    // The answer says where it comes from; a listing shows what is there now; what never was is not found.
    let name = old_file.file_name().unwrap().to_str().unwrap();
    let folder = old_file
        .parent()
        .unwrap()
        .strip_prefix(archive.root())
        .unwrap()
        .to_str()
        .unwrap();
    for server in [node.url(), master.url()] {
        let answer = http::get(&format!("{server}/debian/snap/current/{folder}/{name}")).unwrap();
        assert_eq!(
            (answer.status, answer.header("instantmirror-snapshot")),
            (200, Some(first.as_str()))
        );
        let listing = http::get(&format!("{server}/debian/snap/current/{folder}/")).unwrap();
        assert_eq!(listing.status, 200);
        assert!(!listing.text().contains(&format!("{name}\"")), "{}", listing.text());
        assert_eq!(status(&format!("{server}/debian/snap/current/{folder}/never")), 404);
        assert_eq!(status(&format!("{server}/debian/snap/current/{folder}/{name}/")), 404);
    }
    client.update().unwrap();
    assert_ne!(client.download("hello").unwrap(), old_content);

    // Without grace it ends, on master and node.
    master.stop(false);
    master.configure("[snapshots]\ngrace = \"0 s\"\n");
    master.serve();
    master.run(&["retention"]);
    for server in [master.url(), node.url()] {
        wait_for_status(&format!("{server}/debian/snap/current/{folder}/{name}"), 404);
    }
}
