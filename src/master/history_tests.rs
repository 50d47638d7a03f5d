//! Going back, taking away, and what is left of it in the store.

use std::path::PathBuf;

use instantmirror_core::traits::Catalogs as _;
use instantmirror_core::{ObjectId, Snapshot};

use super::super::tests::{World, name};
use super::super::{MasterPublication, NoProgress, PublishOptions, Published};
use super::*;

fn again(world: &World, again: bool) -> Published {
    let options = PublishOptions {
        again,
        ..PublishOptions::default()
    };
    world.master.publish(&name("a"), &options, &NoProgress).unwrap()
}

fn here(world: &World, content: &str) -> bool {
    world
        .master
        .parts
        .objects
        .size(&ObjectId::of(content.as_bytes()))
        .unwrap()
        .is_some()
}

fn with_a_secret() -> (World, Snapshot) {
    let world = World::new();
    let first = world.publish("a", "secret").snapshot;
    world.publish("a", "public");
    (world, first)
}

#[tokio::test]
async fn going_back_needs_no_source_and_no_publish_undoes_it() {
    let world = World::new();
    let (good, bad) = (world.publish("a", "good").snapshot, world.publish("a", "bad").snapshot);
    let (master, repository) = (&world.master, name("a"));
    let planned = master.plan_rollback(&repository, good.id).unwrap();
    assert_eq!(
        (planned.from, planned.withdrawn.as_slice()),
        (Some(bad.id), &[bad.id][..])
    );
    assert_eq!(
        master.published_head(&repository).unwrap().current,
        Some(bad.id),
        "that was a plan"
    );
    let done = master.rollback(&repository, good.id).unwrap();
    assert_eq!((done.to, done.sequence), (good.id, Some(3)));
    let shown = MasterPublication::new(master.clone()).await;
    let state = shown.state(&repository).unwrap();
    assert_eq!((state.current, state.snapshots.len()), (Some(good.id), 2));
    assert_eq!(
        shown.fallbacks(&repository),
        [],
        "what was rolled back from is no source of grace"
    );

    // The source tree still is the bad one: neither a timer nor a watch brings it back.
    assert_eq!(again(&world, false), Published::TakenBack(bad.id));
    assert_eq!(again(&world, false), Published::TakenBack(bad.id));
    let next = world.publish("a", "mended").snapshot;
    let mended = world.modified("file");
    let names = SnapshotNames::of_head(&master.published_head(&repository).unwrap());
    assert_eq!(names.resolve(&"current~1".parse().unwrap()), Ok(good.id));
    shown.refresh().await.unwrap();
    let graced: Vec<_> = shown
        .fallbacks(&repository)
        .iter()
        .map(|snapshot| snapshot.id)
        .collect();
    assert_eq!(graced, [good.id], "what came back is one");

    // Who wants it, gets it: forward again, or by a publish.
    assert_eq!(master.rollback(&repository, bad.id).unwrap().withdrawn, [next.id]);
    world.put_back("file", "mended", mended);
    assert_eq!(again(&world, false), Published::TakenBack(next.id));
    assert!(matches!(again(&world, true), Published::Snapshot(_)));
    assert!(matches!(again(&world, false), Published::Unchanged(_)));
}

#[test]
fn what_cannot_be_gone_back_to_says_why() {
    let world = World::new();
    let (first, second) = (world.publish("a", "one").snapshot, world.publish("a", "two").snapshot);
    let (master, repository) = (&world.master, name("a"));
    let none = SnapshotId::from_random([9; 16]);
    let refused = master.rollback(&repository, none).unwrap_err().to_string();
    assert!(
        refused.contains(&first.id.to_string()) || refused.contains(&second.id.to_string()),
        "{refused}"
    );
    let unchanged = master.rollback(&repository, second.id).unwrap();
    assert_eq!((unchanged.from, unchanged.sequence), (Some(second.id), None));
    let options = PublishOptions {
        stage: Some(super::super::StageRule::default()),
        ..PublishOptions::default()
    };
    std::fs::write(world.in_store("../a/file"), "staged").unwrap();
    master.publish(&repository, &options, &NoProgress).unwrap();
    let staged = master.published_head(&repository).unwrap().snapshots[2].id;
    let refused = master.rollback(&repository, staged).unwrap_err();
    assert!(
        matches!(refused, MasterError::History(HistoryError::Staged { .. })),
        "{refused}"
    );
}

