//! The behaviours of [`Objects`]. A factory is given the objects that must be here, whole, and nothing else.

/// Stamps the suite: one `#[test]` per behaviour of what objects are read from. Takes a factory, a function of `&[Bytes]` (the
/// objects that are here) that returns a [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! objects_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { objects, $factory,
            what_is_not_here_is_not_opened
            what_is_here_comes_back_whole
            any_range_is_exactly_its_bytes
            an_empty_range_is_empty
            a_range_beyond_the_end_is_absent
            a_handle_says_what_it_is
            handles_of_one_object_disturb_each_other_not
            reads_of_one_handle_may_overlap
            a_read_that_is_dropped_disturbs_no_other
            the_outboard_proves_the_content
            there_is_no_outboard_without_its_object
        }
    };
}
// end of the list

use bytes::Bytes;
use futures_util::future::join_all;

use super::{ReadNow as _, Subject, block_on, content, outboard_of};
use crate::ObjectId;
use crate::traits::{CacheError, Objects};

const G: usize = 64 * 1024;

/// Sizes around the borders of chunks and groups.
fn objects() -> Vec<Bytes> {
    let sizes = [1, 1023, 1024, 1025, G - 1, G, G + 1, 5 * G + 7];
    (1..)
        .zip(sizes)
        .map(|(seed, size)| content(seed, size).into())
        .collect()
}

fn open(objects: &impl Objects, data: &[u8]) -> std::sync::Arc<dyn crate::traits::ObjectHandle> {
    let opened = block_on(objects.open(&ObjectId::of(data))).unwrap();
    opened.expect("the factory was told to have it")
}

/// Absence is no error.
pub fn what_is_not_here_is_not_opened<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let subject = make(&objects());
    assert!(block_on(subject.open(&ObjectId::of(b"not here"))).unwrap().is_none());
    assert!(block_on(make(&[]).open(&ObjectId::of(b"x"))).unwrap().is_none());
}

/// All of each object, also when it is opened again.
pub fn what_is_here_comes_back_whole<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let objects = objects();
    let subject = make(&objects);
    for data in objects.iter().chain(&objects) {
        assert_eq!(open(&*subject, data).read_now(0..data.len() as u64).unwrap(), data);
    }
}

/// Also across the borders of groups.
pub fn any_range_is_exactly_its_bytes<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 3 * G + 100));
    let subject = make(std::slice::from_ref(&data));
    let handle = open(&*subject, &data);
    for range in [
        0..1,
        0..G,
        G - 1..G + 1,
        1..3 * G,
        2 * G..3 * G + 100,
        3 * G + 99..3 * G + 100,
    ] {
        let read = handle.read_now(range.start as u64..range.end as u64).unwrap();
        assert_eq!(read, data[range.clone()], "{range:?}");
    }
}

/// At the beginning, inside and at the end.
pub fn an_empty_range_is_empty<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, G + 1));
    let subject = make(std::slice::from_ref(&data));
    let handle = open(&*subject, &data);
    for at in [0, 7, G as u64, G as u64 + 1] {
        assert!(handle.read_now(at..at).unwrap().is_empty(), "{at}");
    }
}

/// Bytes that do not exist are never made up.
pub fn a_range_beyond_the_end_is_absent<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 1000));
    let subject = make(std::slice::from_ref(&data));
    let handle = open(&*subject, &data);
    for range in [0..1001, 1000..1001, 5000..6000, u64::MAX - 1..u64::MAX] {
        let read = handle.read_now(range.clone());
        assert!(matches!(read, Err(CacheError::Absent { .. })), "{range:?}: {read:?}");
    }
    assert_eq!(handle.read_now(0..1000).unwrap(), data, "and it is as good as before");
}

/// Id, size, and that all of it is present.
pub fn a_handle_says_what_it_is<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let objects = objects();
    let subject = make(&objects);
    for data in &objects {
        let (handle, size) = (open(&*subject, data), data.len() as u64);
        assert_eq!((handle.object(), handle.size()), (ObjectId::of(data), size));
        assert!(handle.is_complete());
        assert!(handle.present().contains(0..size));
        assert_eq!(handle.present().len(), size);
    }
}

/// Each outlives the others.
pub fn handles_of_one_object_disturb_each_other_not<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 2 * G));
    let subject = make(std::slice::from_ref(&data));
    let (first, second) = (open(&*subject, &data), open(&*subject, &data));
    assert_eq!(first.read_now(0..10).unwrap(), data[..10]);
    drop(first);
    assert_eq!(second.read_now(0..2 * G as u64).unwrap(), data);
}

/// As many as readers want.
pub fn reads_of_one_handle_may_overlap<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 4 * G));
    let subject = make(std::slice::from_ref(&data));
    let handle = open(&*subject, &data);
    let ranges = (0..8).map(|part| part * G / 2..(part + 1) * G / 2);
    let reads = ranges
        .clone()
        .map(|range| handle.read(range.start as u64..range.end as u64));
    for (read, range) in block_on(join_all(reads)).into_iter().zip(ranges) {
        assert_eq!(read.unwrap(), data[range]);
    }
}

/// Polled or not.
pub fn a_read_that_is_dropped_disturbs_no_other<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    use futures_util::FutureExt as _;
    let data = Bytes::from(content(1, 2 * G));
    let subject = make(std::slice::from_ref(&data));
    let handle = open(&*subject, &data);
    for _ in 0..10 {
        drop(handle.read(0..G as u64));
        let _ = handle.read(0..G as u64).now_or_never();
        assert_eq!(handle.read_now(1..G as u64 + 1).unwrap(), data[1..=G]);
    }
}

/// It is that of these bytes and no others.
pub fn the_outboard_proves_the_content<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let objects = objects();
    let subject = make(&objects);
    for data in &objects {
        let outboard = block_on(subject.outboard(&ObjectId::of(data))).unwrap();
        assert_eq!(outboard, Some(outboard_of(data)));
    }
}

/// Whatever else is known of it.
pub fn there_is_no_outboard_without_its_object<O: Objects>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let subject = make(&objects());
    let outboard = block_on(subject.outboard(&ObjectId::of(b"not here"))).unwrap();
    assert_eq!(outboard, None);
}
