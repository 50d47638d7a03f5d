//! Mirrors and the BitTorrent clients that people use, in one swarm: they give to each other, and liars are left alone.
//!
//! Each test runs in a network of its own, where no web seed is: all bytes come from peers.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use instantmirror::core::metainfo::{FileKind, InfoHash, Metainfo};
use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::tree::noise;
use serde_json::Value;

use crate::clients::{
    Client, PORT, Task, aria2, ctorrent, is_apart, lay, libtorrent, peer, qbittorrent, rtorrent, shut_out, transmission,
};
use crate::tracker_world::Tracker;
use crate::world::{LIMIT, Master, Node};

/// One file is twice in it, one is a piece to the byte, one ends in the middle of the last piece.
const FILES: [(&str, usize); 8] = [
    ("a copy of large.iso", 3_000_001),
    ("empty", 0),
    ("exactly two pieces", 2 * 32 * 1024),
    ("large.iso", 3_000_001),
    ("sub/one byte", 1),
    ("sub/some", 70_001),
    ("sub/ünïcödé", 33_000),
    ("zz", 100_000),
];
const CHOSEN: [&str; 2] = ["exactly two pieces", "sub/some"];
const ALL: [&str; 7] = [
    "a copy of large.iso",
    "exactly two pieces",
    "large.iso",
    "sub/one byte",
    "sub/some",
    "sub/ünïcödé",
    "zz",
];

/// A master that offers a torrent of `images`, and a tracker that serves it.
struct World {
    dir: TestDir,
    source: PathBuf,
    file: PathBuf,
    torrent: Metainfo,
    master: Master,
    tracker: Tracker,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, "", "")
    }

    /// `sections` go into the master's configuration, `limits` into the tracker's.
    fn with(name: &str, sections: &str, limits: &str) -> Self {
        let dir = TestDir::new(name).unwrap();
        let source = dir.folder("source").unwrap();
        for (path, size) in FILES {
            let path = source.join("images").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, noise(size)).unwrap();
        }
        let tracker = Tracker::start(&dir, limits);
        let options = "piece_length = \"32 KiB\"\ncheck = \"off\"\n\
                       torrents = [{ path = \"images\", name = \"my images\" }]";
        let mut master = Master::with_options(&dir, &[("r", &source)], "");
        let text = std::fs::read_to_string(&master.config).unwrap();
        let before = format!("source = {source:?}\n");
        let text = text.replace(&before, &format!("{before}{options}\n"));
        let trackers = format!("[torrents]\ntrackers = [\"http://{}/announce\"]\n[log]", tracker.http);
        std::fs::write(&master.config, text.replace("[log]", &trackers)).unwrap();
        master.configure(sections);
        master.publish("r");
        master.serve();
        let url = format!("{}/.im/torrent/r/my%20images.torrent", master.url());
        let offered = poll(LIMIT, || http::get(&url).ok().filter(|answer| answer.status == 200));
        let bytes = offered.expect("the master offers a torrent").body;
        let file = dir.path().join("offered.torrent");
        std::fs::write(&file, &bytes).unwrap();
        std::fs::write(tracker.torrents.join("offered.torrent"), &bytes).unwrap();
        let torrent = Metainfo::parse(&bytes).unwrap();
        assert!(torrent.outside.web_seeds.is_empty());
        assert!(torrent.files.iter().any(|file| file.kind == FileKind::Pad));
        let served = poll(LIMIT, || tracker.scrape(tracked(torrent.hash)));
        assert!(served.is_some(), "the tracker does not serve the torrent");
        Self {
            source: source.join("images"),
            dir,
            file,
            torrent,
            master,
            tracker,
        }
    }

    /// A node that fetches everything.
    fn node(&self, number: u8) -> Mirror {
        self.node_with(number, "[preseed]\nrest = true\n")
    }

    /// A node with these sections in its configuration.
    fn node_with(&self, number: u8, sections: &str) -> Mirror {
        let own = TestDir::new(&format!("e2e-clients-node-{number}")).unwrap();
        let mut node = Node::configure(&own, &self.master.url(), &self.master.key, &["r"], "10 GiB");
        let text = std::fs::read_to_string(&node.config).unwrap();
        let sections = format!("[peers]\nlisten = [\"{}:{PORT}\"]\n{sections}", peer(number));
        std::fs::write(&node.config, sections + &text).unwrap();
        node.run();
        Mirror {
            node,
            hash: self.torrent.hash,
            _dir: own,
        }
    }

    /// A node that has everything, and of which the tracker knows.
    fn whole_node(&self, number: u8) -> Mirror {
        let node = self.node(number);
        node.wait_for_all(&self.torrent);
        self.wait_for_peers(1);
        node
    }

    /// Waits until the tracker knows so many peers.
    fn wait_for_peers(&self, most: i64) {
        let known = poll(LIMIT, || {
            let (seeds, others, _) = self.tracker.scrape(tracked(self.torrent.hash))?;
            (seeds + others >= most).then_some(())
        });
        assert!(known.is_some(), "the tracker knows too few peers");
    }

    /// The master serves what it says, and no content any more: nobody gets a byte from it.
    fn lose_content(&self) {
        std::fs::remove_dir_all(self.master.dir.join("store/objects")).unwrap();
    }

    /// Puts the content where a client looks for it.
    fn lay(&self, kind: &str, number: u8) -> PathBuf {
        let home = self.dir.folder(&format!("{kind}-{number}")).unwrap();
        lay(&self.source, &self.torrent, &home);
        home
    }

    fn aria2(&self, task: Task<'_>) -> Client {
        aria2(&self.dir, &self.file, &self.torrent, task)
    }

    fn transmission(&self, task: Task<'_>) -> Client {
        transmission(&self.dir, &self.file, &self.torrent, task)
    }

    fn libtorrent(&self, task: Task<'_>) -> Client {
        libtorrent(&self.dir, self.file.to_str().unwrap(), task)
    }

    fn assert_whole(&self, client: &mut Client) {
        client.wait_for(&self.source, &self.torrent, &ALL);
    }

    fn assert_chosen(&self, client: &mut Client) {
        client.wait_for(&self.source, &self.torrent, &CHOSEN);
        let others: Vec<&str> = ALL.into_iter().filter(|path| !CHOSEN.contains(path)).collect();
        client.assert_nothing_of(&self.torrent, &others);
    }
}

