//! One object being fetched: what its readers share, and the task that drives it to its end.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use instantmirror_core::fill::{FillPlan, FlightId, WantId};
use instantmirror_core::traits::{
    CacheError, Class, FetchError, ObjectFill, ObjectHandle, Outcome, PeerTransport, Request, TransportError,
};
use instantmirror_core::{ObjectId, RangeSet, RepoName};
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::JoinSet;

use super::flight::{self, Landing};
use super::queue::Place;
use super::{Engine, Transfer, lock};

/// What the readers and the driver of one fill share.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) repository: RepoName,
    pub(super) object: ObjectId,
    pub(super) size: u64,
    class: Class,
    state: Mutex<State>,
    handle: OnceLock<Arc<dyn ObjectHandle>>,
    /// Grows with every change that a reader may wait for.
    progress: watch::Sender<u64>,
    /// Tells the driver that the wants have changed.
    wants_changed: Notify,
    /// Tells flights that they may have become shorter.
    cuts: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    plan: FillPlan,
    readers: usize,
    /// How it ended, if it failed.
    failure: Option<FetchError>,
    /// No reader may join any more.
    closed: bool,
}

impl Fill {
    pub(super) fn new(repository: RepoName, object: ObjectId, size: u64, class: Class) -> Self {
        let plan = FillPlan::new(size, RangeSet::new());
        let state = Mutex::new(State {
            plan,
            readers: 0,
            failure: None,
            closed: false,
        });
        let (handle, progress, wants_changed) = (OnceLock::new(), watch::Sender::new(0), Notify::new());
        let cuts = watch::Sender::new(0);
        Self {
            repository,
            object,
            size,
            class,
            state,
            handle,
            progress,
            wants_changed,
            cuts,
        }
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

    pub(super) fn accepts_readers(&self) -> bool {
        !lock(&self.state).closed
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
        let mut progress = self.progress.subscribe();
        loop {
            progress.borrow_and_update();
            {
                let mut state = lock(&self.state);
                let end = state.plan.present().run_from(offset);
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
        lock(&self.state).plan.arrived(flight, range);
        self.changed();
    }

    pub(super) fn flight_end(&self, flight: FlightId) -> Option<u64> {
        lock(&self.state).plan.flight_end(flight)
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
            size: self.size,
            class: self.class,
            deadline: engine.queue.now(),
        }
    }
}

/// Drives a fill from its first reader to its end. The fill leaves the engine's table when this returns.
pub(super) async fn run(engine: Arc<Engine>, fill: Arc<Fill>, sources: Vec<Arc<dyn PeerTransport>>) {
    let mut flights = JoinSet::new();
    let result = drive(&engine, &fill, sources, &mut flights).await;
    // A flight holds the right to fill: it is over before somebody else may begin.
    flights.shutdown().await;
    if let Err(failure) = result {
        tracing::warn!(repository = %fill.repository, object = %fill.object, "fetch failed: {failure}");
        fill.fail(failure);
    }
    engine.remove(&fill);
}

/// Waits for the turn and for room. Another fill of the object may be ending: that is waited for as a retry.
async fn begin(engine: &Engine, fill: &Fill, place: &mut Place) -> Result<Sink, FetchError> {
    loop {
        place.turn().await;
        match engine.cache.fill(&fill.object, fill.size).await {
            Err(CacheError::Busy(_)) if place.finished(Outcome::Retry) => {}
            begun => return Ok(begun?),
        }
    }
}

async fn drive(
    engine: &Arc<Engine>,
    fill: &Arc<Fill>,
    sources: Vec<Arc<dyn PeerTransport>>,
    flights: &mut JoinSet<Landing>,
) -> Result<(), FetchError> {
    let mut place = engine.queue.submit(fill.request(engine));
    let sink = begin(engine, fill, &mut place).await?;
    fill.opened(sink.handle());
    let outboard = OnceCell::new_with(sink.outboard().map(|_| ()));
    let job = Arc::new(flight::Job {
        engine: Arc::clone(engine),
        fill: Arc::clone(fill),
        sources,
        sink: Arc::clone(&sink),
        outboard,
    });
    loop {
        start_flights(&job, flights);
        if lock(&fill.state).plan.is_complete() {
            flights.shutdown().await;
            sink.finish().await?;
            engine.stats.object();
            place.finished(Outcome::Done);
            tracing::debug!(repository = %fill.repository, object = %fill.object, size = fill.size, "object fetched");
            return Ok(());
        }
        if flights.is_empty() && engine.retire(fill) {
            place.finished(Outcome::Done);
            return Ok(());
        }
        tokio::select! {
            landed = flights.join_next(), if !flights.is_empty() => {
                let Some(Ok(landing)) = landed else { continue };
                land(engine, fill, &mut place, landing).await?;
            }
            () = fill.wants_changed.notified() => {}
        }
    }
}

/// Starts what the plan asks for now.
fn start_flights(job: &Arc<flight::Job>, flights: &mut JoinSet<Landing>) {
    loop {
        let next = lock(&job.fill.state).plan.next_flight();
        let Some((id, range)) = next else { return };
        flights.spawn(flight::fly(Arc::clone(job), id, range));
    }
}

/// Takes note of a flight that is over. After a failure without progress the scheduler says whether and
/// when to try again.
async fn land(engine: &Engine, fill: &Fill, place: &mut Place, landing: Landing) -> Result<(), FetchError> {
    let Some(error) = landing.error else {
        lock(&fill.state).plan.ended(landing.flight);
        return Ok(());
    };
    let outcome = if error.is_final {
        Outcome::Failed
    } else {
        Outcome::Retry
    };
    let again = if landing.progress && outcome == Outcome::Retry {
        // It got somewhere: the count of tries begins anew.
        place.finished(Outcome::Done);
        *place = engine.queue.submit(fill.request(engine));
        true
    } else {
        place.finished(outcome)
    };
    if !again {
        return Err(error.error);
    }
    tracing::debug!(object = %fill.object, "will be tried again: {}", error.error);
    place.turn().await;
    lock(&fill.state).plan.ended(landing.flight);
    Ok(())
}

/// The error of an object that nobody delivered.
pub(super) fn unavailable(fill: &Fill, error: TransportError) -> FetchError {
    let (object, repository) = (fill.object, fill.repository.clone());
    FetchError::Unavailable {
        object,
        repository,
        source: Arc::new(error),
    }
}

/// Where verified bytes go.
pub(super) type Sink = Arc<dyn ObjectFill>;
