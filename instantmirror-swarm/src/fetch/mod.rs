//! The fetch engine: one fill per object, however many read it; every byte verified before anyone sees it.
//!
//! What is fetched when is decided by core's [`Scheduler`], which bytes of an object by core's
//! [`FillPlan`](instantmirror_core::fill::FillPlan). The engine starts the transfers, hands what arrives to
//! the cache (which verifies it) and wakes readers. It never trusts a source and never holds more of an
//! object in memory than the part that is arriving. An object that the cache has no room for is streamed past
//! it, to each reader by itself.

mod ahead;
mod batch;
mod fill;
mod flight;
mod from_swarm;
mod gate;
mod limits;
mod passing;
mod queue;
mod reader;
mod sources;
mod spare;
mod stats;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use instantmirror_core::entry::FileMeta;
use instantmirror_core::log_limited;
use instantmirror_core::preseed::Step;
use instantmirror_core::reader::{EmptyReader, HandleReader};
use instantmirror_core::rules::PathGlobs;
use instantmirror_core::traits::{
    Class, FetchError, ObjectCache, ObjectReader, ObjectSource, ReadIntent, Scheduler, Transport, TransportError,
};
use instantmirror_core::{ObjectId, RepoName};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use ahead::ReadsAhead;
pub use batch::{BATCH_BYTES_MAX, BATCHED_OBJECT_BYTES_MAX, BatchDone};
use fill::Fill;
pub use limits::FetchLimits;
use queue::Queue;
use reader::FillReader;
use sources::Sources;
pub use stats::{FetchStats, Transfer};

/// Most objects that are remembered as logged; then all are forgotten, and may be logged again.
const PASSED_BY_MAX: usize = 4096;

/// Brings objects from [`Transport`]s into an [`ObjectCache`] and to readers. Cheap to clone. Must be
/// used inside a tokio runtime; dropping the last clone stops nothing that a reader still waits for.
#[derive(Debug, Clone)]
pub struct FetchEngine(Arc<Engine>);

#[derive(Debug)]
struct Engine {
    cache: Arc<dyn ObjectCache>,
    transports: BTreeMap<RepoName, Vec<Transport>>,
    queue: Queue,
    sources: Sources,
    ahead: ReadsAhead,
    /// What nobody waits for is written by one thread at a time: more of them only wait for each other, in the directory
    /// where files are made and for the disk, and for as long a client's has to wait too.
    writing: Arc<Semaphore>,
    /// Small objects that wait for that.
    puts: batch::Puts,
    /// Where what nobody waits for runs, if not where it was asked for.
    background: OnceLock<Handle>,
    /// By object and size: repositories may disagree about a size, and only one of them is right.
    fills: Mutex<HashMap<(ObjectId, u64), Arc<Fill>>>,
    stats: stats::Counters,
    /// Objects of which the log says already that they are streamed past the cache.
    passed_by: Mutex<HashSet<ObjectId>>,
    /// Paths whose objects are.
    never_kept: Mutex<Arc<PathGlobs>>,
}

