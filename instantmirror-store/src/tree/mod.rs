//! Reading a source tree that others may change at any moment.
//!
//! Every path is opened from the root's descriptor with `openat2` and `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
//! RESOLVE_NO_MAGICLINKS`: it never follows a symbolic link and never leaves the root, whatever is renamed or swapped
//! meanwhile. It never writes and never blocks on a fifo or device.

mod watch;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use instantmirror_core::RepoPath;
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

pub use watch::TreeWatch;

use crate::error::{Result, StoreError};

/// So many names of a directory are looked at by one thread at least.
const STATS_PER_TASK: usize = 1024;

/// What a name in a source tree stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, with its target's bytes.
    Symlink(Vec<u8>),
    /// A fifo, socket or device: never opened.
    Special,
}

/// What `stat` says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content: seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of `mtime`.
    pub mtime_ns: u32,
    /// Last change of content or attributes: seconds since 1970.
    pub ctime: i64,
    /// Nanoseconds of `ctime`.
    pub ctime_ns: u32,
    /// Inode number.
    pub ino: u64,
    /// Device, major number in the upper half.
    pub dev: u64,
    /// Number of hard links; 0 where it is not known.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What of a [`FileStamp`] says nothing about the content. Size and modification time always count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StampRule {
    /// The ctime: where attributes are changed in ways that a stamp does not show.
    pub ignore_ctime: bool,
    /// The inode number: where it is made up anew from time to time, as by some network file systems.
    pub ignore_inode: bool,
    /// The device number, which changes when a file system is mounted again.
    pub ignore_device: bool,
}

impl Default for StampRule {
    fn default() -> Self {
        Self {
            ignore_ctime: false,
            ignore_inode: false,
            ignore_device: true,
        }
    }
}

impl FileStamp {
    /// Whether a file that had this stamp, and has the stamp `now`, can be taken as unchanged. A ctime alone that is
    /// another one does not make a change where attributes are others too (links, owner, or the mode, as `is_chmod`
    /// says): these move it, as `cp -al`, `chown -R` and `chmod -R` do to whole trees.
    pub fn is_same_content(&self, now: &Self, is_chmod: bool, rule: StampRule) -> bool {
        let content = |stamp: &Self| (stamp.size, stamp.mtime, stamp.mtime_ns);
        let attributes = |stamp: &Self| (stamp.nlink, stamp.uid, stamp.gid);
        let is_explained = is_chmod || self.nlink != 0 && attributes(self) != attributes(now);
        content(self) == content(now)
            && (rule.ignore_inode || self.ino == now.ino)
            && (rule.ignore_device || self.dev == now.dev)
            && (rule.ignore_ctime || is_explained || (self.ctime, self.ctime_ns) == (now.ctime, now.ctime_ns))
    }
}

/// One name of a directory, as the file system has it. The name may be anything; who publishes it validates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// The name's bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: RawKind,
    /// Size, times and identity.
    pub stamp: FileStamp,
    /// Permission bits, without the file type.
    pub mode: u16,
}

/// Names of a directory, and the mode of the directory that they were read from: it may be another one than its name
/// stood for a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Permission bits of the directory.
    pub mode: u16,
    /// What is in it.
    pub entries: Vec<RawEntry>,
}

/// A directory tree to publish.
#[derive(Debug)]
pub struct SourceTree {
    root: PathBuf,
    /// The same without symbolic links, when it was opened.
    real_root: PathBuf,
    root_fd: OwnedFd,
}

/// Where a symbolic link leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// To something in the tree.
    Inside {
        /// Its path from the root, without links; empty for the root.
        path: PathBuf,
        /// What it is: never a link.
        kind: RawKind,
        /// Permission bits of it.
        mode: u16,
    },
    /// To nothing, to itself, or to what cannot be looked at.
    Nowhere,
    /// Out of the tree, or through an absolute target.
    Outside,
}

/// An open regular file of a [`SourceTree`], with its stamp at the time of opening.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    stamp: FileStamp,
    mode: u16,
}

