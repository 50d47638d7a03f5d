//! Which files are read again, and what makes a new snapshot: attributes that say nothing of the content do neither.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use instantmirror_store::scan::Scanned;
use instantmirror_store::tree::StampRule;

use super::{World, copying, file, linking};

/// A scan right now, when nothing that has just changed is settled.
fn scan_now(world: &World, previous: &Scanned, import: super::ImportOptions) -> Scanned {
    world.try_scan(Some(previous), import, 0).unwrap()
}

fn cp(option: &str, from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(option).args([from, to]).status().unwrap();
    assert!(copied.success());
}

fn all(dir: &Path, change: &dyn Fn(&Path)) {
    change(dir);
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all(&path, change);
        } else {
            change(&path);
        }
    }
}

fn tree() -> World {
    let world = World::new();
    for n in 0..20 {
        world.write(&format!("d{}/f{n}", n % 3), format!("content {n}"));
    }
    fs::hard_link(world.path("d0/f0"), world.path("d1/too")).unwrap();
    world
}

#[test]
fn links_beside_the_tree_owners_and_modes_cost_no_reading() {
    for import in [copying(), linking()] {
        let world = tree();
        let first = world.try_scan(None, import, 3600).unwrap();
        assert_eq!(first.counts.read_files, 20, "{import:?}");
        let beside = world.dir.path().join("beside");
        let unchanged = |what: &str| {
            for _ in 0..2 {
                let again = scan_now(&world, &first, import);
                assert_eq!(
                    (again.counts.read_files, again.root),
                    (0, first.root),
                    "{what} {import:?}"
                );
            }
        };
        unchanged("nothing");
        cp("-al", &world.path(""), &beside);
        unchanged("cp -al");
        fs::remove_dir_all(&beside).unwrap();
        unchanged("rm of the copy");
        // Only root may.
        if chown(world.path("d0"), Some(7), Some(7)).is_ok() {
            all(&world.path(""), &|path| chown(path, Some(7), Some(8)).unwrap());
            unchanged("chown -R");
        }
        all(&world.path("d2"), &|path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        });
        let modes = scan_now(&world, &first, import);
        assert_eq!(modes.counts.read_files, 0, "chmod -R {import:?}");
        assert_ne!(modes.root.node, first.root.node, "modes are published");
    }
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen_by_the_ctime_unless_that_is_ignored() {
    let world = World::new();
    world.write("f", "version 1");
    let first = world.scan(None);
    let edit = |content: &str| {
        let modified = fs::metadata(world.path("f")).unwrap().modified().unwrap();
        world.write("f", content);
        fs::File::open(world.path("f")).unwrap().set_modified(modified).unwrap();
    };
    edit("version 2");
    let second = world.scan(Some(&first));
    assert_eq!(second.counts.read_files, 1);
    world.rules.lock().unwrap().stamps.ignore_ctime = true;
    edit("version 3");
    assert_eq!(world.scan(Some(&second)).counts.read_files, 0);
}

#[test]
fn inode_numbers_count_unless_they_are_ignored() {
    let world = tree();
    let first = world.scan(None);
    let renew = || {
        let old = world.dir.path().join("old");
        fs::rename(world.path(""), &old).unwrap();
        cp("-a", &old, &world.path(""));
        fs::remove_dir_all(&old).unwrap();
    };
    world.rules.lock().unwrap().stamps = StampRule {
        ignore_ctime: true,
        ignore_inode: true,
        ignore_device: true,
    };
    renew();
    let ignored = world.scan(Some(&first));
    assert_eq!((ignored.counts.read_files, ignored.root), (0, first.root));
    world.rules.lock().unwrap().stamps = StampRule::default();
    renew();
    let counted = world.scan(Some(&ignored));
    assert_eq!((counted.counts.read_files, counted.root), (20, first.root));
}

#[test]
fn groups_are_for_names_in_the_tree() {
    let world = World::new();
    for path in ["a", "dir/b", "c"] {
        world.write(path, path);
    }
    cp("-al", &world.path(""), &world.dir.path().join("beside"));
    let first = world.try_scan(None, linking(), 3600).unwrap();
    let group = |scanned: &Scanned, path: &str| file(&world, scanned, path).link_group;
    assert!(["a", "dir/b", "c"].iter().all(|path| group(&first, path).is_none()));
    fs::hard_link(world.path("a"), world.path("dir/a")).unwrap();
    let second = world.try_scan(Some(&first), linking(), 3600).unwrap();
    assert!(group(&second, "a").is_some() && group(&second, "a") == group(&second, "dir/a"));
    // A third name joins the group, also where only it was named.
    fs::hard_link(world.path("a"), world.path("dir/more")).unwrap();
    let named = world.scan_named(&second, &["dir/more", "a"]);
    assert_eq!(group(&named, "dir/more"), group(&second, "a"));
    world.assert_complete(&named);
    for path in ["dir/a", "dir/more"] {
        fs::remove_file(world.path(path)).unwrap();
    }
    let alone = world.scan(Some(&named));
    assert_eq!((alone.counts.read_files, group(&alone, "a")), (0, None));
}

#[test]
fn new_hard_links_that_are_young_are_read_once() {
    let world = World::new();
    for n in 0..10 {
        world.write(&format!("{n}"), format!("content {n}"));
        fs::hard_link(world.path(&n.to_string()), world.path(&format!("{n}-too"))).unwrap();
    }
    let first = world.try_scan(None, copying(), 0).unwrap();
    assert_eq!(first.counts.read_files, 10);
    assert!(file(&world, &first, "3").link_group.is_some());
    // They were too young for their stamps to be relied on.
    assert_eq!(world.scan(Some(&first)).counts.read_files, 10);
}
