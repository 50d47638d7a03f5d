//! Media faults: each kind of damage against each way of verifying, and what a checker finds.

use std::collections::HashSet;
use std::sync::Arc;

use instantmirror_core::traits::{ObjectCache, Objects};
use instantmirror_core::{CacheError, ObjectId};

use super::{GROUP, audit, files_in, now, put, read};
use crate::cache::{CacheOptions, DiskCache, Finding, Subset, VerifyWhen, layout};
use crate::disk::{Disk, Fault, SimDisk};

const OBJECTS: usize = 1000;

/// A few of more than a group, the others small.
fn content(number: usize) -> Vec<u8> {
    let len = if number % 100 == 7 {
        2 * GROUP + number
    } else {
        50 + number
    };
    let mut data = vec![u8::try_from(number % 251).unwrap(); len];
    data[..8].copy_from_slice(&(number as u64).to_le_bytes());
    data
}

fn start(disk: &SimDisk, verify: VerifyWhen) -> DiskCache {
    let options = CacheOptions {
        verify,
        ..CacheOptions::default()
    };
    let cache = DiskCache::open(Arc::new(disk.clone()), options).unwrap();
    cache.load().unwrap();
    cache
}

/// A disk with a thousand objects that an earlier process has written down as right.
fn filled() -> SimDisk {
    let disk = SimDisk::new();
    let cache = start(&disk, VerifyWhen::FirstUse);
    (0..OBJECTS).for_each(|number| put(&cache, &content(number)).unwrap());
    now(cache.checkpoint()).unwrap();
    disk
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    BitRot,
    Cut,
    Extended,
    Emptied,
    Foreign,
    Swapped,
    Vanished,
}

const ALL: [Damage; 7] = [
    Damage::BitRot,
    Damage::Cut,
    Damage::Extended,
    Damage::Emptied,
    Damage::Foreign,
    Damage::Swapped,
    Damage::Vanished,
];

/// Damages every ninth object. Returns which.
fn damage(disk: &SimDisk, kind: Damage) -> HashSet<usize> {
    let path = |number: usize| layout::object_path(&ObjectId::of(&content(number)));
    let mut hit = HashSet::new();
    for number in (0..OBJECTS - 1).step_by(9) {
        let at = number * 31 % content(number).len();
        let changed = match kind {
            Damage::BitRot => disk.tamper(path(number), |bytes| bytes[at] ^= 1),
            Damage::Cut => disk.tamper(path(number), |bytes| bytes.truncate(at)),
            Damage::Extended => disk.tamper(path(number), |bytes| bytes.push(0)),
            Damage::Emptied => disk.tamper(path(number), Vec::clear),
            Damage::Foreign => disk.tamper(path(number), |bytes| bytes.fill(b'?')),
            Damage::Swapped => {
                let other = content(number + 1);
                hit.insert(number + 1);
                disk.tamper(path(number + 1), |bytes| *bytes = content(number))
                    .and_then(|()| disk.tamper(path(number), |bytes| *bytes = other))
            }
            Damage::Vanished => disk.remove(&path(number)),
        };
        changed.unwrap();
        hit.insert(number);
    }
    hit
}

#[test]
fn no_corrupt_byte_is_served_at_first_use_or_always() {
    for verify in [VerifyWhen::FirstUse, VerifyWhen::Always] {
        for kind in ALL {
            let disk = filled();
            let hit = damage(&disk, kind);
            let cache = start(&disk, verify);
            for number in 0..OBJECTS {
                match read(&cache, &content(number)) {
                    Ok(Some(found)) => {
                        assert!(found == content(number), "{verify:?} {kind:?}: wrong bytes of {number}");
                    }
                    Ok(None) | Err(CacheError::Damaged { .. }) => assert!(hit.contains(&number), "{verify:?} {kind:?}"),
                    Err(error) => panic!("{verify:?} {kind:?}: {error}"),
                }
            }
            let expected = if kind == Damage::Vanished { 0 } else { hit.len() as u64 };
            assert_eq!(cache.usage().damaged, expected, "{verify:?} {kind:?}");
            assert!(files_in(&disk, "quarantine") <= 32);
            // Fetched again, it is served.
            for number in &hit {
                put(&cache, &content(*number)).unwrap();
                assert_eq!(read(&cache, &content(*number)).unwrap(), Some(content(*number)));
            }
            audit(&cache);
        }
    }
}

