//! The behaviours of an [`ObjectCache`]. A factory makes an empty cache with a limit in bytes, or without one.

/// Stamps the suite: one `#[test]` per behaviour of an object cache. Takes a factory, a function of
/// `Option<u64>` (the limit in bytes) that returns a [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! object_cache_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { object_cache, $factory,
            nothing_is_here_at_first
            objects_of_every_shape_come_back
            an_empty_object_needs_no_content
            an_empty_object_under_a_foreign_id_is_refused
            bytes_are_not_readable_before_they_are_written
            ranges_are_readable_as_soon_as_they_are_written
            wrong_data_keeps_nothing
            wrong_data_of_a_small_object_keeps_nothing
            data_of_another_place_is_refused
            data_that_is_not_whole_groups_is_refused
            a_foreign_outboard_is_refused
            content_needs_an_outboard_first
            groups_come_in_any_order_and_twice
            present_groups_are_left_as_they_are
            reads_beyond_the_end_are_absent
            a_second_fill_is_busy
            an_object_being_filled_is_not_removed
            a_whole_object_gives_a_complete_fill
            another_size_than_the_held_one_is_refused
            a_size_that_was_wrong_does_no_lasting_harm
            finish_with_a_gap_names_it
            finish_keeps_earlier_handles_working
            a_dropped_fill_keeps_verified_groups_and_returns_the_rest
            a_dropped_fill_without_content_leaves_nothing
            a_fill_resumes_where_the_last_one_stopped
            room_is_reserved_before_a_fill_begins
            the_limit_holds_at_every_step
            the_least_recently_used_goes_first
            open_objects_are_never_given_up
            objects_being_filled_are_never_given_up
            what_can_never_fit_is_too_large
            a_full_cache_says_so_and_recovers
            handles_survive_removal
            removed_bytes_count_until_the_last_handle_is_dropped
            a_removed_object_can_be_filled_again
            removal_gives_the_room_back
            the_outboard_of_a_whole_object_is_known
            the_outboard_of_a_partial_object_is_what_was_handed_in
            a_checkpoint_changes_nothing_that_can_be_seen
            a_future_that_is_not_polled_does_nothing
        }
    };
}
// end of the list

mod room;

use std::sync::Arc;

use super::{ReadNow as _, Subject, WriteNow as _, block_on, content, outboard_of};
use crate::outboard::{GROUP_BYTES, Outboard};
use crate::traits::{CacheError, ObjectCache, ObjectFill, ObjectHandle};
use crate::{ObjectId, RangeSet};

pub use room::*;

const G: usize = 64 * 1024;
const GROUP: u64 = GROUP_BYTES;

type Fill = Arc<dyn ObjectFill>;
type Handle = Arc<dyn ObjectHandle>;

fn id(data: &[u8]) -> ObjectId {
    ObjectId::of(data)
}

fn begin(cache: &impl ObjectCache, data: &[u8]) -> Result<Fill, CacheError> {
    let fill = block_on(cache.fill(&id(data), data.len() as u64))?;
    fill.set_outboard_now(outboard_of(data))?;
    Ok(fill)
}

fn put(cache: &impl ObjectCache, data: &[u8]) {
    let fill = begin(cache, data).unwrap();
    fill.write_now(0, data).unwrap();
    block_on(fill.finish()).unwrap();
}

fn open(cache: &impl ObjectCache, data: &[u8]) -> Option<Handle> {
    block_on(cache.open(&id(data))).unwrap()
}

fn is_here(cache: &impl ObjectCache, data: &[u8]) -> bool {
    open(cache, data).is_some_and(|handle| handle.is_complete())
}

/// The smallest limit at which objects of these sizes fit side by side, with all that the cache keeps
/// beside them.
fn limit_for<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>, sizes: &[u64]) -> Option<u64> {
    let cache = make(None);
    Some(sizes.iter().map(|size| size + cache.overhead_bytes(*size)).sum())
}

