//! Which paths of a tree differ from those of an older one, as far as metadata could name them.

use std::collections::BTreeSet;
use std::ops::Bound;

use instantmirror_core::catalog::{CatalogError, Difference};
use instantmirror_core::{Kind, Meta, RepoPath};

/// With more changes than this everything is checked: that costs no more then.
pub const TOUCHED_MAX: usize = 200_000;

/// Paths that differ between two trees.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// Files that are gone or have another content.
    gone: BTreeSet<String>,
    /// Files and symlinks that were not there before.
    came: BTreeSet<String>,
    /// Some symlink is gone or leads elsewhere.
    links: bool,
}

impl Touched {
    /// Gathers differences; `None` if there are more than [`TOUCHED_MAX`].
    ///
    /// # Errors
    /// Those of the differences.
    pub fn of(
        differences: impl Iterator<Item = Result<Difference, CatalogError>>,
    ) -> Result<Option<Self>, CatalogError> {
        let mut touched = Self::default();
        for difference in differences {
            touched.note(&difference?);
            if touched.gone.len() + touched.came.len() > TOUCHED_MAX {
                return Ok(None);
            }
        }
        Ok(Some(touched))
    }

    fn note(&mut self, difference: &Difference) {
        let Difference { path, before, after } = difference;
        if content(before.as_ref()) == content(after.as_ref()) {
            return;
        }
        let path = path.as_str().to_owned();
        match before.as_ref().map(|meta| &meta.kind) {
            None => _ = self.came.insert(path),
            Some(Kind::Symlink(_)) => {
                self.links = true;
                self.gone.insert(path);
            }
            Some(_) => _ = self.gone.insert(path),
        }
    }

    /// Whether this path differs.
    pub(super) fn contains(&self, path: &RepoPath) -> bool {
        self.gone.contains(path.as_str()) || self.came.contains(path.as_str())
    }

    /// Whether this file is gone or has another content.
    pub(super) fn is_gone(&self, path: &RepoPath) -> bool {
        self.gone.contains(path.as_str())
    }

    /// Whether anything in a directory differs.
    pub(super) fn is_in(&self, dir: &RepoPath) -> bool {
        any_below(&self.gone, dir) || any_below(&self.came, dir)
    }

    /// Whether any file in a directory is gone or has another content.
    pub(super) fn is_gone_in(&self, dir: &RepoPath) -> bool {
        any_below(&self.gone, dir)
    }

    /// Whether some symlink is gone or leads elsewhere.
    pub(super) fn has_links(&self) -> bool {
        self.links
    }

    /// Files and symlinks that were not there before.
    pub(super) fn came(&self) -> impl Iterator<Item = RepoPath> + '_ {
        self.came.iter().filter_map(|path| RepoPath::new(path).ok())
    }

    /// Paths at which something else is now.
    pub(super) fn gone(&self) -> impl Iterator<Item = RepoPath> + '_ {
        self.gone.iter().filter_map(|path| RepoPath::new(path).ok())
    }
}

/// What a client gets of it.
fn content(meta: Option<&Meta>) -> Option<Result<[u8; 32], &str>> {
    meta.map(|meta| match &meta.kind {
        Kind::File(file) => Ok(*file.object.as_bytes()),
        Kind::Symlink(target) => Err(&**target),
        Kind::Directory(_) => Err(""),
    })
}

fn any_below(paths: &BTreeSet<String>, dir: &RepoPath) -> bool {
    if dir.is_root() {
        return !paths.is_empty();
    }
    let prefix = format!("{dir}/");
    let next = paths
        .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
        .next();
    next.is_some_and(|path| path.starts_with(&prefix))
}
