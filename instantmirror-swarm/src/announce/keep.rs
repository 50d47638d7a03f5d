//! Keeps one swarm announced.

use std::future::Future;
use std::pin::pin;

use futures_util::future::join_all;
use instantmirror_core::Moment;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{AnnounceError, AnnounceReply, Announcer, Membership, Progress, Schedule, Step, TrackerUrl};

/// What came of one announce.
#[derive(Debug)]
pub struct Heard {
    /// Who was told of us.
    pub tracker: TrackerUrl,
    /// Its answer, peers among it.
    pub result: Result<AnnounceReply, AnnounceError>,
}

/// Keeps a swarm announced as its [`Schedule`] says, until `leave` is done or nobody listens to what is heard any more; then
/// tells the trackers that we go and returns, at most [`Pace::leave`](super::Pace::leave) later. What is heard while the
/// channel is full is dropped: there will be more. When `progress` has no sender any more, its last value stays.
///
/// Dropping it is safe, but then no tracker hears that we are gone.
pub async fn run(
    announcer: &Announcer,
    membership: Membership,
    mut progress: watch::Receiver<Progress>,
    heard: mpsc::Sender<Heard>,
    leave: impl Future<Output = ()>,
) {
    let begun = Instant::now();
    let now = || Moment(begun.elapsed());
    let patience = membership.pace.leave;
    let mut schedule = Schedule::new(membership, &mut random);
    let mut leave = pin!(leave);
    let mut is_followed = true;
    let mut failures = 0_u32;
    loop {
        let said = progress.borrow_and_update().clone();
        let until = match schedule.next(now(), &said) {
            Step::Announce { tracker, request } => {
                let result = tokio::select! {
                    () = &mut leave => break,
                    () = heard.closed() => break,
                    result = announcer.announce(&tracker, &request) => result,
                };
                schedule.done(now(), &tracker, &request, &result, random());
                failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
                log(&tracker, &result, failures);
                if let Err(TrySendError::Full(lost)) = heard.try_send(Heard { tracker, result }) {
                    tracing::debug!(tracker = %lost.tracker, "nobody had time for what it answered");
                }
                continue;
            }
            Step::Wait(until) => Some(until),
            Step::Idle => None,
        };
        let pause = async {
            match until {
                Some(until) => sleep(until.since(now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut leave => break,
            () = heard.closed() => break,
            changed = progress.changed(), if is_followed => is_followed = changed.is_ok(),
            () = pause => {}
        }
    }
    let said = progress.borrow().clone();
    let farewells = schedule.farewells(&said);
    let goodbyes = farewells
        .iter()
        .map(|(tracker, request)| announcer.announce(tracker, request));
    if timeout(patience, join_all(goodbyes)).await.is_err() {
        tracing::debug!("a tracker did not confirm that we go");
    }
}

/// A tracker may learn of a new torrent a moment later than those who share it.
fn log(tracker: &TrackerUrl, result: &Result<AnnounceReply, AnnounceError>, failures: u32) {
    match result {
        Ok(reply) => {
            if let Some(warning) = &reply.warning {
                tracing::warn!(%tracker, warning, "the tracker warns");
            }
            tracing::debug!(%tracker, peers = reply.peers.len(), "announced");
        }
        Err(error @ AnnounceError::Refused { .. }) if failures == 1 => {
            tracing::info!(%tracker, %error, "announce failed; tried again soon");
        }
        Err(error) => tracing::warn!(%tracker, %error, "announce failed"),
    }
}

/// Spreads those who would act at the same moment. Where there is no randomness, they do.
fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
