//! The cache against random use, lost power, failing disks and bit rot, on the simulated disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod lazy;
mod limits;
mod observed;
mod record;
mod rot;

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use instantmirror_core::conformance::{ReadNow as _, WriteNow as _};
use instantmirror_core::expiry::{PolicyKind, Standing};
use instantmirror_core::outboard::{GROUP_BYTES, ObjectHasher, Outboard};
use instantmirror_core::traits::{ObjectCache, ObjectFill, Objects};
use instantmirror_core::{CacheError, ObjectId};

use super::{CacheLimits, CacheOptions, Capacity, DiskCache, PinSet, VerifyWhen, layout};
use crate::disk::{Disk, SimDisk};
use crate::error::StoreError;

const GROUP: usize = 64 * 1024;
/// Room for the files beside a few objects.
const SIDE: u64 = 2000;

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the disk cache never waits")
}

/// Every 1000 bytes differ from those before, and each number from all others.
fn content(number: u8, len: usize) -> Vec<u8> {
    let mut data = vec![number; len];
    for (i, part) in data.chunks_mut(1000).enumerate() {
        part.fill(u8::try_from(i % 251).unwrap() ^ number);
    }
    data
}

fn outboard(data: &[u8]) -> Outboard {
    let mut hasher = ObjectHasher::new();
    hasher.update(data);
    hasher.finish()
}

fn options(max_bytes: Option<u64>) -> CacheOptions {
    let mut limits = CacheLimits::default();
    limits.max_bytes = max_bytes;
    CacheOptions {
        limits,
        verify: VerifyWhen::Doubtful,
        policy: PolicyKind::Lru,
    }
}

fn open(disk: &SimDisk, max_bytes: Option<u64>) -> DiskCache {
    DiskCache::open(Arc::new(disk.clone()), options(max_bytes)).unwrap()
}

fn begin(cache: &DiskCache, data: &[u8]) -> Result<Arc<dyn ObjectFill>, CacheError> {
    let fill = now(cache.fill(&ObjectId::of(data), data.len() as u64))?;
    fill.set_outboard_now(outboard(data))?;
    Ok(fill)
}

fn put(cache: &DiskCache, data: &[u8]) -> Result<(), CacheError> {
    let fill = begin(cache, data)?;
    fill.write_now(0, data)?;
    now(fill.finish())
}

fn read(cache: &DiskCache, data: &[u8]) -> Result<Option<Vec<u8>>, CacheError> {
    let Some(handle) = now(cache.open(&ObjectId::of(data)))? else {
        return Ok(None);
    };
    assert_eq!(handle.size(), data.len() as u64);
    if !handle.is_complete() {
        for range in handle.present().ranges() {
            let (start, end) = (
                usize::try_from(range.start).unwrap(),
                usize::try_from(range.end).unwrap(),
            );
            assert_eq!(handle.read_now(range.clone())?, data[start..end]);
        }
        return Ok(None);
    }
    handle.read_now(0..handle.size()).map(|bytes| Some(bytes.to_vec()))
}

fn audit(cache: &DiskCache) {
    let table = cache.shared.table();
    let (quarantine, stuck) = (
        cache.shared.quarantine.lock().unwrap(),
        cache.shared.stuck.lock().unwrap(),
    );
    let quarantined: u64 = quarantine.iter().chain(&*stuck).map(|(_, bytes)| bytes).sum();
    let (held, reserved, side) = table.audit();
    assert_eq!((table.used(), table.reserved()), (held + quarantined, reserved));
    assert_eq!(table.side(), side);
    let max = table.limits.max_bytes.unwrap_or(u64::MAX);
    assert!(
        table.used() + table.reserved() + side <= max,
        "{} + {} + {side}",
        table.used(),
        table.reserved()
    );
}

fn files_in(disk: &SimDisk, dir: &str) -> usize {
    disk.files().iter().filter(|path| path.starts_with(dir)).count()
}

