//! Which swarms masters name: those of their repositories, and those of the torrents that they offer.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use instantmirror_core::url::SecretUrl;
use instantmirror_core::{RepoName, TransportError};
use instantmirror_swarm::HttpOrigin;
use instantmirror_swarm::origin::Outgoing;
use instantmirror_tracker::InfoHash;

use super::status::MasterStatus;
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
    /// How they are asked.
    outgoing: Outgoing,
    known: BTreeMap<SecretUrl, Known>,
}

/// What one master said.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Made when it is asked first, and kept, with its connections.
    origin: Option<(HttpOrigin, RepoName)>,
    /// The repository's own swarm. There may be only this or the others.
    own: Option<InfoHash>,
    /// Those of the torrents that are offered, or were replaced a while ago.
    offered: HashSet<InfoHash>,
    /// Of the list of torrents; empty if the master has none or does not say.
    version: String,
    /// When it answered everything last.
    asked: Option<Instant>,
    /// Why it names no swarms now. The operator was told.
    trouble: Option<String>,
}

impl Masters {
    /// Asks all of them whether they have other torrents, and every `rescan` for everything.
    pub(super) async fn ask(&mut self, urls: &[SecretUrl], rescan: Duration, outgoing: &Outgoing) {
        self.known.retain(|url, _| urls.contains(url));
        if self.outgoing != *outgoing {
            self.outgoing = outgoing.clone();
            self.known.values_mut().for_each(|known| known.origin = None);
        }
        let asked = urls.iter().map(|url| {
            let known = self.known.get(url).cloned().unwrap_or_default();
            async move { (url.clone(), known.asked_anew(url, rescan, outgoing).await) }
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

    /// How each of them is.
    pub(super) fn status(&self) -> Vec<MasterStatus> {
        let status = |(url, known): (&SecretUrl, &Known)| MasterStatus {
            url: url.to_string(),
            swarms: known.offered.iter().chain(&known.own).collect::<HashSet<_>>().len(),
            trouble: known.trouble.clone(),
        };
        self.known.iter().map(status).collect()
    }
}

impl Known {
    async fn asked_anew(mut self, url: &SecretUrl, rescan: Duration, outgoing: &Outgoing) -> Self {
        let is_fresh = self.asked.is_some_and(|asked| asked.elapsed() < rescan);
        // A master that is too old to say whether its list has changed is not asked for all of it all the time. One that has
        // none yet is: its first torrent is to be known as soon as those that follow.
        if is_fresh && self.version.is_empty() && !self.offered.is_empty() && self.trouble.is_none() {
            return self;
        }
        let done = match self.origin(url, outgoing) {
            Err(error) => Err(error),
            Ok((origin, name)) if is_fresh && self.trouble.is_none() => self.ask_for_torrents(&origin, &name).await,
            Ok((origin, name)) => self.ask_for_all(&origin, &name).await,
        };
        match done.map_err(|error| error.to_string()) {
            Ok(()) if self.trouble.take().is_some() => tracing::info!("{url} names its swarms again"),
            Ok(()) => {}
            Err(error) => {
                if self.trouble.is_none() {
                    tracing::warn!("{url} names no swarms: {error}; it is asked again and again");
                }
                self.trouble = Some(error);
            }
        }
        self
    }

    fn origin(&mut self, url: &SecretUrl, outgoing: &Outgoing) -> Result<(HttpOrigin, RepoName), TransportError> {
        if let Some(origin) = &self.origin {
            return Ok(origin.clone());
        }
        let refused = |reason| TransportError::Refused {
            from: url.to_string(),
            reason,
        };
        let (origin, name) = parse(url).map_err(refused)?;
        let origin = (origin.with_outgoing(outgoing)?, name);
        Ok(self.origin.insert(origin).clone())
    }

    async fn ask_for_all(&mut self, origin: &HttpOrigin, name: &RepoName) -> Result<(), TransportError> {
        let own = origin.swarm(name).await;
        let own = own.and_then(|bytes| swarm_of(origin, &bytes));
        match &own {
            Ok(hash) => self.own = *hash,
            Err(TransportError::NotFound { .. }) => self.own = None,
            Err(_) => {}
        }
        // There may be only one of both, but what is wrong with the other one is worth a word.
        let torrents = self.ask_for_torrents(origin, name).await;
        if own.is_ok() || torrents.is_ok() {
            self.asked = Some(Instant::now());
        }
        match own {
            Err(error) if torrents.is_ok() && !matches!(error, TransportError::NotFound { .. }) => Err(error),
            _ => torrents,
        }
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
                    // That is no trouble where there is a swarm of its own.
                    if self.own.is_some() {
                        return Ok(());
                    }
                }
                return Err(error);
            }
        };
        let list: TorrentList =
            serde_json::from_slice(&bytes).map_err(|error| odd(origin, "list of torrents", &error))?;
        let replaced = list.replaced.into_iter().map(|replaced| replaced.row);
        let rows = list.torrents.into_iter().chain(replaced);
        self.offered = rows.filter_map(|row| row.info_hash.parse().ok()).collect();
        self.version = list.version;
        Ok(())
    }
}

