//! The behaviours of [`Pins`](crate::traits::Pins). A factory makes an empty cache with a limit in bytes, or without one.

/// Stamps the suite: one `#[test]` per behaviour of a cache with a pin set. Takes a factory, a function of `Option<u64>` (the
/// limit in bytes) that returns a [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! pins_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { pins, $factory,
            a_pinned_object_is_not_evicted
            an_object_may_be_pinned_before_it_is_here
            another_set_replaces_the_first
            without_a_set_everything_is_pinned
            a_pinned_object_can_be_removed
        }
    };
}
// end of the list

use bytes::Bytes;

use super::{Subject, add, block_on, content};
use crate::ObjectId;
use crate::traits::{CacheError, ObjectCache, PinSet};

const SIZE_BYTES: usize = 1000;
const SIZE: u64 = SIZE_BYTES as u64;

/// Three objects of which two fit.
fn objects() -> [Bytes; 3] {
    [1, 2, 3].map(|seed| content(seed, SIZE_BYTES).into())
}

fn room<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) -> Subject<C> {
    let overhead = make(None).overhead_bytes(SIZE);
    make(Some(2 * (SIZE + overhead)))
}

fn pin<C: ObjectCache>(cache: &C, objects: &[&Bytes]) {
    let pins = cache.pins().expect("the cache has pins");
    let set: PinSet = objects.iter().map(|data| ObjectId::of(data)).collect();
    pins.set_pins(Some(set)).unwrap();
    assert!(!pins.pins_everything());
}

fn is_here<C: ObjectCache>(cache: &C, data: &Bytes) -> bool {
    block_on(cache.open(&ObjectId::of(data))).unwrap().is_some()
}

/// Whatever the order of eviction says.
pub fn a_pinned_object_is_not_evicted<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = (room(make), objects());
    add(&*cache, &a).unwrap();
    add(&*cache, &b).unwrap();
    pin(&*cache, &[&a]);
    add(&*cache, &c).unwrap();
    assert!(is_here(&*cache, &a) && !is_here(&*cache, &b) && is_here(&*cache, &c));
    pin(&*cache, &[&a, &c]);
    assert!(matches!(add(&*cache, &b), Err(CacheError::Full { .. })));
}

/// It is kept from the moment it comes.
pub fn an_object_may_be_pinned_before_it_is_here<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = (room(make), objects());
    pin(&*cache, &[&a]);
    for data in [&a, &b, &c] {
        add(&*cache, data).unwrap();
    }
    assert!(is_here(&*cache, &a) && !is_here(&*cache, &b));
}

/// An object that is only in the first one is evicted again.
pub fn another_set_replaces_the_first<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = (room(make), objects());
    add(&*cache, &a).unwrap();
    add(&*cache, &b).unwrap();
    pin(&*cache, &[&a]);
    pin(&*cache, &[&b]);
    add(&*cache, &c).unwrap();
    assert!(!is_here(&*cache, &a) && is_here(&*cache, &b));
}

/// Nothing is evicted while the set is not known; a set ends that.
pub fn without_a_set_everything_is_pinned<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = (room(make), objects());
    add(&*cache, &a).unwrap();
    add(&*cache, &b).unwrap();
    let pins = cache.pins().expect("the cache has pins");
    pins.set_pins(None).unwrap();
    assert!(pins.pins_everything());
    assert!(matches!(add(&*cache, &c), Err(CacheError::Full { .. })));
    assert!(is_here(&*cache, &a) && is_here(&*cache, &b));
    pin(&*cache, &[]);
    add(&*cache, &c).unwrap();
}

/// A pin is against eviction, not against removal.
pub fn a_pinned_object_can_be_removed<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, ..]) = (make(None), objects());
    add(&*cache, &a).unwrap();
    pin(&*cache, &[&a]);
    assert!(block_on(cache.remove(&ObjectId::of(&a))).unwrap());
    assert!(!is_here(&*cache, &a));
}
