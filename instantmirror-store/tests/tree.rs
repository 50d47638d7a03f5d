//! Source trees: hostile links, swaps and special files, on the real file system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use instantmirror_core::RepoPath;
use instantmirror_store::StoreError;
use instantmirror_store::tree::{RawKind, SourceTree};

fn path(text: &str) -> RepoPath {
    RepoPath::new(text).unwrap()
}

#[test]
fn lists_everything_with_its_stamp_in_order() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/b"), "12345").unwrap();
    fs::hard_link(dir.path().join("d/b"), dir.path().join("d/c")).unwrap();
    symlink("../elsewhere", dir.path().join("d/a")).unwrap();
    fs::create_dir(dir.path().join("d/sub")).unwrap();
    fs::write(dir.path().join("d/z \u{e9}%#?"), "").unwrap();
    let fifo = dir.path().join("d/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let tree = SourceTree::open(dir.path()).unwrap();
    let entries = tree.list(&path("d")).unwrap().entries;
    let names: Vec<_> = entries
        .iter()
        .map(|entry| String::from_utf8(entry.name.clone()).unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "c", "fifo", "sub", "z \u{e9}%#?"]);
    assert_eq!(entries[0].kind, RawKind::Symlink(b"../elsewhere".to_vec()));
    assert_eq!(entries[1].kind, RawKind::File);
    assert_eq!(
        (entries[1].stamp.nlink, entries[1].stamp.ino),
        (2, entries[2].stamp.ino)
    );
    let meta = fs::metadata(dir.path().join("d/b")).unwrap();
    assert_eq!(entries[1].stamp.size, 5);
    assert_eq!(
        (entries[1].stamp.mtime, i64::from(entries[1].stamp.mtime_ns)),
        (meta.mtime(), meta.mtime_nsec())
    );
    assert_eq!(entries[3].kind, RawKind::Special);
    assert_eq!(entries[4].kind, RawKind::Dir);
    assert_eq!(u32::from(entries[1].mode), meta.mode() & 0o7777);
    assert_eq!(tree.root_entry().unwrap().kind, RawKind::Dir);
    assert_eq!(tree.list(&RepoPath::ROOT).unwrap().entries.len(), 1);
    // Opening the fifo neither blocks nor succeeds.
    assert!(matches!(
        tree.open_file(&path("d/fifo")),
        Err(StoreError::SourceChanged { .. })
    ));
    assert!(matches!(
        tree.open_file(&path("d/sub")),
        Err(StoreError::SourceChanged { .. })
    ));
    let error = tree.open_file(&path("d/none")).unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("d/none"), "{error}");
}

#[test]
fn symlinks_are_never_followed_neither_last_nor_in_between() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::write(dir.path().join("in/x"), "x").unwrap();
    symlink("in", dir.path().join("alias")).unwrap();
    symlink("/proc/self/root", dir.path().join("magic")).unwrap();
    let tree = SourceTree::open(dir.path()).unwrap();
    for hostile in ["out/secret", "file", "alias/x", "magic/etc/passwd"] {
        let error = tree.open_file(&path(hostile)).unwrap_err();
        assert!(matches!(error, StoreError::OutsideRoot { .. }), "{hostile}: {error}");
        assert!(error.to_string().contains(hostile), "{error}");
    }
    for hostile in ["out", "alias", "magic"] {
        assert!(tree.list(&path(hostile)).is_err(), "{hostile}");
    }
    assert!(tree.open_file(&path("in/x")).is_ok());
}

#[test]
fn directory_swapped_for_a_symlink_while_reading_never_escapes() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("f"), "secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (real, parked, link) = (dir.path().join("d"), dir.path().join("parked"), dir.path().join("link"));
    fs::create_dir(&real).unwrap();
    fs::write(real.join("f"), "public").unwrap();
    symlink(outside.path(), &link).unwrap();
    let tree = SourceTree::open(dir.path()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(&real, &parked).unwrap();
                fs::rename(&link, &real).unwrap();
                fs::rename(&real, &link).unwrap();
                fs::rename(&parked, &real).unwrap();
            }
        });
        let mut opened = 0;
        for _ in 0..20_000 {
            if let Ok(mut file) = tree.open_file(&path("d/f")) {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, "public");
                opened += 1;
            }
            if let Ok(listing) = tree.list(&path("d")) {
                let mut entries = listing.entries.iter();
                assert!(entries.all(|entry| entry.stamp.size == 6 && entry.name == b"f"));
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(opened > 0);
    });
}

#[test]
fn file_that_changes_while_it_is_read_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "one").unwrap();
    let tree = SourceTree::open(dir.path()).unwrap();
    let file = tree.open_file(&path("f")).unwrap();
    file.check_unchanged().unwrap();
    fs::write(dir.path().join("f"), "three").unwrap();
    let error = file.check_unchanged().unwrap_err();
    assert!(error.to_string().contains("it had 3 bytes and has 5 now"), "{error}");
}
