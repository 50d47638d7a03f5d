//! The store, open for writing: who publishes, tags or cleans up holds it, one process at a time.

use std::time::{Duration, Instant};

use instantmirror_core::catalog::CatalogNode;
use instantmirror_core::head::HEAD_VALIDITY_MAX;
use instantmirror_core::{Head, RepoName, Timestamp};
use instantmirror_store::StoreError;
use instantmirror_store::disk::remove_leftovers;
use instantmirror_store::scan::ScanSink;

use super::parts::OpenParts;
use super::publish::PublishProgress;
use super::{Master, MasterError, ring};

/// How long a writer waits for another one before it gives up. Everything but a publish is done much sooner.
const WRITER_WAIT: Duration = Duration::from_secs(10);
/// How long a writer waits without a word.
const WRITER_SILENCE: Duration = Duration::from_secs(2);
/// How often a waiting writer looks. Whoever yields the store stays away for longer than this.
pub(super) const WRITER_POLL: Duration = Duration::from_millis(20);

/// The store, open for writing: there is one at a time, in all processes.
pub(super) struct Writer {
    parts: OpenParts,
    /// What is written through it stays in memory.
    pub(super) is_dry: bool,
}

impl std::ops::Deref for Writer {
    type Target = OpenParts;

    fn deref(&self) -> &OpenParts {
        &self.parts
    }
}

impl Writer {
    /// Waits for whoever writes now, but not for long.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if that one is still there after [`WRITER_WAIT`].
    pub(super) fn open(master: &Master) -> Result<Self, StoreError> {
        Self::open_within(master, WRITER_WAIT)
    }

    /// The same for a publish, which may have to wait for another one.
    ///
    /// # Errors
    /// [`MasterError::Busy`] if that one is still there after [`WRITER_WAIT`]; never with `wait`.
    pub(super) fn open_to_publish(master: &Master, wait: bool) -> Result<Self, MasterError> {
        let patience = if wait { Duration::MAX } else { WRITER_WAIT };
        Self::open_within(master, patience).map_err(|error| match error {
            StoreError::Locked { pid, .. } => MasterError::Busy { pid },
            error => error.into(),
        })
    }

    /// For a dry run: takes no lock, so it works beside whoever writes, and nothing that is written through it reaches
    /// the disk.
    pub(super) fn dry(master: &Master) -> Result<Self, StoreError> {
        Ok(Self {
            parts: master.parts.open_dry()?,
            is_dry: true,
        })
    }

    fn open_within(master: &Master, patience: Duration) -> Result<Self, StoreError> {
        let begun = Instant::now();
        let mut is_told = false;
        loop {
            match Self::open_now(master) {
                Err(StoreError::Locked { pid, .. }) if begun.elapsed() < patience => {
                    if !is_told && begun.elapsed() > WRITER_SILENCE {
                        tracing::info!(pid, "another process writes to the store now; waiting for it");
                        is_told = true;
                    }
                    std::thread::sleep(WRITER_POLL);
                }
                opened => return opened,
            }
        }
    }

    fn open_now(master: &Master) -> Result<Self, StoreError> {
        let parts = master.parts.open_writer()?;
        for repository in &master.config.repositories {
            match remove_leftovers(master.notes(), &Master::repository_dir(&repository.name)) {
                Err(error) if error.is_not_found() => {}
                removed => removed?,
            }
        }
        master.parts.keys.file().into_iter().for_each(ring::remove_leftovers);
        Ok(Self { parts, is_dry: false })
    }
}

impl Master {
    /// Signs and stores the successor of a head.
    pub(super) fn commit(&self, writer: &Writer, mut head: Head, now: Timestamp) -> Result<u64, MasterError> {
        head.preseed = self.advice(&head.repository);
        head.grace_never = self.config.snapshots.grace_never.texts().to_vec();
        if head.issued > now {
            tracing::warn!(
                repository = %head.repository, "the last head was signed at {}, which lies ahead of {now}: was the clock wrong then, or is it now?",
                head.issued
            );
        }
        head.sequence += 1;
        head.issued = now;
        head.expires = now.plus(HEAD_VALIDITY_MAX);
        let ring = self.ring()?;
        head.key_list = ring.version();
        let signed = head.sign(&ring.signers()?)?;
        writer.catalogs.store().put_head(&signed)?;
        self.told.send_modify(|turn| *turn += 1);
        tracing::info!(repository = %head.repository, sequence = head.sequence, current = head.current.map(tracing::field::display), "head signed");
        Ok(head.sequence)
    }

    /// What the configuration advises mirrors to fetch ahead.
    pub(super) fn advice(&self, name: &RepoName) -> Vec<String> {
        let configured = self.repository(name);
        configured.map_or_else(|_| Vec::new(), |repository| repository.preseed.clone())
    }

    /// The head of a repository, which has to have one.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::NeverPublished`], [`MasterError::Snapshots`].
    pub(super) fn published_head(&self, name: &RepoName) -> Result<Head, MasterError> {
        self.repository(name)?;
        let held = self.head(name)?;
        let never = || MasterError::NeverPublished {
            repository: name.clone(),
        };
        held.map(|held| held.head().clone()).ok_or_else(never)
    }
}

/// Takes what a scan makes into the store.
pub(super) struct Sink<'a> {
    pub(super) writer: &'a Writer,
    pub(super) progress: &'a dyn PublishProgress,
}

impl ScanSink for Sink<'_> {
    fn nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), StoreError> {
        self.writer.catalogs.put_nodes(nodes)
    }

    fn listed(&self, files: u64) {
        self.progress.listed(files);
    }

    fn read(&self, bytes: u64) {
        self.progress.read(bytes);
    }

    fn imported(&self) {
        self.progress.imported();
    }
}
