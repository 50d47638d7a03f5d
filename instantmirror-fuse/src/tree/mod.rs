//! [`Tree`]: names, numbers and attributes of what a mount shows, without a kernel and without content.
//!
//! Key decision: **nothing is kept of files.** A number leads to a directory's slot and a place in it, and from there to the row
//! of the catalog in one descent; what is kept of directories can be found again ([`slots`]). Everything inside a snapshot is
//! for ever, and everything outside is asked of [`Catalogs`] at each request, so a snapshot that is taken away is gone at once.
//!
//! * [`layout`] is what lies outside of snapshots: repositories, `snap`, tags, and the symlinks to snapshots.
//! * [`grace`] finds what the current snapshot lacks in older ones.
//! * [`links`] counts the names of hard-linked files.

mod grace;
mod layout;
mod links;
mod listing;
pub(crate) mod number;
pub(crate) mod slot_log;
mod slots;
#[cfg(test)]
mod tests;
mod xattrs;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource};
use instantmirror_core::log_limited;
use instantmirror_core::traits::Catalogs;
use instantmirror_core::view::View;
use instantmirror_core::{Directory, Entry, FileMeta, Kind, Meta, Name, RepoName, RepoPath, Snapshot};

use self::layout::Outside;
pub(crate) use self::layout::links_of as layout_links;
use self::links::Links;
use self::number::Number;
use self::slots::{Origin, Slots, SnapshotKey};
use crate::filesystem::{Attributes, Errno, FileKind, FileSystemSize, Found, InodeId, Lookup, Validity};
use crate::imfs::{Executor, ImfsOptions, Shown};

/// How long names of the root of a view hold: they are told of when it changes, so this bounds what a lookup that was being
/// answered meanwhile can do.
const ROOT_NAMES: Validity = Validity::For(Duration::from_secs(5));
/// How long names and attributes outside of snapshots hold, and that nothing has a name.
const OUTSIDE: Validity = Validity::For(Duration::from_secs(1));
/// How long it holds, inside of a current tree, that nothing has a name, or that grace has found it.
const IN_GRACE: Validity = Validity::For(Duration::from_secs(60));
/// The same for a link count that is not known yet.
const UNCOUNTED: Validity = Validity::For(Duration::from_secs(1));
/// Directories whose rows are kept; then all are forgotten, and found again when they are needed.
const PLACES_MAX: usize = 1 << 16;

/// A directory of a snapshot.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) slot: u64,
    pub(crate) key: SnapshotKey,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Its own slot's directory and place there; none of a root.
    parent: Option<(u64, u64)>,
    mode: u16,
    mtime: i64,
    pub(crate) directory: Directory,
}

/// The meaning of a number.
#[derive(Debug)]
pub(crate) enum Spot {
    Outside(Outside),
    Directory(Arc<Place>),
    Entry(Arc<Place>, u64, Entry),
    /// The root of a view that shows nothing now. It has attributes and no content: it is not empty, its content cannot be had.
    /// A program that takes it for empty would delete its copy (`rsync --delete`), so listings and lookups fail.
    Nothing,
}

/// A file, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct FileSpot {
    pub(crate) repository: RepoName,
    pub(crate) path: RepoPath,
    pub(crate) file: FileMeta,
}

/// The content of a mount.
#[derive(Debug)]
pub(crate) struct Tree {
    catalogs: Arc<dyn Catalogs>,
    pub(crate) options: ImfsOptions,
    slots: Mutex<Slots>,
    places: Mutex<HashMap<u64, Arc<Place>>>,
    /// The names outside of snapshots that have been told, and the symlinks of old.
    outside: Mutex<HashMap<u64, Outside>>,
    links: Arc<Links>,
    executor: Arc<dyn Executor>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer to whoever asked for what the catalog does not give; the log says why.
fn failed(error: &CatalogError) -> Errno {
    log_limited!(Instant::now(), warn, %error, "a catalog cannot be read");
    Errno::IO
}

impl Tree {
    pub(crate) fn new(
        catalogs: Arc<dyn Catalogs>,
        options: ImfsOptions,
        store: Box<dyn slot_log::SlotStore>,
        executor: Arc<dyn Executor>,
    ) -> io::Result<Self> {
        Ok(Self {
            links: Arc::new(Links::new(catalogs.nodes(), Arc::clone(&executor))),
            executor,
            catalogs,
            options,
            slots: Mutex::new(Slots::open(store)?),
            places: Mutex::default(),
            outside: Mutex::default(),
        })
    }

