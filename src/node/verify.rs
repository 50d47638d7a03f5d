//! Reading the cache again to find what has rotted: by hand (`imnode verify`), or all the time (`verify = "scrub"`).
//!
//! What is found wrong is in quarantine before it is told; with a repair it is fetched again from the masters.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use instantmirror_core::catalog::{NodeSource, Reachable};
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::{CacheError, Checked, Class, Finding, Scrub, Subset};
use instantmirror_core::{FileMeta, Kind, NodeId, ObjectId};
use serde::{Deserialize, Serialize};

use super::Node;
use super::parts::walker;
use crate::config::VerifyKind;
use crate::text::Count;

/// Findings that are told one by one; the rest is counted.
const FINDINGS_TOLD: usize = 1000;
/// Between two passes of a scrub.
const REST: Duration = Duration::from_secs(60);
/// Longest time that fetching a lost object again may take.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(600);

/// What to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Part *n* of *m*, from 1: a month of nights covers everything.
    pub subset: Option<(u64, u64)>,
    /// Fetch again what is lost.
    pub repair: bool,
}

impl VerifyRequest {
    fn subset(&self) -> Result<Subset, VerifyError> {
        let Some((part, of)) = self.subset else {
            return Ok(Subset::ALL);
        };
        Subset::new(part, of).ok_or(VerifyError::NoSuchPart { part, of })
    }
}

/// Why nothing was verified, or not all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no such part.
    #[error("there is no part {part} of {of}: parts are numbered from 1")]
    NoSuchPart {
        /// The part.
        part: u64,
        /// Of how many.
        of: u64,
    },
    /// Somebody else does.
    #[error("the cache is being verified already; `imnode status` shows how far it is")]
    Running,
    /// The cache has no scrubber.
    #[error("the cache of this node cannot verify what it holds: it has no scrubber")]
    NoScrubber,
    /// The disk.
    #[error("the cache cannot be read: {0}")]
    Cache(#[from] CacheError),
    /// A thread of ours.
    #[error("verification ended early: {0}")]
    Broken(String),
}

/// How far a verification is, or was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// Whether it goes on.
    pub running: bool,
    /// Passes that came to their end since the start.
    pub passes: u64,
    /// Objects to be read, about.
    pub objects: u64,
    /// Objects read in this pass.
    pub objects_done: u64,
    /// Bytes to be read, about.
    pub bytes: u64,
    /// Bytes read in this pass.
    pub bytes_done: u64,
    /// Objects that were not what their ids say.
    pub damaged: u64,
    /// Objects whose files had vanished.
    pub missing: u64,
    /// Files that do not belong into the cache.
    pub foreign: u64,
    /// Objects fetched again.
    pub repaired: u64,
    /// Lost objects that no snapshot here refers to.
    pub unneeded: u64,
    /// What was found, the first thousand.
    pub findings: Vec<String>,
    /// Why it ended early, if it did.
    pub error: Option<String>,
}

impl VerifyStatus {
    /// What was found and is not mended: objects that are not here any more.
    #[must_use]
    pub fn unrepaired(&self) -> u64 {
        (self.damaged + self.missing).saturating_sub(self.repaired + self.unneeded)
    }

    fn add(&mut self, checked: &Checked) {
        self.objects_done += checked.objects;
        self.bytes_done += checked.bytes;
        for finding in &checked.findings {
            match finding {
                Finding::Damaged { .. } => self.damaged += 1,
                Finding::Missing { .. } => self.missing += 1,
                _ => self.foreign += 1,
            }
            if self.findings.len() < FINDINGS_TOLD {
                self.findings.push(finding.to_string());
            }
        }
    }
}

/// Both kinds, as they are now.
#[derive(Debug, Default)]
pub(super) struct Verification {
    by_hand: Mutex<VerifyStatus>,
    scrub: Mutex<VerifyStatus>,
}

fn lock(status: &Mutex<VerifyStatus>) -> std::sync::MutexGuard<'_, VerifyStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whatever way it ends, it does not run any more.
struct Running<'a>(&'a Mutex<VerifyStatus>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(self.0).running = false;
    }
}

impl Node {
    /// How far the verification by hand is, or how the last one ended.
    #[must_use]
    pub fn verify_status(&self) -> VerifyStatus {
        lock(&self.verification.by_hand).clone()
    }

    /// How far the scrub is; `None` if there is none.
    #[must_use]
    pub fn scrub_status(&self) -> Option<VerifyStatus> {
        (self.config.cache.verify == VerifyKind::Scrub).then(|| lock(&self.verification.scrub).clone())
    }

    /// Claims the verification by hand, so that whoever asks sees it run from now on.
    ///
    /// # Errors
    /// [`VerifyError::NoSuchPart`], [`VerifyError::NoScrubber`], [`VerifyError::Running`].
    pub(super) fn begin_verify(&self, request: &VerifyRequest) -> Result<Subset, VerifyError> {
        let subset = request.subset()?;
        if self.cache.scrubber().is_none() {
            return Err(VerifyError::NoScrubber);
        }
        let mut status = lock(&self.verification.by_hand);
        if status.running {
            return Err(VerifyError::Running);
        }
        *status = VerifyStatus {
            running: true,
            ..VerifyStatus::default()
        };
        Ok(subset)
    }

