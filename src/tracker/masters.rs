//! Which swarms masters name: those of their repositories, and those of the torrents that they offer.

use std::collections::{BTreeMap, HashSet};

use instantmirror_core::{RepoName, TransportError};
use instantmirror_swarm::HttpOrigin;
use instantmirror_tracker::InfoHash;

use crate::peering::SwarmOffer;

/// Why a master's URL cannot be used.
pub(crate) fn parse(url: &str) -> Result<(HttpOrigin, RepoName), String> {
    let wrong = || format!("'{url}' is not the URL of a repository: write one like https://master.example.org/debian");
    let (master, name) = url.trim_end_matches('/').rsplit_once('/').ok_or_else(wrong)?;
    let name: RepoName = name.parse().map_err(|_| wrong())?;
    let origin = HttpOrigin::new(master).map_err(|_| wrong())?;
    Ok((origin, name))
}

/// What each master said last. One that does not answer is believed to have what it had.
#[derive(Debug, Default)]
pub(super) struct Masters {
    known: BTreeMap<String, HashSet<InfoHash>>,
}

impl Masters {
    /// Asks all of them.
    pub(super) async fn ask(&mut self, urls: &[String]) {
        self.known.retain(|url, _| urls.contains(url));
        for url in urls {
            let Ok((origin, name)) = parse(url) else { continue };
            match swarms(&origin, &name).await {
                Ok(found) => _ = self.known.insert(url.clone(), found),
                Err(error) => tracing::debug!("{url} names no swarm: {error}"),
            }
        }
    }

    pub(super) fn swarms(&self) -> HashSet<InfoHash> {
        self.known.values().flatten().copied().collect()
    }
}

async fn swarms(origin: &HttpOrigin, name: &RepoName) -> Result<HashSet<InfoHash>, TransportError> {
    let offer = origin.swarm(name).await?;
    let offer: Option<SwarmOffer> = serde_json::from_slice(&offer).ok();
    Ok(offer
        .and_then(|offer| offer.info_hash.parse().ok())
        .into_iter()
        .collect())
}
