//! Opening an object: a whole one, verified where the policy asks for it, or what is there of a partial one.

use std::sync::Arc;

use instantmirror_core::outboard::{ObjectHasher, Outboard};
use instantmirror_core::{CacheError, ObjectId};

use super::fill::{DiskHandle, Lease};
use super::layout::object_path;
use super::partial::{Partial, read_exactly};
use super::proof::{EAGER_BYTES, Proof, Verified};
use super::{OTHER_HASH, Shared, VERIFY_BYTES, VerifyWhen, cache_error, read_error};
use crate::disk::DiskFile;

impl Shared {
    /// Opens whatever is here of an object, verifying it where the policy asks for it.
    pub(super) fn open_object(shared: &Arc<Self>, object: &ObjectId) -> Result<Option<DiskHandle>, CacheError> {
        shared.adopt(object).map_err(cache_error)?;
        let (lease, whole, open) = {
            let mut table = shared.table();
            let Some(generation) = table.lease(object) else {
                return Ok(None);
            };
            let lease = Lease::new(shared, *object, generation);
            let Some(slot) = table.slot(object) else {
                return Ok(None);
            };
            (lease, slot.whole, slot.partial())
        };
        if whole {
            return shared.open_whole(lease);
        }
        let partial = match open {
            Some(partial) => partial,
            None => match shared.resume(&lease)? {
                Some(partial) => partial,
                None => return Ok(None),
            },
        };
        Ok(Some(DiskHandle::of_partial(partial, lease)))
    }

    fn open_whole(&self, lease: Lease) -> Result<Option<DiskHandle>, CacheError> {
        let object = lease.object();
        let file = match self.disk.open(&object_path(&object)) {
            Err(error) if error.is_not_found() => {
                self.forget_vanished(&mut self.table(), &object);
                return Ok(None);
            }
            Err(error) => return Err(self.blame_file(read_error(object, error), lease.generation())),
            Ok(file) => file,
        };
        let len = file.len().map_err(cache_error)?;
        let expected = self.table().slot(&object).map_or(len, |slot| slot.size);
        if len != expected {
            let reason = format!("it has {len} bytes instead of {expected}");
            return Err(self.put_aside(&object, lease.generation(), &reason));
        }
        let proof = if self.must_verify(&object) {
            self.prove(file.as_ref(), len, &lease)?
        } else {
            None
        };
        Ok(Some(DiskHandle::of_whole(file, len, proof, lease)))
    }

    /// Verifies a whole object at once (then there is nothing to return), or finds out how its reads are verified.
    fn prove(&self, file: &dyn DiskFile, size: u64, lease: &Lease) -> Result<Option<Arc<Proof>>, CacheError> {
        let (object, generation) = (lease.object(), lease.generation());
        if size > EAGER_BYTES {
            if let Some(open) = self.shared_proof(&object) {
                return Ok(Some(open));
            }
            if let Some(outboard) = self.load_outboard(object, size) {
                return Ok(Some(self.begin_proof(outboard, generation)));
            }
        }
        let outboard = hash_with(size, |range| read_exactly(file, object, range))
            .map_err(|error| self.blame_file(error, generation))?;
        if outboard.object() != object {
            return Err(self.put_aside(&object, generation, OTHER_HASH));
        }
        self.table().set_checked(&object, generation);
        if size > EAGER_BYTES {
            // It was not there or of no use, else nothing would have been hashed.
            self.keep_outboard(&outboard, generation);
        }
        Ok(None)
    }

    fn shared_proof(&self, object: &ObjectId) -> Option<Arc<Proof>> {
        let table = self.table();
        let slot = table.slot(object).filter(|_| self.verify != VerifyWhen::Always);
        slot.and_then(|slot| slot.proof())
    }

    /// What other handles have verified counts, except where every open is to verify anew.
    fn begin_proof(&self, outboard: Outboard, generation: u64) -> Arc<Proof> {
        let mut table = self.table();
        let object = outboard.object();
        if self.verify != VerifyWhen::Always {
            let make = |verified| Arc::new(Proof::new(outboard.clone(), verified));
            if let Some(shared) = table.share_proof(&object, generation, make) {
                return shared;
            }
        }
        Arc::new(Proof::new(outboard, Verified::default()))
    }

    pub(super) fn must_verify(&self, object: &ObjectId) -> bool {
        let table = self.table();
        let Some(slot) = table.slot(object) else { return true };
        match self.verify {
            VerifyWhen::Always => true,
            VerifyWhen::FirstUse => !slot.checked,
            VerifyWhen::Doubtful => !slot.trusted,
        }
    }

    /// Opens an idle partial object; `None` (and it is gone) if no group of it can be used. Of several callers one
    /// wins, and all get the same.
    pub(super) fn resume(&self, lease: &Lease) -> Result<Option<Arc<Partial>>, CacheError> {
        let object = lease.object();
        let resumed = match Partial::resume(self.disk(), object) {
            Err(error) if error.is_not_found() => None,
            resumed => Some(Arc::new(resumed.map_err(cache_error)?)),
        };
        self.take_up(lease, resumed)
    }

    /// Takes up what was read of a partial object, unless it was completed or given up meanwhile.
    pub(super) fn take_up(
        &self,
        lease: &Lease,
        resumed: Option<Arc<Partial>>,
    ) -> Result<Option<Arc<Partial>>, CacheError> {
        let object = lease.object();
        let mut table = self.table();
        let Some(slot) = table.slot(&object) else {
            return Ok(None);
        };
        if let Some(open) = slot.partial() {
            return Ok(Some(open));
        }
        let usable = resumed.filter(|partial| partial.present_bytes() > 0);
        if slot.whole || !table.is_current(&object, lease.generation()) {
            return Ok(usable);
        }
        let Some(partial) = usable else {
            if !slot.filling {
                let trash = self.give_up(&mut table, &object, false).map_err(cache_error)?;
                drop(table);
                self.empty_trash(&trash);
            }
            return Ok(None);
        };
        table.set_partial(&object, &partial);
        table.set_held(&object, lease.generation(), partial.held_bytes());
        Ok(Some(partial))
    }
}

/// Hashes content part by part.
pub(super) fn hash_with(
    size: u64,
    read: impl Fn(std::ops::Range<u64>) -> Result<bytes::Bytes, CacheError>,
) -> Result<Outboard, CacheError> {
    let mut hasher = ObjectHasher::new();
    let mut start = 0;
    while start < size {
        let end = (start + VERIFY_BYTES).min(size);
        hasher.update(&read(start..end)?);
        start = end;
    }
    Ok(hasher.finish())
}
