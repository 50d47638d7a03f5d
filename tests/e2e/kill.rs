//! kill -9 at every syscall with which a publish or a clean-up changes the disk: no acknowledged snapshot is lost, no
//! half one is visible, nothing stays behind.

use std::path::Path;

use instantmirror::config::ServerConfig;
use instantmirror::core::catalog::{Catalog, check_closure};
use instantmirror::core::traits::Catalogs as _;
use instantmirror::core::{Directory, Kind, RepoName, Snapshot};
use instantmirror::master::MasterPublication;
use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::process::{TestDir, binary};

use crate::world::{LIMIT, Master};

/// Every syscall with which the programs write, name, remove and sync.
const CHANGES: &str = "write,pwrite64,writev,pwritev,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,\
                       unlinkat,mkdir,mkdirat,fsync,fdatasync,syncfs,copy_file_range,ioctl,fchmod,fchmodat";

/// Runs `imserver` under strace, killed at the nth such call of a thread. Returns whether it came to its end.
pub(crate) fn killed_at(master: &Master, n: usize, arguments: &[&str]) -> bool {
    let mut command = clean_command("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CHANGES}")]);
    command
        .args(["-e", &format!("inject={CHANGES}:signal=KILL:when={n}")])
        .arg(binary("imserver").unwrap());
    command.arg("--config").arg(&master.config).args(arguments);
    run_any(&mut command, LIMIT).unwrap().status.success()
}

/// Waits until nobody has a lock that this process had. Programs that other tests start meanwhile have it, too, from their
/// fork to their exec.
pub(crate) fn wait_until_unlocked(lock: &Path) {
    run(clean_command("flock").arg("--close").arg(lock).arg("true"), LIMIT).unwrap();
}

/// Reads everything that the store shows as an embedder would: every snapshot, every node, every byte. Returns the
/// current one.
pub(crate) async fn snapshots_that_are_whole(master: &Master) -> Vec<Snapshot> {
    let name: RepoName = "r".parse().unwrap();
    let store = instantmirror::Master::open(ServerConfig::load(&master.config).unwrap()).unwrap();
    let publication = MasterPublication::new(store.clone()).await;
    publication.refresh().await.expect("the head is readable");
    let state = publication.state(&name).unwrap();
    let head = state
        .head
        .as_ref()
        .map_or_else(Vec::new, |head| head.head().snapshots.clone());
    let released = head.iter().filter(|live| live.state.is_released()).count();
    assert_eq!(state.snapshots.len(), released, "what the head names is readable");
    // Nobody sees what is staged, and whoever releases it needs all of it.
    let mut snapshots: Vec<_> = state.snapshots.values().cloned().collect();
    for live in head.iter().filter(|live| !live.state.is_released()) {
        let staged = store.snapshot(&name, live.id).expect("what is staged is readable");
        assert_eq!(staged.encode().0, live.record);
        snapshots.push(std::sync::Arc::new(staged));
    }
    let nodes = publication.nodes();
    for snapshot in &snapshots {
        let root = Directory {
            node: snapshot.root.node,
            files: snapshot.root.files,
            bytes: snapshot.root.bytes,
        };
        check_closure(&nodes, None, &root).expect("a visible snapshot is whole");
        let catalog = Catalog::new(&nodes, snapshot.root.meta());
        let mut open = vec![root];
        while let Some(directory) = open.pop() {
            for entry in catalog.list(&directory, None) {
                match entry.unwrap().meta.kind {
                    Kind::Directory(below) => open.push(below),
                    Kind::File(file) => {
                        let intent = instantmirror::core::traits::ReadIntent::of(0..file.size);
                        let reader = publication
                            .objects()
                            .open(&name, &file, intent)
                            .await
                            .expect("its objects are there");
                        let content = reader.read(0..file.size).await.expect("and right");
                        assert_eq!(instantmirror::core::ObjectId::of(&content), file.object);
                    }
                    Kind::Symlink(_) => {}
                }
            }
        }
    }
    let current = state.current.map(|id| state.snapshots[&id].as_ref().clone());
    current.into_iter().collect()
}

pub(crate) fn litter(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), found);
            } else if name.ends_with(".tmp") || dir.ends_with("tmp") {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, &mut found);
    found
}

