//! Which swarms masters name: those of their repositories, and those of the torrents that they offer.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
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
    known: BTreeMap<SecretUrl, Known>,
}

/// What one master said.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The repository's own swarm. There may be only this or the others.
    own: Option<InfoHash>,
    /// Those of the torrents that are offered, or were replaced a while ago.
    offered: HashSet<InfoHash>,
    /// Of the list of torrents; empty if the master has none or does not say.
    version: String,
    /// When it answered everything last.
    asked: Option<Instant>,
}

impl Masters {
    /// Asks all of them whether they have other torrents, and every `rescan` for everything.
    pub(super) async fn ask(&mut self, urls: &[SecretUrl], rescan: Duration) {
        self.known.retain(|url, _| urls.contains(url));
        let asked = urls.iter().map(|url| {
            let known = self.known.get(url).cloned().unwrap_or_default();
            async move { (url.clone(), known.asked_anew(url, rescan).await) }
        });
        self.known.extend(join_all(asked).await);
    }

    /// Whether all of them have answered.
    pub(super) fn are_known(&self, urls: &[SecretUrl]) -> bool {
        urls.iter()
            .all(|url| self.known.get(url).is_some_and(|known| known.asked.is_some()))
    }

    pub(super) fn swarms(&self) -> HashSet<InfoHash> {
        let all = self.known.values();
        all.flat_map(|known| known.offered.iter().chain(&known.own))
            .copied()
            .collect()
    }
}

impl Known {
    async fn asked_anew(mut self, url: &SecretUrl, rescan: Duration) -> Self {
        let Ok((origin, name)) = parse(url) else { return self };
        let is_fresh = self.asked.is_some_and(|asked| asked.elapsed() < rescan);
        // A master that is too old to say whether its list has changed is not asked for all of it all the time. One that has
        // none yet is: its first torrent is to be known as soon as those that follow.
        if is_fresh && self.version.is_empty() && !self.offered.is_empty() {
            return self;
        }
        let done = if is_fresh {
            self.ask_for_torrents(&origin, &name).await
        } else {
            self.ask_for_all(&origin, &name).await
        };
        if let Err(error) = done {
            tracing::debug!("{url} names no swarm: {error}");
        }
        self
    }

    async fn ask_for_all(&mut self, origin: &HttpOrigin, name: &RepoName) -> Result<(), TransportError> {
        let own = origin.swarm(name).await;
        let torrents = self.ask_for_torrents(origin, name).await;
        if let (Err(_), Err(error)) = (&own, torrents) {
            return Err(error);
        }
        if let Ok(bytes) = own {
            let offer: Option<SwarmOffer> = serde_json::from_slice(&bytes).ok();
            self.own = offer.and_then(|offer| offer.info_hash.parse().ok());
        }
        self.asked = Some(Instant::now());
        Ok(())
    }

    /// Asks for the list of torrents, if it is another one than is known.
    async fn ask_for_torrents(&mut self, origin: &HttpOrigin, name: &RepoName) -> Result<(), TransportError> {
        let answer = match self.version.as_str() {
            "" => origin.torrents(name).await.map(Some),
            version => origin.torrents_unless(name, version).await,
        };
        let bytes = match answer {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(error) => {
                if let TransportError::NotFound { .. } = error {
                    (self.offered, self.version) = (HashSet::new(), String::new());
                }
                return Err(error);
            }
        };
        let Ok(list) = serde_json::from_slice::<TorrentList>(&bytes) else {
            return Ok(());
        };
        let replaced = list.replaced.into_iter().map(|replaced| replaced.row);
        let rows = list.torrents.into_iter().chain(replaced);
        self.offered = rows.filter_map(|row| row.info_hash.parse().ok()).collect();
        self.version = list.version;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    /// A master with a swarm, and the list of torrents that it is told to have.
    #[derive(Debug, Default)]
    struct Master {
        list: Mutex<Option<String>>,
        asked_for_lists: AtomicUsize,
    }

    impl Master {
        async fn start() -> (Arc<Self>, SecretUrl) {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/r", listener.local_addr().unwrap());
            let master = Arc::new(Self::default());
            let answering = Arc::clone(&master);
            tokio::spawn(async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let mut socket = BufReader::new(socket);
                    let (mut request, mut line) = (String::new(), String::new());
                    socket.read_line(&mut request).await.unwrap();
                    while line != "\r\n" {
                        line.clear();
                        socket.read_line(&mut line).await.unwrap();
                    }
                    let (status, body) = answering.answer(&request);
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
            (master, SecretUrl::from(url))
        }

        fn answer(&self, request: &str) -> (&'static str, String) {
            if request.contains("/swarm ") {
                return (
                    "200 OK",
                    json!({ "info_hash": hash(1).to_string(), "ports": [] }).to_string(),
                );
            }
            self.asked_for_lists.fetch_add(1, Ordering::SeqCst);
            match self.list.lock().unwrap().clone() {
                Some(list) => ("200 OK", list),
                None => ("404 Not Found", String::new()),
            }
        }

        fn offer(&self, version: &str, number: u8) {
            let torrent = json!({
                "file": "a.torrent", "url": "/a", "magnet": "magnet:", "info_hash": hash(number).to_string(),
                "path": "", "files": 1, "bytes": 1,
            });
            let list = json!({ "snapshot": "s", "version": version, "torrents": [torrent] });
            *self.list.lock().unwrap() = Some(list.to_string());
        }
    }

    fn hash(number: u8) -> InfoHash {
        format!("{number:02x}").repeat(20).parse().unwrap()
    }

    #[tokio::test]
    async fn the_first_torrent_of_a_master_is_known_as_soon_as_those_that_follow() {
        let (master, url) = Master::start().await;
        let (mut masters, urls, rescan) = (Masters::default(), [url], Duration::from_secs(3600));
        masters.ask(&urls, rescan).await;
        assert!(masters.are_known(&urls));
        assert_eq!(masters.swarms(), HashSet::from([hash(1)]));
        for (version, number) in [("v1", 2), ("v2", 3)] {
            master.offer(version, number);
            masters.ask(&urls, rescan).await;
            assert_eq!(masters.swarms(), HashSet::from([hash(1), hash(number)]), "{version}");
        }
        // A master that does not say which list it is has all of it asked for once in a while.
        master.offer("", 4);
        masters.ask(&urls, rescan).await;
        let before = master.asked_for_lists.load(Ordering::SeqCst);
        masters.ask(&urls, rescan).await;
        assert_eq!(master.asked_for_lists.load(Ordering::SeqCst), before);
        assert_eq!(masters.swarms(), HashSet::from([hash(1), hash(4)]));
    }
}
