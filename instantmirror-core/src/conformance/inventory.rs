//! The behaviours of an [`Inventory`]. A factory makes an empty cache with a limit in bytes, or without one.

/// Stamps the suite: one `#[test]` per behaviour of a cache that lists its objects. Takes a factory, a function of
/// `Option<u64>` (the limit in bytes) that returns a [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! inventory_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { inventory, $factory,
            whole_objects_are_listed_once
            a_partial_object_is_not_whole
            a_removed_object_is_listed_no_more
            an_observer_is_told_in_order
            an_observer_is_told_of_evictions
            a_second_observer_replaces_the_first
            loading_again_changes_nothing
        }
    };
}
// end of the list

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Subject, WriteNow as _, add, block_on, content, outboard_of};
use crate::ObjectId;
use crate::traits::{CacheEvent, CacheObserver, Inventory, ObjectCache};

const G: usize = 64 * 1024;

fn inventory<C: ObjectCache>(cache: &C) -> &dyn Inventory {
    cache.inventory().expect("the cache has an inventory")
}

fn listed<C: ObjectCache>(cache: &C) -> BTreeMap<ObjectId, u64> {
    let mut listed = BTreeMap::new();
    let each = &mut |object, size| assert_eq!(listed.insert(object, size), None, "told twice");
    inventory(cache).each_whole(each).unwrap();
    listed
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<CacheEvent>>);

impl CacheObserver for Notes {
    fn changed(&self, event: CacheEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl Notes {
    fn take(&self) -> Vec<CacheEvent> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// With their sizes.
pub fn whole_objects_are_listed_once<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    assert_eq!(listed(&*cache), BTreeMap::new());
    let objects = [1, 1000, G, G + 1].map(|size| Bytes::from(content(1, size)));
    for data in &objects {
        add(&*cache, data).unwrap();
        assert!(inventory(&*cache).has_whole(&ObjectId::of(data)).unwrap());
    }
    let expected = objects.iter().map(|data| (ObjectId::of(data), data.len() as u64));
    assert_eq!(listed(&*cache), expected.collect());
}

/// Before its last group is here it is neither listed nor whole.
pub fn a_partial_object_is_not_whole<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, data) = (make(None), content(1, 2 * G));
    let object = ObjectId::of(&data);
    let fill = block_on(cache.fill(&object, data.len() as u64)).unwrap();
    fill.set_outboard_now(outboard_of(&data)).unwrap();
    fill.write_now(0, &data[..G]).unwrap();
    assert!(!inventory(&*cache).has_whole(&object).unwrap());
    drop(fill);
    assert!(!inventory(&*cache).has_whole(&object).unwrap());
    assert_eq!(listed(&*cache), BTreeMap::new());
}

/// Nor looked up.
pub fn a_removed_object_is_listed_no_more<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, data) = (make(None), Bytes::from(content(1, 1000)));
    add(&*cache, &data).unwrap();
    block_on(cache.remove(&ObjectId::of(&data))).unwrap();
    assert!(!inventory(&*cache).has_whole(&ObjectId::of(&data)).unwrap());
    assert_eq!(listed(&*cache), BTreeMap::new());
}

/// Of the groups as they come, of the whole object after the last of them, and of its end.
pub fn an_observer_is_told_in_order<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, data, notes) = (make(None), content(1, 2 * G), Arc::new(Notes::default()));
    let (object, size) = (ObjectId::of(&data), data.len() as u64);
    inventory(&*cache).observe(notes.clone());
    let fill = block_on(cache.fill(&object, size)).unwrap();
    fill.set_outboard_now(outboard_of(&data)).unwrap();
    for range in [G..2 * G, 0..G] {
        fill.write_now(range.start as u64, &data[range.clone()]).unwrap();
        let range = range.start as u64..range.end as u64;
        assert!(notes.take().contains(&CacheEvent::Arrived { object, size, range }));
    }
    block_on(fill.finish()).unwrap();
    drop(fill);
    notes.take();
    block_on(cache.remove(&object)).unwrap();
    assert_eq!(notes.take(), [CacheEvent::Gone { object }]);
    let small = Bytes::from(content(2, 10));
    add(&*cache, &small).unwrap();
    let (object, size) = (ObjectId::of(&small), 10);
    assert_eq!(
        notes.take(),
        [CacheEvent::Whole { object, size }],
        "one group comes as a whole"
    );
}

/// As of any other end.
pub fn an_observer_is_told_of_evictions<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let overhead = make(None).overhead_bytes(1000);
    let (cache, notes) = (make(Some(1000 + overhead)), Arc::new(Notes::default()));
    let [first, second] = [1, 2].map(|seed| Bytes::from(content(seed, 1000)));
    add(&*cache, &first).unwrap();
    inventory(&*cache).observe(notes.clone());
    add(&*cache, &second).unwrap();
    let (object, whole) = (ObjectId::of(&first), ObjectId::of(&second));
    let expected = [
        CacheEvent::Gone { object },
        CacheEvent::Whole {
            object: whole,
            size: 1000,
        },
    ];
    assert_eq!(notes.take(), expected);
}

/// There is one.
pub fn a_second_observer_replaces_the_first<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let [first, second] = [(); 2].map(|()| Arc::new(Notes::default()));
    inventory(&*cache).observe(first.clone());
    inventory(&*cache).observe(second.clone());
    add(&*cache, &Bytes::from_static(b"content")).unwrap();
    assert_eq!((first.take().len(), second.take().len()), (0, 1));
}

/// A caller that is not sure may do so.
pub fn loading_again_changes_nothing<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, data) = (make(None), Bytes::from_static(b"content"));
    inventory(&*cache).load().unwrap();
    add(&*cache, &data).unwrap();
    let before = (cache.usage(), listed(&*cache));
    inventory(&*cache).load().unwrap();
    assert!(inventory(&*cache).is_loaded());
    assert_eq!((cache.usage(), listed(&*cache)), before);
}
