//! What a datagram may do, and what it may not.

use proptest::prelude::*;

use super::*;
use crate::{Limits, RandomSample};

const TORRENT: InfoHash = InfoHash([7; 20]);

fn tracker() -> (Registry, ConnectionIds, SocketAddr) {
    let mut registry = Registry::new(
        Limits {
            requests_per_minute: 1_000_000,
            ..Limits::default()
        },
        Box::new(RandomSample),
        1,
    );
    registry.allow([TORRENT].into());
    (registry, ConnectionIds::new([1; 32]), "192.0.2.1:4000".parse().unwrap())
}

fn announce() -> Announce {
    Announce {
        info_hash: TORRENT,
        peer_id: PeerId(*b"-XX0000-abcdefghijkl"),
        port: 6881,
        left: Some(0),
        event: Event::Started,
        wanted: None,
        key: 9,
    }
}

fn connect(registry: &mut Registry, ids: &ConnectionIds, from: SocketAddr) -> u64 {
    let packet = Request::Connect { transaction: 5 }.encode();
    let answer = answer(registry, ids, Duration::ZERO, from, &packet).unwrap();
    assert_eq!((answer.len(), &answer[..8]), (16, &[0, 0, 0, 0, 0, 0, 0, 5][..]));
    u64::from_be_bytes(answer[8..].try_into().unwrap())
}

#[test]
fn a_client_connects_announces_and_scrapes() {
    let (mut registry, ids, from) = tracker();
    let connection = connect(&mut registry, &ids, from);
    let mut ask = |from: &str, announce: Announce| {
        let from: SocketAddr = from.parse().unwrap();
        let connection = ids.id(from.ip(), Duration::ZERO);
        let packet = Request::Announce {
            connection,
            transaction: 6,
            announce,
        }
        .encode();
        answer(&mut registry, &ids, Duration::ZERO, from, &packet).unwrap()
    };
    assert_eq!(connection, ids.id(from.ip(), Duration::ZERO));
    let first = ask("192.0.2.1:4000", announce());
    // Action, transaction, interval, leechers, seeders, and no peers.
    let expected: Vec<u8> = [1u32, 6, 120, 0, 1]
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect();
    assert_eq!(first, expected);
    let second = ask(
        "192.0.2.2:4000",
        Announce {
            left: Some(9),
            ..announce()
        },
    );
    assert_eq!(second[20..], [192, 0, 2, 1, 0x1a, 0xe1]);
    let six = ask(
        "[2001:db8::1]:4000",
        Announce {
            left: Some(9),
            ..announce()
        },
    );
    assert_eq!(six.len(), 20, "peers of IPv4 have no place in an answer by IPv6");
    let packet = Request::Scrape {
        connection,
        transaction: 7,
        torrents: vec![TORRENT, InfoHash([9; 20])],
    }
    .encode();
    let scraped = answer(&mut registry, &ids, Duration::ZERO, from, &packet).unwrap();
    let expected: Vec<u8> = [2u32, 7, 1, 0, 2, 0, 0, 0]
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect();
    assert_eq!(scraped, expected);
}

#[test]
fn forged_addresses_get_nothing() {
    let (mut registry, ids, from) = tracker();
    let elsewhere = ids.id("192.0.2.99".parse().unwrap(), Duration::ZERO);
    for connection in [0, PROTOCOL, elsewhere, u64::MAX] {
        for action in 0..6u32 {
            let mut packet = Request::Announce {
                connection,
                transaction: 6,
                announce: announce(),
            }
            .encode();
            packet[8..12].copy_from_slice(&action.to_be_bytes());
            let got = answer(&mut registry, &ids, Duration::ZERO, from, &packet);
            let is_connect = connection == PROTOCOL && action == 0;
            assert_eq!(got.is_some(), is_connect, "{connection} {action}");
            assert!(got.is_none_or(|got| got.len() <= 16));
        }
    }
    assert_eq!(registry.census().peers_v4, 0);
}

