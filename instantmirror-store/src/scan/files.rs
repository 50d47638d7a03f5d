//! One file of a scan: taken as unchanged, or read and kept.

use std::sync::{Arc, Mutex, PoisonError};

use instantmirror_core::{Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoPath};

use super::{Held, READ_TRIES_MAX, Scan, Seen};
use crate::error::{Result, StoreError};
use crate::tree::{FileStamp, RawEntry, RawKind, StampRule};

/// A file changed less than this before the scan saw it may change again without a new time stamp, where the
/// file system's clock is coarse: it is read again next time.
const RACY_SECONDS: i64 = 2;

/// What a file was imported as, with a stamp to remember.
type Kept = (ObjectId, FileStamp);
/// The same of a file with several names, once it was.
pub(super) type Linked = Arc<Mutex<Option<Kept>>>;

impl Scan<'_> {
    pub(super) fn file(&self, path: &RepoPath, name: Name, raw: &RawEntry, held: Held<'_>) -> Result<Seen> {
        let known = held.seen.and_then(|(entry, stamp)| {
            let file = entry.meta.as_file()?;
            Some((file, entry.meta.mode, stamp))
        });
        let entry = |stamp: FileStamp, object, first_piece, link_group| {
            let file = FileMeta {
                size: stamp.size,
                object,
                first_piece,
                link_group,
            };
            let meta = Meta {
                mode: raw.mode,
                mtime: stamp.mtime,
                kind: Kind::File(file),
            };
            Some((Entry { name, meta }, stamp))
        };
        if let Some((file, mode, stamp)) = known
            && let Some(stamp) = self.unchanged(file, mode, stamp, raw)
            && (held.trusted || self.parts.objects.contains(&file.object, file.size)?)
        {
            let group = self.group(raw, &file.object, file.link_group);
            return Ok(entry(stamp, file.object, file.first_piece, group));
        }
        let imported = if raw.stamp.nlink > 1 {
            self.import_linked(path, raw.stamp)
        } else {
            self.import(path)
        };
        match imported {
            Ok((object, stamp)) => {
                let first_piece = self.parts.pieces.assign(&object, stamp.size)?;
                let held = known.filter(|(file, ..)| file.object == object);
                let group = self.group(raw, &object, held.and_then(|(file, ..)| file.link_group));
                Ok(entry(stamp, object, first_piece, group))
            }
            Err(error) => self.failed(path, &error).ok_or(error),
        }
    }

    /// The stamp to remember, if a file need not be read again.
    fn unchanged(&self, file: &FileMeta, mode: u16, known: &FileStamp, raw: &RawEntry) -> Option<FileStamp> {
        let (now, is_chmod, rule) = (raw.stamp, mode != raw.mode, self.parts.rules.stamps);
        // The first walk has just read it. It may still be too young for its stamp to be relied on next time.
        let is_second_walk = self.groups.is_some();
        let remembered = FileStamp {
            ino: if is_second_walk && known.ino == 0 { 0 } else { now.ino },
            ..now
        };
        let relied_on = StampRule {
            ignore_inode: rule.ignore_inode || is_second_walk,
            ..rule
        };
        if (is_second_walk || known.ino != 0) && known.is_same_content(&now, is_chmod, relied_on) {
            return Some(remembered);
        }
        // An object that is this very file cannot differ from it; links that were made or removed have moved the ctime, those
        // of an import of another name among them.
        let by_mtime = StampRule {
            ignore_ctime: true,
            ignore_inode: true,
            ignore_device: true,
        };
        let is_object = self.parts.import.hardlink
            && known.is_same_content(&now, is_chmod, by_mtime)
            && self.parts.objects.is_linked_to(&file.object, &now);
        is_object.then_some(remembered)
    }

    /// Reads a file with several names once per scan.
    fn import_linked(&self, path: &RepoPath, stamp: FileStamp) -> Result<Kept> {
        // An import by hard link changes these of all names.
        let key = FileStamp {
            ctime: 0,
            ctime_ns: 0,
            nlink: 0,
            ..stamp
        };
        let cell = Arc::clone(self.gathered().linked.entry(key).or_default());
        let mut known = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(imported) = *known {
            return Ok(imported);
        }
        let imported = self.import(path)?;
        *known = Some(imported);
        Ok(imported)
    }

    /// Reads and keeps one file; again if it changed meanwhile.
    fn import(&self, path: &RepoPath) -> Result<Kept> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut source = self.parts.tree.open_file(path)?;
            self.check_open(path, &RawKind::File, source.mode())?;
            let piece_bytes = self.parts.pieces.piece_bytes();
            let imported = self
                .parts
                .objects
                .import(&mut source, piece_bytes, self.parts.import, &mut |bytes| {
                    self.sink.read(bytes);
                });
            match imported {
                Ok(imported) => {
                    let object = imported.digest.object();
                    self.sink.imported();
                    let mut gathered = self.gathered();
                    gathered.counts.read_files += 1;
                    gathered.counts.read_bytes += imported.digest.size();
                    gathered.digests.push(imported.digest);
                    return Ok((object, self.settled(imported.stamp, imported.is_linked)));
                }
                Err(StoreError::SourceChanged { .. }) if tries < READ_TRIES_MAX => {
                    tracing::info!(%path, "changed while it was read; reading it again");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A stamp that can be relied on, or one that no file will ever have. Where the ctime is that of our own link or says
    /// nothing, the modification time decides.
    fn settled(&self, stamp: FileStamp, is_linked: bool) -> FileStamp {
        let newest = if is_linked || self.parts.rules.stamps.ignore_ctime {
            stamp.mtime
        } else {
            stamp.mtime.max(stamp.ctime)
        };
        if newest > self.parts.now - RACY_SECONDS {
            FileStamp { ino: 0, ..stamp }
        } else {
            stamp
        }
    }
}
