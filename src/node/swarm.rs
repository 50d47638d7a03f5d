//! The node's part in the swarms of its repositories.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use instantmirror_core::traits::Objects;
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{NodeId, RepoName, Snapshot};
use instantmirror_store::disk::Disk;
use instantmirror_store::piece_map::PieceMapError;
use instantmirror_swarm::peer::{Origin, SwarmTransport};
use instantmirror_swarm::{Follower, HttpOrigin};

use super::parts::NodeCache;
use super::{Node, NodeError};
use crate::config::NodeConfig;
use crate::peering::{
    ExportChanges, ExportTerms, Exports, HaveKeeper, JoinAs, Peering, Remembered, RepositoryPieces, RepositorySwarm,
    SwarmsStatus, discover, unhex,
};

/// What the piece spaces of repositories lie in, beside their catalogs.
const DIR: &str = "swarm";
/// Who is in a swarm is looked at this often, to be remembered.
const LOOK: Duration = Duration::from_secs(5);
/// The master is asked anew for its swarm this often: it may have another one, or another address.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What a node needs for its swarms.
#[derive(Debug)]
pub(super) struct Swarming {
    pub(super) peering: Arc<Peering>,
    pub(super) have: HaveKeeper,
    pub(super) exports: Exports,
    objects: Arc<dyn Objects>,
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
        cache: &NodeCache,
        disk: &Arc<dyn Disk>,
    ) -> Result<Option<Arc<Self>>, NodeError> {
        let Some(peering) = Peering::open(&config.peers, &config.outgoing).await? else {
            return Ok(None);
        };
        let objects: Arc<dyn Objects> = cache.shared();
        let exports = Exports::new(ExportTerms {
            peering: Arc::clone(&peering),
            objects: Arc::clone(&objects),
            role: JoinAs::Node,
            is_private: config.peers.private,
        });
        Ok(Some(Arc::new(Self {
            peering,
            have: HaveKeeper::new(cache.shared()),
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
    pub(super) fn add(&self, name: &RepoName, masters: &[HttpOrigin]) -> Arc<SwarmTransport> {
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

/// Our part in one swarm.
#[derive(Debug)]
struct Part {
    joined: RepositorySwarm,
    remembered: Remembered,
}

impl Part {
    /// Tells of whom the operator or the master named, and of those who were in the swarm before.
    fn may_meet(&self, swarming: &Swarming, named: &[SocketAddr]) {
        let (swarms, swarm) = (&swarming.peering.swarms, &self.joined.swarm);
        for (peers, origin) in [(named, Origin::Named), (&self.remembered.peers, Origin::Peer)] {
            peers.iter().for_each(|peer| swarms.add_peer(swarm, *peer, origin));
        }
    }

    /// Writes down what a restart wants to know.
    async fn write_down(&self, swarming: &Swarming, name: &RepoName) {
        let (disk, remembered, dir) = (Arc::clone(&swarming.disk), self.remembered.clone(), dir_of(name));
        let written = tokio::task::spawn_blocking(move || remembered.save(disk.as_ref(), &dir));
        let written = written.await.map_err(|error| error.to_string());
        if let Err(error) = written.and_then(|saved| saved.map_err(|error| error.to_string())) {
            tracing::error!(repository = %name, "after a restart the swarm is known when the master is there: {error}");
        }
    }
}

/// Where a repository's piece space lies.
fn dir_of(name: &RepoName) -> PathBuf {
    Path::new(DIR).join(name.as_str())
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
        let (pieces, remembered) = {
            let (disk, objects) = (Arc::clone(&swarming.disk), Arc::clone(&swarming.objects));
            let dir = dir_of(name);
            let open = move || {
                let pieces = RepositorySwarm::open_pieces(Arc::clone(&disk), &dir, piece_bytes, objects)?;
                Ok::<_, PieceMapError>((pieces, Remembered::load(disk.as_ref(), &dir)))
            };
            match tokio::task::spawn_blocking(open).await {
                Ok(Ok(opened)) => opened,
                Ok(Err(error)) => return tracing::error!(repository = %name, "there is no swarm: {error}"),
                Err(error) => return tracing::error!(repository = %name, "there is no swarm: {error}"),
            }
        };
        let Some(repository) = swarming.of(name) else { return };
        let mut part: Option<Part> = None;
        if let Some(remembered) = remembered {
            // The master may be away: what it said last is good until it says something else.
            part = self.enter(swarming, follower, &pieces, remembered).await;
        }
        loop {
            let discovered = tokio::select! {
                discovered = discover(name, &repository.masters) => discovered,
                () = self.take_part(swarming, follower, &mut part) => continue,
            };
            let is_same = part
                .as_ref()
                .is_some_and(|part| part.remembered.offer == discovered.offer);
            if !is_same {
                let peers = part.take().map_or_else(Vec::new, |old| {
                    swarming.have.remove(&old.joined.swarm);
                    swarming.peering.leave(&old.joined.swarm.info_hash());
                    old.remembered.peers
                });
                let offer = discovered.offer;
                part = self
                    .enter(swarming, follower, &pieces, Remembered { offer, peers })
                    .await;
                if let Some(part) = &part {
                    part.write_down(swarming, name).await;
                }
            }
            swarming.know_masters(name, &discovered.peers);
            if let Some(part) = &part {
                part.may_meet(swarming, &discovered.peers);
            }
            let taking_part = self.take_part(swarming, follower, &mut part);
            let _: Result<(), _> = tokio::time::timeout(ASK_AGAIN, taking_part).await;
        }
    }

    /// Joins a swarm, and tells it what is here. `None` if it has no name.
    async fn enter(
        &self,
        swarming: &Arc<Swarming>,
        follower: &Follower,
        pieces: &Arc<RepositoryPieces>,
        remembered: Remembered,
    ) -> Option<Part> {
        let name = follower.state().name.clone();
        let Ok(info_hash) = remembered.offer.info_hash.parse() else {
            tracing::warn!(repository = %name, "the master tells of a swarm without a name");
            return None;
        };
        let secret = remembered.offer.secret.as_deref().and_then(unhex);
        let is_private = self.config.peers.private;
        let (peering, pieces) = (&swarming.peering, Arc::clone(pieces));
        let joined = RepositorySwarm::join(peering, pieces, info_hash, secret, is_private, JoinAs::Node);
        tracing::info!(repository = %name, swarm = %info_hash, "joined the swarm");
        self.keep_up(swarming, follower, &joined).await;
        let own = self.config.peers.trackers.iter().cloned();
        let mut trackers: Vec<String> = own.map(String::from).collect();
        trackers.extend(remembered.offer.trackers.iter().cloned());
        trackers.dedup();
        peering.announce(&joined.swarm, &trackers);
        if let Some(known) = swarming.repositories().get_mut(&name) {
            known.joined = Some(joined.clone());
        }
        swarming.set_swarms(&name);
        let (keeper, share) = (Arc::clone(swarming), joined.share());
        // Goes through the whole cache: beside everything else.
        tokio::task::spawn_blocking(move || keeper.have.add(share));
        let part = Part { joined, remembered };
        part.may_meet(swarming, &self.config.peers.connect);
        Some(part)
    }

    /// Keeps the swarm up with the catalogs, and remembers who is in it. For ever; drop it to stop.
    async fn take_part(&self, swarming: &Arc<Swarming>, follower: &Follower, part: &mut Option<Part>) {
        let Some(part) = part else {
            return std::future::pending().await;
        };
        let name = follower.state().name.clone();
        part.may_meet(swarming, &self.config.peers.connect);
        let (mut states, mut staged) = (follower.subscribe(), follower.staged());
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        self.keep_up(swarming, follower, &part.joined).await;
        loop {
            let changed = tokio::select! {
                changed = states.changed() => changed,
                changed = staged.changed() => changed,
                _ = look.tick() => {
                    if part.remembered.meet(&part.joined.swarm.reachable()) {
                        part.write_down(swarming, &name).await;
                    }
                    continue;
                }
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
            self.keep_up(swarming, follower, &part.joined).await;
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