    pub(crate) fn catalogs(&self) -> &Arc<dyn Catalogs> {
        &self.catalogs
    }

    fn catalog(&self, snapshot: &Snapshot) -> Catalog<Arc<dyn NodeSource>> {
        Catalog::new(self.catalogs.nodes(), snapshot.root.meta())
    }

    /// Writes down what was numbered; before an answer that tells of it.
    fn flush(&self) {
        lock(&self.slots).flush();
    }

    /// A snapshot, if it can be seen now.
    fn visible(&self, key: &SnapshotKey) -> Option<Arc<Snapshot>> {
        self.catalogs.state(&key.0)?.snapshots.get(&key.1).cloned()
    }

    /// The root of a snapshot.
    fn root_of(&self, repository: &RepoName, snapshot: &Arc<Snapshot>) -> Result<Arc<Place>, Errno> {
        let key = (repository.clone(), snapshot.id);
        let slot = lock(&self.slots).root(&key).ok_or(Errno::NOSPC)?;
        self.place(slot)
    }

    /// The snapshot whose tree the root of the mount is; `None` if it is no tree, or there is none now.
    pub(crate) fn shown_snapshot(&self) -> Option<(RepoName, Arc<Snapshot>)> {
        let Shown::View(repository, view) = &self.options.shown else {
            return None;
        };
        let snapshot = self.catalogs.state(repository)?.snapshot(view).cloned()?;
        Some((repository.clone(), snapshot))
    }

    fn root_spot(&self) -> Result<Spot, Errno> {
        match &self.options.shown {
            Shown::All => Ok(Spot::Outside(Outside::Repositories)),
            Shown::Repository(name) => Ok(Spot::Outside(Outside::Repository(name.clone()))),
            Shown::View(..) => match self.shown_snapshot() {
                Some((repository, snapshot)) => Ok(Spot::Directory(self.root_of(&repository, &snapshot)?)),
                None => Ok(Spot::Nothing),
            },
        }
    }

    /// The meaning of a number now.
    ///
    /// # Errors
    /// `ESTALE` if it stands for nothing any more.
    pub(crate) fn spot(&self, id: InodeId) -> Result<Spot, Errno> {
        match Number::of(id).ok_or(Errno::STALE)? {
            Number::Root => self.root_spot(),
            Number::Directory(slot) => Ok(Spot::Directory(self.place(slot)?)),
            Number::Entry(slot, at) => {
                let place = self.place(slot)?;
                let entry = self.catalog(&place.snapshot).entry_at(&place.directory, at);
                let entry = entry.map_err(|error| failed(&error))?.ok_or(Errno::STALE)?;
                Ok(Spot::Entry(place, at, entry))
            }
            Number::Outside(number) => Ok(Spot::Outside(self.outside(number).ok_or(Errno::STALE)?)),
        }
    }

    /// The directory of a slot.
    fn place(&self, slot: u64) -> Result<Arc<Place>, Errno> {
        let mut missing = Vec::new();
        let mut here = slot;
        let mut place = loop {
            if let Some(known) = self.known_place(here)? {
                break known;
            }
            let origin = lock(&self.slots).origin(here).ok_or(Errno::STALE)?;
            match origin {
                Origin::Snapshot(key) => break self.new_root(here, key)?,
                Origin::Below(parent, at) => {
                    missing.push((here, at));
                    here = parent;
                }
            }
        };
        while let Some((slot, at)) = missing.pop() {
            let entry = self.catalog(&place.snapshot).entry_at(&place.directory, at);
            let entry = entry.map_err(|error| failed(&error))?.ok_or(Errno::STALE)?;
            place = self.new_place(slot, &place, at, &entry.meta).ok_or(Errno::STALE)?;
        }
        Ok(place)
    }

