//! The disk implementations pass core's suites, on the real file system and on the simulated disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cache_on_a_real_disk {
    use std::sync::Arc;

    use instantmirror_core::conformance::Subject;
    use instantmirror_core::expiry::PolicyKind;
    use instantmirror_store::cache::{CacheLimits, CacheOptions, DiskCache, VerifyWhen};
    use instantmirror_store::disk::RealDisk;

    fn make(max_bytes: Option<u64>, verify: VerifyWhen, policy: PolicyKind) -> Subject<DiskCache> {
        let dir = tempfile::tempdir().unwrap();
        let mut limits = CacheLimits::default();
        limits.max_bytes = max_bytes;
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let mut options = CacheOptions::default();
        (options.limits, options.verify, options.policy) = (limits, verify, policy);
        Subject::on(DiskCache::open(disk, options).unwrap(), dir)
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

/// As async callers have it: what blocks is done by other threads, here one for each call.
mod cache_on_other_threads {
    use std::sync::Arc;

    use instantmirror_core::conformance::Subject;
    use instantmirror_core::traits::blocking::{Blocking, Threads};
    use instantmirror_store::cache::{CacheLimits, CacheOptions, DiskCache};
    use instantmirror_store::disk::RealDisk;

    fn make(max_bytes: Option<u64>) -> Subject<Blocking<DiskCache>> {
        let dir = tempfile::tempdir().unwrap();
        let mut limits = CacheLimits::default();
        limits.max_bytes = max_bytes;
        let mut options = CacheOptions::default();
        options.limits = limits;
        let cache = DiskCache::open(Arc::new(RealDisk::open(dir.path()).unwrap()), options).unwrap();
        let threads = Threads::new(|work| drop(std::thread::spawn(work)));
        Subject::on(Blocking::new(Arc::new(cache), threads), dir)
    }

    instantmirror_core::object_cache_conformance!(make);
    instantmirror_core::inventory_conformance!(make);
    instantmirror_core::pins_conformance!(make);
    instantmirror_core::quota_conformance!(make);
    instantmirror_core::sweeper_conformance!(make);
}

mod cache_on_a_simulated_disk {
    use std::sync::Arc;

    use instantmirror_core::conformance::Subject;
    use instantmirror_store::cache::{CacheLimits, CacheOptions, DiskCache};
    use instantmirror_store::disk::SimDisk;

    fn make(max_bytes: Option<u64>) -> Subject<DiskCache> {
        let mut limits = CacheLimits::default();
        limits.max_bytes = max_bytes;
        let mut options = CacheOptions::default();
        options.limits = limits;
        Subject::new(DiskCache::open(Arc::new(SimDisk::new()), options).unwrap())
    }

    instantmirror_core::object_cache_conformance!(make);
    instantmirror_core::inventory_conformance!(make);
    instantmirror_core::pins_conformance!(make);
    instantmirror_core::quota_conformance!(make);
    instantmirror_core::sweeper_conformance!(make);
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

mod objects_of_a_cache {
    use std::sync::Arc;

    use bytes::Bytes;
    use instantmirror_core::conformance::{Subject, fill_with};
    use instantmirror_core::traits::blocking::{Blocking, Threads};
    use instantmirror_store::cache::{CacheOptions, DiskCache, VerifyWhen};
    use instantmirror_store::disk::RealDisk;

    fn make(objects: &[Bytes], verify: VerifyWhen) -> (DiskCache, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let mut options = CacheOptions::default();
        options.verify = verify;
        let cache = DiskCache::open(Arc::new(RealDisk::open(dir.path()).unwrap()), options).unwrap();
        (fill_with(cache, objects), dir)
    }

    mod in_place {
        use super::*;

        fn make(objects: &[Bytes]) -> Subject<DiskCache> {
            let (cache, dir) = super::make(objects, VerifyWhen::Always);
            Subject::on(cache, dir)
        }

        instantmirror_core::objects_conformance!(make);
    }

    mod on_other_threads {
        use super::*;

        fn make(objects: &[Bytes]) -> Subject<Blocking<DiskCache>> {
            let (cache, dir) = super::make(objects, VerifyWhen::FirstUse);
            let threads = Threads::new(|work| drop(std::thread::spawn(work)));
            Subject::on(Blocking::new(Arc::new(cache), threads), dir)
        }

        instantmirror_core::objects_conformance!(make);
    }
}

mod objects_of_a_store {
    use std::sync::Arc;

    use bytes::Bytes;
    use instantmirror_core::RepoPath;
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::traits::blocking::{Blocking, Threads};
    use instantmirror_store::digest::DigestTable;
    use instantmirror_store::disk::{Disk, RealDisk};
    use instantmirror_store::import::ImportOptions;
    use instantmirror_store::objects::ObjectStore;
    use instantmirror_store::tree::SourceTree;

    const PIECE_BYTES: u32 = 1 << 20;

    /// Imports them as a publish does.
    fn store(objects: &[Bytes]) -> (Arc<ObjectStore>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path().join("store")).unwrap());
        let digests = Arc::new(DigestTable::open(Arc::clone(&disk), "digests").unwrap());
        let store = ObjectStore::open(disk, digests).unwrap();
        let (mut imported, mut copying) = (Vec::new(), ImportOptions::default());
        copying.reflink = false;
        for (number, data) in objects.iter().enumerate() {
            std::fs::write(source.join(number.to_string()), data).unwrap();
            let tree = SourceTree::open(&source).unwrap();
            let mut file = tree.open_file(&RepoPath::new(number.to_string()).unwrap()).unwrap();
            imported.push(
                store
                    .import(&mut file, PIECE_BYTES, copying, &mut |_| {})
                    .unwrap()
                    .digest,
            );
        }
        store.commit(&imported).unwrap();
        (Arc::new(store), dir)
    }

    fn make(objects: &[Bytes]) -> Subject<Blocking<ObjectStore>> {
        let (store, dir) = store(objects);
        let threads = Threads::new(|work| drop(std::thread::spawn(work)));
        Subject::on(Blocking::new(store, threads), dir)
    }

    instantmirror_core::objects_conformance!(make);
}