#[test]
fn whole_objects_of_every_shape_come_back() {
    let disk = SimDisk::new();
    let cache = open(&disk, None);
    for (number, len) in [0, 1, GROUP - 1, GROUP, GROUP + 1, 5 * GROUP + 77]
        .into_iter()
        .enumerate()
    {
        let data = content(u8::try_from(number).unwrap(), len);
        put(&cache, &data).unwrap();
        assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]), "{len}");
        assert_eq!(
            now(cache.outboard(&ObjectId::of(&data))).unwrap(),
            Some(outboard(&data))
        );
        assert!(cache.has_whole(&ObjectId::of(&data)).unwrap());
        audit(&cache);
    }
    assert_eq!(files_in(&disk, "partial"), 0);
    assert_eq!(
        now(cache.open(&ObjectId::of(b"unknown")))
            .unwrap()
            .map(|handle| handle.size()),
        None
    );
    let wrong = now(cache.fill(&ObjectId::of(&content(1, 1)), 2)).unwrap_err();
    assert!(matches!(wrong, CacheError::Verify(_)), "{wrong}");
    assert!(
        now(cache.fill(&ObjectId::of(b"x"), 0)).is_err(),
        "only nothing has no bytes"
    );
}

#[test]
fn forged_content_is_refused_and_leaves_no_trace() {
    let disk = SimDisk::new();
    let cache = open(&disk, Some(10 * GROUP_BYTES));
    let data = content(1, 3 * GROUP);
    let mut forged = data.clone();
    forged[GROUP + 5] ^= 1;
    let fill = begin(&cache, &data).unwrap();
    assert!(matches!(fill.write_now(0, &forged), Err(CacheError::Verify(_))));
    assert!(matches!(
        now(cache.fill(&ObjectId::of(&data), 3 * GROUP_BYTES)),
        Err(CacheError::Busy(_))
    ));
    assert!(matches!(now(fill.finish()), Err(CacheError::Absent { .. })));
    assert!(fill.handle().present().is_empty());
    drop(fill);
    audit(&cache);
    assert_eq!(cache.usage().used_bytes + cache.usage().reserved_bytes, 0);
    assert_eq!((files_in(&disk, "partial"), files_in(&disk, "trash")), (0, 0));
}

#[test]
fn readers_see_groups_as_they_come_and_outlive_the_end_of_the_fill() {
    let cache = open(&SimDisk::new(), None);
    let data = content(1, 3 * GROUP);
    let fill = begin(&cache, &data).unwrap();
    let reader = now(cache.open(&ObjectId::of(&data))).unwrap().unwrap();
    fill.write_now(2 * GROUP_BYTES, &data[2 * GROUP..]).unwrap();
    assert_eq!(
        reader.read_now(2 * GROUP_BYTES..3 * GROUP_BYTES).unwrap(),
        data[2 * GROUP..]
    );
    assert!(matches!(reader.read_now(0..1), Err(CacheError::Absent { .. })));
    fill.write_now(0, &data).unwrap();
    now(fill.finish()).unwrap();
    drop(fill);
    assert_eq!(reader.read_now(0..3 * GROUP_BYTES).unwrap(), data);
    assert!(now(cache.remove(&ObjectId::of(&data))).unwrap());
    assert_eq!(reader.read_now(5..9).unwrap(), data[5..9]);
    assert_eq!(
        cache.usage().used_bytes,
        3 * GROUP_BYTES,
        "an open object still takes its space"
    );
    drop(reader);
    assert_eq!(cache.usage().used_bytes, 0);
}

