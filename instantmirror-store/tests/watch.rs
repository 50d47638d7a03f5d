//! The watch on a real tree: what it names, what it never looks at, and that it is never deaf.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use instantmirror_core::RepoPath;
use instantmirror_core::changes::ChangeSet;
use instantmirror_core::rules::PathGlobs;
use instantmirror_store::tree::TreeWatch;

const LIMIT: Duration = Duration::from_secs(60);

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new(paths: &[&str]) -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(world.path("source")).unwrap();
        paths.iter().for_each(|path| world.write(path));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, path: &str) {
        let path = self.path("source").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn watch(&self, exclude: &[&str]) -> TreeWatch {
        let exclude = PathGlobs::new(exclude.iter().copied()).unwrap();
        TreeWatch::open(self.path("source"), exclude).unwrap()
    }
}

/// Waits until all these paths are named; returns all that was.
fn hear(watch: &mut TreeWatch, paths: &[&str]) -> ChangeSet {
    let (begun, mut changes) = (Instant::now(), ChangeSet::default());
    let named = |changes: &ChangeSet| {
        let mut paths = paths.iter();
        paths.all(|path| changes.contains(&RepoPath::new(path).unwrap()))
    };
    while !named(&changes) {
        assert!(begun.elapsed() < LIMIT, "{paths:?} are not in {changes:?}");
        watch.wait(Duration::from_millis(50), &mut changes).unwrap();
    }
    changes
}

fn hear_all(watch: &mut TreeWatch) {
    assert!(hear(watch, &[""]).is_all());
}

fn is_named(changes: &ChangeSet, path: &str) -> bool {
    changes.contains(&RepoPath::new(path).unwrap())
}

#[test]
fn what_changes_is_named_wherever_directories_go() {
    let world = World::new(&["a/one", "b/c/two"]);
    let mut watch = world.watch(&[]);
    assert_eq!(watch.watches(), 4);
    world.write("a/one");
    assert!(!is_named(&hear(&mut watch, &["a/one"]), "b/c/two"));
    world.write("new/deep/er");
    hear(&mut watch, &["new"]);
    world.write("new/deep/again");
    hear(&mut watch, &["new/deep/again"]);
    // Moved inside the tree, with what is below it.
    fs::rename(world.path("source/b"), world.path("source/moved")).unwrap();
    hear(&mut watch, &["b", "moved"]);
    world.write("moved/c/two");
    assert!(!is_named(&hear(&mut watch, &["moved/c/two"]), "b/c/two"));
    // In place of an empty one.
    fs::create_dir(world.path("source/empty")).unwrap();
    hear(&mut watch, &["empty"]);
    fs::rename(world.path("source/new"), world.path("source/empty")).unwrap();
    hear(&mut watch, &["new", "empty"]);
    world.write("empty/deep/again");
    hear(&mut watch, &["empty/deep/again"]);
    // Out of the tree: it is no business of ours any more.
    fs::rename(world.path("source/moved"), world.path("outside")).unwrap();
    hear(&mut watch, &["moved"]);
    assert_eq!(watch.watches(), 4);
    fs::write(world.path("outside/c/two"), "y").unwrap();
    world.write("last");
    assert!(!is_named(&hear(&mut watch, &["last"]), "moved/c/two"));
}

#[test]
fn attributes_of_a_directory_say_nothing_of_what_is_below_it() {
    let world = World::new(&["dir/file"]);
    let mut watch = world.watch(&[]);
    fs::set_permissions(world.path("source/dir"), fs::Permissions::from_mode(0o750)).unwrap();
    let mut changes = ChangeSet::default();
    while !watch.wait(LIMIT, &mut changes).unwrap() {}
    assert!(!changes.is_empty() && !is_named(&changes, "dir/file"), "{changes:?}");
}

#[test]
fn links_are_not_followed_and_excluded_directories_not_watched() {
    let world = World::new(&["real/file", "lost/many/more", "dir/half.part"]);
    let elsewhere = world.path("elsewhere");
    for n in 0..50 {
        fs::create_dir_all(elsewhere.join(n.to_string())).unwrap();
    }
    symlink(&elsewhere, world.path("source/out")).unwrap();
    symlink("real", world.path("source/in")).unwrap();
    symlink("..", world.path("source/dir/loop")).unwrap();
    let mut watch = world.watch(&["lost/", "*.part"]);
    // The root, real, dir.
    assert_eq!(watch.watches(), 3);
    symlink(&elsewhere, world.path("source/dir/out")).unwrap();
    hear(&mut watch, &["dir/out"]);
    assert_eq!(watch.watches(), 3);
    world.write("lost/many/x");
    world.write("dir/half.part");
    world.write("real/file");
    let changes = hear(&mut watch, &["real/file"]);
    assert!(
        !is_named(&changes, "lost/many/x") && !is_named(&changes, "dir/half.part"),
        "{changes:?}"
    );
}

