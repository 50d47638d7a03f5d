//! The rules of the configuration, applied to each snapshot that becomes current.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use instantmirror_core::bundle::parent;
use instantmirror_core::catalog::{CatalogError, Differences};
use instantmirror_core::preseed::{PreseedRules, Step};
use instantmirror_core::rules::PathGlobs;
use instantmirror_core::traits::{CacheLimits, Capacity, Class};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{Clock as _, FileMeta, Kind, NodeId, RepoName, RepoPath, Snapshot, StoreError};
use instantmirror_swarm::Follower;

use super::super::Node;
use super::super::parts::walker;
use super::Ahead;
use super::bring::{Bringer, How, Pass, Room};
use crate::clock::SystemClock;
use crate::config::{ByteSize, NodeConfig};

/// Before what could not be had is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Applies the rules to one repository.
pub(in super::super) struct RulesDriver {
    bringer: Bringer,
    ahead: Arc<Ahead>,
    /// Up to which tree each step is done. A step that has none begins with everything.
    done: BTreeMap<Step, NodeId>,
    /// The tree whose metadata was brought last.
    bundled: Option<NodeId>,
}

/// What holds for one pass over one snapshot.
#[derive(Clone)]
struct Terms {
    rules: Arc<PreseedRules>,
    never_kept: PathGlobs,
    /// What does not fit is left out, and may fit when these are others.
    limits: CacheLimits,
    root: NodeId,
    snapshot: Arc<Snapshot>,
}

/// How all steps ended.
#[derive(Clone, Copy)]
enum Outcome {
    /// All is done that can be done.
    Done,
    /// The cache has no room for more.
    Full,
    /// Something could not be had.
    Failed,
}

impl RulesDriver {
    pub(in super::super) fn new(node: &Node, repository: RepoName) -> Self {
        Self {
            bringer: Bringer::new(node, repository),
            ahead: Arc::clone(&node.ahead),
            done: BTreeMap::new(),
            bundled: None,
        }
    }

    fn repository(&self) -> &RepoName {
        &self.bringer.repository
    }

