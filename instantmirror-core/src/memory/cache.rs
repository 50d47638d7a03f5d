//! [`ObjectCache`] in memory, with least-recently-used expiry among what snapshots rank equal.

mod content;
mod services;
mod table;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use self::content::{Content, Counts};
use self::table::{Held, Table};
use crate::expiry::Standing;
use crate::outboard::{GROUP_BYTES, Outboard, VerifyError};
use crate::traits::{
    CacheError, CacheEvent, CacheLimits, CacheObserver, CacheUsage, Inventory, ObjectCache, ObjectFill, ObjectHandle,
    Objects, Pins, Quota, Sweeper,
};
use crate::{ObjectId, RangeSet};

/// An [`ObjectCache`] that forgets everything when it is dropped. It has [`Pins`], an [`Inventory`], a [`Quota`] and a [`Sweeper`];
/// clones share one cache.
#[derive(Debug, Clone)]
pub struct MemoryCache(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    limits: CacheLimits,
    /// Also of what was removed while somebody held it, until the last handle is dropped.
    counts: Arc<Counts>,
    reserved: u64,
    evicted: u64,
    uses: u64,
    table: Table,
    observer: Option<Arc<dyn CacheObserver>>,
    marks: Option<services::Marks>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn used(&self) -> u64 {
        self.counts.used.load(Ordering::Relaxed)
    }

    fn side(&self) -> u64 {
        self.counts.side.load(Ordering::Relaxed)
    }

    fn remove(&mut self, object: &ObjectId) -> bool {
        let removed = self.table.remove(object).is_some();
        if removed {
            self.tell(CacheEvent::Gone { object: *object });
        }
        removed
    }

    fn tell(&self, event: CacheEvent) {
        if let Some(observer) = &self.observer {
            observer.changed(event);
        }
    }

    fn touch(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// The content of an object, which comes now unless it is here.
    fn content(&mut self, object: &ObjectId, size: u64, outboard: Option<Outboard>) -> Arc<Mutex<Content>> {
        if let Some(held) = self.table.get(object) {
            return Arc::clone(&held.content);
        }
        let content = Content::new(size, outboard, Arc::clone(&self.counts));
        let content = Arc::new(Mutex::new(content));
        let since = self.touch();
        let held = Held {
            content: Arc::clone(&content),
            size,
            bytes: 0,
            since,
            last_use: since,
            standing: Standing::default(),
            filling: false,
        };
        self.table.insert(*object, held);
        content
    }

    /// No limit is half of what a `u64` counts, so that sums of sizes that somebody states do not overflow.
    fn max_bytes(&self) -> u64 {
        let most = u64::MAX / 2;
        self.limits.max_bytes.map_or(most, |max| max.min(most))
    }

    /// Whether `objects` and `bytes` more than there are now are beyond the limits.
    fn is_short(&self, objects: u64, bytes: u64) -> bool {
        let committed = (self.used() + self.side() + self.reserved).saturating_add(bytes);
        let count = self.table.len().saturating_add(objects);
        committed > self.max_bytes() || count > self.limits.max_objects.unwrap_or(u64::MAX)
    }

    /// Evicts the least valuable object but `kept`. False if all are in use or pinned.
    fn evict(&mut self, kept: Option<&ObjectId>) -> bool {
        let Some(object) = self.table.least(kept) else {
            return false;
        };
        self.remove(&object);
        self.evicted += 1;
        true
    }

    /// Evicts objects until `bytes` more fit.
    fn make_room(&mut self, object: &ObjectId, bytes: u64, size: u64) -> Result<(), CacheError> {
        let max = self.max_bytes();
        if size.saturating_add(Outboard::len_for(size)) > max || self.limits.max_objects == Some(0) {
            let object = *object;
            return Err(CacheError::TooLarge { object, size, max });
        }
        let new = u64::from(self.table.get(object).is_none());
        while self.is_short(new, bytes) {
            if !self.evict(Some(object)) {
                return Err(CacheError::Full { object: *object, size });
            }
        }
        Ok(())
    }
}

impl MemoryCache {
    /// An empty cache of at most `max_bytes` bytes of content.
    #[must_use]
    pub fn new(max_bytes: Option<u64>) -> Self {
        Self::with_limits(CacheLimits {
            max_bytes,
            ..CacheLimits::default()
        })
    }

    /// An empty cache within these limits; there is no file system on which it could keep anything free.
    #[must_use]
    pub fn with_limits(limits: CacheLimits) -> Self {
        let inner = Inner {
            limits,
            counts: Arc::default(),
            reserved: 0,
            evicted: 0,
            uses: 0,
            table: Table::new(),
            observer: None,
            marks: None,
        };
        Self(Arc::new(Mutex::new(inner)))
    }
}

#[async_trait]
impl Objects for MemoryCache {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let mut inner = lock(&self.0);
        let last_use = inner.touch();
        inner.table.set_last_use(object, last_use);
        let Some(held) = inner.table.get(object) else {
            return Ok(None);
        };
        Ok(Some(Arc::new(MemoryHandle {
            object: *object,
            content: Arc::clone(&held.content),
        })))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let inner = lock(&self.0);
        let Some(held) = inner.table.get(object) else {
            return Ok(None);
        };
        Ok(lock(&held.content).outboard())
    }
}

