//! Whom to ask first: sources scored by what they really delivered.
//!
//! The score is the time in which a source should deliver a transfer: its latency, and the bytes at the rate of its past
//! transfers, shared by those that run. Sources that failed wait out a pause that doubles; those that lied wait longer.
//! Nobody is refused: who is in a pause, or has as much to do as it may, comes last, so that the only source there is
//! stays in use. Pure: whoever asks them tells what happened.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Moment;

/// What is assumed of a source of which nothing is known: good enough to be tried.
const LATENCY_UNKNOWN: Duration = Duration::from_millis(20);
const RATE_UNKNOWN: f64 = 50e6;
/// Share of the newest measurement in an average.
const NEWEST: f64 = 0.25;
/// Transfers shorter than this say nothing of the rate.
const RATE_BYTES_MIN: u64 = 64 * 1024;
/// Pause after the first failure; doubles with each.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How many failures one delivery of wrong data counts for.
const LIE_WEIGHT: u32 = 8;

/// How a source failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not have the object: no reason to avoid it.
    Missing,
    /// It broke off, timed out or refused.
    Failed,
    /// It delivered what it should not.
    Lied,
}

/// What is known of one source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Score {
    /// Time to the first byte, averaged; `None` before there was one.
    pub latency: Option<Duration>,
    /// Bytes per second of one transfer, averaged; `None` before there was a long enough one.
    pub bytes_per_second: Option<f64>,
    /// Transfers under way.
    pub running: usize,
    /// Failures since the last success.
    pub failures: u32,
    /// It is asked last until then.
    pub avoided_until: Moment,
}

impl Score {
    /// Seconds in which it should deliver so many bytes.
    fn expected(&self, bytes: u64) -> f64 {
        let latency = self.latency.unwrap_or(LATENCY_UNKNOWN).as_secs_f64();
        let rate = self.bytes_per_second.unwrap_or(RATE_UNKNOWN).max(1.0);
        latency + bytes as f64 / rate * (1 + self.running) as f64
    }
}

/// The scores of all sources, by label.
#[derive(Debug, Default)]
pub struct SourceBoard {
    scores: BTreeMap<String, Score>,
    running_max: Option<usize>,
}

impl SourceBoard {
    /// A board without any experience. A source with `running_max` transfers under way counts as busy.
    #[must_use]
    pub fn new(running_max: Option<usize>) -> Self {
        Self {
            scores: BTreeMap::new(),
            running_max,
        }
    }

    /// Changes when a source counts as busy.
    pub fn set_running_max(&mut self, running_max: Option<usize>) {
        self.running_max = running_max;
    }

    /// The places of `candidates` in the order in which to ask them for `bytes` bytes. Each comes with its preference,
    /// the lowest first; only among those of one preference the scores decide, and among equals their order here.
    #[must_use]
    pub fn order(&self, now: Moment, candidates: &[(&str, u32)], bytes: u64) -> Vec<usize> {
        let unknown = Score::default();
        let key = |place: &usize| {
            let (label, preference) = candidates[*place];
            let score = self.scores.get(label).unwrap_or(&unknown);
            let is_avoided = score.avoided_until > now;
            let is_busy = self.running_max.is_some_and(|max| score.running >= max);
            (is_avoided, is_busy, preference, score.expected(bytes))
        };
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        // Stable, so equals stay as they were.
        order.sort_by(|a, b| {
            let ((a_avoided, a_busy, a_preference, a), (b_avoided, b_busy, b_preference, b)) = (key(a), key(b));
            (a_avoided, a_busy, a_preference)
                .cmp(&(b_avoided, b_busy, b_preference))
                .then(a.total_cmp(&b))
        });
        order
    }

    fn score(&mut self, label: &str) -> &mut Score {
        self.scores.entry(label.to_owned()).or_default()
    }

    /// A transfer begins.
    pub fn begun(&mut self, label: &str) {
        self.score(label).running += 1;
    }

    /// A transfer is over, however it ended.
    pub fn ended(&mut self, label: &str) {
        let score = self.score(label);
        score.running = score.running.saturating_sub(1);
    }

    /// The first byte of a transfer has come after so long.
    pub fn answered(&mut self, label: &str, latency: Duration) {
        let score = self.score(label);
        let before = score.latency.unwrap_or(latency);
        score.latency = Some(before.mul_f64(1.0 - NEWEST) + latency.mul_f64(NEWEST));
    }

    /// A transfer has brought so many good bytes in so long, both counted from when its first ones had come: those say
    /// nothing of the rate, and a transfer that came all at once brings none.
    pub fn delivered(&mut self, label: &str, bytes: u64, elapsed: Duration) {
        let score = self.score(label);
        score.failures = 0;
        score.avoided_until = Moment::default();
        if bytes >= RATE_BYTES_MIN && !elapsed.is_zero() {
            let rate = bytes as f64 / elapsed.as_secs_f64();
            let before = score.bytes_per_second.unwrap_or(rate);
            score.bytes_per_second = Some(before * (1.0 - NEWEST) + rate * NEWEST);
        }
    }