/// The info-hash that a master tells of a repository's own swarm; `None` if it is none that we know the form of.
fn swarm_of(origin: &HttpOrigin, bytes: &[u8]) -> Result<Option<InfoHash>, TransportError> {
    let offer: SwarmOffer = serde_json::from_slice(bytes).map_err(|error| odd(origin, "swarm", &error))?;
    Ok(offer.info_hash.parse().ok())
}

/// Somebody else may answer in place of a master: a page for people, for instance.
fn odd(origin: &HttpOrigin, what: &str, error: &serde_json::Error) -> TransportError {
    TransportError::Protocol {
        from: origin.label().to_owned(),
        reason: format!("an answer that is no {what}: {error}"),
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
        masters.ask(&urls, rescan, &Outgoing::default()).await;
        assert!(masters.are_known(&urls));
        assert_eq!(masters.swarms(), HashSet::from([hash(1)]));
        for (version, number) in [("v1", 2), ("v2", 3)] {
            master.offer(version, number);
            masters.ask(&urls, rescan, &Outgoing::default()).await;
            assert_eq!(masters.swarms(), HashSet::from([hash(1), hash(number)]), "{version}");
        }
        // A master that does not say which list it is has all of it asked for once in a while.
        master.offer("", 4);
        masters.ask(&urls, rescan, &Outgoing::default()).await;
        let before = master.asked_for_lists.load(Ordering::SeqCst);
        masters.ask(&urls, rescan, &Outgoing::default()).await;
        assert_eq!(master.asked_for_lists.load(Ordering::SeqCst), before);
        assert_eq!(masters.swarms(), HashSet::from([hash(1), hash(4)]));
    }

    #[tokio::test]
    async fn a_master_that_gives_no_list_is_in_trouble_and_what_it_named_stays() {
        let (master, url) = Master::start().await;
        let (mut masters, urls, rescan) = (Masters::default(), [url], Duration::from_secs(3600));
        let troubles = async |masters: &mut Masters| {
            masters.ask(&urls, rescan, &Outgoing::default()).await;
            let [one] = &masters.status()[..] else {
                panic!("one master is asked")
            };
            (one.swarms, one.trouble.clone().unwrap_or_default())
        };
        master.offer("v1", 2);
        assert_eq!(troubles(&mut masters).await, (2, String::new()));
        // A page for people.
        *master.list.lock().unwrap() = Some("<html>".to_owned());
        for _ in 0..2 {
            let (swarms, trouble) = troubles(&mut masters).await;
            assert!(
                swarms == 2 && trouble.contains("no list of torrents"),
                "{swarms}: {trouble}"
            );
        }
        // It may have none any more, which is no trouble.
        *master.list.lock().unwrap() = None;
        assert_eq!(troubles(&mut masters).await, (1, String::new()));
    }
}
