//! One object being fetched: what its readers share, and the task that drives it to its end.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use instantmirror_core::fill::{FillPlan, FlightId, WantId};
use instantmirror_core::log_limited;
use instantmirror_core::traits::blocking::wait;
use instantmirror_core::traits::{
    CacheError, Class, FetchError, ObjectFill, ObjectHandle, Outcome, PeerTransport, Request, Transport, TransportError,
};
use instantmirror_core::{ObjectId, RangeSet, RepoName};
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::JoinSet;

use super::flight::{self, Landing, broken_off};
use super::passing::has_no_room;
use super::queue::Place;
use super::{Engine, Transfer, lock};

/// What the readers and the driver of one fill share.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) repository: RepoName,
    pub(super) object: ObjectId,
    pub(super) size: u64,
    class: Class,
    rank: u32,
    sources: Mutex<Vec<Source>>,
    state: Mutex<State>,
    handle: OnceLock<Arc<dyn ObjectHandle>>,
    /// Grows with every change that a reader may wait for.
    progress: watch::Sender<u64>,
    /// Tells the driver that the wants have changed.
    wants_changed: Notify,
    /// Tells flights that they may have become shorter.
    cuts: watch::Sender<u64>,
    /// A client waits for it, whatever it was begun for.
    demanded: watch::Sender<bool>,
    /// Bytes that came from masters, and from other peers.
    came: [AtomicU64; 2],
}

/// Somebody to ask, and for which repository.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) repository: RepoName,
    pub(super) transport: Transport,
}

impl Source {
    /// What names it in logs and statistics.
    pub(super) fn label(&self) -> &str {
        self.transport.label()
    }

    /// It as one side that answers ranges; `None` if it is a swarm.
    pub(super) fn origin(&self) -> Option<&Arc<dyn PeerTransport>> {
        match &self.transport {
            Transport::Origin(origin) => Some(origin),
            Transport::Swarm(_) => None,
        }
    }
}

#[derive(Debug)]
struct State {
    plan: FillPlan,
    /// Verified bytes, by their place, of which the disk does not say yet that it has them. Those that it refuses stay, for
    /// they were announced.
    early: Vec<(u64, Bytes)>,
    readers: usize,
    /// How it ended, if it failed.
    failure: Option<FetchError>,
    /// No reader may join any more.
    closed: bool,
    /// Sources have come that flights which wait for a retry have not asked.
    new_sources: bool,
}

impl State {
    fn early(&self, offset: u64) -> Option<&(u64, Bytes)> {
        let has_it = |(start, bytes): &&(u64, Bytes)| (*start..*start + bytes.len() as u64).contains(&offset);
        self.early.iter().find(has_it)
    }
}

impl Fill {
    pub(super) fn new(repository: RepoName, object: ObjectId, size: u64, class: Class, rank: u32) -> Self {
        let plan = FillPlan::new(size, RangeSet::new());
        let state = Mutex::new(State {
            plan,
            early: Vec::new(),
            readers: 0,
            failure: None,
            closed: false,
            new_sources: false,
        });
        let (handle, progress, wants_changed) = (OnceLock::new(), watch::Sender::new(0), Notify::new());
        let cuts = watch::Sender::new(0);
        Self {
            repository,
            object,
            size,
            class,
            rank,
            sources: Mutex::default(),
            state,
            handle,
            progress,
            wants_changed,
            cuts,
            demanded: watch::Sender::new(class == Class::Demand),
            came: Default::default(),
        }
    }

