//! Whom a transfer asks, and how much of us each of them has to bear: core's [`SourceBoard`] in real time, with a limit
//! on transfers and bytes per source and per class.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use instantmirror_core::sources::{Fault, Score, SourceBoard};
use instantmirror_core::throttle::Throttle;
use instantmirror_core::traits::{Class, FetchError, Transport, TransportError};
use instantmirror_core::{Moment, ObjectId};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::batch::{BATCH_BYTES_ENOUGH, BATCH_BYTES_MAX};
use super::fill::Source;
use super::gate::Gate;
use super::spare::{Spare, Yielding};
use super::{BATCHED_OBJECT_BYTES_MAX, FetchLimits, lock};

/// A swarm in which nobody sent what was asked for in time counts as answering after so long.
const SWARM_HESITATION: Duration = Duration::from_secs(1);

/// What is known of all sources.
#[derive(Debug)]
pub(super) struct Sources {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: FetchLimits,
    board: SourceBoard,
    slots: HashMap<String, Slots>,
    by_source: HashMap<String, Throttle>,
    by_class: [Option<Throttle>; Class::ALL.len()],
    background: Option<Throttle>,
    all: Option<Throttle>,
    spare: Spare,
    /// Where lines are watched, if not where transfers begin.
    watcher: Option<Handle>,
}

/// Transfers that one source may have under way. Those that nobody waits for take one of both kinds, so that a client
/// always finds one.
#[derive(Debug, Clone)]
struct Slots {
    all: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

impl Slots {
    fn new(running_max: usize) -> Self {
        // What nobody waits for holds its slot while it holds still for a client: without one that it cannot have, the
        // client would wait for it, and it for the client.
        let running_max = running_max.clamp(2, Semaphore::MAX_PERMITS);
        let background = running_max - (running_max / 4).max(1);
        Self {
            all: Arc::new(Semaphore::new(running_max)),
            background: Arc::new(Semaphore::new(background)),
        }
    }
}

/// One transfer from one source. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Running<'a> {
    sources: &'a Sources,
    label: String,
    begun: Instant,
    first_byte: Option<Instant>,
    /// Those that came after the first ones.
    timed_bytes: u64,
    yielding: Option<Arc<Yielding>>,
    _permits: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
}

/// When a source is asked, before anything is known of its speed.
#[derive(Debug, Clone, Copy)]
enum Rank {
    First,
    /// At its place in the configured list of preferred sources.
    Configured,
    Last,
}

impl Rank {
    /// For background work a swarm goes first: what peers send the master need not. For what a client waits for it goes last
    /// unless a peer would answer at once.
    fn of(source: &Source, object: &ObjectId, class: Class) -> Self {
        match &source.transport {
            Transport::Swarm(_) if class.is_background() => Self::First,
            Transport::Swarm(swarm) if !swarm.is_ready(object) => Self::Last,
            _ => Self::Configured,
        }
    }
}

impl Sources {
    pub(super) fn new(limits: FetchLimits) -> Self {
        let start = Instant::now();
        let state = State {
            board: SourceBoard::new(limits.source_running_max),
            by_class: limits.class_rates.map(|rate| rate.map(Throttle::new)),
            background: limits.background_rate.map(Throttle::new),
            all: limits.rate.map(Throttle::new),
            spare: Spare::new(start),
            watcher: None,
            limits,
            slots: HashMap::new(),
            by_source: HashMap::new(),
        };
        Self {
            start,
            state: Mutex::new(state),
        }
    }

    /// Replaces the limits; what is known of sources stays. Transfers that run keep their slots.
    pub(super) fn set_limits(&self, limits: FetchLimits) {
        let fresh = Self::new(limits);
        let fresh = fresh
            .state
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut state = lock(&self.state);
        let mut board = std::mem::take(&mut state.board);
        board.set_running_max(fresh.limits.source_running_max);
        let (spare, watcher) = (state.spare.clone(), state.watcher.take());
        // New ones would not know of what runs.
        let same = state.limits.source_running_max == fresh.limits.source_running_max;
        let slots = std::mem::take(&mut state.slots);
        *state = State {
            board,
            spare,
            watcher,
            slots: if same { slots } else { HashMap::new() },
            ..fresh
        };
    }

