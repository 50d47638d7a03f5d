//! Which swarms masters name: those of their repositories, and those of the torrents that they offer.

use std::collections::{BTreeMap, HashSet};

use instantmirror_core::url::SecretUrl;
use instantmirror_core::{RepoName, TransportError};
use instantmirror_swarm::HttpOrigin;
use instantmirror_tracker::InfoHash;

use crate::peering::SwarmOffer;
use crate::torrent::TorrentList;

/// Why a master's URL cannot be used.
pub(crate) fn parse(url: &SecretUrl) -> Result<(HttpOrigin, RepoName), String> {
    let wrong = || format!("'{url}' is not the URL of a repository: write one like https://master.example.org/debian");
    let (master, name) = url.exposed().trim_end_matches('/').rsplit_once('/').ok_or_else(wrong)?;
    let name: RepoName = name.parse().map_err(|_| wrong())?;
    let origin = HttpOrigin::new(master).map_err(|_| wrong())?;
    Ok((origin, name))
}

/// What each master said last. One that does not answer is believed to have what it had.
#[derive(Debug, Default)]
pub(super) struct Masters {
    known: BTreeMap<SecretUrl, HashSet<InfoHash>>,
}

impl Masters {
    /// Asks all of them.
    pub(super) async fn ask(&mut self, urls: &[SecretUrl]) {
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

/// The repository's own swarm, and those of the torrents that are offered. There may be only one of both.
async fn swarms(origin: &HttpOrigin, name: &RepoName) -> Result<HashSet<InfoHash>, TransportError> {
    let (offer, torrents) = futures_util::future::join(origin.swarm(name), origin.torrents(name)).await;
    if let (Err(error), Err(_)) = (&offer, &torrents) {
        return Err(error.clone());
    }
    let own: Option<SwarmOffer> = offer.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let list: Option<TorrentList> = torrents.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let offered = list
        .into_iter()
        .flat_map(|list| list.torrents)
        .map(|torrent| torrent.info_hash);
    let all = own.into_iter().map(|own| own.info_hash).chain(offered);
    Ok(all.filter_map(|hash| hash.parse().ok()).collect())
}
