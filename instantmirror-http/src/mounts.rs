//! Which views appear where in the name space: mounts of the operator's choice beside `/<repository>/`.
//!
//! Key decision: `/<repository>/snap/`, `master-snap/` and `local-snap/` are there whatever is mounted at or above
//! `/<repository>`, unless the mounted tree has an entry of that name itself. Reason: every answer names its snapshot's
//! URL, which has to lead somewhere; and a tree that holds such an entry must stay readable as it was published.

use std::fmt;

use instantmirror_core::view::{AREAS, View};
use instantmirror_core::{RepoName, RepoPath};

/// The first path component that belongs to us and to no tree.
pub const RESERVED: &str = ".im";

/// Shows one view of a repository at a path of the operator's choice, so that existing URLs stay valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where; the root mounts at `/` itself.
    pub path: RepoPath,
    /// Which repository.
    pub repository: RepoName,
    /// Which snapshot of it.
    pub view: View,
    /// Whether a directory with an `index.html` is answered with that instead of a listing.
    pub index: bool,
}

/// Why a list of mounts was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Two mounts at one path.
    #[error("two mounts at '/{0}'; a path can show one view only")]
    Twice(RepoPath),
    /// A mount inside the part of the name space that is ours.
    #[error("a mount at '/{0}': paths below '/{RESERVED}' are the server's own")]
    Reserved(RepoPath),
}

/// Two things that want the same paths. Its text says which wins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// A mount lies inside another one and hides what the tree of that has there.
    Inside {
        /// The inner mount.
        inner: RepoPath,
        /// The outer one.
        outer: RepoPath,
    },
    /// A mount has the place of a repository that it does not show.
    OtherRepository {
        /// The mount.
        path: RepoPath,
        /// The repository it shows.
        shown: RepoName,
        /// The repository of that name.
        named: RepoName,
    },
    /// A mount takes the place of a repository's snapshots or tags.
    HidesSnapshots {
        /// The mount.
        path: RepoPath,
        /// The repository.
        repository: RepoName,
    },
}

impl Overlap {
    /// Where the mount is that it is about.
    #[must_use]
    pub fn path(&self) -> &RepoPath {
        match self {
            Self::Inside { inner, .. } => inner,
            Self::OtherRepository { path, .. } | Self::HidesSnapshots { path, .. } => path,
        }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside { inner, outer } => write!(
                f,
                "the mount '/{inner}' lies inside the mount '/{outer}': it wins there, whatever that tree has"
            ),
            Self::OtherRepository { path, shown, named } => write!(
                f,
                "the mount '/{path}' shows '{shown}', and there is a repository '{named}': the mount wins, except for \
                 '/{named}/snap/', '/{named}/master-snap/' and '/{named}/local-snap/', which stay those of '{named}' unless \
                 the mounted tree has such names"
            ),
            Self::HidesSnapshots { path, repository } => write!(
                f,
                "the mount '/{path}' lies where the snapshots of '{repository}' are: it wins, and they cannot be reached \
                 there; mount it somewhere else"
            ),
        }
    }
}

