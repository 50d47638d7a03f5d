//! Changes of a source tree as the kernel tells them (inotify).
//!
//! [`TreeWatch`] watches every directory of the tree and nothing outside of it: it opens directories as the scanner does and
//! watches what it has opened, so a symbolic link leads nowhere. It also looks, once a second, whether the root's path still
//! leads to the directory that it watches, with the same file systems mounted in it. Whenever it may have missed something
//! (the root was renamed, replaced, unmounted or mounted over; the kernel's queue was full), it says so, watches anew, and
//! names the whole tree.
//!
//! It keeps no directory open, so that file systems in the tree can be unmounted.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use instantmirror_core::changes::ChangeSet;
use instantmirror_core::rules::PathGlobs;
use instantmirror_core::{Name, RepoPath};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};
use rustix::io::Errno;

use super::SourceTree;
use crate::error::{Result, StoreError};

/// How often the root is looked at.
const ROOT_CHECK: Duration = Duration::from_secs(1);
/// Bytes of events that are read at once.
const EVENT_BYTES: usize = 64 << 10;

/// Watches a source tree.
#[derive(Debug)]
pub struct TreeWatch {
    source: PathBuf,
    exclude: PathGlobs,
    /// `None` while there is nothing to watch.
    live: Option<Live>,
    looked: Instant,
    /// Why there is nothing to watch, as it was logged.
    complaint: String,
}

/// The watches on one directory tree.
#[derive(Debug)]
struct Live {
    inotify: OwnedFd,
    root: RootState,
    by_watch: HashMap<i32, RepoPath>,
    by_path: BTreeMap<RepoPath, i32>,
}

/// What the root's path leads to.
#[derive(Debug, PartialEq, Eq)]
struct RootState {
    device: u64,
    inode: u64,
    /// What is mounted at or below the root.
    mounts: Vec<Mount>,
}

/// A mount in the tree. The kernel gives the number of a mount that is gone to the next one, so the number alone does not tell
/// a bind mount from another one at the same place: the directory that the place leads to does.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    number: String,
    point: PathBuf,
    /// Device (major, minor) and inode of the directory that stands there; `None` if it cannot be looked at.
    directory: Option<(u32, u32, u64)>,
}

/// What became of a batch of events.
enum Heard {
    /// Something changed, or nothing did.
    Changes(bool),
    /// The watches are not worth anything any more.
    Lost(&'static str),
}

impl TreeWatch {
    /// Watches the tree at `source`, but for what is excluded.
    ///
    /// Errors: [`StoreError::Io`] if the root cannot be opened, or if the system allows fewer watches than the tree has
    /// directories (`fs.inotify.max_user_watches`).
    pub fn open(source: impl AsRef<Path>, exclude: PathGlobs) -> Result<Self> {
        let source = source.as_ref().to_path_buf();
        let live = Live::open(&source, &exclude)?;
        Ok(Self {
            source,
            exclude,
            live: Some(live),
            looked: Instant::now(),
            complaint: String::new(),
        })
    }

    /// How many directories are watched.
    pub fn watches(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.by_watch.len())
    }

    /// Waits until something changes, at most for `timeout`, and adds it to `changes`; true if there was anything. The tree
    /// may be away meanwhile: that is logged, and all of it is named when it is back.
    ///
    /// Errors: those of [`open`](Self::open) that will not pass by waiting.
    pub fn wait(&mut self, timeout: Duration, changes: &mut ChangeSet) -> Result<bool> {
        let Some(live) = &mut self.live else {
            std::thread::sleep(timeout.min(ROOT_CHECK));
            return self.watch_anew(changes);
        };
        let mut heard = live.hear(timeout, &self.source, &self.exclude, changes)?;
        if matches!(heard, Heard::Changes(_)) && self.looked.elapsed() >= ROOT_CHECK {
            self.looked = Instant::now();
            if RootState::of(&self.source).ok().as_ref() != Some(&live.root) {
                heard = Heard::Lost("it is another directory now, or something was mounted in it");
            }
        }
        match heard {
            Heard::Changes(any) => Ok(any),
            Heard::Lost(why) => {
                tracing::warn!(
                    "the watch on {} has lost track: {why}; watching anew",
                    self.source.display()
                );
                self.live = None;
                self.watch_anew(changes)
            }
        }
    }

    fn watch_anew(&mut self, changes: &mut ChangeSet) -> Result<bool> {
        match Live::open(&self.source, &self.exclude) {
            Ok(live) => {
                tracing::info!(
                    "watching {} anew: the next publish looks at the whole tree",
                    self.source.display()
                );
                (self.live, self.looked) = (Some(live), Instant::now());
                self.complaint.clear();
                changes.insert_all();
                Ok(true)
            }
            Err(error) if is_limit(&error) => Err(error),
            Err(error) => {
                let complaint = error.to_string();
                if complaint != self.complaint {
                    tracing::warn!("nothing to watch: {complaint}; waiting for it to come back");
                    self.complaint = complaint;
                }
                Ok(false)
            }
        }
    }
}

