//! The HTTP transport against the real API server passes core's suite of transports: what one says the other
//! understands, on a socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::conformance::{Subject, outboard_of};
use instantmirror_core::memory::{MemoryCache, Nothing};
use instantmirror_core::traits::{
    BatchItem, ByteStream, Catalogs, Class, ObjectCache, ObjectSource, PeerTransport, TransportError,
};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{ObjectId, RepoName};
use instantmirror_http::{Api, Server, Service};
use instantmirror_swarm::HttpOrigin;
use tokio::runtime::{Handle, Runtime};

/// Shows every repository as there, and empty: the API asks for no more before it hands objects out.
#[derive(Debug)]
struct Empty;

impl Catalogs for Empty {
    fn repositories(&self) -> Vec<RepoName> {
        Vec::new()
    }

    fn state(&self, repository: &RepoName) -> Option<Arc<RepositoryState>> {
        Some(Arc::new(RepositoryState::empty(repository.clone())))
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        Nothing.nodes()
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Nothing.objects()
    }
}

/// The suite polls without a runtime; the client's sockets and timers need to know theirs whenever they are polled.
#[derive(Debug)]
struct Inside<T> {
    runtime: Handle,
    inner: T,
}

impl<F: Future + Unpin> Future for Inside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        Pin::new(&mut self.inner).poll(context)
    }
}

impl<S: Stream + Unpin> Stream for Inside<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        self.inner.poll_next_unpin(context)
    }
}

impl<T> Inside<T> {
    fn with<U>(&self, inner: U) -> Inside<U> {
        let runtime = self.runtime.clone();
        Inside { runtime, inner }
    }
}

#[async_trait]
impl PeerTransport for Inside<HttpOrigin> {
    fn label(&self) -> &str {
        self.inner.label()
    }

    async fn range(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        class: Class,
    ) -> Result<ByteStream, TransportError> {
        let body = self
            .with(pin!(self.inner.range(repository, object, range, class)))
            .await?;
        Ok(Box::pin(self.with(body)))
    }

    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError> {
        self.with(pin!(self.inner.outboard(repository, object, size, class)))
            .await
    }

    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        self.with(pin!(self.inner.batch(repository, objects, class, sink)))
            .await
    }
}

async fn filled(objects: &[Bytes]) -> MemoryCache {
    let cache = MemoryCache::new(None);
    for data in objects {
        let fill = cache.fill(&ObjectId::of(data), data.len() as u64).await.unwrap();
        fill.set_outboard(outboard_of(data)).await.unwrap();
        fill.write(0, data.clone()).await.unwrap();
        fill.finish().await.unwrap();
    }
    cache
}

/// The runtime is the ground: it ends, and the server with it, after the transport.
fn make(objects: &[Bytes]) -> Subject<Inside<HttpOrigin>> {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Server::bind("127.0.0.1:0".parse().unwrap())).unwrap();
    let base = format!("http://{}", server.addresses()[0]);
    let cache = runtime.block_on(filled(objects));
    let service = Service::new(Arc::new(Empty)).with_api(Api::new(Arc::new(Nothing), Arc::new(cache)));
    runtime.spawn(server.serve(Arc::new(service), std::future::pending()));
    let origin = Inside {
        runtime: runtime.handle().clone(),
        inner: HttpOrigin::new(&base).unwrap(),
    };
    Subject::on(origin, runtime)
}

instantmirror_core::peer_transport_conformance!(make);

#[test]
fn it_is_seen_how_long_the_master_takes_to_answer() {
    let subject = make(&[]);
    let repository: RepoName = "r".parse().unwrap();
    let transport: &Inside<HttpOrigin> = &subject;
    let asked = pin!(transport.inner.answer_time(&repository));
    assert!(futures_executor::block_on(transport.with(asked)).is_some());
    // Nobody listens there.
    let silent = transport.with(HttpOrigin::new("http://127.0.0.1:9").unwrap());
    let asked = pin!(silent.inner.answer_time(&repository));
    assert!(futures_executor::block_on(silent.with(asked)).is_none());
}

mod as_upstream {
    use instantmirror_core::memory::MemoryCatalogs;

    use super::*;

    /// The runtime is there to the end, and entered on this thread: the suite polls without one.
    fn make(catalogs: &MemoryCatalogs) -> Subject<HttpOrigin> {
        let runtime: &'static Runtime = Box::leak(Box::new(Runtime::new().unwrap()));
        let server = runtime.block_on(Server::bind("127.0.0.1:0".parse().unwrap())).unwrap();
        let base = format!("http://{}", server.addresses()[0]);
        let shown = Arc::new(catalogs.clone());
        let service = Service::new(shown.clone()).with_api(Api::new(shown, Arc::new(MemoryCache::new(None))));
        runtime.spawn(server.serve(Arc::new(service), std::future::pending()));
        Subject::on(HttpOrigin::new(&base).unwrap(), runtime.enter())
    }

    instantmirror_core::upstream_conformance!(make);
}
