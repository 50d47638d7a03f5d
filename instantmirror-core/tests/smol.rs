//! The traits need no particular runtime: their memory implementations under smol, joined to a small mirror. A scheduler says
//! what to fetch, transports bring it (one of them lies), a cache verifies and keeps it, and a store has the record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use instantmirror_core::catalog::build_directory;
use instantmirror_core::conformance::{FaultyTransport, content};
use instantmirror_core::memory::{MemoryCache, MemoryStore, MemoryTransport};
use instantmirror_core::outboard::GROUP_BYTES;
use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::blocking::{Blocking, Threads};
use instantmirror_core::traits::{
    CacheError, Class, Next, ObjectCache, Objects, Outcome, PeerTransport, Request, Scheduler, SnapshotStore, Ticket,
    TransportError,
};
use instantmirror_core::{
    Entry, FileMeta, Kind, Meta, Moment, Name, ObjectId, Outboard, RepoName, Root, Snapshot, SnapshotId, Timestamp,
};
use smol::channel;

fn repository() -> RepoName {
    "smol".parse().unwrap()
}

/// smol's own threads for what may block.
fn threads() -> Threads {
    Threads::new(|work| smol::unblock(work).detach())
}

enum Failure {
    Transport(TransportError),
    Cache(CacheError),
}

/// All of an object, group by group, from one source.
async fn fetch(
    source: &dyn PeerTransport,
    cache: &dyn ObjectCache,
    object: ObjectId,
    size: u64,
) -> Result<(), Failure> {
    let fill = cache.fill(&object, size).await.map_err(Failure::Cache)?;
    let values = source.outboard(&repository(), &object, size, Class::Preseed).await;
    let outboard = Outboard::verify(object, size, values.map_err(Failure::Transport)?);
    let outboard = outboard.map_err(|error| Failure::Cache(error.into()))?;
    fill.set_outboard(outboard).await.map_err(Failure::Cache)?;
    let stream = source.range(&repository(), &object, 0..size, Class::Preseed).await;
    let mut stream = stream.map_err(Failure::Transport)?;
    let (mut held, mut position) = (BytesMut::new(), 0);
    while position < size {
        let group = GROUP_BYTES.min(size - position);
        while (held.len() as u64) < group {
            let part = stream.next().await.expect("a stream ends where the object does");
            held.extend_from_slice(&part.map_err(Failure::Transport)?);
        }
        let group = held.split_to(usize::try_from(group).unwrap()).freeze();
        let bytes = group.len() as u64;
        fill.write(position, group).await.map_err(Failure::Cache)?;
        position += bytes;
    }
    fill.finish().await.map_err(Failure::Cache)
}

/// A directory of these files, stored with its record.
async fn publish(store: &Arc<MemoryStore>, files: &[Bytes]) -> Snapshot {
    let entries: Vec<Entry> = (0..)
        .zip(files)
        .map(|(number, data)| Entry {
            name: Name::new(format!("file-{number}")).unwrap(),
            meta: Meta {
                mode: 0o644,
                mtime: 0,
                kind: Kind::File(FileMeta {
                    size: data.len() as u64,
                    object: ObjectId::of(data),
                    first_piece: 0,
                    link_group: None,
                }),
            },
        })
        .collect();
    let mut nodes = Vec::new();
    let top = build_directory(&entries, &mut |node| nodes.push(node)).unwrap();
    let snapshot = Snapshot {
        id: SnapshotId::from_random([7; 16]),
        repository: repository(),
        created: Timestamp::from_millis(0),
        parent: None,
        note: String::new(),
        root: Root {
            node: top.node,
            mode: 0o755,
            mtime: 0,
            files: top.files,
            bytes: top.bytes,
        },
    };
    let (store, record) = (Arc::clone(store), snapshot.clone());
    // A store may block: it is written to where that is allowed.
    let threads = threads();
    let stored = threads.run(move || {
        store.put_nodes(nodes)?;
        store.put_snapshot(&record)
    });
    stored.await.unwrap().unwrap();
    snapshot
}

