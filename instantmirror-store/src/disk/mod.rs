//! The seam between durable code and a file system.
//!
//! [`Disk`] is the little that pack files, caches and snapshot stores need. [`RealDisk`] is a directory of this
//! machine; `SimDisk` (feature `sim`) forgets, tears and garbles whatever was not synced. Durable code goes through
//! this trait and never through `std::fs`, so every promise it makes about crashes can be tested.
//!
//! Paths are relative to the disk's root and consist of plain names only.

mod map;
mod memory;
mod owner;
mod real;
#[cfg(any(test, feature = "sim"))]
mod sim;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Result, StoreError};

pub use memory::MemoryDisk;
pub use real::RealDisk;
#[cfg(any(test, feature = "sim"))]
pub use sim::{Fault, SimDisk};

/// The suffix of files that are being written. A file with this name is garbage at every start.
pub const TMP_SUFFIX: &str = ".tmp";

/// What kind of thing a name in a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else: links, devices, sockets.
    Other,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// The name, exactly as the file system has it.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: FileKind,
    /// Time of the last change of the content, nanoseconds since 1970. A simulated disk counts operations instead.
    pub mtime_ns: i128,
    /// Bytes that the file occupies on the disk; less than `len` for sparse files.
    pub allocated: u64,
}

/// Space of the file system that holds the disk's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that an ordinary process can still write.
    pub free_bytes: u64,
    /// Files that can still be made; `u64::MAX` where the file system does not count them.
    pub free_files: u64,
}

/// A held lock. Dropping it, or the death of the process in any way, releases it.
#[must_use = "the lock is released when this is dropped"]
pub struct DiskLock(#[allow(dead_code, reason = "held for its Drop")] Box<dyn Send + Sync>);

impl DiskLock {
    /// Wraps whatever releases the lock when dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// An open file of a [`Disk`]. All offsets and lengths are bytes. Handles stay usable after the file is renamed or
/// removed.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads at `offset` until `buf` is full or the file ends; returns the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// Writes all of `buf` at `offset`. Survives a crash only after [`sync`](Self::sync). After an error any part of
    /// it may have been written.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Cuts or extends (with zeros) the file. Survives a crash only after [`sync`](Self::sync).
    fn set_len(&self, len: u64) -> Result<()>;

    /// The length.
    fn len(&self) -> Result<u64>;

    /// Makes it read-only for whoever opens it from now on, if it is not. Returns when it was changed last, in nanoseconds since
    /// 1970.
    fn seal(&self) -> Result<i128>;

    /// Whether the file is empty.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes content and length durable, but not the file's name: that takes [`Disk::sync_dir`]. After an error the
    /// content must be given up: a later `sync` that succeeds proves nothing about writes made before the failed one.
    fn sync(&self) -> Result<()>;

    /// The bytes `[0, len)` without copying them where the disk can. The caller promises that nobody cuts or changes
    /// that part of the file while the map lives; bytes appended later are not in it.
    fn map(&self) -> Result<Bytes>;

    /// The operating system's file, where there is one, for sendfile and passthrough.
    fn os_file(&self) -> Option<&Arc<File>>;
}

/// What durable code needs of a file system. Every method may block.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Fails if this process should not write here at all: [`StoreError::ForeignOwner`]. Everything else that writes
    /// fails likewise then; this is for who wants to know before.
    fn check_owner(&self) -> Result<()> {
        Ok(())
    }

    /// Makes a new empty file and opens it for reading and writing. An existing file is an error.
    fn create_new(&self, path: &Path) -> Result<Box<dyn DiskFile>>;

    /// The same for a file that holds a secret: only its owner may read it. A disk without permissions makes a plain one.
    fn create_private(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.create_new(path)
    }

    /// The same for a file that nobody opens for writing again: it need not be made read-only later.
    fn create_read_only(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.create_new(path)
    }

    /// Opens a file for reading.
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open_write(&self, path: &Path) -> Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what was there, in one step for every observer. Survives a crash only
    /// after [`sync_dir`](Self::sync_dir) of both directories; until then either name may come back, but never neither.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file's name. Until `sync_dir` a crash may bring it back.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Makes every creation, rename and removal in this directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Makes everything that was written and named so far durable, on the whole file system.
    fn sync_all(&self) -> Result<()>;

    /// The names in a directory, in no order.
    fn list(&self, dir: &Path) -> Result<Vec<DirItem>>;

    /// Size and kind; a symbolic link is not followed.
    fn metadata(&self, path: &Path) -> Result<FileMeta>;

    /// Makes a directory and its parents. What it made is durable when it returns.
    fn create_dir_all(&self, dir: &Path) -> Result<()>;

    /// Makes one directory in one that is there, unless it is there too. It is durable after [`sync_all`](Self::sync_all) or
    /// [`sync_dir`](Self::sync_dir) of that one; an implementation may make it so at once.
    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.create_dir_all(dir)
    }

    /// Takes away everybody's permission to write the file. No durability is promised.
    fn set_read_only(&self, path: &Path) -> Result<()>;

    /// Free space now.
    fn space(&self) -> Result<DiskSpace>;

    /// Takes the lock that this file stands for, writing this process's id into it; never waits. Another holder gives
    /// [`StoreError::Locked`] with its process id. A crash of the holder frees the lock.
    fn lock(&self, path: &Path) -> Result<DiskLock>;

    /// The path as the operating system knows it, where there is one.
    fn os_path(&self, path: &Path) -> Option<PathBuf>;
}

