//! Taking an existing mirror into the cache, so that nobody downloads again what is on the disk already.
//!
//! For each file of a snapshot the directory is looked at in the same place. What is there with the right content comes
//! in by reflink, hard link or copy; nothing is given up for it. What is here already is skipped, so a second run goes
//! on where the first one ended, and a kill loses nothing but time.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use instantmirror_core::catalog::{Catalog, CatalogError};
use instantmirror_core::outboard::{ObjectHasher, Outboard};
use instantmirror_core::traits::blocking::wait;
use instantmirror_core::traits::{AdoptedFile, Capacity, ObjectCache};
use instantmirror_core::view::View;
use instantmirror_core::{CacheError, Directory, FileMeta, Kind, ObjectId, RepoName, RepoPath, Snapshot};
use instantmirror_store::StoreError;
use instantmirror_store::import::ImportOptions;
use instantmirror_store::tree::{SourceFile, SourceTree};
use instantmirror_swarm::Follower;
use serde::{Deserialize, Serialize};

use super::Node;
use super::parts::{NodeCache, walker};
use crate::config::ByteSize;
use crate::text::Count;

/// Paths that are told one by one; the rest is counted.
const PATHS_TOLD: usize = 100;
/// Files that are looked at beside each other: a disk with one arm gains from it too.
const WORKERS: usize = 4;
const FILES_AHEAD: usize = 256;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// How files come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdoptMethod {
    /// Reflink where the file system can, else copy. Always safe.
    #[default]
    Reflink,
    /// Reflink, else hard link, else copy. Only where the directory's files are replaced and never edited in place.
    Hardlink,
    /// Copy, always.
    Copy,
}

impl AdoptMethod {
    fn options(self) -> ImportOptions {
        let mut options = ImportOptions::default();
        options.reflink = self != Self::Copy;
        options.hardlink = self == Self::Hardlink;
        options
    }
}

impl FromStr for AdoptMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reflink" => Ok(Self::Reflink),
            "hardlink" => Ok(Self::Hardlink),
            "copy" => Ok(Self::Copy),
            _ => Err("a method is reflink, hardlink or copy".to_owned()),
        }
    }
}

/// When a file is taken for the one of the snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdoptTrust {
    /// Its content has the hash.
    #[default]
    Hash,
    /// It has the size and the time; it is hashed when it is first read. What has another time is hashed at once.
    SizeMtime,
}

impl FromStr for AdoptTrust {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "hash" => Ok(Self::Hash),
            "size-mtime" => Ok(Self::SizeMtime),
            _ => Err("what is trusted is hash or size-mtime".to_owned()),
        }
    }
}

/// What to adopt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// The repository.
    pub repository: RepoName,
    /// Where its tree lies on this machine, as an absolute path.
    pub dir: PathBuf,
    /// Which snapshot it is compared with, as in paths: `current`, `snap/UUID`, `master-snap/TAG`, `local-snap/TAG`.
    pub view: String,
    /// How files come in.
    pub method: AdoptMethod,
    /// When they are believed.
    pub trust: AdoptTrust,
}

/// Why nothing was adopted, or not all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The repository or the snapshot is not shown here.
    #[error("this node shows no '{view}' of '{repository}'; `imnode status` says what it shows")]
    NotShown {
        /// The repository.
        repository: RepoName,
        /// The view.
        view: String,
    },
    /// The view is none.
    #[error("{0}")]
    View(String),
    /// Somebody else does.
    #[error("something is being adopted already; `imnode status` shows how far it is")]
    Running,
    /// The directory.
    #[error("the directory cannot be read: {0}")]
    Source(#[source] StoreError),
    /// The snapshot's catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A thread of ours.
    #[error("it ended early: {0}")]
    Broken(String),
}

