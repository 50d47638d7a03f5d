//! The scheduler that the daemons use: strict classes, earliest deadline first, limited concurrency per
//! class, retries with growing, jittered pauses. Pure; see [`Scheduler`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Moment;
use crate::traits::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket};

/// Limits of a [`PriorityScheduler`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most requests running at a time, all classes together.
    pub running_max: usize,
    /// Of those, how many may be of classes below demand, so that demand always finds a free place.
    pub background_running_max: usize,
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

/// A priority queue with strict preemption between classes.
#[derive(Debug, Default)]
pub struct PriorityScheduler {
    limits: SchedulerLimits,
    last_ticket: u64,
    /// Everything that waits.
    waiting: BTreeMap<Ticket, Waiting>,
    /// Those that may start now, in order.
    ready: BTreeSet<(Class, Moment, Ticket)>,
    /// Those that pause, by the end of the pause.
    paused: BTreeSet<(Moment, Ticket)>,
    running: BTreeMap<Ticket, (Request, u32)>,
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
                self.ready
                    .insert((waiting.request.class, waiting.request.deadline, ticket));
            }
        }
    }

    fn may_start(&self, class: Class) -> bool {
        let background = self
            .running
            .values()
            .filter(|(request, _)| request.class > Class::Demand)
            .count();
        self.running.len() < self.limits.running_max
            && (class == Class::Demand || background < self.limits.background_running_max)
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
        self.ready.insert((request.class, request.deadline, ticket));
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
        let Some(waiting) = self.waiting.get_mut(&ticket) else {
            return;
        };
        let old = (waiting.request.class, waiting.request.deadline, ticket);
        let new = (class.min(old.0), deadline.min(old.1), ticket);
        (waiting.request.class, waiting.request.deadline) = (new.0, new.1);
        if self.ready.remove(&old) {
            self.ready.insert(new);
        }
    }

    fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            return false;
        };
        match waiting.not_before {
            Some(until) => self.paused.remove(&(until, ticket)),
            None => self
                .ready
                .remove(&(waiting.request.class, waiting.request.deadline, ticket)),
        }
    }

    fn next(&mut self, now: Moment) -> Next {
        self.wake_paused(now);
        if let Some(&(class, _, ticket)) = self.ready.first()
            && self.may_start(class)
        {
            self.ready.pop_first();
            if let Some(waiting) = self.waiting.remove(&ticket) {
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

    fn status(&self, class: Class) -> QueueStatus {
        let waiting = self.waiting.values().filter(|waiting| waiting.request.class == class);
        QueueStatus {
            waiting: waiting.clone().count(),
            running: self
                .running
                .values()
                .filter(|(request, _)| request.class == class)
                .count(),
            waiting_bytes: waiting.map(|waiting| waiting.request.size).sum(),
        }
    }
}
