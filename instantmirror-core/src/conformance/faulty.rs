//! A transport that misbehaves as it is told: the wrapper for tests of whoever fetches.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::traits::{BatchItem, ByteStream, Class, PeerTransport, TransportError};
use crate::{ObjectId, RepoName};

/// Bytes in one item of a stream.
const CHUNK_BYTES: usize = 16 * 1024;

/// Something that was asked of a [`FaultyTransport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Bytes of an object.
    Range(ObjectId, Range<u64>),
    /// The outboard of an object.
    Outboard(ObjectId),
    /// Many objects.
    Batch(Vec<ObjectId>),
}

/// A [`PeerTransport`] around another one, with faults that can be changed while it runs. Remembers what it was
/// asked. Never sleeps: what is held back waits until [`allow`](Self::allow) is called. Clones share everything.
#[derive(Debug, Clone)]
pub struct FaultyTransport {
    inner: Arc<dyn PeerTransport>,
    shared: Arc<Mutex<State>>,
    label: &'static str,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    failing: u64,
    cut_after: Option<u64>,
    flip_at: Option<u64>,
    forge_outboards: bool,
    /// Bytes that may still be delivered; `None`: any number.
    budget: Option<u64>,
    waiting: Vec<Waker>,
    delivered: u64,
    streams: usize,
    answers: Option<Duration>,
    /// How often all open streams were broken off.
    breaks: u64,
}

impl FaultyTransport {
    /// A wrapper that does nothing wrong yet.
    pub fn new(label: &'static str, inner: impl PeerTransport) -> Self {
        Self {
            inner: Arc::new(inner),
            shared: Arc::default(),
            label,
        }
    }

    // Plain numbers: whole after any panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `calls` calls fail as if nobody were there.
    pub fn fail_next(&self, calls: u64) {
        self.state().failing = calls;
    }

    /// Every stream that is opened from now on breaks off after this many bytes.
    pub fn cut_after(&self, bytes: Option<u64>) {
        self.state().cut_after = bytes;
    }

    /// Flips a bit of the byte at this offset of whatever object it is in.
    pub fn flip_at(&self, offset: Option<u64>) {
        self.state().flip_at = offset;
    }

    /// Flips a bit of every outboard.
    pub fn forge_outboards(&self, forge: bool) {
        self.state().forge_outboards = forge;
    }

    /// Delivers nothing more until [`allow`](Self::allow) or [`release`](Self::release). Calls are still answered.
    pub fn hold(&self) {
        self.state().budget = Some(0);
    }

    /// Delivers this many bytes more, over all streams.
    pub fn allow(&self, bytes: u64) {
        let mut state = self.state();
        state.budget = Some(state.budget.unwrap_or(0) + bytes);
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Holds nothing back any more.
    pub fn release(&self) {
        let mut state = self.state();
        state.budget = None;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Every stream that is open now breaks off.
    pub fn fail_open_streams(&self) {
        let mut state = self.state();
        state.breaks += 1;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Says that the smallest answers take so long from now on; they take no time.
    pub fn answer_after(&self, delay: Option<Duration>) {
        self.state().answers = delay;
    }

    /// All that was asked so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The ranges that were asked for, in order.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let range = |call: &Call| match call {
            Call::Range(_, range) => Some(range.clone()),
            _ => None,
        };
        self.state().calls.iter().filter_map(range).collect()
    }

    /// Bytes delivered so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.state().delivered
    }

