//! How fast bytes move lately.

use std::time::Duration;

use instantmirror_core::Moment;

/// Bytes are counted for so long before they enter the rate.
const SPAN: Duration = Duration::from_millis(500);
/// Weight of the newest span.
const NEWEST: f64 = 0.4;

/// A rate in bytes per second, smoothed over some seconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Rate {
    since: Moment,
    bytes: u64,
    smooth: f64,
    /// All bytes.
    pub(super) total: u64,
}

impl Rate {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.total += bytes;
    }

    pub(super) fn tick(&mut self, now: Moment) {
        let elapsed = now.since(self.since);
        if elapsed < SPAN {
            return;
        }
        let rate = self.bytes as f64 / elapsed.as_secs_f64();
        // The first bytes say more than the silence before them.
        let weight = if self.smooth == 0.0 { 1.0 } else { NEWEST };
        self.smooth += (rate - self.smooth) * weight;
        if self.smooth < 1.0 {
            self.smooth = 0.0;
        }
        (self.bytes, self.since) = (0, now);
    }

    /// Bytes that come within so long.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "never negative, and far from 2^53"
    )]
    pub(super) fn bytes_within(&self, span: Duration) -> u64 {
        (self.smooth * span.as_secs_f64()).max(0.0) as u64
    }

    /// Bytes per second.
    pub(super) fn get(&self) -> f64 {
        self.smooth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_has_its_rate_and_silence_none() {
        let at = |millis| Moment(Duration::from_millis(millis));
        let mut rate = Rate::new(at(0));
        for step in 1..=100 {
            rate.add(10_000);
            rate.tick(at(step * 100));
        }
        assert!((rate.get() - 100_000.0).abs() < 2_000.0, "{}", rate.get());
        for step in 0..100 {
            rate.tick(at(10_000 + step * 500));
        }
        assert!(rate.get() < 1.0 && rate.total == 1_000_000);
    }
}
