//! A scheduler that is driven at random, against a simple model.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{at, limits, request};
use crate::Moment;
use crate::scheduler::SchedulerLimits;
use crate::traits::{Class, Next, Outcome, Scheduler, Ticket};

/// What a driver knows of a request.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Known {
    Ready,
    Paused,
    Running,
    Gone,
}

/// A long random drive against a simple model: nothing starts twice, nothing overtakes, no limit is passed, and in
/// the end everything has ended.
pub fn random_driving_keeps_every_promise<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let limits = SchedulerLimits {
        running_max: 6,
        background_running_max: 3,
        ..limits()
    };
    let mut queue = make(limits.clone());
    let mut known: BTreeMap<Ticket, (Known, Class)> = BTreeMap::new();
    let (mut random, mut now) = (7_u64, at(0));
    let mut below = |n: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % n
    };
    for _ in 0..3000 {
        let pick = |known: &BTreeMap<Ticket, (Known, Class)>, state: Known, i: usize| {
            let matching: Vec<_> = known
                .iter()
                .filter(|(_, (held, _))| *held == state)
                .map(|(ticket, _)| *ticket)
                .collect();
            (!matching.is_empty()).then(|| matching[i % matching.len()])
        };
        match below(6) {
            0 | 1 => {
                let class = Class::ALL[below(6)];
                let ticket = queue.submit(now, request(class, at(below(50) as u64)));
                assert_eq!(known.insert(ticket, (Known::Ready, class)), None, "a ticket twice");
            }
            2 => now = now.plus(Duration::from_millis(below(2000) as u64)),
            3 => {
                if let Some(ticket) = pick(&known, Known::Running, below(100)) {
                    let outcome = [Outcome::Done, Outcome::Retry, Outcome::Retry, Outcome::Failed][below(4)];
                    let again = queue.finished(now, ticket, outcome);
                    assert!(!again || outcome == Outcome::Retry);
                    known
                        .entry(ticket)
                        .and_modify(|held| held.0 = if again { Known::Paused } else { Known::Gone });
                }
            }
            4 => {
                if let Some(ticket) = pick(&known, Known::Ready, below(100)) {
                    assert!(queue.cancel(ticket));
                    known.entry(ticket).and_modify(|held| held.0 = Known::Gone);
                }
            }
            _ => drive(&mut queue, &mut known, &limits, now),
        }
    }
    for _ in 0..10_000 {
        drive(&mut queue, &mut known, &limits, now);
        for (ticket, held) in known.iter_mut().filter(|(_, held)| held.0 == Known::Running) {
            queue.finished(now, *ticket, Outcome::Done);
            held.0 = Known::Gone;
        }
        now = now.plus(Duration::from_secs(1));
    }
    assert!(
        known.values().all(|(state, _)| *state == Known::Gone),
        "something was forgotten"
    );
    assert_eq!(queue.next(now), Next::Idle);
}

/// Starts what may start, and checks each start against the model.
fn drive(
    queue: &mut impl Scheduler,
    known: &mut BTreeMap<Ticket, (Known, Class)>,
    limits: &SchedulerLimits,
    now: Moment,
) {
    loop {
        match queue.next(now) {
            Next::Start(ticket, request) => {
                let (state, class) = known[&ticket];
                assert!(
                    matches!(state, Known::Ready | Known::Paused),
                    "{ticket:?} started while {state:?}"
                );
                assert_eq!(class, request.class);
                let waiting = known.values().filter(|(state, _)| *state == Known::Ready);
                let urgent = waiting.map(|(_, class)| *class).min();
                assert!(
                    urgent.is_none_or(|urgent| urgent >= class),
                    "{class:?} has overtaken {urgent:?}"
                );
                known.insert(ticket, (Known::Running, class));
                let running: Vec<_> = known.values().filter(|(state, _)| *state == Known::Running).collect();
                let background = running.iter().filter(|(_, class)| *class != Class::Demand).count();
                assert!(running.len() <= limits.running_max && background <= limits.background_running_max);
            }
            Next::WaitUntil(moment) => return assert!(moment > now, "waiting for what is over"),
            Next::Idle => return,
        }
    }
}
