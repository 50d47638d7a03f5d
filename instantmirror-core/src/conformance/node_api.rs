//! The behaviours of a [`NodeApi`]. A factory makes an implementation for which something was published in
//! [`REPOSITORY`], once.

/// Stamps the suite: one `#[test]` per behaviour of what nodes ask for. Takes a factory, a function of `&[(&str, Bytes)]` (paths
/// and content of the current snapshot) that returns a [`Subject`](crate::conformance::Subject). One that needs a runtime brings
/// it along inside the subject, entered on this thread if its calls want that.
#[macro_export]
macro_rules! node_api_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { node_api, $factory,
            a_head_that_is_there_comes_at_once
            nothing_newer_is_waited_for
            a_wait_that_is_dropped_disturbs_no_other
            a_repository_that_is_not_there_has_no_head
            key_lists_do_not_change_by_themselves
            a_swarm_is_told_as_json_and_to_strangers_no_more_than_to_nodes
        }
    };
}
// end of the list

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::catalogs::tree;
use super::peer_transport::REPOSITORY;
use super::{Subject, block_on};
use crate::RepoName;
use crate::traits::NodeApi;

fn repository() -> RepoName {
    REPOSITORY.parse().unwrap()
}

type Make<'a, N> = &'a dyn Fn(&[(&str, Bytes)]) -> Subject<N>;

/// Of the repository that was asked for, and newer than what was asked for.
pub fn a_head_that_is_there_comes_at_once<N: NodeApi>(make: Make<'_, N>) {
    let api = make(&tree());
    let head = block_on(api.head_after(&repository(), 0)).expect("something was published");
    assert_eq!(head.head().repository, repository());
    assert!(head.head().sequence > 0);
    let again = block_on(api.head_after(&repository(), head.head().sequence - 1)).unwrap();
    assert_eq!(again.bytes(), head.bytes());
}

/// The caller sets the limit.
pub fn nothing_newer_is_waited_for<N: NodeApi>(make: Make<'_, N>) {
    let api = make(&tree());
    let head = block_on(api.head_after(&repository(), 0)).unwrap();
    let newer = api.head_after(&repository(), head.head().sequence).now_or_never();
    assert!(newer.is_none(), "{newer:?}");
    assert!(api.head_after(&repository(), u64::MAX).now_or_never().is_none());
}

/// Long polls come and go.
pub fn a_wait_that_is_dropped_disturbs_no_other<N: NodeApi>(make: Make<'_, N>) {
    let api = make(&tree());
    for _ in 0..10 {
        drop(api.head_after(&repository(), 0));
        let _ = api.head_after(&repository(), u64::MAX).now_or_never();
    }
    assert!(block_on(api.head_after(&repository(), 0)).is_some());
}

/// And nobody waits for one.
pub fn a_repository_that_is_not_there_has_no_head<N: NodeApi>(make: Make<'_, N>) {
    let api = make(&tree());
    let other: RepoName = "not-there".parse().unwrap();
    assert!(block_on(api.head_after(&other, 0)).is_none());
    assert!(api.swarm(&other, true).is_none());
}

/// Byte by byte the same.
pub fn key_lists_do_not_change_by_themselves<N: NodeApi>(make: Make<'_, N>) {
    let api = make(&tree());
    assert_eq!(api.keys(&repository()), api.keys(&repository()));
}

/// A registered node may be told a secret besides.
pub fn a_swarm_is_told_as_json_and_to_strangers_no_more_than_to_nodes<N: NodeApi>(make: Make<'_, N>) {
    let api = make(&tree());
    let parse = |offer: Bytes| -> serde_json::Value { serde_json::from_slice(&offer).unwrap() };
    let told = [false, true].map(|is_node| api.swarm(&repository(), is_node).map(parse));
    let [stranger, node] = told;
    let Some(stranger) = stranger else { return };
    let node = node.expect("a node is told what strangers are");
    let (stranger, node) = (stranger.as_object().unwrap(), node.as_object().unwrap());
    assert!(
        stranger.keys().all(|key| node.contains_key(key)),
        "{stranger:?} {node:?}"
    );
}