/// Used and reserved bytes; checks the one rule that holds at every instant.
fn account(cache: &impl ObjectCache) -> (u64, u64) {
    let usage = cache.usage();
    assert!(
        usage.used_bytes + usage.reserved_bytes + usage.side_bytes <= usage.max_bytes.unwrap_or(u64::MAX),
        "beyond the limit: {usage:?}"
    );
    (usage.used_bytes, usage.reserved_bytes)
}

fn absent(result: Result<bytes::Bytes, CacheError>) {
    assert!(
        matches!(result, Err(CacheError::Absent { .. })),
        "not absent: {result:?}"
    );
}

fn refused<T>(result: Result<T, CacheError>) {
    match result {
        Err(CacheError::Verify(_)) => {}
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("taken"),
    }
}

/// An empty cache has no objects, no outboards, and uses nothing.
pub fn nothing_is_here_at_first<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(Some(1000));
    let object = id(b"x");
    assert!(block_on(cache.open(&object)).unwrap().is_none());
    assert!(block_on(cache.outboard(&object)).unwrap().is_none());
    assert!(!block_on(cache.remove(&object)).unwrap());
    let usage = cache.usage();
    assert_eq!((usage.max_bytes, usage.objects), (Some(1000), 0));
    assert_eq!(account(&*cache), (0, 0));
    assert_eq!(make(None).usage().max_bytes, None);
}

/// Sizes around the borders of chunks and groups are kept whole.
pub fn objects_of_every_shape_come_back<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let sizes = [0, 1, 1024, G - 1, G, G + 1, 2 * G, 3 * G - 1, 5 * G + 7];
    for (seed, size) in (0..).zip(sizes) {
        let data = content(seed, size);
        put(&*cache, &data);
        let handle = open(&*cache, &data).unwrap();
        assert_eq!((handle.object(), handle.size()), (id(&data), size as u64));
        assert!(handle.is_complete());
        assert_eq!(handle.present(), RangeSet::from_iter([0..size as u64]));
        assert_eq!(handle.read_now(0..size as u64).unwrap(), data);
        let (from, to) = (size / 3, size - size / 4);
        assert_eq!(handle.read_now(from as u64..to as u64).unwrap(), data[from..to]);
    }
    let usage = cache.usage();
    assert_eq!(usage.objects, sizes.len() as u64);
    assert_eq!(account(&*cache), (sizes.iter().sum::<usize>() as u64, 0));
}

/// The empty object is complete when its fill begins.
pub fn an_empty_object_needs_no_content<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[0]));
    let fill = block_on(cache.fill(&id(b""), 0)).unwrap();
    assert!(fill.outboard().is_some());
    block_on(fill.finish()).unwrap();
    drop(fill);
    let handle = open(&*cache, b"").unwrap();
    assert!(handle.is_complete());
    assert!(handle.read_now(0..0).unwrap().is_empty());
}

/// An object of no bytes has the id of no bytes: any other is a lie that must not become a whole object.
pub fn an_empty_object_under_a_foreign_id_is_refused<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    refused(block_on(cache.fill(&id(b"x"), 0)));
    assert!(block_on(cache.open(&id(b"x"))).unwrap().is_none());
    assert_eq!(cache.usage().objects, 0);
    put(&*cache, b"x");
}

/// A fill that has just begun shows nothing.
pub fn bytes_are_not_readable_before_they_are_written<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    for data in [content(1, 100), content(1, 3 * G)] {
        let fill = begin(&*cache, &data).unwrap();
        let handle = fill.handle();
        assert!(handle.present().is_empty() && !handle.is_complete());
        absent(handle.read_now(0..1));
        absent(handle.read_now(0..data.len() as u64));
        if let Some(handle) = open(&*cache, &data) {
            assert!(handle.present().is_empty());
            absent(handle.read_now(0..1));
        }
    }
}

