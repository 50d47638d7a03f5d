//! Many small objects with one request: a round trip for each would cost more than their bytes.
//!
//! A batch is one request of the scheduler. An object that a client comes to want meanwhile is fetched for it by itself,
//! at once; whichever of the two is first fills the cache. What a source lacks or gets wrong is asked of the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use instantmirror_core::batch::BATCH_OBJECTS_MAX;
use instantmirror_core::entry::FileMeta;
use instantmirror_core::outboard::{GROUP_BYTES, ObjectHasher, Outboard, VerifyError};
use instantmirror_core::preseed::Step;
use instantmirror_core::traits::blocking::{may_block, wait};
use instantmirror_core::traits::{BatchItem, CacheError, Class, FetchError, Outcome, Request, TransportError};
use instantmirror_core::{ObjectId, RepoName};
use tokio::sync::{mpsc, oneshot};

use super::fill::{Source, unavailable};
use super::flight::broken_off;
use super::passing::has_no_room;
use super::queue::Place;
use super::{Engine, FetchEngine, lock};

/// Largest object that is ever fetched in a batch, in bytes: larger ones have groups enough to be worth a request.
pub const BATCHED_OBJECT_BYTES_MAX: u64 = 512 * 1024;
/// Objects that are written at once, beside the runtime: a thread that is woken for each would cost more than the writing,
/// and one that writes many keeps a processor that a client may want.
const WRITTEN_AT_ONCE: usize = 16;
/// So often, while more waits and nothing more urgent does.
const LOTS_AT_ONCE: usize = 8;
/// Bytes of one batch, at most: what a client may have to wait for on a link that is slow to notice.
pub const BATCH_BYTES_MAX: u64 = 4 << 20;
/// With so many the price of a request is small.
pub(super) const BATCH_BYTES_ENOUGH: u64 = 256 << 10;

/// What a batch brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchDone {
    /// Objects that were not here and are now.
    pub fetched: u64,
    /// Objects that were here.
    pub present: u64,
    /// Objects that could not be had.
    pub failed: u64,
    /// The cache has no room for more.
    pub is_full: bool,
}

type Wanted = HashMap<ObjectId, FileMeta>;

/// Splits what is missing into batches and fetches one after the other.
pub(super) async fn fetch(engine: &Arc<Engine>, repository: &RepoName, files: &[FileMeta], step: Step) -> BatchDone {
    let mut done = BatchDone::default();
    let mut wanted = Wanted::new();
    let mut bytes = 0;
    let handle = FetchEngine(Arc::clone(engine));
    let (max, mut enough) = (handle.batched_bytes_max(), handle.batch_bytes(repository));
    for file in files.iter().filter(|file| file.size <= max) {
        if matches!(handle.holds(file).await, Ok(true)) {
            done.present += 1;
            continue;
        }
        if wanted.len() >= BATCH_OBJECTS_MAX || bytes + file.size > enough {
            fetch_one(engine, repository, std::mem::take(&mut wanted), step, &mut done).await;
            (bytes, enough) = (0, handle.batch_bytes(repository));
        }
        if done.is_full {
            return done;
        }
        bytes += file.size;
        wanted.insert(file.object, *file);
    }
    fetch_one(engine, repository, wanted, step, &mut done).await;
    done
}

async fn fetch_one(engine: &Arc<Engine>, repository: &RepoName, mut wanted: Wanted, step: Step, done: &mut BatchDone) {
    let Some(first) = wanted.keys().next().copied() else {
        return;
    };
    let request = Request {
        repository: repository.clone(),
        object: first,
        objects: wanted.len(),
        size: wanted.values().map(|file| file.size).sum(),
        class: step.class,
        rank: step.rank,
        deadline: engine.queue.now(),
    };
    let mut place = engine.queue.submit(request);
    let before = wanted.len();
    let failure = loop {
        place.turn().await;
        let error = ask_all(engine, repository, &mut wanted, step, &mut done.is_full).await;
        if wanted.is_empty() || done.is_full || !may_retry(&mut place, error.as_ref()) {
            break error;
        }
    };
    place.finished(Outcome::Done);
    done.fetched += (before - wanted.len()) as u64;
    done.failed += wanted.len() as u64;
    if !wanted.is_empty() && !done.is_full {
        let reason = failure.map_or_else(|| "no source has them".to_owned(), |error| error.to_string());
        tracing::warn!(%repository, objects = wanted.len(), "objects could not be fetched ahead: {reason}");
    }
}

