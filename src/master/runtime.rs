//! [`InRuntime`]: a storage of objects whose futures are polled inside the runtime that the master was built in.
//!
//! Decision: a publish runs on threads of its own, where tokio's timers and sockets would find no runtime, and an embedder's
//! storage may well use them. The runtime's own threads drive them while a publish waits.
//!
//! Invariant: code of the storage runs inside of the runtime, destructors of its handles, uploads and futures too.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::outboard::Outboard;
use instantmirror_core::traits::{CacheError, ObjectHandle, ObjectStorage, ObjectUpload, Objects, Swept};
use instantmirror_core::{ObjectId, RangeSet};
use scopeguard::ScopeGuard;
use tokio::runtime::Handle;

/// A storage, and the runtime that it needs.
#[derive(Debug, Clone)]
pub(super) struct InRuntime(Arc<Entered<Box<dyn ObjectStorage>>>);

impl InRuntime {
    /// The storage, in the runtime in which this is called.
    pub(super) fn current(storage: impl ObjectStorage) -> Self {
        let runtime = Handle::try_current().ok();
        Self(Arc::new(Entered::new(Box::new(storage), runtime)))
    }
}

/// Something of the storage's with the runtime that it needs, in which it is also dropped.
#[derive(Debug)]
struct Entered<T>(ScopeGuard<Parts<T>, fn(Parts<T>)>);

/// The runtime is absent if there was none: then none is needed.
type Parts<T> = (T, Option<Handle>);

impl<T> Entered<T> {
    fn new(inner: T, runtime: Option<Handle>) -> Self {
        Self(scopeguard::guard((inner, runtime), |(inner, runtime)| {
            let _entered = runtime.as_ref().map(Handle::enter);
            drop(inner);
        }))
    }

    fn runtime(&self) -> Option<&Handle> {
        self.0.1.as_ref()
    }

    /// It alone; the caller drops it.
    fn into_parts(self) -> Parts<T> {
        ScopeGuard::into_inner(self.0)
    }

    /// Calls `begin`, and polls the future that it returns.
    async fn poll<'a, F: Future + Unpin>(&'a self, begin: impl FnOnce(&'a T) -> F) -> F::Output {
        polled_in(self.runtime(), || begin(&self.0.0)).await
    }
}

/// Calls `begin`, and polls the future that it returns, inside of a runtime.
async fn polled_in<F: Future + Unpin>(runtime: Option<&Handle>, begin: impl FnOnce() -> F) -> F::Output {
    let future = {
        let _entered = runtime.map(Handle::enter);
        begin()
    };
    let mut future = Entered::new(future, runtime.cloned());
    std::future::poll_fn(|context| {
        let (future, runtime) = &mut *future.0;
        let _entered = runtime.as_ref().map(Handle::enter);
        Pin::new(future).poll(context)
    })
    .await
}

#[async_trait]
impl Objects for InRuntime {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let opened = self.0.poll(|storage| storage.open(object)).await?;
        let entered = |inner| Arc::new(HandleInRuntime(Entered::new(inner, self.0.runtime().cloned()))) as _;
        Ok(opened.map(entered))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        self.0.poll(|storage| storage.outboard(object)).await
    }
}

#[async_trait]
impl ObjectStorage for InRuntime {
    async fn upload(&self, outboard: &Outboard) -> Result<Box<dyn ObjectUpload>, CacheError> {
        let inner = self.0.poll(|storage| storage.upload(outboard)).await?;
        Ok(Box::new(UploadInRuntime(Entered::new(
            inner,
            self.0.runtime().cloned(),
        ))))
    }

    async fn size(&self, object: &ObjectId) -> Result<Option<u64>, CacheError> {
        self.0.poll(|storage| storage.size(object)).await
    }

    async fn remove(&self, objects: &[ObjectId]) -> Result<Swept, CacheError> {
        self.0.poll(|storage| storage.remove(objects)).await
    }

    async fn list(&self, each: &mut (dyn FnMut(ObjectId, u64) + Send)) -> Result<(), CacheError> {
        self.0.poll(|storage| storage.list(each)).await
    }

    fn blocks(&self) -> bool {
        self.0.0.0.blocks()
    }
}

#[derive(Debug)]
struct HandleInRuntime(Entered<Arc<dyn ObjectHandle>>);

impl HandleInRuntime {
    fn inner(&self) -> &dyn ObjectHandle {
        self.0.0.0.as_ref()
    }
}

#[async_trait]
impl ObjectHandle for HandleInRuntime {
    fn object(&self) -> ObjectId {
        self.inner().object()
    }

    fn size(&self) -> u64 {
        self.inner().size()
    }

    fn present(&self) -> RangeSet {
        self.inner().present()
    }

