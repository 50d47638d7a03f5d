//! The names outside of snapshots: `<repository>/snap`, `master-snap` and `local-snap`, and the symlinks in them.
//!
//! Key decision: **`current` and tags are symlinks to `snap/<uuid>`**, each with another number for another target. So each
//! snapshot has one set of inodes, however many names it has: content is cached once, and a directory has one place, as the
//! kernel demands. The kernel caches a link's target with its inode, and a link that somebody holds stays as it was.

use instantmirror_core::view::{AREAS, RepositoryState, View};
use instantmirror_core::{RepoName, SnapshotId};

use super::{OUTSIDE, Tree, lock, number};
use crate::filesystem::{Attributes, Errno, FileKind, Found, InodeId, Lookup};
use crate::imfs::Shown;

/// One of the directories of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Area {
    Snapshots,
    MasterTags,
    LocalTags,
}

impl Area {
    pub(crate) const ALL: [Self; 3] = [Self::Snapshots, Self::MasterTags, Self::LocalTags];

    fn name(self) -> &'static str {
        AREAS[self as usize]
    }
}

/// A symlink to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) repository: RepoName,
    pub(crate) area: Area,
    pub(crate) name: String,
    pub(crate) snapshot: SnapshotId,
}

impl Link {
    pub(crate) fn target(&self) -> String {
        match self.area {
            Area::Snapshots => self.snapshot.to_string(),
            Area::MasterTags | Area::LocalTags => format!("../{}/{}", Area::Snapshots.name(), self.snapshot),
        }
    }
}

/// Something outside of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Outside {
    Repositories,
    Repository(RepoName),
    Area(RepoName, Area),
    Link(Link),
}

/// A row of a directory outside of snapshots.
#[derive(Debug, Clone)]
pub(crate) struct OutsideRow {
    pub(crate) name: String,
    pub(crate) is: RowIs,
}

#[derive(Debug, Clone)]
pub(crate) enum RowIs {
    Outside(Outside),
    Snapshot(RepoName, SnapshotId),
}

fn seconds(state: &RepositoryState, id: Option<&SnapshotId>) -> i64 {
    let snapshot = id.and_then(|id| state.snapshots.get(id));
    snapshot.map_or(0, |snapshot| snapshot.created.as_millis().div_euclid(1000))
}

impl Tree {
    /// The number of what lies outside, which is known by it from now on.
    pub(crate) fn number_outside(&self, outside: &Outside) -> InodeId {
        let description = match (outside, &self.options.shown) {
            (Outside::Repositories, _) => return InodeId::ROOT,
            (Outside::Repository(_), Shown::Repository(_)) => return InodeId::ROOT,
            (Outside::Repository(name), _) => format!("repository {name}"),
            (Outside::Area(name, area), _) => format!("area {name} {}", area.name()),
            (Outside::Link(link), _) => {
                format!(
                    "link {} {} {} {}",
                    link.repository,
                    link.area.name(),
                    link.name,
                    link.snapshot
                )
            }
        };
        let id = number::outside(description.as_bytes());
        lock(&self.outside).entry(id.0).or_insert_with(|| outside.clone());
        id
    }

    /// The meaning of a number outside of snapshots; after a restart it is looked for among all that there is.
    pub(super) fn outside(&self, number: u64) -> Option<Outside> {
        if let Some(known) = lock(&self.outside).get(&number) {
            return self.is_shown(known).then(|| known.clone());
        }
        let mut work = match &self.options.shown {
            Shown::All => vec![Outside::Repositories],
            Shown::Repository(name) => vec![Outside::Repository(name.clone())],
            Shown::View(..) => Vec::new(),
        };
        while let Some(outside) = work.pop() {
            if self.number_outside(&outside).0 == number {
                return Some(outside);
            }
            let rows = self.rows_outside(&outside).unwrap_or_default();
            work.extend(rows.into_iter().filter_map(|row| match row.is {
                RowIs::Outside(outside) => Some(outside),
                RowIs::Snapshot(..) => None,
            }));
        }
        None
    }

    /// Whether the repository is still there.
    fn is_shown(&self, outside: &Outside) -> bool {
        match outside {
            Outside::Repositories => true,
            Outside::Repository(name) | Outside::Area(name, _) => self.catalogs().state(name).is_some(),
            Outside::Link(link) => self.catalogs().state(&link.repository).is_some(),
        }
    }

    /// The directory in which a link lies.
    pub(crate) fn area_of(&self, link: &Link) -> InodeId {
        self.number_outside(&Outside::Area(link.repository.clone(), link.area))
    }

    /// The directories of a repository.
    pub(crate) fn areas(&self, repository: &RepoName) -> [InodeId; 3] {
        Area::ALL.map(|area| self.number_outside(&Outside::Area(repository.clone(), area)))
    }

    pub(crate) fn snapshots_directory(&self, repository: &RepoName) -> InodeId {
        self.number_outside(&Outside::Area(repository.clone(), Area::Snapshots))
    }

    pub(super) fn parent_outside(&self, outside: &Outside) -> InodeId {
        match outside {
            Outside::Repositories | Outside::Repository(_) => InodeId::ROOT,
            Outside::Area(name, _) => self.number_outside(&Outside::Repository(name.clone())),
            Outside::Link(link) => self.number_outside(&Outside::Area(link.repository.clone(), link.area)),
        }
    }

