//! The behaviours of a [`Quota`]. A factory makes an empty cache with a limit in bytes, or without one.

/// Stamps the suite: one `#[test]` per behaviour of a cache with limits that change. Takes a factory, a function of
/// `Option<u64>` (the limit in bytes) that returns a [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! quota_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { quota, $factory,
            the_limits_are_those_that_were_set
            a_lower_limit_evicts_what_is_beyond_it
            an_open_object_outlasts_a_lower_limit
            a_higher_limit_takes_in_more
            room_is_what_is_free
            the_number_of_objects_is_limited
        }
    };
}
// end of the list

use bytes::Bytes;

use super::{Subject, add, block_on, content};
use crate::ObjectId;
use crate::traits::{CacheError, CacheLimits, Capacity, ObjectCache, Quota};

const SIZE_BYTES: usize = 1000;
const SIZE: u64 = SIZE_BYTES as u64;

fn quota<C: ObjectCache>(cache: &C) -> &dyn Quota {
    cache.quota().expect("the cache has a quota")
}

fn object(seed: u8) -> Bytes {
    content(seed, SIZE_BYTES).into()
}

/// Bytes of one object with all that is kept beside it.
fn one<C: ObjectCache>(cache: &C) -> u64 {
    SIZE + cache.overhead_bytes(SIZE)
}

/// From the start, and later.
pub fn the_limits_are_those_that_were_set<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    assert_eq!(quota(&*make(None)).limits(), CacheLimits::default());
    let cache = make(Some(5000));
    assert_eq!(quota(&*cache).limits(), CacheLimits::bytes(5000));
    assert_eq!(quota(&*cache).capacity().unwrap().bytes, 5000);
    let other = CacheLimits::bytes(7000).objects(3);
    quota(&*cache).set_limits(other);
    assert_eq!(quota(&*cache).limits(), other);
    assert_eq!(cache.usage().max_bytes, Some(7000));
    assert_eq!(
        quota(&*cache).capacity().unwrap(),
        Capacity {
            objects: 3,
            bytes: 7000
        }
    );
}

/// As soon as it is told to shrink.
pub fn a_lower_limit_evicts_what_is_beyond_it<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    (1..=4).for_each(|seed| add(&*cache, &object(seed)).unwrap());
    quota(&*cache).set_limits(CacheLimits::bytes(2 * one(&*cache)));
    assert!(quota(&*cache).shrink().unwrap());
    let usage = cache.usage();
    assert!(usage.objects <= 2 && usage.evicted >= 2, "{usage:?}");
    assert!(usage.used_bytes + usage.side_bytes <= 2 * one(&*cache), "{usage:?}");
}

/// The shrinking says so, and is done when the object is closed.
pub fn an_open_object_outlasts_a_lower_limit<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, data) = (make(None), object(1));
    add(&*cache, &data).unwrap();
    let handle = block_on(cache.open(&ObjectId::of(&data))).unwrap().unwrap();
    quota(&*cache).set_limits(CacheLimits::bytes(1));
    assert!(!quota(&*cache).shrink().unwrap());
    assert_eq!(block_on(handle.read(0..SIZE)).unwrap(), data);
    drop(handle);
    assert!(quota(&*cache).shrink().unwrap());
    assert_eq!(cache.usage().objects, 0);
}

/// At once.
pub fn a_higher_limit_takes_in_more<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(Some(SIZE / 2));
    assert!(matches!(add(&*cache, &object(1)), Err(CacheError::TooLarge { .. })));
    quota(&*cache).set_limits(CacheLimits::bytes(2 * one(&*cache)));
    add(&*cache, &object(1)).unwrap();
    add(&*cache, &object(2)).unwrap();
    assert_eq!(cache.usage().objects, 2);
}

/// Without evicting anything.
pub fn room_is_what_is_free<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    quota(&*cache).set_limits(CacheLimits::bytes(10 * one(&*cache)));
    let fits = |bytes| quota(&*cache).has_room(Capacity { objects: 1, bytes }).unwrap();
    assert!(fits(10 * one(&*cache)) && !fits(10 * one(&*cache) + 1));
    add(&*cache, &object(1)).unwrap();
    assert!(fits(9 * one(&*cache)) && !fits(10 * one(&*cache)));
    assert_eq!(cache.usage().objects, 1);
}

/// Like their bytes.
pub fn the_number_of_objects_is_limited<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    quota(&*cache).set_limits(CacheLimits::default().objects(2));
    for seed in 1..=5 {
        add(&*cache, &object(seed)).unwrap();
        assert!(cache.usage().objects <= 2);
    }
    let more = |objects| quota(&*cache).has_room(Capacity { objects, bytes: 0 }).unwrap();
    assert!(!more(1) && more(0));
}
