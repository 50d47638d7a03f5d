//! [`Imfs`]: the file system of a mount, its options, and what it needs from whoever runs it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use instantmirror_core::catalog::Catalog;
use instantmirror_core::log_limited;
use instantmirror_core::traits::blocking::{Work, wait};
use instantmirror_core::traits::{Annotations, Catalogs, Objects};
use instantmirror_core::view::{RepositoryState, View};
use instantmirror_core::{RepoName, Snapshot};

use crate::filesystem::{
    Attributes, Errno, FileSystem, FileSystemSize, Handle, InodeId, Kernel, Lookup, Opened, Read, ReadReply, Rows,
    Validity,
};
use crate::open::Opens;
use crate::tree::slot_log::SlotStore;
use crate::tree::{Tree, layout_links, lock};

/// How often the states of repositories are looked at, and waiting reads.
const TICK: Duration = Duration::from_millis(250);
/// How often what is kept of old snapshots is looked at.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Most names of a root that the kernel is told to ask for anew; others it asks for within seconds.
const EXPIRED_NAMES_MAX: usize = 4096;

/// Runs what a mount cannot do while the kernel waits: the runtime that the [`ObjectSource`] is made for. With tokio, `spawn` is
/// `Handle::spawn`, `spawn_blocking` is `Handle::spawn_blocking`, and `enter` holds the guard of `Handle::enter`.
///
/// [`ObjectSource`]: instantmirror_core::traits::ObjectSource
pub trait Executor: Debug + Send + Sync + 'static {
    /// Runs a future to its end.
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// Runs work on a thread that may block.
    fn spawn_blocking(&self, work: Work);

    /// Does `work` at once, on this thread, with what the futures of the [`ObjectSource`] expect around them (in tokio:
    /// `Handle::enter`).
    ///
    /// [`ObjectSource`]: instantmirror_core::traits::ObjectSource
    fn enter(&self, work: &mut dyn FnMut()) {
        work();
    }
}

/// An [`Executor`] with a thread for each task, where there is no runtime: for sources that need none.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadExecutor;

impl Executor for ThreadExecutor {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.spawn_blocking(Box::new(move || wait(future)));
    }

    fn spawn_blocking(&self, work: Work) {
        if let Err(error) = thread::Builder::new().name("imfs-task".to_owned()).spawn(work) {
            // Its read is answered with EIO, as its reply is dropped.
            log_limited!(Instant::now(), warn, %error, "no thread for a read");
        }
    }
}

/// The content of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shown {
    /// A directory per repository, each as below.
    All,
    /// `snap/<uuid>/`, `snap/current`, `master-snap/<tag>`, `local-snap/<tag>` of one repository; `current` and tags are
    /// symlinks.
    Repository(RepoName),
    /// The tree of one snapshot, as a traditional mirror shows it.
    View(RepoName, View),
}

/// How a mount looks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImfsOptions {
    /// The content that it shows.
    pub shown: Shown,
    /// The owner of everything.
    pub uid: u32,
    /// The group of everything.
    pub gid: u32,
    /// Permission bits that files and directories do not have, whatever was published.
    pub umask: u16,
    /// How long a read waits for content.
    pub read_timeout: Duration,
    /// Whether complete files are read by the kernel itself, where it can.
    pub passthrough: bool,
    /// Whether there are extended attributes. Programs that ask each file for others (smbd, `ls -l`) pay for them.
    pub xattrs: bool,
    /// Where `user.instantmirror.sha256` is looked up.
    pub annotations: Option<Arc<dyn Annotations>>,
    /// Where `user.instantmirror.cached` is looked up.
    pub objects: Option<Arc<dyn Objects>>,
}

impl ImfsOptions {
    /// Everything as published, owned by root, reads wait 60 s.
    #[must_use]
    pub fn new(shown: Shown) -> Self {
        Self {
            shown,
            uid: 0,
            gid: 0,
            umask: 0,
            read_timeout: Duration::from_secs(60),
            passthrough: true,
            xattrs: true,
            annotations: None,
            objects: None,
        }
    }
}

/// Counters of a mount since it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImfsStatus {
    /// Files that are open now.
    pub open_files: usize,
    /// Opens.
    pub opens: u64,
    /// Backing files that the kernel was given.
    pub passed_through: u64,
    /// Reads that came here.
    pub reads: u64,
    /// Those of them that had to wait for a disk or the network.
    pub reads_waited: u64,
    /// Opens and reads that failed.
    pub errors: u64,
    /// Reads that wait now.
    pub waiting: usize,
    /// Why the kernel takes no backing files, if it was asked and does not.
    pub passthrough_refused: Option<Errno>,
}

