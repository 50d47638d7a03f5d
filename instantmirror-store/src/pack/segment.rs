//! Segments: appending records, reading one out of a map, and finding all of them again without an index.
//!
//! Invariant: published bytes of a segment are never written again; a record is handed out only after its header, key
//! and checksum were right.

use std::collections::{HashMap, hash_map};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::format::*;
use crate::disk::{Disk, DiskFile, discard};
use crate::error::{Result, StoreError};

/// Bytes that are gathered before a write.
const WRITE_BYTES: usize = 1 << 20;

/// The maps of all segments that were read so far.
#[derive(Debug)]
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    maps: RwLock<HashMap<u32, Bytes>>,
}

impl Segments {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self {
            disk,
            dir: dir.to_path_buf(),
            maps: RwLock::default(),
        }
    }

    /// The payload at a location, straight from the map. With `check` its checksum is compared as well.
    pub(super) fn read(&self, key: &Key, at: Location, check: bool) -> Result<Bytes> {
        let end = at.offset.saturating_add(at.record_bytes());
        let map = self.map(at.segment, end)?;
        let range = usize::try_from(at.offset).ok().zip(usize::try_from(end).ok());
        let record = range.and_then(|(start, end)| map.get(start..end)).unwrap_or_default();
        Ok(map.slice_ref(self.payload(record, key, at, check)?))
    }

    /// A copy of the payload at a location, read from the file: it leaves no trace in the memory of the process. `files`
    /// are those that were opened for it before.
    pub(super) fn read_copy(&self, files: &mut Files, key: &Key, at: Location) -> Result<Bytes> {
        let file = match files.entry(at.segment) {
            hash_map::Entry::Occupied(open) => open.into_mut(),
            hash_map::Entry::Vacant(place) => place.insert(self.disk.open(&segment_path(&self.dir, at.segment))?),
        };
        let mut record = vec![0; usize::try_from(at.record_bytes()).unwrap_or(0)];
        let read = file.read_at(&mut record, at.offset)?;
        record.truncate(read);
        self.payload(&record, key, at, true)?;
        Ok(Bytes::from(record).slice(RECORD_HEADER_SIZE..))
    }

    /// The payload of a record, if it is that of the key.
    fn payload<'a>(&self, record: &'a [u8], key: &Key, at: Location, check: bool) -> Result<&'a [u8]> {
        let damaged = |what: &str| {
            let what = format!("record at byte {}: {what}", at.offset);
            StoreError::damaged(&segment_path(&self.dir, at.segment), what, RECORD_ADVICE)
        };
        if record.len() as u64 != at.record_bytes() {
            return Err(damaged("the file ends before it does"));
        }
        let (header, payload) = record.split_at(RECORD_HEADER_SIZE);
        if header[..4] != RECORD_MAGIC || u32_at(header, 4) != at.len || header[12..] != key[..] {
            return Err(damaged("it is not the record that the index names"));
        }
        if check && record_crc(key, payload) != u32_at(header, 8) {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(payload)
    }

    /// Forgets the maps of removed segments; bytes that were handed out stay valid.
    pub(super) fn forget(&self, keep: impl Fn(u32) -> bool) {
        self.maps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|number, _| keep(*number));
    }

    /// A map that reaches to `end` where the file does.
    fn map(&self, number: u32, end: u64) -> Result<Bytes> {
        let known = self
            .maps
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned();
        if let Some(map) = known.filter(|map| map.len() as u64 >= end) {
            return Ok(map);
        }
        let path = segment_path(&self.dir, number);
        let map = self.disk.open(&path)?.map()?;
        check_segment_header(&path, &map, number)?;
        self.maps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, map.clone());
        Ok(map)
    }
}

/// Segments that a walk has opened.
pub(super) type Files = HashMap<u32, Box<dyn DiskFile>>;

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) len: u64,
}

/// What to take back when a batch does not come about.
#[derive(Debug, Default)]
pub(super) struct Undo {
    /// Where the segment that was continued ended before.
    resumed: Option<(u32, u64)>,
    started: Vec<u32>,
}

impl Undo {
    /// Gives the space back, as far as the disk still lets us; the next start does the rest.
    pub(super) fn run(self, disk: &dyn Disk, dir: &Path) {
        for number in self.started {
            discard(disk, &segment_path(dir, number));
        }
        if let Some((number, len)) = self.resumed {
            let path = segment_path(dir, number);
            let cut = disk.open_write(&path).and_then(|file| file.set_len(len));
            if let Err(error) = cut {
                tracing::warn!(path = %path.display(), %error, "cannot cut an unfinished batch off a segment");
            }
        }
    }
}

