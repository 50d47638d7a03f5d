//! The refusals of a builder of masters, and proof that a master in memory, or of given parts, does what one on a disk does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use instantmirror::config::{
    ByteSize, HeaderRuleConfig, HttpConfig, ImportKind, MountConfig, PeersConfig, RetentionConfig, ServerConfig,
    TorrentConfig,
};
use instantmirror::core::memory::{MemoryStorage, MemoryStore};
use instantmirror::core::traits::{Catalogs as _, ObjectStorage as _, Objects as _};
use instantmirror::core::{ObjectId, RepoName, SecretKey, SnapshotId};
use instantmirror::master::{
    CleanUpOptions, MasterBuilder, MasterError, MasterPublication, PlannedOutcome, RemoveOptions, Repository, StageRule,
};
use instantmirror::store::disk::RealDisk;
use instantmirror::store::snapshots::DiskSnapshotStore;
use instantmirror::{BuildError, Master, NoProgress, PublishOptions, Published};

fn name() -> RepoName {
    "tree".parse().unwrap()
}

fn repository() -> Repository {
    Repository::new("tree").source("/nowhere")
}

fn builder() -> MasterBuilder {
    Master::builder().repository(repository())
}

fn refused(builder: MasterBuilder) -> String {
    match builder.build() {
        Err(MasterError::Build(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn with(repository: Repository) -> MasterBuilder {
    Master::builder().repository(repository)
}

/// Rules that would keep nothing.
fn nothing() -> RetentionConfig {
    let mut retention = RetentionConfig::default();
    retention.max_bytes = Some(ByteSize(0));
    retention
}

fn assert_refused(cases: impl IntoIterator<Item = (MasterBuilder, &'static str)>) {
    for (builder, expected) in cases {
        let text = refused(builder);
        assert!(text.starts_with(expected), "{text}\n{expected}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_repository_is_named_with_its_value() {
    let mount = |path: &str| MountConfig::new(path);
    let linked = || with(repository().import(ImportKind::Hardlink));
    assert_refused([
        (
            with(Repository::new("tree")),
            "repository 'tree' source is missing: name the directory",
        ),
        (with(Repository::new("a b").source("/x")), "repository 'a b': "),
        (with(repository().exclude("a{")), "repository 'tree' exclude 'a{': "),
        (with(repository().suggest("[")), "repository 'tree' suggest '[': "),
        (
            with(repository().piece_length(1000)),
            "repository 'tree' piece_length '1000': it must be a power of two",
        ),
        (
            linked(),
            "repository 'tree' import 'Hardlink': only the master's own store",
        ),
        (
            linked().dir("/nowhere/x").objects(MemoryStorage::new()),
            "repository 'tree' import 'Hardlink': only the master's own store",
        ),
        (
            with(repository().torrent(TorrentConfig::default())),
            "repository 'tree' torrent '(settings)': ",
        ),
        (
            with(repository().retention(nothing())),
            "repository 'tree' retention '0': max_bytes = 0",
        ),
        (
            with(repository().mount(mount("pub"))),
            "repository 'tree' mount 'pub': mount path 'pub' must begin with '/'",
        ),
        (
            with(repository().mount(mount("/pub")).mount(mount("/pub/"))),
            "repository 'tree' mount '/pub/': two mounts at '/pub'",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_the_rest_is_named_with_its_value() {
    let (mut peers, mut http) = (PeersConfig::default(), HttpConfig::default());
    (peers.slots, http.max_connections) = (0, 0);
    let mut rule = HeaderRuleConfig::new(["*.iso"]);
    (rule.repository, rule.cache) = (Some("other".parse().unwrap()), Some("no-store".to_owned()));
    let mut ruled = HttpConfig::default();
    ruled.rules = vec![rule];
    let inside = with(Repository::new("tree").source("/srv/tree"));
    let address = "127.0.0.1:8080".parse().unwrap();
    let tracker = "ftp://user:secret@tracker.example.org/";
    assert_refused([
        (
            Master::builder(),
            "repository is missing: give it one: Repository::new(NAME)",
        ),
        (
            builder().repository(repository()),
            "repository 'tree': it is there twice",
        ),
        (builder().retention(nothing()), "retention '0': max_bytes = 0"),
        (builder().dir(""), "dir '': it is no directory"),
        (
            inside.dir("/srv/tree/store"),
            "dir '/srv/tree/store': it lies inside of the source tree /srv/tree",
        ),
        (builder().key_file("/x/key"), "key_file '/x/key': "),
        (
            builder().peers(peers),
            "peers '(settings)': [peers] max_connections and slots",
        ),
        (builder().http(http), "http '(settings)': [http] max_connections = 0"),
        (builder().http(ruled), "http 'other': a rule is for this repository"),
        (builder().tracker(tracker), "peers '(settings)': "),
        (
            builder().listen(address).listen_peers(address),
            "listen '(settings)': 127.0.0.1:8080 is there twice",
        ),
    ]);
}

#[test]
fn what_excludes_each_other_is_said_and_no_secret_is_shown() {
    let both = builder().key(SecretKey::from_random([7; 32])).key_file("/x/key");
    let shown = format!("{both:?}");
    assert!(!shown.contains("ed25519-secret"), "{shown}");
    let Err(MasterError::Build(BuildError::Contradiction { field, other, .. })) = both.build() else {
        panic!("a key is given or in a file");
    };
    assert_eq!((field.as_str(), other.as_str()), ("key", "key_file"));
}

#[test]
fn a_file_and_methods_describe_the_same_master() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let text = format!(
        "[store]\ndir = {store:?}\n[http]\nlisten = [\"127.0.0.1:0\"]\n[peers]\nlisten = [\"127.0.0.1:0\"]\n\
         [retention]\nkeep_last = 3\n[snapshots]\ngrace = \"5 s\"\n\
         [[repository]]\nname = \"tree\"\nsource = \"/nowhere\"\nexclude = [\"*.tmp\"]\npreseed = [\"dists/\"]\n\
         piece_length = \"64 KiB\"\nimport = \"hardlink\"\n",
    );
    let config = ServerConfig::parse(Path::new("(built in)"), &text).unwrap();
    assert!(
        matches!(Master::open(config.clone()), Err(MasterError::Key(_))),
        "it was not initialised"
    );
    assert!(!store.exists());
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let repository = repository().exclude("*.tmp").suggest("dists/").piece_length(64 << 10);
    let built = Master::builder()
        .dir(&store)
        .repository(repository.import(ImportKind::Hardlink))
        .keep_last(3)
        .grace(Duration::from_secs(5))
        .listen(any)
        .listen_peers(any)
        .build()
        .unwrap();
    assert_eq!(*built.config(), config);
    let opened = Master::open(config).unwrap();
    assert_eq!(opened.public_key(), built.public_key());
}

/// A source tree, and what is to be thrown away later.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        Self { dir }
    }

    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.dir.path().join("source").join(file), content).unwrap();
    }

    fn builder(&self) -> MasterBuilder {
        let repository = Repository::new("tree").source(self.dir.path().join("source"));
        let mut retention = RetentionConfig::default();
        (retention.keep_last, retention.delete_after) = (2, Duration::ZERO.into());
        Master::builder()
            .repository(repository)
            .retention(retention)
            .grace(Duration::ZERO)
    }
}

fn publish(master: &Master, options: &PublishOptions) -> SnapshotId {
    match master.publish(&name(), options, &NoProgress).unwrap() {
        Published::Snapshot(snapshot) => snapshot.snapshot.id,
        other => panic!("{other:?}"),
    }
}

fn publish_now(master: &Master) -> SnapshotId {
    publish(master, &PublishOptions::default())
}

/// All that a master does, on whatever it stands.
fn live(world: &World, master: &Master) {
    world.write("a", "first");
    world.write("kept", "the same");
    let first = publish_now(master);
    assert!(matches!(
        master.publish(&name(), &PublishOptions::default(), &NoProgress),
        Ok(Published::Unchanged(id)) if id == first
    ));
    world.write("a", "second");
    let plan = master
        .plan_publish(&name(), &PublishOptions::default(), &NoProgress)
        .unwrap();
    assert!(matches!(plan.outcome, PlannedOutcome::Snapshot));
    assert_eq!(plan.differences().count(), 1);
    assert_eq!(
        master.head(&name()).unwrap().unwrap().head().current,
        Some(first),
        "nothing was done"
    );

    let mut rule = PublishOptions::default();
    rule.stage = Some(StageRule::default());
    let second = publish(master, &rule);
    assert_eq!(master.head(&name()).unwrap().unwrap().head().current, Some(first));
    master.release(&name(), second, false).unwrap();
    assert_eq!(master.head(&name()).unwrap().unwrap().head().current, Some(second));
    assert_eq!(master.differences(&name(), first, second).unwrap().count(), 1);

    master.tag(&name(), &"old".parse().unwrap(), first).unwrap();
    for content in ["third", "fourth", "fifth"] {
        world.write("a", content);
        publish_now(master);
    }
    let head = master.head(&name()).unwrap().unwrap();
    assert_eq!(head.head().snapshots.len(), 3, "two, and the tagged one");
    let done = master.clean_up(CleanUpOptions::default()).unwrap();
    assert_eq!((done.snapshots, done.objects), (2, 2), "{done:?}");

    let back = master.rollback(&name(), head.head().snapshots[1].id).unwrap();
    assert!(back.sequence.is_some());
    let mut options = RemoveOptions::default();
    options.tags = true;
    let planned = master.plan_removal(&name(), &[first], &options).unwrap();
    let removed = master
        .remove_snapshots(&name(), &[first], &options, &NoProgress)
        .unwrap();
    assert_eq!((planned.deleted.objects, removed.deleted.objects), (1, 1));
    let mut orphans = CleanUpOptions::default();
    (orphans.now, orphans.orphans) = (true, true);
    assert_eq!(master.clean_up(orphans).unwrap().objects, 0);
    master.add_node(&"mirror".parse().unwrap()).unwrap();
    assert_eq!(master.nodes().unwrap().len(), 1);
}

/// The current snapshot, as a frontend would read it.
async fn shown(master: &Master) -> String {
    let shown = MasterPublication::new(master.clone()).await;
    let state = shown.state(&name()).unwrap();
    let root = &state.snapshots[&state.current.unwrap()].root;
    format!("{} files, {} bytes", root.files, root.bytes)
}

#[tokio::test]
async fn a_master_in_memory_does_what_one_on_a_disk_does() {
    let world = World::new();
    let master = world.builder().build().unwrap();
    live(&world, &master);
    assert_eq!(shown(&master).await, "2 files, 14 bytes");
    assert!(matches!(master.rotate_key(), Err(MasterError::GivenKey)));
}

#[tokio::test]
async fn a_master_in_a_directory_is_found_again_with_its_key() {
    let world = World::new();
    let dir = world.dir.path().join("store");
    let master = world.builder().dir(&dir).build().unwrap();
    live(&world, &master);
    master.rotate_key().unwrap();
    let again = world.builder().dir(&dir).build().unwrap();
    assert_eq!(master.keys().unwrap(), again.keys().unwrap());
    assert_eq!(shown(&again).await, "2 files, 14 bytes");
}

#[tokio::test]
async fn a_master_of_given_parts_with_its_notes_in_a_directory_does_so_too() {
    let world = World::new();
    let storage = MemoryStorage::new();
    let dir = world.dir.path().join("notes");
    let with_objects = || world.builder().dir(&dir).key(SecretKey::from_random([7; 32]));
    let master = with_objects()
        .snapshots(MemoryStore::new())
        .trusted_objects(storage.clone())
        .build()
        .unwrap();
    live(&world, &master);
    assert_eq!(shown(&master).await, "2 files, 14 bytes");
    assert!(storage.open(&ObjectId::of(b"the same")).await.unwrap().is_some());
    assert!(!dir.join("objects").exists() && !dir.join("key").exists());
}

#[test]
fn a_store_with_snapshots_of_another_run_is_refused_without_its_notes() {
    let world = World::new();
    world.write("a", "first");
    let catalogs = world.dir.path().join("catalogs");
    let store = || DiskSnapshotStore::open(Arc::new(RealDisk::open(&catalogs).unwrap()), "").unwrap();
    let dir = world.dir.path().join("notes");
    let build = |dir: &Path| world.builder().dir(dir).snapshots(store()).build();
    publish_now(&build(&dir).unwrap());
    drop(build(&dir).unwrap());
    let text = refused(world.builder().snapshots(store()));
    assert!(
        text.starts_with("dir is missing: the store that was given to .snapshots holds 1 snapshot(s)"),
        "{text}"
    );
    let error = build(&world.dir.path().join("other")).unwrap_err().to_string();
    assert!(error.contains("holds 1 snapshot(s)"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_without_the_objects_of_what_is_current_is_refused() {
    let world = World::new();
    std::fs::create_dir(world.dir.path().join("source/sub")).unwrap();
    for file in ["a", "b", "sub/c"] {
        world.write(file, file);
    }
    let dir = world.dir.path().join("store");
    let storage = MemoryStorage::new();
    let with = |storage: &MemoryStorage| world.builder().dir(&dir).objects(storage.clone());
    publish_now(&with(&storage).build().unwrap());
    let expected = "objects 'repository tree': of 3 objects of its current snapshot ";
    assert_refused([
        (with(&MemoryStorage::new()), expected),
        (world.builder().dir(&dir), expected),
    ]);
    storage.remove(&[ObjectId::of(b"b")]).await.unwrap();
    let master = with(&storage).build().unwrap();
    let file = std::fs::File::open(world.dir.path().join("source/b")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    publish_now(&master);
    let size = storage.size(&ObjectId::of(b"b")).await.unwrap();
    assert_eq!(size, Some(1), "the advice of the log mends it");
}

#[test]
fn a_key_that_signed_no_head_is_refused() {
    let world = World::new();
    world.write("a", "first");
    let dir = world.dir.path().join("store");
    let with = |key| world.builder().dir(&dir).key(SecretKey::from_random([key; 32]));
    publish_now(&with(7).build().unwrap());
    drop(with(7).build().unwrap());
    assert_refused([(with(8), "key 'ed25519:")]);
}

#[test]
fn orphans_of_a_storage_that_may_have_other_users_are_refused_without_lasting_notes() {
    let world = World::new();
    let master = world.builder().objects(MemoryStorage::new()).build().unwrap();
    let mut orphans = CleanUpOptions::default();
    orphans.orphans = true;
    assert!(matches!(master.clean_up(orphans), Err(MasterError::OrphansUnknown)));
    master.clean_up(CleanUpOptions::default()).unwrap();
}

#[test]
fn two_writers_of_one_directory_wait_for_each_other_whatever_their_parts() {
    let world = World::new();
    world.write("a", "first");
    let dir = world.dir.path().join("notes");
    let master = world.builder().dir(&dir).snapshots(MemoryStore::new()).build().unwrap();
    let held = DiskSnapshotStore::lock(&RealDisk::open(&dir).unwrap(), "").unwrap();
    let publisher = master.clone();
    let publishing = std::thread::spawn(move || publish_now(&publisher));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!publishing.is_finished());
    drop(held);
    publishing.join().unwrap();
}