/// How far an adoption is, or was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptStatus {
    /// Whether it goes on.
    pub running: bool,
    /// Files in the snapshot.
    pub files: u64,
    /// Bytes in the snapshot.
    pub bytes: u64,
    /// Files looked at.
    pub files_done: u64,
    /// Bytes of these.
    pub bytes_done: u64,
    /// Files taken in.
    pub adopted: u64,
    /// Bytes of these.
    pub adopted_bytes: u64,
    /// How many of these were hashed now; the others are when they are first read.
    pub hashed: u64,
    /// Files whose content was in the cache before.
    pub present: u64,
    /// Files that are there with other content, or are no files.
    pub mismatched: u64,
    /// The first of these.
    pub first_mismatched: Vec<String>,
    /// Files that are not there.
    pub missing: u64,
    /// The first of these.
    pub first_missing: Vec<String>,
    /// Whether it ended because the cache is full.
    pub full: bool,
    /// Why it ended early, if it did.
    pub error: Option<String>,
}

/// What became of one file.
enum Outcome {
    Adopted { hashed: bool },
    Present,
    Mismatched(String),
    Missing,
    Full,
}

/// The one adoption that there is.
#[derive(Debug, Default)]
pub(super) struct Adoption(Mutex<AdoptStatus>);

impl Adoption {
    fn lock(&self) -> std::sync::MutexGuard<'_, AdoptStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, job: &Job, outcome: Outcome) {
        let mut status = self.lock();
        status.files_done += 1;
        status.bytes_done += job.file.size;
        let tell = |list: &mut Vec<String>, text: String| {
            if list.len() < PATHS_TOLD {
                list.push(text);
            }
        };
        match outcome {
            Outcome::Adopted { hashed } => {
                status.adopted += 1;
                status.adopted_bytes += job.file.size;
                status.hashed += u64::from(hashed);
            }
            Outcome::Present => status.present += 1,
            Outcome::Mismatched(why) => {
                status.mismatched += 1;
                tell(&mut status.first_mismatched, format!("{}: {why}", job.path));
            }
            Outcome::Missing => {
                status.missing += 1;
                tell(&mut status.first_missing, job.path.to_string());
            }
            Outcome::Full => status.full = true,
        }
    }
}

/// A file of the snapshot.
struct Job {
    path: RepoPath,
    file: FileMeta,
    mtime: i64,
}

/// What all workers know.
struct Work {
    cache: NodeCache,
    tree: SourceTree,
    options: ImportOptions,
    trust: AdoptTrust,
    adoption: Arc<Adoption>,
}

/// Whatever way it ends, it does not run any more.
struct Running(Arc<Adoption>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().running = false;
    }
}

/// What is to be done, checked.
pub(super) struct Prepared {
    snapshot: Arc<Snapshot>,
    work: Work,
    running: Running,
}

impl Node {
    /// How far the adoption is, or how the last one ended.
    #[must_use]
    pub fn adopt_status(&self) -> AdoptStatus {
        self.adoption.lock().clone()
    }

    /// Checks what is asked for and claims it, so that whoever asks sees it run from now on.
    pub(super) fn begin_adopt(&self, request: &AdoptRequest) -> Result<Prepared, AdoptError> {
        let view: View = request.view.parse().map_err(AdoptError::View)?;
        let state = self.followers.get(&request.repository).map(Follower::state);
        let snapshot = state.and_then(|state| state.snapshot(&view).cloned());
        let snapshot = snapshot.ok_or_else(|| AdoptError::NotShown {
            repository: request.repository.clone(),
            view: request.view.clone(),
        })?;
        let tree = SourceTree::open(&request.dir).map_err(AdoptError::Source)?;
        let mut status = self.adoption.lock();
        if status.running {
            return Err(AdoptError::Running);
        }
        *status = AdoptStatus {
            running: true,
            files: snapshot.root.files,
            bytes: snapshot.root.bytes,
            ..AdoptStatus::default()
        };
        let work = Work {
            cache: self.cache.clone(),
            tree,
            options: request.method.options(),
            trust: request.trust,
            adoption: Arc::clone(&self.adoption),
        };
        Ok(Prepared {
            snapshot,
            work,
            running: Running(Arc::clone(&self.adoption)),
        })
    }

