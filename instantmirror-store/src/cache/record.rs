//! Writing down what a restart wants to know: a checkpoint of everything now and then, a journal of changes between.
//!
//! No read of an object causes a write: uses are gathered in memory and written with the next call. The table is never
//! locked for longer than a thousand objects take.

use std::path::Path;
use std::sync::PoisonError;

use instantmirror_core::ObjectId;
use instantmirror_core::expiry::{Handle, PolicyKind, fingerprint};

use super::Shared;
use super::checkpoint::{Checksums, HEADER, Header, Journal, Snapshot, encode_batch, encode_entry};
use super::layout::{CHECKPOINT, JOURNAL};
use super::table::Recorded;
use crate::disk::{Disk, DiskFile, TMP_SUFFIX, discard, write_atomically};
use crate::error::{Result, StoreError};

/// Objects that are looked at under one lock.
const STEP: usize = 1024;
/// A journal may have so many entries, however small the checkpoint is.
const JOURNAL_ENTRIES_MIN: usize = 4096;
/// And at most this part of those of the checkpoint: reading it takes memory and time at the start.
const JOURNAL_PART: usize = 4;

/// Where the files are.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    generation: u64,
    checkpoint_entries: usize,
    journal_entries: usize,
    journal_end: u64,
    /// Something could not be written: only a whole checkpoint says all there is to say.
    broken: bool,
}

/// What an earlier life wrote down.
#[derive(Debug, Default)]
pub(super) struct Past {
    snapshot: Snapshot,
    journal: Journal,
    same_policy: bool,
}

impl Past {
    /// Reads both files; what is damaged is as good as nothing.
    pub(super) fn open(disk: &dyn Disk, policy: PolicyKind) -> Result<(Self, Ledger)> {
        discard(disk, &Path::new(CHECKPOINT).with_extension(&TMP_SUFFIX[1..]));
        let snapshot = usable(read(disk, CHECKPOINT, Snapshot::open))?;
        let journal = usable(read(disk, JOURNAL, |path, bytes| Journal::open(path, &bytes)))?;
        let header = snapshot.header;
        let belongs = header.generation > 0 && journal.generation == header.generation;
        let journal = if belongs { journal } else { Journal::default() };
        let ledger = Ledger {
            generation: header.generation,
            checkpoint_entries: usize::try_from(header.count).unwrap_or(usize::MAX),
            journal_entries: journal.entries,
            journal_end: journal.end,
            broken: !belongs,
        };
        let same_policy = header.policy == policy;
        let past = Self {
            snapshot,
            journal,
            same_policy,
        };
        Ok((past, ledger))
    }

    pub(super) fn find(&self, object: &ObjectId) -> Option<Recorded> {
        let found = self.journal.found.get(object).copied();
        let mut found = found.or_else(|| self.snapshot.find(object))?;
        if !self.same_policy {
            found.remembered.memo = 0;
        }
        Some(found)
    }

    pub(super) fn last_use(&self) -> u64 {
        self.snapshot.header.last_use.max(self.journal.last_use)
    }
}

fn read<T: Default>(disk: &dyn Disk, name: &str, open: impl FnOnce(&Path, bytes::Bytes) -> Result<T>) -> Result<T> {
    let path = Path::new(name);
    match disk.open(path).and_then(|file| file.map()) {
        Err(error) if error.is_not_found() => Ok(T::default()),
        bytes => open(path, bytes?),
    }
}

fn usable<T: Default>(opened: Result<T>) -> Result<T> {
    match opened {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!(%error, "what the cache had written down cannot be used");
            Ok(T::default())
        }
        opened => opened,
    }
}

impl Shared {
    /// Makes all whole objects durable and writes down those that were added or used since the last time.
    pub(super) fn write_checkpoint(&self) -> Result<()> {
        self.ensure_loaded()?;
        self.retry_stuck();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.table().open_partials();
        for partial in open
            .iter()
            .filter(|partial| partial.gap().is_some() && partial.present_bytes() > 0)
        {
            partial.flush(self.disk())?;
        }
        drop(open);
        let dirty = self.table().take_dirty();
        if dirty.is_empty() && !ledger.broken {
            return Ok(());
        }
        let grown = ledger.journal_entries + dirty.len();
        let is_long = grown > JOURNAL_ENTRIES_MIN.max(ledger.checkpoint_entries / JOURNAL_PART);
        // Whatever fails, what was taken from the table is known to no journal.
        let is_whole = std::mem::replace(&mut ledger.broken, true) || is_long;
        if is_whole {
            self.write_whole(&mut ledger)?;
        } else {
            self.append(&mut ledger, &dirty)?;
        }
        ledger.broken = false;
        Ok(())
    }

