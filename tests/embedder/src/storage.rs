//! [`FolderStorage`]: a file for each object in one folder, written and read through the embedder's runtime.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io, ops};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror::core::outboard::{ObjectHasher, VerifyError};
use instantmirror::core::traits::{ObjectHandle, ObjectStorage, ObjectUpload, Objects, Swept};
use instantmirror::core::{CacheError, ObjectId, Outboard, RangeSet};
use tokio::io::AsyncWriteExt as _;

/// A storage in a folder. Its futures need a tokio runtime.
#[derive(Debug, Clone)]
pub struct FolderStorage {
    folder: Arc<Path>,
    uploads: Arc<AtomicU64>,
}

fn failed(what: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let what = what.display().to_string();
    move |error| CacheError::Io {
        what,
        source: Arc::new(error),
    }
}

/// Nothing, where there is nothing.
fn found<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>, CacheError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some).map_err(failed(path)),
    }
}

impl FolderStorage {
    /// The storage in a folder that is there. Uploads that an earlier process has not finished go.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(folder: &Path) -> io::Result<Self> {
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self {
            folder: folder.into(),
            uploads: Arc::default(),
        })
    }

    fn path(&self, object: &ObjectId) -> PathBuf {
        self.folder.join(object.to_string())
    }

    /// Names are durable when their folder is.
    async fn sync(&self) -> Result<(), CacheError> {
        let folder = tokio::fs::File::open(&*self.folder).await;
        let folder = folder.map_err(failed(&self.folder))?;
        folder.sync_all().await.map_err(failed(&self.folder))
    }
}

#[async_trait]
impl Objects for FolderStorage {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let path = self.path(object);
        let Some(file) = found(tokio::fs::File::open(&path).await, &path)? else {
            return Ok(None);
        };
        let size = file.metadata().await.map_err(failed(&path))?.len();
        Ok(Some(Arc::new(Open {
            object: *object,
            size,
            file: Arc::new(file.into_std().await),
        })))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let path = self.path(object);
        let content = found(tokio::fs::read(&path).await, &path)?;
        let outboard = content.map(|content| {
            let mut hasher = ObjectHasher::new();
            hasher.update(&content);
            hasher.finish()
        });
        match outboard {
            Some(outboard) if outboard.object() != *object => Err(CacheError::Damaged {
                object: *object,
                reason: "its file has another content".to_owned(),
            }),
            outboard => Ok(outboard),
        }
    }
}

#[async_trait]
impl ObjectStorage for FolderStorage {
    async fn upload(&self, outboard: &Outboard) -> Result<Box<dyn ObjectUpload>, CacheError> {
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let part = Part(self.folder.join(format!("{number}.part")));
        let file = tokio::fs::File::create(&part.0).await.map_err(failed(&part.0))?;
        Ok(Box::new(Upload {
            storage: self.clone(),
            object: outboard.object(),
            size: outboard.size(),
            hasher: ObjectHasher::new(),
            taken: 0,
            file,
            part,
        }))
    }

    async fn size(&self, object: &ObjectId) -> Result<Option<u64>, CacheError> {
        let path = self.path(object);
        Ok(found(tokio::fs::metadata(&path).await, &path)?.map(|meta| meta.len()))
    }

    async fn remove(&self, objects: &[ObjectId]) -> Result<Swept, CacheError> {
        let mut removed = Swept::default();
        for object in objects {
            let (path, size) = (self.path(object), self.size(object).await?);
            if found(tokio::fs::remove_file(&path).await, &path)?.is_some() {
                removed.objects += 1;
                removed.bytes += size.unwrap_or_default();
            }
        }
        self.sync().await?;
        Ok(removed)
    }

    async fn list(&self, each: &mut (dyn FnMut(ObjectId, u64) + Send)) -> Result<(), CacheError> {
        let mut items = tokio::fs::read_dir(&*self.folder).await.map_err(failed(&self.folder))?;
        while let Some(item) = items.next_entry().await.map_err(failed(&self.folder))? {
            let object = item.file_name().to_str().and_then(|name| name.parse().ok());
            let size = item.metadata().await.map(|meta| meta.len());
            if let (Some(object), Ok(size)) = (object, size) {
                each(object, size);
            }
        }
        Ok(())
    }
}

/// An open file, which outlives its name.
#[derive(Debug)]
struct Open {
    object: ObjectId,
    size: u64,
    file: Arc<fs::File>,
}

#[async_trait]
impl ObjectHandle for Open {
    fn object(&self) -> ObjectId {
        self.object
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn present(&self) -> RangeSet {
        let mut all = RangeSet::new();
        all.insert(0..self.size);
        all
    }

    async fn read(&self, range: ops::Range<u64>) -> Result<Bytes, CacheError> {
        let (object, file) = (self.object, Arc::clone(&self.file));
        if range.start > range.end || range.end > self.size {
            return Err(CacheError::Absent { object, range });
        }
        let read = move || {
            let mut content = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
            file.read_exact_at(&mut content, range.start)?;
            Ok(Bytes::from(content))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(io::Error::other).and_then(|read: io::Result<Bytes>| read);
        read.map_err(failed(Path::new("an object")))
    }
}

/// A file that is not whole, and goes unless it becomes an object.
#[derive(Debug)]
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Under its last name it is not there any more.
        let _ = fs::remove_file(&self.0);
    }
}

#[derive(Debug)]
struct Upload {
    storage: FolderStorage,
    object: ObjectId,
    size: u64,
    hasher: ObjectHasher,
    taken: u64,
    file: tokio::fs::File,
    part: Part,
}

#[async_trait]
impl ObjectUpload for Upload {
    async fn write(&mut self, data: Bytes) -> Result<(), CacheError> {
        let (object, start) = (self.object, self.taken);
        let end = start + data.len() as u64;
        if end > self.size {
            return Err(VerifyError::Content { object, start, end }.into());
        }
        self.hasher.update(&data);
        self.taken = end;
        self.file.write_all(&data).await.map_err(failed(&self.part.0))
    }

    async fn finish(self: Box<Self>) -> Result<(), CacheError> {
        let mut upload = *self;
        let object = upload.object;
        if upload.taken < upload.size {
            let range = upload.taken..upload.size;
            return Err(CacheError::Absent { object, range });
        }
        if upload.hasher.finish().object() != object {
            let (start, end) = (0, upload.size);
            return Err(VerifyError::Content { object, start, end }.into());
        }
        upload.file.flush().await.map_err(failed(&upload.part.0))?;
        upload.file.sync_all().await.map_err(failed(&upload.part.0))?;
        let named = tokio::fs::rename(&upload.part.0, upload.storage.path(&object)).await;
        named.map_err(failed(&upload.part.0))?;
        upload.storage.sync().await
    }
}