impl Live {
    fn open(source: &Path, exclude: &PathGlobs) -> Result<Self> {
        // Before the watches: whatever replaces it from now on is seen.
        let root = RootState::of(source)?;
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).map_err(|e| StoreError::io("watch", source, e))?;
        let mut live = Self {
            inotify,
            root,
            by_watch: HashMap::new(),
            by_path: BTreeMap::new(),
        };
        let tree = SourceTree::open(source)?;
        live.watch_below(&tree, RepoPath::ROOT, exclude)?;
        Ok(live)
    }

    /// Watches a directory and all below it. What vanishes meanwhile, or may not be read, is not watched.
    fn watch_below(&mut self, tree: &SourceTree, dir: RepoPath, exclude: &PathGlobs) -> Result<()> {
        let mut pending = vec![dir];
        while let Some(dir) = pending.pop() {
            let fd = match tree.open_beneath("open directory", &dir, OFlags::DIRECTORY) {
                Ok(fd) => fd,
                Err(error) if dir.is_root() => return Err(error),
                Err(error) => {
                    tracing::debug!(%dir, "not watched: {error}");
                    continue;
                }
            };
            self.watch(tree, &fd, &dir)?;
            // Listed after it is watched: what comes meanwhile is seen at least once.
            let Ok(entries) = rustix::fs::Dir::read_from(&fd) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name().to_bytes();
                let Some(path) = Name::new(name).ok().and_then(|name| dir.join(&name).ok()) else {
                    continue;
                };
                let is_directory = match entry.file_type() {
                    FileType::Unknown => rustix::fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                    kind => kind == FileType::Directory,
                };
                if is_directory && !exclude.matches_entry(path.as_str(), true) {
                    pending.push(path);
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, tree: &SourceTree, fd: &OwnedFd, dir: &RepoPath) -> Result<()> {
        let mut flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        if dir.is_root() {
            flags |= WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        }
        // Through the descriptor: the name may stand for another directory by now.
        match inotify::add_watch(&self.inotify, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags) {
            Ok(watch) => {
                if let Some(old) = self.by_watch.insert(watch, dir.clone()) {
                    self.by_path.remove(&old);
                }
                self.by_path.insert(dir.clone(), watch);
                Ok(())
            }
            Err(Errno::NOENT | Errno::ACCESS) if !dir.is_root() => Ok(()),
            Err(error) => Err(StoreError::Io {
                op: match error {
                    Errno::NOSPC => "watch more directories (raise fs.inotify.max_user_watches), in particular",
                    _ => "watch",
                },
                path: tree.full(dir),
                source: error.into(),
            }),
        }
    }

    /// Waits for events, and takes in all there are.
    fn hear(
        &mut self,
        timeout: Duration,
        source: &Path,
        exclude: &PathGlobs,
        changes: &mut ChangeSet,
    ) -> Result<Heard> {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(timeout).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(StoreError::io("wait for events of", source, error)),
        }
        let mut events = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); EVENT_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec());
                    events.push((event.wd(), event.events(), name));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(StoreError::io("read events of", source, error)),
            }
        }
        let mut any = false;
        for (watch, flags, name) in events {
            match self.event(watch, flags, name.as_deref(), source, exclude, changes)? {
                Heard::Changes(one) => any |= one,
                lost @ Heard::Lost(_) => return Ok(lost),
            }
        }
        Ok(Heard::Changes(any))
    }

    fn event(
        &mut self,
        watch: i32,
        flags: ReadFlags,
        name: Option<&[u8]>,
        source: &Path,
        exclude: &PathGlobs,
        changes: &mut ChangeSet,
    ) -> Result<Heard> {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            let why = "there were more changes than the kernel's queue holds (fs.inotify.max_queued_events)";
            return Ok(Heard::Lost(why));
        }
        // One that was given up already.
        let Some(dir) = self.by_watch.get(&watch).cloned() else {
            return Ok(Heard::Changes(false));
        };
        let ends = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        if flags.intersects(ends) {
            if dir.is_root() || flags.contains(ReadFlags::UNMOUNT) {
                return Ok(Heard::Lost("a directory was renamed, removed or unmounted"));
            }
            self.forget(&dir);
            return Ok(Heard::Changes(false));
        }
        let is_directory = flags.contains(ReadFlags::ISDIR);
        let Some(name) = name else {
            changes.insert_entry(&dir);
            return Ok(Heard::Changes(true));
        };
        let full = Path::new(dir.as_str()).join(OsStr::from_bytes(name));
        if exclude.matches_entry(full, is_directory) {
            return Ok(Heard::Changes(false));
        }
        let Some(path) = Name::new(name).ok().and_then(|name| dir.join(&name).ok()) else {
            // It cannot be published; whether that is said is decided by whoever looks at its directory.
            changes.insert(&dir);
            return Ok(Heard::Changes(true));
        };
        if flags.contains(ReadFlags::ATTRIB) {
            changes.insert_entry(&path);
        } else {
            changes.insert(&path);
        }
        let has_left = flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE);
        if is_directory && (has_left || flags.intersects(ReadFlags::MOVED_TO | ReadFlags::CREATE)) {
            // Of what had this name before.
            self.forget_below(&path);
        }
        if is_directory && !has_left && !self.by_path.contains_key(&path) {
            // New, moved here, or one that could not be opened before.
            let tree = match SourceTree::open(source) {
                Ok(tree) if self.root.is_of(&tree) => tree,
                _ => return Ok(Heard::Lost("it is another directory now")),
            };
            self.watch_below(&tree, path, exclude)?;
        }
        Ok(Heard::Changes(true))
    }

    fn forget(&mut self, dir: &RepoPath) {
        if let Some(watch) = self.by_path.remove(dir) {
            self.by_watch.remove(&watch);
        }
    }

    /// Ends the watches on a directory that has left its place, and on all below it.
    fn forget_below(&mut self, dir: &RepoPath) {
        let prefix = format!("{dir}/");
        let below = |path: &RepoPath| path == dir || path.as_str().starts_with(&prefix);
        // Names that sort between a directory and what is below it are passed over.
        let all = self.by_path.range(dir.clone()..);
        let all = all.take_while(|(path, _)| path.as_str().starts_with(dir.as_str()));
        let gone: Vec<(RepoPath, i32)> = all
            .filter(|(path, _)| below(path))
            .map(|(path, watch)| (path.clone(), *watch))
            .collect();
        for (path, watch) in gone {
            // It may be gone with its directory.
            let _ = inotify::remove_watch(&self.inotify, watch);
            self.forget(&path);
        }
    }
}

