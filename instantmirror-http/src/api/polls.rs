//! Long polls: how many may wait at a time, so that they do not take all connections.
//!
//! Key decision: the poll that waits longest is answered at once, as if its time were over, and the new one waits in its
//! place. Reason: its node asks again and misses nothing, while a new one that is refused might be a node that asks
//! for the first time. Only if even the oldest has just begun, the new one is told to come later, unless it is of a node that
//! its token proves: those are few, and wait beside the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// A poll that has waited for less is not shortened: its node would do nothing but ask.
const POLL_TIME_MIN: Duration = Duration::from_secs(5);
/// The log tells of it no more often than so.
const WARNING_PAUSE: Duration = Duration::from_secs(600);

/// The long polls of a service that wait for news.
#[derive(Debug, Default)]
pub(crate) struct Polls(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// By their order.
    polls: BTreeMap<u64, Poll>,
    next: u64,
    counts: PollCounts,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Poll {
    begun: Instant,
    end: oneshot::Sender<()>,
}

/// What became of long polls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PollCounts {
    /// They wait now.
    pub(crate) waiting: u64,
    /// They were answered early, for others came.
    pub(crate) shortened: u64,
    /// They were told to come later.
    pub(crate) refused: u64,
}

/// A place among the long polls, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct PollPlace {
    polls: Arc<Polls>,
    number: u64,
    end: oneshot::Receiver<()>,
}

impl Polls {
    /// A place for one that begins to wait, of `max` at a time. `may_exceed`: it gets one whatever others do.
    ///
    /// # Errors
    /// When it is to ask again.
    pub(crate) fn enter(self: &Arc<Self>, max: usize, may_exceed: bool, now: Instant) -> Result<PollPlace, Duration> {
        let mut waiting = self.waiting();
        while waiting.polls.len() >= max.max(1) {
            waiting.warn(max, now);
            let oldest = waiting.polls.first_entry();
            let Some(oldest) = oldest.filter(|oldest| now - oldest.get().begun >= POLL_TIME_MIN) else {
                if may_exceed {
                    break;
                }
                waiting.counts.refused += 1;
                return Err(POLL_TIME_MIN);
            };
            // One that is answered in this moment does not hear it.
            let _ = oldest.remove().end.send(());
            waiting.counts.shortened += 1;
        }
        let (end, receiver) = oneshot::channel();
        let number = waiting.next;
        waiting.next += 1;
        waiting.polls.insert(number, Poll { begun: now, end });
        Ok(PollPlace {
            polls: Arc::clone(self),
            number,
            end: receiver,
        })
    }

    pub(crate) fn counts(&self) -> PollCounts {
        let waiting = self.waiting();
        PollCounts {
            waiting: waiting.polls.len() as u64,
            ..waiting.counts
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn warn(&mut self, max: usize, now: Instant) {
        if self.warned.is_some_and(|warned| now - warned < WARNING_PAUSE) {
            return;
        }
        self.warned = Some(now);
        let PollCounts { shortened, refused, .. } = self.counts;
        tracing::warn!(
            max,
            shortened,
            refused,
            "as many mirrors wait for news as half of [http] max_connections: those that wait longest are answered early \
             and ask again; raise it"
        );
    }
}

impl PollPlace {
    /// Waits until it is to be answered early. Cancellation safe.
    pub(crate) async fn ends(&mut self) {
        // An error means that nobody is left who could say so.
        if (&mut self.end).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for PollPlace {
    fn drop(&mut self) {
        self.polls.waiting().polls.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_once_it_has_waited_for_a_while() {
        let polls = Arc::new(Polls::default());
        let begun = Instant::now();
        let mut first = polls.enter(2, false, begun).unwrap();
        let mut second = polls.enter(2, false, begun + Duration::from_secs(1)).unwrap();
        assert_eq!(
            polls.enter(2, false, begun + Duration::from_secs(4)).unwrap_err(),
            POLL_TIME_MIN
        );
        let third = polls.enter(2, false, begun + Duration::from_secs(5)).unwrap();
        assert!(first.ends().now_or_never().is_some() && second.ends().now_or_never().is_none());
        let counts = PollCounts {
            waiting: 2,
            shortened: 1,
            refused: 1,
        };
        assert_eq!(polls.counts(), counts);
        drop((first, second));
        assert_eq!(polls.counts().waiting, 1);
        // Fewer may be allowed while they wait; one always may.
        assert!(polls.enter(0, false, begun + Duration::from_secs(20)).is_ok());
        drop(third);
        assert_eq!((polls.counts().waiting, polls.counts().shortened), (0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_waits_beside_strangers_that_have_just_come() {
        let polls = Arc::new(Polls::default());
        let begun = Instant::now();
        let mut stranger = polls.enter(1, false, begun).unwrap();
        let mut node = polls.enter(1, true, begun).unwrap();
        assert!(stranger.ends().now_or_never().is_none());
        assert!(polls.enter(1, false, begun).is_err());
        assert_eq!((polls.counts().waiting, polls.counts().refused), (2, 1));
        // Later there is room for as many as ever.
        let _other = polls.enter(1, false, begun + POLL_TIME_MIN).unwrap();
        assert!(stranger.ends().now_or_never().is_some() && node.ends().now_or_never().is_some());
        assert_eq!((polls.counts().waiting, polls.counts().shortened), (1, 2));
    }
}