fn may_retry(place: &mut Place, error: Option<&FetchError>) -> bool {
    let transient = matches!(error, Some(FetchError::Unavailable { source, .. }) if source.is_transient());
    transient && place.finished(Outcome::Retry)
}

/// Asks source after source for what is still wanted. Returns the last error.
async fn ask_all(
    engine: &Arc<Engine>,
    repository: &RepoName,
    wanted: &mut Wanted,
    step: Step,
    is_full: &mut bool,
) -> Option<FetchError> {
    let all: Vec<Source> = engine
        .sources_of(repository)
        .iter()
        .map(|transport| Source {
            repository: repository.clone(),
            transport: transport.clone(),
        })
        .collect();
    let bytes = wanted.values().map(|file| file.size).sum();
    let mut last = None;
    let first = wanted.keys().next().copied()?;
    for source in engine.sources.ordered(&all, &first, bytes, step.class) {
        if wanted.is_empty() || *is_full {
            break;
        }
        match ask(engine, &source, wanted, step).await {
            Ok(()) => {}
            Err(error) if has_no_room(&error) => *is_full = true,
            Err(error) => {
                let object = wanted.keys().next().copied();
                if let Some(object) = object {
                    engine.blame(&object, &source, &error);
                }
                last = Some(error);
            }
        }
    }
    last
}

/// One request to one source. What comes right is taken in and is wanted no more.
async fn ask(engine: &Arc<Engine>, source: &Source, wanted: &mut Wanted, step: Step) -> Result<(), FetchError> {
    let label = source.label();
    let gate = engine.queue.gate();
    gate.pass(step.class).await;
    let objects: Vec<(ObjectId, u64)> = wanted.values().map(|file| (file.object, file.size)).collect();
    let bytes = objects.iter().map(|(_, size)| size).sum();
    let mut running = engine.sources.begin(source, step.class, bytes, gate).await;
    // Bounded by the size of a batch.
    let (sender, mut items) = mpsc::unbounded_channel::<BatchItem>();
    let yielding = running.yielding();
    let mut sink = move |item: BatchItem| {
        if let (Some(yielding), Ok(content)) = (&yielding, &item.1) {
            yielding.came(content.len() as u64);
        }
        let _ = sender.send(item);
    };
    let request = async {
        let asked = source
            .transport
            .batch(&source.repository, &objects, step.class, &mut sink);
        let asked = gate.drive(step.class, asked).await;
        // Nothing more will come.
        drop(sink);
        asked
    };
    let mut failure = None;
    let take = async {
        let mut some = Vec::new();
        while items.recv_many(&mut some, WRITTEN_AT_ONCE).await > 0 {
            let (mut good, mut bytes) = (Vec::new(), 0);
            for (object, content) in some.drain(..) {
                match (content, wanted.get(&object)) {
                    (Ok(content), Some(file)) => good.push((*file, content)),
                    (Ok(_), None) | (Err(TransportError::NotFound { .. }), _) => {}
                    (Err(error), _) => failure = Some(unavailable(object, &source.repository, error)),
                }
            }
            gate.pass(step.class).await;
            for (file, taken) in take_in(engine, source, step.class, good).await {
                match taken {
                    Ok(()) => {
                        wanted.remove(&file.object);
                        bytes += file.size;
                    }
                    Err(error) => failure = Some(error),
                }
            }
            // A source that brought nothing good has not earned a good word.
            if bytes == 0 {
                continue;
            }
            running.received(bytes);
            engine.stats.received(label, step.class, bytes);
            engine.sources.pace(label, step.class, bytes).await;
        }
    };
    let (asked, ()) = tokio::join!(request, take);
    if let Some(failure) = failure {
        return Err(failure);
    }
    let some = objects.first().map_or_else(|| ObjectId::of(b""), |(object, _)| *object);
    asked.map_err(|error| unavailable(some, &source.repository, error))
}

type Taken = Vec<(FileMeta, Result<(), FetchError>)>;

