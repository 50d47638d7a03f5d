//! How a node learns of a repository's swarm: its master tells.

use std::net::SocketAddr;
use std::time::Duration;

use instantmirror_core::RepoName;
use instantmirror_swarm::HttpOrigin;

use super::SwarmOffer;

/// A master that does not answer, or has no swarm, is asked again after this, and twice as long after each try ...
const PAUSE: Duration = Duration::from_millis(500);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a master said, and where it is reached as a peer.
#[derive(Debug)]
pub(crate) struct Discovered {
    pub(crate) offer: SwarmOffer,
    pub(crate) peers: Vec<SocketAddr>,
}

/// Asks one master after the other until one tells of a swarm, for ever.
pub(crate) async fn discover(repository: &RepoName, masters: &[HttpOrigin]) -> Discovered {
    let mut pause = PAUSE;
    loop {
        for master in masters {
            match master.swarm(repository).await {
                Ok(bytes) => match serde_json::from_slice::<SwarmOffer>(&bytes) {
                    Ok(offer) => {
                        let peers = resolve(master.host(), &offer.ports).await;
                        return Discovered { offer, peers };
                    }
                    Err(error) => {
                        tracing::warn!(%repository, master = master.label(), "what it says of its swarm is of no use: {error}");
                    }
                },
                Err(error) => tracing::debug!(%repository, "no swarm: {error}"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn resolve(host: &str, ports: &[u16]) -> Vec<SocketAddr> {
    let mut peers = Vec::new();
    for port in ports {
        match tokio::net::lookup_host((host.trim_matches(['[', ']']), *port)).await {
            Ok(found) => peers.extend(found),
            Err(error) => tracing::warn!(host, "the master cannot be reached as a peer: {error}"),
        }
    }
    peers
}
