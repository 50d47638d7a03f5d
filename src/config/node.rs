//! `imnode.toml`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use instantmirror_core::url::SecretUrl;
use instantmirror_core::{PublicKey, RepoName};
use instantmirror_swarm::FetchLimits;
use serde::{Deserialize, Deserializer};

use super::cache::CacheConfig;
use super::lifecycle::{NodeSnapshotsConfig, note_zeros};
use super::parts::{check_addresses, check_mounts};
use super::{
    ByteSize, Checked, ConfigError, ControlConfig, FetchConfig, Finding, HttpConfig, LogConfig, MountConfig,
    OutgoingConfig, PeersConfig, PreseedConfig, Report, RulesConfig, surroundings,
};

/// The configuration of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeConfig {
    /// `[[repository]]`, once per repository.
    #[serde(rename = "repository", default)]
    pub repositories: Vec<NodeRepository>,
    /// `[cache]`.
    pub cache: CacheConfig,
    /// `[snapshots]`.
    #[serde(default)]
    pub snapshots: NodeSnapshotsConfig,
    /// `[preseed]`, for repositories that have no rules of their own.
    #[serde(default)]
    pub preseed: PreseedConfig,
    /// `[fetch]`.
    #[serde(default)]
    pub fetch: FetchConfig,
    /// `[peers]`.
    #[serde(default)]
    pub peers: PeersConfig,
    /// `[outgoing]`, for repositories and trackers that have none of their own.
    #[serde(default)]
    pub outgoing: OutgoingConfig,
    /// `[http]`.
    #[serde(default)]
    pub http: HttpConfig,
    /// `[control]`.
    #[serde(default)]
    pub control: ControlConfig,
    /// `[log]`.
    #[serde(default)]
    pub log: LogConfig,
}

/// `[[repository]]` of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeRepository {
    /// Its name at the master.
    pub name: RepoName,
    /// One URL, or several that are tried in turn.
    #[serde(deserialize_with = "one_or_many")]
    pub master: Vec<SecretUrl>,
    /// Public keys of the master; one of them must have signed.
    pub trust: Vec<PublicKey>,
    /// The file with the token that `imserver node add` printed; with it the master gives us what is staged.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// How its masters are connected to; instead of `[outgoing]`, not in addition to it.
    #[serde(default)]
    pub outgoing: Option<OutgoingConfig>,
    /// Extra places at which it appears.
    #[serde(default)]
    pub mounts: Vec<MountConfig>,
    /// What of it is fetched ahead; instead of the rules of `[preseed]`, not in addition to them.
    #[serde(default)]
    pub preseed: Option<RulesConfig>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretUrl>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a URL or a list of URLs")]
    enum OneOrMany {
        One(SecretUrl),
        Many(Vec<SecretUrl>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(url) => vec![url],
        OneOrMany::Many(urls) => urls,
    })
}

impl NodeConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        super::load(file)
    }

    /// Reads and checks a file together with what it names on this machine, and says what may not be meant.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn inspect(file: &Path) -> Result<(Self, Vec<Finding>), ConfigError> {
        super::inspect(file)
    }

    /// Checks a text; `file` is for messages, and relative paths in it count from its directory.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        super::parse(file, text)
    }

    /// No repository, no address, and the default of everything else.
    pub(crate) fn bare() -> Self {
        let mut http = HttpConfig::default();
        http.listen.clear();
        Self {
            repositories: Vec::new(),
            cache: CacheConfig::new("", ByteSize(u64::MAX)),
            snapshots: NodeSnapshotsConfig::default(),
            preseed: PreseedConfig::default(),
            fetch: FetchConfig::default(),
            peers: PeersConfig::default(),
            outgoing: OutgoingConfig::default(),
            http,
            control: ControlConfig::default(),
            log: LogConfig::default(),
        }
    }

    /// What of a repository is fetched ahead.
    #[must_use]
    pub fn rules_of(&self, repository: &RepoName) -> RulesConfig {
        let own = self.repositories.iter().find(|one| one.name == *repository);
        own.and_then(|one| one.preseed.clone())
            .unwrap_or_else(|| self.preseed.rules())
    }

    /// Limits of fetching.
    #[must_use]
    pub fn fetch_limits(&self) -> FetchLimits {
        let masters = self.repositories.iter().flat_map(|repository| &repository.master);
        let origins = masters.filter_map(|url| instantmirror_swarm::HttpOrigin::new(url.exposed()).ok());
        let mut preferred: Vec<(usize, String)> = origins
            .filter_map(|origin| Some((self.peers.rank(origin.host())?, origin.label().to_owned())))
            .collect();
        preferred.sort();
        preferred.dedup();
        let preferred = preferred.into_iter().map(|(_, label)| label).collect();
        self.fetch.limits(&self.preseed, preferred)
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.control
            .socket
            .clone()
            .unwrap_or_else(|| self.cache.dir.join("control.sock"))
    }
}

