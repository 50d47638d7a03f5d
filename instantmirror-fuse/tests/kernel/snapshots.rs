//! Snapshots of a real directory, through the kernel: programs find in the mount what is in the directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use instantmirror_core::view::View;
use instantmirror_fuse::{
    Imfs, ImfsOptions, MountOptions, MountedImfs, SessionOptions, Shown, SlotFile, ThreadExecutor,
};
use tempfile::TempDir;

use crate::notices::HANDLES;
use crate::source::{Source, id, repository};
use crate::support::{caches, drop_caches, eventually, is_apart, run, shell, text};

/// A directory with everything that a mirror can have in it.
const MAKE: &str = "
    mkdir -p src/pool/deep/deeper src/empty src/many
    head -c 3000001 /dev/urandom > src/pool/big
    head -c 65536 /dev/urandom > src/pool/deep/group
    printf 'hello\\n' > 'src/a name with spaces'
    : > src/pool/nothing
    ln src/pool/deep/group src/pool/deep/deeper/again
    ln src/pool/deep/group src/third
    ln -s pool/deep src/link
    ln -s /outside/of/it src/dangling
    printf '#!/bin/sh\\necho ran\\n' > src/program
    chmod 755 src/program; chmod 600 src/pool/big; chmod 2775 src/empty
    i=0; while [ $i -lt 2000 ]; do echo $i > src/many/file-$i; i=$((i+1)); done
    find src -depth -exec touch -h -d '2021-03-04 05:06:07Z' {} +
";

fn mount(source: &Arc<Source>, at: &Path, shown: Shown) -> MountedImfs {
    std::fs::create_dir_all(at).unwrap();
    let store = SlotFile::open(at.with_extension("slots")).unwrap();
    let options = ImfsOptions::new(shown);
    let imfs = Imfs::new(Arc::clone(source) as _, Arc::new(ThreadExecutor), store, options).unwrap();
    let at = MountOptions::new(at).allow_other(true);
    imfs.mount(at, SessionOptions::default()).unwrap()
}

/// Whether this kernel takes backing files.
fn has_passthrough(mounted: &MountedImfs) -> bool {
    mounted.session().protocol().has_passthrough() && mounted.status().passthrough_refused.is_none()
}

fn made() -> (TempDir, Arc<Source>) {
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), MAKE);
    let source = Source::new();
    source.publish(1, &dir.path().join("src"));
    (dir, source)
}

fn current() -> Shown {
    Shown::View(repository(), View::Current)
}

/// Programs find in `m` exactly the content of `src`.
const SAME: &str = "
    rsync -aHn --delete --itemize-changes --checksum m/ src/ > differences; cat differences; test ! -s differences
    diff -r --no-dereference m src
    for d in m src; do (cd $d; find . -printf '%P %y %s %m %T@ %l\\n' | sed 's/^\\(.* d\\) [0-9]* /\\1 /' | sort) > $d.list; done
    sed -i 's/\\.0000000000//' m.list src.list
    cmp m.list src.list
    rm -rf copy; cp -a m copy; diff -r --no-dereference copy src
    test copy/third -ef copy/pool/deep/deeper/again
    test $(stat -c %h m/third) = 3
    tar -C m -cf m.tar . ; rm -rf untar; mkdir untar; tar -C untar -xpf m.tar; diff -r --no-dereference untar src
    test untar/third -ef untar/pool/deep/group
    test \"$(m/program)\" = ran
    test $(du -sb --apparent-size m/pool | cut -f1) -gt 3000000
    test $(ls m/many | wc -l) = 2000
";

#[test]
fn programs_find_what_was_published() {
    if !is_apart("snapshots::programs_find_what_was_published") {
        return;
    }
    let (dir, source) = made();
    let at = dir.path().join("m");
    let mounted = mount(&source, &at, current());
    // The count of hard links is known soon.
    std::fs::metadata(at.join("third")).unwrap();
    eventually("the link count", || shell(&at, "stat -c %h third") == "3\n");
    shell(dir.path(), SAME);
    let opened = mounted.status();
    assert!(opened.errors == 0, "{opened:?}");
    assert!(opened.passed_through > 1000 || !has_passthrough(&mounted), "{opened:?}");
    drop(mounted);
    // The same while everything is on its way.
    source.set_coming(true);
    let mounted = mount(&source, &at, current());
    std::fs::metadata(at.join("third")).unwrap();
    eventually("the link count", || shell(&at, "stat -c %h third") == "3\n");
    shell(dir.path(), SAME);
    assert_eq!((mounted.status().errors, mounted.status().passed_through), (0, 0));
}

