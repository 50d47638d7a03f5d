//! Fetching before anybody asks: what the rules of the configuration say, what the master advises, what is read much,
//! what is staged, what an operator asks for by name.
//!
//! Each pass walks what is new in the catalog since the last one, and keeps only what is on its way in memory. The order
//! among passes is that of core's [`PreseedRules`]; how they share the link with clients is the scheduler's business.

mod bring;
mod bundle;
mod claims;
mod pacer;
mod prefetch;
mod rules;
mod staged;
mod watched;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use instantmirror_core::popularity::Popularity;
use instantmirror_core::preseed::{PreseedRules, Step};
use instantmirror_core::{RepoName, SnapshotId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::NodeConfig;

use claims::Claims;
use pacer::Pacer;

pub(super) use bring::Bringer;
pub(crate) use prefetch::PrefetchRequest;
use prefetch::Prefetches;
pub use prefetch::{PrefetchError, PrefetchStatus};
pub(super) use rules::RulesDriver;
pub(super) use staged::Preseed;
pub(super) use watched::Watched;

/// What all that is fetched ahead has in common, for all repositories.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The configuration that holds now.
    pub(super) config: watch::Sender<Arc<NodeConfig>>,
    popularity: Mutex<Popularity>,
    pacer: Pacer,
    claims: Arc<Claims>,
    pub(super) prefetches: Prefetches,
    status: Mutex<BTreeMap<RepoName, PreseedStatus>>,
}

/// How far a repository is with what is fetched ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreseedStatus {
    /// The repository.
    pub repository: RepoName,
    /// The snapshot that is worked on.
    pub snapshot: SnapshotId,
    /// What there is to do for it, in its order.
    pub steps: Vec<StepStatus>,
    /// Why it does not go on, if it does not.
    pub waiting: Option<String>,
}

/// One rule, and what was missing of it when the snapshot came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStatus {
    /// The class in which it is fetched.
    pub class: String,
    /// The rule as it was written.
    pub rule: String,
    /// Files that were missing.
    pub files: u64,
    /// Those that are here now.
    pub files_done: u64,
    /// Bytes that were missing.
    pub bytes: u64,
    /// Those that are here now.
    pub bytes_done: u64,
    /// Files that could not be had; they are tried again.
    pub failed: u64,
    /// Nothing more is done for it: all is here, or the cache has no room.
    pub is_over: bool,
}

impl Ahead {
    pub(super) fn new(config: &Arc<NodeConfig>) -> Self {
        Self {
            config: watch::Sender::new(Arc::clone(config)),
            popularity: Mutex::default(),
            pacer: Pacer::new(),
            claims: Arc::default(),
            prefetches: Prefetches::default(),
            status: Mutex::default(),
        }
    }

    /// What is being done for each repository, in order of name.
    pub(super) fn status(&self) -> Vec<PreseedStatus> {
        let waiting = self.pacer.waiting();
        let mut all: Vec<PreseedStatus> = self.lock().values().cloned().collect();
        for status in &mut all {
            if status.steps.iter().any(|step| !step.is_over) {
                status.waiting = status.waiting.take().or_else(|| waiting.clone());
            }
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RepoName, PreseedStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn popularity(&self) -> MutexGuard<'_, Popularity> {
        self.popularity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(
        &self,
        repository: &RepoName,
        snapshot: SnapshotId,
        rules: &PreseedRules,
        missing: &BTreeMap<Step, (u64, u64)>,
    ) {
        let step = |step: Step| {
            let (files, bytes) = missing.get(&step).copied().unwrap_or_default();
            StepStatus {
                class: step.class.name().to_owned(),
                rule: rules.text(step).to_owned(),
                files,
                files_done: 0,
                bytes,
                bytes_done: 0,
                failed: 0,
                is_over: files == 0,
            }
        };
        let status = PreseedStatus {
            repository: repository.clone(),
            snapshot,
            steps: rules.steps().into_iter().map(step).collect(),
            waiting: None,
        };
        self.lock().insert(repository.clone(), status);
    }

    /// Changes what is said of one step of a repository.
    fn note(&self, repository: &RepoName, place: usize, change: impl FnOnce(&mut StepStatus)) {
        let mut all = self.lock();
        if let Some(step) = all.get_mut(repository).and_then(|status| status.steps.get_mut(place)) {
            change(step);
        }
    }
}
