//! What is said to have changed in a source tree: a set of paths in bounded memory.
//!
//! It is a hint, not a truth: whoever publishes looks at each named path itself. The set only ever grows towards *more
//! to look at*: when it is full, the deepest paths give way to the directories that hold them, in the end to the whole
//! tree. So a set never forgets a change.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::{Name, RepoPath};

/// How many names a [`ChangeSet`] holds unless told otherwise: some 10 MB.
pub const CHANGES_MAX: usize = 100_000;

/// Paths to look at again.
///
/// ```
/// use instantmirror_core::RepoPath;
/// use instantmirror_core::changes::ChangeSet;
/// let mut changes = ChangeSet::default();
/// changes.insert(&RepoPath::new("pool/a.deb")?);
/// assert!(changes.contains(&RepoPath::new("pool/a.deb")?));
/// assert!(!changes.contains(&RepoPath::new("pool/b.deb")?));
/// changes.insert(&RepoPath::new("pool")?);
/// assert!(changes.contains(&RepoPath::new("pool/b.deb")?));
/// # Ok::<(), instantmirror_core::NameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSet {
    root: Change,
    names: usize,
    names_max: usize,
}

/// What is to be looked at, at one place of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Whatever is here now; of a directory all that is below it.
    Whole,
    /// Of this directory only these names, and its own attributes.
    Below(BTreeMap<Name, Change>),
}

impl Default for ChangeSet {
    fn default() -> Self {
        Self::with_limit(CHANGES_MAX)
    }
}

impl ChangeSet {
    /// An empty set that holds at most `names_max` names.
    #[must_use]
    pub fn with_limit(names_max: usize) -> Self {
        Self {
            root: Change::Below(BTreeMap::new()),
            names: 0,
            names_max,
        }
    }

    /// Adds a path: what is there now, and all below it. [`RepoPath::ROOT`] is the whole tree.
    pub fn insert(&mut self, path: &RepoPath) {
        self.root.insert(&mut path.components(), &mut self.names);
        self.shrink();
    }

    /// Adds what a path is and its attributes, but nothing below it. The root's own are looked at in any case.
    pub fn insert_entry(&mut self, path: &RepoPath) {
        self.root.insert_entry(&mut path.components(), &mut self.names);
        self.shrink();
    }

    /// Adds the whole tree.
    pub fn insert_all(&mut self) {
        (self.root, self.names) = (Change::Whole, 0);
    }

    /// Adds what another set holds.
    pub fn merge(&mut self, other: Self) {
        self.root.merge(other.root);
        self.names = self.root.names();
        self.shrink();
    }

    /// Where to look, from the root down.
    #[must_use]
    pub fn root(&self) -> &Change {
        &self.root
    }

    /// Nothing is to be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.root, Change::Below(below) if below.is_empty())
    }

    /// The whole tree is to be looked at.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.root == Change::Whole
    }

    /// Names in the set, those of the directories on the way included.
    #[must_use]
    pub fn names(&self) -> usize {
        self.names
    }

    /// This path is to be looked at.
    #[must_use]
    pub fn contains(&self, path: &RepoPath) -> bool {
        let mut here = &self.root;
        for name in path.components() {
            match here {
                Change::Whole => return true,
                Change::Below(below) => match below.get(name) {
                    Some(there) => here = there,
                    None => return false,
                },
            }
        }
        *here == Change::Whole
    }

    /// Gives up the deepest paths until the set is half full: rarely, so that it costs little per path.
    fn shrink(&mut self) {
        if self.names <= self.names_max {
            return;
        }
        while self.names > self.names_max / 2 {
            let depth = self.root.depth();
            self.root.cut(depth.saturating_sub(1));
            self.names = self.root.names();
        }
    }
}

impl Change {
    fn insert(&mut self, path: &mut dyn Iterator<Item = &str>, names: &mut usize) {
        let Self::Below(below) = self else { return };
        // A component of a path is a name.
        let Some(name) = path.next().and_then(|name| Name::new(name).ok()) else {
            *names -= self.names();
            *self = Self::Whole;
            return;
        };
        child(below, name, names).insert(path, names);
    }