/// Small objects that wait to be written. Whoever comes to write takes also what others have brought meanwhile: a swarm
/// brings them one by one.
pub(super) type Puts = Mutex<VecDeque<Put>>;

/// Objects of one source.
#[derive(Debug)]
pub(super) struct Put {
    repository: RepoName,
    class: Class,
    objects: Vec<(FileMeta, Bytes)>,
    written: oneshot::Sender<Taken>,
}

impl Put {
    /// Not if nobody waits for it any more.
    fn write(self, engine: &Engine) {
        if self.written.is_closed() {
            return;
        }
        let take = |(file, content): (FileMeta, Bytes)| {
            let taken = wait(keep(engine, file, &self.repository, content));
            (file, taken)
        };
        // Who has left meanwhile need not know.
        let _ = self.written.send(self.objects.into_iter().map(take).collect());
    }
}

/// Writes what waits: to wake a thread costs as much as to write several of these. In between it looks whether something more
/// urgent has come, and after some time it lets others write.
fn write_some(engine: &Engine) {
    for _ in 0..LOTS_AT_ONCE {
        for put in next_puts(engine) {
            put.write(engine);
        }
        let next = lock(&engine.puts).front().map(|put| put.class);
        if !next.is_some_and(|class| engine.queue.gate().is_open(class)) {
            return;
        }
    }
}

/// The next that are written together.
fn next_puts(engine: &Engine) -> Vec<Put> {
    let (mut waiting, mut some, mut objects) = (lock(&engine.puts), Vec::new(), 0);
    while objects < WRITTEN_AT_ONCE
        && let Some(put) = waiting.pop_front()
    {
        objects += put.objects.len();
        some.push(put);
    }
    some
}

/// Verifies objects and puts them into the cache. Not on the runtime's threads: a disk that is busy would block there what
/// clients wait for.
async fn take_in(engine: &Arc<Engine>, source: &Source, class: Class, objects: Vec<(FileMeta, Bytes)>) -> Taken {
    let files: Vec<FileMeta> = objects.iter().map(|(file, _)| *file).collect();
    let (written, mut taken) = oneshot::channel();
    lock(&engine.puts).push_back(Put {
        repository: source.repository.clone(),
        class,
        objects,
        written,
    });
    let taken = loop {
        let one = tokio::select! {
            biased;
            taken = &mut taken => break taken,
            one = Arc::clone(&engine.writing).acquire_owned() => one,
        };
        let engine = Arc::clone(engine);
        // Not waited for: somebody else may be writing what this one has brought.
        tokio::task::spawn_blocking(move || {
            may_block(|| write_some(&engine));
            drop(one);
        });
    };
    taken.unwrap_or_else(|error| {
        let error = FetchError::from(broken_off(error));
        files.into_iter().map(|file| (file, Err(error.clone()))).collect()
    })
}

/// Puts an object into the cache, which verifies it.
async fn keep(engine: &Engine, file: FileMeta, repository: &RepoName, content: Bytes) -> Result<(), FetchError> {
    let corrupt = |source| FetchError::Corrupt {
        object: file.object,
        repository: repository.clone(),
        source,
    };
    if content.len() as u64 != file.size {
        return Err(corrupt(VerifyError::Outboard(file.object)));
    }
    let outboard = outboard_of(&file, &content).map_err(corrupt)?;
    match engine.cache.fill(&file.object, file.size).await {
        Ok(fill) => {
            if let Some(outboard) = outboard {
                fill.set_outboard(outboard).await?;
            }
            fill.write(0, content).await.map_err(|error| match error {
                CacheError::Verify(error) => corrupt(error),
                other => other.into(),
            })?;
            fill.finish().await?;
            engine.stats.object();
            Ok(())
        }
        // A client came for it meanwhile, and its own transfer fills it.
        Err(CacheError::Busy(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What verifies an object of several groups; one of a single group needs nothing but its id.
fn outboard_of(file: &FileMeta, content: &[u8]) -> Result<Option<Outboard>, VerifyError> {
    if file.size <= GROUP_BYTES {
        return Ok(None);
    }
    let mut hasher = ObjectHasher::new();
    hasher.update(content);
    let outboard = hasher.finish();
    let is_right = outboard.object() == file.object;
    is_right
        .then_some(Some(outboard))
        .ok_or(VerifyError::Outboard(file.object))
}
