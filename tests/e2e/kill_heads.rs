//! kill -9 at every syscall with which a head, a key list or a mirror's state changes on the disk: the old state or the
//! new one, whole; what was acknowledged stays; nothing is left behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use instantmirror::config::ServerConfig;
use instantmirror::core::catalog::check_closure;
use instantmirror::core::traits::SnapshotStore as _;
use instantmirror::core::{Directory, Head, KeyChain, PublicKey, RepoName, SignedHead};
use instantmirror::store::disk::RealDisk;
use instantmirror::store::snapshots::DiskSnapshotStore;
use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::process::{TestDir, binary};

use crate::kill::{killed_at, litter, snapshots_that_are_whole, wait_until_unlocked};
use crate::world::{LIMIT, Master, Node};

/// A master with a published tree.
fn world(name: &str) -> (TestDir, Master) {
    let dir = TestDir::new(name).unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "first").unwrap();
    let master = Master::new(&dir, &[("r", &source)]);
    master.publish("r");
    (dir, master)
}

fn repository() -> RepoName {
    "r".parse().unwrap()
}

/// The head in the store, with all that it names whole.
async fn head(master: &Master) -> Head {
    snapshots_that_are_whole(master).await;
    let opened = instantmirror::Master::open(ServerConfig::load(&master.config).unwrap()).unwrap();
    opened.head(&repository()).unwrap().unwrap().head().clone()
}

/// Stages a new snapshot, and returns its id.
fn stage(dir: &TestDir, master: &Master, content: &str) -> String {
    std::fs::write(dir.path().join("source/file"), content).unwrap();
    master.run(&["publish", "r", "--stage"]);
    master.live("r").pop().unwrap()
}

/// The most points that a change of the head may have.
const POINTS_MAX: usize = 200;