    /// Streams that are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.state().streams
    }

    fn unreachable(&self, reason: &str) -> TransportError {
        TransportError::Unreachable {
            from: self.label.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn enter(&self, call: Call) -> Result<(), TransportError> {
        let mut state = self.state();
        state.calls.push(call);
        if state.failing == 0 {
            return Ok(());
        }
        state.failing -= 1;
        Err(self.unreachable("nobody answers"))
    }
}

#[async_trait]
impl PeerTransport for FaultyTransport {
    fn label(&self) -> &str {
        self.label
    }

    async fn answer_time(&self, _repository: &RepoName) -> Option<Duration> {
        self.state().answers
    }

    async fn range(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        class: Class,
    ) -> Result<ByteStream, TransportError> {
        self.enter(Call::Range(*object, range.clone()))?;
        let inner = self.inner.range(repository, object, range.clone(), class).await?;
        let (left, breaks) = {
            let mut state = self.state();
            state.streams += 1;
            (state.cut_after, state.breaks)
        };
        Ok(Box::pin(FaultyStream {
            transport: self.clone(),
            inner,
            held: Bytes::new(),
            position: range.start,
            left,
            breaks,
            over: false,
        }))
    }

    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError> {
        self.enter(Call::Outboard(*object))?;
        let mut values = self.inner.outboard(repository, object, size, class).await?.to_vec();
        if self.state().forge_outboards
            && let Some(byte) = values.first_mut()
        {
            *byte ^= 1;
        }
        Ok(values.into())
    }

    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        self.enter(Call::Batch(objects.iter().map(|(object, _)| *object).collect()))?;
        let mut items = Vec::new();
        let inner = self
            .inner
            .batch(repository, objects, class, &mut |item| items.push(item))
            .await;
        let mut left = self.state().cut_after;
        for (object, content) in items {
            let Ok(content) = content else {
                sink((object, content));
                continue;
            };
            let len = content.len() as u64;
            if left.is_some_and(|left| left < len) {
                return Err(self.unreachable("the connection broke"));
            }
            left = left.map(|left| left - len);
            std::future::poll_fn(|context| self.poll_budget(context, len)).await;
            sink((object, Ok(self.flipped(content))));
        }
        inner
    }
}

impl FaultyTransport {
    /// Waits until so many bytes may be delivered, and counts them as delivered.
    fn poll_budget(&self, context: &Context<'_>, bytes: u64) -> Poll<()> {
        let mut state = self.state();
        if state.budget.is_some_and(|budget| budget < bytes) {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        state.budget = state.budget.map(|budget| budget - bytes);
        state.delivered += bytes;
        Poll::Ready(())
    }

    fn flipped(&self, content: Bytes) -> Bytes {
        let Some(place) = self.state().flip_at.and_then(|at| usize::try_from(at).ok()) else {
            return content;
        };
        let mut content = Vec::from(content);
        if let Some(byte) = content.get_mut(place) {
            *byte ^= 1;
        }
        content.into()
    }
}

struct FaultyStream {
    transport: FaultyTransport,
    inner: ByteStream,
    held: Bytes,
    position: u64,
    left: Option<u64>,
    breaks: u64,
    over: bool,
}

impl Stream for FaultyStream {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        while this.held.is_empty() {
            match this.inner.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) => this.held = bytes,
                Poll::Ready(end) => {
                    this.over = true;
                    return Poll::Ready(end);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if this.left == Some(0) || this.breaks < this.transport.state().breaks {
            this.over = true;
            return Poll::Ready(Some(Err(this.transport.unreachable("the connection broke"))));
        }
        let transport = this.transport.clone();
        let mut state = transport.state();
        if state.budget == Some(0) {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        let most = [Some(CHUNK_BYTES as u64), this.left, state.budget]
            .into_iter()
            .flatten()
            .min();
        let take = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(CHUNK_BYTES);
        let part = this.held.split_to(take.min(this.held.len()));
        let len = part.len() as u64;
        this.left = this.left.map(|left| left - len);
        state.budget = state.budget.map(|budget| budget - len);
        state.delivered += len;
        let place = state
            .flip_at
            .and_then(|at| usize::try_from(at.checked_sub(this.position)?).ok());
        this.position += len;
        let mut part = Vec::from(part);
        if let Some(byte) = place.and_then(|at| part.get_mut(at)) {
            *byte ^= 1;
        }
        Poll::Ready(Some(Ok(part.into())))
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        self.transport.state().streams -= 1;
    }
}
