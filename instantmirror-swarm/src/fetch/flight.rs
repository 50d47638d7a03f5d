//! One transfer of one range: asks the sources in order, verifies what comes, stops where the plan says.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use instantmirror_core::fill::FlightId;
use instantmirror_core::outboard::{GROUP_BYTES, Outboard, VerifyError};
use instantmirror_core::traits::blocking::wait;
use instantmirror_core::traits::{ByteStream, CacheError, Class, FetchError, PeerTransport, Transport, TransportError};
use tokio::sync::OnceCell;

use super::Engine;
use super::fill::{Fill, Sink, Source, unavailable};
use super::sources::Running;

/// What all flights of a fill share.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) engine: Arc<Engine>,
    pub(super) fill: Arc<Fill>,
    pub(super) sink: Sink,
    /// Set once the sink can verify.
    pub(super) outboard: OnceCell<()>,
}

/// How a flight ended.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) flight: FlightId,
    /// Whether it brought anything.
    pub(super) progress: bool,
    /// Why it ended early.
    pub(super) error: Option<LandingError>,
}

#[derive(Debug)]
pub(super) struct LandingError {
    pub(super) error: FetchError,
    /// Trying again cannot help.
    pub(super) is_final: bool,
}

/// Flies what is missing of a flight, source after source.
pub(super) async fn fly(job: Arc<Job>, flight: FlightId) -> Landing {
    let (mut failure, mut progress) = (None::<LandingError>, false);
    let mut asked = Vec::new();
    while let Some(gap) = job.fill.flight_gap(flight) {
        // Sources may come while others are asked.
        let sources = job.fill.sources();
        let best = job.engine.sources.best(
            &sources,
            &asked,
            &job.fill.object,
            gap.end - gap.start,
            job.fill.class(),
        );
        let Some((place, source)) = best else {
            return Landing {
                flight,
                progress,
                error: failure,
            };
        };
        let most = job.engine.sources.range_bytes(source, job.fill.class());
        let part = gap.start..gap.end.min(gap.start.saturating_add(most));
        let flown = job.fly_from(source, flight, &part).await;
        // Part of it may have come, in whatever order.
        progress |= job.fill.flight_gap(flight).as_ref() != Some(&gap);
        let Err(error) = flown else { continue };
        asked.push(place);
        job.engine.blame(&job.fill.object, source, &error);
        let is_final = matches!(error, FetchError::Cache(_));
        if is_final {
            // Our own disk, not the source: no other source will do better.
            let error = Some(LandingError { error, is_final });
            return Landing {
                flight,
                progress,
                error,
            };
        }
        failure = Some(LandingError::of(error).and(failure));
    }
    Landing {
        flight,
        progress: true,
        error: None,
    }
}

impl LandingError {
    pub(super) fn of(error: FetchError) -> Self {
        let is_final = match &error {
            FetchError::Unavailable { source, .. } => !source.is_transient(),
            _ => true,
        };
        Self { error, is_final }
    }

    /// What to say of two sources that failed: the more telling error, the later one of equals. One source that may
    /// recover is reason enough to come back.
    pub(super) fn and(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let is_final = self.is_final && before.is_final;
        let error = if weight(&before.error) > weight(&self.error) {
            before.error
        } else {
            self.error
        };
        Self { error, is_final }
    }
}

/// How much an error tells of what is wrong: forged content more than a refusal, that more than silence, and least that
/// one source lacks the object.
fn weight(error: &FetchError) -> u8 {
    match error {
        FetchError::Cache(_) => 4,
        FetchError::Corrupt { .. } => 3,
        FetchError::Unavailable { source, .. } => match source.as_ref() {
            TransportError::NotFound { .. } => 0,
            error if error.is_transient() => 1,
            _ => 2,
        },
        _ => 0,
    }
}

impl Job {
    fn corrupt(&self, from: &Source, source: VerifyError) -> FetchError {
        let (object, repository) = (self.fill.object, from.repository.clone());
        FetchError::Corrupt {
            object,
            repository,
            source,
        }
    }

