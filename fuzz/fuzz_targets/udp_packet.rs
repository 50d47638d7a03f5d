//! A datagram that decodes has one meaning; without a good connection id there is no answer but to a connect.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use instantmirror_tracker::udp::{PACKET_BYTES_MAX, Request, answer};
use instantmirror_tracker::{ConnectionIds, InfoHash, Limits, RandomSample, Registry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, packet)) = data.split_first() else { return };
    let mut packet = packet[..packet.len().min(PACKET_BYTES_MAX)].to_vec();
    let ids = ConnectionIds::new([7; 32]);
    let from: SocketAddr = if choice & 2 == 0 { "192.0.2.1:1" } else { "[2001:db8::1]:1" }.parse().expect("an address");
    let good = ids.id(from.ip(), Duration::ZERO);
    if choice & 1 == 1 && packet.len() >= 8 {
        packet[..8].copy_from_slice(&good.to_be_bytes());
    }
    let has_id = packet.len() >= 16 && packet[..8] == good.to_be_bytes();
    let request = Request::decode(&packet);
    if let Ok(request) = &request {
        assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(request));
    }
    let mut registry = Registry::new(Limits::default(), Box::new(RandomSample), 1);
    let hash = packet.get(16..36).and_then(|bytes| bytes.try_into().ok());
    registry.allow(hash.map(InfoHash).into_iter().collect());
    for _ in 0..2 {
        let got = answer(&mut registry, &ids, Duration::ZERO, from, &packet);
        let is_connect = matches!(request, Ok(Request::Connect { .. }));
        assert_eq!(got.is_some(), is_connect || has_id);
        let Some(got) = got else { continue };
        assert_eq!(got[4..8], packet[12..16], "the transaction comes back");
        let action = u32::from_be_bytes(got[..4].try_into().expect("four bytes"));
        let asked = u32::from_be_bytes(packet[8..12].try_into().expect("four bytes"));
        assert!(action == 3 || (action == asked && request.is_ok()));
        assert!(got.len() <= 1400 && (has_id || got.len() <= packet.len()));
    }
    let kept = registry.census();
    assert!(kept.peers_v4 + kept.peers_v6 <= 1);
});
