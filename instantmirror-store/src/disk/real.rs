//! [`RealDisk`]: a directory of this machine.
//!
//! It never follows a path out of its root: paths are checked to be plain relative names before any call, and every
//! call is relative to the root's descriptor, so the directory may even be renamed while in use.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::map::map_file;
use super::{DirItem, Disk, DiskFile, DiskLock, DiskSpace, FileKind, FileMeta, owner, parent_of};
use crate::error::{Result, StoreError};

/// Permissions of what nobody writes to any more.
const READ_ONLY: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// The longest process id that is read from a lock file, in bytes.
const PID_BYTES_MAX: usize = 20;

/// A directory of this machine. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    root_fd: OwnedFd,
    /// Root finds that this is a directory of another user.
    is_foreign: bool,
    /// Whether the file system gives all that is made to that user, once it was asked. Not before something is written: asking may
    /// leave a time stamp.
    is_forced: OnceLock<bool>,
    asks_if_forced: fn(&Path) -> bool,
}

impl RealDisk {
    /// Opens the directory, making it (and its parents) if it is not there.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        std::fs::create_dir_all(root).map_err(|e| StoreError::io("create directory", root, e))?;
        let root = root.canonicalize().map_err(|e| StoreError::io("resolve", root, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_fd =
            rustix::fs::open(&root, flags, Mode::empty()).map_err(|e| StoreError::io("open directory", &root, e))?;
        let is_foreign = owner::refusal(&root).is_some();
        Ok(Self {
            root,
            root_fd,
            is_foreign,
            is_forced: OnceLock::new(),
            asks_if_forced: owner::is_forced,
        })
    }

    /// Whether the owner of this directory means nothing. Says so once.
    fn is_forced(&self) -> bool {
        *self.is_forced.get_or_init(|| {
            let is_forced = (self.asks_if_forced)(&self.root);
            if is_forced {
                tracing::info!(
                    dir = %self.root.display(),
                    "its file system gives all files to one user, whoever makes them: root goes on here, although the directory is that user's"
                );
            }
            is_forced
        })
    }

    /// The directory, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn check(&self, path: &Path) -> Result<()> {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if plain {
            return Ok(());
        }
        let (path, root) = (path.to_path_buf(), self.root.clone());
        Err(StoreError::OutsideRoot {
            path,
            root,
            why: "only plain relative names are allowed",
        })
    }

    fn open_as(&self, op: &'static str, path: &Path, flags: OFlags) -> Result<File> {
        self.open_with(op, path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)
    }

    fn open_with(&self, op: &'static str, path: &Path, flags: OFlags, mode: Mode) -> Result<File> {
        self.check(path)?;
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::CREATE) {
            self.check_owner()?;
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.root_fd, dot(path), flags, mode)
            .map(File::from)
            .map_err(|e| self.error(op, path, e))
    }

    fn open_file(&self, op: &'static str, path: &Path, flags: OFlags) -> Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.open_as(op, path, flags)?))
    }

    fn file(&self, path: &Path, file: File) -> Box<dyn DiskFile> {
        Box::new(RealFile {
            path: self.root.join(path),
            file: Arc::new(file),
        })
    }

    fn error(&self, op: &'static str, path: &Path, source: impl Into<io::Error>) -> StoreError {
        StoreError::io(op, &self.root.join(path), source)
    }

    /// Makes one directory; false if it was there already.
    fn make_dir(&self, dir: &Path) -> Result<bool> {
        if self.is_foreign && self.metadata(dir).is_err() {
            self.check_owner()?;
        }
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        match rustix::fs::mkdirat(&self.root_fd, dir, mode) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.error("create directory", dir, error)),
        }
    }
}

impl Disk for RealDisk {
    fn check_owner(&self) -> Result<()> {
        // Looked at again for the text, and since it may have been put right.
        let refusal = self.is_foreign.then(|| owner::refusal(&self.root)).flatten();
        refusal.filter(|_| !self.is_forced()).map_or(Ok(()), Err)
    }

