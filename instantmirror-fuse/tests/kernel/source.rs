//! A directory of the disk as [`Catalogs`]: what a master would publish of it, with its files as objects.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::catalog::{NodeSource, build_directory};
use instantmirror_core::memory::MemoryStore;
use instantmirror_core::traits::{Catalogs, FetchError, ObjectReader, ObjectSource, ReadIntent, SnapshotStore as _};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{
    Directory, Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoName, Root, Snapshot, SnapshotId, Timestamp,
};

/// A published directory.
#[derive(Debug)]
pub(crate) struct Source {
    store: Arc<MemoryStore>,
    files: Arc<Files>,
    state: Mutex<Arc<RepositoryState>>,
}

/// Where the content of each object is.
#[derive(Debug, Default)]
struct Files {
    paths: Mutex<BTreeMap<ObjectId, PathBuf>>,
    /// Whether objects are still on their way: readers get them piece by piece.
    are_coming: AtomicBool,
}

pub(crate) fn repository() -> RepoName {
    "tree".parse().unwrap()
}

pub(crate) fn id(number: u8) -> SnapshotId {
    SnapshotId::from_random([number; 16])
}

impl Source {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            store: Arc::default(),
            files: Arc::default(),
            state: Mutex::new(Arc::new(RepositoryState::empty(repository()))),
        })
    }

    /// Publishes a directory as snapshot `number`, which is current then.
    pub(crate) fn publish(&self, number: u8, path: &Path) {
        let top = self.read(path);
        let meta = std::fs::symlink_metadata(path).unwrap();
        let snapshot = Snapshot {
            id: id(number),
            repository: repository(),
            created: Timestamp::from_millis(meta.mtime() * 1000),
            parent: None,
            note: String::new(),
            root: Root {
                node: top.node,
                mode: mode(&meta),
                mtime: meta.mtime(),
                files: top.files,
                bytes: top.bytes,
            },
        };
        let mut held = self.state.lock().unwrap();
        let mut state = RepositoryState::clone(&held);
        state.snapshots.insert(snapshot.id, Arc::new(snapshot));
        state.current = Some(id(number));
        *held = Arc::new(state);
    }

    pub(crate) fn set_coming(&self, are_coming: bool) {
        self.files.are_coming.store(are_coming, Ordering::SeqCst);
    }

    fn read(&self, path: &Path) -> Directory {
        let mut entries: Vec<Entry> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| self.entry(&entry.unwrap().path()))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut nodes = Vec::new();
        let top = build_directory(&entries, &mut |node| nodes.push(node)).unwrap();
        self.store.put_nodes(nodes).unwrap();
        top
    }

    fn entry(&self, path: &Path) -> Entry {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let kind = if meta.is_dir() {
            Kind::Directory(self.read(path))
        } else if meta.is_symlink() {
            Kind::Symlink(std::fs::read_link(path).unwrap().to_str().unwrap().into())
        } else {
            let object = ObjectId::of(&std::fs::read(path).unwrap());
            self.files.paths.lock().unwrap().insert(object, path.to_owned());
            let mut file = FileMeta::new(object, meta.len());
            file.link_group = (meta.nlink() > 1).then(|| meta.ino());
            Kind::File(file)
        };
        Entry {
            name: Name::new(path.file_name().unwrap().as_encoded_bytes()).unwrap(),
            meta: Meta {
                mode: mode(&meta),
                mtime: meta.mtime(),
                kind,
            },
        }
    }
}

fn mode(meta: &std::fs::Metadata) -> u16 {
    u16::try_from(meta.mode() & 0o7777).unwrap()
}

impl Catalogs for Source {
    fn repositories(&self) -> Vec<RepoName> {
        vec![repository()]
    }

    fn state(&self, name: &RepoName) -> Option<Arc<RepositoryState>> {
        (*name == repository()).then(|| Arc::clone(&self.state.lock().unwrap()))
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        Arc::clone(&self.store) as _
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Arc::clone(&self.files) as _
    }
}

#[async_trait]
impl ObjectSource for Files {
    async fn open(
        &self,
        _repository: &RepoName,
        file: &FileMeta,
        _intent: ReadIntent,
    ) -> Result<Arc<dyn ObjectReader>, FetchError> {
        let path = self.paths.lock().unwrap()[&file.object].clone();
        Ok(Arc::new(Reader {
            file: std::fs::File::open(path).unwrap(),
            size: file.size,
            is_coming: self.are_coming.load(Ordering::SeqCst),
        }))
    }
}

#[derive(Debug)]
struct Reader {
    file: std::fs::File,
    size: u64,
    is_coming: bool,
}

#[async_trait]
impl ObjectReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn ready(&self, offset: u64) -> Result<u64, FetchError> {
        Ok((offset + 50_000).min(self.size))
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        self.file.read_exact_at(&mut bytes, range.start).unwrap();
        Ok(bytes.into())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_coming).then(|| self.file.as_fd())
    }

    fn is_settled(&self) -> bool {
        !self.is_coming
    }
}
