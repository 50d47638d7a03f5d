//! The node's part in the swarms of its repositories.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use instantmirror_core::traits::{ObjectCache, PeerTransport};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{NodeId, RepoName, Snapshot};
use instantmirror_store::cache::DiskCache;
use instantmirror_store::disk::Disk;
use instantmirror_swarm::peer::{Origin, SwarmTransport};
use instantmirror_swarm::{Follower, HttpOrigin};

use super::{Node, NodeError};
use crate::config::NodeConfig;
use crate::peering::{
    ExportChanges, ExportTerms, Exports, HaveKeeper, JoinAs, Peering, RepositorySwarm, SwarmOffer, SwarmsStatus,
    discover, unhex,
};

/// What the piece spaces of repositories lie in, beside their catalogs.
const DIR: &str = "swarm";
/// The master is asked anew for its swarm this often: it may have another one, or another address.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What a node needs for its swarms.
#[derive(Debug)]
pub(super) struct Swarming {
    pub(super) peering: Arc<Peering>,
    pub(super) have: HaveKeeper,
    pub(super) exports: Exports,
    objects: Arc<dyn ObjectCache>,
    disk: Arc<dyn Disk>,
    repositories: Mutex<BTreeMap<RepoName, Repository>>,
}

#[derive(Debug, Clone)]
struct Repository {
    transport: Arc<SwarmTransport>,
    masters: Vec<HttpOrigin>,
    joined: Option<RepositorySwarm>,
    /// Where masters are reached as peers, as far as is known.
    peers: Vec<SocketAddr>,
}

impl Swarming {
    /// Opens the sockets for peers; `None` if the configuration has none.
    pub(super) async fn open(
        config: &NodeConfig,
        cache: &DiskCache,
        disk: &Arc<dyn Disk>,
    ) -> Result<Option<Arc<Self>>, NodeError> {
        let Some(peering) = Peering::open(&config.peers).await? else {
            return Ok(None);
        };
        let objects: Arc<dyn ObjectCache> = Arc::new(cache.clone());
        let exports = Exports::new(ExportTerms {
            peering: Arc::clone(&peering),
            objects: Arc::clone(&objects),
            role: JoinAs::Node,
            is_private: config.peers.private,
        });
        Ok(Some(Arc::new(Self {
            peering,
            have: HaveKeeper::new(cache),
            exports,
            objects,
            disk: Arc::clone(disk),
            repositories: Mutex::default(),
        })))
    }

    fn repositories(&self) -> std::sync::MutexGuard<'_, BTreeMap<RepoName, Repository>> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The swarm of a repository as a source; it has nothing until it is joined.
    pub(super) fn add(&self, name: &RepoName, masters: &[HttpOrigin]) -> Arc<dyn PeerTransport> {
        let transport = Arc::new(SwarmTransport::new(format!("swarm of {name}")));
        let repository = Repository {
            transport: Arc::clone(&transport),
            masters: masters.to_vec(),
            joined: None,
            peers: Vec::new(),
        };
        self.repositories().insert(name.clone(), repository);
        transport
    }

    fn of(&self, name: &RepoName) -> Option<Repository> {
        self.repositories().get(name).cloned()
    }

    /// Asks the swarms of a repository from now on that there are now: its own first.
    fn set_swarms(&self, name: &RepoName) {
        let Some(repository) = self.of(name) else { return };
        let own = repository.joined.map(|joined| joined.swarm);
        let exports = self.exports.of(name).into_iter().map(|export| export.swarm);
        repository
            .transport
            .set_swarms(own.into_iter().chain(exports).collect());
    }

    /// Takes up that torrents of a repository were joined and left. Blocks for as long as it takes to look up what is here.
    pub(super) fn exports_changed(&self, name: &RepoName, changes: &ExportChanges, connect: &[SocketAddr]) {
        for swarm in &changes.left {
            self.have.remove(swarm);
        }
        let masters = self.of(name).map(|repository| repository.peers).unwrap_or_default();
        for export in &changes.joined {
            self.have.add_known(export.share(), export.pieces.objects());
            for peer in masters.iter().chain(connect) {
                self.peering.swarms.add_peer(&export.swarm, *peer, Origin::Named);
            }
        }
        self.set_swarms(name);
    }

    /// Takes note of where a repository's masters are reached as peers.
    fn know_masters(&self, name: &RepoName, peers: &[SocketAddr]) {
        if let Some(known) = self.repositories().get_mut(name) {
            known.peers = peers.to_vec();
        }
        for export in self.exports.of(name) {
            for peer in peers {
                self.peering.swarms.add_peer(&export.swarm, *peer, Origin::Named);
            }
        }
    }

    pub(super) fn status(&self) -> SwarmsStatus {
        let repositories = self.repositories();
        let names: BTreeMap<String, String> = repositories
            .iter()
            .filter_map(|(name, repository)| {
                let joined = repository.joined.as_ref()?;
                Some((joined.swarm.info_hash().to_string(), name.to_string()))
            })
            .collect();
        drop(repositories);
        SwarmsStatus::of(&self.peering.swarms, &|hash| {
            names.get(hash).cloned().or_else(|| self.exports.label(hash))
        })
    }
}

impl Node {
    /// Takes part in the swarms, for ever.
    pub(super) async fn swarm(&self) {
        let Some(swarming) = &self.swarming else {
            return std::future::pending().await;
        };
        let repositories = self
            .followers
            .iter()
            .map(|(name, follower)| self.swarm_of(swarming, name, follower));
        let repositories = futures_util::future::join_all(repositories);
        futures_util::future::join3(swarming.peering.run(), swarming.have.run(), repositories).await;
    }

