//! `imserver watch`: publishes by itself, a moment after the source tree has come to rest.
//!
//! A thread hears which paths changed ([`TreeWatch`]); they are gathered in bounded memory and looked at by the next
//! publish. Where changes were missed, the whole tree is looked at. A publish that fails forgets nothing: it is tried again, later and
//! later, and at once when something else changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use instantmirror_core::RepoName;
use instantmirror_core::changes::ChangeSet;
use instantmirror_store::StoreError;
use instantmirror_store::tree::TreeWatch;

use super::{Hints, Master, MasterError, NoProgress, PublishOptions, Published};
use crate::daemon::explain;

/// A tree that never rests is published after so many times the settling time nevertheless.
const PATIENCE: u32 = 15;
/// A publish that failed is tried again after this at the latest.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often the watch looks whether it is to end.
const STOP_POLL: Duration = Duration::from_millis(200);

/// What has changed and since when.
#[derive(Debug)]
struct Waiting {
    changes: ChangeSet,
    /// The first and the last change that is not published.
    since: Option<(Instant, Instant)>,
    /// No publish before this: the last one failed.
    not_before: Option<Instant>,
}

impl Waiting {
    fn new() -> Self {
        Self {
            changes: ChangeSet::default(),
            since: None,
            not_before: None,
        }
    }

    fn changed(&mut self, now: Instant) {
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
        self.not_before = None;
    }

    /// When to publish, if anything is to be.
    fn due(&self, settle: Duration) -> Option<Instant> {
        let (first, last) = self.since?;
        let due = (last + settle).min(first + settle * PATIENCE);
        Some(self.not_before.map_or(due, |earliest| due.max(earliest)))
    }
}

#[derive(Debug)]
struct Gathered {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Told to the thread that hears the changes.
    is_over: AtomicBool,
}

impl Gathered {
    // Every change under the lock is complete in itself.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears changes until all is over, or the watch has failed for good.
    fn follow(&self, mut watch: TreeWatch) -> Result<(), StoreError> {
        while !self.is_over.load(Ordering::Relaxed) {
            let mut changes = ChangeSet::default();
            if watch.wait(STOP_POLL, &mut changes)? {
                let mut waiting = self.waiting();
                waiting.changes.merge(changes);
                waiting.changed(Instant::now());
                self.changed.notify_all();
            }
        }
        Ok(())
    }
}

impl Master {
    /// Publishes a repository now, and whenever its source tree has changed and then rested for `settle`, until
    /// `stopped` says so; `hear` is told of every publish. Blocks.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`]; [`MasterError::Watch`] if the tree cannot be watched (with a large tree:
    /// `fs.inotify.max_user_watches`). A publish that fails is only heard.
    pub fn watch(
        &self,
        name: &RepoName,
        settle: Duration,
        stopped: &dyn Fn() -> bool,
        hear: &dyn Fn(&Result<Published, MasterError>),
    ) -> Result<(), MasterError> {
        let repository = self.repository(name)?;
        let failed = |error: &StoreError| MasterError::Watch {
            path: repository.source.clone(),
            reason: explain(error),
        };
        // Before the first publish, so that nothing falls between the two.
        let exclude = repository.scan_rules().exclude;
        let watch = TreeWatch::open(&repository.source, exclude).map_err(|error| failed(&error))?;
        tracing::info!(repository = %name, directories = watch.watches(), "watching {}", repository.source.display());
        let mut waiting = Waiting::new();
        waiting.changes.insert_all();
        waiting.changed(Instant::now());
        let gathered = Gathered {
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            let following = std::thread::Builder::new().name("watch".to_owned());
            let following = following
                .spawn_scoped(scope, || gathered.follow(watch))
                .map_err(MasterError::Threads)?;
            let is_over = || stopped() || following.is_finished();
            self.publish_changes(name, settle, &gathered, &is_over, hear);
            gathered.is_over.store(true, Ordering::Relaxed);
            match following.join() {
                Ok(followed) => followed.map_err(|error| failed(&error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Publishes what is gathered whenever it is due.
    fn publish_changes(
        &self,
        name: &RepoName,
        settle: Duration,
        gathered: &Gathered,
        stopped: &dyn Fn() -> bool,
        hear: &dyn Fn(&Result<Published, MasterError>),
    ) {
        let mut retry = settle;
        let mut complained = String::new();
        while let Some(changes) = next_changes(gathered, settle, stopped) {
            let options = PublishOptions {
                hints: Some(Hints::Paths(changes.clone())),
                wait: true,
                ..PublishOptions::default()
            };
            let published = self.publish(name, &options, &NoProgress);
            hear(&published);
            match published {
                Ok(published) => {
                    retry = settle;
                    complained.clear();
                    if let Published::Snapshot(_) = published {
                        self.after_publish(name);
                    }
                }
                Err(error) => {
                    let text = explain(&error);
                    if text == complained {
                        tracing::info!(repository = %name, "still not published, for the same reason");
                    } else if matches!(error, MasterError::Inconsistent { .. }) {
                        tracing::error!(repository = %name, "not published: {text}\nIt is tried again when something changes");
                    } else {
                        tracing::error!(repository = %name, "not published: {text}; it is tried again");
                    }
                    complained = text;
                    retry = (retry * 2).min(RETRY_MAX).max(settle);
                    // A tree at rest is not mended by time.
                    let is_retried = !matches!(error, MasterError::Inconsistent { .. });
                    put_back(gathered, changes, is_retried.then_some(retry));
                }
            }
        }
    }
}

/// Keeps what was not published for the next try: after `retry`, or when something changes.
fn put_back(gathered: &Gathered, changes: ChangeSet, retry: Option<Duration>) {
    let now = Instant::now();
    let mut waiting = gathered.waiting();
    waiting.changes.merge(changes);
    if let Some(retry) = retry.filter(|_| waiting.since.is_none()) {
        waiting.changed(now);
        waiting.not_before = Some(now + retry);
    }
}

/// Waits until something is due, and takes it; `None` when it is to stop.
fn next_changes(gathered: &Gathered, settle: Duration, stopped: &dyn Fn() -> bool) -> Option<ChangeSet> {
    let mut waiting = gathered.waiting();
    loop {
        if stopped() {
            return None;
        }
        let now = Instant::now();
        let left = match waiting.due(settle) {
            Some(due) if due <= now => {
                waiting.since = None;
                return Some(std::mem::take(&mut waiting.changes));
            }
            Some(due) => due - now,
            None => STOP_POLL,
        };
        let woken = gathered.changed.wait_timeout(waiting, left.min(STOP_POLL));
        waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_published_when_it_rests_and_one_that_never_rests_after_a_while() {
        let (settle, start) = (Duration::from_secs(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut waiting = Waiting::new();
        assert_eq!(waiting.due(settle), None);
        waiting.changed(at(0));
        assert_eq!(waiting.due(settle), Some(at(2)));
        waiting.changed(at(1));
        assert_eq!(waiting.due(settle), Some(at(3)));
        (2..100).for_each(|second| waiting.changed(at(second)));
        assert_eq!(waiting.due(settle), Some(at(30)));
        // One that failed waits, unless something changes.
        waiting.not_before = Some(at(200));
        assert_eq!(waiting.due(settle), Some(at(200)));
        waiting.changed(at(100));
        assert_eq!(waiting.due(settle), Some(at(30)));
    }
}
