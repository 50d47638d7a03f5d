//! Which snapshots of a repository stay and which go. Pure: the head and the time come in as arguments.
//!
//! The rules are those of backup tools: a snapshot stays if *any* rule keeps it, and goes if none does. Whatever the
//! rules say, these never go: the current one, staged ones, tagged ones, and those that were current within the grace
//! time (somebody may still work with their metadata). A policy without rules keeps everything.
//!
//! Which snapshot is newer the [sequence](crate::order) of heads says, and no clock. Rules of age take a date that lies
//! ahead, of a publish while the clock was wrong, for that of the next snapshot.
//!
//! Calendar rules count periods in UTC and keep the newest snapshot of each of the last N periods in which there is
//! one. So a second run at the same time removes nothing more, and an idle repository never shrinks to nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::grace::{GRACE_DEFAULT, replaced_within};
use crate::head::LiveSnapshot;
use crate::order::{Turn, newest_first};
use crate::{Head, SnapshotId, TagName, Timestamp};

/// What an operator wants to be kept of a repository. Counts of 0 and `None` are rules that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// The newest so many.
    pub keep_last: u32,
    /// Everything released within this time.
    pub keep_within: Option<Duration>,
    /// The newest of each of the last so many hours that have one.
    pub keep_hourly: u32,
    /// Likewise days.
    pub keep_daily: u32,
    /// Likewise weeks, from Monday on.
    pub keep_weekly: u32,
    /// Likewise months.
    pub keep_monthly: u32,
    /// Likewise years.
    pub keep_yearly: u32,
    /// Most bytes of distinct content: from the oldest on, what the rules above keep goes until the rest fits.
    pub max_bytes: Option<u64>,
    /// A snapshot stays for so long after another one replaced it.
    pub grace: Duration,
}

impl Default for RetentionPolicy {
    /// Keeps everything.
    fn default() -> Self {
        Self {
            keep_last: 0,
            keep_within: None,
            keep_hourly: 0,
            keep_daily: 0,
            keep_weekly: 0,
            keep_monthly: 0,
            keep_yearly: 0,
            max_bytes: None,
            grace: GRACE_DEFAULT,
        }
    }
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeepReason {
    /// `current` shows it.
    Current,
    /// It is not released yet.
    Staged,
    /// It has this tag.
    Tagged(TagName),
    /// It was current within the grace time.
    Grace,
    /// There is no rule at all.
    NoRule,
    /// By `keep_last`.
    Last,
    /// By `keep_within`.
    Within,
    /// By one of the calendar rules.
    Calendar(Period),
}

impl KeepReason {
    /// Whether no rule and no limit can overrule it.
    #[must_use]
    pub fn is_absolute(&self) -> bool {
        matches!(self, Self::Current | Self::Staged | Self::Tagged(_) | Self::Grace)
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Staged => f.write_str("staged"),
            Self::Tagged(tag) => write!(f, "tag {tag}"),
            Self::Grace => f.write_str("grace"),
            Self::NoRule => f.write_str("no rule"),
            Self::Last => f.write_str("last"),
            Self::Within => f.write_str("within"),
            Self::Calendar(period) => period.fmt(f),
        }
    }
}

/// A period of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week as ISO 8601 counts them.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        })
    }
}

impl Period {
    /// A number that two times share exactly if they lie in the same period.
    fn of(self, time: Timestamp) -> i64 {
        let Ok(time) = jiff::Timestamp::from_millisecond(time.as_millis()) else {
            // Beyond the calendar: a period of its own.
            return time.as_millis();
        };
        let zoned = time.to_zoned(jiff::tz::TimeZone::UTC);
        let year = i64::from(zoned.year());
        match self {
            Self::Hour => time.as_second().div_euclid(3_600),
            Self::Day => time.as_second().div_euclid(86_400),
            // 1970-01-01 was a Thursday: three days earlier a week began.
            Self::Week => (time.as_second().div_euclid(86_400) + 3).div_euclid(7),
            Self::Month => year * 12 + i64::from(zoned.month()),
            Self::Year => year,
        }
    }
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The snapshot.
    pub id: SnapshotId,
    /// When it was released, as the rules of age take it; `None` while it is staged.
    pub released: Option<Timestamp>,
    /// The head dates it ahead of the clock: [`released`](Self::released) is the next snapshot's date, or now.
    pub is_dated_ahead: bool,
    /// Why it stays; empty: it goes.
    pub reasons: Vec<KeepReason>,
    /// It would stay, had [`RetentionPolicy::max_bytes`] not been reached.
    pub over_limit: bool,
}

