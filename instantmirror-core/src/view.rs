//! What frontends show of a repository: `snap/<uuid>/`, `snap/current/`, `master-snap/<tag>/`,
//! `local-snap/<tag>/`. HTTP and FUSE route through here, so both show the same.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::head::SignedHead;
use crate::{HeadMark, RepoName, RepoPath, Snapshot, SnapshotId, TagName, Timestamp, order};

/// The names directly below a repository, in the order in which they are listed.
pub const AREAS: [&str; 3] = ["snap", "master-snap", "local-snap"];

/// Selects one snapshot of a repository. Text form as in paths: `current`, `snap/<uuid>`,
/// `master-snap/<tag>`, `local-snap/<tag>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// The newest released snapshot that is whole here.
    Current,
    /// One snapshot, for ever.
    Snapshot(SnapshotId),
    /// The snapshot that the master calls so.
    MasterTag(TagName),
    /// The snapshot that this node's operator calls so.
    LocalTag(TagName),
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Snapshot(id) => write!(f, "snap/{id}"),
            Self::MasterTag(tag) => write!(f, "master-snap/{tag}"),
            Self::LocalTag(tag) => write!(f, "local-snap/{tag}"),
        }
    }
}

impl FromStr for View {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.split_once('/') {
            None if text == "current" => Some(Self::Current),
            Some(("snap", "current")) => Some(Self::Current),
            Some(("snap", id)) => id.parse().ok().map(Self::Snapshot),
            Some(("master-snap", tag)) => tag.parse().ok().map(Self::MasterTag),
            Some(("local-snap", tag)) => tag.parse().ok().map(Self::LocalTag),
            _ => None,
        };
        parsed.ok_or_else(|| "a view is current, snap/<uuid>, master-snap/<tag> or local-snap/<tag>".to_owned())
    }
}

/// A place in the name space of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The directory that holds `snap`, `master-snap` and `local-snap`.
    Top,
    /// `snap/`: `current` and one directory per visible snapshot.
    Snapshots,
    /// `master-snap/`: one directory per tag of the master.
    MasterTags,
    /// `local-snap/`: one directory per tag of this node.
    LocalTags,
    /// Inside a snapshot.
    Tree(View, RepoPath),
}

impl Place {
    /// Takes a path below the repository apart; `None` if no such place can exist.
    ///
    /// ```
    /// use instantmirror_core::view::{Place, View};
    /// use instantmirror_core::RepoPath;
    /// let path = RepoPath::new("snap/current/pool/a.deb").unwrap();
    /// let tree = Place::Tree(View::Current, RepoPath::new("pool/a.deb").unwrap());
    /// assert_eq!(Place::route(&path), Some(tree));
    /// ```
    #[must_use]
    pub fn route(path: &RepoPath) -> Option<Self> {
        let mut parts = path.as_str().splitn(3, '/');
        let (area, which, rest) = (
            parts.next().unwrap_or_default(),
            parts.next(),
            parts.next().unwrap_or_default(),
        );
        let Some(which) = which else {
            return match area {
                "" => Some(Self::Top),
                "snap" => Some(Self::Snapshots),
                "master-snap" => Some(Self::MasterTags),
                "local-snap" => Some(Self::LocalTags),
                _ => None,
            };
        };
        let view = format!("{area}/{which}").parse().ok()?;
        Some(Self::Tree(view, RepoPath::new(rest).ok()?))
    }
}

/// What is visible of one repository at one moment. Immutable: a change is a new value.
#[derive(Debug, Clone)]
pub struct RepositoryState {
    /// The repository.
    pub name: RepoName,
    /// The newest accepted head, if any was ever seen.
    pub head: Option<Arc<SignedHead>>,
    /// Released snapshots whose catalogs are whole here.
    pub snapshots: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// Which of them `current` is.
    pub current: Option<SnapshotId>,
    /// Tags of this node's operator.
    pub local_tags: BTreeMap<TagName, SnapshotId>,
}

