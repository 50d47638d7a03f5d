//! The life of snapshots after they were published: tags, expiry, grace.

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