#[test]
fn inode_numbers_are_the_same_after_a_remount() {
    if !is_apart("snapshots::inode_numbers_are_the_same_after_a_remount") {
        return;
    }
    let (dir, source) = made();
    let at = dir.path().join("m");
    let numbers = || {
        let mounted = mount(&source, &at, Shown::All);
        let found = shell(&at, "find . -printf '%i %P\\n' | sort");
        let tarred = shell(dir.path(), "tar -C m -g state --no-check-device -cf /dev/null -v .");
        drop(mounted);
        (found, tarred)
    };
    let (first, all) = numbers();
    source.publish(2, &dir.path().join("src"));
    let (second, some) = numbers();
    let snapshot = format!("snap/{}", id(1));
    let of = |found: &str| -> Vec<String> {
        let rows = found.lines().filter(|row| row.contains(&snapshot));
        rows.map(str::to_owned).collect()
    };
    assert!(of(&first).len() > 2000);
    assert_eq!(of(&first), of(&second));
    // An incremental backup takes the new snapshot alone.
    let files = |text: &str| {
        text.lines()
            .filter(|row| row.contains(&snapshot) && !row.ends_with('/'))
            .count()
    };
    assert!(files(&all) > 2000);
    assert_eq!(files(&some), 0, "{some}");
}

#[test]
fn handles_outlive_the_mount() {
    if !is_apart("snapshots::handles_outlive_the_mount") {
        return;
    }
    let (dir, source) = made();
    let _caches = caches();
    let at = dir.path().join("m");
    for _ in 0..2 {
        let mounted = mount(&source, &at, current());
        let mut python = Command::new("python3");
        let paths = ["a name with spaces", "pool/nothing", "many/file-7", "pool/deep"];
        let output = run(python.args(["-c", HANDLES, "../handles"]).args(paths).current_dir(&at));
        let wanted = "[b'hello\\n', b'', b'7\\n', ['deeper', 'group']]\n";
        assert_eq!(text(&output), wanted.repeat(2));
        drop(mounted);
    }
}

#[test]
fn a_flip_is_seen_by_new_paths_and_not_by_readers() {
    if !is_apart("snapshots::a_flip_is_seen_by_new_paths_and_not_by_readers") {
        return;
    }
    let (dir, source) = made();
    let (at, links) = (dir.path().join("m"), dir.path().join("all"));
    let _mounted = mount(&source, &at, current());
    let _links = mount(&source, &links, Shown::Repository(repository()));
    let target = || std::fs::read_link(links.join("snap/current")).unwrap();
    assert_eq!(target().as_os_str(), id(1).to_string().as_str());
    let pool = std::fs::File::open(at.join("pool")).unwrap();
    let file = std::fs::File::open(at.join("pool/deep/group")).unwrap();
    shell(&at, "ls -lR > /dev/null; ls -l; test ! -e pool/new");
    shell(
        dir.path(),
        "cp -a src two; echo new > two/pool/new; echo root > two/root; rm two/pool/big two/third",
    );
    source.publish(2, &dir.path().join("two"));
    eventually("the new link", || target().as_os_str() == id(2).to_string().as_str());
    eventually("the new file", || at.join("pool/new").exists());
    eventually("the new name", || {
        at.join("root").exists() && !at.join("third").exists()
    });
    assert_eq!(shell(&at, "ls -A"), shell(&dir.path().join("two"), "ls -A"));
    // The directory and the file that were open are what they were.
    use std::os::fd::AsRawFd as _;
    let old = PathBuf::from(format!("/proc/self/fd/{}", pool.as_raw_fd()));
    assert!(old.join("big").exists() && !old.join("new").exists());
    let mut bytes = vec![0; 65536];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    assert_eq!(bytes, std::fs::read(dir.path().join("src/pool/deep/group")).unwrap());
}

#[test]
fn ten_thousand_opens_in_all_orders_end_without_an_error() {
    if !is_apart("snapshots::ten_thousand_opens_in_all_orders_end_without_an_error") {
        return;
    }
    let (dir, source) = made();
    let at = dir.path().join("m");
    let mounted = mount(&source, &at, current());
    let group = std::fs::read(dir.path().join("src/pool/deep/group")).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4_usize)
            .map(|number| {
                let (at, group) = (&at, &group);
                scope.spawn(move || {
                    let names = ["pool/deep/group", "third", "pool/deep/deeper/again"];
                    let mut open = Vec::new();
                    for turn in 0..2_500_usize {
                        let name = names[(turn / 3 + number) % names.len()];
                        let file = std::fs::File::open(at.join(name)).unwrap();
                        let offset = (turn * 4099 + number * 7) % 60_000;
                        let mut bytes = [0; 100];
                        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, offset as u64).unwrap();
                        assert_eq!(bytes, group[offset..offset + 100]);
                        open.push(file);
                        if turn % (5 + number) == 0 {
                            open.clear();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut turn = 0_u32;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                source.set_coming(turn.is_multiple_of(2));
                if turn % 50 == 49 {
                    source.publish(1 + u8::try_from(turn / 50 % 200).unwrap(), &dir.path().join("src"));
                }
                turn += 1;
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        let results: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let caches = caches();
    drop_caches(&caches);
    eventually("the last release", || mounted.status().open_files == 0);
    let status = mounted.status();
    assert_eq!(status.errors, 0);
    assert!(status.reads > 0, "{status:?}");
    assert!(status.passed_through > 0 || !has_passthrough(&mounted), "{status:?}");
}