/// Drives a scheduler until nothing waits and nothing runs. Returns how often each request was started.
async fn drive(
    mut scheduler: Box<dyn Scheduler>,
    sources: [Arc<dyn PeerTransport>; 2],
    cache: Arc<dyn ObjectCache>,
    wanted: Vec<Request>,
) -> Vec<u32> {
    let begun = Instant::now();
    let now = || Moment(begun.elapsed());
    let tickets: Vec<Ticket> = wanted.into_iter().map(|one| scheduler.submit(now(), one)).collect();
    let mut tries = vec![0; tickets.len()];
    let (sender, landed) = channel::unbounded();
    let mut running = 0;
    loop {
        let until = match scheduler.next(now()) {
            Next::Start(ticket, request) => {
                let place = tickets.iter().position(|known| *known == ticket).unwrap();
                // The first try of each goes to the source that lies.
                let source = Arc::clone(&sources[usize::from(tries[place] > 0)]);
                tries[place] += 1;
                running += 1;
                let (cache, sender) = (Arc::clone(&cache), sender.clone());
                smol::spawn(async move {
                    let fetched = fetch(source.as_ref(), cache.as_ref(), request.object, request.size).await;
                    let _ = sender.send((ticket, fetched)).await;
                })
                .detach();
                continue;
            }
            Next::WaitUntil(moment) => Some(moment),
            Next::Idle if running == 0 => return tries,
            Next::Idle => None,
        };
        let timer = async {
            match until {
                Some(moment) => _ = smol::Timer::after(moment.since(now())).await,
                None => std::future::pending().await,
            }
            None
        };
        let landing = async { landed.recv().await.ok() };
        if let Some((ticket, fetched)) = smol::future::or(landing, timer).await {
            running -= 1;
            let outcome = match fetched {
                Ok(()) => Outcome::Done,
                Err(Failure::Cache(CacheError::Verify(_))) => Outcome::Retry,
                Err(Failure::Cache(error)) => panic!("{error}"),
                Err(Failure::Transport(error)) => panic!("{error}"),
            };
            scheduler.finished(now(), ticket, outcome);
        }
    }
}

#[test]
fn a_small_mirror_runs_on_smol() {
    let files: Vec<Bytes> = [1, 65_536, 200_000]
        .into_iter()
        .zip(1..)
        .map(|(size, seed)| content(seed, size).into())
        .collect();
    let mut good = MemoryTransport::new();
    files.iter().for_each(|data| _ = good.insert(data.clone()));
    let liar = FaultyTransport::new("liar", good.clone());
    liar.flip_at(Some(0));
    let cache = Arc::new(Blocking::new(Arc::new(MemoryCache::new(Some(1 << 20))), threads()));
    let store = Arc::new(MemoryStore::new());
    let request = |data: &Bytes| Request {
        repository: repository(),
        object: ObjectId::of(data),
        objects: 1,
        size: data.len() as u64,
        class: Class::Preseed,
        rank: 0,
        deadline: Moment(Duration::ZERO),
    };
    smol::block_on(async {
        let snapshot = publish(&store, &files).await;
        assert_eq!(store.snapshot(&repository(), snapshot.id).unwrap(), Some(snapshot));
        let mut limits = SchedulerLimits::default();
        limits.retry_pause = Duration::from_millis(1);
        let scheduler = Box::new(PriorityScheduler::new(limits));
        let wanted = files.iter().map(request).collect();
        let tries = drive(scheduler, [Arc::new(liar), Arc::new(good)], cache.clone(), wanted).await;
        assert_eq!(tries, [2, 2, 2], "a lie is found out, and another source asked");
        for data in &files {
            let handle = cache.open(&ObjectId::of(data)).await.unwrap().unwrap();
            assert!(handle.is_complete());
            assert_eq!(handle.read(0..data.len() as u64).await.unwrap(), data);
        }
    });
}
