//! What a node tells of itself: the JSON of its control socket, and the same for people.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use instantmirror_core::sources::Score;
use instantmirror_core::traits::{Class, ObjectCache as _, QueueStatus};
use instantmirror_core::{Clock as _, PublicKey, SnapshotId, Timestamp};
use instantmirror_http::Stats;
use instantmirror_swarm::{FetchStats, TrustedKey};
use serde::{Deserialize, Serialize};

use super::{AdoptStatus, Node, PrefetchStatus, PreseedStatus, StepStatus, TagStatus, VerifyStatus};
use crate::clock::SystemClock;
use crate::config::{ByteRate, ByteSize};
use crate::peering::SwarmsStatus;
use crate::serve::HttpStatus;

/// A node at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The repositories it follows, in order of name.
    pub repositories: Vec<RepositoryStatus>,
    /// Its cache.
    pub cache: CacheStatus,
    /// Tags of its operator.
    #[serde(default)]
    pub tags: Vec<TagStatus>,
    /// The verification by hand, the present or the last one.
    #[serde(default)]
    pub verify: VerifyStatus,
    /// The scrub, if there is one.
    #[serde(default)]
    pub scrub: Option<VerifyStatus>,
    /// The adoption, the present or the last one.
    #[serde(default)]
    pub adopt: AdoptStatus,
    /// What it has fetched since its start.
    pub fetch: FetchStatus,
    /// What waits to be fetched and is being fetched, by class, most urgent first.
    #[serde(default)]
    pub queue: Vec<QueuedStatus>,
    /// What is known of each source that was asked.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// What is fetched ahead.
    #[serde(default)]
    pub preseed: Vec<PreseedStatus>,
    /// What operators asked for.
    #[serde(default)]
    pub prefetches: Vec<PrefetchStatus>,
    /// Objects being fetched now.
    pub transfers: Vec<TransferStatus>,
    /// What its HTTP server has answered.
    pub http: HttpStatus,
    /// Its swarms, if it has any.
    #[serde(default)]
    pub peers: Option<SwarmsStatus>,
}

/// One repository that a node follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryStatus {
    /// Its name.
    pub name: String,
    /// The master asked last.
    pub master: String,
    /// Sequence number of the head held.
    pub sequence: Option<u64>,
    /// When that head was signed.
    pub head_issued: Option<Timestamp>,
    /// Seconds since then.
    pub head_age_seconds: Option<u64>,
    /// Whether it has expired.
    pub head_expired: bool,
    /// When a master last gave a valid answer.
    pub last_contact: Option<Timestamp>,
    /// What went wrong since, if anything.
    pub last_error: Option<String>,
    /// The snapshot that `current` shows.
    pub current: Option<SnapshotId>,
    /// Files in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Snapshots that are shown.
    pub snapshots: usize,
    /// The snapshot whose catalog is being fetched.
    pub syncing: Option<SnapshotId>,
    /// Heads, records, catalogs and key lists refused since the start.
    pub refused: u64,
    /// Keys whose signatures are believed.
    pub keys: Vec<KeyStatus>,
    /// Version of the master's newest key list; 0 if it never changed its key.
    pub key_list: u64,
}

/// A key of a master that a node trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The key.
    pub key: PublicKey,
    /// When the master took it into use; not there for one of the configuration.
    pub since: Option<Timestamp>,
}

/// A node's cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Bytes held.
    pub used_bytes: u64,
    /// Bytes promised to fetches.
    pub reserved_bytes: u64,
    /// The limit.
    pub max_bytes: Option<u64>,
    /// Bytes beside objects: outboards and the like. They count towards the limit.
    #[serde(default)]
    pub side_bytes: u64,
    /// Objects held.
    pub objects: u64,
    /// Those that no snapshot refers to: the first to go.
    #[serde(default)]
    pub garbage: u64,
    /// Those that only an old snapshot refers to: the next.
    #[serde(default)]
    pub old: u64,
    /// Whether the listing at the start is done; until then what is missing is not kept.
    #[serde(default)]
    pub listed: bool,
    /// Objects given up since the start.
    pub evicted: u64,
    /// Objects put aside as damaged since the start.
    pub damaged: u64,
}

/// What a node has fetched since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchStatus {
    /// Reads that found all they wanted in the cache.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Objects fetched whole.
    pub objects: u64,
    /// Verified bytes, all sources together.
    pub bytes: u64,
    /// Transfers that broke off or were refused.
    pub failures: u64,
    /// Data that was refused because it did not match.
    pub corrupt: u64,
}

