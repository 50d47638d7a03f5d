//! What the decoder takes, what it refuses, and when.

use proptest::prelude::*;

use super::super::piece_header;
use super::*;

fn decoder() -> Decoder {
    Decoder::new(Limits::default())
}

fn encode(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out
}

fn one(bytes: &[u8]) -> Result<Option<Message>, WireError> {
    decoder().next(&mut BytesMut::from(bytes))
}

/// All messages of these bytes, given in parts of so many bytes, the last length again and again.
fn all(bytes: &[u8], parts: &[usize]) -> (Vec<Message>, Option<WireError>) {
    let (mut decoder, mut buffer, mut got) = (decoder(), BytesMut::new(), Vec::new());
    let (mut rest, mut sizes) = (bytes, parts.iter().copied());
    let last = parts.last().copied().unwrap_or(usize::MAX);
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(last).clamp(1, rest.len());
        let (part, behind) = rest.split_at(size);
        rest = behind;
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(message)) => got.push(message),
                Ok(None) => break,
                Err(error) => return (got, Some(error)),
            }
        }
    }
    (got, None)
}

const BLOCK: Block = Block {
    piece: 1,
    begin: 0x4000,
    length: 0x4000,
};

#[test]
fn messages_have_the_bytes_of_the_specifications() {
    let bytes = |data: &'static [u8]| Bytes::from_static(data);
    let block = b"\0\0\0\x01\0\0\x40\0\0\0\x40\0";
    for (message, ought) in [
        (Message::KeepAlive, b"\0\0\0\0".to_vec()),
        (Message::Choke, b"\0\0\0\x01\0".to_vec()),
        (Message::Unchoke, b"\0\0\0\x01\x01".to_vec()),
        (Message::Interested, b"\0\0\0\x01\x02".to_vec()),
        (Message::NotInterested, b"\0\0\0\x01\x03".to_vec()),
        (Message::Have(0x0102_0304), b"\0\0\0\x05\x04\x01\x02\x03\x04".to_vec()),
        (Message::Bitfield(bytes(b"\xf0")), b"\0\0\0\x02\x05\xf0".to_vec()),
        (Message::Request(BLOCK), [&b"\0\0\0\x0d\x06"[..], block].concat()),
        (
            Message::Piece {
                piece: 2,
                begin: 3,
                data: bytes(b"xyz"),
            },
            b"\0\0\0\x0c\x07\0\0\0\x02\0\0\0\x03xyz".to_vec(),
        ),
        (Message::Cancel(BLOCK), [&b"\0\0\0\x0d\x08"[..], block].concat()),
        (Message::Port(6881), b"\0\0\0\x03\x09\x1a\xe1".to_vec()),
        (Message::Suggest(9), b"\0\0\0\x05\x0d\0\0\0\x09".to_vec()),
        (Message::HaveAll, b"\0\0\0\x01\x0e".to_vec()),
        (Message::HaveNone, b"\0\0\0\x01\x0f".to_vec()),
        (Message::Reject(BLOCK), [&b"\0\0\0\x0d\x10"[..], block].concat()),
        (Message::AllowedFast(9), b"\0\0\0\x05\x11\0\0\0\x09".to_vec()),
        (
            Message::Extended {
                id: 3,
                payload: bytes(b"de"),
            },
            b"\0\0\0\x04\x14\x03de".to_vec(),
        ),
        (Message::Unknown { id: 99 }, b"\0\0\0\x01\x63".to_vec()),
    ] {
        assert_eq!(encode(&message), ought, "{message:?}");
        assert_eq!(all(&ought, &[1]), (vec![message], None));
    }
}

#[test]
fn header_and_data_make_the_message() {
    let message = Message::Piece {
        piece: 70_000,
        begin: 0x8000,
        data: Bytes::from(vec![7; 0x4000]),
    };
    let apart = [&piece_header(70_000, 0x8000, 0x4000)[..], &[7; 0x4000]].concat();
    assert_eq!(encode(&message), apart);
    assert_eq!(piece_header(0, 0, u32::MAX)[..4], [0xff; 4], "nothing wraps around");
}

