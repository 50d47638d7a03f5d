//! The tree without a kernel: layout, numbers, attributes, grace, flips, listings.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use instantmirror_core::view::View;
use instantmirror_core::{Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoPath};
use proptest::prelude::*;

use super::slot_log::SlotFile;
use crate::filesystem::{Errno, FileKind, FileSystem as _, InodeId, Lookup, Validity};
use crate::imfs::{Imfs, ImfsOptions, Shown, ThreadExecutor};
use crate::testing::*;

fn small() -> Item {
    dir([
        ("a", Item::File("hello")),
        ("empty", dir([])),
        ("link", Item::Symlink("pool/b")),
        (
            "pool",
            dir([("b", Item::File("b")), ("deep", dir([("c", Item::File("ccc"))]))]),
        ),
    ])
}

fn current() -> Shown {
    Shown::View(debian(), View::Current)
}

#[test]
fn a_repository_is_laid_out_as_drawn() {
    let world = World::new();
    world.publish(1, &small());
    world.publish(2, &small());
    world.tag("v1", 1);
    for (shown, prefix) in [(Shown::All, "debian/"), (Shown::Repository(debian()), "")] {
        let imfs = world.imfs(shown);
        let at = |path: &str| imfs.inode(&format!("{prefix}{path}"));
        let sorted = |inode| {
            let mut names = imfs.names(inode);
            names.sort();
            names
        };
        let top = imfs.walk(prefix.trim_end_matches('/'));
        assert_eq!(
            sorted(top.map_or(InodeId::ROOT, |found| found.inode)),
            ["local-snap", "master-snap", "snap"]
        );
        let mut snapshots = vec!["current".to_owned(), id(1).to_string(), id(2).to_string()];
        snapshots.sort();
        assert_eq!(sorted(at("snap")), snapshots);
        assert_eq!(imfs.readlink(at("snap/current")).unwrap(), id(2).to_string());
        assert_eq!(
            imfs.readlink(at("local-snap/v1")).unwrap(),
            format!("../snap/{}", id(1))
        );
        assert!(imfs.names(at("master-snap")).is_empty());
        assert_eq!(
            imfs.names(at(&format!("snap/{}", id(1)))),
            ["a", "empty", "link", "pool"]
        );
        // Up again, by number.
        let deep = at(&format!("snap/{}/pool/deep", id(1)));
        let up = |inode| match imfs.lookup(inode, b"..").unwrap() {
            Lookup::Found(found) => found.inode,
            Lookup::Absent(_) => panic!("no parent"),
        };
        let mut here = deep;
        for path in [
            format!("snap/{}/pool", id(1)),
            format!("snap/{}", id(1)),
            "snap".to_owned(),
        ] {
            here = up(here);
            assert_eq!(here, at(&path), "{path}");
        }
        assert_eq!(up(up(here)), InodeId::ROOT);
    }
}

#[test]
fn what_is_awaited_is_neither_empty_nor_gone() {
    let world = World::new();
    let view = world.imfs(current());
    let mut rows = TestRows {
        room: 9,
        ..TestRows::default()
    };
    assert_eq!(
        view.list(InodeId::ROOT, 0, &mut rows),
        Err(Errno::IO),
        "rsync --delete takes an empty one for true"
    );
    assert!(rows.rows.is_empty());
    assert_eq!(view.lookup(InodeId::ROOT, b"a"), Err(Errno::IO));
    assert_eq!(view.attributes(InodeId::ROOT).unwrap().0.kind, FileKind::Directory);
    let imfs = world.imfs(Shown::Repository(debian()));
    let snap = imfs.inode("snap");
    assert!(imfs.names(snap).is_empty());
    for name in ["current", &id(1).to_string()] {
        assert_eq!(imfs.lookup(snap, name.as_bytes()), Err(Errno::IO), "{name}");
    }
    assert!(matches!(imfs.lookup(snap, b".hidden"), Ok(Lookup::Absent(_))));
    world.publish(1, &small());
    assert_eq!(imfs.readlink(imfs.inode("snap/current")).unwrap(), id(1).to_string());
    assert!(matches!(
        imfs.lookup(snap, id(2).to_string().as_bytes()),
        Ok(Lookup::Absent(_))
    ));
    assert_eq!(view.names(InodeId::ROOT), ["a", "empty", "link", "pool"]);
    // A repository that is taken away is not empty either.
    let elsewhere = world.imfs(Shown::View("ubuntu".parse().unwrap(), View::Current));
    assert_eq!(elsewhere.list(InodeId::ROOT, 0, &mut rows), Err(Errno::IO));
}

