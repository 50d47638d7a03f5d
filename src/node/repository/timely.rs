//! [`Timely`]: a source that somebody else wrote, with limits for its waiting.
//!
//! Decision: [`HttpOrigin`](instantmirror_swarm::HttpOrigin) and the swarm of this project bound
//! their own waiting, as the traits ask for. A source of an embedder may forget to, and a fetch
//! that waits for it asks nobody else; so the builder puts this around it. The limits are those of
//! a master over HTTP.
//!
//! Invariant: no call, and no step of a stream, waits for longer than its limit. A call that would
//! fails with [`TransportError::Unreachable`], after which other sources are asked, and the log
//! names the source, once a minute at most. Cancellation: the call of the source is dropped with
//! the call of `Timely`. A source that blocks its thread is out of reach: no timer runs there.

use std::fmt::Debug;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use instantmirror_core::log_limit::LogLimit;
use instantmirror_core::traits::{
    BatchItem, ByteStream, Class, GroupRequest, GroupStream, HeadNews, PeerTransport, Swarm, Upstream,
};
use instantmirror_core::{NodeId, ObjectId, Outboard, RepoName, SnapshotId, TransportError};
use instantmirror_swarm::origin::{LONG_POLL_GRACE, PROGRESS_TIMEOUT};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

/// How long a first answer may take: as long as that of a master.
const ANSWER_TIMEOUT: Duration = PROGRESS_TIMEOUT;
/// How long a transfer may make no progress after it: as long as that of a master.
const GAP_TIMEOUT: Duration = PROGRESS_TIMEOUT;
/// How long a question for news may wait before a fresh question has to show that somebody is
/// there: masters hold one for 55 s, and get a grace for the way.
const POLL_TIMEOUT: Duration = Duration::from_secs(55).saturating_add(LONG_POLL_GRACE);
/// Bytes a second that are presumed to come while nobody can see them, because they are handed over
/// whole (outboards, the objects of a batch): such a call has so much longer to answer.
const UNSEEN_RATE: u64 = 64 << 10;
/// A stream that is polled so long after its limit was not waited for meanwhile: its reader did
/// something else, which is not the sender's fault.
const READER_AWAY: Duration = Duration::from_secs(1);

/// A source whose waiting is bounded.
#[derive(Debug)]
pub(super) struct Timely<T> {
    inner: T,
    part: Arc<Part>,
}

/// How the log and errors call a source.
#[derive(Debug)]
struct Part {
    label: String,
    type_name: &'static str,
    limit: LogLimit,
}

impl<T> Timely<T> {
    pub(super) fn new(inner: T, label: impl Fn(&T) -> &str) -> Self {
        let part = Part {
            label: label(&inner).to_owned(),
            type_name: std::any::type_name::<T>(),
            limit: LogLimit::per_minute(),
        };
        Self {
            inner,
            part: Arc::new(part),
        }
    }
}

impl Part {
    /// Says that the source did not do something in time.
    fn late(&self, missed: &str, limit: Duration) -> TransportError {
        let (part, type_name) = (&self.label, self.type_name);
        let reason = format!("{missed} within {} s", limit.as_secs());
        match self.limit.admit(std::time::Instant::now()) {
            Some(line) => tracing::warn!(
                suppressed = line.suppressed(),
                part,
                type_name,
                "a source does not bound its waiting: {reason}; other sources are asked"
            ),
            None => tracing::debug!(part, type_name, "{reason}"),
        }
        TransportError::Unreachable {
            from: part.clone(),
            reason,
        }
    }

    /// An answer that comes whole, and may have so many bytes.
    async fn whole<O>(
        &self,
        what: &str,
        bytes: u64,
        call: impl Future<Output = Result<O, TransportError>>,
    ) -> Result<O, TransportError> {
        let limit = limit_for(bytes);
        match timeout(limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(self.late(&format!("no answer ({what})"), limit)),
        }
    }

    /// The same of a call that begins a transfer or answers in a few bytes.
    async fn first<O>(
        &self,
        what: &str,
        call: impl Future<Output = Result<O, TransportError>>,
    ) -> Result<O, TransportError> {
        self.whole(what, 0, call).await
    }

    async fn outboard(
        &self,
        object: &ObjectId,
        size: u64,
        call: impl Future<Output = Result<Bytes, TransportError>>,
    ) -> Result<Bytes, TransportError> {
        let what = format!("the outboard of object {object}");
        self.whole(&what, Outboard::len_for(size), call).await
    }

    /// A batch, of which each item is progress.
    async fn batch(
        &self,
        objects: &[(ObjectId, u64)],
        progress: &Progress,
        call: impl Future<Output = Result<(), TransportError>>,
    ) -> Result<(), TransportError> {
        let bytes = objects.iter().map(|(_, size)| *size);
        let limit = limit_for(bytes.fold(0, u64::saturating_add));
        let mut call = std::pin::pin!(call);
        loop {
            let last = progress.last();
            match timeout_at(last + limit, &mut call).await {
                Ok(answer) => return answer,
                Err(_) if progress.last() > last => {}
                Err(_) => return Err(self.late(&format!("no object of a batch of {}", objects.len()), limit)),
            }
        }
    }

    /// A transfer, each item of which is progress.
    fn stream<S>(self: &Arc<Self>, what: String, inner: S) -> TimelyStream<S> {
        TimelyStream {
            inner: Some(inner),
            timer: Box::pin(sleep_until(Instant::now() + GAP_TIMEOUT)),
            is_waiting: false,
            part: Arc::clone(self),
            what,
        }
    }
}

/// How long an answer of so many bytes may take.
fn limit_for(bytes: u64) -> Duration {
    ANSWER_TIMEOUT + Duration::from_secs(bytes / UNSEEN_RATE)
}

