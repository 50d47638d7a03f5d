//! What goes wrong with one repository of a master, and that the others go on.

use std::path::{Path, PathBuf};

use instantmirror_core::RepoName;
use instantmirror_core::traits::Publication as _;

use super::{Master, MasterError, MasterPublication, NoProgress, PublishOptions, Published, PublishedSnapshot};
use crate::config::ServerConfig;

pub(super) struct World {
    dir: tempfile::TempDir,
    pub(super) master: Master,
}

pub(super) fn name(text: &str) -> RepoName {
    text.parse().unwrap()
}

impl World {
    /// The repositories `a` and `b`, not published yet.
    pub(super) fn new() -> Self {
        Self::with_options("")
    }

    /// The same, with more sections in the configuration.
    pub(super) fn with_options(sections: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let text = format!(
            "[store]\ndir = {:?}\n\
             [[repository]]\nname = \"a\"\nsource = {:?}\n[[repository]]\nname = \"b\"\nsource = {:?}\n{sections}",
            path("store"),
            path("a"),
            path("b"),
        );
        let config = ServerConfig::parse(Path::new("imserver.toml"), &text).unwrap();
        Master::init(&config).unwrap();
        let master = Master::open(config).unwrap();
        Self { dir, master }
    }

    pub(super) fn publish(&self, repository: &str, content: &str) -> PublishedSnapshot {
        std::fs::write(self.dir.path().join(repository).join("file"), content).unwrap();
        match self
            .master
            .publish(&name(repository), &PublishOptions::default(), &NoProgress)
            .unwrap()
        {
            Published::Snapshot(snapshot) => *snapshot,
            unchanged => panic!("{unchanged:?}"),
        }
    }

    pub(super) fn in_store(&self, path: &str) -> PathBuf {
        self.dir.path().join("store").join(path)
    }
}

#[tokio::test]
async fn a_repository_with_a_bad_head_keeps_nobody_from_serving_the_others() {
    let world = World::new();
    world.publish("a", "one");
    let first = world.publish("b", "one");
    std::fs::write(world.in_store("heads/a.head"), "rotten").unwrap();
    let shown = MasterPublication::new(world.master.clone()).await;
    assert_eq!(shown.state(&name("b")).unwrap().current, Some(first.snapshot.id));
    assert_eq!(shown.state(&name("a")).unwrap().current, None);
    let second = world.publish("b", "two");
    assert!(matches!(shown.refresh().await, Err(MasterError::Snapshots(_))));
    assert_eq!(shown.state(&name("b")).unwrap().current, Some(second.snapshot.id));
}

#[tokio::test]
async fn a_lost_record_is_dropped_by_the_next_publish() {
    for damage in ["", "rotten"] {
        let world = World::new();
        let first = world.publish("a", "one");
        let second = world.publish("a", "two");
        let record = world.in_store(&format!("records/a/{}.record", second.snapshot.id));
        match damage {
            "" => std::fs::remove_file(record).unwrap(),
            content => std::fs::write(record, content).unwrap(),
        }
        let shown = MasterPublication::new(world.master.clone()).await;
        assert_eq!(
            shown.state(&name("a")).unwrap().snapshots.keys().collect::<Vec<_>>(),
            [&first.snapshot.id]
        );
        let third = world.publish("a", "three");
        assert_eq!(third.snapshot.parent, None);
        shown.refresh().await.unwrap();
        let state = shown.state(&name("a")).unwrap();
        assert_eq!(state.current, Some(third.snapshot.id));
        let promised: Vec<_> = state
            .head
            .as_ref()
            .unwrap()
            .head()
            .snapshots
            .iter()
            .map(|live| live.id)
            .collect();
        assert_eq!(promised, [first.snapshot.id, third.snapshot.id]);
    }
}

#[test]
fn a_store_or_key_inside_the_source_tree_is_not_published_under_whatever_name() {
    let world = World::new();
    let inside = world.dir.path().join("a/inside");
    std::fs::create_dir(&inside).unwrap();
    let alias = world.dir.path().join("alias");
    std::os::unix::fs::symlink(&inside, &alias).unwrap();
    for key in [None, Some(inside.join("key"))] {
        let mut config = world.master.config().clone();
        match &key {
            None => config.store.dir.clone_from(&alias),
            key => config.store.key_file.clone_from(key),
        }
        Master::init(&config).unwrap();
        let refused = Master::open(config)
            .unwrap()
            .publish(&name("a"), &PublishOptions::default(), &NoProgress);
        assert!(matches!(refused, Err(MasterError::SourceHolds { .. })), "{refused:?}");
    }
    // The other repository's tree holds neither.
    world.publish("b", "one");
}