#[test]
fn what_is_removed_is_deleted_at_once_and_nothing_else() {
    let world = World::new();
    let first = world.publish("a", "secret").snapshot;
    std::fs::write(world.in_store("../a/shared"), "of both").unwrap();
    std::fs::write(world.in_store("../a/passwords"), "secret").unwrap();
    let second = world.publish("a", "also secret").snapshot;
    let times = ["file", "passwords"].map(|file| world.modified(file));
    std::fs::remove_file(world.in_store("../a/passwords")).unwrap();
    fill(&world);
    let third = world.publish("a", "public").snapshot;
    let (master, repository) = (&world.master, name("a"));
    master.tag(&repository, &"gold".parse().unwrap(), first.id).unwrap();
    let options = RemoveOptions::default();
    let both = [first.id, second.id];

    let refused = |ids: &[SnapshotId], options: &RemoveOptions| {
        let refused = master
            .remove_snapshots(&repository, ids, options, &NoProgress)
            .unwrap_err()
            .to_string();
        assert_eq!(master.published_head(&repository).unwrap().sequence, 4, "{refused}");
        refused
    };
    assert!(refused(&[third.id], &options).contains("rollback a current~1"));
    assert!(refused(&both, &options).contains("the tags gold"));
    assert!(refused(&[SnapshotId::from_random([9; 16])], &options).contains("no snapshot"));
    let long = RemoveOptions {
        reason: "x".repeat(501),
        ..RemoveOptions::default()
    };
    assert!(refused(&both, &long).contains("501 bytes"));

    let options = RemoveOptions {
        reason: "a court".to_owned(),
        tags: true,
        expired: false,
    };
    let planned = master.plan_removal(&repository, &both, &options).unwrap();
    assert!(here(&world, "secret"), "that was a plan");
    let done = master
        .remove_snapshots(&repository, &both, &options, &NoProgress)
        .unwrap();
    for removal in [&planned, &done] {
        assert_eq!((removal.deleted.objects, removal.deleted.bytes), (2, 17));
        assert_eq!(removal.tags, ["gold".parse().unwrap()]);
    }
    assert!(!here(&world, "secret") && !here(&world, "also secret"));
    assert!(here(&world, "public") && here(&world, "of both"));
    let head = master.published_head(&repository).unwrap();
    assert_eq!((head.snapshots.len(), head.tags.len(), head.removed.len()), (1, 0, 2));
    assert!(head.has_removed(&first.id) && head.removed[0].reason == "a court");
    let known = super::super::parts::walker(&master.snapshots());
    let gone = |root: NodeId| {
        instantmirror_core::catalog::NodeSource::node(&known, &root)
            .unwrap()
            .is_none()
    };
    assert!(
        gone(first.root.node) && gone(second.root.node) && !gone(third.root.node),
        "names may be secret too"
    );

    // Nor do files that were rewritten or cut keep a name, a hash or the few bytes of a content.
    let traces = || {
        let secrets = ["secret", "also secret"].map(|content| ObjectId::of(content.as_bytes()));
        let mut found = world.files_with(&[b"secret", b"passwords"]);
        found.extend(secrets.iter().flat_map(|id| world.files_with(&[id.as_bytes()])));
        found
    };
    assert_eq!(traces(), Vec::<PathBuf>::new());

    // The removed tree in the source is not published again, and what a look at it took in goes again.
    world.put_back("file", "also secret", times[0]);
    world.put_back("passwords", "secret", times[1]);
    for number in 0..200 {
        std::fs::remove_file(world.in_store(&format!("../a/{number}"))).unwrap();
    }
    assert_eq!(again(&world, false), Published::TakenBack(second.id));
    assert!(!traces().is_empty());
    master.clean_up(CleanUpOptions::default()).unwrap();
    assert!(!here(&world, "also secret") && here(&world, "public"));
    assert_eq!(traces(), Vec::<PathBuf>::new());
}

