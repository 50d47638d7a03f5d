//! However a stream is cut into parts, the same frames come out, or the same error.
#![no_main]

use bytes::Bytes;
use instantmirror_core::catalog::frame::{FrameDecoder, put_end, put_frame};
use libfuzzer_sys::fuzz_target;

/// The frames, and whether the stream was whole.
fn decode<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Bytes>, bool) {
    let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, decoder.finish().is_ok())
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, stream)) = data.split_first() else {
        return;
    };
    let at_once = decode(std::iter::once(stream));
    assert_eq!(decode(stream.chunks(usize::from(step).max(1))), at_once);
    assert_eq!(decode(stream.chunks(1)), at_once);
    let (frames, whole) = at_once;
    let mut again = Vec::new();
    frames.iter().for_each(|frame| put_frame(&mut again, frame));
    assert!(stream.starts_with(&again), "the frames are the stream");
    if whole {
        put_end(&mut again);
        assert_eq!(again, stream);
    }
});
