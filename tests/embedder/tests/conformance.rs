//! The parts pass core's suites.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use bytes::Bytes;
use instantmirror_core::conformance::{Subject, fill_with};
use instantmirror_embedder::{LineScheduler, ListStore, ShelfCache, TreeTransport};

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