    /// The swarms that it takes part in; `None` if the configuration wants none.
    #[must_use]
    pub fn swarms(&self) -> Option<SwarmsStatus> {
        self.swarming.as_ref().map(|swarming| swarming.status())
    }

    /// Says goodbye to all peers.
    pub(super) async fn leave_swarms(&self) {
        if let Some(swarming) = &self.swarming {
            swarming.peering.shut_down().await;
        }
    }

    async fn swarm_of(&self, swarming: &Arc<Swarming>, name: &RepoName, follower: &Follower) {
        let mut states = follower.subscribe();
        // The first head says how long pieces are.
        let Ok(state) = states
            .wait_for(|state| state.head.is_some())
            .await
            .map(|state| Arc::clone(&state))
        else {
            return;
        };
        let piece_bytes = state.head.as_ref().map_or(0, |head| head.head().piece_length);
        let pieces = {
            let (disk, objects) = (Arc::clone(&swarming.disk), Arc::clone(&swarming.objects));
            let dir = Path::new(DIR).join(name.as_str());
            let open = move || RepositorySwarm::open_pieces(disk, &dir, piece_bytes, objects);
            match tokio::task::spawn_blocking(open).await {
                Ok(Ok(pieces)) => pieces,
                Ok(Err(error)) => return tracing::error!(repository = %name, "there is no swarm: {error}"),
                Err(error) => return tracing::error!(repository = %name, "there is no swarm: {error}"),
            }
        };
        let Some(repository) = swarming.of(name) else { return };
        let mut held: Option<(SwarmOffer, RepositorySwarm)> = None;
        loop {
            let discovered = discover(name, &repository.masters).await;
            let is_same = held.as_ref().is_some_and(|(offer, _)| *offer == discovered.offer);
            if !is_same {
                if let Some((_, old)) = held.take() {
                    swarming.have.remove(&old.swarm);
                    swarming.peering.leave(&old.swarm.info_hash());
                }
                let Ok(info_hash) = discovered.offer.info_hash.parse() else {
                    tracing::warn!(repository = %name, "the master tells of a swarm without a name");
                    tokio::time::sleep(ASK_AGAIN).await;
                    continue;
                };
                let secret = discovered.offer.secret.as_deref().and_then(unhex);
                let is_private = self.config.peers.private;
                let pieces = Arc::clone(&pieces);
                let joined =
                    RepositorySwarm::join(&swarming.peering, pieces, info_hash, secret, is_private, JoinAs::Node);
                tracing::info!(repository = %name, swarm = %info_hash, "joined the swarm");
                self.keep_up(swarming, follower, &joined).await;
                let mut trackers = self.config.peers.trackers.clone();
                trackers.extend(discovered.offer.trackers.iter().cloned());
                trackers.dedup();
                swarming.peering.announce(&joined.swarm, &trackers);
                if let Some(known) = swarming.repositories().get_mut(name) {
                    known.joined = Some(joined.clone());
                }
                swarming.set_swarms(name);
                let (keeper, share) = (Arc::clone(swarming), joined.share());
                // Goes through the whole cache: beside everything else.
                tokio::task::spawn_blocking(move || keeper.have.add(share));
                held = Some((discovered.offer, joined));
            }
            let Some((_, joined)) = &held else { continue };
            swarming.know_masters(name, &discovered.peers);
            for peer in discovered.peers.iter().chain(&self.config.peers.connect) {
                swarming.peering.swarms.add_peer(&joined.swarm, *peer, Origin::Named);
            }
            let mut staged = follower.staged();
            let follow = async {
                loop {
                    let changed = tokio::select! {
                        changed = states.changed() => changed,
                        changed = staged.changed() => changed,
                    };
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    self.keep_up(swarming, follower, joined).await;
                }
            };
            let _: Result<(), _> = tokio::time::timeout(ASK_AGAIN, follow).await;
        }
    }

    /// Takes in the trees of what is shown and of what is staged.
    async fn keep_up(&self, swarming: &Arc<Swarming>, follower: &Follower, joined: &RepositorySwarm) {
        let (state, staged) = (follower.state(), Arc::clone(&follower.staged().borrow()));
        let transport = swarming.of(&state.name).map(|repository| repository.transport);
        let (nodes, joined, keeper) = (Arc::clone(&self.snapshots), joined.clone(), Arc::clone(swarming));
        let roots = roots_of(&state, &staged);
        let current = current_root(&state);
        let hidden: Vec<NodeId> = staged.iter().map(|snapshot| snapshot.root.node).collect();
        let name = state.name.clone();
        let kept_up = tokio::task::spawn_blocking(move || {
            if joined.keep_up(&name, &nodes, roots, current, &hidden) {
                keeper.have.placed();
            }
        });
        if let Err(error) = kept_up.await {
            tracing::error!("peers are not told of what is new: {error}");
        }
        if let Some(transport) = transport {
            transport.placed();
        }
    }
}

fn current_root(state: &RepositoryState) -> Option<NodeId> {
    let current = state.current.as_ref().and_then(|id| state.snapshots.get(id))?;
    Some(current.root.node)
}

/// The roots of all trees, so that the current one comes last: the next one will differ least from it.
fn roots_of(state: &RepositoryState, staged: &[Arc<Snapshot>]) -> Vec<NodeId> {
    let others = state
        .snapshots
        .values()
        .filter(|snapshot| Some(snapshot.id) != state.current);
    let all = others.chain(staged).map(|snapshot| snapshot.root.node);
    all.chain(current_root(state)).collect()
}
