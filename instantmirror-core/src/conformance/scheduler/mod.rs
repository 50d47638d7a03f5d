//! The behaviours of a [`Scheduler`]. A factory makes an empty one with these limits.

/// Stamps the suite: one `#[test]` per behaviour of a scheduler. Takes a factory, a function of
/// [`SchedulerLimits`](crate::scheduler::SchedulerLimits) that returns a scheduler.
#[macro_export]
macro_rules! scheduler_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { scheduler, $factory,
            an_empty_queue_is_idle
            a_request_starts_as_it_was_submitted
            classes_are_served_strictly_in_order
            inside_a_class_the_earliest_deadline_goes_first
            a_lower_rank_goes_before_an_earlier_deadline
            each_request_is_started_once
            raising_makes_a_request_more_urgent
            raising_never_makes_a_request_less_urgent
            raising_what_runs_changes_its_class_and_starts_nothing
            a_cancelled_request_never_starts
            cancelling_what_runs_or_is_gone_does_nothing
            a_retry_waits_until_the_moment_it_names
            a_pause_holds_nobody_else_back
            a_paused_request_can_be_raised_and_cancelled
            pauses_grow_up_to_a_limit
            tries_are_limited
            what_is_done_or_failed_is_not_tried_again
            reports_about_what_does_not_run_do_nothing
            no_more_run_than_may
            background_leaves_room_for_demand
            a_class_at_its_own_limit_holds_nobody_back
            what_is_less_urgent_yields_while_something_runs
            limits_can_change_at_any_time
            a_place_that_becomes_free_is_used
            the_status_counts_what_waits_and_runs
            random_driving_keeps_every_promise
        }
    };
}
// end of the list

mod random;

use std::collections::BTreeSet;
use std::time::Duration;

pub use random::random_driving_keeps_every_promise;

use crate::scheduler::SchedulerLimits;
use crate::traits::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket};
use crate::{Moment, ObjectId};

fn limits() -> SchedulerLimits {
    SchedulerLimits {
        running_max: 100,
        background_running_max: 50,
        class_running_max: [usize::MAX; Class::ALL.len()],
        tries_max: 3,
        retry_pause: Duration::from_secs(1),
        retry_pause_max: Duration::from_secs(8),
    }
}

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

fn request(class: Class, deadline: Moment) -> Request {
    Request {
        repository: "conformance".parse().unwrap(),
        object: ObjectId::of(b"object"),
        objects: 1,
        size: 10,
        class,
        rank: 0,
        deadline,
    }
}

fn submit(queue: &mut impl Scheduler, class: Class, deadline: u64) -> Ticket {
    queue.submit(at(0), request(class, at(deadline)))
}

/// Everything that starts now, in order.
fn started(queue: &mut impl Scheduler, now: Moment) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    while let Next::Start(ticket, _) = queue.next(now) {
        tickets.push(ticket);
        assert!(tickets.len() < 10_000, "it never stops to start");
    }
    tickets
}

/// Starts a request and fails it; returns the moment until which it pauses.
fn failed_once(queue: &mut impl Scheduler, ticket: Ticket, now: Moment) -> Moment {
    assert_eq!(started(queue, now), [ticket]);
    assert!(queue.finished(now, ticket, Outcome::Retry));
    match queue.next(now) {
        Next::WaitUntil(moment) => moment,
        other => panic!("{other:?}"),
    }
}

/// Without requests there is nothing to do and nothing to wait for.
pub fn an_empty_queue_is_idle<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    assert_eq!(queue.next(at(0)), Next::Idle);
    for class in Class::ALL {
        assert_eq!(queue.status(class), QueueStatus::default());
    }
}

/// Rules have an order.
pub fn a_lower_rank_goes_before_an_earlier_deadline<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let ranked = |queue: &mut S, rank, deadline| {
        let request = request(Class::Preseed, at(deadline));
        queue.submit(at(0), Request { rank, ..request })
    };
    let second = ranked(&mut queue, 1, 0);
    let first = ranked(&mut queue, 0, 9);
    let third = ranked(&mut queue, 1, 5);
    assert_eq!(started(&mut queue, at(0)), [first, second, third]);
}

