//! What the engine counts, for status pages and metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use instantmirror_core::log_limited;
use instantmirror_core::sources::Score;
use instantmirror_core::traits::{Class, FetchError, QueueStatus};
use instantmirror_core::{ObjectId, RepoName};
use tokio::time::Instant;

use super::lock;
use super::queue::Queue;
use super::sources::Sources;

/// Counts since the engine was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchStats {
    /// Opens that found all they wanted in the cache.
    pub hits: u64,
    /// Opens that had to fetch or join a fetch.
    pub misses: u64,
    /// Objects fetched whole.
    pub objects: u64,
    /// Readers that were served past a cache without room.
    pub passed: u64,
    /// Bytes received and verified, by source.
    pub bytes: BTreeMap<String, u64>,
    /// Transfers that broke off or were refused, by source.
    pub failures: BTreeMap<String, u64>,
    /// Why the last transfer from a source failed, if none has brought anything since.
    pub errors: BTreeMap<String, String>,
    /// Groups received that did not match their object, by source.
    pub corrupt: BTreeMap<String, u64>,
    /// What waits and runs, by class, most urgent first.
    pub queue: Vec<(Class, QueueStatus)>,
    /// Verified bytes by class, in the order of [`Class::ALL`].
    pub class_bytes: [u64; Class::ALL.len()],
    /// Bytes per second by class, over some seconds.
    pub class_rates: [f64; Class::ALL.len()],
    /// What is known of each source that was asked.
    pub sources: Vec<(String, Score)>,
    /// Bytes that may be on their way from a source without anybody waiting for them, where its line is watched.
    pub windows: BTreeMap<String, u64>,
}

/// Over so many seconds a rate is averaged; older bytes fade.
const RATE_SECONDS: f64 = 5.0;

/// Bytes per second, averaged.
#[derive(Debug, Clone, Copy)]
struct Meter {
    rate: f64,
    at: Instant,
}

impl Meter {
    fn now(&self) -> f64 {
        self.rate * (-self.at.elapsed().as_secs_f64() / RATE_SECONDS).exp()
    }

    fn add(&mut self, bytes: u64) {
        self.rate = self.now() + bytes as f64 / RATE_SECONDS;
        self.at = Instant::now();
    }
}

#[derive(Debug)]
struct ClassCounts {
    bytes: u64,
    meter: Meter,
}

impl Default for ClassCounts {
    fn default() -> Self {
        let meter = Meter {
            rate: 0.0,
            at: Instant::now(),
        };
        Self { bytes: 0, meter }
    }
}

/// One object being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The repository it belongs to.
    pub repository: RepoName,
    /// The object.
    pub object: ObjectId,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are here.
    pub present: u64,
    /// Readers that are attached.
    pub readers: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    objects: AtomicU64,
    passed: AtomicU64,
    by_source: Mutex<BTreeMap<String, SourceCounts>>,
    by_class: Mutex<[ClassCounts; Class::ALL.len()]>,
}

#[derive(Debug, Default, Clone)]
struct SourceCounts {
    bytes: u64,
    failures: u64,
    corrupt: u64,
    error: Option<String>,
}

impl Counters {
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn object(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn passed(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn source(&self, label: &str, count: impl FnOnce(&mut SourceCounts)) {
        let mut by_source = lock(&self.by_source);
        if !by_source.contains_key(label) {
            by_source.insert(label.to_owned(), SourceCounts::default());
        }
        if let Some(counts) = by_source.get_mut(label) {
            count(counts);
        }
    }

    pub(super) fn received(&self, label: &str, class: Class, bytes: u64) {
        self.source(label, |counts| {
            counts.bytes += bytes;
            counts.error = None;
        });
        let counts = &mut lock(&self.by_class)[class.index()];
        counts.bytes += bytes;
        counts.meter.add(bytes);
    }

    /// Takes note of a transfer that failed.
    pub(super) fn blame(&self, object: &ObjectId, label: &str, error: &FetchError) {
        self.source(label, |counts| counts.error = Some(error.to_string()));
        if matches!(error, FetchError::Corrupt { .. }) {
            self.source(label, |counts| counts.corrupt += 1);
            let now = std::time::Instant::now();
            log_limited!(now, error, %object, source = label, "corrupt data was refused: {error}");
        } else {
            self.source(label, |counts| counts.failures += 1);
        }
    }

    pub(super) fn snapshot(&self, queue: &Queue, sources: &Sources) -> FetchStats {
        let by_class = lock(&self.by_class);
        let (class_bytes, class_rates) = (
            std::array::from_fn(|class| by_class[class].bytes),
            std::array::from_fn(|class| by_class[class].meter.now()),
        );
        drop(by_class);
        let by_source = lock(&self.by_source).clone();
        let pick = |part: fn(&SourceCounts) -> u64| {
            by_source
                .iter()
                .map(|(label, counts)| (label.clone(), part(counts)))
                .collect()
        };
        FetchStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            objects: self.objects.load(Ordering::Relaxed),
            passed: self.passed.load(Ordering::Relaxed),
            bytes: pick(|counts| counts.bytes),
            failures: pick(|counts| counts.failures),
            errors: by_source
                .iter()
                .filter_map(|(label, counts)| Some((label.clone(), counts.error.clone()?)))
                .collect(),
            corrupt: pick(|counts| counts.corrupt),
            queue: Class::ALL
                .into_iter()
                .map(|class| (class, queue.status(class)))
                .collect(),
            class_bytes,
            class_rates,
            sources: sources.scores(),
            windows: sources.windows(),
        }
    }
}
