//! Reading past the cache: an object that has no room there is streamed to each of its readers.
//!
//! Each reader has its own transfer, which moves only when the reader asks for more, and a window of
//! verified groups in memory. Nothing leaves the window's bound, nothing unverified enters it. Such transfers
//! take no turn of the scheduler, nor one of a source's: they last as long as the slowest client likes, and a turn held
//! that long would be one less for everybody else. Limits on bytes hold for them as for all others.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use instantmirror_core::outboard::{GROUP_BYTES, Outboard, VerifyError, group_cover};
use instantmirror_core::traits::{ByteStream, CacheError, Class, FetchError, TransportError};
use instantmirror_core::{ObjectId, RepoName};
use tokio::sync::OnceCell;

use super::fill::{Fill, Source, unavailable};
use super::flight::{LandingError, broke_off, whole_groups};
use super::{Engine, lock};

/// Most verified bytes that one reader holds in memory.
const WINDOW_BYTES: u64 = 1 << 20;
/// A reader that jumps ahead by no more than this gets there on the transfer it has.
const SKIP_BYTES_MAX: u64 = 256 * 1024;
/// How often all sources are asked without one of them delivering anything ...
const ROUNDS_MAX: u32 = 3;
/// ... and the pause after the first round; it grows with each.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// Whether a fill that could not begin for this reason is passed by: there is no room, now or ever. That a file system
/// refuses to make one more file (it can be out of inodes with bytes to spare, which no account foresees), that it grants no
/// more, or that it takes nothing any more since its medium failed, is the same thing: the bytes can be had all the same,
/// and are verified all the same.
pub(super) fn has_no_room(error: &FetchError) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error {
        FetchError::Cache(CacheError::TooLarge { .. } | CacheError::Full { .. }) => true,
        FetchError::Cache(CacheError::Io { source, .. }) => {
            let system = source.downcast_ref::<io::Error>();
            system.is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
        }
        _ => false,
    }
}

/// Consecutive verified groups.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    end: u64,
    groups: VecDeque<Bytes>,
}

impl Window {
    fn run_from(&self, offset: u64) -> Option<u64> {
        (self.start..self.end).contains(&offset).then_some(self.end)
    }

    /// Adds a group; those that do not join it, and the oldest beyond the bound, leave.
    fn push(&mut self, offset: u64, group: Bytes) {
        if offset != self.end {
            self.groups.clear();
            (self.start, self.end) = (offset, offset);
        }
        self.end += group.len() as u64;
        self.groups.push_back(group);
        while self.end - self.start > WINDOW_BYTES {
            let oldest = self.groups.pop_front();
            self.start += oldest.map_or(0, |group| group.len() as u64);
        }
    }

    fn read(&self, range: Range<u64>) -> Option<Bytes> {
        if range.start < self.start || range.end > self.end || range.start > range.end {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(range.end - range.start).ok()?);
        let mut at = self.start;
        for group in &self.groups {
            let end = at + group.len() as u64;
            let (from, to) = (range.start.clamp(at, end), range.end.clamp(at, end));
            let place = usize::try_from(from - at).ok()?..usize::try_from(to - at).ok()?;
            bytes.extend_from_slice(group.get(place)?);
            at = end;
        }
        Some(bytes.freeze())
    }
}

/// A transfer under way. Bytes in `held` are not verified.
struct Transfer {
    number: usize,
    body: ByteStream,
    held: BytesMut,
    position: u64,
    end: u64,
}

impl Transfer {
    fn reaches(&self, offset: u64) -> bool {
        (self.position..self.end).contains(&offset) && offset - self.position <= SKIP_BYTES_MAX
    }
}