/// The snapshots of [`Catalogs`] as a [`FileSystem`].
///
/// Once it is mounted, a thread of its own tells the kernel what has moved, until it is dropped.
#[derive(Debug)]
pub struct Imfs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tree: Tree,
    opens: Opens,
    kernel: OnceLock<KernelBox>,
    told: Mutex<Told>,
}

/// The state that the kernel was told of.
#[derive(Debug, Default)]
struct Told {
    states: HashMap<RepoName, Arc<RepositoryState>>,
    /// Repositories that have moved in the last tick.
    moved: Vec<RepoName>,
    forgotten: Option<Instant>,
}

/// A repository whose state is another one.
struct Moved {
    name: RepoName,
    before: Option<Arc<RepositoryState>>,
    now: Option<Arc<RepositoryState>>,
}

struct KernelBox(Arc<dyn Kernel>);

impl Debug for KernelBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}

impl Imfs {
    /// The file system over `catalogs`. Inode numbers are kept in `store`: [`SlotFile`](crate::SlotFile), or
    /// [`NoSlotStore`](crate::NoSlotStore) where they need not outlive the process.
    ///
    /// # Errors
    /// The store cannot be read, or holds something else.
    pub fn new(
        catalogs: Arc<dyn Catalogs>,
        executor: Arc<dyn Executor>,
        store: impl SlotStore,
        options: ImfsOptions,
    ) -> io::Result<Self> {
        let (timeout, passthrough) = (options.read_timeout, options.passthrough);
        let opens = Opens::new(Arc::clone(&catalogs), Arc::clone(&executor), timeout, passthrough);
        let inner = Inner {
            tree: Tree::new(catalogs, options, Box::new(store), executor)?,
            opens,
            kernel: OnceLock::new(),
            told: Mutex::default(),
        };
        inner.note_states();
        Ok(Self(Arc::new(inner)))
    }

    /// Its counters.
    #[must_use]
    pub fn status(&self) -> ImfsStatus {
        self.0.opens.status()
    }

    #[cfg(test)]
    pub(crate) fn mounted_without_watch(&self, kernel: Arc<dyn Kernel>) {
        assert!(self.0.kernel.set(KernelBox(kernel)).is_ok());
    }

    /// Does what is due at `now`: tells the kernel what has moved, ends reads whose time is over, forgets snapshots that are
    /// gone. A thread does so four times a second once the file system is mounted.
    pub fn tick(&self, now: Instant) {
        self.0.tick(now);
    }
}

impl Inner {
    fn kernel(&self) -> Option<&Arc<dyn Kernel>> {
        self.kernel.get().map(|kernel| &kernel.0)
    }

