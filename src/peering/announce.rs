//! Tells trackers of the swarms that we are in, and the swarms of whom the trackers know.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_swarm::announce::{Announcer, Membership, Pace, Progress, TrackerUrl, run};
use instantmirror_swarm::peer::{Origin, Swarm, Swarms};
use tokio::sync::{mpsc, watch};

/// How far a swarm has come is looked at this often.
const LOOK: Duration = Duration::from_secs(2);
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

/// Keeps one swarm announced to tiers of trackers, `after` a while, until `leave` says so; then says goodbye.
pub(super) async fn keep_announced(
    us: AnnounceAs,
    swarm: Arc<Swarm>,
    tiers: Vec<Vec<String>>,
    after: Duration,
    mut leave: watch::Receiver<bool>,
) {
    tokio::select! {
        _ = leave.wait_for(|leaves| *leaves) => return,
        () = tokio::time::sleep(after) => {}
    }
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

/// How far a swarm has come. In a repository's swarm nobody but the master has everything, since all will want what comes next.
///
/// A node that fetches on demand lacks most of an export torrent. It is a partial seed (BEP 21) while it holds some of it and
/// wants nothing, and wants more from when somebody asks for a file until nobody has for a while.
fn standing(swarm: &Swarm) -> Progress {
    let standing = swarm.standing();
    let is_short = if swarm.is_fixed() {
        standing.seeks && standing.wanted == 0
    } else {
        standing.left_bytes > 0 && standing.peers == 0
    };
    Progress {
        uploaded: standing.counts.sent_bytes,
        downloaded: standing.counts.good_bytes,
        left: standing.left_bytes,
        wanted: None,
        is_partial_seed: swarm.is_fixed() && !standing.seeks && standing.has_some && standing.left_bytes > 0,
        is_lonely: is_short,
    }
}
