//! The disk implementations pass core's suites, on the real file system and on the simulated disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

/// The suite counts content. What lies beside objects of more than one group counts too, so there is room for it.
fn with_side_files(max_bytes: u64) -> u64 {
    let group = instantmirror_core::outboard::GROUP_BYTES;
    if max_bytes > group { max_bytes + 4096 } else { max_bytes }
}

mod cache_on_a_real_disk {
    use std::sync::Arc;

    use instantmirror_core::conformance::Subject;
    use instantmirror_core::expiry::PolicyKind;
    use instantmirror_store::cache::{CacheLimits, CacheOptions, DiskCache, VerifyWhen};
    use instantmirror_store::disk::RealDisk;

    fn make(max_bytes: Option<u64>, verify: VerifyWhen, policy: PolicyKind) -> Subject<DiskCache> {
        let dir = tempfile::tempdir().unwrap();
        let limits = CacheLimits {
            max_bytes: max_bytes.map(super::with_side_files),
            ..CacheLimits::default()
        };
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        Subject::on(
            DiskCache::open(disk, CacheOptions { limits, verify, policy }).unwrap(),
            dir,
        )
    }

    mod verifying_at_first_use {
        use super::*;
        instantmirror_core::object_cache_conformance!(|max_bytes| make(
            max_bytes,
            VerifyWhen::FirstUse,
            PolicyKind::S3Fifo
        ));
    }

    mod verifying_always {
        use super::*;
        instantmirror_core::object_cache_conformance!(|max_bytes| make(max_bytes, VerifyWhen::Always, PolicyKind::Lru));
    }
}

mod cache_on_a_simulated_disk {
    use std::sync::Arc;

    use instantmirror_core::conformance::Subject;
    use instantmirror_store::cache::{CacheLimits, CacheOptions, DiskCache};
    use instantmirror_store::disk::SimDisk;

    fn make(max_bytes: Option<u64>) -> Subject<DiskCache> {
        let limits = CacheLimits {
            max_bytes: max_bytes.map(super::with_side_files),
            ..CacheLimits::default()
        };
        let options = CacheOptions {
            limits,
            ..CacheOptions::default()
        };
        Subject::new(DiskCache::open(Arc::new(SimDisk::new()), options).unwrap())
    }

    instantmirror_core::object_cache_conformance!(make);
}

mod snapshots_on_a_real_disk {
    use std::sync::Arc;

    use instantmirror_core::conformance::Subject;
    use instantmirror_store::disk::RealDisk;
    use instantmirror_store::snapshots::DiskSnapshotStore;

    fn make() -> Subject<DiskSnapshotStore> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        Subject::on(DiskSnapshotStore::open(disk, "store").unwrap(), dir)
    }

    instantmirror_core::snapshot_store_conformance!(make);
}

mod snapshots_on_a_simulated_disk {
    use std::sync::Arc;

    use instantmirror_core::conformance::Subject;
    use instantmirror_store::disk::SimDisk;
    use instantmirror_store::snapshots::DiskSnapshotStore;

    instantmirror_core::snapshot_store_conformance!(|| {
        Subject::new(DiskSnapshotStore::open(Arc::new(SimDisk::new()), "store").unwrap())
    });
}
