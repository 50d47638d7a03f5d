//! In which order the spans of one urgency are begun.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::Random;

/// Names a span of a picker; grows.
pub(super) type Serial = u64;

/// Hashes names that we give ourselves: nobody can choose them so that they collide.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnHasher(u64);

impl Hasher for OwnHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        // Spread over the word by the golden ratio.
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// A map by names that we give ourselves.
pub(super) type OwnMap<K, V> = HashMap<K, V, BuildHasherDefault<OwnHasher>>;

/// Where a span stands among those of its urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing of it is free: it stands nowhere.
    None,
    /// Somebody has begun it, and some of it is free.
    Started,
    /// Nobody has begun it, and so many peers have it beside those that have everything.
    Waiting(u32),
}

/// Spans of one urgency with something free in them.
#[derive(Debug, Default)]
pub(super) struct Tier {
    started: BTreeSet<Serial>,
    waiting: BTreeMap<u32, BTreeSet<Serial>>,
}

impl Tier {
    pub(super) fn insert(&mut self, span: Serial, place: Place) {
        match place {
            Place::None => {}
            Place::Started => _ = self.started.insert(span),
            Place::Waiting(peers) => _ = self.waiting.entry(peers).or_default().insert(span),
        }
    }

    pub(super) fn remove(&mut self, span: Serial, place: Place) {
        match place {
            Place::None => {}
            Place::Started => _ = self.started.remove(&span),
            Place::Waiting(peers) => {
                if let Some(bucket) = self.waiting.get_mut(&peers) {
                    bucket.remove(&span);
                    if bucket.is_empty() {
                        self.waiting.remove(&peers);
                    }
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.started.is_empty() && self.waiting.is_empty()
    }

    /// The rarest that is good, and among equals one of them by chance: if all began with the same, all would need the
    /// same next. What others have begun comes last, so that each peer has pieces of its own to finish. What no peer has
    /// but those that have everything is for such a one alone. `checks` is how many may still be looked at.
    pub(super) fn rarest(
        &self,
        has_all: bool,
        random: &mut Random,
        checks: &mut usize,
        is_good: &mut dyn FnMut(Serial) -> bool,
    ) -> Option<Serial> {
        for (peers, bucket) in &self.waiting {
            if *peers == 0 && !has_all {
                continue;
            }
            if let Some(found) = from_chance(bucket, random, checks, is_good) {
                return Some(found);
            }
        }
        from_chance(&self.started, random, checks, is_good)
    }

    /// The first begun one that is good, for somebody who reads from front to back: what clients wait for counts as begun.
    pub(super) fn first(&self, checks: &mut usize, is_good: &mut dyn FnMut(Serial) -> bool) -> Option<Serial> {
        self.started
            .iter()
            .copied()
            .find(|&span| take_check(checks) && is_good(span))
    }
}

fn take_check(checks: &mut usize) -> bool {
    let may = *checks > 0;
    *checks = checks.saturating_sub(1);
    may
}

/// The first good one from a place by chance on, round to it again.
fn from_chance(
    spans: &BTreeSet<Serial>,
    random: &mut Random,
    checks: &mut usize,
    is_good: &mut dyn FnMut(Serial) -> bool,
) -> Option<Serial> {
    let (first, last) = (*spans.first()?, *spans.last()?);
    let width = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
    let start = first + random.below(width) as u64;
    let round = spans.range(start..).chain(spans.range(..start));
    round.copied().find(|&span| take_check(checks) && is_good(span))
}
