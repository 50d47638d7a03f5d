//! The calls of the API as one table of routes: it finds the call of a path, and lists them all.

use std::sync::LazyLock;

use http::Method;
use instantmirror_core::{NodeId, ObjectId, RepoName, RepoPath, SnapshotId};

use super::heads;
use crate::message::request::query_value;
use crate::routes::{Access, Found, RouteEntry, RouteList, Table};

/// The calls, apart from what their paths name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Heads,
    Head,
    Keys,
    Snapshot,
    Catalog,
    Object,
    Outboard,
    Batch,
    Synced,
    Swarm,
}

/// A call of the API about one repository, with what its path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Head,
    Keys,
    Snapshot(SnapshotId),
    Catalog(NodeId),
    Object(ObjectId),
    Outboard(ObjectId),
    Batch,
    Synced,
    Swarm,
}

type Row = (Method, &'static str, Access, Kind, &'static str);

const CALLS: [Row; 10] = [
    (
        Method::POST,
        "/.im/v1/heads",
        Access::Admitted,
        Kind::Heads,
        "Tells which of up to 1,024 repositories have another head, as soon as one has",
    ),
    (
        Method::GET,
        "/.im/v1/{repository}/head",
        Access::Admitted,
        Kind::Head,
        "Sends the signed head; with ?after=N, the next one",
    ),
    (
        Method::GET,
        "/.im/v1/{repository}/keys",
        Access::Admitted,
        Kind::Keys,
        "Sends the key lists of a master that has changed its key",
    ),
    (
        Method::GET,
        "/.im/v1/{repository}/snapshots/{snapshot}",
        Access::Admitted,
        Kind::Snapshot,
        "Sends a snapshot's record; a staged one to nodes alone",
    ),
    (
        Method::GET,
        "/.im/v1/{repository}/catalog/{node}",
        Access::Admitted,
        Kind::Catalog,
        "Sends a catalog, or its difference from ?have=NODE; a staged one to nodes alone",
    ),
    (
        Method::GET,
        "/.im/v1/{repository}/objects/{object}",
        Access::Admitted,
        Kind::Object,
        "Sends an object; a staged one to nodes alone",
    ),
    (
        Method::GET,
        "/.im/v1/{repository}/objects/{object}/outboard",
        Access::Admitted,
        Kind::Outboard,
        "Sends the hashes that verify parts of an object",
    ),
    (
        Method::POST,
        "/.im/v1/{repository}/batch",
        Access::Admitted,
        Kind::Batch,
        "Sends many small objects",
    ),
    (
        Method::POST,
        "/.im/v1/{repository}/synced",
        Access::Nodes,
        Kind::Synced,
        "Takes note that a node has all of a staged snapshot",
    ),
    (
        Method::GET,
        "/.im/v1/{repository}/swarm",
        Access::Admitted,
        Kind::Swarm,
        "Describes the swarm of a repository",
    ),
];

// A test proves that these can be a table.
static TABLE: LazyLock<Table<Kind>> = LazyLock::new(|| {
    let row = |(method, path, access, kind, purpose)| (RouteEntry::new(method, path, access, purpose), kind);
    Table::build(CALLS.map(row)).unwrap_or_default()
});

/// The calls, to be shown.
pub(super) fn list() -> RouteList {
    TABLE.entries().cloned().collect()
}

/// Whether a path belongs to the API, to one of its calls or not.
pub(crate) fn is_api(path: &RepoPath) -> bool {
    let behind = path.as_str().strip_prefix(".im/v1");
    behind.is_some_and(|behind| behind.is_empty() || behind.starts_with('/'))
}

/// The calls of one path.
#[derive(Debug)]
pub(crate) struct Asked<'p>(Found<'static, 'p, Kind>);

/// Finds the calls of a path of the API.
pub(crate) fn find(path: &RepoPath) -> Option<Asked<'_>> {
    TABLE.find(path.as_str()).map(Asked)
}