impl SourceTree {
    /// Opens the root directory; the root itself may be reached through links.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref().to_path_buf();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_fd =
            rustix::fs::open(&root, flags, Mode::empty()).map_err(|e| StoreError::io("open directory", &root, e))?;
        let real_root = open_path(&root_fd).unwrap_or_else(|| root.clone());
        Ok(Self {
            root,
            real_root,
            root_fd,
        })
    }

    /// The root without symbolic links in it, when it was opened.
    pub fn real_root(&self) -> &Path {
        &self.real_root
    }

    /// Whether the root's path still leads to the directory that was opened: nothing was renamed, mounted or linked in
    /// its place since.
    ///
    /// Errors: [`StoreError::Io`] if it leads nowhere.
    pub fn is_still_there(&self) -> Result<bool> {
        let now = rustix::fs::stat(&self.root).map_err(|e| StoreError::io("stat", &self.root, e))?;
        let opened = rustix::fs::fstat(&self.root_fd).map_err(|e| StoreError::io("stat", &self.root, e))?;
        Ok((now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino))
    }

    /// The part of an absolute link target that lies in the tree, by either name of the root; empty for the root itself.
    pub fn inner_target<'a>(&self, target: &'a str) -> Option<&'a str> {
        [&self.root, &self.real_root].into_iter().find_map(|root| {
            let root = root.to_str()?.trim_end_matches('/');
            let inner = target.strip_prefix(root).filter(|_| root.starts_with('/'))?;
            match inner.strip_prefix('/') {
                Some(inner) => Some(inner.trim_start_matches('/')),
                None => inner.is_empty().then_some(""),
            }
        })
    }

    /// Where `path` leads, links followed as readers of a snapshot do: inside the tree alone.
    pub fn link_end(&self, path: &str) -> LinkEnd {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened =
            rustix::io::retry_on_intr(|| rustix::fs::openat2(&self.root_fd, path, flags, Mode::empty(), resolve));
        let end = opened.and_then(|end| {
            let stat = rustix::fs::statx(&end, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
            Ok((open_path(&end), stat))
        });
        match end {
            Ok((real, stat)) => LinkEnd::Inside {
                path: real
                    .and_then(|real| real.strip_prefix(&self.real_root).ok().map(Path::to_path_buf))
                    .unwrap_or_else(|| path.into()),
                kind: match file_type(&stat) {
                    FileType::RegularFile => RawKind::File,
                    FileType::Directory => RawKind::Dir,
                    _ => RawKind::Special,
                },
                mode: mode_of(&stat),
            },
            Err(Errno::XDEV) => LinkEnd::Outside,
            Err(_) => LinkEnd::Nowhere,
        }
    }

    /// The root as it was given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The root directory's own attributes; its name is empty.
    pub fn root_entry(&self) -> Result<RawEntry> {
        let stat = rustix::fs::statx(&self.root_fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map_err(|e| StoreError::io("stat", &self.root, e))?;
        Ok(entry_of(Vec::new(), RawKind::Dir, &stat))
    }

    /// All names in a directory, sorted by their bytes. A name that vanishes meanwhile is left out.
    ///
    /// Errors name the path; [`StoreError::OutsideRoot`] if a component of it is (or has become) a symbolic link.
    pub fn list(&self, dir: &RepoPath) -> Result<Listing> {
        let path = self.full(dir);
        let fd = self.open_beneath("open directory", dir, OFlags::DIRECTORY)?;
        let mode = mode_of(&stat_fd(&fd, &path)?);
        let fail = |error: Errno| StoreError::io("list", &path, error);
        let mut names = Vec::new();
        for item in rustix::fs::Dir::read_from(&fd).map_err(fail)? {
            let item = item.map_err(fail)?;
            let name = item.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        let stats = names.into_par_iter().with_min_len(STATS_PER_TASK);
        let stats = stats.map(|name| self.stat_entry(&fd, &path, name));
        let mut entries: Vec<RawEntry> = stats.filter_map(Result::transpose).collect::<Result<_>>()?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Listing { mode, entries })
    }

    /// Those of these names that are in a directory, in the order given; nothing else of it is looked at. Errors as
    /// [`list`](Self::list)'s.
    pub fn entries<'a>(&self, dir: &RepoPath, names: impl IntoIterator<Item = &'a str>) -> Result<Listing> {
        let path = self.full(dir);
        let fd = self.open_beneath("open directory", dir, OFlags::DIRECTORY)?;
        let mode = mode_of(&stat_fd(&fd, &path)?);
        let entries = names.into_iter();
        let entries = entries.filter_map(|name| self.stat_entry(&fd, &path, name.as_bytes().to_vec()).transpose());
        let entries = entries.collect::<Result<_>>()?;
        Ok(Listing { mode, entries })
    }

    /// Opens a regular file for reading.
    ///
    /// Errors name the path; [`StoreError::OutsideRoot`] if a component of it is (or has become) a symbolic link,
    /// [`StoreError::SourceChanged`] if it is no regular file (any more).
    pub fn open_file(&self, path: &RepoPath) -> Result<SourceFile> {
        // A fifo that was swapped in must not block us.
        let file = File::from(self.open_beneath("open", path, OFlags::NONBLOCK)?);
        let path = self.full(path);
        let stat = stat_fd(&file, &path)?;
        if file_type(&stat) != FileType::RegularFile {
            return Err(StoreError::SourceChanged {
                path,
                what: "it is not a regular file".to_owned(),
            });
        }
        Ok(SourceFile {
            stamp: stamp_of(&stat),
            mode: mode_of(&stat),
            file,
            path,
        })
    }

    fn open_beneath(&self, op: &'static str, path: &RepoPath, flags: OFlags) -> Result<OwnedFd> {
        let relative = if path.is_root() { "." } else { path.as_str() };
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::io::retry_on_intr(|| rustix::fs::openat2(&self.root_fd, relative, flags, Mode::empty(), resolve))
            .map_err(|error| match error {
                Errno::LOOP | Errno::XDEV => StoreError::OutsideRoot {
                    path: self.full(path),
                    root: self.root.clone(),
                    why: "a symbolic link is in the way",
                },
                error => StoreError::io(op, &self.full(path), error),
            })
    }

    fn stat_entry(&self, dir: &OwnedFd, dir_path: &Path, name: Vec<u8>) -> Result<Option<RawEntry>> {
        let name_os = OsStr::from_bytes(&name);
        let fail = |op, error: Errno| StoreError::io(op, &dir_path.join(name_os), error);
        let stat = match rustix::fs::statx(dir, name_os, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(|e| fail("stat", e))?,
        };
        let kind = match file_type(&stat) {
            FileType::RegularFile => RawKind::File,
            FileType::Directory => RawKind::Dir,
            FileType::Symlink => match rustix::fs::readlinkat(dir, name_os, Vec::new()) {
                // Gone, or something else by now: what was listed is not there any more.
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                target => RawKind::Symlink(target.map_err(|e| fail("read link", e))?.into_bytes()),
            },
            _ => RawKind::Special,
        };
        Ok(Some(entry_of(name, kind, &stat)))
    }

    pub(crate) fn full(&self, path: &RepoPath) -> PathBuf {
        if path.is_root() {
            self.root.clone()
        } else {
            self.root.join(path.as_str())
        }
    }
}

