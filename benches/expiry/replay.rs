//! A cache without bytes: replays a trace against a policy, or against somebody who knows the future.

use std::collections::BTreeSet;

use instantmirror::core::expiry::{Candidate, ExpiryPolicy, Lru, SnapshotOrder, Standing};

use crate::trace::{Trace, What};

/// What came out.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) hits: u64,
    pub(crate) bytes: u64,
    pub(crate) hit_bytes: u64,
}

impl Outcome {
    fn count(&mut self, size: u64, is_hit: bool) {
        self.requests += 1;
        self.bytes += size;
        if is_hit {
            self.hits += 1;
            self.hit_bytes += size;
        }
    }
}

/// A policy that may or may not listen to snapshots.
pub(crate) trait Replayed: ExpiryPolicy {
    /// What the snapshots say.
    fn stand(&mut self, _: u32, _: Standing, _: &Candidate) {}
}

impl Replayed for Box<dyn ExpiryPolicy> {}

impl Replayed for Lru {}

impl<P: ExpiryPolicy> Replayed for SnapshotOrder<P> {
    fn stand(&mut self, object: u32, standing: Standing, candidate: &Candidate) {
        self.set_standing(object, standing, candidate);
    }
}

/// Replays against a policy. Objects are their own handles.
pub(crate) fn replay<P: Replayed>(trace: &Trace, capacity: u64, mut policy: P) -> Outcome {
    let mut outcome = Outcome::default();
    let mut here = vec![false; trace.sizes.len()];
    let mut standings = vec![Standing::Live; trace.sizes.len()];
    let mut used = 0;
    for event in &trace.events {
        let at = usize::try_from(event.object).unwrap_or_default();
        let candidate = |object: u32| Candidate {
            size: trace.size(object),
            fingerprint: u64::from(object).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        let size = trace.size(event.object);
        match event.what {
            What::Standing(standing) => {
                standings[at] = standing;
                if here[at] {
                    policy.stand(event.object, standing, &candidate(event.object));
                }
                continue;
            }
            What::Request => outcome.count(size, here[at]),
        }
        if here[at] {
            policy.used(event.object);
        } else if size <= capacity {
            while used + size > capacity {
                let Some(victim) = policy.victim(&mut |_| true) else {
                    break;
                };
                policy.evicted(victim, &candidate(victim));
                here[usize::try_from(victim).unwrap_or_default()] = false;
                used -= trace.size(victim);
            }
            used += size;
            here[at] = true;
            policy.insert(event.object, &candidate(event.object));
            policy.stand(event.object, standings[at], &candidate(event.object));
        }
    }
    outcome
}

/// Never asked for again.
const NEVER: usize = usize::MAX;

/// Replays with knowledge of the future: what is asked for again latest goes first, and what would go at once is not
/// kept at all. The best that can be done where all objects have the same size; with sizes nearly so for bytes.
pub(crate) fn clairvoyant(trace: &Trace, capacity: u64) -> Outcome {
    let next_uses = next_uses(trace);
    let mut outcome = Outcome::default();
    // By next use.
    let mut held: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut held_until = vec![None; trace.sizes.len()];
    let mut used = 0;
    for (now, event) in trace
        .events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.what == What::Request)
    {
        let at = usize::try_from(event.object).unwrap_or_default();
        let (size, next) = (trace.size(event.object), next_uses[now]);
        outcome.count(size, held_until[at].is_some());
        if let Some(until) = held_until[at].take() {
            held.remove(&(until, event.object));
            used -= size;
        }
        if size > capacity || next == NEVER {
            continue;
        }
        while used + size > capacity {
            match held.last().copied() {
                Some((until, victim)) if until > next => {
                    held.remove(&(until, victim));
                    held_until[usize::try_from(victim).unwrap_or_default()] = None;
                    used -= trace.size(victim);
                }
                _ => break,
            }
        }
        if used + size <= capacity {
            held.insert((next, event.object));
            held_until[at] = Some(next);
            used += size;
        }
    }
    outcome
}

/// The same with sizes: among some objects the one goes whose size times the time until its next use is largest. Near to
/// the best that can be done for the share of requests.
pub(crate) fn clairvoyant_by_size(trace: &Trace, capacity: u64) -> Outcome {
    const SAMPLES: usize = 64;
    let next_uses = next_uses(trace);
    let mut outcome = Outcome::default();
    let mut held: Vec<u32> = Vec::new();
    // Where in `held`, and until when.
    let mut places: Vec<Option<(usize, usize)>> = vec![None; trace.sizes.len()];
    let (mut used, mut random) = (0_u64, 1_u64);
    let place_of = |object: u32| usize::try_from(object).unwrap_or_default();
    let let_go = |held: &mut Vec<u32>, places: &mut Vec<Option<(usize, usize)>>, index: usize| {
        let gone = held.swap_remove(index);
        places[place_of(gone)] = None;
        if let Some(moved) = held.get(index)
            && let Some(place) = &mut places[place_of(*moved)]
        {
            place.0 = index;
        }
    };
    for (now, event) in trace
        .events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.what == What::Request)
    {
        let (size, next) = (trace.size(event.object), next_uses[now]);
        let before = places[place_of(event.object)];
        outcome.count(size, before.is_some());
        if let Some((index, _)) = before {
            let_go(&mut held, &mut places, index);
            used -= size;
        }
        if size > capacity || next == NEVER {
            continue;
        }
        let cost = |size: u64, until: usize| u128::from(size) * (until - now.min(until)) as u128;
        while used + size > capacity {
            let candidates = (0..SAMPLES.min(held.len())).map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let index = usize::try_from(random >> 33).unwrap_or(0) % held.len();
                let object = held[index];
                let until = places[place_of(object)].map_or(0, |(_, until)| until);
                (cost(trace.size(object), until), index)
            });
            match candidates.max() {
                Some((worst, index)) if worst > cost(size, next) => {
                    used -= trace.size(held[index]);
                    let_go(&mut held, &mut places, index);
                }
                _ => break,
            }
        }
        if used + size <= capacity {
            places[place_of(event.object)] = Some((held.len(), next));
            held.push(event.object);
            used += size;
        }
    }
    outcome
}

/// For each event, when its object is asked for next.
fn next_uses(trace: &Trace) -> Vec<usize> {
    let mut next = vec![NEVER; trace.events.len()];
    let mut seen = vec![NEVER; trace.sizes.len()];
    for (now, event) in trace.events.iter().enumerate().rev() {
        if event.what == What::Request {
            let at = usize::try_from(event.object).unwrap_or_default();
            next[now] = std::mem::replace(&mut seen[at], now);
        }
    }
    next
}
