//! Making room, giving objects up, and putting damaged ones aside.
//!
//! Files leave in two steps: renamed into `trash/` while the table is locked (so that nobody finds them any more),
//! unlinked afterwards (which may take long). Their bytes count as used until they are really gone.

use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use instantmirror_core::outboard::GROUP_BYTES;
use instantmirror_core::{CacheError, ObjectId};

use super::layout::{QUARANTINE, TRASH, kept_outboard_path, object_path, partial_path};
use super::partial::remove_side_files;
use super::table::{Room, Shortage, Table};
use super::{Shared, cache_error};
use crate::disk::{FileKind, discard};
use crate::error::Result;

/// Most files in quarantine; the oldest goes when there are more.
const QUARANTINE_FILES_MAX: usize = 32;

/// Files that the disk does not let go of: with more of them room is no longer sought by giving up others.
const STUCK_FILES_MAX: usize = 32;

/// Foreign files that are remembered until somebody asks for them.
const FOREIGN_TOLD: usize = 10_000;

/// A file in `trash/`, and the bytes that end with it.
#[derive(Debug)]
pub(super) struct Trash {
    path: PathBuf,
    pub(super) bytes: u64,
}

impl Shared {
    /// Reserves what `object`, which has a slot, still lacks; gives up others for it if it may.
    pub(super) fn reserve(&self, object: &ObjectId, size: u64, may_evict: bool) -> Result<(), CacheError> {
        loop {
            let trash = {
                let mut table = self.table();
                // Under the lock: what is written and what is promised for it must not both be missed.
                let room = self.room().map_err(cache_error)?;
                match table.reserve(object, room) {
                    Ok(()) => return Ok(()),
                    Err(Shortage::Never) => {
                        let max = table.limits.max_bytes.unwrap_or(u64::MAX);
                        return Err(CacheError::TooLarge {
                            object: *object,
                            size,
                            max,
                        });
                    }
                    Err(Shortage::Now) if !may_evict => return Err(CacheError::Full { object: *object, size }),
                    Err(Shortage::Shrinking) => return Err(CacheError::Full { object: *object, size }),
                    Err(Shortage::Now) => self.take_victim(&mut table).map_err(cache_error)?,
                }
            };
            if !self.go_on(trash) {
                return Err(CacheError::Full { object: *object, size });
            }
        }
    }

    /// What the file system has left.
    pub(super) fn room(&self) -> Result<Room> {
        let space = self.disk().space()?;
        Ok(Room {
            bytes: space.free_bytes,
            files: space.free_files,
        })
    }

    /// Gives up objects until what is there is within the limits, or nothing more may go.
    pub(super) fn trim(&self) -> Result<()> {
        loop {
            let keep_free = self.table().limits.keep_free_bytes;
            let is_full = keep_free > 0 && self.disk().space()?.free_bytes < keep_free;
            let trash = {
                let mut table = self.table();
                if !table.is_over() && !is_full {
                    return Ok(());
                }
                self.take_victim(&mut table)?
            };
            if !self.go_on(trash) {
                return Ok(());
            }
        }
    }

    /// What goes next: quarantine first, then the least recently used object.
    fn take_victim(&self, table: &mut Table) -> Result<Option<Trash>> {
        let quarantined = self
            .quarantine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        if let Some((path, bytes)) = quarantined {
            return Ok(Some(Trash { path, bytes }));
        }
        let Some(victim) = table.victim() else { return Ok(None) };
        let trash = self.give_up(table, &victim, true)?;
        tracing::debug!(object = %victim, "gave up an object to make room");
        Ok(Some(trash))
    }

    /// Takes an object's files away from its name, to make room or for another reason. To be followed by
    /// [`empty_trash`](Self::empty_trash) without the lock.
    pub(super) fn give_up(&self, table: &mut Table, object: &ObjectId, for_room: bool) -> Result<Trash> {
        let whole = table.slot(object).is_some_and(|slot| slot.whole);
        let from = if whole {
            object_path(object)
        } else {
            partial_path(object)
        };
        let path = Path::new(TRASH).join(self.next_serial().to_string());
        match self.disk().rename(&from, &path) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        if !whole {
            remove_side_files(self.disk(), object);
        } else if table.slot(object).is_some_and(|slot| slot.size > GROUP_BYTES) {
            discard(self.disk(), &kept_outboard_path(object));
        }
        Ok(Trash {
            path,
            bytes: if for_room {
                table.evict(object)
            } else {
                table.take_out(object)
            },
        })
    }