/// What one reader of an object without room has.
pub(super) struct Passing {
    engine: Arc<Engine>,
    repository: RepoName,
    object: ObjectId,
    size: u64,
    /// The end of what the reader has announced.
    until: u64,
    /// Those that answer ranges: a swarm gives no bytes in order.
    sources: Vec<Source>,
    outboard: OnceCell<Outboard>,
    window: Mutex<Window>,
    /// Verified bytes that came.
    came: AtomicU64,
    transfer: tokio::sync::Mutex<Option<Transfer>>,
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing")
            .field("object", &self.object)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl Passing {
    /// For a reader of `range`.
    pub(super) fn new(engine: &Arc<Engine>, fill: &Fill, range: Range<u64>) -> Self {
        engine.stats.passed();
        Self {
            engine: Arc::clone(engine),
            repository: fill.repository.clone(),
            object: fill.object,
            size: fill.size,
            until: group_cover(range, fill.size).end.min(fill.size),
            sources: engine
                .sources
                .ordered(&fill.origins(), &fill.object, fill.size, Class::Demand),
            outboard: OnceCell::new(),
            window: Mutex::default(),
            came: AtomicU64::new(0),
            transfer: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until the byte at `offset` is in the window; see `ObjectReader::ready`. What is verified stays if this
    /// is dropped.
    pub(super) async fn ready(&self, offset: u64) -> Result<u64, FetchError> {
        let mut transfer = self.transfer.lock().await;
        let mut number = transfer.as_ref().map_or(0, |transfer| transfer.number);
        let (mut asked, mut round) = (0, 1);
        let mut failure: Option<LandingError> = None;
        loop {
            if let Some(end) = lock(&self.window).run_from(offset) {
                return Ok(end);
            }
            let Some(source) = self.sources.get(number) else {
                return Err(self.no_source());
            };
            match self.pull(&mut transfer, number, source, offset).await {
                Ok(()) => (asked, round, failure) = (0, 1, None),
                Err(error) => {
                    *transfer = None;
                    self.engine.blame(&self.object, source, &error);
                    failure = Some(LandingError::of(error).and(failure));
                    (asked, number) = (asked + 1, (number + 1) % self.sources.len());
                }
            }
            if asked == self.sources.len() {
                failure = Self::after_round(failure, round).await?;
                (asked, round) = (0, round + 1);
            }
        }
    }

    /// Pauses if another round may help.
    async fn after_round(failure: Option<LandingError>, round: u32) -> Result<Option<LandingError>, FetchError> {
        match failure {
            Some(failure) if failure.is_final || round >= ROUNDS_MAX => Err(failure.error),
            _ => {
                tokio::time::sleep(ROUND_PAUSE * round).await;
                Ok(None)
            }
        }
    }

    /// Of the sources only swarms are known, if any.
    fn no_source(&self) -> FetchError {
        let missing = TransportError::NotFound {
            from: format!("no origin of '{}'", self.repository),
            what: format!("object {}", self.object),
        };
        unavailable(self.object, &self.repository, missing)
    }

    /// Reads `range` if it is in the window.
    pub(super) fn read(&self, range: Range<u64>) -> Option<Bytes> {
        lock(&self.window).read(range)
    }

    /// Bytes that came, all of them from those that answer ranges: masters.
    pub(super) fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Brings one group into the window: the next of the transfer, or the first of a new one that begins at `offset`.
    async fn pull(
        &self,
        transfer: &mut Option<Transfer>,
        number: usize,
        source: &Source,
        offset: u64,
    ) -> Result<(), FetchError> {
        let open = match transfer.take_if(|open| !open.reaches(offset)) {
            None if transfer.is_some() => transfer.as_mut(),
            _ => Some(transfer.insert(self.begin(number, source, offset).await?)),
        };
        let (Some(open), Some(outboard)) = (open, self.outboard.get()) else {
            return Err(self.no_source());
        };
        let group = loop {
            let take = whole_groups(open.held.len() as u64, open.position, open.end).min(GROUP_BYTES);
            if take > 0 {
                break open.held.split_to(usize::try_from(take).unwrap_or(0)).freeze();
            }
            match open.body.next().await {
                Some(Ok(bytes)) => open.held.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(self.unavailable(source, error)),
                None => return Err(self.unavailable(source, broke_off(source))),
            }
        };
        let verified = outboard.verify_groups(open.position, &group);
        verified.map_err(|error| self.corrupt(source, error))?;
        let (position, bytes) = (open.position, group.len() as u64);
        // Before anybody reads them, and says where they came from.
        self.came.fetch_add(bytes, Ordering::Relaxed);
        lock(&self.window).push(position, group);
        open.position += bytes;
        let label = source.label();
        self.engine.stats.received(label, Class::Demand, bytes);
        self.engine.sources.pace(label, Class::Demand, bytes).await;
        Ok(())
    }

    /// Asks a source for the rest of what was announced, or for all that follows if the reader has gone beyond that.
    async fn begin(&self, number: usize, source: &Source, offset: u64) -> Result<Transfer, FetchError> {
        let origin = source.origin().ok_or_else(|| self.no_source())?;
        let position = offset / GROUP_BYTES * GROUP_BYTES;
        let end = if position < self.until { self.until } else { self.size };
        let body = async {
            let opened = origin.range(&source.repository, &self.object, position..end, Class::Demand);
            opened.await.map_err(|error| self.unavailable(source, error))
        };
        let outboard = self.outboard.get_or_try_init(|| self.fetch_outboard(source));
        let (body, _) = tokio::try_join!(body, outboard)?;
        Ok(Transfer {
            number,
            body,
            held: BytesMut::new(),
            position,
            end,
        })
    }

    async fn fetch_outboard(&self, source: &Source) -> Result<Outboard, FetchError> {
        let values = if Outboard::len_for(self.size) == 0 {
            Bytes::new()
        } else {
            let asked = source
                .transport
                .outboard(&source.repository, &self.object, self.size, Class::Demand);
            asked.await.map_err(|error| self.unavailable(source, error))?
        };
        Outboard::verify(self.object, self.size, values).map_err(|error| self.corrupt(source, error))
    }

    fn corrupt(&self, from: &Source, source: VerifyError) -> FetchError {
        let (object, repository) = (self.object, from.repository.clone());
        FetchError::Corrupt {
            object,
            repository,
            source,
        }
    }

    fn unavailable(&self, source: &Source, error: TransportError) -> FetchError {
        unavailable(self.object, &source.repository, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_told_from_other_failures_of_the_cache() {
        let io = |kind: io::ErrorKind| CacheError::Io {
            what: "cannot create partial/x".to_owned(),
            source: Arc::new(io::Error::from(kind)),
        };
        let (object, size) = (ObjectId::of(b"x"), 1);
        let none = [
            CacheError::Full { object, size },
            CacheError::TooLarge { object, size, max: 0 },
            io(io::ErrorKind::StorageFull),
            io(io::ErrorKind::QuotaExceeded),
            io(io::ErrorKind::ReadOnlyFilesystem),
        ];
        assert!(none.into_iter().all(|error| has_no_room(&error.into())));
        let others = [io(io::ErrorKind::PermissionDenied), CacheError::Busy(object)];
        assert!(!others.into_iter().any(|error| has_no_room(&error.into())));
    }

    #[test]
    fn the_window_never_holds_more_than_its_bound() {
        let (mut window, group) = (Window::default(), GROUP_BYTES);
        let groups = WINDOW_BYTES / group;
        for number in 0..3 * groups {
            let fill = u8::try_from(number).unwrap();
            window.push(number * group, vec![fill; usize::try_from(group).unwrap()].into());
            let held: u64 = window.groups.iter().map(|group| group.len() as u64).sum();
            assert!(held <= WINDOW_BYTES && held == window.end - window.start);
        }
        let (start, end) = (2 * groups * group, 3 * groups * group);
        assert_eq!(window.run_from(start), Some(end));
        assert_eq!((window.run_from(start - 1), window.run_from(end)), (None, None));
        assert!(window.read(start - 1..start).is_none() && window.read(end..end + 1).is_none());
        let bytes = window.read(start + group - 1..start + group + 1).unwrap();
        assert_eq!(u64::from(bytes[0]) + 1, u64::from(bytes[1]));
        window.push(0, Bytes::from_static(b"elsewhere"));
        assert_eq!((window.start, window.end), (0, 9));
    }
}