#[tokio::test]
async fn a_publish_killed_at_any_syscall_leaves_the_old_snapshot_or_the_new_one() {
    let dir = TestDir::new("e2e-kill").unwrap();
    let source = dir.folder("source").unwrap();
    for i in 0..4 {
        std::fs::create_dir_all(source.join(format!("d{i}"))).unwrap();
        std::fs::write(source.join(format!("d{i}/file")), vec![i; 70_000 * usize::from(i)]).unwrap();
    }
    let master = Master::new(&dir, &[("r", &source)]);
    master.publish("r");
    let mut acknowledged = snapshots_that_are_whole(&master)
        .await
        .pop()
        .expect("the first snapshot");
    let mut kills = 0;
    for n in 1.. {
        assert!(n < 400, "it never comes to its end");
        std::fs::write(source.join("d1/changing"), format!("version {n}")).unwrap();
        let finished = killed_at(&master, n, &["publish", "r"]);
        let current = snapshots_that_are_whole(&master)
            .await
            .pop()
            .expect("a snapshot stays current");
        let is_new = current.id != acknowledged.id;
        assert!(!finished || is_new, "kill {n}: an acknowledged snapshot was lost");
        assert!(
            !is_new || current.parent == Some(acknowledged.id),
            "kill {n}: a snapshot went missing between"
        );
        acknowledged = current;
        if finished {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "only {kills} points: strace did not kill");
    // The next publish works at once and clears up.
    std::fs::write(source.join("d1/changing"), "after all").unwrap();
    master.publish("r");
    let current = snapshots_that_are_whole(&master).await.pop().unwrap();
    assert_eq!(current.parent, Some(acknowledged.id));
    assert_eq!(litter(&master.dir), Vec::<String>::new());
}

/// Bytes of catalogs and digests on the disk.
fn pack_bytes(master: &Master) -> u64 {
    let dirs = ["catalog", "digests"].map(|dir| master.dir.join("store").join(dir));
    let files = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_clean_up_killed_at_any_syscall_loses_nothing_live_and_the_next_one_finishes_it() {
    let dir = TestDir::new("e2e-kill-clean-up").unwrap();
    let source = dir.folder("source").unwrap();
    let master = Master::new(&dir, &[("r", &source)]);
    let write = |generation: usize| {
        for i in 0..3 {
            std::fs::create_dir_all(source.join(format!("d{i}"))).unwrap();
            std::fs::write(source.join(format!("d{i}/same")), vec![i; 1000]).unwrap();
            std::fs::write(source.join(format!("d{i}/own")), format!("{i} of {generation}")).unwrap();
        }
    };
    master.configure("[snapshots]\ngrace = \"0 s\"\n[retention]\nkeep_last = 1\n");
    write(0);
    let mut current = master.publish("r");
    master.run(&["retention", "--now"]);
    let (objects, packs) = (master.objects().len(), pack_bytes(&master));
    let mut kills = 0;
    for n in 1.. {
        assert!(n < 400, "it never comes to its end");
        // Whatever the last kill left is there, and one more expired snapshot.
        write(n);
        current = master.publish("r");
        let finished = killed_at(&master, n, &["retention", "--now"]);
        let whole = snapshots_that_are_whole(&master).await.pop().expect("it stays current");
        assert_eq!(whole.id.to_string(), current, "kill {n}");
        if finished {
            break;
        }
        kills += 1;
        // Each kind of mess is cleared up alone, and in every third case together with the next one.
        if n % 3 != 0 {
            master.run(&["retention", "--now"]);
            assert_eq!(master.objects().len(), objects, "kill {n}: objects stay behind");
            assert_eq!(litter(&master.dir), Vec::<String>::new(), "kill {n}");
        }
    }
    assert!(kills > 20, "only {kills} points: strace did not kill");
    assert_eq!(master.objects().len(), objects);
    assert_eq!(master.live("r"), [current]);
    let records = std::fs::read_dir(master.dir.join("store/records/r")).unwrap().count();
    assert_eq!(records, 1);
    assert_eq!(
        std::fs::read(master.dir.join("store/repositories/r/expired")).unwrap(),
        b""
    );
    assert!(pack_bytes(&master) < packs * 4, "catalogs and digests grow");
}
