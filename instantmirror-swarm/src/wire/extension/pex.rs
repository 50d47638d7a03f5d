//! Peer exchange (BEP 11): peers that the sender has connected to, and those that it has lost.

use std::net::SocketAddr;

use bytes::Bytes;
use instantmirror_core::bencode::Value;

use super::{ExtensionError, dictionary};
use crate::contacts::{V4_BYTES, V6_BYTES, addresses, both, is_v4, put};

/// The longest message that is read.
pub const PEX_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// So many added peers are taken from one message, and so many dropped ones; the rest is passed over.
pub const PEX_PEERS_MAX: usize = 50;

const WHAT: &str = "a peer exchange";

/// A peer that somebody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PexPeer {
    /// Where it is. The port is never 0; whether we may connect to it is for the caller to say.
    pub address: SocketAddr,
    /// What is said of it: [`PexPeer::UPLOAD_ONLY`] and its like.
    pub flags: u8,
}

impl PexPeer {
    /// It wants encryption.
    pub const ENCRYPTION: u8 = 0x01;
    /// It is a seed, or wants nothing.
    pub const UPLOAD_ONLY: u8 = 0x02;
    /// It speaks uTP.
    pub const UTP: u8 = 0x04;
    /// It takes `ut_holepunch`.
    pub const HOLEPUNCH: u8 = 0x08;
    /// Others could connect to it.
    pub const REACHABLE: u8 = 0x10;
}

/// A message of `ut_pex`. Those of IPv4 come first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PexMessage {
    /// Peers that the sender has connected to since the last message.
    pub added: Vec<PexPeer>,
    /// Peers that it has lost since.
    pub dropped: Vec<SocketAddr>,
}

