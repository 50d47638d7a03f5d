//! The piece space of an export torrent: the files of a snapshot, each beginning with a piece, zeros behind them.
//!
//! Invariant: a piece belongs to one file, and what is read of it is that file's object and zeros; a torrent in which that
//! is not so, or whose files are not those of the catalog, is not made into one.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource};
use instantmirror_core::metainfo::{FileKind, Metainfo};
use instantmirror_core::swarm::PieceIndex;
use instantmirror_core::traits::Objects;
use instantmirror_core::{NameError, ObjectId, RepoPath, Snapshot};
use instantmirror_swarm::peer::{ObjectPlace, PieceSource};

use super::pieces::read_object;

/// Why a torrent is not taken part in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// It has what the catalog has not.
    #[error("the catalog has no file '/{0}'")]
    NoFile(RepoPath),
    /// It has a file of another size.
    #[error("'/{path}' has {said} bytes in it, and {known} in the catalog")]
    Size { path: RepoPath, said: u64, known: u64 },
    /// A file lies where one of ours would not.
    #[error("'/{0}' does not begin with a piece, so that others have a part in its pieces")]
    Shared(RepoPath),
    /// Longer than any path.
    #[error("a path in it, put together, has {0}")]
    Path(#[from] NameError),
    /// Too many pieces, or too long ones.
    #[error("pieces of {bytes} bytes, {count} of them, are not what peers can speak of")]
    Pieces { bytes: u64, count: u64 },
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// A file that holds anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ExportFile {
    first_piece: PieceIndex,
    size: u64,
    object: ObjectId,
}

/// An export torrent's pieces, in a cache or store.
#[derive(Debug)]
pub(crate) struct ExportPieces {
    piece_bytes: u32,
    piece_count: PieceIndex,
    total_bytes: u64,
    /// In order.
    files: Vec<ExportFile>,
    /// Places in `files`: the first of each object ...
    places: HashMap<ObjectId, usize>,
    /// ... and further ones of those that lie at several.
    copies: HashMap<ObjectId, Vec<usize>>,
    objects: Arc<dyn Objects>,
}

impl ExportPieces {
    /// Looks up the files of a torrent whose root is `root` in a snapshot. Blocks on the disk.
    ///
    /// # Errors
    /// [`ExportError`] if it is not a torrent of that snapshot.
    pub(crate) fn new<S: NodeSource>(
        torrent: &Metainfo,
        nodes: &S,
        snapshot: &Snapshot,
        root: &RepoPath,
        objects: Arc<dyn Objects>,
    ) -> Result<Self, ExportError> {
        let (bytes, count) = (torrent.piece_bytes, torrent.piece_count());
        let (Ok(piece_bytes), Ok(piece_count)) = (u32::try_from(bytes), PieceIndex::try_from(count)) else {
            return Err(ExportError::Pieces { bytes, count });
        };
        let catalog = Catalog::new(nodes, snapshot.root.meta());
        let mut files = Vec::new();
        for file in torrent.files.iter().filter(|file| file.kind == FileKind::Content) {
            let path = below(root, &file.path)?;
            let found = catalog.lookup(&path)?;
            let known = found.as_ref().and_then(|meta| meta.as_file().copied());
            let Some(known) = known else {
                return Err(ExportError::NoFile(path));
            };
            if known.size != file.size {
                let (said, known) = (file.size, known.size);
                return Err(ExportError::Size { path, said, known });
            }
            if file.size == 0 {
                continue;
            }
            if !file.offset.is_multiple_of(bytes) {
                return Err(ExportError::Shared(path));
            }
            let first_piece = PieceIndex::try_from(file.offset / bytes);
            files.push(ExportFile {
                first_piece: first_piece.map_err(|_| ExportError::Pieces { bytes, count })?,
                size: known.size,
                object: known.object,
            });
        }
        let (mut places, mut copies) = (HashMap::with_capacity(files.len()), HashMap::<_, Vec<_>>::new());
        for (at, file) in files.iter().enumerate() {
            if *places.entry(file.object).or_insert(at) != at {
                copies.entry(file.object).or_default().push(at);
            }
        }
        Ok(Self {
            piece_bytes,
            piece_count,
            total_bytes: torrent.total_bytes,
            files,
            places,
            copies,
            objects,
        })
    }

    pub(crate) fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// Number of pieces, and their bytes, padding included.
    pub(crate) fn extent(&self) -> (PieceIndex, u64) {
        (self.piece_count, self.total_bytes)
    }

    /// What is in it, each once.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &ObjectId> {
        self.places.keys()
    }

    fn place(&self, at: usize) -> Option<ObjectPlace> {
        let file = self.files.get(at)?;
        Some(ObjectPlace {
            first_piece: file.first_piece,
            size: file.size,
        })
    }
}

/// A path in a snapshot; that of a torrent of one file is its root.
fn below(root: &RepoPath, path: &RepoPath) -> Result<RepoPath, NameError> {
    if root.is_root() || path.is_root() {
        return Ok(if path.is_root() { root } else { path }.clone());
    }
    RepoPath::new(format!("{root}/{path}"))
}

#[async_trait]
impl PieceSource for ExportPieces {
    fn place_of(&self, object: &ObjectId) -> Option<ObjectPlace> {
        self.place(*self.places.get(object)?)
    }

    fn places_of(&self, object: &ObjectId) -> Vec<ObjectPlace> {
        let copies = self.copies.get(object).into_iter().flatten();
        let all = self.places.get(object).into_iter().chain(copies);
        all.filter_map(|at| self.place(*at)).collect()
    }

    async fn read(&self, piece: PieceIndex, begin: u32, length: u32) -> Result<Bytes, String> {
        let at = u64::from(piece) * u64::from(self.piece_bytes) + u64::from(begin);
        if u64::from(begin) + u64::from(length) > u64::from(self.piece_bytes)
            || at + u64::from(length) > self.total_bytes
        {
            return Err(format!("{length} bytes at {begin} are not within piece {piece}"));
        }
        let behind = self.files.partition_point(|file| file.first_piece <= piece);
        let file = behind.checked_sub(1).and_then(|at| self.files.get(at));
        let file = file.ok_or("no file is there")?;
        let start = at - u64::from(file.first_piece) * u64::from(self.piece_bytes);
        let end = start + u64::from(length);
        let content = start.min(file.size)..end.min(file.size);
        let padding = usize::try_from(end - content.end.max(start)).map_err(|error| error.to_string())?;
        if padding == 0 {
            return read_object(&self.objects, &file.object, start, end).await;
        }
        let mut bytes = BytesMut::new();
        if !content.is_empty() {
            bytes.extend_from_slice(&read_object(&self.objects, &file.object, content.start, content.end).await?);
        }
        bytes.resize(bytes.len() + padding, 0);
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
