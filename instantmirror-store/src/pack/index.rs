//! One index file: opened without parsing, searched straight from the map, written in one pass.
//!
//! Invariant: no byte of an index decides anything before a checksum over it was right; each block of entries is
//! checked when it is first touched. It never writes to a published index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::format::*;
use crate::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};

/// Bytes of entries that are gathered before a write.
const WRITE_BYTES: usize = 16 * BLOCK_ENTRIES * ENTRY_BYTES;
/// How often a search guesses before it halves.
const GUESSES_MAX: u32 = 6;

/// A set of small numbers that only grows; shared by threads.
#[derive(Debug)]
pub(super) struct Seen(Vec<AtomicU64>);

impl Seen {
    fn new(count: usize) -> Self {
        Self(
            std::iter::repeat_with(AtomicU64::default)
                .take(count.div_ceil(64))
                .collect(),
        )
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.0
            .get(number / 64)
            .is_some_and(|word| word.load(Ordering::Relaxed) >> (number % 64) & 1 == 1)
    }

    pub(super) fn insert(&self, number: usize) {
        if let Some(word) = self.0.get(number / 64) {
            word.fetch_or(1 << (number % 64), Ordering::Relaxed);
        }
    }
}

/// An open index file.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) batches: Batches,
    pub(super) path: PathBuf,
    pub(super) watermark: Watermark,
    pub(super) segments: Vec<SegmentUse>,
    bytes: Bytes,
    count: usize,
    checked_blocks: Seen,
    /// Entries whose record has been read and found right.
    pub(super) checked_records: Seen,
}

impl Index {
    /// Maps the file and checks its front matter.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, batches: Batches) -> Result<Self> {
        let path = dir.join(batches.file_name());
        let bytes = disk.open(&path)?.map()?;
        let damaged = |what: &str| StoreError::damaged(&path, what, REBUILD_ADVICE);
        check_magic(&path, &bytes, INDEX_MAGIC, REBUILD_ADVICE)?;
        let count = usize::try_from(u64_at(&bytes, 16)).unwrap_or(usize::MAX);
        let segments = u32_at(&bytes, 12) as usize;
        let tail_at = count
            .checked_mul(ENTRY_BYTES)
            .and_then(|size| size.checked_add(ENTRIES_START));
        let blocks = count.div_ceil(BLOCK_ENTRIES);
        let table_at = tail_at.and_then(|at| at.checked_add(blocks * 4));
        let end = table_at.and_then(|at| at.checked_add(segments * SEGMENT_USE_BYTES));
        let (Some(tail_at), Some(table_at), true) = (tail_at, table_at, end == Some(bytes.len())) else {
            return Err(damaged("its length does not agree with its header"));
        };
        let crc = front_crc(
            &bytes[..INDEX_CRC_AT],
            &bytes[INDEX_HEADER_BYTES..ENTRIES_START],
            &bytes[tail_at..],
        );
        if crc != u32_at(&bytes, INDEX_CRC_AT) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let watermark = Watermark {
            segment: u32_at(&bytes, 24),
            len: u64_at(&bytes, 32),
        };
        let segments = bytes[table_at..]
            .chunks_exact(SEGMENT_USE_BYTES)
            .map(|line| SegmentUse {
                segment: u32_at(line, 0),
                entries: u64_at(line, 8),
                bytes: u64_at(line, 16),
            });
        let segments = segments.collect();
        let (checked_blocks, checked_records) = (Seen::new(blocks), Seen::new(count));
        Ok(Self {
            batches,
            path,
            watermark,
            segments,
            bytes,
            count,
            checked_blocks,
            checked_records,
        })
    }

    /// Number of entries.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The entry for a key, with its number.
    pub(super) fn find(&self, key: &Key) -> Result<Option<(usize, Location)>> {
        let first = usize::from(key[0]);
        let mut low = if first == 0 { 0 } else { self.fanout(first - 1) };
        let mut high = self.fanout(first).min(self.count);
        // Keys are hashes, so their place can be guessed: a page or two are touched instead of a dozen, which is what
        // a lookup costs where the index is not in memory. Keys that are no hashes only make the guesses bad.
        let (wanted, mut below, mut above) = (weight(key), 0, u64::MAX);
        let mut guesses = GUESSES_MAX;
        while low < high {
            let middle = if guesses == 0 {
                low + (high - low) / 2
            } else {
                guesses -= 1;
                low + guess(wanted, below, above, high - low)
            };
            let entry = self.entry(middle)?;
            match entry.key.cmp(key) {
                std::cmp::Ordering::Less => (low, below) = (middle + 1, weight(&entry.key)),
                std::cmp::Ordering::Greater => (high, above) = (middle, weight(&entry.key)),
                std::cmp::Ordering::Equal => return Ok(Some((middle, entry.at))),
            }
        }
        Ok(None)
    }

    /// Entry `number`; its block is checked first.
    pub(super) fn entry(&self, number: usize) -> Result<Entry> {
        self.check_block(number / BLOCK_ENTRIES)?;
        let at = ENTRIES_START + number * ENTRY_BYTES;
        let bytes = self.bytes.get(at..at + ENTRY_BYTES).filter(|_| number < self.count);
        bytes
            .map(Entry::decode)
            .ok_or_else(|| StoreError::damaged(&self.path, "an entry is missing", REBUILD_ADVICE))
    }

    fn fanout(&self, first_byte: usize) -> usize {
        usize::try_from(u64_at(&self.bytes, INDEX_HEADER_BYTES + first_byte * 8)).unwrap_or(usize::MAX)
    }

    fn check_block(&self, block: usize) -> Result<()> {
        if self.checked_blocks.contains(block) {
            return Ok(());
        }
        let tail_at = ENTRIES_START + self.count * ENTRY_BYTES;
        let start = ENTRIES_START + block * BLOCK_ENTRIES * ENTRY_BYTES;
        let end = (start + BLOCK_ENTRIES * ENTRY_BYTES).min(tail_at);
        let content = self.bytes.get(start..end).unwrap_or_default();
        if crc32fast::hash(content) != u32_at(&self.bytes, tail_at + block * 4) {
            let what = format!("the checksum of bytes {start} to {end} is wrong");
            return Err(StoreError::damaged(&self.path, what, REBUILD_ADVICE));
        }
        self.checked_blocks.insert(block);
        Ok(())
    }
}

