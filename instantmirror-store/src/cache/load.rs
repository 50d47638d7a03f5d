//! Finding out what is in the cache directory: one object at a time before the listing is done, then all.
//!
//! It never reads content. What it finds counts towards the limits from then on; what does not belong there is put
//! aside.

use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, TryLockError};

use instantmirror_core::ObjectId;

use super::Shared;
use super::layout::{OBJECTS, PARTIAL, QUARANTINE, kept_outboard_path, object_path, partial_path};
use super::partial::Partial;
use super::proof::take_outboard_back;
use super::record::Past;
use super::table::Found;
use crate::disk::{DirItem, FileKind, FileMeta, discard};
use crate::error::Result;

impl Shared {
    /// Looks an object up on the disk, if the listing has not been done yet.
    pub(super) fn adopt(&self, object: &ObjectId) -> Result<()> {
        if self.table().slot(object).is_some() || self.is_loaded() {
            return Ok(());
        }
        for (path, whole) in [(object_path(object), true), (partial_path(object), false)] {
            match self.disk().metadata(&path) {
                Ok(meta) if meta.kind == FileKind::File => return self.take_in(object, whole, meta),
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    pub(super) fn ensure_loaded(&self) -> Result<()> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.list_all()
    }

    /// As [`ensure_loaded`](Self::ensure_loaded), but false at once if somebody else is at it.
    pub(super) fn load_unless_loading(&self) -> Result<bool> {
        if self.is_loaded() {
            return Ok(true);
        }
        let _loading = match self.loading.try_lock() {
            Ok(loading) => loading,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        self.list_all().map(|()| true)
    }

    fn list_all(&self) -> Result<()> {
        if self.is_loaded() {
            return Ok(());
        }
        self.list_quarantine()?;
        for dir in self.disk().list(Path::new(OBJECTS))? {
            let path = Path::new(OBJECTS).join(&dir.name);
            let expected = dir
                .name
                .to_str()
                .filter(|name| name.len() == 2 && dir.kind == FileKind::Dir);
            match expected {
                Some(prefix) => self.list_objects(&path, prefix)?,
                None if dir.kind == FileKind::Dir => tracing::warn!(path = %path.display(), "foreign directory"),
                None => self.put_foreign_aside(&path),
            }
        }
        self.list_partials()?;
        self.table().end_listing();
        self.trim()?;
        self.loaded.store(true, Ordering::Release);
        // Nobody needs it any more.
        *self.past.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn list_objects(&self, dir: &Path, prefix: &str) -> Result<()> {
        let mut outboards = Vec::new();
        let belongs = |object: &ObjectId| object.to_string().starts_with(prefix);
        for item in self.disk().list(dir)? {
            let path = dir.join(&item.name);
            let object = object_of(&item).filter(belongs);
            let beside = side_file_of(&item, &[".cvs"]).filter(belongs);
            match (object, item.kind) {
                (Some(object), FileKind::File) => self.take_in_listed(&object, true, &path)?,
                (_, FileKind::Dir) => tracing::warn!(path = %path.display(), "foreign directory"),
                _ if beside.is_some() => outboards.extend(beside),
                _ => self.put_foreign_aside(&path),
            }
        }
        outboards.iter().for_each(|object| self.settle_outboard(object));
        Ok(())
    }

    /// An outboard without its object was published just before the process ended, or could not be removed.
    fn settle_outboard(&self, object: &ObjectId) {
        let table = self.table();
        if table.slot(object).is_some_and(|slot| slot.whole) {
            return;
        }
        if self.disk().metadata(&partial_path(object)).is_ok() {
            take_outboard_back(self.disk(), object);
        } else {
            discard(self.disk(), &kept_outboard_path(object));
        }
    }

    fn list_partials(&self) -> Result<()> {
        let dir = Path::new(PARTIAL);
        let mut side_files = Vec::new();
        for item in self.disk().list(dir)? {
            let path = dir.join(&item.name);
            if let Some(object) = object_of(&item).filter(|_| item.kind == FileKind::File) {
                self.take_in_listed(&object, false, &path)?;
            } else if let Some(object) = side_file_of(&item, &[".map", ".cvs"]) {
                side_files.push((object, path));
            } else if item.kind != FileKind::Dir {
                self.put_foreign_aside(&path);
            }
        }
        for (object, path) in side_files {
            let table = self.table();
            if table.slot(&object).is_none_or(|slot| slot.whole) {
                discard(self.disk(), &path);
            }
        }
        Ok(())
    }

    fn list_quarantine(&self) -> Result<()> {
        let dir = Path::new(QUARANTINE);
        for item in self.disk().list(dir)? {
            let path = dir.join(&item.name);
            let bytes = self
                .disk()
                .metadata(&path)
                .map_or(0, |meta| meta.len.min(meta.allocated));
            let mut quarantine = self.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
            // What this process put there itself meanwhile is known.
            if item.kind == FileKind::File && !quarantine.iter().any(|(known, _)| *known == path) {
                quarantine.push_front((path, bytes));
                drop(quarantine);
                self.table().count(bytes);
            }
        }
        self.bound_quarantine();
        Ok(())
    }

    fn take_in_listed(&self, object: &ObjectId, whole: bool, path: &Path) -> Result<()> {
        match self.disk().metadata(path) {
            // It was given up since it was listed.
            Err(error) if error.is_not_found() => Ok(()),
            meta => self.take_in(object, whole, meta?),
        }
    }

    fn take_in(&self, object: &ObjectId, whole: bool, meta: FileMeta) -> Result<()> {
        let mtime_ns = recorded_mtime(meta.mtime_ns);
        let recorded = self.past().and_then(|past| past.find(object)).filter(|_| whole);
        let trusted = recorded.is_some_and(|found| found.size == meta.len && found.mtime_ns == mtime_ns);
        // At most this is there; how much can be used shows when it is opened. What the file system has compressed, or
        // not yet written, is more than it says.
        let held = if whole {
            0
        } else {
            Partial::claimed(self.disk(), object, meta.len).len()
        };
        let found = Found {
            size: meta.len,
            on_disk: true,
            held: held.max(meta.allocated).min(meta.len),
            whole,
            trusted,
            mtime_ns,
        };
        let remembered = recorded.map(|found| found.remembered);
        self.table().insert(*object, found, remembered);
        Ok(())
    }

    fn past(&self) -> Option<Arc<Past>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A file's time as checkpoints keep it.
pub(super) fn recorded_mtime(mtime_ns: i128) -> i64 {
    i64::try_from(mtime_ns).unwrap_or(i64::MAX)
}

fn object_of(item: &DirItem) -> Option<ObjectId> {
    ObjectId::from_str(item.name.to_str()?).ok()
}

fn side_file_of(item: &DirItem, suffixes: &[&str]) -> Option<ObjectId> {
    let name = item.name.to_str()?;
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix))?;
    ObjectId::from_str(stem).ok().filter(|_| item.kind == FileKind::File)
}
