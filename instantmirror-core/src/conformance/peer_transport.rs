//! The behaviours of a [`PeerTransport`]. A factory is given the objects that the other side must have, and nothing
//! else; for every repository, or at least for [`REPOSITORY`].

/// Stamps the suite: one `#[test]` per behaviour of a transport. Takes a factory, a function of `&[Bytes]` (the
/// objects that the other side has) that returns a [`Subject`](crate::conformance::Subject). A transport that needs a
/// runtime has it running on other threads, inside the subject.
#[macro_export]
macro_rules! peer_transport_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { peer_transport, $factory,
            it_says_who_it_is
            a_range_is_exactly_its_bytes
            ranges_around_the_borders_of_groups_are_exact
            a_large_object_comes_whole
            an_empty_range_is_an_empty_stream
            an_object_that_is_not_there_is_not_found
            a_range_beyond_the_end_is_an_error
            outboards_verify
            a_small_object_has_an_empty_outboard
            the_outboard_of_an_absent_object_is_not_found
            a_batch_comes_in_the_order_asked_for
            missing_objects_of_a_batch_are_items
            a_batch_may_name_an_object_twice
            empty_objects_come_in_a_batch
            transfers_overlap
            a_dropped_transfer_disturbs_no_other
        }
    };
}
// end of the list

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{Subject, block_on, content, outboard_of};
use crate::batch::BATCH_OBJECTS_MAX;
use crate::traits::{BatchItem, ByteStream, Class, PeerTransport, TransportError};
use crate::{ObjectId, Outboard, RepoName};

/// The repository that the suite asks for.
pub const REPOSITORY: &str = "conformance";

const G: usize = 64 * 1024;

fn repository() -> RepoName {
    REPOSITORY.parse().unwrap()
}

fn objects() -> Vec<Bytes> {
    let sizes = [0, 1, 1000, G - 1, G, G + 1, 5 * G + 7];
    (0..)
        .zip(sizes)
        .map(|(seed, size)| content(seed, size).into())
        .collect()
}

async fn collect(mut stream: ByteStream) -> Result<Vec<u8>, TransportError> {
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

async fn fetch(transport: &impl PeerTransport, data: &[u8], range: Range<usize>) -> Result<Vec<u8>, TransportError> {
    let (object, range) = (ObjectId::of(data), range.start as u64..range.end as u64);
    collect(transport.range(&repository(), &object, range, Class::Demand).await?).await
}

async fn batch(transport: &impl PeerTransport, objects: &[&[u8]]) -> Vec<BatchItem> {
    let asked: Vec<_> = objects
        .iter()
        .map(|data| (ObjectId::of(data), data.len() as u64))
        .collect();
    let mut items = Vec::new();
    transport
        .batch(&repository(), &asked, Class::Preseed, &mut |item| items.push(item))
        .await
        .unwrap();
    items
}

/// A label for logs that is not empty and does not change.
pub fn it_says_who_it_is<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let transport = make(&[]);
    assert!(!transport.label().is_empty());
    assert_eq!(transport.label(), transport.label());
}

/// Any range of any object: these bytes, no more and no fewer.
pub fn a_range_is_exactly_its_bytes<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let objects = objects();
    let transport = make(&objects);
    for data in objects.iter().filter(|data| !data.is_empty()) {
        let len = data.len();
        for range in [
            0..len,
            0..1,
            len - 1..len,
            len / 2..len,
            0..len.div_ceil(2),
            len / 3..len / 3 + 1,
        ] {
            let got = block_on(fetch(&*transport, data, range.clone())).unwrap();
            assert_eq!(got, data[range.clone()], "{range:?} of {len}");
        }
    }
}

/// The ranges that a verifying reader asks for.
pub fn ranges_around_the_borders_of_groups_are_exact<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let data = Bytes::from(content(1, 4 * G + 100));
    let transport = make(std::slice::from_ref(&data));
    for range in [0..G, G..2 * G, G - 1..G + 1, 4 * G..4 * G + 100, 2 * G..4 * G + 100] {
        assert_eq!(block_on(fetch(&*transport, &data, range.clone())).unwrap(), data[range]);
    }
}

/// Megabytes arrive complete and in order.
pub fn a_large_object_comes_whole<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let data = Bytes::from(content(1, 5_000_001));
    let transport = make(std::slice::from_ref(&data));
    assert!(block_on(fetch(&*transport, &data, 0..data.len())).unwrap() == data);
}

/// Nothing was asked for and nothing comes, without an error; also of an empty object.
pub fn an_empty_range_is_an_empty_stream<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let objects = objects();
    let transport = make(&objects);
    for data in &objects {
        for at in [0, data.len() / 2, data.len()] {
            assert_eq!(block_on(fetch(&*transport, data, at..at)).unwrap(), b"");
        }
    }
}

/// Absence is told from trouble: whoever asks goes elsewhere at once.
pub fn an_object_that_is_not_there_is_not_found<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let transport = make(&objects());
    match block_on(fetch(&*transport, b"not there", 0..9)) {
        Err(error @ TransportError::NotFound { .. }) => assert!(!error.is_transient()),
        other => panic!("{other:?}"),
    }
}

/// Bytes that do not exist are an error, at once or in the stream; never made up.
pub fn a_range_beyond_the_end_is_an_error<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let data = Bytes::from(content(1, 1000));
    let transport = make(std::slice::from_ref(&data));
    for range in [0..1001, 999..1001, 1000..1001, 5000..6000] {
        let got = block_on(fetch(&*transport, &data, range.clone()));
        assert!(got.is_err(), "{range:?}: {} bytes", got.unwrap().len());
    }
    assert_eq!(block_on(fetch(&*transport, &data, 0..1000)).unwrap(), data);
}