    fn known_place(&self, slot: u64) -> Result<Option<Arc<Place>>, Errno> {
        let Some(place) = lock(&self.places).get(&slot).cloned() else {
            return Ok(None);
        };
        if self.visible(&place.key).is_none() {
            return Err(Errno::STALE);
        }
        Ok(Some(place))
    }

    fn keep(&self, place: Place) -> Arc<Place> {
        let place = Arc::new(place);
        let mut places = lock(&self.places);
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(place.slot, Arc::clone(&place));
        place
    }

    fn new_root(&self, slot: u64, key: SnapshotKey) -> Result<Arc<Place>, Errno> {
        let snapshot = self.visible(&key).ok_or(Errno::STALE)?;
        let root = &snapshot.root;
        let directory = Directory {
            node: root.node,
            files: root.files,
            bytes: root.bytes,
        };
        Ok(self.keep(Place {
            slot,
            key,
            parent: None,
            mode: root.mode,
            mtime: root.mtime,
            directory,
            snapshot,
        }))
    }

    fn new_place(&self, slot: u64, parent: &Place, at: u64, meta: &Meta) -> Option<Arc<Place>> {
        let directory = *meta.as_directory()?;
        Some(self.keep(Place {
            slot,
            key: parent.key.clone(),
            snapshot: Arc::clone(&parent.snapshot),
            parent: Some((parent.slot, at)),
            mode: meta.mode,
            mtime: meta.mtime,
            directory,
        }))
    }

    /// Whether the root of the mount is the tree of a snapshot.
    fn shows_tree(&self) -> bool {
        matches!(self.options.shown, Shown::View(..))
    }

    /// Whether what the tree lacks is looked for in older ones.
    fn has_grace(&self) -> bool {
        matches!(self.options.shown, Shown::View(_, View::Current))
    }

    fn number_of(&self, place: &Place) -> InodeId {
        if place.parent.is_none() && self.shows_tree() {
            InodeId::ROOT
        } else {
            number::directory(place.slot)
        }
    }

    fn parent_of(&self, place: &Place) -> Result<InodeId, Errno> {
        match place.parent {
            Some((slot, _)) => Ok(self.number_of(&*self.place(slot)?)),
            None if self.shows_tree() => Ok(InodeId::ROOT),
            None => Ok(self.snapshots_directory(&place.key.0)),
        }
    }

    fn attributes_of(&self, ino: u64, kind: FileKind, mode: u16, size: u64, mtime: i64) -> Attributes {
        let options = &self.options;
        Attributes {
            ino,
            kind,
            mode: if kind == FileKind::Symlink {
                mode
            } else {
                mode & !options.umask
            },
            // Of a directory: that it is not known how many subdirectories it has, as btrfs says it.
            links: 1,
            uid: options.uid,
            gid: options.gid,
            size,
            mtime,
        }
    }

    fn directory_attributes(&self, id: InodeId, mode: u16, mtime: i64) -> Attributes {
        self.attributes_of(id.0, FileKind::Directory, mode, 0, mtime)
    }

    /// An entry of a directory, numbered.
    fn found(&self, place: &Place, at: u64, meta: &Meta) -> Result<Found, Errno> {
        let mut attribute_validity = Validity::Forever;
        // Of directories too: a cursor has no room for a place further back.
        let entry = number::entry(place.slot, at).ok_or(Errno::OVERFLOW)?;
        let (inode, attributes) = match &meta.kind {
            Kind::Directory(_) => {
                let slot = lock(&self.slots).child(place.slot, at).ok_or(Errno::NOSPC)?;
                let inode = number::directory(slot);
                (inode, self.directory_attributes(inode, meta.mode, meta.mtime))
            }
            Kind::Symlink(target) => {
                let size = target.len() as u64;
                (
                    entry,
                    self.attributes_of(entry.0, FileKind::Symlink, meta.mode, size, meta.mtime),
                )
            }
            Kind::File(file) => {
                let mut attributes = self.attributes_of(entry.0, FileKind::File, meta.mode, file.size, meta.mtime);
                if let Some(group) = file.link_group {
                    attributes.ino = links::number(&place.key, group, &file.object);
                    let count = self.links.count(&place.key, &place.snapshot, attributes.ino);
                    attributes.links = count.unwrap_or(2);
                    attribute_validity = count.map_or(UNCOUNTED, |_| Validity::Forever);
                }
                (entry, attributes)
            }
        };
        Ok(Found {
            inode,
            attributes,
            entry_validity: Validity::Forever,
            attribute_validity,
        })
    }

