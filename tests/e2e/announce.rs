//! Our side of an announce, at trackers that run: ours and opentracker.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use instantmirror::core::address::AddressPolicy;
use instantmirror::core::metainfo::InfoHash;
use instantmirror::swarm::announce::{
    AnnounceError, AnnounceReply, AnnounceRequest, Announcer, Event, Heard, Membership, Pace, Progress, Timeouts,
    TrackerUrl, run,
};
use instantmirror::swarm::wire::{PEER_ID_PREFIX, PeerId};
use instantmirror_testkit::command::clean_command;
use instantmirror_testkit::process::{Daemon, TestDir, free_port};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::tracker_world::{Torrent, Tracker};
use crate::world::LIMIT;

/// Peers by number: each has a port of its own, odd ones are seeds.
fn request(hash: InfoHash, peer: u8, event: Event) -> AnnounceRequest {
    AnnounceRequest {
        info_hash: hash,
        peer_id: PeerId::random(PEER_ID_PREFIX, [peer; 12]),
        port: 7000 + u16::from(peer),
        uploaded: 0,
        downloaded: 0,
        left: u64::from(1 - peer % 2),
        event,
        wanted: Some(30),
        key: u32::from(peer),
        tracker_id: None,
    }
}

fn announcer() -> Announcer {
    Announcer::new(&AddressPolicy::default(), Timeouts::default()).unwrap()
}

fn address(peer: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + peer))
}

/// A seed comes, somebody finds it, it goes and is found no more.
fn come_and_go(runtime: &Runtime, hash: InfoHash, url: &str) {
    let url: TrackerUrl = url.parse().unwrap();
    let announcer = announcer();
    let tell = |peer, event| -> AnnounceReply {
        let request = request(hash, peer, event);
        let reply = runtime.block_on(announcer.announce(&url, &request));
        reply.unwrap_or_else(|error| panic!("{url}: {error}"))
    };
    let others = |reply: &AnnounceReply| -> Vec<SocketAddr> {
        // Some trackers tell peers of themselves.
        reply.peers.iter().copied().filter(|peer| *peer != address(2)).collect()
    };
    let reply = tell(1, Event::Started);
    assert!(reply.interval >= Duration::from_secs(60), "{url}: {reply:?}");
    assert_eq!(reply.complete, Some(1), "{url}");
    let reply = tell(2, Event::Started);
    assert_eq!(others(&reply), [address(1)], "{url}");
    assert_eq!((reply.complete, reply.incomplete), (Some(1), Some(1)), "{url}");
    tell(1, Event::Stopped);
    let reply = tell(2, Event::Regular);
    assert_eq!((others(&reply), reply.complete), (vec![], Some(0)), "{url}");
    tell(2, Event::Stopped);
}

#[test]
fn imtracker_and_opentracker_understand_our_announces() {
    let dir = TestDir::new("announce").unwrap();
    let runtime = Runtime::new().unwrap();
    let tracker = Tracker::start(&dir, "");
    let torrents = ["by-http", "by-udp"].map(|name| Torrent::new(name, 1000, "http://127.0.0.1/"));
    for torrent in &torrents {
        torrent.write(&tracker.torrents);
        tracker.wait_for_counts(torrent.hash, (0, 0, 0));
    }
    let hashes = torrents.map(|torrent| InfoHash::from_bytes(torrent.hash.0));
    come_and_go(&runtime, hashes[0], &format!("http://{}/announce", tracker.http));
    come_and_go(&runtime, hashes[1], &format!("udp://{}/announce", tracker.udp));

    let port = free_port().unwrap();
    let number = port.to_string();
    // It serves what is on a list, which it reads as nobody and from within its folder.
    let folder = dir.folder("opentracker").unwrap();
    let listed: String = hashes.iter().map(|hash| format!("{hash}\n")).collect();
    std::fs::write(folder.join("list"), listed).unwrap();
    for path in [dir.path(), &folder] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = clean_command("opentracker");
    command.args(["-i", "127.0.0.1", "-p", &number, "-P", &number, "-w", "list", "-d"]);
    command.arg(&folder);
    let mut opentracker = Daemon::start("opentracker", &mut command, &dir.path().join("opentracker.log")).unwrap();
    opentracker.wait_for_port(port, LIMIT).unwrap();
    come_and_go(&runtime, hashes[0], &format!("http://127.0.0.1:{port}/announce"));
    come_and_go(&runtime, hashes[1], &format!("udp://127.0.0.1:{port}/announce"));
}

#[test]
fn a_refusal_of_imtracker_is_heard_in_its_words() {
    let dir = TestDir::new("announce-refused").unwrap();
    let runtime = Runtime::new().unwrap();
    let tracker = Tracker::start(&dir, "");
    let request = request(InfoHash::from_bytes([7; 20]), 1, Event::Started);
    for url in [
        format!("http://{}/announce", tracker.http),
        format!("udp://{}", tracker.udp),
    ] {
        let refused = runtime.block_on(announcer().announce(&url.parse().unwrap(), &request));
        let Err(AnnounceError::Refused { reason, .. }) = &refused else {
            panic!("{url}: {refused:?}")
        };
        assert_eq!(reason, "this tracker does not serve this torrent");
    }
}

#[test]
fn a_swarm_stays_announced_when_its_tracker_is_killed_and_comes_back() {
    let dir = TestDir::new("announce-kept").unwrap();
    let runtime = Runtime::new().unwrap();
    let mut tracker = Tracker::start(&dir, "");
    let torrent = Torrent::new("kept", 1000, "http://127.0.0.1/");
    torrent.write(&tracker.torrents);
    tracker.wait_for_counts(torrent.hash, (0, 0, 0));
    let membership = Membership {
        info_hash: InfoHash::from_bytes(torrent.hash.0),
        peer_id: PeerId::random(PEER_ID_PREFIX, [9; 12]),
        port: 7009,
        key: 9,
        trackers: vec![vec![format!("udp://{}/announce", tracker.udp).parse().unwrap()]],
        pace: Pace {
            interval_min: Duration::from_millis(200),
            interval_max: Duration::from_millis(200),
            pause: Duration::from_millis(100),
            pause_max: Duration::from_millis(400),
            ..Pace::default()
        },
    };
    let (progress, followed) = watch::channel(Progress {
        left: 5,
        ..Progress::default()
    });
    let (tell, mut heard) = mpsc::channel::<Heard>(1000);
    let (leave, left) = oneshot::channel::<()>();
    let kept = runtime.spawn(async move {
        let leave = async move {
            let _ = left.await;
        };
        run(&announcer(), membership, followed, tell, leave).await;
    });
    tracker.wait_for_counts(torrent.hash, (0, 1, 0));
    tracker.daemon().kill9().unwrap();
    let lost = runtime.block_on(async {
        loop {
            match tokio::time::timeout(LIMIT, heard.recv()).await.unwrap().unwrap().result {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(lost, AnnounceError::Unreachable(_)), "{lost}");
    tracker.run();
    tracker.wait_for_counts(torrent.hash, (0, 1, 0));
    progress.send_modify(|progress| progress.left = 0);
    tracker.wait_for_counts(torrent.hash, (1, 0, 1));
    leave.send(()).unwrap();
    runtime.block_on(kept).unwrap();
    assert_eq!(
        tracker
            .scrape(torrent.hash)
            .map(|(complete, others, _)| (complete, others)),
        Some((0, 0))
    );
}