/// All mounts of a server. Besides them every repository is shown at `/<name>/` with all its snapshots.
#[derive(Debug, Clone, Default)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Checks and orders mounts.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn new(mut mounts: Vec<Mount>) -> Result<Self, MountError> {
        mounts.sort_by(|a, b| depth(&b.path).cmp(&depth(&a.path)).then_with(|| a.path.cmp(&b.path)));
        if let Some(pair) = mounts.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(MountError::Twice(pair[0].path.clone()));
        }
        match mounts.iter().find(|mount| is_reserved(&mount.path)) {
            Some(mount) => Err(MountError::Reserved(mount.path.clone())),
            None => Ok(Self(mounts)),
        }
    }

    /// What of these mounts and the places of `repositories` overlaps, so that an operator can be told which wins.
    #[must_use]
    pub fn overlaps(&self, repositories: &[RepoName]) -> Vec<Overlap> {
        let mut overlaps = Vec::new();
        for mount in &self.0 {
            let path = || mount.path.clone();
            let around = self
                .0
                .iter()
                .find(|outer| outer.path != mount.path && below(&mount.path, &outer.path).is_some());
            if let Some(outer) = around {
                let (inner, outer) = (path(), outer.path.clone());
                overlaps.push(Overlap::Inside { inner, outer });
            }
            let mut parts = mount.path.components();
            let first = parts.next();
            let Some(named) = repositories.iter().find(|name| Some(name.as_str()) == first) else {
                continue;
            };
            match parts.next() {
                None if mount.repository != *named => overlaps.push(Overlap::OtherRepository {
                    path: path(),
                    shown: mount.repository.clone(),
                    named: named.clone(),
                }),
                Some(area) if AREAS.contains(&area) => overlaps.push(Overlap::HidesSnapshots {
                    path: path(),
                    repository: named.clone(),
                }),
                _ => {}
            }
        }
        overlaps
    }

    /// The mount with the longest path that `path` begins with, and the rest of `path` below it.
    pub(crate) fn find(&self, path: &RepoPath) -> Option<(&Mount, RepoPath)> {
        self.0.iter().find_map(|mount| Some((mount, below(path, &mount.path)?)))
    }

    /// The names that lie directly below `path` on the way to mounts.
    pub(crate) fn names_below(&self, path: &RepoPath) -> impl Iterator<Item = String> {
        let rests = self.0.iter().filter_map(|mount| below(&mount.path, path));
        rests.filter_map(|rest| rest.components().next().map(str::to_owned))
    }
}

/// Components of a path.
pub(crate) fn depth(path: &RepoPath) -> usize {
    path.components().count()
}

/// Whether `path` is [`RESERVED`] or below it.
#[must_use]
pub fn is_reserved(path: &RepoPath) -> bool {
    path.components().next() == Some(RESERVED)
}

/// `path` relative to `prefix`, if it is that or below it.
pub(crate) fn below(path: &RepoPath, prefix: &RepoPath) -> Option<RepoPath> {
    if prefix.is_root() {
        return Some(path.clone());
    }
    let rest = path.as_str().strip_prefix(prefix.as_str())?;
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
    RepoPath::new(rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, and the repository that is mounted there.
    type Pair = (&'static str, &'static str);

    fn mounts(all: &[Pair]) -> Result<Mounts, MountError> {
        let mount = |(path, repository): &Pair| Mount {
            path: RepoPath::new(path).unwrap(),
            repository: repository.parse().unwrap(),
            view: View::Current,
            index: false,
        };
        Mounts::new(all.iter().map(mount).collect())
    }

    #[test]
    fn impossible_mounts_are_refused() {
        let said = |all: &[Pair]| mounts(all).unwrap_err().to_string();
        assert!(said(&[("a", "x"), ("a", "y")]).contains("two mounts at '/a'"));
        assert!(said(&[(".im/x", "x")]).contains("'/.im'"));
        assert!(mounts(&[(".imx", "x"), ("", "x"), ("a/.im", "x")]).is_ok());
    }

    #[test]
    fn every_overlap_is_told_with_its_winner() {
        let repositories: Vec<RepoName> = ["debian", "fedora"].map(|name| name.parse().unwrap()).into();
        let told = |all: &[Pair]| -> Vec<String> {
            let overlaps = mounts(all).unwrap().overlaps(&repositories);
            overlaps.iter().map(ToString::to_string).collect()
        };
        let cases: [(&[Pair], &[&str]); 7] = [
            (&[("debian", "debian"), ("pub/x", "fedora")], &[]),
            (
                &[("pub", "debian"), ("pub/x", "fedora")],
                &["'/pub/x' lies inside the mount '/pub'"],
            ),
            (&[("pub", "debian"), ("pubx", "fedora")], &[]),
            (
                &[("", "debian"), ("pub", "fedora")],
                &["'/pub' lies inside the mount '/'"],
            ),
            (
                &[("fedora", "debian")],
                &["shows 'debian', and there is a repository 'fedora'"],
            ),
            (&[("debian/snap", "debian")], &["where the snapshots of 'debian' are"]),
            (&[("debian/old", "debian")], &[]),
        ];
        for (all, expected) in cases {
            let told = told(all);
            assert_eq!(told.len(), expected.len(), "{told:?}");
            for (text, part) in told.iter().zip(expected) {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}
