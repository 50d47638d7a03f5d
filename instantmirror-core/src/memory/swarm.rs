//! [`Swarm`] over objects in memory.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use crate::outboard::{GROUP_BYTES, ObjectHasher, group_cover};
use crate::traits::{BatchItem, Class, Group, GroupRequest, GroupStream, Receipt, Swarm, TransportError};
use crate::{ObjectId, RepoName};

/// Peers that have just these objects, for every repository. The last groups come first, as from nobody who sends in order.
#[derive(Debug, Default, Clone)]
pub struct MemorySwarm {
    objects: HashMap<ObjectId, Bytes>,
}

/// Peers that do not lie have nothing to be told.
#[derive(Debug)]
struct NoReceipt;

impl Receipt for NoReceipt {
    fn good(self: Box<Self>) {}

    fn bad(self: Box<Self>) {}
}

impl MemorySwarm {
    /// A swarm in which nobody has anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives its peers an object.
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
impl Swarm for MemorySwarm {
    fn label(&self) -> &str {
        "memory swarm"
    }

    async fn groups(&self, _repository: &RepoName, request: GroupRequest) -> Result<GroupStream, TransportError> {
        let content = self.find(&request.object)?.clone();
        if content.len() as u64 != request.size {
            return Err(TransportError::NotFound {
                from: self.label().to_owned(),
                what: format!("object {} of {} bytes", request.object, request.size),
            });
        }
        let cover = group_cover(request.range, request.size);
        let first = cover.start / GROUP_BYTES;
        let last = cover.end.div_ceil(GROUP_BYTES);
        let groups = (first..last).rev().map(move |number| {
            let offset = number * GROUP_BYTES;
            let end = request.size.min(offset + GROUP_BYTES);
            let place = usize::try_from(offset).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
            Ok(Group {
                offset,
                data: content.slice(place),
                receipt: Box::new(NoReceipt),
            })
        });
        Ok(Box::pin(stream::iter(groups)))
    }

    fn is_ready(&self, object: &ObjectId) -> bool {
        self.objects.contains_key(object)
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
        for (object, _) in objects.iter().rev() {
            sink((*object, self.find(object).cloned()));
        }
        Ok(())
    }
}
