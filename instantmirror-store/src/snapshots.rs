//! Catalogs, snapshot records and heads on a disk: the [`SnapshotStore`] of masters and nodes.
//!
//! - `catalog/`: a [`PackStore`] of catalog nodes by their ids.
//! - `records/<repository>/<uuid>.record`: one line that states the record's hash, then the record.
//! - `heads/<repository>.head`: one line that states sequence and hash, then the signed head.
//! - `keys/<repository>.keys`: one line that states the hash, then the key lists of the master.
//!
//! Invariant: a record is written only after every node of its tree is durable, so a record that is here means a
//! snapshot that is whole. Opening reads nothing of catalogs and records, whatever there is.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use instantmirror_core::catalog::{CatalogNode, NodeSource, Reachable, check_closure};
use instantmirror_core::traits::{CatalogGarbage, Collected, SnapshotStore};
use instantmirror_core::{
    Directory, Head, NodeId, PublicKey, RecordId, RepoName, SignedHead, Snapshot, SnapshotId, StoreError as CoreError,
};

use crate::disk::{Disk, DiskLock, FileKind, parent_of, read_file, remove_leftovers, write_atomically};
use crate::error::{Result, StoreError};
use crate::keyfile::{read_keys, write_keys};
use crate::pack::{Compaction, Copier, PackOptions, PackStore};

const CATALOG: &str = "catalog";
const RECORDS: &str = "records";
const HEADS: &str = "heads";
const KEYS: &str = "keys";
const RECORD_PREFIX: &str = "instantmirror record 1 ";
const HEAD_PREFIX: &str = "instantmirror head 1 ";
/// Longest record or head file, in bytes: the longest envelope, and its first line.
pub const RECORD_FILE_BYTES_MAX: u64 = (16 << 20) + 256;
const RECORD_ADVICE: &str = "remove it: a node fetches the snapshot again, a master publishes it again";
const HEAD_ADVICE: &str = "remove it: a node fetches the head again, a master signs a new one";

/// A [`SnapshotStore`] in a directory of a disk; see the [module](self).
#[derive(Debug)]
pub struct DiskSnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    packs: Arc<PackStore>,
    /// Records and heads are read, compared and replaced under it.
    writing: Mutex<()>,
}

impl DiskSnapshotStore {
    /// Opens (making it where needed) the store in `dir` for reading and writing. [`StoreError::Locked`] names the
    /// process that has it already.
    pub fn open(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let packs = PackStore::open_writer(disk.clone(), dir.join(CATALOG), PackOptions::default())?;
        let packs = Arc::new(packs);
        for part in [RECORDS, HEADS, KEYS] {
            disk.create_dir_all(&dir.join(part))?;
        }
        for part in [HEADS, KEYS] {
            remove_leftovers(disk.as_ref(), &dir.join(part))?;
        }
        for item in disk.list(&dir.join(RECORDS))? {
            if item.kind == FileKind::Dir {
                remove_leftovers(disk.as_ref(), &dir.join(RECORDS).join(&item.name))?;
            }
        }
        Ok(Self {
            disk,
            dir,
            packs,
            writing: Mutex::default(),
        })
    }

    /// Takes the place of the process that writes to the store in `dir` (made where needed), and opens none: for a process that
    /// keeps other things beside it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] names the process that has it already.
    pub fn lock(disk: &dyn Disk, dir: impl AsRef<Path>) -> Result<DiskLock> {
        PackStore::lock(disk, &dir.as_ref().join(CATALOG))
    }

    /// Opens the store in `dir` for reading, beside the process that writes it.
    pub fn open_reader(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        let packs = PackStore::open_reader(disk.clone(), dir.as_ref().join(CATALOG))?;
        Ok(Self::reader(disk, dir.as_ref(), packs))
    }

    /// Opens the store in `dir` for reading; catalog nodes that are put stay in memory.
    ///
    /// Errors: those of [`PackStore::open_overlay`].
    pub fn open_overlay(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        let packs = PackStore::open_overlay(disk.clone(), dir.as_ref().join(CATALOG))?;
        Ok(Self::reader(disk, dir.as_ref(), packs))
    }

    fn reader(disk: Arc<dyn Disk>, dir: &Path, packs: PackStore) -> Self {
        Self {
            disk,
            dir: dir.to_path_buf(),
            packs: Arc::new(packs),
            writing: Mutex::default(),
        }
    }

