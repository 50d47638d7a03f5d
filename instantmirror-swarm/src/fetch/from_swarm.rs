//! A transfer from a swarm: groups in whatever order they come, each from somebody in particular.

use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, Either, select};
use futures_util::{FutureExt as _, StreamExt as _};
use instantmirror_core::fill::FlightId;
use instantmirror_core::log_limited;
use instantmirror_core::traits::{CacheError, Class, FetchError, Group, GroupRequest, Swarm, TransportError};
use tokio::time::timeout;

use super::fill::{Source, unavailable};
use super::flight::{Job, LandingError, broke_off};
use super::sources::Running;

/// Whoever is asked first for an outboard has so long before others are asked too.
const HEAD_START: Duration = Duration::from_millis(400);
/// Groups that are written at once.
const WRITTEN_AT_ONCE: usize = 16;

impl Job {
    /// Brings what is missing of a flight from a swarm. When a client comes to wait for it, the rest is asked for anew: from
    /// front to back.
    pub(super) async fn fly_from_swarm(
        &self,
        source: &Source,
        swarm: &dyn Swarm,
        flight: FlightId,
    ) -> Result<(), FetchError> {
        self.hold_still().await;
        let gate = self.engine.queue.gate();
        let mut running = self.engine.sources.begin(source, self.fill.class(), 0, gate).await;
        self.bring_outboard(source).await?;
        while let Some(gap) = self.fill.flight_gap(flight) {
            let class = self.fill.class();
            let request = GroupRequest {
                object: self.fill.object,
                size: self.fill.size,
                range: gap.clone(),
                class,
                rank: self.fill.rank(),
            };
            let failed = |error| unavailable(self.fill.object, &source.repository, error);
            let mut groups = swarm.groups(&source.repository, request).await.map_err(failed)?;
            while self
                .fill
                .flight_gap(flight)
                .is_some_and(|missing| missing.start < gap.end)
            {
                self.hold_still().await;
                let next = tokio::select! {
                    biased;
                    () = self.fill.demanded(), if class != Class::Demand => break,
                    next = groups.next() => next,
                };
                let mut groups_here = vec![next.ok_or_else(|| failed(broke_off(source)))?.map_err(failed)?];
                // What has come meanwhile is written with it: a thread that is woken for each would cost more than the
                // writing.
                while groups_here.len() < WRITTEN_AT_ONCE
                    && let Some(Some(Ok(group))) = groups.next().now_or_never()
                {
                    groups_here.push(group);
                }
                self.take_groups(source, &mut running, flight, groups_here).await?;
            }
        }
        Ok(())
    }

    /// Hands groups to the cache, and tells whoever sent each of them what it was worth.
    async fn take_groups(
        &self,
        source: &Source,
        running: &mut Running<'_>,
        flight: FlightId,
        groups: Vec<Group>,
    ) -> Result<(), FetchError> {
        let (parts, receipts): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .map(|group| ((group.offset, group.data), group.receipt))
            .unzip();
        let places: Vec<(u64, u64)> = parts
            .iter()
            .map(|(offset, data)| (*offset, data.len() as u64))
            .collect();
        let (label, mut total) = (source.label(), 0);
        let written = self.write_all(parts).await?;
        for ((written, receipt), (offset, bytes)) in written.into_iter().zip(receipts).zip(places) {
            match written {
                Ok(()) => receipt.good(),
                Err(CacheError::Verify(error)) => {
                    log_limited!(Instant::now(), info, object = %self.fill.object, "{label}: {error}");
                    receipt.bad();
                    continue;
                }
                Err(other) => return Err(FetchError::Cache(other)),
            }
            self.engine.stats.received(label, self.fill.class(), bytes);
            running.received(bytes);
            self.fill.count(source, bytes);
            self.fill.arrived(flight, offset..offset + bytes);
            total += bytes;
        }
        self.pace(label, total).await;
        Ok(())
    }