#[test]
fn a_seek_in_the_root_leads_to_no_other_directory() {
    let world = World::new();
    world.publish(1, &small());
    let imfs = world.imfs(current());
    let pool = imfs.inode("pool");
    let mut rows = TestRows {
        room: 9,
        ..TestRows::default()
    };
    // The cursor of a listing of that directory.
    assert_eq!(imfs.list(InodeId::ROOT, pool.0 + 1, &mut rows), Err(Errno::INVAL));
    assert!(rows.rows.is_empty());
}

#[test]
fn attributes_are_as_published_and_as_the_options_say() {
    let world = World::new();
    world.publish(1, &small());
    let mut options = ImfsOptions::new(current());
    (options.uid, options.gid, options.umask) = (7, 8, 0o027);
    let imfs = world.imfs_with(options);
    let file = imfs.walk("a").unwrap();
    let attributes = file.attributes;
    assert_eq!((attributes.size, attributes.mtime, attributes.mode), (5, MTIME, 0o640));
    assert_eq!((attributes.uid, attributes.gid, attributes.links), (7, 8, 1));
    assert_eq!(
        (attributes.ino, file.attribute_validity),
        (file.inode.0, Validity::Forever)
    );
    let link = imfs.walk("link").unwrap();
    assert_eq!((link.attributes.kind, link.attributes.size), (FileKind::Symlink, 6));
    assert_eq!(imfs.readlink(link.inode).unwrap(), "pool/b");
    assert_eq!(imfs.walk("pool").unwrap().attributes.mode, 0o750);
    assert!(imfs.names(imfs.inode("empty")).is_empty());
    assert_eq!(imfs.attributes(InodeId::ROOT).unwrap().0.mtime, MTIME + 1);
    let size = imfs.statfs();
    assert_eq!((size.files, size.bytes, size.bytes_free), (3, 9, 0));
    // Requests that cannot be done.
    assert_eq!(imfs.lookup(file.inode, b"x"), Err(Errno::NOTDIR));
    assert_eq!(imfs.readlink(file.inode), Err(Errno::INVAL));
    assert_eq!(imfs.open(InodeId::ROOT).unwrap_err(), Errno::ISDIR);
    assert_eq!(imfs.open(link.inode).unwrap_err(), Errno::LOOP);
    assert_eq!(
        imfs.lookup(InodeId::ROOT, b"\xff").unwrap(),
        Lookup::Absent(super::OUTSIDE)
    );
}

/// Every path of a mount, with its number.
fn numbers(imfs: &Imfs) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let mut work = vec![(String::new(), InodeId::ROOT)];
    while let Some((path, inode)) = work.pop() {
        for (name, _, found) in imfs.list_some(inode, 0, usize::MAX).split_off(2) {
            let path = format!("{path}/{name}");
            if found.attributes.kind == FileKind::Directory {
                work.push((path.clone(), found.inode));
            }
            all.insert(path, found.inode.0);
        }
    }
    all
}

