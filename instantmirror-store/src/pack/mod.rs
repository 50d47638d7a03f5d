//! An append-only store of small immutable values under 32-byte keys. Catalog nodes and digests live in it.
//!
//! Values are appended to *segments*; each batch is then published by an *index* file that appears by rename. Opening
//! maps the indexes and parses nothing; a lookup is a few binary searches and hands out bytes of the map. One process
//! writes (a lock file sees to it), any number of others read.
//!
//! A key names its content: whoever puts a key again puts an equal value, or one that does as well. Replacing heals
//! damage; while an index is damaged, a replaced value may be seen again.
//!
//! Invariants: an index names only records that are durable; published bytes are never changed; of two records with
//! the same key the one of the newer batch counts. What lies in a segment but in no index is garbage that the next
//! writer cuts off.
//!
//! ```
//! use std::sync::Arc;
//! use instantmirror_store::disk::RealDisk;
//! use instantmirror_store::pack::{PackOptions, PackStore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let store = PackStore::open_writer(Arc::new(RealDisk::open(dir.path())?), "packs", PackOptions::default())?;
//! store.put_batch([([7; 32], "seven")])?;
//! assert_eq!(store.get(&[7; 32])?.as_deref(), Some(b"seven".as_slice()));
//! # Ok(())
//! # }
//! ```

mod compact;
mod format;
mod index;
mod open;
mod segment;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::{Disk, DiskLock, discard, publish_atomically};
use crate::error::{Result, StoreError};

pub use format::{Key, RECORD_BYTES_MAX};

use format::{Batches, Entry, Location, RECORD_ADVICE, Watermark};
use index::{Index, IndexWriter, Merge};
use segment::{Active, Appender, Files, Segments, Undo};

pub use compact::Compaction;

/// How often a reader looks again when files vanish under it because the writer merges or compacts.
const RETRIES_MAX: usize = 5;
/// Indexes that are merged at least once a merge is due.
const MERGE_MIN: usize = 4;

/// Damaged records that are remembered; beyond it, healing takes a restart.
const BROKEN_KEYS_MAX: usize = 100_000;

/// Limits of a pack store.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PackOptions {
    /// A new segment is begun when one is at least this long, in bytes.
    pub segment_bytes_max: u64,
    /// Indexes are merged when there are more than this many.
    pub indexes_max: usize,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            segment_bytes_max: 256 << 20,
            indexes_max: 8,
        }
    }
}

/// What a pack store holds. Keys that were put several times are counted several times until indexes are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackStats {
    /// Index entries.
    pub entries: u64,
    /// Bytes of the records that indexes name, headers included.
    pub record_bytes: u64,
    /// Index files.
    pub indexes: usize,
}

/// The indexes at one moment, newest first, and those that could not be opened.
#[derive(Debug, Default)]
struct View {
    indexes: Vec<Arc<Index>>,
    /// Damaged indexes: a miss is not to be believed while there are any.
    damaged: Vec<(PathBuf, String)>,
}

#[derive(Debug)]
struct Writer {
    active: Option<Active>,
    /// The newest watermark; stands when a batch is empty.
    watermark: Watermark,
    next_segment: u32,
    next_batch: u64,
    _lock: DiskLock,
}

/// Records that are durable and wait for their index.
struct Appended<T> {
    result: T,
    /// Where they end; the default if there were none and no segment is open.
    end: Watermark,
    undo: Undo,
}

/// An append-only store; see the [module](self). Share it behind an `Arc`; all methods take `&self`.
#[derive(Debug)]
pub struct PackStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: PackOptions,
    view: RwLock<Arc<View>>,
    segments: Segments,
    /// Keys whose record was found damaged: they count as missing, so that putting them heals.
    broken: Mutex<HashSet<Key>>,
    /// Held while a reader looks at the disk: what a slower look found must not replace what a later one did.
    refreshing: Mutex<()>,
    /// Absent in a reader.
    writer: Option<Mutex<Writer>>,
    /// What was put into an [overlay](Self::open_overlay); absent in everything else.
    overlay: Option<RwLock<HashMap<Key, Bytes>>>,
}

