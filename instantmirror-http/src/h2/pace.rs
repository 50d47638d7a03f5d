//! Whether the client takes a stream fast enough: the slow-client timeout of HTTP/1.1, for streams.
//!
//! Key decision: a stream is measured by what it waits for window, and held against what its connection sent meanwhile.
//! Reason: a stream that waits may be one that its client has forgotten, or one of a hundred that share a slow line and
//! a window; the latter must not be cut, however long its turn takes.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Budget;
use crate::connection::Deadline;
use crate::limits::Limits;

/// In so many rounds of all streams each one was served.
const ROUNDS: u64 = 4;
/// A stream of a slow connection takes at least the inverse of this of an equal part.
const SHARE_MIN: u64 = 4;

/// How one stream is taken.
#[derive(Debug)]
pub(super) struct Pace {
    write_timeout: Duration,
    send_rate_min: u64,
    deadline: Deadline,
    waiting: Option<Waiting>,
    /// Time that this stream waited for window, bytes that it sent afterwards, and bytes that the connection sent meanwhile.
    blocked: Duration,
    sent: u64,
    passed: u64,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// What the connection had sent then, and a timeout ago.
    sent_bytes: u64,
    sent_bytes_lately: u64,
}

impl Pace {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            write_timeout: limits.write_timeout,
            send_rate_min: limits.send_rate_min,
            deadline: Deadline::new(),
            waiting: None,
            blocked: Duration::ZERO,
            sent: 0,
            passed: 0,
        }
    }

    /// Ready once the stream has waited for window for too long: for the whole of a timeout in which the connection sent
    /// nothing, or too little, or while other streams were served again and again.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>, budget: &Budget) -> Poll<()> {
        let waiting = self.waiting.get_or_insert_with(|| {
            self.deadline.lasts(self.write_timeout);
            let sent_bytes = budget.sent_bytes();
            Waiting {
                since: Instant::now(),
                sent_bytes,
                sent_bytes_lately: sent_bytes,
            }
        });
        loop {
            ready!(self.deadline.poll_over(cx));
            let sent_bytes = budget.sent_bytes();
            let (passed, lately) = (sent_bytes - waiting.sent_bytes, sent_bytes - waiting.sent_bytes_lately);
            let due = self.send_rate_min.saturating_mul(self.write_timeout.as_secs());
            let round = budget.streams().max(1) as u64 * budget.piece_bytes() as u64;
            if lately == 0 || lately < due || passed >= ROUNDS * round {
                return Poll::Ready(());
            }
            waiting.sent_bytes_lately = sent_bytes;
            self.deadline.lasts(self.write_timeout);
        }
    }

    /// The stream sends so many bytes. Returns whether it is taken too slowly, though something is taken.
    pub(super) fn sends(&mut self, bytes: usize, budget: &Budget) -> bool {
        let Some(waiting) = self.waiting.take() else {
            return false;
        };
        self.blocked += waiting.since.elapsed();
        self.sent += bytes as u64;
        self.passed += budget.sent_bytes() - waiting.sent_bytes;
        let due = self.send_rate_min.saturating_mul(self.blocked.as_secs());
        let streams = budget.streams().max(1) as u64;
        let has_its_share = self.passed >= due && self.sent * streams * SHARE_MIN >= self.passed;
        self.blocked > self.write_timeout && self.sent < due && !has_its_share
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use bytes::Buf as _;

    use super::super::budget::Unsent;
    use super::*;
    use crate::admission::Place;

    async fn stalled(pace: &mut Pace, budget: &Budget) {
        poll_fn(|cx| pace.poll_stalled(cx, budget)).await;
    }

    async fn send(budget: &Arc<Budget>, bytes: usize) {
        let share = budget.share(bytes).await;
        Unsent::new(vec![0; bytes].into(), share).advance(bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_gets_no_window_is_stalled() {
        let (budget, begun) = (Budget::new(Arc::new(Place::alone())), Instant::now());
        let mut pace = Pace::new(&Limits::default());
        stalled(&mut pace, &budget).await;
        assert_eq!(begun.elapsed(), Limits::default().write_timeout);
    }

    /// Each of a hundred streams waits for minutes for its turn on this line, and none is forgotten.
    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_turn_comes_late_is_not() {
        let budget = Budget::new(Arc::new(Place::alone()));
        let _streams: Vec<_> = (0..100).map(|_| budget.stream()).collect();
        let mut pace = Pace::new(&Limits::default());
        for _ in 0..20 {
            let others = async {
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    send(&budget, 16 * 1024).await;
                }
            };
            tokio::select! {
                () = stalled(&mut pace, &budget) => panic!("it was cut"),
                () = others => {}
            }
            assert!(!pace.sends(16 * 1024, &budget));
            send(&budget, 16 * 1024).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_others_pass_again_and_again_is_stalled() {
        let budget = Budget::new(Arc::new(Place::alone()));
        let _streams = (budget.stream(), budget.stream());
        let mut pace = Pace::new(&Limits::default());
        let others = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                send(&budget, 16 * 1024).await;
            }
        };
        tokio::select! {
            () = stalled(&mut pace, &budget) => {}
            () = others => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_gets_a_byte_now_and_then_is_too_slow_and_a_slow_one_is_not() {
        for (bytes, is_cut) in [(1, true), (127, true), (1024, false)] {
            let budget = Budget::new(Arc::new(Place::alone()));
            let _stream = budget.stream();
            let mut pace = Pace::new(&Limits::default());
            let mut was_cut = false;
            for _ in 0..600 {
                let second = tokio::time::sleep(Duration::from_secs(1));
                tokio::select! {
                    () = stalled(&mut pace, &budget) => panic!("it takes something"),
                    () = second => {}
                }
                was_cut |= pace.sends(bytes, &budget);
                send(&budget, bytes).await;
            }
            assert_eq!(was_cut, is_cut, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_part_of_a_slow_line_is_enough() {
        let budget = Budget::new(Arc::new(Place::alone()));
        let _streams: Vec<_> = (0..100).map(|_| budget.stream()).collect();
        let mut pace = Pace::new(&Limits::default());
        for _ in 0..600 {
            let second = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                send(&budget, 99 * 20).await;
            };
            tokio::select! {
                () = stalled(&mut pace, &budget) => panic!("it takes something"),
                () = second => {}
            }
            assert!(!pace.sends(20, &budget));
            send(&budget, 20).await;
        }
    }
}
