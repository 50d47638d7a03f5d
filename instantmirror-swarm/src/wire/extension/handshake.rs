//! The extension handshake: which extended messages the sender takes, under which ids, and what it says of itself.

use std::net::IpAddr;

use bytes::Bytes;
use instantmirror_core::bencode::Value;

use super::{ExtensionError, dictionary, number};
use crate::contacts::octets;
use crate::text::shown;

/// The longest handshake that is read: clients send some hundred bytes.
pub const HANDSHAKE_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// As much is kept of what a client calls itself.
pub const CLIENT_BYTES_MAX: usize = 128;

const WHAT: &str = "an extension handshake";

/// Under which id the sender of a handshake takes a message; `None`: it said nothing of it; 0: no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtensionIds {
    /// `ut_metadata` (BEP 9).
    pub metadata: Option<u8>,
    /// `ut_pex` (BEP 11).
    pub pex: Option<u8>,
    /// `lt_donthave` (BEP 54).
    pub dont_have: Option<u8>,
    /// `im_node`: what our nodes say to each other.
    pub node: Option<u8>,
}

impl ExtensionIds {
    fn named(&self) -> [(&'static str, Option<u8>); 4] {
        [
            ("im_node", self.node),
            ("lt_donthave", self.dont_have),
            ("ut_metadata", self.metadata),
            ("ut_pex", self.pex),
        ]
    }

    /// These, as far as a later handshake does not say otherwise: it may name only what changes (BEP 10). Without zeros.
    #[must_use]
    pub fn changed(self, said: Self) -> Self {
        let id = |before: Option<u8>, said: Option<u8>| said.or(before).filter(|id| *id != 0);
        Self {
            metadata: id(self.metadata, said.metadata),
            pex: id(self.pex, said.pex),
            dont_have: id(self.dont_have, said.dont_have),
            node: id(self.node, said.node),
        }
    }

    fn of(names: &Value<'_>) -> Self {
        let id = |name| number(names, name);
        Self {
            metadata: id("ut_metadata"),
            pex: id("ut_pex"),
            dont_have: id("lt_donthave"),
            node: id("im_node"),
        }
    }
}

/// The extension handshake (BEP 10). It may come again, and changes what it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtensionHandshake {
    /// The messages that the sender takes.
    pub ids: ExtensionIds,
    /// Length of the torrent's info dictionary in bytes, if the sender has it (BEP 9); never 0. How much
    /// of it anybody takes is for the receiver to say.
    pub metadata_size: Option<u32>,
    /// What the sender's program calls itself, without control characters.
    pub client: Option<String>,
    /// Where the sender listens; never 0.
    pub listen_port: Option<u16>,
    /// How many requests the sender keeps before it drops any; never 0.
    pub request_queue: Option<u32>,
    /// It wants nothing (BEP 21).
    pub upload_only: bool,
    /// The receiver's address, as the sender sees it.
    pub your_address: Option<IpAddr>,
    /// Random bytes (`im_nonce`), with which the receiver proves that it knows a secret.
    pub nonce: Option<[u8; 32]>,
}

