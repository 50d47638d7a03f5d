//! The limits as a state machine: whatever is done, with kills in the middle of it, failing disks and limits that change,
//! `used + reserved + side` is what is there and what is promised, and never more than allowed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use instantmirror_core::conformance::{ReadNow as _, WriteNow as _};
use instantmirror_core::expiry::{PolicyKind, Standing};
use instantmirror_core::outboard::GROUP_BYTES;
use instantmirror_core::traits::{ObjectCache, ObjectFill, ObjectHandle, Objects};
use instantmirror_core::{CacheError, ObjectId};
use proptest::prelude::*;

use super::{GROUP, begin, content, now, put, read};
use crate::cache::table::{Found, Room, Shortage, Table};
use crate::cache::{CacheLimits, CacheOptions, DiskCache, VerifyWhen};
use crate::disk::{Disk, Fault, SimDisk};

const OBJECTS: u8 = 8;
/// Of the simulated disk.
const BLOCK_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
enum Op {
    Begin(u8),
    Write(u8, u8),
    Finish(u8),
    End(u8),
    Open(u8),
    Close,
    Remove(u8),
    Pin(u8, bool),
    Classify(u8),
    Fault(u8, u8),
    Checkpoint,
    Limits(u8, u8),
    Shrink,
    Restart,
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    let object = 0..OBJECTS;
    prop_oneof![
        4 => object.clone().prop_map(Op::Begin),
        5 => (object.clone(), 0u8..5).prop_map(|(object, group)| Op::Write(object, group)),
        3 => object.clone().prop_map(Op::Finish),
        2 => object.clone().prop_map(Op::End),
        3 => object.clone().prop_map(Op::Open),
        1 => Just(Op::Close),
        1 => object.clone().prop_map(Op::Remove),
        1 => (object.clone(), any::<bool>()).prop_map(|(object, pin)| Op::Pin(object, pin)),
        1 => any::<u8>().prop_map(Op::Classify),
        1 => (1u8..25, 0u8..3).prop_map(|(at, kind)| Op::Fault(at, kind)),
        1 => Just(Op::Checkpoint),
        1 => (3u8..14, 2u8..9).prop_map(|(groups, objects)| Op::Limits(groups, objects)),
        1 => Just(Op::Shrink),
        1 => Just(Op::Restart),
        1 => Just(Op::Kill),
    ]
}

struct Machine {
    disk: SimDisk,
    options: CacheOptions,
    cache: DiskCache,
    objects: Vec<Vec<u8>>,
    fills: HashMap<u8, Arc<dyn ObjectFill>>,
    handles: Vec<(u8, Arc<dyn ObjectHandle>)>,
    /// What may be there at most: the limit, or what was there when it was lowered.
    bound: u64,
    /// Whether the disk did all that it was told since the last start.
    faultless: bool,
}

impl Machine {
    fn new(policy: PolicyKind) -> Self {
        let options = CacheOptions {
            limits: CacheLimits::bytes(9 * GROUP_BYTES).objects(6),
            verify: VerifyWhen::Doubtful,
            policy,
        };
        let disk = SimDisk::new();
        let objects = (0..OBJECTS).map(|number| content(number, usize::from(number) * GROUP * 3 / 5 + 1));
        Self {
            cache: DiskCache::open(Arc::new(disk.clone()), options).unwrap(),
            disk,
            options,
            objects: objects.collect(),
            fills: HashMap::new(),
            handles: Vec::new(),
            bound: 9 * GROUP_BYTES,
            faultless: true,
        }
    }

    fn object(&self, number: u8) -> &[u8] {
        &self.objects[usize::from(number)]
    }

    fn id(&self, number: u8) -> ObjectId {
        ObjectId::of(self.object(number))
    }

    fn start(&mut self, disk: SimDisk) {
        self.fills.clear();
        self.handles.clear();
        disk.heal();
        let closed = DiskCache::open(Arc::new(SimDisk::new()), self.options).unwrap();
        drop(std::mem::replace(&mut self.cache, closed));
        self.disk = disk;
        self.cache = DiskCache::open(Arc::new(self.disk.clone()), self.options).unwrap();
        self.cache.load().unwrap();
        self.faultless = true;
        self.bound = self.options.limits.max_bytes.unwrap();
    }

    fn committed(&self) -> u64 {
        let usage = self.cache.usage();
        usage.used_bytes + usage.reserved_bytes + usage.side_bytes
    }

    fn set_limits(&mut self, groups: u8, objects: u8) {
        self.options.limits.max_bytes = Some(u64::from(groups) * GROUP_BYTES);
        self.options.limits.max_objects = Some(u64::from(objects));
        self.cache.set_limits(self.options.limits);
        self.bound = self.committed().max(u64::from(groups) * GROUP_BYTES);
    }

