//! The behaviours of [`Catalogs`]. A factory is given the files of a tree and makes an implementation that shows just them as the
//! current snapshot of [`REPOSITORY`].

/// Stamps the suite: one `#[test]` per behaviour of published trees. Takes a factory, a function of `&[(&str, Bytes)]` (paths and
/// content of the current snapshot) that returns a [`Subject`](crate::conformance::Subject). One that needs a runtime brings it
/// along inside the subject, entered on this thread if its calls want that.
#[macro_export]
macro_rules! catalogs_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { catalogs, $factory,
            repositories_are_in_order_and_named_once
            a_repository_that_is_not_there_has_no_state
            each_state_is_of_its_repository
            the_current_snapshot_is_a_visible_one
            visible_snapshots_are_whole
            the_tree_is_what_was_published
            every_file_can_be_read
            the_state_is_the_same_while_nothing_changes
            fallbacks_are_older_snapshots_of_the_repository
            what_is_visible_was_released
        }
    };
}
// end of the list

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::peer_transport::REPOSITORY;
use super::{Subject, block_on, content};
use crate::catalog::{Catalog, check_closure};
use crate::traits::{Catalogs, ReadIntent};
use crate::view::RepositoryState;
use crate::{Directory, FileMeta, Kind, ObjectId, RepoName, Snapshot};

fn repository() -> RepoName {
    REPOSITORY.parse().unwrap()
}

/// Files in several directories, of one group and of more, one empty.
pub(super) fn tree() -> Vec<(&'static str, Bytes)> {
    vec![
        ("README", Bytes::from_static(b"read me")),
        ("empty", Bytes::new()),
        ("docs/index.txt", content(1, 2000).into()),
        ("pool/a/a.deb", content(2, 65_536).into()),
        ("pool/b/b.deb", content(3, 200_000).into()),
    ]
}

fn state_of(catalogs: &impl Catalogs) -> Arc<RepositoryState> {
    let state = catalogs.state(&repository());
    state.expect("the factory has published it")
}

fn current(catalogs: &impl Catalogs) -> Arc<Snapshot> {
    let state = state_of(catalogs);
    let id = state.current.expect("something is current");
    Arc::clone(&state.snapshots[&id])
}

/// All files of a snapshot, by path.
fn files(catalogs: &impl Catalogs, snapshot: &Snapshot) -> BTreeMap<String, FileMeta> {
    let catalog = Catalog::new(catalogs.nodes(), snapshot.root.meta());
    let Kind::Directory(root) = snapshot.root.meta().kind else {
        panic!("a root is a directory")
    };
    let (mut found, mut open) = (BTreeMap::new(), vec![(String::new(), root)]);
    while let Some((parent, directory)) = open.pop() {
        for entry in catalog.list(&directory, None) {
            let entry = entry.unwrap();
            let path = format!("{parent}{}", entry.name);
            match entry.meta.kind {
                Kind::Directory(below) => open.push((format!("{path}/"), below)),
                Kind::File(file) => _ = found.insert(path, file),
                Kind::Symlink(_) => {}
            }
        }
    }
    found
}

type Make<'a, C> = &'a dyn Fn(&[(&str, Bytes)]) -> Subject<C>;

/// Ascending, and with what was published.
pub fn repositories_are_in_order_and_named_once<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    let names = catalogs.repositories();
    assert!(
        names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]),
        "{names:?}"
    );
    assert!(names.contains(&repository()));
}

/// Nothing is made up.
pub fn a_repository_that_is_not_there_has_no_state<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    let other: RepoName = "not-there".parse().unwrap();
    assert!(catalogs.state(&other).is_none());
    assert!(catalogs.fallbacks(&other).is_empty());
}

/// By its name and those of its snapshots.
pub fn each_state_is_of_its_repository<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    for name in catalogs.repositories() {
        let state = catalogs.state(&name).expect("it is listed");
        assert_eq!(state.name, name);
        for (id, snapshot) in &state.snapshots {
            assert_eq!((*id, &name), (snapshot.id, &snapshot.repository));
        }
    }
}

/// What `current` shows can also be seen by its id.
pub fn the_current_snapshot_is_a_visible_one<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    let state = state_of(&*catalogs);
    assert!(state.current.is_some_and(|id| state.snapshots.contains_key(&id)));
}

/// Every node below each root is there and right.
pub fn visible_snapshots_are_whole<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    for snapshot in state_of(&*catalogs).snapshots.values() {
        let root = Directory {
            node: snapshot.root.node,
            files: snapshot.root.files,
            bytes: snapshot.root.bytes,
        };
        check_closure(catalogs.nodes(), None, &root).unwrap();
    }
}

/// These paths, sizes and objects, and no others.
pub fn the_tree_is_what_was_published<C: Catalogs>(make: Make<'_, C>) {
    let tree = tree();
    let catalogs = make(&tree);
    let found = files(&*catalogs, &current(&*catalogs));
    let found: BTreeMap<_, _> = found
        .iter()
        .map(|(path, file)| (path.as_str(), (file.size, file.object)))
        .collect();
    let published = tree
        .iter()
        .map(|(path, data)| (*path, (data.len() as u64, ObjectId::of(data))));
    assert_eq!(found, published.collect());
}

/// To the bytes that its object id names.
pub fn every_file_can_be_read<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    for (path, file) in files(&*catalogs, &current(&*catalogs)) {
        let content = block_on(async {
            let objects = catalogs.objects();
            let reader = objects
                .open(&repository(), &file, ReadIntent::of(0..file.size))
                .await
                .unwrap();
            let (mut at, mut content) = (0, Vec::new());
            while at < file.size {
                let ready = reader.ready(at).await.unwrap();
                content.extend_from_slice(&reader.read(at..ready).await.unwrap());
                at = ready;
            }
            content
        });
        assert_eq!(ObjectId::of(&content), file.object, "{path}");
    }
}

/// A frontend keeps answers for as long as it is given the same value.
pub fn the_state_is_the_same_while_nothing_changes<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    assert!(Arc::ptr_eq(&state_of(&*catalogs), &state_of(&*catalogs)));
}

/// The current one is looked into first anyway.
pub fn fallbacks_are_older_snapshots_of_the_repository<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    let current = current(&*catalogs);
    for snapshot in catalogs.fallbacks(&repository()) {
        assert_eq!(snapshot.repository, repository());
        assert_ne!(snapshot.id, current.id);
    }
}

/// A head names every visible snapshot as released.
pub fn what_is_visible_was_released<C: Catalogs>(make: Make<'_, C>) {
    let catalogs = make(&tree());
    let state = state_of(&*catalogs);
    let Some(head) = &state.head else { return };
    for id in state.snapshots.keys() {
        let live = head.head().snapshot(id).expect("the head names it");
        assert!(live.state.is_released());
    }
}