    /// Adopts a directory, as `imnode adopt` does. [`adopt_status`](Self::adopt_status) tells how far it is. Dropping the
    /// future does not end it.
    ///
    /// # Errors
    /// [`AdoptError`].
    pub async fn adopt(&self, request: &AdoptRequest) -> Result<AdoptStatus, AdoptError> {
        let prepared = self.begin_adopt(request)?;
        self.run_adopt(prepared).await
    }

    pub(super) async fn run_adopt(&self, prepared: Prepared) -> Result<AdoptStatus, AdoptError> {
        let store = walker(&self.snapshots);
        let cache = self.cache.clone();
        let done = tokio::task::spawn_blocking(move || {
            let Prepared {
                snapshot,
                work,
                running,
            } = prepared;
            let adoption = Arc::clone(&work.adoption);
            let catalog = Catalog::new(store, snapshot.root.meta());
            let result = adopt_all(&work, &catalog, &snapshot);
            // What was hashed now need not be hashed after the next start.
            if let Err(error) = wait(cache.checkpoint()) {
                tracing::warn!(%error, "what was adopted cannot be written down now");
            }
            if let Err(error) = &result {
                adoption.lock().error = Some(error.to_string());
            }
            drop(running);
            result
        });
        done.await.map_err(|error| AdoptError::Broken(error.to_string()))??;
        Ok(self.adopt_status())
    }
}

fn adopt_all<S: instantmirror_core::catalog::NodeSource>(
    work: &Work,
    catalog: &Catalog<S>,
    snapshot: &Snapshot,
) -> Result<(), AdoptError> {
    let (sender, receiver) = sync_channel(FILES_AHEAD);
    let receiver = &Mutex::new(receiver);
    std::thread::scope(move |scope| {
        for _ in 0..WORKERS {
            scope.spawn(move || work.run(receiver));
        }
        let root = Directory {
            node: snapshot.root.node,
            files: snapshot.root.files,
            bytes: snapshot.root.bytes,
        };
        let walked = walk(catalog, root, &sender, &work.adoption);
        // The workers end when nobody can send any more.
        drop(sender);
        walked
    })
}

/// Hands out every file of the tree, directory by directory, until the cache is full.
fn walk<S: instantmirror_core::catalog::NodeSource>(
    catalog: &Catalog<S>,
    root: Directory,
    sender: &SyncSender<Job>,
    adoption: &Adoption,
) -> Result<(), AdoptError> {
    let mut open = vec![(RepoPath::ROOT, root)];
    while let Some((path, directory)) = open.pop() {
        for entry in catalog.list(&directory, None) {
            let entry = entry?;
            // A path that is too long for a request is in no snapshot.
            let Ok(path) = path.join(&entry.name) else { continue };
            match entry.meta.kind {
                Kind::Directory(below) => open.push((path, below)),
                Kind::File(file) => {
                    let mtime = entry.meta.mtime;
                    if adoption.lock().full || sender.send(Job { path, file, mtime }).is_err() {
                        return Ok(());
                    }
                }
                Kind::Symlink(_) => {}
            }
        }
    }
    Ok(())
}

