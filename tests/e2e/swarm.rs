//! Mirrors that feed each other: one swarm per repository, with the master as its first peer.

use std::path::Path;

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::process::{Daemon, TestDir, binary, poll};
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
    mirror_as(master, number, options, None)
}

/// The same with a token.
fn mirror_as(master: &Master, number: usize, options: &str, registered: Option<&str>) -> Mirror {
    mirror_with(master, number, options, registered, "[preseed]\nrest = true\n")
}

fn mirror_with(master: &Master, number: usize, options: &str, registered: Option<&str>, preseed: &str) -> Mirror {
    let own = TestDir::new(&format!("e2e-swarm-node-{number}")).unwrap();
    let mut node = Node::configure(&own, &master.url(), &master.key, &["r"], "10 GiB");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text.replace("name = \"r\"", registered.unwrap_or("name = \"r\""));
    let peers = format!("[peers]\nlisten = [\"127.0.1.{number}:0\"]\n{options}\n{preseed}");
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

/// Sizes of files, and how many there are of each: around the bounds between what comes in batches, by groups, by pieces.
const CLASSES: [(usize, usize); 14] = [
    (0, 20),
    (1, 100),
    (16 << 10, 100),
    ((64 << 10) - 1, 40),
    (64 << 10, 40),
    ((64 << 10) + 1, 40),
    (100_000, 60),
    (256 << 10, 16),
    ((512 << 10) - 1, 8),
    (512 << 10, 8),
    ((512 << 10) + 1, 8),
    (1 << 20, 5),
    (5 << 20, 2),
    (20 << 20, 1),
];

/// All that a master has sent, by HTTP and to peers.
fn sent_by(master: &Master) -> u64 {
    let status: Value = serde_json::from_slice(&master.run(&["status", "--json"]).stdout).unwrap();
    let swarms = status["peers"]["swarms"].as_array().unwrap();
    let to_peers: u64 = swarms.iter().map(|swarm| number(swarm, "sent_bytes")).sum();
    number(&status["http"], "body_bytes") + to_peers
}

#[test]
fn of_no_size_of_files_the_master_sends_more_than_about_one_copy() {
    const MIRRORS: u64 = 4;
    // Heads, records, catalogs, outboards: for each mirror, however little is published.
    const BESIDES: u64 = MIRRORS * (32 << 10);
    let dir = TestDir::new("e2e-swarm-sizes").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("first"), "1").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[peers]\nlisten = [\"127.0.0.1:0\"]\n");
    master.serve();
    let nodes: Vec<Mirror> = (1..=4).map(|number| mirror(&master, number, "")).collect();
    let first = master.publish("r");
    for node in &nodes {
        node.wait_for("r", &first);
        let joined = poll(LIMIT, || (swarm(node)["peers"].as_array()?.len() == 4).then_some(()));
        assert!(joined.is_some(), "{}", node.status_text());
    }
    let mut total = 1;
    for (size, count) in CLASSES {
        let class = source.join(size.to_string());
        std::fs::create_dir(&class).unwrap();
        for file in 0..count {
            let mut content = noise(size);
            let name = format!("{size} {file}");
            let at = content.len().saturating_sub(name.len());
            content.splice(at.., name.into_bytes());
            content.truncate(size);
            if size == 1 {
                content = vec![u8::try_from(file).unwrap() + 100];
            }
            std::fs::write(class.join(file.to_string()), content).unwrap();
        }
        let before = sent_by(&master);
        let snapshot = master.publish("r");
        let bytes = (size * count) as u64;
        total += bytes;
        for node in &nodes {
            node.wait_for("r", &snapshot);
            wait_for_all(node, total);
        }
        let sent = sent_by(&master) - before;
        println!("{count} files of {size} bytes: the master sent {sent} of {bytes}");
        assert!(
            sent <= bytes * 12 / 10 + BESIDES,
            "{count} files of {size} bytes: the master sent {sent} bytes, one copy are {bytes}:\n{}",
            nodes[0].status_text()
        );
    }
}

/// A token for a node, in a file that only its owner reads.
fn token(dir: &TestDir, master: &Master, name: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let token = master.run(&["node", "add", name]).text();
    let file = dir.path().join(name);
    std::fs::write(&file, token).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!("token_file = {file:?}\nname = \"r\"")
}