    /// Lines are watched on this runtime from now on.
    pub(super) fn watch_on(&self, runtime: Handle) {
        lock(&self.state).watcher = Some(runtime);
    }

    /// Bytes of small objects that are worth one request to one of these sources.
    pub(super) fn batch_bytes(&self, sources: &[Transport]) -> u64 {
        let state = lock(&self.state);
        let watched = sources
            .iter()
            .filter(|source| state.limits.yields && matches!(source, Transport::Origin(_)));
        let parts = watched.filter_map(|source| state.spare.batch(source.label(), BATCH_BYTES_ENOUGH));
        parts.min().unwrap_or(BATCH_BYTES_MAX).min(BATCH_BYTES_MAX)
    }

    /// Bytes of one object that are asked for at once by what nobody waits for. What is asked for and not read yet fills the
    /// windows of TCP and the queue, however slowly it is read.
    pub(super) fn range_bytes(&self, source: &Source, class: Class) -> u64 {
        let state = lock(&self.state);
        match &source.transport {
            Transport::Origin(origin) if state.limits.yields && class.is_background() => {
                state.spare.part(origin.label()).unwrap_or(u64::MAX)
            }
            _ => u64::MAX,
        }
    }

    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    pub(super) fn batched_bytes_max(&self) -> u64 {
        let max = lock(&self.state).limits.batched_bytes_max;
        max.unwrap_or(BATCHED_OBJECT_BYTES_MAX).min(BATCHED_OBJECT_BYTES_MAX)
    }

    pub(super) fn scores(&self) -> Vec<(String, Score)> {
        let state = lock(&self.state);
        let scores = state.board.scores().iter();
        scores.map(|(label, score)| (label.clone(), score.clone())).collect()
    }

    /// Bytes that may be on their way from sources without anybody waiting for them.
    pub(super) fn windows(&self) -> BTreeMap<String, u64> {
        lock(&self.state).spare.windows()
    }

