//! The fetch engine passes core's suite of sources that frontends read from, whomever it asks and whatever room there is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use instantmirror_core::conformance::Subject;
use instantmirror_core::conformance::peer_transport::REPOSITORY;
use instantmirror_core::memory::{MemoryCache, MemorySwarm, MemoryTransport};
use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::Transport;
use instantmirror_swarm::fetch::FetchEngine;
use tokio::runtime::{Builder, EnterGuard};

/// A runtime that is there to the end, entered on this thread as long as the guard lives.
fn entered() -> EnterGuard<'static> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    Box::leak(Box::new(runtime.unwrap())).enter()
}

fn engine(max_bytes: Option<u64>, sources: Vec<Transport>) -> Subject<FetchEngine> {
    let inside = entered();
    let scheduler = Box::new(PriorityScheduler::new(SchedulerLimits::default()));
    let sources = BTreeMap::from([(REPOSITORY.parse().unwrap(), sources)]);
    let cache = Arc::new(MemoryCache::new(max_bytes));
    Subject::on(FetchEngine::new(cache, sources, scheduler), inside)
}

fn origin(objects: &[Bytes]) -> Transport {
    let mut origin = MemoryTransport::new();
    objects.iter().for_each(|object| _ = origin.insert(object.clone()));
    Transport::origin(origin)
}

fn swarm(objects: &[Bytes]) -> Transport {
    let mut swarm = MemorySwarm::new();
    objects.iter().for_each(|object| _ = swarm.insert(object.clone()));
    Transport::swarm(swarm)
}

mod from_an_origin {
    use super::*;
    instantmirror_core::object_source_conformance!(|objects: &[Bytes]| engine(None, vec![origin(objects)]));
}

mod from_a_swarm {
    use super::*;
    instantmirror_core::object_source_conformance!(|objects: &[Bytes]| engine(None, vec![swarm(objects)]));
}

mod from_both {
    use super::*;
    instantmirror_core::object_source_conformance!(|objects: &[Bytes]| {
        engine(None, vec![swarm(objects), origin(objects)])
    });
}

mod past_a_cache_without_room {
    use super::*;
    instantmirror_core::object_source_conformance!(|objects: &[Bytes]| engine(Some(10), vec![origin(objects)]));
}
