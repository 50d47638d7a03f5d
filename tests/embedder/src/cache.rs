//! [`ShelfCache`]: objects in memory, group by group; the one that was used longest ago goes first.
//!
//! It offers no service beside the cache itself, so a node goes without all of them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use instantmirror::core::outboard::{GROUP_BYTES, ObjectHasher, VerifyError};
use instantmirror::core::traits::{CacheUsage, ObjectCache, ObjectFill, ObjectHandle, Objects};
use instantmirror::core::{CacheError, ObjectId, Outboard, RangeSet};

/// A cache in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct ShelfCache {
    max: Option<u64>,
    /// Bytes that somebody can still read, also of objects that have gone from the shelf.
    used: Arc<AtomicU64>,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    reserved: u64,
    evicted: u64,
    uses: u64,
    places: HashMap<ObjectId, Place>,
}

#[derive(Debug)]
struct Place {
    thing: Arc<Thing>,
    last_use: u64,
    is_filling: bool,
}

/// An object, as long as anybody has it.
#[derive(Debug)]
struct Thing {
    object: ObjectId,
    size: u64,
    used: Arc<AtomicU64>,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    groups: BTreeMap<u64, Bytes>,
    present: RangeSet,
    outboard: Option<Outboard>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Thing {
    fn drop(&mut self) {
        let bytes = lock(&self.content).present.len();
        self.used.fetch_sub(bytes, Ordering::SeqCst);
    }
}

impl Thing {
    fn here(&self) -> u64 {
        lock(&self.content).present.len()
    }

    /// The bytes of a range, all of which must be here.
    fn bytes(&self, range: Range<u64>) -> Option<Bytes> {
        let content = lock(&self.content);
        if !content.present.contains(range.clone()) || range.end > self.size {
            return None;
        }
        let mut bytes = BytesMut::new();
        let first = range.start / GROUP_BYTES * GROUP_BYTES;
        for (at, group) in content.groups.range(first..range.end) {
            let from = range.start.saturating_sub(*at);
            let to = (range.end - at).min(group.len() as u64);
            bytes.extend_from_slice(group.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)?);
        }
        Some(bytes.freeze())
    }
}

impl ShelfCache {
    /// An empty cache of at most so many bytes.
    pub fn new(max: Option<u64>) -> Self {
        let (used, shelf) = Default::default();
        Self { max, used, shelf }
    }

    /// Makes room for so many bytes more of an object.
    fn make_room(&self, shelf: &mut Shelf, object: ObjectId, size: u64, more: u64) -> Result<(), CacheError> {
        let max = self.max.unwrap_or(u64::MAX);
        if size > max {
            return Err(CacheError::TooLarge { object, size, max });
        }
        while self
            .used
            .load(Ordering::SeqCst)
            .saturating_add(shelf.reserved)
            .saturating_add(more)
            > max
        {
            let is_idle = |place: &Place| !place.is_filling && Arc::strong_count(&place.thing) == 1;
            let idle = shelf
                .places
                .iter()
                .filter(|(id, place)| **id != object && is_idle(place));
            let oldest = idle.min_by_key(|(_, place)| place.last_use).map(|(id, _)| *id);
            let oldest = oldest.ok_or(CacheError::Full { object, size })?;
            shelf.places.remove(&oldest);
            shelf.evicted += 1;
        }
        Ok(())
    }
}

impl Shelf {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }
}

#[async_trait]
impl Objects for ShelfCache {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let mut shelf = lock(&self.shelf);
        let last_use = shelf.next_use();
        Ok(shelf.places.get_mut(object).map(|place| {
            place.last_use = last_use;
            Arc::new(Handle(Arc::clone(&place.thing))) as Arc<dyn ObjectHandle>
        }))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let thing = lock(&self.shelf)
            .places
            .get(object)
            .map(|place| Arc::clone(&place.thing));
        let Some(thing) = thing else { return Ok(None) };
        let known = lock(&thing.content).outboard.clone();
        Ok(known.or_else(|| {
            let mut hasher = ObjectHasher::new();
            hasher.update(&thing.bytes(0..thing.size)?);
            Some(hasher.finish())
        }))
    }
}

