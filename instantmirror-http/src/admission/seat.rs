//! What a connection and the room share: whether the connection waits for its client, and whether it was told to leave.
//!
//! Key decision: a connection writes down by itself that it waits, in one atomic number, and whoever needs room looks. Reason:
//! a list of idle connections in order would take a lock twice per request, and room is needed rarely.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Values of `since` that are no times: a request is being answered, and the connection is to be closed.
const BUSY: u64 = 0;
const LEAVING: u64 = u64::MAX;

/// The state of one connection that may be closed to make room.
#[derive(Debug)]
pub(super) struct Seat {
    /// Since when it waits for its client, in microseconds of the server's clock, or [`BUSY`], or [`LEAVING`].
    since: AtomicU64,
    /// Of the task that carries the connection.
    waker: AtomicWaker,
    /// It holds one of the places that are reserved for nodes.
    is_reserved: AtomicBool,
}

impl Seat {
    /// Of a connection that waits since then.
    pub(super) fn new(since: u64, is_reserved: bool) -> Self {
        Self {
            since: AtomicU64::new(since),
            waker: AtomicWaker::new(),
            is_reserved: AtomicBool::new(is_reserved),
        }
    }

    /// Notes that it waits for its client. Only the connection itself says so.
    pub(super) fn waits(&self, since: u64) {
        // One that was told to leave is still told so.
        let _ = self.since.compare_exchange(
            BUSY,
            since.clamp(BUSY + 1, LEAVING - 1),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }

    /// Notes that a request is there. Returns whether it was told to leave before.
    pub(super) fn works(&self) -> bool {
        self.since.swap(BUSY, Ordering::AcqRel) == LEAVING
    }

    /// Since when it waits; `None` if it does not, or leaves already.
    pub(super) fn waits_since(&self) -> Option<u64> {
        let since = self.since.load(Ordering::Relaxed);
        (since != BUSY && since != LEAVING).then_some(since)
    }

    /// Tells it to leave if it waits without a break since then. Returns whether it does.
    pub(super) fn tell(&self, since: u64) -> bool {
        let told = self
            .since
            .compare_exchange(since, LEAVING, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if told {
            self.waker.wake();
        }
        told
    }

    /// Tells it to leave once it has answered what was asked.
    pub(super) fn tell_anyway(&self) {
        self.since.store(LEAVING, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was told to leave and has not begun to work since.
    pub(super) fn is_told(&self) -> bool {
        self.since.load(Ordering::Acquire) == LEAVING
    }

    /// Ready once it is told to leave; wakes the task that has polled it last.
    pub(super) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_told() { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(super) fn is_reserved(&self) -> bool {
        self.is_reserved.load(Ordering::Relaxed)
    }

    /// From now on it holds a place that anybody may have.
    pub(super) fn is_promoted(&self) {
        self.is_reserved.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_waits_is_told_to_leave() {
        let seat = Seat::new(5, false);
        assert_eq!(seat.waits_since(), Some(5));
        assert!(!seat.works());
        assert_eq!(seat.waits_since(), None);
        assert!(!seat.tell(5), "it works");
        seat.waits(0);
        assert_eq!(seat.waits_since(), Some(1), "no time is the value of those that work");
        assert!(!seat.tell(5), "it has worked meanwhile");
        assert!(seat.tell(1) && seat.is_told());
        seat.waits(9);
        assert!(seat.is_told(), "it still is");
        assert!(seat.works() && !seat.is_told() && !seat.works());
    }
}