fn tracked(hash: InfoHash) -> instantmirror::trackerd::InfoHash {
    instantmirror::trackerd::InfoHash(*hash.as_bytes())
}

/// A node in a folder of its own, in the swarm of a torrent.
struct Mirror {
    node: Node,
    hash: InfoHash,
    _dir: TestDir,
}

impl std::ops::Deref for Mirror {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Mirror {
    /// What its status says of the torrent's swarm.
    fn swarm(&self) -> Value {
        let status = self.status();
        let swarms = status["peers"]["swarms"].as_array().cloned().unwrap_or_default();
        let hash = self.hash.to_string();
        let found = swarms.into_iter().find(|swarm| swarm["info_hash"] == hash.as_str());
        found.unwrap_or_default()
    }

    fn number(&self, key: &str) -> u64 {
        self.swarm()[key].as_u64().unwrap_or(0)
    }

    fn wait_for_all(&self, torrent: &Metainfo) {
        let all = poll(LIMIT, || (self.number("have") == torrent.piece_count()).then_some(()));
        assert!(all.is_some(), "{:#}\n{}", self.swarm(), self.status_text());
    }

    /// It has everything, and all of it came from peers of the torrent's swarm.
    fn assert_completed_by_peers(&self, world: &World) {
        self.wait_for_all(&world.torrent);
        for path in ALL {
            let expected = std::fs::read(world.source.join(path)).unwrap();
            let path = path.replace(' ', "%20");
            assert!(self.get(&format!("/pub/r/images/{path}")) == expected, "{path} differs");
        }
        let swarm = self.swarm();
        // The same content at two paths comes once.
        let once: usize = FILES.iter().skip(1).map(|(_, size)| size).sum();
        assert_eq!(swarm["received_bytes"], once, "{swarm:#}");
        assert_eq!(swarm["bad_bytes"], 0, "{swarm:#}");
    }
}

#[test]
fn every_client_downloads_from_a_mirror() {
    if !is_apart("swarm_clients::every_client_downloads_from_a_mirror") {
        return;
    }
    let world = World::new("e2e-clients-leech");
    let node = world.whole_node(1);
    // One after the other, so that none of them gets anything from another.
    let mut client = world.libtorrent(Task::of(2));
    world.assert_whole(&mut client);
    drop(client);
    let mut client = world.aria2(Task::of(3));
    world.assert_whole(&mut client);
    drop(client);
    let mut client = world.transmission(Task::of(4));
    world.assert_whole(&mut client);
    drop(client);
    // Refuses torrents in which two files have one path: two pads of this one have the same size.
    let mut client = rtorrent(&world.dir, &world.file, Task::of(5));
    world.assert_whole(&mut client);
    drop(client);
    let mut client = ctorrent(&world.dir, &world.file, &world.torrent, Task::of(6));
    world.assert_whole(&mut client);
    drop(client);
    let mut client = qbittorrent(&world.dir, &world.file, Task::of(7));
    world.assert_whole(&mut client);
    drop(client);
    let sent = node.number("sent_bytes");
    let content: usize = FILES.iter().map(|(_, size)| size).sum();
    assert!(sent >= 6 * content as u64, "{sent}");
    assert_eq!(node.status()["peers"]["banned"], serde_json::json!([]));
}

#[test]
fn every_client_downloads_only_the_files_it_chose_from_a_mirror() {
    if !is_apart("swarm_clients::every_client_downloads_only_the_files_it_chose_from_a_mirror") {
        return;
    }
    let world = World::new("e2e-clients-chosen");
    let _node = world.whole_node(1);
    let task = |number| Task {
        chosen: &CHOSEN,
        ..Task::of(number)
    };
    world.assert_chosen(&mut world.libtorrent(task(2)));
    world.assert_chosen(&mut world.aria2(task(3)));
    world.assert_chosen(&mut world.transmission(task(4)));
}

#[test]
fn a_magnet_link_is_enough_for_libtorrent() {
    if !is_apart("swarm_clients::a_magnet_link_is_enough_for_libtorrent") {
        return;
    }
    let world = World::new("e2e-clients-magnet");
    let node = world.whole_node(1);
    // The node offers what the master offers.
    let list = http::get(&format!("{}/.im/torrent/r", node.url())).unwrap();
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    let magnet = list["torrents"][0]["magnet"].as_str().unwrap();
    let mut client = libtorrent(&world.dir, magnet, Task::of(2));
    world.assert_whole(&mut client);
}

#[test]
fn a_mirror_is_completed_by_libtorrent_alone() {
    if !is_apart("swarm_clients::a_mirror_is_completed_by_libtorrent_alone") {
        return;
    }
    completed_by("libtorrent", World::libtorrent);
}

#[test]
fn a_mirror_is_completed_by_aria2_alone() {
    if !is_apart("swarm_clients::a_mirror_is_completed_by_aria2_alone") {
        return;
    }
    completed_by("aria2", World::aria2);
}

#[test]
fn a_mirror_is_completed_by_transmission_alone() {
    if !is_apart("swarm_clients::a_mirror_is_completed_by_transmission_alone") {
        return;
    }
    completed_by("transmission", World::transmission);
}

/// The master has lost all content, and a client has it.
fn completed_by(kind: &str, start: impl Fn(&World, Task<'_>) -> Client) {
    let world = World::new(&format!("e2e-clients-seed-{kind}"));
    world.lose_content();
    world.lay(kind, 2);
    let _seed = start(&world, Task::of(2));
    world.wait_for_peers(1);
    let node = world.node(1);
    node.assert_completed_by_peers(&world);
}

#[test]
fn mirrors_and_clients_complete_each_other() {
    if !is_apart("swarm_clients::mirrors_and_clients_complete_each_other") {
        return;
    }
    let world = World::new("e2e-clients-mixed");
    world.lose_content();
    world.lay("transmission", 2);
    let seed = world.transmission(Task::of(2));
    world.wait_for_peers(1);
    let nodes = [world.node(1), world.node(3)];
    let mut clients = [world.libtorrent(Task::of(4)), world.aria2(Task::of(5))];
    for node in &nodes {
        node.assert_completed_by_peers(&world);
    }
    // What the mirrors have now is enough.
    drop(seed);
    for client in &mut clients {
        world.assert_whole(client);
    }
    for node in &nodes {
        assert_eq!(node.number("bad_bytes"), 0);
        assert_eq!(node.status()["peers"]["banned"], serde_json::json!([]));
    }
}

#[test]
fn a_client_that_lies_is_left_alone_and_others_complete_the_mirror() {
    if !is_apart("swarm_clients::a_client_that_lies_is_left_alone_and_others_complete_the_mirror") {
        return;
    }
    let world = World::new("e2e-clients-liar");
    world.lose_content();
    // It has files of the right sizes, with other bytes in them.
    let root = world.lay("libtorrent", 2).join(world.torrent.name.as_str());
    for path in ALL {
        let mut content = std::fs::read(root.join(path)).unwrap();
        content.iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(root.join(path), content).unwrap();
    }
    let _liar = world.libtorrent(Task {
        lies: true,
        ..Task::of(2)
    });
    world.wait_for_peers(1);
    let node = world.node(1);
    let banned = poll(LIMIT, || {
        let status = node.status();
        let banned = status["peers"]["banned"].as_array()?.clone();
        (!banned.is_empty()).then_some(banned)
    });
    assert_eq!(
        banned,
        Some(vec![Value::from(peer(2).to_string())]),
        "{}",
        node.status_text()
    );
    assert!(node.number("bad_bytes") > 0);
    world.lay("libtorrent", 3);
    let _honest = world.libtorrent(Task {
        peers: &[1],
        ..Task::of(3)
    });
    node.wait_for_all(&world.torrent);
    for path in ALL {
        let expected = std::fs::read(world.source.join(path)).unwrap();
        assert!(node.get(&format!("/pub/r/images/{}", path.replace(' ', "%20"))) == expected);
    }
}

/// What a server lists of the torrents of `r`.
fn listed(url: &str) -> Value {
    let list = http::get(&format!("{url}/.im/torrent/r")).unwrap();
    serde_json::from_slice(&list.body).unwrap_or_default()
}

#[test]
fn a_download_goes_on_through_a_publish_and_the_old_torrent_can_still_be_had() {
    if !is_apart("swarm_clients::a_download_goes_on_through_a_publish_and_the_old_torrent_can_still_be_had") {
        return;
    }
    let mut world = World::with("e2e-clients-publish", "", "interval = \"20 s\"\nmin_interval = \"2 s\"");
    // Trackers learn of torrents from their master, and of replaced ones too.
    world.tracker.ask_master(&format!("{}/r", world.master.url()));
    let mut node = world.node(1);
    node.wait_for_all(&world.torrent);
    world.wait_for_peers(1);
    let kept = world.dir.folder("kept").unwrap();
    run(clean_command("cp").arg("-r").arg(&world.source).arg(&kept), LIMIT).unwrap();
    let old = kept.join("images");
    // It takes some six seconds.
    let mut client = world.libtorrent(Task {
        rate: 1_000_000,
        ..Task::of(2)
    });
    let begun = poll(LIMIT, || (node.number("sent_bytes") > 0).then_some(()));
    assert!(begun.is_some(), "{:#}", node.swarm());
    std::fs::write(world.source.join("zz"), "changed").unwrap();
    let second = world.master.publish("r");
    node.wait_for("r", &second);
    let (url, hash) = (node.url(), world.torrent.hash.to_string());
    let replaced = poll(LIMIT, || {
        let list = listed(&url);
        (list["snapshot"] == second.as_str() && list["replaced"][0]["info_hash"] == hash.as_str()).then_some(list)
    });
    let list = replaced.unwrap_or_else(|| panic!("{:#}", listed(&url)));
    assert_eq!(list["torrents"].as_array().unwrap().len(), 1);
    let sent = node.number("sent_bytes");
    assert!(sent < 6_000_000, "the download was over before the publish: {sent}");
    client.wait_for(&old, &world.torrent, &ALL);
    drop(client);
    // Who comes late is told of peers and served, after a restart of everybody too.
    world.master.stop(true);
    node.node.stop(true);
    world.master.serve();
    node.node.run();
    let offered = world.tracker.scrape(tracked(world.torrent.hash)).is_some();
    assert!(offered, "the tracker has forgotten the torrent");
    let mut late = world.aria2(Task::of(3));
    late.wait_for(&old, &world.torrent, &ALL);
    // A publish is no reason for alarm: trackers knew of the new torrent before it was announced.
    let log = world.master.daemon().log() + &node.node.daemon().log();
    assert!(!log.contains("announce failed"), "{log}");
    let torrent = http::get(&format!("{}/.im/torrent/r/{hash}", world.master.url())).unwrap();
    assert_eq!(Metainfo::parse(&torrent.body).unwrap().hash, world.torrent.hash);
}

#[test]
fn a_mirror_that_nobody_reaches_connects_to_those_who_want_something() {
    if !is_apart("swarm_clients::a_mirror_that_nobody_reaches_connects_to_those_who_want_something") {
        return;
    }
    // Once a minute is as often as a node announces; leechers would be asked to after half an hour.
    let world = World::with(
        "e2e-clients-firewall",
        "",
        "seed_interval = \"5 s\"\nmin_interval = \"2 s\"",
    );
    shut_out(1);
    let mut early = world.aria2(Task::of(2));
    world.wait_for_peers(1);
    let node = world.node(1);
    world.assert_whole(&mut early);
    // Of this one it hears when it announces again.
    let mut late = world.transmission(Task {
        utp: true,
        ..Task::of(3)
    });
    world.assert_whole(&mut late);
    assert!(node.number("sent_bytes") > 0);
}

#[test]
fn a_client_that_waits_is_served_by_a_seed_that_comes_later() {
    if !is_apart("swarm_clients::a_client_that_waits_is_served_by_a_seed_that_comes_later") {
        return;
    }
    // The node would be told of the seed after half an hour.
    let world = World::with("e2e-clients-later", "", "min_interval = \"2 s\"");
    world.lose_content();
    let node = world.node_with(1, "");
    world.wait_for_peers(1);
    let url = format!("{}/pub/r/images/zz", node.url());
    let early = http::get(&url).unwrap();
    assert!(early.status >= 500, "{}", early.status);
    world.lay("libtorrent", 2);
    let _seed = world.libtorrent(Task::of(2));
    let found = poll(LIMIT, || http::get(&url).ok().filter(|answer| answer.status == 200));
    let found = found.unwrap_or_else(|| panic!("{:#}\n{}", node.swarm(), node.status_text()));
    assert!(found.body == std::fs::read(world.source.join("zz")).unwrap());
    // It holds some of it and wants nothing now, but says how much it lacks.
    let counts = world.tracker.scrape(tracked(world.torrent.hash));
    assert_eq!(counts.map(|(seeds, others, _)| (seeds, others)), Some((1, 1)));
}

/// A peer that says no more than a handshake to the first node.
fn greet(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect((peer(1), PORT)).unwrap();
    let hash = world.torrent.hash;
    let parts: [&[u8]; 4] = [
        b"\x13BitTorrent protocol",
        &[0; 8],
        hash.as_bytes(),
        b"-XX0001-abcdefghijkl",
    ];
    stream.write_all(&parts.concat()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = [0; 68];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[28..48], hash.as_bytes());
    stream
}

#[test]
fn a_mirror_offers_what_its_master_offers_and_follows_it() {
    if !is_apart("swarm_clients::a_mirror_offers_what_its_master_offers_and_follows_it") {
        return;
    }
    // What is replaced is over as soon as nobody downloads it.
    let mut world = World::with("e2e-clients-offer", "[snapshots]\ngrace = \"0 s\"", "");
    let mut node = world.whole_node(1);
    let files = [&world.master.url(), &node.url()]
        .map(|server| http::get(&format!("{server}/.im/torrent/r/my%20images.torrent")).unwrap());
    assert_eq!(files[1].status, 200);
    assert_eq!(files[1].header("content-type"), Some("application/x-bittorrent"));
    assert!(files[0].body == files[1].body, "the mirror has another .torrent file");
    let page = String::from_utf8(node.get("/pub/r/images/")).unwrap();
    assert!(
        page.contains("/.im/torrent/r/my%20images.torrent") && page.contains("magnet:?xt=urn:btih:"),
        "{page}"
    );

    // It does so when it starts without its master, too.
    world.master.stop(false);
    node.node.stop(true);
    node.node.run();
    let url = format!("{}/.im/torrent/r/my%20images.torrent", node.url());
    let again = poll(LIMIT, || http::get(&url).ok().filter(|answer| answer.status == 200));
    assert!(again.is_some_and(|answer| answer.body == files[0].body));
    node.wait_for_all(&world.torrent);
    world.master.serve();

    // Somebody is connected, and stays so while something else is published.
    let somebody = greet(&world);
    let address = somebody.local_addr().unwrap().to_string();
    let connected = poll(LIMIT, || {
        (node.swarm()["peers"][0]["address"] == address.as_str()).then_some(())
    });
    assert!(connected.is_some(), "{:#}", node.swarm());
    let above = world.source.parent().unwrap();
    std::fs::write(above.join("README"), "not in the torrent").unwrap();
    let second = world.master.publish("r");
    node.wait_for("r", &second);
    let listed = || listed(&node.url());
    let offered = poll(LIMIT, || (listed()["snapshot"] == second.as_str()).then_some(()));
    assert!(offered.is_some(), "{:#}", listed());
    let hash = world.torrent.hash.to_string();
    assert_eq!(listed()["torrents"][0]["info_hash"], hash.as_str());
    assert_eq!(node.swarm()["peers"][0]["address"], address.as_str());

    // A changed torrent takes the place of the old one.
    std::fs::write(world.source.join("zz"), "changed").unwrap();
    let third = world.master.publish("r");
    node.wait_for("r", &third);
    let left = poll(LIMIT, || node.swarm().is_null().then_some(()));
    assert!(left.is_some(), "{:#}", node.swarm());
    let status = node.status();
    let swarms = status["peers"]["swarms"].as_array().unwrap();
    assert_eq!(swarms.len(), 1, "{swarms:#?}");
    assert_eq!(swarms[0]["name"], "r: my images.torrent");
    assert_eq!(listed()["torrents"][0]["info_hash"], swarms[0]["info_hash"]);
}
