//! Whether a client takes an answer fast enough: the slow-client timeout.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::Limits;

/// How a client has taken one answer so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time that the answer has waited for the client.
    blocked: Duration,
    /// Bytes that the client took after waiting.
    taken: u64,
}

impl Pace {
    /// The client took so many bytes, for which the answer had waited since then.
    pub(super) fn takes(&mut self, bytes: u64, since: Instant) {
        self.blocked += since.elapsed();
        self.taken += bytes;
    }

    /// Whether the client has made us wait for long and takes less than it has to.
    pub(super) fn is_too_slow(&self, limits: &Limits) -> bool {
        let due = limits.send_rate_min.saturating_mul(self.blocked.as_secs());
        self.blocked > limits.write_timeout && self.taken < due
    }
}