/// The driver gets back what was submitted, then nothing more.
pub fn a_request_starts_as_it_was_submitted<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    for class in Class::ALL {
        let request = request(class, at(5));
        let ticket = queue.submit(at(0), request.clone());
        assert_eq!(queue.next(at(0)), Next::Start(ticket, request));
        assert_eq!(queue.next(at(0)), Next::Idle);
        assert!(!queue.finished(at(1), ticket, Outcome::Done));
        assert_eq!(queue.next(at(1)), Next::Idle);
    }
}

/// The most urgent class goes first, whatever was submitted first and whatever the deadlines say.
pub fn classes_are_served_strictly_in_order<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let mut tickets: Vec<_> = (0..)
        .zip(Class::ALL.into_iter().rev())
        .map(|(deadline, class)| submit(&mut queue, class, deadline))
        .collect();
    tickets.reverse();
    assert_eq!(started(&mut queue, at(0)), tickets);
}

/// Deadlines order the requests of one class.
pub fn inside_a_class_the_earliest_deadline_goes_first<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    for class in Class::ALL {
        let mut queue = make(limits());
        let mut tickets: Vec<_> = [7, 3, 9, 1, 5]
            .map(|deadline| (deadline, submit(&mut queue, class, deadline)))
            .into();
        tickets.sort();
        let order: Vec<_> = tickets.into_iter().map(|(_, ticket)| ticket).collect();
        assert_eq!(started(&mut queue, at(0)), order);
    }
}

/// Tickets are unique, equal requests are different requests, and each starts once.
pub fn each_request_is_started_once<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let tickets: BTreeSet<_> = (0..50).map(|_| submit(&mut queue, Class::Demand, 1)).collect();
    assert_eq!(tickets.len(), 50);
    let first: BTreeSet<_> = started(&mut queue, at(0)).into_iter().collect();
    assert_eq!(first, tickets);
    assert_eq!(started(&mut queue, at(1000)), []);
}

/// A raised request overtakes.
pub fn raising_makes_a_request_more_urgent<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let (first, second, third) = (
        submit(&mut queue, Class::Bundle, 1),
        submit(&mut queue, Class::Rest, 9),
        submit(&mut queue, Class::Rest, 1),
    );
    queue.raise(second, Class::Demand, at(5));
    assert_eq!(queue.status(Class::Demand).waiting, 1);
    match queue.next(at(0)) {
        Next::Start(ticket, request) => {
            assert_eq!(
                (ticket, request.class, request.deadline),
                (second, Class::Demand, at(5))
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(started(&mut queue, at(0)), [first, third]);
}

/// "At least as urgent": class and deadline each keep the better value.
pub fn raising_never_makes_a_request_less_urgent<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let (urgent, other) = (
        submit(&mut queue, Class::Preseed, 3),
        submit(&mut queue, Class::Preseed, 4),
    );
    queue.raise(urgent, Class::Rest, at(2));
    queue.raise(urgent, Class::Preseed, at(100));
    match queue.next(at(0)) {
        Next::Start(ticket, request) => {
            assert_eq!(
                (ticket, request.class, request.deadline),
                (urgent, Class::Preseed, at(2))
            );
        }
        next => panic!("{next:?}"),
    }
    assert_eq!(started(&mut queue, at(0)), [other]);
}

/// What runs starts no second time, but others yield to it from then on and it to fewer. What is gone stays gone.
pub fn raising_what_runs_changes_its_class_and_starts_nothing<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let ticket = submit(&mut queue, Class::Preseed, 1);
    assert_eq!(started(&mut queue, at(0)), [ticket]);
    queue.raise(ticket, Class::Rest, at(0));
    assert_eq!(queue.status(Class::Preseed).running, 1, "never less urgent");
    assert!(!queue.must_yield(Class::Bundle));
    queue.raise(ticket, Class::Demand, at(0));
    let running = |class| queue.status(class).running;
    assert_eq!((running(Class::Demand), running(Class::Preseed)), (1, 0));
    assert!(queue.must_yield(Class::Bundle) && !queue.must_yield(Class::Demand));
    assert_eq!(queue.next(at(0)), Next::Idle);
    queue.finished(at(0), ticket, Outcome::Done);
    queue.raise(ticket, Class::Demand, at(0));
    queue.raise(Ticket(u64::MAX), Class::Demand, at(0));
    assert_eq!(queue.next(at(0)), Next::Idle);
}

