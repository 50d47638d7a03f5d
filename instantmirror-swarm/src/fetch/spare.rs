//! What nobody waits for leaves the line to a source to those who wait: core's [`SpareWindow`] in real time.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use instantmirror_core::spare::{Room, SpareWindow};
use instantmirror_core::traits::{Class, PeerTransport};
use instantmirror_core::{Moment, RepoName};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::gate::{Gate, Holds};
use super::lock;

/// A source is asked this often while something is fetched from it that nobody waits for ...
const INTERVAL: Duration = Duration::from_millis(50);
/// ... this often after it did not answer ...
const INTERVAL_SILENT: Duration = Duration::from_secs(5);
/// ... and no more when nothing was fetched for so long.
const IDLE: Duration = Duration::from_secs(1);
/// Before the first transfer it is seen how long so many answers take without any, for as long at most.
const FIRST_ANSWERS: usize = 3;
const FIRST_TIME: Duration = Duration::from_secs(2);

/// The sources whose lines are watched.
#[derive(Debug, Clone)]
pub(super) struct Spare {
    start: Instant,
    lines: Arc<Mutex<HashMap<String, Line>>>,
}

#[derive(Debug, Default)]
struct Line {
    window: SpareWindow,
    running: usize,
    /// Transfers wait until the window has room.
    room: Arc<Notify>,
    is_watched: bool,
    /// The last question had no answer: there is nothing to go by.
    is_blind: bool,
    /// Whether the first answers have come, or none can.
    is_known: watch::Sender<bool>,
}

/// A transfer that nobody waits for.
#[derive(Debug)]
pub(super) struct Yielding {
    spare: Spare,
    label: String,
    is_known: watch::Receiver<bool>,
    room: Arc<Notify>,
    /// Bytes that were asked for and have not come.
    out: AtomicU64,
}

impl Spare {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            lines: Arc::default(),
        }
    }

    /// Watches the line to a source while a transfer runs. `watcher` is where the watching runs, if not here: it must not be
    /// late because the transfers keep threads busy.
    pub(super) fn begin(
        &self,
        origin: &Arc<dyn PeerTransport>,
        repository: &RepoName,
        watcher: Option<&Handle>,
        gate: &Gate,
    ) -> Yielding {
        let label = origin.label();
        let mut lines = lock(&self.lines);
        let line = lines.entry(label.to_owned()).or_default();
        line.running += 1;
        if !line.is_watched {
            line.is_watched = true;
            let lines = Arc::downgrade(&self.lines);
            let watch = watch(lines, self.start, Arc::clone(origin), repository.clone(), gate.holds());
            match watcher {
                Some(runtime) => runtime.spawn(watch),
                None => tokio::spawn(watch),
            };
        }
        Yielding {
            spare: self.clone(),
            label: label.to_owned(),
            is_known: line.is_known.subscribe(),
            room: Arc::clone(&line.room),
            out: AtomicU64::new(0),
        }
    }

    /// Bytes that one more request to a source should be for, if its line can be watched.
    pub(super) fn part(&self, label: &str) -> Option<u64> {
        let mut lines = lock(&self.lines);
        let line = lines.entry(label.to_owned()).or_default();
        (!line.is_blind).then(|| line.window.part(line.running + 1))
    }

    /// Bytes that one batch should be for: a part, or half of the window up to `enough`. On a short line parts are small, and a
    /// batch has its price: fewer of them are under way then.
    pub(super) fn batch(&self, label: &str, enough: u64) -> Option<u64> {
        let mut lines = lock(&self.lines);
        let line = lines.entry(label.to_owned()).or_default();
        let part = line.window.part(line.running + 1);
        (!line.is_blind).then(|| part.max((line.window.window() / 2).min(enough)))
    }

    /// Bytes that may be on their way from each source that is watched.
    pub(super) fn windows(&self) -> BTreeMap<String, u64> {
        let lines = lock(&self.lines);
        let watched = lines.iter().filter(|(_, line)| line.is_watched && !line.is_blind);
        watched
            .map(|(label, line)| (label.clone(), line.window.window()))
            .collect()
    }
}

impl Yielding {
    /// Waits until so many bytes may be asked for, and nothing more urgent runs. At first also until it is known how fast the
    /// source answers when nothing is fetched from it: later there would be a queue, and nothing to compare it with.
    pub(super) async fn admit(&self, bytes: u64, gate: &Gate, class: Class) {
        // The sender lives as long as the line.
        let _ = timeout(FIRST_TIME, self.is_known.clone().wait_for(|known| *known)).await;
        let room = Arc::clone(&self.room);
        loop {
            gate.pass(class).await;
            let woken = room.notified();
            match self.try_begin(bytes) {
                Room::Now => {
                    self.out.fetch_add(bytes, Ordering::Relaxed);
                    // There may be room for another one.
                    room.notify_one();
                    return;
                }
                Room::At(at) => _ = timeout_at(self.spare.start + at.0, woken).await,
                Room::Full => woken.await,
            }
        }
    }

    fn try_begin(&self, bytes: u64) -> Room {
        let now = Moment(self.spare.start.elapsed());
        let mut lines = lock(&self.spare.lines);
        let line = lines.get_mut(&self.label).filter(|line| !line.is_blind);
        line.map_or(Room::Now, |line| line.window.try_begin(now, bytes))
    }

    /// Bytes have come, whatever they are worth.
    pub(super) fn came(&self, bytes: u64) {
        let before = self.out.load(Ordering::Relaxed);
        let bytes = bytes.min(before);
        // One task reads a transfer, so nobody else changes it meanwhile.
        self.out.store(before - bytes, Ordering::Relaxed);
        if let Some(line) = lock(&self.spare.lines).get_mut(&self.label) {
            line.window.came(bytes);
        }
        self.room.notify_one();
    }
}

impl Drop for Yielding {
    fn drop(&mut self) {
        if let Some(line) = lock(&self.spare.lines).get_mut(&self.label) {
            line.running -= 1;
            line.window.given_up(self.out.load(Ordering::Relaxed));
        }
        self.room.notify_one();
    }
}

/// Asks again and again how long an answer takes.
async fn watch(
    lines: Weak<Mutex<HashMap<String, Line>>>,
    start: Instant,
    transport: Arc<dyn PeerTransport>,
    repository: RepoName,
    mut holds: Holds,
) {
    let (mut used_at, mut asked) = (Instant::now(), 0);
    loop {
        let took = transport.answer_time(&repository).await;
        let Some(lines) = lines.upgrade() else { return };
        {
            let mut lines = lock(&lines);
            let Some(line) = lines.get_mut(transport.label()) else {
                return;
            };
            asked += 1;
            if asked >= FIRST_ANSWERS || took.is_none() {
                line.is_known.send_replace(true);
            }
            line.is_blind = took.is_none();
            if holds.were_there() {
                line.window.held();
            }
            if let Some(took) = took {
                line.window.answered(Moment(start.elapsed()), took);
            }
            // There may be more room.
            line.room.notify_one();
            if line.running > 0 {
                used_at = Instant::now();
            } else if used_at.elapsed() > IDLE {
                line.is_watched = false;
                return;
            }
        }
        drop(lines);
        let pause = match took {
            Some(_) if asked < FIRST_ANSWERS => Duration::ZERO,
            Some(_) => INTERVAL,
            None => INTERVAL_SILENT,
        };
        tokio::time::sleep(pause).await;
    }
}