impl Verdict {
    /// Whether it stays.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty() && !self.over_limit
    }

    fn is_absolute(&self) -> bool {
        self.reasons.iter().any(KeepReason::is_absolute)
    }
}

/// What becomes of every snapshot of a head, in the head's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionPlan {
    verdicts: Vec<Verdict>,
    /// Indices of the verdicts on released snapshots.
    newest_first: Vec<usize>,
}

impl RetentionPolicy {
    /// Whether there is any rule: without one everything stays.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.keep_within.is_some() || self.counts().iter().any(|(_, count)| *count > 0) || self.keep_last > 0
    }

    fn counts(&self) -> [(Period, u32); 5] {
        [
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Year, self.keep_yearly),
        ]
    }

    /// Decides about every snapshot of `head`, [`max_bytes`](Self::max_bytes) apart: see
    /// [`RetentionPlan::limit_bytes`].
    #[must_use]
    pub fn plan(&self, head: &Head, now: Timestamp) -> RetentionPlan {
        let order = newest_first(head, now);
        let absolute = |live: &LiveSnapshot| {
            let current = (head.current == Some(live.id)).then_some(KeepReason::Current);
            let staged = (!live.state.is_released()).then_some(KeepReason::Staged);
            let tags = head.tags.iter().filter(|(_, id)| **id == live.id);
            let tags = tags.map(|(tag, _)| KeepReason::Tagged(tag.clone()));
            current.into_iter().chain(staged).chain(tags).collect()
        };
        let mut verdicts: Vec<Verdict> = head
            .snapshots
            .iter()
            .map(|live| Verdict {
                id: live.id,
                released: None,
                is_dated_ahead: false,
                reasons: absolute(live),
                over_limit: false,
            })
            .collect();
        for turn in &order {
            let verdict = &mut verdicts[turn.position];
            (verdict.released, verdict.is_dated_ahead) = (Some(turn.released), turn.is_dated_ahead);
        }
        for graced in replaced_within(head, self.grace, now) {
            verdicts[graced.position].reasons.push(KeepReason::Grace);
        }
        self.apply_rules(&mut verdicts, &order, now);
        RetentionPlan {
            verdicts,
            newest_first: order.iter().map(|turn| turn.position).collect(),
        }
    }

    fn apply_rules(&self, verdicts: &mut [Verdict], newest_first: &[Turn], now: Timestamp) {
        for (rank, turn) in newest_first.iter().enumerate() {
            let reasons = &mut verdicts[turn.position].reasons;
            if rank < usize::try_from(self.keep_last).unwrap_or(usize::MAX) {
                reasons.push(KeepReason::Last);
            }
            if self.keep_within.is_some_and(|within| now.since(turn.released) < within) {
                reasons.push(KeepReason::Within);
            }
            if !self.has_rules() {
                reasons.push(KeepReason::NoRule);
            }
        }
        for (period, count) in self.counts() {
            let mut seen = BTreeSet::new();
            for turn in newest_first {
                if seen.len() >= usize::try_from(count).unwrap_or(usize::MAX) {
                    break;
                }
                if seen.insert(period.of(turn.released)) {
                    verdicts[turn.position].reasons.push(KeepReason::Calendar(period));
                }
            }
        }
    }
}

impl RetentionPlan {
    /// What becomes of each, in the head's order.
    #[must_use]
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// Those that go.
    pub fn expired(&self) -> impl Iterator<Item = SnapshotId> {
        self.verdicts
            .iter()
            .filter(|verdict| !verdict.is_kept())
            .map(|verdict| verdict.id)
    }

