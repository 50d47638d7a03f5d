//! The handshake of BEP 3: what both sides send first.

use instantmirror_core::metainfo::InfoHash;

use super::{PeerId, WireError};

/// Length of a handshake.
pub const HANDSHAKE_BYTES: usize = 68;
/// Length of what stands before the peer id: enough to know which torrent the other side means.
pub const HANDSHAKE_PREFIX_BYTES: usize = 48;

/// What every handshake begins with, its length in front.
const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// The extensions that a handshake says are spoken. Bits that we do not know are neither read nor sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// Have all, have none, reject, allowed fast (BEP 6).
    pub fast: bool,
    /// Extended messages (BEP 10).
    pub extended: bool,
    /// The port of a DHT node (BEP 5). We have none; others tell us of theirs if we say that we do.
    pub dht: bool,
}

impl Reserved {
    /// What our connections speak.
    pub const OURS: Self = Self {
        fast: true,
        extended: true,
        dht: false,
    };

    const EXTENDED: (usize, u8) = (5, 0x10);
    const FAST: (usize, u8) = (7, 0x04);
    const DHT: (usize, u8) = (7, 0x01);

    fn encode(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        for (is_set, (byte, bit)) in [
            (self.fast, Self::FAST),
            (self.extended, Self::EXTENDED),
            (self.dht, Self::DHT),
        ] {
            bytes[byte] |= if is_set { bit } else { 0 };
        }
        bytes
    }

    fn decode(bytes: [u8; 8]) -> Self {
        let is_set = |(byte, bit): (usize, u8)| bytes[byte] & bit != 0;
        Self {
            fast: is_set(Self::FAST),
            extended: is_set(Self::EXTENDED),
            dht: is_set(Self::DHT),
        }
    }
}

/// Who the sender is, which torrent it means, what it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// The torrent.
    pub info_hash: InfoHash,
    /// What the sender calls itself.
    pub peer_id: PeerId,
    /// What it speaks beside BEP 3.
    pub reserved: Reserved,
}

impl Handshake {
    /// The bytes that are sent.
    #[must_use]
    pub fn encode(&self) -> [u8; HANDSHAKE_BYTES] {
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes[..20].copy_from_slice(PROTOCOL);
        bytes[20..28].copy_from_slice(&self.reserved.encode());
        bytes[28..48].copy_from_slice(self.info_hash.as_bytes());
        bytes[48..].copy_from_slice(&self.peer_id.0);
        bytes
    }

    /// Reads a whole handshake.
    ///
    /// # Errors
    /// [`WireError::Protocol`].
    pub fn decode(bytes: &[u8; HANDSHAKE_BYTES]) -> Result<Self, WireError> {
        let (prefix, mut peer_id) = (Self::decode_prefix(bytes)?, [0; 20]);
        let (reserved, info_hash) = prefix.ok_or(WireError::Protocol)?;
        peer_id.copy_from_slice(&bytes[HANDSHAKE_PREFIX_BYTES..]);
        Ok(Self {
            info_hash,
            peer_id: PeerId(peer_id),
            reserved,
        })
    }

    /// Reads what is there of a handshake: `None` until it is enough to know the torrent. Who listens answers then, since
    /// some wait for the answer before they send their peer id.
    ///
    /// # Errors
    /// [`WireError::Protocol`], as soon as the first byte differs.
    pub fn decode_prefix(bytes: &[u8]) -> Result<Option<(Reserved, InfoHash)>, WireError> {
        if bytes.iter().zip(PROTOCOL).any(|(is, ought)| is != ought) {
            return Err(WireError::Protocol);
        }
        let rest = bytes.get(PROTOCOL.len()..).and_then(<[u8]>::split_first_chunk::<8>);
        let Some((reserved, rest)) = rest else { return Ok(None) };
        let hash = rest.first_chunk::<20>();
        Ok(hash.map(|hash| (Reserved::decode(*reserved), InfoHash::from_bytes(*hash))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handshake() -> Handshake {
        Handshake {
            info_hash: InfoHash::from_bytes(*b"abcdefghijklmnopqrst"),
            peer_id: PeerId(*b"-IM0100-0123456789ab"),
            reserved: Reserved::OURS,
        }
    }

    #[test]
    fn a_handshake_has_the_bytes_of_the_specifications() {
        let bytes = handshake().encode();
        assert_eq!(
            &bytes[..],
            b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04abcdefghijklmnopqrst-IM0100-0123456789ab"
        );
        let mut dht = handshake();
        dht.reserved = Reserved {
            dht: true,
            ..Reserved::default()
        };
        assert_eq!(dht.encode()[20..28], [0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn the_torrent_is_known_before_the_peer_id() {
        let bytes = handshake().encode();
        for len in 0..HANDSHAKE_BYTES {
            let got = Handshake::decode_prefix(&bytes[..len]).unwrap();
            let ought = (len >= HANDSHAKE_PREFIX_BYTES).then(|| (Reserved::OURS, handshake().info_hash));
            assert_eq!(got, ought, "{len} bytes");
        }
    }

    #[test]
    fn another_protocol_is_refused_at_its_first_byte() {
        assert_eq!(Handshake::decode_prefix(b"GET / HTTP/1.1"), Err(WireError::Protocol));
        assert_eq!(Handshake::decode_prefix(b"\x14"), Err(WireError::Protocol));
        assert_eq!(Handshake::decode_prefix(b"\x13Bittorrent"), Err(WireError::Protocol));
        assert_eq!(Handshake::decode_prefix(b""), Ok(None));
        let mut bytes = handshake().encode();
        bytes[19] = b'L';
        assert_eq!(Handshake::decode(&bytes), Err(WireError::Protocol));
    }

    #[test]
    fn bits_that_nobody_knows_are_let_through() {
        let mut bytes = handshake().encode();
        bytes[20..28].fill(0xff);
        let got = Handshake::decode(&bytes).unwrap();
        let all = Reserved {
            fast: true,
            extended: true,
            dht: true,
        };
        assert_eq!(got.reserved, all);
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read(hash: [u8; 20], id: [u8; 20], fast: bool, extended: bool, dht: bool) {
            let sent = Handshake {
                info_hash: InfoHash::from_bytes(hash),
                peer_id: PeerId(id),
                reserved: Reserved { fast, extended, dht },
            };
            prop_assert_eq!(Handshake::decode(&sent.encode()), Ok(sent));
        }
    }
}
