//! [`InRuntime`]: a storage of objects whose futures are polled inside the runtime that the master was built in.
//!
//! Decision: a publish runs on threads of its own, where tokio's timers and sockets would find no runtime, and an embedder's
//! storage may well use them. The runtime's own threads drive them while a publish waits.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::outboard::Outboard;
use instantmirror_core::traits::{CacheError, ObjectHandle, ObjectStorage, ObjectUpload, Objects, Swept};
use instantmirror_core::{ObjectId, RangeSet};
use tokio::runtime::Handle;

/// A storage, and the runtime that it needs.
#[derive(Debug, Clone)]
pub(super) struct InRuntime {
    inner: Arc<dyn ObjectStorage>,
    /// Absent if there was none: then it needs none.
    runtime: Option<Handle>,
}

impl InRuntime {
    /// The storage, in the runtime in which this is called.
    pub(super) fn current(storage: impl ObjectStorage) -> Self {
        Self {
            inner: Arc::new(storage),
            runtime: Handle::try_current().ok(),
        }
    }
}

/// Polls a future inside a runtime.
async fn polled_in<F: Future>(runtime: Option<&Handle>, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let _entered = runtime.map(Handle::enter);
        future.as_mut().poll(context)
    })
    .await
}

#[async_trait]
impl Objects for InRuntime {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let opened = polled_in(self.runtime.as_ref(), self.inner.open(object)).await?;
        let runtime = self.runtime.clone();
        Ok(opened.map(|inner| Arc::new(HandleInRuntime { inner, runtime }) as _))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        polled_in(self.runtime.as_ref(), self.inner.outboard(object)).await
    }
}

#[async_trait]
impl ObjectStorage for InRuntime {
    async fn upload(&self, outboard: &Outboard) -> Result<Box<dyn ObjectUpload>, CacheError> {
        let inner = polled_in(self.runtime.as_ref(), self.inner.upload(outboard)).await?;
        Ok(Box::new(UploadInRuntime {
            inner,
            runtime: self.runtime.clone(),
        }))
    }

    async fn size(&self, object: &ObjectId) -> Result<Option<u64>, CacheError> {
        polled_in(self.runtime.as_ref(), self.inner.size(object)).await
    }

    async fn remove(&self, objects: &[ObjectId]) -> Result<Swept, CacheError> {
        polled_in(self.runtime.as_ref(), self.inner.remove(objects)).await
    }

    async fn list(&self, each: &mut (dyn FnMut(ObjectId, u64) + Send)) -> Result<(), CacheError> {
        polled_in(self.runtime.as_ref(), self.inner.list(each)).await
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }
}

#[derive(Debug)]
struct HandleInRuntime {
    inner: Arc<dyn ObjectHandle>,
    runtime: Option<Handle>,
}

#[async_trait]
impl ObjectHandle for HandleInRuntime {
    fn object(&self) -> ObjectId {
        self.inner.object()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn present(&self) -> RangeSet {
        self.inner.present()
    }

    fn is_complete(&self) -> bool {
        self.inner.is_complete()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        polled_in(self.runtime.as_ref(), self.inner.read(range)).await
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }
}

#[derive(Debug)]
struct UploadInRuntime {
    inner: Box<dyn ObjectUpload>,
    runtime: Option<Handle>,
}

#[async_trait]
impl ObjectUpload for UploadInRuntime {
    async fn write(&mut self, data: Bytes) -> Result<(), CacheError> {
        polled_in(self.runtime.as_ref(), self.inner.write(data)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), CacheError> {
        let Self { inner, runtime } = *self;
        polled_in(runtime.as_ref(), inner.finish()).await
    }
}

#[cfg(test)]
mod tests {
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::conformance::object_storage::store_with;
    use instantmirror_core::memory::MemoryStorage;

    use super::*;

    instantmirror_core::object_storage_conformance!(|| Subject::new(InRuntime::current(MemoryStorage::new())));
    instantmirror_core::objects_conformance!(|objects: &[Bytes]| {
        Subject::new(InRuntime::current(store_with(MemoryStorage::new(), objects)))
    });
}
