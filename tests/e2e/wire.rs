//! Our peer wire, spoken with clients that people use.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use instantmirror::core::address::AddressPolicy;
use instantmirror::core::metainfo::InfoHash;
use instantmirror::swarm::announce::{AnnounceRequest, Announcer, Event, Timeouts};
use instantmirror::swarm::wire::extension::{ExtensionHandshake, ExtensionIds, MetadataMessage};
use instantmirror::swarm::wire::{
    BLOCK_BYTES, Block, Decoder, HANDSHAKE_BYTES, Handshake, Limits, Message, PEER_ID_PREFIX, PeerId, Reserved,
};
use instantmirror_testkit::command::clean_command;
use instantmirror_testkit::process::{Daemon, TestDir, free_port, poll};
use tokio::runtime::Runtime;

use crate::tracker_world::{Torrent, Tracker, aria2, libtorrent};
use crate::world::LIMIT;

const OUR_METADATA: u8 = 5;

/// A connection to a client, as a leecher that has nothing.
struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Peer {
    /// Connects; `None` if nobody listens there (yet).
    fn connect(address: SocketAddr, hash: InfoHash) -> Option<(Self, Handshake)> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let ours = Handshake {
            info_hash: hash,
            peer_id: PeerId::random(PEER_ID_PREFIX, [7; 12]),
            reserved: Reserved::OURS,
        };
        stream.write_all(&ours.encode()).unwrap();
        let mut theirs = [0; HANDSHAKE_BYTES];
        stream.read_exact(&mut theirs).ok()?;
        let theirs = Handshake::decode(&theirs).unwrap();
        let peer = Self {
            stream,
            decoder: Decoder::new(Limits::default()),
            buffer: BytesMut::new(),
        };
        Some((peer, theirs))
    }

    fn send(&mut self, message: &Message) {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn next(&mut self) -> Message {
        loop {
            if let Some(message) = self.decoder.next(&mut self.buffer).unwrap() {
                return message;
            }
            let mut part = [0; 10_000];
            let len = self.stream.read(&mut part).expect("the client goes on");
            assert!(len > 0, "the client hung up");
            self.buffer.extend_from_slice(&part[..len]);
        }
    }
}

/// What a client gave us.
#[derive(Default)]
struct Got {
    has_everything: bool,
    handshake: Option<ExtensionHandshake>,
    metadata: Option<Bytes>,
    block: Option<Bytes>,
}

/// Asks the seed there for its metadata and for the second block, as anybody would who comes by a magnet link.
fn leech(name: &str, address: SocketAddr, torrent: &Torrent) -> Got {
    let hash = InfoHash::from_bytes(torrent.hash.0);
    let connected = poll(LIMIT, || Peer::connect(address, hash));
    let (mut peer, theirs) = connected.unwrap_or_else(|| panic!("{name} does not listen at {address}"));
    assert_eq!(theirs.info_hash, hash);
    assert!(theirs.reserved.fast && theirs.reserved.extended, "{name}: {theirs:?}");
    let ours = ExtensionHandshake {
        ids: ExtensionIds {
            metadata: Some(OUR_METADATA),
            ..ExtensionIds::default()
        },
        client: Some("InstantMirror".to_owned()),
        request_queue: Some(250),
        ..ExtensionHandshake::default()
    };
    peer.send(&Message::HaveNone);
    peer.send(&Message::Extended {
        id: 0,
        payload: ours.encode(),
    });
    peer.send(&Message::Interested);
    let second = Block {
        piece: 0,
        begin: BLOCK_BYTES,
        length: BLOCK_BYTES,
    };
    let mut got = Got::default();
    let begun = Instant::now();
    while !(got.has_everything && got.metadata.is_some() && got.block.is_some()) {
        assert!(begun.elapsed() < LIMIT, "{name} does not give all that was asked for");
        match peer.next() {
            Message::HaveAll => got.has_everything = true,
            Message::Bitfield(bits) => got.has_everything = bits[..2] == [0xff; 2],
            Message::Unchoke => peer.send(&Message::Request(second)),
            Message::Piece { piece, begin, data } => {
                assert_eq!((piece, begin), (0, BLOCK_BYTES), "{name}");
                got.block = Some(data);
            }
            Message::Extended { id: 0, payload } => {
                let handshake = ExtensionHandshake::decode(&payload).unwrap();
                let id = handshake.ids.metadata.expect("all clients give metadata");
                let payload = MetadataMessage::Request { piece: 0 }.encode();
                peer.send(&Message::Extended { id, payload });
                got.handshake = Some(handshake);
            }
            Message::Extended {
                id: OUR_METADATA,
                payload,
            } => match MetadataMessage::decode(&payload).unwrap() {
                Some(MetadataMessage::Data { data, .. }) => got.metadata = Some(data),
                other => panic!("{name} answers {other:?}"),
            },
            Message::Unknown { id } => panic!("{name} sends a message {id}"),
            _ => {}
        }
    }
    got
}