    /// Whether a snapshot stays; one that the plan does not know does.
    #[must_use]
    pub fn keeps(&self, id: &SnapshotId) -> bool {
        self.verdicts
            .iter()
            .find(|verdict| verdict.id == *id)
            .is_none_or(Verdict::is_kept)
    }

    /// Lets go what does not fit into `max_bytes`: first come those that no limit can overrule, then the others from
    /// the newest on; with the first that does not fit, it and every older one go.
    ///
    /// `added` is asked for the bytes of distinct content that a snapshot adds to all it was asked about before.
    ///
    /// # Errors
    /// Those of `added`; the plan is as before then.
    pub fn limit_bytes<E>(
        &mut self,
        max_bytes: u64,
        mut added: impl FnMut(SnapshotId) -> Result<u64, E>,
    ) -> Result<(), E> {
        let mut total: u64 = 0;
        for verdict in self.verdicts.iter().filter(|verdict| verdict.is_absolute()) {
            total = total.saturating_add(added(verdict.id)?);
        }
        let mut fits = true;
        let mut over = Vec::new();
        for &at in &self.newest_first {
            let verdict = &self.verdicts[at];
            if !verdict.is_kept() || verdict.is_absolute() {
                continue;
            }
            if fits {
                total = total.saturating_add(added(verdict.id)?);
                fits = total <= max_bytes;
            }
            if !fits {
                over.push(at);
            }
        }
        for at in over {
            self.verdicts[at].over_limit = true;
        }
        Ok(())
    }