    /// Hands the objects in these places out, a step at a time.
    fn visit(
        &self,
        handles: impl Iterator<Item = Handle>,
        mut each: impl FnMut(&ObjectId, &Recorded) -> Result<()>,
    ) -> Result<()> {
        let mut handles = handles.peekable();
        while handles.peek().is_some() {
            let step: Vec<_> = {
                let mut table = self.table();
                let step = handles.by_ref().take(STEP);
                step.filter_map(|handle| table.record_at(handle)).collect()
            };
            for (object, recorded) in &step {
                each(object, recorded)?;
            }
        }
        Ok(())
    }

    fn append(&self, ledger: &mut Ledger, dirty: &[Handle]) -> Result<()> {
        let (mut entries, mut last_use) = (Vec::new(), 0);
        self.visit(dirty.iter().copied(), |object, recorded| {
            entries.extend_from_slice(&encode_entry(object, recorded));
            last_use = last_use.max(recorded.remembered.last_use);
            Ok(())
        })?;
        if entries.is_empty() {
            return Ok(());
        }
        let batch = encode_batch(&entries, last_use);
        // The batch was made first: all that is in it is durable now.
        self.disk().sync_all()?;
        let file = self.disk().open_write(Path::new(JOURNAL))?;
        file.write_at(&batch, ledger.journal_end)?;
        file.sync()?;
        ledger.journal_end += batch.len() as u64;
        ledger.journal_entries += dirty.len();
        Ok(())
    }

    fn write_whole(&self, ledger: &mut Ledger) -> Result<()> {
        let mut order: Vec<(u64, Handle)> = Vec::new();
        let end = self.table().handles_end();
        let mut from = 0;
        while from < end {
            let table = self.table();
            let to = end.min(from.saturating_add(Handle::try_from(STEP).unwrap_or(1)));
            order.extend((from..to).filter_map(|handle| Some((fingerprint(&table.whole_at(handle)?.0), handle))));
            from = to;
        }
        // Two ids that share 8 bytes may be the wrong way round: one of them is not found then, and verified again.
        order.sort_unstable();
        let path = Path::new(CHECKPOINT);
        let tmp = path.with_extension(&TMP_SUFFIX[1..]);
        discard(self.disk(), &tmp);
        let file = self.disk().create_new(&tmp)?;
        let written = self.write_entries(file.as_ref(), &order, ledger.generation + 1);
        let header = written
            .and_then(|header| {
                // The list was made first: all that is on it is durable now, and so is the list.
                self.disk().sync_all()?;
                self.disk().rename(&tmp, path)?;
                Ok(header)
            })
            .inspect_err(|_| discard(self.disk(), &tmp))?;
        self.disk().sync_dir(Path::new(""))?;
        // Void until now is the journal of the checkpoint before, and whatever happens it stays so.
        let journal = Header { count: 0, ..header };
        write_atomically(self.disk(), Path::new(JOURNAL), &journal.of_journal())?;
        *ledger = Ledger {
            generation: header.generation,
            checkpoint_entries: usize::try_from(header.count).unwrap_or(usize::MAX),
            journal_entries: 0,
            journal_end: HEADER as u64,
            broken: true,
        };
        Ok(())
    }

    fn write_entries(&self, file: &dyn DiskFile, order: &[(u64, Handle)], generation: u64) -> Result<Header> {
        let mut header = Header {
            generation,
            policy: self.policy,
            ..Header::default()
        };
        let (mut sums, mut pending, mut at) = (Checksums::default(), Vec::new(), HEADER as u64);
        let mut expected = order.iter().copied().peekable();
        let handles = order.iter().map(|(_, handle)| *handle);
        self.visit(handles, |object, recorded| {
            // A place may hold another object by now, which would stand where it is not looked for.
            let key = fingerprint(object);
            while expected.peek().is_some_and(|(wanted, _)| *wanted < key) {
                expected.next();
            }
            if expected.peek().is_none_or(|(wanted, _)| *wanted != key) {
                return Ok(());
            }
            let entry = encode_entry(object, recorded);
            sums.add(&entry);
            pending.extend_from_slice(&entry);
            header.count += 1;
            header.last_use = header.last_use.max(recorded.remembered.last_use);
            if pending.len() >= 1 << 20 {
                file.write_at(&pending, at)?;
                at += pending.len() as u64;
                pending.clear();
            }
            Ok(())
        })?;
        pending.extend(sums.finish());
        file.write_at(&pending, at)?;
        file.write_at(&header.of_checkpoint(), 0)?;
        Ok(header)
    }
}