/// Checks what a seed gives.
fn is_understood(name: &str, address: SocketAddr, torrent: &Torrent) {
    let got = leech(name, address, torrent);
    let (second, block) = (BLOCK_BYTES as usize, BLOCK_BYTES as usize);
    assert_eq!(got.block.unwrap(), torrent.content[second..second + block], "{name}");
    let metadata = got.metadata.unwrap();
    assert_eq!(InfoHash::of(&metadata).as_bytes(), &torrent.hash.0, "{name}");
    let handshake = got.handshake.unwrap();
    assert_eq!(handshake.metadata_size.unwrap() as usize, metadata.len(), "{name}");
    assert!(handshake.client.unwrap().to_lowercase().contains(name));
}

/// Where a tracker says that the one seed of a torrent is.
fn seed_of(torrent: &Torrent, tracker: &Tracker) -> SocketAddr {
    let announcer = Announcer::new(&AddressPolicy::default(), Timeouts::default()).unwrap();
    let request = AnnounceRequest {
        info_hash: InfoHash::from_bytes(torrent.hash.0),
        peer_id: PeerId([b'x'; 20]),
        port: 1,
        uploaded: 0,
        downloaded: 0,
        left: 1,
        event: Event::Regular,
        wanted: None,
        key: 1,
        tracker_id: None,
    };
    let url = format!("udp://{}/announce", tracker.udp).parse().unwrap();
    let runtime = Runtime::new().unwrap();
    let found = poll(LIMIT, || {
        let reply = runtime.block_on(announcer.announce(&url, &request)).unwrap();
        reply.peers.first().copied()
    });
    found.expect("a seed that announces itself")
}

/// A folder with the content, and a torrent of a name of its own.
fn seeded(dir: &TestDir, tracker: &Tracker, name: &str) -> (Torrent, std::path::PathBuf, std::path::PathBuf) {
    let torrent = Torrent::new(name, 700_000, &format!("udp://{}/announce", tracker.udp));
    let folder = dir.folder(name).unwrap();
    std::fs::write(folder.join(name), &torrent.content).unwrap();
    let file = torrent.write(&tracker.torrents);
    tracker.wait_for_counts(torrent.hash, (0, 0, 0));
    (torrent, folder, file)
}

#[test]
fn a_seed_of_libtorrent_is_found_and_understood() {
    let dir = TestDir::new("wire-libtorrent").unwrap();
    let tracker = Tracker::start(&dir, "");
    let (torrent, folder, file) = seeded(&dir, &tracker, "from-libtorrent");
    let mut seed = libtorrent(&file, &folder, &dir.path().join("libtorrent.log"));
    seed.wait_for_line("seeding", LIMIT).unwrap();
    is_understood("libtorrent", seed_of(&torrent, &tracker), &torrent);
}

#[test]
fn a_seed_of_aria2_is_found_and_understood() {
    let dir = TestDir::new("wire-aria2").unwrap();
    let tracker = Tracker::start(&dir, "");
    let (torrent, folder, file) = seeded(&dir, &tracker, "from-aria2");
    let _seed = aria2(&file, &folder, &[], &dir.path().join("aria2.log"));
    is_understood("aria2", seed_of(&torrent, &tracker), &torrent);
}

#[test]
fn a_seed_of_transmission_is_understood() {
    let dir = TestDir::new("wire-transmission").unwrap();
    let tracker = Tracker::start(&dir, "");
    let (torrent, folder, file) = seeded(&dir, &tracker, "from-transmission");
    let port = free_port().unwrap();
    let _seed = transmission(&dir, port, &folder, &file);
    tracker.wait_for_counts(torrent.hash, (1, 0, 0));
    is_understood("transmission", SocketAddr::from(([127, 0, 0, 1], port)), &torrent);
}

fn transmission(dir: &TestDir, port: u16, folder: &Path, file: &Path) -> Daemon {
    let mut command = clean_command("transmission-cli");
    command.arg("--config-dir").arg(dir.folder("transmission").unwrap());
    command.args(["--no-portmap", "--port", &port.to_string(), "--download-dir"]);
    command.arg(folder).arg(file);
    Daemon::start("transmission-cli", &mut command, &dir.path().join("transmission.log")).unwrap()
}
