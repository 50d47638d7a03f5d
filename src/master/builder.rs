//! [`MasterBuilder`]: a master out of parts of one's own, with defaults for all of them.
//!
//! Decision: as with [`NodeBuilder`](crate::node::NodeBuilder), the builder collects and [`build`](MasterBuilder::build) checks, so
//! that all that is wrong is said in one place and by the name of the method that it was given to. A configuration file is one
//! more source of the same values (`MasterBuilder::from(ServerConfig)`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::SecretKey;
use instantmirror_core::traits::{ObjectStorage, SnapshotStore};
use instantmirror_core::url::SecretUrl;

use super::continuity;
use super::defaults::{self, Storage};
use super::given::GivenStorage;
use super::repository::{Repository, check_retention, checked_globs};
use super::{Master, MasterError};
use crate::build_error::BuildError;
use crate::config::{
    HttpConfig, NodesConfig, OutgoingConfig, PeersConfig, RetentionConfig, ServerConfig, TimeSpan, TorrentsConfig,
};
use crate::repositories::{check_http_rules, check_mounts};
use crate::verifying_store::VerifyingStore;

/// Builds a [`Master`]; [`Master::builder`] begins one.
///
/// Every part has a default: catalogs, objects and the master's own notes are kept in memory, or in a [directory](Self::dir); the
/// key is made where there is none; nothing is listened on, and every snapshot stays. A part of one's own takes the place of the
/// default, and passes the suites of core's `conformance` if it is a good one. (A master fetches nothing, so it takes no
/// `PeerTransport`; routes of one's own are given to [`MasterServer::bind_with_routes`](super::MasterServer::bind_with_routes).)
///
/// ```
/// use instantmirror::core::memory::MemoryStorage;
/// use instantmirror::master::Repository;
/// use instantmirror::{Master, NoProgress, PublishOptions};
///
/// let tree = tempfile::tempdir()?;
/// std::fs::write(tree.path().join("hello"), "Hello\n")?;
/// let master = Master::builder()
///     .objects(MemoryStorage::new())
///     .repository(Repository::new("debian").source(tree.path()))
///     .build()?;
/// master.publish(&"debian".parse()?, &PublishOptions::default(), &NoProgress)?;
/// assert_eq!(master.current_files(&"debian".parse()?), Some(1));
///
/// let error = Master::builder().repository(Repository::new("debian")).build().unwrap_err();
/// assert!(error.to_string().starts_with("repository 'debian' source is missing: "));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing before `build`"]
pub struct MasterBuilder {
    settings: ServerConfig,
    dir: Option<PathBuf>,
    storage: Storage,
    repositories: Vec<Repository>,
    grace_never: Vec<String>,
    /// Whether the settings are those of a file, which may name no repository, and whose store is made by `init` alone.
    is_of_file: bool,
}

impl Default for MasterBuilder {
    fn default() -> Self {
        Self::of(ServerConfig::bare())
    }
}

impl From<ServerConfig> for MasterBuilder {
    /// The master that a configuration file describes, in a store that was [initialised](Master::init). Methods that are called
    /// afterwards add to what it lists (repositories, addresses, trackers), and replace what it has one of.
    fn from(mut config: ServerConfig) -> Self {
        let repositories = std::mem::take(&mut config.repositories);
        Self {
            dir: Some(config.store.dir.clone()),
            repositories: repositories.into_iter().map(Repository::from).collect(),
            is_of_file: true,
            ..Self::of(config)
        }
    }
}

impl MasterBuilder {
    fn of(settings: ServerConfig) -> Self {
        Self {
            settings,
            dir: None,
            storage: Storage::default(),
            repositories: Vec::new(),
            grace_never: Vec::new(),
            is_of_file: false,
        }
    }