/// Once cancelled, never started.
pub fn a_cancelled_request_never_starts<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let tickets = [1, 2, 3].map(|deadline| submit(&mut queue, Class::Popular, deadline));
    assert!(queue.cancel(tickets[1]));
    assert_eq!(queue.status(Class::Popular).waiting, 2);
    assert_eq!(started(&mut queue, at(0)), [tickets[0], tickets[2]]);
}

/// Cancelling says whether the request was waiting; one that runs is the driver's to stop.
pub fn cancelling_what_runs_or_is_gone_does_nothing<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let ticket = submit(&mut queue, Class::Demand, 1);
    assert_eq!(started(&mut queue, at(0)), [ticket]);
    assert!(!queue.cancel(ticket));
    assert_eq!(queue.status(Class::Demand).running, 1);
    assert!(queue.finished(at(0), ticket, Outcome::Retry));
    assert!(queue.cancel(ticket));
    assert!(!queue.cancel(ticket));
    assert!(!queue.cancel(Ticket(u64::MAX)));
    assert_eq!(queue.next(at(1000)), Next::Idle);
}

/// The moment that `next` names is the moment at which it starts: not before, not later.
pub fn a_retry_waits_until_the_moment_it_names<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let ticket = submit(&mut queue, Class::Demand, 1);
    let until = failed_once(&mut queue, ticket, at(10));
    assert!(until > at(10));
    let early = Moment(until.0 - Duration::from_nanos(1));
    assert_eq!(queue.next(early), Next::WaitUntil(until));
    assert_eq!(queue.status(Class::Demand).waiting, 1);
    match queue.next(until) {
        Next::Start(again, request) => assert_eq!((again, request.deadline), (ticket, at(1))),
        other => panic!("{other:?}"),
    }
    assert_eq!(queue.next(until), Next::Idle);
}

/// Who pauses is out of the way, of its own class and of less urgent ones.
pub fn a_pause_holds_nobody_else_back<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(SchedulerLimits {
        running_max: 1,
        ..limits()
    });
    let ticket = submit(&mut queue, Class::Demand, 1);
    failed_once(&mut queue, ticket, at(0));
    let same = submit(&mut queue, Class::Demand, 9);
    assert_eq!(started(&mut queue, at(0)), [same]);
    queue.finished(at(0), same, Outcome::Done);
    let less = submit(&mut queue, Class::Rest, 9);
    assert_eq!(started(&mut queue, at(0)), [less]);
}

/// A pause does not take a request out of reach.
pub fn a_paused_request_can_be_raised_and_cancelled<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let (ticket, other) = (submit(&mut queue, Class::Rest, 5), Class::Bundle);
    let until = failed_once(&mut queue, ticket, at(0));
    queue.raise(ticket, Class::Demand, at(5));
    assert_eq!(
        queue.next(at(0)),
        Next::WaitUntil(until),
        "raising is no reason to come back too early"
    );
    let bundle = submit(&mut queue, other, 1);
    assert_eq!(started(&mut queue, until), [ticket, bundle]);
    assert!(queue.finished(until, ticket, Outcome::Retry));
    assert!(queue.cancel(ticket));
    assert_eq!(started(&mut queue, at(100_000)), []);
}

/// Each pause is longer than the last, about double, until the limit.
pub fn pauses_grow_up_to_a_limit<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(SchedulerLimits {
        tries_max: 20,
        ..limits()
    });
    let ticket = submit(&mut queue, Class::Demand, 1);
    let (mut now, mut pauses) = (at(0), Vec::new());
    for _ in 0..19 {
        let until = failed_once(&mut queue, ticket, now);
        pauses.push(until.since(now).as_secs_f64());
        now = until;
    }
    for (i, pause) in (0..).zip(&pauses) {
        let nominal = f64::powi(2.0, i).min(8.0);
        assert!(
            *pause >= nominal * 0.5 && *pause <= nominal * 1.5,
            "pause {i}: {pause} s"
        );
    }
}

