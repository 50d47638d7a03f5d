//! [`MemoryDisk`]: a [`Disk`] for what need not outlive the process.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{DirItem, Disk, DiskFile, DiskLock, DiskSpace, FileKind, FileMeta, parent_of};
use crate::error::{Result, StoreError};

/// A [`Disk`] that forgets everything when it is dropped: for a few small files, the notes of a node that has no directory.
/// Everything is as durable as the process, so syncing does nothing. Clones share the files.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<PathBuf, Arc<MemoryFile>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
struct MemoryFile(Mutex<Vec<u8>>);

/// An open file; the name may have gone since.
#[derive(Debug)]
struct OpenFile {
    file: Arc<MemoryFile>,
    path: PathBuf,
    is_writable: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        locked(&self.0)
    }

    fn open_as(&self, op: &'static str, path: &Path, is_writable: bool) -> Result<Box<dyn DiskFile>> {
        let file = self.inner().file(op, path)?;
        let path = path.to_path_buf();
        Ok(Box::new(OpenFile {
            file,
            path,
            is_writable,
        }))
    }
}

impl Inner {
    fn file(&self, op: &'static str, path: &Path) -> Result<Arc<MemoryFile>> {
        let file = self.files.get(path).cloned();
        file.ok_or_else(|| StoreError::io(op, path, io::ErrorKind::NotFound))
    }

    fn check_dir(&self, op: &'static str, dir: &Path) -> Result<()> {
        match dir.as_os_str().is_empty() || self.dirs.contains(dir) {
            true => Ok(()),
            false => Err(StoreError::io(op, dir, io::ErrorKind::NotFound)),
        }
    }
}

impl Disk for MemoryDisk {
    fn create_new(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let mut inner = self.inner();
        inner.check_dir("create", parent_of(path))?;
        if inner.files.contains_key(path) {
            return Err(StoreError::io("create", path, io::ErrorKind::AlreadyExists));
        }
        inner.files.insert(path.to_path_buf(), Arc::default());
        drop(inner);
        self.open_as("open", path, true)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.open_as("open", path, false)
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.open_as("open for writing", path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut inner = self.inner();
        inner.check_dir("rename", parent_of(to))?;
        let file = inner.file("rename", from)?;
        inner.files.remove(from);
        inner.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let removed = self.inner().files.remove(path);
        removed.map_or_else(
            || Err(StoreError::io("remove", path, io::ErrorKind::NotFound)),
            |_| Ok(()),
        )
    }

    fn sync_dir(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirItem>> {
        let inner = self.inner();
        inner.check_dir("list", dir)?;
        let item = |path: &PathBuf, kind| {
            let name = path.file_name().filter(|_| parent_of(path) == dir)?;
            Some(DirItem {
                name: name.to_owned(),
                kind,
            })
        };
        let dirs = inner.dirs.iter().filter_map(|path| item(path, FileKind::Dir));
        let files = inner.files.keys().filter_map(|path| item(path, FileKind::File));
        Ok(dirs.chain(files).collect())
    }

    fn metadata(&self, path: &Path) -> Result<FileMeta> {
        let inner = self.inner();
        let (kind, len) = if inner.dirs.contains(path) {
            (FileKind::Dir, 0)
        } else {
            (FileKind::File, locked(&inner.file("stat", path)?.0).len() as u64)
        };
        Ok(FileMeta {
            len,
            kind,
            mtime_ns: 0,
            allocated: len,
        })
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        let all = dir.ancestors().filter(|part| !part.as_os_str().is_empty());
        self.inner().dirs.extend(all.map(Path::to_path_buf));
        Ok(())
    }

    fn set_read_only(&self, path: &Path) -> Result<()> {
        self.inner().file("make read-only", path).map(drop)
    }

    fn space(&self) -> Result<DiskSpace> {
        Ok(DiskSpace {
            free_bytes: u64::MAX,
            free_files: u64::MAX,
        })
    }

    fn lock(&self, path: &Path) -> Result<DiskLock> {
        if !self.inner().locks.insert(path.to_path_buf()) {
            return Err(StoreError::Locked {
                path: path.to_path_buf(),
                pid: Some(std::process::id()),
            });
        }
        Ok(DiskLock::new(Locked(self.clone(), path.to_path_buf())))
    }

    fn os_path(&self, _path: &Path) -> Option<PathBuf> {
        None
    }
}

struct Locked(MemoryDisk, PathBuf);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.inner().locks.remove(&self.1);
    }
}

impl OpenFile {
    fn change(&self, op: &'static str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        if !self.is_writable {
            return Err(StoreError::io(op, &self.path, io::ErrorKind::PermissionDenied));
        }
        change(&mut locked(&self.file.0));
        Ok(())
    }

    /// An offset or length that fits into memory.
    fn index(&self, op: &'static str, number: u64) -> Result<usize> {
        usize::try_from(number).map_err(|_| StoreError::io(op, &self.path, io::ErrorKind::FileTooLarge))
    }
}

impl DiskFile for OpenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let content = locked(&self.file.0);
        let rest = usize::try_from(offset).ok().and_then(|start| content.get(start..));
        let rest = rest.unwrap_or_default();
        let read = buf.len().min(rest.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let start = self.index("write", offset)?;
        let end = self.index("write", offset.saturating_add(buf.len() as u64))?;
        self.change("write", |content| {
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(buf);
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let len = self.index("set length of", len)?;
        self.change("set length of", |content| content.resize(len, 0))
    }

    fn len(&self) -> Result<u64> {
        Ok(locked(&self.file.0).len() as u64)
    }

    fn seal(&self) -> Result<i128> {
        Ok(0)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn map(&self) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(&locked(&self.file.0)))
    }

    fn os_file(&self) -> Option<&Arc<File>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{read_file, write_atomically};

    #[test]
    fn files_are_written_named_listed_and_removed() {
        let (disk, path) = (MemoryDisk::new(), Path::new("dir/file"));
        assert!(write_atomically(&disk, path, b"x").unwrap_err().is_not_found());
        disk.create_dir_all(Path::new("dir/below")).unwrap();
        write_atomically(&disk, path, b"content").unwrap();
        write_atomically(&disk, path, b"other").unwrap();
        assert_eq!(read_file(&disk, path, 10).unwrap(), b"other");
        assert_eq!(disk.list(Path::new("dir")).unwrap().len(), 2);
        assert!(
            disk.open(path).unwrap().write_at(b"x", 0).is_err(),
            "opened for reading"
        );
        let open = disk.open_write(path).unwrap();
        disk.remove(path).unwrap();
        assert!(disk.open(path).unwrap_err().is_not_found());
        open.write_at(b"!", 7).unwrap();
        assert_eq!(open.map().unwrap(), &b"other\0\0!"[..], "a handle outlives the name");
        let mut buffer = [0; 4];
        assert_eq!(
            (
                open.read_at(&mut buffer, 6).unwrap(),
                open.read_at(&mut buffer, 99).unwrap()
            ),
            (2, 0)
        );
    }

    #[test]
    fn a_lock_is_held_once() {
        let disk = MemoryDisk::new();
        let lock = disk.lock(Path::new("lock")).unwrap();
        assert!(matches!(disk.lock(Path::new("lock")), Err(StoreError::Locked { .. })));
        drop(lock);
        drop(disk.lock(Path::new("lock")).unwrap());
    }
}
