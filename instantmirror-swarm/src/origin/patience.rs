//! How long a head request may be held: [`Patience`] learns what stands between bears.
//!
//! Proxies give up on a request that is not answered for some time, 50 s or 60 s by default, and answer 502 or 504 or reset
//! the connection. That is no trouble of the master's as long as a fresh request is answered. Plain arithmetic, no clock.

use std::time::Duration;

/// Waits that end sooner were not cut for their length.
const CUT_MIN: Duration = Duration::from_millis(1500);
/// Shortest wait that is asked for.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait that is asked for: what masters hold a request for by themselves.
const WAIT_MAX: Duration = Duration::from_secs(55);
/// After so many waits that ended well a longer one is tried: what stands between may be gone.
const TRIES_AFTER: u32 = 50;

/// What is known of the longest wait that reaches the master and comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patience {
    wait: Duration,
    well: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            wait: WAIT_MAX,
            well: 0,
        }
    }
}

impl Patience {
    /// How long the master is asked to hold a request, in whole seconds.
    pub(super) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.as_secs()).max(WAIT_MIN)
    }

    /// Whether a wait that broke off after so long may have been cut for its length.
    pub(super) fn may_be_cut(after: Duration) -> bool {
        after >= CUT_MIN
    }

    /// A wait of `asked` was cut after so long, and the master is well. Returns whether that is news. Many wait at a time,
    /// one for each repository, and are cut together: those that asked for more than is asked for now tell nothing new.
    pub(super) fn cut(&mut self, asked: Duration, after: Duration) -> bool {
        if asked > self.wait() {
            return false;
        }
        let is_news = self.wait == WAIT_MAX;
        self.well = 0;
        // A fifth less, since it is not known when the other side began to count.
        self.wait = (after.min(self.wait) * 4 / 5).max(WAIT_MIN);
        is_news
    }

    /// A wait ended well, with an answer or with the word that there is none.
    pub(super) fn ended_well(&mut self) {
        self.well += 1;
        if self.well >= TRIES_AFTER {
            self.well = 0;
            self.wait = (self.wait * 5 / 4).min(WAIT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn what_is_cut_is_asked_for_in_shorter_waits_until_none_is_cut() {
        for limit in [1, 2, 10, 30, 50, 54] {
            let mut patience = Patience::default();
            let mut cuts = 0;
            for _ in 0..TRIES_AFTER {
                if patience.wait() > seconds(limit) {
                    cuts += 1;
                    assert_eq!(patience.cut(patience.wait(), seconds(limit)), cuts == 1);
                } else {
                    patience.ended_well();
                }
            }
            assert!((1..=2).contains(&cuts), "{limit} s: {cuts}");
            assert!(
                patience.wait() * 2 >= seconds(limit),
                "{limit} s: {:?}",
                patience.wait()
            );
        }
    }

    #[test]
    fn waits_that_are_cut_together_count_once() {
        let mut patience = Patience::default();
        let asked = patience.wait();
        for repository in 0..20 {
            assert_eq!(patience.cut(asked, seconds(50)), repository == 0);
        }
        assert_eq!(patience.wait(), seconds(40));
    }

    #[test]
    fn a_longer_wait_is_tried_again_after_some_that_ended_well() {
        let mut patience = Patience::default();
        assert_eq!(patience.wait(), seconds(55));
        patience.cut(patience.wait(), seconds(20));
        assert_eq!(patience.wait(), seconds(16));
        (0..TRIES_AFTER * 10).for_each(|_| patience.ended_well());
        assert_eq!(patience.wait(), seconds(55));
    }
}