    fn classify(&self, seed: u8) {
        let marks = self.cache.reclassify();
        for number in 0..OBJECTS {
            match (seed >> (number % 8) & 1, number % 3) {
                (1, 0) => marks.mark([&self.id(number)], Standing::Old),
                (1, _) => marks.mark([&self.id(number)], Standing::Live),
                _ => {}
            }
        }
        // A seed of nothing is a walk that broke off.
        if seed > 0 {
            marks.finish();
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Begin(number) => {
                if let Ok(fill) = begin(&self.cache, self.object(number)) {
                    self.fills.insert(number, fill);
                }
            }
            Op::Write(number, group) => {
                let (data, start) = (self.object(number), usize::from(group) * GROUP);
                if let Some(fill) = self.fills.get(&number)
                    && start < data.len()
                {
                    let _ = fill.write_now(start as u64, &data[start..(start + GROUP).min(data.len())]);
                }
            }
            Op::Finish(number) => {
                if let Some(fill) = self.fills.get(&number) {
                    let _ = now(fill.finish());
                }
            }
            Op::End(number) => drop(self.fills.remove(&number)),
            Op::Open(number) => {
                if let Ok(Some(handle)) = now(self.cache.open(&self.id(number))) {
                    self.handles.push((number, handle));
                }
            }
            Op::Close => drop(self.handles.pop()),
            Op::Remove(number) => drop(now(self.cache.remove(&self.id(number)))),
            Op::Pin(number, true) => self.cache.pin(&self.id(number)),
            Op::Pin(number, false) => self.cache.unpin(&self.id(number)),
            Op::Classify(seed) => self.classify(seed),
            Op::Fault(at, kind) => {
                let fault = [Fault::Eio, Fault::Enospc, Fault::PowerCut][usize::from(kind)];
                self.disk.fail_at(u64::from(at), fault);
                self.faultless = false;
            }
            Op::Checkpoint => drop(now(self.cache.checkpoint())),
            Op::Limits(groups, objects) => self.set_limits(groups, objects),
            Op::Shrink => {
                let _ = self.cache.shrink();
            }
            Op::Restart => {
                self.disk.heal();
                self.fills.clear();
                self.handles.clear();
                let off = self.disk.is_off();
                let disk = if off { self.disk.after_kill() } else { self.disk.clone() };
                self.start(disk);
            }
            Op::Kill => self.start(self.disk.after_kill()),
        }
    }

    fn check(&mut self) {
        let committed = self.committed();
        assert!(committed <= self.bound, "{committed} of {}", self.bound);
        // Once it is within a lowered limit it stays there.
        self.bound = self.bound.min(committed.max(self.options.limits.max_bytes.unwrap()));
        let shared = &self.cache.shared;
        let stuck: u64 = shared.stuck.lock().unwrap().iter().map(|(_, bytes)| bytes).sum();
        let quarantined: u64 = shared.quarantine.lock().unwrap().iter().map(|(_, bytes)| bytes).sum();
        let quarantined = quarantined + stuck;
        let (held, reserved, side) = self.cache.shared.table().audit();
        let usage = self.cache.usage();
        assert_eq!(
            (usage.used_bytes, usage.reserved_bytes, usage.side_bytes),
            (held + quarantined, reserved, side)
        );
        if self.faultless {
            let there = self.on_disk();
            assert!(there <= committed, "{there} bytes on the disk, {committed} known");
        }
        for (number, handle) in &self.handles {
            for range in handle.present().ranges() {
                if let Ok(bytes) = handle.read_now(range.clone()) {
                    let (start, end) = (
                        usize::try_from(range.start).unwrap(),
                        usize::try_from(range.end).unwrap(),
                    );
                    assert_eq!(&bytes[..], &self.object(*number)[start..end]);
                }
            }
        }
    }

    /// Bytes of content and of what lies beside it, without what is lost to whole blocks at the end of a partial file.
    fn on_disk(&self) -> u64 {
        let counted = ["objects", "partial", "trash", "quarantine"];
        let files = self
            .disk
            .files()
            .into_iter()
            .filter(|path| counted.iter().any(|dir| path.starts_with(dir)));
        let bytes = files.map(|path| {
            let meta = self.disk.metadata(Path::new(&path)).unwrap();
            let is_sparse = meta.allocated < meta.len;
            if is_sparse {
                meta.allocated.saturating_sub(BLOCK_BYTES - 1)
            } else {
                meta.len
            }
        });
        bytes.sum()
    }

