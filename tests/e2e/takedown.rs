//! Going back to an older snapshot, and taking one away for good: what master and node show, and what is left on disks.

use std::path::Path;
use std::time::{Duration, Instant};

use instantmirror::core::ObjectId;
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::world::{LIMIT, Master, Node};

/// Within this a removal has reached the node's disk; it takes some seconds.
const REMOVED: Duration = Duration::from_secs(60);

fn publish(master: &Master, source: &Path, files: &[(&str, &str)]) -> String {
    for entry in std::fs::read_dir(source).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (name, content) in files {
        std::fs::write(source.join(name), content).unwrap();
    }
    master.publish("r")
}

fn status(server: &str, path: &str) -> u16 {
    http::get(&format!("{server}{path}")).unwrap().status
}

fn object_path(content: &str) -> String {
    format!("/.im/v1/r/objects/{}", ObjectId::of(content.as_bytes()))
}

fn in_cache(node: &Node, content: &str) -> bool {
    let id = ObjectId::of(content.as_bytes()).to_string();
    node.dir.join("cache/cache/objects").join(&id[..2]).join(id).exists()
}

#[test]
fn a_removal_does_not_wait_for_a_catalog_that_does_not_come() {
    let dir = TestDir::new("takedown-incomplete").unwrap();
    let (source, other) = (dir.folder("source").unwrap(), dir.folder("other").unwrap());
    let mut master = Master::new(&dir, &[("r", &source), ("broken", &other)]);
    std::fs::write(other.join("file"), "content").unwrap();
    let lost = master.publish("broken");
    let secret = "secret, ".repeat(5_000);
    let name = "name-that-was-a-secret";
    let first = publish(&master, &source, &[("a", "a of first"), (name, &secret)]);
    // Its head promises a snapshot that the master cannot give any more.
    std::fs::remove_file(master.dir.join(format!("store/records/broken/{lost}.record"))).unwrap();
    master.serve();
    let node = Node::start(&dir, &master, &["r", "broken"]);
    node.wait_for("r", &first);
    node.get(&format!("/r/snap/current/{name}"));
    let second = publish(&master, &source, &[("a", "a of second")]);
    node.wait_for("r", &second);
    assert!(in_cache(&node, &secret));
    let catalogs = node.dir.join("cache/snapshots/catalog");
    let named = || {
        let packs = std::fs::read_dir(&catalogs).unwrap().map(|entry| entry.unwrap().path());
        // One may be replaced at this moment.
        let mut contents = packs.filter_map(|pack| std::fs::read(pack).ok());
        contents.any(|content| content.windows(name.len()).any(|part| part == name.as_bytes()))
    };
    assert!(named());
    master.run(&["snapshot", "remove", "r", &first]);
    assert!(
        poll(REMOVED, || (!in_cache(&node, &secret) && !named()).then_some(())).is_some(),
        "{}",
        node.daemon_log()
    );
    assert!(node.daemon_log().contains("the catalog of 'broken' is not whole here"));
    assert_eq!(node.get("/r/snap/current/a"), b"a of second");
}

#[test]
fn a_rollback_is_seen_everywhere_and_a_removal_leaves_nothing_anywhere() {
    let dir = TestDir::new("takedown").unwrap();
    let source = dir.folder("source").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let secret = "secret, ".repeat(5_000);
    let first = publish(&master, &source, &[("a", "a of first"), ("only-first", &secret)]);
    master.serve();
    let mut node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &first);
    // By a unique prefix, as everywhere.
    node.succeed(&["tag", "r", "kept", &first[..8]]);
    let (_, refused) = node.fail(&["tag", "r", "other", "current~1"]);
    assert!(
        refused.contains("0 of the snapshots before the current one"),
        "{refused}"
    );
    let good = publish(&master, &source, &[("a", "a of good"), ("only-good", "good")]);
    let bad = publish(&master, &source, &[("a", "a of bad"), ("only-bad", "bad")]);
    node.wait_for("r", &bad);
    node.get("/r/snap/current/only-bad");

    let planned = master
        .run(&["snapshot", "rollback", "r", "current~1", "--dry-run"])
        .text();
    assert!(planned.contains(&format!("{good} would be current again")), "{planned}");
    let done = master.run(&["snapshot", "rollback", "r", "current~1"]).text();
    assert!(done.contains(&format!("{bad} is withdrawn")), "{done}");
    node.wait_for("r", &good);
    for server in [master.url(), node.url()] {
        assert_eq!(
            http::get(&format!("{server}/r/snap/current/a")).unwrap().body,
            b"a of good"
        );
        assert_eq!(status(&server, "/r/snap/current/only-bad"), 404, "not by grace");
        assert_eq!(status(&server, "/r/snap/current/only-first"), 200, "this is grace");
        assert_eq!(status(&server, &format!("/r/snap/{bad}/only-bad")), 200, "it is kept");
    }
    // The source still is the bad tree.
    let said = master.run(&["publish", "r"]).text();
    assert!(said.contains(&bad) && said.contains("taken back"), "{said}");
    node.wait_for("r", &good);

    let (_, refused) = master.fail(&["snapshot", "remove", "r", "current"]);
    assert!(refused.contains("without it there would be none"), "{refused}");
    let (_, refused) = master.fail(&["snapshot", "remove", "r", "0"]);
    assert!(refused.contains("snapshot list r"), "{refused}");
    let planned = master
        .run(&["snapshot", "remove", "r", &first, &bad, "--dry-run"])
        .text();
    assert!(planned.contains(&first) && planned.contains("objects"), "{planned}");
    assert_eq!(status(&master.url(), &object_path(&secret)), 200);
    assert!(in_cache(&node, &secret));
    let begun = Instant::now();
    master.run(&["snapshot", "remove", "r", &first, &bad, "--reason", "a court said so"]);
    let gone = poll(REMOVED, || {
        let shown = [
            format!("/r/snap/{first}/a"),
            format!("/r/snap/{bad}/a"),
            "/r/local-snap/kept/only-first".to_owned(),
            "/r/snap/current/only-first".to_owned(),
            object_path(&secret),
            object_path("bad"),
        ];
        let servers = [master.url(), node.url()];
        let mut all = servers
            .iter()
            .flat_map(|server| shown.iter().map(move |path| status(server, path)));
        (all.all(|status| status == 404) && !in_cache(&node, &secret)).then_some(())
    });
    assert!(
        gone.is_some(),
        "still there after {:?}:\n{}",
        begun.elapsed(),
        node.daemon_log()
    );
    assert!(!master.object_file(secret.as_bytes()).exists() && !master.object_file(b"bad").exists());
    assert_eq!(node.succeed(&["tags"]), "");
    node.daemon().wait_for_line("a court said so", LIMIT).unwrap();
    assert_eq!(node.get("/r/snap/current/a"), b"a of good");

    // It stays away: after a restart of both, with the same source.
    node.stop(true);
    node.run();
    let said = master.run(&["publish", "r"]).text();
    assert!(said.contains("taken back"), "{said}");
    assert_eq!(status(&node.url(), "/r/local-snap/kept/only-first"), 404);
    assert!(!master.object_file(b"bad").exists());
}
