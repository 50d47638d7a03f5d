//! The services that core's traits ask a cache for: a [`DiskCache`] has all of them. Each call passes on to the method of the
//! cache itself, which tells more of what went wrong.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use instantmirror_core::expiry::Standing;
use instantmirror_core::traits::{
    AdoptedFile, Adoption, CacheLimits, CacheObserver, Capacity, Checked, FreeSpace, Inventory, Marking, PinSet, Pins,
    Quota, Scrub, Scrubber, Standings, Subset, Sweeper, Swept,
};
use instantmirror_core::{CacheError, ObjectId};

use super::{Checker, DiskCache, Reclassification, cache_error};
use crate::error::StoreError;
use crate::import::{ImportError, ImportOptions, ImportRequest};
use crate::tree::SourceFile;

impl Pins for DiskCache {
    fn set_pins(&self, pins: Option<PinSet>) -> Result<(), CacheError> {
        self.hold(pins).map_err(cache_error)
    }

    fn pins_everything(&self) -> bool {
        self.holds_everything()
    }
}

impl Inventory for DiskCache {
    fn observe(&self, observer: Arc<dyn CacheObserver>) {
        Self::observe(self, observer);
    }

    fn each_whole(&self, each: &mut dyn FnMut(ObjectId, u64)) -> Result<(), CacheError> {
        Self::each_whole(self, each).map_err(cache_error)
    }

    fn has_whole(&self, object: &ObjectId) -> Result<bool, CacheError> {
        Self::has_whole(self, object).map_err(cache_error)
    }

    fn load(&self) -> Result<(), CacheError> {
        Self::load(self).map_err(cache_error)
    }

    fn is_loaded(&self) -> bool {
        Self::is_loaded(self)
    }
}

impl Quota for DiskCache {
    fn limits(&self) -> CacheLimits {
        Self::limits(self)
    }

    fn set_limits(&self, limits: CacheLimits) {
        Self::set_limits(self, limits);
    }

    fn shrink(&self) -> Result<bool, CacheError> {
        Self::shrink(self).map_err(cache_error)
    }

    fn capacity(&self) -> Result<Capacity, CacheError> {
        Self::capacity(self).map_err(cache_error)
    }

    fn has_room(&self, more: Capacity) -> Result<bool, CacheError> {
        Self::has_room(self, more).map_err(cache_error)
    }

    fn free_space(&self) -> Result<Option<FreeSpace>, CacheError> {
        let space = self.space().map_err(cache_error)?;
        Ok(Some(FreeSpace {
            bytes: space.free_bytes,
            files: space.free_files,
        }))
    }
}

impl Sweeper for DiskCache {
    fn mark(&self) -> Box<dyn Marking + '_> {
        Box::new(self.reclassify())
    }

    fn standings(&self) -> Standings {
        let (garbage, old) = Self::standings(self);
        Standings { garbage, old }
    }

    fn sweep(&self) -> Result<Swept, CacheError> {
        let (objects, bytes) = self.remove_garbage().map_err(cache_error)?;
        Ok(Swept { objects, bytes })
    }
}

impl Marking for Reclassification {
    fn mark(&self, objects: &[ObjectId], standing: Standing) {
        Self::mark(self, objects, standing);
    }

    fn finish(self: Box<Self>) -> Standings {
        let (garbage, old) = Self::finish(*self);
        Standings { garbage, old }
    }
}

impl Scrubber for DiskCache {
    fn scrub(&self, subset: Subset) -> Result<Box<dyn Scrub>, CacheError> {
        Ok(Box::new(self.check(subset).map_err(cache_error)?))
    }
}

impl Scrub for Checker {
    fn step(&mut self) -> Result<Option<Checked>, CacheError> {
        Self::step(self).map_err(cache_error)
    }
}

impl Adoption for DiskCache {
    fn adopt(&self, file: &AdoptedFile<'_>) -> Result<(), CacheError> {
        let unreadable = |source| StoreError::io("open", Path::new("an adopted file"), source);
        let opened = file.descriptor.try_clone_to_owned().map_err(unreadable);
        let opened = opened.map_err(cache_error)?;
        let source = SourceFile::of_file(File::from(opened)).map_err(cache_error)?;
        // With its stamp taken: what changes from now on is seen by the import.
        (file.check_unchanged)()?;
        let options = ImportOptions {
            reflink: file.reflink,
            hardlink: file.hardlink,
        };
        let request = ImportRequest {
            source: &source,
            object: file.object,
            options,
        };
        let adopted = Self::adopt(self, &request, file.outboard.is_some()).map(drop);
        adopted.map_err(|error| match error {
            ImportError::Cache(error) => error,
            ImportError::Store(StoreError::NoSpace { .. }) => CacheError::Full {
                object: file.object,
                size: file.size,
            },
            ImportError::Store(error) => cache_error(error),
        })?;
        if let Some(outboard) = file.outboard {
            self.keep_outboard(outboard);
        }
        Ok(())
    }
}