#[test]
fn staged_content_spreads_among_authorised_mirrors_alone() {
    let dir = TestDir::new("e2e-swarm-staged").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("first"), "1").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[peers]\nlisten = [\"127.0.0.1:0\"]\n");
    let first = master.publish("r");
    master.serve();
    let nodes: Vec<Mirror> = (1..=3)
        .map(|number| {
            let registered = (number < 3).then(|| token(&dir, &master, &format!("node{number}")));
            mirror_as(&master, number, "", registered.as_deref())
        })
        .collect();
    for node in &nodes {
        node.wait_for("r", &first);
        let joined = poll(LIMIT, || (swarm(node)["peers"].as_array()?.len() == 3).then_some(()));
        assert!(joined.is_some(), "{}", node.status_text());
    }
    std::fs::write(source.join("secret.iso"), noise(LARGE)).unwrap();
    master.run(&["publish", "r", "--stage"]);
    for node in &nodes[..2] {
        wait_for_all(node, 1 + LARGE as u64);
    }
    let authorised = |node: &Node| {
        let peers = swarm(node)["peers"].as_array().unwrap().clone();
        peers.iter().filter(|peer| peer["is_authorised"] == true).count()
    };
    assert_eq!(
        (authorised(&nodes[0]), authorised(&nodes[1]), authorised(&nodes[2])),
        (2, 2, 0)
    );
    let from_each_other = nodes[..2]
        .iter()
        .map(|node| number(&swarm(node), "received_bytes") - number(&swarm(node), "master_bytes"));
    assert!(from_each_other.sum::<u64>() > 0, "{}", nodes[0].status_text());
    // The stranger was told of no piece of it, by nobody but the master, which says of everything that it has it.
    let told = swarm(&nodes[2])["peers"].as_array().unwrap().clone();
    assert!(
        told.iter()
            .filter_map(|peer| peer["pieces"].as_u64())
            .all(|pieces| pieces <= 1),
        "{told:#?}"
    );
    assert_eq!(number(&nodes[2].status()["cache"], "used_bytes"), 1);
    master.run(&["snapshot", "release", "r", &master.live("r").pop().unwrap()]);
    wait_for_all(&nodes[2], 1 + LARGE as u64);
    assert_eq!(nodes[2].get("/pub/r/secret.iso"), noise(LARGE));
}

/// A master and two mirrors of one large file: the first has it, the second fetches nothing ahead and knows the first.
fn full_and_empty(dir: &TestDir, first_node: usize) -> (Master, Mirror, Mirror) {
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("large.iso"), noise(LARGE)).unwrap();
    let mut master = Master::new(dir, &[("r", &source)]);
    master.configure("[peers]\nlisten = [\"0.0.0.0:0\"]\n");
    let snapshot = master.publish("r");
    master.serve();
    let full = mirror(&master, first_node, "");
    full.wait_for("r", &snapshot);
    wait_for_all(&full, LARGE as u64);
    let empty = mirror_with(&master, first_node + 1, "", None, "");
    empty.wait_for("r", &snapshot);
    let joined = poll(LIMIT, || (swarm(&empty)["peers"].as_array()?.len() == 2).then_some(()));
    assert!(joined.is_some(), "{}", empty.status_text());
    (master, full, empty)
}

fn curl(node: &Node, path: &str) -> Vec<u8> {
    let mut command = clean_command("curl");
    command.args(["-sS", "--fail", &format!("{}{path}", node.url())]);
    run(&mut command, LIMIT).unwrap().stdout
}

#[test]
fn a_large_file_comes_from_another_mirror_when_the_master_is_dead() {
    let dir = TestDir::new("e2e-swarm-large").unwrap();
    let (mut master, _full, empty) = full_and_empty(&dir, 4);
    master.stop(true);
    let begun = std::time::Instant::now();
    assert_eq!(curl(&empty, "/pub/r/large.iso"), noise(LARGE));
    println!(
        "{LARGE} bytes from a mirror in {:?}, the master being dead",
        begun.elapsed()
    );
    let status = swarm(&empty);
    assert_eq!(number(&status, "received_bytes"), LARGE as u64, "{status:#}");
    assert_eq!(number(&status, "master_bytes"), 0, "{status:#}");
}

#[test]
fn a_mirror_that_restarts_without_its_master_finds_the_others_again() {
    let dir = TestDir::new("e2e-swarm-restart").unwrap();
    let (mut master, full, mut empty) = full_and_empty(&dir, 6);
    // Both write down where the other is.
    let known = |node: &Node| {
        let text = std::fs::read_to_string(node.dir.join("cache/snapshots/swarm/r/known")).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    };
    let peers = |node: &Node| Some(known(node)?["peers"].as_array()?.len());
    for node in [&full, &empty] {
        let written = poll(LIMIT, || (peers(node)? == 2).then_some(()));
        assert!(written.is_some(), "{:?}", known(node));
    }
    master.stop(true);
    for kill in [true, false] {
        empty.node.stop(kill);
        empty.node.run();
        let joined = poll(LIMIT, || (swarm(&empty)["peers"].as_array()?.len() == 1).then_some(()));
        assert!(joined.is_some(), "{}", empty.status_text());
    }
    assert_eq!(
        curl(&empty, "/pub/r/large.iso"),
        noise(LARGE),
        "{}",
        empty.status_text()
    );
    assert_eq!(number(&swarm(&empty), "received_bytes"), LARGE as u64);
    // The master comes back, and the swarm is the same one.
    master.serve();
    let back = poll(LIMIT, || (swarm(&empty)["peers"].as_array()?.len() == 2).then_some(()));
    assert!(back.is_some(), "{}", empty.status_text());
}

