//! However an answer is cut into parts, the same items come out, or the same error; no item has another size than the
//! object that was asked for.
#![no_main]

use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::batch::{BatchDecoder, MISSING_ITEM, decode_request, encode_request, found_header};
use libfuzzer_sys::fuzz_target;

type Items = Vec<(ObjectId, Option<Bytes>)>;

fn decode<'a>(asked: &[(ObjectId, u64)], parts: impl Iterator<Item = &'a [u8]>) -> (Items, bool) {
    let (mut decoder, mut items) = (BatchDecoder::new(asked), Vec::new());
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(_) => return (items, false),
            }
        }
    }
    (items, decoder.finish().is_ok())
}

fuzz_target!(|data: &[u8]| {
    if let Ok(objects) = decode_request(data) {
        assert_eq!(encode_request(&objects), data);
    }
    let [count, step, rest @ ..] = data else { return };
    let count = usize::from(*count % 8);
    let Some((sizes, stream)) = rest.split_at_checked(count) else {
        return;
    };
    let asked: Vec<_> = (0u8..)
        .zip(sizes)
        .map(|(i, size)| (ObjectId::of(&[i]), u64::from(*size)))
        .collect();
    let at_once = decode(&asked, std::iter::once(stream));
    assert_eq!(decode(&asked, stream.chunks(usize::from(*step).max(1))), at_once);
    assert_eq!(decode(&asked, stream.chunks(1)), at_once);
    let (items, whole) = at_once;
    let mut again = Vec::new();
    for ((object, content), (asked, size)) in items.iter().zip(&asked) {
        assert_eq!(object, asked);
        match content {
            Some(content) => {
                assert_eq!(content.len() as u64, *size);
                again.extend_from_slice(&found_header(*size));
                again.extend_from_slice(content);
            }
            None => again.extend_from_slice(&MISSING_ITEM),
        }
    }
    assert!(stream.starts_with(&again), "the items are the stream");
    if whole {
        assert_eq!((again.as_slice(), items.len()), (stream, asked.len()));
    }
});