    /// Reads what is in the cache, or a part of it, as fast as the disk gives it. Dropping the future ends it; what was
    /// found until then stays in quarantine. [`verify_status`](Self::verify_status) tells how far it is.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn verify(&self, request: VerifyRequest) -> Result<VerifyStatus, VerifyError> {
        let subset = self.begin_verify(&request)?;
        self.run_verify(request, subset).await
    }

    pub(super) async fn run_verify(&self, request: VerifyRequest, subset: Subset) -> Result<VerifyStatus, VerifyError> {
        let status = &self.verification.by_hand;
        let running = Running(status);
        let passed = self.pass(subset, request.repair, None, status).await;
        if let Err(error) = &passed {
            lock(status).error = Some(error.to_string());
        }
        drop(running);
        passed.map(|()| lock(status).clone())
    }

    /// Reads everything again and again, for ever, and repairs it; does nothing if that is not wanted.
    pub(super) async fn scrub(&self) {
        let config = &self.config.cache;
        if config.verify != VerifyKind::Scrub || self.cache.scrubber().is_none() {
            return std::future::pending().await;
        }
        let status = &self.verification.scrub;
        loop {
            {
                let mut status = lock(status);
                (status.running, status.objects_done, status.bytes_done) = (true, 0, 0);
            }
            let passed = self.pass(Subset::ALL, true, Some(config.scrub_rate.0), status).await;
            match &passed {
                Err(error) => tracing::error!("the cache could not be scrubbed to the end: {error}"),
                Ok(()) => tracing::info!(objects = lock(status).objects_done, "the cache was scrubbed"),
            }
            {
                let mut told = lock(status);
                (told.running, told.error) = (false, passed.err().map(|error| error.to_string()));
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn pass(
        &self,
        subset: Subset,
        repair: bool,
        rate: Option<u64>,
        status: &Mutex<VerifyStatus>,
    ) -> Result<(), VerifyError> {
        let broken = |error: tokio::task::JoinError| VerifyError::Broken(error.to_string());
        let cache = self.cache.clone();
        let begin = move || {
            let scrubber = cache.scrubber().ok_or(VerifyError::NoScrubber)?;
            Ok::<Box<dyn Scrub>, VerifyError>(scrubber.scrub(subset)?)
        };
        let mut checker = tokio::task::spawn_blocking(begin).await.map_err(broken)??;
        let usage = self.cache.usage();
        {
            let mut status = lock(status);
            status.objects = subset.share(usage.objects);
            status.bytes = subset.share(usage.used_bytes);
        }
        let (begun, mut read, mut lost) = (Instant::now(), 0, HashSet::new());
        loop {
            let step = tokio::task::spawn_blocking(move || {
                let step = checker.step();
                (checker, step)
            });
            let (back, step) = step.await.map_err(broken)?;
            checker = back;
            let Some(checked) = step? else { break };
            read += checked.bytes;
            lock(status).add(&checked);
            lost.extend(checked.findings.iter().filter_map(Finding::lost));
            if rate.is_some() && !lost.is_empty() {
                self.repair(std::mem::take(&mut lost), status).await;
            }
            pace(begun, read, rate).await;
        }
        if repair {
            self.repair(lost, status).await;
        }
        lock(status).passes += 1;
        Ok(())
    }

    /// Fetches lost objects again, each for a repository that has it in a snapshot.
    async fn repair(&self, mut lost: HashSet<ObjectId>, status: &Mutex<VerifyStatus>) {
        for (name, follower) in self.followers.iter() {
            if lost.is_empty() {
                return;
            }
            let roots: Vec<NodeId> = follower
                .state()
                .snapshots
                .values()
                .map(|snapshot| snapshot.root.node)
                .collect();
            let (store, wanted) = (walker(&self.snapshots), lost.clone());
            let files = tokio::task::spawn_blocking(move || files_of(store, roots, wanted)).await;
            let files = files.unwrap_or_else(|error| {
                tracing::error!(repository = %name, "its catalogs could not be walked: {error}");
                Vec::new()
            });
            for file in files {
                lost.remove(&file.object);
                let fetched = self.engine.fetch(name, &file, Step::of(Class::Preseed));
                match tokio::time::timeout(REPAIR_TIMEOUT, fetched).await {
                    Ok(Ok(())) => {
                        tracing::info!(object = %file.object, "fetched again");
                        lock(status).repaired += 1;
                    }
                    Ok(Err(error)) => tracing::warn!(object = %file.object, "cannot be fetched again now: {error}"),
                    Err(_) => tracing::warn!(object = %file.object, "cannot be fetched again now: it takes too long"),
                }
            }
        }
        lock(status).unneeded += lost.len() as u64;
    }
}

/// What catalogs say of some objects, once each.
fn files_of(store: Arc<dyn NodeSource>, roots: Vec<NodeId>, mut wanted: HashSet<ObjectId>) -> Vec<FileMeta> {
    let mut walk = Reachable::new(store, HashSet::new());
    roots.into_iter().for_each(|root| walk.add_root(root));
    let mut files = Vec::new();
    for node in walk.filter_map(Result::ok) {
        for i in 0..if node.is_index() { 0 } else { node.len() } {
            if let Ok(Kind::File(file)) = node.meta(i).map(|meta| meta.kind)
                && wanted.remove(&file.object)
            {
                files.push(file);
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    files
}

/// Waits until no more than `rate` bytes a second were read.
async fn pace(begun: Instant, read: u64, rate: Option<u64>) {
    let Some(rate) = rate.filter(|rate| *rate > 0) else {
        return;
    };
    let due = Duration::from_millis(read.saturating_mul(1000) / rate);
    tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
}

/// For people: what was read, what was found.
impl std::fmt::Display for VerifyStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let read = crate::config::ByteSize(self.bytes_done);
        write!(
            f,
            "{} read ({read}): {} damaged, {} missing, {} foreign files; {} fetched again",
            Count(self.objects_done, "object"),
            self.damaged,
            self.missing,
            self.foreign,
            self.repaired
        )
    }
}

/// Shared by all clones of a node.
pub(super) type SharedVerification = Arc<Verification>;
