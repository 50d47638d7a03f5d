//! Scripted sources in virtual time, the log, and the suites around good sources.

use std::io;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use instantmirror_core::conformance::Subject;
use instantmirror_core::memory::{MemoryCatalogs, MemorySwarm, MemoryTransport};
use instantmirror_core::traits::{Group, Receipt};
use tokio::time::sleep;

use super::*;

const NEVER: u64 = u64::MAX;

/// A source that answers after so many seconds, and has each next part after so many more.
#[derive(Debug, Clone)]
struct Script {
    first: u64,
    gaps: &'static [u64],
    /// After how long a fresh question for a head is answered.
    fresh: u64,
    has_head: bool,
}

fn script(first: u64, gaps: &'static [u64]) -> Timely<Script> {
    let script = Script {
        first,
        gaps,
        fresh: 1,
        has_head: true,
    };
    Timely::new(script, <Script as PeerTransport>::label)
}

async fn wait(seconds: u64) {
    match seconds {
        NEVER => std::future::pending().await,
        _ => sleep(Duration::from_secs(seconds)).await,
    }
}

#[derive(Debug)]
struct Unheard;

impl Receipt for Unheard {
    fn good(self: Box<Self>) {}

    fn bad(self: Box<Self>) {}
}

impl Script {
    fn parts<T: Send + 'static>(&self, part: fn() -> T) -> Pin<Box<dyn Stream<Item = T> + Send>> {
        let parts = stream::iter(self.gaps).then(move |gap| async move {
            wait(*gap).await;
            part()
        });
        Box::pin(parts)
    }
}

#[async_trait]
impl PeerTransport for Script {
    fn label(&self) -> &str {
        "a script"
    }

    async fn range(&self, _: &RepoName, _: &ObjectId, _: Range<u64>, _: Class) -> Result<ByteStream, TransportError> {
        wait(self.first).await;
        Ok(self.parts(|| Ok(Bytes::from_static(b"x"))))
    }

    async fn outboard(&self, _: &RepoName, _: &ObjectId, _: u64, _: Class) -> Result<Bytes, TransportError> {
        wait(self.first).await;
        Ok(Bytes::new())
    }

    async fn batch(
        &self,
        _: &RepoName,
        objects: &[(ObjectId, u64)],
        _: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        wait(self.first).await;
        for (gap, (object, _)) in self.gaps.iter().zip(objects) {
            wait(*gap).await;
            sink((*object, Ok(Bytes::new())));
        }
        Ok(())
    }
}

#[async_trait]
impl Swarm for Script {
    fn label(&self) -> &str {
        "a script"
    }

    async fn groups(&self, _: &RepoName, _: GroupRequest) -> Result<GroupStream, TransportError> {
        wait(self.first).await;
        Ok(self.parts(|| {
            let (offset, data, receipt) = (0, Bytes::new(), Box::new(Unheard));
            Ok(Group { offset, data, receipt })
        }))
    }

    fn is_ready(&self, _: &ObjectId) -> bool {
        true
    }

    async fn outboard(&self, name: &RepoName, id: &ObjectId, size: u64, class: Class) -> Result<Bytes, TransportError> {
        PeerTransport::outboard(self, name, id, size, class).await
    }

    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        PeerTransport::batch(self, repository, objects, class, sink).await
    }
}

#[async_trait]
impl Upstream for Script {
    fn label(&self) -> &str {
        "a script"
    }

    async fn head(&self, _: &RepoName, after: Option<u64>) -> Result<Option<Bytes>, TransportError> {
        wait(if after.is_some() { self.first } else { self.fresh }).await;
        match self.has_head {
            true => Ok(Some(Bytes::from_static(b"head"))),
            false => Err(TransportError::NotFound {
                from: "a script".to_owned(),
                what: "a head".to_owned(),
            }),
        }
    }

    async fn snapshot(&self, _: &RepoName, _: SnapshotId) -> Result<Bytes, TransportError> {
        wait(self.first).await;
        Ok(Bytes::new())
    }

