//! The disk seam: real and simulated disks keep the same rules, and a simulated crash breaks only unsynced things.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use instantmirror_store::StoreError;
use instantmirror_store::disk::{
    Disk, Fault, FileKind, RealDisk, SimDisk, publish_atomically, read_file, tmp_path, write_atomically,
};

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// The rules that both disks keep.
fn check_rules(disk: &dyn Disk) {
    disk.create_dir_all(p("a/b")).unwrap();
    let file = disk.create_new(p("a/b/f")).unwrap();
    file.write_at(b"hello", 2).unwrap();
    file.sync().unwrap();
    assert_eq!(file.len().unwrap(), 7);
    assert!(disk.create_new(p("a/b/f")).unwrap_err().is_already_exists());
    assert!(disk.open(p("a/none")).unwrap_err().is_not_found());
    let map = file.map().unwrap();
    assert_eq!(&map[..], b"\0\0hello");
    disk.rename(p("a/b/f"), p("a/g")).unwrap();
    assert_eq!(disk.metadata(p("a/g")).unwrap().len, 7);
    let mut names: Vec<_> = disk
        .list(p("a"))
        .unwrap()
        .into_iter()
        .map(|item| (item.name, item.kind))
        .collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(names, [("b".into(), FileKind::Dir), ("g".into(), FileKind::File)]);
    disk.remove(p("a/g")).unwrap();
    assert_eq!(&map[..], b"\0\0hello", "a map outlives its file");
    let mut buf = [0; 16];
    assert_eq!(file.read_at(&mut buf, 2).unwrap(), 5);
    assert!(disk.open(p("a/g")).unwrap_err().is_not_found());
    let lock = disk.lock(p("lock")).unwrap();
    match disk.lock(p("lock")) {
        Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(lock);
    drop(disk.lock(p("lock")).unwrap());
    assert!(disk.space().unwrap().free_bytes > 0);
    write_atomically(disk, p("a/h"), b"one").unwrap();
    write_atomically(disk, p("a/h"), b"two").unwrap();
    assert_eq!(read_file(disk, p("a/h"), 10).unwrap(), b"two");
    assert!(matches!(
        read_file(disk, p("a/h"), 2),
        Err(StoreError::TooLarge { size: 3, limit: 2, .. })
    ));
}

#[test]
fn simulated_disk_keeps_the_rules() {
    check_rules(&SimDisk::new());
}

#[test]
fn real_disk_keeps_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    check_rules(&RealDisk::open(dir.path()).unwrap());
}

#[test]
fn real_disk_refuses_paths_out_of_its_root_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path().join("root")).unwrap();
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("root/link")).unwrap();
    for path in ["../secret", "/etc/passwd", "a/../../secret", "."] {
        assert!(
            matches!(disk.open(p(path)), Err(StoreError::OutsideRoot { .. })),
            "{path}"
        );
    }
    assert!(disk.open(p("link")).is_err());
}

#[test]
fn publish_survives_power_cut_at_every_operation() {
    let mut cuts = 0;
    for at in 1.. {
        let disk = SimDisk::new();
        write_atomically(&disk, p("f"), &[1; 3000]).unwrap();
        disk.fail_at(at, Fault::PowerCut);
        let done = write_atomically(&disk, p("f"), &[2; 5000]).is_ok();
        for seed in 0..200 {
            let after = disk.crash(seed);
            let content = read_file(&after, p("f"), 1 << 20).unwrap();
            assert!(
                content == [2; 5000] || (!done && content == [1; 3000]),
                "cut at {at}, seed {seed}"
            );
            cuts += 1;
        }
        if !disk.is_off() {
            break;
        }
    }
    assert!(cuts > 1000);
}

#[test]
fn publish_with_error_at_every_operation_leaves_no_temporary_file() {
    for fault in [Fault::Eio, Fault::Enospc] {
        for at in 1..8 {
            let disk = SimDisk::new();
            write_atomically(&disk, p("f"), b"old").unwrap();
            disk.fail_at(at, fault);
            let result = write_atomically(&disk, p("f"), b"new");
            disk.heal();
            let content = read_file(&disk, p("f"), 100).unwrap();
            assert!(
                content == b"new" || (result.is_err() && content == b"old"),
                "{fault:?} at {at}"
            );
            assert_eq!(disk.files(), [p("f")], "{fault:?} at {at}");
            if let Err(error) = result {
                assert_eq!(error.is_no_space(), fault == Fault::Enospc, "{error}");
            }
        }
    }
}

#[test]
fn simulated_crash_without_sync_really_loses_and_garbles() {
    let disk = SimDisk::new();
    let file = disk.create_new(p("f")).unwrap();
    disk.sync_dir(p("")).unwrap();
    file.write_at(&[7; 2048], 0).unwrap();
    let outcomes: Vec<_> = (0..100)
        .map(|seed| read_file(&disk.crash(seed), p("f"), 4096).unwrap())
        .collect();
    assert!(outcomes.iter().any(Vec::is_empty), "dropped");
    assert!(outcomes.contains(&vec![7; 2048]), "kept");
    assert!(outcomes.iter().any(|content| *content == [7; 1024]), "torn");
    assert!(
        outcomes
            .iter()
            .any(|content| content.len() == 2048 && *content != [7; 2048]),
        "garbage"
    );
}

#[test]
fn failed_sync_is_never_made_good_by_a_later_one() {
    let disk = SimDisk::new();
    let file = disk.create_new(p("f")).unwrap();
    disk.sync_dir(p("")).unwrap();
    file.write_at(&[7; 512], 0).unwrap();
    disk.fail_at(1, Fault::Eio);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert!((0..100).any(|seed| read_file(&disk.crash(seed), p("f"), 4096).unwrap() != [7; 512]));
}

#[test]
fn full_disk_gives_no_space_and_recovers_after_removal() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(8192));
    write_atomically(&disk, p("a"), &[1; 8000]).unwrap();
    let error = publish_atomically(&disk, p("b"), |file| file.write_at(&[1; 10], 0)).unwrap_err();
    assert!(error.is_no_space() && error.to_string().contains("b.tmp"), "{error}");
    assert!(disk.metadata(&tmp_path(p("b"))).is_err());
    disk.remove(p("a")).unwrap();
    write_atomically(&disk, p("b"), &[1; 10]).unwrap();
}
