//! A master of these parts publishes a real tree, which a node of these parts mirrors; and where a part of the master lies, nothing
//! wrong is served.

use std::sync::atomic::Ordering;
use std::time::Duration;

use instantmirror::core::scheduler::SchedulerLimits;
use instantmirror::core::{ObjectId, SecretKey};
use instantmirror::master::{RemoveOptions, StageRule};
use instantmirror::node::Node;
use instantmirror::{NoProgress, PublishOptions};
use instantmirror_embedder::{FolderStorage, LineScheduler, ListStore, ShelfCache};
use tokio::time::timeout;

use crate::lying::{FalseStorage, FalseStore};
use crate::world::{FILES, LIMIT, World, content, curl, curl_within, is_one_line, log, name, publish, serve, served};

/// A master whose catalogs are in lists and whose objects are in a folder.
async fn of_these_parts() -> World {
    World::with(|builder, dir| {
        let folder = dir.join("objects");
        std::fs::create_dir(&folder).unwrap();
        builder
            .snapshots(ListStore::new())
            .objects(FolderStorage::open(&folder).unwrap())
            .key(SecretKey::from_random([7; 32]))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_these_parts_publishes_a_tree_and_a_node_of_them_mirrors_it() {
    let world = of_these_parts().await;
    assert_eq!(served(&world.url).await, FILES.len());
    let builder = Node::builder()
        .cache(ShelfCache::new(Some(16 << 20)))
        .snapshots(ListStore::new())
        .scheduler(LineScheduler::new(SchedulerLimits::default()))
        .repository(world.mirrored());
    let (node, url) = serve(builder).await;
    for _ in 0..2 {
        assert_eq!(served(&url).await, FILES.len());
    }
    std::fs::write(world.source().join("new"), "what is new").unwrap();
    let second = publish(&world.master, PublishOptions::default()).await;
    let shown = timeout(LIMIT, node.wait_until_current(&name(), second)).await;
    shown.expect("the new tree is shown");
    for url in [&url, &world.url] {
        assert_eq!(curl(url, "new").await.as_deref(), Some(&b"what is new"[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_these_parts_stages_tags_and_removes() {
    let world = of_these_parts().await;
    let folder = world.dir.path().join("objects");
    let master = &world.master;
    let secret = world.source().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let mut options = PublishOptions::default();
    options.stage = Some(StageRule::default());
    let staged = publish(master, options).await;
    assert_eq!(curl(&world.url, "secret").await, None);
    let owner = master.clone();
    let released = tokio::task::spawn_blocking(move || owner.release(&name(), staged, false));
    released.await.unwrap().unwrap();
    let seen = async {
        while curl(&world.url, "secret").await.as_deref() != Some(&b"secret"[..]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, seen).await.expect("what is released is shown");
    master.tag(&name(), &"leaked".parse().unwrap(), staged).unwrap();
    let file = folder.join(ObjectId::of(b"secret").to_string());
    assert!(file.exists());
    std::fs::remove_file(secret).unwrap();
    publish(master, PublishOptions::default()).await;
    let owner = master.clone();
    let removed = tokio::task::spawn_blocking(move || {
        let mut options = RemoveOptions::default();
        options.tags = true;
        owner.remove_snapshots(&name(), &[staged], &options, &NoProgress)
    });
    assert_eq!(removed.await.unwrap().unwrap().deleted.objects, 1);
    assert!(!file.exists());
    assert_eq!(served(&world.url).await, FILES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_returns_other_bytes_is_found_out() {
    let (log, storage) = (log(), FalseStorage::default());
    let lie = storage.lie.clone();
    let world = World::with(|builder, _| builder.objects(storage)).await;
    assert_eq!(served(&world.url).await, FILES.len());
    lie.store(true, Ordering::SeqCst);
    let (_node, url) = serve(Node::builder().repository(world.mirrored())).await;
    for url in [&url, &world.url] {
        // Answers that were kept ready are right; nothing that is read now is.
        served(url).await;
    }
    assert_eq!(curl(&url, "dir/b").await, None, "there is no other source");
    assert!(
        is_one_line(&log, &["FalseStorage", "returned other bytes"]),
        "the log names the storage"
    );
    lie.store(false, Ordering::SeqCst);
    let (path, size) = FILES[2];
    assert_eq!(curl_within(40, &world.url, path).await, Some(content(path, size)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_forgets_is_named() {
    let (log, storage) = (log(), FalseStorage::default());
    let forget = storage.forget.clone();
    let world = World::with(|builder, _| builder.objects(storage)).await;
    forget.store(true, Ordering::SeqCst);
    served(&world.url).await;
    assert_eq!(curl(&world.url, "dir/b").await, None);
    assert!(
        is_one_line(&log, &["FalseStorage", "has forgotten an object"]),
        "the log names the storage"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_snapshots_that_forgets_or_lies_shows_nothing_wrong() {
    let (log, store) = (log(), FalseStore::default());
    let (forget, lie) = (store.forget.clone(), store.lie.clone());
    let world = World::with(|builder, _| builder.snapshots(store)).await;
    assert_eq!(served(&world.url).await, FILES.len());
    lie.store(true, Ordering::SeqCst);
    served(&world.url).await;
    assert!(curl(&world.url, "no-such-file").await.is_none());
    forget.store(true, Ordering::SeqCst);
    served(&world.url).await;
    assert!(is_one_line(&log, &["FalseStore", "it returned other bytes"]));
    assert!(is_one_line(&log, &["FalseStore", "has forgotten"]));
}