impl RootState {
    fn of(source: &Path) -> Result<Self> {
        let stat = rustix::fs::stat(source).map_err(|e| StoreError::io("look at", source, e))?;
        let real = source
            .canonicalize()
            .map_err(|e| StoreError::io("resolve", source, e))?;
        let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mounts: mounts_below(&mounts, &real),
        })
    }

    fn is_of(&self, tree: &SourceTree) -> bool {
        let opened = rustix::fs::fstat(&tree.root_fd);
        opened.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.device, self.inode))
    }
}

/// Mounts at or below a directory, of the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mounts_below(mounts: &[u8], dir: &Path) -> Vec<Mount> {
    let mut below = Vec::new();
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let (Some(number), Some(point)) = (fields.next(), fields.nth(3)) else {
            continue;
        };
        let point = unescaped(point);
        if point.starts_with(dir) {
            below.push(Mount {
                number: String::from_utf8_lossy(number).into_owned(),
                directory: directory_at(&point),
                point,
            });
        }
    }
    below
}

/// Device and inode of what stands at a path. Neither mounts anything nor waits for a server of files that is away.
fn directory_at(path: &Path) -> Option<(u32, u32, u64)> {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let stat = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::INO).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

/// A path of a table of mounts, in which the kernel writes blanks and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = behind.get(if code.is_some() { 3.. } else { 0.. }).unwrap_or_default();
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// The system allows no more watches: waiting does not help.
fn is_limit(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else {
        return false;
    };
    let limits = [Errno::NOSPC, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    Errno::from_io_error(source).is_some_and(|errno| limits.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_the_tree_are_told_from_others() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     33 22 0:8 / /srv/\xff rw - tmpfs tmpfs rw\n\
                     30 22 0:5 / /srv/my\\040tree rw - tmpfs tmpfs rw\n\
                     31 30 0:6 /x /srv/my\\040tree/sub rw - tmpfs tmpfs rw\n\
                     32 22 0:7 / /srv/my\\040tree-too rw - tmpfs tmpfs rw\n";
        let below = |dir: &str| {
            let mounts = mounts_below(table, Path::new(dir)).into_iter();
            mounts.map(|one| (one.number, one.point)).collect::<Vec<_>>()
        };
        let at = |number: &str, point: &str| (number.to_owned(), PathBuf::from(point));
        assert_eq!(
            below("/srv/my tree"),
            [at("30", "/srv/my tree"), at("31", "/srv/my tree/sub")]
        );
        assert_eq!(below("/").len(), 5);
    }

    #[test]
    fn a_mount_is_another_one_when_its_place_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (place, aside) = (dir.path().join("a b\\c"), dir.path().join("aside"));
        let table = format!(
            "63 22 8:1 /o1 {}/a\\040b\\134c rw - ext4 /dev/sda1 rw\n",
            dir.path().display()
        );
        std::fs::create_dir(&place).unwrap();
        let before = mounts_below(table.as_bytes(), dir.path());
        assert_eq!(before, mounts_below(table.as_bytes(), dir.path()));
        // As if it had been unmounted and something else been mounted there, which the kernel gave the same number.
        std::fs::rename(&place, &aside).unwrap();
        std::fs::create_dir(&place).unwrap();
        assert_ne!(before, mounts_below(table.as_bytes(), dir.path()));
        std::fs::remove_dir(&place).unwrap();
        assert_ne!(before, mounts_below(table.as_bytes(), dir.path()));
    }
}
