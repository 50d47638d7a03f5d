//! What a node tells of itself, for people.

use std::fmt;
use std::time::Duration;

use instantmirror_core::traits::Class;

use super::super::{PrefetchStatus, PreseedStatus, StepStatus, TagStatus};
use super::{KeyStatus, NodeStatus, RepositoryStatus};
use crate::config::{ByteRate, ByteSize};
use crate::text::{Count, people_time};

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
            "\ncache: {used} {max} in {}, {} given up, {} damaged",
            Count(cache.objects, "object"),
            cache.evicted,
            cache.damaged
        )?;
        if let Some(free) = cache.disk_free_bytes {
            let full = if cache.disk_full {
                "; FULL: what is read is streamed and not kept"
            } else {
                ""
            };
            writeln!(f, "       its file system has {} left{full}", ByteSize(free))?;
        }
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
                "trouble: {} failed, {} brought wrong data",
                Count(fetch.failures, "transfer"),
                fetch.corrupt
            )?;
        }
        self.write_fetching(f)?;
        if let Some(peers) = &self.peers {
            write!(f, "{peers}")?;
        }
        write!(f, "{}", self.http)?;
        for transfer in &self.transfers {
            let percent = transfer.present * 100 / transfer.size.max(1);
            let (size, readers) = (ByteSize(transfer.size), Count::of(transfer.readers, "reader"));
            writeln!(
                f,
                "  {} {percent:3} % of {size}, {readers} ({})",
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
            if let Some(error) = &source.last_error {
                writeln!(f, "    its last transfer failed: {error}")?;
            }
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
                    "  current  {current}  ({}, {size}; {})",
                    Count(self.files, "file"),
                    Count::of(self.snapshots, "snapshot")
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