#[test]
fn a_mirror_outlives_its_master_and_its_tracker() {
    let dir = TestDir::new("e2e-swarm-alone").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("first"), "1").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure(
        "[peers]\nlisten = [\"127.0.0.1:0\"]\ntrackers = [\"http://127.0.0.1:1/announce\", \"udp://127.0.0.1:1\"]\n",
    );
    let first = master.publish("r");
    master.serve();
    let full = mirror(&master, 1, "");
    full.wait_for("r", &first);
    std::fs::write(source.join("small"), small(1)).unwrap();
    let second = master.publish("r");
    full.wait_for("r", &second);
    wait_for_all(&full, 1 + small(1).len() as u64);
    // Fetches nothing ahead.
    let mut empty = mirror_with(&master, 2, "", None, "");
    empty.wait_for("r", &second);
    let joined = poll(LIMIT, || (swarm(&empty)["peers"].as_array()?.len() == 2).then_some(()));
    assert!(joined.is_some(), "{}", empty.status_text());
    master.stop(true);
    assert_eq!(empty.get("/pub/r/small"), small(1), "{}", empty.status_text());
    assert_eq!(number(&swarm(&empty), "received_bytes"), small(1).len() as u64);
    // And leaves as one should.
    empty.node.stop(false);
    let left = poll(LIMIT, || swarm(&full)["peers"].as_array()?.is_empty().then_some(()));
    assert!(left.is_some());
}

#[test]
fn mirrors_that_are_told_of_nobody_meet_by_a_tracker_that_asks_their_master() {
    let dir = TestDir::new("e2e-swarm-tracker").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("first"), "1").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    // Nobody is told of anybody by peers.
    master.configure("[peers]\nlisten = [\"127.0.0.1:0\"]\nprivate = true\n");
    let first = master.publish("r");
    master.serve();
    let folder = dir.folder("tracker").unwrap();
    let config = folder.join("imtracker.toml");
    let text = format!(
        "[torrents]\nmasters = [\"{}/r\"]\n[http]\nlisten = [\"127.0.0.1:0\"]\n[control]\nsocket = {:?}\n\
         [limits]\ninterval = \"5 s\"\nmin_interval = \"5 s\"\n",
        master.url(),
        folder.join("control.sock"),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = clean_command(binary("imtracker").unwrap().to_str().unwrap());
    command.arg("--config").arg(&config).arg("run");
    let mut tracker = Daemon::start("imtracker", &mut command, &folder.join("log")).unwrap();
    let line = tracker.wait_for_line("announce at ", LIMIT).unwrap();
    let url = line.split("announce at ").nth(1).unwrap().trim().to_owned();
    let options = format!("private = true\ntrackers = [{url:?}]");
    let nodes: Vec<Mirror> = (1..=2).map(|number| mirror(&master, number, &options)).collect();
    for node in &nodes {
        node.wait_for("r", &first);
        let met = poll(LIMIT, || (swarm(node)["peers"].as_array()?.len() == 2).then_some(()));
        assert!(met.is_some(), "{}", node.status_text());
    }
}

#[test]
fn a_master_takes_up_whom_it_serves_and_names_what_takes_a_restart() {
    let dir = TestDir::new("e2e-swarm-reload").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("first"), "1").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[peers]\nlisten = [\"127.0.0.1:0\"]\n");
    master.publish("r");
    master.serve();
    let node = mirror(&master, 1, "");
    let peers = |count: usize| {
        poll(LIMIT, || {
            (swarm(&node)["peers"].as_array()?.len() == count).then_some(())
        })
    };
    peers(1).expect("it joins");
    master.configure("deny = [\"127.0.1.0/24\"]\n[retention]\nkeep_last = 5\n");
    let pid = master.daemon().pid().to_string();
    run(clean_command("kill").args(["-HUP", &pid]), LIMIT).unwrap();
    let said = |log: &str| log.contains("[peers] has changed, and holds").then_some(());
    master.daemon().wait_for_log(LIMIT, said).unwrap();
    let log = master.daemon().log();
    assert!(log.contains("[retention] has changed, which takes a restart"), "{log}");
    assert!(!log.contains("[store] has changed"), "{log}");
    peers(0).expect("it is let go");
}
