//! A transfer from a swarm: groups in whatever order they come, each from somebody in particular.

use futures_util::{FutureExt as _, StreamExt as _};
use instantmirror_core::fill::FlightId;
use instantmirror_core::traits::{CacheError, Class, FetchError, Group, GroupRequest, GroupTransport};

use super::fill::{Source, unavailable};
use super::flight::{Job, broke_off};
use super::sources::Running;

/// Groups that are written at once.
const WRITTEN_AT_ONCE: usize = 16;

impl Job {
    /// Brings what is missing of a flight from a swarm. When a client comes to wait for it, the rest is asked for anew: from
    /// front to back.
    pub(super) async fn fly_from_swarm(
        &self,
        source: &Source,
        swarm: &dyn GroupTransport,
        flight: FlightId,
    ) -> Result<(), FetchError> {
        let label = source.transport.label();
        self.hold_still().await;
        let mut running = self.engine.sources.begin(label, self.fill.class()).await;
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
        let (label, mut total) = (source.transport.label(), 0);
        let written = self.write_all(parts).await?;
        for ((written, receipt), (offset, bytes)) in written.into_iter().zip(receipts).zip(places) {
            match written {
                Ok(()) => receipt.good(),
                Err(CacheError::Verify(error)) => {
                    tracing::warn!(object = %self.fill.object, "{label}: {error}");
                    receipt.bad();
                    continue;
                }
                Err(other) => return Err(FetchError::Cache(other)),
            }
            self.engine.stats.received(label, self.fill.class(), bytes);
            running.received(bytes);
            self.fill.arrived(flight, offset..offset + bytes);
            total += bytes;
        }
        self.pace(label, total).await;
        Ok(())
    }

    /// The outboard, from whoever has it: a swarm has none.
    async fn bring_outboard(&self, swarm: &Source) -> Result<(), FetchError> {
        if self.outboard.initialized() {
            return Ok(());
        }
        let sources = self.fill.sources();
        let others = self
            .engine
            .sources
            .ordered(&sources, &self.fill.object, 0, Class::Demand);
        let mut failure = None;
        for other in others.iter().filter(|other| other.transport.swarm().is_none()) {
            match self.outboard.get_or_try_init(|| self.fetch_outboard(other)).await {
                Ok(()) => return Ok(()),
                Err(error) => failure = Some(error),
            }
        }
        // Of one group it is the id itself.
        match self.outboard.get_or_try_init(|| self.fetch_outboard(swarm)).await {
            Ok(()) => Ok(()),
            Err(error) => Err(failure.unwrap_or(error)),
        }
    }
}