#[test]
fn data_of_a_piece_is_not_copied() {
    let mut buffer = BytesMut::from(&piece_header(0, 0, 0x4000)[..]);
    buffer.resize(13 + 0x4000, 1);
    let begin = buffer[13..].as_ptr();
    let Ok(Some(Message::Piece { data, .. })) = decoder().next(&mut buffer) else {
        panic!("a piece was sent")
    };
    assert_eq!((data.as_ptr(), data.len()), (begin, 0x4000));
}

#[test]
fn giant_frames_are_refused_by_their_length_alone() {
    let most = Limits::default().longest();
    for length in [u32::MAX, 1 << 31, 16 << 20, u32::try_from(most).unwrap() + 1] {
        assert_eq!(one(&length.to_be_bytes()), Err(WireError::TooLong { length, most }));
    }
    let longest = u32::try_from(most).unwrap();
    assert_eq!(one(&longest.to_be_bytes()), Ok(None), "it could be an extended message");
}

#[test]
fn each_kind_is_held_to_its_own_length_before_its_body_comes() {
    let limits = Limits::default();
    let body = |length: u32| usize::try_from(length).unwrap() - 1;
    for (id, least, most) in [
        (id::CHOKE, 1, 1),
        (id::NOT_INTERESTED, 1, 1),
        (id::HAVE, 5, 5),
        (id::BITFIELD, 1, 1 + limits.bitfield_bytes),
        (id::REQUEST, 13, 13),
        (id::PIECE, 10, 9 + BLOCK_BYTES),
        (id::CANCEL, 13, 13),
        (id::PORT, 3, 3),
        (id::SUGGEST, 5, 5),
        (id::HAVE_ALL, 1, 1),
        (id::HAVE_NONE, 1, 1),
        (id::REJECT, 13, 13),
        (id::ALLOWED_FAST, 5, 5),
        (id::EXTENDED, 2, 2 + limits.extended_bytes),
        (200, 1, UNKNOWN_BYTES_MAX),
    ] {
        let head = |length: u32| [&length.to_be_bytes()[..], &[id]].concat();
        for length in [least, most] {
            let whole = [head(length), vec![0; body(length)]].concat();
            assert!(matches!(one(&whole), Ok(Some(_))), "id {id} of {length} bytes");
            assert_eq!(one(&whole[..whole.len() - 1]), Ok(None), "id {id}, one byte short");
        }
        for length in [least - 1, most + 1] {
            if length == 0 || u64::from(length) > limits.longest() {
                continue;
            }
            let error = one(&head(length)).unwrap_err();
            assert!(matches!(error, WireError::Length { id: of, length: is, .. } if of == id && is == length));
        }
    }
}

#[test]
fn a_block_is_never_longer_than_the_hard_limit() {
    assert_eq!(
        (BLOCK_BYTES, BLOCK_BYTES_MAX, EXTENDED_BYTES),
        (16_384, 131_072, 1_064_960)
    );
    let mut decoder = Decoder::new(Limits {
        block_bytes: u32::MAX,
        ..Limits::default()
    });
    let long = piece_header(0, 0, BLOCK_BYTES_MAX + 1);
    let error = decoder.next(&mut BytesMut::from(&long[..])).unwrap_err();
    assert!(matches!(error, WireError::Length { id: id::PIECE, .. }), "{error}");
    let good = piece_header(0, 0, BLOCK_BYTES_MAX);
    assert_eq!(decoder.next(&mut BytesMut::from(&good[..])), Ok(None));
}

