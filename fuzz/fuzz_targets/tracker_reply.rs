//! What is taken of a tracker's answer is bounded and says the same when it is written and read again; our announces say to
//! our tracker what they should, and its answers bring exactly peers that it knows.
#![no_main]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use instantmirror_core::bencode::{Strictness, Value};
use instantmirror_core::metainfo::InfoHash;
use instantmirror_swarm::announce::http::{announce_url, parse_reply};
use instantmirror_swarm::announce::udp::{self, Reply};
use instantmirror_swarm::announce::{AnnounceReply, AnnounceRequest, Event, REPLY_PEERS_MAX, TrackerUrl};
use instantmirror_swarm::wire::PeerId;
use instantmirror_tracker::udp::Request;
use instantmirror_tracker::{self as tracker, ConnectionIds, Limits, RandomSample, Registry};
use libfuzzer_sys::fuzz_target;

/// A plain writer of what a reply says.
fn encode(reply: &AnnounceReply) -> Vec<u8> {
    let int = |number: u64| Value::Int(number.try_into().expect("it was one"));
    let mut entries: Vec<(&[u8], Value<'_>)> = vec![(b"interval", int(reply.interval.as_secs()))];
    entries.extend(reply.interval_min.map(|min| (&b"min interval"[..], int(min.as_secs()))));
    entries.extend(reply.complete.map(|count| (&b"complete"[..], int(count.into()))));
    entries.extend(reply.incomplete.map(|count| (&b"incomplete"[..], int(count.into()))));
    entries.extend(reply.warning.as_deref().map(|text| (&b"warning message"[..], Value::text(text))));
    entries.extend(reply.tracker_id.as_deref().map(|id| (&b"tracker id"[..], Value::bytes(id))));
    let [mut v4, mut v6] = [Vec::new(), Vec::new()];
    for peer in &reply.peers {
        let into = match peer.ip() {
            IpAddr::V4(ip) => {
                v4.extend_from_slice(&ip.octets());
                &mut v4
            }
            IpAddr::V6(ip) => {
                v6.extend_from_slice(&ip.octets());
                &mut v6
            }
        };
        into.extend_from_slice(&peer.port().to_be_bytes());
    }
    entries.extend([(&b"peers"[..], Value::bytes(v4)), (b"peers6", Value::bytes(v6))]);
    Value::dict(entries).encode()
}

fn is_good(reply: &AnnounceReply) -> bool {
    let place = |peer: &SocketAddr| peer.port() != 0 && !peer.ip().is_unspecified() && !peer.ip().is_multicast();
    reply.peers.len() <= REPLY_PEERS_MAX && reply.peers.iter().all(place)
}

/// The request that the first bytes are.
fn request(data: &[u8; 80]) -> AnnounceRequest {
    let mut at = 0;
    let mut number = || {
        at += 8;
        u64::from_be_bytes(data[at - 8..at].try_into().expect("eight bytes"))
    };
    let (uploaded, downloaded, left, rest, more) = (number(), number(), number(), number(), number());
    let events = [Event::Regular, Event::Started, Event::Completed, Event::Stopped, Event::Paused];
    AnnounceRequest {
        info_hash: InfoHash::from_bytes(data[40..60].try_into().expect("twenty bytes")),
        peer_id: PeerId(data[60..].try_into().expect("twenty bytes")),
        port: (rest as u16).max(1),
        uploaded,
        downloaded,
        left: left.min(u64::MAX - 1),
        event: events[(rest >> 16) as usize % events.len()],
        wanted: (rest >> 24 & 1 == 1).then_some((rest >> 32) as u32),
        key: more as u32,
        tracker_id: (rest >> 25 & 1 == 1).then(|| more.to_be_bytes().to_vec()),
    }
}

/// What our tracker should understand.
fn understood(request: &AnnounceRequest) -> tracker::Announce {
    tracker::Announce {
        info_hash: tracker::InfoHash(*request.info_hash.as_bytes()),
        peer_id: tracker::PeerId(request.peer_id.0),
        port: request.port,
        left: Some(request.left),
        event: match request.event {
            Event::Regular => tracker::Event::Regular,
            Event::Started => tracker::Event::Started,
            Event::Completed => tracker::Event::Completed,
            Event::Stopped => tracker::Event::Stopped,
            Event::Paused => tracker::Event::Paused,
        },
        wanted: request.wanted,
        key: request.key,
    }
}

fn with_our_tracker(request: &AnnounceRequest, peers: &[u8]) {
    let url: TrackerUrl = "http://t.example/announce?own=1".parse().expect("a URL");
    let http = announce_url(&url, request);
    let query = http.query().expect("a query").to_owned();
    let mut ought = understood(request);
    assert_eq!(tracker::http::parse_announce(&query).expect("a query").announce, ought);

    let url: TrackerUrl = "udp://t.example:1/announce?own=1".parse().expect("a URL");
    ought.wanted = ought.wanted.map(|wanted| wanted.min(i32::MAX as u32));
    let ids = ConnectionIds::new([7; 32]);
    let from: SocketAddr = "192.0.2.1:1".parse().expect("an address");
    let (connection, transaction) = (ids.id(from.ip(), Duration::ZERO), request.key);
    let packet = udp::announce(&url, connection, transaction, request);
    let announce = ought.clone();
    assert_eq!(Request::decode(&packet), Ok(Request::Announce { connection, transaction, announce }));
    assert_eq!(Request::decode(&udp::connect(transaction)), Ok(Request::Connect { transaction }));

    let mut registry = Registry::new(Limits::default(), Box::new(RandomSample), 1);
    registry.allow([ought.info_hash].into());
    let mut known = BTreeSet::new();
    for peer in peers.chunks_exact(18).take(30) {
        let (ip, port) = peer.split_last_chunk::<2>().expect("eighteen bytes");
        let port = u16::from_be_bytes(*port).max(1);
        let ip = match ip.first_chunk::<4>() {
            Some(v4) if port % 2 == 0 => IpAddr::from(*v4),
            _ => IpAddr::from(<[u8; 16]>::try_from(ip).expect("sixteen bytes")).to_canonical(),
        };
        let peer = tracker::Announce { port, left: Some(1), event: tracker::Event::Started, ..ought.clone() };
        let _ = registry.announce(Duration::ZERO, ip, &peer);
        known.insert(SocketAddr::new(ip, port));
    }
    let answer = tracker::http::announce(&mut registry, Duration::ZERO, from.ip(), &query);
    let written = Value::decode(&answer, Strictness::All).expect("bencode");
    let reply = parse_reply(&answer).expect("an answer");
    let bytes = |key| written.get(key).and_then(Value::as_bytes).map_or(0, <[u8]>::len);
    assert_eq!(reply.peers.len(), bytes("peers") / 6 + bytes("peers6") / 18, "nothing is lost");
    assert!(reply.peers.iter().all(|peer| known.contains(peer)));
    let answer = tracker::udp::answer(&mut registry, &ids, Duration::ZERO, from, &packet).expect("an answer");
    let Ok(Some(Reply::Announced(reply))) = Reply::decode(&answer, transaction, false) else {
        panic!("our tracker's answer is none")
    };
    assert_eq!(reply.peers.len(), (answer.len() - 20) / 6);
    assert!(reply.peers.iter().all(|peer| known.contains(peer) && peer.is_ipv4()));
    let answer = tracker::udp::answer(&mut registry, &ids, Duration::ZERO, from, &udp::connect(transaction));
    let answer = answer.expect("an answer");
    assert_eq!(Reply::decode(&answer, transaction, false), Ok(Some(Reply::Connected(connection))));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(reply) = parse_reply(data) {
        assert!(is_good(&reply));
        assert_eq!(parse_reply(&encode(&reply)), Ok(reply));
    }
    for is_v6 in [false, true] {
        let transaction = data.get(4..8).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")));
        let decoded = Reply::decode(data, transaction, is_v6);
        if let Ok(Some(Reply::Announced(reply))) = &decoded {
            assert!(is_good(reply));
        }
        assert!(data.len() >= 8 || decoded == Ok(None));
        assert_eq!(Reply::decode(data, !transaction, is_v6), Ok(None));
    }
    if let Some((first, peers)) = data.split_first_chunk::<80>() {
        with_our_tracker(&request(first), peers);
    }
});