#[test]
fn always_finds_what_rots_while_the_process_runs() {
    for kind in [Damage::BitRot, Damage::Cut, Damage::Foreign, Damage::Swapped] {
        let disk = filled();
        let cache = start(&disk, VerifyWhen::Always);
        for number in 0..OBJECTS {
            assert_eq!(read(&cache, &content(number)).unwrap(), Some(content(number)));
        }
        let hit = damage(&disk, kind);
        for number in 0..OBJECTS {
            match read(&cache, &content(number)) {
                Ok(Some(found)) => assert!(found == content(number) && !hit.contains(&number), "{kind:?}"),
                other => assert!(hit.contains(&number), "{kind:?}: {:?}", other.map(drop)),
            }
        }
    }
}

/// Without verification a file's length is looked at, and nothing else: what `verify = "filesystem"` means.
#[test]
fn the_file_system_is_trusted_for_content_and_not_for_lengths() {
    for (kind, is_found) in [(Damage::BitRot, false), (Damage::Cut, true), (Damage::Extended, true)] {
        let disk = filled();
        let cache = start(&disk, VerifyWhen::Doubtful);
        let hit = damage(&disk, kind);
        for number in hit {
            let found = now(cache.open(&ObjectId::of(&content(number))));
            assert_eq!(found.is_err(), is_found, "{kind:?}");
        }
    }
    // A file that was replaced since it was written down has another time.
    let disk = filled();
    let path = layout::object_path(&ObjectId::of(&content(1)));
    disk.remove(&path).unwrap();
    let replaced = disk.create_new(&path).unwrap();
    replaced.write_at(&vec![b'?'; content(1).len()], 0).unwrap();
    assert!(read(&start(&disk, VerifyWhen::Doubtful), &content(1)).is_err());
}

fn check(cache: &DiskCache, subset: Subset) -> (u64, Vec<Finding>) {
    let mut checker = cache.check(subset).unwrap();
    let (mut objects, mut findings) = (0, Vec::new());
    while let Some(step) = checker.step().unwrap() {
        objects += step.objects;
        findings.extend(step.findings);
    }
    (objects, findings)
}

#[test]
fn a_checker_finds_every_damage_and_nothing_else() {
    for kind in ALL {
        let disk = filled();
        let cache = start(&disk, VerifyWhen::Doubtful);
        let hit = damage(&disk, kind);
        let (_, findings) = check(&cache, Subset::ALL);
        let found: HashSet<_> = findings.iter().filter_map(Finding::lost).collect();
        let expected: HashSet<_> = hit.iter().map(|number| ObjectId::of(&content(*number))).collect();
        assert_eq!(found, expected, "{kind:?}");
        assert_eq!(findings.len(), hit.len());
        // They are gone, and are told once.
        for number in &hit {
            assert_eq!(read(&cache, &content(*number)).unwrap(), None);
        }
        let (objects, findings) = check(&cache, Subset::ALL);
        assert_eq!((objects, findings), ((OBJECTS - hit.len()) as u64, vec![]));
        audit(&cache);
    }
}

