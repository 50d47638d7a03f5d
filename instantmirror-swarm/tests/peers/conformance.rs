//! Swarms on sockets pass core's suite: one peer has everything, the other asks it.

use std::time::Duration;

use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::conformance::Subject;
use instantmirror_core::conformance::peer_transport::REPOSITORY;
use instantmirror_core::traits::{Class, GroupRequest, Swarm as _};
use instantmirror_swarm::peer::SwarmTransport;
use tokio::runtime::Builder;

use super::LIMIT;
use super::world::{Peer, World};

/// The runtime is there to the end, and entered on this thread: the suite polls without one.
fn make(objects: &[Bytes]) -> Subject<SwarmTransport> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = Box::leak(Box::new(runtime.unwrap()));
    let (seeder, leecher) = runtime.block_on(connected(objects));
    let asking = SwarmTransport::new("swarm");
    asking.set_swarms(vec![leecher.swarm.clone()]);
    Subject::on(asking, (seeder, leecher, runtime.enter()))
}

async fn connected(objects: &[Bytes]) -> (Peer, Peer) {
    let world = World::new(objects.to_vec());
    let (seeder, leecher) = (world.seeder("127.0.0.1").await, world.leecher("127.0.0.2").await);
    leecher.knows(seeder.address);
    let repository = REPOSITORY.parse().unwrap();
    for data in objects {
        let request = || GroupRequest {
            object: ObjectId::of(data),
            size: data.len() as u64,
            range: 0..1,
            class: Class::Demand,
            rank: 0,
        };
        let known = async {
            while leecher.transport.groups(&repository, request()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, known)
            .await
            .expect("peers tell what they have");
    }
    (seeder, leecher)
}

instantmirror_core::swarm_conformance!(make);
