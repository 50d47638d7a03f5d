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

    instantmirror_core::object_cache_conformance!(|max_bytes| Subject::new(MemoryCache::new(max_bytes)));
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