    /// A transfer has failed.
    pub fn failed(&mut self, label: &str, now: Moment, fault: Fault) {
        let score = self.score(label);
        score.failures += match fault {
            Fault::Missing => return,
            Fault::Failed => 1,
            Fault::Lied => LIE_WEIGHT,
        };
        let doubled = PAUSE.saturating_mul(1 << (score.failures - 1).min(20));
        score.avoided_until = now.plus(doubled.min(PAUSE_MAX));
    }

    /// What is known of all that were ever asked.
    #[must_use]
    pub fn scores(&self) -> &BTreeMap<String, Score> {
        &self.scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    const BOTH: [(&str, u32); 2] = [("one", 0), ("other", 0)];

    fn deliver(board: &mut SourceBoard, label: &str, bytes: u64, millis: u64) {
        board.begun(label);
        board.answered(label, Duration::from_millis(millis / 10));
        board.delivered(label, bytes, Duration::from_millis(millis));
        board.ended(label);
    }

    #[test]
    fn nothing_known_keeps_the_order_and_a_slow_source_is_left_for_one_that_was_not_tried() {
        let mut board = SourceBoard::new(None);
        assert_eq!(board.order(at(0), &BOTH, 1 << 20), [0, 1]);
        deliver(&mut board, "one", 1 << 20, 2000);
        assert_eq!(board.order(at(0), &BOTH, 1 << 20), [1, 0]);
    }

    #[test]
    fn large_transfers_go_to_the_fast_and_small_ones_to_the_near() {
        let mut board = SourceBoard::new(None);
        for _ in 0..5 {
            board.answered("one", Duration::from_millis(200));
            board.delivered("one", 100 << 20, Duration::from_secs(1));
            board.answered("other", Duration::from_millis(2));
            board.delivered("other", 10 << 20, Duration::from_secs(1));
        }
        assert_eq!(board.order(at(0), &BOTH, 1 << 30), [0, 1]);
        assert_eq!(board.order(at(0), &BOTH, 10_000), [1, 0]);
    }

    #[test]
    fn what_runs_makes_a_source_slower_and_at_its_limit_it_comes_last() {
        let mut board = SourceBoard::new(Some(4));
        for label in ["one", "other"] {
            deliver(&mut board, label, 1 << 20, 100);
        }
        board.begun("one");
        assert_eq!(board.order(at(0), &BOTH, 1 << 20), [1, 0]);
        deliver(&mut board, "other", 1 << 20, 100_000);
        deliver(&mut board, "other", 1 << 20, 100_000);
        assert_eq!(board.order(at(0), &BOTH, 1 << 20), [0, 1]);
        (0..3).for_each(|_| board.begun("one"));
        assert_eq!(board.order(at(0), &BOTH, 1 << 20), [1, 0]);
        board.ended("one");
        assert_eq!(board.order(at(0), &BOTH, 1 << 20), [0, 1]);
    }

    #[test]
    fn failures_are_avoided_for_a_time_that_grows_and_lies_for_longer() {
        let mut board = SourceBoard::new(None);
        board.failed("one", at(0), Fault::Missing);
        assert_eq!(board.order(at(0), &BOTH, 1), [0, 1]);
        board.failed("one", at(0), Fault::Failed);
        assert_eq!(board.order(at(0), &BOTH, 1), [1, 0]);
        assert_eq!(board.order(at(1), &BOTH, 1), [0, 1]);
        board.failed("one", at(1), Fault::Failed);
        assert_eq!(board.scores()["one"].avoided_until, at(2));
        board.failed("other", at(1), Fault::Lied);
        assert!(board.scores()["other"].avoided_until > at(30));
        assert_eq!(board.order(at(5), &BOTH, 1), [0, 1]);
        board.failed("one", at(5), Fault::Failed);
        assert_eq!(
            board.order(at(5), &BOTH, 1),
            [0, 1],
            "both are avoided, and both are still asked"
        );
        deliver(&mut board, "other", 1 << 20, 10);
        assert_eq!(board.order(at(5), &BOTH, 1), [1, 0], "a success ends it");
        (0..100).for_each(|_| board.failed("one", at(5), Fault::Lied));
        assert_eq!(board.scores()["one"].avoided_until, at(305));
    }

    #[test]
    fn a_transfer_that_came_all_at_once_says_nothing_of_the_rate_and_is_a_success() {
        let mut board = SourceBoard::new(None);
        board.failed("one", at(0), Fault::Failed);
        board.delivered("one", 0, Duration::from_nanos(300));
        assert_eq!(board.scores()["one"].bytes_per_second, None);
        assert_eq!(board.scores()["one"].failures, 0);
    }

    #[test]
    fn preference_goes_before_speed_but_not_before_health() {
        let mut board = SourceBoard::new(None);
        let preferred = [("fast", 1), ("preferred", 0)];
        deliver(&mut board, "fast", 100 << 20, 100);
        deliver(&mut board, "preferred", 1 << 20, 10_000);
        assert_eq!(board.order(at(0), &preferred, 1 << 20), [1, 0]);
        board.failed("preferred", at(0), Fault::Failed);
        assert_eq!(board.order(at(0), &preferred, 1 << 20), [0, 1]);
    }
}
