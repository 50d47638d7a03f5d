//! A partial object: a sparse file, the set of its verified groups, and its outboard.
//!
//! Invariant: a group is in `present` only after this process verified its bytes, either when they were handed in or
//! when they were read back after a restart. The map file is a hint and never believed.
//!
//! A new one has no files before its first group is written: whoever waits for the first byte of an object does not wait
//! for a directory in which others make files too.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use instantmirror_core::outboard::{GROUP_BYTES, Outboard, VerifyError, group_count};
use instantmirror_core::{CacheError, ObjectId, RangeSet};

use super::layout::{decode_map, encode_map, map_path, outboard_path, partial_path};
use super::proof::take_outboard_back;
use super::{cache_error, read_error};
use crate::digest::ZEROS;
use crate::disk::{Disk, DiskFile, discard, read_file, tmp_path};
use crate::error::{Result, StoreError};

/// The map file is written anew after this many groups, or after a 64th of the object if that is more.
const FLUSH_GROUPS: u64 = 64;
/// The largest map or outboard that is read back, in bytes: objects of up to 64 TiB.
pub(super) const SIDE_FILE_BYTES_MAX: u64 = 32 << 30;
/// What file systems give a file at least, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// Zeros are left out in units of this, a group.
const HOLE_BYTES: usize = 64 << 10;

#[derive(Debug)]
struct State {
    present: RangeSet,
    outboard: Option<Outboard>,
    /// Groups written since the map file was.
    unflushed: u64,
    /// Bytes that may be on the disk and in no group: written just before a kill or a failure, or rotten.
    stray: u64,
}

/// An open partial object, shared by its fill and its readers. After the fill finished it goes on serving them.
#[derive(Debug)]
pub(super) struct Partial {
    object: ObjectId,
    size: u64,
    /// Made with the first write.
    file: OnceLock<Box<dyn DiskFile>>,
    /// Held while files are made or replaced: the state, which others look at under locks of theirs, is not locked for as
    /// long as a disk takes. Whether the outboard is in its file, or needs none.
    files: Mutex<bool>,
    state: Mutex<State>,
    /// The file was there before this process opened it: where nothing is present anything may lie, after a power cut say.
    is_resumed: bool,
}

impl Partial {
    /// Begins a partial object without content or files.
    pub(super) fn create(object: ObjectId, size: u64) -> Self {
        Self::new(object, size, OnceLock::new(), lone_outboard(object, size))
    }

    /// The file, which is made if it is not there; leftovers of an earlier one go.
    fn file(&self, disk: &dyn Disk) -> Result<&dyn DiskFile> {
        if let Some(file) = self.file.get() {
            return Ok(file.as_ref());
        }
        let _files = self.files();
        if let Some(file) = self.file.get() {
            return Ok(file.as_ref());
        }
        let path = partial_path(&self.object);
        // One of a single group is written at once or not at all.
        let create = || {
            if has_map(self.size) {
                disk.create_new(&path)
            } else {
                disk.create_read_only(&path)
            }
        };
        let file = match create() {
            // Most objects leave nothing behind, so nothing is looked for first. What lies beside it is only a hint.
            Err(error) if error.is_already_exists() => {
                remove_files(disk, &self.object);
                create()?
            }
            created => created?,
        };
        if has_map(self.size) {
            remove_side_files(disk, &self.object);
            file.set_len(self.size)?;
        }
        Ok(self.file.get_or_init(|| file).as_ref())
    }

    /// Makes the file of an object that needs no content.
    pub(super) fn ensure_file(&self, disk: &dyn Disk) -> Result<()> {
        self.file(disk).map(|_| ())
    }

    /// Opens what an earlier fill left; every group that the map names is verified again, so the result may have fewer
    /// groups, or none if map or outboard are damaged.
    pub(super) fn resume(disk: &dyn Disk, object: ObjectId) -> Result<Self> {
        let mut file = disk.open(&partial_path(&object))?;
        let size = file.len()?;
        if has_map(size) {
            file = disk.open_write(&partial_path(&object))?;
        }
        let mut values = read_file(disk, &outboard_path(&object), SIDE_FILE_BYTES_MAX);
        if values.as_ref().is_err_and(StoreError::is_not_found) && Outboard::len_for(size) > 0 {
            // The process ended between publishing the outboard and publishing the object.
            take_outboard_back(disk, &object);
            values = read_file(disk, &outboard_path(&object), SIDE_FILE_BYTES_MAX);
        }
        let kept = values
            .ok()
            .and_then(|values| Outboard::verify(object, size, values.into()).ok());
        let outboard = kept.or_else(|| lone_outboard(object, size));
        let claimed = Self::claimed(disk, &object, size);
        let partial = Self::new(object, size, OnceLock::from(file), outboard);
        partial.verify_again(&claimed);
        let there = disk.metadata(&partial_path(&object))?.allocated;
        // The last block of the last group was not counted whole while it was written, and is not now: what is here must not
        // become more by being opened.
        let has_end = partial.present().contains(size.saturating_sub(1)..size);
        let beyond = if has_end {
            size.next_multiple_of(BLOCK_BYTES) - size
        } else {
            0
        };
        let counted = there.saturating_sub(beyond).min(size);
        let stray = counted.saturating_sub(partial.present_bytes());
        partial.state().stray = stray;
        Ok(partial)
    }