/// Replaces the root by something, and sees that the watch follows.
fn follows(world: &World, watch: &mut TreeWatch, replace: &dyn Fn()) {
    replace();
    hear_all(watch);
    let file = fs::canonicalize(world.path("source")).unwrap().join("fresh");
    fs::write(file, "x").unwrap();
    hear(watch, &["fresh"]);
}

#[test]
fn whatever_happens_to_the_root_it_watches_anew_and_names_the_whole_tree() {
    let world = World::new(&["a"]);
    let mut watch = world.watch(&[]);
    let make = |name: &str| {
        fs::create_dir_all(world.path(name).join("sub")).unwrap();
    };
    follows(&world, &mut watch, &|| {
        make("new");
        fs::rename(world.path("source"), world.path("old")).unwrap();
        fs::rename(world.path("new"), world.path("source")).unwrap();
    });
    // An edit in the tree that was there before is none of this one.
    fs::write(world.path("old/a"), "y").unwrap();
    // Away for a while.
    fs::rename(world.path("source"), world.path("away")).unwrap();
    let mut changes = ChangeSet::default();
    while watch.watches() > 0 {
        watch.wait(Duration::from_millis(50), &mut changes).unwrap();
    }
    assert!(!is_named(&changes, "a"), "{changes:?}");
    follows(&world, &mut watch, &|| {
        fs::rename(world.path("away"), world.path("source")).unwrap();
    });
    // A symlink that flips, to a target whose parent is then moved.
    for (n, flip) in ["v1", "v2", "v3"].into_iter().enumerate() {
        follows(&world, &mut watch, &|| {
            make(&format!("{flip}/tree"));
            symlink(world.path(&format!("{flip}/tree")), world.path("link")).unwrap();
            if n == 0 {
                fs::rename(world.path("source"), world.path("real")).unwrap();
            }
            fs::rename(world.path("link"), world.path("source")).unwrap();
        });
    }
    fs::write(world.path("v2/tree/fresh"), "y").unwrap();
    fs::rename(world.path("v3"), world.path("v3-moved")).unwrap();
    make("v3/tree");
    hear_all(&mut watch);
}

#[test]
fn what_is_mounted_over_it_is_noticed() {
    let world = World::new(&["a", "sub/b"]);
    let mut watch = world.watch(&[]);
    let mount = |at: &Path| {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(at);
        command.output().is_ok_and(|output| output.status.success())
    };
    let unmount = |at: &Path| {
        let unmounted = std::process::Command::new("umount").arg(at).status().unwrap();
        assert!(unmounted.success(), "nothing keeps it busy");
    };
    let (root, sub) = (world.path("source"), world.path("source/sub"));
    if !mount(&root) {
        eprintln!("skipped: this user may not mount");
        return;
    }
    follows(&world, &mut watch, &|| {});
    unmount(&root);
    follows(&world, &mut watch, &|| {});
    assert!(mount(&sub));
    follows(&world, &mut watch, &|| {});
    fs::write(sub.join("inside"), "x").unwrap();
    hear(&mut watch, &["sub/inside"]);
    unmount(&sub);
    hear_all(&mut watch);
    // Of two bind mounts that replace one another between two looks, the second gets the number of the first.
    let bind = |from: &Path| {
        let mut command = std::process::Command::new("mount");
        assert!(command.arg("--bind").args([from, &sub]).status().unwrap().success());
    };
    let (one, other) = (world.path("one"), world.path("other"));
    [&one, &other].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    bind(&one);
    hear_all(&mut watch);
    for next in [&other, &one] {
        unmount(&sub);
        bind(next);
        hear_all(&mut watch);
        fs::write(next.join("inside"), "x").unwrap();
        hear(&mut watch, &["sub/inside"]);
    }
    unmount(&sub);
    hear_all(&mut watch);
}

#[test]
fn a_full_queue_costs_a_look_at_the_whole_tree() {
    let world = World::new(&["dir/a"]);
    let mut watch = world.watch(&[]);
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if most > 1_000_000 {
        eprintln!("skipped: the queue is too long to fill");
        return;
    }
    let (a, b) = (world.path("source/dir/a"), world.path("source/dir/b"));
    for _ in 0..=most / 4 {
        fs::rename(&a, &b).unwrap();
        fs::rename(&b, &a).unwrap();
    }
    // Its own making is lost.
    world.write("late/file");
    hear_all(&mut watch);
    world.write("late/file");
    hear(&mut watch, &["late/file"]);
}