#[async_trait]
impl ObjectCache for ShelfCache {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        let needs_none = Outboard::len_for(size) == 0;
        let outboard = needs_none.then(|| Outboard::verify(*object, size, Bytes::new()));
        let outboard = outboard.transpose()?;
        let mut shelf = lock(&self.shelf);
        let known = shelf
            .places
            .get(object)
            .map(|place| (place.is_filling, place.thing.size, place.thing.here()));
        let here = match known {
            Some((true, ..)) => return Err(CacheError::Busy(*object)),
            Some((_, held, here)) if held == size => here,
            Some((_, held, here)) if held == here => return Err(VerifyError::Outboard(*object).into()),
            Some(_) => {
                shelf.places.remove(object);
                0
            }
            None => 0,
        };
        self.make_room(&mut shelf, *object, size, size - here)?;
        shelf.reserved += size - here;
        let last_use = shelf.next_use();
        let place = shelf.places.entry(*object).or_insert_with(|| {
            let content = Mutex::new(Content {
                outboard,
                ..Content::default()
            });
            let (object, used) = (*object, Arc::clone(&self.used));
            let thing = Arc::new(Thing {
                object,
                size,
                used,
                content,
            });
            Place {
                thing,
                last_use,
                is_filling: false,
            }
        });
        place.is_filling = true;
        Ok(Arc::new(Fill {
            cache: self.clone(),
            thing: Arc::clone(&place.thing),
        }))
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        let mut shelf = lock(&self.shelf);
        if shelf.places.get(object).is_some_and(|place| place.is_filling) {
            return Err(CacheError::Busy(*object));
        }
        Ok(shelf.places.remove(object).is_some())
    }

    fn usage(&self) -> CacheUsage {
        let shelf = lock(&self.shelf);
        CacheUsage {
            used_bytes: self.used.load(Ordering::SeqCst),
            reserved_bytes: shelf.reserved,
            max_bytes: self.max,
            objects: shelf.places.len() as u64,
            evicted: shelf.evicted,
            ..CacheUsage::default()
        }
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Handle(Arc<Thing>);

#[async_trait]
impl ObjectHandle for Handle {
    fn object(&self) -> ObjectId {
        self.0.object
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn present(&self) -> RangeSet {
        lock(&self.0.content).present.clone()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        let object = self.0.object;
        self.0.bytes(range.clone()).ok_or(CacheError::Absent { object, range })
    }
}

#[derive(Debug)]
struct Fill {
    cache: ShelfCache,
    thing: Arc<Thing>,
}

#[async_trait]
impl ObjectFill for Fill {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        Arc::new(Handle(Arc::clone(&self.thing)))
    }

    fn outboard(&self) -> Option<Outboard> {
        lock(&self.thing.content).outboard.clone()
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        if (outboard.object(), outboard.size()) != (self.thing.object, self.thing.size) {
            return Err(VerifyError::Outboard(self.thing.object).into());
        }
        lock(&self.thing.content).outboard = Some(outboard);
        Ok(())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        let mut shelf = lock(&self.cache.shelf);
        let mut content = lock(&self.thing.content);
        let outboard = content
            .outboard
            .as_ref()
            .ok_or(VerifyError::Outboard(self.thing.object))?;
        outboard.verify_groups(offset, &data)?;
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let group = rest.split_to(rest.len().min(usize::try_from(GROUP_BYTES).unwrap_or(usize::MAX)));
            let (range, len) = (at..at + group.len() as u64, group.len() as u64);
            at = range.end;
            if !content.present.contains(range.clone()) {
                content.groups.insert(range.start, group);
                content.present.insert(range);
                shelf.reserved -= len;
                self.cache.used.fetch_add(len, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    async fn finish(&self) -> Result<(), CacheError> {
        let (object, gap) = (
            self.thing.object,
            lock(&self.thing.content).present.gap(0..self.thing.size),
        );
        gap.map_or(Ok(()), |range| Err(CacheError::Absent { object, range }))
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let mut shelf = lock(&self.cache.shelf);
        let here = self.thing.here();
        shelf.reserved -= self.thing.size - here;
        if let Some(place) = shelf.places.get_mut(&self.thing.object) {
            place.is_filling = false;
        }
        if here == 0 && self.thing.size > 0 {
            shelf.places.remove(&self.thing.object);
        }
    }
}
