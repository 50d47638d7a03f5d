//! Putting a [`Node`] together out of its parts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use instantmirror_core::RepoName;
use instantmirror_core::traits::{Scheduler, SnapshotStore, Transport, Upstream};
use instantmirror_core::url::SecretUrl;
use instantmirror_swarm::{FetchEngine, Follower, HttpOrigin, Intake};

use super::adopt::Adoption;
use super::defaults::StorageParts;
use super::identity::NodeNumbers;
use super::parts::tell_missing;
use super::preseed::Ahead;
use super::repository::Sources;
use super::swarm::Swarming;
use super::tags::{TagList, Tags};
use super::torrents::TorrentKeeper;
use super::verify::SharedVerification;
use super::{Node, NodeError, token};
use crate::background::Background;
use crate::clock::SystemClock;
use crate::config::{NodeConfig, NodeRepository, OutgoingConfig};

/// The parts of a node, checked.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) config: NodeConfig,
    pub(super) control_socket: Option<PathBuf>,
    pub(super) parts: StorageParts,
    /// The parts of each repository, in the order of the configuration.
    pub(super) sources: Vec<Sources>,
    pub(super) scheduler: Box<dyn Scheduler>,
}

/// What follows from the repositories.
#[derive(Default)]
struct Repositories {
    followers: BTreeMap<RepoName, Follower>,
    transports: BTreeMap<RepoName, Vec<Transport>>,
    /// The masters that know us.
    registered: BTreeMap<RepoName, Vec<HttpOrigin>>,
    intake: Intake,
}

impl Assembly {
    /// Takes up what the parts hold, and opens the sockets for peers.
    pub(super) async fn open(self) -> Result<Node, NodeError> {
        let Self { config, parts, .. } = self;
        let StorageParts {
            cache,
            snapshots,
            notes,
            lock,
        } = parts;
        tell_missing(&cache);
        let (tags, tagged) = Tags::open(Arc::clone(&notes), &cache)?;
        let swarming = Swarming::open(&config, &cache, &notes).await?;
        let mut torrents = TorrentKeeper::new(&notes);
        let mut masters = Masters::of_node(&config, NodeNumbers::open(notes.as_ref()));
        let mut repositories = Repositories::default();
        for (repository, sources) in config.repositories.iter().zip(self.sources) {
            let origins = masters.of(repository)?;
            if config.peers.torrents && !origins.is_empty() {
                torrents.follow(&repository.name, &origins);
            }
            let swarm = swarming
                .as_ref()
                .map(|swarming| Transport::Swarm(swarming.add(&repository.name, &origins)));
            repositories.add(repository, &config, sources, (swarm, origins), (&snapshots, &tagged))?;
        }
        let engine = FetchEngine::new(cache.shared(), repositories.transports, self.scheduler);
        engine.never_keep(config.cache.never.clone());
        engine.set_limits(config.fetch_limits());
        let background = Background::start().map_err(NodeError::Threads)?;
        engine.run_background_on(background.handle().clone());
        let config = Arc::new(config);
        Ok(Node {
            ahead: Arc::new(Ahead::new(&config)),
            config,
            control_socket: self.control_socket,
            cache,
            snapshots,
            followers: Arc::new(repositories.followers),
            registered: Arc::new(repositories.registered),
            intake: repositories.intake,
            engine,
            tags: Arc::new(tags),
            verification: SharedVerification::default(),
            adoption: Arc::<Adoption>::default(),
            swarming,
            torrents: Arc::new(torrents),
            background: Arc::new(background),
            _lock: lock.map(Arc::new),
        })
    }
}

impl Repositories {
    /// Follows a repository: its own sources are asked first, then its swarm, then its masters.
    fn add(
        &mut self,
        repository: &NodeRepository,
        config: &NodeConfig,
        sources: Sources,
        (swarm, origins): (Option<Transport>, Vec<HttpOrigin>),
        (store, tagged): (&Arc<dyn SnapshotStore>, &TagList),
    ) -> Result<(), NodeError> {
        let (name, trust) = (repository.name.clone(), repository.trust.clone());
        let is_registered = repository.token_file.is_some();
        if is_registered {
            self.registered.insert(name.clone(), origins.clone());
        }
        let masters = origins
            .iter()
            .map(|origin| Arc::new(origin.clone()) as Arc<dyn Upstream>);
        let upstreams = sources.upstreams.into_iter().chain(masters).collect();
        let masters = origins.iter().cloned().map(Transport::origin);
        let transports = sources.transports.into_iter().chain(swarm).chain(masters);
        self.transports.insert(name.clone(), transports.collect());
        let follower = Follower::open(name.clone(), upstreams, Arc::clone(store), trust, Arc::new(SystemClock))?;
        let mut follower = follower.keeping(config.snapshots.policy()).sharing(self.intake.clone());
        if is_registered {
            follower = follower.registered();
        }
        let own = tagged.iter().filter(|((of, _), _)| *of == name);
        let follower = follower.tagged(own.map(|((_, tag), id)| (tag.clone(), *id)).collect())?;
        self.followers.insert(name, follower);
        Ok(())
    }
}

/// The masters of all repositories. Repositories that reach a master in the same way share their connections to it.
struct Masters<'a> {
    config: &'a NodeConfig,
    numbers: NodeNumbers,
    known: BTreeMap<(SecretUrl, Option<PathBuf>, OutgoingConfig), HttpOrigin>,
}

impl<'a> Masters<'a> {
    fn of_node(config: &'a NodeConfig, numbers: NodeNumbers) -> Self {
        Self {
            config,
            numbers,
            known: BTreeMap::new(),
        }
    }

    fn of(&mut self, repository: &NodeRepository) -> Result<Vec<HttpOrigin>, NodeError> {
        let outgoing = repository.outgoing.as_ref().unwrap_or(&self.config.outgoing);
        let mut origins = Vec::with_capacity(repository.master.len());
        for url in &repository.master {
            let key = (url.clone(), repository.token_file.clone(), outgoing.clone());
            let origin = match self.known.entry(key) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(place) => {
                    let outgoing = outgoing
                        .load(&self.config.peers.policy())
                        .map_err(NodeError::Outgoing)?;
                    let mut origin = HttpOrigin::new(url.exposed())?.with_outgoing(&outgoing)?;
                    if let Some(number) = self.numbers.for_master(url) {
                        origin = origin.with_node_id(number);
                    }
                    if let Some(file) = &repository.token_file {
                        origin = origin.with_token(&token::load(file)?)?;
                    }
                    place.insert(origin).clone()
                }
            };
            origins.push(origin);
        }
        Ok(origins)
    }
}