#[test]
fn numbers_are_the_same_after_a_restart_and_lead_back_without_a_lookup() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    world.publish(1, &small());
    world.publish(2, &small());
    let open = |shown: Shown| {
        let store = SlotFile::open(folder.path().join("slots")).unwrap();
        Imfs::new(
            Arc::clone(&world) as _,
            Arc::new(ThreadExecutor),
            store,
            ImfsOptions::new(shown),
        )
        .unwrap()
    };
    let first = numbers(&open(Shown::All));
    let distinct: HashSet<u64> = first.values().copied().collect();
    assert_eq!(distinct.len(), first.len(), "every path has a number of its own");
    for _ in 0..2 {
        let imfs = open(Shown::All);
        // By number first, as an NFS server comes back.
        for (path, number) in first.iter().rev() {
            let (attributes, _) = imfs
                .attributes(InodeId(*number))
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(attributes.ino, *number, "{path}");
            let by_number = |name: &[u8]| match imfs.lookup(InodeId(*number), name) {
                Ok(Lookup::Found(found)) => found.inode.0,
                other => panic!("{path}: {other:?}"),
            };
            assert_eq!(by_number(b"."), *number, "{path}");
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let parent = first.get(parent).copied().unwrap_or(InodeId::ROOT.0);
            assert_eq!(by_number(b".."), parent, "{path}");
        }
        assert_eq!(numbers(&imfs), first);
    }
    // Another snapshot changes nothing, and one that is gone takes its numbers with it.
    world.publish(3, &small());
    let imfs = open(Shown::All);
    let now = numbers(&imfs);
    let old = format!("/debian/snap/{}", id(1));
    assert!(
        first
            .iter()
            .filter(|(path, _)| path.contains("/snap/") && !path.contains("current"))
            .all(|(path, number)| now.get(path) == Some(number))
    );
    world.remove(1);
    assert_eq!(imfs.attributes(InodeId(first[&old])), Err(Errno::STALE));
    imfs.tick(Instant::now());
    imfs.tick(Instant::now() + Duration::from_secs(61));
    assert_eq!(imfs.attributes(InodeId(first[&format!("{old}/a")])), Err(Errno::STALE));
    drop(imfs);
    let imfs = open(Shown::All);
    let again = numbers(&imfs);
    assert!(again.values().all(|number| {
        !first
            .iter()
            .any(|(path, old_number)| path.starts_with(&old) && old_number == number)
    }));
}

#[test]
fn hard_links_share_a_number_and_are_counted_without_holding_anybody_up() {
    let world = World::new();
    let tree = dir([
        ("a", Item::Linked(1, "same")),
        ("other", Item::Linked(1, "another content")),
        (
            "sub",
            dir([
                ("b", Item::Linked(1, "same")),
                ("c", Item::Linked(1, "same")),
                ("d", Item::File("same")),
            ]),
        ),
    ]);
    world.publish(1, &tree);
    world.publish(2, &tree);
    let imfs = world.imfs(Shown::Repository(debian()));
    let at = |path: &str| imfs.walk(&format!("snap/{}/{path}", id(1))).unwrap();
    let first = at("a");
    assert!(first.attributes.links >= 2);
    let until = Instant::now() + Duration::from_secs(10);
    while at("a").attribute_validity != Validity::Forever {
        assert!(Instant::now() < until, "the links are never counted");
        std::thread::sleep(Duration::from_millis(5));
    }
    let [a, b, c, d, other] = ["a", "sub/b", "sub/c", "sub/d", "other"].map(at);
    assert_eq!([a, b, c].map(|found| found.attributes.links), [3; 3]);
    assert!(a.attributes.ino == b.attributes.ino && b.attributes.ino == c.attributes.ino);
    assert!(a.inode != b.inode && d.attributes.ino != a.attributes.ino);
    assert_eq!((d.attributes.links, other.attributes.links), (1, 1));
    assert_ne!(other.attributes.ino, a.attributes.ino);
    let elsewhere = imfs.walk(&format!("snap/{}/a", id(2))).unwrap();
    assert_ne!(elsewhere.attributes.ino, a.attributes.ino, "snapshots share no numbers");
}

