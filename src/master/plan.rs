//! `imserver publish --dry-run`: what a publish would come to.
//!
//! It is the publish itself, with a [`Writer`] that keeps in memory what is written through it: the same scan, the same
//! rules, the same checks, so what is announced is what a publish of the same tree does. It takes no lock and leaves no
//! trace in the store.
//!
//! Memory: some 600 bytes for each file that is new or changed, what is new in the catalog included.

use std::fmt;
use std::sync::Arc;

use instantmirror_core::catalog::{Differences, NodeSource};
use instantmirror_core::{NodeId, RepoName, SnapshotId};
use instantmirror_store::scan::Scanned;

use super::publish::{PublishOptions, PublishProgress};
use super::writer::Writer;
use super::{Master, MasterError};

/// What a publish would come to.
pub struct PublishPlan {
    /// The current snapshot, `None` before the first publish.
    pub before: Option<SnapshotId>,
    /// What would become of the tree.
    pub outcome: PlannedOutcome,
    /// What the scan saw, and what it would leave out.
    pub scanned: Scanned,
    /// Everything was looked at, and not only what was named.
    pub is_full_scan: bool,
    /// Catalogs, with what the scan has made.
    nodes: Arc<dyn NodeSource>,
    root_before: Option<NodeId>,
}

impl fmt::Debug for PublishPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishPlan")
            .field("before", &self.before)
            .field("outcome", &self.outcome)
            .field("scanned", &self.scanned)
            .field("is_full_scan", &self.is_full_scan)
            .finish_non_exhaustive()
    }
}

/// What would become of a tree.
#[derive(Debug)]
pub enum PlannedOutcome {
    /// Nothing: it is what this snapshot shows, the current one.
    Unchanged(SnapshotId),
    /// Nothing: it is that of this snapshot, which was taken back.
    TakenBack(SnapshotId),
    /// A new snapshot.
    Snapshot,
    /// Nothing, for these reasons.
    Refused(Vec<MasterError>),
}

impl PublishPlan {
    /// What would differ between the current snapshot and the one that would be made, path by path. Of a tree that would
    /// be refused: without what cannot be published in it.
    pub fn differences(&self) -> Differences<Arc<dyn NodeSource>> {
        Differences::new(Arc::clone(&self.nodes), self.root_before, self.scanned.root.node)
    }
}

impl Master {
    /// Says what a [publish](Self::publish) would come to now, and changes nothing. Blocks until the source tree is
    /// scanned: new and changed files are read. Works beside whoever publishes, and needs no more than to read the store.
    ///
    /// # Errors
    /// What a publish fails with before it has looked at all of the tree. What it would be refused for after that is
    /// [`PlannedOutcome::Refused`].
    pub fn plan_publish(
        &self,
        name: &RepoName,
        options: &PublishOptions,
        progress: &dyn PublishProgress,
    ) -> Result<PublishPlan, MasterError> {
        let repository = self.repository(name)?;
        self.check_source(repository)?;
        let writer = Writer::dry(self)?;
        let published = self.published(repository)?;
        let mut seen = self.scan(repository, &writer, &published, options.hints.as_ref(), progress)?;
        let (root, current) = (seen.scanned.root, published.current.as_ref());
        let mut refused: Vec<MasterError> = seen.refusal.take().map(Into::into).into_iter().collect();
        let unchanged = current.filter(|current| current.root == root);
        let taken_back = self.taken_back_of(name, &root)?.filter(|_| !options.again);
        let outcome = match (unchanged, taken_back) {
            (Some(current), _) if refused.is_empty() => PlannedOutcome::Unchanged(current.id),
            (None, Some(snapshot)) if refused.is_empty() => PlannedOutcome::TakenBack(snapshot),
            _ => {
                match self.check_tree(repository, &writer, options, current, &seen) {
                    Err(error) if error.is_refusal() => refused.push(error),
                    checked => checked?,
                }
                if refused.is_empty() {
                    PlannedOutcome::Snapshot
                } else {
                    PlannedOutcome::Refused(refused)
                }
            }
        };
        Ok(PublishPlan {
            before: current.map(|current| current.id),
            outcome,
            scanned: seen.scanned,
            is_full_scan: seen.is_full,
            nodes: writer.catalogs.nodes(),
            root_before: current.map(|current| current.root.node),
        })
    }
}
