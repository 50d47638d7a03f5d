//! What a registry promises to those who announce, and to its memory.

use super::*;
use crate::{PeerId, RandomSample};

const TORRENT: InfoHash = InfoHash([7; 20]);

fn registry(limits: Limits) -> Registry {
    let mut registry = Registry::new(limits, Box::new(RandomSample), 1);
    registry.allow([TORRENT].into());
    registry
}

fn announce(port: u16, left: u64, event: Event) -> Announce {
    Announce {
        info_hash: TORRENT,
        peer_id: PeerId([b'x'; 20]),
        port,
        left: Some(left),
        event,
        wanted: None,
        key: 0,
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn peers_are_told_of_each_other_and_counted() {
    let mut registry = registry(Limits::default());
    let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
    let first = registry.announce(at(0), a, &announce(1, 0, Event::Started)).unwrap();
    assert!(first.peers.is_empty());
    assert_eq!(
        (first.swarm.complete, first.interval_s),
        (1, 120),
        "a seed looks for leechers"
    );
    let second = registry.announce(at(1), b, &announce(2, 5, Event::Started)).unwrap();
    assert_eq!(
        second
            .peers
            .iter()
            .map(|peer| (peer.address, peer.port))
            .collect::<Vec<_>>(),
        [(a, 1)]
    );
    assert_eq!(
        (second.swarm.complete, second.swarm.incomplete, second.swarm.downloaders),
        (1, 1, 1)
    );
    assert_eq!(second.interval_s, 1800);
    let gone = registry.announce(at(2), a, &announce(1, 0, Event::Stopped)).unwrap();
    assert_eq!((gone.swarm.complete, gone.peers.len()), (0, 0));
    assert_eq!(registry.census().peers_v4, 1);
}

#[test]
fn seeds_are_named_to_magnet_links_and_not_to_seeds_that_are_known_as_such() {
    let mut registry = registry(Limits::default());
    let [seed, asker] = ["192.0.2.1", "192.0.2.2"].map(address);
    registry.announce(at(0), seed, &announce(1, 0, Event::Started)).unwrap();
    let mut told = |left, event, wanted| {
        let asked = Announce {
            wanted,
            ..announce(1, left, event)
        };
        registry.announce(at(0), asker, &asked).unwrap().peers.len()
    };
    // As long as only zero was said, it may be a client that has no metadata yet.
    for event in [Event::Started, Event::Regular] {
        assert_eq!(told(0, event, None), 1);
    }
    assert_eq!(told(0, Event::Regular, Some(0)), 0, "it wants to be told of no peer");
    assert_eq!(told(0, Event::Completed, None), 0);
    assert_eq!(told(0, Event::Regular, None), 0);
    assert_eq!(told(5, Event::Stopped, None), 0);
    assert_eq!(told(5, Event::Started, None), 1);
    assert_eq!(
        told(0, Event::Regular, None),
        0,
        "it was seen to lack something and lacks nothing"
    );
}

#[test]
fn a_completion_counts_once() {
    let mut registry = registry(Limits::default());
    let peer = address("192.0.2.1");
    let mut say = |left, event| {
        registry
            .announce(at(0), peer, &announce(1, left, event))
            .unwrap()
            .swarm
            .downloaded
    };
    assert_eq!(say(5, Event::Started), 0);
    assert_eq!(say(5, Event::Completed), 0, "it lacks something");
    assert_eq!(say(0, Event::Completed), 1);
    assert_eq!(say(0, Event::Completed), 1);
    assert_eq!(say(0, Event::Regular), 1);
    assert_eq!(say(5, Event::Regular), 1);
    assert_eq!(say(0, Event::Completed), 1);
}

#[test]
fn a_partial_seed_is_incomplete_and_wants_nothing() {
    let mut registry = registry(Limits::default());
    let [a, b] = ["192.0.2.1", "192.0.2.2"].map(address);
    registry.announce(at(0), a, &announce(1, 0, Event::Started)).unwrap();
    let paused = registry.announce(at(0), b, &announce(1, 5, Event::Paused)).unwrap();
    assert!(paused.peers.is_empty());
    assert_eq!((paused.swarm.incomplete, paused.swarm.downloaders), (1, 0));
    let again = registry.announce(at(0), b, &announce(1, 5, Event::Regular)).unwrap();
    assert_eq!((again.peers.len(), again.swarm.downloaders), (1, 1));
}

#[test]
fn who_is_not_heard_of_is_forgotten_after_two_intervals() {
    let mut registry = registry(Limits::default());
    registry
        .announce(at(0), address("192.0.2.1"), &announce(1, 0, Event::Started))
        .unwrap();
    registry
        .announce(at(0), address("2001:db8::1"), &announce(1, 0, Event::Started))
        .unwrap();
    registry
        .announce(at(1800), address("192.0.2.1"), &announce(1, 0, Event::Regular))
        .unwrap();
    assert_eq!(registry.expire(at(3660), 10), 0);
    assert_eq!(registry.expire(at(3662), 10), 1);
    assert_eq!((registry.census().peers_v4, registry.census().peers_v6), (1, 0));
    assert_eq!(registry.expire(at(9000), 10), 1);
    assert_eq!(registry.counts().expired, 2);
}

#[test]
fn other_torrents_are_refused_and_leave_nothing() {
    let mut registry = registry(Limits::default());
    for number in 0..1000u32 {
        let mut other = announce(1, 0, Event::Started);
        other.info_hash.0[..4].copy_from_slice(&number.to_be_bytes());
        let refused = registry.announce(at(0), address("192.0.2.1"), &other);
        assert_eq!(refused, Err(Refusal::NotAllowed));
    }
    assert_eq!(
        (registry.torrents.len(), registry.counts.refused[&Refusal::NotAllowed]),
        (1, 1000)
    );
}

#[test]
fn what_is_no_longer_allowed_is_forgotten_and_the_rest_stays() {
    let mut registry = registry(Limits::default());
    let other = InfoHash([8; 20]);
    registry.allow([TORRENT, other].into());
    let peer = address("192.0.2.1");
    registry.announce(at(0), peer, &announce(1, 0, Event::Started)).unwrap();
    registry
        .announce(
            at(0),
            peer,
            &Announce {
                info_hash: other,
                ..announce(1, 0, Event::Started)
            },
        )
        .unwrap();
    registry.allow([other].into());
    assert_eq!(
        (registry.peers, registry.census().torrents, registry.census().seeds),
        (1, 1, 1)
    );
    assert_eq!(
        registry.announce(at(0), peer, &announce(1, 0, Event::Regular)),
        Err(Refusal::NotAllowed)
    );
}

#[test]
fn limits_hold_and_are_said() {
    let limits = Limits {
        peers_max: 5,
        swarm_peers_max: 4,
        address_peers_max: 2,
        requests_per_minute: 20,
        ..Limits::default()
    };
    let mut registry = registry(limits);
    registry.allow([TORRENT, InfoHash([8; 20])].into());
    let mut say = |host: &str, port, torrent| {
        let asked = Announce {
            info_hash: InfoHash([torrent; 20]),
            ..announce(port, 5, Event::Started)
        };
        registry.announce(at(0), address(host), &asked)
    };
    assert!(say("192.0.2.1", 1, 7).is_ok() && say("192.0.2.1", 2, 7).is_ok());
    assert_eq!(say("192.0.2.1", 3, 7), Err(Refusal::TooManyPeers));
    assert!(say("192.0.2.2", 1, 7).is_ok() && say("192.0.2.3", 1, 7).unwrap().warning.is_none());
    let full = say("192.0.2.4", 1, 7).unwrap();
    assert!(
        full.warning.is_some() && full.peers.len() == 4,
        "it is served, and not kept"
    );
    assert!(say("192.0.2.4", 1, 8).unwrap().warning.is_none());
    assert!(
        say("192.0.2.5", 1, 8).unwrap().warning.is_some(),
        "five is the most of all"
    );
    assert!(say("192.0.2.1", 1, 7).unwrap().warning.is_none(), "who is there stays");
    assert_eq!(say("224.0.0.1", 1, 7), Err(Refusal::Unreachable));
    let refused = (0..40)
        .filter(|_| say("192.0.2.9", 1, 7) == Err(Refusal::TooOften))
        .count();
    assert!(refused >= 20, "{refused}");
    assert_eq!(registry.peers, 5);
}

#[test]
fn no_more_is_handed_out_than_wanted_and_allowed() {
    let mut registry = registry(Limits {
        address_peers_max: 10_000,
        ..Limits::default()
    });
    for port in 1..=1000 {
        registry
            .announce(at(0), address("192.0.2.1"), &announce(port, 5, Event::Started))
            .unwrap();
    }
    for (wanted, got) in [(None, 50), (Some(0), 0), (Some(7), 7), (Some(u32::MAX), 200)] {
        let asked = Announce {
            wanted,
            ..announce(1, 5, Event::Regular)
        };
        let peers = registry.announce(at(60), address("192.0.2.2"), &asked).unwrap().peers;
        assert_eq!(peers.len(), got, "{wanted:?}");
    }
}

#[test]
fn families_are_kept_apart_and_the_asker_s_own_comes_first() {
    let mut registry = registry(Limits::default());
    for host in 1..=40 {
        let [v4, v6] = [format!("192.0.2.{host}"), format!("2001:db8:0:{host}::1")].map(|text| address(&text));
        registry.announce(at(0), v4, &announce(1, 5, Event::Started)).unwrap();
        registry.announce(at(0), v6, &announce(1, 5, Event::Started)).unwrap();
    }
    let asked = Announce {
        wanted: Some(60),
        ..announce(1, 5, Event::Started)
    };
    let v6 = |peers: &[Contact]| peers.iter().filter(|peer| peer.address.is_ipv6()).count();
    let four = registry.announce(at(0), address("198.51.100.1"), &asked).unwrap().peers;
    assert_eq!((four.len(), v6(&four)), (60, 20));
    let six = registry
        .announce(at(0), address("2001:db8:1::1"), &asked)
        .unwrap()
        .peers;
    assert_eq!((six.len(), v6(&six)), (60, 40));
    // An IPv4 address on an IPv6 socket is one.
    let mapped = registry.announce(at(0), address("::ffff:192.0.2.1"), &asked).unwrap();
    assert_eq!(mapped.swarm.incomplete, 82);
}