/// One class of what is fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuedStatus {
    /// Its name.
    pub class: String,
    /// Objects that wait.
    pub waiting: usize,
    /// Bytes of those.
    pub waiting_bytes: u64,
    /// Objects that are being fetched.
    pub running: usize,
    /// Bytes fetched since the start.
    pub bytes: u64,
    /// Bytes per second, over some seconds.
    pub bytes_per_second: u64,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its URL or address.
    pub source: String,
    /// Verified bytes it has delivered.
    pub bytes: u64,
    /// Milliseconds to the first byte, averaged.
    pub latency_ms: Option<u64>,
    /// Bytes per second of one transfer, averaged.
    pub bytes_per_second: Option<u64>,
    /// Bytes that may be on their way from it without anybody waiting for them, so that nobody who waits meets a queue.
    #[serde(default)]
    pub window_bytes: Option<u64>,
    /// Transfers under way.
    pub running: usize,
    /// Transfers that broke off or were refused.
    pub failures: u64,
    /// Data that did not match.
    pub corrupt: u64,
}

/// One object being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Its repository.
    pub repository: String,
    /// Its id.
    pub object: String,
    /// Its size.
    pub size: u64,
    /// Bytes that are here.
    pub present: u64,
    /// Readers that wait for it.
    pub readers: usize,
}

impl Node {
    /// What is fetched ahead, repository by repository.
    #[must_use]
    pub fn preseed_status(&self) -> Vec<PreseedStatus> {
        self.ahead.status()
    }

    /// How the node is now; `answered`: by its HTTP server.
    #[must_use]
    pub fn status(&self, answered: &Stats) -> NodeStatus {
        let usage = self.cache.usage();
        let (garbage, old) = self.cache.standings();
        let stats = self.engine.stats();
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            repositories: self.followers.values().map(repository_status).collect(),
            tags: self.tags.status(),
            verify: self.verify_status(),
            scrub: self.scrub_status(),
            adopt: self.adopt_status(),
            cache: CacheStatus {
                used_bytes: usage.used_bytes,
                reserved_bytes: usage.reserved_bytes,
                max_bytes: usage.max_bytes,
                side_bytes: usage.side_bytes,
                objects: usage.objects,
                garbage: garbage as u64,
                old: old as u64,
                listed: self.cache.is_loaded(),
                evicted: usage.evicted,
                damaged: usage.damaged,
            },
            fetch: FetchStatus {
                hits: stats.hits,
                misses: stats.misses,
                objects: stats.objects,
                bytes: stats.bytes.values().sum(),
                failures: stats.failures.values().sum(),
                corrupt: stats.corrupt.values().sum(),
            },
            queue: queue_status(&stats),
            sources: source_status(&stats),
            preseed: self.preseed_status(),
            prefetches: self.ahead.prefetches.status(),
            transfers: self.engine.transfers().iter().map(transfer_status).collect(),
            http: HttpStatus::new(answered),
            peers: self.swarms(),
        }
    }
}

fn repository_status(follower: &instantmirror_swarm::Follower) -> RepositoryStatus {
    let (state, status, now) = (follower.state(), follower.status(), SystemClock.now());
    let head = state.head.as_ref();
    let current = state.current.as_ref().and_then(|id| state.snapshots.get(id));
    RepositoryStatus {
        name: state.name.to_string(),
        master: status.upstream,
        sequence: head.map(|head| head.head().sequence),
        head_issued: head.map(|head| head.head().issued),
        head_age_seconds: head.map(|head| now.since(head.head().issued).as_secs()),
        head_expired: head.is_some_and(|head| head.is_expired(now)),
        last_contact: status.last_contact,
        last_error: status.last_error,
        current: state.current,
        files: current.map_or(0, |snapshot| snapshot.root.files),
        bytes: current.map_or(0, |snapshot| snapshot.root.bytes),
        snapshots: state.snapshots.len(),
        syncing: status.syncing,
        refused: status.refused,
        keys: follower
            .trusted_keys()
            .into_iter()
            .map(|TrustedKey { key, since }| KeyStatus { key, since })
            .collect(),
        key_list: follower.key_list_version(),
    }
}

/// A rate as a whole number: status pages need no more.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no rate is negative or beyond 2^64"
)]
fn whole(rate: f64) -> u64 {
    rate.max(0.0).round() as u64
}

fn queue_status(stats: &FetchStats) -> Vec<QueuedStatus> {
    let status = |(class, queued): &(Class, QueueStatus)| QueuedStatus {
        class: class.name().to_owned(),
        waiting: queued.waiting,
        waiting_bytes: queued.waiting_bytes,
        running: queued.running,
        bytes: stats.class_bytes[class.index()],
        bytes_per_second: whole(stats.class_rates[class.index()]),
    };
    stats.queue.iter().map(status).collect()
}

