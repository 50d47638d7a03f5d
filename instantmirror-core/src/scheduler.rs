//! The scheduler that the daemons use: strict classes, inside them rank and then the earliest deadline first, limited
//! concurrency per class, retries with growing, jittered pauses. Pure; see [`Scheduler`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Moment;
use crate::traits::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket};

/// Limits of a [`PriorityScheduler`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchedulerLimits {
    /// Most requests running at a time, all classes together.
    pub running_max: usize,
    /// Of those, how many may be of classes below demand, so that demand always finds a free place.
    pub background_running_max: usize,
    /// Most requests of one class running at a time, by [`Class::index`].
    pub class_running_max: [usize; Class::ALL.len()],
    /// Most tries for one request, the first included.
    pub tries_max: u32,
    /// Pause before the first retry; doubles each time.
    pub retry_pause: Duration,
    /// Longest pause.
    pub retry_pause_max: Duration,
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        Self {
            running_max: 256,
            background_running_max: 16,
            class_running_max: [usize::MAX; Class::ALL.len()],
            tries_max: 3,
            retry_pause: Duration::from_millis(100),
            retry_pause_max: Duration::from_secs(60),
        }
    }
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    tries: u32,
    /// Set while it waits for a retry.
    not_before: Option<Moment>,
}

/// The order in which requests start.
type Turn = (Class, u32, Moment, Ticket);

fn turn(ticket: Ticket, request: &Request) -> Turn {
    (request.class, request.rank, request.deadline, ticket)
}

/// A priority queue with strict preemption between classes.
#[derive(Debug, Default)]
pub struct PriorityScheduler {
    limits: SchedulerLimits,
    last_ticket: u64,
    /// Everything that waits.
    waiting: BTreeMap<Ticket, Waiting>,
    /// Those that may start now, in order.
    ready: BTreeSet<Turn>,
    /// Those that pause, by the end of the pause.
    paused: BTreeSet<(Moment, Ticket)>,
    running: BTreeMap<Ticket, (Request, u32)>,
    /// Requests running, by class.
    running_of: [usize; Class::ALL.len()],
}

impl PriorityScheduler {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: SchedulerLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    fn wake_paused(&mut self, now: Moment) {
        while let Some(&(until, ticket)) = self.paused.first()
            && until <= now
        {
            self.paused.pop_first();
            if let Some(waiting) = self.waiting.get_mut(&ticket) {
                waiting.not_before = None;
                self.ready.insert(turn(ticket, &waiting.request));
            }
        }
    }

    /// The next to start: the first of the most urgent class that its own limit does not hold back. Where the limits
    /// for all hold that class back, no other overtakes it.
    fn next_turn(&self) -> Option<Turn> {
        for class in Class::ALL {
            let first = (class, 0, Moment::default(), Ticket(0));
            let Some(turn) = self.ready.range(first..).next().filter(|turn| turn.0 == class) else {
                continue;
            };
            if self.running_of[class.index()] >= self.limits.class_running_max[class.index()] {
                continue;
            }
            let background = self.running.len() - self.running_of[Class::Demand.index()];
            let has_place = self.running.len() < self.limits.running_max
                && (!class.is_background() || background < self.limits.background_running_max);
            return has_place.then_some(*turn);
        }
        None
    }

    /// Doubling pauses with a jitter of a quarter, derived from ticket and try.
    fn pause(&self, ticket: Ticket, tries: u32) -> Duration {
        let doubled = self.limits.retry_pause.saturating_mul(1 << (tries - 1).min(20));
        let pause = doubled.min(self.limits.retry_pause_max);
        let seed = (ticket.0 ^ u64::from(tries) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        pause.mul_f64(0.75 + (seed >> 40) as f64 / (1 << 24) as f64 / 2.0)
    }
}

impl Scheduler for PriorityScheduler {
    fn submit(&mut self, _now: Moment, request: Request) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.ready.insert(turn(ticket, &request));
        self.waiting.insert(
            ticket,
            Waiting {
                request,
                tries: 0,
                not_before: None,
            },
        );
        ticket
    }

    fn raise(&mut self, ticket: Ticket, class: Class, deadline: Moment) {
        if let Some((request, _)) = self.running.get_mut(&ticket) {
            // What runs does not start again, but it need not yield any more to what is less urgent.
            if class < request.class {
                self.running_of[request.class.index()] -= 1;
                request.class = class;
                self.running_of[class.index()] += 1;
            }
            return;
        }
        let Some(waiting) = self.waiting.get_mut(&ticket) else {
            return;
        };
        let old = turn(ticket, &waiting.request);
        if class < waiting.request.class {
            (waiting.request.class, waiting.request.rank) = (class, 0);
        }
        waiting.request.deadline = deadline.min(waiting.request.deadline);
        if self.ready.remove(&old) {
            self.ready.insert(turn(ticket, &waiting.request));
        }
    }

    fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            return false;
        };
        match waiting.not_before {
            Some(until) => self.paused.remove(&(until, ticket)),
            None => self.ready.remove(&turn(ticket, &waiting.request)),
        }
    }

    fn next(&mut self, now: Moment) -> Next {
        self.wake_paused(now);
        if let Some(turn) = self.next_turn() {
            let (class, .., ticket) = turn;
            self.ready.remove(&turn);
            if let Some(waiting) = self.waiting.remove(&ticket) {
                self.running_of[class.index()] += 1;
                self.running
                    .insert(ticket, (waiting.request.clone(), waiting.tries + 1));
                return Next::Start(ticket, waiting.request);
            }
        }
        self.paused
            .first()
            .map_or(Next::Idle, |&(until, _)| Next::WaitUntil(until))
    }

    fn finished(&mut self, now: Moment, ticket: Ticket, outcome: Outcome) -> bool {
        let Some((request, tries)) = self.running.remove(&ticket) else {
            return false;
        };
        self.running_of[request.class.index()] -= 1;
        if outcome != Outcome::Retry || tries >= self.limits.tries_max {
            return false;
        }
        let until = now.plus(self.pause(ticket, tries));
        self.paused.insert((until, ticket));
        self.waiting.insert(
            ticket,
            Waiting {
                request,
                tries,
                not_before: Some(until),
            },
        );
        true
    }

    fn must_yield(&self, class: Class) -> bool {
        self.running_of.iter().take(class.index()).any(|running| *running > 0)
    }

    fn set_limits(&mut self, limits: SchedulerLimits) {
        self.limits = limits;
    }

    fn status(&self, class: Class) -> QueueStatus {
        let waiting = self.waiting.values().filter(|waiting| waiting.request.class == class);
        let running = self.running.values().filter(|(request, _)| request.class == class);
        QueueStatus {
            waiting: waiting.clone().map(|waiting| waiting.request.objects).sum(),
            running: running.map(|(request, _)| request.objects).sum(),
            waiting_bytes: waiting.map(|waiting| waiting.request.size).sum(),
        }
    }
}
