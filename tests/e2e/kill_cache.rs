//! kill -9 of the real imnode at every syscall with which it changes its cache: fetching, giving up, writing down, tagging,
//! adopting. No wrong byte is served afterwards, the limits hold, nothing stays behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use instantmirror::config::NodeConfig;
use instantmirror::core::ObjectId;
use instantmirror::core::traits::{ObjectCache as _, Objects as _};
use instantmirror::store::cache::{DiskCache, Subset};
use instantmirror::store::disk::RealDisk;
use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{Daemon, TestDir, binary};
use rustix::process::{Pid, Signal, kill_process};

use crate::cache::configure;
use crate::kill::wait_until_unlocked;
use crate::world::{LIMIT, Master, Node};

/// Every syscall with which the cache writes, names, removes and syncs. Sockets, logs and wake-ups use others.
const CHANGES: &str = "pwrite64,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,\
                       fsync,fdatasync,syncfs,copy_file_range,fchmod,fchmodat";
const FILES: usize = 6;
const MAX_BYTES: u64 = 400 << 10;

fn content(file: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(file).unwrap(); 60_000 + file * 20_000];
    bytes[..4].copy_from_slice(b"file");
    bytes
}

/// `imnode` under strace, killed at the nth such call of a thread.
fn strace(node: &Node, n: usize) -> std::process::Command {
    let mut command = clean_command("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CHANGES}")]);
    command
        .args(["-e", &format!("inject={CHANGES}:signal=KILL:when={n}")])
        .arg(binary("imnode").unwrap())
        .arg("--config")
        .arg(&node.config);
    command
}

/// A master with a snapshot, and a node that knows it and is stopped.
fn world(name: &str, max_size: u64) -> (TestDir, Master, Node, String) {
    let dir = TestDir::new(name).unwrap();
    let source = dir.folder("source").unwrap();
    for file in 0..FILES {
        std::fs::write(source.join(format!("f{file}")), content(file)).unwrap();
    }
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], &format!("{max_size} B"));
    configure(&node, "level = \"debug\"", "level = \"error\"");
    node.run();
    node.wait_for("r", &snapshot);
    node.stop(false);
    (dir, master, node, snapshot)
}

fn cache_dir(node: &Node) -> PathBuf {
    node.dir.join("cache/cache")
}

/// Looks at what a kill has left as the next start does.
fn check(node: &Node, what: &str) -> usize {
    let options = NodeConfig::load(&node.config).unwrap().cache.options();
    let cache = DiskCache::open(Arc::new(RealDisk::open(cache_dir(node)).unwrap()), options).unwrap();
    cache.load().unwrap();
    let usage = cache.usage();
    let committed = usage.used_bytes + usage.reserved_bytes + usage.side_bytes;
    assert!(committed <= usage.max_bytes.unwrap(), "{what}: {usage:?}");
    let mut whole = 0;
    for file in 0..FILES {
        let (object, right) = (ObjectId::of(&content(file)), content(file));
        let opened = futures_executor::block_on(cache.open(&object)).unwrap();
        let Some(handle) = opened else { continue };
        for range in handle.present().ranges() {
            let bytes = futures_executor::block_on(handle.read(range.clone())).unwrap();
            let (start, end) = (
                usize::try_from(range.start).unwrap(),
                usize::try_from(range.end).unwrap(),
            );
            assert!(bytes == right[start..end], "{what}: wrong bytes of f{file}");
        }
        whole += usize::from(handle.is_complete());
    }
    assert_eq!(usage.damaged, 0, "{what}");
    let mut checker = cache.check(Subset::ALL).unwrap();
    while let Some(step) = checker.step().unwrap() {
        assert_eq!(step.findings, vec![], "{what}");
    }
    drop(checker);
    futures_executor::block_on(cache.checkpoint()).unwrap();
    drop(cache);
    wait_until_unlocked(&cache_dir(node).join("lock"));
    let there = litter(&cache_dir(node));
    assert_eq!(there, Vec::<PathBuf>::new(), "{what}");
    whole
}

/// Files that belong to nothing.
fn litter(dir: &Path) -> Vec<PathBuf> {
    let files = |part: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir.join(part)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut found = files("trash");
    found.extend(
        files("")
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "tmp")),
    );
    for path in files("partial") {
        let is_tmp = path.extension().is_some_and(|end| end == "tmp");
        if is_tmp || !path.with_extension("").exists() {
            found.push(path);
        }
    }
    found
}