/// Every handle, whenever it was opened, sees a group when its write returns, and no more than that group.
pub fn ranges_are_readable_as_soon_as_they_are_written<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 4 * G + 5);
    let fill = begin(&*cache, &data).unwrap();
    let before = fill.handle();
    fill.write_now(GROUP, &data[G..3 * G]).unwrap();
    for handle in [before, fill.handle(), open(&*cache, &data).unwrap()] {
        assert_eq!(handle.present().ranges(), [GROUP..3 * GROUP]);
        assert_eq!(
            handle.read_now(GROUP + 1..3 * GROUP - 1).unwrap(),
            data[G + 1..3 * G - 1]
        );
        absent(handle.read_now(GROUP - 1..GROUP + 1));
        absent(handle.read_now(3 * GROUP - 1..3 * GROUP + 1));
        assert!(!handle.is_complete());
    }
    fill.write_now(4 * GROUP, &data[4 * G..]).unwrap();
    assert_eq!(
        open(&*cache, &data)
            .unwrap()
            .read_now(4 * GROUP..4 * GROUP + 5)
            .unwrap(),
        data[4 * G..]
    );
}

/// One wrong bit anywhere in a write: the error says so, and not one group of that write is kept.
pub fn wrong_data_keeps_nothing<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 3 * G + 9);
    let fill = begin(&*cache, &data).unwrap();
    for at in [0, G - 1, G, 2 * G + 17, 3 * G + 8] {
        let mut wrong = data.clone();
        wrong[at] ^= 0x80;
        refused(fill.write_now(0, &wrong));
        assert!(fill.handle().present().is_empty(), "something of it was kept");
        assert_eq!(account(&*cache), (0, data.len() as u64));
    }
    fill.write_now(0, &data).unwrap();
    block_on(fill.finish()).unwrap();
    assert_eq!(
        open(&*cache, &data).unwrap().read_now(0..data.len() as u64).unwrap(),
        data
    );
}

/// The same for an object of one group, which is its own outboard.
pub fn wrong_data_of_a_small_object_keeps_nothing<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let fill = block_on(cache.fill(&id(b"right"), 5)).unwrap();
    refused(fill.write_now(0, b"wrong"));
    assert!(fill.handle().present().is_empty());
    assert!(block_on(fill.finish()).is_err());
    fill.write_now(0, b"right").unwrap();
    block_on(fill.finish()).unwrap();
}

/// The right bytes at the wrong offset are wrong bytes.
pub fn data_of_another_place_is_refused<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 3 * G);
    let fill = begin(&*cache, &data).unwrap();
    refused(fill.write_now(GROUP, &data[..G]));
    refused(fill.write_now(0, &data[G..]));
    assert!(fill.handle().present().is_empty());
}

/// What cannot be verified is not taken: parts of groups, and bytes beyond the end.
pub fn data_that_is_not_whole_groups_is_refused<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 2 * G + 100);
    let fill = begin(&*cache, &data).unwrap();
    let longer = [&data[..], b"x"].concat();
    refused(fill.write_now(0, &data[..G - 1]));
    refused(fill.write_now(1, &data[1..G]));
    refused(fill.write_now(2 * GROUP, &data[2 * G..2 * G + 99]));
    refused(fill.write_now(2 * GROUP, &longer[2 * G..]));
    refused(fill.write_now(3 * GROUP, b"x"));
    refused(fill.write_now(u64::MAX - GROUP + 1, &data[..G]));
    assert!(fill.handle().present().is_empty());
    assert_eq!(account(&*cache), (0, data.len() as u64));
}

/// An outboard of another object, or of another size, does not become this object's.
pub fn a_foreign_outboard_is_refused<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let (data, other) = (content(1, 3 * G), content(2, 3 * G));
    let fill = block_on(cache.fill(&id(&data), data.len() as u64)).unwrap();
    refused(fill.set_outboard_now(outboard_of(&other)));
    refused(fill.set_outboard_now(outboard_of(b"small")));
    refused(fill.write_now(0, &other));
    fill.set_outboard_now(outboard_of(&data)).unwrap();
    refused(fill.write_now(0, &other));
    fill.write_now(0, &data).unwrap();
}

/// Content of several groups cannot be verified without an outboard, so it is not taken; that of one can.
pub fn content_needs_an_outboard_first<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, G + 1);
    let fill = block_on(cache.fill(&id(&data), data.len() as u64)).unwrap();
    assert!(fill.outboard().is_none());
    refused(fill.write_now(0, &data));
    assert!(fill.handle().present().is_empty());
    let small = content(2, G);
    let fill = block_on(cache.fill(&id(&small), GROUP)).unwrap();
    assert_eq!(fill.outboard(), Some(outboard_of(&small)));
    fill.write_now(0, &small).unwrap();
}