#[test]
fn an_empty_block_is_refused() {
    let error = one(&piece_header(1, 2, 0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "it announces a message with id 7 of 9 bytes, and such a message has 10 to 16393"
    );
}

#[test]
fn a_bitfield_is_as_long_as_the_torrent_has_pieces() {
    let mut decoder = Decoder::new(Limits::for_pieces(9));
    let bits = |len: usize| encode(&Message::Bitfield(Bytes::from(vec![0xff; len])));
    // Spare bits are passed on as they are: only who knows the torrent can tell which are.
    let sent = Message::Bitfield(Bytes::from_static(b"\xff\xff"));
    assert_eq!(decoder.next(&mut bits(2)), Ok(Some(sent)));
    assert!(matches!(
        decoder.next(&mut bits(3)),
        Err(WireError::Length { most: 3, .. })
    ));
    decoder.set_limits(Limits::for_pieces(20_000_000));
    assert!(matches!(decoder.next(&mut bits(2_500_000)), Ok(Some(_))));
    assert!(decoder.next(&mut bits(2_500_001)).is_err());
}

#[test]
fn an_error_stays() {
    let mut decoder = decoder();
    let mut buffer = BytesMut::from(&b"\0\0\0\x02\x00\x00\0\0\0\0"[..]);
    let first = decoder.next(&mut buffer).unwrap_err();
    assert_eq!(decoder.next(&mut buffer), Err(first));
    assert_eq!(buffer.len(), 10);
}

#[test]
fn unknown_messages_pass_without_being_kept() {
    let mut decoder = decoder();
    let mut buffer = BytesMut::from(&[&UNKNOWN_BYTES_MAX.to_be_bytes()[..], &[77]].concat()[..]);
    let mut left = usize::try_from(UNKNOWN_BYTES_MAX).unwrap() - 1;
    while left > 0 {
        assert_eq!(decoder.next(&mut buffer), Ok(None));
        assert!(buffer.is_empty(), "it was dropped as it came");
        let part = left.min(1000);
        buffer.resize(part, 0);
        left -= part;
    }
    buffer.extend_from_slice(b"\0\0\0\0");
    assert_eq!(decoder.next(&mut buffer), Ok(Some(Message::Unknown { id: 77 })));
    assert_eq!(decoder.next(&mut buffer), Ok(Some(Message::KeepAlive)));
}

#[test]
fn blocks_do_not_wrap_around() {
    let block = Block {
        piece: 0,
        begin: u32::MAX,
        length: u32::MAX,
    };
    let end = 2 * u64::from(u32::MAX);
    assert_eq!(block.range(), u64::from(u32::MAX)..end);
}

fn messages() -> impl Strategy<Value = Message> {
    let bytes = |least| prop::collection::vec(any::<u8>(), least..60).prop_map(Bytes::from);
    let block =
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(piece, begin, length)| Block { piece, begin, length });
    prop_oneof![
        prop::sample::select(vec![
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::NotInterested,
            Message::HaveAll,
            Message::HaveNone,
        ]),
        any::<u32>().prop_map(Message::Have),
        bytes(0).prop_map(Message::Bitfield),
        block.clone().prop_map(Message::Request),
        block.clone().prop_map(Message::Cancel),
        block.prop_map(Message::Reject),
        (any::<u32>(), any::<u32>(), bytes(1)).prop_map(|(piece, begin, data)| Message::Piece { piece, begin, data }),
        any::<u16>().prop_map(Message::Port),
        any::<u32>().prop_map(Message::Suggest),
        any::<u32>().prop_map(Message::AllowedFast),
        (any::<u8>(), bytes(0)).prop_map(|(id, payload)| Message::Extended { id, payload }),
        (21..=u8::MAX).prop_map(|id| Message::Unknown { id }),
    ]
}

proptest! {
    #[test]
    fn what_is_sent_is_read_however_it_arrives(
        sent in prop::collection::vec(messages(), 0..20),
        parts in prop::collection::vec(1..200_usize, 1..30),
    ) {
        let mut bytes = BytesMut::new();
        sent.iter().for_each(|message| message.encode(&mut bytes));
        prop_assert_eq!(all(&bytes, &parts), (sent, None));
    }

    #[test]
    fn the_parts_in_which_anything_arrives_make_no_difference(
        bytes in prop::collection::vec(prop_oneof![3 => 0..21_u8, 1 => any::<u8>()], 0..200),
        parts in prop::collection::vec(1..50_usize, 1..30),
    ) {
        prop_assert_eq!(all(&bytes, &parts), all(&bytes, &[usize::MAX]));
    }
}
