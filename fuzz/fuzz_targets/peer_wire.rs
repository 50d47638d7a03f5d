//! The parts in which bytes arrive make no difference to a decoder, what it takes is written so that it is read the same,
//! and what it holds back is never more than one message of the limits.
#![no_main]

use bytes::BytesMut;
use instantmirror_swarm::wire::{Decoder, HANDSHAKE_BYTES, Handshake, Limits, Message, WireError, piece_header};
use libfuzzer_sys::fuzz_target;

fn run<'a>(limits: Limits, parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, Option<WireError>, usize) {
    let (mut decoder, mut buffer, mut got) = (Decoder::new(limits), BytesMut::new(), Vec::new());
    let longest = 5 + limits.bitfield_bytes.max(limits.block_bytes + 8).max(limits.extended_bytes + 1) as usize;
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(message)) => got.push(message),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(&mut buffer), Err(error), "an error stays");
                    return (got, Some(error), 0);
                }
            }
        }
        assert!(buffer.len() < longest, "more is kept than one message");
    }
    (got, None, buffer.len())
}

fuzz_target!(|data: &[u8]| {
    let [size, bitfield, block, data @ ..] = data else { return };
    let limits = Limits {
        bitfield_bytes: u32::from(*bitfield),
        block_bytes: 16 * u32::from(*block),
        extended_bytes: 1024,
    };
    let whole = run(limits, std::iter::once(data));
    assert_eq!(run(limits, data.chunks(usize::from(*size).max(1))), whole);

    let mut written = BytesMut::new();
    for message in &whole.0 {
        let begin = written.len();
        message.encode(&mut written);
        if let Message::Piece { piece, begin: from, data } = message {
            let header = piece_header(*piece, *from, data.len() as u32);
            assert_eq!(written[begin..], [&header[..], data].concat());
        }
    }
    let again = run(limits, std::iter::once(&written[..]));
    assert_eq!(again, (whole.0, None, 0));

    let prefix = Handshake::decode_prefix(data);
    if let Some(bytes) = data.first_chunk::<HANDSHAKE_BYTES>() {
        match Handshake::decode(bytes) {
            Ok(handshake) => {
                assert_eq!(prefix, Ok(Some((handshake.reserved, handshake.info_hash))));
                assert_eq!(Handshake::decode(&handshake.encode()), Ok(handshake));
            }
            Err(error) => assert_eq!(prefix, Err(error)),
        }
    }
});