/// Order does not matter, and a group that comes again is counted once.
pub fn groups_come_in_any_order_and_twice<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 6 * G + 1);
    let fill = begin(&*cache, &data).unwrap();
    for start in [6, 2, 4, 2, 0, 3, 5, 1, 0] {
        let end = ((start + 1) * G).min(data.len());
        fill.write_now((start * G) as u64, &data[start * G..end]).unwrap();
        let (used, reserved) = account(&*cache);
        assert_eq!(used, fill.handle().present().len());
        assert_eq!(used + reserved, data.len() as u64);
    }
    fill.write_now(0, &data).unwrap();
    block_on(fill.finish()).unwrap();
    assert_eq!(
        open(&*cache, &data).unwrap().read_now(0..data.len() as u64).unwrap(),
        data
    );
    assert_eq!(account(&*cache), (data.len() as u64, 0));
}

/// Wrong data over a group that is present is refused, and the good bytes stay.
pub fn present_groups_are_left_as_they_are<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 2 * G);
    let fill = begin(&*cache, &data).unwrap();
    fill.write_now(0, &data[..G]).unwrap();
    refused(fill.write_now(0, &vec![0; 2 * G]));
    assert_eq!(fill.handle().present().ranges(), [0..GROUP]);
    assert_eq!(fill.handle().read_now(0..GROUP).unwrap(), data[..G]);
}

/// Nothing lies behind the last byte, of whole and of partial objects.
pub fn reads_beyond_the_end_are_absent<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, G + 10);
    let fill = begin(&*cache, &data).unwrap();
    fill.write_now(GROUP, &data[G..]).unwrap();
    let size = data.len() as u64;
    absent(fill.handle().read_now(GROUP..size + 1));
    fill.write_now(0, &data).unwrap();
    block_on(fill.finish()).unwrap();
    drop(fill);
    let handle = open(&*cache, &data).unwrap();
    absent(handle.read_now(0..size + 1));
    absent(handle.read_now(size..size + 1));
    absent(handle.read_now(u64::MAX - 1..u64::MAX));
}

/// One fill per object at a time; others go on.
pub fn a_second_fill_is_busy<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let (data, other) = (content(1, 2 * G), content(2, 2 * G));
    let fill = begin(&*cache, &data).unwrap();
    for size in [data.len() as u64, 5] {
        let second = block_on(cache.fill(&id(&data), size));
        assert!(matches!(second, Err(CacheError::Busy(object)) if object == id(&data)));
    }
    assert_eq!(account(&*cache), (0, data.len() as u64));
    put(&*cache, &other);
    drop(fill);
    put(&*cache, &data);
}

/// Removal waits for the end of a fill.
pub fn an_object_being_filled_is_not_removed<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 2 * G);
    let fill = begin(&*cache, &data).unwrap();
    fill.write_now(0, &data[..G]).unwrap();
    let removed = block_on(cache.remove(&id(&data)));
    assert!(matches!(removed, Err(CacheError::Busy(_))), "{removed:?}");
    fill.write_now(GROUP, &data[G..]).unwrap();
    block_on(fill.finish()).unwrap();
    drop(fill);
    assert!(block_on(cache.remove(&id(&data))).unwrap());
    assert!(open(&*cache, &data).is_none());
}

/// Filling what is whole costs nothing and is done at once.
pub fn a_whole_object_gives_a_complete_fill<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let data = content(1, 2 * G);
    let cache = make(limit_for(make, &[2 * GROUP]));
    put(&*cache, &data);
    let before = cache.usage();
    let fill = block_on(cache.fill(&id(&data), data.len() as u64)).unwrap();
    assert!(fill.handle().is_complete());
    assert_eq!(cache.usage(), before);
    block_on(fill.finish()).unwrap();
    drop(fill);
    assert_eq!(cache.usage(), before);
    assert!(is_here(&*cache, &data));
}

