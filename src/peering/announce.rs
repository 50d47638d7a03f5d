//! Tells trackers of the swarms that we are in, and the swarms of whom the trackers know.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::address::AddressPolicy;
use instantmirror_swarm::announce::{Announcer, Membership, Pace, Progress, Timeouts, TrackerUrl, run};
use instantmirror_swarm::peer::{Origin, Swarm, Swarms};
use tokio::sync::{mpsc, watch};

/// How far a swarm has come is looked at this often.
const LOOK: Duration = Duration::from_secs(5);
/// Answers of trackers that wait to be taken in.
const HEARD_MAX: usize = 16;

/// Who announces, and as whom.
#[derive(Debug, Clone)]
pub(super) struct AnnounceAs {
    pub(super) swarms: Swarms,
    pub(super) port: u16,
    pub(super) key: u32,
    pub(super) policy: AddressPolicy,
}

/// Keeps one swarm announced to one tier of trackers until `leave` says so, then says goodbye.
pub(super) async fn keep_announced(
    us: AnnounceAs,
    swarm: Arc<Swarm>,
    trackers: Vec<String>,
    mut leave: watch::Receiver<bool>,
) {
    let tier: Vec<TrackerUrl> = trackers.iter().filter_map(|url| url.parse().ok()).collect();
    let announcer = match Announcer::new(&us.policy, Timeouts::default()) {
        Ok(announcer) => announcer,
        Err(error) => return tracing::error!("trackers are not told of us: {error}"),
    };
    let membership = Membership {
        info_hash: swarm.info_hash(),
        peer_id: us.swarms.peer_id(),
        port: us.port,
        key: us.key,
        trackers: vec![tier],
        pace: Pace::default(),
    };
    let (progress, told) = watch::channel(standing(&swarm));
    let (heard, mut answers) = mpsc::channel(HEARD_MAX);
    let gone = async { _ = leave.wait_for(|leaves| *leaves).await };
    let announcing = run(&announcer, membership, told, heard, gone);
    let taking_in = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                answer = answers.recv() => {
                    let Some(answer) = answer else { return };
                    let peers = answer.result.map(|reply| reply.peers).unwrap_or_default();
                    peers.into_iter().for_each(|peer| us.swarms.add_peer(&swarm, peer, Origin::Tracker));
                }
                _ = look.tick() => {
                    let now = standing(&swarm);
                    progress.send_if_modified(|held| std::mem::replace(held, now.clone()) != now);
                }
            }
        }
    };
    tokio::select! {
        () = announcing => {}
        () = taking_in => {}
    }
}

/// How far a swarm has come. Of a repository nobody wants everything, so who wants nothing now counts as a partial seed.
fn standing(swarm: &Swarm) -> Progress {
    let status = swarm.session_status();
    Progress {
        uploaded: status.counts.sent_bytes,
        downloaded: status.counts.good_bytes,
        left: status.left_bytes,
        wanted: None,
        is_partial_seed: status.wanted == 0 && status.left_bytes > 0,
        is_lonely: status.peers.is_empty(),
    }
}