/// Where a key stands among those with the same first byte.
fn weight(key: &Key) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key[1..9]);
    u64::from_be_bytes(bytes)
}

/// The place of `wanted` among `count` keys that are spread evenly from `below` to `above`; less than `count`.
fn guess(wanted: u64, below: u64, above: u64, count: usize) -> usize {
    let part = u128::from(wanted.saturating_sub(below)) * count as u128 / (u128::from(above.saturating_sub(below)) + 1);
    usize::try_from(part).unwrap_or(usize::MAX).min(count.saturating_sub(1))
}

fn front_crc(header: &[u8], fanout: &[u8], tail: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(fanout);
    crc.update(tail);
    crc.finalize()
}

/// Writes one index into a fresh file; entries come in ascending order of keys.
pub(super) struct IndexWriter<'a> {
    file: &'a dyn DiskFile,
    buffer: Vec<u8>,
    written: u64,
    block: crc32fast::Hasher,
    crcs: Vec<u8>,
    fanout: [u64; 256],
    count: u64,
    segments: BTreeMap<u32, SegmentUse>,
}

impl<'a> IndexWriter<'a> {
    pub(super) fn new(file: &'a dyn DiskFile) -> Self {
        Self {
            file,
            buffer: Vec::with_capacity(WRITE_BYTES),
            written: ENTRIES_START as u64,
            block: crc32fast::Hasher::new(),
            crcs: Vec::new(),
            fanout: [0; 256],
            count: 0,
            segments: BTreeMap::new(),
        }
    }

    pub(super) fn push(&mut self, entry: &Entry) -> Result<()> {
        let bytes = entry.encode();
        self.block.update(&bytes);
        self.buffer.extend_from_slice(&bytes);
        self.fanout[usize::from(entry.key[0])] += 1;
        self.count += 1;
        let line = self.segments.entry(entry.at.segment).or_default();
        line.segment = entry.at.segment;
        line.entries += 1;
        line.bytes += entry.at.record_bytes();
        if self.count.is_multiple_of(BLOCK_ENTRIES as u64) {
            self.end_block();
        }
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes what is left and the front matter. The caller syncs and publishes.
    pub(super) fn finish(mut self, watermark: Watermark) -> Result<()> {
        if !self.count.is_multiple_of(BLOCK_ENTRIES as u64) {
            self.end_block();
        }
        let mut tail = std::mem::take(&mut self.crcs);
        for line in self.segments.values() {
            tail.extend_from_slice(&line.segment.to_le_bytes());
            tail.extend_from_slice(&0u32.to_le_bytes());
            tail.extend_from_slice(&line.entries.to_le_bytes());
            tail.extend_from_slice(&line.bytes.to_le_bytes());
        }
        self.buffer.extend_from_slice(&tail);
        self.flush()?;
        self.file.write_at(&self.front(watermark, &tail), 0)
    }

    fn front(&self, watermark: Watermark, tail: &[u8]) -> Vec<u8> {
        let segments = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
        let mut front = INDEX_MAGIC.to_vec();
        front.extend_from_slice(&VERSION.to_le_bytes());
        front.extend_from_slice(&segments.to_le_bytes());
        front.extend_from_slice(&self.count.to_le_bytes());
        front.extend_from_slice(&watermark.segment.to_le_bytes());
        front.extend_from_slice(&[0; 4]);
        front.extend_from_slice(&watermark.len.to_le_bytes());
        front.resize(INDEX_CRC_AT, 0);
        let mut sum = 0;
        let fanout: Vec<u8> = self
            .fanout
            .iter()
            .flat_map(|count| {
                sum += count;
                u64::to_le_bytes(sum)
            })
            .collect();
        let crc = front_crc(&front, &fanout, tail);
        front.extend_from_slice(&crc.to_le_bytes());
        front.resize(INDEX_HEADER_BYTES, 0);
        front.extend_from_slice(&fanout);
        front
    }

    fn end_block(&mut self) {
        let crc = std::mem::take(&mut self.block).finalize();
        self.crcs.extend_from_slice(&crc.to_le_bytes());
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Walks several indexes in key order; of equal keys the newest index wins. Indexes come newest first.
pub(super) struct Merge<'a> {
    sources: Vec<(&'a Index, usize)>,
}

impl<'a> Merge<'a> {
    pub(super) fn new(newest_first: &'a [Arc<Index>]) -> Self {
        Self {
            sources: newest_first.iter().map(|index| (index.as_ref(), 0)).collect(),
        }
    }

    /// The next entry. An error names the damaged index; the walk cannot go on after it.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut best: Option<Entry> = None;
        for (index, position) in &self.sources {
            if *position < index.count() {
                let entry = index.entry(*position)?;
                if best.is_none_or(|best| entry.key < best.key) {
                    best = Some(entry);
                }
            }
        }
        let Some(best) = best else { return Ok(None) };
        for (index, position) in &mut self.sources {
            if *position < index.count() && index.entry(*position)?.key == best.key {
                *position += 1;
            }
        }
        Ok(Some(best))
    }
}
