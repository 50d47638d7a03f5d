//! A swarm kept announced at trackers by UDP, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use instantmirror_core::address::AddressPolicy;
use instantmirror_core::metainfo::InfoHash;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::{Pace, Timeouts};
use super::*;
use crate::wire::PeerId;

const PATIENCE: Duration = Duration::from_secs(10);

/// A tracker that tells which events it hears, and answers as many announces.
struct Tracker {
    url: String,
    events: mpsc::UnboundedReceiver<u32>,
    task: JoinHandle<()>,
}

impl Tracker {
    async fn at(place: SocketAddr, answers: usize) -> Self {
        let socket = UdpSocket::bind(place).await.unwrap();
        let url = format!("udp://{}", socket.local_addr().unwrap());
        let (tell, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let (mut buffer, mut answered) = ([0; 2048], 0);
            loop {
                let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
                let (action, transaction) = (&buffer[8..12], &buffer[12..16]);
                let rest: &[u8] = match action {
                    [0, 0, 0, 0] => b"connecti",
                    _ => {
                        let event = buffer[80..84].try_into().map(u32::from_be_bytes).unwrap();
                        let _ = tell.send(event);
                        answered += 1;
                        // An interval of one second, one peer.
                        b"\0\0\0\x01\0\0\0\0\0\0\0\0\x01\x02\x03\x04\0\x05"
                    }
                };
                if answered <= answers {
                    let _ = socket.send_to(&[action, transaction, rest].concat(), from).await;
                }
            }
        });
        Self { url, events, task }
    }

    async fn new() -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), usize::MAX).await
    }

    async fn hears(&mut self) -> u32 {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event.expect("an announce").expect("a tracker")
    }

    /// Hears this event at last, and until then only that it is still there.
    async fn hears_at_last(&mut self, event: u32) {
        loop {
            match self.hears().await {
                0 => {}
                other => return assert_eq!(other, event),
            }
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const REGULAR: u32 = 0;
const COMPLETED: u32 = 1;
const STARTED: u32 = 2;
const STOPPED: u32 = 3;

struct Running {
    progress: watch::Sender<Progress>,
    heard: mpsc::Receiver<Heard>,
    leave: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// A swarm at these trackers, each a tier, of which 10 bytes are lacking.
fn run_at(urls: &[&str]) -> Running {
    let membership = Membership {
        info_hash: InfoHash::from_bytes([1; 20]),
        peer_id: PeerId([2; 20]),
        port: 6881,
        key: 3,
        trackers: urls.iter().map(|url| vec![url.parse().unwrap()]).collect(),
        pace: Pace {
            lonely_min: Duration::from_secs(1),
            interval_min: Duration::from_millis(50),
            interval_max: Duration::from_millis(50),
            lonely: Duration::from_millis(50),
            pause: Duration::from_millis(50),
            pause_max: Duration::from_millis(200),
            leave: Duration::from_millis(500),
        },
    };
    let (progress, followed) = watch::channel(Progress {
        left: 10,
        ..Progress::default()
    });
    let (tell, heard) = mpsc::channel(1000);
    let (leave, left) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let announcer = Announcer::new(&AddressPolicy::default(), Timeouts::default()).unwrap();
        let leave = async move {
            let _ = left.await;
        };
        run(&announcer, membership, followed, tell, leave).await;
    });
    Running {
        progress,
        heard,
        leave,
        task,
    }
}

async fn ends(task: JoinHandle<()>) {
    timeout(PATIENCE, task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_swarm_is_announced_until_it_is_left() {
    let mut tracker = Tracker::new().await;
    let mut running = run_at(&[&tracker.url]);
    assert_eq!(tracker.hears().await, STARTED);
    assert_eq!(tracker.hears().await, REGULAR);
    let heard = running.heard.recv().await.unwrap();
    assert_eq!(heard.tracker.to_string(), tracker.url);
    assert_eq!(heard.result.unwrap().peers, ["1.2.3.4:5".parse().unwrap()]);
    running.progress.send_modify(|progress| progress.left = 0);
    tracker.hears_at_last(COMPLETED).await;
    assert_eq!(tracker.hears().await, REGULAR);
    drop(running.progress);
    assert_eq!(
        tracker.hears().await,
        REGULAR,
        "though nobody tells how it goes any more"
    );
    drop(running.leave);
    tracker.hears_at_last(STOPPED).await;
    ends(running.task).await;
}

#[tokio::test]
async fn lost_trackers_are_survived_and_come_back() {
    let gone = Tracker::new().await;
    let (url, address) = (gone.url.clone(), gone.url.replace("udp://", "").parse().unwrap());
    gone.task.abort();
    drop(gone);
    let mut second = Tracker::new().await;
    let mut running = run_at(&[&url, &second.url]);
    let first = running.heard.recv().await.unwrap();
    assert_eq!(first.tracker.to_string(), url);
    assert!(
        matches!(first.result, Err(AnnounceError::Unreachable(_))),
        "{:?}",
        first.result
    );
    assert_eq!(second.hears().await, STARTED);
    let mut first = Tracker::at(address, usize::MAX).await;
    assert_eq!(first.hears().await, STARTED);
    drop(running.leave);
    // Both knew of us.
    first.hears_at_last(STOPPED).await;
    second.hears_at_last(STOPPED).await;
    ends(running.task).await;
}

#[tokio::test]
async fn leaving_does_not_wait_for_a_tracker_that_is_silent() {
    let mut tracker = Tracker::at(([127, 0, 0, 1], 0).into(), 1).await;
    let running = run_at(&[&tracker.url]);
    assert_eq!(tracker.hears().await, STARTED);
    assert_eq!(tracker.hears().await, REGULAR);
    let begun = Instant::now();
    running.leave.send(()).unwrap();
    ends(running.task).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_is_not_listened_to_leaves() {
    let mut tracker = Tracker::new().await;
    let running = run_at(&[&tracker.url]);
    assert_eq!(tracker.hears().await, STARTED);
    drop(running.heard);
    tracker.hears_at_last(STOPPED).await;
    ends(running.task).await;
}

#[tokio::test]
async fn without_trackers_nothing_happens_until_it_is_left() {
    let running = run_at(&[]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!running.task.is_finished());
    drop(running.leave);
    ends(running.task).await;
}
