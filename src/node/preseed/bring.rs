//! Brings a stream of files into the cache: small ones many at a time in one request, large ones each by itself.

use std::sync::Arc;

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use instantmirror_core::catalog::{CatalogError, Differences, NodeSource, Reachable};
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::{Capacity, Class, SnapshotStore};
use instantmirror_core::{FileMeta, Kind, NodeId, RepoName, RepoPath, StoreError};
use instantmirror_swarm::FetchEngine;
use tokio::sync::mpsc;

use super::super::Node;
use super::super::parts::{NodeCache, walker};
use super::claims::{Claims, has_room};
use super::pacer::Pacer;

/// Requests that are asked for at a time; the scheduler has its own limit for all that nobody waits for.
const JOBS_MAX: usize = 8;
/// Files that are read from a catalog ahead of their fetch.
const FILES_AHEAD: usize = 4096;
/// Most files of one request.
const BATCH_FILES_MAX: usize = 1024;

/// Where files are taken from and where they go.
#[derive(Debug, Clone)]
pub(in super::super) struct Bringer {
    pub(super) repository: RepoName,
    pub(super) store: Arc<dyn SnapshotStore>,
    pub(super) engine: FetchEngine,
    pub(super) cache: NodeCache,
    claims: Arc<Claims>,
}

/// What a pass over some files did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Pass {
    /// Objects that were not here and are now.
    pub(in super::super) fetched: u64,
    /// Objects that could not be had.
    pub(in super::super) failed: u64,
    /// It was given up because the cache has no room.
    pub(super) is_full: bool,
}

/// What a pass may do to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Whatever the cache makes room for.
    Made,
    /// Only what is free: nothing that somebody asked for goes for what nobody did.
    Free,
}

/// How a pass is done.
pub(super) struct How<'a> {
    pub(super) step: Step,
    pub(super) room: Room,
    /// Whether what is here is opened, which verifies it where the cache wants that, or only looked up.
    pub(super) verify: bool,
    pub(super) pacer: Option<&'a Pacer>,
    /// Told each file's size and whether it is here then.
    pub(super) done: &'a (dyn Fn(u64, bool) + Sync),
}

enum Job {
    Many(Vec<FileMeta>),
    One(FileMeta),
}

impl Job {
    fn size(&self) -> Capacity {
        match self {
            Self::Many(files) => Capacity {
                objects: files.len() as u64,
                bytes: files.iter().map(|file| file.size).sum(),
            },
            Self::One(file) => Capacity {
                objects: 1,
                bytes: file.size,
            },
        }
    }
}

impl Bringer {
    pub(in super::super) fn new(node: &Node, repository: RepoName) -> Self {
        Self {
            repository,
            store: Arc::clone(&node.snapshots),
            engine: node.engine.clone(),
            cache: node.cache.clone(),
            claims: Arc::clone(&node.ahead.claims),
        }
    }

