//! The cache and the catalogs of a node, whatever implements them, and what the node does where they lack a service.

use std::sync::Arc;

use instantmirror_core::ObjectId;
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::traits::blocking::wait;
use instantmirror_core::traits::{
    CacheError, CacheLimits, Capacity, FreeSpace, Inventory, ObjectCache, SnapshotStore, Standings, Sweeper,
};

/// The cache of a node: an [`ObjectCache`] and, where it lacks a service that can be done without, the next best answer.
#[derive(Debug, Clone)]
pub(crate) struct NodeCache(Arc<dyn ObjectCache>);

impl std::ops::Deref for NodeCache {
    type Target = dyn ObjectCache;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

impl NodeCache {
    pub(crate) fn new(cache: Arc<dyn ObjectCache>) -> Self {
        Self(cache)
    }

    /// The cache itself.
    pub(crate) fn shared(&self) -> Arc<dyn ObjectCache> {
        Arc::clone(&self.0)
    }

    /// Whether a whole object is here. Without an inventory the object is opened, which counts as a use. May block.
    pub(crate) fn has_whole(&self, object: &ObjectId) -> Result<bool, CacheError> {
        match self.inventory() {
            Some(inventory) => inventory.has_whole(object),
            None => wait(self.opens_whole(object)),
        }
    }

    /// The same for a caller that must not block.
    pub(crate) async fn has_whole_now(&self, object: &ObjectId) -> Result<bool, CacheError> {
        match self.inventory() {
            Some(inventory) => inventory.has_whole(object),
            None => self.opens_whole(object).await,
        }
    }

    async fn opens_whole(&self, object: &ObjectId) -> Result<bool, CacheError> {
        let handle = self.open(object).await?;
        Ok(handle.is_some_and(|handle| handle.is_complete()))
    }

    /// The limits, as far as the cache says.
    pub(crate) fn limits(&self) -> CacheLimits {
        if let Some(quota) = self.quota() {
            return quota.limits();
        }
        let mut limits = CacheLimits::default();
        limits.max_bytes = self.usage().max_bytes;
        limits
    }

    /// How much it could hold at most.
    pub(crate) fn capacity(&self) -> Result<Capacity, CacheError> {
        match self.quota() {
            Some(quota) => quota.capacity(),
            None => Ok(Capacity {
                objects: u64::MAX,
                bytes: self.usage().max_bytes.unwrap_or(u64::MAX),
            }),
        }
    }

    /// Whether so much more fits without anything being evicted for it.
    pub(crate) fn has_room(&self, more: Capacity) -> Result<bool, CacheError> {
        if let Some(quota) = self.quota() {
            return quota.has_room(more);
        }
        let usage = self.usage();
        let committed = [usage.reserved_bytes, usage.side_bytes, more.bytes].into_iter();
        let committed = committed.fold(usage.used_bytes, u64::saturating_add);
        Ok(usage.max_bytes.is_none_or(|max| committed <= max))
    }

    /// What its medium can still take, if anybody can say.
    pub(crate) fn free_space(&self) -> Option<FreeSpace> {
        self.quota()?.free_space().ok().flatten()
    }

    /// Whether all objects are listed.
    pub(crate) fn is_loaded(&self) -> bool {
        self.inventory().is_none_or(Inventory::is_loaded)
    }

    /// What no snapshot needs, by the last marking.
    pub(crate) fn standings(&self) -> Standings {
        self.sweeper().map_or_else(Standings::default, Sweeper::standings)
    }

    /// What a node with this cache goes without, a sentence for each service that the cache lacks.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let services = [
            (
                self.pins().is_some(),
                "no pin set: no snapshot can be tagged, so nothing is kept against the order of eviction",
            ),
            (
                self.inventory().is_some(),
                "no inventory: swarms are not told what is here",
            ),
            (
                self.quota().is_some(),
                "no quota: other limits take a restart, and free space is not known",
            ),
            (
                self.sweeper().is_some(),
                "no sweeper: what only removed snapshots had stays until it is evicted",
            ),
            (
                self.scrubber().is_some(),
                "no scrubber: what is at rest cannot be verified",
            ),
        ];
        let missing = services.into_iter().filter(|(is_there, _)| !is_there);
        missing.map(|(_, without)| without).collect()
    }
}

/// The catalogs of a store for a walk through much of them.
pub(crate) fn walker(store: &Arc<dyn SnapshotStore>) -> Arc<dyn NodeSource> {
    store
        .walker()
        .unwrap_or_else(|| Arc::clone(store) as Arc<dyn NodeSource>)
}

/// Says in the log, once, what the cache of a node lacks.
pub(super) fn tell_missing(cache: &NodeCache) {
    for service in cache.missing() {
        tracing::warn!("the cache has {service}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures_executor::block_on;
    use instantmirror_core::memory::MemoryCache;
    use instantmirror_core::outboard::Outboard;
    use instantmirror_core::traits::{CacheUsage, ObjectFill, ObjectHandle, Objects};

    use super::*;

    /// A cache that needs an executor inside of its calls.
    #[derive(Debug)]
    struct Nested(MemoryCache);

    #[async_trait]
    impl Objects for Nested {
        async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
            block_on(self.0.open(object))
        }

        async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
            block_on(self.0.outboard(object))
        }
    }

    #[async_trait]
    impl ObjectCache for Nested {
        async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
            block_on(self.0.fill(object, size))
        }

        async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
            block_on(self.0.remove(object))
        }

        fn usage(&self) -> CacheUsage {
            self.0.usage()
        }

        async fn checkpoint(&self) -> Result<(), CacheError> {
            block_on(self.0.checkpoint())
        }
    }

    #[test]
    fn a_cache_that_has_an_executor_of_its_own_can_be_waited_for() {
        let cache = NodeCache::new(Arc::new(Nested(MemoryCache::new(None))));
        assert!(!cache.has_whole(&ObjectId::of(b"x")).unwrap());
    }
}