/// A whole object was verified, so another size can only be a lie.
pub fn another_size_than_the_held_one_is_refused<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[2 * GROUP, 3 * GROUP]));
    let data = content(1, 2 * G);
    put(&*cache, &data);
    for size in [1, 2 * GROUP - 1, 2 * GROUP + 1] {
        refused(block_on(cache.fill(&id(&data), size)));
    }
    assert_eq!(account(&*cache), (2 * GROUP, 0));
    assert!(is_here(&*cache, &data));
}

/// A fill that was told a wrong size brings nothing; the next one with the right size works.
pub fn a_size_that_was_wrong_does_no_lasting_harm<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[4 * GROUP]));
    let data = content(1, 2 * G);
    for size in [3 * GROUP, 10] {
        let fill = block_on(cache.fill(&id(&data), size)).unwrap();
        let _ = fill.write_now(0, &data);
        let _ = fill.write_now(0, &data[..10]);
        assert!(fill.handle().present().is_empty());
        let reader = fill.handle();
        drop(fill);
        put(&*cache, &data);
        assert!(is_here(&*cache, &data));
        absent(reader.read_now(0..10));
        drop(reader);
        assert!(block_on(cache.remove(&id(&data))).unwrap());
        assert_eq!(account(&*cache), (0, 0));
    }
}

/// An object with a hole is not whole, and the error says where the first hole is.
pub fn finish_with_a_gap_names_it<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 5 * G);
    let fill = begin(&*cache, &data).unwrap();
    for (start, gap) in [
        (0, GROUP..5 * GROUP),
        (3, GROUP..3 * GROUP),
        (1, 2 * GROUP..3 * GROUP),
        (2, 4 * GROUP..5 * GROUP),
    ] {
        fill.write_now((start * G) as u64, &data[start * G..(start + 1) * G])
            .unwrap();
        match block_on(fill.finish()) {
            Err(CacheError::Absent { object, range }) => assert_eq!((object, range), (id(&data), gap)),
            other => panic!("{other:?}"),
        }
    }
    fill.write_now(4 * GROUP, &data[4 * G..]).unwrap();
    block_on(fill.finish()).unwrap();
    block_on(fill.finish()).unwrap();
}

/// Publishing does not disturb who is reading.
pub fn finish_keeps_earlier_handles_working<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let data = content(1, 3 * G);
    let fill = begin(&*cache, &data).unwrap();
    let before = fill.handle();
    fill.write_now(0, &data).unwrap();
    let between = open(&*cache, &data).unwrap();
    block_on(fill.finish()).unwrap();
    drop(fill);
    for handle in [before, between] {
        assert!(handle.is_complete());
        assert_eq!(handle.read_now(0..data.len() as u64).unwrap(), data);
    }
}

/// Cancelling costs nothing that was verified and holds nothing that was promised.
pub fn a_dropped_fill_keeps_verified_groups_and_returns_the_rest<C: ObjectCache>(
    make: &dyn Fn(Option<u64>) -> Subject<C>,
) {
    let cache = make(limit_for(make, &[5 * GROUP, 4 * GROUP]).map(|room| room - 3 * GROUP));
    let data = content(1, 5 * G);
    let fill = begin(&*cache, &data).unwrap();
    fill.write_now(GROUP, &data[G..3 * G]).unwrap();
    assert_eq!(account(&*cache), (2 * GROUP, 3 * GROUP));
    drop(fill);
    assert_eq!(account(&*cache), (2 * GROUP, 0));
    let handle = open(&*cache, &data).unwrap();
    assert_eq!((handle.size(), handle.is_complete()), (5 * GROUP, false));
    assert_eq!(handle.present().ranges(), [GROUP..3 * GROUP]);
    assert_eq!(handle.read_now(GROUP..3 * GROUP).unwrap(), data[G..3 * G]);
    // The room that came back can be used.
    put(&*cache, &content(2, 4 * G));
}

