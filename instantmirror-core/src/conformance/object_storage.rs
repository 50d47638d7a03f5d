//! The behaviours of an [`ObjectStorage`]. A factory makes an empty one.

/// Stamps the suite: one `#[test]` per behaviour of a durable storage. Takes a factory, a function without arguments that returns
/// a [`Subject`](crate::conformance::Subject). The suite of [`Objects`](crate::traits::Objects) is beside it; [`store_with`] fills
/// a storage for that.
#[macro_export]
macro_rules! object_storage_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { object_storage, $factory,
            what_was_uploaded_is_here_whole
            bytes_may_come_in_parts_of_any_length
            nothing_of_an_upload_is_here_before_its_end
            a_dropped_upload_leaves_nothing
            other_bytes_are_refused
            an_upload_that_ends_early_is_refused
            an_upload_that_goes_on_is_refused
            uploads_of_one_object_may_overlap
            a_refused_upload_spares_what_is_here
            all_objects_are_listed_with_their_sizes
            what_is_removed_is_gone_and_counted
            what_is_not_here_is_removed_without_error
            a_removed_object_is_readable_to_its_last_handle
            a_removed_object_may_come_back
        }
    };
}
// end of the list

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{ReadNow as _, Subject, block_on, content, outboard_of};
use crate::ObjectId;
use crate::traits::{CacheError, ObjectStorage, Swept};

const G: usize = 64 * 1024;

/// Sizes around the borders of groups, and nothing at all.
fn objects() -> Vec<Bytes> {
    let sizes = [0, 1, 1000, G - 1, G, G + 1, 5 * G + 7];
    (1..)
        .zip(sizes)
        .map(|(seed, size)| content(seed, size).into())
        .collect()
}

/// Uploads the parts of something as `data`.
fn upload<S: ObjectStorage>(storage: &S, data: &[u8], parts: &[&[u8]]) -> Result<(), CacheError> {
    block_on(async {
        let mut upload = storage.upload(&outboard_of(data)).await?;
        for part in parts {
            upload.write(Bytes::copy_from_slice(part)).await?;
        }
        upload.finish().await
    })
}

fn store<S: ObjectStorage>(storage: &S, data: &[u8]) {
    upload(storage, data, &[data]).expect("an upload of the right bytes");
}

/// A storage with these objects in it.
pub fn store_with<S: ObjectStorage>(storage: S, objects: &[Bytes]) -> S {
    objects.iter().for_each(|data| store(&storage, data));
    storage
}

fn size<S: ObjectStorage>(storage: &S, data: &[u8]) -> Option<u64> {
    block_on(storage.size(&ObjectId::of(data))).unwrap()
}

fn read<S: ObjectStorage>(storage: &S, data: &[u8]) -> Option<Bytes> {
    let opened = block_on(storage.open(&ObjectId::of(data))).unwrap();
    opened.map(|handle| handle.read_now(0..handle.size()).unwrap())
}

fn listed<S: ObjectStorage>(storage: &S) -> BTreeMap<ObjectId, u64> {
    let mut listed = BTreeMap::new();
    let mut each = |object, size| assert_eq!(listed.insert(object, size), None, "told twice");
    block_on(storage.list(&mut each)).unwrap();
    listed
}

fn assert_absent<S: ObjectStorage>(storage: &S, data: &[u8]) {
    assert_eq!((size(storage, data), read(storage, data)), (None, None));
    assert_eq!(block_on(storage.outboard(&ObjectId::of(data))).unwrap(), None);
    assert!(!listed(storage).contains_key(&ObjectId::of(data)));
}

fn assert_here<S: ObjectStorage>(storage: &S, data: &[u8]) {
    assert_eq!(size(storage, data), Some(data.len() as u64));
    assert_eq!(read(storage, data).as_deref(), Some(data));
}

/// Each of its bytes, its size and its outboard.
pub fn what_was_uploaded_is_here_whole<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let storage = make();
    for data in objects() {
        assert_absent(&*storage, &data);
        store(&*storage, &data);
        assert_here(&*storage, &data);
        let outboard = block_on(storage.outboard(&ObjectId::of(&data))).unwrap();
        assert_eq!(outboard, Some(outboard_of(&data)));
    }
    objects().iter().for_each(|data| assert_here(&*storage, data));
}

/// Also across groups, and of no bytes at all.
pub fn bytes_may_come_in_parts_of_any_length<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), content(1, 3 * G + 100));
    let cuts = [0, 0, 1, 1000, G + 1, 2 * G, 3 * G + 99, 3 * G + 100];
    let parts: Vec<&[u8]> = cuts.windows(2).map(|ends| &data[ends[0]..ends[1]]).collect();
    upload(&*storage, &data, &parts).unwrap();
    assert_here(&*storage, &data);
}

/// However many of its bytes were handed over.
pub fn nothing_of_an_upload_is_here_before_its_end<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), Bytes::from(content(1, 2 * G)));
    let mut upload = block_on(storage.upload(&outboard_of(&data))).unwrap();
    assert_absent(&*storage, &data);
    block_on(upload.write(data.slice(..G))).unwrap();
    assert_absent(&*storage, &data);
    block_on(upload.write(data.slice(G..))).unwrap();
    assert_absent(&*storage, &data);
    block_on(upload.finish()).unwrap();
    assert_here(&*storage, &data);
}

