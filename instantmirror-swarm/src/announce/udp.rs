//! Announces by UDP (BEP 15, 41): datagrams that are sent, and what the answers say.

use std::time::Duration;

use super::{
    AnnounceError, AnnounceReply, AnnounceRequest, Event, REPLY_PEERS_MAX, Retry, TEXT_BYTES_MAX, TrackerUrl, is_place,
};
use crate::contacts::{V4_BYTES, V6_BYTES, addresses};
use crate::text::shown;

/// What a connect begins with instead of a connection id.
const PROTOCOL: u64 = 0x0417_2710_1980;
/// The longest datagram that is read: [`REPLY_PEERS_MAX`] peers of IPv6 fit in.
pub const PACKET_BYTES_MAX: usize = 20 + REPLY_PEERS_MAX * V6_BYTES;
/// As much is sent of what stands behind the tracker's host (BEP 41).
const PATH_BYTES_MAX: usize = 1024;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const ERROR: u32 = 3;

/// What a tracker answers to a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To a connect: the id that announces have to state.
    Connected(u64),
    /// To an announce.
    Announced(AnnounceReply),
}

/// The datagram that asks for a connection id.
#[must_use]
pub fn connect(transaction: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&PROTOCOL.to_be_bytes());
    out[8..12].copy_from_slice(&CONNECT.to_be_bytes());
    out[12..].copy_from_slice(&transaction.to_be_bytes());
    out
}

/// The datagram of an announce. Our address is left to the tracker to see, and so is the number of peers if we do not care.
/// What stands behind the host in the tracker's URL is sent along (BEP 41), as far as it is anything.
#[must_use]
pub fn announce(tracker: &TrackerUrl, connection: u64, transaction: u32, request: &AnnounceRequest) -> Vec<u8> {
    let mut out = Vec::with_capacity(98);
    out.extend_from_slice(&connection.to_be_bytes());
    out.extend_from_slice(&ANNOUNCE.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
    out.extend_from_slice(request.info_hash.as_bytes());
    out.extend_from_slice(&request.peer_id.0);
    for number in [request.downloaded, request.left, request.uploaded] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let event: u32 = match request.event {
        Event::Regular => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
        // In no BEP; what partial seeds send all the same.
        Event::Paused => 4,
    };
    let wanted = request
        .wanted
        .map_or(u32::MAX, |wanted| wanted.min(i32::MAX.unsigned_abs()));
    for number in [event, 0, request.key, wanted] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&request.port.to_be_bytes());
    put_path(&mut out, tracker);
    out
}

/// Path and query, in options of at most 255 bytes.
fn put_path(out: &mut Vec<u8>, tracker: &TrackerUrl) {
    const URL_DATA: u8 = 2;
    let url = tracker.url();
    let mut path = url.path().to_owned();
    if let Some(query) = url.query() {
        path.push('?');
        path.push_str(query);
    }
    if path.len() > PATH_BYTES_MAX || path == "/" {
        return;
    }
    for part in path.as_bytes().chunks(usize::from(u8::MAX)) {
        let Ok(length) = u8::try_from(part.len()) else { return };
        out.extend_from_slice(&[URL_DATA, length]);
        out.extend_from_slice(part);
    }
}

impl Reply {
    /// Reads a datagram that should be the answer to `transaction`; `None` if it is not the answer to that, which says
    /// nothing of the tracker: anybody could have sent it. `is_v6` is the family by which the tracker was asked, and so the one
    /// of its peers.
    ///
    /// # Errors
    /// [`AnnounceError::Refused`] if it is a refusal, [`AnnounceError::Reply`] if it makes no sense.
    pub fn decode(packet: &[u8], transaction: u32, is_v6: bool) -> Result<Option<Self>, AnnounceError> {
        let mut fields = Fields(packet);
        let (Some(action), Some(of)) = (fields.u32(), fields.u32()) else {
            return Ok(None);
        };
        if of != transaction {
            return Ok(None);
        }
        let short = || AnnounceError::Reply(format!("a datagram with action {action} of {} bytes", packet.len()));
        match action {
            CONNECT => {
                let id = fields.take().ok_or_else(short)?;
                Ok(Some(Self::Connected(u64::from_be_bytes(id))))
            }
            ANNOUNCE => {
                let numbers = (fields.u32(), fields.u32(), fields.u32());
                let (Some(interval_s), incomplete, complete @ Some(_)) = numbers else {
                    return Err(short());
                };
                let entry_bytes = if is_v6 { V6_BYTES } else { V4_BYTES };
                if fields.0.len() % entry_bytes != 0 {
                    return Err(short());
                }
                let peers = addresses(fields.0, entry_bytes).filter(is_place);
                Ok(Some(Self::Announced(AnnounceReply {
                    interval: Duration::from_secs(u64::from(interval_s)),
                    interval_min: None,
                    complete,
                    incomplete,
                    peers: peers.take(REPLY_PEERS_MAX).collect(),
                    warning: None,
                    tracker_id: None,
                })))
            }
            ERROR => Err(AnnounceError::Refused {
                reason: shown(fields.0, TEXT_BYTES_MAX),
                retry: Retry::Unsaid,
            }),
            _ => Err(short()),
        }
    }
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::request;
    use super::*;

