//! When a condition that lasts is worth a line in the log.

use super::room::Micros;

/// Lines about one condition are at least so far apart.
const PAUSE_MIN: Micros = 60 * 1_000_000;
/// And if the condition lasts, so far.
const PAUSE_WHILE_IT_LASTS: Micros = 10 * PAUSE_MIN;

/// Rings once when a condition begins, and now and then while it lasts.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    rang: Option<Micros>,
    lasts: bool,
}

impl Alarm {
    /// The condition holds now. Returns whether that is to be said.
    pub(super) fn rings(&mut self, now: Micros) -> bool {
        let pause = if self.lasts { PAUSE_WHILE_IT_LASTS } else { PAUSE_MIN };
        self.lasts = true;
        let rings = self.rang.is_none_or(|rang| now >= rang.saturating_add(pause));
        if rings {
            self.rang = Some(now);
        }
        rings
    }

    /// The condition holds no longer.
    pub(super) fn rearm(&mut self) {
        self.lasts = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_at_the_crossing_and_rarely_after() {
        let second = 1_000_000;
        let mut alarm = Alarm::default();
        assert!(alarm.rings(5));
        assert!(!alarm.rings(100 * second), "it still lasts");
        assert!(alarm.rings(601 * second), "it has lasted for long");
        alarm.rearm();
        assert!(!alarm.rings(602 * second), "it comes and goes");
        alarm.rearm();
        assert!(alarm.rings(700 * second));
    }
}
