//! Following a master that forgets, lies, breaks off and comes back. Time is virtual; nothing sleeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use instantmirror_core::catalog::CatalogError;
use instantmirror_core::head::{RemovedSnapshot, SnapshotState};
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::retention::RetentionPolicy;
use instantmirror_core::traits::{SnapshotStore, Upstream};
use instantmirror_core::{HeadError, RecordError, RecordId, SnapshotId};
use instantmirror_swarm::follow::RETRY_PAUSE;
use instantmirror_swarm::{FollowError, Follower, Intake};

use support::{Certain, FakeMaster, HOUR, Impatient, Rot, RottenStore, START, Spoil, TestClock, head, key, repository};

struct Setup {
    master: Arc<FakeMaster>,
    store: Arc<MemoryStore>,
    clock: Arc<TestClock>,
    follower: Arc<Follower>,
}

impl Setup {
    async fn new() -> Self {
        let (master, store) = (FakeMaster::new(), Arc::new(MemoryStore::new()));
        let clock = Arc::new(TestClock(Mutex::new(START)));
        let follower = open(&master, &store, &clock).await;
        Self {
            master,
            store,
            clock,
            follower,
        }
    }

    async fn poll(&self) -> Result<bool, FollowError> {
        self.follower.poll(self.master.as_ref(), true).await
    }

    fn current(&self) -> Option<SnapshotId> {
        self.follower.state().current
    }

    fn sequence(&self) -> Option<u64> {
        self.follower.state().head.as_ref().map(|head| head.head().sequence)
    }

    /// One round that must fail; what is shown must stay as it is.
    async fn refused(&self) -> FollowError {
        let before = (self.sequence(), self.current());
        let error = match tokio::time::timeout(HOUR, self.poll()).await {
            Ok(Err(error)) => error,
            other => panic!("not refused: {other:?}"),
        };
        assert_eq!((self.sequence(), self.current()), before);
        error
    }

    /// Publishes while the follower waits, as it does in life.
    async fn publish_while_polling(&self, publish: impl FnOnce(&FakeMaster)) -> Result<bool, FollowError> {
        let poll = self.poll();
        tokio::pin!(poll);
        tokio::select! {
            biased;
            early = &mut poll => panic!("it did not wait: {early:?}"),
            () = tokio::task::yield_now() => publish(&self.master),
        }
        poll.await
    }
}