/// So much that stays that no pack is rewritten for the space.
fn fill(world: &World) {
    for number in 0..200 {
        let long = format!("{number} {}", "of no interest ".repeat(10));
        std::fs::write(world.in_store(&format!("../a/{number}")), long).unwrap();
    }
}

#[test]
fn a_name_that_a_publish_found_again_and_gave_up_goes_though_no_object_does() {
    let world = World::new();
    let secret = world.in_store("../a/top-secret-name");
    fill(&world);
    std::fs::write(&secret, "public").unwrap();
    let first = world.publish("a", "public").snapshot;
    let modified = world.modified("top-secret-name");
    let times = world.modified("file");
    std::fs::remove_file(&secret).unwrap();
    // Another name for the same content.
    std::fs::write(world.in_store("../a/other"), "public").unwrap();
    world.publish("a", "public");
    let (master, repository) = (&world.master, name("a"));
    let traces = || world.files_with(&[b"top-secret-name"]);
    assert!(!traces().is_empty());
    master
        .remove_snapshots(&repository, &[first.id], &RemoveOptions::default(), &NoProgress)
        .unwrap();
    assert_eq!(traces(), Vec::<PathBuf>::new());

    std::fs::remove_file(world.in_store("../a/other")).unwrap();
    world.put_back("file", "public", times);
    world.put_back("top-secret-name", "public", modified);
    assert_eq!(again(&world, false), Published::TakenBack(first.id));
    assert!(!traces().is_empty());
    let done = master.clean_up(CleanUpOptions::default()).unwrap();
    assert_eq!((done.objects, traces()), (0, Vec::new()));
    assert!(here(&world, "public"));
}

#[test]
fn what_an_ordinary_clean_up_forgot_goes_from_the_packs_with_the_next_removal() {
    let world =
        World::with_options("[retention]\nkeep_last = 2\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n");
    let secret = world.in_store("../a/top-secret-name");
    fill(&world);
    std::fs::write(&secret, "secret").unwrap();
    world.publish("a", "one");
    std::fs::remove_file(&secret).unwrap();
    let second = world.publish("a", "two").snapshot;
    world.publish("a", "three");
    let master = &world.master;
    let id = ObjectId::of(b"secret");
    let traces = || world.files_with(&[b"top-secret-name", id.as_bytes()]);
    // It expired, as any snapshot does: its bytes lie on, and no list names them.
    assert_eq!(master.clean_up(CleanUpOptions::default()).unwrap().snapshots, 1);
    let references = instantmirror_store::references::References::open(&world.in_store("")).unwrap();
    assert!(!references.lists_dead().unwrap() && !here(&world, "secret") && !traces().is_empty());
    master
        .remove_snapshots(&name("a"), &[second.id], &RemoveOptions::default(), &NoProgress)
        .unwrap();
    assert_eq!(traces(), Vec::<PathBuf>::new());
}

#[test]
fn what_an_ordinary_clean_up_forgot_goes_from_the_packs_when_its_own_snapshot_is_removed() {
    let world =
        World::with_options("[retention]\nkeep_last = 1\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n");
    let secret = world.in_store("../a/top-secret-name");
    fill(&world);
    std::fs::write(&secret, "secret").unwrap();
    let first = world.publish("a", "one").snapshot;
    std::fs::remove_file(&secret).unwrap();
    world.publish("a", "two");
    let (master, repository) = (&world.master, name("a"));
    let id = ObjectId::of(b"secret");
    let traces = || world.files_with(&[b"top-secret-name", id.as_bytes()]);
    assert_eq!(master.clean_up(CleanUpOptions::default()).unwrap().snapshots, 1);
    assert!(!master.snapshots().snapshots(&repository).unwrap().contains(&first.id) && !traces().is_empty());
    let options = RemoveOptions {
        expired: true,
        ..RemoveOptions::default()
    };
    master
        .remove_snapshots(&repository, &[first.id], &options, &NoProgress)
        .unwrap();
    assert_eq!(traces(), Vec::<PathBuf>::new());
    assert_eq!(expired::read(master.notes(), &repository).unwrap().len(), 0);
}