    /// All files of a tree, in the order of the catalog; those of parts that are the same come once.
    pub(super) fn files_of(&self, root: NodeId) -> Walk {
        self.walk(move |store, send| {
            let mut walk = Reachable::new(store, std::collections::HashSet::new());
            walk.add_root(root);
            for node in walk {
                let node = node?;
                for i in 0..if node.is_index() { 0 } else { node.len() } {
                    if let Kind::File(file) = node.meta(i)?.kind
                        && !send(file)
                    {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// Files of the tree `after` that `before` has not, or not so, and that `wants` says yes to.
    pub(super) fn new_files(
        &self,
        before: Option<NodeId>,
        after: NodeId,
        wants: impl Fn(&RepoPath, &FileMeta) -> bool + Send + 'static,
    ) -> Walk {
        self.walk(move |store, send| {
            for difference in Differences::new(store, before, after) {
                let difference = difference?;
                if let Some(Kind::File(file)) = difference.after.map(|meta| meta.kind)
                    && wants(&difference.path, &file)
                    && !send(file)
                {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

    /// Fetches all of a tree for somebody who keeps it; `done` is told each file's size and whether it is here then.
    pub(in super::super) async fn bring_all(
        &self,
        root: NodeId,
        done: &(dyn Fn(u64, bool) + Sync),
    ) -> Result<Pass, CatalogError> {
        let how = How {
            step: Step::of(Class::Preseed),
            room: Room::Made,
            verify: true,
            pacer: None,
            done,
        };
        self.bring(self.files_of(root), &how).await
    }

    /// Files of a tree, and bytes in them, whose paths `wants` says yes to.
    pub(super) async fn count(
        &self,
        root: NodeId,
        wants: impl Fn(&RepoPath) -> bool + Send + 'static,
    ) -> Result<(u64, u64), CatalogError> {
        let store = walker(&self.store);
        let count = tokio::task::spawn_blocking(move || {
            let (mut files, mut bytes) = (0, 0);
            for difference in Differences::new(store, None, root) {
                let difference = difference?;
                if let Some(Kind::File(file)) = difference.after.map(|meta| meta.kind)
                    && wants(&difference.path)
                {
                    (files, bytes) = (files + 1, bytes + file.size);
                }
            }
            Ok((files, bytes))
        });
        count.await.map_err(|error| StoreError::Damaged(error.to_string()))?
    }

    fn walk(
        &self,
        work: impl FnOnce(Arc<dyn NodeSource>, &dyn Fn(FileMeta) -> bool) -> Result<(), CatalogError> + Send + 'static,
    ) -> Walk {
        let (sender, files) = mpsc::channel(FILES_AHEAD);
        let store = walker(&self.store);
        let task = tokio::task::spawn_blocking(move || work(store, &|file| sender.blocking_send(file).is_ok()));
        Walk { files, task }
    }

    /// Fetches what is missing of these files.
    ///
    /// # Errors
    /// [`CatalogError`] of the walk; what it found before is fetched.
    pub(super) async fn bring(&self, walk: Walk, how: &How<'_>) -> Result<Pass, CatalogError> {
        let Walk { files, task } = walk;
        // A stream keeps what was gathered when something else is ready first.
        let mut jobs = Box::pin(stream::unfold(files, |mut files| async move {
            let job = self.next_job(&mut files, how).await?;
            Some((job, files))
        }));
        let (mut running, mut pass, mut is_over) = (FuturesUnordered::new(), Pass::default(), false);
        loop {
            tokio::select! {
                job = jobs.next(), if !is_over && running.len() < JOBS_MAX => match job {
                    Some(job) => running.push(self.run(job, how)),
                    None => is_over = true,
                },
                Some(done) = running.next(), if !running.is_empty() => {
                    pass.fetched += done.fetched;
                    pass.failed += done.failed;
                    pass.is_full |= done.is_full;
                    is_over |= done.is_full;
                }
                else => break,
            }
        }
        // A walk whose files nobody takes any more ends by itself.
        drop(jobs);
        let broke_off = |error: tokio::task::JoinError| StoreError::Damaged(error.to_string());
        task.await.map_err(broke_off)??;
        Ok(pass)
    }

    async fn next_job(&self, files: &mut mpsc::Receiver<FileMeta>, how: &How<'_>) -> Option<Job> {
        let (mut many, mut bytes) = (Vec::new(), 0);
        let enough = self.engine.batch_bytes(&self.repository);
        while let Some(file) = files.recv().await {
            if self.is_here(&file, how.verify).await {
                (how.done)(file.size, true);
                continue;
            }
            if file.size > self.engine.batched_bytes_max() {
                // What was gathered waits no longer than for this one.
                if many.is_empty() {
                    return Some(Job::One(file));
                }
                many.push(file);
                return Some(Job::Many(many));
            }
            bytes += file.size;
            many.push(file);
            if bytes >= enough || many.len() >= BATCH_FILES_MAX {
                break;
            }
        }
        (!many.is_empty()).then_some(Job::Many(many))
    }

    async fn is_here(&self, file: &FileMeta, verify: bool) -> bool {
        if verify {
            matches!(self.engine.holds(file).await, Ok(true))
        } else {
            file.size == 0 || matches!(self.cache.has_whole_now(&file.object).await, Ok(true))
        }
    }

    async fn run(&self, job: Job, how: &How<'_>) -> Pass {
        let size = job.size();
        let full = Pass {
            is_full: true,
            ..Pass::default()
        };
        // Asked for before the budget is touched, and again when it is the job's turn.
        if how.room == Room::Free && !has_room(&self.cache, size) {
            return full;
        }
        if let Some(pacer) = how.pacer {
            pacer.admit(size.bytes).await;
        }
        let _claim = match how.room {
            Room::Made => None,
            Room::Free => match self.claims.claim(&self.cache, size).await {
                None => return full,
                claim => claim,
            },
        };
        match job {
            Job::One(file) => self.run_one(&file, how).await,
            Job::Many(files) => self.run_many(&files, how).await,
        }
    }

    async fn run_one(&self, file: &FileMeta, how: &How<'_>) -> Pass {
        let is_here = self.engine.fetch(&self.repository, file, how.step).await.is_ok();
        (how.done)(file.size, is_here);
        Pass {
            fetched: u64::from(is_here),
            failed: u64::from(!is_here),
            is_full: false,
        }
    }

    async fn run_many(&self, files: &[FileMeta], how: &How<'_>) -> Pass {
        let brought = self.engine.fetch_batch(&self.repository, files, how.step).await;
        let mut pass = Pass {
            fetched: brought.fetched,
            failed: brought.failed,
            is_full: brought.is_full && how.room == Room::Free,
        };
        for file in files {
            if file.size > self.engine.batched_bytes_max() {
                let one = self.run_one(file, how).await;
                pass.fetched += one.fetched;
                pass.failed += one.failed;
                continue;
            }
            let is_here = (brought.failed == 0 && !brought.is_full) || self.is_here(file, false).await;
            (how.done)(file.size, is_here);
        }
        pass
    }
}

/// Files as a walk of a catalog finds them.
pub(super) struct Walk {
    files: mpsc::Receiver<FileMeta>,
    task: tokio::task::JoinHandle<Result<(), CatalogError>>,
}

impl Bringer {
    /// These files, as if a walk had found them.
    pub(super) fn given(&self, given: Vec<FileMeta>) -> Walk {
        self.walk(move |_, send| {
            given.into_iter().all(send);
            Ok(())
        })
    }
}
