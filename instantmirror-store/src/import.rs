//! Bringing files of a source tree into the object store: by reflink where the file system can, by hard link where the
//! operator allows it, else by copy.
//!
//! It never changes the source, and never lets an object appear whose source changed since it was hashed.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use instantmirror_core::{CacheError, ObjectId};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};
use crate::sparse::{Part, Parts};
use crate::tree::{FileStamp, SourceFile};

/// Bytes copied by one call.
const COPY_BYTES: usize = 1 << 26;

/// How a file came into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMethod {
    /// Shares its blocks with the source until one of them is changed.
    Reflink,
    /// Is the same file as the source: an edit in place there would damage it here (and be found out when verified).
    Hardlink,
    /// Is a copy.
    Copy,
    /// Was here already.
    Present,
}

/// Which methods may be used, in the order reflink, hard link, copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Try a reflink first.
    pub reflink: bool,
    /// Allow hard links: only right where the source replaces files and never edits them in place.
    pub hardlink: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            reflink: true,
            hardlink: false,
        }
    }
}

/// The outcome of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// How it came in.
    pub method: ImportMethod,
    /// The source's stamp afterwards; a hard link changes its ctime. Keep this one for the next comparison.
    pub stamp: FileStamp,
}

/// Why a file was not imported.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source or the disk: [`StoreError::SourceChanged`] asks to hash the file again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has no room, or the object is being written already.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Puts the content of `source` at `to`, a fresh name on `disk`.
pub(crate) fn place(disk: &dyn Disk, to: &Path, source: &SourceFile, options: ImportOptions) -> Result<Imported> {
    source.check_unchanged()?;
    let method = match options {
        ImportOptions { reflink: true, .. } if reflink(disk, to, source.file())? => ImportMethod::Reflink,
        ImportOptions { hardlink: true, .. } if hardlink(disk, to, source.file())? => ImportMethod::Hardlink,
        _ => {
            copy(disk, to, source)?;
            ImportMethod::Copy
        }
    };
    let stamp = if method == ImportMethod::Hardlink {
        source.check_content_unchanged()?
    } else {
        source.check_unchanged()?;
        source.stamp()
    };
    Ok(Imported { method, stamp })
}

/// False if this file system or pair of file systems cannot.
pub(crate) fn reflink(disk: &dyn Disk, to: &Path, source: &File) -> Result<bool> {
    let file = disk.create_new(to)?;
    let Some(target) = file.os_file() else {
        disk.remove(to)?;
        return Ok(false);
    };
    match rustix::fs::ioctl_ficlone(&**target, source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM) => {
            disk.remove(to)?;
            Ok(false)
        }
        Err(error) => Err(StoreError::io("reflink", to, error)),
    }
}

/// False if the source lies on another file system or may not be linked.
pub(crate) fn hardlink(disk: &dyn Disk, to: &Path, source: &File) -> Result<bool> {
    use std::os::fd::AsRawFd;
    let Some(target) = disk.os_path(to) else {
        return Ok(false);
    };
    // Through the descriptor: the name may stand for another file by now.
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    match rustix::fs::linkat(rustix::fs::CWD, from, rustix::fs::CWD, &target, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::MLINK | Errno::NOENT | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(StoreError::io("hard-link", &target, error)),
    }
}

fn copy(disk: &dyn Disk, to: &Path, source: &SourceFile) -> Result<()> {
    let file = disk.create_new(to)?;
    let size = source.stamp().size;
    for part in Parts::of(Some(source.file()), size) {
        if let Part::Data(data) = part {
            copy_data(source, file.as_ref(), data, to)?;
        }
    }
    file.set_len(size)
}

fn copy_data(source: &SourceFile, file: &dyn DiskFile, data: Range<u64>, to: &Path) -> Result<()> {
    let mut done = match file.os_file() {
        Some(target) => copy_in_kernel(source, target, data.clone(), to)?,
        None => data.start,
    };
    let mut buffer = if done < data.end { vec![0; 1 << 20] } else { Vec::new() };
    while done < data.end {
        let room = usize::try_from(data.end - done).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = std::os::unix::fs::FileExt::read_at(source.file(), &mut buffer[..room], done)
            .map_err(|e| StoreError::io("read", source.path(), e))?;
        if read == 0 {
            let what = format!("it ends at byte {done} of {}", source.stamp().size);
            return Err(StoreError::SourceChanged {
                path: source.path().to_path_buf(),
                what,
            });
        }
        file.write_at(buffer.get(..read).unwrap_or_default(), done)?;
        done += read as u64;
    }
    Ok(())
}

/// Copies as far as `copy_file_range` goes; returns where it ended.
fn copy_in_kernel(source: &SourceFile, target: &File, data: Range<u64>, to: &Path) -> Result<u64> {
    let mut done = data.start;
    while done < data.end {
        let (mut from_at, mut to_at) = (done, done);
        let left = usize::try_from(data.end - done).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        match rustix::fs::copy_file_range(source.file(), Some(&mut from_at), target, Some(&mut to_at), left) {
            Ok(0) => break,
            Ok(copied) => done += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => break,
            Err(error) => return Err(StoreError::io("copy to", to, error)),
        }
    }
    Ok(done)
}

/// What an import of an object needs to know.
#[derive(Debug)]
pub struct ImportRequest<'a> {
    /// The open file, hashed through this very descriptor.
    pub source: &'a SourceFile,
    /// The id that hashing gave.
    pub object: ObjectId,
    /// Which methods may be used.
    pub options: ImportOptions,
}
