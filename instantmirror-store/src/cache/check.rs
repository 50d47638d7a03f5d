//! Reading what lies on the disk again, to find what has rotted, was cut, swapped, or does not belong there.
//!
//! A [`Checker`] goes through the cache step by step, so that whoever drives it sets the pace. Content is read past what
//! the kernel has cached of it, since that is not what the medium would give. What is wrong is put into quarantine at
//! once; nothing is ever repaired here.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use instantmirror_core::expiry::Handle;
use instantmirror_core::outboard::ObjectHasher;
use instantmirror_core::traits::{Checked, Finding, Subset};
use instantmirror_core::{CacheError, ObjectId};
use rustix::fs::{Advice, fadvise};

use super::layout::{OBJECTS, object_path};
use super::partial::read_exactly;
use super::{DiskCache, OTHER_HASH, Shared, VERIFY_BYTES, fill};
use crate::disk::{DiskFile, FileKind};
use crate::error::Result;

/// Small objects are many: a step ends after so many of them.
const OBJECTS_OF_A_STEP: u64 = 64;
/// And after so many bytes.
const BYTES_OF_A_STEP: u64 = 4 << 20;
/// Directories under `objects/`.
const DIRS: u32 = 256;

#[derive(Debug)]
struct Open {
    lease: fill::Lease,
    file: Box<dyn DiskFile>,
    hasher: ObjectHasher,
    at: u64,
    size: u64,
}

/// Goes through a cache once; see the module. Dropping it stops it.
#[derive(Debug)]
pub struct Checker {
    shared: Arc<Shared>,
    subset: Subset,
    next: Handle,
    end: Handle,
    next_dir: u32,
    open: Option<Open>,
}

impl DiskCache {
    /// Begins to check what is here now, or a part of it. Lists the cache first, if nobody has yet.
    ///
    /// # Errors
    /// The disk's, from listing.
    pub fn check(&self, subset: Subset) -> Result<Checker> {
        self.shared.ensure_loaded()?;
        Ok(Checker {
            shared: Arc::clone(&self.shared),
            subset,
            next: 0,
            end: self.shared.table().handles_end(),
            next_dir: 0,
            open: None,
        })
    }
}

impl Checker {
    /// Reads some MiB or some dozen objects on; `None` at the end. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's, where it concerns no single object.
    pub fn step(&mut self) -> Result<Option<Checked>> {
        let mut done = Checked::default();
        if self.next_dir < DIRS {
            let dir = self.next_dir;
            self.next_dir += 1;
            if self.subset.contains_number(u64::from(dir)) || self.subset.of() > u64::from(DIRS) {
                self.shared.find_foreign(&format!("{dir:02x}"))?;
            }
            // Those that the listing at the start found are told too, once.
            let foreign = std::mem::take(&mut *self.shared.foreign.lock().unwrap_or_else(PoisonError::into_inner));
            done.findings = foreign.into_iter().map(|path| Finding::Foreign { path }).collect();
            return Ok(Some(done));
        }
        while done.bytes < BYTES_OF_A_STEP && done.objects < OBJECTS_OF_A_STEP {
            let is_at_it = match &self.open {
                Some(_) => Ok(true),
                None => self.open_next(&mut done),
            };
            let is_empty = done.objects == 0 && done.bytes == 0 && done.findings.is_empty();
            match is_at_it {
                Ok(true) => self.read_on(&mut done),
                // What was found is told first.
                Err(error) if is_empty => return Err(error),
                Ok(false) | Err(_) => return Ok((!is_empty).then_some(done)),
            }
        }
        Ok(Some(done))
    }

    /// False at the end.
    fn open_next(&mut self, done: &mut Checked) -> Result<bool> {
        while self.next < self.end {
            let handle = self.next;
            self.next += 1;
            let (object, size, lease) = {
                let mut table = self.shared.table();
                let Some((object, size)) = table
                    .whole_at(handle)
                    .filter(|(object, _)| self.subset.contains(object))
                else {
                    continue;
                };
                let Some(generation) = table.lease_unused(&object) else {
                    continue;
                };
                (object, size, fill::Lease::new(&self.shared, object, generation))
            };
            match self.shared.disk().open(&object_path(&object)) {
                Ok(file) => {
                    forget_cached(file.as_ref());
                    let hasher = ObjectHasher::new();
                    self.open = Some(Open {
                        lease,
                        file,
                        hasher,
                        at: 0,
                        size,
                    });
                    return Ok(true);
                }
                Err(error) if error.is_not_found() => {
                    self.shared.note_missing(&lease);
                    done.findings.push(Finding::Missing { object });
                }
                // It may be all right.
                Err(error) if error.is_of_process() => {
                    self.next = handle;
                    return Err(error);
                }
                Err(error) => done.findings.push(self.shared.note_damaged(&lease, &error.to_string())),
            }
        }
        Ok(false)
    }

