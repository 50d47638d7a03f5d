//! What snapshots say of the objects that are here: noted in the table while somebody walks the catalogs.
//!
//! Memory is that of the objects held, not of the trees walked: one byte each while the walk goes on.

use instantmirror_core::ObjectId;
use instantmirror_core::expiry::Standing;

use super::DiskCache;
use crate::Result;

/// Places of the table whose objects are given up under one lock.
const REMOVED_AT_ONCE: u32 = 256;
/// Objects whose standing is set under one lock.
const STEP: usize = 4096;

/// A walk over all live snapshots. What is marked by none of them when it [ends](Self::finish) is garbage; what comes
/// into the cache meanwhile is live. Dropped before, it changes nothing. One at a time: a second one begins anew.
#[derive(Debug)]
#[must_use = "nothing changes before `finish`"]
pub struct Reclassification {
    cache: DiskCache,
}

impl Reclassification {
    pub(super) fn begin(cache: &DiskCache) -> Self {
        cache.shared.table().begin_marks();
        Self { cache: cache.clone() }
    }

    /// A snapshot of this standing refers to these objects. Best called with some hundred at a time.
    pub fn mark<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectId>, standing: Standing) {
        let mut table = self.cache.shared.table();
        objects.into_iter().for_each(|object| table.mark(object, standing));
    }

    /// Takes up what was found. Returns how many objects are garbage now, and how many old.
    pub fn finish(self) -> (usize, usize) {
        let marks = self.cache.shared.table().end_marks().unwrap_or_default();
        for (step, marks) in (0u32..).zip(marks.chunks(STEP)) {
            let from = step.saturating_mul(u32::try_from(STEP).unwrap_or(u32::MAX));
            self.cache.shared.table().apply_marks(from, marks);
        }
        self.cache.shared.table().standings()
    }
}

impl Drop for Reclassification {
    fn drop(&mut self) {
        let _ = self.cache.shared.table().end_marks();
    }
}

impl DiskCache {
    /// Begins to find out which objects no live snapshot refers to, and which only an old one.
    pub fn reclassify(&self) -> Reclassification {
        Reclassification::begin(self)
    }

    /// How many objects were garbage and old by the last [`reclassify`](Self::reclassify), and are still here.
    #[must_use]
    pub fn standings(&self) -> (usize, usize) {
        self.shared.table().standings()
    }

    /// Whether it gives nothing up, because [`hold`](Self::hold) was told that it is not known what has to stay.
    #[must_use]
    pub fn holds_everything(&self) -> bool {
        self.shared.table().holds_everything()
    }

    /// Gives up all objects that were garbage by the last [`reclassify`](Self::reclassify), whether or not there is room;
    /// open handles stay readable. Those that are being filled stay. Returns how many went, and how many bytes that freed:
    /// those of an open one are free when it is closed. Nothing goes while the cache [holds everything](Self::holds_everything).
    ///
    /// # Errors
    /// The disk's; some of them may be gone then.
    pub fn remove_garbage(&self) -> Result<(u64, u64)> {
        self.shared.ensure_loaded()?;
        let (mut count, mut bytes) = (0, 0);
        let mut next = 0;
        loop {
            let (trash, end) = {
                let mut table = self.shared.table();
                let end = table.handles_end();
                let part = next..end.min(next + REMOVED_AT_ONCE);
                let garbage: Vec<ObjectId> = part.filter_map(|handle| table.garbage_at(handle)).collect();
                let mut trash = Vec::with_capacity(garbage.len());
                for object in garbage {
                    trash.push(self.shared.give_up(&mut table, &object, false)?);
                }
                (trash, end)
            };
            for trash in trash {
                count += 1;
                bytes += trash.bytes;
                self.shared.empty_trash(&trash);
            }
            next += REMOVED_AT_ONCE;
            if next >= end {
                return Ok((count, bytes));
            }
        }
    }
}