/// After the last try the answer is no, and nothing of the request is left.
pub fn tries_are_limited<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    for tries_max in [1, 2, 5] {
        let mut queue = make(SchedulerLimits { tries_max, ..limits() });
        let ticket = submit(&mut queue, Class::Demand, 1);
        for attempt in 1..=tries_max {
            let now = at(u64::from(attempt) * 1000);
            assert_eq!(started(&mut queue, now), [ticket]);
            assert_eq!(queue.finished(now, ticket, Outcome::Retry), attempt < tries_max);
        }
        assert_eq!(queue.next(at(1_000_000)), Next::Idle);
        assert_eq!(queue.status(Class::Demand), QueueStatus::default());
    }
}

/// Only `Retry` is retried.
pub fn what_is_done_or_failed_is_not_tried_again<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    for outcome in [Outcome::Done, Outcome::Failed] {
        let mut queue = make(limits());
        let ticket = submit(&mut queue, Class::Demand, 1);
        assert_eq!(started(&mut queue, at(0)), [ticket]);
        assert!(!queue.finished(at(0), ticket, outcome));
        assert_eq!(queue.next(at(1_000_000)), Next::Idle);
        assert_eq!(queue.status(Class::Demand), QueueStatus::default());
    }
}

/// A report counts once, and only of what was started.
pub fn reports_about_what_does_not_run_do_nothing<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let ticket = submit(&mut queue, Class::Demand, 1);
    assert!(!queue.finished(at(0), ticket, Outcome::Retry));
    assert!(!queue.finished(at(0), Ticket(u64::MAX), Outcome::Retry));
    assert_eq!(started(&mut queue, at(0)), [ticket]);
    assert!(queue.finished(at(0), ticket, Outcome::Retry));
    assert!(!queue.finished(at(0), ticket, Outcome::Retry));
    assert_eq!(started(&mut queue, at(1000)), [ticket]);
}

/// The limit of running requests holds for demand too.
pub fn no_more_run_than_may<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(SchedulerLimits {
        running_max: 3,
        ..limits()
    });
    for deadline in 0..10 {
        submit(&mut queue, Class::Demand, deadline);
    }
    assert_eq!(started(&mut queue, at(0)).len(), 3);
    assert_eq!(queue.next(at(0)), Next::Idle);
    let status = queue.status(Class::Demand);
    assert_eq!((status.running, status.waiting), (3, 7));
}

/// Classes below demand have a limit of their own, all together.
pub fn background_leaves_room_for_demand<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(SchedulerLimits {
        running_max: 5,
        background_running_max: 2,
        ..limits()
    });
    let background = [Class::Bundle, Class::Preseed, Class::Rest].map(|class| submit(&mut queue, class, 0));
    assert_eq!(started(&mut queue, at(0)), background[..2]);
    let demand: Vec<_> = (0..4)
        .map(|deadline| submit(&mut queue, Class::Demand, deadline))
        .collect();
    assert_eq!(started(&mut queue, at(0)), demand[..3]);
    queue.finished(at(0), background[0], Outcome::Done);
    assert_eq!(started(&mut queue, at(0)), [demand[3]], "demand goes before background");
    queue.finished(at(0), demand[0], Outcome::Done);
    assert_eq!(started(&mut queue, at(0)), [background[2]]);
}

/// A class that has reached its own limit waits, and those below it start.
pub fn a_class_at_its_own_limit_holds_nobody_back<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut class_running_max = [usize::MAX; Class::ALL.len()];
    class_running_max[Class::Preseed.index()] = 1;
    let mut queue = make(SchedulerLimits {
        class_running_max,
        ..limits()
    });
    let [first, second] = [0, 1].map(|deadline| submit(&mut queue, Class::Preseed, deadline));
    let rest = submit(&mut queue, Class::Rest, 0);
    assert_eq!(started(&mut queue, at(0)), [first, rest]);
    queue.finished(at(0), first, Outcome::Done);
    assert_eq!(started(&mut queue, at(0)), [second]);
}

