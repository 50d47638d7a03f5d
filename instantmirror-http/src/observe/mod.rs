//! What is told of requests: counters ([`stats`]) and entries of the access log ([`entry`]).
//!
//! Principal type: [`Observer`]. Both protocols tell it what becomes of an answer, in the same words, and it is the
//! one place that counts answers and writes entries.

pub(crate) mod access_log;
mod entry;
pub(crate) mod stats;

use std::sync::Arc;

use http::StatusCode;
use instantmirror_core::traits::{ObjectReader, Provenance};

pub(crate) use entry::{AccessLogEntry, LoggedRequest};

use stats::Counters;

/// Observes the answers of one connection of HTTP/1.1, one after the other, or the one of a stream of HTTP/2.
pub(crate) struct Observer {
    counters: Arc<Counters>,
    /// Of the answer that is being sent, where there is a log.
    entry: Option<AccessLogEntry>,
}

impl Observer {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        Self {
            counters: Arc::clone(counters),
            entry: None,
        }
    }

    /// An answer begins, whose entry this is.
    pub(crate) fn answers(&mut self, status: StatusCode, entry: Option<AccessLogEntry>) {
        self.counters.count_answer(status);
        self.entry = entry;
        if let Some(entry) = &mut self.entry {
            entry.answers(status);
        }
    }

    /// The answer was kept ready. `has_body`: content follows.
    pub(crate) fn was_ready(&mut self, has_body: bool) {
        self.counters.count_hot();
        if let Some(entry) = self.entry.as_mut().filter(|_| has_body) {
            entry.comes_from(Provenance::Kept);
        }
    }

    /// The content comes from this reader, which knows at the end how much of it was fetched, and from whom.
    pub(crate) fn reads(&mut self, reader: &Arc<dyn ObjectReader>) {
        if let Some(entry) = &mut self.entry {
            entry.reads(reader);
        }
    }

    /// So many more bytes of the body went out.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.counters.count_body(bytes);
        self.logs_sent(bytes);
    }

    /// The same of bytes that the kernel took from a file by itself.
    pub(crate) fn sent_by_kernel(&mut self, bytes: u64) {
        self.counters.count_sendfile(bytes);
        self.logs_sent(bytes);
    }

    fn logs_sent(&mut self, bytes: u64) {
        if let Some(entry) = &mut self.entry {
            entry.sent(bytes);
        }
    }

    /// The body breaks off before its end.
    pub(crate) fn breaks(&self) {
        self.counters.count_broken();
    }

    /// The stream is reset because its client takes it too slowly.
    pub(crate) fn stream_times_out(&self) {
        self.counters.count_stream_timed_out();
    }

    /// The answer is at its end: its entry is written.
    pub(crate) fn ends(&mut self) {
        self.entry = None;
    }
}