#[test]
fn killed_process_loses_at_most_the_last_unnoted_groups() {
    let disk = SimDisk::new();
    let cache = open(&disk, None);
    let data = content(1, 200 * GROUP);
    let fill = begin(&cache, &data).unwrap();
    for group in (0..150).rev() {
        fill.write_now(
            group * GROUP_BYTES,
            &data[usize::try_from(group).unwrap() * GROUP..][..GROUP],
        )
        .unwrap();
    }
    let after = disk.after_kill();
    let cache = open(&after, None);
    let handle = now(cache.open(&ObjectId::of(&data))).unwrap().unwrap();
    let kept = handle.present().len();
    assert!((86 * GROUP_BYTES..150 * GROUP_BYTES).contains(&kept), "{kept}");
    let fill = begin(&cache, &data).unwrap();
    assert_eq!(fill.handle().present().len(), kept, "resumed");
    fill.write_now(0, &data).unwrap();
    now(fill.finish()).unwrap();
    assert_eq!(read(&cache, &data).unwrap(), Some(data));
}

#[test]
fn restart_keeps_partial_objects_and_drops_groups_that_rotted() {
    let disk = SimDisk::new();
    let data = content(1, 9 * GROUP);
    let name = layout::partial_path(&ObjectId::of(&data));
    {
        let cache = open(&disk, None);
        let fill = begin(&cache, &data).unwrap();
        fill.write_now(0, &data[..5 * GROUP]).unwrap();
    }
    disk.tamper(&name, |bytes| bytes[GROUP + 9] ^= 1).unwrap();
    let cache = open(&disk, Some(9 * GROUP_BYTES + SIDE));
    cache.load().unwrap();
    assert_eq!(cache.usage().used_bytes, 5 * GROUP_BYTES);
    let handle = now(cache.open(&ObjectId::of(&data))).unwrap().unwrap();
    assert_eq!(
        handle.present().ranges(),
        [0..GROUP_BYTES, 2 * GROUP_BYTES..5 * GROUP_BYTES]
    );
    audit(&cache);
    put(&cache, &data).unwrap();
    audit(&cache);
    assert_eq!(read(&cache, &data).unwrap(), Some(data));
}

#[test]
fn damaged_side_files_cost_the_partial_object_and_nothing_else() {
    for damage in ["map", "cvs", "cut"] {
        let disk = SimDisk::new();
        let data = content(1, 9 * GROUP);
        {
            let fill = begin(&open(&disk, None), &data).unwrap();
            fill.write_now(0, &data[..5 * GROUP]).unwrap();
        }
        let object = ObjectId::of(&data);
        let (path, len) = match damage {
            "map" => (layout::map_path(&object), None),
            "cvs" => (layout::outboard_path(&object), None),
            _ => (layout::partial_path(&object), Some(8 * GROUP + 9)),
        };
        disk.tamper(&path, |bytes| match len {
            Some(len) => bytes.truncate(len),
            None => bytes[20] ^= 1,
        })
        .unwrap();
        let cache = open(&disk, None);
        assert_eq!(read(&cache, &data).unwrap(), None, "{damage}");
        put(&cache, &data).unwrap();
        assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]), "{damage}");
        audit(&cache);
    }
}

#[test]
fn nothing_goes_before_it_is_known_what_is_held() {
    let disk = SimDisk::new();
    let data: Vec<_> = (0..8).map(|number| content(number, GROUP)).collect();
    let cache = open(&disk, Some(4 * GROUP_BYTES));
    for data in &data[..4] {
        put(&cache, data).unwrap();
    }
    cache.hold(None).unwrap();
    assert!(matches!(begin(&cache, &data[4]), Err(CacheError::Full { .. })));
    // Two that are here, the oldest, and one that is yet to come.
    let held = [0, 1, 5].map(|number: usize| ObjectId::of(&data[number]));
    cache.hold(Some(held.into_iter().collect())).unwrap();
    for number in [4, 5, 6] {
        put(&cache, &data[number]).unwrap();
        audit(&cache);
    }
    for number in [0, 1, 5, 6] {
        assert!(read(&cache, &data[number]).unwrap().is_some(), "{number}");
    }
    cache.hold(Some([].into_iter().collect())).unwrap();
    for number in [2, 3, 4, 7] {
        put(&cache, &data[number]).unwrap();
    }
    for number in [0, 1, 5] {
        assert!(read(&cache, &data[number]).unwrap().is_none(), "{number}");
    }
}