#[test]
fn datagrams_of_every_length_get_an_error_or_nothing() {
    let (mut registry, ids, from) = tracker();
    let connection = connect(&mut registry, &ids, from);
    for action in 0..5u32 {
        let mut packet = Request::Announce {
            connection,
            transaction: 6,
            announce: announce(),
        }
        .encode();
        packet[8..12].copy_from_slice(&action.to_be_bytes());
        packet.resize(PACKET_BYTES_MAX, 0);
        for length in 0..=PACKET_BYTES_MAX {
            let got = answer(&mut registry, &ids, Duration::ZERO, from, &packet[..length]);
            let expected = match (action, length) {
                (_, 0..16) => None,
                (1, 98..) => Some(ANNOUNCE),
                (2, 36..1497) if (length - 16) % 20 == 0 => Some(SCRAPE),
                _ => Some(ERROR),
            };
            let action_of = |got: &Vec<u8>| u32::from_be_bytes(got[..4].try_into().unwrap());
            assert_eq!(got.as_ref().map(action_of), expected, "action {action}, {length} bytes");
            assert!(got.is_none_or(|got| got.len() < 1000));
        }
    }
    assert_eq!(registry.census().peers_v4, 1);
}

#[test]
fn what_is_refused_is_said() {
    let (mut registry, ids, from) = tracker();
    let connection = connect(&mut registry, &ids, from);
    for (asked, said) in [
        (
            Announce {
                info_hash: InfoHash([1; 20]),
                ..announce()
            },
            "does not serve this torrent",
        ),
        (Announce { port: 0, ..announce() }, "port 0"),
    ] {
        let packet = Request::Announce {
            connection,
            transaction: 6,
            announce: asked,
        }
        .encode();
        let got = answer(&mut registry, &ids, Duration::ZERO, from, &packet).unwrap();
        assert_eq!(got[..8], [0, 0, 0, 3, 0, 0, 0, 6]);
        assert!(String::from_utf8_lossy(&got[8..]).contains(said));
    }
}

fn any_announce() -> impl Strategy<Value = Announce> {
    let events = [
        Event::Regular,
        Event::Started,
        Event::Stopped,
        Event::Completed,
        Event::Paused,
    ];
    let numbers = (
        1..=u16::MAX,
        prop::option::of(0..u64::MAX),
        prop::option::of(0..=i32::MAX as u32),
        any::<u32>(),
    );
    (
        any::<[u8; 20]>(),
        any::<[u8; 20]>(),
        numbers,
        prop::sample::select(events.to_vec()),
    )
        .prop_map(|(hash, id, (port, left, wanted, key), event)| Announce {
            info_hash: InfoHash(hash),
            peer_id: PeerId(id),
            port,
            left,
            event,
            wanted,
            key,
        })
}

fn any_request() -> impl Strategy<Value = Request> {
    let hashes = prop::collection::vec(any::<[u8; 20]>().prop_map(InfoHash), 1..=SCRAPED_MAX);
    prop_oneof![
        any::<u32>().prop_map(|transaction| Request::Connect { transaction }),
        (any::<u64>(), any::<u32>(), any_announce()).prop_map(|(connection, transaction, announce)| {
            Request::Announce {
                connection,
                transaction,
                announce,
            }
        }),
        (any::<u64>(), any::<u32>(), hashes).prop_map(|(connection, transaction, torrents)| Request::Scrape {
            connection,
            transaction,
            torrents
        }),
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_wire(request in any_request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn what_decodes_has_one_meaning(packet in prop::collection::vec(any::<u8>(), 0..200), action in 0..4u8) {
        let mut packet = packet;
        if let Some(byte) = packet.get_mut(11) {
            *byte = action;
            packet[8..11].fill(0);
        }
        if let Ok(request) = Request::decode(&packet) {
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }
}
