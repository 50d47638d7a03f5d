//! Peers that take what they can: it costs them more than us, and nobody else anything.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use instantmirror_core::metainfo::InfoHash;
use instantmirror_swarm::peer::PeerLimits;
use instantmirror_swarm::session::SessionConfig;
use instantmirror_swarm::wire::extension::{ExtensionHandshake, ExtensionIds, HANDSHAKE_ID, MetadataMessage};
use instantmirror_swarm::wire::{Block, HANDSHAKE_BYTES, Handshake, Message, PeerId, Reserved};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::LIMIT;
use crate::world::{MIB, Peer, World, noise};

/// Connects and shakes hands as somebody who is called so.
async fn connect(peer: &Peer, swarm: InfoHash, name: u32) -> TcpStream {
    may_connect(peer, swarm, name).await.unwrap()
}

/// The same, if it is let in.
async fn may_connect(peer: &Peer, swarm: InfoHash, name: u32) -> std::io::Result<TcpStream> {
    let mut peer_id = [7; 20];
    peer_id[..4].copy_from_slice(&name.to_be_bytes());
    let mut stream = TcpStream::connect(peer.address).await?;
    let handshake = Handshake {
        info_hash: swarm,
        peer_id: PeerId(peer_id),
        reserved: Reserved::OURS,
    };
    stream.write_all(&handshake.encode()).await?;
    stream.read_exact(&mut [0; HANDSHAKE_BYTES]).await?;
    Ok(stream)
}

fn encoded(message: Message) -> Bytes {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes);
    bytes.freeze()
}

/// Sends the same again and again and reads nothing. How many bytes were taken until none were for some time.
async fn taken_of_a_flood(stream: &mut TcpStream, message: &Bytes) -> usize {
    let mut many = BytesMut::new();
    while many.len() < 64 << 10 {
        many.put_slice(message);
    }
    let mut taken = 0;
    let rest = |taken: usize| &many[taken % many.len()..];
    while let Ok(Ok(written)) = tokio::time::timeout(Duration::from_secs(2), stream.write(rest(taken))).await {
        taken += written;
        assert!(
            taken < 64 * MIB,
            "whatever is asked is taken and answered, though nobody reads the answers"
        );
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_without_reading_is_not_listened_to() {
    let world = World::new(vec![noise(1, MIB)]);
    let seeder = world.seeder("127.0.0.1").await;
    let request = encoded(Message::Request(Block {
        piece: 3,
        begin: 0,
        length: 16384,
    }));
    // It has no place: each request is rejected.
    let mut flooder = connect(&seeder, world.info_hash(), 1).await;
    taken_of_a_flood(&mut flooder, &request).await;
    // Others are served, and whoever reads again gets its answers.
    let leecher = world.leecher("127.0.0.3").await;
    leecher.knows(seeder.address);
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    let mut answers = vec![0; 4 * MIB];
    let reading = flooder.read_exact(&mut answers[..100_000]);
    tokio::time::timeout(LIMIT, reading).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_an_info_dictionary_wait_for_their_reader_and_for_the_rate() {
    let world = World::new(vec![noise(1, MIB)]).of_an_export_torrent();
    let seeder = world.seeder("127.0.0.1").await;
    let swarm = InfoHash::from_bytes([43; 20]);
    let config = SessionConfig {
        info_hash: swarm,
        peer_id: PeerId([0; 20]),
        piece_bytes: 1 << 20,
        fixed: Some((1, 1 << 20)),
        serves_all: true,
        is_private: false,
        metadata: Some(noise(2, 16 << 10)),
        first_copies: false,
        listen_port: None,
        secret: None,
        units_max: 1,
    };
    let source = seeder.source();
    seeder.swarms.join(config, source, 1);
    let mut limits = PeerLimits::default();
    limits.upload = Some(1 << 20);
    seeder.swarms.set_limits(limits);
    let mut flooder = connect(&seeder, swarm, 1).await;
    let ids = ExtensionIds {
        metadata: Some(5),
        ..ExtensionIds::default()
    };
    let extended = |id, payload| encoded(Message::Extended { id, payload });
    let hello = ExtensionHandshake {
        ids,
        ..ExtensionHandshake::default()
    };
    flooder
        .write_all(&extended(HANDSHAKE_ID, hello.encode()))
        .await
        .unwrap();
    let request = extended(1, MetadataMessage::Request { piece: 0 }.encode());
    // Some 20 parts a second, each asked for with 37 bytes.
    let begun = std::time::Instant::now();
    flooder.write_all(&request.repeat(64)).await.unwrap();
    let mut parts = vec![0; 64 << 14];
    flooder.read_exact(&mut parts).await.unwrap();
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
    taken_of_a_flood(&mut flooder, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_say_nothing_keep_nobody_out() {
    let world = World::new(vec![noise(1, MIB)]);
    let seeder = world.seeder("127.0.0.1").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(seeder.address).await.unwrap());
    }
    let leecher = world.leecher("127.0.0.3").await;
    leecher.knows(seeder.address);
    // Sooner than they are closed.
    let fetched = tokio::time::timeout(Duration::from_secs(5), leecher.fetch_all());
    fetched.await.expect("there is a way in");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_connections_than_there_may_be() {
    let world = World::new(vec![noise(1, MIB)]);
    let seeder = world.seeder("127.0.0.1").await;
    let mut limits = PeerLimits::default();
    limits.connections_max = 5;
    seeder.swarms.set_limits(limits);
    let all = (0..40).map(|name| may_connect(&seeder, world.info_hash(), name));
    let all = futures_util::future::join_all(all).await;
    let mut most = 0;
    for _ in 0..100 {
        most = most.max(seeder.swarms.connections());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(most, 5);
    drop(all);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_does_not_take_all_connections() {
    let world = World::new(vec![noise(1, MIB)]);
    let seeder = world.seeder("127.0.0.1").await;
    let mut limits = PeerLimits::default();
    limits.connections_max = 8;
    seeder.swarms.set_limits(limits);
    let mut many = Vec::new();
    for name in 0..8 {
        let mut stream = connect(&seeder, world.info_hash(), name).await;
        // As if it were of use.
        stream.write_all(&encoded(Message::Interested)).await.unwrap();
        many.push(stream);
    }
    let leecher = world.leecher("127.0.0.3").await;
    leecher.knows(seeder.address);
    tokio::time::timeout(LIMIT, leecher.fetch_all()).await.unwrap();
    // The first ones stay.
    let first = tokio::time::timeout(Duration::from_millis(100), async {
        let mut bytes = Vec::new();
        many[0].read_to_end(&mut bytes).await
    });
    assert!(first.await.is_err(), "it is open");
}
