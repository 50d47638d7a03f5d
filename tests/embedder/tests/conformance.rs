//! The parts pass core's suites.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use bytes::Bytes;
use instantmirror_core::conformance::{Subject, fill_with};
use instantmirror_embedder::{FolderStorage, LineScheduler, ListStore, ShelfCache, TreeTransport};

mod cache {
    use super::*;
    instantmirror_core::object_cache_conformance!(|max_bytes| Subject::new(ShelfCache::new(max_bytes)));
}

mod objects {
    use super::*;
    instantmirror_core::objects_conformance!(|objects: &[Bytes]| {
        Subject::new(fill_with(ShelfCache::new(None), objects))
    });
}

mod store {
    use super::*;
    instantmirror_core::snapshot_store_conformance!(|| Subject::new(ListStore::new()));
}

mod scheduler {
    use super::*;
    instantmirror_core::scheduler_conformance!(LineScheduler::new);
}

mod transport {
    use super::*;

    fn make(objects: &[Bytes]) -> Subject<TreeTransport> {
        let dir = tempfile::tempdir().unwrap();
        for (number, data) in objects.iter().enumerate() {
            std::fs::write(dir.path().join(number.to_string()), data).unwrap();
        }
        Subject::on(TreeTransport::open(dir.path()).unwrap(), dir)
    }

    instantmirror_core::peer_transport_conformance!(make);
}

mod storage {
    use instantmirror_core::conformance::object_storage::store_with;

    use super::*;

    /// In a runtime, which is there to the end of the thread of a test.
    fn make(objects: &[Bytes]) -> Subject<FolderStorage> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let runtime: &'static tokio::runtime::Runtime = Box::leak(Box::new(runtime.unwrap()));
        std::mem::forget(runtime.enter());
        let folder = tempfile::tempdir().unwrap();
        let storage = FolderStorage::open(folder.path()).unwrap();
        Subject::on(store_with(storage, objects), folder)
    }

    instantmirror_core::object_storage_conformance!(|| make(&[]));
    instantmirror_core::objects_conformance!(make);
}