    /// So many more bytes came from a source.
    pub(super) fn count(&self, source: &Source, bytes: u64) {
        let side = match source.transport {
            Transport::Origin(_) => 0,
            Transport::Swarm(_) => 1,
        };
        if let Some(came) = self.came.get(side) {
            came.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Whether the cache has all of a range.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        lock(&self.state).plan.present().contains(range.clone())
    }

    /// Bytes that came from masters, and from other peers.
    pub(super) fn came(&self) -> [u64; 2] {
        self.came.each_ref().map(|came| came.load(Ordering::Relaxed))
    }

    /// A client waits for it from now on: it need not wait its turn behind others any more.
    pub(super) fn demand(&self) {
        self.demanded
            .send_if_modified(|demanded| !std::mem::replace(demanded, true));
    }

    /// How urgent it is now.
    pub(super) fn class(&self) -> Class {
        if *self.demanded.borrow() {
            Class::Demand
        } else {
            self.class
        }
    }

    /// Waits until a client waits for it.
    pub(super) async fn demanded(&self) {
        // The sender lives in self.
        let _ = self.demanded.subscribe().wait_for(|demanded| *demanded).await;
    }

    pub(super) fn transfer(&self) -> Transfer {
        let state = lock(&self.state);
        Transfer {
            repository: self.repository.clone(),
            object: self.object,
            size: self.size,
            present: state.plan.present().len(),
            readers: state.readers,
        }
    }

    pub(super) fn handle(&self) -> Option<&Arc<dyn ObjectHandle>> {
        self.handle.get()
    }

    /// Adds the sources of a repository that has the object too, to be asked after those that are known.
    pub(super) fn add_sources(&self, repository: &RepoName, transports: &[Transport]) {
        let mut sources = lock(&self.sources);
        if transports.is_empty() || sources.iter().any(|source| source.repository == *repository) {
            return;
        }
        sources.extend(transports.iter().map(|transport| Source {
            repository: repository.clone(),
            transport: transport.clone(),
        }));
        lock(&self.state).new_sources = true;
        self.wants_changed.notify_one();
    }

    /// All that are known; more may come.
    pub(super) fn sources(&self) -> Vec<Source> {
        lock(&self.sources).clone()
    }

    /// Those that answer ranges.
    pub(super) fn origins(&self) -> Vec<Source> {
        let sources = lock(&self.sources);
        sources
            .iter()
            .filter(|source| source.origin().is_some())
            .cloned()
            .collect()
    }

    pub(super) fn accepts_readers(&self) -> bool {
        !lock(&self.state).closed
    }

    /// Whether readers of a fill that ended so are to go past the cache: it has no file. One that has may have given
    /// its descriptor away, and what is not in the file must not be announced as ready then.
    pub(super) fn is_passed_by(&self, failure: &FetchError) -> bool {
        let has_file = self.handle.get().is_some_and(|handle| handle.descriptor().is_some());
        !has_file && has_no_room(failure)
    }

    pub(super) fn attach(&self, range: Range<u64>) -> WantId {
        let mut state = lock(&self.state);
        state.readers += 1;
        let want = state.plan.want(range);
        self.wants_changed.notify_one();
        want
    }

    pub(super) fn detach(&self, want: WantId) {
        let mut state = lock(&self.state);
        state.readers -= 1;
        state.plan.forget(want);
        self.wants_changed.notify_one();
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Closes the fill if nobody reads it and nothing is to be fetched.
    pub(super) fn close_if_unused(&self) -> bool {
        let mut state = lock(&self.state);
        state.closed |= state.readers == 0 && state.plan.is_idle();
        state.closed
    }

    /// Waits until the byte at `offset` is here; see `ObjectReader::ready`.
    pub(super) async fn ready(&self, want: WantId, offset: u64) -> Result<u64, FetchError> {
        self.wait(want, offset, |state| {
            let early = state.early(offset);
            early.map_or(0, |(start, bytes)| start + bytes.len() as u64)
        })
        .await
    }

    /// The same, but until it is in the cache.
    pub(super) async fn kept(&self, want: WantId, offset: u64) -> Result<u64, FetchError> {
        self.wait(want, offset, |_| 0).await
    }

    async fn wait(&self, want: WantId, offset: u64, early: impl Fn(&State) -> u64) -> Result<u64, FetchError> {
        let mut progress = self.progress.subscribe();
        loop {
            progress.borrow_and_update();
            {
                let mut state = lock(&self.state);
                let present = state.plan.present().run_from(offset);
                let end = if present > offset { present } else { early(&state) };
                if end > offset && self.handle.get().is_some() {
                    state.plan.advance(want, offset);
                    return Ok(end);
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
            }
            // The sender lives in self.
            let _ = progress.changed().await;
        }
    }

    /// Announces verified bytes before they are on the disk.
    pub(super) fn hold(&self, position: u64, bytes: Bytes) {
        lock(&self.state).early.push((position, bytes));
        self.changed();
    }

    /// The bytes from `offset` on that are not on the disk yet.
    pub(super) fn held(&self, offset: u64) -> Option<Bytes> {
        let state = lock(&self.state);
        if state.plan.present().run_from(offset) > offset {
            return None;
        }
        let (start, bytes) = state.early(offset)?;
        usize::try_from(offset - start).ok().map(|at| bytes.slice(at..))
    }

    fn changed(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// What the cache held already.
    fn opened(&self, handle: Arc<dyn ObjectHandle>) {
        let present = handle.present();
        lock(&self.state).plan.add_present(&present);
        let _ = self.handle.set(handle);
        self.changed();
    }

    pub(super) fn arrived(&self, flight: FlightId, range: Range<u64>) {
        let mut state = lock(&self.state);
        state.early.retain(|(start, _)| *start != range.start);
        state.plan.arrived(flight, range);
        drop(state);
        self.changed();
    }

    pub(super) fn flight_end(&self, flight: FlightId) -> Option<u64> {
        lock(&self.state).plan.flight_end(flight)
    }

    pub(super) fn flight_gap(&self, flight: FlightId) -> Option<Range<u64>> {
        lock(&self.state).plan.flight_gap(flight)
    }

    pub(super) fn rank(&self) -> u32 {
        self.rank
    }

    /// Waits until nobody wants any more of a flight: one whose source is silent would not notice else.
    pub(super) async fn cut(&self, flight: FlightId) {
        let mut cuts = self.cuts.subscribe();
        while self.flight_end(flight).is_some() {
            // The sender lives in self.
            let _ = cuts.changed().await;
        }
    }

    fn fail(&self, failure: FetchError) {
        let mut state = lock(&self.state);
        state.failure = Some(failure);
        state.closed = true;
        drop(state);
        self.changed();
    }

    fn request(&self, engine: &Engine) -> Request {
        Request {
            repository: self.repository.clone(),
            object: self.object,
            objects: 1,
            size: self.size,
            class: self.class(),
            rank: self.rank,
            deadline: engine.queue.now(),
        }
    }
}

/// Drives a fill from its first reader to its end. The fill leaves the engine's table when this returns.
pub(super) async fn run(engine: Arc<Engine>, fill: Arc<Fill>) {
    let mut flights = JoinSet::new();
    let result = drive(&engine, &fill, &mut flights).await;
    // A flight holds the right to fill: it is over before somebody else may begin.
    flights.shutdown().await;
    if let Err(failure) = result {
        if fill.is_passed_by(&failure) {
            engine.note_passed_by(fill.object, &failure);
        } else {
            log_failure(&fill, &failure);
        }
        fill.fail(failure);
    }
    engine.remove(&fill);
}

/// Readers cause fetches: one line a minute for each kind. That a master is away is told by whoever follows it.
fn log_failure(fill: &Fill, failure: &FetchError) {
    let (now, Fill { repository, object, .. }) = (Instant::now(), fill);
    match failure {
        FetchError::Unavailable { source, .. } if source.is_transient() => {
            log_limited!(now, info, %repository, %object, "fetch failed: {failure}");
        }
        _ => log_limited!(now, warn, %repository, %object, "fetch failed: {failure}"),
    }
}

/// Waits for the turn and for room. Another fill of the object may be ending: that is waited for as a retry.
async fn begin(engine: &Arc<Engine>, fill: &Fill, place: &mut Place) -> Result<Sink, FetchError> {
    loop {
        let raised = fill.class() == Class::Demand;
        tokio::select! {
            biased;
            () = place.turn() => {}
            () = fill.demanded(), if !raised => {
                place.raise(Class::Demand);
                place.turn().await;
            }
        }
        match reserve(engine, fill).await {
            Err(CacheError::Busy(_)) if place.finished(Outcome::Retry) => {}
            begun => return Ok(begun?),
        }
    }
}

/// The right to fill, and room for all of it. To make room can take a disk long: not on the runtime's threads, unless a client
/// waits, who would wait for another thread as well.
async fn reserve(engine: &Arc<Engine>, fill: &Fill) -> Result<Sink, CacheError> {
    let (object, size) = (fill.object, fill.size);
    if !fill.class().is_background() {
        return engine.cache.fill(&object, size).await;
    }
    let engine = Arc::clone(engine);
    let fill = move || wait(engine.cache.fill(&object, size));
    let begun = tokio::task::spawn_blocking(fill);
    begun.await.unwrap_or_else(|error| Err(broken_off(error)))
}

async fn drive(engine: &Arc<Engine>, fill: &Arc<Fill>, flights: &mut JoinSet<Landing>) -> Result<(), FetchError> {
    let mut place = engine.queue.submit(fill.request(engine));
    let sink = begin(engine, fill, &mut place).await?;
    fill.opened(sink.handle());
    let outboard = OnceCell::new_with(sink.outboard().map(|_| ()));
    let job = Arc::new(flight::Job {
        engine: Arc::clone(engine),
        fill: Arc::clone(fill),
        sink: Arc::clone(&sink),
        outboard,
    });
    let mut pause = Pause::default();
    let mut slot = Slot {
        place: Some(place),
        granted: true,
    };
    let mut raised = fill.class == Class::Demand;
    loop {
        pause.end_unwanted(fill);
        slot.ask_or_give_back(engine, fill, &pause);
        if slot.granted {
            start_flights(&job, flights);
        }
        if lock(&fill.state).plan.is_complete() {
            flights.shutdown().await;
            sink.finish().await?;
            engine.stats.object();
            slot.leave(&pause);
            tracing::debug!(repository = %fill.repository, object = %fill.object, size = fill.size, "object fetched");
            return Ok(());
        }
        if flights.is_empty() && engine.retire(fill) {
            slot.leave(&pause);
            return Ok(());
        }
        tokio::select! {
            landed = flights.join_next(), if !flights.is_empty() => {
                let Some(Ok(landing)) = landed else { continue };
                land(engine, fill, &mut slot, &mut pause, landing)?;
            }
            () = fill.demanded(), if !raised => {
                // Whoever is less urgent yields from now on, and this no longer.
                raised = true;
                slot.raise();
            }
            () = slot.turn(), if !slot.granted || pause.awaits_turn => {
                slot.granted = true;
                pause.awaits_turn = false;
                pause.end_all(fill);
            }
            () = fill.wants_changed.notified() => {}
        }
    }
}

/// A fill's place in the queue. One that rests (its readers have all they want for now, but have not left) has none:
/// slow readers must not hold up what others wait for.
#[derive(Debug)]
struct Slot {
    place: Option<Place>,
    /// It is the fill's turn. Stays so while a retry is awaited: other flights go on.
    granted: bool,
}

impl Slot {
    fn ask_or_give_back(&mut self, engine: &Engine, fill: &Fill, pause: &Pause) {
        let rests = lock(&fill.state).plan.is_idle();
        if !rests && self.place.is_none() {
            self.place = Some(engine.queue.submit(fill.request(engine)));
        } else if rests && self.granted {
            self.leave(pause);
        }
    }

    fn raise(&self) {
        if let Some(place) = &self.place {
            place.raise(Class::Demand);
        }
    }

    /// Waits for the turn; for ever without a place.
    async fn turn(&mut self) {
        match &mut self.place {
            Some(place) => place.turn().await,
            None => std::future::pending().await,
        }
    }

    /// Gives the place back: a turn that was had is over, one that is still awaited is withdrawn.
    fn leave(&mut self, pause: &Pause) {
        self.granted &= !pause.awaits_turn;
        if let Some(mut place) = self.place.take()
            && self.granted
        {
            place.finished(Outcome::Done);
        }
        self.granted = false;
    }
}

/// Starts what the plan asks for now.
fn start_flights(job: &Arc<flight::Job>, flights: &mut JoinSet<Landing>) {
    loop {
        let next = lock(&job.fill.state).plan.next_flight();
        let Some((id, _)) = next else { return };
        flights.spawn(flight::fly(Arc::clone(job), id));
    }
}

/// Flights that failed and wait for another try, while those that are under way go on and new readers start more.
#[derive(Debug, Default)]
struct Pause {
    /// They stay in the plan, so that nothing of them is asked for before the pause is over.
    flights: Vec<FlightId>,
    /// The scheduler will give the fill another turn.
    awaits_turn: bool,
}

impl Pause {
    fn end_all(&mut self, fill: &Fill) {
        let mut state = lock(&fill.state);
        self.flights.drain(..).for_each(|flight| state.plan.ended(flight));
    }

    /// Ends the pause of flights that nobody wants any more, and of all if somebody new can be asked.
    fn end_unwanted(&mut self, fill: &Fill) {
        if std::mem::take(&mut lock(&fill.state).new_sources) {
            return self.end_all(fill);
        }
        let mut state = lock(&fill.state);
        self.flights.retain(|&flight| {
            let wanted = state.plan.flight_end(flight).is_some();
            if !wanted {
                state.plan.ended(flight);
            }
            wanted
        });
    }
}

/// Takes note of a flight that is over. After a failure without progress the scheduler says whether and
/// when to try again.
fn land(engine: &Engine, fill: &Fill, slot: &mut Slot, pause: &mut Pause, landing: Landing) -> Result<(), FetchError> {
    let Some(error) = landing.error else {
        lock(&fill.state).plan.ended(landing.flight);
        return Ok(());
    };
    if error.is_final {
        return Err(error.error);
    }
    tracing::debug!(object = %fill.object, "will be tried again: {}", error.error);
    pause.flights.push(landing.flight);
    if pause.awaits_turn {
        return Ok(());
    }
    match &mut slot.place {
        Some(place) if !landing.progress => {
            if !place.finished(Outcome::Retry) {
                return Err(error.error);
            }
        }
        place => {
            // It got somewhere: the count of tries begins anew.
            if let Some(mut over) = place.take() {
                over.finished(Outcome::Done);
            }
            *place = Some(engine.queue.submit(fill.request(engine)));
        }
    }
    pause.awaits_turn = true;
    Ok(())
}

/// The error of an object that nobody delivered.
pub(super) fn unavailable(object: ObjectId, repository: &RepoName, error: TransportError) -> FetchError {
    let repository = repository.clone();
    FetchError::Unavailable {
        object,
        repository,
        source: Arc::new(error),
    }
}

/// Where verified bytes go.
pub(super) type Sink = Arc<dyn ObjectFill>;
