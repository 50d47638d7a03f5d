//! The operations of the simulated disk: each counts, may fail as ordered, and leaves what is unsynced in a list.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{BLOCK_BYTES, DirOp, EIO, ENOSPC, Ino, SimDisk, SimFileState, Step, WriteOp, after, apply_write, errno};
use crate::disk::{DirItem, Disk, DiskFile, DiskLock, DiskSpace, FileKind, FileMeta, parent_of};
use crate::error::{Result, StoreError};

impl Disk for SimDisk {
    fn create_new(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let mut inner = self.state();
        let cut = inner.step(true).before("create", path)?;
        if inner.names.contains_key(path) {
            return Err(StoreError::io("create", path, io::ErrorKind::AlreadyExists));
        }
        if !parent_of(path).as_os_str().is_empty() && !inner.dirs.contains(parent_of(path)) {
            return Err(StoreError::io("create", path, io::ErrorKind::NotFound));
        }
        inner.next_ino += 1;
        let ino = inner.next_ino;
        inner.files.insert(ino, SimFileState::default());
        inner.change_names(DirOp(vec![(path.to_path_buf(), Some(ino))]));
        after(cut, "create", path)?;
        Ok(self.handle(ino, path, true))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.open_as("open", path, false)
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.open_as("open for writing", path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut inner = self.state();
        let cut = inner.step(false).before("rename", from)?;
        let ino = inner.lookup("rename", from)?;
        if !parent_of(to).as_os_str().is_empty() && !inner.dirs.contains(parent_of(to)) {
            return Err(StoreError::io("rename", from, io::ErrorKind::NotFound));
        }
        inner.change_names(DirOp(vec![(from.to_path_buf(), None), (to.to_path_buf(), Some(ino))]));
        after(cut, "rename", from)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut inner = self.state();
        let cut = inner.step(false).before("remove", path)?;
        inner.lookup("remove", path)?;
        inner.change_names(DirOp(vec![(path.to_path_buf(), None)]));
        after(cut, "remove", path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let mut inner = self.state();
        inner.step(false).fail_now("sync directory", dir)?;
        inner.sync_names(dir);
        Ok(())
    }

    fn sync_all(&self) -> Result<()> {
        let mut inner = self.state();
        inner.step(false).fail_now("sync the file system of", Path::new(""))?;
        inner.pending.clear();
        inner.durable_names = inner.names.clone();
        inner.files.values_mut().for_each(SimFileState::sync);
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirItem>> {
        let mut inner = self.state();
        inner.step(false).fail_now("list", dir)?;
        if !dir.as_os_str().is_empty() && !inner.dirs.contains(dir) {
            return Err(StoreError::io("list", dir, io::ErrorKind::NotFound));
        }
        let item = |path: &PathBuf, kind| {
            let inside = parent_of(path) == dir && !path.as_os_str().is_empty();
            path.file_name().filter(|_| inside).map(|name| DirItem {
                name: name.to_owned(),
                kind,
            })
        };
        let dirs = inner.dirs.iter().filter_map(|path| item(path, FileKind::Dir));
        let files = inner.names.keys().filter_map(|path| item(path, FileKind::File));
        Ok(dirs.chain(files).collect())
    }

    fn metadata(&self, path: &Path) -> Result<FileMeta> {
        let mut inner = self.state();
        inner.step(false).fail_now("stat", path)?;
        if inner.dirs.contains(path) {
            return Ok(FileMeta {
                len: 0,
                kind: FileKind::Dir,
                mtime_ns: 0,
                allocated: 0,
            });
        }
        let ino = inner.lookup("stat", path)?;
        let file = inner.files.get(&ino).ok_or_else(|| errno("stat", path, EIO))?;
        Ok(FileMeta {
            len: file.current.len() as u64,
            kind: FileKind::File,
            mtime_ns: i128::from(file.changed_at),
            allocated: file.blocks.len() as u64 * BLOCK_BYTES,
        })
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        let mut inner = self.state();
        inner.step(true).fail_now("create directory", dir)?;
        let all = dir
            .ancestors()
            .filter(|part| !part.as_os_str().is_empty())
            .map(Path::to_path_buf);
        inner.dirs.extend(all);
        Ok(())
    }

    fn set_read_only(&self, path: &Path) -> Result<()> {
        let mut inner = self.state();
        inner.step(false).fail_now("make read-only", path)?;
        inner.lookup("make read-only", path).map(|_| ())
    }

    fn space(&self) -> Result<DiskSpace> {
        let mut inner = self.state();
        inner.step(false).fail_now("ask for free space of", Path::new(""))?;
        Ok(DiskSpace {
            free_bytes: inner.free_bytes(),
            free_files: u64::MAX,
        })
    }

    fn lock(&self, path: &Path) -> Result<DiskLock> {
        let mut inner = self.state();
        if !inner.locks.insert(path.to_path_buf()) {
            return Err(StoreError::Locked {
                path: path.to_path_buf(),
                pid: Some(std::process::id()),
            });
        }
        Ok(DiskLock::new(SimLock {
            disk: self.clone(),
            path: path.to_path_buf(),
        }))
    }

    fn os_path(&self, _path: &Path) -> Option<PathBuf> {
        None
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) ino: Ino,
    pub(super) path: PathBuf,
    pub(super) writable: bool,
}

impl SimFile {
    fn with<T>(&self, op: &'static str, work: impl FnOnce(&mut SimFileState) -> T) -> Result<T> {
        let mut inner = self.disk.state();
        inner.step(false).fail_now(op, &self.path)?;
        inner
            .files
            .get_mut(&self.ino)
            .map(work)
            .ok_or_else(|| errno(op, &self.path, EIO))
    }

    fn change(&self, op: &'static str, write: WriteOp) -> Result<()> {
        if !self.writable {
            return Err(StoreError::io(op, &self.path, io::ErrorKind::PermissionDenied));
        }
        let mut inner = self.disk.state();
        let step = inner.step(true);
        let free = inner.free_bytes();
        let now = inner.operations;
        let file = inner
            .files
            .get_mut(&self.ino)
            .ok_or_else(|| errno(op, &self.path, EIO))?;
        let needed = new_blocks(file, &write);
        let step = if needed.len() as u64 * BLOCK_BYTES > free {
            Step::Fail(ENOSPC)
        } else {
            step
        };
        let (write, result) = match step {
            Step::Go => (write, Ok(())),
            Step::GoThenFail => (write, Err(errno(op, &self.path, EIO))),
            Step::Fail(code) => match half_of(write) {
                Some(half) if code == ENOSPC => (half, Err(errno(op, &self.path, code))),
                _ => return Err(errno(op, &self.path, code)),
            },
        };
        if result.is_ok() {
            file.blocks.extend(needed);
        }
        if let WriteOp::SetLen(len) = write {
            file.blocks.retain(|block| block * BLOCK_BYTES < len);
        }
        file.changed_at = now;
        apply_write(&mut file.current, &write);
        file.pending.push((write, false));
        result
    }
}

fn half_of(write: WriteOp) -> Option<WriteOp> {
    match write {
        WriteOp::Data { offset, mut data } => {
            data.truncate(data.len() / 2);
            Some(WriteOp::Data { offset, data })
        }
        WriteOp::SetLen(_) => None,
    }
}

fn new_blocks(file: &SimFileState, write: &WriteOp) -> Vec<u64> {
    let WriteOp::Data { offset, data } = write else {
        return Vec::new();
    };
    let blocks = offset / BLOCK_BYTES..(offset + data.len() as u64).div_ceil(BLOCK_BYTES);
    blocks.filter(|block| !file.blocks.contains(block)).collect()
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.with("read", |file| {
            if file.unreadable {
                return Err(errno("read", &self.path, EIO));
            }
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.current.len());
            let read = buf.len().min(file.current.len() - start);
            buf[..read].copy_from_slice(&file.current[start..start + read]);
            Ok(read)
        })?
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.change(
            "write",
            WriteOp::Data {
                offset,
                data: buf.to_vec(),
            },
        )
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change("set length of", WriteOp::SetLen(len))
    }

    fn len(&self) -> Result<u64> {
        self.with("stat", |file| file.current.len() as u64)
    }

    fn seal(&self) -> Result<i128> {
        self.with("stat", |file| i128::from(file.changed_at))
    }

    fn sync(&self) -> Result<()> {
        let synced = self.with("sync", SimFileState::sync);
        if synced.is_err()
            && let Some(file) = self.disk.state().files.get_mut(&self.ino)
        {
            file.pending.iter_mut().for_each(|(_, given_up)| *given_up = true);
        }
        synced
    }

    fn map(&self) -> Result<Bytes> {
        self.with("map", |file| Bytes::copy_from_slice(&file.current))
    }

    fn os_file(&self) -> Option<&Arc<File>> {
        None
    }
}
