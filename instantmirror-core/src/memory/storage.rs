//! [`MemoryStorage`]: whole objects in memory, until they are removed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::outboard::{Outboard, VerifyError};
use crate::traits::{CacheError, ObjectHandle, ObjectStorage, ObjectUpload, Objects, Swept};
use crate::{ObjectId, RangeSet};

/// An [`ObjectStorage`] in memory: as durable as the process, without a limit. Clones share the objects.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage(Arc<RwLock<BTreeMap<ObjectId, Arc<Stored>>>>);

/// An object, verified.
#[derive(Debug)]
struct Stored {
    outboard: Outboard,
    content: Bytes,
}

type Table = BTreeMap<ObjectId, Arc<Stored>>;

impl MemoryStorage {
    /// An empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    // Every change under the lock is one insertion or removal.
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn change(table: &RwLock<Table>) -> RwLockWriteGuard<'_, Table> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Objects for MemoryStorage {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let stored = self.table().get(object).map(Arc::clone);
        Ok(stored.map(|stored| Arc::new(Open(stored)) as Arc<dyn ObjectHandle>))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        Ok(self.table().get(object).map(|stored| stored.outboard.clone()))
    }
}

#[async_trait]
impl ObjectStorage for MemoryStorage {
    async fn upload(&self, outboard: &Outboard) -> Result<Box<dyn ObjectUpload>, CacheError> {
        Ok(Box::new(Upload {
            table: Arc::clone(&self.0),
            outboard: outboard.clone(),
            content: BytesMut::new(),
        }))
    }

    async fn size(&self, object: &ObjectId) -> Result<Option<u64>, CacheError> {
        Ok(self.table().get(object).map(|stored| stored.outboard.size()))
    }

    async fn remove(&self, objects: &[ObjectId]) -> Result<Swept, CacheError> {
        let mut table = change(&self.0);
        let mut removed = Swept::default();
        for stored in objects.iter().filter_map(|object| table.remove(object)) {
            removed.objects += 1;
            removed.bytes += stored.outboard.size();
        }
        Ok(removed)
    }

    async fn list(&self, each: &mut (dyn FnMut(ObjectId, u64) + Send)) -> Result<(), CacheError> {
        let all: Vec<(ObjectId, u64)> = self
            .table()
            .iter()
            .map(|(object, stored)| (*object, stored.outboard.size()))
            .collect();
        all.into_iter().for_each(|(object, size)| each(object, size));
        Ok(())
    }
}

/// An open object, which outlives its removal.
#[derive(Debug)]
struct Open(Arc<Stored>);

#[async_trait]
impl ObjectHandle for Open {
    fn object(&self) -> ObjectId {
        self.0.outboard.object()
    }

    fn size(&self) -> u64 {
        self.0.outboard.size()
    }

    fn present(&self) -> RangeSet {
        let mut all = RangeSet::new();
        all.insert(0..self.size());
        all
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        let ends = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let there = ends.filter(|(start, end)| start <= end && *end <= self.0.content.len());
        match there {
            Some((start, end)) => Ok(self.0.content.slice(start..end)),
            None => Err(CacheError::Absent {
                object: self.object(),
                range,
            }),
        }
    }
}

#[derive(Debug)]
struct Upload {
    table: Arc<RwLock<Table>>,
    outboard: Outboard,
    content: BytesMut,
}

#[async_trait]
impl ObjectUpload for Upload {
    async fn write(&mut self, data: Bytes) -> Result<(), CacheError> {
        let (start, size) = (self.content.len() as u64, self.outboard.size());
        let end = start.saturating_add(data.len() as u64);
        if end > size {
            let object = self.outboard.object();
            return Err(VerifyError::Content { object, start, end }.into());
        }
        self.content.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), CacheError> {
        let Self {
            table,
            outboard,
            content,
        } = *self;
        let (object, size, len) = (outboard.object(), outboard.size(), content.len() as u64);
        if len < size {
            let range = len..size;
            return Err(CacheError::Absent { object, range });
        }
        outboard.verify_groups(0, &content)?;
        let content = content.freeze();
        change(&table)
            .entry(object)
            .or_insert_with(|| Arc::new(Stored { outboard, content }));
        Ok(())
    }
}
