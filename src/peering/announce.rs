//! Tells trackers of the swarms that we are in, and the swarms of whom the trackers know.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_swarm::announce::{Announcer, Membership, Pace, Progress, TrackerUrl, run};
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
    pub(super) announcer: Arc<Announcer>,
}

/// Keeps one swarm announced to tiers of trackers until `leave` says so, then says goodbye.
pub(super) async fn keep_announced(
    us: AnnounceAs,
    swarm: Arc<Swarm>,
    tiers: Vec<Vec<String>>,
    mut leave: watch::Receiver<bool>,
) {
    let urls = |tier: &Vec<String>| -> Vec<TrackerUrl> { tier.iter().filter_map(|url| url.parse().ok()).collect() };
    let tiers = tiers.iter().map(urls).filter(|tier| !tier.is_empty());
    let membership = Membership {
        info_hash: swarm.info_hash(),
        peer_id: us.swarms.peer_id(),
        port: us.port,
        key: us.key,
        trackers: tiers.collect(),
        pace: Pace::default(),
    };
    let (progress, told) = watch::channel(standing(&swarm));
    let (heard, mut answers) = mpsc::channel(HEARD_MAX);
    let gone = async { _ = leave.wait_for(|leaves| *leaves).await };
    let announcing = run(&us.announcer, membership, told, heard, gone);
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

/// How far a swarm has come. Trackers do not tell seeds of each other; in a repository's swarm nobody but the master is one,
/// since all will want what comes next.
fn standing(swarm: &Swarm) -> Progress {
    let status = swarm.session_status();
    Progress {
        uploaded: status.counts.sent_bytes,
        downloaded: status.counts.good_bytes,
        left: status.left_bytes,
        wanted: None,
        is_partial_seed: status.is_fixed && status.wanted == 0 && status.left_bytes > 0,
        is_lonely: status.peers.is_empty(),
    }
}
