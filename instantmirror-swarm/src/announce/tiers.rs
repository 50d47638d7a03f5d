//! Which tracker is next (BEP 12): tiers in order, within a tier the one that answered last, and nobody too often.

use std::time::Duration;

use instantmirror_core::Moment;

use super::{Retry, TrackerUrl};

/// So many trackers of a torrent are asked; the rest is passed over.
pub const TRACKERS_MAX: usize = 64;
/// As long a tracker may tell us to stay away. Who wants more has `never`.
const RETRY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This one.
    Ask(TrackerUrl),
    /// Nobody before then.
    Wait(Moment),
    /// Nobody any more.
    Never,
}

#[derive(Debug)]
struct Tracker {
    url: TrackerUrl,
    /// Since it answered last.
    failures: u32,
    /// It is not asked before then; `None`: never.
    not_before: Option<Moment>,
}

/// The trackers of a torrent.
#[derive(Debug)]
pub struct Tiers {
    tiers: Vec<Vec<Tracker>>,
    pause: Duration,
    pause_max: Duration,
}

impl Tiers {
    /// Trackers of which none was asked yet, in random order within each tier. One that failed rests for about `pause`, which
    /// doubles with each failure up to `pause_max`.
    pub fn new(
        tiers: &[Vec<TrackerUrl>],
        pause: Duration,
        pause_max: Duration,
        random: &mut dyn FnMut() -> u64,
    ) -> Self {
        let mut seen: Vec<&TrackerUrl> = Vec::new();
        let mut taken = Vec::new();
        for tier in tiers {
            let mut fresh: Vec<Tracker> = Vec::new();
            for url in tier {
                if seen.len() == TRACKERS_MAX || seen.contains(&url) {
                    continue;
                }
                seen.push(url);
                let tracker = Tracker {
                    url: url.clone(),
                    failures: 0,
                    not_before: Some(Moment::default()),
                };
                // Each place is as likely as any other.
                let places = fresh.len() as u64 + 1;
                let place = usize::try_from(random() % places).unwrap_or_default();
                fresh.insert(place, tracker);
            }
            taken.push(fresh);
        }
        Self {
            tiers: taken,
            pause,
            pause_max,
        }
    }

    /// Whom to ask now.
    #[must_use]
    pub fn next(&self, now: Moment) -> Next {
        let is_due = |tracker: &&Tracker| tracker.not_before.is_some_and(|moment| moment <= now);
        if let Some(tracker) = self.tiers.iter().flatten().find(is_due) {
            return Next::Ask(tracker.url.clone());
        }
        let moments = self.tiers.iter().flatten().filter_map(|tracker| tracker.not_before);
        moments.min().map_or(Next::Never, Next::Wait)
    }

    /// It answered: it is the first of its tier from now on.
    pub fn succeeded(&mut self, url: &TrackerUrl) {
        for tier in &mut self.tiers {
            let Some(place) = tier.iter().position(|tracker| tracker.url == *url) else {
                continue;
            };
            let mut tracker = tier.remove(place);
            tracker.failures = 0;
            tracker.not_before = Some(Moment::default());
            tier.insert(0, tracker);
        }
    }

    /// It did not, or refused. `random` spreads those who lost it at the same time.
    pub fn failed(&mut self, url: &TrackerUrl, now: Moment, retry: Retry, random: u64) {
        let (pause, pause_max) = (self.pause, self.pause_max);
        let tracker = self.tiers.iter_mut().flatten().find(|tracker| tracker.url == *url);
        let Some(tracker) = tracker else { return };
        let doubled = pause.saturating_mul(2_u32.saturating_pow(tracker.failures));
        let rest = jittered(doubled.min(pause_max), random);
        tracker.failures = tracker.failures.saturating_add(1);
        tracker.not_before = match retry {
            Retry::Unsaid => Some(now.plus(rest)),
            Retry::After(asked) => Some(now.plus(rest.max(asked.min(RETRY_MAX)))),
            Retry::Never => None,
        };
    }
}