/// When a batch last made progress.
#[derive(Debug)]
struct Progress(Mutex<Instant>);

impl Progress {
    fn begin() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands items on, and takes note of them.
    fn noting(&self, sink: &mut (dyn FnMut(BatchItem) + Send)) -> impl FnMut(BatchItem) + Send {
        move |item| {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            sink(item);
        }
    }
}

/// A stream that fails when it makes its reader wait for longer than [`GAP_TIMEOUT`].
struct TimelyStream<S> {
    /// Gone after the failure.
    inner: Option<S>,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer runs.
    is_waiting: bool,
    part: Arc<Part>,
    what: String,
}

impl<S, T> Stream for TimelyStream<S>
where
    S: Stream<Item = Result<T, TransportError>> + Unpin,
{
    type Item = Result<T, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(item) = Pin::new(inner).poll_next(context) {
            this.is_waiting = false;
            return Poll::Ready(item);
        }
        let now = Instant::now();
        if !this.is_waiting || now > this.timer.deadline() + READER_AWAY {
            this.is_waiting = true;
            this.timer.as_mut().reset(now + GAP_TIMEOUT);
        }
        ready!(this.timer.as_mut().poll(context));
        this.inner = None;
        let late = this.part.late(&format!("no more of {}", this.what), GAP_TIMEOUT);
        Poll::Ready(Some(Err(late)))
    }
}

#[async_trait]
impl<T: PeerTransport> PeerTransport for Timely<T> {
    fn label(&self) -> &str {
        self.inner.label()
    }

    async fn answer_time(&self, repository: &RepoName) -> Option<Duration> {
        // That there is none is an answer too, and nobody waits for it.
        timeout(ANSWER_TIMEOUT, self.inner.answer_time(repository)).await.ok()?
    }

    async fn range(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        class: Class,
    ) -> Result<ByteStream, TransportError> {
        let what = format!("object {object}");
        let call = self.inner.range(repository, object, range, class);
        let stream = self.part.first(&what, call).await?;
        Ok(Box::pin(self.part.stream(what, stream)))
    }

    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError> {
        let call = self.inner.outboard(repository, object, size, class);
        self.part.outboard(object, size, call).await
    }

    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        let progress = Progress::begin();
        let mut noting = progress.noting(sink);
        let call = self.inner.batch(repository, objects, class, &mut noting);
        self.part.batch(objects, &progress, call).await
    }
}

#[async_trait]
impl<T: Swarm> Swarm for Timely<T> {
    fn label(&self) -> &str {
        self.inner.label()
    }

    async fn groups(&self, repository: &RepoName, request: GroupRequest) -> Result<GroupStream, TransportError> {
        let what = format!("object {}", request.object);
        let call = self.inner.groups(repository, request);
        let stream = self.part.first(&what, call).await?;
        Ok(Box::pin(self.part.stream(what, stream)))
    }

    fn is_ready(&self, object: &ObjectId) -> bool {
        self.inner.is_ready(object)
    }

    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError> {
        let call = self.inner.outboard(repository, object, size, class);
        self.part.outboard(object, size, call).await
    }

    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        let progress = Progress::begin();
        let mut noting = progress.noting(sink);
        let call = self.inner.batch(repository, objects, class, &mut noting);
        self.part.batch(objects, &progress, call).await
    }
}

impl<T: Upstream> Timely<T> {
    /// The head of now, asked for afresh after a long wait. An upstream may wait for longer than
    /// our masters do; it is well if it answers this, be it with the word that it has none.
    async fn head_now(&self, repository: &RepoName) -> Result<Option<Bytes>, TransportError> {
        let call = self.inner.head(repository, None);
        match self.part.first(&format!("the head of '{repository}'"), call).await {
            Err(TransportError::NotFound { .. }) => Ok(None),
            answer => answer,
        }
    }
}

#[async_trait]
impl<T: Upstream> Upstream for Timely<T> {
    fn label(&self) -> &str {
        self.inner.label()
    }

    async fn head(&self, repository: &RepoName, after: Option<u64>) -> Result<Option<Bytes>, TransportError> {
        let call = self.inner.head(repository, after);
        if after.is_none() {
            return self.part.first(&format!("the head of '{repository}'"), call).await;
        }
        match timeout(POLL_TIMEOUT, call).await {
            Ok(answer) => answer,
            Err(_) => self.head_now(repository).await,
        }
    }

    async fn head_news(&self, repository: &RepoName, held: u64, wait: bool) -> Result<HeadNews, TransportError> {
        let call = self.inner.head_news(repository, held, wait);
        // A first head may be waited for in any case.
        if !wait && held > 0 {
            return self.part.first(&format!("the head of '{repository}'"), call).await;
        }
        match timeout(POLL_TIMEOUT, call).await {
            Ok(answer) => answer,
            Err(_) => {
                let head = self.head_now(repository).await?;
                Ok(head.map_or(HeadNews::NoneNewer, HeadNews::Head))
            }
        }
    }

    async fn keys(&self, repository: &RepoName) -> Result<Bytes, TransportError> {
        let what = format!("the key lists of '{repository}'");
        self.part.first(&what, self.inner.keys(repository)).await
    }

    async fn snapshot(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<Bytes, TransportError> {
        let what = format!("snapshot {snapshot}");
        self.part.first(&what, self.inner.snapshot(repository, snapshot)).await
    }

    async fn delta(
        &self,
        repository: &RepoName,
        have: Option<NodeId>,
        want: NodeId,
    ) -> Result<ByteStream, TransportError> {
        let what = format!("catalog {want}");
        let call = self.inner.delta(repository, have, want);
        let stream = self.part.first(&what, call).await?;
        Ok(Box::pin(self.part.stream(what, stream)))
    }
}

#[cfg(test)]
mod tests;