    /// Unlinks what was given up; then its bytes are free. False if the disk would not.
    pub(super) fn empty_trash(&self, trash: &Trash) -> bool {
        let removed = self.disk().remove(&trash.path);
        match removed {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(path = %trash.path.display(), %error, "cannot remove a file that was given up");
                // The bytes stay counted, for they are still there.
                self.stuck().push((trash.path.clone(), trash.bytes));
                false
            }
            _ => {
                self.table().gone(trash.bytes);
                true
            }
        }
    }

    /// Whether to look for more room after this victim. One file that cannot be removed must not keep all others from going.
    fn go_on(&self, victim: Option<Trash>) -> bool {
        match victim {
            Some(trash) => self.empty_trash(&trash) || self.stuck().len() <= STUCK_FILES_MAX,
            None => self.retry_stuck(),
        }
    }

    fn stuck(&self) -> MutexGuard<'_, Vec<(PathBuf, u64)>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries once more to remove what could not be. Whether any of it is gone.
    pub(super) fn retry_stuck(&self) -> bool {
        let stuck = std::mem::take(&mut *self.stuck());
        let gone = stuck
            .into_iter()
            .map(|(path, bytes)| self.empty_trash(&Trash { path, bytes }));
        gone.filter(|gone| *gone).count() > 0
    }

    /// Somebody else has removed an object's file.
    pub(super) fn forget_vanished(&self, table: &mut Table, object: &ObjectId) {
        tracing::warn!(%object, "object has vanished from the cache directory");
        discard(self.disk(), &kept_outboard_path(object));
        let bytes = table.take_out(object);
        table.gone(bytes);
    }

    /// Moves a damaged whole object out of the way, so that it is never served; returns the error to report. Does
    /// nothing if what the caller has opened is not the object that is here now.
    pub(super) fn put_aside(&self, object: &ObjectId, generation: u64, reason: &str) -> CacheError {
        let damaged = CacheError::Damaged {
            object: *object,
            reason: reason.to_owned(),
        };
        {
            let mut table = self.table();
            if !table.is_current(object, generation) {
                return damaged;
            }
            tracing::error!(%object, reason, "object is damaged: put into quarantine");
            table.damaged += 1;
            // Counted again below, as what it is now.
            table.disown(object);
            self.quarantine_file(&mut table, &object_path(object), &object.to_string());
            discard(self.disk(), &kept_outboard_path(object));
        }
        self.bound_quarantine();
        if let Err(error) = self.trim() {
            tracing::warn!(%error, "cannot make room for a damaged object");
        }
        damaged
    }

    /// Moves a whole object out of the way if the error says that its file is damaged. Returns the error.
    pub(super) fn blame_file(&self, error: CacheError, generation: u64) -> CacheError {
        match error {
            CacheError::Damaged { object, reason } => self.put_aside(&object, generation, &reason),
            other => other,
        }
    }

    /// Moves a file that has no business in the cache out of the way.
    pub(super) fn put_foreign_aside(&self, path: &Path) {
        tracing::error!(path = %path.display(), "foreign file in the cache directory: put into quarantine");
        self.table().damaged += 1;
        self.quarantine_file(&mut self.table(), path, "foreign");
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if foreign.len() < FOREIGN_TOLD {
            foreign.push(path.to_path_buf());
        }
        drop(foreign);
        self.bound_quarantine();
    }

    fn quarantine_file(&self, table: &mut Table, from: &Path, name: &str) {
        let meta = self.disk().metadata(from).ok();
        let bytes = meta.as_ref().map_or(0, |meta| meta.len.min(meta.allocated));
        let to = loop {
            let to = Path::new(QUARANTINE).join(format!("{name}-{}", self.next_serial()));
            if self.disk().metadata(&to).is_err() {
                break to;
            }
        };
        match self.disk().rename(from, &to) {
            // Somebody's directory is left to people, as every foreign one is.
            Ok(()) if meta.is_some_and(|meta| meta.kind == FileKind::Dir) => {}
            Ok(()) => {
                table.count(bytes);
                self.quarantine
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_back((to, bytes));
            }
            Err(error) => {
                tracing::error!(path = %from.display(), %error, "cannot move a damaged file: removing it");
                discard(self.disk(), from);
            }
        }
    }

    pub(super) fn bound_quarantine(&self) {
        loop {
            let oldest = {
                let mut quarantine = self.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
                if quarantine.len() <= QUARANTINE_FILES_MAX {
                    return;
                }
                quarantine.pop_front()
            };
            if let Some((path, bytes)) = oldest {
                self.empty_trash(&Trash { path, bytes });
            }
        }
    }
}