/// As long as something more urgent runs, and no longer. What only waits makes nobody yield.
pub fn what_is_less_urgent_yields_while_something_runs<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(limits());
    let preseed = submit(&mut queue, Class::Preseed, 0);
    assert!(Class::ALL.iter().all(|class| !queue.must_yield(*class)));
    assert_eq!(started(&mut queue, at(0)), [preseed]);
    let yielding: Vec<_> = Class::ALL
        .into_iter()
        .filter(|class| queue.must_yield(*class))
        .collect();
    assert_eq!(yielding, [Class::Suggested, Class::Popular, Class::Rest]);
    let demand = submit(&mut queue, Class::Demand, 0);
    assert!(!queue.must_yield(Class::Preseed));
    assert_eq!(started(&mut queue, at(0)), [demand]);
    assert!(queue.must_yield(Class::Preseed) && !queue.must_yield(Class::Demand));
    assert!(queue.finished(at(0), demand, Outcome::Retry));
    assert!(!queue.must_yield(Class::Preseed), "it pauses");
    assert!(!queue.finished(at(0), preseed, Outcome::Done));
    assert!(Class::ALL.iter().all(|class| !queue.must_yield(*class)));
}

/// A higher limit lets more start at once; under a lower one what runs goes on.
pub fn limits_can_change_at_any_time<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let with = |background_running_max| SchedulerLimits {
        background_running_max,
        ..limits()
    };
    let mut queue = make(with(1));
    let tickets: Vec<_> = (0..4)
        .map(|deadline| submit(&mut queue, Class::Rest, deadline))
        .collect();
    assert_eq!(started(&mut queue, at(0)), tickets[..1]);
    queue.set_limits(with(3));
    assert_eq!(started(&mut queue, at(0)), tickets[1..3]);
    queue.set_limits(with(1));
    queue.finished(at(0), tickets[0], Outcome::Done);
    assert_eq!(queue.next(at(0)), Next::Idle);
    assert_eq!(queue.status(Class::Rest).running, 2);
    queue.finished(at(0), tickets[1], Outcome::Done);
    queue.finished(at(0), tickets[2], Outcome::Done);
    assert_eq!(started(&mut queue, at(0)), tickets[3..]);
}

/// A finished request makes room, however it ended.
pub fn a_place_that_becomes_free_is_used<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(SchedulerLimits {
        running_max: 1,
        ..limits()
    });
    let tickets: Vec<_> = (0..3)
        .map(|deadline| submit(&mut queue, Class::Demand, deadline))
        .collect();
    for (ticket, outcome) in tickets.iter().zip([Outcome::Retry, Outcome::Failed, Outcome::Done]) {
        assert_eq!(started(&mut queue, at(0)), [*ticket]);
        queue.finished(at(0), *ticket, outcome);
    }
    assert_eq!(started(&mut queue, at(1000)), [tickets[0]]);
}

/// The numbers of a status page are right at every step.
pub fn the_status_counts_what_waits_and_runs<S: Scheduler>(make: &dyn Fn(SchedulerLimits) -> S) {
    let mut queue = make(SchedulerLimits {
        running_max: 2,
        ..limits()
    });
    let tickets: Vec<_> = (0..4)
        .map(|deadline| submit(&mut queue, Class::Demand, deadline))
        .collect();
    submit(&mut queue, Class::Rest, 0);
    let status = |queue: &S| {
        let status = queue.status(Class::Demand);
        (status.waiting, status.running, status.waiting_bytes)
    };
    assert_eq!(status(&queue), (4, 0, 40));
    started(&mut queue, at(0));
    assert_eq!(status(&queue), (2, 2, 20));
    queue.finished(at(0), tickets[0], Outcome::Retry);
    assert_eq!(status(&queue), (3, 1, 30));
    queue.cancel(tickets[3]);
    assert_eq!(status(&queue), (2, 1, 20));
    queue.finished(at(0), tickets[1], Outcome::Done);
    assert_eq!(status(&queue), (2, 0, 20));
    assert_eq!(queue.status(Class::Rest).waiting, 1);
}
