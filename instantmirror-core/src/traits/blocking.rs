//! [`Blocking`] makes an implementation that blocks fit for async callers: it runs its calls on [`Threads`] that may block.
//!
//! Why there are such threads at all: a regular file is always "ready" for `epoll`, and reading a page of it that is not in
//! memory puts the calling thread to sleep for as long as the disk takes, milliseconds or, on one that fails, minutes. On a
//! thread of a runtime that stops every other connection which it serves. io_uring would not need the thread, but the default
//! seccomp profiles of container runtimes forbid it, older kernels lack half of the calls, and what would gain most from it,
//! an object in the page cache, is sent by `sendfile` from its descriptor without coming here. What remains costs some 10 µs for
//! waking a thread, for up to 256 KiB that take longer to copy and hash.
//!
//! Which threads: core starts none. [`Threads`] takes whatever runs a closure elsewhere: with tokio `spawn_blocking` of the
//! runtime on which the call is polled, so that background work stays on background threads; with smol `blocking::unblock`; in
//! a test a thread for each. The pool bounds how many run at a time, and closures beyond that wait their turn in it.
//!
//! Cancellation: a closure that has begun runs to its end, and its result is thrown away: half a write cannot be taken back
//! by anybody. One that has not begun when its future is dropped does nothing.

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use async_trait::async_trait;
use bytes::Bytes;
use futures_channel::oneshot;

use super::{
    Adoption, CacheError, CacheUsage, Inventory, ObjectCache, ObjectFill, ObjectHandle, Objects, Pins, Quota, Scrubber,
    Sweeper,
};
use crate::outboard::Outboard;
use crate::{ObjectId, RangeSet};

/// Something to be run once, on a thread that may block.
pub type Work = Box<dyn FnOnce() + Send>;

/// Runs closures on threads that may block. Clones share the threads.
#[derive(Clone)]
pub struct Threads(Arc<dyn Fn(Work) + Send + Sync>);

impl Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Threads")
    }
}

/// The work was dropped before it ended: it panicked, or the threads are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread that did it ended early")]
pub struct Lost;

thread_local! {
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread may block while `work` runs: what [`Threads`] are asked to do meanwhile is done in place. For a caller
/// that takes one thread for many calls, where a thread for each would cost more than the calls.
pub fn may_block<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            MAY_BLOCK.set(self.0);
        }
    }
    let _restore = Restore(MAY_BLOCK.replace(true));
    work()
}

impl Threads {
    /// Threads that `run` hands work to. It must return at once; work that it drops is reported as [`Lost`].
    pub fn new(run: impl Fn(Work) + Send + Sync + 'static) -> Self {
        Self(Arc::new(run))
    }

    /// Runs `work` on one of the threads, or here if this thread [may block](may_block).
    ///
    /// Cancellation: work that has begun runs to its end; what has not begun is not done.
    ///
    /// # Errors
    /// [`Lost`] if the work panicked or was dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
        if MAY_BLOCK.get() {
            return Ok(work());
        }
        let (sender, receiver) = oneshot::channel();
        (self.0)(Box::new(move || {
            if !sender.is_canceled() {
                // A caller that has left meanwhile need not know.
                let _ = sender.send(may_block(work));
            }
        }));
        receiver.await.map_err(|_| Lost)
    }
}

struct Unpark {
    thread: Thread,
    /// Unparking alone may be lost: a future that blocks by itself while it is polled takes it.
    is_woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Polls a future to its end on this thread, which must be one that [may block](may_block): what the future asks of
/// [`Threads`] is done here.
///
/// Calls may be nested, and what is polled may use an executor of its own, where `block_on` of `futures` panics in the same of
/// its own kind. So caches of whatever kind can be waited for. Timers and I/O are not driven: those of a runtime go on while
/// its own threads run them.
///
/// Cancellation: none; it returns when the future is ready.
pub fn wait<F: Future>(future: F) -> F::Output {
    may_block(|| poll_to_its_end(future))
}

/// The future of an implementation that blocks is ready when it is polled first.
fn poll_to_its_end<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return output;
    }
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        is_woken: AtomicBool::new(false),
    });
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !unpark.is_woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

