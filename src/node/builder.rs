//! [`NodeBuilder`]: a node out of parts of one's own, with defaults for all of them.
//!
//! Decision: the builder collects and [`build`](NodeBuilder::build) checks, so that all that is wrong is said in one place and
//! by the name of the method that it was given to. A configuration file is one more source of the same values
//! (`NodeBuilder::from(NodeConfig)`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::blocking::Blocking;
use instantmirror_core::traits::{CacheLimits, Class, ObjectCache, Scheduler, SnapshotStore};
use instantmirror_core::url::SecretUrl;

use super::assembly::Assembly;
use super::defaults::{self, Storage};
use super::repository::{PrefetchRules, Repository, Sources, check_globs, check_rules};
use super::verifying::Verifying;
use super::{Node, NodeError};
use crate::blocking::threads;
use crate::build_error::BuildError;
use crate::config::{
    ByteRate, ByteSize, ClassConfig, ClassName, DayHours, ExpiryKind, FetchConfig, HttpConfig, NodeConfig,
    OutgoingConfig, PeersConfig, RulesConfig, SourceConfig, TimeSpan, VerifyKind,
};
use crate::repositories::{check_http_rules, check_mounts};
use crate::verifying_store::VerifyingStore;

/// Bytes of objects that are kept in memory, unless other limits are given.
pub const MEMORY_CACHE_BYTES: u64 = 256 << 20;
/// Bytes of objects that are kept in a directory, unless other limits are given.
pub const DISK_CACHE_BYTES: u64 = 10 << 30;

/// The cache, on threads that may block if it needs them.
fn on_threads(cache: impl ObjectCache) -> Arc<dyn ObjectCache> {
    match cache.blocks() {
        true => Arc::new(Blocking::new(Arc::new(cache), threads())),
        false => Arc::new(cache),
    }
}

/// Builds a [`Node`]; [`Node::builder`] begins one.
///
/// Every part has a default: objects, catalogs and the node's own notes are kept in memory, or in a [directory](Self::dir);
/// whatever is fetched is ordered by [`PriorityScheduler`]; nothing is listened on and nothing is fetched ahead. A part of one's
/// own takes the place of the default, and passes the suites of core's `conformance` if it is a good one.
///
/// Each key of `imnode.toml` has a counterpart: a method, a field of the settings that a method takes, or a method of
/// [`Repository`]. (That of `[log]` is [`start_logging`](crate::daemon::start_logging): a log belongs to the process.)
///
/// ```
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use instantmirror::core::SecretKey;
/// use instantmirror::core::memory::MemoryCache;
/// use instantmirror::node::{Node, Repository};
///
/// let key = SecretKey::from_random([7; 32]).public();
/// let node = Node::builder()
///     .cache(MemoryCache::new(Some(64 << 20)))
///     .repository(Repository::new("debian").master("http://127.0.0.1:1").trust(key))
///     .build()
///     .await?;
/// assert_eq!(node.config().repositories.len(), 1);
///
/// let error = Node::builder().repository(Repository::new("debian").trust(key)).build().await.unwrap_err();
/// assert!(error.to_string().starts_with("repository 'debian' master is missing: "));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing before `build`"]
pub struct NodeBuilder {
    settings: NodeConfig,
    never: Vec<String>,
    grace_never: Vec<String>,
    dir: Option<PathBuf>,
    limits: Option<CacheLimits>,
    expiry: Option<ExpiryKind>,
    cache: Option<Arc<dyn ObjectCache>>,
    snapshots: Option<Arc<dyn SnapshotStore>>,
    scheduler: Option<Box<dyn Scheduler>>,
    repositories: Vec<Repository>,
    /// Whether the settings are those of a file, which has limits of its own and may name no repository.
    is_of_file: bool,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self::of(NodeConfig::bare())
    }
}

impl From<NodeConfig> for NodeBuilder {
    /// The node that a configuration file describes. Methods that are called afterwards add to what it lists (repositories,
    /// addresses, trackers, globs of what is not kept), and replace what it has one of.
    fn from(mut config: NodeConfig) -> Self {
        let repositories = std::mem::take(&mut config.repositories);
        Self {
            dir: Some(config.cache.dir.clone()),
            repositories: repositories.into_iter().map(Repository::from).collect(),
            is_of_file: true,
            ..Self::of(config)
        }
    }
}

