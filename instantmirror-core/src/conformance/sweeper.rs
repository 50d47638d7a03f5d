//! The behaviours of a [`Sweeper`]. A factory makes an empty cache with a limit in bytes, or without one.

/// Stamps the suite: one `#[test]` per behaviour of a cache that is told what snapshots refer to. Takes a factory, a function
/// of `Option<u64>` (the limit in bytes) that returns a [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! sweeper_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { sweeper, $factory,
            unmarked_objects_are_garbage
            the_highest_standing_counts
            garbage_is_evicted_first
            a_dropped_marking_changes_nothing
            an_object_that_comes_meanwhile_is_live
            a_sweep_removes_garbage_alone
            a_swept_object_that_is_open_stays_readable
            nothing_is_swept_while_everything_is_pinned
        }
    };
}
// end of the list

use bytes::Bytes;

use super::{Subject, add, block_on, content};
use crate::ObjectId;
use crate::expiry::Standing;
use crate::traits::{ObjectCache, PinSet, Standings, Sweeper};

const SIZE_BYTES: usize = 1000;
const SIZE: u64 = SIZE_BYTES as u64;

fn sweeper<C: ObjectCache>(cache: &C) -> &dyn Sweeper {
    cache.sweeper().expect("the cache has a sweeper")
}

/// A cache with three objects.
fn filled<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) -> (Subject<C>, [Bytes; 3]) {
    let overhead = make(None).overhead_bytes(SIZE);
    let cache = make(Some(3 * (SIZE + overhead)));
    let objects = [1, 2, 3].map(|seed| Bytes::from(content(seed, SIZE_BYTES)));
    objects.iter().for_each(|data| add(&*cache, data).unwrap());
    if let Some(inventory) = cache.inventory() {
        inventory.load().unwrap();
    }
    (cache, objects)
}

fn mark<C: ObjectCache>(cache: &C, marks: &[(&Bytes, Standing)]) -> Standings {
    let marking = sweeper(cache).mark();
    for (data, standing) in marks {
        marking.mark(&[ObjectId::of(data)], *standing);
    }
    marking.finish()
}

fn is_here<C: ObjectCache>(cache: &C, data: &Bytes) -> bool {
    block_on(cache.open(&ObjectId::of(data))).unwrap().is_some()
}

/// And counted.
pub fn unmarked_objects_are_garbage<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, _]) = filled(make);
    assert_eq!(sweeper(&*cache).standings(), Standings::default());
    let standings = mark(&*cache, &[(&a, Standing::Live), (&b, Standing::Old)]);
    assert_eq!(standings, Standings { garbage: 1, old: 1 });
    assert_eq!(sweeper(&*cache).standings(), standings);
}

/// In whatever order they are told.
pub fn the_highest_standing_counts<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = filled(make);
    let (live, old) = (Standing::Live, Standing::Old);
    let standings = mark(&*cache, &[(&a, live), (&a, old), (&b, old), (&b, live), (&c, old)]);
    assert_eq!(standings, Standings { garbage: 0, old: 1 });
}

/// However lately it was used.
pub fn garbage_is_evicted_first<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = filled(make);
    mark(&*cache, &[(&a, Standing::Live), (&b, Standing::Live)]);
    assert!(is_here(&*cache, &c));
    add(&*cache, &content(4, SIZE_BYTES).into()).unwrap();
    assert!(is_here(&*cache, &a) && is_here(&*cache, &b) && !is_here(&*cache, &c));
}

/// The last one that ended counts.
pub fn a_dropped_marking_changes_nothing<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = filled(make);
    let live = [&a, &b, &c].map(|data| (data, Standing::Live));
    mark(&*cache, &live);
    drop(sweeper(&*cache).mark());
    assert_eq!(sweeper(&*cache).standings(), Standings::default());
}

/// Some snapshot wants it, or nobody would have fetched it.
pub fn an_object_that_comes_meanwhile_is_live<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, late) = (make(None), Bytes::from_static(b"late"));
    let marking = sweeper(&*cache).mark();
    add(&*cache, &late).unwrap();
    assert_eq!(marking.finish(), Standings::default());
    sweeper(&*cache).sweep().unwrap();
    assert!(is_here(&*cache, &late));
}

/// Whether or not there is room.
pub fn a_sweep_removes_garbage_alone<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, b, c]) = filled(make);
    mark(&*cache, &[(&a, Standing::Live), (&b, Standing::Old)]);
    let swept = sweeper(&*cache).sweep().unwrap();
    assert_eq!((swept.objects, swept.bytes), (1, SIZE));
    assert!(is_here(&*cache, &a) && is_here(&*cache, &b) && !is_here(&*cache, &c));
    assert_eq!(sweeper(&*cache).standings(), Standings { garbage: 0, old: 1 });
}

/// To its last reader.
pub fn a_swept_object_that_is_open_stays_readable<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, ..]) = filled(make);
    let handle = block_on(cache.open(&ObjectId::of(&a))).unwrap().unwrap();
    mark(&*cache, &[]);
    sweeper(&*cache).sweep().unwrap();
    assert!(!is_here(&*cache, &a));
    assert_eq!(block_on(handle.read(0..SIZE)).unwrap(), a);
}

/// Of a cache that can pin.
pub fn nothing_is_swept_while_everything_is_pinned<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let (cache, [a, ..]) = filled(make);
    let Some(pins) = cache.pins() else { return };
    mark(&*cache, &[]);
    pins.set_pins(None).unwrap();
    sweeper(&*cache).sweep().unwrap();
    assert!(is_here(&*cache, &a));
    pins.set_pins(Some(PinSet::default())).unwrap();
    mark(&*cache, &[]);
    sweeper(&*cache).sweep().unwrap();
    assert!(!is_here(&*cache, &a));
}
