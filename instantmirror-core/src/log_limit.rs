//! [`LogLimit`]: a rate limit for log lines of one kind, so that whoever can cause them at will does not fill the disk
//! that the log is on.
//!
//! One line of a kind is written in an interval; those in between are counted, and the next line that is written says how
//! many they were. The events themselves are counted elsewhere, in counters that miss none. A limit is for one kind of
//! line, whatever it is about: a stranger who can choose among a million objects has one line as well.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The usual interval.
pub const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Admits one log line per interval. [`log_limited!`](crate::log_limited) writes a line with a limit of its own.
///
/// ```
/// use std::time::{Duration, Instant};
/// use instantmirror_core::log_limit::LogLimit;
///
/// static REFUSED: LogLimit = LogLimit::per_minute();
/// let now = Instant::now();
/// assert_eq!(REFUSED.admit(now).map(|line| line.suppressed()), Some(None));
/// assert!(REFUSED.admit(now + Duration::from_secs(59)).is_none());
/// let next = REFUSED.admit(now + Duration::from_secs(60));
/// assert_eq!(next.map(|line| line.suppressed()), Some(Some(1)));
/// ```
#[derive(Debug)]
pub struct LogLimit {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the last line was admitted.
    last: Option<Instant>,
    /// Lines that were not, since then.
    suppressed: u64,
}

/// A line that may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmittedLine(u64);

impl AdmittedLine {
    /// How many lines of the kind were suppressed since the last one that was written; `None` if none was.
    #[must_use]
    pub fn suppressed(self) -> Option<u64> {
        (self.0 > 0).then_some(self.0)
    }
}

impl LogLimit {
    /// Admits one line in so long a time.
    #[must_use]
    pub const fn every(interval: Duration) -> Self {
        let state = State {
            last: None,
            suppressed: 0,
        };
        Self {
            interval,
            state: Mutex::new(state),
        }
    }

    /// Admits one line in [`LOG_INTERVAL`].
    #[must_use]
    pub const fn per_minute() -> Self {
        Self::every(LOG_INTERVAL)
    }

    /// Whether a line may be written `now`; if not, it is counted as suppressed.
    pub fn admit(&self, now: Instant) -> Option<AdmittedLine> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_early = |last: Instant| now.saturating_duration_since(last) < self.interval;
        if state.last.is_some_and(is_early) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(AdmittedLine(std::mem::take(&mut state.suppressed)))
    }
}

/// Writes a line to the log with a [`LogLimit`](crate::log_limit::LogLimit) of its own, one line a minute:
/// `log_limited!(Instant::now(), level, ...)`, where what follows the level is what the macro of that name in `tracing` takes.
/// A line that is not admitted is written at `debug`. The caller's crate needs `tracing`.
#[macro_export]
macro_rules! log_limited {
    ($now:expr, $level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::log_limit::LogLimit = $crate::log_limit::LogLimit::per_minute();
        match LIMIT.admit($now) {
            Some(admitted) => ::tracing::$level!(suppressed = admitted.suppressed(), $($line)+),
            None => ::tracing::debug!($($line)+),
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_an_interval_and_every_event_is_told() {
        let limit = LogLimit::every(Duration::from_secs(10));
        let begun = Instant::now();
        let lines: Vec<AdmittedLine> = (0..1_000)
            .filter_map(|n| limit.admit(begun + Duration::from_millis(25 * n)))
            .collect();
        // At 0, 10 and 20 s.
        assert_eq!(lines, [AdmittedLine(0), AdmittedLine(399), AdmittedLine(399)]);
        let last = limit.admit(begun + Duration::from_secs(3600));
        assert_eq!(last, Some(AdmittedLine(199)));
        let told: u64 = lines.iter().chain(&last).map(|line| 1 + line.0).sum();
        assert_eq!(told, 1_001);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_is_no_reason_to_write() {
        let limit = LogLimit::per_minute();
        let now = Instant::now() + LOG_INTERVAL;
        assert!(limit.admit(now).is_some());
        assert!(limit.admit(now - LOG_INTERVAL).is_none());
    }
}
