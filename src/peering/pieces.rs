//! A repository's piece space as its swarm reads it: the map of its objects, and the cache or store that holds them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::log_limited;
use instantmirror_core::swarm::PieceIndex;
use instantmirror_core::traits::Objects;
use instantmirror_core::traits::blocking::wait;
use instantmirror_store::piece_map::PieceMap;
use instantmirror_swarm::peer::{ObjectPlace, PieceSource};
use instantmirror_swarm::wire::Block;

/// Pieces of objects.
#[derive(Debug)]
pub(crate) struct RepositoryPieces {
    pub(crate) map: PieceMap,
    objects: Arc<dyn Objects>,
}

impl RepositoryPieces {
    pub(crate) fn new(map: PieceMap, objects: Arc<dyn Objects>) -> Self {
        Self { map, objects }
    }

    /// Of which object a part of a piece is.
    fn locate(&self, part: &Block) -> Result<ObjectPart, String> {
        let piece = u64::from(part.piece);
        let found = self.map.locate(piece).map_err(|error| error.to_string())?;
        let found = found.ok_or("no object is known there")?;
        let start = (piece - found.first_piece) * self.map.piece_bytes() + u64::from(part.begin);
        let end = start + u64::from(part.length);
        if end > found.size {
            return Err(format!("the object ends at {}", found.size));
        }
        Ok((found.object, start..end))
    }
}

#[async_trait]
impl PieceSource for RepositoryPieces {
    fn place_of(&self, object: &ObjectId) -> Option<ObjectPlace> {
        let found = self.map.place_of(object).unwrap_or_else(|error| {
            log_limited!(
                Instant::now(),
                error,
                "the map of the piece space cannot be read: {error}"
            );
            None
        })?;
        let first_piece = PieceIndex::try_from(found.first_piece).ok()?;
        Some(ObjectPlace {
            first_piece,
            size: found.size,
        })
    }

    async fn read(&self, piece: PieceIndex, begin: u32, length: u32) -> Result<Bytes, String> {
        let part = Block { piece, begin, length };
        let read = self.read_all(&[part]).await.pop();
        read.unwrap_or_else(|| Err("nothing was read".to_owned()))
    }

    async fn read_all(&self, parts: &[Block]) -> Vec<Result<Bytes, String>> {
        let found: Vec<_> = parts.iter().map(|part| self.locate(part)).collect();
        read_objects(&self.objects, found).await
    }

    async fn outboard(&self, object: &ObjectId) -> Option<Bytes> {
        match self.objects.outboard(object).await {
            Ok(outboard) => outboard.map(|outboard| outboard.values().clone()),
            Err(error) => {
                log_limited!(Instant::now(), warn, %object, "its outboard cannot be given to a peer: {error}");
                None
            }
        }
    }
}

/// Bytes of an object.
pub(crate) type ObjectPart = (ObjectId, Range<u64>);

/// Bytes of an object that is here.
pub(crate) async fn read_object(
    objects: &Arc<dyn Objects>,
    object: &ObjectId,
    start: u64,
    end: u64,
) -> Result<Bytes, String> {
    let read = read_objects(objects, vec![Ok((*object, start..end))]).await.pop();
    read.unwrap_or_else(|| Err("nothing was read".to_owned()))
}

/// Bytes of several that are here, in their order; where it is known already that there are none, why. Reads may wait for the
/// disk: not on the runtime's threads, and all on one other.
async fn read_objects(
    objects: &Arc<dyn Objects>,
    parts: Vec<Result<ObjectPart, String>>,
) -> Vec<Result<Bytes, String>> {
    let (objects, count) = (Arc::clone(objects), parts.len());
    let read_all = async move {
        let mut read = Vec::with_capacity(parts.len());
        for part in parts {
            read.push(match part {
                Ok(part) => read_part(objects.as_ref(), part).await,
                Err(why) => Err(why),
            });
        }
        read
    };
    let read = tokio::task::spawn_blocking(move || wait(read_all)).await;
    read.unwrap_or_else(|error| vec![Err(error.to_string()); count])
}

async fn read_part(objects: &dyn Objects, (object, range): ObjectPart) -> Result<Bytes, String> {
    let handle = objects.open(&object).await.map_err(|error| error.to_string())?;
    let handle = handle.ok_or("it is not here (any more)")?;
    handle.read(range).await.map_err(|error| error.to_string())
}
