//! The behaviours of an [`Upstream`]. A factory is given memory catalogs and makes an upstream that tells of just them.

/// Stamps the suite: one `#[test]` per behaviour of somebody who knows heads and catalogs. Takes a factory, a function of
/// [`&MemoryCatalogs`](crate::memory::MemoryCatalogs) (what the other side has published) that returns a
/// [`Subject`](crate::conformance::Subject). An upstream that needs a runtime has it running on other threads, inside the subject,
/// entered on this thread if its calls want that.
#[macro_export]
macro_rules! upstream_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { upstream, $factory,
            it_says_who_it_is
            the_head_comes_as_it_was_signed
            a_newer_head_comes_at_once
            a_head_that_is_published_meanwhile_ends_the_wait
            a_repository_that_is_not_there_is_not_found
            a_record_comes_as_it_was_published
            a_record_that_is_not_there_is_not_found
            without_anything_all_of_a_catalog_comes
            with_an_older_catalog_only_the_difference_comes
            a_catalog_that_is_not_there_is_not_found
        }
    };
}
// end of the list

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::peer_transport::REPOSITORY;
use super::{Subject, block_on, content};
use crate::catalog::check_closure;
use crate::catalog::frame::FrameDecoder;
use crate::memory::{MemoryCatalogs, MemoryStore};
use crate::traits::{SnapshotStore as _, TransportError, Upstream};
use crate::{Directory, NodeId, RepoName, RepoPath, SecretKey, SignedHead, Snapshot, SnapshotId, Timestamp};

fn repository() -> RepoName {
    REPOSITORY.parse().unwrap()
}

fn key() -> SecretKey {
    SecretKey::from_random([7; 32])
}

/// Publishes some hundred files, of which one differs from number to number.
fn publish(catalogs: &MemoryCatalogs, number: u8) -> std::sync::Arc<Snapshot> {
    let common = (0..200).map(|file| {
        (
            format!("dir-{}/file-{file}", file % 20),
            format!("content {file}").into(),
        )
    });
    let files = common.chain([("changed".to_owned(), Bytes::from(content(number, 100)))]);
    let files = files.map(|(path, data)| (RepoPath::new(path).unwrap(), data));
    let (id, now) = (
        SnapshotId::from_random([number; 16]),
        Timestamp::from_millis(1_000_000 + i64::from(number)),
    );
    catalogs.publish(&repository(), files, id, now, &key()).unwrap()
}

fn published() -> MemoryCatalogs {
    let catalogs = MemoryCatalogs::new();
    publish(&catalogs, 1);
    catalogs
}

type Make<'a, U> = &'a dyn Fn(&MemoryCatalogs) -> Subject<U>;

fn not_found<T: std::fmt::Debug>(result: Result<T, TransportError>) {
    assert!(matches!(result, Err(TransportError::NotFound { .. })), "{result:?}");
}

/// The nodes of a delta.
async fn delta(upstream: &impl Upstream, have: Option<NodeId>, want: NodeId) -> Result<Vec<Bytes>, TransportError> {
    let mut stream = upstream.delta(&repository(), have, want).await?;
    let (mut decoder, mut nodes) = (FrameDecoder::default(), Vec::new());
    while let Some(part) = stream.next().await {
        decoder.push(&part?);
        while let Some(node) = decoder.next_frame().unwrap() {
            nodes.push(node);
        }
    }
    decoder.finish().unwrap();
    Ok(nodes)
}

fn verified(bytes: Option<Bytes>) -> SignedHead {
    SignedHead::verify(bytes.expect("a head"), &repository(), &[key().public()]).unwrap()
}

/// A label for logs that is not empty and does not change.
pub fn it_says_who_it_is<U: Upstream>(make: Make<'_, U>) {
    let upstream = make(&MemoryCatalogs::new());
    assert!(!upstream.label().is_empty());
    assert_eq!(upstream.label(), upstream.label());
}

/// Its signature is about these bytes.
pub fn the_head_comes_as_it_was_signed<U: Upstream>(make: Make<'_, U>) {
    let upstream = make(&published());
    let head = verified(block_on(upstream.head(&repository(), None)).unwrap());
    assert_eq!(head.head().sequence, 1);
}

/// Nobody waits for what is there.
pub fn a_newer_head_comes_at_once<U: Upstream>(make: Make<'_, U>) {
    let catalogs = published();
    publish(&catalogs, 2);
    let upstream = make(&catalogs);
    for after in [0, 1] {
        let head = verified(block_on(upstream.head(&repository(), Some(after))).unwrap());
        assert_eq!(head.head().sequence, 2);
    }
}

