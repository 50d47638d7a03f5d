//! Which swarms masters name ([`Masters`]): those of their repositories, and those of the torrents that they offer.
//!
//! A server is asked over one connection for all of its repositories, one after another; servers are asked side by side.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use instantmirror_core::url::SecretUrl;
use instantmirror_core::{RepoName, TransportError};
use instantmirror_swarm::HttpOrigin;
use instantmirror_swarm::origin::Outgoing;
use instantmirror_tracker::InfoHash;
use tokio::time::Instant;

use super::status::MasterStatus;
use crate::peering::SwarmOffer;
use crate::torrent::TorrentList;

/// The server that a repository's URL names, and the repository.
///
/// # Errors
/// A text for a person: why the URL cannot be used.
pub(crate) fn parse(url: &SecretUrl) -> Result<(SecretUrl, RepoName), String> {
    let wrong = || format!("'{url}' is not the URL of a repository: write one like https://master.example.org/debian");
    let (server, name) = url.exposed().trim_end_matches('/').rsplit_once('/').ok_or_else(wrong)?;
    let name: RepoName = name.parse().map_err(|_| wrong())?;
    HttpOrigin::new(server).map_err(|_| wrong())?;
    Ok((SecretUrl::from(server), name))
}

/// Servers that are asked at the same time. The repositories of one server are asked one after another, over one connection.
const SERVERS_AT_ONCE: usize = 32;

/// A server that fails after so long is not asked for its other repositories in the same round: they would have to wait as long.
const HOPELESS_AFTER: Duration = Duration::from_secs(5);
/// After so long no other repository of a server is asked in a round: the next one begins with those that were left. What other
/// servers said counts when the round is over.
const ROUND_TIME: Duration = Duration::from_secs(5);

/// The last answers of each master. One that does not answer is believed to have what it had.
#[derive(Debug, Default)]
pub(super) struct Masters {
    /// How they are asked.
    outgoing: Outgoing,
    /// One for each server, with its connections, however many repositories it has.
    origins: BTreeMap<SecretUrl, HttpOrigin>,
    known: BTreeMap<SecretUrl, Known>,
}

/// The last answers about one repository.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The repository's own swarm. There may be only this or the others.
    own: Option<InfoHash>,
    /// Those of the torrents that are offered, or were replaced a while ago.
    offered: HashSet<InfoHash>,
    /// Of the list of torrents; empty if the master has none or does not say.
    version: String,
    /// When a request was sent last, whether it was answered or not.
    tried: Option<Instant>,
    /// When it answered everything last.
    asked: Option<Instant>,
    /// Why it names no swarms now. The operator was told.
    trouble: Option<String>,
}

/// A repository of a server.
#[derive(Debug)]
struct Asked {
    url: SecretUrl,
    name: RepoName,
    known: Known,
}

impl Masters {
    /// Asks all of them whether they have other torrents, and every `rescan` for everything.
    pub(super) async fn ask(&mut self, urls: &[SecretUrl], rescan: Duration, outgoing: &Outgoing) {
        self.known.retain(|url, _| urls.contains(url));
        if self.outgoing != *outgoing {
            self.outgoing = outgoing.clone();
            self.origins.clear();
        }
        let mut servers: BTreeMap<SecretUrl, Vec<Asked>> = BTreeMap::new();
        for url in urls {
            let (url, known) = (url.clone(), self.known.get(url).cloned().unwrap_or_default());
            match parse(&url) {
                Ok((server, name)) => servers.entry(server).or_default().push(Asked { url, name, known }),
                Err(error) => _ = self.known.insert(url.clone(), known.with_outcome(&url, Err(error))),
            }
        }
        self.origins.retain(|server, _| servers.contains_key(server));
        let rounds: Vec<_> = servers
            .into_iter()
            .map(|(server, asked)| ask_server(self.origin(&server), asked, rescan))
            .collect();
        let mut rounds = stream::iter(rounds).buffer_unordered(SERVERS_AT_ONCE);
        while let Some(answered) = rounds.next().await {
            self.known.extend(answered);
        }
    }

