//! [`Verifying`]: a cache that is not believed. Whatever it reads is held against the object's id before anybody has it.
//!
//! Decision: the caches of this project verify by themselves, once, and send from descriptors afterwards; a cache that an embedder
//! brings gets its promises checked, which costs one pass of BLAKE3 over each group that is read or written.
//!
//! Invariant: no byte leaves, and none is handed to the cache, that an outboard of the object does not prove. What does not prove
//! right when it is read is removed, so that it is fetched again, and the log names the cache; what does not when it is written is
//! the fault of its source, which is told so.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::outboard::{Outboard, VerifyError, group_cover};
use instantmirror_core::traits::{
    Adoption, CacheError, CacheUsage, Inventory, ObjectCache, ObjectFill, ObjectHandle, Objects, Pins, Quota, Scrubber,
    Sweeper,
};
use instantmirror_core::{ObjectId, RangeSet};

use crate::verifying_store::proved_part;

/// An [`ObjectCache`] around one that may be wrong.
#[derive(Debug, Clone)]
pub(super) struct Verifying {
    inner: Arc<dyn ObjectCache>,
    /// What the log calls it.
    name: &'static str,
}

impl Verifying {
    pub(super) fn new(inner: Arc<dyn ObjectCache>, name: &'static str) -> Self {
        Self { inner, name }
    }

    /// Says that the cache was wrong about an object, and removes it.
    async fn damaged(&self, object: ObjectId, reason: &str) -> CacheError {
        let cache = self.name;
        tracing::error!(cache, %object, "the cache is wrong: {reason}; the object is removed, and fetched again when it is asked for");
        if let Err(error) = self.inner.remove(&object).await {
            tracing::debug!(cache, %object, "not removed: {error}");
        }
        CacheError::Damaged {
            object,
            reason: reason.to_owned(),
        }
    }

    /// The outboard, if it is that of an object of this size.
    async fn outboard_of(&self, object: ObjectId, size: u64) -> Result<Option<Outboard>, CacheError> {
        if Outboard::len_for(size) == 0 {
            return Ok(Some(Outboard::verify(object, size, Bytes::new())?));
        }
        let Some(outboard) = self.inner.outboard(&object).await? else {
            return Ok(None);
        };
        if (outboard.object(), outboard.size()) != (object, size) {
            return Err(self.damaged(object, "its outboard is another object's").await);
        }
        Ok(Some(outboard))
    }

    fn handle(&self, inner: Arc<dyn ObjectHandle>, object: ObjectId, outboard: Known) -> Arc<dyn ObjectHandle> {
        Arc::new(VerifyingHandle {
            cache: self.clone(),
            inner,
            object,
            outboard,
        })
    }
}

#[async_trait]
impl Objects for Verifying {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let Some(handle) = self.inner.open(object).await? else {
            return Ok(None);
        };
        // Now, since a handle outlives the removal of its object, and the outboard does not.
        let known = Known::default();
        known.set(self.outboard_of(*object, handle.size()).await?);
        Ok(Some(self.handle(handle, *object, known)))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let outboard = self.inner.outboard(object).await?;
        match outboard {
            Some(outboard) if outboard.object() != *object => {
                Err(self.damaged(*object, "its outboard is another object's").await)
            }
            outboard => Ok(outboard),
        }
    }
}

#[async_trait]
impl ObjectCache for Verifying {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        let (inner, cache) = (self.inner.fill(object, size).await?, self.clone());
        let (object, known) = (*object, Known::default());
        known.set(
            inner
                .outboard()
                .filter(|outboard| (outboard.object(), outboard.size()) == (object, size)),
        );
        Ok(Arc::new(VerifyingFill {
            cache,
            inner,
            object,
            size,
            known,
        }))
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        self.inner.remove(object).await
    }

    fn overhead_bytes(&self, size: u64) -> u64 {
        self.inner.overhead_bytes(size)
    }

    fn usage(&self) -> CacheUsage {
        self.inner.usage()
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        self.inner.checkpoint().await
    }

    fn pins(&self) -> Option<&dyn Pins> {
        self.inner.pins()
    }

    fn inventory(&self) -> Option<&dyn Inventory> {
        self.inner.inventory()
    }

    fn quota(&self) -> Option<&dyn Quota> {
        self.inner.quota()
    }

    fn sweeper(&self) -> Option<&dyn Sweeper> {
        self.inner.sweeper()
    }

    fn scrubber(&self) -> Option<&dyn Scrubber> {
        self.inner.scrubber()
    }

    fn adoption(&self) -> Option<&dyn Adoption> {
        self.inner.adoption()
    }
}