/// An implementation whose calls may block, for async callers.
///
/// Content and whatever may take a disk long is done on the [`Threads`]: [`read`](ObjectHandle::read),
/// [`write`](ObjectFill::write), [`finish`](ObjectFill::finish), [`outboard`](Objects::outboard),
/// [`remove`](ObjectCache::remove), [`checkpoint`](ObjectCache::checkpoint). [`open`](Objects::open), [`fill`](ObjectCache::fill) and
/// [`set_outboard`](ObjectFill::set_outboard) are done in place: they look something up in memory and open or make a file, which
/// takes less than to wake a thread. A caller that has time (background work) takes a thread for them as well.
///
/// The services ([`Pins`], [`Inventory`] and so on) are those of the implementation: synchronous, for callers that may block.
#[derive(Debug)]
pub struct Blocking<T> {
    inner: Arc<T>,
    threads: Threads,
}

impl<T> Clone for Blocking<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            threads: self.threads.clone(),
        }
    }
}

impl<T> Blocking<T> {
    /// Runs the calls of `inner` on `threads`.
    pub fn new(inner: Arc<T>, threads: Threads) -> Self {
        Self { inner, threads }
    }

    /// The implementation itself, for callers that may block.
    #[must_use]
    pub fn inner(&self) -> &Arc<T> {
        &self.inner
    }
}

/// The error of work that never came to its end.
fn lost(what: &str) -> impl FnOnce(Lost) -> CacheError {
    let what = what.to_owned();
    move |lost| CacheError::Io {
        what,
        source: Arc::new(lost),
    }
}

fn handle_of(inner: Arc<dyn ObjectHandle>, threads: &Threads) -> Arc<dyn ObjectHandle> {
    let threads = threads.clone();
    Arc::new(BlockingHandle { inner, threads })
}

#[async_trait]
impl<T: Objects> Objects for Blocking<T> {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let opened = self.inner.open(object).await?;
        Ok(opened.map(|handle| handle_of(handle, &self.threads)))
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let (inner, object) = (Arc::clone(&self.inner), *object);
        let work = move || wait(inner.outboard(&object));
        self.threads.run(work).await.map_err(lost("reading an outboard"))?
    }
}

#[async_trait]
impl<T: ObjectCache> ObjectCache for Blocking<T> {
    async fn fill(&self, object: &ObjectId, size: u64) -> Result<Arc<dyn ObjectFill>, CacheError> {
        let (inner, threads) = (self.inner.fill(object, size).await?, self.threads.clone());
        Ok(Arc::new(BlockingFill { inner, threads }))
    }

    async fn remove(&self, object: &ObjectId) -> Result<bool, CacheError> {
        let (inner, object) = (Arc::clone(&self.inner), *object);
        let work = move || wait(inner.remove(&object));
        self.threads.run(work).await.map_err(lost("removing an object"))?
    }

    fn overhead_bytes(&self, size: u64) -> u64 {
        self.inner.overhead_bytes(size)
    }

    fn usage(&self) -> CacheUsage {
        self.inner.usage()
    }

    async fn checkpoint(&self) -> Result<(), CacheError> {
        let inner = Arc::clone(&self.inner);
        let work = move || wait(inner.checkpoint());
        self.threads.run(work).await.map_err(lost("writing a checkpoint"))?
    }

    fn pins(&self) -> Option<&dyn Pins> {
        self.inner.pins()
    }

    fn inventory(&self) -> Option<&dyn Inventory> {
        self.inner.inventory()
    }

    fn quota(&self) -> Option<&dyn Quota> {
        self.inner.quota()
    }

    fn sweeper(&self) -> Option<&dyn Sweeper> {
        self.inner.sweeper()
    }

    fn scrubber(&self) -> Option<&dyn Scrubber> {
        self.inner.scrubber()
    }

    fn adoption(&self) -> Option<&dyn Adoption> {
        self.inner.adoption()
    }
}

#[derive(Debug)]
struct BlockingHandle {
    inner: Arc<dyn ObjectHandle>,
    threads: Threads,
}

#[async_trait]
impl ObjectHandle for BlockingHandle {
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
        let inner = Arc::clone(&self.inner);
        let work = move || wait(inner.read(range));
        self.threads.run(work).await.map_err(lost("reading an object"))?
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }
}

#[derive(Debug)]
struct BlockingFill {
    inner: Arc<dyn ObjectFill>,
    threads: Threads,
}

#[async_trait]
impl ObjectFill for BlockingFill {
    fn handle(&self) -> Arc<dyn ObjectHandle> {
        handle_of(self.inner.handle(), &self.threads)
    }

    fn outboard(&self) -> Option<Outboard> {
        self.inner.outboard()
    }