    /// [`SnapshotStore::put_nodes`] for a caller that keeps the nodes.
    pub fn put_nodes_now(&self, nodes: &[CatalogNode]) -> Result<()> {
        let records = nodes.iter().map(|node| (*node.id().as_bytes(), node.bytes()));
        self.packs.put_missing(records).map(|_| ())
    }

    /// Gives the space of catalog nodes back that no snapshot here refers to. Not to be called while a snapshot is
    /// being taken in: nodes whose record is not here yet would go. Costs one walk of the catalogs, during which heads
    /// and records can be written.
    pub fn collect_garbage(&self) -> Result<Compaction, CoreError> {
        let live = self.live_nodes()?;
        self.compact_nodes(&|id| live.contains(id))
    }

    /// The same to the last byte: no file holds such a node afterwards. Reads all catalogs.
    pub fn purge_garbage(&self) -> Result<Compaction, CoreError> {
        let live = self.live_nodes()?;
        self.purge_nodes(&|id| live.contains(id))
    }

    fn live_nodes(&self) -> Result<HashSet<NodeId>, CoreError> {
        let mut live = Reachable::new(self.walker(), HashSet::new());
        let mut marked = HashSet::new();
        loop {
            let mut grown = false;
            for (repository, id) in self.records()? {
                if !marked.insert((repository.clone(), id)) {
                    continue;
                }
                if let Some(snapshot) = self.read_record(&repository, id).map_err(core_error)? {
                    live.add_root(snapshot.root.node);
                    grown = true;
                }
            }
            // A record that came during the walk is walked too; the last look finds none.
            if !grown {
                break;
            }
            for node in live.by_ref() {
                node?;
            }
        }
        Ok(live.into_seen())
    }

    /// Lets a reader forget the catalog nodes that the writer has given up since it last looked. What is new it finds by
    /// itself.
    ///
    /// # Errors
    /// [`CoreError`] if the catalogs cannot be read; what was seen before is seen on.
    pub fn refresh(&self) -> Result<(), CoreError> {
        self.packs.refresh().map(drop).map_err(core_error)
    }

    /// Gives the space of catalog nodes back that `keep` refuses. For a caller that knows what is in use.
    pub fn compact_nodes(&self, keep: &dyn Fn(&NodeId) -> bool) -> Result<Compaction, CoreError> {
        self.packs
            .compact(&|key| keep(&NodeId::from_bytes(*key)))
            .map_err(core_error)
    }

    /// [`compact_nodes`](Self::compact_nodes) to the last byte: no file holds a refused node afterwards. Reads all catalogs.
    pub fn purge_nodes(&self, keep: &dyn Fn(&NodeId) -> bool) -> Result<Compaction, CoreError> {
        self.packs
            .purge(&|key| keep(&NodeId::from_bytes(*key)))
            .map_err(core_error)
    }

    /// The catalogs for whoever walks through much of them: nothing of what it reads stays in the memory of the process.
    pub fn walker(&self) -> CatalogWalker {
        CatalogWalker(self.packs.copier())
    }

    /// How many catalog nodes there are, those that were put several times counted so until indexes are merged.
    pub fn node_count(&self) -> u64 {
        self.packs.stats().entries
    }

    fn record_path(&self, repository: &RepoName, id: SnapshotId) -> PathBuf {
        self.dir
            .join(RECORDS)
            .join(repository.as_str())
            .join(format!("{id}.record"))
    }

    fn head_path(&self, repository: &RepoName) -> PathBuf {
        self.dir.join(HEADS).join(format!("{repository}.head"))
    }

    fn keys_path(&self, repository: &RepoName) -> PathBuf {
        self.dir.join(KEYS).join(format!("{repository}.keys"))
    }

    fn write_head(&self, head: &SignedHead) -> Result<()> {
        let Head {
            repository, sequence, ..
        } = head.head();
        let hash = blake3::hash(head.bytes()).to_hex();
        let content = [format!("{HEAD_PREFIX}{sequence} {hash}\n").as_bytes(), head.bytes()].concat();
        write_atomically(self.disk.as_ref(), &self.head_path(repository), &content)
    }

