//! Digests: one pass gives what separate tools give; the table survives, refuses the damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_store::StoreError;
use instantmirror_store::digest::{ContentDigest, ContentHasher, DigestTable, PIECE_BYTES_MIN, digest_reader};
use instantmirror_store::disk::SimDisk;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

fn digest(data: &[u8]) -> ContentDigest {
    let mut told = 0;
    let found = digest_reader(&mut &data[..], Path::new("f"), PIECE_BYTES_MIN, &mut |bytes| {
        told += bytes;
    })
    .unwrap();
    assert_eq!(told, data.len() as u64);
    found
}

#[test]
fn one_pass_agrees_with_each_hash_alone_at_every_border() {
    let piece = PIECE_BYTES_MIN as usize;
    for len in [
        0,
        1,
        piece - 1,
        piece,
        piece + 1,
        65_535,
        65_536,
        65_537,
        5 * 65_536 + 17,
        700_000,
    ] {
        let data = content(len);
        let found = digest(&data);
        assert_eq!(found.object(), ObjectId::of(&data), "{len}");
        assert_eq!(found.size(), len as u64);
        assert_eq!(found.sha256()[..], Sha256::digest(&data)[..]);
        let full = len / piece * piece;
        let expected: Vec<u8> = data[..full]
            .chunks(piece)
            .flat_map(|piece| Sha1::digest(piece).to_vec())
            .collect();
        assert_eq!(found.full_pieces()[..], expected[..], "{len}");
        assert_eq!(found.tail().is_some(), len > full);
        if let Some(tail) = found.tail() {
            let mut padded = data[full..].to_vec();
            assert_eq!(tail.sha1()[..], Sha1::digest(&padded)[..], "{len}");
            padded.resize(piece, 0);
            assert_eq!(
                tail.sha1_padded(PIECE_BYTES_MIN)[..],
                Sha1::digest(&padded)[..],
                "{len}"
            );
        }
        found.outboard().verify_groups(0, &data).unwrap();
        let place = Path::new("t");
        assert_eq!(
            ContentDigest::decode(found.object(), &found.encode().into(), place).unwrap(),
            found
        );
    }
}

#[test]
fn chunking_of_the_input_does_not_matter() {
    let data = content(200_000);
    let mut hasher = ContentHasher::new(PIECE_BYTES_MIN).unwrap();
    data.chunks(977).for_each(|part| hasher.update(part));
    assert_eq!(hasher.finish(), digest(&data));
    assert!(matches!(ContentHasher::new(1), Err(StoreError::TooLarge { .. })));
}

#[test]
fn cut_garbled_or_foreign_encodings_are_refused() {
    let found = digest(&content(200_000));
    let encoded = found.encode();
    let decode = |bytes: Vec<u8>| ContentDigest::decode(found.object(), &Bytes::from(bytes), Path::new("table"));
    for len in 0..encoded.len() {
        assert!(decode(encoded[..len].to_vec()).is_err(), "{len}");
    }
    // Byte 5 changes the size within its last group: that shows when the group is verified.
    for at in (1..5).chain(6..13).chain(encoded.len() - 128..encoded.len()) {
        let mut bytes = encoded.clone();
        bytes[at] ^= 0x40;
        assert!(decode(bytes).is_err(), "{at}");
    }
    let mut newer = encoded.clone();
    newer[0] = 2;
    assert!(matches!(
        decode(newer),
        Err(StoreError::UnknownVersion { found: 2, .. })
    ));
    assert!(ContentDigest::decode(ObjectId::of(b"other"), &encoded.into(), Path::new("table")).is_err());
}

#[test]
fn table_keeps_digests_over_a_crash() {
    let disk = SimDisk::new();
    let digests: Vec<_> = [0, 5, 100_000].map(|len| digest(&content(len))).into();
    DigestTable::open(Arc::new(disk.clone()), "digests")
        .unwrap()
        .put(&digests)
        .unwrap();
    let table = DigestTable::open(Arc::new(disk.crash(1)), "digests").unwrap();
    for digest in &digests {
        assert_eq!(table.digest(&digest.object()).unwrap().as_ref(), Some(digest));
    }
    assert_eq!(table.digest(&ObjectId::of(b"unknown")).unwrap(), None);
    table.retain(&|object| *object == digests[0].object()).unwrap();
    assert_eq!(table.digest(&digests[1].object()).unwrap(), None);
}
