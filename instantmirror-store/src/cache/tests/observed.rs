//! Whoever observes a cache hears of everything, in its order.

use std::sync::Mutex;

use instantmirror_core::conformance::WriteNow as _;
use instantmirror_core::traits::{CacheEvent, CacheObserver};

use super::*;

#[derive(Debug, Default)]
struct Ear(Mutex<Vec<CacheEvent>>);

impl CacheObserver for Ear {
    fn changed(&self, event: CacheEvent) {
        self.0.lock().unwrap().push(event);
    }
}

#[test]
fn what_comes_and_goes_is_told_and_what_is_there_can_be_gone_through() {
    let disk = Arc::new(SimDisk::new());
    let cache = DiskCache::open(disk, CacheOptions::default()).unwrap();
    let before = vec![1; 1000];
    put(&cache, &before).unwrap();
    let ear = Arc::new(Ear::default());
    cache.observe(ear.clone());
    let data = vec![7; 3 * usize::try_from(GROUP_BYTES).unwrap() / 2];
    let (object, size) = (ObjectId::of(&data), data.len() as u64);
    let fill = begin(&cache, &data).unwrap();
    let (front, back) = data.split_at(usize::try_from(GROUP_BYTES).unwrap());
    fill.write_now(GROUP_BYTES, back).unwrap();
    fill.write_now(0, front).unwrap();
    assert!(
        fill.write_now(0, back).is_err(),
        "what does not verify is told of to nobody"
    );
    now(fill.finish()).unwrap();
    drop(fill);
    let mut held = Vec::new();
    cache.each_whole(|object, size| held.push((object, size))).unwrap();
    held.sort_by_key(|(_, size)| *size);
    assert_eq!(held, [(ObjectId::of(&before), 1000), (object, size)]);
    assert!(now(cache.remove(&object)).unwrap());
    let arrived = |range| CacheEvent::Arrived { object, size, range };
    assert_eq!(
        *ear.0.lock().unwrap(),
        [
            arrived(GROUP_BYTES..size),
            arrived(0..GROUP_BYTES),
            CacheEvent::Whole { object, size },
            CacheEvent::Gone { object },
        ]
    );
}
