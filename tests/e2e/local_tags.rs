//! Tags of a node's operator: what they name is fetched whole and outlives master, retention and a full cache.

use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::world::{LIMIT, Master, Node};

const FILES: usize = 12;
const FILE_BYTES: usize = 100_000;

fn content(generation: usize, file: usize) -> Vec<u8> {
    let mut hash = blake3::Hasher::new();
    hash.update(&[u8::try_from(generation).unwrap(), u8::try_from(file).unwrap()]);
    let mut bytes = vec![0; FILE_BYTES];
    hash.finalize_xof().fill(&mut bytes);
    bytes
}

fn publish(master: &Master, source: &std::path::Path, generation: usize) -> String {
    for file in 0..FILES {
        std::fs::write(source.join(format!("f{file}")), content(generation, file)).unwrap();
    }
    master.publish("r")
}

fn read_all(node: &Node, generation: usize, view: &str) {
    for file in 0..FILES {
        assert!(
            node.get(&format!("/r/{view}/f{file}")) == content(generation, file),
            "{view}/f{file}"
        );
    }
}

fn status(url: &str) -> u16 {
    http::get(url).unwrap().status
}

/// What cannot be tagged or untagged is refused with what is wrong.
fn refusals(node: &Node, first: &str) {
    let (_, said) = node.fail(&["tag", "nothing", "gold", first]);
    assert!(said.contains("no repository 'nothing'; it has r"), "{said}");
    let (_, said) = node.fail(&["tag", "r", "gold", "00000000-0000-4000-8000-000000000000"]);
    assert!(said.contains("is not shown here"), "{said}");
    let (code, said) = node.fail(&["tag", "r", "Not A Tag", first]);
    assert!(code == 2 && said.contains("1 to 64 of a-z"), "{said}");
    let (_, said) = node.fail(&["untag", "r", "gold"]);
    assert!(said.contains("has no local tag 'gold'"), "{said}");
}

/// The master is dead when this begins.
fn untagged_it_goes(master: &mut Master, node: &Node, first: &str) {
    node.succeed(&["untag", "r", "gold"]);
    assert_eq!(status(&format!("{}/r/local-snap/gold/f0", node.url())), 404);
    assert_eq!(status(&format!("{}/r/snap/{first}/f0", node.url())), 404);
    master.serve();
    for _ in 0..2 {
        read_all(node, 3, "snap/current");
        read_all(node, 2, &format!("snap/{}", master.live("r")[0]));
    }
    let held = blake3::hash(&content(0, 0)).to_hex().to_string();
    assert!(
        !node
            .dir
            .join("cache/cache/objects")
            .join(&held[..2])
            .join(held)
            .exists()
    );
    assert_eq!(node.succeed(&["tags"]), "");
}

#[test]
fn a_tagged_snapshot_outlives_retention_kill_pressure_and_its_master() {
    let dir = TestDir::new("e2e-local-tags").unwrap();
    let source = dir.folder("source").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[retention]\nkeep_last = 2\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n");
    let first = publish(&master, &source, 0);
    master.serve();
    // One snapshot and a half.
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "1800000 B");
    node.run();
    node.wait_for("r", &first);
    refusals(&node, &first);

    let said = node.succeed(&["tag", "r", "gold", &first]);
    assert!(said.contains("complete: 12 of 12 files"), "{said}");
    assert!(
        node.status_text().contains("r local-snap/gold"),
        "{}",
        node.status_text()
    );
    let second = publish(&master, &source, 1);
    node.wait_for("r", &second);
    let (_, said) = node.fail(&["tag", "r", "gold", &second]);
    assert!(said.contains(&first) && said.contains("--force"), "{said}");
    let (_, said) = node.fail(&["tag", "r", "silver", &second, "--no-wait"]);
    assert!(said.contains("2.2 MiB") && said.contains("1.7 MiB"), "{said}");

    // The master lets it go, with its data.
    publish(&master, &source, 2);
    let third = publish(&master, &source, 3);
    node.wait_for("r", &third);
    master.run(&["retention", "r", "--now"]);
    assert!(!master.object_file(&content(0, 0)).exists());
    assert!(!master.live("r").contains(&first));

    // Killed, started, and pressed for room at once.
    node.stop(true);
    node.run();
    node.wait_for("r", &third);
    for _ in 0..2 {
        read_all(&node, 3, "snap/current");
        read_all(&node, 2, &format!("snap/{}", master.live("r")[0]));
    }
    master.stop(true);
    read_all(&node, 0, "local-snap/gold");
    node.stop(true);
    node.run();
    read_all(&node, 0, "local-snap/gold");
    let complete = poll(LIMIT, || {
        node.status()["tags"][0]["complete"].as_bool().filter(|done| *done)
    });
    assert!(complete.is_some(), "{}", node.status_text());
    assert!(node.succeed(&["tags"]).contains(&first));

    untagged_it_goes(&mut master, &node, &first);
}
