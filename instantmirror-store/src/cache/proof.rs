//! Trust in a whole object that is earned group by group, and the outboard file beside it that makes this possible.
//!
//! An object that was not verified since the process started is opened without being read: each read verifies the
//! groups that it covers, once. What is noted as verified is remembered for as long as the process runs; nothing of it
//! is written down.
//!
//! Invariant: the outboard beside an object is only ever a help. It is hashed up to the object's id whenever it is
//! loaded; one that is missing or damaged costs a pass over the content, never truth.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use instantmirror_core::outboard::{Outboard, group_cover};
use instantmirror_core::{CacheError, ObjectId, RangeSet};

use super::Shared;
use super::layout::{PARTIAL, kept_outboard_path, outboard_path};
use super::partial::{SIDE_FILE_BYTES_MAX, read_exactly};
use crate::disk::{Disk, DiskFile, TMP_SUFFIX, discard, parent_of, read_file};
use crate::error::Result;

/// An object of at most this size is verified as a whole when it is opened: that takes less than a
/// millisecond and gives its readers a descriptor at once.
pub(super) const EAGER_BYTES: u64 = 1 << 20;

/// The groups of one object that this process has verified; shared by its handles, kept in its slot.
pub(super) type Verified = Arc<Mutex<RangeSet>>;

/// How the reads of a whole object are verified until all of it is.
#[derive(Debug)]
pub(super) struct Proof {
    outboard: Outboard,
    verified: Verified,
}

impl Proof {
    pub(super) fn new(outboard: Outboard, verified: Verified) -> Self {
        Self { outboard, verified }
    }

    pub(super) fn outboard(&self) -> &Outboard {
        &self.outboard
    }

    /// Whether every group was verified.
    pub(super) fn is_complete(&self) -> bool {
        self.gap(0..self.outboard.size()).is_none()
    }

    fn gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.gap(range)
    }

    /// Reads `range`, which lies within the object, verifying the groups of it that were not. An error that is
    /// [`CacheError::Verify`] or [`CacheError::Damaged`] means that the content is not the object's.
    pub(super) fn read(&self, file: &dyn DiskFile, range: Range<u64>) -> Result<Bytes, CacheError> {
        let object = self.outboard.object();
        let cover = group_cover(range.clone(), self.outboard.size());
        if self.gap(cover.clone()).is_none() {
            return read_exactly(file, object, range);
        }
        let groups = read_exactly(file, object, cover.clone())?;
        let part = |wanted: &Range<u64>| {
            let place = |at: u64| usize::try_from(at - cover.start).unwrap_or(usize::MAX);
            groups.slice(place(wanted.start)..place(wanted.end))
        };
        // Gaps are whole groups, for only whole groups are noted.
        let mut at = cover.start;
        while let Some(gap) = self.gap(at..cover.end) {
            self.outboard.verify_groups(gap.start, &part(&gap))?;
            self.verified
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(gap.clone());
            at = gap.end;
        }
        Ok(part(&range))
    }
}

impl Shared {
    /// The outboard kept beside a whole object, if it is there and is the object's.
    pub(super) fn load_outboard(&self, object: ObjectId, size: u64) -> Option<Outboard> {
        if Outboard::len_for(size) == 0 {
            return None;
        }
        let values = match read_file(self.disk(), &kept_outboard_path(&object), SIDE_FILE_BYTES_MAX) {
            Ok(values) => values,
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                tracing::warn!(%object, %error, "cannot read an outboard: the object is hashed instead");
                return None;
            }
        };
        let outboard = Outboard::verify(object, size, values.into());
        outboard
            .inspect_err(|error| tracing::warn!(%object, "{error}: the object is hashed instead"))
            .ok()
    }

    /// Keeps an outboard that had to be computed beside its object, unless that has gone meanwhile. Without it the
    /// next start has to compute it again, so a failure is only worth a log line.
    pub(super) fn keep_outboard(&self, outboard: &Outboard, generation: u64) {
        let object = outboard.object();
        if outboard.values().is_empty() {
            return;
        }
        let tmp = self.outboard_tmp(&object);
        let written = self
            .disk()
            .create_new(&tmp)
            .and_then(|file| file.write_at(outboard.values(), 0));
        // Under the lock, so that it never stays behind without its object.
        let table = self.table();
        let kept = written.and_then(|()| {
            if table.is_current(&object, generation) {
                rename_into(self.disk(), &tmp, &kept_outboard_path(&object))
            } else {
                self.disk().remove(&tmp)
            }
        });
        drop(table);
        if let Err(error) = kept {
            tracing::warn!(%object, %error, "cannot keep an outboard");
            discard(self.disk(), &tmp);
        }
    }

    /// A name that no fill uses; a start removes it.
    fn outboard_tmp(&self, object: &ObjectId) -> PathBuf {
        Path::new(PARTIAL).join(format!("{object}.{}{TMP_SUFFIX}", self.next_serial()))
    }
}

/// Moves the outboard of a partial object to where that of the whole one belongs. Not having it is no failure of the
/// object.
pub(super) fn publish_outboard(disk: &dyn Disk, object: &ObjectId) {
    match rename_into(disk, &outboard_path(object), &kept_outboard_path(object)) {
        Err(error) if !error.is_not_found() => tracing::warn!(%object, %error, "cannot keep an outboard"),
        _ => {}
    }
}

/// Undoes [`publish_outboard`], after the object did not get its name: a partial object needs its outboard.
pub(super) fn take_outboard_back(disk: &dyn Disk, object: &ObjectId) {
    match disk.rename(&kept_outboard_path(object), &outboard_path(object)) {
        Err(error) if !error.is_not_found() => tracing::warn!(%object, %error, "cannot move an outboard back"),
        _ => {}
    }
}

/// Renames, making the directory if it is the first object in it. Nothing of it is durable before the next checkpoint:
/// waiting for the disk here, for each of 256 directories, would be all that a new cache does in its first second.
pub(super) fn rename_into(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    match disk.rename(from, to) {
        Err(error) if error.is_not_found() && disk.metadata(from).is_ok() => {
            disk.create_dir(parent_of(to))?;
            disk.rename(from, to)
        }
        renamed => renamed,
    }
}
