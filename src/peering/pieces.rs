//! A repository's piece space as its swarm reads it: the map of its objects, and the cache or store that holds them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::swarm::PieceIndex;
use instantmirror_core::traits::ObjectCache;
use instantmirror_store::piece_map::PieceMap;
use instantmirror_swarm::peer::{ObjectPlace, PieceSource};

/// Pieces of objects.
#[derive(Debug)]
pub(crate) struct RepositoryPieces {
    pub(crate) map: PieceMap,
    objects: Arc<dyn ObjectCache>,
}

impl RepositoryPieces {
    pub(crate) fn new(map: PieceMap, objects: Arc<dyn ObjectCache>) -> Self {
        Self { map, objects }
    }
}

#[async_trait]
impl PieceSource for RepositoryPieces {
    fn place_of(&self, object: &ObjectId) -> Option<ObjectPlace> {
        let found = self.map.place_of(object).unwrap_or_else(|error| {
            tracing::error!("the map of the piece space cannot be read: {error}");
            None
        })?;
        let first_piece = PieceIndex::try_from(found.first_piece).ok()?;
        Some(ObjectPlace {
            first_piece,
            size: found.size,
        })
    }

    async fn read(&self, piece: PieceIndex, begin: u32, length: u32) -> Result<Bytes, String> {
        let found = self.map.locate(u64::from(piece)).map_err(|error| error.to_string())?;
        let found = found.ok_or("no object is known there")?;
        let start = (u64::from(piece) - found.first_piece) * self.map.piece_bytes() + u64::from(begin);
        let end = start + u64::from(length);
        if end > found.size {
            return Err(format!("the object ends at {}", found.size));
        }
        read_object(&self.objects, &found.object, start, end).await
    }

    /// May read the whole object, if its outboard was lost: not on the runtime's threads.
    async fn outboard(&self, object: &ObjectId) -> Option<Bytes> {
        let (objects, wanted) = (Arc::clone(&self.objects), *object);
        let read = tokio::task::spawn_blocking(move || futures_executor::block_on(objects.outboard(&wanted)));
        match read.await {
            Ok(Ok(outboard)) => outboard.map(|outboard| outboard.values().clone()),
            Ok(Err(error)) => {
                tracing::warn!(%object, "its outboard cannot be given to a peer: {error}");
                None
            }
            Err(error) => {
                tracing::error!(%object, "its outboard cannot be given to a peer: {error}");
                None
            }
        }
    }
}

/// Bytes of an object that is here. Reads may wait for the disk: not on the runtime's threads.
pub(crate) async fn read_object(
    objects: &Arc<dyn ObjectCache>,
    object: &ObjectId,
    start: u64,
    end: u64,
) -> Result<Bytes, String> {
    let (objects, object) = (Arc::clone(objects), *object);
    let read = tokio::task::spawn_blocking(move || {
        let handle = futures_executor::block_on(objects.open(&object)).map_err(|error| error.to_string())?;
        let handle = handle.ok_or("it is not here (any more)")?;
        handle.read(start..end).map_err(|error| error.to_string())
    });
    read.await.map_err(|error| error.to_string())?
}