    fn is_complete(&self) -> bool {
        self.inner().is_complete()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        self.0.poll(|handle| handle.read(range)).await
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner().descriptor()
    }
}

#[derive(Debug)]
struct UploadInRuntime(Entered<Box<dyn ObjectUpload>>);

#[async_trait]
impl ObjectUpload for UploadInRuntime {
    async fn write(&mut self, data: Bytes) -> Result<(), CacheError> {
        let (inner, runtime) = &mut *self.0.0;
        polled_in(runtime.as_ref(), || inner.write(data)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), CacheError> {
        let (inner, runtime) = self.0.into_parts();
        polled_in(runtime.as_ref(), || inner.finish()).await
    }
}

#[cfg(test)]
mod tests {
    use instantmirror_core::conformance::Subject;
    use instantmirror_core::conformance::object_storage::store_with;
    use instantmirror_core::memory::MemoryStorage;
    use instantmirror_core::outboard::ObjectHasher;
    use instantmirror_core::traits::blocking::wait;

    use super::*;

    /// A storage whose destructors, and those of all that it hands out, need its runtime.
    #[derive(Debug)]
    struct Needy(MemoryStorage);

    /// Panics where it is dropped outside of a runtime.
    #[derive(Debug)]
    struct NeedyDrop;

    impl Drop for NeedyDrop {
        fn drop(&mut self) {
            drop(Handle::current().spawn(async {}));
        }
    }

    impl Drop for Needy {
        fn drop(&mut self) {
            drop(NeedyDrop);
        }
    }

    #[derive(Debug)]
    struct NeedyHandle(Arc<dyn ObjectHandle>, NeedyDrop);

    #[async_trait]
    impl ObjectHandle for NeedyHandle {
        fn object(&self) -> ObjectId {
            self.0.object()
        }

        fn size(&self) -> u64 {
            self.0.size()
        }

        fn present(&self) -> RangeSet {
            self.0.present()
        }

        async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
            let _dropped_with_the_future = NeedyDrop;
            self.0.read(range).await
        }
    }

    #[derive(Debug)]
    struct NeedyUpload(Box<dyn ObjectUpload>, NeedyDrop);

    #[async_trait]
    impl ObjectUpload for NeedyUpload {
        async fn write(&mut self, data: Bytes) -> Result<(), CacheError> {
            self.0.write(data).await
        }

        async fn finish(self: Box<Self>) -> Result<(), CacheError> {
            let Self(inner, _dropped_with_the_future) = *self;
            inner.finish().await
        }
    }

    #[async_trait]
    impl Objects for Needy {
        async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
            let opened = self.0.open(object).await?;
            Ok(opened.map(|inner| Arc::new(NeedyHandle(inner, NeedyDrop)) as _))
        }

        async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
            self.0.outboard(object).await
        }
    }

    #[async_trait]
    impl ObjectStorage for Needy {
        async fn upload(&self, outboard: &Outboard) -> Result<Box<dyn ObjectUpload>, CacheError> {
            Ok(Box::new(NeedyUpload(self.0.upload(outboard).await?, NeedyDrop)))
        }

        /// Never ready: its future is dropped on the way.
        async fn size(&self, _: &ObjectId) -> Result<Option<u64>, CacheError> {
            let _dropped_with_the_future = NeedyDrop;
            std::future::pending().await
        }

        async fn remove(&self, objects: &[ObjectId]) -> Result<Swept, CacheError> {
            self.0.remove(objects).await
        }

        async fn list(&self, each: &mut (dyn FnMut(ObjectId, u64) + Send)) -> Result<(), CacheError> {
            self.0.list(each).await
        }
    }

    #[test]
    fn all_of_a_storage_is_dropped_inside_of_its_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let storage = {
            let _entered = runtime.enter();
            InRuntime::current(Needy(MemoryStorage::new()))
        };
        assert!(Handle::try_current().is_err(), "as on the threads of a publish");
        let mut hasher = ObjectHasher::new();
        hasher.update(b"content");
        let outboard = hasher.finish();
        let upload = || wait(storage.upload(&outboard)).unwrap();
        drop(upload());
        let mut whole = upload();
        wait(whole.write(Bytes::from_static(b"content"))).unwrap();
        wait(whole.finish()).unwrap();
        let handle = wait(storage.open(&outboard.object())).unwrap().unwrap();
        assert_eq!(wait(handle.read(0..7)).unwrap(), "content");
        drop(handle);
        let object = outboard.object();
        let mut asked = storage.size(&object);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        drop(asked);
        drop(storage);
    }

    instantmirror_core::object_storage_conformance!(|| Subject::new(InRuntime::current(MemoryStorage::new())));
    instantmirror_core::objects_conformance!(|objects: &[Bytes]| {
        Subject::new(InRuntime::current(store_with(MemoryStorage::new(), objects)))
    });
}
