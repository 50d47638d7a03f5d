//! Compaction and rebuilding: the two ways to make all indexes anew.
//!
//! Both publish one index that covers all batches and only then remove what it replaced, so a crash at any point
//! leaves the old or the new state. Bytes that readers hold stay valid, since their maps outlive the files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::format::*;
use super::index::{Index, Merge};
use super::open::list;
use super::segment::{Appender, Files, scan};
use super::{PackStore, View, Writer, damaged_index, find_in};
use crate::disk::discard;
use crate::error::{Result, StoreError};

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Values that `keep` refused: they are gone.
    pub removed: u64,
    /// Bytes of values that were copied into new segments.
    pub copied_bytes: u64,
    /// Bytes that the file system got back.
    pub freed_bytes: u64,
    /// Records that could not be copied because they are damaged; they are gone, each was logged.
    pub damaged: u64,
}

impl PackStore {
    /// Forgets every value whose key `keep` refuses, and rewrites the segments of which more than half is dead. Of values
    /// that are forgotten the bytes stay in the other segments; [`purge`](Self::purge) leaves none.
    ///
    /// Durable when it returns; after a crash or error in between nothing has changed but unused bytes on the disk,
    /// which the next start removes. Needs free space for the live part of the rewritten segments.
    pub fn compact(&self, keep: &dyn Fn(&Key) -> bool) -> Result<Compaction> {
        self.compact_where(keep, &|_, _| Ok(false))
    }

    /// [`compact`](Self::compact) that also rewrites each segment in which anything else lies than living records: afterwards
    /// no file of the store holds a value that is refused, was replaced, or was forgotten by an earlier compaction. What is
    /// damaged may have been one, and goes too. Reads all segments.
    pub fn purge(&self, keep: &dyn Fn(&Key) -> bool) -> Result<Compaction> {
        self.compact_where(keep, &|view, number| self.holds_dead(view, number, keep))
    }

    fn compact_where(
        &self,
        keep: &dyn Fn(&Key) -> bool,
        must_go: &dyn Fn(&View, u32) -> Result<bool>,
    ) -> Result<Compaction> {
        let mut writer = self.writer()?;
        let view = self.current();
        if let Some(error) = damaged_index(&view) {
            return Err(error);
        }
        let mut done = Compaction::default();
        let live = live_bytes(&view.indexes, keep, &mut done)?;
        let listing = list(self.disk.as_ref(), &self.dir)?;
        let mut sparse = BTreeSet::new();
        for number in &listing.segments {
            let len = self
                .disk
                .metadata(&segment_path(&self.dir, *number))?
                .len
                .saturating_sub(SEGMENT_HEADER_BYTES);
            if live.get(number).copied().unwrap_or(0) < len.div_ceil(2) || must_go(&view, *number)? {
                sparse.insert(*number);
                done.freed_bytes += len + SEGMENT_HEADER_BYTES;
            }
        }
        if done.removed == 0 && sparse.is_empty() {
            return Ok(done);
        }
        self.rewrite(&mut writer, keep, &view.indexes, &sparse, &mut done)?;
        done.freed_bytes = done.freed_bytes.saturating_sub(done.copied_bytes);
        Ok(done)
    }

