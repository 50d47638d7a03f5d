//! What a node shows: every snapshot that is whole here, with content fetched on demand.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::companion::GraceRule;
use instantmirror_core::grace::fallbacks;
use instantmirror_core::traits::{Annotations, Catalogs, NodeApi, ObjectSource, TorrentLink};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{Clock as _, HeadMark, RepoName, RepoPath, SignedHead, Snapshot, SnapshotId};

use super::Node;
use super::preseed::Watched;
use crate::clock::SystemClock;
use crate::heads::{head_after, rule_of};

/// The [`Catalogs`], [`NodeApi`] and [`Annotations`] of a [`Node`].
#[derive(Debug)]
pub struct NodePublication(Node);

impl NodePublication {
    pub(super) fn new(node: Node) -> Self {
        Self(node)
    }
}

impl Catalogs for NodePublication {
    fn repositories(&self) -> Vec<RepoName> {
        self.0.followers.keys().cloned().collect()
    }

    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>> {
        self.0
            .followers
            .get(repository)
            .map(instantmirror_swarm::Follower::state)
    }

    fn fallbacks(&self, repository: &RepoName) -> Vec<Arc<Snapshot>> {
        let grace = self.0.config().snapshots.grace.0;
        let state = self.state(repository);
        state.map_or_else(Vec::new, |state| fallbacks(&state, grace, SystemClock.now()))
    }

    fn grace_rule(&self, repository: &RepoName) -> GraceRule {
        let config = &self.0.config().snapshots;
        let head = self.state(repository).and_then(|state| state.head.clone());
        let of_head = head.as_ref().map_or(&[][..], |head| &head.head().grace_never);
        rule_of(config.grace_never.texts(), of_head, config.grace_optional)
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        self.0.snapshots.clone()
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Arc::new(Watched::new(self.0.clone()))
    }
}

#[async_trait]
impl NodeApi for NodePublication {
    async fn head_after(&self, repository: &RepoName, after: u64) -> Option<Arc<SignedHead>> {
        head_after(self.0.followers.get(repository)?.subscribe(), after).await
    }

    fn head_mark(&self, repository: &RepoName) -> HeadMark {
        let follower = self.0.followers.get(repository);
        follower.map_or(HeadMark::Absent, |follower| follower.state().head_mark())
    }

    fn keys(&self, repository: &RepoName) -> Option<Bytes> {
        self.0.followers.get(repository)?.key_lists()
    }
}

impl Annotations for NodePublication {
    fn torrents(&self, repository: &RepoName, snapshot: SnapshotId, path: &RepoPath) -> Vec<TorrentLink> {
        self.0.torrents.offers().links(repository, snapshot, path)
    }
}
