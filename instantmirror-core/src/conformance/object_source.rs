//! The behaviours of an [`ObjectSource`] and of the readers that it opens. A factory is given the objects that can be had, for
//! every repository, or at least for [`REPOSITORY`], and nothing else.

/// Stamps the suite: one `#[test]` per behaviour of a source that frontends read from. Takes a factory, a function of `&[Bytes]`
/// (the objects that can be had) that returns a [`Subject`](crate::conformance::Subject). A source that needs a runtime brings it
/// along inside the subject, entered on this thread if its calls want that.
#[macro_export]
macro_rules! object_source_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { object_source, $factory,
            a_reader_says_the_size
            all_of_an_object_can_be_read
            any_range_can_be_read
            an_object_can_be_read_again
            an_empty_file_needs_nothing
            at_the_end_nothing_is_waited_for
            what_cannot_be_had_is_an_error
            readers_of_one_object_agree
            a_reader_that_is_dropped_disturbs_no_other
            a_settled_reader_waits_for_nothing
        }
    };
}
// end of the list

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::peer_transport::REPOSITORY;
use super::{Subject, block_on, content};
use crate::traits::{FetchError, ObjectReader, ObjectSource, ReadIntent};
use crate::{FileMeta, ObjectId, RepoName};

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

fn file(data: &[u8]) -> FileMeta {
    FileMeta {
        size: data.len() as u64,
        object: ObjectId::of(data),
        first_piece: 0,
        link_group: None,
    }
}

async fn open(
    source: &impl ObjectSource,
    data: &[u8],
    range: Range<usize>,
) -> Result<Arc<dyn ObjectReader>, FetchError> {
    let intent = ReadIntent::of(range.start as u64..range.end as u64);
    source.open(&repository(), &file(data), intent).await
}

/// Reads as a frontend does: waits for bytes, takes them from memory where they are there, else reads them.
async fn read(reader: &dyn ObjectReader, range: Range<usize>) -> Result<Vec<u8>, FetchError> {
    let (mut at, end) = (range.start as u64, range.end as u64);
    let mut bytes = Vec::new();
    while at < end {
        let ready = reader.ready(at).await?;
        assert!(ready > at, "announced nothing at {at}");
        let ready = ready.min(end);
        match reader.held(at) {
            Some(held) => {
                let most = usize::try_from(ready - at).unwrap();
                bytes.extend_from_slice(&held[..held.len().min(most)]);
            }
            None => bytes.extend_from_slice(&reader.read(at..ready).await?),
        }
        let now = range.start as u64 + bytes.len() as u64;
        assert!(now > at, "nothing came at {at}");
        at = now;
    }
    Ok(bytes)
}

/// Before anything was read.
pub fn a_reader_says_the_size<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let objects = objects();
    let source = make(&objects);
    for data in &objects {
        let reader = block_on(open(&*source, data, 0..data.len())).unwrap();
        assert_eq!(reader.size(), data.len() as u64);
    }
}

/// Exact bytes, to the last.
pub fn all_of_an_object_can_be_read<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let objects = objects();
    let source = make(&objects);
    for data in &objects {
        block_on(async {
            let reader = open(&*source, data, 0..data.len()).await.unwrap();
            assert!(read(reader.as_ref(), 0..data.len()).await.unwrap() == *data);
        });
    }
}

/// From anywhere to anywhere.
pub fn any_range_can_be_read<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 4 * G + 100));
    for range in [0..1, G - 1..G + 1, 3 * G..4 * G + 100, 4 * G + 99..4 * G + 100] {
        let source = make(std::slice::from_ref(&data));
        block_on(async {
            let reader = open(&*source, &data, range.clone()).await.unwrap();
            assert_eq!(read(reader.as_ref(), range.clone()).await.unwrap(), data[range]);
        });
    }
}

/// Whether or not it was kept.
pub fn an_object_can_be_read_again<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 2 * G));
    let source = make(std::slice::from_ref(&data));
    block_on(async {
        for _ in 0..3 {
            let reader = open(&*source, &data, 0..2 * G).await.unwrap();
            assert!(read(reader.as_ref(), 0..2 * G).await.unwrap() == data);
            assert!(read(reader.as_ref(), 1..G).await.unwrap() == data[1..G], "going back");
        }
    });
}

/// No storage, no source.
pub fn an_empty_file_needs_nothing<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let source = make(&[]);
    block_on(async {
        let reader = open(&*source, b"", 0..0).await.unwrap();
        assert_eq!((reader.size(), reader.ready(0).await.unwrap()), (0, 0));
        assert!(reader.read(0..0).await.unwrap().is_empty());
    });
}

/// The end is ready.
pub fn at_the_end_nothing_is_waited_for<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 1000));
    let source = make(std::slice::from_ref(&data));
    block_on(async {
        let reader = open(&*source, &data, 0..1000).await.unwrap();
        assert_eq!(reader.ready(1000).await.unwrap(), 1000);
    });
}

/// At once, or when the first byte is waited for; never other bytes.
pub fn what_cannot_be_had_is_an_error<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let source = make(&objects());
    block_on(async {
        if let Ok(reader) = open(&*source, b"not there", 0..9).await {
            assert!(reader.ready(0).await.is_err());
        }
    });
}

/// However they overlap.
pub fn readers_of_one_object_agree<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 5 * G));
    let source = make(std::slice::from_ref(&data));
    block_on(async {
        let (first, second) = (
            open(&*source, &data, 0..5 * G).await.unwrap(),
            open(&*source, &data, 3 * G..5 * G).await.unwrap(),
        );
        let both = futures_util::future::join(read(first.as_ref(), 0..5 * G), read(second.as_ref(), 3 * G..5 * G));
        let (all, part) = both.await;
        assert!(all.unwrap() == data && part.unwrap() == data[3 * G..]);
    });
}

/// It withdraws its own interest and nobody else's.
pub fn a_reader_that_is_dropped_disturbs_no_other<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let data = Bytes::from(content(1, 5 * G));
    let source = make(std::slice::from_ref(&data));
    block_on(async {
        let reader = open(&*source, &data, 0..5 * G).await.unwrap();
        let other = open(&*source, &data, 0..5 * G).await.unwrap();
        let _ = other.ready(0).now_or_never();
        drop(other);
        assert!(read(reader.as_ref(), 0..5 * G).await.unwrap() == data);
    });
}

/// Frontends keep such readers, and answer from them at once.
pub fn a_settled_reader_waits_for_nothing<O: ObjectSource>(make: &dyn Fn(&[Bytes]) -> Subject<O>) {
    let objects = objects();
    let source = make(&objects);
    for data in &objects {
        block_on(async {
            let first = open(&*source, data, 0..data.len()).await.unwrap();
            read(first.as_ref(), 0..data.len()).await.unwrap();
            drop(first);
            let reader = open(&*source, data, 0..data.len()).await.unwrap();
            if reader.is_settled() {
                let ready = reader.ready(0).now_or_never().expect("it waits for nothing");
                assert_eq!(ready.unwrap(), data.len() as u64);
                assert!(read(reader.as_ref(), 0..data.len()).await.unwrap() == *data);
            }
        });
    }
}
