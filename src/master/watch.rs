//! `imserver watch`: publishes by itself, a moment after the source tree has come to rest.
//!
//! The kernel says which paths changed; they are gathered in bounded memory and looked at by the next publish. Where
//! events were lost, the whole tree is looked at. A publish that fails forgets nothing: it is tried again, later and
//! later, and at once when something else changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use instantmirror_core::changes::ChangeSet;
use instantmirror_core::{RepoName, RepoPath};
use notify::event::{EventKind, MetadataKind, ModifyKind};
use notify::{Event, RecursiveMode, Watcher as _};

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
}

impl Gathered {
    // Every change under the lock is complete in itself.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(&self, source: &Path, event: notify::Result<Event>) {
        let mut waiting = self.waiting();
        if gather(&mut waiting.changes, source, event) {
            waiting.changed(Instant::now());
            self.changed.notify_all();
        }
    }
}

/// Adds what an event says to a set. False if it says nothing.
fn gather(changes: &mut ChangeSet, source: &Path, event: notify::Result<Event>) -> bool {
    let event = match event {
        Ok(event) if event.need_rescan() => {
            tracing::warn!("events were lost: the next publish looks at the whole tree");
            changes.insert_all();
            return true;
        }
        Ok(event) => event,
        Err(error) => {
            tracing::warn!("the watch has trouble ({error}): the next publish looks at the whole tree");
            changes.insert_all();
            return true;
        }
    };
    if event.kind.is_access() {
        return false;
    }
    for path in &event.paths {
        let Some(inner) = inner_path(source, path) else {
            changes.insert_all();
            continue;
        };
        let is_attribute = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)));
        // Attributes of a directory say nothing of what is below it; those of a file are looked at with it.
        if is_attribute {
            changes.insert_entry(&inner);
        } else {
            changes.insert(&inner);
        }
    }
    !event.paths.is_empty()
}

/// The path in the tree; of a name that cannot be published that of its directory.
fn inner_path(source: &Path, path: &Path) -> Option<RepoPath> {
    use std::os::unix::ffi::OsStrExt as _;
    let inner = path.strip_prefix(source).ok()?;
    inner
        .ancestors()
        .find_map(|path| RepoPath::new(path.as_os_str().as_bytes()).ok())
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
        let source = &self.repository(name)?.source;
        let gathered = Arc::new(Gathered {
            waiting: Mutex::new(Waiting::new()),
            changed: Condvar::new(),
        });
        // Before the first publish, so that nothing falls between the two.
        let _watcher = watch_tree(source, Arc::clone(&gathered))?;
        tracing::info!(repository = %name, "watching {}", source.display());
        {
            let mut waiting = gathered.waiting();
            waiting.changes.insert_all();
            waiting.changed(Instant::now());
        }
        let mut retry = settle;
        let mut complained = String::new();
        while let Some(changes) = next_changes(&gathered, settle, stopped) {
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
                    put_back(&gathered, changes, is_retried.then_some(retry));
                }
            }
        }
        Ok(())
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

fn watch_tree(source: &Path, gathered: Arc<Gathered>) -> Result<notify::RecommendedWatcher, MasterError> {
    // Events have the real path.
    let real = source.canonicalize().unwrap_or_else(|_| source.to_path_buf());
    let failed = |error: notify::Error| MasterError::Watch {
        path: source.to_path_buf(),
        reason: error.to_string(),
    };
    let root: PathBuf = real.clone();
    let mut watcher = notify::recommended_watcher(move |event| gathered.take_in(&root, event)).map_err(failed)?;
    watcher.watch(&real, RecursiveMode::Recursive).map_err(failed)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag};

    use super::*;

    fn event(kind: EventKind, path: &str) -> notify::Result<Event> {
        Ok(Event::new(kind).add_path(PathBuf::from(path)))
    }

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text).unwrap()
    }

    #[test]
    fn events_become_paths_and_lost_events_the_whole_tree() {
        let source = Path::new("/tree");
        let mut changes = ChangeSet::default();
        let created = EventKind::Create(CreateKind::Any);
        assert!(gather(&mut changes, source, event(created, "/tree/dir/new")));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(gather(&mut changes, source, event(written, "/tree/file")));
        let chmod = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        assert!(gather(&mut changes, source, event(chmod, "/tree/folder")));
        let read = EventKind::Access(notify::event::AccessKind::Any);
        assert!(!gather(&mut changes, source, event(read, "/tree/read")));
        assert!(changes.contains(&path("dir/new")) && changes.contains(&path("file")));
        assert!(!changes.contains(&path("folder/below")) && !changes.contains(&path("read")));
        assert!(gather(&mut changes, source, event(created, "/tree/odd/bad\u{1}name")));
        assert!(changes.contains(&path("odd/anything")));
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(gather(&mut changes, source, Ok(lost)) && changes.is_all());
        let mut changes = ChangeSet::default();
        assert!(gather(&mut changes, source, Err(notify::Error::generic("queue"))) && changes.is_all());
    }

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
