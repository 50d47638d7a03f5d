//! `imserver.toml`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use instantmirror_core::RepoName;
use instantmirror_core::retention::RetentionPolicy;
use instantmirror_core::rules::PathGlobs;
use instantmirror_store::scan::{OnPrivate, OnUnpublishable, ScanRules, SymlinkRule};
use instantmirror_store::tree::StampRule;
use serde::Deserialize;

use super::addresses::NodesConfig;
use super::lifecycle::{MasterSnapshotsConfig, RetentionConfig};
use super::parts::{check_addresses, check_mounts};
use super::torrents::{TorrentConfig, TorrentsConfig};
use super::{
    ByteSize, Checked, ConfigError, ControlConfig, Finding, HttpConfig, LogConfig, MountConfig, OutgoingConfig,
    PeersConfig, Report, surroundings,
};

/// The configuration of a master.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// `[[repository]]`, once per repository.
    #[serde(rename = "repository", default)]
    pub repositories: Vec<ServerRepository>,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[retention]`, for repositories that have none of their own.
    #[serde(default)]
    pub retention: RetentionConfig,
    /// `[snapshots]`.
    #[serde(default)]
    pub snapshots: MasterSnapshotsConfig,
    /// `[nodes]`.
    #[serde(default)]
    pub nodes: NodesConfig,
    /// `[torrents]`.
    #[serde(default)]
    pub torrents: TorrentsConfig,
    /// `[peers]`.
    #[serde(default)]
    pub peers: PeersConfig,
    /// `[outgoing]`, for trackers.
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

/// `[[repository]]` of a master.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerRepository {
    /// Its name in URLs and on nodes.
    pub name: RepoName,
    /// The tree to publish.
    pub source: PathBuf,
    /// How files come into the store.
    #[serde(default)]
    pub import: ImportKind,
    /// Globs of paths that are not published.
    #[serde(default, deserialize_with = "super::fetch::globs")]
    pub exclude: Vec<String>,
    /// What to do with names that no snapshot can hold, and with what may not be read.
    #[serde(default)]
    pub unpublishable: UnpublishableKind,
    /// What to do with files and directories that others may not read.
    #[serde(default)]
    pub private: PrivateKind,
    /// What to do with symlinks that have an absolute target in the tree.
    #[serde(default)]
    pub symlinks: SymlinkKind,
    /// What of a file's state says nothing about its content. Size and modification time always count.
    #[serde(default = "default_ignore")]
    pub ignore: Vec<IgnoreKind>,
    /// What to do if the repository metadata in the tree does not agree with the files in it.
    #[serde(default)]
    pub check: CheckKind,
    /// BitTorrent piece length; a power of two, fixed once the repository has a snapshot.
    #[serde(default = "default_piece_length")]
    pub piece_length: ByteSize,
    /// Extra places at which it appears.
    #[serde(default)]
    pub mounts: Vec<MountConfig>,
    /// Globs of paths that mirrors are advised to fetch before anybody asks for them, most urgent first.
    #[serde(default, deserialize_with = "super::fetch::globs")]
    pub preseed: Vec<String>,
    /// Torrents of the current snapshot that are offered to everybody.
    #[serde(default)]
    pub torrents: Vec<TorrentConfig>,
    /// Which snapshots stay; instead of `[retention]`, not in addition to it.
    #[serde(default)]
    pub retention: Option<RetentionConfig>,
}

impl ServerRepository {
    /// A repository by its name, and the tree that it publishes.
    #[must_use]
    pub fn new(name: RepoName, source: impl Into<PathBuf>) -> Self {
        Self {
            name,
            source: source.into(),
            import: ImportKind::default(),
            exclude: Vec::new(),
            unpublishable: UnpublishableKind::default(),
            private: PrivateKind::default(),
            symlinks: SymlinkKind::default(),
            ignore: default_ignore(),
            check: CheckKind::default(),
            piece_length: default_piece_length(),
            mounts: Vec::new(),
            preseed: Vec::new(),
            torrents: Vec::new(),
            retention: None,
        }
    }

    /// What of the source tree is published.
    #[must_use]
    pub fn scan_rules(&self) -> ScanRules {
        ScanRules {
            // Checked when the configuration was read; a glob that is none excludes nothing.
            exclude: PathGlobs::new(self.exclude.clone()).unwrap_or_default(),
            unpublishable: match self.unpublishable {
                UnpublishableKind::Refuse => OnUnpublishable::Refuse,
                UnpublishableKind::Skip => OnUnpublishable::Skip,
            },
            private: match self.private {
                PrivateKind::Skip => OnPrivate::Skip,
                PrivateKind::Refuse => OnPrivate::Refuse,
                PrivateKind::Publish => OnPrivate::Publish,
            },
            symlinks: match self.symlinks {
                SymlinkKind::Keep => SymlinkRule::Keep,
                SymlinkKind::Rewrite => SymlinkRule::Rewrite,
            },
            stamps: StampRule {
                ignore_ctime: self.ignore.contains(&IgnoreKind::Ctime),
                ignore_inode: self.ignore.contains(&IgnoreKind::Inode),
                ignore_device: self.ignore.contains(&IgnoreKind::Device),
            },
        }
    }
}

/// The rule for bytes of a piece, if these break it.
pub(crate) fn check_piece_length(bytes: u64) -> Result<(), &'static str> {
    match bytes.is_power_of_two() && (16 << 10..=64 << 20).contains(&bytes) {
        true => Ok(()),
        false => Err("must be a power of two from 16 KiB to 64 MiB"),
    }
}

fn default_piece_length() -> ByteSize {
    ByteSize(1 << 20)
}

/// How files come into the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ImportKind {
    /// Reflink where the file system can, else copy. Always safe.
    #[default]
    Reflink,
    /// Hard link where reflink cannot: only where the source replaces files and never edits them in place.
    Hardlink,
    /// Copy, always.
    Copy,
}

/// What to do with names and symlink targets that no snapshot can hold (not UTF-8, or with control characters), and with
/// files and directories that the publisher may not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum UnpublishableKind {
    /// Refuse the publish and list them.
    #[default]
    Refuse,
    /// Leave them out, and say so each time.
    Skip,
}

/// What to do with a file that others may not read (mode without `o+r`), and with a directory that they may not list and
/// enter (without `o+rx`), together with all below it. The mode of the source tree's own root does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PrivateKind {
    /// Leave it out, and say so each time.
    #[default]
    Skip,
    /// Refuse the publish and list them.
    Refuse,
    /// Publish it: for trees whose modes mean nothing.
    Publish,
}

/// What to do with symlinks that have an absolute target in the source tree. Readers of a snapshot cannot follow them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SymlinkKind {
    /// Publish the target as it is.
    #[default]
    Keep,
    /// Publish a relative target.
    Rewrite,
}

/// What may differ of a file that is taken as unchanged, besides the attributes that explain another ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum IgnoreKind {
    /// The time of the last change of content or attributes.
    Ctime,
    /// The inode number.
    Inode,
    /// The device number.
    Device,
}

fn default_ignore() -> Vec<IgnoreKind> {
    vec![IgnoreKind::Device]
}

/// What to do if the repository metadata in a tree (`repomd.xml`, `Release`, `Packages`) names files that are missing or
/// different. A tree without metadata is always good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CheckKind {
    /// Refuse the publish and list what is wrong. The default with the feature `metadata-check`.
    #[cfg_attr(feature = "metadata-check", default)]
    Refuse,
    /// List what is wrong in the log, and publish.
    Warn,
    /// Do not look.
    Off,
    /// Do not look, since this program cannot: the default without the feature `metadata-check`. No file says it.
    #[serde(skip)]
    #[cfg_attr(not(feature = "metadata-check"), default)]
    NotCompiled,
}

impl CheckKind {
    /// Whether metadata is looked at.
    pub(crate) fn looks(self) -> bool {
        matches!(self, Self::Refuse | Self::Warn)
    }
}

/// `[store]`: where the master keeps objects, catalogs and its key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StoreConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// The signing key made by `imserver keygen`; without it, `key` in the store.
    pub key_file: Option<PathBuf>,
}

impl StoreConfig {
    /// A directory, with the key in it.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            key_file: None,
        }
    }

    /// The file with the signing key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.dir.join("key"))
    }
}

impl ServerConfig {
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
            store: StoreConfig::new(PathBuf::new()),
            retention: RetentionConfig::default(),
            snapshots: MasterSnapshotsConfig::default(),
            nodes: NodesConfig::default(),
            torrents: TorrentsConfig::default(),
            peers: PeersConfig::default(),
            outgoing: OutgoingConfig::default(),
            http,
            control: ControlConfig::default(),
            log: LogConfig::default(),
        }
    }

    /// Which snapshots of a repository stay.
    #[must_use]
    pub fn retention_of<'a>(&'a self, repository: &'a ServerRepository) -> &'a RetentionConfig {
        repository.retention.as_ref().unwrap_or(&self.retention)
    }

    /// The same as a policy.
    #[must_use]
    pub fn retention_policy(&self, repository: &ServerRepository) -> RetentionPolicy {
        self.retention_of(repository).policy(self.snapshots.grace)
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.control
            .socket
            .clone()
            .unwrap_or_else(|| self.store.dir.join("control.sock"))
    }
}

impl Checked for ServerConfig {
    fn paths(&mut self) -> Vec<(String, &mut PathBuf)> {
        let mut paths = self.http.paths();
        paths.push(("store.dir".to_owned(), &mut self.store.dir));
        paths.extend(
            self.store
                .key_file
                .iter_mut()
                .map(|path| ("store.key_file".to_owned(), path)),
        );
        paths.extend(
            self.control
                .socket
                .iter_mut()
                .map(|path| ("control.socket".to_owned(), path)),
        );
        paths.extend(self.outgoing.paths("outgoing"));
        let trackers = self.peers.outgoing.iter_mut();
        paths.extend(trackers.flat_map(|outgoing| outgoing.paths("peers.outgoing")));
        let sources = self.repositories.iter_mut().enumerate();
        paths.extend(sources.map(|(at, one)| (format!("repository.{at}.source"), &mut one.source)));
        paths
    }

    fn check(&self, report: &mut Report<'_>) {
        self.http.check(report);
        self.log.check(report);
        report.check_section("torrents", self.torrents.check());
        report.check_section("peers", self.peers.check());
        report.check_section("outgoing", self.outgoing.check());
        check_addresses(&self.addresses(), report);
        if self.addresses().is_empty() {
            report.refuse(
                "http.listen",
                "neither [http] nor [peers] listens anywhere: nobody could reach it",
            );
        }
        let mut names = BTreeSet::new();
        for (at, repository) in self.repositories.iter().enumerate() {
            let name = &repository.name;
            let place = |key: &str| format!("repository.{at}.{key}");
            if !names.insert(name) {
                report.refuse(&place("name"), format!("repository '{name}' is there twice"));
            }
            let offers = self.torrents.check_offers(name.as_str(), &repository.torrents);
            report.check(&place("torrents"), offers);
            if repository.check.looks() {
                let named = format!("repository '{name}': check");
                report.needs(
                    "metadata-check",
                    cfg!(feature = "metadata-check"),
                    &place("check"),
                    &named,
                );
            }
            if let Err(rule) = check_piece_length(repository.piece_length.0) {
                let text = format!("repository '{name}': piece_length {rule}");
                report.refuse(&place("piece_length"), text);
            }
            if self.store.dir.starts_with(&repository.source) {
                let text =
                    format!("repository '{name}': the store lies inside the source tree and would publish itself");
                report.refuse(&place("source"), text);
            }
        }
        let mounts = self.repositories.iter().map(|one| (&one.name, one.mounts.as_slice()));
        check_mounts(mounts, report);
        self.http
            .check_repositories(self.repositories.iter().map(|one| &one.name), report);
        self.retention.check("retention", report);
        for (at, repository) in self.repositories.iter().enumerate() {
            if let Some(retention) = &repository.retention {
                retention.check(&format!("repository.{at}.retention"), report);
            }
        }
    }

    fn check_surroundings(&self, report: &mut Report<'_>) {
        surroundings::check_http(&self.http, report);
        surroundings::check_addresses(&self.addresses(), report);
        surroundings::check_socket(&self.control_socket(), Some(&self.store.dir), report);
        report.check("outgoing", self.outgoing.load(&self.peers.policy()).map(drop));
        if let Some(outgoing) = &self.peers.outgoing {
            report.check("peers.outgoing", outgoing.load(&self.peers.policy()).map(drop));
        }
        for (at, repository) in self.repositories.iter().enumerate() {
            surroundings::check_directory(&format!("repository.{at}.source"), &repository.source, report);
        }
        if self.store.dir.exists() {
            let key = crate::master::check_key(self).map_err(|error| crate::daemon::explain(&error));
            report.check(
                if self.store.key_file.is_some() {
                    "store.key_file"
                } else {
                    "store.dir"
                },
                key,
            );
            for (at, error) in crate::master::check_piece_lengths(self) {
                report.refuse(&format!("repository.{at}.piece_length"), crate::daemon::explain(&error));
            }
            surroundings::check_writable("store.dir", &self.store.dir, report);
        } else {
            let text = format!(
                "{} is not there yet: `imserver init` makes it, and the key",
                self.store.dir.display()
            );
            report.note("store.dir", text);
            surroundings::check_writable("store.dir", &self.store.dir, report);
        }
    }
}

impl ServerConfig {
    /// The fault in the addresses of a master that no file describes: none is a good number of them.
    pub(crate) fn check_listening(&self) -> Result<(), String> {
        super::check_alone(|report| check_addresses(&self.addresses(), report))
    }

    /// The TCP addresses it listens on, with their places in the file.
    fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.http
            .addresses()
            .into_iter()
            .chain(self.peers.addresses())
            .collect()
    }
}
