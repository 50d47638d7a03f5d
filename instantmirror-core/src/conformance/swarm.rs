//! The behaviours of a [`Swarm`]. A factory is given the objects that somebody in the swarm must have, and nothing else; for
//! every repository, or at least for [`REPOSITORY`]. The swarm knows its peers
//! already when the factory returns.

/// Stamps the suite: one `#[test]` per behaviour of a swarm. Takes a factory, a function of `&[Bytes]` (the objects that the
/// swarm has) that returns a [`Subject`](crate::conformance::Subject). A swarm that needs a runtime has it running on other
/// threads, inside the subject.
#[macro_export]
macro_rules! swarm_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { swarm, $factory,
            it_says_who_it_is
            groups_are_the_bytes_of_their_places
            only_the_range_asked_for_comes
            an_object_that_nobody_has_is_not_found_at_once
            an_object_of_another_size_is_not_had
            nobody_is_ready_to_send_what_nobody_has
            a_group_without_a_receipt_comes_again
            a_dropped_stream_disturbs_no_other
            outboards_verify
            a_small_object_has_an_empty_outboard
            the_outboard_of_an_absent_object_is_not_found
            a_batch_brings_each_object_once
            missing_objects_of_a_batch_are_items
        }
    };
}
// end of the list

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::peer_transport::REPOSITORY;
use super::{Subject, block_on, content, outboard_of};
use crate::outboard::GROUP_BYTES;
use crate::traits::{BatchItem, Class, GroupRequest, Swarm, TransportError};
use crate::{ObjectId, Outboard, RangeSet, RepoName};

const G: usize = 64 * 1024;

fn repository() -> RepoName {
    REPOSITORY.parse().unwrap()
}

fn objects() -> Vec<Bytes> {
    let sizes = [1, 1000, G, G + 1, 5 * G + 7];
    (1..)
        .zip(sizes)
        .map(|(seed, size)| content(seed, size).into())
        .collect()
}

fn request(data: &[u8], range: Range<usize>) -> GroupRequest {
    GroupRequest {
        object: ObjectId::of(data),
        size: data.len() as u64,
        range: range.start as u64..range.end as u64,
        class: Class::Preseed,
        rank: 0,
    }
}

/// Takes groups until all of a range is here; each is checked, and said to be good.
async fn fetch(swarm: &impl Swarm, data: &[u8], range: Range<usize>) -> RangeSet {
    let mut got = RangeSet::new();
    let wanted = range.start as u64..range.end as u64;
    let mut groups = swarm.groups(&repository(), request(data, range)).await.unwrap();
    while !got.contains(wanted.clone()) {
        let group = groups.next().await.expect("it goes on until all has come").unwrap();
        let start = usize::try_from(group.offset).unwrap();
        assert_eq!(group.data, data[start..start + group.data.len()], "at {start}");
        assert!(group.offset.is_multiple_of(GROUP_BYTES), "whole groups: {start}");
        got.insert(group.offset..group.offset + group.data.len() as u64);
        group.receipt.good();
    }
    got
}

async fn batch(swarm: &impl Swarm, objects: &[&[u8]]) -> Vec<BatchItem> {
    let asked: Vec<_> = objects
        .iter()
        .map(|data| (ObjectId::of(data), data.len() as u64))
        .collect();
    let mut items = Vec::new();
    {
        let mut sink = |item| items.push(item);
        let done = swarm.batch(&repository(), &asked, Class::Preseed, &mut sink).await;
        done.unwrap();
    }
    items
}

/// A label for logs that is not empty and does not change.
pub fn it_says_who_it_is<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let swarm = make(&[]);
    assert!(!swarm.label().is_empty());
    assert_eq!(swarm.label(), swarm.label());
}

/// In any order, each at its offset.
pub fn groups_are_the_bytes_of_their_places<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let objects = objects();
    let swarm = make(&objects);
    for data in &objects {
        let got = block_on(fetch(&*swarm, data, 0..data.len()));
        assert_eq!(got.len(), data.len() as u64);
    }
}

/// Whole groups that touch it, and no more of a large object than a piece around them.
pub fn only_the_range_asked_for_comes<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let data = Bytes::from(content(1, 40 * G + 5));
    let swarm = make(std::slice::from_ref(&data));
    let got = block_on(fetch(&*swarm, &data, 2 * G..3 * G));
    assert!(got.len() <= 16 * GROUP_BYTES, "{got:?}");
    block_on(fetch(&*swarm, &data, 40 * G..40 * G + 5));
}

