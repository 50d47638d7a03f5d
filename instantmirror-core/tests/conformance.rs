//! The implementations in this crate pass the suites that they ship with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod memory_store {
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::memory::MemoryStore;

    instantmirror_core::snapshot_store_conformance!(|| Subject::new(MemoryStore::new()));
}

mod memory_cache {
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::memory::MemoryCache;

    fn make(max_bytes: Option<u64>) -> Subject<MemoryCache> {
        Subject::new(MemoryCache::new(max_bytes))
    }

    instantmirror_core::object_cache_conformance!(make);
    instantmirror_core::inventory_conformance!(make);
    instantmirror_core::pins_conformance!(make);
    instantmirror_core::quota_conformance!(make);
    instantmirror_core::sweeper_conformance!(make);
}

mod memory_objects {
    use bytes::Bytes;
    use instantmirror_core::conformance::{Subject, fill_with};
    use instantmirror_core::memory::MemoryCache;

    instantmirror_core::objects_conformance!(|objects: &[Bytes]| Subject::new(fill_with(
        MemoryCache::new(None),
        objects
    )));
}

mod blocking_objects {
    use std::sync::Arc;

    use bytes::Bytes;
    use instantmirror_core::conformance::{Subject, fill_with};
    use instantmirror_core::memory::MemoryCache;
    use instantmirror_core::traits::blocking::{Blocking, Threads};

    fn make(objects: &[Bytes]) -> Subject<Blocking<MemoryCache>> {
        let threads = Threads::new(|work| drop(std::thread::spawn(work)));
        Subject::new(Blocking::new(
            Arc::new(fill_with(MemoryCache::new(None), objects)),
            threads,
        ))
    }

    instantmirror_core::objects_conformance!(make);
}

mod memory_swarm {
    use bytes::Bytes;
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::memory::MemorySwarm;

    fn make(objects: &[Bytes]) -> Subject<MemorySwarm> {
        let mut swarm = MemorySwarm::new();
        objects.iter().for_each(|object| _ = swarm.insert(object.clone()));
        Subject::new(swarm)
    }

    instantmirror_core::swarm_conformance!(make);
}

mod memory_catalogs {
    use bytes::Bytes;
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::conformance::peer_transport::REPOSITORY;
    use instantmirror_core::memory::MemoryCatalogs;
    use instantmirror_core::{RepoPath, SecretKey, SnapshotId, Timestamp};

    fn make(files: &[(&str, Bytes)]) -> Subject<MemoryCatalogs> {
        let catalogs = MemoryCatalogs::new();
        let files = files
            .iter()
            .map(|(path, data)| (RepoPath::new(*path).unwrap(), data.clone()));
        let (id, now) = (SnapshotId::from_random([1; 16]), Timestamp::from_millis(1_000_000));
        let key = SecretKey::from_random([7; 32]);
        catalogs
            .publish(&REPOSITORY.parse().unwrap(), files, id, now, &key)
            .unwrap();
        Subject::new(catalogs)
    }

    fn with_objects(objects: &[Bytes]) -> Subject<MemoryCatalogs> {
        let names: Vec<String> = (0..objects.len()).map(|number| number.to_string()).collect();
        let files: Vec<(&str, Bytes)> = names.iter().map(String::as_str).zip(objects.iter().cloned()).collect();
        make(&files)
    }

    mod as_catalogs {
        instantmirror_core::catalogs_conformance!(super::make);
    }

    mod as_node_api {
        instantmirror_core::node_api_conformance!(super::make);
    }

    mod as_annotations {
        instantmirror_core::annotations_conformance!(super::make);
    }

    mod as_object_source {
        instantmirror_core::object_source_conformance!(super::with_objects);
    }

    mod as_upstream {
        use instantmirror_core::conformance::Subject;
        use instantmirror_core::memory::MemoryCatalogs;

        instantmirror_core::upstream_conformance!(|catalogs: &MemoryCatalogs| Subject::new(catalogs.clone()));
    }
}

mod memory_transport {
    use bytes::Bytes;
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::memory::MemoryTransport;

    fn make(objects: &[Bytes]) -> MemoryTransport {
        let mut transport = MemoryTransport::new();
        for object in objects {
            transport.insert(object.clone());
        }
        transport
    }

    instantmirror_core::peer_transport_conformance!(|objects: &[Bytes]| Subject::new(make(objects)));
}

mod faultless_transport {
    use bytes::Bytes;
    use instantmirror_core::conformance::{FaultyTransport, Subject};
    use instantmirror_core::memory::MemoryTransport;

    fn make(objects: &[Bytes]) -> FaultyTransport {
        let mut transport = MemoryTransport::new();
        for object in objects {
            transport.insert(object.clone());
        }
        FaultyTransport::new("faultless", transport)
    }

    instantmirror_core::peer_transport_conformance!(|objects: &[Bytes]| Subject::new(make(objects)));
}

mod priority_scheduler {
    use instantmirror_core::scheduler::PriorityScheduler;

    instantmirror_core::scheduler_conformance!(PriorityScheduler::new);
}

mod lru_policy {
    instantmirror_core::expiry_conformance!(instantmirror_core::expiry::Lru::new);
}

mod gdsf_policy {
    instantmirror_core::expiry_conformance!(instantmirror_core::expiry::Keyed::gdsf);
}

mod lfuda_policy {
    instantmirror_core::expiry_conformance!(instantmirror_core::expiry::Keyed::lfuda);
}

mod s3_fifo_policy {
    instantmirror_core::expiry_conformance!(instantmirror_core::expiry::S3Fifo::new);
}

mod snapshot_order_policy {
    use instantmirror_core::expiry::{PolicyKind, SnapshotOrder};

    instantmirror_core::expiry_conformance!(|| SnapshotOrder::of_kind(PolicyKind::Lfuda));
}

mod memory_storage {
    use bytes::Bytes;
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::conformance::object_storage::store_with;
    use instantmirror_core::memory::MemoryStorage;

    instantmirror_core::object_storage_conformance!(|| Subject::new(MemoryStorage::new()));
    instantmirror_core::objects_conformance!(|objects: &[Bytes]| Subject::new(store_with(
        MemoryStorage::new(),
        objects
    )));
}
