//! Swarms on loopback sockets: what one has, the others get from each other, and liars are found out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod conformance;
mod hostile;
mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use instantmirror_core::address::AddressPolicy;
use instantmirror_core::traits::{BatchItem, Class, GroupRequest, Swarm as _, TransportError};
use instantmirror_swarm::peer::{Origin, PeerLimits};
use tokio::io::AsyncReadExt as _;

use world::{MIB, World, noise};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn four_peers_get_everything_and_the_seeder_sends_about_one_copy() {
    let objects = vec![noise(1, 20 * MIB), noise(2, 70_000), noise(3, 5), noise(4, 3 * MIB + 1)];
    let world = World::new(objects);
    let seeder = world.seeder("127.0.0.1").await;
    let mut leechers = Vec::new();
    for _ in 0..4 {
        let leecher = world.leecher("127.0.0.1").await;
        leecher.knows(seeder.address);
        for other in &leechers {
            let other: &world::Peer = other;
            leecher.knows(other.address);
        }
        leechers.push(leecher);
    }
    let all = leechers.iter().map(world::Peer::fetch_all);
    tokio::time::timeout(LIMIT, futures_util::future::join_all(all))
        .await
        .unwrap();
    for leecher in &leechers {
        leecher.assert_complete();
    }
    let sent = seeder.sent();
    let total: u64 = world.total();
    assert!(sent < total * 13 / 10, "{sent} of {total}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_found_out_and_the_rest_comes_from_the_honest() {
    let world = World::new(vec![noise(1, 8 * MIB)]);
    let (honest, liar) = (world.seeder("127.0.0.1").await, world.liar("127.0.0.2").await);
    let leecher = world.leecher("127.0.0.1").await;
    leecher.knows(liar.address);
    leecher.knows(honest.address);
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    leecher.assert_complete();
    let (banned, lies) = leecher.swarms.banned();
    assert_eq!(banned, [liar.address.ip()]);
    assert!(lies >= 1);
}

/// Asks for an outboard until a peer gives it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_brings_objects_of_several_groups_and_finds_out_who_lied() {
    let sizes = [1, 64 << 10, 100_000, 512 << 10, (512 << 10) - 1, 300_000, 200_000];
    let world = World::new(
        sizes
            .iter()
            .enumerate()
            .map(|(at, size)| noise(at as u64, *size))
            .collect(),
    );
    let (honest, liar) = (world.seeder("127.0.0.1").await, world.liar("127.0.0.2").await);
    let leecher = world.leecher("127.0.0.1").await;
    leecher.knows(honest.address);
    leecher.knows(liar.address);
    let asked: Vec<_> = world
        .objects
        .iter()
        .map(|one| (one.id, one.content.len() as u64))
        .collect();
    let repository = "r".parse().unwrap();
    let found_out = async {
        loop {
            let mut came = HashMap::new();
            let mut sink = |(object, content): BatchItem| _ = content.map(|content| came.insert(object, content));
            let batch = leecher.transport.batch(&repository, &asked, Class::Preseed, &mut sink);
            batch.await.unwrap();
            let is_right = |one: &world::Object| came.get(&one.id) == Some(&one.content);
            let right = world.objects.iter().filter(|one| is_right(one)).count();
            assert_eq!(right, came.len());
            // Until both are met.
            if right == world.objects.len() && leecher.swarms.banned().1 > 0 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, found_out).await.unwrap();
    assert_eq!(leecher.swarms.banned(), (vec![liar.address.ip()], 1));
}

async fn outboard_of(peer: &world::Peer, object: &world::Object) -> Bytes {
    let (repository, size) = ("r".parse().unwrap(), object.content.len() as u64);
    let asking = async {
        loop {
            if let Ok(values) = peer
                .transport
                .outboard(&repository, &object.id, size, Class::Demand)
                .await
            {
                return values;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn outboards_come_from_peers_in_one_part_or_several() {
    let world = World::new(vec![
        noise(1, 3 * MIB),
        Bytes::from(vec![7; 160 * MIB + 1]),
        noise(2, 5),
    ]);
    let (seeder, leecher) = (world.seeder("127.0.0.1").await, world.leecher("127.0.0.1").await);
    let repository = "r".parse().unwrap();
    let object = &world.objects[0];
    let nobody = leecher
        .transport
        .outboard(&repository, &object.id, 3 * MIB as u64, Class::Demand)
        .await;
    assert!(matches!(nobody, Err(TransportError::NotFound { .. })), "{nobody:?}");
    leecher.knows(seeder.address);
    for object in &world.objects {
        assert_eq!(outboard_of(&leecher, object).await, object.outboard.values());
    }
    let long = leecher
        .transport
        .outboard(&repository, &object.id, 1 << 37, Class::Demand)
        .await;
    assert!(long.unwrap_err().to_string().contains("by HTTP"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_forges_an_outboard_is_found_out_and_it_comes_from_the_honest() {
    let world = World::new(vec![noise(1, 8 * MIB)]);
    let (honest, forger) = (world.seeder("127.0.0.1").await, world.forger("127.0.0.2").await);
    let leecher = world.leecher("127.0.0.1").await;
    // It is the only one there is at first.
    leecher.knows(forger.address);
    let asking = outboard_of(&leecher, &world.objects[0]);
    let meeting = async {
        let found_out = async {
            while leecher.swarms.banned().1 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, found_out).await.unwrap();
        leecher.knows(honest.address);
    };
    let (outboard, ()) = tokio::join!(asking, meeting);
    assert_eq!(outboard, world.objects[0].outboard.values());
    assert_eq!(leecher.swarms.banned(), (vec![forger.address.ip()], 1));
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    leecher.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_read_an_outboard_in_time_is_passed_over_and_no_liar() {
    let world = World::new(vec![noise(1, 8 * MIB), noise(2, MIB)]);
    let (honest, mute) = (world.seeder("127.0.0.1").await, world.mute("127.0.0.2").await);
    let leecher = world.leecher("127.0.0.1").await;
    leecher.knows(mute.address);
    let (repository, object) = ("r".parse().unwrap(), &world.objects[0]);
    let fetched = tokio::time::timeout(LIMIT, leecher.fetch_all());
    let asking = leecher
        .transport
        .outboard(&repository, &object.id, 8 * MIB as u64, Class::Demand);
    let (fetched, _) = tokio::join!(fetched, asking);
    fetched.unwrap();
    leecher.assert_complete();
    leecher.knows(honest.address);
    assert_eq!(outboard_of(&leecher, object).await, object.outboard.values());
    assert_eq!(leecher.swarms.banned().1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_peers_wait_for_a_late_seeder_and_share_what_it_brings() {
    let world = World::new(vec![noise(1, 4 * MIB)]);
    let one = world.leecher("127.0.0.1").await;
    let other = world.leecher("127.0.0.1").await;
    one.knows(other.address);
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Nobody has anything: that is said at once.
    let object = world.objects[0].clone();
    let request = GroupRequest {
        object: object.id,
        size: object.content.len() as u64,
        range: 0..object.content.len() as u64,
        class: instantmirror_core::traits::Class::Preseed,
        rank: 0,
    };
    let repository = "r".parse().unwrap();
    let nobody = one.transport.groups(&repository, request).await;
    assert!(nobody.is_err());
    let seeder = world.seeder("127.0.0.1").await;
    seeder.knows(one.address);
    tokio::time::timeout(LIMIT, one.fetch_all()).await.unwrap();
    // It never met the seeder.
    tokio::time::timeout(LIMIT, other.fetch_all()).await.unwrap();
    other.assert_complete();
    let mut batch = Vec::new();
    let asked = [(object.id, object.content.len() as u64)];
    one.transport
        .batch(&repository, &asked, Class::Preseed, &mut |item| batch.push(item))
        .await
        .unwrap();
    assert_eq!(batch[0].1.as_ref().unwrap(), &object.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_other_protocols_are_let_go() {
    use tokio::io::AsyncWriteExt as _;
    let world = World::new(vec![noise(1, MIB)]);
    let seeder = world.seeder("127.0.0.1").await;
    let talk = |sent: Vec<u8>, address: SocketAddr| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let mut got = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut got))
            .await
            .expect("closed");
        got
    };
    assert!(
        talk(b"GET / HTTP/1.1\r\n\r\n".to_vec(), seeder.address)
            .await
            .is_empty()
    );
    let mut other = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    other.extend([9; 40]);
    assert!(talk(other, seeder.address).await.is_empty());
    // A frame of 4 GiB.
    let mut giant = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    giant.extend(world.info_hash().as_bytes());
    giant.extend([9; 20]);
    giant.extend([255; 8]);
    assert!(talk(giant, seeder.address).await.len() >= 68);
    // And everybody else is served as before.
    let leecher = world.leecher("127.0.0.3").await;
    leecher.knows(seeder.address);
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    leecher.assert_complete();
    let leaving = seeder.swarms.connections();
    assert!(leaving >= 1);
    seeder.swarms.shut_down().await;
    assert_eq!(seeder.swarms.connections(), 0);
    leecher.knows("127.0.0.1:1".parse().unwrap());
    leecher
        .swarms
        .add_peer(&leecher.swarm, "127.0.0.1:2".parse().unwrap(), Origin::Peer);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_an_export_torrent_are_sought_while_something_of_it_is_wanted() {
    let world = World::new(vec![noise(1, 2 * MIB)]).of_an_export_torrent();
    let (seeder, leecher) = (world.seeder("127.0.0.1").await, world.leecher("127.0.0.1").await);
    leecher.knows(seeder.address);
    // Longer than the pause between two looks for somebody to connect to.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((leecher.swarms.connections(), seeder.swarms.connections()), (0, 0));
    // The first want brings the peers, the next ones the content.
    let object = &world.objects[0];
    assert!(!leecher.transport.is_ready(&object.id));
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    leecher.assert_complete();
    assert_eq!(leecher.swarms.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_meet_over_ipv6_as_well() {
    let world = World::new(vec![noise(1, 2 * MIB)]);
    let (seeder, leecher) = (world.seeder("[::1]").await, world.leecher("[::1]").await);
    leecher.knows(seeder.address);
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    leecher.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_on_rates_and_peers_hold() {
    let world = World::new(vec![noise(1, 4 * MIB)]);
    let (seeder, leecher) = (world.seeder("127.0.0.1").await, world.leecher("127.0.0.5").await);
    let mut limits = PeerLimits::default();
    limits.upload = Some(2 * MIB as u64);
    seeder.swarms.set_limits(limits.clone());
    leecher.knows(seeder.address);
    let begun = std::time::Instant::now();
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    // A tenth of a second of burst, and the run that is under way.
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
    // An address that is denied from now on is let go, and not taken back.
    let mut policy = AddressPolicy::default();
    policy.deny = vec!["127.0.0.5".parse().unwrap()];
    let mut changed = limits;
    changed.policy = policy;
    seeder.swarms.set_limits(changed);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while seeder.swarms.connections() > 0 {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stream = tokio::net::TcpSocket::new_v4().unwrap();
    stream.bind("127.0.0.5:0".parse().unwrap()).unwrap();
    let mut stream = stream.connect(seeder.address).await.unwrap();
    let got = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 10]))
        .await
        .unwrap();
    assert!(matches!(got, Ok(0) | Err(_)));
}