    /// Takes what goes out of a head. Its rules stay kept: what is current or tagged is never taken out.
    pub fn apply(&self, head: &mut Head) {
        head.snapshots.retain(|live| self.keeps(&live.id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::RecordId;
    use crate::head::SnapshotState;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    /// 2023-11-14, a Tuesday, 22:13:20.
    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn before(age: Duration) -> Timestamp {
        Timestamp::from_millis(NOW.as_millis() - i64::try_from(age.as_millis()).unwrap())
    }

    fn id(number: u8) -> SnapshotId {
        SnapshotId::from_random([number; 16])
    }

    /// Snapshots of these ages; the last one is current.
    fn head(ages: &[Duration]) -> Head {
        let live = |(number, age): (usize, &Duration)| LiveSnapshot {
            id: id(u8::try_from(number).unwrap()),
            record: RecordId::of(b""),
            state: SnapshotState::released(before(*age), u64::try_from(number).unwrap() + 1),
        };
        Head {
            repository: "r".parse().unwrap(),
            sequence: 1,
            issued: NOW,
            expires: NOW.plus(DAY),
            piece_length: 1 << 20,
            current: ages.len().checked_sub(1).map(|last| id(u8::try_from(last).unwrap())),
            snapshots: ages.iter().enumerate().map(live).collect(),
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        }
    }

    fn no_grace() -> RetentionPolicy {
        RetentionPolicy {
            grace: Duration::ZERO,
            ..RetentionPolicy::default()
        }
    }

    /// Numbers of those that stay.
    fn kept(policy: &RetentionPolicy, ages: &[Duration]) -> Vec<usize> {
        let plan = policy.plan(&head(ages), NOW);
        let all = plan.verdicts().iter().enumerate();
        all.filter(|(_, verdict)| verdict.is_kept()).map(|(at, _)| at).collect()
    }

    #[test]
    fn without_rules_everything_stays_and_says_so() {
        let plan = RetentionPolicy::default().plan(&head(&[DAY * 400, DAY]), NOW);
        assert_eq!(plan.expired().count(), 0);
        assert_eq!(plan.verdicts()[0].reasons, [KeepReason::NoRule]);
        assert_eq!(plan.verdicts()[1].reasons, [KeepReason::Current, KeepReason::NoRule]);
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        let ages = [
            DAY * 800,
            DAY * 40,
            DAY * 8,
            DAY * 3,
            DAY * 2,
            HOUR * 25,
            HOUR * 2,
            HOUR * 2 / 60 * 50,
            HOUR / 60,
        ];
        let with = |change: fn(&mut RetentionPolicy)| {
            let mut policy = no_grace();
            change(&mut policy);
            kept(&policy, &ages)
        };
        assert_eq!(with(|policy| policy.keep_last = 3), [6, 7, 8]);
        assert_eq!(with(|policy| policy.keep_within = Some(DAY * 3)), [4, 5, 6, 7, 8]);
        // 22:12, 20:33 and 20:13: of one hour only the newest.
        assert_eq!(with(|policy| policy.keep_hourly = 2), [7, 8]);
        assert_eq!(with(|policy| policy.keep_daily = 3), [4, 5, 8]);
        // Sunday the 12th belongs to the week before.
        assert_eq!(with(|policy| policy.keep_weekly = 2), [4, 8]);
        assert_eq!(with(|policy| policy.keep_monthly = 2), [1, 8]);
        assert_eq!(with(|policy| policy.keep_yearly = 9), [0, 8]);
    }

    #[test]
    fn current_staged_tagged_and_graced_ones_never_go() {
        let mut head = head(&[DAY * 90, DAY * 80, DAY * 70, HOUR * 7, HOUR * 5, HOUR]);
        head.snapshots[1].state = SnapshotState::Staged {
            release_at: None,
            when_synced_percent: None,
        };
        head.current = Some(id(2));
        head.tags.insert("gold".parse().unwrap(), id(0));
        let mut policy = RetentionPolicy {
            keep_last: 1,
            ..RetentionPolicy::default()
        };
        let reasons = |policy: &RetentionPolicy| {
            let plan = policy.plan(&head, NOW);
            let shown = |verdict: &Verdict| {
                verdict
                    .reasons
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            };
            plan.verdicts().iter().map(shown).collect::<Vec<_>>()
        };
        // Number 3 was replaced five hours ago, number 2 seven.
        assert_eq!(
            reasons(&policy),
            ["tag gold", "staged", "current", "grace", "grace", "last"]
        );
        policy.grace = HOUR * 3;
        assert_eq!(reasons(&policy), ["tag gold", "staged", "current", "", "grace", "last"]);
    }

    #[test]
    fn a_publish_while_the_clock_was_wrong_takes_no_places_for_years() {
        let mut policy = no_grace();
        (policy.keep_last, policy.keep_within, policy.keep_daily) = (1, Some(DAY * 2), 3);
        // Number 2 was published while the clock was three years ahead, number 4 while it stood in 1970.
        let mut head = head(&[DAY * 9, DAY * 8, DAY, HOUR * 5, DAY * 19_000, HOUR * 3]);
        head.snapshots[2].state = SnapshotState::released(NOW.plus(DAY * 1_000), 3);
        let plan = policy.plan(&head, NOW);
        let kept = |plan: &RetentionPlan| {
            let all = plan.verdicts().iter().enumerate();
            all.filter(|(_, verdict)| verdict.is_kept())
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&plan), [1, 2, 3, 4, 5]);
        let verdict = &plan.verdicts()[2];
        assert_eq!(
            (verdict.released, verdict.is_dated_ahead),
            (Some(before(HOUR * 5)), true)
        );
        // A week later it is as old as its successor, and goes with it.
        for (at, live) in head.snapshots.iter_mut().enumerate().skip(5) {
            live.state = SnapshotState::released(NOW.plus(DAY * 7), at as u64 + 1);
        }
        assert_eq!(kept(&policy.plan(&head, NOW.plus(DAY * 7))), [3, 4, 5]);
    }

    #[test]
    fn a_byte_limit_takes_the_oldest_and_never_what_is_absolute() {
        let mut head = head(&[DAY * 5, DAY * 4, DAY * 3, DAY * 2, DAY]);
        head.tags.insert("gold".parse().unwrap(), id(0));
        let limited = |max_bytes| {
            let mut plan = no_grace().plan(&head, NOW);
            let mut asked = Vec::new();
            let measured = plan.limit_bytes(max_bytes, |id| {
                asked.push(id);
                Ok::<u64, ()>(10)
            });
            assert_eq!(measured, Ok(()));
            assert_eq!(asked[..2], [id(0), id(4)], "what is absolute is counted first");
            plan.expired().collect::<Vec<_>>()
        };
        assert_eq!(limited(50), []);
        assert_eq!(limited(49), [id(1)]);
        assert_eq!(limited(30), [id(1), id(2)]);
        assert_eq!(limited(0), [id(1), id(2), id(3)]);
        let mut plan = no_grace().plan(&head, NOW);
        let before = plan.clone();
        assert_eq!(plan.limit_bytes(0, |_| Err("cannot be read")), Err("cannot be read"));
        assert_eq!(plan, before);
    }

    fn policies() -> impl Strategy<Value = RetentionPolicy> {
        let counts = proptest::array::uniform6(0u32..6);
        (counts, proptest::option::of(0u64..500), 0u64..100).prop_map(|(counts, within, grace)| RetentionPolicy {
            keep_last: counts[0],
            keep_hourly: counts[1],
            keep_daily: counts[2],
            keep_weekly: counts[3],
            keep_monthly: counts[4],
            keep_yearly: counts[5],
            keep_within: within.map(|hours| HOUR * u32::try_from(hours).unwrap()),
            max_bytes: None,
            grace: HOUR * u32::try_from(grace).unwrap(),
        })
    }

    proptest! {
        #[test]
        fn a_plan_keeps_its_promises(
            policy in policies(),
            minutes in proptest::collection::vec(0u64..2_000_000, 1..60),
            tagged in proptest::collection::vec(0usize..60, 0..4),
            current in 0usize..60,
            bytes in 0u64..200,
        ) {
            let ages: Vec<_> = minutes.iter().map(|minutes| Duration::from_secs(minutes * 60)).collect();
            let mut head = head(&ages);
            let some = |at: usize| head.snapshots[at % ages.len()].id;
            let current = some(current);
            let tags: Vec<_> = tagged.iter().map(|at| some(*at)).collect();
            head.current = Some(current);
            for (number, id) in tags.iter().enumerate() {
                head.tags.insert(format!("t{number}").parse().unwrap(), *id);
            }
            let mut plan = policy.plan(&head, NOW);

            // What never goes stays; what the counted rules keep is bounded by their counts.
            prop_assert!(plan.keeps(&current) && tags.iter().all(|id| plan.keeps(id)));
            let by_count = plan.verdicts().iter().filter(|verdict| verdict.reasons.iter().any(
                |reason| matches!(reason, KeepReason::Last | KeepReason::Calendar(_)))).count();
            let counts = policy.counts().iter().map(|(_, count)| *count).sum::<u32>() + policy.keep_last;
            prop_assert!(by_count <= usize::try_from(counts).unwrap());
            if policy.has_rules() && policy.keep_last > 0 {
                let last = plan.verdicts().iter().filter(|verdict| verdict.reasons.contains(&KeepReason::Last)).count();
                prop_assert_eq!(last, ages.len().min(usize::try_from(policy.keep_last).unwrap()));
            }

            // Applied, the head can be signed, and a second run finds nothing to do.
            let mut pruned = head.clone();
            plan.apply(&mut pruned);
            prop_assert!(pruned.sign(&[&crate::SecretKey::from_random([1; 32])]).is_ok());
            prop_assert_eq!(policy.plan(&pruned, NOW).expired().count(), 0);

            // A byte limit only takes away, keeps what is absolute, and is kept where it can be.
            let before: Vec<_> = plan.verdicts().iter().map(Verdict::is_kept).collect();
            let _ = plan.limit_bytes(bytes, |_| Ok::<u64, ()>(7));
            let kept: Vec<_> = plan.verdicts().iter().filter(|verdict| verdict.is_kept()).collect();
            prop_assert!(plan.verdicts().iter().zip(before).all(|(verdict, before)| before || !verdict.is_kept()));
            prop_assert!(plan.verdicts().iter().all(|verdict| verdict.is_kept() || !verdict.is_absolute()));
            prop_assert!(kept.len() as u64 * 7 <= bytes || kept.iter().all(|verdict| verdict.is_absolute()));
        }
    }
}