    async fn delta(&self, _: &RepoName, _: Option<NodeId>, _: NodeId) -> Result<ByteStream, TransportError> {
        wait(self.first).await;
        Ok(self.parts(|| Ok(Bytes::from_static(b"x"))))
    }
}

fn name() -> RepoName {
    "debian".parse().unwrap()
}

fn object() -> ObjectId {
    ObjectId::of(b"x")
}

/// How many parts came, whether all did, and after how many seconds that was known.
async fn read<T>(
    begin: impl Future<Output = Result<Pin<Box<dyn Stream<Item = Result<T, TransportError>> + Send>>, TransportError>>,
) -> (usize, bool, u64) {
    let begun = Instant::now();
    let (mut parts, mut is_whole) = (0, false);
    if let Ok(mut stream) = begin.await {
        is_whole = true;
        while let Some(part) = stream.next().await {
            is_whole = part.is_ok();
            parts += usize::from(part.is_ok());
        }
    }
    (parts, is_whole, begun.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_and_each_part_have_thirty_seconds() {
    let (name, object) = (name(), object());
    let request = GroupRequest {
        object,
        size: 1,
        range: 0..1,
        class: Class::Demand,
        rank: 0,
    };
    for (first, gaps, expected) in [
        (NEVER, &[1][..], (0, false, 30)),
        (31, &[1], (0, false, 30)),
        (29, &[29, 29, 29], (3, true, 116)),
        (1, &[], (0, true, 1)),
        (1, &[2, NEVER], (1, false, 33)),
        (1, &[NEVER], (0, false, 31)),
    ] {
        let source = script(first, gaps);
        let range = source.range(&name, &object, 0..1, Class::Demand);
        assert_eq!(read(range).await, expected, "range {first} {gaps:?}");
        let groups = source.groups(&name, request.clone());
        assert_eq!(read(groups).await, expected, "groups {first} {gaps:?}");
        let delta = source.delta(&name, None, NodeId::of(b"x"));
        assert_eq!(read(delta).await, expected, "delta {first} {gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_something_else_is_not_the_senders_fault() {
    let (name, object) = (name(), object());
    let source = script(0, &[50, NEVER]);
    let range = source.range(&name, &object, 0..1, Class::Demand);
    let mut stream = range.await.unwrap();
    assert!(stream.next().now_or_never().is_none());
    sleep(Duration::from_secs(45)).await;
    let begun = Instant::now();
    assert!(stream.next().await.unwrap().is_ok());
    assert!(stream.next().await.unwrap().is_err());
    assert!(stream.next().await.is_none());
    assert_eq!(begun.elapsed().as_secs(), 35);
}

#[tokio::test(start_paused = true)]
async fn each_object_of_a_batch_is_progress() {
    let objects = [(object(), 10); 3];
    for (first, gaps, expected) in [
        (NEVER, &[][..], (0, false, 30)),
        (1, &[1, 1, 1], (3, true, 4)),
        (1, &[20, 29, 29], (3, true, 79)),
        (1, &[20, 29, NEVER], (2, false, 80)),
    ] {
        let (source, begun, mut items) = (script(first, gaps), Instant::now(), 0);
        let mut sink = |_: BatchItem| items += 1;
        let done = PeerTransport::batch(&source, &name(), &objects, Class::Demand, &mut sink).await;
        assert_eq!(
            (items, done.is_ok(), begun.elapsed().as_secs()),
            expected,
            "{first} {gaps:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_whole_has_time_for_its_bytes() {
    for (first, size, is_there) in [
        (29, 1, true),
        (31, 1, false),
        (31, 1 << 30, true),
        (NEVER, 1 << 30, false),
    ] {
        let source = script(first, &[]);
        let answer = PeerTransport::outboard(&source, &name(), &object(), size, Class::Demand).await;
        assert_eq!(answer.is_ok(), is_there, "{first} {size}");
    }
    let (source, begun) = (script(NEVER, &[]), Instant::now());
    let mut sink = |_: BatchItem| ();
    let objects = [(object(), 1 << 20); 4];
    let done = Swarm::batch(&source, &name(), &objects, Class::Demand, &mut sink).await;
    assert!(matches!(done, Err(TransportError::Unreachable { .. })), "{done:?}");
    assert_eq!(begun.elapsed().as_secs(), 30 + 64);
}

#[tokio::test(start_paused = true)]
async fn a_question_for_news_may_wait_as_long_as_a_fresh_one_is_answered() {
    let head = Ok(Some(Bytes::from_static(b"head")));
    for (first, fresh, has_head, expected, seconds) in [
        (70, 1, true, head.clone(), 70),
        (NEVER, 1, true, head.clone(), 76),
        (NEVER, 1, false, Ok(None), 76),
        (NEVER, NEVER, true, Err(()), 105),
    ] {
        let mut source = script(first, &[]);
        (source.inner.fresh, source.inner.has_head) = (fresh, has_head);
        for wait in [false, true] {
            let begun = Instant::now();
            let news = source.head_news(&name(), 0, wait).await;
            let news = news.map(|news| match news {
                HeadNews::Head(head) => Some(head),
                _ => None,
            });
            assert_eq!(news.map_err(drop), expected, "{first} {fresh}");
            assert_eq!(begun.elapsed().as_secs(), seconds, "{first} {fresh}");
        }
        let answer = source.head(&name(), Some(7)).await;
        assert_eq!(answer.map_err(drop), expected, "{first} {fresh}");
    }
    let mut source = script(NEVER, &[]);
    source.inner.fresh = NEVER;
    let begun = Instant::now();
    assert!(source.head(&name(), None).await.is_err());
    assert!(source.head_news(&name(), 7, false).await.is_err());
    assert!(
        source
            .snapshot(&name(), SnapshotId::from_random([1; 16]))
            .await
            .is_err()
    );
    assert_eq!(begun.elapsed().as_secs(), 90);
}

#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_names_the_source_once_a_minute() {
    let written = Written::default();
    let writer = written.clone();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(lines.finish());
    let source = script(NEVER, &[]);
    for _ in 0..3 {
        let range = source.range(&name(), &object(), 0..1, Class::Demand).await;
        let Err(TransportError::Unreachable { from, reason }) = range else {
            panic!("it never answers");
        };
        assert_eq!(from, "a script");
        assert_eq!(reason, format!("no answer (object {}) within 30 s", object()));
    }
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let type_name = std::any::type_name::<Script>();
    for expected in [
        "a source does not bound its waiting",
        "a script",
        type_name,
        "within 30 s",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

/// The suites have no timers: the test's thread is inside a runtime that has some, and is never left.
fn inside<T: Debug>(timely: Timely<T>) -> Subject<Timely<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = Box::leak(Box::new(runtime.unwrap()));
    Subject::on(timely, runtime.enter())
}

mod transport {
    use super::*;

    fn make(objects: &[Bytes]) -> Subject<Timely<MemoryTransport>> {
        let mut transport = MemoryTransport::new();
        objects.iter().for_each(|object| _ = transport.insert(object.clone()));
        inside(Timely::new(transport, MemoryTransport::label))
    }

    instantmirror_core::peer_transport_conformance!(make);
}

mod swarm {
    use super::*;

    fn make(objects: &[Bytes]) -> Subject<Timely<MemorySwarm>> {
        let mut swarm = MemorySwarm::new();
        objects.iter().for_each(|object| _ = swarm.insert(object.clone()));
        inside(Timely::new(swarm, MemorySwarm::label))
    }

    instantmirror_core::swarm_conformance!(make);
}

mod upstream {
    use super::*;

    instantmirror_core::upstream_conformance!(|catalogs: &MemoryCatalogs| {
        inside(Timely::new(catalogs.clone(), MemoryCatalogs::label))
    });
}
