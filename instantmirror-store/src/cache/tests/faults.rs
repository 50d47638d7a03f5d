//! Power cuts, kills, failing operations, and random use with all of them.

use std::collections::HashMap;
use std::sync::Arc;

use instantmirror_core::conformance::{ReadNow as _, WriteNow as _};
use instantmirror_core::outboard::GROUP_BYTES;
use instantmirror_core::traits::{ObjectCache, ObjectFill, ObjectHandle, Objects};
use instantmirror_core::{CacheError, ObjectId};
use proptest::prelude::*;

use super::{GROUP, audit, begin, content, files_in, now, open, options, put, read};
use crate::cache::fill::Lease;
use crate::cache::partial::Partial;
use crate::cache::{CacheLimits, DiskCache, cache_error, layout};
use crate::disk::{Disk, Fault, RealDisk, SimDisk};

/// Puts objects of several shapes with checkpoints in between; `done` learns what a checkpoint acknowledged.
fn workload(disk: &SimDisk, done: &mut Vec<u8>) -> Result<(), CacheError> {
    let cache = match DiskCache::open(Arc::new(disk.clone()), options(Some(20 * GROUP_BYTES))) {
        Ok(cache) => cache,
        Err(error) => return Err(cache_error(error)),
    };
    for number in 0..4 {
        put(&cache, &shape(number))?;
        if number % 2 == 1 {
            now(cache.checkpoint())?;
            done.extend([number - 1, number]);
        }
    }
    let partial = shape(4);
    begin(&cache, &partial)?.write_now(0, &partial[..2 * GROUP])?;
    now(cache.checkpoint())
}

fn shape(number: u8) -> Vec<u8> {
    content(
        number,
        [100, GROUP, 2 * GROUP + 9, 5000, 4 * GROUP][usize::from(number)],
    )
}

fn check_after_crash(disk: &SimDisk, acknowledged: &[u8], what: &str) {
    let cache = open(disk, Some(20 * GROUP_BYTES));
    for number in 0..5 {
        let data = shape(number);
        let found = read(&cache, &data);
        match found {
            Ok(Some(found)) => assert_eq!(found, data, "{what}"),
            Ok(None) | Err(CacheError::Damaged { .. }) if !acknowledged.contains(&number) => {}
            other => panic!("{what}: object {number}: {:?}", other.map(|_| "absent")),
        }
    }
    cache.load().unwrap();
    audit(&cache);
    for number in 0..5 {
        put(&cache, &shape(number)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            read(&cache, &shape(number)).unwrap().as_deref(),
            Some(&shape(number)[..]),
            "{what}"
        );
    }
    audit(&cache);
    assert_eq!(
        (files_in(disk, "partial"), files_in(disk, "trash")),
        (0, 0),
        "{what}: {:?}",
        disk.files()
    );
    assert!(
        !disk.files().iter().any(|path| path.to_string_lossy().ends_with(".tmp")),
        "{what}"
    );
}

#[test]
fn power_cut_at_every_operation_of_put_and_checkpoint() {
    let mut cuts = 0;
    for at in 1.. {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::PowerCut);
        let mut done = Vec::new();
        let finished = workload(&disk, &mut done).is_ok();
        for seed in 0..12 {
            check_after_crash(
                &disk.crash(seed * 7919 + at),
                &done,
                &format!("cut at {at}, seed {seed}"),
            );
            cuts += 1;
        }
        if finished && !disk.is_off() {
            break;
        }
    }
    assert!(cuts > 1000, "{cuts}");
}

#[test]
fn kill_at_every_operation_loses_no_finished_object() {
    for at in 1.. {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::PowerCut);
        let finished = workload(&disk, &mut Vec::new()).is_ok();
        check_after_crash(&disk.after_kill(), &[], &format!("kill at {at}"));
        if finished && !disk.is_off() {
            break;
        }
    }
}

#[test]
fn eio_and_enospc_at_every_operation_leave_a_working_cache() {
    for fault in [Fault::Eio, Fault::Enospc] {
        for at in 1..400 {
            let disk = SimDisk::new();
            let cache = open(&disk, Some(6 * GROUP_BYTES));
            disk.fail_at(at, fault);
            for number in 0..5 {
                let _ = put(&cache, &shape(number));
                audit(&cache);
            }
            let _ = now(cache.checkpoint());
            disk.heal();
            for number in 0..5 {
                put(&cache, &shape(number)).unwrap_or_else(|error| panic!("{fault:?} at {at}: {error}"));
                assert_eq!(
                    read(&cache, &shape(number)).unwrap(),
                    Some(shape(number)),
                    "{fault:?} at {at}"
                );
                audit(&cache);
            }
        }
    }
}