impl RepositoryState {
    /// A repository of which nothing is known yet.
    #[must_use]
    pub fn empty(name: RepoName) -> Self {
        Self {
            name,
            head: None,
            snapshots: BTreeMap::new(),
            current: None,
            local_tags: BTreeMap::new(),
        }
    }

    /// Where its head is.
    #[must_use]
    pub fn head_mark(&self) -> HeadMark {
        HeadMark::Sequence(self.head.as_ref().map_or(0, |head| head.head().sequence))
    }

    /// The snapshot that `view` shows now, if it is visible.
    #[must_use]
    pub fn snapshot(&self, view: &View) -> Option<&Arc<Snapshot>> {
        self.snapshots.get(self.id(view)?)
    }

    fn id<'a>(&'a self, view: &'a View) -> Option<&'a SnapshotId> {
        Some(match view {
            View::Current => self.current.as_ref()?,
            View::Snapshot(id) => id,
            View::MasterTag(tag) => self.head.as_ref()?.head().tags.get(tag)?,
            View::LocalTag(tag) => self.local_tags.get(tag)?,
        })
    }

    /// Whether a view that shows nothing now may show something soon: no snapshot at all is whole here yet, or this one is
    /// the head's current one and its catalog is still on its way. Nobody may take it for gone.
    #[must_use]
    pub fn is_awaited(&self, view: &View) -> bool {
        let coming = self.head.as_ref().and_then(|head| head.head().current);
        let is_whole = |id: &SnapshotId| self.snapshots.contains_key(id);
        self.snapshots.is_empty() || coming.is_some_and(|id| !is_whole(&id) && self.id(view) == Some(&id))
    }

    /// What is visible, the snapshot that became current last first; behind them those that the head does not name any
    /// more.
    #[must_use]
    pub fn newest_first(&self) -> Vec<&Arc<Snapshot>> {
        // The dates do not matter here.
        let order = self.head.as_ref().map_or_else(Vec::new, |signed| {
            order::newest_first(signed.head(), Timestamp::from_millis(0))
        });
        let mut rest: BTreeMap<_, _> = self.snapshots.iter().collect();
        let mut all: Vec<_> = order.iter().filter_map(|turn| rest.remove(&turn.id)).collect();
        all.extend(rest.into_values());
        all
    }

    /// Tags of the master that can be shown, in order.
    pub fn master_tags(&self) -> impl Iterator<Item = (&TagName, &SnapshotId)> {
        let tags = self
            .head
            .as_ref()
            .map(|signed| &signed.head().tags)
            .into_iter()
            .flatten();
        tags.filter(|(_, id)| self.snapshots.contains_key(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_every_place_and_nothing_else() {
        let id = SnapshotId::from_random([1; 16]);
        let tree = |view, path: &str| Some(Place::Tree(view, RepoPath::new(path).unwrap()));
        let cases = [
            ("", Some(Place::Top)),
            ("snap", Some(Place::Snapshots)),
            ("master-snap", Some(Place::MasterTags)),
            ("local-snap", Some(Place::LocalTags)),
            ("snap/current", tree(View::Current, "")),
            ("snap/current/snap/current", tree(View::Current, "snap/current")),
            (&format!("snap/{id}/a/b"), tree(View::Snapshot(id), "a/b")),
            ("master-snap/v1/x", tree(View::MasterTag("v1".parse().unwrap()), "x")),
            ("local-snap/v1", tree(View::LocalTag("v1".parse().unwrap()), "")),
            ("current", None),
            ("current/a", None),
            ("snap/nonsense", None),
            ("snapshots", None),
            ("master-snap/UPPER", None),
        ];
        for (path, place) in cases {
            assert_eq!(Place::route(&RepoPath::new(path).unwrap()), place, "{path}");
        }
    }

    #[test]
    fn views_round_trip_as_text() {
        let id = SnapshotId::from_random([1; 16]);
        for text in ["current", &format!("snap/{id}"), "master-snap/v1", "local-snap/v-1"] {
            assert_eq!(text.parse::<View>().unwrap().to_string(), text);
        }
        assert!("head".parse::<View>().is_err());
    }
}