#[test]
fn a_flip_moves_new_paths_and_leaves_readers_where_they_are() {
    let world = World::new();
    world.publish(
        1,
        &dir([
            ("new", Item::File("1")),
            ("pool", dir([("x", Item::File("x1"))])),
            ("z", Item::File("z")),
        ]),
    );
    let imfs = world.imfs(current());
    let kernel = Arc::new(TestKernel::default());
    let links = world.imfs(Shown::Repository(debian()));
    let link_kernel = Arc::new(TestKernel::default());
    // Without the threads: the tests tick.
    imfs.mounted_without_watch(Arc::clone(&kernel) as _);
    links.mounted_without_watch(Arc::clone(&link_kernel) as _);
    let pool = imfs.inode("pool");
    let old_link = links.inode("snap/current");
    let begun = imfs.list_some(InodeId::ROOT, 0, 3);
    world.publish(
        2,
        &dir([("added", Item::File("2")), ("pool", dir([("y", Item::File("y2"))]))]),
    );
    // The directory that is open stays, a path that is walked anew is of the new snapshot.
    assert_eq!(imfs.names(pool), ["x"]);
    assert!(matches!(imfs.lookup(pool, b"y").unwrap(), Lookup::Absent(_)));
    assert_eq!(imfs.names(imfs.inode("pool")), ["y"]);
    assert_ne!(imfs.inode("pool"), pool);
    let rest = imfs.list_some(InodeId::ROOT, begun[2].1, 9);
    let names: Vec<&str> = begun.iter().chain(&rest).map(|row| row.0.as_str()).collect();
    assert_eq!(
        names,
        [".", "..", "new", "pool", "z"],
        "a listing ends in the tree in which it began"
    );
    assert_eq!(imfs.names(InodeId::ROOT), ["added", "pool"]);
    // The kernel is told of names of both, and of the link alone.
    imfs.tick(Instant::now());
    links.tick(Instant::now());
    for name in ["new", "pool", "z", "added"] {
        assert!(super::lock(&kernel.told).contains(&format!("expire {name}")), "{name}");
    }
    assert_eq!(*super::lock(&link_kernel.told), ["invalidate current"]);
    let new_link = links.inode("snap/current");
    assert_ne!(new_link, old_link, "another target is another inode");
    assert_eq!(links.readlink(old_link).unwrap(), id(1).to_string());
    assert_eq!(links.readlink(new_link).unwrap(), id(2).to_string());
    for kernel in [&kernel, &link_kernel] {
        super::lock(&kernel.told).clear();
        super::lock(&kernel.dropped).clear();
    }
    imfs.tick(Instant::now());
    links.tick(Instant::now());
    assert!(super::lock(&kernel.told).is_empty(), "nothing is told twice");
    // But for listings: one that was on its way to the kernel would stay there.
    assert_eq!(*super::lock(&kernel.dropped), [InodeId::ROOT]);
    assert!(super::lock(&link_kernel.dropped).contains(&links.inode("snap")));
    imfs.tick(Instant::now());
    assert_eq!(super::lock(&kernel.dropped).len(), 1);
}