/// And another one of the same object succeeds.
pub fn a_dropped_upload_leaves_nothing<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), Bytes::from(content(1, 2 * G)));
    for _ in 0..3 {
        let mut upload = block_on(storage.upload(&outboard_of(&data))).unwrap();
        block_on(upload.write(data.clone())).unwrap();
        drop(upload);
        assert_absent(&*storage, &data);
    }
    store(&*storage, &data);
    assert_here(&*storage, &data);
}

/// A changed bit anywhere.
pub fn other_bytes_are_refused<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let storage = make();
    for data in objects().into_iter().filter(|data| !data.is_empty()) {
        for at in [0, data.len() / 2, data.len() - 1] {
            let mut wrong = data.to_vec();
            wrong[at] ^= 1;
            let refused = upload(&*storage, &data, &[&wrong]);
            assert!(matches!(refused, Err(CacheError::Verify(_))), "{refused:?}");
            assert_absent(&*storage, &data);
            assert_absent(&*storage, &wrong);
        }
    }
}

/// After whole groups too.
pub fn an_upload_that_ends_early_is_refused<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), content(1, 2 * G + 1));
    for len in [0, 1, G, 2 * G] {
        let refused = upload(&*storage, &data, &[&data[..len]]);
        assert!(matches!(refused, Err(CacheError::Absent { .. })), "{len}: {refused:?}");
        assert_absent(&*storage, &data);
    }
}

/// By a byte, or by itself.
pub fn an_upload_that_goes_on_is_refused<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let storage = make();
    for data in objects() {
        for more in [&b"x"[..], &data] {
            if more.is_empty() {
                continue;
            }
            let refused = upload(&*storage, &data, &[&data, more]);
            assert!(matches!(refused, Err(CacheError::Verify(_))), "{refused:?}");
            assert_absent(&*storage, &data);
        }
    }
}

/// Both succeed, in whichever order they end.
pub fn uploads_of_one_object_may_overlap<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), Bytes::from(content(1, 2 * G)));
    let [mut first, mut second] = [(); 2].map(|()| block_on(storage.upload(&outboard_of(&data))).unwrap());
    block_on(first.write(data.slice(..G))).unwrap();
    block_on(second.write(data.clone())).unwrap();
    block_on(first.write(data.slice(G..))).unwrap();
    block_on(second.finish()).unwrap();
    assert_here(&*storage, &data);
    block_on(first.finish()).unwrap();
    assert_here(&*storage, &data);
    assert_eq!(listed(&*storage).len(), 1);
    store(&*storage, &data);
    assert_here(&*storage, &data);
}

/// An object is not lost by an attempt to replace it.
pub fn a_refused_upload_spares_what_is_here<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), content(1, G + 1));
    store(&*storage, &data);
    let mut wrong = data.clone();
    wrong[0] ^= 1;
    assert!(upload(&*storage, &data, &[&wrong]).is_err());
    assert!(upload(&*storage, &data, &[&data[..G]]).is_err());
    drop(block_on(storage.upload(&outboard_of(&data))).unwrap());
    assert_here(&*storage, &data);
}

/// Each once.
pub fn all_objects_are_listed_with_their_sizes<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let storage = make();
    assert_eq!(listed(&*storage), BTreeMap::new());
    let objects = objects();
    objects.iter().for_each(|data| store(&*storage, data));
    let expected = objects.iter().map(|data| (ObjectId::of(data), data.len() as u64));
    assert_eq!(listed(&*storage), expected.collect());
}

/// And nothing else goes.
pub fn what_is_removed_is_gone_and_counted<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let storage = make();
    let [first, second, kept] = [1, 2, 3].map(|seed| content(seed, 1000 * usize::from(seed)));
    for data in [&first, &second, &kept] {
        store(&*storage, data);
    }
    let gone = [ObjectId::of(&first), ObjectId::of(&second)];
    let removed = block_on(storage.remove(&gone)).unwrap();
    assert_eq!((removed.objects, removed.bytes), (2, 3000));
    assert_absent(&*storage, &first);
    assert_absent(&*storage, &second);
    assert_here(&*storage, &kept);
}

/// Beside what is here.
pub fn what_is_not_here_is_removed_without_error<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), content(1, 10));
    let objects = [ObjectId::of(b"not here"), ObjectId::of(&data)];
    assert_eq!(block_on(storage.remove(&objects)).unwrap(), Swept::default());
    store(&*storage, &data);
    let removed = block_on(storage.remove(&objects)).unwrap();
    assert_eq!((removed.objects, removed.bytes), (1, 10));
    assert_eq!(block_on(storage.remove(&[])).unwrap(), Swept::default());
}

/// For all that was read of it before.
pub fn a_removed_object_is_readable_to_its_last_handle<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), content(1, 3 * G));
    store(&*storage, &data);
    let handle = block_on(storage.open(&ObjectId::of(&data))).unwrap().unwrap();
    block_on(storage.remove(&[ObjectId::of(&data)])).unwrap();
    assert_absent(&*storage, &data);
    assert_eq!(handle.read_now(1..3 * G as u64).unwrap(), data[1..]);
}

/// As if it had never been here.
pub fn a_removed_object_may_come_back<S: ObjectStorage>(make: &dyn Fn() -> Subject<S>) {
    let (storage, data) = (make(), content(1, 2 * G));
    for _ in 0..2 {
        store(&*storage, &data);
        assert_here(&*storage, &data);
        block_on(storage.remove(&[ObjectId::of(&data)])).unwrap();
        assert_absent(&*storage, &data);
    }
}