impl Checked for NodeConfig {
    fn paths(&mut self) -> Vec<(String, &mut PathBuf)> {
        let mut paths = self.http.paths();
        paths.push(("cache.dir".to_owned(), &mut self.cache.dir));
        paths.extend(
            self.control
                .socket
                .iter_mut()
                .map(|path| ("control.socket".to_owned(), path)),
        );
        paths.extend(self.outgoing.paths("outgoing"));
        let trackers = self.peers.outgoing.iter_mut();
        paths.extend(trackers.flat_map(|outgoing| outgoing.paths("peers.outgoing")));
        for (at, repository) in self.repositories.iter_mut().enumerate() {
            let outgoing = repository.outgoing.iter_mut();
            paths.extend(outgoing.flat_map(|outgoing| outgoing.paths(&format!("repository.{at}.outgoing"))));
            let token = repository.token_file.iter_mut();
            paths.extend(token.map(|path| (format!("repository.{at}.token_file"), path)));
        }
        paths
    }

    fn check(&self, report: &mut Report<'_>) {
        report.check_section("cache", self.cache.check());
        self.http.check(report);
        self.log.check(report);
        report.check_section("fetch", self.fetch.check());
        report.check_section("peers", self.peers.check());
        check_addresses(&self.addresses(), report);
        if self.addresses().is_empty() {
            report.refuse(
                "http.listen",
                "neither [http] nor [peers] listens anywhere: nobody could reach it",
            );
        }
        report.check_section("outgoing", self.outgoing.check());
        let mut names = BTreeSet::new();
        for (at, repository) in self.repositories.iter().enumerate() {
            let name = &repository.name;
            if !names.insert(name) {
                report.refuse(
                    &format!("repository.{at}.name"),
                    format!("repository '{name}' is there twice"),
                );
            }
            if let Some(outgoing) = &repository.outgoing {
                report.check(&format!("repository.{at}.outgoing"), outgoing.check());
            }
            self.check_masters(at, repository, report);
            if repository.trust.is_empty() {
                let text = format!(
                    "repository '{name}': trust names no key; `imserver keygen` and `imserver init` print the master's"
                );
                report.refuse(&format!("repository.{at}.trust"), text);
            }
        }
        let mounts = self.repositories.iter().map(|one| (&one.name, one.mounts.as_slice()));
        check_mounts(mounts, report);
        self.http
            .check_repositories(self.repositories.iter().map(|one| &one.name), report);
        note_zeros("snapshots", &["keep_last"], report);
    }

    fn check_surroundings(&self, report: &mut Report<'_>) {
        surroundings::check_http(&self.http, report);
        surroundings::check_addresses(&self.addresses(), report);
        surroundings::check_cache(&self.cache.dir, report);
        surroundings::check_socket(&self.control_socket(), Some(&self.cache.dir), report);
        let policy = self.peers.policy();
        self.outgoing.check_files("outgoing", &policy, report);
        if let Some(outgoing) = &self.peers.outgoing {
            outgoing.check_files("peers.outgoing", &policy, report);
        }
        for (at, repository) in self.repositories.iter().enumerate() {
            if let Some(outgoing) = &repository.outgoing {
                outgoing.check_files(&format!("repository.{at}.outgoing"), &policy, report);
            }
            let Some(file) = &repository.token_file else { continue };
            let token = crate::node::check_token(file).map_err(|error| crate::daemon::explain(&error));
            report.check(&format!("repository.{at}.token_file"), token);
        }
    }
}

impl NodeConfig {
    /// The TCP addresses it listens on, with their places in the file.
    fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.http
            .addresses()
            .into_iter()
            .chain(self.peers.addresses())
            .collect()
    }

    /// The fault in the addresses of a node that no file describes: none is a good number of them.
    pub(crate) fn check_listening(&self) -> Result<(), String> {
        super::check_alone(|report| check_addresses(&self.addresses(), report))
    }

    /// Whether the masters of a repository may be asked, and be shown its token.
    pub(crate) fn check_asking(&self, repository: &NodeRepository) -> Result<(), String> {
        super::check_alone(|report| self.check_each_master(0, repository, report))
    }

    fn check_masters(&self, at: usize, repository: &NodeRepository, report: &mut Report<'_>) {
        let name = &repository.name;
        let place = format!("repository.{at}.master");
        if repository.master.is_empty() {
            report.refuse(&place, format!("repository '{name}': master names no URL"));
        }
        self.check_each_master(at, repository, report);
    }

    fn check_each_master(&self, at: usize, repository: &NodeRepository, report: &mut Report<'_>) {
        let name = &repository.name;
        let place = format!("repository.{at}.master");
        for (number, url) in repository.master.iter().enumerate() {
            let place = format!("{place}.{number}");
            let origin = instantmirror_swarm::HttpOrigin::new(url.exposed());
            let origin = origin.and_then(|origin| match repository.token_file {
                // Whether a token may be sent there, whatever it is.
                Some(_) => origin.with_token("token"),
                None => Ok(origin),
            });
            let origin = match origin {
                Ok(origin) => origin,
                Err(error) => {
                    report.refuse(&place, format!("repository '{name}': master {error}"));
                    continue;
                }
            };
            let address = origin.host_address();
            let outgoing = repository.outgoing.as_ref().unwrap_or(&self.outgoing);
            let is_left_out = address.is_some_and(|address| !self.peers.policy().admits(address));
            // Behind a proxy that is the proxy's affair.
            if is_left_out && !outgoing.is_by_proxy(url) {
                let text = format!("repository '{name}': [peers] allow and deny leave out its master {url}");
                report.refuse(&place, text);
            }
        }
    }
}
