//! A limit on bytes per second, as pure arithmetic (the generic cell rate algorithm of ITU-T I.371).

use std::time::Duration;

use crate::Moment;

/// How far ahead of the rate a sender may run after a rest.
const BURST: Duration = Duration::from_millis(100);

/// Says when the next bytes may move so that, over time, no more than the rate does.
///
/// ```
/// use std::time::Duration;
/// use instantmirror_core::{Moment, throttle::Throttle};
///
/// let mut throttle = Throttle::new(1000);
/// let now = Moment(Duration::from_secs(5));
/// assert_eq!(throttle.take(now, 100), now);
/// assert_eq!(throttle.take(now, 1000), now.plus(Duration::from_secs(1)));
/// ```
#[derive(Debug, Clone)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When everything taken so far has moved at exactly the rate.
    even: Moment,
}

impl Throttle {
    /// A limit of so many bytes per second, at least one.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            even: Moment::default(),
        }
    }

    /// The rate.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Takes note of bytes that have moved, and returns the moment before which no more may: `now` if there is no need
    /// to wait.
    pub fn take(&mut self, now: Moment, bytes: u64) -> Moment {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.even = self.even.max(now).plus(cost);
        self.next(now)
    }

    /// The moment before which nothing may move: `now` if there is no need to wait.
    #[must_use]
    pub fn next(&self, now: Moment) -> Moment {
        now.max(Moment(self.even.0.saturating_sub(BURST)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A sender that obeys never moves more than the rate allows, one burst and one step aside, and is never held
        /// back for longer than the rate asks for.
        #[test]
        fn the_rate_is_kept_and_used(rate in 1_u64..10_000_000, steps in prop::collection::vec((1_u64..100_000, 0_u64..500), 1..100)) {
            let mut throttle = Throttle::new(rate);
            let start = Moment(Duration::from_secs(1));
            let (mut now, mut moved, mut rested) = (start, 0_u64, Duration::ZERO);
            for (bytes, rest_ms) in steps {
                now = throttle.next(now);
                let allowed = now.since(start).plus_burst().as_secs_f64() * rate as f64;
                prop_assert!(moved as f64 <= allowed + 1.0, "{moved} bytes, {allowed} allowed");
                let next = throttle.take(now, bytes);
                moved += bytes;
                prop_assert!(next >= now);
                now = now.plus(Duration::from_millis(rest_ms));
                rested += Duration::from_millis(rest_ms);
            }
            let needed = Duration::from_secs_f64(moved as f64 / rate as f64);
            prop_assert!(now.since(start) <= needed + rested + Duration::from_millis(1));
        }
    }

    trait PlusBurst {
        fn plus_burst(self) -> Duration;
    }

    impl PlusBurst for Duration {
        fn plus_burst(self) -> Duration {
            self + BURST
        }
    }
}
