//! The trait of schedulers: what to fetch next. Pure: time comes in as an argument.

use std::fmt::Debug;

use crate::scheduler::SchedulerLimits;
use crate::{Moment, ObjectId, RepoName};

/// Why something is fetched, most urgent first. A class is served only when every one above it is empty
/// or held back by its own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A client waits for it.
    Demand,
    /// Repository metadata with what it names.
    Bundle,
    /// A pre-seed rule of the operator.
    Preseed,
    /// Advice of the master or tracker.
    Suggested,
    /// What others read much.
    Popular,
    /// Everything else.
    Rest,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 6] = [
        Self::Demand,
        Self::Bundle,
        Self::Preseed,
        Self::Suggested,
        Self::Popular,
        Self::Rest,
    ];

    /// Its place in [`ALL`](Self::ALL).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As configurations, logs and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Bundle => "bundle",
            Self::Preseed => "preseed",
            Self::Suggested => "suggested",
            Self::Popular => "popular",
            Self::Rest => "rest",
        }
    }

    /// Whether nobody waits for it.
    #[must_use]
    pub const fn is_background(self) -> bool {
        !matches!(self, Self::Demand)
    }
}

/// Names one submitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One object to be fetched, or many small ones in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The repository to fetch it from.
    pub repository: RepoName,
    /// The object; of many the first.
    pub object: ObjectId,
    /// How many objects it is.
    pub objects: usize,
    /// Bytes of all of them.
    pub size: u64,
    /// How urgent it is.
    pub class: Class,
    /// Inside a class, the lowest rank goes first: the number of a pre-seed rule, for instance.
    pub rank: u32,
    /// Inside a rank, the earliest deadline goes first.
    pub deadline: Moment,
}

/// What the driver has to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Start this request; tell [`Scheduler::finished`] how it went.
    Start(Ticket, Request),
    /// Nothing before this moment (a retry waits).
    WaitUntil(Moment),
    /// Nothing until something is submitted or finished.
    Idle,
}

/// How a started request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is here.
    Done,
    /// Try again later; the scheduler decides when, or that it was tried often enough.
    Retry,
    /// Trying again will not help.
    Failed,
}

/// Requests of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Objects waiting, retries included.
    pub waiting: usize,
    /// Objects started and not finished.
    pub running: usize,
    /// Bytes of those waiting.
    pub waiting_bytes: u64,
}

/// Decides what is fetched next. Not a task and not a thread: the driver asks, and tells what happened.
///
/// Guarantees: a request that was submitted is started, or cancelled, or reported as given up, exactly
/// once at a time; no class overtakes a more urgent one that could start.
pub trait Scheduler: Debug + Send {
    /// Adds a request.
    fn submit(&mut self, now: Moment, request: Request) -> Ticket;

    /// Makes a waiting request at least as urgent as this. No effect on one that runs or is gone.
    fn raise(&mut self, ticket: Ticket, class: Class, deadline: Moment);

    /// Withdraws a request; returns whether it was waiting. One that runs is the driver's to stop.
    fn cancel(&mut self, ticket: Ticket) -> bool;

    /// What to do now. Call again until it no longer says [`Next::Start`].
    fn next(&mut self, now: Moment) -> Next;

    /// Reports how a started request ended. Returns whether it will be tried again.
    fn finished(&mut self, now: Moment, ticket: Ticket, outcome: Outcome) -> bool;

    /// Whether what runs in this class has to hold still now, because something of a more urgent class runs. The driver
    /// reads no more from its transfers until that is over.
    fn must_yield(&self, class: Class) -> bool;

    /// Replaces the limits. What runs already goes on, also beyond a lower limit.
    fn set_limits(&mut self, limits: SchedulerLimits);

    /// What waits and runs in a class.
    fn status(&self, class: Class) -> QueueStatus;
}