/// Between half of it and all of it.
fn jittered(pause: Duration, random: u64) -> Duration {
    let half = pause / 2;
    let share = u32::try_from(random % 1024).unwrap_or_default();
    half + half.saturating_mul(share) / 1023
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(15);
    const HOUR: Duration = Duration::from_secs(3600);

    fn url(name: &str) -> TrackerUrl {
        format!("http://{name}.example/").parse().unwrap()
    }

    /// Trackers as they are listed.
    fn tiers(names: &[&[&str]]) -> Tiers {
        let tiers: Vec<Vec<TrackerUrl>> = names
            .iter()
            .map(|tier| tier.iter().map(|name| url(name)).collect())
            .collect();
        // The last place each time.
        let mut random = || u64::MAX;
        let mut tiers = Tiers::new(&tiers, PAUSE, HOUR, &mut random);
        for tier in &mut tiers.tiers {
            tier.sort_by(|a, b| a.url.cmp(&b.url));
        }
        tiers
    }

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn asked(tiers: &Tiers, now: Moment) -> String {
        match tiers.next(now) {
            Next::Ask(url) => url.to_string().replace("http://", "").replace(".example/", ""),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn tiers_are_asked_in_order_and_who_answers_comes_first() {
        let mut tiers = tiers(&[&["a", "b", "c"], &["d"]]);
        assert_eq!(asked(&tiers, at(0)), "a");
        tiers.failed(&url("a"), at(0), Retry::Unsaid, 0);
        assert_eq!(asked(&tiers, at(0)), "b");
        tiers.failed(&url("b"), at(0), Retry::Unsaid, 0);
        tiers.succeeded(&url("c"));
        assert_eq!(asked(&tiers, at(100)), "c", "though the others are due again");
        tiers.failed(&url("c"), at(100), Retry::Unsaid, 0);
        assert_eq!(asked(&tiers, at(100)), "a");
        for name in ["a", "b"] {
            tiers.failed(&url(name), at(100), Retry::Unsaid, 0);
        }
        assert_eq!(asked(&tiers, at(100)), "d");
        tiers.succeeded(&url("d"));
        assert_eq!(asked(&tiers, at(100)), "d");
        assert_eq!(
            asked(&tiers, at(10_000)),
            "c",
            "a later tier never comes before an earlier one"
        );
    }

    #[test]
    fn pauses_double_up_to_an_hour() {
        let mut tiers = tiers(&[&["a"]]);
        for (failures, seconds) in [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
            .into_iter()
            .enumerate()
        {
            tiers.failed(&url("a"), at(0), Retry::Unsaid, 1023);
            assert_eq!(tiers.next(at(0)), Next::Wait(at(seconds)), "{failures} failures before");
        }
        for _ in 0..100 {
            tiers.failed(&url("a"), at(0), Retry::Unsaid, 0);
        }
        assert_eq!(tiers.next(at(0)), Next::Wait(at(1800)));
        assert_eq!(asked(&tiers, at(1800)), "a");
        tiers.succeeded(&url("a"));
        assert_eq!(asked(&tiers, at(1800)), "a");
        tiers.failed(&url("a"), at(1800), Retry::Unsaid, 1023);
        assert_eq!(tiers.next(at(1800)), Next::Wait(at(1815)), "it begins anew");
    }

    #[test]
    fn trackers_say_when_to_come_again() {
        let mut tiers = tiers(&[&["a", "b"]]);
        tiers.failed(&url("a"), at(0), Retry::After(Duration::from_secs(300)), 0);
        assert_eq!(asked(&tiers, at(0)), "b");
        tiers.failed(&url("b"), at(0), Retry::Never, 0);
        assert_eq!(tiers.next(at(0)), Next::Wait(at(300)));
        tiers.failed(&url("a"), at(300), Retry::After(Duration::MAX), 0);
        assert_eq!(tiers.next(at(300)), Next::Wait(at(300 + 24 * 3600)));
        tiers.failed(&url("a"), at(300), Retry::Never, 0);
        assert_eq!(tiers.next(at(u64::MAX)), Next::Never);
        let nobody = Tiers::new(&[vec![]], PAUSE, HOUR, &mut || 0);
        assert_eq!(nobody.next(at(0)), Next::Never);
    }

    #[test]
    fn a_tracker_counts_once_and_there_are_not_too_many() {
        let many: Vec<TrackerUrl> = (0..1000).map(|i| url(&format!("t{i}"))).collect();
        let tiers = Tiers::new(&[many.clone(), many], PAUSE, HOUR, &mut || 7);
        assert_eq!(tiers.tiers.iter().map(Vec::len).collect::<Vec<_>>(), [TRACKERS_MAX, 0]);
    }

    #[test]
    fn every_order_within_a_tier_occurs() {
        let tier: Vec<TrackerUrl> = ["a", "b", "c"].map(url).to_vec();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..6 {
            let mut rest: u64 = seed;
            // The digits of the seed in the factorial system.
            let mut digit = (1..=3_u64).map(|base| {
                let digit = rest % base;
                rest /= base;
                digit
            });
            let tiers = Tiers::new(std::slice::from_ref(&tier), PAUSE, HOUR, &mut || digit.next().unwrap());
            seen.insert(
                tiers.tiers[0]
                    .iter()
                    .map(|tracker| tracker.url.clone())
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(seen.len(), 6);
    }

    proptest! {
        #[test]
        fn a_pause_is_between_half_and_all_of_what_is_due(failures in 0..40_u32, random: u64) {
            let mut tiers = tiers(&[&["a"]]);
            for _ in 0..=failures {
                tiers.failed(&url("a"), at(0), Retry::Unsaid, random);
            }
            let due = PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(HOUR);
            let Next::Wait(until) = tiers.next(at(0)) else { panic!("it rests") };
            prop_assert!(until.0 >= due / 2 && until.0 <= due, "{until:?} of {due:?}");
        }
    }
}