    /// Works for ever, on whatever is current. Drop the future to stop; what was fetched stays.
    pub(in super::super) async fn run(&mut self, follower: &Follower) {
        let (mut state, mut config) = (follower.subscribe(), self.ahead.config.subscribe());
        let mut known: Option<Terms> = None;
        loop {
            let terms = terms(
                self.repository(),
                &state.borrow_and_update(),
                &config.borrow_and_update(),
            );
            self.ahead.pacer.configure(&config.borrow().preseed);
            if known
                .as_ref()
                .is_some_and(|known| terms.as_ref().is_none_or(|terms| !terms.mean_as(known)))
            {
                self.done.clear();
            }
            known = terms;
            let work = async {
                if let Some(terms) = known.clone() {
                    self.apply(&terms).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                changed = config.changed() => if changed.is_err() { return },
                () = work => {}
            }
        }
    }

    /// Returns when there is nothing more to do for this snapshot.
    async fn apply(&mut self, terms: &Terms) {
        self.bundle(terms).await;
        if terms.rules.steps().is_empty() {
            return;
        }
        loop {
            let mut freed = self.ahead.freed.subscribe();
            let outcome = self.all_steps(terms).await;
            match outcome {
                Ok(Outcome::Done) => return,
                Ok(Outcome::Full) => {
                    // The sender lives as long as the node.
                    let _ = freed.changed().await;
                    continue;
                }
                Ok(Outcome::Failed) => {}
                // A tree that one step is compared with may be gone by now: then all of this one is looked at.
                Err(_) if forget_others(&mut self.done, terms.root) => continue,
                Err(error) => {
                    tracing::warn!(repository = %self.repository(), snapshot = %terms.snapshot.id, "not fetched ahead: {error}");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn bundle(&mut self, terms: &Terms) {
        if let Some(before) = self.bundled.replace(terms.root).filter(|before| *before != terms.root) {
            let keeps = terms.clone();
            let brought = self
                .bringer
                .bring_bundle(before, terms.root, move |path| keeps.keeps(path));
            match brought.await {
                Ok(Pass {
                    fetched: 0, failed: 0, ..
                }) => {}
                Ok(Pass { fetched, failed, .. }) => {
                    tracing::info!(repository = %self.repository(), snapshot = %terms.snapshot.id, fetched, failed, "metadata that was held is here in its new version");
                }
                Err(error) => {
                    tracing::debug!(repository = %self.repository(), "metadata is not fetched ahead: {error}");
                }
            }
        }
    }

    async fn all_steps(&mut self, terms: &Terms) -> Result<Outcome, CatalogError> {
        let missing = self.missing(terms).await?;
        let (ahead, repository) = (Arc::clone(&self.ahead), self.repository().clone());
        ahead.begin(&repository, terms.snapshot.id, &terms.rules, &missing);
        let (mut all, mut is_full) = (true, false);
        let mut held = Capacity::default();
        for (place, step) in terms.rules.steps().into_iter().enumerate() {
            let (files, bytes) = missing.get(&step).copied().unwrap_or_default();
            if files == 0 {
                self.done.insert(step, terms.root);
                continue;
            }
            let Some(pass) = self.one_step(terms, step, place, &mut held).await? else {
                ahead.note(&repository, place, |status| status.is_over = true);
                continue;
            };
            let rule = terms.rules.text(step);
            tracing::info!(%repository, snapshot = %terms.snapshot.id, class = step.class.name(), rule, files, bytes, fetched = pass.fetched, failed = pass.failed, "fetched ahead");
            ahead.note(&repository, place, |status| {
                status.failed = pass.failed;
                status.is_over = pass.failed == 0;
            });
            all &= pass.failed == 0;
            is_full |= pass.is_full;
            if pass.failed == 0 && !pass.is_full {
                self.done.insert(step, terms.root);
            }
        }
        Ok(match (all, is_full) {
            (false, _) => Outcome::Failed,
            (true, true) => Outcome::Full,
            (true, false) => Outcome::Done,
        })
    }

    /// `None` if the cache has no room for this step.
    async fn one_step(
        &self,
        terms: &Terms,
        step: Step,
        place: usize,
        held: &mut Capacity,
    ) -> Result<Option<Pass>, CatalogError> {
        let max = self.bringer.cache.capacity().unwrap_or_default();
        if held.bytes >= max.bytes || held.objects >= max.objects {
            tracing::warn!(repository = %self.repository(), rule = terms.rules.text(step), "not fetched ahead: the rules before it fill the cache, which has room for {}", ByteSize(max.bytes));
            return Ok(None);
        }
        let counted = Mutex::new(*held);
        let done = |size: u64, is_here: bool| {
            if is_here {
                let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
                *counted = Capacity {
                    objects: counted.objects + 1,
                    bytes: counted.bytes + size,
                };
                drop(counted);
                self.ahead.note(self.repository(), place, |status| {
                    status.files_done = (status.files_done + 1).min(status.files);
                    status.bytes_done = (status.bytes_done + size).min(status.bytes);
                });
            }
        };
        let how = How {
            step,
            room: if step.class <= Class::Preseed {
                Room::Made
            } else {
                Room::Free
            },
            verify: false,
            pacer: Some(&self.ahead.pacer),
            done: &done,
        };
        let (wanted, ahead, repository) = (terms.clone(), Arc::clone(&self.ahead), self.repository().clone());
        // A rule that matches more than the cache holds would else drive out its own files, again and again.
        let left = Mutex::new(Capacity {
            objects: max.objects - held.objects,
            bytes: max.bytes - held.bytes,
        });
        let walk = self
            .bringer
            .new_files(self.done.get(&step).copied(), terms.root, move |path, file| {
                wanted.step(path, &ahead, &repository) == Some(step) && take(&left, file)
            });
        let pass = self.bringer.bring(walk, &how).await?;
        *held = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(pass))
    }

    /// Files and bytes that each step lacks.
    async fn missing(&self, terms: &Terms) -> Result<BTreeMap<Step, (u64, u64)>, CatalogError> {
        let mut bases = terms
            .rules
            .steps()
            .into_iter()
            .map(|step| self.done.get(&step).copied());
        let first = bases.next().flatten();
        let base = first.filter(|first| bases.all(|base| base == Some(*first)));
        let (terms, ahead, repository) = (terms.clone(), Arc::clone(&self.ahead), self.repository().clone());
        let (store, cache) = (walker(&self.bringer.store), self.bringer.cache.clone());
        let count = tokio::task::spawn_blocking(move || {
            let mut missing: BTreeMap<Step, (u64, u64)> = BTreeMap::new();
            for difference in Differences::new(store, base, terms.root) {
                let difference = difference?;
                let Some(Kind::File(file)) = difference.after.map(|meta| meta.kind) else {
                    continue;
                };
                let Some(step) = terms.step(&difference.path, &ahead, &repository) else {
                    continue;
                };
                if file.size > 0 && !matches!(cache.has_whole(&file.object), Ok(true)) {
                    let (files, bytes) = missing.entry(step).or_default();
                    (*files, *bytes) = (*files + 1, *bytes + file.size);
                }
            }
            Ok::<_, CatalogError>(missing)
        });
        let broke_off = |error: tokio::task::JoinError| StoreError::Damaged(error.to_string());
        count.await.map_err(broke_off)?
    }
}

/// Forgets that steps are done for other trees than this one. Whether there were any: a second failure has another cause.
fn forget_others(done: &mut BTreeMap<Step, NodeId>, root: NodeId) -> bool {
    let before = done.len();
    done.retain(|_, of| *of == root);
    done.len() < before
}

/// Whether a file still fits into what is left for its rule.
fn take(left: &Mutex<Capacity>, file: &FileMeta) -> bool {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    let (Some(objects), Some(bytes)) = (left.objects.checked_sub(1), left.bytes.checked_sub(file.size)) else {
        return false;
    };
    *left = Capacity { objects, bytes };
    true
}

impl Terms {
    /// Whether the same of a tree is wanted.
    fn mean_as(&self, known: &Self) -> bool {
        self.rules == known.rules && self.never_kept == known.never_kept && self.limits == known.limits
    }

    fn keeps(&self, path: &RepoPath) -> bool {
        !self.rules.is_never(path) && !self.never_kept.matches(path)
    }

    fn step(&self, path: &RepoPath, ahead: &Ahead, repository: &RepoName) -> Option<Step> {
        if self.never_kept.matches(path) {
            return None;
        }
        self.rules.step(path, || {
            let now = SystemClock.now();
            ahead.popularity().is_popular(repository, &parent(path), now)
        })
    }
}

fn terms(repository: &RepoName, state: &RepositoryState, config: &NodeConfig) -> Option<Terms> {
    let snapshot = Arc::clone(state.snapshots.get(&state.current?)?);
    let advice = state
        .head
        .as_ref()
        .map_or(&[][..], |head| head.head().preseed.as_slice());
    // Checked when the configuration was read.
    let rules = config.rules_of(repository).rules(advice).ok()?;
    Some(Terms {
        rules: Arc::new(rules),
        never_kept: config.cache.never.clone(),
        limits: config.cache.limits(),
        root: snapshot.root.node,
        snapshot,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_this_tree_is_not_taken_for_one_of_those_before_it() {
        let [old, new] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let (first, rest) = (Step::of(Class::Preseed), Step::of(Class::Rest));
        let mut done = BTreeMap::from([(first, new), (rest, old)]);
        assert!(forget_others(&mut done, new));
        assert_eq!(done, BTreeMap::from([(first, new)]));
        assert!(!forget_others(&mut done, new), "the next one waits and is told");
    }
}
