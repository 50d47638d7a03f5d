//! Large whole objects after a restart: opened without being read, verified as they are read.

use std::path::Path;
use std::sync::Arc;

use instantmirror_core::conformance::{ReadNow as _, WriteNow as _};
use instantmirror_core::outboard::GROUP_BYTES;
use instantmirror_core::traits::{ObjectCache, ObjectHandle, Objects};
use instantmirror_core::{CacheError, ObjectId};

use super::{GROUP, audit, content, files_in, now, outboard, put, read};
use crate::cache::{CacheOptions, DiskCache, VerifyWhen, layout};
use crate::disk::{Disk, SimDisk};

const GROUPS: usize = 40;

fn start(disk: &SimDisk, verify: VerifyWhen) -> DiskCache {
    let options = CacheOptions {
        verify,
        ..CacheOptions::default()
    };
    DiskCache::open(Arc::new(disk.clone()), options).unwrap()
}

/// A disk with one large object, after the process that fetched it ended.
fn filled(data: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    put(&start(&disk, VerifyWhen::FirstUse), data).unwrap();
    disk
}

fn handle(cache: &DiskCache, data: &[u8]) -> Arc<dyn ObjectHandle> {
    now(cache.open(&ObjectId::of(data))).unwrap().unwrap()
}

fn rot(disk: &SimDisk, data: &[u8], at: impl IntoIterator<Item = usize>) {
    let path = layout::object_path(&ObjectId::of(data));
    disk.tamper(path, |bytes| at.into_iter().for_each(|at| bytes[at] ^= 1))
        .unwrap();
}

#[test]
fn a_read_of_the_tail_after_a_restart_reads_the_tail_only() {
    for verify in [VerifyWhen::FirstUse, VerifyWhen::Always, VerifyWhen::Doubtful] {
        let data = content(1, GROUPS * GROUP + 9);
        let disk = filled(&data);
        // Whoever reads any group but the last two finds out.
        rot(&disk, &data, (0..GROUPS - 1).map(|group| group * GROUP));
        let cache = start(&disk, verify);
        let before = disk.operations();
        let handle = handle(&cache, &data);
        let end = data.len() as u64;
        assert_eq!(handle.read_now(end - 20..end).unwrap(), data[data.len() - 20..]);
        assert!(
            disk.operations() - before < 12,
            "{verify:?}: {}",
            disk.operations() - before
        );
        assert!(handle.descriptor().is_none());
        assert_eq!(cache.usage().damaged, 0);
    }
}

#[test]
fn rot_in_one_group_is_found_when_it_is_read_and_the_object_is_fetched_again() {
    for verify in [VerifyWhen::FirstUse, VerifyWhen::Always, VerifyWhen::Doubtful] {
        let data = content(1, GROUPS * GROUP);
        let disk = filled(&data);
        rot(&disk, &data, [17 * GROUP + 5]);
        let cache = start(&disk, verify);
        let (first, second) = (handle(&cache, &data), handle(&cache, &data));
        let bad = 17 * GROUP_BYTES;
        assert_eq!(first.read_now(0..bad).unwrap(), data[..17 * GROUP], "{verify:?}");
        for (handle, range) in [
            (&first, bad - 1..bad + 1),
            (&second, bad + 9..bad + 10),
            (&first, bad..bad + 1),
        ] {
            let error = handle.read_now(range).unwrap_err();
            assert!(matches!(error, CacheError::Damaged { .. }), "{verify:?}: {error}");
        }
        assert_eq!((cache.usage().damaged, files_in(&disk, "quarantine")), (1, 1));
        assert_eq!(files_in(&disk, "objects"), 0, "the outboard went with it");
        assert_eq!(read(&cache, &data).unwrap(), None);
        put(&cache, &data).unwrap();
        assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]));
        // Who still holds the damaged one does no harm to the new one.
        assert!(second.read_now(bad..bad + 1).is_err());
        assert!(cache.has_whole(&ObjectId::of(&data)).unwrap());
        drop((first, second));
        audit(&cache);
    }
}

#[test]
fn what_one_handle_has_verified_is_not_verified_again_unless_always() {
    for (verify, found) in [(VerifyWhen::FirstUse, false), (VerifyWhen::Always, true)] {
        let data = content(1, GROUPS * GROUP);
        let disk = filled(&data);
        let cache = start(&disk, verify);
        handle(&cache, &data).read_now(0..5).unwrap();
        rot(&disk, &data, [GROUP - 1]);
        assert_eq!(handle(&cache, &data).read_now(0..5).is_err(), found, "{verify:?}");
    }
}

