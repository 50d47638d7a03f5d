//! What is taken of an extended message is bounded and says the same when it is written and read again.
#![no_main]

use bytes::Bytes;
use instantmirror_swarm::wire::extension::{
    CLIENT_BYTES_MAX, ExtensionHandshake, ExtensionIds, METADATA_PIECE_BYTES, MetadataMessage, NodeMessage,
    OUTBOARD_BYTES_MAX, OUTBOARD_PART_BYTES, PEX_PEERS_MAX, PexMessage, decode_dont_have, encode_dont_have,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(handshake) = ExtensionHandshake::decode(data) {
        assert_eq!(ExtensionHandshake::decode(&handshake.encode()).as_ref(), Ok(&handshake));
        assert!(handshake.client.is_none_or(|name| name.len() <= CLIENT_BYTES_MAX && !name.contains(char::is_control)));
        let ids = ExtensionIds::default().changed(handshake.ids);
        assert!([ids.metadata, ids.pex, ids.dont_have, ids.node].iter().all(|id| *id != Some(0)));
    }
    if let Ok(Some(message)) = MetadataMessage::decode(&Bytes::copy_from_slice(data)) {
        assert_eq!(MetadataMessage::decode(&message.encode()).as_ref(), Ok(&Some(message.clone())));
        if let MetadataMessage::Data { piece, total_size, data } = message {
            let end = u64::from(piece) * u64::from(METADATA_PIECE_BYTES) + data.len() as u64;
            let is_last = end == u64::from(total_size);
            assert!(is_last || (data.len() == METADATA_PIECE_BYTES as usize && end < u64::from(total_size)));
        }
    }
    if let Ok(message) = PexMessage::decode(data) {
        assert_eq!(PexMessage::decode(&message.encode()).as_ref(), Ok(&message));
        assert!(message.added.len() <= PEX_PEERS_MAX && message.dropped.len() <= PEX_PEERS_MAX);
        let mut all = message.added.iter().map(|peer| peer.address).chain(message.dropped.iter().copied());
        assert!(all.all(|address| address.port() != 0 && address.ip() == address.ip().to_canonical()));
    }
    if let Ok(Some(message)) = NodeMessage::decode(&Bytes::copy_from_slice(data)) {
        assert_eq!(NodeMessage::decode(&message.encode()).as_ref(), Ok(&Some(message.clone())));
        if let NodeMessage::Outboard { total, offset, data, .. } = message {
            let end = u64::from(offset) + data.len() as u64;
            let is_last = end == u64::from(total);
            assert!(is_last || (data.len() == OUTBOARD_PART_BYTES as usize && end < u64::from(total)));
            assert!(total <= OUTBOARD_BYTES_MAX && offset % OUTBOARD_PART_BYTES == 0);
        }
    }
    if let Ok(piece) = decode_dont_have(data) {
        assert_eq!(encode_dont_have(piece), data);
    }
});
