//! Counters of what was answered, for metrics and the status page.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a service has answered since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers by class of status: `[1xx, 2xx, 3xx, 4xx, 5xx]`.
    pub answers: [u64; 5],
    /// Answers by status; those that never occurred are left out.
    pub by_status: BTreeMap<u16, u64>,
    /// Answers about files that were ready in memory, body or not.
    pub answers_hot: u64,
    /// Bytes of bodies handed to connections.
    pub body_bytes: u64,
    /// How many of these the kernel took from a file by itself.
    pub sendfile_bytes: u64,
    /// Bodies that broke off before their end.
    pub bodies_broken: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Times that a connection could not be accepted, for want of descriptors or memory.
    pub accept_errors: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections cut because the client was too slow.
    pub connections_timed_out: u64,
    /// Streams of HTTP/2 reset because the client was too slow.
    pub streams_timed_out: u64,
    /// Requests that could be read in two ways, or not at all.
    pub requests_malformed: u64,
    /// Long polls that wait for news now.
    pub polls_waiting: u64,
    /// Long polls that were answered before their time, because others came.
    pub polls_shortened: u64,
    /// Long polls that were told to come later.
    pub polls_refused: u64,
}

/// Statuses are numbers below this.
const STATUS_MAX: usize = 600;

/// The counters behind [`Stats`]. Relaxed: each is right by itself, and nothing depends on their order.
#[derive(Debug)]
pub(crate) struct Counters {
    by_status: Box<[AtomicU64]>,
    hot: AtomicU64,
    body_bytes: AtomicU64,
    sendfile_bytes: AtomicU64,
    bodies_broken: AtomicU64,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    open: AtomicU64,
    timed_out: AtomicU64,
    streams_timed_out: AtomicU64,
    malformed: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            by_status: (0..STATUS_MAX).map(|_| AtomicU64::new(0)).collect(),
            hot: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            sendfile_bytes: AtomicU64::new(0),
            bodies_broken: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            open: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            streams_timed_out: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        }
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn count_answer(&self, status: http::StatusCode) {
        if let Some(counter) = self.by_status.get(usize::from(status.as_u16())) {
            add(counter, 1);
        }
    }

    pub(crate) fn count_hot(&self) {
        add(&self.hot, 1);
    }

    pub(crate) fn count_body(&self, bytes: u64) {
        add(&self.body_bytes, bytes);
    }

    /// Bytes of a body that never came through this process.
    pub(crate) fn count_sendfile(&self, bytes: u64) {
        add(&self.body_bytes, bytes);
        add(&self.sendfile_bytes, bytes);
    }

    pub(crate) fn count_broken(&self) {
        add(&self.bodies_broken, 1);
    }

    pub(crate) fn count_accept_error(&self) {
        add(&self.accept_errors, 1);
    }

    pub(crate) fn count_timed_out(&self) {
        add(&self.timed_out, 1);
    }

    pub(crate) fn count_stream_timed_out(&self) {
        add(&self.streams_timed_out, 1);
    }

    pub(crate) fn count_malformed(&self) {
        add(&self.malformed, 1);
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn count_connection(&self) -> OpenConnection<'_> {
        add(&self.accepted, 1);
        add(&self.open, 1);
        OpenConnection(self)
    }

    /// All but what is said of long polls.
    pub(crate) fn read(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut answers = [0; 5];
        let mut by_status = BTreeMap::new();
        for (status, counter) in (0..).zip(&self.by_status) {
            let count = load(counter);
            if count > 0 {
                by_status.insert(status, count);
                let class = usize::from(status / 100).saturating_sub(1);
                answers.iter_mut().skip(class).take(1).for_each(|sum| *sum += count);
            }
        }
        Stats {
            answers,
            by_status,
            answers_hot: load(&self.hot),
            body_bytes: load(&self.body_bytes),
            sendfile_bytes: load(&self.sendfile_bytes),
            bodies_broken: load(&self.bodies_broken),
            connections_accepted: load(&self.accepted),
            accept_errors: load(&self.accept_errors),
            connections_open: load(&self.open),
            connections_timed_out: load(&self.timed_out),
            streams_timed_out: load(&self.streams_timed_out),
            requests_malformed: load(&self.malformed),
            ..Stats::default()
        }
    }
}

/// A connection that is counted as open.
pub(crate) struct OpenConnection<'a>(&'a Counters);

impl OpenConnection<'_> {
    /// The connection ends with an error, which is counted if the client was too slow.
    pub(crate) fn fails(&self, error: &std::io::Error) {
        if error.kind() == std::io::ErrorKind::TimedOut {
            self.0.count_timed_out();
        }
        // Clients come and go; what matters was logged where it happened.
        tracing::debug!(%error, "a connection ended early");
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
