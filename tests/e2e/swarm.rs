//! Mirrors that feed each other: one swarm per repository, with the master as its first peer.

use std::path::Path;

use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::tree::noise;
use serde_json::Value;

use crate::world::{LIMIT, Master, Node};

const LARGE: usize = 24 << 20;
const SMALL: usize = 300;

/// A tree of a large file and many small ones.
fn fill(source: &Path) {
    std::fs::create_dir_all(source.join("pool")).unwrap();
    std::fs::write(source.join("large.iso"), noise(LARGE)).unwrap();
    for file in 0..SMALL {
        std::fs::write(source.join(format!("pool/{file}")), small(file)).unwrap();
    }
}

fn small(file: usize) -> Vec<u8> {
    let mut content = noise(1000 + file * 37);
    content.extend(format!("file {file}").into_bytes());
    content
}

/// A node that takes part in the swarm from its own loopback address, and fetches everything ahead.
fn mirror(master: &Master, number: usize, options: &str) -> Mirror {
    let own = TestDir::new(&format!("e2e-swarm-node-{number}")).unwrap();
    let mut node = Node::configure(&own, &master.url(), &master.key, &["r"], "10 GiB");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let peers = format!("[peers]\nlisten = [\"127.0.1.{number}:0\"]\n{options}\n[preseed]\nrest = true\n");
    std::fs::write(&node.config, peers + &text).unwrap();
    node.run();
    Mirror { node, _dir: own }
}

/// A node in a folder of its own.
struct Mirror {
    node: Node,
    _dir: TestDir,
}

impl std::ops::Deref for Mirror {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

fn swarm(node: &Node) -> Value {
    node.status()["peers"]["swarms"][0].clone()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

/// Waits until a node holds so many bytes.
fn wait_for_all(node: &Node, bytes: u64) {
    let all = poll(LIMIT, || {
        (number(&node.status()["cache"], "used_bytes") >= bytes).then_some(())
    });
    assert!(all.is_some(), "{}", node.status_text());
}

#[test]
fn mirrors_get_from_each_other_what_the_master_sends_about_once() {
    let dir = TestDir::new("e2e-swarm").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("first"), "1").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[peers]\nlisten = [\"127.0.0.1:0\"]\n");
    master.serve();
    let nodes: Vec<Mirror> = (1..=3).map(|number| mirror(&master, number, "")).collect();
    let first = master.publish("r");
    for node in &nodes {
        node.wait_for("r", &first);
        let joined = poll(LIMIT, || (swarm(node)["peers"].as_array()?.len() == 3).then_some(()));
        assert!(joined.is_some(), "{}", node.status_text());
    }
    fill(&source);
    let snapshot = master.publish("r");
    let total = 1 + LARGE as u64 + (0..SMALL).map(|file| small(file).len() as u64).sum::<u64>();
    for node in &nodes {
        node.wait_for("r", &snapshot);
        wait_for_all(node, total);
    }
    let (mut by_swarm, mut by_master) = (0, 0);
    for node in &nodes {
        let status = swarm(node);
        assert_eq!(number(&status, "bad_bytes"), 0, "{status:#}");
        by_swarm += number(&status, "received_bytes");
        by_master += number(&status, "master_bytes");
        assert_eq!(node.get("/pub/r/large.iso"), noise(LARGE));
        for file in [0, 7, SMALL - 1] {
            assert_eq!(node.get(&format!("/pub/r/pool/{file}")), small(file));
        }
    }
    println!("{total} bytes, three mirrors: {by_swarm} by the swarm, {by_master} of them from the master");
    assert!(
        by_swarm > total * 2,
        "{by_swarm} of {total}: {}",
        nodes[0].status_text()
    );
    assert!(by_master < total * 2, "{by_master} of {total}");
    let text = nodes[0].status_text();
    assert!(text.contains("swarm r (") && text.contains("InstantMirror"), "{text}");
    assert!(master.run(&["status"]).text().contains("swarm r ("));
}
