//! What a node tells of itself: the JSON of its control socket, and in [`text`] the same for people.

mod text;

use std::collections::BTreeMap;

use instantmirror_core::sources::Score;
use instantmirror_core::traits::{Class, QueueStatus, Standings};
use instantmirror_core::{Clock as _, PublicKey, SnapshotId, Timestamp};
use instantmirror_swarm::{FetchStats, TrustedKey};
use serde::{Deserialize, Serialize};

use super::{AdoptStatus, Node, PrefetchStatus, PreseedStatus, TagStatus, VerifyStatus};
use crate::clock::SystemClock;
use crate::peering::SwarmsStatus;
use crate::serve::HttpStatus;

/// A file system with less than this beyond `keep_free` counts as full: an object of any size hardly fits.
const DISK_BYTES_MIN: u64 = 1 << 20;

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
    /// Bytes that its file system can still take; `None` if the system does not say.
    #[serde(default)]
    pub disk_free_bytes: Option<u64>,
    /// Nothing more can be kept: the file system has no bytes or no inodes left beyond `keep_free`. What is read then is
    /// streamed.
    #[serde(default)]
    pub disk_full: bool,
    /// Services that it lacks, and what the node goes without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
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
    /// Why the last one failed, if none has brought anything since.
    #[serde(default)]
    pub last_error: Option<String>,
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

    /// How the node is now; `http`: its HTTP server.
    #[must_use]
    pub fn status(&self, http: HttpStatus) -> NodeStatus {
        let usage = self.cache.usage();
        let Standings { garbage, old } = self.cache.standings();
        let stats = self.engine.stats();
        let space = self.cache.free_space();
        let floor = self.cache.limits().keep_free_bytes.saturating_add(DISK_BYTES_MIN);
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
                disk_free_bytes: space.map(|space| space.bytes),
                disk_full: space.is_some_and(|space| space.bytes < floor || space.files == 0),
                missing: self.cache.missing().into_iter().map(ToOwned::to_owned).collect(),
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
            http,
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
        last_error: stats.errors.get(label).cloned(),
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