#[derive(Debug)]
struct VerifyingHandle {
    cache: Verifying,
    inner: Arc<dyn ObjectHandle>,
    object: ObjectId,
    outboard: Known,
}

/// The outboard of an object, once it is known; that of a fill is shared with its handles.
#[derive(Debug, Clone, Default)]
struct Known(Arc<Mutex<Option<Outboard>>>);

impl Known {
    fn get(&self) -> Option<Outboard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, outboard: Option<Outboard>) {
        if outboard.is_some() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = outboard;
        }
    }
}

impl VerifyingHandle {
    async fn outboard(&self) -> Result<Option<Outboard>, CacheError> {
        if let Some(known) = self.outboard.get() {
            return Ok(Some(known));
        }
        let outboard = self.cache.outboard_of(self.object, self.inner.size()).await?;
        self.outboard.set(outboard.clone());
        Ok(outboard)
    }
}

#[async_trait]
impl ObjectHandle for VerifyingHandle {
    fn object(&self) -> ObjectId {
        self.object
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn present(&self) -> RangeSet {
        self.inner.present()
    }

    fn is_complete(&self) -> bool {
        self.inner.is_complete()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        let object = self.object;
        let size = self.inner.size();
        if range.start >= range.end || range.end > size {
            // Nothing to prove: no byte comes of it.
            let nothing = self.inner.read(range.clone()).await?;
            return match nothing.is_empty() {
                true => Ok(nothing),
                false => Err(self.cache.damaged(object, "it has bytes where there are none").await),
            };
        }
        let cover = group_cover(range.clone(), size);
        let data = self.inner.read(cover.clone()).await?;
        let Some(outboard) = self.outboard().await? else {
            return Err(CacheError::Absent { object, range });
        };
        match proved_part(&outboard, &cover, &data, &range) {
            Some(part) => Ok(part),
            None => Err(self
                .cache
                .damaged(object, "it returned other bytes than the object's")
                .await),
        }
    }
}

#[derive(Debug)]
struct VerifyingFill {
    cache: Verifying,
    inner: Arc<dyn ObjectFill>,
    object: ObjectId,
    size: u64,
    known: Known,
}

impl VerifyingFill {
    fn is_of_object(&self, outboard: &Outboard) -> bool {
        (outboard.object(), outboard.size()) == (self.object, self.size)
    }

    /// What proves the groups of the object, once it is known.
    fn proof(&self) -> Result<Outboard, VerifyError> {
        if Outboard::len_for(self.size) == 0 {
            return Outboard::verify(self.object, self.size, Bytes::new());
        }
        let known = self.known.get().or_else(|| self.inner.outboard());
        known
            .filter(|outboard| self.is_of_object(outboard))
            .ok_or(VerifyError::Outboard(self.object))
    }
}

#[async_trait]
impl ObjectFill for VerifyingFill {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        self.cache.handle(self.inner.handle(), self.object, self.known.clone())
    }

    fn outboard(&self) -> Option<Outboard> {
        self.inner.outboard().filter(|outboard| self.is_of_object(outboard))
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        let known = outboard.clone();
        self.inner.set_outboard(outboard).await?;
        self.known.set(Some(known).filter(|known| self.is_of_object(known)));
        Ok(())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        self.proof()?.verify_groups(offset, &data)?;
        self.inner.write(offset, data).await
    }

    async fn finish(&self) -> Result<(), CacheError> {
        self.inner.finish().await
    }
}

#[cfg(test)]
mod tests;