    fn read_on(&mut self, done: &mut Checked) {
        let Some(open) = &mut self.open else { return };
        let (object, end) = (open.lease.object(), (open.at + VERIFY_BYTES).min(open.size));
        let mut finding = None;
        match read_exactly(open.file.as_ref(), object, open.at..end) {
            Ok(bytes) => {
                open.hasher.update(&bytes);
                done.bytes += bytes.len() as u64;
                open.at = end;
            }
            Err(CacheError::Damaged { reason, .. }) => finding = Some(reason),
            Err(error) => finding = Some(error.to_string()),
        }
        if finding.is_none() && open.at < open.size {
            return;
        }
        let Some(open) = self.open.take() else { return };
        forget_cached(open.file.as_ref());
        done.objects += 1;
        let longer = open.file.len().is_ok_and(|len| len != open.size);
        let reason = match finding {
            Some(reason) => Some(reason),
            None if longer => Some("the file has another length than the object".to_owned()),
            None => {
                let outboard = open.hasher.finish();
                let is_right = outboard.object() == object;
                if is_right {
                    self.shared.confirm(&open.lease, &outboard);
                }
                (!is_right).then(|| OTHER_HASH.to_owned())
            }
        };
        if let Some(reason) = reason {
            done.findings.push(self.shared.note_damaged(&open.lease, &reason));
        }
    }
}

/// Else the page cache answers for the medium, and what clients read is pushed out of it.
fn forget_cached(file: &dyn DiskFile) {
    if let Some(file) = file.os_file()
        && let Err(error) = fadvise(&**file, 0, None, Advice::DontNeed)
    {
        tracing::debug!(%error, "cannot have cached pages forgotten");
    }
}

impl Shared {
    fn note_missing(&self, lease: &fill::Lease) {
        let mut table = self.table();
        if table.is_current(&lease.object(), lease.generation()) {
            self.forget_vanished(&mut table, &lease.object());
        }
    }

    fn note_damaged(&self, lease: &fill::Lease, reason: &str) -> Finding {
        let object = lease.object();
        let _ = self.put_aside(&object, lease.generation(), reason);
        Finding::Damaged {
            object,
            reason: reason.to_owned(),
        }
    }

    /// The object is right; what lies beside it is made so.
    fn confirm(&self, lease: &fill::Lease, outboard: &instantmirror_core::outboard::Outboard) {
        let (object, generation) = (lease.object(), lease.generation());
        self.table().set_checked(&object, generation);
        if self.load_outboard(object, outboard.size()).is_none() {
            self.keep_outboard(outboard, generation);
        }
    }

    /// Looks for files of one directory that the table does not know.
    fn find_foreign(&self, prefix: &str) -> Result<()> {
        let dir = Path::new(OBJECTS).join(prefix);
        let items = match self.disk().list(&dir) {
            Err(error) if error.is_not_found() => return Ok(()),
            items => items?,
        };
        for item in items.into_iter().filter(|item| item.kind != FileKind::Dir) {
            let path = dir.join(&item.name);
            let name = item.name.to_string_lossy().into_owned();
            let stem = name.strip_suffix(".cvs").unwrap_or(&name);
            let object = stem.parse::<ObjectId>().ok().filter(|_| stem.starts_with(prefix));
            let Some(object) = object.filter(|_| item.kind == FileKind::File) else {
                self.put_foreign_aside(&path);
                continue;
            };
            // What is being named by this process is being filled.
            let table = self.table();
            let is_known = table.slot(&object).is_some_and(|slot| slot.whole || slot.filling);
            if is_known || self.disk().metadata(&path).is_err() {
                continue;
            }
            drop(table);
            self.put_foreign_aside(&path);
        }
        Ok(())
    }
}