    /// What may be there of an object that nobody has opened yet.
    pub(super) fn claimed(disk: &dyn Disk, object: &ObjectId, size: u64) -> RangeSet {
        if !has_map(size) {
            let mut all = RangeSet::new();
            all.insert(0..size);
            return all;
        }
        let map = read_file(disk, &map_path(object), SIDE_FILE_BYTES_MAX);
        map.ok().and_then(|map| decode_map(&map, size)).unwrap_or_default()
    }

    fn new(object: ObjectId, size: u64, file: OnceLock<Box<dyn DiskFile>>, outboard: Option<Outboard>) -> Self {
        let state = State {
            present: RangeSet::new(),
            outboard,
            unflushed: 0,
            stray: 0,
        };
        Self {
            object,
            size,
            is_resumed: file.get().is_some(),
            file,
            files: Mutex::new(state.outboard.is_some()),
            state: Mutex::new(state),
        }
    }

    fn verify_again(&self, claimed: &RangeSet) {
        let (Some(outboard), Some(file)) = (self.outboard(), self.file.get()) else {
            return;
        };
        let mut buffer = vec![0; usize::try_from(GROUP_BYTES.min(self.size)).unwrap_or(0)];
        for range in claimed.ranges() {
            let mut start = range.start;
            while start < range.end {
                let end = (start + GROUP_BYTES).min(self.size);
                let group = buffer
                    .get_mut(..usize::try_from(end - start).unwrap_or(0))
                    .unwrap_or_default();
                // What cannot be read is fetched again.
                let read = file.read_at(group, start);
                if read.is_ok_and(|read| read == group.len()) && outboard.verify_groups(start, group).is_ok() {
                    self.state().present.insert(start..end);
                }
                start = end;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, bool> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn present(&self) -> RangeSet {
        self.state().present.clone()
    }

    pub(super) fn present_bytes(&self) -> u64 {
        self.state().present.len()
    }

    /// Bytes that it may take on the disk.
    pub(super) fn held_bytes(&self) -> u64 {
        let state = self.state();
        (state.present.len() + state.stray).min(self.size)
    }

    pub(super) fn gap(&self) -> Option<Range<u64>> {
        self.state().present.gap(0..self.size)
    }

    pub(super) fn outboard(&self) -> Option<Outboard> {
        self.state().outboard.clone()
    }

    /// Makes its file read-only; says when that was changed last, in nanoseconds since 1970.
    pub(super) fn seal(&self, disk: &dyn Disk) -> Result<i128> {
        self.file(disk)?.seal()
    }

    pub(super) fn os_file(&self) -> Option<&Arc<File>> {
        self.file.get().and_then(|file| file.os_file())
    }

    /// Keeps the outboard; on disk too once there is a group, which a restart needs it to believe.
    pub(super) fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        if outboard.object() != self.object || outboard.size() != self.size {
            return Err(VerifyError::Outboard(self.object).into());
        }
        self.state().outboard.get_or_insert(outboard);
        Ok(())
    }

    fn keep_outboard(&self, disk: &dyn Disk, outboard: &Outboard) -> Result<()> {
        let mut is_kept = self.files();
        if *is_kept {
            return Ok(());
        }
        let path = outboard_path(&self.object);
        discard(disk, &path);
        disk.create_new(&path)?.write_at(outboard.values(), 0)?;
        *is_kept = true;
        drop(is_kept);
        self.flush(disk)
    }

    /// Verifies and writes whole groups.
    pub(super) fn write(&self, disk: &dyn Disk, offset: u64, data: &[u8]) -> Result<(), CacheError> {
        let outboard = self.outboard().ok_or(VerifyError::Outboard(self.object))?;
        outboard.verify_groups(offset, data)?;
        let file = self.file(disk).map_err(cache_error)?;
        self.keep_outboard(disk, &outboard).map_err(cache_error)?;
        let end = offset + data.len() as u64;
        let mut at = offset;
        // Groups are whole and so are gaps: each is written in one piece.
        while let Some(gap) = self.gap_in(at..end) {
            let place = usize::try_from(gap.start - offset)
                .ok()
                .zip(usize::try_from(gap.end - offset).ok());
            let part = place.and_then(|(start, end)| data.get(start..end)).unwrap_or_default();
            let written = self.write_data(file, part, gap.start);
            let mut state = self.state();
            if let Err(error) = written {
                // As much as that may be there, until it is whole or looked at again.
                state.stray += part.len() as u64;
                return Err(cache_error(error));
            }
            state.present.insert(gap.clone());
            state.unflushed += group_count(gap.end - gap.start);
            at = gap.end;
        }
        if self.state().unflushed >= FLUSH_GROUPS.max(group_count(self.size) / 64) {
            self.flush(disk).map_err(cache_error)?;
        }
        Ok(())
    }

    /// Writes groups that are absent. Of a file that this process made, with its length, groups of zeros stay the holes that
    /// they are: nothing but what verifies was ever written there.
    fn write_data(&self, file: &dyn DiskFile, data: &[u8], offset: u64) -> Result<()> {
        if self.is_resumed || !has_map(self.size) {
            return file.write_at(data, offset);
        }
        let write = |run: Range<usize>| match data.get(run.clone()) {
            None | Some([]) => Ok(()),
            Some(part) => file.write_at(part, offset + run.start as u64),
        };
        // Neighbours are written in one piece, as they came.
        let mut begun = 0;
        for (at, group) in (0..).step_by(HOLE_BYTES).zip(data.chunks(HOLE_BYTES)) {
            if ZEROS.get(..group.len()) == Some(group) {
                write(begun..at)?;
                begun = at + group.len();
            }
        }
        write(begun..data.len())
    }

    fn gap_in(&self, range: Range<u64>) -> Option<Range<u64>> {
        self.state().present.gap(range)
    }

    /// Writes down which groups are present, for a restart. Losing it costs a restart time, never truth.
    pub(super) fn flush(&self, disk: &dyn Disk) -> Result<()> {
        if !has_map(self.size) {
            return Ok(());
        }
        let _files = self.files();
        let (present, noted) = {
            let state = self.state();
            (state.present.clone(), state.unflushed)
        };
        write_map(disk, &map_path(&self.object), &encode_map(self.size, &present))?;
        self.state().unflushed -= noted;
        Ok(())
    }

    /// Reads exactly `range`, which must be present.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        let is_here = range.end <= self.size && self.state().present.contains(range.clone());
        match self.file.get().filter(|_| is_here) {
            Some(file) => read_exactly(file.as_ref(), self.object, range),
            None => Err(CacheError::Absent {
                object: self.object,
                range,
            }),
        }
    }
}

/// Writes a map over the one before, if there is one. A kill does not stop a write in the middle of a page, so a map of one page
/// is written in place: ext4 writes a file's content out when it takes another one's name, and nobody can open anything in
/// that directory before the disk has it.
fn write_map(disk: &dyn Disk, path: &Path, map: &[u8]) -> Result<()> {
    let is_one_page = map.len() as u64 <= BLOCK_BYTES;
    if is_one_page {
        match disk.open_write(path) {
            Err(error) if error.is_not_found() => {}
            file => return file?.write_at(map, 0),
        }
    }
    let tmp = tmp_path(path);
    discard(disk, &tmp);
    disk.create_new(&tmp)?.write_at(map, 0)?;
    disk.rename(&tmp, path)
}

/// An object of one group is here or not: no map says anything that its hash does not.
fn has_map(size: u64) -> bool {
    group_count(size) > 1
}

/// An object of one group needs no outboard from outside.
fn lone_outboard(object: ObjectId, size: u64) -> Option<Outboard> {
    if Outboard::len_for(size) > 0 {
        return None;
    }
    Outboard::verify(object, size, Bytes::new()).ok()
}

/// Removes all files of a partial object.
pub(super) fn remove_files(disk: &dyn Disk, object: &ObjectId) {
    discard(disk, &partial_path(object));
    remove_side_files(disk, object);
}

/// Removes map and outboard of a partial object.
pub(super) fn remove_side_files(disk: &dyn Disk, object: &ObjectId) {
    discard(disk, &map_path(object));
    discard(disk, &outboard_path(object));
}

/// Reads exactly `range` of a file that must have it.
pub(super) fn read_exactly(file: &dyn DiskFile, object: ObjectId, range: Range<u64>) -> Result<Bytes, CacheError> {
    let len = usize::try_from(range.end.saturating_sub(range.start));
    let Ok(len) = len else {
        return Err(CacheError::Absent { object, range });
    };
    let mut buffer = vec![0; len];
    let read = file.read_at(&mut buffer, range.start);
    let read = read.map_err(|error| read_error(object, error))?;
    if read < len {
        let reason = format!("the file ends at byte {}", range.start + read as u64);
        return Err(CacheError::Damaged { object, reason });
    }
    Ok(buffer.into())
}
