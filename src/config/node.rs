//! `imnode.toml`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use instantmirror_core::{PublicKey, RepoName};
use instantmirror_swarm::FetchLimits;
use serde::{Deserialize, Deserializer};

use super::cache::CacheConfig;
use super::lifecycle::NodeSnapshotsConfig;
use super::parts::check_mounts;
use super::{
    Checked, ConfigError, ControlConfig, FetchConfig, HttpConfig, LogConfig, MountConfig, PeersConfig, PreseedConfig,
    RulesConfig,
};

/// The configuration of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
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
pub struct NodeRepository {
    /// Its name at the master.
    pub name: RepoName,
    /// One URL, or several that are tried in turn.
    #[serde(deserialize_with = "one_or_many")]
    pub master: Vec<String>,
    /// Public keys of the master; one of them must have signed.
    pub trust: Vec<PublicKey>,
    /// The file with the token that `imserver node add` printed; with it the master gives us what is staged.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Extra places at which it appears.
    #[serde(default)]
    pub mounts: Vec<MountConfig>,
    /// What of it is fetched ahead; instead of the rules of `[preseed]`, not in addition to them.
    #[serde(default)]
    pub preseed: Option<RulesConfig>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a URL or a list of URLs")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
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

    /// Checks a text; `file` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        super::parse(file, text)
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
        let origins = masters.filter_map(|url| instantmirror_swarm::HttpOrigin::new(url).ok());
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
    fn check(&self) -> Result<(), String> {
        self.cache.check()?;
        self.http.check()?;
        self.log.check()?;
        self.fetch.check()?;
        self.peers.check()?;
        let mut names = BTreeSet::new();
        for NodeRepository {
            name,
            master,
            trust,
            token_file,
            ..
        } in &self.repositories
        {
            if !names.insert(name) {
                return Err(format!("repository '{name}' is there twice"));
            }
            if master.is_empty() {
                return Err(format!("repository '{name}': master names no URL"));
            }
            for url in master {
                let origin = instantmirror_swarm::HttpOrigin::new(url);
                let origin = origin.and_then(|origin| match token_file {
                    // Whether a token may be sent there, whatever it is.
                    Some(_) => origin.with_token("token"),
                    None => Ok(origin),
                });
                let origin = origin.map_err(|error| format!("repository '{name}': master {error}"))?;
                if origin
                    .host_address()
                    .is_some_and(|address| !self.peers.policy().admits(address))
                {
                    return Err(format!(
                        "repository '{name}': [peers] allow and deny leave out its master {url}"
                    ));
                }
            }
            if trust.is_empty() {
                return Err(format!(
                    "repository '{name}': trust names no key; `imserver keygen` and `imserver init` print the master's"
                ));
            }
        }
        check_mounts(self.repositories.iter().flat_map(|repository| &repository.mounts))
    }
}