impl PackStore {
    /// The value under a key, out of the map, without a copy. Its checksum is compared at the first read.
    ///
    /// A reader looks for new batches before it says `None`; that a value was replaced it sees at the next
    /// [`refresh`](Self::refresh). A damaged record or index gives
    /// [`StoreError::Damaged`] for the keys it concerns and leaves all others readable; putting the value again heals
    /// a damaged record.
    pub fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        if let Some(value) = self.overlaid(key) {
            return Ok(Some(value));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let view = self.current();
            let found = self.get_in(&view, key);
            let again = match &found {
                Ok(None) | Err(StoreError::Damaged { .. }) => tries == 1 && self.is_newer_than(&view)?,
                Err(error) if error.is_not_found() && tries < RETRIES_MAX => self.is_newer_than(&view)?,
                _ => false,
            };
            if !again {
                if matches!(found, Err(StoreError::Damaged { .. })) {
                    self.note_broken(key);
                }
                return found.map_err(missing_segment);
            }
        }
    }

    /// Reads many values without keeping what was read in the memory of the process: for whoever walks through all.
    pub fn copier(self: &Arc<Self>) -> Copier {
        Copier {
            store: Arc::clone(self),
            files: Arc::default(),
        }
    }

    /// Whether a key is there, by the indexes alone. A record that was found damaged does not count.
    pub fn contains(&self, key: &Key) -> Result<bool> {
        if self.overlaid(key).is_some() {
            return Ok(true);
        }
        if self.is_broken(key) {
            return Ok(false);
        }
        let view = self.current();
        if find_in(&view, key)?.is_some() {
            return Ok(true);
        }
        Ok(self.is_newer_than(&view)? && find_in(&self.current(), key)?.is_some())
    }

    /// Adds or replaces values. When this returns `Ok` the batch survives any crash; after an error or a crash within
    /// the call either the whole batch is there or nothing of it.
    ///
    /// Errors: [`StoreError::ReadOnly`] in a reader, [`StoreError::TooLarge`] for a value above [`RECORD_BYTES_MAX`],
    /// [`StoreError::NoSpace`] (the space taken by the attempt is given back).
    pub fn put_batch<V: AsRef<[u8]>>(&self, records: impl IntoIterator<Item = (Key, V)>) -> Result<()> {
        if let Some(overlay) = &self.overlay {
            let records = records.into_iter();
            let copied = records.map(|(key, value)| (key, Bytes::copy_from_slice(value.as_ref())));
            overlay.write().unwrap_or_else(PoisonError::into_inner).extend(copied);
            return Ok(());
        }
        let mut writer = self.writer()?;
        self.put_locked(&mut writer, records.into_iter())
    }

    /// [`put_batch`](Self::put_batch) of those values whose keys are not there yet; returns how many that were.
    pub fn put_missing<V: AsRef<[u8]>>(&self, records: impl IntoIterator<Item = (Key, V)>) -> Result<usize> {
        let mut new = Vec::new();
        if self.overlay.is_some() {
            for (key, value) in records {
                if !self.contains(&key)? {
                    new.push((key, value));
                }
            }
            let count = new.len();
            return self.put_batch(new).map(|()| count);
        }
        let mut writer = self.writer()?;
        for (key, value) in records {
            if self.is_broken(&key) || find_in(&self.current(), &key)?.is_none() {
                new.push((key, value));
            }
        }
        let count = new.len();
        self.put_locked(&mut writer, new.into_iter())?;
        Ok(count)
    }

    /// Visits every key with its value or the error that its record gives; newest values only, in order of keys.
    /// Every checksum is compared anew, so this is also the scrub.
    pub fn for_each(&self, mut visit: impl FnMut(Key, Result<Bytes>) -> Result<()>) -> Result<()> {
        let view = self.current();
        if let Some(error) = damaged_index(&view) {
            return Err(error);
        }
        let mut merge = Merge::new(&view.indexes);
        while let Some(entry) = merge.next()? {
            visit(entry.key, self.segments.read(&entry.key, entry.at, true))?;
        }
        Ok(())
    }

    /// What is in the store now.
    pub fn stats(&self) -> PackStats {
        let view = self.current();
        let uses = || view.indexes.iter().flat_map(|index| &index.segments);
        PackStats {
            entries: uses().map(|line| line.entries).sum(),
            record_bytes: uses().map(|line| line.bytes).sum(),
            indexes: view.indexes.len(),
        }
    }

    fn put_locked<V: AsRef<[u8]>>(&self, writer: &mut Writer, records: impl Iterator<Item = (Key, V)>) -> Result<()> {
        let appended = self.append_with(writer, |appender| {
            records
                .map(|(key, value)| {
                    Ok(Entry {
                        key,
                        at: appender.append(&key, value.as_ref())?,
                    })
                })
                .collect()
        })?;
        let mut entries: Vec<Entry> = appended.result;
        if entries.is_empty() {
            return Ok(());
        }
        // Stable: of equal keys the last one put comes last, and is the one that stays.
        entries.sort_by_key(|entry| entry.key);
        entries.reverse();
        entries.dedup_by_key(|entry| entry.key);
        entries.reverse();
        let batches = Batches {
            first: writer.next_batch,
            last: writer.next_batch,
        };
        // Counted up first: after an error the file may exist, and readers know index files by their names.
        writer.next_batch += 1;
        let mut next = entries.iter();
        let published = self.publish_index(batches, appended.end, || Ok(next.next().copied()));
        let index = published.inspect_err(|_| self.take_back(writer, batches, appended.undo))?;
        self.replace_indexes(&[], index);
        writer.watermark = appended.end;
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().for_each(|entry| _ = broken.remove(&entry.key));
        drop(broken);
        if let Err(error) = self.merge_if_due() {
            tracing::warn!(%error, "cannot merge pack indexes; lookups stay slower until it works");
        }
        Ok(())
    }

    /// Lets `work` append records and makes them durable; after an error the segments are as before.
    fn append_with<T>(
        &self,
        writer: &mut Writer,
        work: impl FnOnce(&mut Appender<'_>) -> Result<T>,
    ) -> Result<Appended<T>> {
        let active = writer.active.take();
        let disk = self.disk.as_ref();
        let mut appender = Appender::new(
            disk,
            &self.dir,
            self.options.segment_bytes_max,
            &mut writer.next_segment,
            active,
        );
        let result = work(&mut appender).and_then(|result| Ok((result, appender.finish()?)));
        let (active, undo) = appender.into_parts();
        match result {
            Ok((result, end)) => {
                writer.active = active;
                Ok(Appended { result, end, undo })
            }
            Err(error) => {
                undo.run(disk, &self.dir);
                Err(error)
            }
        }
    }

    /// After an index could not be published: what it names may only go if it certainly did not appear. In any case
    /// new records go into a new segment.
    fn take_back(&self, writer: &mut Writer, batches: Batches, undo: Undo) {
        writer.active = None;
        let path = self.dir.join(batches.file_name());
        if self.disk.metadata(&path).is_err_and(|error| error.is_not_found()) {
            undo.run(self.disk.as_ref(), &self.dir);
        }
    }

    /// Writes an index file, publishes it and opens it.
    fn publish_index(
        &self,
        batches: Batches,
        watermark: Watermark,
        mut next: impl FnMut() -> Result<Option<Entry>>,
    ) -> Result<Arc<Index>> {
        let path = self.dir.join(batches.file_name());
        publish_atomically(self.disk.as_ref(), &path, |file| {
            let mut index = IndexWriter::new(file);
            while let Some(entry) = next()? {
                index.push(&entry)?;
            }
            index.finish(watermark)
        })?;
        Index::open(self.disk.as_ref(), &self.dir, batches).map(Arc::new)
    }

    /// Puts `index` in the place of `old` for all lookups to come, and removes the old files.
    fn replace_indexes(&self, old: &[Arc<Index>], index: Arc<Index>) {
        {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            let stays = |kept: &&Arc<Index>| !old.iter().any(|gone| gone.batches == kept.batches);
            let mut indexes: Vec<_> = view.indexes.iter().filter(stays).cloned().collect();
            indexes.push(index);
            indexes.sort_by_key(|index| std::cmp::Reverse(index.batches));
            *view = Arc::new(View {
                indexes,
                damaged: Vec::new(),
            });
        }
        for gone in old {
            discard(self.disk.as_ref(), &gone.path);
        }
    }

    /// Keeps the number of indexes small; each entry is rewritten a logarithmic number of times in its life.
    fn merge_if_due(&self) -> Result<()> {
        let view = self.current();
        if view.indexes.len() <= self.options.indexes_max {
            return Ok(());
        }
        let mut entries = 0;
        let mut take = 0;
        for index in &view.indexes {
            if take >= MERGE_MIN && index.count() > 2 * entries {
                break;
            }
            entries += index.count();
            take += 1;
        }
        let old = view.indexes.get(..take).unwrap_or_default();
        let (Some(newest), Some(oldest)) = (old.first(), old.last()) else {
            return Ok(());
        };
        let batches = Batches {
            first: oldest.batches.first,
            last: newest.batches.last,
        };
        let mut merge = Merge::new(old);
        let index = self.publish_index(batches, newest.watermark, || merge.next())?;
        self.replace_indexes(old, index);
        Ok(())
    }

    fn get_in(&self, view: &View, key: &Key) -> Result<Option<Bytes>> {
        let Some((index, number, at)) = find_in(view, key)? else {
            return Ok(None);
        };
        let checked = index.checked_records.contains(number);
        let value = self.segments.read(key, at, !checked)?;
        if !checked {
            index.checked_records.insert(number);
        }
        Ok(Some(value))
    }

    fn overlaid(&self, key: &Key) -> Option<Bytes> {
        let overlay = self.overlay.as_ref()?.read().unwrap_or_else(PoisonError::into_inner);
        overlay.get(key).cloned()
    }

    fn note_broken(&self, key: &Key) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.len() < BROKEN_KEYS_MAX {
            broken.insert(*key);
        }
    }

    fn is_broken(&self, key: &Key) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn current(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is something newer than `view`, after a look at the disk. It may be that another thread has
    /// looked in between: then there is nothing left to refresh, and still something that `view` lacks.
    fn is_newer_than(&self, view: &Arc<View>) -> Result<bool> {
        Ok(self.refresh()? || !Arc::ptr_eq(view, &self.current()))
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| StoreError::ReadOnly { path: self.dir.clone() })?;
        Ok(writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The directory of the store, relative to its disk.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Hands out copies of values; see [`PackStore::copier`]. Clones share the files that are open.
#[derive(Debug, Clone)]
pub struct Copier {
    store: Arc<PackStore>,
    files: Arc<Mutex<Files>>,
}

impl Copier {
    /// As [`PackStore::get`], which it falls back on where segments change under it. Every checksum is compared.
    pub fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        if let Some(value) = self.store.overlaid(key) {
            return Ok(Some(value));
        }
        let view = self.store.current();
        let found = find_in(&view, key)?;
        if let Some((_, _, at)) = found {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            match self.store.segments.read_copy(&mut files, key, at) {
                Ok(value) => return Ok(Some(value)),
                Err(error @ StoreError::Damaged { .. }) if Arc::ptr_eq(&view, &self.store.current()) => {
                    self.store.note_broken(key);
                    return Err(error);
                }
                // It was rewritten or removed meanwhile.
                Err(_) => {}
            }
        }
        self.store.get(key)
    }
}

/// The newest entry for a key. A miss while an index is damaged is an error, since it proves nothing.
fn find_in<'v>(view: &'v View, key: &Key) -> Result<Option<(&'v Index, usize, Location)>> {
    for index in &view.indexes {
        if let Some((number, at)) = index.find(key)? {
            return Ok(Some((index, number, at)));
        }
    }
    damaged_index(view).map_or(Ok(None), Err)
}

fn damaged_index(view: &View) -> Option<StoreError> {
    let (path, what) = view.damaged.first()?;
    Some(StoreError::damaged(path, what.clone(), format::REBUILD_ADVICE))
}

/// A segment that an index names and that is not there is damage, not a plain miss.
fn missing_segment(error: StoreError) -> StoreError {
    match error {
        StoreError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            StoreError::damaged(&path, "the file is missing", RECORD_ADVICE)
        }
        other => other,
    }
}