    fn origin(&mut self, server: &SecretUrl) -> Result<HttpOrigin, String> {
        if let Some(origin) = self.origins.get(server) {
            return Ok(origin.clone());
        }
        let origin = HttpOrigin::new(server.exposed()).and_then(|origin| origin.with_outgoing(&self.outgoing));
        let origin = origin.map_err(|error| error.to_string())?;
        self.origins.insert(server.clone(), origin.clone());
        Ok(origin)
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

/// Asks one server for all of its repositories: first for those that were not asked for longest, so that one that never answers
/// keeps none of the others waiting for ever.
async fn ask_server(
    origin: Result<HttpOrigin, String>,
    mut asked: Vec<Asked>,
    rescan: Duration,
) -> Vec<(SecretUrl, Known)> {
    asked.sort_by_key(|asked| asked.known.tried);
    let mut hopeless = origin.as_ref().err().cloned();
    let mut answered = Vec::with_capacity(asked.len());
    let round = Instant::now();
    for Asked { url, name, mut known } in asked {
        if hopeless.is_none() && round.elapsed() >= ROUND_TIME {
            answered.push((url, known));
            continue;
        }
        let outcome = match (&origin, &hopeless) {
            (Ok(origin), None) => {
                let began = Instant::now();
                known.tried = Some(began);
                let outcome = known.ask_anew(origin, &name, rescan).await;
                let outcome = outcome.map_err(|error| error.to_string());
                hopeless = outcome
                    .as_ref()
                    .err()
                    .filter(|_| began.elapsed() >= HOPELESS_AFTER)
                    .cloned();
                outcome
            }
            (_, Some(error)) | (Err(error), None) => Err(error.clone()),
        };
        answered.push((url.clone(), known.with_outcome(&url, outcome)));
    }
    answered
}

impl Known {
    async fn ask_anew(&mut self, origin: &HttpOrigin, name: &RepoName, rescan: Duration) -> Result<(), TransportError> {
        let is_fresh = self.asked.is_some_and(|asked| asked.elapsed() < rescan) && self.trouble.is_none();
        // A master that is too old to say whether its list has changed is not asked for all of it all the time. One that has
        // none yet is: its first torrent is to be known as soon as those that follow.
        if is_fresh && self.version.is_empty() && !self.offered.is_empty() {
            return Ok(());
        }
        if is_fresh {
            self.ask_for_torrents(origin, name).await
        } else {
            self.ask_for_all(origin, name).await
        }
    }

    /// Tells the operator of what has changed for the worse or the better.
    fn with_outcome(mut self, url: &SecretUrl, outcome: Result<(), String>) -> Self {
        match outcome {
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
        connections: AtomicUsize,
        /// How long each answer takes.
        delay: Mutex<Duration>,
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
                    answering.connections.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(serve(Arc::clone(&answering), socket));
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

    async fn serve(master: Arc<Master>, socket: tokio::net::TcpStream) {
        let mut socket = BufReader::new(socket);
        loop {
            let (mut request, mut line) = (String::new(), String::new());
            if socket.read_line(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
            while line != "\r\n" {
                line.clear();
                socket.read_line(&mut line).await.unwrap();
            }
            let delay = *master.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            let (status, body) = master.answer(&request);
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
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

    #[tokio::test]
    async fn fifty_repositories_of_a_master_are_asked_over_one_connection() {
        let (master, url) = Master::start().await;
        master.offer("v1", 2);
        let server = url.exposed().strip_suffix("/r").unwrap();
        let urls: Vec<SecretUrl> = (0..50).map(|n| SecretUrl::from(format!("{server}/r{n}"))).collect();
        let (mut masters, rescan) = (Masters::default(), Duration::from_secs(3600));
        for _ in 0..3 {
            masters.ask(&urls, rescan, &Outgoing::default()).await;
            assert!(masters.are_known(&urls));
        }
        assert_eq!(master.asked_for_lists.load(Ordering::SeqCst), 150);
        let connections = master.connections.load(Ordering::SeqCst);
        assert!(connections <= 3, "{connections} connections");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_waited_for_once_a_round() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let urls: Vec<SecretUrl> = (0..20).map(|n| SecretUrl::from(format!("{server}/r{n}"))).collect();
        let mut masters = Masters::default();
        let began = tokio::time::Instant::now();
        masters
            .ask(&urls, Duration::from_secs(3600), &Outgoing::default())
            .await;
        // For the swarm of the first, and for its torrents.
        assert!(began.elapsed() <= 2 * Duration::from_secs(31), "{:?}", began.elapsed());
        assert!(masters.status().iter().all(|master| master.trouble.is_some()));
    }

    /// The others' swarms count when the round is over.
    #[tokio::test]
    async fn a_slow_server_is_asked_for_as_much_as_a_round_has_time_for() {
        let (master, url) = Master::start().await;
        *master.delay.lock().unwrap() = Duration::from_millis(100);
        let server = url.exposed().strip_suffix("/r").unwrap();
        let urls: Vec<SecretUrl> = (0..30).map(|n| SecretUrl::from(format!("{server}/r{n}"))).collect();
        let (mut masters, rescan) = (Masters::default(), Duration::from_secs(3600));
        masters.ask(&urls, rescan, &Outgoing::default()).await;
        assert!(!masters.are_known(&urls), "60 answers take longer than a round");
        assert!(masters.status().iter().all(|master| master.trouble.is_none()));
        // Those that were left come first.
        masters.ask(&urls, rescan, &Outgoing::default()).await;
        assert!(masters.are_known(&urls));
    }
}