async fn open(master: &Arc<FakeMaster>, store: &Arc<MemoryStore>, clock: &Arc<TestClock>) -> Arc<Follower> {
    let upstreams: Vec<Arc<dyn Upstream>> = vec![master.clone()];
    let trusted = vec![key(1).public()];
    let follower = Follower::open(repository(), upstreams, store.clone(), trusted, clock.clone());
    Arc::new(follower.unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_first_head_is_adopted_and_the_next_ones_are_waited_for() {
    let setup = Setup::new().await;
    assert_eq!((setup.sequence(), setup.current()), (None, None));
    let first = setup.master.snapshot(1, 1000);
    setup.master.publish(&head(1, &[&first]));
    assert!(setup.poll().await.unwrap());
    assert_eq!((setup.sequence(), setup.current()), (Some(1), Some(first.id)));
    let second = setup.master.snapshot(2, 1000);
    let changed = setup
        .publish_while_polling(|master| master.publish(&head(2, &[&first, &second])))
        .await;
    assert!(changed.unwrap());
    assert_eq!((setup.sequence(), setup.current()), (Some(2), Some(second.id)));
    assert_eq!(*setup.master.deltas.lock().unwrap(), [None, Some(first.root.node)]);
    assert!(!setup.poll().await.unwrap(), "a long poll that ended without news");
}

#[tokio::test(start_paused = true)]
async fn heads_that_must_not_be_believed_change_nothing() {
    let setup = Setup::new().await;
    let first = setup.master.snapshot(1, 10);
    setup.master.publish_signed(&head(1, &[&first]), &key(2));
    let error = setup.refused().await;
    assert!(
        matches!(error, FollowError::Head(HeadError::Signature { .. })),
        "{error}"
    );
    setup.master.publish(&head(5, &[&first]));
    setup.poll().await.unwrap();
    let wrong_key = setup
        .publish_while_polling(|master| master.publish_signed(&head(6, &[]), &key(2)))
        .await;
    assert!(
        matches!(wrong_key, Err(FollowError::Head(HeadError::Signature { .. }))),
        "{wrong_key:?}"
    );
    setup.master.publish(&head(5, &[&first]));
    let rollback = setup
        .publish_while_polling(|master| master.publish(&head(4, &[&first])))
        .await;
    assert!(
        matches!(rollback, Err(FollowError::Head(HeadError::Rollback { .. }))),
        "{rollback:?}"
    );
    let equivocation = setup
        .publish_while_polling(|master| master.publish(&head(5, &[])))
        .await;
    assert!(
        matches!(equivocation, Err(FollowError::Head(HeadError::Equivocation { .. }))),
        "{equivocation:?}"
    );
    let mut early = head(6, &[&first]);
    (early.issued, early.expires) = (START.plus(HOUR * 48), START.plus(HOUR * 50));
    let future = setup.publish_while_polling(|master| master.publish(&early)).await;
    assert!(
        matches!(future, Err(FollowError::Head(HeadError::Future { .. }))),
        "{future:?}"
    );
    assert_eq!((setup.sequence(), setup.current()), (Some(5), Some(first.id)));
    let kept = setup.store.head(&repository(), &[key(1).public()]).unwrap().unwrap();
    assert_eq!(kept.head().sequence, 5);
}

#[tokio::test(start_paused = true)]
async fn an_expired_head_is_refused_while_the_old_one_is_shown_on() {
    let setup = Setup::new().await;
    let first = setup.master.snapshot(1, 10);
    setup.master.publish(&head(1, &[&first]));
    setup.poll().await.unwrap();
    *setup.clock.0.lock().unwrap() = START.plus(HOUR * 24);
    let expired = setup
        .publish_while_polling(|master| master.publish(&head(2, &[&first])))
        .await;
    assert!(
        matches!(expired, Err(FollowError::Head(HeadError::Expired { .. }))),
        "{expired:?}"
    );
    assert_eq!((setup.sequence(), setup.current()), (Some(1), Some(first.id)));
    // A restart long after everything has expired still shows it.
    let again = open(&setup.master, &setup.store, &setup.clock).await;
    assert_eq!(again.state().current, Some(first.id));
}

#[tokio::test(start_paused = true)]
async fn a_spoilt_catalog_is_never_shown_and_heals_with_the_next_try() {
    for spoil in [
        Spoil::Truncated,
        Spoil::Broken,
        Spoil::Forged,
        Spoil::Unrequested,
        Spoil::Holed,
        Spoil::Empty,
    ] {
        for base in [false, true] {
            let setup = Setup::new().await;
            let first = setup.master.snapshot(1, 2000);
            if base {
                setup.master.publish(&head(1, &[&first]));
                setup.poll().await.unwrap();
            }
            let second = setup.master.snapshot(2, 2000);
            setup.master.spoil(spoil);
            let publish = |master: &FakeMaster| master.publish(&head(2, &[&first, &second]));
            let failed = if base {
                setup.publish_while_polling(publish).await
            } else {
                publish(&setup.master);
                setup.poll().await
            };
            if (spoil, base) == (Spoil::Holed, true) {
                // Then all of it is fetched, and what is missing of that was here before.
                assert!(failed.unwrap());
                assert_eq!(setup.master.deltas.lock().unwrap().len(), 3);
                continue;
            }
            let error = failed.unwrap_err();
            let fits = match (spoil, &error) {
                (Spoil::Broken, FollowError::Transport(_)) => true,
                (Spoil::Truncated, FollowError::Catalog { source, .. }) => matches!(source, CatalogError::Frame(_)),
                (Spoil::Forged | Spoil::Unrequested, FollowError::Catalog { source, .. }) => {
                    matches!(source, CatalogError::Unexpected(_))
                }
                (Spoil::Holed | Spoil::Empty, FollowError::Catalog { source, .. }) => {
                    matches!(source, CatalogError::Missing(_))
                }
                _ => false,
            };
            assert!(fits, "{spoil:?}: {error}");
            assert_eq!(setup.sequence(), Some(2), "the head itself was good");
            assert_eq!(setup.current(), base.then_some(first.id));
            assert_eq!(setup.store.snapshot(&repository(), second.id).unwrap(), None);
            setup.master.spoil(Spoil::Nothing);
            assert!(setup.poll().await.unwrap(), "tried again without waiting for news");
            assert_eq!(setup.current(), Some(second.id));
            assert_eq!(setup.follower.state().snapshots.len(), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_forged_record_is_refused() {
    let setup = Setup::new().await;
    let first = setup.master.snapshot(1, 10);
    setup.master.publish(&head(1, &[&first]));
    let mut forged = first.clone();
    forged.note = "bought by somebody else".to_owned();
    setup.master.records.lock().unwrap().insert(first.id, forged.encode().1);
    let error = setup.poll().await.unwrap_err();
    assert!(
        matches!(error, FollowError::Record(RecordError::Forged { .. })),
        "{error}"
    );
    assert_eq!(setup.current(), None);
    setup.master.records.lock().unwrap().insert(first.id, first.encode().1);
    setup.poll().await.unwrap();
    assert_eq!(setup.current(), Some(first.id));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_miscounts_its_tree_is_refused_although_it_is_signed() {
    let setup = Setup::new().await;
    let mut lying = setup.master.snapshot(1, 10);
    lying.root.files += 1;
    setup.master.records.lock().unwrap().insert(lying.id, lying.encode().1);
    setup.master.publish(&head(1, &[&lying]));
    let error = setup.poll().await.unwrap_err();
    assert!(
        matches!(
            &error,
            FollowError::Catalog {
                source: CatalogError::Inconsistent { .. },
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(setup.current(), None);
}

#[tokio::test(start_paused = true)]
async fn staged_snapshots_are_not_shown_and_expired_ones_are_dropped() {
    let setup = Setup::new().await;
    let (first, second) = (setup.master.snapshot(1, 10), setup.master.snapshot(2, 10));
    let mut staged = head(1, &[&first, &second]);
    staged.current = Some(first.id);
    staged.snapshots[1].state = SnapshotState::Staged {
        release_at: None,
        when_synced_percent: None,
    };
    setup.master.publish(&staged);
    setup.poll().await.unwrap();
    let state = setup.follower.state();
    assert_eq!(state.snapshots.keys().collect::<Vec<_>>(), [&first.id]);
    setup
        .publish_while_polling(|master| master.publish(&head(2, &[&second])))
        .await
        .unwrap();
    let state = setup.follower.state();
    assert_eq!(state.snapshots.keys().collect::<Vec<_>>(), [&second.id]);
    assert_eq!(setup.store.snapshots(&repository()).unwrap(), [second.id]);
}

#[tokio::test(start_paused = true)]
async fn current_stays_until_its_successor_is_whole() {
    let setup = Setup::new().await;
    let (first, second) = (setup.master.snapshot(1, 10), setup.master.snapshot(2, 2000));
    setup.master.publish(&head(1, &[&first]));
    setup.poll().await.unwrap();
    let mut states = setup.follower.subscribe();
    states.mark_unchanged();
    setup.master.spoil(Spoil::Broken);
    // The master has dropped the first one already.
    setup
        .publish_while_polling(|master| master.publish(&head(2, &[&second])))
        .await
        .unwrap_err();
    assert_eq!(setup.current(), Some(first.id));
    assert!(setup.store.snapshot(&repository(), first.id).unwrap().is_some());
    setup.master.spoil(Spoil::Nothing);
    setup.poll().await.unwrap();
    assert_eq!(setup.current(), Some(second.id));
    assert!(states.has_changed().unwrap());
    assert_eq!(setup.store.snapshots(&repository()).unwrap(), [second.id]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_shows_what_was_whole_and_asks_nobody() {
    let setup = Setup::new().await;
    let (first, second) = (setup.master.snapshot(1, 10), setup.master.snapshot(2, 2000));
    setup.master.publish(&head(1, &[&first]));
    setup.poll().await.unwrap();
    setup.master.spoil(Spoil::Holed);
    setup
        .publish_while_polling(|master| master.publish(&head(2, &[&first, &second])))
        .await
        .unwrap_err();
    *setup.master.away.lock().unwrap() = true;
    let again = open(&setup.master, &setup.store, &setup.clock).await;
    let state = again.state();
    assert_eq!(state.head.as_ref().map(|head| head.head().sequence), Some(2));
    assert_eq!(state.current, Some(first.id));
    assert!(again.poll(setup.master.as_ref(), true).await.is_err());
    assert_eq!(again.state().current, Some(first.id));
}

#[tokio::test(start_paused = true)]
async fn running_survives_a_master_that_goes_and_comes_back() {
    let setup = Setup::new().await;
    let first = setup.master.snapshot(1, 10);
    setup.master.publish(&head(1, &[&first]));
    let mut states = setup.follower.subscribe();
    let follower = Arc::clone(&setup.follower);
    let running = tokio::spawn(async move { follower.run().await });
    states.wait_for(|state| state.current == Some(first.id)).await.unwrap();
    *setup.master.away.lock().unwrap() = true;
    setup.master.head.send_modify(|_| {});
    tokio::time::sleep(HOUR).await;
    let status = setup.follower.status();
    assert!(status.last_error.is_some_and(|text| text.contains("nobody answers")));
    assert_eq!(setup.current(), Some(first.id));
    let second = setup.master.snapshot(2, 10);
    setup.master.publish(&head(2, &[&first, &second]));
    *setup.master.away.lock().unwrap() = false;
    let shown = tokio::time::timeout(
        RETRY_PAUSE * 400,
        states.wait_for(|state| state.current == Some(second.id)),
    );
    drop(shown.await.expect("it came back within the longest pause").unwrap());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = setup.follower.status();
    assert_eq!((status.last_error, status.upstream.as_str()), (None, "fake master"));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn of_a_burst_the_newest_comes_first_and_the_others_do_not_keep_the_next_one_waiting() {
    let setup = Setup::new().await;
    let all: Vec<_> = (1..=40).map(|seed| setup.master.snapshot(seed, 10)).collect();
    let live = |count: usize| all.iter().take(count).collect::<Vec<_>>();
    *setup.master.slowness.lock().unwrap() = Duration::from_millis(400);
    setup.master.publish(&head(1, &live(30)));
    let mut states = setup.follower.subscribe();
    let (follower, begun) = (Arc::clone(&setup.follower), tokio::time::Instant::now());
    let running = tokio::spawn(async move { follower.run().await });
    drop(
        states
            .wait_for(|state| state.current == Some(all[29].id))
            .await
            .unwrap(),
    );
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "the newest of thirty comes first"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let published = tokio::time::Instant::now();
    setup.master.publish(&head(2, &live(40)));
    drop(
        states
            .wait_for(|state| state.current == Some(all[39].id))
            .await
            .unwrap(),
    );
    let took = published.elapsed();
    assert!(took < Duration::from_millis(1500), "it took {took:?}");
    assert!(
        setup.follower.state().snapshots.len() < 30,
        "not all of the others were there yet"
    );
    drop(states.wait_for(|state| state.snapshots.len() == 40).await.unwrap());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_damaged_or_another_keeps_nobody_from_starting_and_is_fetched_again() {
    for rot in [Rot::Damaged, Rot::Other] {
        let (master, clock) = (FakeMaster::new(), Arc::new(TestClock(Mutex::new(START))));
        let first = master.snapshot(1, 10);
        master.publish(&head(1, &[&first]));
        let store = Arc::new(RottenStore(MemoryStore::new(), Mutex::new(Rot::None)));
        let open = || {
            let upstreams: Vec<Arc<dyn Upstream>> = vec![master.clone()];
            let trusted = vec![key(1).public()];
            Follower::open(repository(), upstreams, store.clone(), trusted, clock.clone())
        };
        let follower = open().unwrap();
        follower.poll(master.as_ref(), true).await.unwrap();
        drop(follower);
        *store.1.lock().unwrap() = rot;
        let tags = [("own".parse().unwrap(), first.id)].into();
        let follower = open().unwrap().tagged(tags).unwrap();
        assert!(follower.state().snapshots.is_empty(), "{rot:?}");
        follower.poll(master.as_ref(), true).await.unwrap();
        assert_eq!(follower.state().snapshots[&first.id].as_ref(), &first, "{rot:?}");
        assert_eq!(store.snapshot(&repository(), first.id).unwrap(), Some(first));
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_master_s_record_is_asked_for_once_after_a_start_and_its_catalog_never_again() {
    let setup = Setup::new().await;
    let first = setup.master.snapshot(1, 2000);
    let newer = String::from_utf8(first.encode().1).unwrap();
    let newer = newer.replacen('{', "{\n  \"colour\": \"blue\",", 1).into_bytes();
    let mut published = head(1, &[&first]);
    published.snapshots[0].record = RecordId::of(&newer);
    setup.master.records.lock().unwrap().insert(first.id, newer);
    setup.master.publish(&published);
    setup.poll().await.unwrap();
    assert_eq!(setup.current(), Some(first.id));

    let again = open(&setup.master, &setup.store, &setup.clock).await;
    assert_eq!(again.state().current, None, "it looks like one that was changed");
    assert!(again.poll(setup.master.as_ref(), false).await.unwrap());
    assert_eq!(again.state().current, Some(first.id));
    setup.master.records.lock().unwrap().clear();
    assert!(
        !again.poll(setup.master.as_ref(), true).await.unwrap(),
        "the record is known"
    );
    assert_eq!(setup.master.deltas.lock().unwrap().len(), 1, "the catalog is here");
}

#[tokio::test(start_paused = true)]
async fn a_master_that_does_not_wait_is_not_asked_in_a_tight_loop() {
    let (master, store) = (Arc::new(Impatient::default()), Arc::new(MemoryStore::new()));
    let clock = Arc::new(TestClock(Mutex::new(START)));
    let upstreams: Vec<Arc<dyn Upstream>> = vec![master.clone()];
    let follower = Follower::open(repository(), upstreams, store, vec![key(1).public()], clock);
    let follower = follower.unwrap();
    let minute = Duration::from_secs(60);
    assert!(tokio::time::timeout(minute, follower.run()).await.is_err());
    let asked = u128::from(master.asked.load(Ordering::Relaxed));
    assert!(
        (2..=minute.as_millis() / RETRY_PAUSE.as_millis() + 1).contains(&asked),
        "{asked}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_master_that_knows_that_its_head_is_the_one_held_is_only_waited_for() {
    let (master, store) = (FakeMaster::new(), Arc::new(MemoryStore::new()));
    let clock = Arc::new(TestClock(Mutex::new(START)));
    let certain = Arc::new(Certain {
        master: Arc::clone(&master),
        asked: Mutex::default(),
    });
    let upstreams: Vec<Arc<dyn Upstream>> = vec![certain.clone()];
    let follower = Follower::open(repository(), upstreams, store, vec![key(1).public()], clock);
    let follower = follower.unwrap();
    let first = master.snapshot(1, 10);
    let (mut states, mut status) = (follower.subscribe(), None);
    let life = async {
        // Nothing is there at first.
        tokio::time::sleep(Duration::from_secs(200)).await;
        let before = std::mem::take(&mut *certain.asked.lock().unwrap());
        assert_eq!(before, [(0, false), (0, true), (0, true), (0, true), (0, true)]);
        master.publish(&head(7, &[&first]));
        states.wait_for(|state| state.current == Some(first.id)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(200)).await;
        // One that was set back is noticed while it is waited for.
        master.publish(&head(6, &[&first]));
        tokio::time::sleep(Duration::from_millis(10)).await;
        status = Some(follower.status());
    };
    tokio::select! {
        () = follower.run() => unreachable!("it never ends"),
        () = life => {}
    }
    let error = status.unwrap().last_error.unwrap_or_default();
    assert!(error.contains('6') && error.contains('7'), "{error}");
    let asked = certain.asked.lock().unwrap().clone();
    assert_eq!(asked, [(7, true), (7, true), (7, true), (7, true)]);
}

#[tokio::test]
async fn what_the_master_removed_goes_at_once_whatever_keeps_it_here() {
    let (master, store) = (FakeMaster::new(), Arc::new(MemoryStore::new()));
    let snapshots: Vec<_> = (1..=3).map(|seed| master.snapshot(seed, 10)).collect();
    let mut published = head(1, &snapshots.iter().collect::<Vec<_>>());
    master.publish(&published);
    let upstreams = vec![master.clone() as Arc<dyn Upstream>];
    let clock = Arc::new(TestClock(Mutex::new(START)));
    let trust = vec![key(1).public()];
    let follower = Follower::open(repository(), upstreams, store.clone(), trust, clock).unwrap();
    follower.poll(master.as_ref(), false).await.unwrap();
    assert!(follower.tag(&"own".parse().unwrap(), snapshots[0].id));

    published.sequence = 2;
    published.current = Some(snapshots[1].id);
    published.snapshots.retain(|live| live.id == snapshots[1].id);
    for snapshot in [&snapshots[0], &snapshots[2]] {
        published.removed.push(RemovedSnapshot {
            id: snapshot.id,
            removed: START,
            reason: "a court".to_owned(),
        });
    }
    master.publish(&published);
    follower.poll(master.as_ref(), false).await.unwrap();
    let state = follower.state();
    assert_eq!(state.snapshots.keys().collect::<Vec<_>>(), [&snapshots[1].id]);
    assert!(state.local_tags.is_empty() && state.current == Some(snapshots[1].id));
    assert_eq!(store.snapshots(&repository()).unwrap(), [snapshots[1].id]);
}

#[tokio::test(start_paused = true)]
async fn a_node_s_own_policy_keeps_less_than_the_master_has() {
    let (master, store) = (FakeMaster::new(), Arc::new(MemoryStore::new()));
    let clock = Arc::new(TestClock(Mutex::new(START)));
    let snapshots: Vec<_> = (1..=4).map(|seed| master.snapshot(seed, 10)).collect();
    let mut published = head(1, &snapshots.iter().collect::<Vec<_>>());
    for (age, live) in published.snapshots.iter_mut().rev().enumerate() {
        let released = START.plus(HOUR * 10 - HOUR * u32::try_from(age).unwrap());
        live.state = SnapshotState::released(released, 1);
    }
    published.expires = START.plus(HOUR * 100);
    published.tags.insert("gold".parse().unwrap(), snapshots[0].id);
    master.publish(&published);
    *clock.0.lock().unwrap() = START.plus(HOUR * 10);
    let mut policy = RetentionPolicy::default();
    policy.keep_last = 1;
    policy.keep_within = Some(HOUR * 3);
    policy.grace = Duration::ZERO;
    let intake = Intake::default();
    let follower = Follower::open(
        repository(),
        vec![master.clone() as Arc<dyn Upstream>],
        store.clone(),
        vec![key(1).public()],
        clock.clone(),
    );
    let follower = follower.unwrap().keeping(policy).sharing(intake.clone());
    follower.poll(master.as_ref(), true).await.unwrap();
    let shown = || follower.state().snapshots.keys().copied().collect::<Vec<_>>();
    let ids = |numbers: &[usize]| numbers.iter().map(|number| snapshots[*number].id).collect::<Vec<_>>();
    assert_eq!(
        shown(),
        ids(&[0, 1, 2, 3]),
        "number 1 is two hours old, number 0 is tagged"
    );
    assert_eq!(store.snapshots(&repository()).unwrap().len(), 4);

    // Time alone makes them go, at the latest when a wait ends without news.
    *clock.0.lock().unwrap() = START.plus(HOUR * 12);
    assert!(tokio::time::timeout(HOUR, intake.dropped()).await.is_err());
    assert!(follower.poll(master.as_ref(), false).await.unwrap());
    assert_eq!(shown(), ids(&[0, 3]));
    assert_eq!(store.snapshots(&repository()).unwrap().len(), 2);
    tokio::time::timeout(HOUR, intake.dropped())
        .await
        .expect("the cleaner is told");
    assert!(
        !follower.poll(master.as_ref(), false).await.unwrap(),
        "they are not fetched again"
    );
    assert_eq!(shown(), ids(&[0, 3]));
    assert!(intake.try_pause().is_some());
}