#[test]
fn a_removed_tree_that_was_found_again_goes_beside_a_snapshot_that_expires() {
    let world =
        World::with_options("[retention]\nkeep_last = 2\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n");
    let secret = world.in_store("../a/top-secret-name");
    fill(&world);
    std::fs::write(&secret, "secret").unwrap();
    let first = world.publish("a", "one").snapshot;
    let times = ["file", "top-secret-name"].map(|file| world.modified(file));
    std::fs::remove_file(&secret).unwrap();
    world.publish("a", "two");
    let (master, repository) = (&world.master, name("a"));
    let id = ObjectId::of(b"secret");
    let traces = || world.files_with(&[b"top-secret-name", id.as_bytes()]);
    master
        .remove_snapshots(&repository, &[first.id], &RemoveOptions::default(), &NoProgress)
        .unwrap();
    assert_eq!(traces(), Vec::<PathBuf>::new());
    world.put_back("file", "one", times[0]);
    world.put_back("top-secret-name", "secret", times[1]);
    assert_eq!(again(&world, false), Published::TakenBack(first.id));
    std::fs::remove_file(&secret).unwrap();
    world.publish("a", "three");
    world.publish("a", "four");
    assert!(!traces().is_empty());
    assert_eq!(master.clean_up(CleanUpOptions::default()).unwrap().snapshots, 1);
    assert_eq!(traces(), Vec::<PathBuf>::new());
}

#[test]
fn a_removal_whose_data_cannot_be_deleted_says_what_was_done_and_what_was_not() {
    let (world, first) = with_a_secret();
    let (master, repository) = (&world.master, name("a"));
    // The clean-up can neither use nor make its table.
    let table = world.in_store("references.db");
    std::fs::remove_file(&table).unwrap();
    std::fs::create_dir(&table).unwrap();
    let removed = master.remove_snapshots(&repository, &[first.id], &RemoveOptions::default(), &NoProgress);
    let text = removed.unwrap_err().to_string();
    let head = master.published_head(&repository).unwrap();
    assert!(head.has_removed(&first.id) && here(&world, "secret"));
    let said = format!("removed from 'a': {}; head {} says so", first.id, head.sequence);
    assert!(text.contains(&said), "{text}");
    assert!(
        text.contains("not deleted from the store yet") && text.contains("imserver retention a"),
        "{text}"
    );
    std::fs::remove_dir(&table).unwrap();
    let done = master.clean_up(CleanUpOptions::default()).unwrap();
    assert_eq!((done.objects, done.waiting), (1, 0));
    assert!(!here(&world, "secret"));
}

#[test]
fn a_removal_that_was_cut_off_is_finished_by_the_next_clean_up() {
    let (world, first) = with_a_secret();
    let (master, repository) = (&world.master, name("a"));
    let mut head = master.published_head(&repository).unwrap();
    master
        .take_out(&mut head, &[first.id], &RemoveOptions::default())
        .unwrap();
    let writer = Writer::open(master).unwrap();
    master.commit(&writer, head, SystemClock.now()).unwrap();
    drop(writer);
    assert!(here(&world, "secret"));
    let done = master.clean_up(CleanUpOptions::default()).unwrap();
    assert_eq!(
        (done.objects, done.waiting),
        (1, 0),
        "it does not wait for delete_after"
    );
    assert!(!here(&world, "secret"));
}