/// Checks what a kill leaves, up to the first run that comes to its end. `prepare` makes what the change is about, and
/// `is_done` tells from a head whether it was made.
async fn killed_everywhere(
    master: &Master,
    mut prepare: impl FnMut(usize) -> Vec<String>,
    is_done: impl Fn(&Head, &[String]) -> bool,
) {
    let mut kills = 0;
    for n in 1.. {
        assert!(n < POINTS_MAX, "it never comes to its end");
        let arguments = prepare(n);
        let before = head(master).await;
        assert!(!is_done(&before, &arguments), "{arguments:?} is to change something");
        let finished = killed_at(master, n, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let after = head(master).await;
        let done = is_done(&after, &arguments);
        assert!(
            done || !finished,
            "kill {n} of {arguments:?}: what was acknowledged is lost"
        );
        assert_eq!(done, after.sequence > before.sequence, "kill {n} of {arguments:?}");
        if !done {
            assert_eq!(before, after, "kill {n} of {arguments:?}");
        }
        if finished {
            break;
        }
        kills += 1;
    }
    assert!(kills > 5, "only {kills} points: strace did not kill");
    // The next writer clears up.
    master.run(&["retention", "r"]);
    assert_eq!(litter(&master.dir), Vec::<String>::new());
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn staging_killed_at_any_syscall_shows_nobody_anything() {
    let (dir, master) = world("e2e-kill-stage");
    let current = head(&master).await.current;
    let (mut kills, mut staged) = (0, 0);
    for n in 1.. {
        assert!(n < 400, "it never comes to its end");
        std::fs::write(dir.path().join("source/file"), format!("staged {n}")).unwrap();
        let finished = killed_at(&master, n, &["publish", "r", "--stage"]);
        let after = head(&master).await;
        assert_eq!(after.current, current, "kill {n}");
        let now = after.snapshots.iter().filter(|live| !live.state.is_released()).count();
        assert!(
            now == staged + 1 || now == staged && !finished,
            "kill {n}: {staged} were staged, {now} are"
        );
        staged = now;
        if finished {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "only {kills} points: strace did not kill");
    master.run(&["retention", "r"]);
    assert_eq!(litter(&master.dir), Vec::<String>::new());
}

#[tokio::test]
async fn a_release_and_a_withdrawal_killed_at_any_syscall_have_happened_or_not() {
    let (dir, master) = world("e2e-kill-release");
    let last = |arguments: &[String]| arguments.last().unwrap().clone();
    let staged = |n: usize, what: &str| words(&["snapshot", what, "r", &stage(&dir, &master, &format!("{what} {n}"))]);
    killed_everywhere(
        &master,
        |n| staged(n, "release"),
        |head, arguments| head.current.is_some_and(|id| id.to_string() == last(arguments)),
    )
    .await;
    killed_everywhere(
        &master,
        |n| staged(n, "withdraw"),
        |head, arguments| !head.snapshots.iter().any(|live| live.id.to_string() == last(arguments)),
    )
    .await;
}

#[tokio::test]
async fn a_tag_set_or_taken_killed_at_any_syscall_is_there_or_not() {
    let (_dir, master) = world("e2e-kill-tag");
    let current = master.live("r").pop().unwrap();
    let has = |head: &Head, arguments: &[String]| head.tags.keys().any(|tag| tag.as_str() == arguments[3]);
    let tag = |n: usize| words(&["snapshot", "tag", "r", &format!("t{n}"), &current]);
    killed_everywhere(&master, tag, has).await;
    let untag = |n: usize| {
        master.run(&["snapshot", "tag", "r", &format!("u{n}"), &current]);
        words(&["snapshot", "untag", "r", &format!("u{n}")])
    };
    killed_everywhere(&master, untag, |head, arguments| !has(head, arguments)).await;
}

/// What a mirror that pins the first key makes of what the master serves: the keys that count, after it has found the
/// head good.
async fn seen_by_a_mirror(master: &Master, pinned: &[PublicKey]) -> KeyChain {
    let opened = instantmirror::Master::open(ServerConfig::load(&master.config).unwrap()).unwrap();
    let lists = opened.key_lists().unwrap().unwrap_or_default();
    let chain = KeyChain::read(&lists, pinned).unwrap();
    let head = opened.head(&repository()).unwrap().unwrap();
    let verified = SignedHead::verify(head.bytes().clone(), &repository(), &chain.trusted(pinned));
    assert!(verified.unwrap().head().key_list <= chain.version());
    chain
}

#[tokio::test]
async fn a_change_of_keys_killed_at_any_syscall_leaves_a_way_from_the_old_key() {
    let (dir, master) = world("e2e-kill-keys");
    let pinned = [master.key.parse::<PublicKey>().unwrap()];
    let (mut kills, mut n) = (0, 1);
    let mut version = 0;
    for command in ["rotate", "retire"] {
        loop {
            assert!(n < POINTS_MAX, "it never comes to its end");
            let opened = instantmirror::Master::open(ServerConfig::load(&master.config).unwrap()).unwrap();
            let counting: Vec<_> = opened
                .keys()
                .unwrap()
                .into_iter()
                .filter(|key| key.since.is_some())
                .collect();
            // Between 1 and 8 keys count: room for the change that is to be killed.
            if command == "rotate" && counting.len() > 1 || command == "retire" && counting.len() < 2 {
                match command {
                    "rotate" => master.run(&["key", "retire", &counting[0].key.to_string()]),
                    _ => master.run(&["key", "rotate"]),
                };
                version += 1;
                continue;
            }
            let oldest = counting[0].key.to_string();
            let arguments: &[&str] = if command == "rotate" {
                &["key", "rotate"]
            } else {
                &["key", "retire", &oldest]
            };
            let finished = killed_at(&master, n, arguments);
            let chain = seen_by_a_mirror(&master, &pinned).await;
            head(&master).await;
            let made = chain.version() == version + 1;
            assert!(
                made || chain.version() == version && !finished,
                "kill {n} of {command}: list {version} became {}",
                chain.version()
            );
            version = chain.version();
            if finished {
                break;
            }
            (kills, n) = (kills + 1, n + 1);
        }
        n = 1;
    }
    assert!(kills > 15, "only {kills} points: strace did not kill");
    // The next publish signs with what counts, and nothing is left but the keys that the lists brought.
    std::fs::write(dir.path().join("source/file"), "after all").unwrap();
    master.publish("r");
    let chain = seen_by_a_mirror(&master, &pinned).await;
    assert_eq!(head(&master).await.key_list, chain.version());
    assert_eq!(litter(&master.dir), Vec::<String>::new());
}

/// The syscalls with which a mirror changes its disk, by what they do.
const MIRROR_CHANGES: [&str; 6] = [
    "write,pwrite64,writev,pwritev",
    "rename,renameat,renameat2,link,linkat",
    "fsync,fdatasync,syncfs",
    "unlink,unlinkat",
    "mkdir,mkdirat",
    "ftruncate,fallocate,fchmod,fchmodat",
];

fn copy(from: &Path, to: &Path) {
    run(clean_command("rm").arg("-rf").arg(to), LIMIT).unwrap();
    run(clean_command("cp").arg("-a").arg(from).arg(to), LIMIT).unwrap();
}

/// Runs the mirror under strace, killed at the nth change of its disk by a thread. True if it lived to have the
/// snapshot.
fn mirror_killed_at(node: &Node, (calls, n): (&str, usize), record: &Path) -> bool {
    let mut command = clean_command("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:signal=KILL:when={n}")]);
    // strace counts the calls of each thread, and the work shall be that of few.
    command.env("TOKIO_WORKER_THREADS", "1");
    command
        .arg(binary("imnode").unwrap())
        .arg("--config")
        .arg(&node.config)
        .arg("run");
    command
        .env("RUST_LOG", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    let mut had_since = None;
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if record.exists() {
            had_since = had_since.or(Some(Instant::now()));
        }
        // Whatever follows the record has had its time.
        if had_since.is_some_and(|since: Instant| since.elapsed() > Duration::from_millis(500)) {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "kill {n}: neither killed nor done");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The mirror is the only child of strace, which ends with it.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    run(
        clean_command("kill").arg("-KILL").args(children.split_whitespace()),
        LIMIT,
    )
    .unwrap();
    child.wait().unwrap();
    true
}

/// What lies in a mirror's store, found good as its next start would: the sequence number of the head, and the snapshots.
async fn stored(dir: &Path, key: &str, n: usize) -> (u64, BTreeSet<String>) {
    let store = DiskSnapshotStore::open(Arc::new(RealDisk::open(dir).unwrap()), "").unwrap();
    let head = store
        .head(&repository(), &[key.parse().unwrap()])
        .expect("the head is readable")
        .expect("and there");
    let mut ids = BTreeSet::new();
    for id in store.snapshots(&repository()).unwrap() {
        let snapshot = store.snapshot(&repository(), id).unwrap().unwrap();
        let root = Directory {
            node: snapshot.root.node,
            files: snapshot.root.files,
            bytes: snapshot.root.bytes,
        };
        check_closure(&store, None, &root)
            .unwrap_or_else(|error| panic!("kill {n}: half a snapshot is visible: {error}"));
        ids.insert(id.to_string());
    }
    drop(store);
    wait_until_unlocked(&dir.join("catalog/lock"));
    (head.head().sequence, ids)
}

#[tokio::test]
async fn a_mirror_killed_at_any_syscall_of_taking_a_snapshot_has_the_old_state_or_the_new_one() {
    let (dir, mut master) = world("e2e-kill-mirror");
    let first = master.live("r").pop().unwrap();
    master.serve();
    let mut node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &first);
    node.stop(false);
    for i in 0..20 {
        let folder = dir.path().join(format!("source/d{i}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), format!("{i}")).unwrap();
    }
    let second = master.publish("r");
    let (cache, saved) = (node.dir.join("cache"), dir.path().join("saved"));
    copy(&cache, &saved);
    let snapshots = cache.join("snapshots");
    let record = snapshots.join(format!("records/r/{second}.record"));
    let (mut kills, mut between) = (0, 0);
    for calls in MIRROR_CHANGES {
        for n in 1.. {
            assert!(n < 100, "it never comes to its end");
            copy(&saved, &cache);
            let finished = mirror_killed_at(&node, (calls, n), &record);
            let (sequence, ids) = stored(&snapshots, &master.key, n).await;
            assert!(ids.contains(&first), "{calls} {n}: an adopted snapshot was lost");
            assert!(
                sequence == 2 || sequence == 1 && ids.len() == 1,
                "{calls} {n}: a record came before its head"
            );
            assert_eq!(litter(&snapshots), Vec::<String>::new(), "{calls} {n}");
            between += usize::from(sequence == 2 && ids.len() == 1);
            if finished {
                assert_eq!((sequence, ids.len()), (2, 2));
                break;
            }
            kills += 1;
            // What a kill left is taken up by the next start: in every fourth case.
            if kills % 4 == 0 {
                node.run();
                node.wait_for("r", &second);
                assert_eq!(node.get("/r/snap/current/d7/file"), b"7");
                node.stop(false);
            }
        }
    }
    eprintln!("{kills} kills, {between} of them between head and record");
    assert!(
        kills > 10 && between > 0,
        "{kills} kills, {between} of them between head and record"
    );
    node.run();
    node.wait_for("r", &second);
    assert_eq!(litter(&cache), Vec::<String>::new());
}