/// A panic while a lock is held leaves plain data that is still whole: carry on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FetchEngine {
    /// An engine that fetches each repository from its sources: from the one that should be fastest, and among those of
    /// which nothing is known from the first. The scheduler keeps the limits it was made with until
    /// [`set_limits`](Self::set_limits). A cache whose calls block is given inside
    /// [`Blocking`](instantmirror_core::traits::blocking::Blocking).
    pub fn new(
        cache: Arc<dyn ObjectCache>,
        transports: BTreeMap<RepoName, Vec<Transport>>,
        scheduler: Box<dyn Scheduler>,
    ) -> Self {
        let (queue, fills, stats) = (Queue::new(scheduler), Mutex::default(), stats::Counters::default());
        Self(Arc::new(Engine {
            cache,
            transports,
            queue,
            sources: Sources::new(FetchLimits::default()),
            ahead: ReadsAhead::default(),
            writing: Arc::new(Semaphore::new(1)),
            puts: batch::Puts::default(),
            background: OnceLock::new(),
            fills,
            stats,
            passed_by: Mutex::default(),
            never_kept: Mutex::default(),
        }))
    }

    /// From now on objects that are read under these paths are streamed past the cache to each reader by itself,
    /// unless the cache holds them already.
    pub fn never_keep(&self, paths: PathGlobs) {
        *lock(&self.0.never_kept) = Arc::new(paths);
    }

    /// From now on what nobody waits for when it is begun runs on this runtime, whose threads may have a lower priority, and which
    /// has to live as long as the engine is used. To be said once, on the runtime of those who wait; whatever calls
    /// [`fetch_batch`](Self::fetch_batch) should run on the other one itself.
    pub fn run_background_on(&self, runtime: Handle) {
        // Said again, it is as it was.
        let _ = self.0.background.set(runtime);
        if let Ok(here) = Handle::try_current() {
            self.0.sources.watch_on(here);
        }
    }

    /// Changes the limits for all that begins from now on; what runs keeps its place.
    pub fn set_limits(&self, limits: FetchLimits) {
        self.0.queue.set_limits(limits.scheduler.clone());
        self.0.sources.set_limits(limits);
    }

    /// What has been done since the start.
    #[must_use]
    pub fn stats(&self) -> FetchStats {
        self.0.stats.snapshot(&self.0.queue, &self.0.sources)
    }

    /// The objects being fetched now.
    #[must_use]
    pub fn transfers(&self) -> Vec<Transfer> {
        lock(&self.0.fills).values().map(|fill| fill.transfer()).collect()
    }

    /// Brings all of an object into the cache, at the urgency of `step`. A client that wants it meanwhile makes it
    /// urgent. Dropping the future withdraws the interest.
    ///
    /// # Errors
    /// [`FetchError`] if it cannot be had, or if the cache has no room for it.
    pub async fn fetch(&self, repository: &RepoName, file: &FileMeta, step: Step) -> Result<(), FetchError> {
        if self.holds(file).await? {
            return Ok(());
        }
        let intent = ReadIntent::of(0..file.size);
        self.0.start_or_join(repository, file, &intent, step)?.kept().await
    }

    /// Brings many small objects into the cache, as many as possible with one request, at the urgency of `step`. Those
    /// that are here already cost nothing. Objects beyond [`batched_bytes_max`](Self::batched_bytes_max) are left out. Dropping the future
    /// ends it; what has come is kept.
    pub async fn fetch_batch(&self, repository: &RepoName, files: &[FileMeta], step: Step) -> BatchDone {
        batch::fetch(&self.0, repository, files, step).await
    }

    /// Largest object that [`fetch_batch`](Self::fetch_batch) takes, in bytes.
    #[must_use]
    pub fn batched_bytes_max(&self) -> u64 {
        self.0.sources.batched_bytes_max()
    }

    /// Bytes of small objects that are worth one request now, at most [`BATCH_BYTES_MAX`]: the faster and the farther the
    /// sources, the more.
    #[must_use]
    pub fn batch_bytes(&self, repository: &RepoName) -> u64 {
        self.0.sources.batch_bytes(self.0.sources_of(repository))
    }

    /// Whether all of a file is in the cache.
    ///
    /// # Errors
    /// [`FetchError::Cache`].
    pub async fn holds(&self, file: &FileMeta) -> Result<bool, FetchError> {
        if file.size == 0 {
            return Ok(true);
        }
        match self.0.cache.open(&file.object).await {
            Ok(handle) => Ok(handle.is_some_and(|handle| handle.size() == file.size && handle.is_complete())),
            // The cache has put it aside and said so: it is fetched again.
            Err(instantmirror_core::CacheError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The cache behind it.
    #[must_use]
    pub fn cache(&self) -> &Arc<dyn ObjectCache> {
        &self.0.cache
    }
}

#[async_trait]
impl ObjectSource for FetchEngine {
    async fn open(
        &self,
        repository: &RepoName,
        file: &FileMeta,
        intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        if file.size == 0 {
            return Ok(Arc::new(EmptyReader));
        }
        let engine = &self.0;
        engine.read_ahead(repository, file, &intent);
        // A fill in progress goes first: its readers share one handle and see bytes as they come.
        if let Some(reader) = engine.join(repository, file, &intent) {
            return Ok(Arc::new(reader));
        }
        match engine.cache.open(&file.object).await {
            Ok(Some(handle)) if handle.size() == file.size && handle.present().contains(intent.range.clone()) => {
                engine.stats.hit();
                return Ok(Arc::new(HandleReader::new(handle)));
            }
            Ok(_) => {}
            // The cache has put it aside and said so: it is fetched again.
            Err(instantmirror_core::CacheError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        engine.stats.miss();
        let never_kept = Arc::clone(&lock(&engine.never_kept));
        if intent.path.as_ref().is_some_and(|path| never_kept.matches(path)) {
            return Ok(Arc::new(engine.pass(repository, file, &intent)?));
        }
        Ok(Arc::new(engine.start_or_join(
            repository,
            file,
            &intent,
            Step::of(Class::Demand),
        )?))
    }
}

impl Engine {
    /// Takes note of a transfer that failed.
    fn blame(&self, object: &ObjectId, source: &fill::Source, error: &FetchError) {
        self.stats.blame(object, source.label(), error);
        self.sources.failed(source, error);
    }

    fn sources_of(&self, repository: &RepoName) -> &[Transport] {
        self.transports.get(repository).map_or(&[], Vec::as_slice)
    }

    /// The sources of a repository, of which there has to be one.
    fn some_sources_of(&self, repository: &RepoName, file: &FileMeta) -> Result<&[Transport], FetchError> {
        let sources = self.sources_of(repository);
        if sources.is_empty() {
            let source = TransportError::NotFound {
                from: "no source".to_owned(),
                what: format!("'{repository}'"),
            };
            let source = Arc::new(source);
            return Err(FetchError::Unavailable {
                object: file.object,
                repository: repository.clone(),
                source,
            });
        }
        Ok(sources)
    }

    /// A reader with a transfer of its own, past the cache.
    fn pass(
        self: &Arc<Self>,
        repository: &RepoName,
        file: &FileMeta,
        intent: &ReadIntent,
    ) -> Result<FillReader, FetchError> {
        let sources = self.some_sources_of(repository, file)?;
        let fill = Arc::new(Fill::new(repository.clone(), file.object, file.size, Class::Demand, 0));
        fill.add_sources(repository, sources);
        Ok(FillReader::pass(self, &fill, intent))
    }

    /// Attaches a reader to the fill of this object, if there is one.
    fn join(self: &Arc<Self>, repository: &RepoName, file: &FileMeta, intent: &ReadIntent) -> Option<FillReader> {
        let fills = lock(&self.fills);
        // Attaching under the lock: a fill leaves the table under it, and only without readers.
        fills
            .get(&(file.object, file.size))
            .filter(|fill| fill.accepts_readers())
            .map(|fill| {
                fill.demand();
                // Another repository may have the object where the first one's sources lack it.
                fill.add_sources(repository, self.sources_of(repository));
                FillReader::attach(self, fill, intent)
            })
    }

    fn start_or_join(
        self: &Arc<Self>,
        repository: &RepoName,
        file: &FileMeta,
        intent: &ReadIntent,
        step: Step,
    ) -> Result<FillReader, FetchError> {
        let sources = self.some_sources_of(repository, file)?;
        let mut fills = lock(&self.fills);
        if let Some(fill) = fills
            .get(&(file.object, file.size))
            .filter(|fill| fill.accepts_readers())
        {
            if step.class == Class::Demand {
                fill.demand();
            }
            fill.add_sources(repository, sources);
            return Ok(FillReader::attach(self, fill, intent));
        }
        let Step { class, rank } = step;
        let fill = Arc::new(Fill::new(repository.clone(), file.object, file.size, class, rank));
        fill.add_sources(repository, sources);
        let reader = FillReader::attach(self, &fill, intent);
        fills.insert((file.object, file.size), Arc::clone(&fill));
        let run = fill::run(Arc::clone(self), fill);
        match self.background.get().filter(|_| class.is_background()) {
            Some(runtime) => runtime.spawn(run),
            None => tokio::spawn(run),
        };
        Ok(reader)
    }

    /// Says once of an object that the cache has no room for it.
    fn note_passed_by(&self, object: ObjectId, reason: &FetchError) {
        let mut known = lock(&self.passed_by);
        if known.len() >= PASSED_BY_MAX {
            known.clear();
        }
        if known.insert(object) {
            log_limited!(Instant::now(), info, %object, "streamed past the cache: {reason}");
        }
    }

    /// Takes a fill that has nothing to do and no reader out of the table. Returns whether it did.
    fn retire(&self, fill: &Arc<Fill>) -> bool {
        let mut fills = lock(&self.fills);
        let retired = fill.close_if_unused();
        if retired {
            Self::forget(&mut fills, fill);
        }
        retired
    }

    /// Takes a fill that has ended out of the table: later readers begin anew.
    fn remove(&self, fill: &Arc<Fill>) {
        Self::forget(&mut lock(&self.fills), fill);
    }

    fn forget(fills: &mut HashMap<(ObjectId, u64), Arc<Fill>>, fill: &Arc<Fill>) {
        let key = (fill.object, fill.size);
        if fills.get(&key).is_some_and(|held| Arc::ptr_eq(held, fill)) {
            fills.remove(&key);
        }
    }
}