/// However often the other side says meanwhile that there is nothing newer.
pub fn a_head_that_is_published_meanwhile_ends_the_wait<U: Upstream>(make: Make<'_, U>) {
    let catalogs = published();
    let upstream = make(&catalogs);
    let repository = repository();
    let wait = async {
        loop {
            if let Some(head) = upstream.head(&repository, Some(1)).await.unwrap() {
                return verified(Some(head));
            }
        }
    };
    let publishing = async {
        publish(&catalogs, 2);
    };
    let (head, ()) = block_on(futures_util::future::join(wait, publishing));
    assert_eq!(head.head().sequence, 2);
}

/// For every question about it.
pub fn a_repository_that_is_not_there_is_not_found<U: Upstream>(make: Make<'_, U>) {
    let upstream = make(&published());
    let other: RepoName = "not-there".parse().unwrap();
    let id = SnapshotId::from_random([1; 16]);
    not_found(block_on(upstream.head(&other, None)));
    not_found(block_on(upstream.snapshot(&other, id)));
    not_found(block_on(upstream.delta(&other, None, NodeId::of(b"x"))).map(drop));
}

/// To the byte: the head names its hash.
pub fn a_record_comes_as_it_was_published<U: Upstream>(make: Make<'_, U>) {
    let catalogs = published();
    let snapshot = publish(&catalogs, 2);
    let upstream = make(&catalogs);
    let bytes = block_on(upstream.snapshot(&repository(), snapshot.id)).unwrap();
    let (record, encoded) = snapshot.encode();
    assert_eq!(bytes, encoded);
    assert_eq!(
        Snapshot::decode(&repository(), snapshot.id, record, &bytes).unwrap(),
        *snapshot
    );
}

/// Whoever asks may ask others.
pub fn a_record_that_is_not_there_is_not_found<U: Upstream>(make: Make<'_, U>) {
    let upstream = make(&published());
    not_found(block_on(
        upstream.snapshot(&repository(), SnapshotId::from_random([9; 16])),
    ));
}

/// Every node, each once, and it is whole then.
pub fn without_anything_all_of_a_catalog_comes<U: Upstream>(make: Make<'_, U>) {
    let catalogs = MemoryCatalogs::new();
    let snapshot = publish(&catalogs, 1);
    let upstream = make(&catalogs);
    let nodes = block_on(delta(&*upstream, None, snapshot.root.node)).unwrap();
    let ids: HashSet<NodeId> = nodes.iter().map(|node| NodeId::of(node)).collect();
    assert_eq!(ids.len(), nodes.len());
    let store = MemoryStore::new();
    take_in(&store, nodes);
    let root = Directory {
        node: snapshot.root.node,
        files: snapshot.root.files,
        bytes: snapshot.root.bytes,
    };
    check_closure(&store, None, &root).unwrap();
}

fn take_in(store: &MemoryStore, nodes: Vec<Bytes>) {
    let decode = |node: Bytes| crate::catalog::CatalogNode::decode(NodeId::of(&node), node).unwrap();
    store.put_nodes(nodes.into_iter().map(decode).collect()).unwrap();
}

/// Few nodes for a small change; both together are whole.
pub fn with_an_older_catalog_only_the_difference_comes<U: Upstream>(make: Make<'_, U>) {
    let catalogs = MemoryCatalogs::new();
    let (older, newer) = (publish(&catalogs, 1), publish(&catalogs, 2));
    let upstream = make(&catalogs);
    let all = block_on(delta(&*upstream, None, older.root.node)).unwrap();
    let difference = block_on(delta(&*upstream, Some(older.root.node), newer.root.node)).unwrap();
    assert!(difference.len() < all.len(), "{} of {}", difference.len(), all.len());
    let store = MemoryStore::new();
    take_in(&store, all);
    take_in(&store, difference);
    store.put_snapshot(&newer).unwrap();
    let nothing = block_on(delta(&*upstream, Some(newer.root.node), newer.root.node)).unwrap();
    assert!(nothing.is_empty(), "{} nodes of what is here", nothing.len());
}

/// At once or in the stream.
pub fn a_catalog_that_is_not_there_is_not_found<U: Upstream>(make: Make<'_, U>) {
    let upstream = make(&published());
    not_found(block_on(delta(&*upstream, None, NodeId::of(b"not there"))));
}