    fn insert_entry(&mut self, path: &mut dyn Iterator<Item = &str>, names: &mut usize) {
        if let Self::Below(below) = self
            && let Some(name) = path.next().and_then(|name| Name::new(name).ok())
        {
            child(below, name, names).insert_entry(path, names);
        }
    }

    fn names(&self) -> usize {
        match self {
            Self::Whole => 0,
            Self::Below(below) => below.values().map(|there| 1 + there.names()).sum(),
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Whole => 0,
            Self::Below(below) => below.values().map(|there| 1 + there.depth()).max().unwrap_or(0),
        }
    }

    /// What has names at `depth` becomes whole.
    fn cut(&mut self, depth: usize) {
        let Self::Below(below) = self else { return };
        if depth == 0 {
            *self = Self::Whole;
        } else {
            below.values_mut().for_each(|there| there.cut(depth - 1));
        }
    }

    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Whole, _) => {}
            (_, Self::Whole) => *self = Self::Whole,
            (Self::Below(here), Self::Below(more)) => {
                for (name, change) in more {
                    match here.entry(name) {
                        Entry::Occupied(mut there) => there.get_mut().merge(change),
                        Entry::Vacant(free) => {
                            free.insert(change);
                        }
                    }
                }
            }
        }
    }
}

fn child<'a>(below: &'a mut BTreeMap<Name, Change>, name: Name, names: &mut usize) -> &'a mut Change {
    below.entry(name).or_insert_with(|| {
        *names += 1;
        Change::Below(BTreeMap::new())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text).unwrap()
    }

    fn set(limit: usize, paths: &[&str]) -> ChangeSet {
        let mut set = ChangeSet::with_limit(limit);
        paths.iter().for_each(|text| set.insert(&path(text)));
        set
    }

    #[test]
    fn a_directory_takes_the_place_of_what_is_below_it() {
        let mut changes = set(100, &["a/b/c", "a/b/d", "e"]);
        assert_eq!(changes.names(), 5);
        changes.insert(&path("a"));
        assert_eq!(changes.names(), 2);
        changes.insert(&path("a/b/c"));
        assert_eq!(changes, set(100, &["a", "e"]));
        assert!(!changes.is_empty() && !changes.is_all());
        changes.insert(&RepoPath::ROOT);
        assert!(changes.is_all() && changes.contains(&path("anything")));
    }

    #[test]
    fn a_full_set_gives_up_the_deepest_paths_first_and_forgets_none() {
        let named: Vec<String> = (0..8).map(|n| format!("deep/er/{n}")).collect();
        let mut changes = set(10, &["top"]);
        named.iter().for_each(|text| changes.insert(&path(text)));
        assert!(changes.names() <= 10, "{changes:?}");
        assert!(named.iter().all(|text| changes.contains(&path(text))));
        assert!(changes.contains(&path("top")) && !changes.contains(&path("other")));
        (0..20).for_each(|n| changes.insert(&path(&format!("top-{n}"))));
        assert!(changes.is_all());
        assert_eq!(changes.names(), 0);
    }

    #[test]
    fn an_entry_alone_says_nothing_of_what_is_below_it() {
        let mut changes = set(100, &[]);
        changes.insert_entry(&RepoPath::ROOT);
        assert!(changes.is_empty());
        changes.insert_entry(&path("a/b"));
        assert!(!changes.is_empty() && changes.names() == 2);
        assert!(!changes.contains(&path("a/b/c")));
        changes.insert(&path("a/b"));
        changes.insert_entry(&path("a/b"));
        assert_eq!(changes, set(100, &["a/b"]));
    }

    #[test]
    fn merged_sets_hold_what_each_held() {
        let mut one = set(100, &["a/b", "c"]);
        one.merge(set(100, &["a/b/x", "a/d", "c/e"]));
        assert_eq!(one, set(100, &["a/b", "a/d", "c"]));
        let mut all = set(100, &["a"]);
        all.insert_all();
        one.merge(all);
        assert!(one.is_all());
    }
}
