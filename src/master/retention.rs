//! Which snapshots leave the head, and when: the rules of the configuration, applied.
//!
//! A snapshot goes in two steps. First it leaves the head, so nobody is promised it any longer; that is done here, in
//! the head of a publish or in one of its own. Its data is deleted later, by [`clean_up`](Master::clean_up).

use instantmirror_core::retention::RetentionPlan;
use instantmirror_core::{Clock as _, Head, RepoName, Timestamp};
use instantmirror_store::garbage::ContentMeter;

use super::writer::Writer;
use super::{Master, MasterError};
use crate::clock::SystemClock;
use crate::config::ServerRepository;

impl Master {
    /// What retention would do to a repository now, with the reasons. Changes nothing, takes no lock; with `max_bytes`
    /// configured it walks the catalogs.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::NeverPublished`], or what reading the catalogs gave.
    pub fn retention_plan(&self, name: &RepoName) -> Result<RetentionPlan, MasterError> {
        let head = self.published_head(name)?;
        self.full_plan(self.repository(name)?, &head, SystemClock.now())
    }

    /// Takes out of the head what no rule keeps, and says what that was. Their data stays until
    /// [`clean_up`](Self::clean_up). Blocks until the new head is durable.
    ///
    /// # Errors
    /// As [`retention_plan`](Self::retention_plan); [`MasterError::Store`] with
    /// [`Locked`](instantmirror_store::StoreError::Locked) while somebody publishes. Nothing has changed then.
    pub fn apply_retention(&self, name: &RepoName) -> Result<RetentionPlan, MasterError> {
        // Looked at without the lock first: mostly there is nothing to do, and measuring content takes a while.
        let held = self.published_head(name)?;
        let plan = self.full_plan(self.repository(name)?, &held, SystemClock.now())?;
        if plan.expired().next().is_none() {
            return Ok(plan);
        }
        let writer = Writer::open(self)?;
        let mut head = self.published_head(name)?;
        let plan = if head.snapshots == held.snapshots && head.tags == held.tags {
            plan
        } else {
            self.full_plan(self.repository(name)?, &head, SystemClock.now())?
        };
        plan.apply(&mut head);
        report(name, &plan);
        self.commit(&writer, head, SystemClock.now())?;
        Ok(plan)
    }

    /// Takes out of a head that is about to be signed what the rules do not keep; those that cost nothing to apply.
    pub(super) fn prune(&self, repository: &ServerRepository, head: &mut Head, now: Timestamp) {
        let plan = self.config.retention_policy(repository).plan(head, now);
        plan.apply(head);
        report(&repository.name, &plan);
    }

    fn full_plan(
        &self,
        repository: &ServerRepository,
        head: &Head,
        now: Timestamp,
    ) -> Result<RetentionPlan, MasterError> {
        let policy = self.config.retention_policy(repository);
        let mut plan = policy.plan(head, now);
        if let Some(max_bytes) = policy.max_bytes {
            let mut meter = ContentMeter::new(self.catalog_nodes());
            plan.limit_bytes(max_bytes, |id| {
                // One whose record is lost holds nothing; the next publish drops it.
                match self.kept_snapshot(&repository.name, id)? {
                    Some(snapshot) => meter.added(snapshot.root.node).map_err(MasterError::Catalog),
                    None => Ok(0),
                }
            })?;
        }
        Ok(plan)
    }
}

fn report(repository: &RepoName, plan: &RetentionPlan) {
    for snapshot in plan.expired() {
        tracing::info!(%repository, %snapshot, "snapshot expired: no rule keeps it");
    }
}