/// An honest side's outboard proves its content.
pub fn outboards_verify<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let objects = objects();
    let transport = make(&objects);
    for data in &objects {
        let (object, size) = (ObjectId::of(data), data.len() as u64);
        let values = block_on(transport.outboard(&repository(), &object, size, Class::Demand)).unwrap();
        assert_eq!(Outboard::verify(object, size, values), Ok(outboard_of(data)));
    }
}

/// An object of one group needs none: no bytes, no error.
pub fn a_small_object_has_an_empty_outboard<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let data = Bytes::from(content(1, G));
    let transport = make(std::slice::from_ref(&data));
    let values = block_on(transport.outboard(&repository(), &ObjectId::of(&data), G as u64, Class::Demand)).unwrap();
    assert!(values.is_empty());
}

/// No outboard without its object.
pub fn the_outboard_of_an_absent_object_is_not_found<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let transport = make(&objects());
    let absent = ObjectId::of(b"absent");
    let answer = block_on(transport.outboard(&repository(), &absent, 3 * G as u64, Class::Demand));
    assert!(matches!(answer, Err(TransportError::NotFound { .. })), "{answer:?}");
}

/// As many items as questions, in their order, each with its content.
pub fn a_batch_comes_in_the_order_asked_for<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let objects: Vec<Bytes> = (0..100_u8)
        .map(|seed| content(seed, 10 + 37 * usize::from(seed)).into())
        .collect();
    let transport = make(&objects);
    for step in [1, 7, 99] {
        let order: Vec<&[u8]> = (0..100).map(|i| &*objects[i * step % 100]).collect();
        let items = block_on(batch(&*transport, &order));
        assert_eq!(items.len(), order.len());
        for ((object, result), data) in items.iter().zip(&order) {
            assert_eq!(
                (*object, result.as_ref().unwrap().as_ref()),
                (ObjectId::of(data), *data)
            );
        }
    }
    assert!(objects.len() <= BATCH_OBJECTS_MAX);
}

/// What the other side lacks is told in its place; the others still come.
pub fn missing_objects_of_a_batch_are_items<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let transport = make(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    let asked: [&[u8]; 5] = [b"nothing", b"one", b"nil", b"two", b"none"];
    let items = block_on(batch(&*transport, &asked));
    assert_eq!(items.len(), asked.len());
    for ((object, result), data) in items.iter().zip(asked) {
        assert_eq!(*object, ObjectId::of(data));
        match result {
            Ok(content) => assert_eq!(content, data),
            Err(TransportError::NotFound { .. }) => assert!(data.starts_with(b"n"), "{data:?} is there"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Each question has its answer.
pub fn a_batch_may_name_an_object_twice<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let transport = make(&[Bytes::from_static(b"one")]);
    let items = block_on(batch(&*transport, &[b"one", b"one"]));
    assert!(
        items.len() == 2
            && items
                .iter()
                .all(|(_, result)| result.as_ref().is_ok_and(|data| data == "one"))
    );
}

/// Nothing is also something.
pub fn empty_objects_come_in_a_batch<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let transport = make(&[Bytes::new(), Bytes::from_static(b"one")]);
    let items = block_on(batch(&*transport, &[b"", b"one", b""]));
    let lens: Vec<_> = items.iter().map(|(_, result)| result.as_ref().unwrap().len()).collect();
    assert_eq!(lens, [0, 3, 0]);
}

/// Two streams of one transport are read in turn, whatever else is asked meanwhile.
pub fn transfers_overlap<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let objects = [Bytes::from(content(1, 300_000)), Bytes::from(content(2, 300_000))];
    let transport = make(&objects);
    block_on(async {
        let mut streams = Vec::new();
        for data in &objects {
            let stream = transport
                .range(&repository(), &ObjectId::of(data), 0..300_000, Class::Preseed)
                .await
                .unwrap();
            // One may end before the other, and no stream is polled behind its end.
            streams.push((stream.fuse(), Vec::new(), data));
        }
        assert_eq!(fetch(&*transport, &objects[0], 5..10).await.unwrap(), objects[0][5..10]);
        let mut open = true;
        while open {
            open = false;
            for (stream, got, _) in &mut streams {
                if let Some(part) = stream.next().await {
                    got.extend_from_slice(&part.unwrap());
                    open = true;
                }
            }
        }
        assert!(streams.iter().all(|(_, got, data)| got == *data));
    });
}

/// Dropping a stream in the middle is how a transfer is cancelled.
pub fn a_dropped_transfer_disturbs_no_other<T: PeerTransport>(make: &dyn Fn(&[Bytes]) -> Subject<T>) {
    let data = Bytes::from(content(1, 2_000_000));
    let transport = make(std::slice::from_ref(&data));
    block_on(async {
        for _ in 0..10 {
            let mut stream = transport
                .range(&repository(), &ObjectId::of(&data), 0..2_000_000, Class::Preseed)
                .await
                .unwrap();
            let first = stream.next().await.unwrap().unwrap();
            assert_eq!(first, data[..first.len()]);
            drop(stream);
            drop(transport.range(&repository(), &ObjectId::of(&data), 0..2_000_000, Class::Preseed));
        }
        assert!(fetch(&*transport, &data, 0..2_000_000).await.unwrap() == data);
    });
}
