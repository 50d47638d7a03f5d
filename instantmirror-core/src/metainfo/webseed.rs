//! The URLs under which HTTP servers of ours are web seeds (BEP 19) of what we export:
//!
//! `/.im/webseed/REPO/UUID/DEPTH/ROOT/NAME/PATH`, where ROOT is the path of the torrent's root in the snapshot and DEPTH the
//! number of its components, so that nothing is ambiguous. Clients put together all from NAME on by themselves: it is the
//! torrent's name, which need not be that of the directory, and so it may be any.

use super::pad_size;
use crate::{RepoName, RepoPath, SnapshotId};

/// Where all these paths begin.
pub const WEB_SEED_PREFIX: &str = ".im/webseed";

/// A place in a torrent's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSeedPlace {
    /// The repository.
    pub repository: RepoName,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The path in the snapshot.
    pub path: RepoPath,
    /// The bytes of the pad file that it is, if the snapshot has nothing there.
    pub pad_bytes: Option<u64>,
}

impl WebSeedPlace {
    /// Takes a decoded URL path apart; `None` if it is none of these.
    ///
    /// ```
    /// use instantmirror_core::RepoPath;
    /// use instantmirror_core::metainfo::WebSeedPlace;
    /// let path = ".im/webseed/debian/6f1c0a52-7c1e-4c53-9d3a-0d6f3f8e2b11/2/a/b/name/c/d";
    /// let place = WebSeedPlace::route(&RepoPath::new(path).unwrap()).unwrap();
    /// assert_eq!(place.path.as_str(), "a/b/c/d");
    /// ```
    #[must_use]
    pub fn route(path: &RepoPath) -> Option<Self> {
        let rest = path.as_str().strip_prefix(WEB_SEED_PREFIX)?.strip_prefix('/')?;
        let mut parts = rest.splitn(4, '/');
        let repository = parts.next()?.parse().ok()?;
        let snapshot = parts.next()?.parse().ok()?;
        let depth = parts.next()?;
        let is_number = depth.bytes().all(|byte| byte.is_ascii_digit()) && (depth == "0" || !depth.starts_with('0'));
        let depth: usize = depth.parse().ok().filter(|_| is_number)?;
        let names: Vec<&str> = parts.next().unwrap_or_default().split('/').collect();
        let (root, below) = names.split_at_checked(depth)?;
        // Without its name, it is the directory that the torrent's lies in, which has no other names.
        let (_, below) = below.split_first()?;
        let pad_bytes = pad_size(&below.join("/"));
        let path = [root, below].concat().join("/");
        let path = RepoPath::new(path).ok()?;
        Some(Self {
            repository,
            snapshot,
            path,
            pad_bytes,
        })
    }
}

/// The URL path, not encoded yet, to which clients add a torrent's name and the paths in it: it begins and ends with a
/// slash. `root` is where the torrent's files lie in the snapshot, or the one file of it.
#[must_use]
pub fn web_seed_path(repository: &RepoName, snapshot: SnapshotId, root: &RepoPath) -> String {
    let depth = root.components().count();
    let slash = if root.is_root() { "" } else { "/" };
    format!("/{WEB_SEED_PREFIX}/{repository}/{snapshot}/{depth}/{root}{slash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_make_of_a_web_seed_leads_into_the_tree() {
        let (repository, snapshot) = ("r".parse().unwrap(), SnapshotId::from_random([7; 16]));
        let place = |root: &str, added: &str| {
            let base = web_seed_path(&repository, snapshot, &RepoPath::new(root).unwrap());
            let path = RepoPath::new(format!("{base}{added}").trim_start_matches('/')).unwrap();
            WebSeedPlace::route(&path)
        };
        for (root, added, expected) in [
            ("", "name/a/b", Some(("a/b", None))),
            ("", "name", Some(("", None))),
            ("x/y", "name/a", Some(("x/y/a", None))),
            ("x/f.iso", "f.iso", Some(("x/f.iso", None))),
            ("x", "x/.pad/17", Some(("x/.pad/17", Some(17)))),
            ("x", "x/.pad/17.2", Some(("x/.pad/17.2", Some(17)))),
            ("x", "x/y/.pad/17", Some(("x/y/.pad/17", None))),
        ] {
            let found = place(root, added).unwrap();
            assert_eq!(Some((found.path.as_str(), found.pad_bytes)), expected, "{root} {added}");
        }
        for wrong in [
            ".im/webseed",
            ".im/webseed/r",
            ".im/webseed/r/current/0/n/a",
            &format!(".im/webseed/r/{snapshot}/01/a/n"),
            &format!(".im/webseed/r/{snapshot}/+1/a/n"),
            &format!(".im/webseed/r/{snapshot}/3/a/n"),
            &format!(".im/webseed/r/{snapshot}/1/a"),
            &format!(".im/webseed/r/{snapshot}/99999999999999999999/a"),
        ] {
            assert_eq!(WebSeedPlace::route(&RepoPath::new(wrong).unwrap()), None, "{wrong}");
        }
    }
}
