//! What is published and what is left out: excluded paths, modes, symlinks. Scans of named paths come to the same.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use instantmirror_core::changes::ChangeSet;
use instantmirror_core::rules::PathGlobs;
use instantmirror_core::{Kind, RepoPath};
use instantmirror_store::StoreError;
use instantmirror_store::scan::{LeftOutWhy, OnPrivate, Scanned, StampBook, SymlinkRule};
use instantmirror_store::tree::SourceTree;

use super::{World, copying, opened};

impl World {
    fn exclude(&self, globs: &[&str]) {
        self.rules.lock().unwrap().exclude = PathGlobs::new(globs.iter().copied()).unwrap();
    }

    fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn target(&self, scanned: &Scanned, path: &str) -> String {
        match self.lookup(scanned, path).unwrap().kind {
            Kind::Symlink(target) => target.to_string(),
            kind => panic!("{kind:?}"),
        }
    }
}

/// Paths that were left out for a reason.
fn left_out(scanned: &Scanned, why: LeftOutWhy) -> Vec<&str> {
    let noted = scanned.left_out.get(&why);
    let examples = noted.into_iter().flat_map(|noted| noted.examples.keys());
    examples.map(String::as_str).collect()
}

#[test]
fn excluded_paths_are_left_out_and_excluded_directories_are_not_walked() {
    let world = World::new();
    for path in ["a", "x.tmp", "lost+found/y", "dir/.snapshot/z", "dir/b", "keep/lost"] {
        world.write(path, path);
    }
    // A walk would come upon it and refuse the tree.
    world.write("lost+found/bad\u{1}name", "");
    world.exclude(&["*.tmp", "lost+found/", "dir/.snapshot"]);
    let first = world.scan(None);
    let expected = ["dir/.snapshot", "lost+found", "x.tmp"];
    assert_eq!(left_out(&first, LeftOutWhy::Excluded), expected);
    assert_eq!(first.counts.files, 3);
    assert!(world.lookup(&first, "lost+found").is_none() && world.lookup(&first, "keep/lost").is_some());
    // Named or not, it is the same.
    world.write("dir/.snapshot/new", "new");
    world.write("dir/c.tmp", "new");
    world.write("dir/c", "new");
    let second = world.scan_named(&first, &["dir/.snapshot/new", "dir/c.tmp", "dir/c", "lost+found"]);
    assert_eq!(second.counts.files, 4);
    assert_eq!(
        left_out(&second, LeftOutWhy::Excluded),
        ["dir/.snapshot", "dir/c.tmp", "lost+found"]
    );
    world.assert_complete(&second);
}

#[test]
fn what_others_may_not_read_is_left_out_until_it_is_opened() {
    let world = World::new();
    for path in ["open", "key", "release/iso", "release/deep/er", "drop/box"] {
        world.write(path, path);
    }
    world.chmod("key", 0o640);
    world.chmod("release", 0o750);
    world.chmod("drop", 0o711);
    // The root is what the operator has named, whatever its mode.
    world.chmod("", 0o700);
    let held_back = world.scan(None);
    assert_eq!(held_back.counts.files, 1);
    assert_eq!(left_out(&held_back, LeftOutWhy::Private), ["drop", "key", "release"]);
    let (path, reason) = held_back.left_out[&LeftOutWhy::Private].example().unwrap();
    assert_eq!((path, reason), ("drop", "closed to others (mode 0711)"));
    // The day of the release: only the mode of one directory changes.
    world.chmod("release", 0o755);
    let released = world.scan_entries(&held_back, &["release"]);
    assert_eq!(released.counts.files, 3);
    assert!(world.lookup(&released, "release/deep/er").is_some());
    world.assert_complete(&released);
    world.chmod("key", 0o644);
    let opened = world.scan_named(&released, &["key"]);
    assert_eq!(opened.counts.files, 4);
    world.chmod("release", 0o750);
    let closed = world.scan_entries(&opened, &["release"]);
    assert!(world.lookup(&closed, "release").is_none());
    world.assert_complete(&closed);
}

#[test]
fn what_others_may_not_read_is_refused_or_published_where_the_rules_say_so() {
    let world = World::new();
    for path in ["open", "dir/key", "closed/a", "closed/b"] {
        world.write(path, path);
    }
    world.chmod("dir/key", 0o600);
    world.chmod("closed", 0);
    world.rules.lock().unwrap().private = OnPrivate::Refuse;
    let error = world.try_scan(None, copying(), 3600).unwrap_err();
    let StoreError::Unpublishable { count: 2, problems, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        problems.contains(&"dir/key: closed to others (mode 0600)".to_owned()),
        "{problems:?}"
    );
    assert!(error.to_string().contains("private = \"publish\""), "{error}");
    world.rules.lock().unwrap().private = OnPrivate::Publish;
    let all = world.scan(None);
    assert_eq!((all.counts.files, all.left_out.len()), (4, 0));
    assert_eq!(world.lookup(&all, "closed").unwrap().mode, 0);
}

