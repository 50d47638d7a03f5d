//! The behaviours of [`Annotations`]. A factory is given the files of a tree and makes an implementation for which just they are
//! the current snapshot of [`REPOSITORY`].

/// Stamps the suite: one `#[test]` per behaviour of what is said beside content. Takes a factory, a function of
/// `&[(&str, Bytes)]` (paths and content of the current snapshot) that returns a [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! annotations_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { annotations, $factory,
            a_digest_that_is_known_is_the_right_one
            an_object_that_is_not_there_has_no_digest
            duplicates_are_urls_the_best_first
            nothing_is_said_of_what_is_not_there
        }
    };
}
// end of the list

use bytes::Bytes;

use super::Subject;
use super::peer_transport::REPOSITORY;
use crate::traits::Annotations;
use crate::{ObjectId, RepoName, RepoPath, SnapshotId};

/// The SHA-256 of "abc" (FIPS 180-4, the first example).
const SHA256_OF_ABC: [u8; 32] = [
    0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61,
    0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad,
];

fn repository() -> RepoName {
    REPOSITORY.parse().unwrap()
}

fn path(text: &str) -> RepoPath {
    RepoPath::new(text).unwrap()
}

fn tree() -> Vec<(&'static str, Bytes)> {
    vec![
        ("abc", Bytes::from_static(b"abc")),
        ("dir/file", Bytes::from_static(b"another")),
    ]
}

type Make<'a, A> = &'a dyn Fn(&[(&str, Bytes)]) -> Subject<A>;

/// Clients hold content against it.
pub fn a_digest_that_is_known_is_the_right_one<A: Annotations>(make: Make<'_, A>) {
    let said = make(&tree());
    if let Some(digest) = said.sha256(&ObjectId::of(b"abc")) {
        assert_eq!(digest, SHA256_OF_ABC);
    }
}

/// Whatever is known of others.
pub fn an_object_that_is_not_there_has_no_digest<A: Annotations>(make: Make<'_, A>) {
    assert_eq!(make(&tree()).sha256(&ObjectId::of(b"not there")), None);
}

/// With priorities and countries as RFC 6249 has them.
pub fn duplicates_are_urls_the_best_first<A: Annotations>(make: Make<'_, A>) {
    let said = make(&tree());
    let all = said.duplicates(&repository(), &path("dir/file"));
    assert!(all.is_sorted_by_key(|one| one.priority), "{all:?}");
    for one in all {
        assert!((1..=999_999).contains(&one.priority), "{one:?}");
        assert!(one.url.contains("://"), "{one:?}");
        let is_code = |code: &String| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_alphabetic());
        assert!(one.country.as_ref().is_none_or(is_code), "{one:?}");
    }
}

/// Neither of repositories nor of snapshots.
pub fn nothing_is_said_of_what_is_not_there<A: Annotations>(make: Make<'_, A>) {
    let said = make(&tree());
    let other: RepoName = "not-there".parse().unwrap();
    assert!(said.duplicates(&other, &path("abc")).is_empty());
    let id = SnapshotId::from_random([9; 16]);
    assert!(said.torrents(&repository(), id, &path("")).is_empty());
    assert!(said.torrents(&other, id, &path("")).is_empty());
}