/// Others can be asked at once.
pub fn an_object_that_nobody_has_is_not_found_at_once<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let swarm = make(&objects());
    // A background request may wait for a place in the swarm; a client's does not.
    let mut asked = request(b"not there", 0..9);
    asked.class = Class::Demand;
    match block_on(swarm.groups(&repository(), asked)) {
        Err(TransportError::NotFound { .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("groups of an object that nobody has"),
    }
}

/// The asker was told a lie about the size.
pub fn an_object_of_another_size_is_not_had<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let data = Bytes::from(content(1, 2 * G));
    let swarm = make(std::slice::from_ref(&data));
    let mut asked = request(&data, 0..G);
    asked.size += 1;
    asked.class = Class::Demand;
    assert!(block_on(swarm.groups(&repository(), asked)).is_err());
    block_on(fetch(&*swarm, &data, 0..2 * G));
}

/// A peer that has something may be ready or not; a client is not sent to peers that have nothing.
pub fn nobody_is_ready_to_send_what_nobody_has<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let swarm = make(&objects());
    assert!(!swarm.is_ready(&ObjectId::of(b"not there")));
    assert!(!make(&[]).is_ready(&ObjectId::of(b"not there")));
}

/// Nobody was told what it was worth, so it is still wanted: by the stream that goes on, or by the next one.
pub fn a_group_without_a_receipt_comes_again<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let data = Bytes::from(content(1, 2 * G));
    let swarm = make(std::slice::from_ref(&data));
    block_on(async {
        let mut groups = swarm.groups(&repository(), request(&data, 0..2 * G)).await.unwrap();
        let group = groups.next().await.unwrap().unwrap();
        drop(group);
        drop(groups);
        let got = fetch(&*swarm, &data, 0..2 * G).await;
        assert_eq!(got.len(), data.len() as u64);
    });
}

/// Dropping a stream in the middle is how a transfer is cancelled.
pub fn a_dropped_stream_disturbs_no_other<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let data = Bytes::from(content(1, 20 * G));
    let swarm = make(std::slice::from_ref(&data));
    block_on(async {
        for _ in 0..3 {
            let mut groups = swarm.groups(&repository(), request(&data, 0..20 * G)).await.unwrap();
            let group = groups.next().await.unwrap().unwrap();
            group.receipt.good();
            drop(groups);
            drop(swarm.groups(&repository(), request(&data, 0..20 * G)));
        }
        let got = fetch(&*swarm, &data, 0..20 * G).await;
        assert_eq!(got.len(), data.len() as u64);
    });
}

/// An honest side's outboard proves its content.
pub fn outboards_verify<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let objects = objects();
    let swarm = make(&objects);
    for data in &objects {
        let (object, size) = (ObjectId::of(data), data.len() as u64);
        let values = block_on(swarm.outboard(&repository(), &object, size, Class::Demand)).unwrap();
        assert_eq!(Outboard::verify(object, size, values), Ok(outboard_of(data)));
    }
}

/// An object of one group needs none: no bytes, no error.
pub fn a_small_object_has_an_empty_outboard<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let data = Bytes::from(content(1, G));
    let swarm = make(std::slice::from_ref(&data));
    let values = block_on(swarm.outboard(&repository(), &ObjectId::of(&data), G as u64, Class::Demand)).unwrap();
    assert!(values.is_empty());
}

/// No outboard without its object.
pub fn the_outboard_of_an_absent_object_is_not_found<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let swarm = make(&objects());
    let absent = ObjectId::of(b"absent");
    let answer = block_on(swarm.outboard(&repository(), &absent, 3 * G as u64, Class::Demand));
    assert!(matches!(answer, Err(TransportError::NotFound { .. })), "{answer:?}");
}

/// In any order, and what comes is verified.
pub fn a_batch_brings_each_object_once<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let objects: Vec<Bytes> = (0..40_u8)
        .map(|seed| content(seed, 10 + 3700 * usize::from(seed)).into())
        .collect();
    let swarm = make(&objects);
    let asked: Vec<&[u8]> = objects.iter().map(AsRef::as_ref).collect();
    let items = block_on(batch(&*swarm, &asked));
    assert_eq!(items.len(), objects.len());
    let by_id: HashMap<ObjectId, Bytes> = items.into_iter().map(|(id, data)| (id, data.unwrap())).collect();
    for data in &objects {
        assert_eq!(by_id.get(&ObjectId::of(data)), Some(data));
    }
}

/// The others still come.
pub fn missing_objects_of_a_batch_are_items<S: Swarm>(make: &dyn Fn(&[Bytes]) -> Subject<S>) {
    let swarm = make(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    let asked: [&[u8]; 5] = [b"nothing", b"one", b"nil", b"two", b"none"];
    let items = block_on(batch(&*swarm, &asked));
    assert_eq!(items.len(), asked.len());
    for data in asked {
        let of_it: Vec<_> = items.iter().filter(|(id, _)| *id == ObjectId::of(data)).collect();
        let [(_, result)] = of_it[..] else { panic!("{of_it:?}") };
        match result {
            Ok(content) => assert_eq!(content, data),
            Err(TransportError::NotFound { .. }) => assert!(data.starts_with(b"n"), "{data:?} is there"),
            Err(other) => panic!("{other}"),
        }
    }
}