impl NodeBuilder {
    fn of(settings: NodeConfig) -> Self {
        Self {
            settings,
            never: Vec::new(),
            grace_never: Vec::new(),
            dir: None,
            limits: None,
            expiry: None,
            cache: None,
            snapshots: None,
            scheduler: None,
            repositories: Vec::new(),
            is_of_file: false,
        }
    }

    /// Keeps in this directory what is not given otherwise: objects, catalogs, and the node's notes (its tags, its number, who
    /// was in its swarms). Made where needed; one process at a time.
    pub fn dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.dir = Some(path.into());
        self
    }

    /// Holds objects in this cache. One whose calls [block](ObjectCache::blocks) is run on tokio's blocking pool. What the node
    /// goes without where the cache lacks a service is said in the log and in its status.
    ///
    /// The cache is not believed: all that is read from it is verified, each time. One that is known to keep the guarantees of
    /// [`Objects`](instantmirror_core::traits::Objects) is given to [`trusted_cache`](Self::trusted_cache).
    pub fn cache<C: ObjectCache>(mut self, cache: C) -> Self {
        let cache = Verifying::new(on_threads(cache), std::any::type_name::<C>());
        self.cache = Some(Arc::new(cache));
        self
    }

    /// The same of a cache that verifies by itself, as a `DiskCache` does: what it has is sent as it is, from descriptors too.
    pub fn trusted_cache(mut self, cache: impl ObjectCache) -> Self {
        self.cache = Some(on_threads(cache));
        self
    }

    /// Limits of the cache that is made if none is given: [`MEMORY_CACHE_BYTES`], or [`DISK_CACHE_BYTES`] in a directory, unless
    /// told otherwise.
    pub fn cache_limits(mut self, limits: CacheLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Which objects go first when room is needed, in the cache that is made in a [directory](Self::dir).
    pub fn expiry(mut self, policy: ExpiryKind) -> Self {
        self.expiry = Some(policy);
        self
    }

    /// When objects at rest are verified, by the cache that is made if none is given.
    pub fn verify(mut self, verify: VerifyKind) -> Self {
        self.settings.cache.verify = verify;
        self
    }

    /// How many bytes a second a scrub reads, of any cache that has a scrubber; 20 MiB unless told otherwise.
    pub fn scrub_rate(mut self, bytes: u64) -> Self {
        self.settings.cache.scrub_rate = ByteRate(bytes);
        self
    }

    /// Streams the content of paths that match this glob to clients and does not keep it.
    pub fn never_keep(mut self, glob: impl Into<String>) -> Self {
        self.never.push(glob.into());
        self
    }

    /// Keeps catalogs, records and heads in this store.
    ///
    /// The store is not believed: each catalog node is held against its id, each record against the one that was stored. What
    /// is wrong is not used, and the log names the store; it also does if the store forgets. One that is known to keep the
    /// guarantees of [`SnapshotStore`] is given to [`trusted_snapshots`](Self::trusted_snapshots).
    pub fn snapshots(mut self, store: impl SnapshotStore) -> Self {
        self.snapshots = Some(Arc::new(VerifyingStore::new(store)));
        self
    }

    /// The same of a store that is believed, as a `DiskSnapshotStore` may be.
    pub fn trusted_snapshots(mut self, store: impl SnapshotStore) -> Self {
        self.snapshots = Some(Arc::new(store));
        self
    }

    /// Orders what is fetched with this scheduler.
    pub fn scheduler(mut self, scheduler: impl Scheduler + 'static) -> Self {
        self.scheduler = Some(Box::new(scheduler));
        self
    }

    /// Follows one more repository.
    pub fn repository(mut self, repository: Repository) -> Self {
        self.repositories.push(repository);
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

    /// How masters and trackers are connected to.
    pub fn outgoing(mut self, outgoing: OutgoingConfig) -> Self {
        self.settings.outgoing = outgoing;
        self
    }

    /// What is fetched ahead of repositories that have no rules of their own.
    pub fn prefetch(mut self, rules: PrefetchRules) -> Self {
        let preseed = &mut self.settings.preseed;
        let RulesConfig {
            first,
            never,
            suggested,
            popular,
            rest,
        } = rules.0;
        (preseed.first, preseed.never) = (first, never);
        (preseed.suggested, preseed.popular, preseed.rest) = (suggested, popular, rest);
        self
    }

    /// Most bytes per second for all that is fetched in the background.
    pub fn prefetch_rate(mut self, bytes: u64) -> Self {
        self.settings.preseed.max_rate = Some(ByteRate(bytes));
        self
    }

    /// One more part of the day, in local time, in which anything is fetched ahead; without any, always.
    pub fn prefetch_hours(mut self, hours: DayHours) -> Self {
        self.settings.preseed.hours.push(hours);
        self
    }

    /// Most bytes that are fetched ahead in 24 hours.
    pub fn prefetch_budget(mut self, bytes: u64) -> Self {
        self.settings.preseed.budget = Some(ByteSize(bytes));
        self
    }

    /// Most bytes per second for all that is fetched.
    pub fn fetch_rate(mut self, bytes: u64) -> Self {
        self.settings.fetch.max_rate = Some(ByteRate(bytes));
        self
    }

    /// Limits for each master or peer.
    pub fn fetch_source(mut self, limits: SourceConfig) -> Self {
        self.settings.fetch.source = limits;
        self
    }

    /// Limits of one class of what is fetched, instead of what was said of it before.
    pub fn fetch_class(mut self, class: Class, limits: ClassConfig) -> Self {
        self.settings.fetch.class.insert(ClassName(class), limits);
        self
    }

    /// All about how much is fetched at a time, instead of what was said before.
    pub fn fetch(mut self, fetch: FetchConfig) -> Self {
        self.settings.fetch = fetch;
        self
    }

    /// For so long the files of a replaced snapshot are still found under `current`.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.snapshots.grace = TimeSpan(grace);
        self
    }

    /// Keeps the newest so many snapshots, of those that the master has.
    pub fn keep_last(mut self, snapshots: u32) -> Self {
        self.settings.snapshots.keep_last = snapshots;
        self
    }

    /// Keeps all snapshots released within this time, of those that the master has.
    pub fn keep_within(mut self, age: Duration) -> Self {
        self.settings.snapshots.keep_within = Some(TimeSpan(age));
        self
    }

    /// Never finds paths that match this glob in a replaced snapshot.
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

    /// Answers the command line (`imnode status` and its kind) on a Unix socket at this path.
    pub fn control_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.control.socket = Some(path.into());
        self
    }

    /// Checks what was given and returns the configuration that it makes, with all defaults, but for parts of one's own. Opens
    /// nothing and looks at no file.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn into_config(mut self) -> Result<NodeConfig, BuildError> {
        self.complete().map(|_| self.settings)
    }

    /// Checks what was given, opens cache and store, and takes up what they hold. Asks no master, and nothing runs before the
    /// node is [served](super::NodeServer) or [followed](Node::follow). Must be called inside a tokio runtime. Dropping the
    /// future leaves nothing behind but directories.
    ///
    /// # Errors
    /// [`NodeError::Build`] for what was given; the other variants for what opening it met.
    pub async fn build(mut self) -> Result<Node, NodeError> {
        let sources = self.complete()?;
        let storage = Storage {
            cache: self.cache,
            snapshots: self.snapshots,
        };
        let parts = match self.dir {
            Some(dir) => defaults::in_directory(&dir, &self.settings.cache, storage)?,
            None => defaults::in_memory(self.settings.cache.limits(), storage),
        };
        let scheduler = self.scheduler;
        let named = self.settings.control.socket.clone();
        let control_socket = named.or_else(|| self.is_of_file.then(|| self.settings.control_socket()));
        Assembly {
            config: self.settings,
            control_socket,
            parts,
            sources,
            scheduler: scheduler.unwrap_or_else(|| Box::new(PriorityScheduler::new(SchedulerLimits::default()))),
        }
        .open()
        .await
    }

    /// Checks everything and completes the settings. Returns the parts of each repository, in their order.
    fn complete(&mut self) -> Result<Vec<Sources>, BuildError> {
        self.check()?;
        let mut sources = Vec::with_capacity(self.repositories.len());
        for repository in std::mem::take(&mut self.repositories) {
            let (settings, parts) = repository.split()?;
            let field = format!("repository '{}' master", settings.name);
            BuildError::of_settings(field, self.settings.check_asking(&settings))?;
            self.settings.repositories.push(settings);
            sources.push(parts);
        }
        let all = self.settings.repositories.iter();
        check_mounts(all.clone().map(|one| (&one.name, one.mounts.as_slice())))?;
        check_http_rules(&self.settings.http, all.map(|one| &one.name))?;
        Ok(sources)
    }

    /// Checks all but single repositories, and sets what follows from it.
    fn check(&mut self) -> Result<(), BuildError> {
        if self.repositories.is_empty() && !self.is_of_file {
            let advice = "give it one: Repository::new(NAME).master(URL).trust(KEY)";
            return Err(BuildError::missing("repository", advice));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.repositories.iter().find(|one| !names.insert(&one.name)) {
            let advice = "it is there twice; name several masters of one repository with .master";
            return Err(BuildError::invalid("repository", &twice.name, advice));
        }
        if self.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            let advice = "it is no directory; leave it out to keep everything in memory, or say \".\"";
            return Err(BuildError::invalid("dir", "", advice));
        }
        if self.limits.is_some() && self.cache.is_some() {
            let advice = "a cache that is given has its limits; set them where it is made";
            return Err(BuildError::contradiction("cache_limits", "cache", advice));
        }
        self.check_expiry()?;
        self.set_cache()?;
        let snapshots = &mut self.settings.snapshots;
        let globs = snapshots.grace_never.texts().iter().chain(&self.grace_never);
        snapshots.grace_never = check_globs("grace_never", globs)?;
        check_rules("prefetch", &self.settings.preseed.rules())?;
        self.check_settings()
    }

    /// Checks what single methods and settings say.
    fn check_settings(&self) -> Result<(), BuildError> {
        let settings = &self.settings;
        for (field, rate) in [
            ("prefetch_rate", settings.preseed.max_rate),
            ("fetch_rate", settings.fetch.max_rate),
            ("scrub_rate", Some(settings.cache.scrub_rate)),
        ] {
            if rate == Some(ByteRate(0)) {
                let advice = "nothing would come; leave it out for the default";
                return Err(BuildError::invalid(field, 0, advice));
            }
        }
        for (ClassName(class), limits) in &settings.fetch.class {
            BuildError::of_settings(format!("fetch_class '{}'", class.name()), limits.check())?;
        }
        let sections = [
            ("verify", settings.cache.check_scrubbing()),
            ("fetch", settings.fetch.check_own()),
            ("fetch_source", settings.fetch.source.check()),
            ("peers", settings.peers.check()),
            ("outgoing", settings.outgoing.check()),
            ("http", settings.http.check_alone()),
            ("listen", settings.check_listening()),
        ];
        let mut sections = sections.into_iter();
        sections.try_for_each(|(field, checked)| BuildError::of_settings(field, checked))
    }

    /// An order of expiry is for the cache on a disk that is made here.
    fn check_expiry(&mut self) -> Result<(), BuildError> {
        match (self.expiry, &self.cache, &self.dir) {
            (None, ..) => {}
            (Some(_), Some(_), _) => {
                let advice = "a cache that is given has its order; set it where it is made";
                return Err(BuildError::contradiction("expiry", "cache", advice));
            }
            (Some(_), None, None) => {
                let advice = "expiry is for a cache in a directory; the one in memory has an order of its own";
                return Err(BuildError::missing("dir", advice));
            }
            (Some(policy), None, Some(_)) => self.settings.cache.policy = policy,
        }
        Ok(())
    }

    /// Sets what the methods say of the cache. What they do not say is as the file has it, if there is one.
    fn set_cache(&mut self) -> Result<(), BuildError> {
        let cache = &mut self.settings.cache;
        let default = match (&self.cache, &self.dir) {
            (Some(cache), _) => cache.usage().max_bytes,
            (None, _) if self.is_of_file => None,
            (None, Some(_)) => Some(DISK_CACHE_BYTES),
            (None, None) => Some(MEMORY_CACHE_BYTES),
        };
        cache.max_size = default.map_or(cache.max_size, ByteSize);
        if let Some(limits) = self.limits {
            if limits.max_bytes == Some(0) || limits.max_objects == Some(0) {
                let advice = "it must be more than 0; to keep nothing, say .never_keep(\"*\")";
                return Err(BuildError::invalid("cache_limits", format!("{limits:?}"), advice));
            }
            cache.max_size = limits.max_bytes.map_or(cache.max_size, ByteSize);
            cache.max_objects = limits.max_objects;
            cache.keep_free = (limits.keep_free_bytes > 0).then_some(ByteSize(limits.keep_free_bytes));
        }
        cache.never = check_globs("never_keep", cache.never.texts().iter().chain(&self.never))?;
        cache.dir = self.dir.clone().unwrap_or_default();
        Ok(())
    }
}