#[test]
fn an_adoption_killed_at_any_syscall_goes_on_where_it_ended() {
    let (dir, mut master, node, _) = world("e2e-kill-adopt", 10 << 20);
    master.stop(true);
    let source = dir.path().join("source");
    let (mut kills, mut most) = (0, 0);
    for n in 1.. {
        assert!(n < 200, "it never comes to its end");
        // Every second one goes on with what the last kill left.
        if n % 2 == 0 {
            std::fs::remove_dir_all(cache_dir(&node)).unwrap();
        }
        let mut command = strace(&node, n);
        command.args(["adopt", "r"]).arg(&source);
        let finished = run_any(&mut command, LIMIT).unwrap().status.success();
        if cache_dir(&node).join("format").exists() {
            let whole = check(&node, &format!("kill {n}"));
            most = most.max(whole);
            assert!(!finished || whole == FILES);
        }
        if finished && n % 2 == 0 {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10 && most == FILES, "only {kills} points: strace did not kill");
    let mut again = clean_command(binary("imnode").unwrap().to_str().unwrap());
    again
        .arg("--config")
        .arg(&node.config)
        .args(["adopt", "r"])
        .arg(&source);
    let said = run(&mut again, LIMIT).unwrap().text();
    assert!(said.contains("6 were here already"), "{said}");
}

/// The process that strace started, if it still runs.
fn child_of(parent: u32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Reads everything, so that things are given up; tags; ends in order. False if it was killed on the way.
fn work(node: &Node, daemon: &mut Daemon, snapshot: &str) -> bool {
    let Ok(line) = daemon.wait_for_line("serving on http://", LIMIT) else {
        return false;
    };
    let url = line
        .split("serving on ")
        .nth(1)
        .unwrap()
        .trim()
        .trim_end_matches('/')
        .to_owned();
    for round in 0..2 {
        for file in 0..FILES {
            match http::get(&format!("{url}/r/snap/current/f{file}")) {
                Ok(answer) if answer.status == 200 => assert!(answer.body == content(file), "wrong bytes of f{file}"),
                _ => {}
            }
        }
        let mut tag = clean_command(binary("imnode").unwrap().to_str().unwrap());
        let name = format!("t{round}");
        tag.arg("--config")
            .arg(&node.config)
            .args(["tag", "r", &name, snapshot, "--no-wait"]);
        let _ = run_any(&mut tag, LIMIT);
        let mut untag = clean_command(binary("imnode").unwrap().to_str().unwrap());
        untag.arg("--config").arg(&node.config).args(["untag", "r", &name]);
        let _ = run_any(&mut untag, LIMIT);
    }
    // The kernel knows it. A status that a busy machine answers late would leave it running.
    let Some(pid) = child_of(daemon.pid()) else {
        return false;
    };
    // Not to strace, which would let go of it.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM);
    daemon.wait(LIMIT).unwrap().success()
}

#[test]
fn a_node_killed_at_any_syscall_of_fetching_giving_up_tagging_and_writing_down_serves_no_wrong_byte() {
    let (_dir, _master, mut node, snapshot) = world("e2e-kill-node", MAX_BYTES);
    let (mut kills, mut whole_runs) = (0, 0);
    // strace counts the calls of each thread alone, and how they spread over threads is the scheduler's choice: one run
    // that comes to its end may have had its calls elsewhere.
    for n in 1.. {
        assert!(n < 400, "it never comes to its end");
        let is_empty = n % 3 == 0;
        if is_empty {
            std::fs::remove_dir_all(cache_dir(&node)).unwrap();
        }
        let log = node.dir.join(format!("strace-{n}.log"));
        let mut daemon = Daemon::start("imnode", strace(&node, n).arg("run"), &log).unwrap();
        let finished = work(&node, &mut daemon, &snapshot);
        daemon.wait(LIMIT).unwrap();
        if cache_dir(&node).join("format").exists() {
            check(&node, &format!("kill {n}"));
        }
        // And the program itself, with what is there.
        if n % 10 == 1 {
            node.run();
            for file in 0..FILES {
                assert!(node.get(&format!("/r/snap/current/f{file}")) == content(file));
            }
            node.stop(true);
        }
        kills += usize::from(!finished);
        if is_empty {
            whole_runs = if finished { whole_runs + 1 } else { 0 };
        }
        if whole_runs == 3 {
            break;
        }
    }
    assert!(kills > 10, "only {kills} points: strace did not kill");
}
