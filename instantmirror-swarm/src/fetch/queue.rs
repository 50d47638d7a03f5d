//! Drives core's scheduler in real time: hands out the right to start, wakes up for retries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use instantmirror_core::Moment;
use instantmirror_core::scheduler::SchedulerLimits;
use instantmirror_core::traits::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::gate::Gate;
use super::lock;

/// The scheduler with those who wait for their turn.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    gate: Gate,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    scheduler: Box<dyn Scheduler>,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    /// The earliest wake-up that is already arranged.
    alarm: Option<Moment>,
}

/// A request's place in the queue; dropping it withdraws the request, or frees its slot.
#[derive(Debug)]
pub(super) struct Place {
    queue: Queue,
    ticket: Ticket,
    turn: oneshot::Receiver<()>,
    over: bool,
}

impl Queue {
    pub(super) fn new(scheduler: Box<dyn Scheduler>) -> Self {
        let state = Mutex::new(State {
            scheduler,
            waiting: HashMap::new(),
            alarm: None,
        });
        Self(Arc::new(Inner {
            start: Instant::now(),
            gate: Gate::new(),
            state,
        }))
    }

    pub(super) fn now(&self) -> Moment {
        Moment(self.0.start.elapsed())
    }

    /// Holds back what is less urgent than what runs.
    pub(super) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    pub(super) fn set_limits(&self, limits: SchedulerLimits) {
        lock(&self.0.state).scheduler.set_limits(limits);
        self.pump();
    }

    pub(super) fn status(&self, class: Class) -> QueueStatus {
        lock(&self.0.state).scheduler.status(class)
    }

    pub(super) fn submit(&self, request: Request) -> Place {
        let (sender, turn) = oneshot::channel();
        let ticket = {
            let mut state = lock(&self.0.state);
            let ticket = state.scheduler.submit(self.now(), request);
            state.waiting.insert(ticket, sender);
            ticket
        };
        self.pump();
        Place {
            queue: self.clone(),
            ticket,
            turn,
            over: false,
        }
    }

    /// Starts all that may start now, and arranges to be back when the next pause is over.
    fn pump(&self) {
        let mut state = lock(&self.0.state);
        let now = self.now();
        let wake_at = Self::start_all(&mut state, now);
        self.0.gate.update(state.scheduler.as_ref());
        if let Some(moment) = wake_at.filter(|moment| state.alarm.is_none_or(|alarm| *moment < alarm)) {
            state.alarm = Some(moment);
            self.wake_after(moment.since(now));
        }
    }

    /// Returns when to come back.
    fn start_all(state: &mut State, now: Moment) -> Option<Moment> {
        loop {
            match state.scheduler.next(now) {
                Next::Start(ticket, _) => {
                    // One that has just gone away frees its slot when its place is dropped.
                    if let Some(sender) = state.waiting.remove(&ticket) {
                        let _ = sender.send(());
                    }
                }
                Next::Idle => return None,
                Next::WaitUntil(moment) => return Some(moment),
            }
        }
    }

    fn wake_after(&self, pause: Duration) {
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            lock(&queue.0.state).alarm = None;
            queue.pump();
        });
    }
}

impl Place {
    /// Waits for the turn.
    pub(super) async fn turn(&mut self) {
        // The sender lives in the queue until it is used.
        let _ = (&mut self.turn).await;
    }

    /// Makes it at least as urgent as this, if it still waits.
    pub(super) fn raise(&self, class: Class) {
        let now = self.queue.now();
        lock(&self.queue.0.state).scheduler.raise(self.ticket, class, now);
        self.queue.pump();
    }

    /// Reports how it went. Returns whether there will be another [`turn`](Self::turn).
    pub(super) fn finished(&mut self, outcome: Outcome) -> bool {
        let again = {
            let mut state = lock(&self.queue.0.state);
            let again = state.scheduler.finished(self.queue.now(), self.ticket, outcome);
            if again {
                let (sender, turn) = oneshot::channel();
                self.turn = turn;
                state.waiting.insert(self.ticket, sender);
            }
            again
        };
        self.over = !again;
        self.queue.pump();
        again
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        {
            let mut state = lock(&self.queue.0.state);
            state.waiting.remove(&self.ticket);
            if !state.scheduler.cancel(self.ticket) {
                state.scheduler.finished(self.queue.now(), self.ticket, Outcome::Failed);
            }
        }
        self.queue.pump();
    }
}
