//! The node's cache as its operator sees it: what goes first, limits that are lowered, small file systems, damage.

use std::path::{Path, PathBuf};

use instantmirror::core::ObjectId;
use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::tree::noise;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{LIMIT, Master, Mount, Node};

const FILE_BYTES: usize = 100_000;

fn content(generation: usize, file: usize) -> Vec<u8> {
    let mut bytes = noise(FILE_BYTES);
    bytes[..16].copy_from_slice(format!("{generation:08}{file:08}").as_bytes());
    bytes
}

fn publish(master: &Master, source: &Path, generation: usize, files: usize) -> String {
    for file in 0..files {
        std::fs::write(source.join(format!("f{file}")), content(generation, file)).unwrap();
    }
    master.publish("r")
}

fn get(node: &Node, generation: usize, file: usize) {
    let found = node.get(&format!("/r/snap/current/f{file}"));
    assert!(found == content(generation, file), "f{file} of {generation} is wrong");
}

/// Where an object lies in a node's cache.
pub(crate) fn cached(node: &Node, content: &[u8]) -> PathBuf {
    let id = ObjectId::of(content).to_string();
    node.dir.join("cache/cache/objects").join(&id[..2]).join(id)
}

pub(crate) fn configure(node: &Node, from: &str, to: &str) {
    let text = std::fs::read_to_string(&node.config).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&node.config, text.replace(from, to)).unwrap();
}

fn number(node: &Node, field: &str) -> u64 {
    node.status()["cache"][field].as_u64().unwrap()
}

fn wait_until(node: &Node, what: &str, is_so: impl Fn() -> bool) {
    let done = poll(LIMIT, || is_so().then_some(()));
    done.unwrap_or_else(|| panic!("{what}: {}", node.status_text()));
}

fn hang_up(node: &mut Node) {
    let pid = i32::try_from(node.daemon().pid()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
}

#[test]
fn garbage_goes_first_then_what_only_an_old_snapshot_has() {
    let dir = TestDir::new("e2e-garbage").unwrap();
    let source = dir.folder("source").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[retention]\nkeep_last = 2\n[snapshots]\ngrace = \"0 s\"\n");
    let first = publish(&master, &source, 0, 5);
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "1600 KiB");
    configure(&node, "[http]", "[snapshots]\ngrace = \"0 s\"\n[http]");
    node.run();
    node.wait_for("r", &first);
    for generation in 0..3 {
        if generation > 0 {
            let snapshot = publish(&master, &source, generation, 5);
            node.wait_for("r", &snapshot);
        }
        (0..5).for_each(|file| get(&node, generation, file));
        // What will be garbage is what is asked for most.
        if generation == 1 {
            for file in 0..5 {
                let found = node.get(&format!("/r/snap/{first}/f{file}"));
                assert!(found == content(0, file));
            }
        }
    }
    // Two snapshots are live, and all of three is here.
    master.run(&["retention", "r"]);
    wait_until(&node, "what is garbage is not known", || {
        number(&node, "garbage") == 5 && number(&node, "old") == 5
    });
    assert!(
        node.status_text()
            .contains("5 objects of no snapshot, 5 of old ones only")
    );
    // What is kept ready for the next request is in use: a restart lets go of it, and knows all this from the disk.
    node.stop(false);
    node.run();
    wait_until(&node, "what is garbage is not known any more", || {
        number(&node, "garbage") == 5
    });
    // The policy alone would keep it. It goes as room is needed, and nothing else does.
    let fourth = publish(&master, &source, 3, 5);
    node.wait_for("r", &fourth);
    (0..5).for_each(|file| get(&node, 3, file));
    for file in 0..5 {
        assert!(
            cached(&node, &content(2, file)).exists(),
            "an object of a live snapshot went before the garbage"
        );
        // A reader has the last byte before the file has its name.
        wait_until(&node, "what was fetched is not kept", || {
            cached(&node, &content(3, file)).exists()
        });
    }
    assert!(number(&node, "evicted") >= 4);
    let left = (0..5).filter(|file| cached(&node, &content(0, *file)).exists());
    assert!(left.count() <= 1);
}

#[test]
fn limits_lowered_and_raised_by_sighup_hold_at_once_and_keep_nobody_waiting() {
    let dir = TestDir::new("e2e-limits").unwrap();
    let source = dir.folder("source").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = publish(&master, &source, 0, 40);
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "100 MiB");
    node.run();
    node.wait_for("r", &snapshot);
    (0..40).for_each(|file| get(&node, 0, file));
    assert_eq!(number(&node, "objects"), 40);
    configure(&node, "100 MiB", "1 MiB");
    hang_up(&mut node);
    for file in 0..40 {
        get(&node, 0, file);
    }
    let within =
        || number(&node, "used_bytes") + number(&node, "reserved_bytes") + number(&node, "side_bytes") <= 1 << 20;
    // What is kept ready for the next request is in use for half a minute.
    wait_until(&node, "the lowered limit is not reached", within);
    assert_eq!(number(&node, "max_bytes"), 1 << 20);
    node.daemon()
        .wait_for_line("evicted objects that were beyond its limits", LIMIT)
        .unwrap();
    configure(&node, "1 MiB", "50 MiB");
    hang_up(&mut node);
    wait_until(&node, "the limit is not raised", || {
        number(&node, "max_bytes") == 50 << 20
    });
    (0..40).for_each(|file| get(&node, 0, file));
    wait_until(&node, "what was given up does not come back", || {
        number(&node, "objects") == 40
    });
    configure(&node, "max_size", "policy = \"lru\"\nmax_size");
    hang_up(&mut node);
    node.daemon()
        .wait_for_line("[cache] policy has changed, which takes a restart", LIMIT)
        .unwrap();
}

/// Blocks and inodes run out long before the limits that are configured; nothing that is served is wrong, and what is on
/// the disk is accounted for after a kill.
#[test]
fn a_file_system_of_8_mib_and_few_inodes_serves_everything() {
    let dir = TestDir::new("e2e-tmpfs").unwrap();
    let source = dir.folder("source").unwrap();
    for file in 0..150 {
        std::fs::write(source.join(format!("small{file}")), format!("small {file}")).unwrap();
    }
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = publish(&master, &source, 0, 120);
    master.serve();
    let mount = Mount::tmpfs(&dir.folder("node/cache/cache").unwrap(), "size=8m,nr_inodes=400");
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "1 GiB");
    configure(&node, "max_size", "keep_free = \"512 KiB\"\nmax_size");
    node.run();
    node.wait_for("r", &snapshot);
    let everything = |node: &Node| {
        for file in 0..150 {
            assert_eq!(
                node.get(&format!("/r/snap/current/small{file}")),
                format!("small {file}").as_bytes()
            );
        }
        (0..120).for_each(|file| get(node, 0, file));
    };
    everything(&node);
    let free = || rustix::fs::statvfs(node_cache(&node)).unwrap();
    assert!(
        free().f_bavail * free().f_frsize >= 512 << 10,
        "the floor of free space was broken"
    );
    assert!(number(&node, "evicted") > 0, "{}", node.status_text());
    node.stop(true);
    node.run();
    everything(&node);
    wait_until(&node, "nothing is cached", || number(&node, "objects") > 10);
    assert_eq!(number(&node, "damaged"), 0);
    let litter = std::fs::read_dir(node_cache(&node).join("trash")).unwrap().count();
    assert_eq!(litter, 0);
    node.stop(false);
    drop(mount);
}

fn node_cache(node: &Node) -> PathBuf {
    node.dir.join("cache/cache")
}
