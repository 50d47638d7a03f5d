//! What is written down, when, and what a restart makes of it.

use std::path::Path;
use std::sync::Arc;

use instantmirror_core::expiry::PolicyKind;
use instantmirror_core::traits::ObjectCache;
use instantmirror_core::{CacheError, ObjectId};

use super::{audit, content, now, options, put, read};
use crate::cache::{CacheOptions, DiskCache, layout};
use crate::disk::{Disk, SimDisk};

fn start(disk: &SimDisk, policy: PolicyKind, max_bytes: Option<u64>) -> DiskCache {
    let options = CacheOptions {
        policy,
        ..options(max_bytes)
    };
    let cache = DiskCache::open(Arc::new(disk.clone()), options).unwrap();
    cache.load().unwrap();
    cache
}

fn len(disk: &SimDisk, name: &str) -> u64 {
    disk.metadata(Path::new(name)).map_or(0, |meta| meta.len)
}

#[test]
fn reading_writes_nothing_and_a_checkpoint_only_what_was_used() {
    let disk = SimDisk::new();
    let cache = start(&disk, PolicyKind::S3Fifo, None);
    (0..100).for_each(|number| put(&cache, &content(number, 1000)).unwrap());
    now(cache.checkpoint()).unwrap();
    let before = (
        len(&disk, layout::CHECKPOINT),
        len(&disk, layout::JOURNAL),
        disk.files(),
    );
    for _ in 0..20 {
        (0..5).for_each(|number| assert!(read(&cache, &content(number, 1000)).unwrap().is_some()));
    }
    assert_eq!(
        (
            len(&disk, layout::CHECKPOINT),
            len(&disk, layout::JOURNAL),
            disk.files()
        ),
        before
    );
    now(cache.checkpoint()).unwrap();
    assert_eq!(len(&disk, layout::CHECKPOINT), before.0);
    assert_eq!(len(&disk, layout::JOURNAL), before.1 + 24 + 5 * 64);
    let operations = disk.operations();
    now(cache.checkpoint()).unwrap();
    assert_eq!(disk.operations(), operations, "nothing has changed");
}

#[test]
fn checkpoint_and_journal_together_bring_order_and_trust_back_and_grow_into_a_new_checkpoint() {
    let disk = SimDisk::new();
    {
        let cache = start(&disk, PolicyKind::Lru, None);
        (0..6).for_each(|number| put(&cache, &content(number, 1000)).unwrap());
        now(cache.checkpoint()).unwrap();
        assert!(read(&cache, &content(0, 1000)).unwrap().is_some());
        put(&cache, &content(6, 1000)).unwrap();
        now(cache.checkpoint()).unwrap();
        assert!(len(&disk, layout::JOURNAL) > 64);
        // So many uses that the journal is longer than it may be.
        for _ in 0..700 {
            (0..7).for_each(|number| drop(read(&cache, &content(number, 1000)).unwrap()));
            if len(&disk, layout::JOURNAL) == 64 {
                break;
            }
            now(cache.checkpoint()).unwrap();
        }
        assert_eq!(len(&disk, layout::JOURNAL), 64, "it grows for ever");
        assert!(read(&cache, &content(1, 1000)).unwrap().is_some());
        now(cache.checkpoint()).unwrap();
    }
    let cache = start(&disk, PolicyKind::Lru, Some(3000));
    for number in 0..7 {
        let object = ObjectId::of(&content(number, 1000));
        let is_here = cache.has_whole(&object).unwrap();
        assert_eq!(is_here, [1, 5, 6].contains(&number), "{number}");
        assert!(!is_here || !cache.shared.must_verify(&object));
    }
    audit(&cache);
}

#[test]
fn another_policy_or_a_void_journal_costs_no_truth() {
    let disk = SimDisk::new();
    {
        let cache = start(&disk, PolicyKind::Gdsf, None);
        (0..6).for_each(|number| put(&cache, &content(number, 1000)).unwrap());
        now(cache.checkpoint()).unwrap();
        put(&cache, &content(6, 1000)).unwrap();
        now(cache.checkpoint()).unwrap();
    }
    // As if it belonged to the checkpoint before.
    disk.tamper(layout::JOURNAL, |bytes| bytes.truncate(64)).unwrap();
    for policy in PolicyKind::ALL {
        let cache = start(&disk, policy, None);
        for number in 0..7 {
            assert_eq!(
                read(&cache, &content(number, 1000)).unwrap(),
                Some(content(number, 1000))
            );
        }
        audit(&cache);
        now(cache.checkpoint()).unwrap();
    }
}

/// Nobody waits for a listing that may take minutes.
#[test]
fn while_somebody_lists_what_is_here_is_served_and_what_is_not_is_refused_at_once() {
    let disk = SimDisk::new();
    let (held, new) = (content(1, 1000), content(2, 1000));
    put(&start(&disk, PolicyKind::Lru, None), &held).unwrap();
    let cache = DiskCache::open(Arc::new(disk.clone()), options(Some(5000))).unwrap();
    let listing = cache.shared.loading.lock().unwrap();
    assert_eq!(read(&cache, &held).unwrap(), Some(held.clone()));
    assert!(now(cache.fill(&ObjectId::of(&held), 1000)).is_ok());
    let refused = now(cache.fill(&ObjectId::of(&new), 1000)).map(drop);
    assert!(matches!(refused, Err(CacheError::Full { .. })), "{refused:?}");
    drop(listing);
    put(&cache, &new).unwrap();
    audit(&cache);
}