    /// Whatever happened: with a working disk everything can be had, within the limits, and no litter is left.
    fn settle(&mut self) {
        self.start(self.disk.after_kill());
        self.set_limits(14, 20);
        for number in 0..OBJECTS {
            let data = self.object(number).to_vec();
            put(&self.cache, &data).unwrap();
            assert_eq!(read(&self.cache, &data).unwrap(), Some(data));
            self.check();
        }
        let files = self.disk.files();
        let litter = files
            .iter()
            .find(|path| path.starts_with("trash") || path.to_string_lossy().ends_with(".tmp"));
        assert_eq!(litter, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn limits_hold_at_every_instant_whatever_happens(
        policy in 0usize..4,
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let mut machine = Machine::new(PolicyKind::ALL[policy]);
        for op in &ops {
            machine.apply(op);
            machine.check();
        }
        machine.settle();
    }
}

/// Content alone would fit.
#[test]
fn what_lies_beside_an_object_counts() {
    let disk = SimDisk::new();
    let data = content(1, 5 * GROUP);
    let try_with = |max: u64| {
        let limits = CacheLimits::bytes(max);
        let options = CacheOptions {
            limits,
            ..CacheOptions::default()
        };
        let cache = DiskCache::open(Arc::new(disk.clone()), options).unwrap();
        put(&cache, &data)
    };
    let bytes = 5 * GROUP_BYTES;
    assert!(matches!(try_with(bytes), Err(CacheError::TooLarge { .. })));
    // Outboard, map, and the map that takes its place.
    assert!(matches!(
        try_with(bytes + 5 * 32 + 2 * 25 - 1),
        Err(CacheError::TooLarge { .. })
    ));
    try_with(bytes + 5 * 32 + 2 * 25).unwrap();
}

#[test]
fn a_fill_is_told_at_once_that_there_is_no_room_while_a_lowered_limit_is_being_reached() {
    let mut machine = Machine::new(PolicyKind::Lru);
    machine.set_limits(14, 20);
    for number in 0..4 {
        put(&machine.cache, &machine.objects[number]).unwrap();
    }
    machine.set_limits(2, 20);
    let evicted = machine.cache.usage().evicted;
    let refused = now(machine.cache.fill(&ObjectId::of(b"new"), 3)).map(drop);
    assert!(matches!(refused, Err(CacheError::Full { .. })), "{refused:?}");
    assert_eq!(machine.cache.usage().evicted, evicted, "and gives nothing up by itself");
    assert!(machine.cache.shrink().unwrap());
    machine.check();
    put(&machine.cache, b"new").unwrap();
}

#[test]
fn inodes_are_reserved_too() {
    let mut table = Table::new(CacheLimits::default(), PolicyKind::Lru);
    let found = Found {
        size: 9 * GROUP_BYTES,
        ..Found::default()
    };
    let room = |files| Room { bytes: u64::MAX, files };
    for (object, files) in [(ObjectId::of(b"x"), 4), (ObjectId::of(b"y"), 8)] {
        table.insert(object, found, None);
        assert!(table.begin_fill(&object).is_some());
        assert_eq!(table.reserve(&object, room(files - 1)), Err(Shortage::Now));
        assert_eq!(table.reserve(&object, room(files)), Ok(()));
    }
}

/// A write that breaks off has written something, which stays on the disk with the groups before it.
#[test]
fn what_a_broken_write_left_is_counted() {
    let disk = SimDisk::new();
    let data = content(1, 9 * GROUP);
    let options = CacheOptions {
        limits: CacheLimits::bytes(20 * GROUP_BYTES),
        ..CacheOptions::default()
    };
    let cache = DiskCache::open(Arc::new(disk.clone()), options).unwrap();
    let fill = begin(&cache, &data).unwrap();
    fill.write_now(0, &data[..GROUP]).unwrap();
    disk.fail_at(1, Fault::Enospc);
    assert!(fill.write_now(GROUP_BYTES, &data[GROUP..]).is_err());
    drop(fill);
    let path = Path::new("partial").join(ObjectId::of(&data).to_string());
    let (usage, there) = (cache.usage(), disk.metadata(&path).unwrap().allocated);
    assert!(there > 4 * GROUP_BYTES, "{there}");
    assert!(
        there <= usage.used_bytes,
        "{there} bytes on the disk, {} known",
        usage.used_bytes
    );
    // And it can be finished.
    put(&cache, &data).unwrap();
    assert_eq!(
        (cache.usage().used_bytes, cache.usage().reserved_bytes),
        (data.len() as u64, 0)
    );
}
