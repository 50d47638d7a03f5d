//! How much a cache holds.
#![allow(clippy::unwrap_used)]

use smol::block_on;

use super::*;
use crate::outboard::ObjectHasher;

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
    let content = Arc::clone(&lock(&cache.0).objects[&object].content);
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