/// Appends records, starting new segments when one is full. Nothing is published by it: an unfinished append leaves
/// bytes behind that no index names.
pub(super) struct Appender<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    segment_bytes_max: u64,
    next_number: &'a mut u32,
    active: Option<Active>,
    undo: Undo,
    buffer: Vec<u8>,
}

impl<'a> Appender<'a> {
    pub(super) fn new(
        disk: &'a dyn Disk,
        dir: &'a Path,
        segment_bytes_max: u64,
        next_number: &'a mut u32,
        active: Option<Active>,
    ) -> Self {
        let resumed = active.as_ref().map(|active| (active.number, active.len));
        let undo = Undo {
            resumed,
            started: Vec::new(),
        };
        Self {
            disk,
            dir,
            segment_bytes_max,
            next_number,
            active,
            undo,
            buffer: Vec::new(),
        }
    }

    /// Appends one record; it is durable after [`finish`](Self::finish).
    pub(super) fn append(&mut self, key: &Key, payload: &[u8]) -> Result<Location> {
        let size = payload.len() as u64;
        let fits = u32::try_from(size).ok().filter(|_| size <= RECORD_BYTES_MAX);
        let Some(len) = fits else {
            return Err(StoreError::TooLarge {
                what: "a pack record".to_owned(),
                size,
                limit: RECORD_BYTES_MAX,
            });
        };
        let (number, offset) = self.place()?;
        encode_record(&mut self.buffer, key, len, payload);
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(Location {
            segment: number,
            offset,
            len,
        })
    }

    /// Makes everything appended durable, names included; says where it ends.
    pub(super) fn finish(&mut self) -> Result<Watermark> {
        self.end_segment()?;
        if !self.undo.started.is_empty() {
            self.disk.sync_dir(self.dir)?;
        }
        let end = self.active.as_ref().map(|active| Watermark {
            segment: active.number,
            len: active.len,
        });
        Ok(end.unwrap_or_default())
    }

    /// The segment to continue with, and how to take back what was appended.
    pub(super) fn into_parts(self) -> (Option<Active>, Undo) {
        (self.active, self.undo)
    }

    /// Where the next record goes.
    fn place(&mut self) -> Result<(u32, u64)> {
        let full = self
            .active
            .as_ref()
            .is_some_and(|active| self.end_of(active) >= self.segment_bytes_max);
        if full {
            self.end_segment()?;
            self.active = None;
        }
        if let Some(active) = &self.active {
            return Ok((active.number, self.end_of(active)));
        }
        let number = *self.next_number;
        *self.next_number = number.saturating_add(1);
        let file = self.disk.create_new(&segment_path(self.dir, number))?;
        self.undo.started.push(number);
        self.buffer = segment_header(number);
        self.active = Some(Active { number, file, len: 0 });
        Ok((number, SEGMENT_HEADER_BYTES))
    }

    fn end_of(&self, active: &Active) -> u64 {
        active.len + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        active.file.write_at(&self.buffer, active.len)?;
        active.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn end_segment(&mut self) -> Result<()> {
        self.flush()?;
        self.active.as_ref().map_or(Ok(()), |active| active.file.sync())
    }
}

/// Finds every record with a right checksum in a segment, in order; passes over what is damaged. Returns how many
/// bytes it passed over.
pub(super) fn scan(path: &Path, number: u32, content: &[u8], mut found: impl FnMut(Entry)) -> Result<u64> {
    check_segment_header(path, content, number)?;
    let mut at = SEGMENT_HEADER_SIZE;
    let mut passed_over = 0;
    while at < content.len() {
        if let Some(entry) = record_at(content, at, number) {
            at += usize::try_from(entry.at.record_bytes()).unwrap_or(usize::MAX);
            found(entry);
            continue;
        }
        let next = content[at + 1..].windows(4).position(|window| window == RECORD_MAGIC);
        let next = next.map_or(content.len(), |distance| at + 1 + distance);
        passed_over += (next - at) as u64;
        at = next;
    }
    Ok(passed_over)
}

fn record_at(content: &[u8], at: usize, segment: u32) -> Option<Entry> {
    let header = content.get(at..at.checked_add(RECORD_HEADER_SIZE)?)?;
    if header[..4] != RECORD_MAGIC {
        return None;
    }
    let len = u32_at(header, 4);
    let start = at + RECORD_HEADER_SIZE;
    let payload = content.get(start..start.checked_add(len as usize)?)?;
    let key: Key = header[12..].try_into().ok()?;
    let right = record_crc(&key, payload) == u32_at(header, 8);
    right.then_some(Entry {
        key,
        at: Location {
            segment,
            offset: at as u64,
            len,
        },
    })
}
