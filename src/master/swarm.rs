//! The master's part in the swarms of its repositories: it has everything, and names them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::traits::{Catalogs as _, NodeApi as _};
use instantmirror_core::{NodeId, RepoName};
use instantmirror_swarm::peer::Origin;

use super::{Master, MasterError, MasterPublication};
use crate::peering::{
    ExportTerms, Exports, JoinAs, Peering, RepositorySwarm, SwarmIdentity, SwarmOffer, SwarmsStatus, hex,
};
use crate::torrent::Offered;

/// What the piece spaces as peers read them lie in, beside those that publishes assign.
const DIR: &str = "swarm";

/// What a serving master needs for its swarms.
#[derive(Debug)]
pub(super) struct Seeding {
    pub(super) peering: Arc<Peering>,
    offers: BTreeMap<RepoName, (SwarmIdentity, SwarmOffer)>,
    exports: Exports,
}

impl Seeding {
    /// Opens the sockets for peers; `None` if the configuration has none. A repository whose swarm has no name is served
    /// without one, and the log says why.
    pub(super) async fn open(master: &Master) -> Result<Option<Arc<Self>>, MasterError> {
        let config = &master.config().peers;
        let Some(peering) = Peering::open(config, &master.config().outgoing).await? else {
            return Ok(None);
        };
        let mut offers = BTreeMap::new();
        for repository in &master.config().repositories {
            let name = &repository.name;
            match SwarmIdentity::open(master.notes(), &swarm_dir(name)) {
                Ok(identity) => {
                    let offer = SwarmOffer {
                        info_hash: identity.info_hash.to_string(),
                        ports: peering.ports().to_vec(),
                        // Everybody is told of them.
                        trackers: config.trackers.iter().map(|url| url.without_user().into()).collect(),
                        secret: None,
                    };
                    offers.insert(name.clone(), (identity, offer));
                }
                Err(error) => tracing::error!(repository = %name, "there is no swarm: {error}"),
            }
        }
        let exports = Exports::new(ExportTerms {
            peering: Arc::clone(&peering),
            objects: master.readable_objects(),
            role: JoinAs::Master,
            is_private: config.private,
        });
        Ok(Some(Arc::new(Self {
            peering,
            offers,
            exports,
        })))
    }

    /// What is told of a repository's swarm.
    pub(super) fn offer(&self, repository: &RepoName, is_node: bool) -> Option<Bytes> {
        let (identity, offer) = self.offers.get(repository)?;
        let secret = is_node.then(|| hex(&identity.secret));
        let offer = SwarmOffer {
            secret,
            ..offer.clone()
        };
        serde_json::to_vec(&offer).ok().map(Bytes::from)
    }

    /// Seeds exactly the torrents that are offered of a repository. Blocks on the disk.
    pub(super) fn seed_torrents<S: NodeSource>(&self, repository: &RepoName, offered: &Offered, nodes: &S) {
        let changes = self.exports.follow(repository, offered, nodes);
        let (joined, left, replaced) = (changes.joined.len(), changes.left.len(), offered.replaced());
        tracing::info!(%repository, joined, left, replaced, "torrents are seeded");
    }

    /// Whether a peer downloads the torrent with this info-hash from us.
    pub(super) fn is_wanted(&self, hash: &InfoHash) -> bool {
        self.exports.is_wanted(hash)
    }

    pub(super) fn status(&self) -> SwarmsStatus {
        let name = |hash: &str| {
            let mut offers = self.offers.iter();
            offers
                .find(|(_, (_, offer))| offer.info_hash == hash)
                .map(|(name, _)| name.to_string())
                .or_else(|| self.exports.label(hash))
        };
        SwarmsStatus::of(&self.peering.swarms, &name)
    }
}

fn swarm_dir(name: &RepoName) -> PathBuf {
    Master::repository_dir(name).join(DIR)
}

/// A slot that a publication reads; filled when the master serves.
pub(super) type SeedingSlot = OnceLock<Arc<Seeding>>;

/// Seeds all repositories, for ever.
pub(super) async fn seed(master: &Master, publication: &Arc<MasterPublication>, seeding: Option<&Arc<Seeding>>) {
    let Some(seeding) = seeding else {
        return std::future::pending().await;
    };
    let each = seeding
        .offers
        .iter()
        .map(|(name, (identity, _))| seed_one(master, publication, seeding, name, identity));
    let all = futures_util::future::join_all(each);
    futures_util::future::join(all, seeding.peering.run()).await;
}

async fn seed_one(
    master: &Master,
    publication: &Arc<MasterPublication>,
    seeding: &Arc<Seeding>,
    name: &RepoName,
    identity: &SwarmIdentity,
) {
    let mut joined: Option<RepositorySwarm> = None;
    let mut sequence = 0;
    loop {
        // None yet: the first publish is waited for.
        let Some(head) = publication.head_after(name, sequence).await else {
            return;
        };
        sequence = head.head().sequence;
        if joined.is_none() {
            let (disk, objects) = (Arc::clone(&master.parts.notes.disk), master.readable_objects());
            let (dir, piece_bytes) = (swarm_dir(name), head.head().piece_length);
            let open = move || RepositorySwarm::open_pieces(disk, &dir, piece_bytes, objects);
            let pieces = match tokio::task::spawn_blocking(open).await {
                Ok(Ok(pieces)) => pieces,
                Ok(Err(error)) => return tracing::error!(repository = %name, "there is no swarm: {error}"),
                Err(error) => return tracing::error!(repository = %name, "there is no swarm: {error}"),
            };
            let config = &master.config().peers;
            let (hash, secret) = (identity.info_hash, Some(identity.secret));
            let swarm = RepositorySwarm::join(&seeding.peering, pieces, hash, secret, config.private, JoinAs::Master);
            for peer in &config.connect {
                seeding.peering.swarms.add_peer(&swarm.swarm, *peer, Origin::Named);
            }
            let trackers: Vec<String> = config.trackers.iter().cloned().map(String::from).collect();
            seeding.peering.announce(&swarm.swarm, &trackers);
            tracing::info!(repository = %name, swarm = %hash, "seeding");
            joined = Some(swarm);
        }
        if let Some(swarm) = &joined {
            keep_up(master, publication, name, swarm).await;
        }
    }
}

/// Takes in the trees of all live snapshots, and hides what is staged.
async fn keep_up(master: &Master, publication: &Arc<MasterPublication>, name: &RepoName, swarm: &RepositorySwarm) {
    let Some(state) = publication.state(name) else { return };
    let current = state.current.as_ref().and_then(|id| state.snapshots.get(id));
    let current = current.map(|snapshot| snapshot.root.node);
    let staged: Vec<NodeId> = publication
        .staged_of(name)
        .iter()
        .map(|snapshot| snapshot.root.node)
        .collect();
    let roots: Vec<NodeId> = state.snapshots.values().map(|snapshot| snapshot.root.node).collect();
    let roots: Vec<NodeId> = roots.into_iter().chain(staged.clone()).chain(current).collect();
    let (nodes, swarm, name) = (master.snapshots(), swarm.clone(), name.clone());
    let kept_up = tokio::task::spawn_blocking(move || swarm.keep_up(&name, &nodes, roots, current, &staged));
    if let Err(error) = kept_up.await {
        tracing::error!("peers cannot be served what is new: {error}");
    }
}