#[test]
fn a_checker_finds_files_that_do_not_belong_there() {
    let disk = filled();
    let cache = start(&disk, VerifyWhen::Doubtful);
    let stray = layout::object_path(&ObjectId::of(b"stray"));
    disk.create_dir_all(stray.parent().unwrap()).unwrap();
    disk.create_new(&stray).unwrap().write_at(b"not stray", 0).unwrap();
    let readme = stray.with_file_name("README");
    disk.create_new(&readme).unwrap();
    let lonely = stray.with_extension("cvs");
    disk.create_new(&lonely).unwrap();
    let (_, findings) = check(&cache, Subset::ALL);
    let paths: HashSet<_> = findings
        .iter()
        .map(|finding| match finding {
            Finding::Foreign { path } => path.clone(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(paths, HashSet::from([stray, readme, lonely]));
    assert_eq!(check(&cache, Subset::ALL).1, vec![]);
    assert!(read(&cache, b"stray").unwrap().is_none());
    audit(&cache);
}

#[test]
fn all_parts_together_are_everything_once() {
    let disk = filled();
    let cache = start(&disk, VerifyWhen::Doubtful);
    let hit = damage(&disk, Damage::BitRot);
    let (mut objects, mut found) = (0, 0);
    for part in 1..=7 {
        let (read, findings) = check(&cache, Subset::new(part, 7).unwrap());
        assert!(read < OBJECTS as u64 / 3, "a part is a part");
        objects += read;
        found += findings.len();
    }
    assert_eq!((objects, found), (OBJECTS as u64, hit.len()));
    assert_eq!(
        (Subset::new(0, 7), Subset::new(8, 7), Subset::new(1, 0)),
        (None, None, None)
    );
}

#[test]
fn a_check_is_no_use_and_mends_outboards() {
    let disk = filled();
    let large = content(7);
    let outboard = layout::kept_outboard_path(&ObjectId::of(&large));
    disk.tamper(&outboard, |bytes| bytes[3] ^= 1).unwrap();
    let cache = start(&disk, VerifyWhen::Doubtful);
    let order = |cache: &DiskCache| cache.shared.table().take_dirty().len();
    order(&cache);
    assert_eq!(check(&cache, Subset::ALL).1, vec![]);
    assert_eq!(
        order(&cache),
        OBJECTS,
        "all were verified: that is worth to be written down"
    );
    now(cache.checkpoint()).unwrap();
    check(&cache, Subset::ALL);
    assert_eq!(order(&cache), 0, "and nothing else");
    let size = large.len() as u64;
    assert!(cache.shared.load_outboard(ObjectId::of(&large), size).is_some());
}

#[test]
fn what_was_adopted_unhashed_is_hashed_by_its_first_reader_in_every_mode() {
    use crate::import::{ImportOptions, ImportRequest};
    use crate::tree::SourceTree;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("good"), "good").unwrap();
    std::fs::write(dir.path().join("bad!"), "bad!").unwrap();
    let tree = SourceTree::open(dir.path()).unwrap();
    for verify in [VerifyWhen::FirstUse, VerifyWhen::Always, VerifyWhen::Doubtful] {
        let cache = start(&SimDisk::new(), verify);
        for (name, claimed) in [("good", b"good"), ("bad!", b"evil")] {
            let file = tree
                .open_file(&instantmirror_core::RepoPath::new(name).unwrap())
                .unwrap();
            let request = ImportRequest {
                source: &file,
                object: ObjectId::of(claimed),
                options: ImportOptions {
                    reflink: false,
                    hardlink: false,
                },
            };
            cache.adopt(&request, false).unwrap();
        }
        assert_eq!(read(&cache, b"good").unwrap().as_deref(), Some(&b"good"[..]));
        assert!(
            matches!(read(&cache, b"evil"), Err(CacheError::Damaged { .. })),
            "{verify:?}"
        );
        assert_eq!(cache.usage().damaged, 1);
    }
}

/// A file system that checks content says so by EIO, and says it whenever the file is read.
#[test]
fn what_the_disk_cannot_read_is_put_aside_and_fetched_again_in_every_mode() {
    for verify in [VerifyWhen::FirstUse, VerifyWhen::Always, VerifyWhen::Doubtful] {
        for number in [3, 7] {
            let (disk, data) = (filled(), content(number));
            disk.make_unreadable(layout::object_path(&ObjectId::of(&data))).unwrap();
            let cache = start(&disk, verify);
            let read_once = read(&cache, &data);
            assert!(
                matches!(read_once, Err(CacheError::Damaged { .. })),
                "{verify:?} {number}: {read_once:?}"
            );
            assert_eq!(read(&cache, &data).unwrap(), None);
            assert_eq!(cache.usage().damaged, 1);
            put(&cache, &data).unwrap();
            assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]));
            audit(&cache);
        }
    }
}

/// The process has too many files open, as any daemon may for a moment: nothing of that is the objects' fault.
#[test]
fn a_checker_that_may_open_nothing_leaves_everything_where_it_is() {
    let disk = SimDisk::new();
    let cache = start(&disk, VerifyWhen::FirstUse);
    (0..40).for_each(|number| put(&cache, &content(number)).unwrap());
    let mut checker = cache.check(Subset::ALL).unwrap();
    for _ in 0..256 {
        checker.step().unwrap();
    }
    disk.fail_at(1, Fault::Emfile);
    assert!(checker.step().is_err());
    assert_eq!(cache.usage().damaged, 0);
    // And it goes on where it was.
    let mut read = 0;
    while let Some(checked) = checker.step().unwrap() {
        assert!(checked.findings.is_empty());
        read += checked.objects;
    }
    assert_eq!(read, 40);
}