    /// Keeps in this directory what is not given otherwise: objects, catalogs, the key, and the master's notes (digests, places of
    /// pieces, what the last publish saw, registered nodes). Made where needed. Several processes may use it, and one at a time
    /// writes to it.
    pub fn dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.dir = Some(path.into());
        self
    }

    /// Signs with this key, which is kept by the caller; it can be changed by nobody else then.
    ///
    /// Mirrors that trust the key accept no head that is older than the last one that they saw. So the heads have to last as long as
    /// the key: with a store of snapshots in memory the sequence of heads begins anew after each start, and mirrors refuse it as a
    /// rollback until it has passed what they saw.
    pub fn key(mut self, key: SecretKey) -> Self {
        self.storage.key = Some(key);
        self
    }

    /// The file with the signing key, instead of `key` in the [directory](Self::dir). Made where there is none.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.store.key_file = Some(path.into());
        self
    }

    /// Keeps catalogs, records and heads in this store.
    ///
    /// The store is not believed: each catalog node is held against its id, each record against the one that was stored, each head
    /// against the keys. Wrong content is not used, and the log names the store; it also does if the store forgets. One that is
    /// known to keep the guarantees of [`SnapshotStore`] is given to [`trusted_snapshots`](Self::trusted_snapshots).
    ///
    /// Whether it lasts longer than the process or not, so does what the master notes of its snapshots: a store that has some is
    /// for the [directory](Self::dir) with which they were published, and for the masters of that directory alone. Two masters
    /// need a store each, or a prefix each in one. One that does not last goes with a [key](Self::key) that does not.
    pub fn snapshots(mut self, store: impl SnapshotStore) -> Self {
        self.storage.snapshots = Some(Arc::new(VerifyingStore::new(store)));
        self
    }

    /// The same of a store that is believed.
    pub fn trusted_snapshots(mut self, store: impl SnapshotStore) -> Self {
        self.storage.snapshots = Some(Arc::new(store));
        self
    }

    /// Keeps objects in this storage.
    ///
    /// The storage is not believed: all that is read from it is held against the digests that the master has noted, each time.
    /// Wrong content is not served, and the log names the storage; it also does if the storage forgets. One that is known to keep
    /// the guarantees of [`ObjectStorage`] is given to [`trusted_objects`](Self::trusted_objects).
    ///
    /// The storage belongs to the masters of one [directory](Self::dir): what their snapshots do not need is removed from it,
    /// whatever else needs it. Two masters need a storage each, or a prefix each in one. A storage that lacks the objects of what is
    /// published is refused.
    ///
    /// Its futures are polled inside of the tokio runtime in which this is called, if there is one, also while a publish waits for
    /// them. A publish reads each new file twice: to learn its name, and to upload it.
    pub fn objects<S: ObjectStorage>(mut self, storage: S) -> Self {
        self.storage.objects = Some(GivenStorage::verified(storage));
        self
    }

    /// The same of a storage that is believed: what it has is sent as it is, from descriptors too.
    pub fn trusted_objects(mut self, storage: impl ObjectStorage) -> Self {
        self.storage.objects = Some(GivenStorage::trusted(storage));
        self
    }

    /// Publishes one more repository.
    pub fn repository(mut self, repository: Repository) -> Self {
        self.repositories.push(repository);
        self
    }

    /// Which snapshots stay, of repositories that have no rules of their own; all, unless told otherwise.
    pub fn retention(mut self, retention: RetentionConfig) -> Self {
        self.settings.retention = retention;
        self
    }

    /// Keeps the newest so many snapshots, besides what other rules of [`retention`](Self::retention) keep.
    pub fn keep_last(mut self, snapshots: u32) -> Self {
        self.settings.retention.keep_last = snapshots;
        self
    }

    /// For so long the files of a replaced snapshot are still found under `current`.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.snapshots.grace = TimeSpan(grace);
        self
    }

    /// Never finds paths that match this glob in a replaced snapshot, here and on nodes.
    pub fn grace_never(mut self, glob: impl Into<String>) -> Self {
        self.grace_never.push(glob.into());
        self
    }

    /// Whether optional files (signatures, checksums and their kind) are found in a replaced snapshot; they are not unless told
    /// otherwise.
    pub fn grace_optional(mut self, is_found: bool) -> Self {
        self.settings.snapshots.grace_optional = is_found;
        self
    }

    /// Serves plain HTTP at one more address; port 0 is any free port.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.settings.http.listen.push(address);
        self
    }

    /// All about serving HTTP, instead of what was said before; its `listen` too.
    pub fn http(mut self, http: HttpConfig) -> Self {
        self.settings.http = http;
        self
    }

    /// Which addresses may use the API for nodes; all, unless told otherwise.
    pub fn nodes(mut self, nodes: NodesConfig) -> Self {
        self.settings.nodes = nodes;
        self
    }

    /// Takes part in swarms, and accepts peers at one more address.
    pub fn listen_peers(mut self, address: SocketAddr) -> Self {
        self.settings.peers.listen.push(address);
        self
    }

    /// Announces itself to one more tracker.
    pub fn tracker(mut self, url: impl Into<SecretUrl>) -> Self {
        self.settings.peers.trackers.push(url.into());
        self
    }

    /// All about peers, instead of what was said before.
    pub fn peers(mut self, peers: PeersConfig) -> Self {
        self.settings.peers = peers;
        self
    }

    /// How trackers are connected to.
    pub fn outgoing(mut self, outgoing: OutgoingConfig) -> Self {
        self.settings.outgoing = outgoing;
        self
    }

    /// How those who have a torrent find its content; needed by [`Repository::torrent`].
    pub fn torrents(mut self, torrents: TorrentsConfig) -> Self {
        self.settings.torrents = torrents;
        self
    }

    /// Answers the command line (`imserver status` and its kind) on a Unix socket at this path.
    pub fn control_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.control.socket = Some(path.into());
        self
    }

    /// Checks what was given and returns the configuration that it makes, with all defaults, but for parts of one's own. Opens
    /// nothing and looks at no file.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn into_config(mut self) -> Result<ServerConfig, BuildError> {
        self.complete()?;
        Ok(self.settings)
    }

    /// Checks what was given, and opens the parts; makes the directory and the key where there are none. Publishes nothing, and
    /// nothing is served before there is a [`MasterServer`](super::MasterServer). Blocks on the disk; and on a given storage of
    /// objects, in which a few objects of what is current are looked up: on a runtime of a single thread build by `spawn_blocking`.
    ///
    /// # Errors
    /// [`MasterError::Build`] for what was given; the other variants for what opening it met.
    pub fn build(mut self) -> Result<Master, MasterError> {
        self.complete()?;
        let has_given_key = self.storage.key.is_some();
        let is_new_storage = !self.is_of_file && self.dir.as_deref().is_some_and(defaults::lacks_objects);
        let checks_objects = is_new_storage || self.storage.objects.is_some();
        let parts = match self.dir {
            Some(dir) => {
                let key_file = self.settings.store.key_file();
                defaults::in_directory(&dir, key_file, self.storage, self.is_of_file)?
            }
            None => defaults::in_memory(self.storage)?,
        };
        let named = self.settings.control.socket.clone();
        let control_socket = named.or_else(|| self.is_of_file.then(|| self.settings.control_socket()));
        let master = Master::assemble(self.settings, control_socket, parts)?;
        if has_given_key {
            continuity::check_key(&master)?;
        }
        if checks_objects {
            continuity::check_objects(&master)?;
        }
        Ok(master)
    }

    /// Checks everything, and completes the settings.
    fn complete(&mut self) -> Result<(), BuildError> {
        self.check()?;
        let has_links = self.dir.is_some() && self.storage.objects.is_none();
        for repository in std::mem::take(&mut self.repositories) {
            let settings = repository.checked(&self.settings.torrents, has_links)?;
            self.settings.repositories.push(settings);
        }
        self.check_repositories()?;
        let never = self.settings.snapshots.grace_never.texts().iter();
        let never: Vec<String> = never.chain(&self.grace_never).cloned().collect();
        self.settings.snapshots.grace_never = checked_globs("grace_never", never)?;
        self.settings.store.dir = self.dir.clone().unwrap_or_default();
        Ok(())
    }

    /// Checks all but single repositories.
    fn check(&self) -> Result<(), BuildError> {
        if self.repositories.is_empty() && !self.is_of_file {
            let advice = "give it one: Repository::new(NAME).source(DIRECTORY)";
            return Err(BuildError::missing("repository", advice));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.repositories.iter().find(|one| !names.insert(&one.name)) {
            let advice = "it is there twice; a repository has one source tree";
            return Err(BuildError::invalid("repository", &twice.name, advice));
        }
        if self.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            let advice = "it is no directory; leave it out to keep everything in memory, or say \".\"";
            return Err(BuildError::invalid("dir", "", advice));
        }
        if let Some(file) = &self.settings.store.key_file {
            if self.storage.key.is_some() {
                let advice = "give the key, or name the file that has it";
                return Err(BuildError::contradiction("key", "key_file", advice));
            }
            if self.dir.is_none() {
                let advice = "keys in files can be changed, and what nodes are told of it is kept in a directory: say .dir, or give the key";
                return Err(BuildError::invalid("key_file", file.display(), advice));
            }
        }
        check_retention("retention", &self.settings.retention)?;
        for (field, checked) in [
            ("torrents", self.settings.torrents.check()),
            ("peers", self.settings.peers.check()),
            ("outgoing", self.settings.outgoing.check()),
            ("http", self.settings.http.check_alone()),
            ("listen", self.settings.check_listening()),
        ] {
            BuildError::of_settings(field, checked)?;
        }
        Ok(())
    }

    /// Checks what concerns several repositories, or one and the rest.
    fn check_repositories(&self) -> Result<(), BuildError> {
        let all = self.settings.repositories.iter();
        check_mounts(all.clone().map(|one| (&one.name, one.mounts.as_slice())))?;
        for repository in all.clone() {
            if let Some(dir) = self.dir.as_ref().filter(|dir| dir.starts_with(&repository.source)) {
                let advice = format!(
                    "it lies inside of the source tree {} of '{}' and would be published",
                    repository.source.display(),
                    repository.name
                );
                return Err(BuildError::invalid("dir", dir.display(), advice));
            }
        }
        check_http_rules(&self.settings.http, all.map(|one| &one.name))
    }
}
