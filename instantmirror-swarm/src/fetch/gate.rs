//! Strict preemption: while something urgent runs, what is less urgent reads no more from its transfers. Their other side
//! then stops sending, as TCP has it, and the urgent one has the link for itself.

use std::pin::pin;

use instantmirror_core::traits::{Class, Scheduler};
use tokio::sync::watch;

/// Tells transfers when to hold still.
#[derive(Debug)]
pub(super) struct Gate {
    /// Place of the most urgent class that runs.
    urgent: watch::Sender<usize>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            urgent: watch::Sender::new(Class::Rest.index()),
        }
    }

    /// Looks at what runs now. To be called whenever that may have changed.
    pub(super) fn update(&self, scheduler: &dyn Scheduler) {
        let first_to_yield = Class::ALL.iter().position(|class| scheduler.must_yield(*class));
        let urgent = first_to_yield.map_or(Class::Rest.index(), |place| place.saturating_sub(1));
        self.urgent
            .send_if_modified(|held| std::mem::replace(held, urgent) != urgent);
    }

    /// Whether nothing more urgent runs.
    pub(super) fn is_open(&self, class: Class) -> bool {
        *self.urgent.borrow() >= class.index()
    }

    /// Waits until nothing more urgent runs.
    pub(super) async fn pass(&self, class: Class) {
        if !self.is_open(class) {
            // The sender lives in self.
            let _ = self
                .urgent
                .subscribe()
                .wait_for(|urgent| *urgent >= class.index())
                .await;
        }
    }

    /// Says whether transfers had to hold still since it was asked last, or have to now.
    pub(super) fn holds(&self) -> Holds {
        Holds(self.urgent.subscribe())
    }

    async fn closed(&self, class: Class) {
        let _ = self.urgent.subscribe().wait_for(|urgent| *urgent < class.index()).await;
    }

    /// Drives `work` whenever nothing more urgent runs.
    pub(super) async fn drive<T>(&self, class: Class, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.pass(class).await;
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.closed(class) => {}
            }
        }
    }
}

/// Knows when transfers held still.
#[derive(Debug)]
pub(super) struct Holds(watch::Receiver<usize>);

impl Holds {
    pub(super) fn were_there(&mut self) -> bool {
        // Without a gate nothing is held.
        let has_changed = self.0.has_changed().unwrap_or(false);
        *self.0.borrow_and_update() < Class::Rest.index() || has_changed
    }
}

#[cfg(test)]
mod tests {
    use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
    use instantmirror_core::traits::{Next, Outcome, Request};
    use instantmirror_core::{Moment, ObjectId};

    use super::*;

    fn request(class: Class) -> Request {
        Request {
            repository: "r".parse().unwrap(),
            object: ObjectId::of(b""),
            objects: 1,
            size: 1,
            class,
            rank: 0,
            deadline: Moment::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_less_urgent_stands_still_while_something_urgent_runs() {
        let (gate, mut queue) = (Gate::new(), PriorityScheduler::new(SchedulerLimits::default()));
        let steps = std::cell::Cell::new(0);
        let work = async {
            for step in 0..3 {
                steps.set(step);
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        };
        let driven = gate.drive(Class::Preseed, work);
        let other = async {
            let pause = || tokio::time::sleep(std::time::Duration::from_millis(1500));
            pause().await;
            assert_eq!(steps.get(), 1);
            queue.submit(Moment::default(), request(Class::Demand));
            let Next::Start(ticket, _) = queue.next(Moment::default()) else {
                panic!("it starts")
            };
            gate.update(&queue);
            for _ in 0..10 {
                pause().await;
            }
            assert_eq!(steps.get(), 1);
            gate.pass(Class::Demand).await;
            queue.finished(Moment::default(), ticket, Outcome::Done);
            gate.update(&queue);
            pause().await;
            assert_eq!(steps.get(), 2);
        };
        tokio::join!(driven, other);
    }
}
