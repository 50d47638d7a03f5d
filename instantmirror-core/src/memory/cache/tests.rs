//! How much a cache holds, and how much it looks at.
#![allow(clippy::unwrap_used)]

use smol::block_on;

use super::*;
use crate::outboard::ObjectHasher;
use crate::traits::Capacity;

fn outboard_of(data: &[u8]) -> Outboard {
    let mut hasher = ObjectHasher::new();
    hasher.update(data);
    hasher.finish()
}

/// A reader asked for the end of a large object, and left.
#[test]
fn the_tail_of_a_large_object_holds_its_group_alone() {
    let (cache, groups) = (MemoryCache::new(None), 300);
    let data: Vec<u8> = (0..groups * GROUP_BYTES + 5)
        .map(|i| u8::try_from(i / 1000 % 251).unwrap())
        .collect();
    let (outboard, size) = (outboard_of(&data), data.len() as u64);
    let object = outboard.object();
    let fill = block_on(cache.fill(&object, size)).unwrap();
    block_on(fill.set_outboard(outboard)).unwrap();
    let message = Bytes::from(data);
    let tail = (groups - 1) * GROUP_BYTES;
    block_on(fill.write(tail, message.slice(usize::try_from(tail).unwrap()..))).unwrap();
    drop(fill);

    assert!(message.is_unique(), "the message that brought it is not kept");
    let content = Arc::clone(&lock(&cache.0).table.get(&object).unwrap().content);
    assert_eq!(lock(&content).resident(), GROUP_BYTES + 5);
    assert_eq!(cache.usage().used_bytes, GROUP_BYTES + 5);
    assert_eq!(cache.usage().reserved_bytes, 0);
    let handle = block_on(cache.open(&object)).unwrap().unwrap();
    for range in [tail..size, tail + 7..size - 2, size - 1..size, size..size] {
        let wanted = message.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
        assert_eq!(block_on(handle.read(range)).unwrap(), wanted);
    }
    for range in [tail - 1..size, 0..1, size - 1..size + 1] {
        assert!(matches!(block_on(handle.read(range)), Err(CacheError::Absent { .. })));
    }
}

fn id(seed: u64) -> ObjectId {
    ObjectId::of(&seed.to_le_bytes())
}

/// Fills the object of 8 bytes that is [`id`] of `seed`.
fn add(cache: &MemoryCache, seed: u64) {
    let fill = block_on(cache.fill(&id(seed), 8)).unwrap();
    block_on(fill.set_outboard(Outboard::verify(id(seed), 8, Bytes::new()).unwrap())).unwrap();
    block_on(fill.write(0, Bytes::copy_from_slice(&seed.to_le_bytes()))).unwrap();
}

/// As many fills into a cache that is full, pinned objects and an old open handle among what it holds.
#[test]
fn a_fill_looks_at_few_of_many_objects() {
    const MANY: u64 = 100_000;
    let (cache, more) = (MemoryCache::new(Some(8 * MANY)), 1000);
    (0..MANY).for_each(|seed| add(&cache, seed));
    cache.set_pins(Some((0..MANY / 2).map(id).collect())).unwrap();
    let marking = cache.mark();
    let garbage: Vec<ObjectId> = (MANY - more / 2..MANY).map(id).collect();
    let live: Vec<ObjectId> = (0..MANY - more / 2).map(id).collect();
    marking.mark(&live, Standing::Live);
    marking.finish();
    let open = block_on(cache.open(&garbage[0])).unwrap().unwrap();

    let looks = || lock(&cache.0).table.looks.get();
    let before = looks();
    for seed in MANY..MANY + more {
        add(&cache, seed);
        cache.has_room(Capacity { objects: 1, bytes: 8 }).unwrap();
        cache.standings();
        assert_eq!(cache.usage().used_bytes, 8 * MANY);
    }
    let each = (looks() - before) / more;
    assert!(each < 20, "{each} for each");
    assert_eq!(cache.usage().evicted, more);
    let here = |seed| cache.has_whole(&id(seed)).unwrap();
    assert!(here(0) && here(MANY / 2 - 1), "pinned");
    assert!(garbage[1..].iter().all(|object| !cache.has_whole(object).unwrap()));
    let gone = more - (garbage.len() as u64 - 1);
    assert!(!here(MANY / 2) && !here(MANY / 2 + gone - 1) && here(MANY / 2 + gone));
    drop(open);
    assert_eq!(cache.standings().garbage, 1);
}

