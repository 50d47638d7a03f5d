//! The node: shows the snapshots of its masters whole, and fetches each file when it is first read.

mod adopt;
mod assembly;
mod builder;
mod control;
mod defaults;
mod identity;
mod parts;
mod preseed;
mod publication;
mod reload;
mod repository;
mod serve;
mod standings;
mod status;
mod swarm;
mod tags;
mod takedown;
mod token;
mod torrents;
mod verify;
mod verifying;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::traits::{CatalogGarbage, Collected, Inventory, SnapshotStore};
use instantmirror_core::{RepoName, Snapshot, SnapshotId};
use instantmirror_store::StoreError;
use instantmirror_store::disk::DiskLock;
use instantmirror_swarm::{FetchEngine, Follower, HttpOrigin, Intake};
use tokio::task::JoinSet;

use crate::background::Background;
use crate::config::NodeConfig;

use adopt::Adoption;
use parts::NodeCache;
use preseed::{Ahead, Preseed, RulesDriver};
use swarm::Swarming;
use tags::Tags;
use torrents::TorrentKeeper;
use verify::SharedVerification;

pub use crate::reload::{Reloaded, Reloader};
pub use adopt::{AdoptError, AdoptMethod, AdoptRequest, AdoptStatus, AdoptTrust};
pub use builder::{DISK_CACHE_BYTES, MEMORY_CACHE_BYTES, NodeBuilder};
pub use control::routes;
pub(crate) use control::{ADOPT_PATH, VERIFY_PATH};
pub(crate) use control::{PREFETCH_PATH, Prefetched};
pub(crate) use control::{TAG_PATH, TagRequest, UNTAG_PATH};
pub(crate) use preseed::PrefetchRequest;
pub use preseed::{PrefetchError, PrefetchStatus, PreseedStatus, StepStatus};
pub use publication::NodePublication;
pub use repository::{PrefetchRules, Repository};
pub use serve::NodeServer;
pub use tags::{TagError, TagStatus};
pub use token::TokenError;
pub use verify::{VerifyError, VerifyRequest, VerifyStatus};

