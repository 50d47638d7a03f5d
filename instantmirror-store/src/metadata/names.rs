//! Which files are repository metadata, and what the names in them mean.

use instantmirror_core::RepoPath;

const REPODATA: &str = "repodata";
const REPOMD: &str = "repomd.xml";
const DISTS: &str = "dists";
/// The two forms in which a Debian archive states its indices.
const RELEASES: [&str; 2] = ["Release", "InRelease"];

/// Metadata from which all other metadata of its repository follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// `repodata/repomd.xml`; names are relative to `base`.
    Yum { base: RepoPath },
    /// `Release` or `InRelease` below `dists`; names in it are relative to `dir`, those of packages to `base`.
    Archive { dir: RepoPath, base: RepoPath },
    /// The same anywhere else: a flat repository, or something else of that name. Packages are relative to `dir`, or
    /// to a directory above it.
    Flat { dir: RepoPath },
}

impl Entry {
    /// What this path is, if it is metadata that a check begins with.
    pub(super) fn of(path: &RepoPath) -> Option<Self> {
        let (dir, name) = path.split_last()?;
        if name == REPOMD {
            let (base, last) = dir.split_last()?;
            return (last == REPODATA).then_some(Self::Yum { base });
        }
        if !RELEASES.contains(&name) {
            return None;
        }
        let mut base = dir.clone();
        while let Some((above, last)) = base.split_last() {
            if last == DISTS {
                return Some(Self::Archive { dir, base: above });
            }
            base = above;
        }
        Some(Self::Flat { dir })
    }

    /// The directory in which its metadata lies.
    pub(super) fn dir(&self) -> RepoPath {
        match self {
            Self::Yum { base } => {
                let dir = join(base, REPODATA);
                if let Named::Path(dir) = dir { dir } else { base.clone() }
            }
            Self::Archive { dir, .. } | Self::Flat { dir } => dir.clone(),
        }
    }

    /// The directories that names of packages may be relative to, the likeliest first.
    pub(super) fn bases(&self) -> Vec<RepoPath> {
        match self {
            Self::Yum { base } | Self::Archive { base, .. } => vec![base.clone()],
            Self::Flat { dir } => {
                let mut bases = vec![dir.clone()];
                while let Some((above, _)) = bases.last().and_then(RepoPath::split_last) {
                    bases.push(above);
                }
                bases
            }
        }
    }
}

/// Whether this is a file that a check of metadata begins with: `repodata/repomd.xml`, `Release` or `InRelease`.
#[must_use]
pub fn is_metadata(path: &RepoPath) -> bool {
    Entry::of(path).is_some()
}

/// What a name in metadata means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// A path of the tree.
    Path(RepoPath),
    /// Something above the tree, or on another server: nobody can look.
    Elsewhere,
    /// Nothing that any tree can hold.
    Impossible,
}

/// A name relative to a directory, as clients join it to the directory's URL.
pub(super) fn join(base: &RepoPath, name: &str) -> Named {
    if name.contains("://") {
        return Named::Elsewhere;
    }
    let mut parts: Vec<&str> = base.components().collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return Named::Elsewhere,
            ".." => {}
            part => parts.push(part),
        }
    }
    match RepoPath::new(parts.join("/")) {
        Ok(path) if !path.is_root() => Named::Path(path),
        _ => Named::Impossible,
    }
}

/// Whether `path` is `dir` or lies below it.
pub(super) fn is_below(path: &RepoPath, dir: &RepoPath) -> bool {
    let (path, dir) = (path.as_str(), dir.as_str());
    dir.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The directory that stands for where a named file lies: the top one below `base`, so that few stand for many files.
pub(super) fn region(base: &RepoPath, file: &RepoPath) -> RepoPath {
    let parent = file.split_last().map_or(RepoPath::ROOT, |(parent, _)| parent);
    if !is_below(&parent, base) || parent == *base {
        return parent;
    }
    let depth = base.components().count() + 1;
    let top: Vec<&str> = parent.components().take(depth).collect();
    RepoPath::new(top.join("/")).unwrap_or(parent)
}