impl PexMessage {
    /// The payload of the message. No more than [`PEX_PEERS_MAX`] of a kind should be in it: receivers ignore the rest.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let [mut v4, mut v6] = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for PexPeer { address, flags } in &self.added {
            let (addresses, said) = if is_v4(address) { &mut v4 } else { &mut v6 };
            put(addresses, address);
            said.push(*flags);
        }
        let [mut lost_v4, mut lost_v6] = [Vec::new(), Vec::new()];
        for address in &self.dropped {
            put(if is_v4(address) { &mut lost_v4 } else { &mut lost_v6 }, address);
        }
        let entries: [(&[u8], Vec<u8>); 6] = [
            (b"added", v4.0),
            (b"added.f", v4.1),
            (b"added6", v6.0),
            (b"added6.f", v6.1),
            (b"dropped", lost_v4),
            (b"dropped6", lost_v6),
        ];
        // What there is none of is left out, but for the one field that tells that this is a message at all.
        let entries = entries
            .into_iter()
            .filter(|(key, bytes)| !bytes.is_empty() || *key == b"added");
        Value::dict(entries.map(|(key, bytes)| (key, Value::bytes(bytes))))
            .encode()
            .into()
    }

    /// Reads the payload of the message. Peers at port 0 are left out, and what is left of a list after its last whole
    /// entry; IPv4 addresses that stand there as IPv6 are IPv4 addresses.
    ///
    /// # Errors
    /// [`ExtensionError`] if it is too long, or no dictionary.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtensionError> {
        let (value, _) = dictionary(WHAT, payload, PEX_PAYLOAD_BYTES_MAX)?;
        let bytes = |key| value.get(key).and_then(Value::as_bytes).unwrap_or_default();
        let flagged = |key, flags_key, entry_bytes| {
            let flags = bytes(flags_key).iter().copied().chain(std::iter::repeat(0));
            let peers = addresses(bytes(key), entry_bytes).zip(flags);
            let peers = peers.map(|(address, flags)| PexPeer { address, flags });
            peers.filter(|peer| peer.address.port() != 0)
        };
        let (v4, v6) = (
            flagged("added", "added.f", V4_BYTES),
            flagged("added6", "added6.f", V6_BYTES),
        );
        let mut added = both(v4, v6, PEX_PEERS_MAX);
        added.sort_by_key(|peer| !is_v4(&peer.address));
        let lost = |key, entry_bytes| addresses(bytes(key), entry_bytes).filter(|address| address.port() != 0);
        let mut dropped = both(lost("dropped", V4_BYTES), lost("dropped6", V6_BYTES), PEX_PEERS_MAX);
        dropped.sort_by_key(|address| !is_v4(address));
        Ok(Self { added, dropped })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn decode(payload: &[u8]) -> PexMessage {
        PexMessage::decode(payload).unwrap()
    }

    fn list(key: &str, bytes: &[u8]) -> Vec<u8> {
        let head = format!("{}:{key}{}:", key.len(), bytes.len());
        [head.as_bytes(), bytes].concat()
    }

    fn message(lists: &[(&str, &[u8])]) -> Vec<u8> {
        let lists: Vec<u8> = lists.iter().flat_map(|(key, bytes)| list(key, bytes)).collect();
        [b"d", &lists[..], b"e"].concat()
    }

    #[test]
    fn a_message_has_the_bytes_of_the_specification() {
        let sent = PexMessage {
            added: vec![
                PexPeer {
                    address: "192.0.2.1:6881".parse().unwrap(),
                    flags: PexPeer::REACHABLE | PexPeer::UPLOAD_ONLY,
                },
                PexPeer {
                    address: "[2001:db8::1]:258".parse().unwrap(),
                    flags: 0,
                },
            ],
            dropped: vec!["192.0.2.2:1".parse().unwrap()],
        };
        let v6 = b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02";
        let bytes = message(&[
            ("added", b"\xc0\0\x02\x01\x1a\xe1"),
            ("added.f", b"\x12"),
            ("added6", v6),
            ("added6.f", b"\0"),
            ("dropped", b"\xc0\0\x02\x02\0\x01"),
        ]);
        assert_eq!(
            sent.encode().escape_ascii().to_string(),
            bytes.escape_ascii().to_string()
        );
        assert_eq!(decode(&bytes), sent);
        assert_eq!(&PexMessage::default().encode()[..], b"d5:added0:e");
    }

    #[test]
    fn flags_may_be_missing() {
        let two = b"\x01\x02\x03\x04\0\x05\x01\x02\x03\x06\0\x07";
        let got = decode(&message(&[("added", two), ("added.f", b"\x02")]));
        let flags: Vec<u8> = got.added.iter().map(|peer| peer.flags).collect();
        assert_eq!(flags, [2, 0]);
    }

    #[test]
    fn what_is_no_peer_is_left_out() {
        let got = decode(&message(&[
            ("added", b"\x01\x02\x03\x04\0\0\x01\x02\x03\x06\0\x07\xff\xff"),
            ("added.f", b"\x01\x02"),
            ("dropped", b"\x01\x02\x03\x04\0\0"),
            ("dropped6", b"short"),
        ]));
        let peer = PexPeer {
            address: "1.2.3.6:7".parse().unwrap(),
            flags: 2,
        };
        assert_eq!((got.added, got.dropped), (vec![peer], vec![]));
        let other = decode(b"d5:addedi1e7:droppedlee");
        assert_eq!(other, PexMessage::default());
    }

    #[test]
    fn addresses_of_ipv4_in_ipv6_do_not_slip_past_rules_for_ipv4() {
        let mapped = b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01\0\x50";
        let got = decode(&message(&[("added6", mapped)]));
        assert_eq!(got.added[0].address, "127.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn a_bomb_brings_no_more_than_fifty_of_a_kind() {
        let (v4, v6) = ([9_u8; 6 * 3000], [9_u8; 18 * 1000]);
        let got = decode(&message(&[("added", &v4), ("dropped", &v4)]));
        assert_eq!((got.added.len(), got.dropped.len()), (50, 50));
        let got = decode(&message(&[("added", &v4), ("added6", &v6)]));
        let of_v4 = got.added.iter().filter(|peer| peer.address.is_ipv4()).count();
        assert_eq!((got.added.len(), of_v4), (50, 25));
        let got = decode(&message(&[("added", &v4[..60]), ("added6", &v6)]));
        assert_eq!(got.added.len(), 50);
        let long = message(&[("added", &[9; 66_000])]);
        assert!(matches!(PexMessage::decode(&long), Err(ExtensionError::TooLong { .. })));
        assert!(PexMessage::decode(&[b'l'; 1000]).is_err());
        assert!(PexMessage::decode(b"le").is_err());
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical()),
        ];
        (ip, 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read(
            added in prop::collection::vec((address(), any::<u8>()), 0..50),
            dropped in prop::collection::vec(address(), 0..50),
        ) {
            let mut sent = PexMessage {
                added: added.into_iter().map(|(address, flags)| PexPeer { address, flags }).collect(),
                dropped,
            };
            sent.added.sort_by_key(|peer| !peer.address.is_ipv4());
            sent.dropped.sort_by_key(|address| !address.is_ipv4());
            prop_assert_eq!(decode(&sent.encode()), sent);
        }
    }
}