    /// The part of a file behind its first line, and what that line says behind `prefix`.
    fn read_stated(&self, path: &Path, prefix: &str, advice: &'static str) -> Result<Option<(String, Bytes)>> {
        let content = match read_file(self.disk.as_ref(), path, RECORD_FILE_BYTES_MAX) {
            Err(error) if error.is_not_found() => return Ok(None),
            content => Bytes::from(content?),
        };
        let damaged = |what: &str| StoreError::damaged(path, what, advice);
        let end = content.iter().take(200).position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| damaged("it has no first line"))?;
        let line = std::str::from_utf8(&content[..end]).map_err(|_| damaged("its first line is no text"))?;
        let Some(stated) = line.strip_prefix(prefix) else {
            return Err(other_version(path, line, prefix).unwrap_or_else(|| damaged("its first line is not ours")));
        };
        Ok(Some((stated.to_owned(), content.slice(end + 1..))))
    }

    fn read_record(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>> {
        let path = self.record_path(repository, id);
        let Some((stated, bytes)) = self.read_stated(&path, RECORD_PREFIX, RECORD_ADVICE)? else {
            return Ok(None);
        };
        let damaged = |what: String| StoreError::damaged(&path, what, RECORD_ADVICE);
        let record = RecordId::from_str(&stated).map_err(|error| damaged(error.to_string()))?;
        let snapshot = Snapshot::decode(repository, id, record, &bytes);
        snapshot.map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// Sequence and envelope of the stored head.
    fn read_head(&self, repository: &RepoName) -> Result<Option<(u64, Bytes)>> {
        let path = self.head_path(repository);
        let Some((stated, bytes)) = self.read_stated(&path, HEAD_PREFIX, HEAD_ADVICE)? else {
            return Ok(None);
        };
        let damaged = || StoreError::damaged(&path, "its content is not what its first line states", HEAD_ADVICE);
        let (sequence, hash) = stated.split_once(' ').ok_or_else(damaged)?;
        let sequence = sequence.parse().map_err(|_| damaged())?;
        if blake3::hash(&bytes).to_hex().as_str() == hash {
            Ok(Some((sequence, bytes)))
        } else {
            Err(damaged())
        }
    }

    fn list(&self, repository: &RepoName) -> Result<Vec<SnapshotId>> {
        let items = match self.disk.list(&self.dir.join(RECORDS).join(repository.as_str())) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            items => items?,
        };
        let id = |name: &str| SnapshotId::from_str(name.strip_suffix(".record")?).ok();
        Ok(items.iter().filter_map(|item| id(item.name.to_str()?)).collect())
    }

    fn store_record(&self, snapshot: &Snapshot) -> Result<RecordId, CoreError> {
        let path = self.record_path(&snapshot.repository, snapshot.id);
        let (record, bytes) = snapshot.encode();
        match self.read_record(&snapshot.repository, snapshot.id) {
            Ok(Some(stored)) if stored == *snapshot => return Ok(record),
            Ok(Some(_)) => {
                return Err(CoreError::Conflict(format!(
                    "another record of snapshot {} is stored",
                    snapshot.id
                )));
            }
            Ok(None) => {}
            Err(error @ StoreError::Damaged { .. }) => tracing::error!(%error, "replacing a damaged record"),
            Err(error) => return Err(core_error(error)),
        }
        let content = [format!("{RECORD_PREFIX}{record}\n").as_bytes(), &bytes].concat();
        let written = self.disk.create_dir_all(parent_of(&path));
        written
            .and_then(|()| write_atomically(self.disk.as_ref(), &path, &content))
            .map_err(core_error)?;
        Ok(record)
    }

    /// A snapshot of the same repository whose closure was proved: what it shares need not be walked again.
    fn trusted_root(&self, snapshot: &Snapshot) -> Option<NodeId> {
        let parent = self.read_record(&snapshot.repository, snapshot.parent?).ok()??;
        Some(parent.root.node)
    }
}

/// Catalog nodes as copies; see [`DiskSnapshotStore::walker`].
#[derive(Debug, Clone)]
pub struct CatalogWalker(Copier);

impl NodeSource for CatalogWalker {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, CoreError> {
        self.0.get(id.as_bytes()).map_err(core_error)
    }
}

impl NodeSource for DiskSnapshotStore {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, CoreError> {
        self.packs.get(id.as_bytes()).map_err(core_error)
    }
}

impl SnapshotStore for DiskSnapshotStore {
    fn put_nodes(&self, nodes: Vec<CatalogNode>) -> Result<(), CoreError> {
        self.put_nodes_now(&nodes).map_err(core_error)
    }

    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<RecordId, CoreError> {
        let root = snapshot.root;
        let directory = Directory {
            node: root.node,
            files: root.files,
            bytes: root.bytes,
        };
        check_closure(self, self.trusted_root(snapshot), &directory)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.store_record(snapshot)
    }

    fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, CoreError> {
        self.read_record(repository, id).map_err(core_error)
    }