    fn unavailable(&self, source: &Source, error: TransportError) -> FetchError {
        unavailable(self.fill.object, &source.repository, error)
    }

    async fn fly_from(&self, source: &Source, flight: FlightId, gap: &Range<u64>) -> Result<(), FetchError> {
        match &source.transport {
            Transport::Origin(origin) => self.fly_from_origin(source, origin.as_ref(), flight, gap).await,
            Transport::Swarm(swarm) => {
                let flown = self.unless_cut(flight, self.fly_from_swarm(source, swarm.as_ref(), flight));
                flown.await.unwrap_or(Ok(()))
            }
        }
    }

    /// Brings one range, in order.
    async fn fly_from_origin(
        &self,
        source: &Source,
        origin: &dyn PeerTransport,
        flight: FlightId,
        gap: &Range<u64>,
    ) -> Result<(), FetchError> {
        let range = gap.clone();
        let begin = async {
            self.hold_still().await;
            let running = self.begin(source, gap.end - gap.start).await;
            let body = async {
                let opened = origin.range(&source.repository, &self.fill.object, range, self.fill.class());
                opened.await.map_err(|error| self.unavailable(source, error))
            };
            // The content travels while the outboard does: one round trip, not two.
            let outboard = self.outboard.get_or_try_init(|| self.fetch_outboard(source));
            tokio::try_join!(body, outboard).map(|(body, _)| (running, body))
        };
        match self.unless_cut(flight, begin).await {
            Some(begun) => {
                let (mut running, mut body) = begun?;
                self.receive(source, &mut running, &mut body, flight, gap).await
            }
            None => Ok(()),
        }
    }