    fn packet(action: u32, rest: &[u8]) -> Vec<u8> {
        [&action.to_be_bytes()[..], b"tran", rest].concat()
    }

    fn decode(packet: &[u8], is_v6: bool) -> Result<Option<Reply>, AnnounceError> {
        Reply::decode(packet, u32::from_be_bytes(*b"tran"), is_v6)
    }

    #[test]
    fn a_connect_has_the_bytes_of_the_specification() {
        assert_eq!(
            &connect(0x0102_0304),
            b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0\x01\x02\x03\x04"
        );
    }

    #[test]
    fn an_announce_has_the_bytes_of_the_specification() {
        let tracker: TrackerUrl = "udp://t.example:1".parse().unwrap();
        let got = announce(
            &tracker,
            u64::from_be_bytes(*b"connecti"),
            u32::from_be_bytes(*b"tran"),
            &request(),
        );
        let ought = b"connecti\0\0\0\x01tran\x00\xffabcdefghijk %&=+-z-IM0100-0123456789ab\
            \0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\xbe\xef\0\0\0\x32\x1a\xe1";
        assert_eq!(got.escape_ascii().to_string(), ought.escape_ascii().to_string());
        assert_eq!(got.len(), 98);
        let mut request = request();
        request.wanted = None;
        for (event, number) in [
            (Event::Regular, 0),
            (Event::Completed, 1),
            (Event::Stopped, 3),
            (Event::Paused, 4),
        ] {
            request.event = event;
            let got = announce(&tracker, 0, 0, &request);
            assert_eq!((got[83], &got[92..96]), (number, &[0xff; 4][..]));
        }
    }

    #[test]
    fn what_stands_behind_the_host_is_sent_along() {
        let behind = |url: &str| announce(&url.parse().unwrap(), 0, 0, &request()).split_off(98);
        assert_eq!(behind("udp://t.example:1/"), b"");
        assert_eq!(behind("udp://t.example:1/dir?a=b&c=d"), b"\x02\x0c/dir?a=b&c=d");
        let long = "x".repeat(299);
        let ought = [b"\x02\xff/", &[b'x'; 254][..], b"\x02\x2d", &[b'x'; 45]].concat();
        assert_eq!(behind(&format!("udp://t.example:1/{long}")), ought);
        assert_eq!(behind(&format!("udp://t.example:1/{}", "x".repeat(1024))), b"");
        let longest = behind(&format!("udp://t.example:1/{}", "x".repeat(1023)));
        assert_eq!(longest.len(), 1024 + 5 * 2);
    }

    #[test]
    fn reads_replies_of_both_families() {
        let connected = decode(&packet(0, b"connection"), false);
        assert_eq!(connected, Ok(Some(Reply::Connected(u64::from_be_bytes(*b"connecti")))));
        let numbers = b"\0\0\x07\x08\0\0\0\x05\0\0\0\x03";
        let reply = |peers: &[u8], is_v6| {
            let body = [numbers, peers].concat();
            match decode(&packet(1, &body), is_v6) {
                Ok(Some(Reply::Announced(reply))) => reply,
                other => panic!("{other:?}"),
            }
        };
        let v4 = reply(b"\x01\x02\x03\x04\x1a\xe1\x01\x02\x03\x05\0\0", false);
        assert_eq!(v4.peers, ["1.2.3.4:6881".parse().unwrap()]);
        assert_eq!((v4.incomplete, v4.complete), (Some(5), Some(3)));
        assert_eq!(v4.interval, Duration::from_secs(1800));
        let v6 = reply(b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1", true);
        assert_eq!(v6.peers, ["[2001:db8::1]:6881".parse().unwrap()]);
        assert_eq!(PACKET_BYTES_MAX, 18_020, "as many peers of IPv6 as are taken fit in");
        let many = reply(&[1; V4_BYTES * 3000], false);
        assert_eq!(many.peers.len(), REPLY_PEERS_MAX);
    }

    #[test]
    fn a_refusal_says_why() {
        let reason = "not\u{fffd} here".to_owned();
        let retry = Retry::Unsaid;
        let got = decode(&packet(3, b"not\xff\n here"), false);
        assert_eq!(got, Err(AnnounceError::Refused { reason, retry }));
    }

    #[test]
    fn answers_to_others_are_not_for_us() {
        assert_eq!(Reply::decode(&packet(3, b"no"), 1, false), Ok(None));
        assert_eq!(decode(b"\0\0\0\x03tra", false), Ok(None));
        assert_eq!(decode(b"", false), Ok(None));
    }

    #[test]
    fn what_ends_early_or_is_nothing_is_refused() {
        for packet in [
            packet(0, b"connect"),
            packet(1, &[0; 11]),
            packet(1, &[0; 13]),
            packet(1, &[0; 12 + 7]),
            packet(2, &[0; 12]),
            packet(u32::MAX, &[0; 12]),
        ] {
            let error = decode(&packet, false).unwrap_err();
            assert!(matches!(error, AnnounceError::Reply(_)), "{error}");
        }
    }
}