#[test]
fn grace_finds_what_current_lacks_as_http_does() {
    let world = World::new();
    let old = dir([
        ("core.db", Item::File("1")),
        ("core.db.sig", Item::File("signature of 1")),
        ("gone", dir([("deep", dir([("f.deb", Item::File("f"))]))])),
        ("pool", dir([("a_1.deb", Item::File("a1"))])),
        ("private.torrent", Item::File("t")),
    ]);
    world.publish(1, &old);
    world.publish(
        2,
        &dir([
            ("core.db", Item::File("2")),
            ("pool", dir([("a_2.deb", Item::File("a2"))])),
        ]),
    );
    super::lock(&world.never).push("*.torrent".to_owned());
    let imfs = world.imfs(current());
    // Each with what a walk over whole paths finds, as HTTP does it.
    let found = ["pool/a_1.deb", "pool/a_2.deb", "gone/deep/f.deb", "core.db"];
    for path in [
        "pool/a_1.deb",
        "pool/a_2.deb",
        "gone/deep/f.deb",
        "core.db",
        "core.db.sig",
        "private.torrent",
        "pool/never",
    ] {
        assert_eq!(imfs.walk(path).is_some(), found.contains(&path), "{path}");
    }
    assert_eq!(imfs.walk("core.db").unwrap().attributes.size, 1);
    assert_eq!(
        imfs.names(imfs.inode("pool")),
        ["a_2.deb"],
        "a listing shows what is there now"
    );
    // Nothing of it is kept for ever.
    let found = imfs.walk("pool/a_1.deb").unwrap();
    assert_ne!(found.entry_validity, Validity::Forever);
    assert_eq!(
        imfs.lookup(imfs.inode("pool"), b"never").unwrap(),
        Lookup::Absent(super::IN_GRACE)
    );
    // A snapshot by its id has no grace.
    let fixed = world.imfs(Shown::View(debian(), View::Snapshot(id(2))));
    assert_eq!(fixed.walk("pool/a_1.deb"), None);
    let reply = imfs.start_read(found.inode, 0..100);
    assert_eq!(reply.wait().unwrap(), "a1");
}

#[test]
fn extended_attributes_tell_what_is_inside() {
    let world = World::new();
    world.publish(1, &small());
    let imfs = world.imfs(current());
    let get = |inode, name: &str| imfs.xattr(inode, format!("user.instantmirror.{name}").as_bytes());
    let file = imfs.inode("a");
    assert_eq!(get(file, "snapshot").unwrap(), id(1).to_string());
    assert_eq!(get(file, "object").unwrap(), ObjectId::of(b"hello").to_string());
    assert_eq!(get(file, "sha256"), Err(Errno::NODATA));
    assert_eq!(get(InodeId::ROOT, "head").unwrap(), "1");
    assert_eq!(get(InodeId::ROOT, "current").unwrap(), id(1).to_string());
    assert_eq!(imfs.xattr(file, b"security.selinux"), Err(Errno::NODATA));
    let names = imfs.xattrs(InodeId::ROOT).unwrap();
    assert_eq!(
        names,
        [
            "user.instantmirror.snapshot",
            "user.instantmirror.head",
            "user.instantmirror.current"
        ]
    );
    let mut options = ImfsOptions::new(current());
    options.xattrs = false;
    assert_eq!(world.imfs_with(options).xattr(file, b"user.x"), Err(Errno::NOSYS));
}

fn numbered(count: usize) -> Vec<Entry> {
    let entry = |at: usize| Entry {
        name: Name::new(format!("package-{at:07}.rpm")).unwrap(),
        meta: Meta {
            mode: 0o644,
            mtime: MTIME,
            kind: Kind::File(FileMeta::new(ObjectId::of(&at.to_le_bytes()), 8)),
        },
    };
    (0..count).map(entry).collect()
}

#[test]
fn two_hundred_thousand_names_list_by_cursor() {
    let world = World::new();
    let entries = numbered(200_000);
    world.publish_directory(1, world.build_entries(&entries));
    let imfs = world.imfs(current());
    let (mut after, mut seen, mut requests) = (0, 0, 0);
    let begun = Instant::now();
    loop {
        let rows = imfs.list_some(InodeId::ROOT, after, 200);
        let Some(last) = rows.last() else { break };
        after = last.1;
        for (name, _, found) in &rows {
            if !name.starts_with('.') {
                assert_eq!(*name, entries[seen].name.as_str());
                assert_eq!(imfs.attributes(found.inode).unwrap().0, found.attributes);
                seen += 1;
            }
        }
        requests += 1;
        if requests == 300 {
            world.publish(2, &small());
        }
    }
    assert_eq!(seen, 200_000);
    // One that read the directory from its beginning for each request would need a hundred times as long.
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}

