//! What the streams of one connection have in common: the memory of bytes that are not sent, and how fast the client
//! takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use bytes::{Buf, Bytes};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::admission::Place;

/// Most bytes of bodies that were handed to a connection and are not sent, of all its streams together.
pub(super) const UNSENT_BYTES_MAX: usize = 512 * 1024;
/// A stream hands over so many bytes at a time if it is alone.
pub(super) const PIECE_BYTES_MAX: usize = UNSENT_BYTES_MAX / 2;
/// The same if there are many: most files of a mirror are one piece, and what is read is verified by groups of this size.
const PIECE_BYTES_MIN: usize = 64 * 1024;
/// So many streams hold a piece of a body that cannot be read in parts of any size.
const PIECES_MAX: usize = 8;

/// The budget of one connection.
#[derive(Debug)]
pub(super) struct Budget {
    unsent: Semaphore,
    pieces: Semaphore,
    /// Bytes of bodies that the socket took.
    sent: AtomicU64,
    /// Requests that are not answered to their end.
    streams: AtomicUsize,
    /// Its place among the connections of the server.
    place: Arc<Place>,
    /// The last of the streams was reset because the client took nothing.
    is_stalled: AtomicBool,
}

impl Budget {
    pub(super) fn new(place: Arc<Place>) -> Arc<Self> {
        Arc::new(Self {
            unsent: Semaphore::new(UNSENT_BYTES_MAX),
            pieces: Semaphore::new(PIECES_MAX),
            sent: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            place,
            is_stalled: AtomicBool::new(false),
        })
    }

    /// How many bytes a stream should hand over at a time: all streams get their turn.
    pub(super) fn piece_bytes(&self) -> usize {
        let streams = self.streams().max(1);
        (UNSENT_BYTES_MAX / 2 / streams).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
    }

    /// Waits until `bytes` more may be handed over. In order, and for the socket alone: what is handed over has its
    /// window. Cancellation safe.
    pub(super) async fn share(self: &Arc<Self>, bytes: usize) -> Share {
        let wanted = u32::try_from(bytes.min(UNSENT_BYTES_MAX)).unwrap_or(u32::MAX);
        let taken = match self.unsent.acquire_many(wanted).await {
            Ok(permit) => {
                permit.forget();
                wanted as usize
            }
            // It is never closed.
            Err(_) => 0,
        };
        Share {
            budget: Arc::clone(self),
            bytes: taken,
        }
    }

    /// Waits until everything that was handed over is sent. Cancellation safe.
    pub(super) async fn drained(self: &Arc<Self>) {
        drop(self.share(UNSENT_BYTES_MAX).await);
    }

    /// Waits for the right to hold a piece until the permit is dropped. Whoever has one is watched by its timer.
    /// Cancellation safe.
    pub(super) async fn piece(&self) -> Option<SemaphorePermit<'_>> {
        self.pieces.acquire().await.ok()
    }

    /// Bytes that were handed over and are not sent.
    pub(super) fn unsent_bytes(&self) -> usize {
        UNSENT_BYTES_MAX.saturating_sub(self.unsent.available_permits())
    }

    /// Bytes that the socket took so far.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Requests that are not answered to their end.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn stream(self: &Arc<Self>) -> Stream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        if self.place.works() {
            // It is still to end, behind this request.
            self.place.leaves();
        }
        Stream(Arc::clone(self))
    }

    /// The place of the connection among those of the server.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether nothing is being answered, and all that was answered is sent.
    pub(super) fn is_idle(&self) -> bool {
        self.streams() == 0 && self.unsent_bytes() == 0
    }

    /// Part of the work is done. Whatever was the last of it says that the connection is idle.
    fn has_done(&self) {
        // Streams and bytes come to their ends on several threads: one of them has to see both.
        fence(Ordering::SeqCst);
        if self.is_idle() {
            // Another request may begin in this moment. If the connection is closed for it, that one is answered first.
            self.place.waits(Instant::now());
        }
    }

    /// Whether no stream was left that the client took anything of.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Acquire)
    }
}

/// A request that is counted as running.
#[derive(Debug)]
pub(super) struct Stream(Arc<Budget>);

impl Stream {
    pub(super) fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.0)
    }

    /// It is reset because the client takes nothing of it.
    pub(super) fn ends_stalled(self) {
        let budget = self.budget();
        drop(self);
        if budget.streams() == 0 {
            budget.is_stalled.store(true, Ordering::Release);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
        self.0.has_done();
    }
}

/// Part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        self.budget.unsent.add_permits(excess);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.unsent.add_permits(self.bytes);
        self.budget.has_done();
    }
}

/// Bytes on their way out, with their share of the budget.
#[derive(Debug)]
pub(super) struct Unsent {
    bytes: Bytes,
    /// `None`: nothing is in it.
    share: Option<Share>,
}

impl Unsent {
    pub(super) fn new(bytes: Bytes, share: Share) -> Self {
        let share = Some(share);
        Self { bytes, share }
    }

    /// For an end of which it turns out only afterwards that it was one.
    pub(super) fn nothing() -> Self {
        Self {
            bytes: Bytes::new(),
            share: None,
        }
    }
}

impl Buf for Unsent {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(share) = &self.share {
            share.budget.sent.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_not_sent_is_bounded_and_given_back() {
        let budget = Budget::new(Arc::new(Place::alone()));
        let piece = vec![0; PIECE_BYTES_MAX];
        let mut unsent = Vec::new();
        while let Some(share) = budget.share(piece.len()).now_or_never() {
            unsent.push(Unsent::new(piece.clone().into(), share));
        }
        assert_eq!(unsent.len(), UNSENT_BYTES_MAX / PIECE_BYTES_MAX);
        assert_eq!(budget.unsent_bytes(), UNSENT_BYTES_MAX);
        assert!(budget.drained().now_or_never().is_none());
        let mut first = unsent.pop().unwrap();
        first.advance(1000);
        assert_eq!((budget.sent_bytes(), first.remaining()), (1000, PIECE_BYTES_MAX - 1000));
        drop(first);
        assert!(budget.share(PIECE_BYTES_MAX).now_or_never().is_some());
        unsent.clear();
        assert_eq!(budget.unsent_bytes(), 0);
        assert!(budget.drained().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_connection_is_idle_once_all_is_answered_and_sent() {
        let place = Arc::new(Place::alone());
        let budget = Budget::new(Arc::clone(&place));
        let streams = (budget.stream(), budget.stream());
        assert!(!place.is_idle());
        let mut unsent = Unsent::new(Bytes::from_static(b"12345"), budget.share(5).await);
        drop(streams.0);
        drop(streams.1);
        assert!(!place.is_idle(), "the last bytes are on their way");
        unsent.advance(5);
        drop(unsent);
        assert!(place.is_idle());
        // The other way round.
        let stream = budget.stream();
        drop(budget.share(5).await);
        assert!(!place.is_idle());
        drop(stream);
        assert!(place.is_idle());
        place.leaves();
        drop(budget.stream());
        assert!(place.is_told(), "it still is, behind the request that came in between");
    }

    #[test]
    fn a_piece_is_smaller_where_many_want_one() {
        let budget = Budget::new(Arc::new(Place::alone()));
        assert_eq!(budget.piece_bytes(), PIECE_BYTES_MAX);
        let streams: Vec<_> = (0..100).map(|_| budget.stream()).collect();
        assert_eq!(budget.piece_bytes(), PIECE_BYTES_MIN);
        drop(streams);
        assert_eq!(budget.piece_bytes(), PIECE_BYTES_MAX);
    }
}
