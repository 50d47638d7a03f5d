//! [`LineScheduler`]: all requests in one line, of which the most urgent that may start is looked for each time.

use instantmirror::core::Moment;
use instantmirror::core::scheduler::SchedulerLimits;
use instantmirror::core::traits::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket};

/// A scheduler for some hundred requests.
#[derive(Debug, Default)]
pub struct LineScheduler {
    limits: SchedulerLimits,
    last_ticket: u64,
    line: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    request: Request,
    tries: u32,
    not_before: Option<Moment>,
    is_running: bool,
}

impl LineScheduler {
    /// An empty line.
    pub fn new(limits: SchedulerLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    fn running(&self, of: impl Fn(Class) -> bool) -> usize {
        self.line
            .iter()
            .filter(|entry| entry.is_running && of(entry.request.class))
            .count()
    }

    /// The place in the line of the next to start.
    fn first(&self, now: Moment) -> Option<usize> {
        for class in Class::ALL {
            let is_ready = |entry: &Entry| {
                let is_due = entry.not_before.is_none_or(|until| until <= now);
                entry.request.class == class && !entry.is_running && is_due
            };
            let ready = self.line.iter().enumerate().filter(|(_, entry)| is_ready(entry));
            let turn = |entry: &Entry| (entry.request.rank, entry.request.deadline, entry.ticket);
            let Some((at, _)) = ready.min_by_key(|(_, entry)| turn(entry)) else {
                continue;
            };
            if self.running(|other| other == class) >= self.limits.class_running_max[class.index()] {
                continue;
            }
            let has_place = self.running(|_| true) < self.limits.running_max;
            let background = self.running(Class::is_background);
            let may = has_place && (!class.is_background() || background < self.limits.background_running_max);
            return may.then_some(at);
        }
        None
    }
}

impl Scheduler for LineScheduler {
    fn submit(&mut self, _now: Moment, request: Request) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.line.push(Entry {
            ticket,
            request,
            tries: 0,
            not_before: None,
            is_running: false,
        });
        ticket
    }

    fn raise(&mut self, ticket: Ticket, class: Class, deadline: Moment) {
        let Some(entry) = self.line.iter_mut().find(|entry| entry.ticket == ticket) else {
            return;
        };
        if class < entry.request.class {
            entry.request.class = class;
            entry.request.rank = if entry.is_running { entry.request.rank } else { 0 };
        }
        if !entry.is_running {
            entry.request.deadline = entry.request.deadline.min(deadline);
        }
    }

    fn cancel(&mut self, ticket: Ticket) -> bool {
        let before = self.line.len();
        self.line.retain(|entry| entry.ticket != ticket || entry.is_running);
        self.line.len() < before
    }

    fn next(&mut self, now: Moment) -> Next {
        if let Some(entry) = self.first(now).and_then(|at| self.line.get_mut(at)) {
            (entry.is_running, entry.not_before) = (true, None);
            entry.tries += 1;
            return Next::Start(entry.ticket, entry.request.clone());
        }
        let pauses = self.line.iter().filter_map(|entry| entry.not_before);
        pauses
            .filter(|until| *until > now)
            .min()
            .map_or(Next::Idle, Next::WaitUntil)
    }

    fn finished(&mut self, now: Moment, ticket: Ticket, outcome: Outcome) -> bool {
        let is_it = |entry: &Entry| entry.ticket == ticket && entry.is_running;
        let Some(at) = self.line.iter().position(is_it) else {
            return false;
        };
        let tries = self.line[at].tries;
        if outcome != Outcome::Retry || tries >= self.limits.tries_max {
            self.line.remove(at);
            return false;
        }
        let pause = self.limits.retry_pause.saturating_mul(1 << (tries - 1).min(20));
        let entry = &mut self.line[at];
        entry.is_running = false;
        entry.not_before = Some(now.plus(pause.min(self.limits.retry_pause_max)));
        true
    }

    fn must_yield(&self, class: Class) -> bool {
        self.running(|other| other < class) > 0
    }

    fn set_limits(&mut self, limits: SchedulerLimits) {
        self.limits = limits;
    }

    fn status(&self, class: Class) -> QueueStatus {
        let mut status = QueueStatus::default();
        for entry in self.line.iter().filter(|entry| entry.request.class == class) {
            if entry.is_running {
                status.running += entry.request.objects;
            } else {
                status.waiting += entry.request.objects;
                status.waiting_bytes += entry.request.size;
            }
        }
        status
    }
}