#[test]
fn a_wholly_verified_object_is_trusted_by_the_next_checkpoint() {
    let data = content(1, GROUPS * GROUP);
    let disk = filled(&data);
    {
        let cache = start(&disk, VerifyWhen::Doubtful);
        let handle = handle(&cache, &data);
        handle.read_now(0..GROUP_BYTES).unwrap();
        now(cache.checkpoint()).unwrap();
        assert!(
            cache.shared.must_verify(&ObjectId::of(&data)),
            "a part is not the whole"
        );
        handle.read_now(0..handle.size()).unwrap();
        assert!(!cache.shared.must_verify(&ObjectId::of(&data)));
        now(cache.checkpoint()).unwrap();
    }
    let cache = start(&disk, VerifyWhen::Doubtful);
    handle(&cache, &data);
    assert!(!cache.shared.must_verify(&ObjectId::of(&data)));
}

#[test]
fn a_missing_or_damaged_outboard_is_made_anew_once() {
    let damages: [fn(&SimDisk, &std::path::Path); 3] = [
        |disk, path| disk.remove(path).unwrap(),
        |disk, path| disk.tamper(path, |bytes| bytes[40] ^= 1).unwrap(),
        |disk, path| disk.tamper(path, Vec::clear).unwrap(),
    ];
    for damage in damages {
        let data = content(1, GROUPS * GROUP + 1);
        let (disk, object) = (filled(&data), ObjectId::of(&data));
        damage(&disk, &layout::kept_outboard_path(&object));
        {
            let cache = start(&disk, VerifyWhen::FirstUse);
            assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]));
            assert_eq!(files_in(&disk, "partial"), 0);
        }
        rot(&disk, &data, [0]);
        let cache = start(&disk, VerifyWhen::FirstUse);
        assert_eq!(now(cache.outboard(&object)).unwrap(), Some(outboard(&data)));
        let last = handle(&cache, &data).read_now(GROUP_BYTES..2 * GROUP_BYTES).unwrap();
        assert_eq!(last, data[GROUP..2 * GROUP]);
    }
}

#[test]
fn an_outboard_leaves_with_its_object_and_orphans_leave_at_the_start() {
    let data = content(1, 3 * GROUP);
    let disk = filled(&data);
    assert_eq!(files_in(&disk, "objects"), 2);
    let cache = start(&disk, VerifyWhen::FirstUse);
    assert!(now(cache.remove(&ObjectId::of(&data))).unwrap());
    assert_eq!(files_in(&disk, "objects"), 0);
    put(&cache, &data).unwrap();
    drop(cache);
    disk.remove(&layout::object_path(&ObjectId::of(&data))).unwrap();
    let cache = start(&disk, VerifyWhen::FirstUse);
    cache.load().unwrap();
    assert_eq!((files_in(&disk, "objects"), cache.usage().damaged), (0, 0));
}

#[test]
fn a_file_that_was_cut_or_extended_is_not_taken_for_the_object() {
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 3] = [
        |bytes| bytes.truncate(GROUPS * GROUP + 5),
        |bytes| bytes.push(0),
        |bytes| bytes.truncate(20 * GROUP),
    ];
    for change in changes {
        let data = content(1, GROUPS * GROUP + 9);
        let disk = filled(&data);
        disk.tamper(layout::object_path(&ObjectId::of(&data)), change).unwrap();
        let cache = start(&disk, VerifyWhen::FirstUse);
        // Filling it with its true size finds out, and begins anew.
        put(&cache, &data).unwrap();
        assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]));
        assert_eq!(cache.usage().damaged, 1);
        audit(&cache);
    }
}

/// Whoever begins a fill waits for no directory: files come with the first group, and none stay if there is none.
#[test]
fn a_fill_has_no_files_before_its_first_group() {
    let (disk, data) = (SimDisk::new(), content(1, 3 * GROUP));
    let cache = start(&disk, VerifyWhen::FirstUse);
    let partials = || disk.list(Path::new(layout::PARTIAL)).unwrap().len();
    for is_written in [false, true] {
        let fill = now(cache.fill(&ObjectId::of(&data), data.len() as u64)).unwrap();
        fill.set_outboard_now(outboard(&data)).unwrap();
        assert!(fill.handle().descriptor().is_none());
        assert_eq!(partials(), 0);
        if is_written {
            fill.write_now(0, &data[..GROUP]).unwrap();
            assert_eq!(partials(), 3, "content, outboard, map");
        }
        drop(fill);
        audit(&cache);
        assert_eq!(partials(), if is_written { 3 } else { 0 });
    }
}