fn source_status(stats: &FetchStats) -> Vec<SourceStatus> {
    let count = |counts: &BTreeMap<String, u64>, label: &str| counts.get(label).copied().unwrap_or(0);
    let status = |(label, score): &(String, Score)| SourceStatus {
        source: label.clone(),
        bytes: count(&stats.bytes, label),
        latency_ms: score
            .latency
            .map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
        bytes_per_second: score.bytes_per_second.map(whole),
        window_bytes: stats.windows.get(label).copied(),
        running: score.running,
        failures: count(&stats.failures, label),
        corrupt: count(&stats.corrupt, label),
    };
    stats.sources.iter().map(status).collect()
}

fn transfer_status(transfer: &instantmirror_swarm::Transfer) -> TransferStatus {
    TransferStatus {
        repository: transfer.repository.to_string(),
        object: transfer.object.to_string(),
        size: transfer.size,
        present: transfer.present,
        readers: transfer.readers,
    }
}

/// For people: a few lines per repository, then cache and transfers.
impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "imnode {} (process {})", self.version, self.pid)?;
        for repository in &self.repositories {
            write!(f, "\n{repository}")?;
        }
        if !self.tags.is_empty() {
            writeln!(f)?;
        }
        for tag in &self.tags {
            writeln!(f, "tag {tag}")?;
        }
        let cache = &self.cache;
        let max = cache
            .max_bytes
            .map_or_else(|| "no limit".to_owned(), |max| format!("of {}", ByteSize(max)));
        let used = ByteSize(cache.used_bytes);
        writeln!(
            f,
            "\ncache: {used} {max} in {} objects, {} given up, {} damaged",
            cache.objects, cache.evicted, cache.damaged
        )?;
        if !cache.listed {
            writeln!(
                f,
                "       still listing what is there; what is not is not kept meanwhile"
            )?;
        }
        if cache.garbage + cache.old > 0 {
            let (garbage, old) = (cache.garbage, cache.old);
            writeln!(
                f,
                "       {garbage} objects of no snapshot, {old} of old ones only: these go first"
            )?;
        }
        self.upkeep(f)?;
        let fetch = &self.fetch;
        let (hits, misses, bytes) = (fetch.hits, fetch.misses, ByteSize(fetch.bytes));
        writeln!(
            f,
            "reads: {hits} from the cache, {misses} not; fetched {bytes} in {} whole objects",
            fetch.objects
        )?;
        if fetch.failures + fetch.corrupt > 0 {
            writeln!(
                f,
                "trouble: {} transfers failed, {} brought wrong data",
                fetch.failures, fetch.corrupt
            )?;
        }
        self.write_fetching(f)?;
        if let Some(peers) = &self.peers {
            write!(f, "{peers}")?;
        }
        write!(f, "{}", self.http)?;
        for transfer in &self.transfers {
            let percent = transfer.present * 100 / transfer.size.max(1);
            let (size, readers) = (ByteSize(transfer.size), transfer.readers);
            writeln!(
                f,
                "  {} {percent:3} % of {size}, {readers} readers ({})",
                transfer.object, transfer.repository
            )?;
        }
        Ok(())
    }
}

