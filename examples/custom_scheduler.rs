//! A scheduler of one's own in a fetch engine: it decides as core's does and tells what it decided. Any `Scheduler` will do;
//! core's conformance suite says whether one keeps what the trait promises.
//!
//! ```text
//! cargo run --example custom_scheduler
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use instantmirror::core::memory::{MemoryCache, MemoryTransport};
use instantmirror::core::preseed::Step;
use instantmirror::core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror::core::traits::{Class, Next, Outcome, QueueStatus, Request, Scheduler, Ticket, Transport};
use instantmirror::core::{FileMeta, Moment, RepoName};
use instantmirror::swarm::FetchEngine;

#[derive(Debug)]
struct Told(PriorityScheduler);

impl Scheduler for Told {
    fn submit(&mut self, now: Moment, request: Request) -> Ticket {
        println!("submitted: {} of {} bytes", request.class.name(), request.size);
        self.0.submit(now, request)
    }
    fn next(&mut self, now: Moment) -> Next {
        let next = self.0.next(now);
        if let Next::Start(_, request) = &next {
            println!("started: {}", request.class.name());
        }
        next
    }
    fn finished(&mut self, now: Moment, ticket: Ticket, outcome: Outcome) -> bool {
        println!("finished: {outcome:?}");
        self.0.finished(now, ticket, outcome)
    }
    fn raise(&mut self, ticket: Ticket, class: Class, deadline: Moment) {
        self.0.raise(ticket, class, deadline);
    }
    fn cancel(&mut self, ticket: Ticket) -> bool {
        self.0.cancel(ticket)
    }
    fn must_yield(&self, class: Class) -> bool {
        self.0.must_yield(class)
    }
    fn set_limits(&mut self, limits: SchedulerLimits) {
        self.0.set_limits(limits);
    }
    fn status(&self, class: Class) -> QueueStatus {
        self.0.status(class)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (repository, mut master): (RepoName, _) = ("debian".parse()?, MemoryTransport::new());
    let object = master.insert("content");
    let file = FileMeta::new(object, 7);
    let sources = BTreeMap::from([(repository.clone(), vec![Transport::origin(master)])]);
    let scheduler = Told(PriorityScheduler::new(SchedulerLimits::default()));
    let engine = FetchEngine::new(Arc::new(MemoryCache::new(None)), sources, Box::new(scheduler));
    engine.fetch(&repository, &file, Step::of(Class::Bundle)).await?;
    // The object is here a moment before the scheduler hears of it.
    while !engine.transfers().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("here: {}", engine.holds(&file).await?);
    Ok(())
}
