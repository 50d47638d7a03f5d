//! How much a fetch engine may do at a time.

use instantmirror_core::scheduler::SchedulerLimits;
use instantmirror_core::traits::Class;

/// Limits of a [`FetchEngine`](super::FetchEngine); all of them can be changed while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchLimits {
    /// What runs at a time, and how often it is tried.
    pub scheduler: SchedulerLimits,
    /// Most bytes per second from all sources together.
    pub rate: Option<u64>,
    /// Most bytes per second for all that nobody waits for.
    pub background_rate: Option<u64>,
    /// Most bytes per second of each class, by [`Class::index`].
    pub class_rates: [Option<u64>; Class::ALL.len()],
    /// Most bytes per second from one source.
    pub source_rate: Option<u64>,
    /// Most transfers at a time from one source, at least 2: a quarter of them, and at least one, is kept for what
    /// clients wait for.
    pub source_running_max: Option<usize>,
    /// Objects up to this size are fetched many in one request, at most [`BATCHED_OBJECT_BYTES_MAX`].
    ///
    /// [`BATCHED_OBJECT_BYTES_MAX`]: super::BATCHED_OBJECT_BYTES_MAX
    pub batched_bytes_max: Option<u64>,
    /// What nobody waits for asks for no more at a time than fits on the line to its source
    /// ([`SpareWindow`](instantmirror_core::spare::SpareWindow)).
    pub yields: bool,
    /// Labels of sources that are asked before all others, the first one first, as long as they work.
    pub preferred: Vec<String>,
}