pub use status::{
    CacheStatus, FetchStatus, KeyStatus, NodeStatus, QueuedStatus, RepositoryStatus, SourceStatus, TransferStatus,
};

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Its cache or store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What its builder was given.
    #[error(transparent)]
    Build(#[from] crate::BuildError),
    /// The directory of the cache is something else.
    #[error("{} is the store of a master: give the cache a directory of its own in [cache] dir", dir.display())]
    IsStore {
        /// The directory.
        dir: PathBuf,
    },
    /// Its cache, when it is told what to keep.
    #[error(transparent)]
    Cache(#[from] instantmirror_core::CacheError),
    /// The head or a snapshot record in its store.
    #[error(transparent)]
    Snapshots(#[from] instantmirror_core::StoreError),
    /// The file with the token for a master.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// How connections are to be made.
    #[error("outgoing connections: {0}")]
    Outgoing(String),
    /// A master's URL.
    #[error(transparent)]
    Master(#[from] instantmirror_core::TransportError),
    /// Threads for what nobody waits for.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    /// The HTTP server.
    #[error(transparent)]
    Http(#[from] crate::serve::OpenError),
    /// The sockets for peers.
    #[error(transparent)]
    Swarm(#[from] crate::peering::SwarmError),
}

/// Catalogs are cleaned up no more often than this, since each time all of them are walked.
const CATALOG_INTERVAL: Duration = Duration::from_secs(600);
/// While a snapshot is being taken in, the cleaner looks again after this.
const CATALOG_RETRY: Duration = Duration::from_secs(1);

/// A node: its cache, its followers and its fetch engine. Nothing runs until it is
/// [served](NodeServer) or its [followers](Node::follow) are polled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    config: Arc<NodeConfig>,
    /// Absent if nobody wants to command it.
    control_socket: Option<PathBuf>,
    cache: NodeCache,
    snapshots: Arc<dyn SnapshotStore>,
    followers: Arc<BTreeMap<RepoName, Follower>>,
    /// The masters that know us, by repository.
    registered: Arc<BTreeMap<RepoName, Vec<HttpOrigin>>>,
    intake: Intake,
    engine: FetchEngine,
    tags: Arc<Tags>,
    verification: SharedVerification,
    adoption: Arc<Adoption>,
    ahead: Arc<Ahead>,
    /// Absent if the configuration wants no swarm.
    swarming: Option<Arc<Swarming>>,
    torrents: Arc<TorrentKeeper>,
    background: Arc<Background>,
    /// Present if the store of snapshots, which is of the embedder, keeps nobody from the directory.
    _lock: Option<Arc<DiskLock>>,
}

impl Node {
    /// Begins a node out of parts of one's own; see [`NodeBuilder`].
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// Opens the node that a configuration file describes, and takes up what its directory holds. Asks no master. Must be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// [`NodeError::Store`] with [`StoreError::Locked`] if another process uses the directory.
    pub async fn open(config: NodeConfig) -> Result<Self, NodeError> {
        NodeBuilder::from(config).build().await
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// What it shows.
    #[must_use]
    pub fn publication(&self) -> Arc<NodePublication> {
        Arc::new(NodePublication::new(self.clone()))
    }

    /// Follows all masters for ever, and lists the cache meanwhile. Drop the future to stop.
    pub async fn follow(&self) {
        let cache = self.cache.clone();
        // Lists up to millions of files: beside the first requests, not before them.
        tokio::task::spawn_blocking(move || {
            if let Some(Err(error)) = cache.inventory().map(Inventory::load) {
                tracing::error!("the cache cannot be listed: {error}; it is tried again when an object is fetched");
            }
        });
        let followers = futures_util::future::join_all(self.followers.values().map(Follower::run));
        let swarming = futures_util::future::join(self.swarm(), self.keep_torrents());
        futures_util::future::join3(followers, swarming, self.work_in_the_background()).await;
    }

    /// All that nobody waits for, for ever.
    async fn work_in_the_background(&self) {
        let node = self.clone();
        let work = async move {
            let fetching = futures_util::future::join3(node.keep_tags(), node.preseed(), node.apply_rules());
            let upkeep = futures_util::future::join3(node.classify_objects(), node.scrub(), node.clean_catalogs());
            futures_util::future::join(fetching, upkeep).await;
        };
        // A set, since it ends with this future.
        let mut tasks = JoinSet::new();
        tasks.spawn_on(work, self.background.handle());
        tasks.join_next().await;
    }

    /// Applies the rules of what is fetched ahead, for ever.
    async fn apply_rules(&self) {
        let all = self.followers.iter().map(|(name, follower)| async move {
            RulesDriver::new(self, name.clone()).run(follower).await;
        });
        futures_util::future::join_all(all).await;
    }

    /// Fetches what is staged ahead of its release, for ever.
    async fn preseed(&self) {
        let all = self.registered.iter().filter_map(|(name, origins)| {
            let follower = self.followers.get(name)?;
            let preseed = Preseed::new(self, name.clone(), origins.clone());
            Some(async move { preseed.run(follower).await })
        });
        futures_util::future::join_all(all).await;
    }

    /// Gives the space of dropped snapshots' catalogs back, for ever: soon after the first is dropped, then now and then.
    async fn clean_catalogs(&self) {
        if self.snapshots.garbage().is_none() {
            return std::future::pending().await;
        }
        loop {
            self.intake.dropped().await;
            let pause = loop {
                if let Some(pause) = self.intake.try_pause() {
                    break pause;
                }
                tokio::time::sleep(CATALOG_RETRY).await;
            };
            let store = Arc::clone(&self.snapshots);
            let cleaned = tokio::task::spawn_blocking(move || {
                let cleaned = store.garbage().map(CatalogGarbage::collect).transpose();
                drop(pause);
                cleaned
            });
            match cleaned.await {
                Ok(Ok(done)) => {
                    let Collected { nodes, bytes } = done.unwrap_or_default();
                    tracing::info!(nodes, bytes, "catalogs cleaned up");
                }
                Ok(Err(error)) => tracing::error!("the catalogs cannot be cleaned up: {error}"),
                Err(error) => tracing::error!("the catalogs cannot be cleaned up: {error}"),
            }
            tokio::time::sleep(CATALOG_INTERVAL).await;
        }
    }

    /// Waits until `current` of a repository is this snapshot; for ever, if it never is or there is no such
    /// repository here. Cancellation safe.
    pub async fn wait_until_current(&self, repository: &RepoName, snapshot: SnapshotId) {
        if let Some(follower) = self.followers.get(repository) {
            let mut state = follower.subscribe();
            if state.wait_for(|state| state.current == Some(snapshot)).await.is_ok() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Waits until a snapshot of a repository is shown as `current`, and returns it; `None` if there is no such repository here.
    /// Cancellation safe.
    pub async fn wait_until_shown(&self, repository: &RepoName) -> Option<Arc<Snapshot>> {
        let mut state = self.followers.get(repository)?.subscribe();
        let shown = state.wait_for(|state| state.current.is_some()).await.ok()?;
        shown.snapshots.get(&shown.current?).cloned()
    }

    /// Writes down what a restart wants to know.
    ///
    /// # Errors
    /// [`instantmirror_core::CacheError::Io`].
    pub async fn checkpoint(&self) -> Result<(), instantmirror_core::CacheError> {
        // Before all is listed there is nothing new to say.
        match self.cache.is_loaded() {
            true => self.engine.cache().checkpoint().await,
            false => Ok(()),
        }
    }
}

/// Whether a file holds a token that a start could use.
pub(crate) fn check_token(file: &Path) -> Result<(), TokenError> {
    token::load(file).map(drop)
}