impl NodeStatus {
    /// What goes on in the cache beside reading.
    fn upkeep(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scrub) = &self.scrub {
            let (done, all) = (scrub.objects_done, scrub.objects);
            writeln!(
                f,
                "scrub: {done} of {all} objects in pass {}; all passes: {scrub}",
                scrub.passes + 1
            )?;
        }
        if self.verify.running {
            writeln!(
                f,
                "verify: {} of {} objects; {}",
                self.verify.objects_done, self.verify.objects, self.verify
            )?;
        }
        if self.adopt.running {
            writeln!(
                f,
                "adopt: {} of {} files looked at",
                self.adopt.files_done, self.adopt.files
            )?;
        }
        Ok(())
    }

    /// Classes that have something to do or did something, sources, and what is fetched ahead with an estimate.
    fn write_fetching(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for class in self
            .queue
            .iter()
            .filter(|class| class.waiting + class.running > 0 || class.bytes > 0)
        {
            let (rate, bytes) = (ByteRate(class.bytes_per_second), ByteSize(class.bytes));
            let waiting = ByteSize(class.waiting_bytes);
            writeln!(
                f,
                "  {:9} {} running, {} waiting ({waiting}), {rate}, {bytes} so far",
                class.class, class.running, class.waiting
            )?;
        }
        for source in &self.sources {
            let latency = source
                .latency_ms
                .map_or_else(String::new, |ms| format!(", first byte after {ms} ms"));
            let rate = source
                .bytes_per_second
                .map_or_else(String::new, |rate| format!(", {} a transfer", ByteRate(rate)));
            let window = source.window_bytes.map_or_else(String::new, |bytes| {
                format!(", {} ahead of demand at a time", ByteSize(bytes))
            });
            let bytes = ByteSize(source.bytes);
            writeln!(f, "  from {}: {bytes}{latency}{rate}{window}", source.source)?;
        }
        for repository in &self.preseed {
            self.write_preseed(f, repository)?;
        }
        for prefetch in self.prefetches.iter().filter(|prefetch| !prefetch.is_over) {
            writeln!(f, "{prefetch}")?;
        }
        Ok(())
    }

    fn write_preseed(&self, f: &mut fmt::Formatter<'_>, repository: &PreseedStatus) -> fmt::Result {
        let open: Vec<&StepStatus> = repository.steps.iter().filter(|step| !step.is_over).collect();
        if open.is_empty() {
            return Ok(());
        }
        writeln!(f, "ahead of demand, {} {}:", repository.repository, repository.snapshot)?;
        for step in &open {
            let failed = if step.failed > 0 {
                format!(", {} failed", step.failed)
            } else {
                String::new()
            };
            let (done, all) = (ByteSize(step.bytes_done), ByteSize(step.bytes));
            writeln!(
                f,
                "  {:9} {}: {done} of {all}, {} of {} files{failed}",
                step.class, step.rule, step.files_done, step.files
            )?;
        }
        if let Some(waiting) = &repository.waiting {
            return writeln!(f, "  waits {waiting}");
        }
        let left: u64 = open.iter().map(|step| step.bytes - step.bytes_done).sum();
        let background = self.queue.iter().filter(|class| class.class != Class::Demand.name());
        let rate: u64 = background.map(|class| class.bytes_per_second).sum();
        match left.checked_div(rate) {
            Some(seconds) => writeln!(f, "  done in about {}", people_time(Duration::from_secs(seconds))),
            None => Ok(()),
        }
    }
}

/// For people: one line.
impl fmt::Display for PrefetchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_over { "over" } else { "fetching" };
        write!(
            f,
            "prefetch {} of {} {}: {state}, {} of {} files, {} of {}",
            self.id,
            self.repository,
            self.paths.join(" "),
            self.files_done,
            self.files,
            ByteSize(self.bytes_done),
            ByteSize(self.bytes)
        )?;
        match self.failed {
            0 => Ok(()),
            failed => write!(f, ", {failed} failed"),
        }
    }
}

impl fmt::Display for RepositoryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  from {}", self.name, self.master)?;
        match (&self.current, self.sequence, self.head_age_seconds) {
            (Some(current), Some(sequence), Some(age)) => {
                let size = ByteSize(self.bytes);
                writeln!(
                    f,
                    "  current  {current}  ({} files, {size}; {} snapshots)",
                    self.files, self.snapshots
                )?;
                let expired = if self.head_expired { ", EXPIRED" } else { "" };
                writeln!(
                    f,
                    "  head     {sequence}, signed {} ago{expired}",
                    people_time(Duration::from_secs(age))
                )?;
            }
            (None, Some(sequence), _) => writeln!(f, "  head     {sequence}; no snapshot is whole here yet")?,
            _ => writeln!(f, "  nothing was received yet")?,
        }
        for KeyStatus { key, since } in &self.keys {
            match since {
                Some(since) => writeln!(f, "  key      {key}, in use since {since}")?,
                None => writeln!(f, "  key      {key}, from the configuration")?,
            }
        }
        if let Some(syncing) = self.syncing {
            writeln!(f, "  syncing  {syncing}")?;
        }
        if let Some(error) = &self.last_error {
            writeln!(f, "  TROUBLE  {error}")?;
        }
        Ok(())
    }
}

/// For people: one line.
impl fmt::Display for TagStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            repository,
            tag,
            snapshot,
            ..
        } = self;
        let state = if self.complete { "complete" } else { "fetching" };
        write!(
            f,
            "{repository} local-snap/{tag} {snapshot}  {state}: {} of {} files, {} of {}",
            self.files_done,
            self.files,
            ByteSize(self.bytes_done),
            ByteSize(self.bytes)
        )?;
        match &self.trouble {
            Some(trouble) => write!(f, "; TROUBLE {trouble}"),
            None => Ok(()),
        }
    }
}

/// `3 d 4 h`, `12 min 5 s`: the two largest units.
fn people_time(time: Duration) -> String {
    let mut rest = time.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)] {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 || unit == "s" && text.is_empty() {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{space}{count} {unit}");
            if !space.is_empty() {
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (273_600, "3 d 4 h"),
        ] {
            assert_eq!(people_time(Duration::from_secs(seconds)), text);
        }
    }
}