/// They count for whoever holds them, and the garbage among them no longer.
#[test]
fn bytes_of_removed_objects_count_until_their_handle_is_dropped() {
    let cache = MemoryCache::new(Some(24));
    (0..3).for_each(|seed| add(&cache, seed));
    cache.mark().finish();
    let handles: Vec<_> = (0..2).map(|_| block_on(cache.open(&id(0))).unwrap().unwrap()).collect();
    assert_eq!(cache.sweep().unwrap().objects, 3);
    assert_eq!(cache.standings().garbage, 0);
    for handle in handles {
        assert_eq!((cache.usage().used_bytes, cache.usage().objects), (8, 0));
        assert!(!cache.has_room(Capacity { objects: 1, bytes: 17 }).unwrap());
        drop(handle);
    }
    assert_eq!(cache.usage().used_bytes, 0);
}

/// The order of eviction follows pins and uses.
#[test]
fn pins_and_uses_change_what_goes_first() {
    let cache = MemoryCache::new(Some(24));
    (0..3).for_each(|seed| add(&cache, seed));
    cache.set_pins(None).unwrap();
    drop(block_on(cache.open(&id(0))).unwrap());
    assert!(matches!(block_on(cache.fill(&id(9), 8)), Err(CacheError::Full { .. })));
    cache.set_pins(Some([id(1)].into_iter().collect())).unwrap();
    drop(block_on(cache.open(&id(1))).unwrap());
    add(&cache, 3);
    add(&cache, 4);
    let here: Vec<u64> = (0..5).filter(|seed| cache.has_whole(&id(*seed)).unwrap()).collect();
    assert_eq!(here, [1, 3, 4]);
}

/// From the moment at which it is handed in until nobody holds it; its place is reserved before.
#[test]
fn an_outboard_counts_against_the_limit() {
    let data = vec![7; 3 * 64 * 1024];
    let (outboard, size, side) = (outboard_of(&data), data.len() as u64, 96);
    let object = outboard.object();
    let tight = MemoryCache::new(Some(size + side - 1));
    assert!(matches!(
        block_on(tight.fill(&object, size)),
        Err(CacheError::TooLarge { .. })
    ));

    let cache = MemoryCache::new(Some(size + side));
    let counts = || {
        let usage = cache.usage();
        (usage.used_bytes, usage.side_bytes, usage.reserved_bytes)
    };
    let message = outboard.values().clone();
    drop(outboard);
    let fill = block_on(cache.fill(&object, size)).unwrap();
    assert_eq!(counts(), (0, 0, size + side));
    for _ in 0..2 {
        let outboard = Outboard::verify(object, size, message.slice(..)).unwrap();
        block_on(fill.set_outboard(outboard)).unwrap();
        assert_eq!(counts(), (0, side, size));
    }
    assert!(message.is_unique(), "the message that brought it is not kept");
    block_on(fill.write(0, Bytes::copy_from_slice(&data[..64 * 1024]))).unwrap();
    drop(fill);
    assert_eq!(counts(), (GROUP_BYTES, side, 0));
    let fill = block_on(cache.fill(&object, size)).unwrap();
    assert_eq!(counts(), (GROUP_BYTES, side, size - GROUP_BYTES));
    drop(fill);
    let handle = block_on(cache.open(&object)).unwrap().unwrap();
    block_on(cache.remove(&object)).unwrap();
    assert_eq!(counts(), (GROUP_BYTES, side, 0));
    drop(handle);
    assert_eq!(counts(), (0, 0, 0));
}

/// Sizes are stated by others.
#[test]
fn an_impossible_size_is_too_large_without_a_limit() {
    let cache = MemoryCache::new(None);
    for size in [u64::MAX, u64::MAX / 2] {
        assert!(matches!(
            block_on(cache.fill(&id(1), size)),
            Err(CacheError::TooLarge { .. })
        ));
    }
    assert_eq!(cache.usage().reserved_bytes, 0);
}