#[test]
fn least_recently_used_goes_first_but_never_open_pinned_or_filling() {
    let disk = SimDisk::new();
    let cache = open(&disk, Some(4 * GROUP_BYTES));
    let data: Vec<_> = (0..8).map(|number| content(number, GROUP)).collect();
    for data in &data[..4] {
        put(&cache, data).unwrap();
    }
    read(&cache, &data[0]).unwrap();
    put(&cache, &data[4]).unwrap();
    assert_eq!(read(&cache, &data[1]).unwrap(), None, "the oldest went");
    assert!(read(&cache, &data[0]).unwrap().is_some());
    let open_one = now(cache.open(&ObjectId::of(&data[2]))).unwrap().unwrap();
    cache.pin(&ObjectId::of(&data[3]));
    put(&cache, &data[5]).unwrap();
    put(&cache, &data[6]).unwrap();
    assert!(read(&cache, &data[2]).unwrap().is_some() && read(&cache, &data[3]).unwrap().is_some());
    let fill = begin(&cache, &data[7]).unwrap();
    let other = begin(&cache, &data[0]).unwrap();
    assert!(matches!(begin(&cache, &data[1]), Err(CacheError::Full { .. })));
    drop((fill, other, open_one));
    assert!(matches!(
        begin(&cache, &content(9, 5 * GROUP)),
        Err(CacheError::TooLarge { .. })
    ));
    assert!(cache.usage().evicted >= 4);
    audit(&cache);
}

#[test]
fn object_count_and_free_space_floor_are_kept() {
    let disk = SimDisk::new();
    let mut limits = CacheLimits::default();
    limits.max_objects = Some(3);
    let cache = DiskCache::open(
        Arc::new(disk.clone()),
        CacheOptions {
            limits,
            ..CacheOptions::default()
        },
    )
    .unwrap();
    for number in 0..10 {
        put(&cache, &content(number, 10)).unwrap();
        assert!(cache.usage().objects <= 3);
    }
    drop(cache);
    let disk = SimDisk::new();
    disk.set_capacity(Some(20 * GROUP_BYTES));
    let mut limits = CacheLimits::default();
    limits.keep_free_bytes = 10 * GROUP_BYTES + 100;
    let cache = DiskCache::open(
        Arc::new(disk.clone()),
        CacheOptions {
            limits,
            ..CacheOptions::default()
        },
    )
    .unwrap();
    for number in 0..30 {
        put(&cache, &content(number, GROUP)).unwrap();
        assert!(disk.space().unwrap().free_bytes >= 10 * GROUP_BYTES + 100);
    }
    assert!(cache.usage().objects >= 8);
    // Small files take more of the disk than their length, as do the files beside others.
    for number in 30..=u8::MAX {
        let len = if number % 8 == 0 {
            GROUP + 10
        } else {
            10 + usize::from(number)
        };
        put(&cache, &content(number, len)).unwrap();
        assert!(disk.space().unwrap().free_bytes >= 10 * GROUP_BYTES + 100, "{number}");
    }
}

