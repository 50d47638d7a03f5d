//! What goes wrong with one repository of a master, and that the others go on.

use std::path::{Path, PathBuf};

use instantmirror_core::RepoName;
use instantmirror_core::traits::Catalogs as _;

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

    /// Writes a file of repository `a` as it was once, its time included.
    pub(super) fn put_back(&self, file: &str, content: &str, modified: std::time::SystemTime) {
        let path = self.in_store(&format!("../a/{file}"));
        std::fs::write(&path, content).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(modified).unwrap();
    }

    pub(super) fn modified(&self, file: &str) -> std::time::SystemTime {
        let meta = std::fs::metadata(self.in_store(&format!("../a/{file}"))).unwrap();
        meta.modified().unwrap()
    }

    /// Files of the store in which one of these stands. The map of pieces forgets no object, and a key is secret by its name.
    pub(super) fn files_with(&self, wanted: &[&[u8]]) -> Vec<PathBuf> {
        let (mut pending, mut found) = (vec![self.in_store("")], Vec::new());
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.ends_with("pieces") || path.ends_with("key") {
                    continue;
                }
                if path.is_dir() {
                    pending.push(path);
                    continue;
                }
                let content = std::fs::read(&path).unwrap();
                let has = |part: &&[u8]| content.windows(part.len()).any(|window| window == *part);
                if wanted.iter().any(has) {
                    found.push(path);
                }
            }
        }
        found
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

#[tokio::test]
async fn hashes_in_pieces_of_another_length_make_no_torrent() {
    let world = World::with_options("piece_length = \"32 KiB\"\n");
    world.publish("a", "the same");
    world.publish("b", "the same");
    let options = crate::torrent::TorrentOptions::default();
    // The store keeps what came last.
    world.master.torrents(&name("b"), None, &options, &NoProgress).unwrap();
    let refused = world
        .master
        .torrents(&name("a"), None, &options, &NoProgress)
        .unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("hashes in pieces of 32768 bytes") && text.contains("pieces of 1048576"),
        "{text}"
    );
}

#[tokio::test]
async fn a_name_or_a_tracker_changes_what_it_should_of_a_torrent_and_a_snapshot_nothing() {
    let world = World::new();
    let first = world.publish("a", "content");
    let made = async |snapshot: Option<_>, called: Option<&str>| {
        let options = crate::torrent::TorrentOptions {
            name: called.map(str::to_owned),
            ..Default::default()
        };
        world
            .master
            .torrents(&name("a"), snapshot, &options, &NoProgress)
            .unwrap()
    };
    let before = made(None, None).await;
    assert_eq!(
        (before.torrents[0].file_name.as_str(), before.torrents[0].files),
        ("a.torrent", 1)
    );
    world.publish("a", "other content");
    let again = made(Some(first.snapshot.id), None).await;
    assert_eq!(again, before);
    // Back to what it was, in a snapshot of its own.
    world.publish("a", "content");
    let third = made(None, None).await;
    assert_ne!(third.snapshot, before.snapshot);
    assert_eq!(third.torrents, before.torrents);
    assert_ne!(made(None, Some("b")).await.torrents[0].hash, before.torrents[0].hash);
    let seeds = third.web_seeds(&["http://s/".to_owned(), "https://t/x".to_owned()]);
    let path = format!(".im/webseed/a/{}/0/", third.snapshot);
    assert_eq!(seeds, [format!("http://s/{path}"), format!("https://t/x/{path}")]);
}