    /// The rows of a directory outside of snapshots, in no order; a symlink has none.
    pub(crate) fn rows_outside(&self, outside: &Outside) -> Option<Vec<OutsideRow>> {
        let row = |name: String, outside: Outside| OutsideRow {
            name,
            is: RowIs::Outside(outside),
        };
        match outside {
            Outside::Repositories => {
                let all = self.catalogs().repositories().into_iter();
                Some(
                    all.map(|name| row(name.to_string(), Outside::Repository(name)))
                        .collect(),
                )
            }
            Outside::Repository(name) => {
                let areas = Area::ALL.iter();
                let area = |area: &Area| row(area.name().to_owned(), Outside::Area(name.clone(), *area));
                Some(areas.map(area).collect())
            }
            Outside::Area(name, area) => {
                let state = self.catalogs().state(name)?;
                Some(area_rows(&state, name, *area))
            }
            Outside::Link(_) => None,
        }
    }

    pub(super) fn lookup_outside(&self, outside: &Outside, name: &[u8]) -> Result<Lookup, Errno> {
        // There are few rows, but for snapshots, and those have long names that are compared quickly.
        let rows = self.rows_outside(outside).ok_or(Errno::NOTDIR)?;
        match rows.into_iter().find(|row| row.name.as_bytes() == name) {
            Some(row) => Ok(Lookup::Found(self.found_row(row.is)?)),
            None if self.is_awaited(outside, name) => Err(Errno::IO),
            None => Ok(Lookup::Absent(OUTSIDE)),
        }
    }

    /// Whether a name is that of a snapshot, or of a link to one, that may be there soon. It must not be taken for gone.
    fn is_awaited(&self, outside: &Outside, name: &[u8]) -> bool {
        let Outside::Area(repository, area) = outside else {
            return false;
        };
        let view = std::str::from_utf8(name).ok();
        let view = view.and_then(|name| format!("{}/{name}", area.name()).parse::<View>().ok());
        let state = self.catalogs().state(repository);
        view.is_some_and(|view| state.is_some_and(|state| state.is_awaited(&view)))
    }

    pub(super) fn found_row(&self, row: RowIs) -> Result<Found, Errno> {
        match row {
            RowIs::Outside(outside) => Ok(self.found_outside(outside)),
            RowIs::Snapshot(repository, id) => {
                let key = (repository, id);
                let snapshot = self.visible(&key).ok_or(Errno::STALE)?;
                let place = self.root_of(&key.0, &snapshot)?;
                Ok(self.found_place(&place, OUTSIDE))
            }
        }
    }

    pub(super) fn found_outside(&self, outside: Outside) -> Found {
        let inode = self.number_outside(&outside);
        Found {
            inode,
            attributes: self.attributes_outside(inode, &outside),
            entry_validity: OUTSIDE,
            attribute_validity: OUTSIDE,
        }
    }

    fn attributes_outside(&self, inode: InodeId, outside: &Outside) -> Attributes {
        let time = |name: &RepoName, id: Option<&SnapshotId>| {
            let state = self.catalogs().state(name);
            state.map_or(0, |state| seconds(&state, id.or(state.current.as_ref())))
        };
        match outside {
            Outside::Repositories => {
                let names = self.catalogs().repositories();
                let newest = names.iter().map(|name| time(name, None)).max();
                self.directory_attributes(inode, 0o755, newest.unwrap_or(0))
            }
            Outside::Repository(name) | Outside::Area(name, _) => {
                self.directory_attributes(inode, 0o755, time(name, None))
            }
            Outside::Link(link) => {
                let size = link.target().len() as u64;
                let time = time(&link.repository, Some(&link.snapshot));
                self.attributes_of(inode.0, FileKind::Symlink, 0o777, size, time)
            }
        }
    }
}

fn area_rows(state: &RepositoryState, repository: &RepoName, area: Area) -> Vec<OutsideRow> {
    let link = |name: String, snapshot: SnapshotId| OutsideRow {
        is: RowIs::Outside(Outside::Link(Link {
            repository: repository.clone(),
            area,
            name: name.clone(),
            snapshot,
        })),
        name,
    };
    match area {
        Area::Snapshots => {
            let current = state.snapshot(&View::Current);
            let current = current.map(|snapshot| link("current".to_owned(), snapshot.id));
            let all = state.snapshots.keys().map(|id| OutsideRow {
                name: id.to_string(),
                is: RowIs::Snapshot(repository.clone(), *id),
            });
            current.into_iter().chain(all).collect()
        }
        Area::MasterTags => state
            .master_tags()
            .map(|(tag, id)| link(tag.to_string(), *id))
            .collect(),
        Area::LocalTags => {
            let whole = state
                .local_tags
                .iter()
                .filter(|(_, id)| state.snapshots.contains_key(id));
            whole.map(|(tag, id)| link(tag.to_string(), *id)).collect()
        }
    }
}

/// The links of a repository in one state, for telling what has moved.
pub(crate) fn links_of(state: &RepositoryState, repository: &RepoName) -> Vec<Link> {
    let rows = Area::ALL.iter().flat_map(|area| area_rows(state, repository, *area));
    let links = rows.filter_map(|row| match row.is {
        RowIs::Outside(Outside::Link(link)) => Some(link),
        _ => None,
    });
    links.collect()
}