    /// Waits for room at a source, or for none once a client waits.
    async fn begin(&self, source: &Source, bytes: u64) -> Running<'_> {
        let (sources, gate, class) = (&self.engine.sources, self.engine.queue.gate(), self.fill.class());
        if class.is_background() {
            tokio::select! {
                biased;
                begun = sources.begin(source, class, bytes, gate) => return begun,
                () = self.fill.demanded() => {}
            }
        }
        sources.begin(source, self.fill.class(), bytes, gate).await
    }

    /// Work that ends when nobody wants any more of the flight. Writing is none: whoever begins anew would find it under way.
    async fn unless_cut<T>(&self, flight: FlightId, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.fill.cut(flight) => None,
        }
    }

    /// Hands groups to the cache, which verifies them. A client does not wait for the disk: the first groups are announced
    /// before.
    async fn write(&self, source: &Source, position: u64, groups: Bytes, is_first: bool) -> Result<(), CacheError> {
        // One that a client comes to wait for must not wait for others, who hold still for it.
        let _one = tokio::select! {
            biased;
            () = self.fill.demanded() => None,
            one = self.engine.writing.acquire() => one.ok(),
        };
        let bytes = groups.len() as u64;
        let is_announced = is_first && !self.fill.class().is_background();
        if is_announced {
            let outboard = self.sink.outboard().ok_or(VerifyError::Outboard(self.fill.object))?;
            outboard.verify_groups(position, &groups)?;
            // Whoever reads them may be done, and say where they came from, before the disk is.
            self.fill.count(source, bytes);
            self.fill.hold(position, groups.clone());
        }
        self.sink.write(position, groups).await?;
        if !is_announced {
            self.fill.count(source, bytes);
        }
        Ok(())
    }

    /// The same with groups from several places, on one thread for all; says of each how it went.
    pub(super) async fn write_all(&self, parts: Vec<(u64, Bytes)>) -> Result<Vec<Result<(), CacheError>>, FetchError> {
        let sink = Arc::clone(&self.sink);
        let _one = tokio::select! {
            biased;
            () = self.fill.demanded() => None,
            one = self.engine.writing.acquire() => one.ok(),
        };
        let write_each = async move {
            let mut written = Vec::with_capacity(parts.len());
            for (position, groups) in parts {
                written.push(sink.write(position, groups).await);
            }
            written
        };
        let write = move || wait(write_each);
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|error| FetchError::Cache(broken_off(error)))
    }

    /// Waits while something more urgent runs, unless a client comes to wait for this.
    pub(super) async fn hold_still(&self) {
        let class = self.fill.class();
        tokio::select! {
            biased;
            () = self.engine.queue.gate().pass(class) => {}
            () = self.fill.demanded() => {}
        }
    }

    /// Waits until limits on bytes allow for more, unless a client comes to wait for this.
    pub(super) async fn pace(&self, label: &str, bytes: u64) {
        let class = self.fill.class();
        let pace = self.engine.sources.pace(label, class, bytes);
        if class == Class::Demand {
            return pace.await;
        }
        tokio::select! {
            biased;
            () = pace => {}
            () = self.fill.demanded() => {}
        }
    }

    pub(super) async fn fetch_outboard(&self, source: &Source) -> Result<(), FetchError> {
        let (object, size) = (self.fill.object, self.fill.size);
        let values = source
            .transport
            .outboard(&source.repository, &object, size, self.fill.class())
            .await;
        let values = values.map_err(|error| self.unavailable(source, error))?;
        let outboard = Outboard::verify(object, size, values).map_err(|error| self.corrupt(source, error))?;
        self.sink.set_outboard(outboard).await.map_err(FetchError::Cache)
    }

    /// Hands whole groups on as they come, until the plan wants no more of this flight.
    async fn receive(
        &self,
        source: &Source,
        running: &mut Running<'_>,
        body: &mut ByteStream,
        flight: FlightId,
        gap: &Range<u64>,
    ) -> Result<(), FetchError> {
        let mut held = BytesMut::new();
        let mut position = gap.start;
        let yielding = running.yielding();
        loop {
            let end = self.fill.flight_end(flight).map(|end| end.min(gap.end));
            let Some(end) = end.filter(|&end| position < end) else {
                return Ok(());
            };
            let next = async {
                self.hold_still().await;
                body.next().await
            };
            let Some(next) = self.unless_cut(flight, next).await else {
                return Ok(());
            };
            match next {
                Some(Ok(bytes)) => {
                    yielding.iter().for_each(|yielding| yielding.came(bytes.len() as u64));
                    held.extend_from_slice(&bytes);
                }
                Some(Err(error)) => return Err(self.unavailable(source, error)),
                None => return Err(self.unavailable(source, broke_off(source))),
            }
            let take = whole_groups(held.len() as u64, position, end);
            if take == 0 {
                continue;
            }
            let groups = held.split_to(usize::try_from(take).unwrap_or(held.len())).freeze();
            let written = self.write(source, position, groups, position == gap.start).await;
            written.map_err(|error| match error {
                CacheError::Verify(error) => self.corrupt(source, error),
                other => FetchError::Cache(other),
            })?;
            let label = source.label();
            self.engine.stats.received(label, self.fill.class(), take);
            running.received(take);
            self.fill.arrived(flight, position..position + take);
            position += take;
            self.unless_cut(flight, self.pace(label, take)).await;
        }
    }
}

/// The error of work on the disk that never came to its end.
pub(super) fn broken_off(error: impl std::error::Error + Send + Sync + 'static) -> CacheError {
    CacheError::Io {
        what: "writing to the cache broke off".to_owned(),
        source: Arc::new(error),
    }
}

/// The error of a body that ended before its end.
pub(super) fn broke_off(source: &Source) -> TransportError {
    TransportError::Unreachable {
        from: source.label().to_owned(),
        reason: "the transfer broke off early".to_owned(),
    }
}

/// How many of `held` bytes at `position` are whole groups, where the flight stops at `end`.
pub(super) fn whole_groups(held: u64, position: u64, end: u64) -> u64 {
    let until = position + held;
    if until >= end {
        end - position
    } else {
        (until / GROUP_BYTES * GROUP_BYTES).saturating_sub(position)
    }
}