#[async_trait]
impl ObjectCache for MemoryCache {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        let own = if Outboard::len_for(size) == 0 {
            Some(Outboard::verify(*object, size, Bytes::new())?)
        } else {
            None
        };
        let mut inner = lock(&self.0);
        if inner.table.get(object).is_some_and(|held| held.filling) {
            return Err(CacheError::Busy(*object));
        }
        let (stated, here, side) = inner
            .table
            .get(object)
            .map_or((size, 0, 0), |held| (held.size, held.bytes, lock(&held.content).side()));
        if stated != size {
            if here == stated {
                // It was verified, so the size asked for is wrong.
                return Err(VerifyError::Outboard(*object).into());
            }
            inner.remove(object);
        }
        let (here, side) = if stated == size { (here, side) } else { (0, 0) };
        let missing = (size - here).saturating_add(Outboard::len_for(size) - side);
        inner.make_room(object, missing, size)?;
        inner.reserved += missing;
        let handle = MemoryHandle {
            object: *object,
            content: inner.content(object, size, own),
        };
        inner.table.set_filling(object, true);
        Ok(Arc::new(MemoryFill {
            cache: self.clone(),
            handle,
        }))
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        let mut inner = lock(&self.0);
        if inner.table.get(object).is_some_and(|held| held.filling) {
            return Err(CacheError::Busy(*object));
        }
        Ok(inner.remove(object))
    }

    fn overhead_bytes(&self, size: u64) -> u64 {
        Outboard::len_for(size)
    }

    fn usage(&self) -> CacheUsage {
        let inner = lock(&self.0);
        CacheUsage {
            used_bytes: inner.used(),
            reserved_bytes: inner.reserved,
            side_bytes: inner.side(),
            max_bytes: inner.limits.max_bytes,
            objects: inner.table.len(),
            damaged: 0,
            evicted: inner.evicted,
        }
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        Ok(())
    }

    fn pins(&self) -> Option<&dyn Pins> {
        Some(self)
    }

    fn inventory(&self) -> Option<&dyn Inventory> {
        Some(self)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        Some(self)
    }

    fn sweeper(&self) -> Option<&dyn Sweeper> {
        Some(self)
    }
}

#[derive(Debug, Clone)]
struct MemoryHandle {
    object: ObjectId,
    content: Arc<Mutex<Content>>,
}

#[async_trait]
impl ObjectHandle for MemoryHandle {
    fn object(&self) -> ObjectId {
        self.object
    }

    fn size(&self) -> u64 {
        lock(&self.content).size
    }

    fn present(&self) -> RangeSet {
        lock(&self.content).present().clone()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        let data = lock(&self.content).read(&range);
        data.ok_or(CacheError::Absent {
            object: self.object,
            range,
        })
    }
}

#[derive(Debug)]
struct MemoryFill {
    cache: MemoryCache,
    handle: MemoryHandle,
}

impl MemoryFill {
    /// Tells what a write has brought, if it has brought anything.
    fn tell(&self, inner: &Inner, content: &Content, range: Range<u64>, added: u64) {
        let (object, size) = (self.handle.object, content.size);
        if added == 0 {
            return;
        }
        if size > GROUP_BYTES {
            inner.tell(CacheEvent::Arrived { object, size, range });
        }
        if content.is_whole() {
            inner.tell(CacheEvent::Whole { object, size });
        }
    }
}

#[async_trait]
impl ObjectFill for MemoryFill {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        Arc::new(self.handle.clone())
    }

    fn outboard(&self) -> Option<Outboard> {
        lock(&self.handle.content).known_outboard().cloned()
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        // The cache is locked so that side and reserved change together.
        let mut inner = lock(&self.cache.0);
        let mut content = lock(&self.handle.content);
        if outboard.object() != self.handle.object || outboard.size() != content.size {
            return Err(VerifyError::Outboard(self.handle.object).into());
        }
        inner.reserved -= content.set_outboard(&outboard)?;
        Ok(())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        let outboard = lock(&self.handle.content).known_outboard().cloned();
        let missing = VerifyError::Outboard(self.handle.object);
        outboard.ok_or(missing)?.verify_groups(offset, &data)?;
        // The cache is locked so that used and reserved change together.
        let mut inner = lock(&self.cache.0);
        let mut content = lock(&self.handle.content);
        let added = content.insert(offset, &data);
        inner.reserved -= added;
        inner.table.add_bytes(&self.handle.object, added);
        self.tell(&inner, &content, offset..offset + data.len() as u64, added);
        Ok(())
    }

    async fn finish(&self) -> Result<(), CacheError> {
        let content = lock(&self.handle.content);
        match content.present().gap(0..content.size) {
            Some(range) => Err(CacheError::Absent {
                object: self.handle.object,
                range,
            }),
            None => Ok(()),
        }
    }
}

impl Drop for MemoryFill {
    fn drop(&mut self) {
        let mut inner = lock(&self.cache.0);
        let (size, present, side) = {
            let content = lock(&self.handle.content);
            (content.size, content.present().len(), content.side())
        };
        inner.reserved -= size - present + Outboard::len_for(size) - side;
        let empty = present == 0 && size > 0;
        inner.table.set_filling(&self.handle.object, false);
        if empty {
            inner.remove(&self.handle.object);
        }
    }
}