impl Asked<'_> {
    /// Whether the call is asked by POST.
    pub(crate) fn takes_post(&self) -> bool {
        self.0.row(&Method::POST).is_some()
    }

    /// Whether a method is one of the call's.
    pub(super) fn takes(&self, method: &Method) -> bool {
        self.0.row(method).is_some()
    }

    /// The methods, as the field Allow has them.
    pub(super) fn allow(&self) -> &'static str {
        self.0.allow()
    }

    /// Whether a request may wait for news: a long poll, about one repository or many.
    pub(crate) fn may_wait(&self, query: &str) -> bool {
        let may_wait = match self.kind() {
            Some(Kind::Heads) => true,
            Some(Kind::Head) => query_value(query, "after").is_some(),
            _ => false,
        };
        may_wait && heads::wait_of(query).is_none_or(|wait| !wait.is_zero())
    }

    /// The repository and the call; `Ok(None)` for the one call that is not about one repository.
    pub(super) fn call(&self) -> Result<Option<(RepoName, Call)>, String> {
        fn id<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
            text.parse().map_err(|error: T::Err| error.to_string())
        }
        let values = self.0.values();
        let named = || values.get(1).copied().unwrap_or_default();
        let call = match self.kind() {
            None | Some(Kind::Heads) => return Ok(None),
            Some(Kind::Head) => Call::Head,
            Some(Kind::Keys) => Call::Keys,
            Some(Kind::Snapshot) => Call::Snapshot(id(named())?),
            Some(Kind::Catalog) => Call::Catalog(id(named())?),
            Some(Kind::Object) => Call::Object(id(named())?),
            Some(Kind::Outboard) => Call::Outboard(id(named())?),
            Some(Kind::Batch) => Call::Batch,
            Some(Kind::Synced) => Call::Synced,
            Some(Kind::Swarm) => Call::Swarm,
        };
        Ok(Some((id(values.first().copied().unwrap_or_default())?, call)))
    }

    /// Each path of the API has one method, and one call.
    fn kind(&self) -> Option<Kind> {
        let of = |method| self.0.row(&method).map(|row| row.endpoint);
        of(Method::GET).or_else(|| of(Method::POST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text).unwrap()
    }

    #[test]
    fn the_calls_are_a_table() {
        assert_eq!(list().iter().count(), CALLS.len());
    }

    #[test]
    fn a_poll_of_no_seconds_does_not_wait() {
        let (heads, head) = (path(".im/v1/heads"), path(".im/v1/debian/head"));
        let may_wait = |path, query: &str| find(path).unwrap().may_wait(query);
        for query in ["after=1", "after=1&wait=1", "after=1&wait=x"] {
            assert!(may_wait(&heads, query) && may_wait(&head, query), "{query}");
        }
        for query in ["after=1&wait=0", "wait=00&after=1"] {
            assert!(!may_wait(&heads, query) && !may_wait(&head, query), "{query}");
        }
        assert!(may_wait(&heads, "") && !may_wait(&head, ""));
        assert!(!may_wait(&path(".im/v1/debian/keys"), "after=1"));
    }

    #[test]
    fn calls_are_taken_apart() {
        let hash = "a".repeat(64);
        let uuid = SnapshotId::from_random([0xab; 16]);
        let object: ObjectId = hash.parse().unwrap();
        // The name of a repository is no word of ours.
        for name in ["debian", "heads", "v1"] {
            let repository: RepoName = name.parse().unwrap();
            for (below, call) in [
                ("head".to_owned(), Call::Head),
                ("keys".to_owned(), Call::Keys),
                (format!("snapshots/{uuid}"), Call::Snapshot(uuid)),
                (format!("catalog/{hash}"), Call::Catalog(hash.parse().unwrap())),
                (format!("objects/{hash}"), Call::Object(object)),
                (format!("objects/{hash}/outboard"), Call::Outboard(object)),
                ("batch".to_owned(), Call::Batch),
                ("synced".to_owned(), Call::Synced),
                ("swarm".to_owned(), Call::Swarm),
            ] {
                let path = path(&format!(".im/v1/{name}/{below}"));
                assert_eq!(find(&path).unwrap().call(), Ok(Some((repository.clone(), call))));
            }
        }
        assert_eq!(find(&path(".im/v1/heads")).unwrap().call(), Ok(None));
        for bad in [
            ".im/v1",
            ".im/v1/debian",
            ".im/v1/DEBIAN/head",
            ".im/v1/debian/heads",
            ".im/v1/debian/head/x",
            ".im/v1/debian/objects",
            ".im/v1/debian/objects/abc",
            &format!(".im/v1/debian/objects/{hash}/x"),
            &format!(".im/v1/debian/objects/{}", hash.to_uppercase()),
            &format!(".im/v1/debian/snapshots/{}", uuid.to_string().to_uppercase()),
        ] {
            let path = path(bad);
            assert!(
                is_api(&path) && find(&path).is_none_or(|asked| asked.call().is_err()),
                "{bad}"
            );
        }
        for other in ["", ".im", ".im/v10", ".im/v2/debian/head", "debian/.im/v1/debian/head"] {
            assert!(!is_api(&path(other)), "{other}");
        }
    }
}