    /// The outboard. By HTTP it is one cheap request, so a source that is well is asked first, and peers when it hesitates; one
    /// that failed lately is asked when peers hesitate, or have none.
    async fn bring_outboard(&self, swarm: &Source) -> Result<(), FetchError> {
        let brought = self.outboard.get_or_try_init(|| async {
            let origins = self.fill.origins();
            let others = self
                .engine
                .sources
                .ordered(&origins, &self.fill.object, 0, Class::Demand);
            let is_well = self.engine.sources.is_any_well(&others);
            let by_http = self.outboard_by_http(&others).boxed();
            let by_peers = async {
                let fetched = self.fetch_outboard(swarm).await;
                fetched.map_err(LandingError::of)
            }
            .boxed();
            let (first, second) = if is_well {
                (by_http, by_peers)
            } else {
                (by_peers, by_http)
            };
            let brought = with_second(first, second).await;
            brought.map_err(|failed| failed.error)
        });
        brought.await.copied()
    }

    /// The outboard from those who are no swarm, one after the other.
    async fn outboard_by_http(&self, others: &[Source]) -> Result<(), LandingError> {
        let mut failure = None;
        for other in others {
            let Err(error) = self.fetch_outboard(other).await else {
                return Ok(());
            };
            self.engine.blame(&self.fill.object, other, &error);
            failure = Some(LandingError::of(error).and(failure));
        }
        Err(failure.unwrap_or_else(|| {
            let missing = TransportError::NotFound {
                from: "nobody".to_owned(),
                what: format!("the outboard of object {}", self.fill.object),
            };
            LandingError::of(unavailable(self.fill.object, &self.fill.repository, missing))
        }))
    }
}

/// What the first brings, or the second, which begins when the first fails or has hesitated for [`HEAD_START`].
async fn with_second(
    mut first: BoxFuture<'_, Result<(), LandingError>>,
    second: BoxFuture<'_, Result<(), LandingError>>,
) -> Result<(), LandingError> {
    let (failed, rest) = match timeout(HEAD_START, &mut first).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(failed)) => (failed, second),
        Err(_) => match select(first, second).await {
            Either::Left((Ok(()), _)) | Either::Right((Ok(()), _)) => return Ok(()),
            Either::Left((Err(failed), rest)) | Either::Right((Err(failed), rest)) => (failed, rest),
        },
    };
    rest.await.map_err(|error| error.and(Some(failed)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use instantmirror_core::ObjectId;

    use super::*;

    fn failed(from: &str) -> LandingError {
        let error = TransportError::Unreachable {
            from: from.to_owned(),
            reason: "it is away".to_owned(),
        };
        LandingError::of(unavailable(ObjectId::of(b"x"), &"r".parse().unwrap(), error))
    }

    /// Whoever answers after so long, well or not, or never; takes note that it was asked.
    fn answers(after: Option<u64>, well: bool, asked: &AtomicBool) -> BoxFuture<'_, Result<(), LandingError>> {
        async move {
            asked.store(true, Ordering::Relaxed);
            match after {
                Some(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
                None => std::future::pending().await,
            }
            if well { Ok(()) } else { Err(failed("somebody")) }
        }
        .boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_is_asked_when_the_first_fails_or_hesitates_and_else_left_alone() {
        for (first, second, is_second_asked, ought, millis) in [
            ((Some(100), true), (Some(1), true), false, true, 100),
            ((Some(100), false), (Some(50), true), true, true, 150),
            ((None, true), (Some(50), true), true, true, 450),
            ((Some(600), true), (None, true), true, true, 600),
            ((Some(600), true), (Some(10), false), true, true, 600),
            ((Some(600), false), (Some(10), false), true, false, 600),
            ((Some(10), false), (Some(10), false), true, false, 20),
        ] {
            let (one, other) = (AtomicBool::new(false), AtomicBool::new(false));
            let begun = tokio::time::Instant::now();
            let brought = with_second(answers(first.0, first.1, &one), answers(second.0, second.1, &other)).await;
            assert_eq!(brought.is_ok(), ought, "{first:?} {second:?}");
            assert_eq!(other.load(Ordering::Relaxed), is_second_asked, "{first:?} {second:?}");
            let elapsed = begun.elapsed().as_millis();
            assert!(
                (millis..millis + 5).contains(&elapsed),
                "{first:?} {second:?}: {elapsed} ms"
            );
        }
    }
}
