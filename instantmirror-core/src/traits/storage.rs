//! The trait of durable storage for whole objects, where a master keeps what it publishes.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use super::{CacheError, Objects, Swept};
use crate::ObjectId;
use crate::outboard::Outboard;

/// Durable storage for whole objects: a bucket, a database, a directory.
///
/// Guarantees that every implementation keeps, beside those of [`Objects`]:
/// * An object is here whole or not at all: no part of an upload can be seen.
/// * What a [finished](ObjectUpload::finish) upload acknowledged survives a crash of the process and of the machine, and stays
///   until it is [removed](Self::remove). Nothing is evicted.
/// * What is acknowledged can be opened at once, by every process that uses the storage.
///
/// Its user is alone in it. A master counts in its own notes what its snapshots need, and removes the rest, so a storage belongs
/// to the masters of one directory; two that share a bucket need a prefix each.
///
/// It differs from an [`ObjectCache`](super::ObjectCache), which may lose what it holds, has partial objects, and a limit.
///
/// Cancellation: dropping the future of [`remove`](Self::remove) may leave some objects removed; dropping any other leaves
/// everything as before the call, and dropping an upload leaves nothing of it.
#[async_trait]
pub trait ObjectStorage: Objects {
    /// Begins to store the object that this is the outboard of. Several uploads may run at a time, also of one object; one of an
    /// object that is here already changes nothing.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the medium fails or is full.
    async fn upload(&self, outboard: &Outboard) -> Result<Box<dyn ObjectUpload>, CacheError>;

    /// The size in bytes of an object that is here. Its content is not looked at.
    ///
    /// # Errors
    /// [`CacheError::Io`] if it cannot be looked up.
    async fn size(&self, object: &ObjectId) -> Result<Option<u64>, CacheError>;

    /// Removes these objects durably, and returns how much that was; those that are not here are passed over. Open handles stay
    /// readable.
    ///
    /// # Errors
    /// [`CacheError::Io`]; some of them may be gone then.
    async fn remove(&self, objects: &[ObjectId]) -> Result<Swept, CacheError>;

    /// Calls `each` with every object and its size. Those that come or go meanwhile are told of or not.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the objects cannot be listed.
    async fn list(&self, each: &mut (dyn FnMut(ObjectId, u64) + Send)) -> Result<(), CacheError>;

    /// Whether its futures, and those of its handles and uploads, block the thread that polls them. A master reads from such a
    /// storage through [`Blocking`](super::blocking::Blocking); it writes on threads that may block anyway.
    fn blocks(&self) -> bool {
        false
    }
}

/// An object on its way into an [`ObjectStorage`]. Dropping it leaves nothing of it.
#[async_trait]
pub trait ObjectUpload: Debug + Send {
    /// Hands the next bytes over, in order, as many as the caller has at hand.
    ///
    /// # Errors
    /// [`CacheError::Verify`] if they are not the object's; where that is found out later, [`finish`](Self::finish) says so.
    /// [`CacheError::Io`].
    async fn write(&mut self, data: Bytes) -> Result<(), CacheError>;

    /// Ends the upload: the object is here, durable, when this returns.
    ///
    /// # Errors
    /// [`CacheError::Verify`] if the bytes were not the object's, [`CacheError::Absent`] if some are missing, [`CacheError::Io`].
    /// Nothing of it is here then, unless it was before.
    async fn finish(self: Box<Self>) -> Result<(), CacheError>;
}