/// Whoever streams past a full cache tells by the source that the disk is full.
#[test]
fn a_full_disk_keeps_its_kind_as_the_source_of_the_error() {
    let mut seen = 0;
    for at in 1..30 {
        let disk = SimDisk::new();
        let cache = open(&disk, None);
        cache.load().unwrap();
        disk.fail_at(at, Fault::Enospc);
        if let Err(CacheError::Io { source, .. }) = put(&cache, &shape(4)) {
            let kind = source.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            assert_eq!(kind, Some(std::io::ErrorKind::StorageFull));
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[derive(Clone, Debug)]
enum Op {
    Begin(u8),
    Write(u8, u8),
    Finish(u8),
    End(u8),
    Open(u8),
    Close,
    Remove(u8),
    Fault(u8),
    Checkpoint,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let object = 0u8..6;
    prop_oneof![
        3 => object.clone().prop_map(Op::Begin),
        4 => (object.clone(), 0u8..5).prop_map(|(object, group)| Op::Write(object, group)),
        2 => object.clone().prop_map(Op::Finish),
        2 => object.clone().prop_map(Op::End),
        2 => object.clone().prop_map(Op::Open),
        1 => Just(Op::Close),
        1 => object.prop_map(Op::Remove),
        1 => (1u8..20).prop_map(Op::Fault),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is done in whatever order, with failing operations in between, the account is right, the limit is
    /// kept, and every byte that can be read is the right one.
    #[test]
    fn limit_holds_at_every_instant_of_random_use(ops in prop::collection::vec(op(), 1..60)) {
        let disk = SimDisk::new();
        let max = Some(7 * GROUP_BYTES);
        let objects: Vec<_> = (0..6u8).map(|number| content(number, usize::from(number) * GROUP * 4 / 5 + 1)).collect();
        let mut cache = open(&disk, max);
        let mut fills: HashMap<u8, Arc<dyn ObjectFill>> = HashMap::new();
        let mut handles: Vec<(u8, Arc<dyn ObjectHandle>)> = Vec::new();
        for op in ops {
            match op {
                Op::Begin(number) => {
                    if let Ok(fill) = begin(&cache, &objects[usize::from(number)]) {
                        fills.insert(number, fill);
                    }
                }
                Op::Write(number, group) => {
                    let (data, start) = (&objects[usize::from(number)], usize::from(group) * GROUP);
                    if let Some(fill) = fills.get(&number) && start < data.len() {
                        let _ = fill.write_now(start as u64, &data[start..(start + GROUP).min(data.len())]);
                    }
                }
                Op::Finish(number) => if let Some(fill) = fills.get(&number) { let _ = now(fill.finish()); },
                Op::End(number) => { fills.remove(&number); }
                Op::Open(number) => {
                    if let Ok(Some(handle)) = now(cache.open(&ObjectId::of(&objects[usize::from(number)]))) {
                        handles.push((number, handle));
                    }
                }
                Op::Close => { handles.pop(); }
                Op::Remove(number) => { let _ = now(cache.remove(&ObjectId::of(&objects[usize::from(number)]))); }
                Op::Fault(at) => disk.fail_at(u64::from(at), Fault::Eio),
                Op::Checkpoint => { let _ = now(cache.checkpoint()); }
                Op::Restart => {
                    disk.heal();
                    fills.clear();
                    handles.clear();
                    drop(cache);
                    cache = open(&disk, max);
                    cache.load().unwrap();
                }
            }
            audit(&cache);
            for (number, handle) in &handles {
                for range in handle.present().ranges() {
                    if let Ok(bytes) = handle.read_now(range.clone()) {
                        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
                        prop_assert_eq!(&bytes[..], &objects[usize::from(*number)][start..end]);
                    }
                }
            }
        }
    }
}

/// Whatever the reason, an immutable flag or a directory in its place: what cannot be removed is no reason to keep the rest.
#[test]
fn what_cannot_be_removed_keeps_nothing_else_from_going() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
    let cache = DiskCache::open(disk, options(Some(5 * GROUP_BYTES))).unwrap();
    let path = |data: &[u8]| dir.path().join(layout::object_path(&ObjectId::of(data)));
    let objects: Vec<_> = (0..5).map(|number| content(number, GROUP)).collect();
    objects.iter().for_each(|data| put(&cache, data).unwrap());
    // One becomes a directory, another one is damaged, and its file in quarantine becomes one.
    std::fs::remove_file(path(&objects[0])).unwrap();
    std::fs::create_dir(path(&objects[0])).unwrap();
    assert!(matches!(read(&cache, &objects[0]), Err(CacheError::Damaged { .. })));
    std::fs::remove_file(path(&objects[1])).unwrap();
    std::fs::write(path(&objects[1]), b"damaged").unwrap();
    assert!(matches!(read(&cache, &objects[1]), Err(CacheError::Damaged { .. })));
    let quarantine = dir.path().join("quarantine");
    for item in std::fs::read_dir(quarantine).unwrap().map(Result::unwrap) {
        if item.metadata().unwrap().is_file() {
            std::fs::remove_file(item.path()).unwrap();
            std::fs::create_dir(item.path()).unwrap();
        }
    }
    for number in 10..30 {
        put(&cache, &content(number, GROUP)).unwrap();
        audit(&cache);
    }
    let limits = CacheLimits::bytes(2 * GROUP_BYTES);
    cache.set_limits(limits);
    assert!(cache.shrink().unwrap());
    audit(&cache);
}

/// Reading a large partial object again after a restart takes a while, in which another one may have completed it.
#[test]
fn who_is_late_to_open_a_partial_object_takes_nothing_from_the_whole_one() {
    for lost in [false, true] {
        let disk = SimDisk::new();
        let data = content(1, 3 * GROUP);
        let id = ObjectId::of(&data);
        let cache = open(&disk, None);
        begin(&cache, &data).unwrap().write_now(0, &data[..GROUP]).unwrap();
        now(cache.checkpoint()).unwrap();
        drop(cache);
        let cache = open(&disk, None);
        cache.load().unwrap();
        let generation = cache.shared.table().lease(&id).unwrap();
        let lease = Lease::new(&cache.shared, id, generation);
        let early = (!lost).then(|| Partial::resume(&disk, id));
        let fill = begin(&cache, &data).unwrap();
        fill.write_now(0, &data).unwrap();
        now(fill.finish()).unwrap();
        drop(fill);
        let late = early.unwrap_or_else(|| Partial::resume(&disk, id));
        let _ = cache.shared.take_up(&lease, late.ok().map(Arc::new)).unwrap();
        drop(lease);
        audit(&cache);
        assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]), "{lost}");
        assert!(now(cache.remove(&id)).unwrap());
        assert_eq!((cache.usage().used_bytes, cache.usage().side_bytes), (0, 0), "{lost}");
    }
}
