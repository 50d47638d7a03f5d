//! The services of a [`MemoryCache`].

use std::collections::HashMap;
use std::sync::Arc;

use super::{MemoryCache, lock};
use crate::ObjectId;
use crate::expiry::Standing;
use crate::traits::{
    CacheError, CacheLimits, CacheObserver, Capacity, FreeSpace, Inventory, Marking, PinSet, Pins, Quota, Standings,
    Sweeper, Swept,
};

/// The findings of a marking so far.
#[derive(Debug)]
pub(super) struct Marks {
    /// When it began, in uses: what came later is live.
    since: u64,
    marked: HashMap<ObjectId, Standing>,
}

impl Pins for MemoryCache {
    fn set_pins(&self, pins: Option<PinSet>) -> Result<(), CacheError> {
        lock(&self.0).table.set_pins(pins);
        self.shrink().map(drop)
    }

    fn pins_everything(&self) -> bool {
        lock(&self.0).table.pins().is_none()
    }
}

impl Inventory for MemoryCache {
    fn observe(&self, observer: Arc<dyn CacheObserver>) {
        lock(&self.0).observer = Some(observer);
    }

    fn each_whole(&self, each: &mut dyn FnMut(ObjectId, u64)) -> Result<(), CacheError> {
        let inner = lock(&self.0);
        let whole = inner.table.iter().filter(|(_, held)| held.is_whole() && held.size > 0);
        // Called without the lock: `each` may ask the cache.
        let whole: Vec<(ObjectId, u64)> = whole.map(|(object, held)| (*object, held.size)).collect();
        drop(inner);
        whole.into_iter().for_each(|(object, size)| each(object, size));
        Ok(())
    }

    fn has_whole(&self, object: &ObjectId) -> Result<bool, CacheError> {
        let inner = lock(&self.0);
        Ok(inner.table.get(object).is_some_and(super::Held::is_whole))
    }
}

impl Quota for MemoryCache {
    fn limits(&self) -> CacheLimits {
        lock(&self.0).limits
    }

    fn set_limits(&self, limits: CacheLimits) {
        lock(&self.0).limits = limits;
    }

    fn shrink(&self) -> Result<bool, CacheError> {
        let mut inner = lock(&self.0);
        while inner.is_short(0, 0) {
            if !inner.evict(None) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn capacity(&self) -> Result<Capacity, CacheError> {
        let limits = lock(&self.0).limits;
        Ok(Capacity {
            objects: limits.max_objects.unwrap_or(u64::MAX),
            bytes: limits.max_bytes.unwrap_or(u64::MAX),
        })
    }

    fn has_room(&self, more: Capacity) -> Result<bool, CacheError> {
        let inner = lock(&self.0);
        let garbage = inner.table.tally(Standing::Garbage);
        let objects = more.objects.saturating_sub(garbage.objects);
        let bytes = more.bytes.saturating_sub(garbage.bytes);
        Ok(!inner.is_short(objects, bytes))
    }

    fn free_space(&self) -> Result<Option<FreeSpace>, CacheError> {
        Ok(None)
    }
}

impl Sweeper for MemoryCache {
    fn mark(&self) -> Box<dyn Marking + '_> {
        let mut inner = lock(&self.0);
        let since = inner.touch();
        let marked = HashMap::new();
        inner.marks = Some(Marks { since, marked });
        Box::new(MemoryMarking(self, since))
    }

    fn standings(&self) -> Standings {
        let inner = lock(&self.0);
        let count = |standing| usize::try_from(inner.table.tally(standing).objects).unwrap_or(usize::MAX);
        Standings {
            garbage: count(Standing::Garbage),
            old: count(Standing::Old),
        }
    }

    fn sweep(&self) -> Result<Swept, CacheError> {
        let mut inner = lock(&self.0);
        let garbage = inner.table.idle_garbage();
        for (object, _) in &garbage {
            inner.remove(object);
        }
        Ok(Swept {
            objects: garbage.len() as u64,
            bytes: garbage.iter().map(|(_, bytes)| bytes).sum(),
        })
    }
}

/// The marking that began at this use.
#[derive(Debug)]
struct MemoryMarking<'a>(&'a MemoryCache, u64);

impl Marking for MemoryMarking<'_> {
    fn mark(&self, objects: &[ObjectId], standing: Standing) {
        let mut inner = lock(&self.0.0);
        let Some(marks) = inner.marks.as_mut().filter(|marks| marks.since == self.1) else {
            return;
        };
        for object in objects {
            let mark = marks.marked.entry(*object).or_insert(standing);
            *mark = standing.max(*mark);
        }
    }

    fn finish(self: Box<Self>) -> Standings {
        let mut inner = lock(&self.0.0);
        if let Some(marks) = inner.marks.take_if(|marks| marks.since == self.1) {
            inner.table.set_standings(|object, held| {
                let marked = marks.marked.get(object).copied();
                (held.since < marks.since).then_some(marked.unwrap_or(Standing::Garbage))
            });
        }
        drop(inner);
        self.0.standings()
    }
}

impl Drop for MemoryMarking<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.0.0);
        inner.marks.take_if(|marks| marks.since == self.1);
    }
}
