//! One transfer of one range: asks the sources in order, verifies what comes, stops where the plan says.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use instantmirror_core::fill::FlightId;
use instantmirror_core::outboard::{GROUP_BYTES, Outboard, VerifyError};
use instantmirror_core::traits::{ByteStream, CacheError, FetchError, PeerTransport, TransportError};
use tokio::sync::OnceCell;

use super::Engine;
use super::fill::{Fill, Sink, unavailable};

/// What all flights of a fill share.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) engine: Arc<Engine>,
    pub(super) fill: Arc<Fill>,
    pub(super) sources: Vec<Arc<dyn PeerTransport>>,
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

/// Flies `range`, source after source.
pub(super) async fn fly(job: Arc<Job>, flight: FlightId, range: Range<u64>) -> Landing {
    let start = range.start;
    let mut position = start;
    let mut last = None;
    for source in &job.sources {
        let flown = tokio::select! {
            biased;
            flown = job.fly_from(source, flight, &mut position, range.end) => flown,
            () = job.fill.cut(flight) => Ok(()),
        };
        let Err(error) = flown else {
            return Landing {
                flight,
                progress: true,
                error: None,
            };
        };
        job.note(source, &error);
        if matches!(error, FetchError::Cache(_)) {
            // Our own disk, not the source: no other source will do better.
            last = Some(LandingError { error, is_final: true });
            break;
        }
        let is_final = match &error {
            FetchError::Unavailable { source, .. } => !source.is_transient(),
            _ => true,
        };
        // One source that may recover is reason enough to come back.
        let is_final = is_final && last.as_ref().is_none_or(|before: &LandingError| before.is_final);
        last = Some(LandingError { error, is_final });
    }
    Landing {
        flight,
        progress: position > start,
        error: last,
    }
}

impl Job {
    fn note(&self, source: &Arc<dyn PeerTransport>, error: &FetchError) {
        let (label, stats) = (source.label(), &self.engine.stats);
        match error {
            FetchError::Corrupt { .. } => {
                stats.corrupt(label);
                tracing::error!(object = %self.fill.object, source = label, "corrupt data was refused: {error}");
            }
            _ => stats.failed(label),
        }
    }

    fn corrupt(&self, source: VerifyError) -> FetchError {
        let (object, repository) = (self.fill.object, self.fill.repository.clone());
        FetchError::Corrupt {
            object,
            repository,
            source,
        }
    }

    async fn fly_from(
        &self,
        source: &Arc<dyn PeerTransport>,
        flight: FlightId,
        position: &mut u64,
        end: u64,
    ) -> Result<(), FetchError> {
        let (repository, object) = (&self.fill.repository, &self.fill.object);
        let body = async {
            let opened = source.range(repository, object, *position..end).await;
            opened.map_err(|error| unavailable(&self.fill, error))
        };
        // The content travels while the outboard does: one round trip, not two.
        let outboard = self.outboard.get_or_try_init(|| self.fetch_outboard(source));
        let (mut body, _) = tokio::try_join!(body, outboard)?;
        self.receive(source, &mut body, flight, position).await
    }

    async fn fetch_outboard(&self, source: &Arc<dyn PeerTransport>) -> Result<(), FetchError> {
        let (object, size) = (self.fill.object, self.fill.size);
        let values = source.outboard(&self.fill.repository, &object, size).await;
        let values = values.map_err(|error| unavailable(&self.fill, error))?;
        let outboard = Outboard::verify(object, size, values).map_err(|error| self.corrupt(error))?;
        self.sink.set_outboard(outboard).map_err(FetchError::Cache)
    }

    /// Hands whole groups on as they come, until the plan wants no more of this flight.
    async fn receive(
        &self,
        source: &Arc<dyn PeerTransport>,
        body: &mut ByteStream,
        flight: FlightId,
        position: &mut u64,
    ) -> Result<(), FetchError> {
        let mut held = BytesMut::new();
        loop {
            let Some(end) = self.fill.flight_end(flight).filter(|&end| *position < end) else {
                return Ok(());
            };
            match body.next().await {
                Some(Ok(bytes)) => held.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(unavailable(&self.fill, error)),
                None => {
                    let (from, reason) = (source.label().to_owned(), "the transfer broke off early".to_owned());
                    return Err(unavailable(&self.fill, TransportError::Unreachable { from, reason }));
                }
            }
            let take = whole_groups(held.len() as u64, *position, end);
            if take == 0 {
                continue;
            }
            let groups = held.split_to(usize::try_from(take).unwrap_or(held.len())).freeze();
            self.sink.write(*position, &groups).map_err(|error| match error {
                CacheError::Verify(error) => self.corrupt(error),
                other => FetchError::Cache(other),
            })?;
            self.engine.stats.received(source.label(), take);
            self.fill.arrived(flight, *position..*position + take);
            *position += take;
        }
    }
}

/// How many of `held` bytes at `position` are whole groups, where the flight stops at `end`.
fn whole_groups(held: u64, position: u64, end: u64) -> u64 {
    let until = position + held;
    if until >= end {
        end - position
    } else {
        (until / GROUP_BYTES * GROUP_BYTES).saturating_sub(position)
    }
}