impl ExtensionHandshake {
    /// The payload of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let ids = self.ids.named();
        let ids = ids.iter().filter_map(|(name, id)| Some((*name, id.as_ref()?)));
        let ids = Value::dict(ids.map(|(name, id)| (name.as_bytes(), Value::Int(i64::from(*id)))));
        let mut entries = vec![("m", ids)];
        let address = self.your_address.map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let text = |text: &String| Value::bytes(text.clone().into_bytes());
        let fields = [
            ("im_nonce", self.nonce.map(|nonce| Value::bytes(nonce.to_vec()))),
            (
                "metadata_size",
                self.metadata_size.map(|size| Value::Int(i64::from(size))),
            ),
            ("p", self.listen_port.map(|port| Value::Int(i64::from(port)))),
            ("reqq", self.request_queue.map(|queue| Value::Int(i64::from(queue)))),
            ("upload_only", self.upload_only.then_some(Value::Int(1))),
            ("v", self.client.as_ref().map(text)),
            ("yourip", address.map(Value::bytes)),
        ];
        entries.extend(fields.into_iter().filter_map(|(key, value)| Some((key, value?))));
        let entries = entries.into_iter().map(|(key, value)| (key.as_bytes(), value));
        Value::dict(entries).encode().into()
    }

    /// Reads the payload of the message. Bytes behind the dictionary are passed over.
    ///
    /// # Errors
    /// [`ExtensionError`] if it is too long, or no dictionary.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtensionError> {
        let (value, _) = dictionary(WHAT, payload, HANDSHAKE_PAYLOAD_BYTES_MAX)?;
        let bytes = |key| value.get(key).and_then(Value::as_bytes);
        Ok(Self {
            ids: value.get("m").map(ExtensionIds::of).unwrap_or_default(),
            metadata_size: number(&value, "metadata_size").filter(|size| *size != 0),
            client: bytes("v").map(|name| shown(name, CLIENT_BYTES_MAX)),
            listen_port: number(&value, "p").filter(|port| *port != 0),
            request_queue: number(&value, "reqq").filter(|queue| *queue != 0),
            upload_only: number(&value, "upload_only").is_some_and(|only: i64| only != 0),
            your_address: bytes("yourip").and_then(octets),
            nonce: bytes("im_nonce").and_then(|nonce| nonce.try_into().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(payload: &[u8]) -> ExtensionHandshake {
        ExtensionHandshake::decode(payload).unwrap()
    }

    #[test]
    fn a_later_handshake_names_only_what_changes() {
        let first = decode(b"d1:md11:lt_donthavei7e11:ut_metadatai2e6:ut_pexi1eee").ids;
        let held = ExtensionIds::default().changed(first);
        assert_eq!(held.changed(decode(b"d1:pi5ee").ids), held);
        let changed = held.changed(decode(b"d1:md11:ut_metadatai0e6:ut_pexi9eee").ids);
        assert_eq!(
            (changed.dont_have, changed.metadata, changed.pex),
            (Some(7), None, Some(9))
        );
    }

    #[test]
    fn reads_what_the_specification_shows() {
        let got = decode(b"d1:md11:LT_metadatai1e6:\xb5T_PEXi2ee1:pi6881e1:v13:\xc2\xb5Torrent 1.2e");
        let ought = ExtensionHandshake {
            client: Some("\u{b5}Torrent 1.2".to_owned()),
            listen_port: Some(6881),
            ..ExtensionHandshake::default()
        };
        assert_eq!(got, ought);
    }

    #[test]
    fn what_we_send_has_these_bytes() {
        let sent = ExtensionHandshake {
            ids: ExtensionIds {
                metadata: Some(1),
                pex: Some(2),
                dont_have: Some(3),
                node: Some(4),
            },
            metadata_size: Some(31_235),
            client: Some("InstantMirror 0.1.0".to_owned()),
            listen_port: Some(6881),
            request_queue: Some(250),
            upload_only: true,
            your_address: Some(IpAddr::from([192, 0, 2, 1])),
            nonce: Some([b'n'; 32]),
        };
        let bytes = sent.encode();
        let ought = b"d8:im_nonce32:nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn1:md7:im_nodei4e11:lt_donthavei3e11:ut_metadatai1e\
            6:ut_pexi2ee13:metadata_sizei31235e1:pi6881e4:reqqi250e11:upload_onlyi1e1:v19:InstantMirror 0.1.0\
            6:yourip4:\xc0\x00\x02\x01e";
        assert_eq!(bytes.escape_ascii().to_string(), ought.escape_ascii().to_string());
        assert_eq!(decode(&bytes), sent);
        assert_eq!(&ExtensionHandshake::default().encode()[..], b"d1:mdee");
    }

    #[test]
    fn reads_what_clients_send() {
        // As libtorrent 2 and Transmission 3 write theirs.
        let libtorrent = b"d12:complete_agoi1e1:md11:lt_donthavei7e10:share_modei8e11:upload_onlyi3e12:ut_holepunchi4e\
            11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei212e4:reqqi2000e11:upload_onlyi1e1:v18:libtorrent/2.0.8.0\
            6:yourip4:\x7f\0\0\x01e";
        let got = decode(libtorrent);
        let ids = (got.ids.metadata, got.ids.pex, got.ids.dont_have, got.ids.node);
        assert_eq!(ids, (Some(2), Some(1), Some(7), None));
        assert_eq!((got.metadata_size, got.request_queue), (Some(212), Some(2000)));
        assert_eq!(got.your_address, Some(IpAddr::from([127, 0, 0, 1])));
        assert!(got.upload_only);
        let transmission = b"d1:ei0e1:md11:ut_metadatai3e6:ut_pexi1ee13:metadata_sizei212e1:pi51413e4:reqqi512e\
            11:upload_onlyi0e1:v17:Transmission 3.00e";
        let got = decode(transmission);
        assert_eq!(got.client.as_deref(), Some("Transmission 3.00"));
        assert_eq!((got.listen_port, got.upload_only), (Some(51413), false));
    }

    #[test]
    fn an_id_of_0_and_ids_that_are_none_are_no_extension() {
        let got = decode(b"d1:md6:ut_pexi0e11:ut_metadatai256e11:lt_donthavei-1e7:im_node1:1ee");
        assert_eq!(ExtensionIds::default().changed(got.ids), ExtensionIds::default());
        assert_eq!(decode(b"d1:mi1ee"), ExtensionHandshake::default());
        assert_eq!(decode(b"de"), ExtensionHandshake::default());
    }

    #[test]
    fn fields_that_make_no_sense_are_as_none() {
        for field in [
            &b"13:metadata_sizei9223372036854775807e"[..],
            b"13:metadata_sizei-1e",
            b"13:metadata_sizei0e",
            b"13:metadata_size3:100",
            b"1:pi0e",
            b"1:pi65536e",
            b"1:pi-6881e",
            b"4:reqqi-1e",
            b"4:reqqi0e",
            b"4:reqqi4294967296e",
            b"6:yourip5:abcde",
            b"6:youripi1e",
            b"8:im_nonce31:nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
            b"11:upload_only1:1",
            b"1:vi1e",
        ] {
            let payload = [b"d", field, b"e"].concat();
            let shown = field.escape_ascii();
            assert_eq!(decode(&payload), ExtensionHandshake::default(), "{shown}");
        }
    }

    #[test]
    fn the_name_of_a_client_can_be_shown() {
        let shown = |name: &[u8]| {
            let payload = [format!("d1:v{}:", name.len()).as_bytes(), name, b"e"].concat();
            decode(&payload).client.unwrap()
        };
        assert_eq!(shown(b"a\x1b[31m\r\nb\x00"), "a[31mb");
        assert_eq!(shown(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(shown(&[b'x'; 60_000]).len(), CLIENT_BYTES_MAX);
        let long = shown(&[0xff; 500]);
        assert!(long.len() <= CLIENT_BYTES_MAX && long.len() > CLIENT_BYTES_MAX - 3);
    }

    #[test]
    fn bombs_are_refused() {
        let error = |payload: &[u8]| ExtensionHandshake::decode(payload).unwrap_err().to_string();
        assert!(error(&[b'l'; 60_000]).contains("nested too deep"));
        assert!(error(&b"d1:m".repeat(10_000)).contains("nested too deep"));
        assert!(error(b"d1:md6:ut_pexi18446744073709551616eee").contains("64 bits"));
        assert!(error(b"d1:v9223372036854775807:xe").contains("longer than what is there"));
        assert!(error(b"d1:pi1e1:pi2ee").contains("twice"));
        assert!(error(b"le").contains("no dictionary"));
        assert!(error(b"").contains("cut off"));
        let long = [&b"d1:v70000:"[..], &[b'x'; 70_000], b"e"].concat();
        assert!(error(&long).contains("70011 bytes, and 65536 are enough"));
        // As many values as the longest payload can hold.
        let wide = [&b"d1:xl"[..], &b"le".repeat(32_000), b"ee"].concat();
        assert_eq!(decode(&wide), ExtensionHandshake::default());
    }

    #[test]
    fn keys_out_of_order_and_bytes_behind_are_lived_with() {
        let got = decode(b"d1:v1:x1:pi5ee\0\0");
        assert_eq!((got.client.as_deref(), got.listen_port), (Some("x"), Some(5)));
    }

    fn handshakes() -> impl Strategy<Value = ExtensionHandshake> {
        let id = || prop::option::of(1..=u8::MAX);
        let ids = (id(), id(), id(), id()).prop_map(|(metadata, pex, dont_have, node)| ExtensionIds {
            metadata,
            pex,
            dont_have,
            node,
        });
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical()),
        ];
        let numbers = (
            prop::option::of(1..u32::MAX),
            prop::option::of(1..u16::MAX),
            prop::option::of(1..u32::MAX),
        );
        let rest = (prop::option::of("[a-z\u{b5} /.0-9]{0,60}"), any::<bool>());
        let last = (prop::option::of(address), prop::option::of(any::<[u8; 32]>()));
        (ids, numbers, rest, last).prop_map(|(ids, numbers, (client, upload_only), (your_address, nonce))| {
            ExtensionHandshake {
                ids,
                metadata_size: numbers.0,
                client,
                listen_port: numbers.1,
                request_queue: numbers.2,
                upload_only,
                your_address,
                nonce,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read(sent in handshakes()) {
            prop_assert_eq!(decode(&sent.encode()), sent);
        }
    }
}