#[test]
fn room_is_what_every_limit_leaves() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(20 * GROUP_BYTES));
    let cache = open(&disk, None);
    put(&cache, &content(1, 10)).unwrap();
    let limits = |max_bytes, max_objects, keep_free_bytes| {
        let mut limits = CacheLimits::default();
        limits.max_bytes = max_bytes;
        limits.max_objects = max_objects;
        limits.keep_free_bytes = keep_free_bytes;
        cache.set_limits(limits);
        let (objects, bytes) = (2, 5 * GROUP_BYTES);
        cache.has_room(Capacity { objects, bytes }).unwrap()
    };
    assert!(limits(None, None, 0));
    assert!(limits(Some(6 * GROUP_BYTES), Some(3), 14 * GROUP_BYTES));
    assert!(!limits(Some(5 * GROUP_BYTES), None, 0));
    assert!(!limits(None, Some(2), 0));
    assert!(!limits(None, None, 16 * GROUP_BYTES));
    // Whatever is here already.
    for number in 2..9 {
        let capacity = cache.capacity().unwrap();
        assert!(
            capacity.bytes <= 4 * GROUP_BYTES && capacity.bytes > 3 * GROUP_BYTES,
            "{number}: {capacity:?}"
        );
        put(&cache, &content(number, GROUP)).unwrap();
    }
    assert!(!limits(Some(GROUP_BYTES), Some(7), 0));
    let (objects, bytes) = (7, GROUP_BYTES);
    assert_eq!(cache.capacity().unwrap(), Capacity { objects, bytes });
    // What no snapshot needs is as good as free.
    let here = cache.usage();
    limits(Some(here.used_bytes + here.side_bytes), Some(here.objects), 0);
    let one = Capacity { objects: 1, bytes };
    assert!(!cache.has_room(one).unwrap());
    cache.reclassify().finish();
    assert!(cache.has_room(one).unwrap());
}

#[test]
fn garbage_is_given_up_when_asked_for_and_open_handles_stay_readable() {
    let cache = open(&SimDisk::new(), None);
    let data: Vec<_> = (0..4).map(|number| content(number, GROUP)).collect();
    data.iter().for_each(|data| put(&cache, data).unwrap());
    let id = |number: usize| ObjectId::of(&data[number]);
    let reading = now(cache.open(&id(1))).unwrap().unwrap();
    cache.pin(&id(2));
    let marks = cache.reclassify();
    marks.mark(&[id(0)], Standing::Live);
    marks.finish();
    cache.hold(None).unwrap();
    assert!(cache.holds_everything());
    assert_eq!(cache.remove_garbage().unwrap(), (0, 0), "tags may keep all of it");
    cache.hold(Some(PinSet::default())).unwrap();
    cache.pin(&id(2));
    assert_eq!(cache.remove_garbage().unwrap(), (2, GROUP_BYTES), "one is open still");
    assert_eq!(reading.read_now(0..GROUP_BYTES).unwrap(), data[1]);
    drop(reading);
    let here: Vec<_> = data.iter().map(|data| read(&cache, data).unwrap().is_some()).collect();
    assert_eq!(here, [true, false, true, false]);
    assert_eq!(cache.remove_garbage().unwrap(), (0, 0));
    audit(&cache);
}

#[test]
fn order_of_use_survives_a_restart_through_the_checkpoint() {
    let disk = SimDisk::new();
    let data: Vec<_> = (0..4).map(|number| content(number, GROUP)).collect();
    {
        let cache = open(&disk, None);
        data.iter().for_each(|data| put(&cache, data).unwrap());
        read(&cache, &data[0]).unwrap();
        now(cache.checkpoint()).unwrap();
    }
    // A smaller limit: two have to go at the start.
    let cache = open(&disk, Some(2 * GROUP_BYTES));
    cache.load().unwrap();
    let kept: Vec<_> = data.iter().map(|data| read(&cache, data).unwrap().is_some()).collect();
    assert_eq!(kept, [true, false, false, true]);
    audit(&cache);
}

#[test]
fn objects_are_served_before_the_listing_is_done() {
    let disk = SimDisk::new();
    let data = content(1, 3 * GROUP);
    put(&open(&disk, None), &data).unwrap();
    let cache = open(&disk, None);
    assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]));
    assert_eq!(cache.usage().objects, 1);
    cache.load().unwrap();
    assert_eq!(cache.usage().objects, 1);
    audit(&cache);
}