    /// A directory as what its parent has found.
    fn found_place(&self, place: &Place, validity: Validity) -> Found {
        let inode = self.number_of(place);
        Found {
            inode,
            attributes: self.directory_attributes(inode, place.mode, place.mtime),
            entry_validity: validity,
            attribute_validity: if inode == InodeId::ROOT {
                OUTSIDE
            } else {
                Validity::Forever
            },
        }
    }

    pub(crate) fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Lookup, Errno> {
        let spot = self.spot(parent)?;
        let found = match (&spot, name) {
            // Of files too: the kernel asks so for a handle whose inode it has forgotten.
            (_, b".") => self.found_at(parent).map(Lookup::Found),
            (_, b"..") => self
                .parent_number(parent, &spot)
                .and_then(|id| self.found_at(id))
                .map(Lookup::Found),
            (Spot::Entry(..), _) => Err(Errno::NOTDIR),
            (Spot::Nothing, _) => Err(Errno::IO),
            (Spot::Outside(outside), name) => self.lookup_outside(outside, name),
            (Spot::Directory(place), name) => self.lookup_in(place, name, parent == InodeId::ROOT),
        };
        self.flush();
        found
    }

    fn lookup_in(&self, place: &Place, name: &[u8], in_root: bool) -> Result<Lookup, Errno> {
        let absent = match (in_root, self.has_grace()) {
            (true, _) => OUTSIDE,
            (false, true) => IN_GRACE,
            (false, false) => Validity::Forever,
        };
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| Name::new(name).is_ok()) else {
            return Ok(Lookup::Absent(absent));
        };
        let position = self.catalog(&place.snapshot).position(&place.directory, name);
        if let Some((at, meta)) = position.map_err(|error| failed(&error))? {
            let mut found = self.found(place, at, &meta)?;
            if in_root {
                found.entry_validity = ROOT_NAMES;
            }
            return Ok(Lookup::Found(found));
        }
        if self.has_grace()
            && let Some(mut found) = self.find_in_grace(place, name)?
        {
            found.entry_validity = if in_root { ROOT_NAMES } else { IN_GRACE };
            return Ok(Lookup::Found(found));
        }
        Ok(Lookup::Absent(absent))
    }

    /// The entry that a number alone finds.
    fn found_at(&self, id: InodeId) -> Result<Found, Errno> {
        match self.spot(id)? {
            Spot::Directory(place) => Ok(self.found_place(&place, Validity::Forever)),
            Spot::Entry(place, at, entry) => self.found(&place, at, &entry.meta),
            Spot::Outside(outside) => Ok(self.found_outside(outside)),
            Spot::Nothing => Ok(Found {
                inode: InodeId::ROOT,
                attributes: self.directory_attributes(InodeId::ROOT, 0o755, 0),
                entry_validity: OUTSIDE,
                attribute_validity: OUTSIDE,
            }),
        }
    }

    fn parent_number(&self, id: InodeId, spot: &Spot) -> Result<InodeId, Errno> {
        match spot {
            _ if id == InodeId::ROOT => Ok(InodeId::ROOT),
            Spot::Directory(place) => self.parent_of(place),
            Spot::Entry(place, ..) => Ok(self.number_of(place)),
            Spot::Outside(outside) => Ok(self.parent_outside(outside)),
            Spot::Nothing => Err(Errno::NOTDIR),
        }
    }

    pub(crate) fn attributes(&self, id: InodeId) -> Result<(Attributes, Validity), Errno> {
        let found = self.found_at(id);
        self.flush();
        found.map(|found| (found.attributes, found.attribute_validity))
    }

    pub(crate) fn readlink(&self, id: InodeId) -> Result<Bytes, Errno> {
        match self.spot(id)? {
            Spot::Entry(_, _, entry) => match entry.meta.kind {
                Kind::Symlink(target) => Ok(Bytes::from(target.into_string())),
                _ => Err(Errno::INVAL),
            },
            Spot::Outside(Outside::Link(link)) => Ok(link.target().into()),
            _ => Err(Errno::INVAL),
        }
    }