/// Bytes of a process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Three million files in 60,000 directories: what a full walk leaves behind, apart from the catalog.
#[test]
#[ignore = "builds three million files: cargo test -p instantmirror-fuse --release -- --ignored three_million"]
fn three_million_files_leave_little_behind() {
    let world = World::new();
    let leaf = world.build_entries(&numbered(50));
    let below = |count: usize, directory| -> Vec<Entry> {
        let entry = |at: usize| Entry {
            name: Name::new(format!("directory-{at:05}")).unwrap(),
            meta: Meta {
                mode: 0o755,
                mtime: MTIME,
                kind: Kind::Directory(directory),
            },
        };
        (0..count).map(entry).collect()
    };
    let middle = world.build_entries(&below(250, leaf));
    world.publish_directory(1, world.build_entries(&below(240, middle)));
    let folder = tempfile::tempdir().unwrap();
    let store = SlotFile::open(folder.path().join("slots")).unwrap();
    let imfs = Imfs::new(
        Arc::clone(&world) as _,
        Arc::new(ThreadExecutor),
        store,
        ImfsOptions::new(current()),
    )
    .unwrap();
    let (before, begun) = (resident(), Instant::now());
    let mut files = 0;
    let mut work = vec![InodeId::ROOT];
    while let Some(inode) = work.pop() {
        for (_, _, found) in imfs.list_some(inode, 0, usize::MAX).split_off(2) {
            match found.attributes.kind {
                FileKind::Directory => work.push(found.inode),
                _ => files += 1,
            }
        }
    }
    let grown = resident().saturating_sub(before);
    println!("{files} files in {:?}, {} KiB", begun.elapsed(), grown / 1024);
    assert_eq!(files, 3_000_000);
    assert!(grown < 60 << 20, "{grown} bytes");
}

#[test]
fn listings_outside_tell_every_row_that_stays_once() {
    let world = World::new();
    for number in 1..40 {
        world.publish(number, &small());
    }
    let imfs = world.imfs(Shown::Repository(debian()));
    let snap = imfs.inode("snap");
    let first = imfs.list_some(snap, 0, 20);
    for number in (1..40).filter(|number| number % 3 == 0) {
        world.remove(number);
    }
    for number in 40..50 {
        world.publish(number, &small());
    }
    let rest = imfs.list_some(snap, first[19].1, usize::MAX);
    let mut names: Vec<String> = first.into_iter().chain(rest).map(|row| row.0).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "a row is told twice");
    for number in (1..40).filter(|number| number % 3 != 0) {
        assert!(names.contains(&id(number).to_string()), "{number} is missing");
    }
}

fn any_item() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        Just(Item::File("x")),
        Just(Item::Symlink("../a")),
        Just(Item::Dir(Vec::new())),
    ];
    leaf.prop_recursive(4, 60, 8, |inner| {
        proptest::collection::btree_map("[a-f]{1,2}", inner, 0..8)
            .prop_map(|items| Item::Dir(items.into_iter().collect()))
    })
}

/// Paths of a tree.
fn paths(item: &Item, prefix: &str, out: &mut Vec<String>) {
    let Item::Dir(items) = item else { return };
    for (name, item) in items {
        let path = format!("{prefix}/{name}");
        out.push(path.clone());
        paths(item, &path, out);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_is_shown_as_it_was_published(item in any_item()) {
        let item = match item { Item::Dir(_) => item, other => dir([("one", other)]) };
        let world = World::new();
        world.publish(1, &item);
        let imfs = world.imfs(Shown::View(debian(), View::Snapshot(id(1))));
        let mut expected = Vec::new();
        paths(&item, "", &mut expected);
        expected.sort();
        let shown = numbers(&imfs);
        let mut listed: Vec<String> = shown.keys().cloned().collect();
        listed.sort();
        prop_assert_eq!(&listed, &expected);
        for (path, number) in &shown {
            let found = imfs.walk(&path[1..]).unwrap();
            prop_assert_eq!(found.inode.0, *number);
            prop_assert_eq!(imfs.attributes(found.inode).unwrap().0, found.attributes);
            prop_assert!(RepoPath::new(&path[1..]).is_ok());
        }
    }
}
