//! Counters of what was answered, for metrics and the status page.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a service has answered since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers by class of status: `[1xx, 2xx, 3xx, 4xx, 5xx]`.
    pub answers: [u64; 5],
    /// Bytes of bodies handed to connections.
    pub body_bytes: u64,
    /// Bodies that broke off before their end.
    pub bodies_broken: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections open now.
    pub connections_open: u64,
}

/// The counters behind [`Stats`]. Relaxed: each is right by itself, and nothing depends on their order.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    answers: [AtomicU64; 5],
    body_bytes: AtomicU64,
    bodies_broken: AtomicU64,
    accepted: AtomicU64,
    open: AtomicU64,
}

impl Counters {
    pub(crate) fn count_answer(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.answers.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_body(&self, bytes: u64) {
        self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_broken(&self) {
        self.bodies_broken.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn count_connection(&self) -> OpenConnection<'_> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    pub(crate) fn read(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            answers: [0, 1, 2, 3, 4].map(|class| load(&self.answers[class])),
            body_bytes: load(&self.body_bytes),
            bodies_broken: load(&self.bodies_broken),
            connections_accepted: load(&self.accepted),
            connections_open: load(&self.open),
        }
    }
}

/// A connection that is counted as open.
pub(crate) struct OpenConnection<'a>(&'a Counters);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