    /// The one to ask for `bytes` bytes, of those that were not asked yet.
    pub(super) fn best<'a>(
        &self,
        sources: &'a [Source],
        asked: &[usize],
        object: &ObjectId,
        bytes: u64,
        class: Class,
    ) -> Option<(usize, &'a Source)> {
        // Asked before the lock is taken: it is the swarm's own business how it knows.
        let ranks: Vec<Rank> = sources.iter().map(|source| Rank::of(source, object, class)).collect();
        let state = lock(&self.state);
        let left: Vec<usize> = (0..sources.len()).filter(|place| !asked.contains(place)).collect();
        let preferred = |place: usize| {
            let label = sources[place].label();
            let preferred = || state.limits.preferred.iter().position(|preferred| preferred == label);
            match ranks[place] {
                Rank::First => 0,
                Rank::Configured => {
                    let place = preferred().unwrap_or(state.limits.preferred.len());
                    u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1)
                }
                Rank::Last => u32::MAX,
            }
        };
        let candidates: Vec<(&str, u32)> = left
            .iter()
            .map(|place| (sources[*place].label(), preferred(*place)))
            .collect();
        let first = *state.board.order(self.now(), &candidates, bytes).first()?;
        let place = left[first];
        Some((place, &sources[place]))
    }

    /// All of them, in the order in which to ask them for `bytes` bytes.
    pub(super) fn ordered(&self, sources: &[Source], object: &ObjectId, bytes: u64, class: Class) -> Vec<Source> {
        let mut asked = Vec::with_capacity(sources.len());
        while let Some((place, _)) = self.best(sources, &asked, object, bytes, class) {
            asked.push(place);
        }
        asked
            .into_iter()
            .filter_map(|place| sources.get(place).cloned())
            .collect()
    }

    /// Whether any of them has not failed lately.
    pub(super) fn is_any_well(&self, sources: &[Source]) -> bool {
        let (now, state) = (self.now(), lock(&self.state));
        let scores = state.board.scores();
        let avoided = |source: &Source| scores.get(source.label()).map(|score| score.avoided_until);
        sources
            .iter()
            .any(|source| avoided(source).is_none_or(|until| until <= now))
    }

    /// Waits for a free slot at a source, and until its line and the rates allow for `bytes` more bytes; what leaves the line
    /// to others waits for the gate as well.
    pub(super) async fn begin(&self, source: &Source, class: Class, bytes: u64, gate: &Gate) -> Running<'_> {
        let label = source.label();
        let slots = {
            let mut state = lock(&self.state);
            let max = state.limits.source_running_max;
            max.map(|max| {
                state
                    .slots
                    .entry(label.to_owned())
                    .or_insert_with(|| Slots::new(max))
                    .clone()
            })
        };
        // Never closed, so acquiring cannot fail.
        let mut permits = (None, None);
        if let Some(slots) = slots {
            if class.is_background() {
                permits.1 = slots.background.acquire_owned().await.ok();
            }
            permits.0 = slots.all.acquire_owned().await.ok();
        }
        self.pace(label, class, 0).await;
        let yielding = {
            let state = lock(&self.state);
            let origin = source.origin().filter(|_| state.limits.yields && class.is_background());
            origin.map(|origin| {
                state
                    .spare
                    .begin(origin, &source.repository, state.watcher.as_ref(), gate)
            })
        };
        if let Some(yielding) = &yielding {
            yielding.admit(bytes, gate, class).await;
        }
        lock(&self.state).board.begun(label);
        Running {
            sources: self,
            label: label.to_owned(),
            begun: Instant::now(),
            first_byte: None,
            timed_bytes: 0,
            yielding: yielding.map(Arc::new),
            _permits: permits,
        }
    }

    /// Takes note of bytes that have come, and waits until more may.
    pub(super) async fn pace(&self, label: &str, class: Class, bytes: u64) {
        let pause = {
            let now = self.now();
            let mut state = lock(&self.state);
            let State {
                limits,
                by_source,
                by_class,
                background,
                all,
                ..
            } = &mut *state;
            let source = limits
                .source_rate
                .map(|rate| by_source.entry(label.to_owned()).or_insert_with(|| Throttle::new(rate)));
            let throttles = [
                by_class[class.index()].as_mut(),
                background.as_mut().filter(|_| class.is_background()),
                all.as_mut(),
                source,
            ];
            let until = throttles
                .into_iter()
                .flatten()
                .map(|throttle| throttle.take(now, bytes))
                .max();
            until.map_or(Duration::ZERO, |until| until.since(now))
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes note of how a transfer failed.
    pub(super) fn failed(&self, source: &Source, error: &FetchError) {
        match source.transport {
            Transport::Origin(_) => self.origin_failed(source.label(), error),
            // Its peers are judged one by one. That it was slow with one object is no reason to leave it out with the
            // next, but one to ask others first for what a client waits for.
            Transport::Swarm(_) => {
                if matches!(error, FetchError::Unavailable { source, .. } if source.is_transient()) {
                    lock(&self.state).board.answered(source.label(), SWARM_HESITATION);
                }
            }
        }
    }

    fn origin_failed(&self, label: &str, error: &FetchError) {
        let fault = match error {
            FetchError::Corrupt { .. } => Fault::Lied,
            FetchError::Unavailable { source, .. } => match source.as_ref() {
                TransportError::NotFound { .. } => Fault::Missing,
                TransportError::Protocol { .. } => Fault::Lied,
                _ => Fault::Failed,
            },
            // Our own disk.
            _ => return,
        };
        lock(&self.state).board.failed(label, self.now(), fault);
    }
}

impl Running<'_> {
    /// Good bytes have come.
    pub(super) fn received(&mut self, bytes: u64) {
        if self.first_byte.is_none() {
            self.first_byte = Some(Instant::now());
            let latency = self.begun.elapsed();
            lock(&self.sources.state).board.answered(&self.label, latency);
        } else {
            self.timed_bytes += bytes;
        }
    }

    /// What leaves the line to others, if nobody waits for this.
    pub(super) fn yielding(&self) -> Option<Arc<Yielding>> {
        self.yielding.clone()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.sources.state);
        state.board.ended(&self.label);
        if let Some(first_byte) = self.first_byte {
            state
                .board
                .delivered(&self.label, self.timed_bytes, first_byte.elapsed());
        }
    }
}