impl Work {
    fn run(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            // The rest of the queue is for another run.
            if !self.adoption.lock().full {
                let outcome = self.adopt(&job);
                self.adoption.note(&job, outcome);
            }
        }
    }

    fn adopt(&self, job: &Job) -> Outcome {
        // Nothing of an empty file needs to be here.
        if job.file.size == 0 || self.cache.has_whole(&job.file.object).unwrap_or(false) {
            return Outcome::Present;
        }
        let source = match self.tree.open_file(&job.path) {
            Ok(source) => source,
            Err(error) if error.is_not_found() => return Outcome::Missing,
            Err(error) => return Outcome::Mismatched(error.to_string()),
        };
        if source.stamp().size != job.file.size {
            let what = format!("it has {} bytes instead of {}", source.stamp().size, job.file.size);
            return Outcome::Mismatched(what);
        }
        // Without links the content is read in any case, and handed in verified.
        let by_time = self.trust == AdoptTrust::SizeMtime && source.stamp().mtime == job.mtime;
        let by_time = by_time && self.cache.adoption().is_some();
        let outboard = match (by_time, hash_unless(by_time, &source)) {
            (_, Err(error)) => return Outcome::Mismatched(error.to_string()),
            (false, Ok(Some(outboard))) if outboard.object() == job.file.object => Some(outboard),
            (true, Ok(_)) => None,
            _ => return Outcome::Mismatched("it has other content".to_owned()),
        };
        let adopted = self.take_in(&source, job.file.object, outboard.as_ref());
        outcome_of(adopted, outboard.is_some())
    }

    fn take_in(&self, source: &SourceFile, object: ObjectId, outboard: Option<&Outboard>) -> Result<(), CacheError> {
        let check = || match source.check_unchanged() {
            Ok(()) => Ok(()),
            Err(error) => Err(CacheError::Io {
                what: "cannot adopt it".to_owned(),
                source: Arc::new(error),
            }),
        };
        let size = source.stamp().size;
        if let Some(adoption) = self.cache.adoption() {
            let mut file = AdoptedFile::new(source.file().as_fd(), object, size, &check);
            (file.outboard, file.reflink, file.hardlink) = (outboard, self.options.reflink, self.options.hardlink);
            return adoption.adopt(&file);
        }
        let Some(outboard) = outboard else {
            return Err(CacheError::Absent { object, range: 0..size });
        };
        let more = Capacity {
            objects: 1,
            bytes: size,
        };
        if !self.cache.has_room(more)? {
            return Err(CacheError::Full { object, size });
        }
        wait(copy_in(&*self.cache, source, outboard))
    }
}

/// Fills the object from the file. The cache verifies each group, so a file that changes meanwhile is noticed.
async fn copy_in(cache: &dyn ObjectCache, source: &SourceFile, outboard: &Outboard) -> Result<(), CacheError> {
    let fill = cache.fill(&outboard.object(), outboard.size()).await?;
    fill.set_outboard(outboard.clone()).await?;
    let mut at = 0;
    while at < outboard.size() {
        let len = (outboard.size() - at).min(READ_BYTES as u64);
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(READ_BYTES)];
        let read = std::os::unix::fs::FileExt::read_exact_at(source.file(), &mut buffer, at);
        read.map_err(|error| CacheError::Io {
            what: "reading the file".to_owned(),
            source: Arc::new(error),
        })?;
        fill.write(at, buffer.into()).await?;
        at += len;
    }
    fill.finish().await
}

fn outcome_of(adopted: Result<(), CacheError>, hashed: bool) -> Outcome {
    match adopted {
        Ok(()) => Outcome::Adopted { hashed },
        // Another worker has the same content in hand, or somebody asked for it just now.
        Err(CacheError::Busy(_)) => Outcome::Present,
        Err(CacheError::Full { .. }) => Outcome::Full,
        Err(error) => Outcome::Mismatched(error.to_string()),
    }
}

fn hash_unless(not: bool, source: &SourceFile) -> std::io::Result<Option<Outboard>> {
    if not {
        return Ok(None);
    }
    let (mut hasher, mut buffer, mut at) = (ObjectHasher::new(), vec![0; READ_BYTES], 0);
    loop {
        let read = std::os::unix::fs::FileExt::read_at(source.file(), &mut buffer, at)?;
        if read == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        at += read as u64;
    }
}

/// For people: what was taken in, what was not, and the first of those.
impl std::fmt::Display for AdoptStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} adopted ({}), {} of them hashed; {} were here already, {} differ, {} are missing",
            Count(self.adopted, "file"),
            ByteSize(self.adopted_bytes),
            self.hashed,
            self.present,
            self.mismatched,
            self.missing
        )?;
        for (what, list, count) in [
            ("differs", &self.first_mismatched, self.mismatched),
            ("missing", &self.first_missing, self.missing),
        ] {
            for path in list.iter().take(20) {
                write!(f, "\n  {what}: {path}")?;
            }
            if count > 20 {
                write!(f, "\n  and {} more", count - 20)?;
            }
        }
        if self.full {
            let left = Count(self.files - self.files_done, "file");
            write!(
                f,
                "\nthe cache is full: {left} not looked at; raise [cache] max_size and run it again"
            )?;
        }
        Ok(())
    }
}
