//! [`PeerTransport`] over objects in memory.

use std::collections::HashMap;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use crate::outboard::ObjectHasher;
use crate::traits::{BatchItem, ByteStream, Class, PeerTransport, TransportError};
use crate::{ObjectId, RepoName};

/// Somebody who has just these objects, for every repository.
#[derive(Debug, Default, Clone)]
pub struct MemoryTransport {
    objects: HashMap<ObjectId, Bytes>,
}

impl MemoryTransport {
    /// A transport that has nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it an object.
    pub fn insert(&mut self, content: impl Into<Bytes>) -> ObjectId {
        let content = content.into();
        let id = ObjectId::of(&content);
        self.objects.insert(id, content);
        id
    }

    fn find(&self, object: &ObjectId) -> Result<&Bytes, TransportError> {
        let missing = || TransportError::NotFound {
            from: self.label().to_owned(),
            what: format!("object {object}"),
        };
        self.objects.get(object).ok_or_else(missing)
    }
}

#[async_trait]
impl PeerTransport for MemoryTransport {
    fn label(&self) -> &str {
        "memory"
    }

    async fn range(
        &self,
        _repository: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        _class: Class,
    ) -> Result<ByteStream, TransportError> {
        let content = self.find(object)?;
        let place = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let Some((start, end)) = place.filter(|&(start, end)| start <= end && end <= content.len()) else {
            let reason = format!("object {object} has no bytes {} to {}", range.start, range.end);
            return Err(TransportError::Protocol {
                from: self.label().to_owned(),
                reason,
            });
        };
        let part = content.slice(start..end);
        Ok(Box::pin(stream::iter((!part.is_empty()).then_some(Ok(part)))))
    }

    async fn outboard(
        &self,
        _repository: &RepoName,
        object: &ObjectId,
        _size: u64,
        _class: Class,
    ) -> Result<Bytes, TransportError> {
        let mut hasher = ObjectHasher::new();
        hasher.update(self.find(object)?);
        Ok(hasher.finish().values().clone())
    }

    async fn batch(
        &self,
        _repository: &RepoName,
        objects: &[(ObjectId, u64)],
        _class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        for (object, _) in objects {
            sink((*object, self.find(object).cloned()));
        }
        Ok(())
    }
}