/// `path` with [`TMP_SUFFIX`] appended.
pub fn tmp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TMP_SUFFIX);
    PathBuf::from(name)
}

/// The directory that holds `path`; the root for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Writes a file so that after any crash the name `path` holds either its old content (or nothing) or the new content
/// whole; when this returns `Ok` it holds the new content, durably.
///
/// Steps: write `path.tmp`, sync it, rename it over `path`, sync the directory. A crash in between can leave
/// `path.tmp`, which every start removes. After an error the temporary file is removed where possible, and which of
/// the two contents `path` has after a crash is open (the rename may have happened); it is never a mix.
pub fn publish_atomically(disk: &dyn Disk, path: &Path, write: impl FnOnce(&dyn DiskFile) -> Result<()>) -> Result<()> {
    publish_with(disk, path, &|tmp| disk.create_new(tmp), write)
}

fn publish_with(
    disk: &dyn Disk,
    path: &Path,
    create: &dyn Fn(&Path) -> Result<Box<dyn DiskFile>>,
    write: impl FnOnce(&dyn DiskFile) -> Result<()>,
) -> Result<()> {
    let tmp = tmp_path(path);
    let published = write_tmp(disk, &tmp, create, write).and_then(|()| disk.rename(&tmp, path));
    if let Err(error) = published {
        discard(disk, &tmp);
        return Err(error);
    }
    disk.sync_dir(parent_of(path))
}

/// [`publish_atomically`] for content that is in memory.
pub fn write_atomically(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<()> {
    publish_atomically(disk, path, |file| file.write_at(content, 0))
}

/// [`write_atomically`] for secrets: only the owner of the file can read it, before and after.
pub fn write_privately(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<()> {
    publish_with(disk, path, &|tmp| disk.create_private(tmp), |file| {
        file.write_at(content, 0)
    })
}

fn write_tmp(
    disk: &dyn Disk,
    tmp: &Path,
    create: &dyn Fn(&Path) -> Result<Box<dyn DiskFile>>,
    write: impl FnOnce(&dyn DiskFile) -> Result<()>,
) -> Result<()> {
    let file = match create(tmp) {
        Err(error) if error.is_already_exists() => {
            disk.remove(tmp)?;
            create(tmp)?
        }
        other => other?,
    };
    write(file.as_ref())?;
    file.sync()
}

/// Removes a file whose content does not matter any more; a failure is only worth a log line, since the next start
/// removes it.
pub(crate) fn discard(disk: &dyn Disk, path: &Path) {
    match disk.remove(path) {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove a leftover file"),
    }
}

/// Reads a whole file of at most `limit` bytes.
pub fn read_file(disk: &dyn Disk, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = disk.open(path)?;
    let len = file.len()?;
    let fits = usize::try_from(len).ok().filter(|_| len <= limit);
    let Some(size) = fits else {
        return Err(StoreError::TooLarge {
            what: path.display().to_string(),
            size: len,
            limit,
        });
    };
    let mut content = vec![0; size];
    let read = file.read_at(&mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

/// Removes every file in `dir` that ends in [`TMP_SUFFIX`]: what a crash left behind.
pub fn remove_leftovers(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for item in disk.list(dir)? {
        if item.kind == FileKind::File && item.name.as_encoded_bytes().ends_with(TMP_SUFFIX.as_bytes()) {
            disk.remove(&dir.join(&item.name))?;
        }
    }
    Ok(())
}