impl SourceFile {
    /// A file that somebody else has opened, with its stamp now. Its path is known as long as it has one.
    pub(crate) fn of_file(file: File) -> Result<Self> {
        let file = OwnedFd::from(file);
        let path = open_path(&file).unwrap_or_else(|| PathBuf::from("(an open file)"));
        let stat = stat_fd(&file, &path)?;
        Ok(Self {
            stamp: stamp_of(&stat),
            mode: mode_of(&stat),
            file: File::from(file),
            path,
        })
    }

    /// The stamp at the time of opening.
    pub fn stamp(&self) -> FileStamp {
        self.stamp
    }

    /// Its permission bits at the time of opening.
    pub fn mode(&self) -> u16 {
        self.mode
    }

    /// The full path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for reflinks and maps.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// As [`check_unchanged`](Self::check_unchanged), but another ctime or number of links is no change: they move when
    /// a link is made. Returns the stamp as it is now.
    pub fn check_content_unchanged(&self) -> Result<FileStamp> {
        let now = stamp_of(&stat_fd(&self.file, &self.path)?);
        let before = FileStamp {
            ctime: now.ctime,
            ctime_ns: now.ctime_ns,
            nlink: now.nlink,
            ..self.stamp
        };
        if now == before {
            Ok(now)
        } else {
            Err(self.changed(&now))
        }
    }

    /// Fails with [`StoreError::SourceChanged`] if the file is not what it was when it was opened. Content that was
    /// read before an `Ok` is consistent, as far as the file system keeps its times.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = stamp_of(&stat_fd(&self.file, &self.path)?);
        if now == self.stamp {
            Ok(())
        } else {
            Err(self.changed(&now))
        }
    }

    fn changed(&self, now: &FileStamp) -> StoreError {
        let what = if now.size == self.stamp.size {
            "its time stamps differ".to_owned()
        } else {
            format!("it had {} bytes and has {} now", self.stamp.size, now.size)
        };
        StoreError::SourceChanged {
            path: self.path.clone(),
            what,
        }
    }
}

impl Read for SourceFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

/// The path of an open file, if it has one.
fn open_path(fd: &OwnedFd) -> Option<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
    path.is_absolute().then_some(path)
}

fn stat_fd(file: impl AsFd, path: &Path) -> Result<Statx> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map_err(|e| StoreError::io("stat", path, e))
}

fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

/// Permission bits.
fn mode_of(stat: &Statx) -> u16 {
    stat.stx_mode & 0o7777
}

fn stamp_of(stat: &Statx) -> FileStamp {
    FileStamp {
        size: stat.stx_size,
        mtime: stat.stx_mtime.tv_sec,
        mtime_ns: stat.stx_mtime.tv_nsec,
        ctime: stat.stx_ctime.tv_sec,
        ctime_ns: stat.stx_ctime.tv_nsec,
        ino: stat.stx_ino,
        dev: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
    }
}

fn entry_of(name: Vec<u8>, kind: RawKind, stat: &Statx) -> RawEntry {
    RawEntry {
        name,
        kind,
        stamp: stamp_of(stat),
        mode: mode_of(stat),
    }
}
