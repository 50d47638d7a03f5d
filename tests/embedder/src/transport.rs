//! [`TreeTransport`]: the files of a directory as a source of objects, as from a disk that came by post.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use instantmirror::core::outboard::ObjectHasher;
use instantmirror::core::traits::{BatchItem, ByteStream, Class, PeerTransport};
use instantmirror::core::{ObjectId, RepoName, TransportError};

/// A directory whose files were hashed when it was opened. Reads block for as long as the disk takes, so it is for a runtime
/// that has other threads.
#[derive(Debug)]
pub struct TreeTransport {
    files: HashMap<ObjectId, PathBuf>,
}

impl TreeTransport {
    /// Hashes all files below a directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (mut files, mut dirs) = (HashMap::new(), vec![dir.to_path_buf()]);
        while let Some(dir) = dirs.pop() {
            for item in std::fs::read_dir(dir)? {
                let item = item?;
                match item.file_type()? {
                    kind if kind.is_dir() => dirs.push(item.path()),
                    kind if kind.is_file() => _ = files.insert(ObjectId::of(&std::fs::read(item.path())?), item.path()),
                    _ => {}
                }
            }
        }
        Ok(Self { files })
    }

    fn content(&self, object: &ObjectId) -> Result<Bytes, TransportError> {
        let (from, what) = (self.label().to_owned(), object.to_string());
        let path = self.files.get(object);
        let content = path.and_then(|path| std::fs::read(path).ok());
        content.map(Bytes::from).ok_or(TransportError::NotFound { from, what })
    }
}

#[async_trait]
impl PeerTransport for TreeTransport {
    fn label(&self) -> &str {
        "tree"
    }

    async fn range(
        &self,
        _: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        _: Class,
    ) -> Result<ByteStream, TransportError> {
        let content = self.content(object)?;
        let ends = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = ends.filter(|(from, to)| from <= to && *to <= content.len());
        let part = part.map(|(from, to)| content.slice(from..to));
        let part = part.ok_or_else(|| TransportError::Protocol {
            from: self.label().to_owned(),
            reason: format!("{object} ends before byte {}", range.end),
        })?;
        Ok(Box::pin(stream::iter((!part.is_empty()).then_some(Ok(part)))))
    }

    async fn outboard(&self, _: &RepoName, object: &ObjectId, _: u64, _: Class) -> Result<Bytes, TransportError> {
        let mut hasher = ObjectHasher::new();
        hasher.update(&self.content(object)?);
        Ok(hasher.finish().values().clone())
    }

    async fn batch(
        &self,
        _: &RepoName,
        objects: &[(ObjectId, u64)],
        _: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        objects
            .iter()
            .for_each(|(object, _)| sink((*object, self.content(object))));
        Ok(())
    }
}