    async fn set_outboard(&self, outboard: Outboard) -> Result<(), CacheError> {
        self.inner.set_outboard(outboard).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CacheError> {
        let inner = Arc::clone(&self.inner);
        let work = move || wait(inner.write(offset, data));
        self.threads.run(work).await.map_err(lost("writing an object"))?
    }

    async fn finish(&self) -> Result<(), CacheError> {
        let inner = Arc::clone(&self.inner);
        let work = move || wait(inner.finish());
        self.threads.run(work).await.map_err(lost("publishing an object"))?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::memory::MemoryCache;

    /// Threads that begin nothing before they are told to.
    fn queue() -> (Threads, Arc<Mutex<Vec<Work>>>) {
        let queue: Arc<Mutex<Vec<Work>>> = Arc::default();
        let waiting = Arc::clone(&queue);
        (Threads::new(move |work| waiting.lock().unwrap().push(work)), queue)
    }

    fn run_all(queue: &Mutex<Vec<Work>>) {
        let waiting = std::mem::take(&mut *queue.lock().unwrap());
        waiting.into_iter().for_each(|work| work());
    }

    fn filled(threads: Threads) -> (Blocking<MemoryCache>, Arc<dyn ObjectFill>) {
        let cache = Blocking::new(Arc::new(MemoryCache::new(None)), threads);
        let fill = cache.fill(&ObjectId::of(b"content"), 7).now_or_never();
        let fill = fill.expect("a fill is begun in place").unwrap();
        (cache, fill)
    }

    #[test]
    fn content_is_read_and_written_on_the_threads() {
        let (threads, queue) = queue();
        let (cache, fill) = filled(threads);
        let mut write = pin!(fill.write(0, Bytes::from_static(b"content")));
        assert!(write.as_mut().now_or_never().is_none());
        assert!(!fill.handle().is_complete());
        run_all(&queue);
        write.now_or_never().unwrap().unwrap();
        let handle = cache.open(&ObjectId::of(b"content")).now_or_never().unwrap().unwrap();
        let handle = handle.unwrap();
        let mut read = pin!(handle.read(1..4));
        assert!(read.as_mut().now_or_never().is_none());
        run_all(&queue);
        assert_eq!(read.now_or_never().unwrap().unwrap(), b"ont"[..]);
        // One thread for many calls.
        let both = may_block(|| (handle.read(0..1).now_or_never(), handle.read(1..2).now_or_never()));
        assert_eq!(
            (both.0.unwrap().unwrap(), both.1.unwrap().unwrap()),
            (Bytes::from("c"), Bytes::from("o"))
        );
        assert!(handle.read(0..1).now_or_never().is_none(), "only while it was said");
    }

    #[test]
    fn what_was_given_up_before_it_began_is_not_done() {
        let (threads, queue) = queue();
        let (_cache, fill) = filled(threads);
        assert!(fill.write(0, Bytes::from_static(b"content")).now_or_never().is_none());
        run_all(&queue);
        assert!(!fill.handle().is_complete());
    }

    #[test]
    fn work_that_is_lost_is_an_error() {
        let (threads, queue) = queue();
        let (_cache, fill) = filled(threads);
        let mut write = pin!(fill.write(0, Bytes::from_static(b"content")));
        assert!(write.as_mut().now_or_never().is_none());
        queue.lock().unwrap().clear();
        let lost = write.now_or_never().unwrap().unwrap_err();
        assert!(lost.to_string().contains("writing an object"), "{lost}");
    }

    #[test]
    fn a_future_that_has_to_wait_is_waited_for() {
        let (sender, receiver) = oneshot::channel();
        let other = thread::spawn(move || sender.send(7));
        assert_eq!(wait(receiver), Ok(7));
        other.join().unwrap().unwrap();
    }

    #[test]
    fn a_wake_that_a_nested_wait_has_taken_is_not_lost() {
        let ((first, outer), (second, inner)) = (oneshot::channel(), oneshot::channel());
        let (begun, is_begun) = std::sync::mpsc::channel();
        let other = thread::spawn(move || {
            is_begun.recv().unwrap();
            first.send(1).unwrap();
            thread::sleep(std::time::Duration::from_millis(20));
            second.send(2).unwrap();
        });
        let mut is_yielded = false;
        let yielded = std::future::poll_fn(move |context| {
            context.waker().wake_by_ref();
            match std::mem::replace(&mut is_yielded, true) {
                false => Poll::Pending,
                true => Poll::Ready(()),
            }
        });
        let nested = async {
            begun.send(()).unwrap();
            wait(inner)
        };
        let both = wait(async {
            yielded.await;
            futures_util::future::join(outer, nested).await
        });
        assert_eq!(both, (Ok(1), Ok(2)));
        other.join().unwrap();
    }
}