/// A fill that brought nothing leaves no trace.
pub fn a_dropped_fill_without_content_leaves_nothing<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[3 * GROUP]));
    let data = content(1, 3 * G);
    drop(begin(&*cache, &data).unwrap());
    assert_eq!(account(&*cache), (0, 0));
    assert_eq!(cache.usage().objects, 0);
    assert!(open(&*cache, &data).is_none());
    assert!(!block_on(cache.remove(&id(&data))).unwrap());
}

/// A later fill finds groups and outboard, and reserves only what is missing.
pub fn a_fill_resumes_where_the_last_one_stopped<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[5 * GROUP]));
    let data = content(1, 5 * G);
    let fill = begin(&*cache, &data).unwrap();
    fill.write_now(0, &data[..2 * G]).unwrap();
    drop(fill);
    let fill = block_on(cache.fill(&id(&data), data.len() as u64)).unwrap();
    assert_eq!(fill.outboard(), Some(outboard_of(&data)));
    assert_eq!(fill.handle().present().ranges(), [0..2 * GROUP]);
    assert_eq!(account(&*cache), (2 * GROUP, 3 * GROUP));
    fill.write_now(2 * GROUP, &data[2 * G..]).unwrap();
    block_on(fill.finish()).unwrap();
    drop(fill);
    assert_eq!(open(&*cache, &data).unwrap().read_now(0..5 * GROUP).unwrap(), data);
}

/// A whole object's outboard can always be had, and is right.
pub fn the_outboard_of_a_whole_object_is_known<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    for (seed, size) in [(1, 0), (2, 1), (3, G), (4, G + 1), (5, 5 * G + 3)] {
        let data = content(seed, size);
        put(&*cache, &data);
        assert_eq!(block_on(cache.outboard(&id(&data))).unwrap(), Some(outboard_of(&data)));
    }
}

/// A partial object's is the one that was handed in, if one was.
pub fn the_outboard_of_a_partial_object_is_what_was_handed_in<C: ObjectCache>(
    make: &dyn Fn(Option<u64>) -> Subject<C>,
) {
    let cache = make(None);
    let data = content(1, 3 * G);
    let fill = block_on(cache.fill(&id(&data), 3 * GROUP)).unwrap();
    assert_eq!(block_on(cache.outboard(&id(&data))).unwrap(), None);
    let outboard = Outboard::verify(id(&data), 3 * GROUP, outboard_of(&data).values().clone()).unwrap();
    fill.set_outboard_now(outboard.clone()).unwrap();
    fill.set_outboard_now(outboard.clone()).unwrap();
    fill.write_now(0, &data[..G]).unwrap();
    assert_eq!(fill.outboard().as_ref(), Some(&outboard));
    assert_eq!(block_on(cache.outboard(&id(&data))).unwrap().as_ref(), Some(&outboard));
    drop(fill);
    assert_eq!(block_on(cache.outboard(&id(&data))).unwrap(), Some(outboard));
}

/// A checkpoint may come at any moment.
pub fn a_checkpoint_changes_nothing_that_can_be_seen<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[2 * GROUP, 3 * GROUP]));
    block_on(cache.checkpoint()).unwrap();
    let (whole, data) = (content(1, 2 * G), content(2, 3 * G));
    put(&*cache, &whole);
    let fill = begin(&*cache, &data).unwrap();
    fill.write_now(0, &data[..G]).unwrap();
    let handle = open(&*cache, &whole).unwrap();
    let before = cache.usage();
    block_on(cache.checkpoint()).unwrap();
    assert_eq!(cache.usage(), before);
    fill.write_now(GROUP, &data[G..]).unwrap();
    block_on(cache.checkpoint()).unwrap();
    block_on(fill.finish()).unwrap();
    assert_eq!(handle.read_now(0..2 * GROUP).unwrap(), whole);
    assert!(is_here(&*cache, &data));
}

/// Futures are lazy: one that is dropped before it was polled leaves the cache as it was.
pub fn a_future_that_is_not_polled_does_nothing<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[1000]));
    let data = content(1, 1000);
    put(&*cache, &data);
    drop(cache.fill(&id(b"other"), 1000));
    drop(cache.remove(&id(&data)));
    assert_eq!(account(&*cache), (1000, 0));
    assert!(is_here(&*cache, &data));
}