    /// The file that a number stands for.
    pub(crate) fn file(&self, id: InodeId) -> Result<FileSpot, Errno> {
        let Spot::Entry(place, _, entry) = self.spot(id)? else {
            return Err(Errno::ISDIR);
        };
        let file = *entry.meta.as_file().ok_or(Errno::LOOP)?;
        let path = self
            .path_of(&place)?
            .join(&entry.name)
            .map_err(|_| Errno::NAMETOOLONG)?;
        Ok(FileSpot {
            repository: place.key.0.clone(),
            path,
            file,
        })
    }

    /// The path of a directory in its snapshot.
    fn path_of(&self, place: &Place) -> Result<RepoPath, Errno> {
        let mut names = Vec::new();
        let mut parent = place.parent;
        while let Some((slot, at)) = parent {
            let above = self.place(slot)?;
            let entry = self.catalog(&above.snapshot).entry_at(&above.directory, at);
            names.push(entry.map_err(|error| failed(&error))?.ok_or(Errno::STALE)?.name);
            parent = above.parent;
        }
        let mut path = RepoPath::ROOT;
        while let Some(name) = names.pop() {
            path = path.join(&name).map_err(|_| Errno::NAMETOOLONG)?;
        }
        Ok(path)
    }

    /// The sum of all that is shown. None of it is free, as on every other read-only image: a program that wants to write
    /// there gives up at once.
    pub(crate) fn size(&self) -> FileSystemSize {
        let mut size = FileSystemSize {
            bytes: 0,
            bytes_free: 0,
            files: 0,
        };
        let mut add = |snapshot: &Snapshot| {
            size.bytes = size.bytes.saturating_add(snapshot.root.bytes);
            size.files = size.files.saturating_add(snapshot.root.files);
        };
        if self.shows_tree() {
            self.shown_snapshot().iter().for_each(|(_, snapshot)| add(snapshot));
        } else {
            let states = self
                .shown_repositories()
                .into_iter()
                .filter_map(|name| self.catalogs.state(&name));
            states.for_each(|state| state.snapshots.values().for_each(|snapshot| add(snapshot)));
        }
        size
    }

    /// The view that the root shows.
    pub(crate) fn shown_view(&self) -> Option<&View> {
        match &self.options.shown {
            Shown::View(_, view) => Some(view),
            _ => None,
        }
    }

    /// The repositories of which the mount shows something.
    pub(crate) fn shown_repositories(&self) -> Vec<RepoName> {
        match &self.options.shown {
            Shown::All => self.catalogs.repositories(),
            Shown::Repository(name) | Shown::View(name, _) => vec![name.clone()],
        }
    }

    /// Forgets what is kept of snapshots that heads do not name any more.
    pub(crate) fn forget_gone(&self) {
        self.forget_links();
        let known: Vec<SnapshotKey> = lock(&self.slots).known().cloned().collect();
        let gone: HashSet<SnapshotKey> = known.into_iter().filter(|key| self.is_gone(key)).collect();
        if gone.is_empty() {
            return;
        }
        lock(&self.slots).forget(&gone);
        lock(&self.places).retain(|_, place| !gone.contains(&place.key));
        self.links.forget(&gone);
    }

    /// Forgets links to snapshots that heads do not name any more.
    fn forget_links(&self) {
        let links: Vec<(u64, SnapshotKey)> = lock(&self.outside)
            .iter()
            .filter_map(|(number, outside)| match outside {
                Outside::Link(link) => Some((*number, (link.repository.clone(), link.snapshot))),
                _ => None,
            })
            .collect();
        for (number, key) in links {
            if self.is_gone(&key) {
                lock(&self.outside).remove(&number);
            }
        }
    }

    /// Whether a snapshot is not to come back: that it cannot be seen is not enough, its catalog may be on its way.
    fn is_gone(&self, (repository, id): &SnapshotKey) -> bool {
        self.catalogs.state(repository).is_some_and(|state| {
            let is_named = |head: &instantmirror_core::Head| head.snapshot(id).is_some();
            let head = state.head.as_ref();
            !state.snapshots.contains_key(id) && head.is_some_and(|signed| !is_named(signed.head()))
        })
    }
}
