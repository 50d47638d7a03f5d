//! Who may have what is staged, and who says to have it: the master's [`Gatekeeper`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use instantmirror_core::appearance::{self, Synced};
use instantmirror_core::traits::Catalogs as _;
use instantmirror_core::{Clock as _, NodeId, NodeName, ObjectId, RepoName, SignedHead, Snapshot, SnapshotId};
use instantmirror_http::request::Client;
use instantmirror_http::{Gatekeeper, HeadPoll};

use super::mirrors::{Mirrors, MirrorsStatus, StagedAt};
use super::{Master, MasterPublication};
use crate::clock::SystemClock;

/// Nodes that have all of a staged snapshot.
type Reports = BTreeMap<(RepoName, SnapshotId), BTreeSet<NodeName>>;

/// The [`Gatekeeper`] of a serving master. Reports are kept in memory: nodes repeat theirs.
#[derive(Debug)]
pub(super) struct MasterGate {
    master: Master,
    publication: Arc<MasterPublication>,
    reports: Mutex<Reports>,
    mirrors: Mirrors,
}

impl MasterGate {
    pub(super) fn new(master: Master, publication: Arc<MasterPublication>) -> Self {
        Self {
            master,
            publication,
            reports: Mutex::default(),
            mirrors: Mirrors::new(SystemClock.now()),
        }
    }

    /// The mirrors, and what they have.
    pub(super) fn mirrors(&self) -> MirrorsStatus {
        let registered = self.master.nodes().unwrap_or_default();
        let heads: BTreeMap<RepoName, Arc<SignedHead>> = self
            .publication
            .repositories()
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.publication.state(&name)?.head.clone()?)))
            .collect();
        let head = |name: &RepoName| heads.get(name).map(|head| head.head());
        let reports = self.reports().clone();
        let staged = |name: &RepoName, node: &NodeName| {
            let staged = heads.get(name).map(|head| appearance::staged(head.head()));
            let at = staged.into_iter().flatten().map(|live| StagedAt {
                snapshot: live.id,
                complete: reports
                    .get(&(name.clone(), live.id))
                    .is_some_and(|done| done.contains(node)),
            });
            at.collect()
        };
        self.mirrors.status(registered, SystemClock.now(), head, staged)
    }

    /// How many of the registered nodes have all of a staged snapshot.
    pub(super) fn share(&self, repository: &RepoName, snapshot: SnapshotId) -> Synced {
        // A registry that cannot be read counts as empty: then nothing is released by it.
        let registered = self.master.nodes().unwrap_or_default();
        let mut reports = self.reports();
        // What is no longer staged is not counted any more.
        reports.retain(|(repository, id), _| self.publication.staged(repository, *id).is_some());
        let done = reports.get(&(repository.clone(), snapshot));
        Synced {
            nodes: registered
                .iter()
                .filter(|node| done.is_some_and(|done| done.contains(node)))
                .count(),
            of: registered.len(),
        }
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gatekeeper for MasterGate {
    fn admits(&self, client: &Client) -> bool {
        self.master.config().nodes.admits(client.address)
    }

    fn node(&self, token: &str) -> Option<NodeName> {
        self.master.node_of(token)
    }

    fn staged(&self, repository: &RepoName, snapshot: SnapshotId) -> Option<Arc<Snapshot>> {
        self.publication.staged(repository, snapshot)
    }

    fn is_staged_node(&self, node: &NodeId) -> bool {
        self.publication.hidden().nodes.contains(node)
    }

    fn is_staged_object(&self, object: &ObjectId) -> bool {
        self.publication.hidden().objects.contains(object)
    }

    fn polled(&self, poll: &HeadPoll<'_>) {
        let is_here = |name: &RepoName| self.publication.state(name).is_some();
        self.mirrors.note(poll, SystemClock.now(), is_here);
    }

    fn synced(&self, repository: &RepoName, snapshot: SnapshotId, node: &NodeName) -> bool {
        if self.publication.staged(repository, snapshot).is_none() {
            return false;
        }
        let new = self
            .reports()
            .entry((repository.clone(), snapshot))
            .or_default()
            .insert(node.clone());
        if new {
            tracing::info!(%repository, %snapshot, %node, "a node has all of a staged snapshot");
        }
        true
    }
}