    fn create_new(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.open_file("create", path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn create_private(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_with("create", path, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(self.file(path, file))
    }

    fn create_read_only(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(self.file(path, self.open_with("create", path, flags, READ_ONLY)?))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.open_file("open", path, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.open_file("open for writing", path, OFlags::RDWR)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.check_owner()?;
        rustix::fs::renameat(&self.root_fd, from, &self.root_fd, to).map_err(|e| self.error("rename", from, e))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        self.check_owner()?;
        rustix::fs::unlinkat(&self.root_fd, path, AtFlags::empty()).map_err(|e| self.error("remove", path, e))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let file = self.open_as("open directory", dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsync(&file).map_err(|e| self.error("sync directory", dir, e))
    }

    fn sync_all(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root_fd).map_err(|e| self.error("sync the file system of", Path::new(""), e))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirItem>> {
        let fd = self.open_as("open directory", dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut items = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(|e| self.error("list", dir, e))? {
            let entry = entry.map_err(|e| self.error("list", dir, e))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match self.metadata(&dir.join(name)) {
                    Err(error) if error.is_not_found() => continue,
                    meta => meta?.kind,
                },
                known => kind_of(known),
            };
            items.push(DirItem {
                name: name.to_owned(),
                kind,
            });
        }
        Ok(items)
    }

    fn metadata(&self, path: &Path) -> Result<FileMeta> {
        self.check(path)?;
        let stat = rustix::fs::statat(&self.root_fd, dot(path), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.error("stat", path, e))?;
        Ok(FileMeta {
            len: u64::try_from(stat.st_size).unwrap_or(0),
            kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
            mtime_ns: mtime_of(&stat),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        })
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.check(dir)?;
        let mut made = PathBuf::new();
        for part in dir.components() {
            made.push(part);
            if self.make_dir(&made)? {
                self.sync_dir(parent_of(&made))?;
            }
        }
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.check(dir)?;
        self.make_dir(dir).map(|_| ())
    }

    fn set_read_only(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        rustix::fs::chmodat(&self.root_fd, path, READ_ONLY, AtFlags::empty())
            .map_err(|e| self.error("make read-only", path, e))
    }

    fn space(&self) -> Result<DiskSpace> {
        let stat =
            rustix::fs::fstatvfs(&self.root_fd).map_err(|e| self.error("ask for free space of", Path::new(""), e))?;
        let free_files = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        Ok(DiskSpace {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            free_files,
        })
    }

    fn lock(&self, path: &Path) -> Result<DiskLock> {
        let file = self.open_as("open", path, OFlags::RDWR | OFlags::CREATE)?;
        match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked {
                    path: self.root.join(path),
                    pid: read_pid(&file),
                });
            }
            Err(error) => return Err(self.error("lock", path, error)),
        }
        // The id is information for people; the lock itself is the kernel's and needs no cleaning up after a crash.
        let pid = std::process::id().to_string();
        let written = file.set_len(0).and_then(|()| file.write_all_at(pid.as_bytes(), 0));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot note the process id in the lock file");
        }
        Ok(DiskLock::new(file))
    }

    fn os_path(&self, path: &Path) -> Option<PathBuf> {
        self.check(path).ok()?;
        Some(self.root.join(path))
    }
}

/// The root itself is spelt ".", since the kernel takes no empty path.
fn dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

fn mtime_of(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

fn kind_of(file_type: FileType) -> FileKind {
    match file_type {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        _ => FileKind::Other,
    }
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; PID_BYTES_MAX];
    let read = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.get(..read)?).ok()?.trim().parse().ok()
}

#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    file: Arc<File>,
}

impl RealFile {
    fn error(&self, op: &'static str, source: impl Into<io::Error>) -> StoreError {
        StoreError::io(op, &self.path, source)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut read = 0;
        while let Some(rest) = buf.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(read as u64)) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("read", error)),
            }
        }
        Ok(read)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(buf, offset).map_err(|e| self.error("write", e))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| self.error("set length of", e))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| self.error("stat", e))?.len())
    }

    fn seal(&self) -> Result<i128> {
        let stat = rustix::fs::fstat(&*self.file).map_err(|e| self.error("stat", e))?;
        if Mode::from_raw_mode(stat.st_mode) != READ_ONLY {
            rustix::fs::fchmod(&*self.file, READ_ONLY).map_err(|e| self.error("make read-only", e))?;
        }
        Ok(mtime_of(&stat))
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::fdatasync(&*self.file).map_err(|e| self.error("sync", e))
    }

    fn map(&self) -> Result<Bytes> {
        map_file(&self.file, self.len()?).map_err(|e| self.error("map", e))
    }

    fn os_file(&self) -> Option<&Arc<File>> {
        Some(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_writes_where_the_file_system_gives_everything_to_one_user() {
        let dir = tempfile::tempdir().unwrap();
        if std::os::unix::fs::chown(dir.path(), Some(77), None).is_err() {
            eprintln!("skipped: only root can be refused");
            return;
        }
        let file = Path::new("file");
        // An ordinary file system: what root makes is root's.
        let disk = RealDisk::open(dir.path()).unwrap();
        assert!(matches!(disk.create_new(file), Err(StoreError::ForeignOwner { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // One as CIFS with `uid=77` shows it.
        let forced = RealDisk {
            asks_if_forced: |_| true,
            ..RealDisk::open(dir.path()).unwrap()
        };
        forced.check_owner().unwrap();
        forced.create_new(file).unwrap();
    }
}