    /// Whether a segment holds a record that `keep` refuses or the indexes do not name, or bytes that are no record.
    fn holds_dead(&self, view: &View, number: u32, keep: &dyn Fn(&Key) -> bool) -> Result<bool> {
        let path = segment_path(&self.dir, number);
        let content = self.disk.open(&path)?.map()?;
        let mut is_any_dead = Ok(false);
        let scanned = scan(&path, number, &content, |entry| {
            if matches!(is_any_dead, Ok(false)) {
                is_any_dead = is_live(view, &entry, keep).map(|is_live| !is_live);
            }
        });
        match scanned {
            Ok(passed_over) => Ok(is_any_dead? || passed_over > 0),
            Err(StoreError::Damaged { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn rewrite(
        &self,
        writer: &mut Writer,
        keep: &dyn Fn(&Key) -> bool,
        old: &[Arc<Index>],
        sparse: &BTreeSet<u32>,
        done: &mut Compaction,
    ) -> Result<()> {
        if writer
            .active
            .as_ref()
            .is_some_and(|active| sparse.contains(&active.number))
        {
            writer.active = None;
        }
        let appended = self.append_with(writer, |appender| self.copy_into(appender, keep, old, sparse, done))?;
        let watermark = appended.end.max(writer.watermark);
        let moved = appended.result;
        let batches = all_batches(writer);
        let mut merge = Merge::new(old);
        let published = self.publish_index(batches, watermark, || {
            while let Some(mut entry) = merge.next()? {
                if !keep(&entry.key) {
                    continue;
                }
                if sparse.contains(&entry.at.segment) {
                    // Absent: it was damaged and could not be copied.
                    let Ok(found) = moved.binary_search_by_key(&entry.key, |(key, _)| *key) else {
                        continue;
                    };
                    entry.at = moved[found].1;
                }
                return Ok(Some(entry));
            }
            Ok(None)
        });
        let index = published.inspect_err(|_| self.take_back(writer, batches, appended.undo))?;
        writer.watermark = watermark;
        self.replace_indexes(old, index);
        for number in sparse {
            discard(self.disk.as_ref(), &segment_path(&self.dir, *number));
        }
        self.segments.forget(|number| !sparse.contains(&number));
        Ok(())
    }

    /// Copies what lives in the segments that go. Returns where it is now, in order of keys.
    fn copy_into(
        &self,
        appender: &mut Appender<'_>,
        keep: &dyn Fn(&Key) -> bool,
        old: &[Arc<Index>],
        sparse: &BTreeSet<u32>,
        done: &mut Compaction,
    ) -> Result<Vec<(Key, Location)>> {
        let mut moved = Vec::new();
        let mut files = Files::new();
        let mut merge = Merge::new(old);
        while let Some(entry) = merge.next()? {
            if !sparse.contains(&entry.at.segment) || !keep(&entry.key) {
                continue;
            }
            // Not out of the map, which a damaged header of the segment closes: a record proves itself.
            match self.segments.read_copy(&mut files, &entry.key, entry.at) {
                Ok(value) => {
                    moved.push((entry.key, appender.append(&entry.key, &value)?));
                    done.copied_bytes += entry.at.record_bytes();
                }
                Err(error @ StoreError::Damaged { .. }) => {
                    tracing::error!(%error, "compaction leaves a damaged record behind");
                    done.damaged += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }

    /// Makes one index anew from the segments. Damaged records are passed over and logged; values that a compaction
    /// had dropped but whose segment still exists come back.
    pub fn rebuild(&self) -> Result<()> {
        let mut writer = self.writer()?;
        let listing = list(self.disk.as_ref(), &self.dir)?;
        let mut entries = BTreeMap::new();
        let mut watermark = Watermark::default();
        for number in &listing.segments {
            let path = segment_path(&self.dir, *number);
            let content = self.disk.open(&path)?.map()?;
            match scan(&path, *number, &content, |entry| {
                entries.insert(entry.key, entry.at);
            }) {
                Ok(0) => {}
                Ok(bytes) => {
                    tracing::error!(path = %path.display(), bytes, "passed over damaged or unfinished records");
                }
                Err(error @ StoreError::Damaged { .. }) => tracing::error!(%error, "segment cannot be read"),
                Err(error) => return Err(error),
            }
            watermark = Watermark {
                segment: *number,
                len: content.len() as u64,
            };
        }
        self.make_durable(&listing.segments)?;
        let old = self.current();
        let batches = all_batches(&mut writer);
        let mut next = entries.into_iter();
        let index = self.publish_index(batches, watermark, || {
            Ok(next.next().map(|(key, at)| Entry { key, at }))
        })?;
        writer.active = None;
        writer.watermark = watermark;
        for (path, _) in &old.damaged {
            discard(self.disk.as_ref(), path);
        }
        self.replace_indexes(&old.indexes, index);
        Ok(())
    }

    /// Segments found by a scan may never have been synced.
    fn make_durable(&self, segments: &BTreeSet<u32>) -> Result<()> {
        for number in segments {
            self.disk.open_write(&segment_path(&self.dir, *number))?.sync()?;
        }
        self.disk.sync_dir(&self.dir)
    }
}

/// Whether a record is the one that the indexes name for its key, and `keep` wants it.
fn is_live(view: &View, entry: &Entry, keep: &dyn Fn(&Key) -> bool) -> Result<bool> {
    Ok(keep(&entry.key) && find_in(view, &entry.key)?.is_some_and(|(_, _, at)| at == entry.at))
}

/// A range that covers everything so far, under a name that was never used.
fn all_batches(writer: &mut Writer) -> Batches {
    let last = writer.next_batch;
    writer.next_batch += 1;
    Batches { first: 0, last }
}

/// Bytes of living records per segment; counts what `keep` refuses.
fn live_bytes(
    indexes: &[Arc<Index>],
    keep: &dyn Fn(&Key) -> bool,
    done: &mut Compaction,
) -> Result<BTreeMap<u32, u64>> {
    let mut live = BTreeMap::new();
    let mut merge = Merge::new(indexes);
    while let Some(entry) = merge.next()? {
        if keep(&entry.key) {
            *live.entry(entry.at.segment).or_insert(0) += entry.at.record_bytes();
        } else {
            done.removed += 1;
        }
    }
    Ok(live)
}