    /// The repositories whose state is another one now, before and now.
    fn note_states(&self) -> Vec<Moved> {
        let mut told = lock(&self.told);
        let mut names = self.tree.shown_repositories();
        names.extend(told.states.keys().cloned());
        names.sort_unstable();
        names.dedup();
        let mut moved = Vec::new();
        for name in names {
            let now = self.tree.catalogs().state(&name);
            let before = match &now {
                Some(now) => told.states.insert(name.clone(), Arc::clone(now)),
                None => told.states.remove(&name),
            };
            let is_same = match (&before, &now) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (before, now) => before.is_none() && now.is_none(),
            };
            if !is_same {
                moved.push(Moved { name, before, now });
            }
        }
        moved
    }

    fn tick(&self, now: Instant) {
        self.opens.expire(now);
        let moved = self.note_states();
        let names = moved.iter().map(|moved| moved.name.clone()).collect();
        let before = std::mem::replace(&mut lock(&self.told).moved, names);
        if let Some(kernel) = self.kernel() {
            // A listing that was being answered when they moved has come to the kernel since, and would stay.
            before.iter().for_each(|name| self.drop_listings(kernel, name));
            for Moved { name, before, now } in &moved {
                self.tell(kernel, name, before.as_deref(), now.as_deref());
            }
        }
        let is_due = {
            let mut told = lock(&self.told);
            let last = *told.forgotten.get_or_insert(now);
            let is_due = now.saturating_duration_since(last) >= FORGET_EVERY;
            if is_due {
                told.forgotten = Some(now);
            }
            is_due
        };
        if is_due {
            self.tree.forget_gone();
        }
    }

    /// Tells the kernel what has moved. It may know nothing of it: errors mean nothing.
    fn tell(
        &self,
        kernel: &Arc<dyn Kernel>,
        name: &RepoName,
        before: Option<&RepositoryState>,
        now: Option<&RepositoryState>,
    ) {
        if let Some(view) = self.tree.shown_view() {
            let shown = |state: Option<&RepositoryState>| state.and_then(|state| state.snapshot(view)).cloned();
            let (before, now) = (shown(before), shown(now));
            if before.as_ref().map(|snapshot| snapshot.id) != now.as_ref().map(|snapshot| snapshot.id) {
                before
                    .iter()
                    .chain(&now)
                    .for_each(|snapshot| self.expire_names(kernel, snapshot));
                let _ = kernel.invalidate_inode(InodeId::ROOT);
            }
            return;
        }
        let links = |state: Option<&RepositoryState>| state.map_or_else(Vec::new, |state| layout_links(state, name));
        let now_links = links(now);
        for link in links(before).iter().filter(|link| !now_links.contains(link)) {
            let _ = kernel.invalidate_entry(self.tree.area_of(link), link.name.as_bytes());
        }
        for id in before.into_iter().flat_map(|state| state.snapshots.keys()) {
            if now.is_none_or(|state| !state.snapshots.contains_key(id)) {
                let _ = kernel.expire_entry(self.tree.snapshots_directory(name), id.to_string().as_bytes());
            }
        }
        if before.is_some() != now.is_some() {
            let _ = kernel.expire_entry(InodeId::ROOT, name.as_str().as_bytes());
        }
        self.drop_listings(kernel, name);
    }

    /// The kernel lists anew what depends on the state of a repository.
    fn drop_listings(&self, kernel: &Arc<dyn Kernel>, name: &RepoName) {
        let _ = kernel.invalidate_inode(InodeId::ROOT);
        if self.tree.shown_view().is_none() {
            for area in self.tree.areas(name) {
                let _ = kernel.invalidate_inode(area);
            }
        }
    }

    /// The kernel asks anew for the names of a root.
    fn expire_names(&self, kernel: &Arc<dyn Kernel>, snapshot: &Snapshot) {
        let catalog = Catalog::new(self.tree.catalogs().nodes(), snapshot.root.meta());
        let Some(root) = catalog.root().as_directory() else {
            return;
        };
        let entries = catalog.list(root, None).take(EXPIRED_NAMES_MAX);
        for entry in entries.map_while(Result::ok) {
            let _ = kernel.expire_entry(InodeId::ROOT, entry.name.as_str().as_bytes());
        }
    }
}

/// Does what is due until the file system is gone.
fn watch(imfs: &Weak<Inner>) {
    while let Some(inner) = imfs.upgrade() {
        inner.tick(Instant::now());
        drop(inner);
        thread::sleep(TICK);
    }
}

impl FileSystem for Imfs {
    fn mounted(&self, kernel: Arc<dyn Kernel>) {
        if self.0.kernel.set(KernelBox(kernel)).is_err() {
            return;
        }
        let imfs = Arc::downgrade(&self.0);
        let watched = thread::Builder::new()
            .name("imfs-watch".to_owned())
            .spawn(move || watch(&imfs));
        if let Err(error) = watched {
            tracing::error!(%error, "no thread: a new snapshot is seen late, and reads wait for ever");
        }
    }

    fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Lookup, Errno> {
        self.0.tree.lookup(parent, name)
    }

    fn attributes(&self, inode: InodeId) -> Result<(Attributes, Validity), Errno> {
        self.0.tree.attributes(inode)
    }

    fn readlink(&self, inode: InodeId) -> Result<Bytes, Errno> {
        self.0.tree.readlink(inode)
    }

    fn open(&self, inode: InodeId) -> Result<Opened, Errno> {
        self.0.opens.open(inode, self.0.kernel(), || self.0.tree.file(inode))
    }

    fn read(&self, read: Read, reply: Box<dyn ReadReply>) {
        self.0.opens.read(read, reply, || self.0.tree.file(read.inode));
    }

    fn release(&self, inode: InodeId, _handle: Handle) {
        self.0.opens.release(inode, self.0.kernel());
    }

    fn list(&self, directory: InodeId, after: u64, rows: &mut dyn Rows) -> Result<(), Errno> {
        self.0.tree.list(directory, after, rows)
    }

    fn statfs(&self) -> FileSystemSize {
        self.0.tree.size()
    }

    fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes, Errno> {
        if self.0.tree.options.xattrs {
            self.0.tree.xattr(inode, name)
        } else {
            Err(Errno::NOSYS)
        }
    }

    fn xattrs(&self, inode: InodeId) -> Result<Vec<Bytes>, Errno> {
        if self.0.tree.options.xattrs {
            self.0.tree.xattrs(inode)
        } else {
            Err(Errno::NOSYS)
        }
    }
}