    fn snapshots(&self, repository: &RepoName) -> Result<Vec<SnapshotId>, CoreError> {
        self.list(repository).map_err(core_error)
    }

    fn records(&self) -> Result<Vec<(RepoName, SnapshotId)>, CoreError> {
        let mut records = Vec::new();
        for item in self.disk.list(&self.dir.join(RECORDS)).map_err(core_error)? {
            let name = item.name.to_str().and_then(|name| RepoName::from_str(name).ok());
            let Some(repository) = name.filter(|_| item.kind == FileKind::Dir) else {
                continue;
            };
            let ids = self.list(&repository).map_err(core_error)?;
            records.extend(ids.into_iter().map(|id| (repository.clone(), id)));
        }
        Ok(records)
    }

    fn put_head(&self, head: &SignedHead) -> Result<(), CoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Head {
            repository, sequence, ..
        } = head.head();
        match self.read_head(repository) {
            Ok(Some((stored, _))) if stored > *sequence => {
                return Err(CoreError::Conflict(format!(
                    "a newer head of '{repository}' is stored: {stored}"
                )));
            }
            Ok(_) => {}
            Err(error @ StoreError::Damaged { .. }) => tracing::error!(%error, "replacing a damaged head"),
            Err(error) => return Err(core_error(error)),
        }
        self.write_head(head).map_err(core_error)
    }

    fn replace_head(&self, head: &SignedHead) -> Result<(), CoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_head(head).map_err(core_error)
    }

    fn keys(&self, repository: &RepoName) -> Result<Option<Bytes>, CoreError> {
        read_keys(self.disk.as_ref(), &self.keys_path(repository)).map_err(core_error)
    }

    fn put_keys(&self, repository: &RepoName, keys: Bytes) -> Result<(), CoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_keys(self.disk.as_ref(), &self.keys_path(repository), &keys).map_err(core_error)
    }

    fn head(&self, repository: &RepoName, trusted: &[PublicKey]) -> Result<Option<SignedHead>, CoreError> {
        let Some((_, bytes)) = self.read_head(repository).map_err(core_error)? else {
            return Ok(None);
        };
        let verified = SignedHead::verify(bytes, repository, trusted);
        verified.map(Some).map_err(|error| {
            CoreError::Damaged(format!(
                "{}: {error}; {HEAD_ADVICE}",
                self.head_path(repository).display()
            ))
        })
    }

    fn remove_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<(), CoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.record_path(repository, id);
        let removed = match self.disk.remove(&path) {
            Err(error) if error.is_not_found() => return Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| self.disk.sync_dir(parent_of(&path)))
            .map_err(core_error)
    }

    fn has_node(&self, id: &NodeId) -> Result<bool, CoreError> {
        self.packs.contains(id.as_bytes()).map_err(core_error)
    }

    fn walker(&self) -> Option<Arc<dyn NodeSource>> {
        Some(Arc::new(Self::walker(self)))
    }

    fn garbage(&self) -> Option<&dyn CatalogGarbage> {
        Some(self)
    }
}

impl CatalogGarbage for DiskSnapshotStore {
    fn collect(&self) -> Result<Collected, CoreError> {
        self.collect_garbage().map(collected)
    }

    fn purge(&self) -> Result<Collected, CoreError> {
        self.purge_garbage().map(collected)
    }
}

fn collected(done: Compaction) -> Collected {
    Collected {
        nodes: done.removed,
        bytes: done.freed_bytes,
    }
}

/// A first line of ours with another version number.
fn other_version(path: &Path, line: &str, prefix: &str) -> Option<StoreError> {
    let kind = prefix.strip_suffix("1 ")?;
    let found = line.strip_prefix(kind)?.split(' ').next()?.parse().ok()?;
    Some(StoreError::UnknownVersion {
        path: path.to_path_buf(),
        found,
        supported: 1,
    })
}

/// An error of the disk as the store trait tells it.
fn core_error(error: StoreError) -> CoreError {
    match error {
        StoreError::Io { op, path, source } | StoreError::NoSpace { op, path, source } => CoreError::Io {
            what: format!("cannot {op} {}", path.display()),
            source: Arc::new(source),
        },
        StoreError::Locked { .. } => CoreError::Busy(error.to_string()),
        // A file that is longer than any of ours is none of ours.
        StoreError::Damaged { .. } | StoreError::UnknownVersion { .. } | StoreError::TooLarge { .. } => {
            CoreError::Damaged(error.to_string())
        }
        other => CoreError::Io {
            what: "snapshot store".to_owned(),
            source: Arc::new(other),
        },
    }
}