#[test]
fn damaged_whole_objects_are_put_aside_and_never_served() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 5] = [
        ("bit rot", |bytes| bytes[70_000] ^= 0x80),
        ("cut", |bytes| bytes.truncate(5)),
        ("extended", |bytes| bytes.push(0)),
        ("emptied", Vec::clear),
        ("swapped", |bytes| bytes.reverse()),
    ];
    for (what, change) in changes {
        let disk = SimDisk::new();
        let (data, other) = (content(1, 3 * GROUP), content(2, 100));
        {
            let cache = open(&disk, None);
            put(&cache, &data).unwrap();
            put(&cache, &other).unwrap();
        }
        disk.tamper(layout::object_path(&ObjectId::of(&data)), change).unwrap();
        let cache = DiskCache::open(Arc::new(disk.clone()), CacheOptions::default()).unwrap();
        let error = now(cache.open(&ObjectId::of(&data))).unwrap_err();
        assert!(
            matches!(error, CacheError::Damaged { object, .. } if object == ObjectId::of(&data)),
            "{what}: {error}"
        );
        assert_eq!(read(&cache, &data).unwrap(), None, "{what}");
        assert_eq!((cache.usage().damaged, files_in(&disk, "quarantine")), (1, 1), "{what}");
        assert!(read(&cache, &other).unwrap().is_some());
        put(&cache, &data).unwrap();
        assert_eq!(read(&cache, &data).unwrap().as_deref(), Some(&data[..]), "{what}");
        audit(&cache);
    }
}

#[test]
fn verify_always_finds_rot_between_two_opens() {
    let disk = SimDisk::new();
    let options = CacheOptions {
        verify: VerifyWhen::Always,
        ..CacheOptions::default()
    };
    let cache = DiskCache::open(Arc::new(disk.clone()), options).unwrap();
    let data = content(1, 3 * GROUP);
    put(&cache, &data).unwrap();
    disk.tamper(layout::object_path(&ObjectId::of(&data)), |bytes| bytes[9] ^= 1)
        .unwrap();
    assert!(matches!(
        now(cache.open(&ObjectId::of(&data))),
        Err(CacheError::Damaged { .. })
    ));
}

#[test]
fn foreign_files_go_to_a_bounded_quarantine() {
    let disk = SimDisk::new();
    drop(open(&disk, None));
    disk.create_dir_all(Path::new("objects/ab")).unwrap();
    for number in 0..60 {
        let file = disk
            .create_new(Path::new(&format!("objects/ab/foreign-{number}")))
            .unwrap();
        file.write_at(&[1; 5000], 0).unwrap();
    }
    disk.create_new(Path::new("objects/README")).unwrap();
    // The right form in the wrong place.
    let stray = ObjectId::of(b"stray").to_string();
    disk.create_new(Path::new(&format!("objects/ab/{stray}"))).unwrap();
    let cache = open(&disk, Some(20_000));
    cache.load().unwrap();
    assert!(files_in(&disk, "quarantine") <= 32);
    assert_eq!(files_in(&disk, "objects"), 0);
    audit(&cache);
    put(&cache, &content(1, 15_000)).unwrap();
    audit(&cache);
}

#[test]
fn second_owner_and_newer_format_are_refused() {
    let disk = SimDisk::new();
    let cache = open(&disk, None);
    let error = DiskCache::open(Arc::new(disk.clone()), CacheOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { pid: Some(_), .. }), "{error}");
    drop(cache);
    disk.tamper("format", |bytes| *bytes = b"instantmirror cache 2\n".to_vec())
        .unwrap();
    let error = DiskCache::open(Arc::new(disk.clone()), CacheOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::UnknownVersion { found: 2, .. }), "{error}");
    disk.tamper("format", |bytes| *bytes = b"\xff".to_vec()).unwrap();
    assert!(DiskCache::open(Arc::new(disk), CacheOptions::default()).is_err());
}