#[test]
fn what_is_closed_after_it_was_listed_is_left_out_as_if_it_had_been_closed_before() {
    let world = World::new();
    for path in ["open", "key", "release/iso", "release/deep/er"] {
        world.write(path, path);
    }
    let first = world.scan(None);
    world.write("key", "another");
    let closing = |names: &'static [&str]| {
        for name in ["key", "release"] {
            world.chmod(name, 0o755);
        }
        let (open, paths) = (
            world.open(),
            names.iter().map(|name| world.path(name)).collect::<Vec<_>>(),
        );
        let close = move || {
            for path in paths {
                fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
            }
        };
        *open.once_listed.lock().unwrap() = Some(Box::new(close));
        world.scan_with(open, Some(&first), copying(), 3600).unwrap()
    };
    // A directory is opened whatever is known of it, a file if it has changed.
    let seen = closing(&["key", "release"]);
    assert_eq!(left_out(&seen, LeftOutWhy::Private), ["key", "release"]);
    assert_eq!(seen.counts.files, 1);
    let (_, reason) = seen.left_out[&LeftOutWhy::Private].example().unwrap();
    assert_eq!(reason, "closed to others (mode 0000)");
    // The same where only what is in it was named.
    let mut named = ChangeSet::default();
    named.insert(&RepoPath::new("release/iso").unwrap());
    *world.changes.lock().unwrap() = Some(named);
    let seen = closing(&["release"]);
    assert_eq!(left_out(&seen, LeftOutWhy::Private), ["release"]);
}

#[test]
fn other_rules_or_another_root_are_other_terms() {
    let world = World::new();
    world.write("a", "a");
    let tree = || SourceTree::open(world.dir.path().join("source")).unwrap();
    let fits = || {
        let book = opened(|| StampBook::open(std::sync::Arc::clone(&world.disk), "stamps"));
        book.terms().unwrap() == Some(world.rules.lock().unwrap().terms(&tree()).unwrap())
    };
    assert!(!fits());
    let first = world.scan(None);
    assert!(fits());
    world.exclude(&["b"]);
    assert!(!fits());
    world.scan(Some(&first));
    assert!(fits());
    // A scan that fails leaves what the last one went by.
    world.rules.lock().unwrap().private = OnPrivate::Refuse;
    world.write("key", "");
    world.chmod("key", 0o600);
    world.try_scan(Some(&first), copying(), 3600).unwrap_err();
    assert!(!fits());
    world.rules.lock().unwrap().private = OnPrivate::Skip;
    assert!(fits());
    fs::rename(world.path(""), world.dir.path().join("old")).unwrap();
    world.write("a", "a");
    assert!(!fits());
}

#[test]
fn symlinks_that_lead_nowhere_for_readers_are_counted_and_absolute_ones_can_be_rewritten() {
    let world = World::new();
    for path in ["pool/a", "dists/x/y", "hidden/z", "closed"] {
        world.write(path, path);
    }
    world.chmod("closed", 0o600);
    world.exclude(&["hidden/"]);
    let absolute = world.path("pool/a");
    symlink(&absolute, world.path("dists/x/absolute")).unwrap();
    symlink(world.path("gone"), world.path("absolute-gone")).unwrap();
    for (target, name) in [
        ("pool/a", "good"),
        ("dists/x", "directory"),
        ("/etc/hostname", "leaving"),
        ("../../outside", "dists/climbing"),
        ("nothing", "dangling"),
        ("loop", "loop"),
        ("hidden/z", "to-excluded"),
        ("closed", "to-private"),
    ] {
        symlink(target, world.path(name)).unwrap();
    }
    let names = |noted: &instantmirror_store::scan::Noted| noted.examples.keys().cloned().collect::<Vec<_>>();
    let kept = world.scan(None);
    assert_eq!(names(&kept.symlinks.absolute), ["absolute-gone", "dists/x/absolute"]);
    assert_eq!(names(&kept.symlinks.leaving), ["dists/climbing", "leaving"]);
    let dangling = ["absolute-gone", "dangling", "loop", "to-excluded", "to-private"];
    assert_eq!(names(&kept.symlinks.dangling), dangling);
    assert_eq!(kept.symlinks.rewritten.count, 0);
    assert_eq!(kept.counts.symlinks, 10);
    assert_eq!(world.target(&kept, "dists/x/absolute"), absolute.to_str().unwrap());
    world.rules.lock().unwrap().symlinks = SymlinkRule::Rewrite;
    let rewritten = world.scan(Some(&kept));
    assert_eq!(world.target(&rewritten, "dists/x/absolute"), "../../pool/a");
    assert_eq!(world.target(&rewritten, "absolute-gone"), "gone");
    assert_eq!(world.target(&rewritten, "leaving"), "/etc/hostname");
    assert_eq!(
        (rewritten.symlinks.rewritten.count, rewritten.symlinks.absolute.count),
        (2, 0)
    );
    assert_eq!(names(&rewritten.symlinks.dangling), dangling);
    symlink(&absolute, world.path("new")).unwrap();
    let named = world.scan_named(&rewritten, &["new"]);
    assert_eq!(world.target(&named, "new"), "pool/a");
    world.assert_complete(&named);
}
