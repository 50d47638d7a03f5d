//! Ranges of one object on their way out: opened, waited for, and handed over as bytes or as a range of a file.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use instantmirror_core::log_limited;
use instantmirror_core::traits::{ObjectReader, ObjectSource, ReadIntent};
use instantmirror_core::{CacheError, FetchError};
use rustix::io::{Errno, ReadWriteFlags};

use super::{BodyError, Content, FIRST_PIECE_BYTES_MAX, Multipart, PIECE_BYTES_MAX, Pieces};

/// Why a body could not even begin: the status to answer with, and the text for a person.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

/// What a transport is to send next.
pub(crate) enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// This range of the descriptor of this reader, which has one. All of it is ready.
    File(Arc<dyn ObjectReader>, Range<u64>),
}

/// One or several ranges of an object, each with what stands before it, and an end.
pub(crate) struct ObjectBody {
    content: Content,
    /// For parts to come: unless the object is there as a whole, each reader is opened when its turn comes, so that it
    /// asks for its range and for nothing else.
    objects: Option<Arc<dyn ObjectSource>>,
    parts: std::vec::IntoIter<(Bytes, Range<u64>)>,
    end: Option<Bytes>,
    /// Bytes that go before what `reading` gives.
    before: Option<Bytes>,
    reading: Option<Reading>,
    left: u64,
}

impl ObjectBody {
    /// Opens an object and waits for the first byte of `range`, which is not empty.
    pub(crate) async fn one(
        content: Content,
        range: Range<u64>,
        objects: &Arc<dyn ObjectSource>,
    ) -> Result<Self, Refusal> {
        let reading = Reading::begin(&content, range, objects).await;
        let reading = reading.map_err(|error| refuse(&content, &error))?;
        Ok(Self::of(content, reading))
    }

    /// The same with a reader that is open already.
    pub(crate) async fn of_reader(
        content: Content,
        reader: Arc<dyn ObjectReader>,
        range: Range<u64>,
    ) -> Result<Self, Refusal> {
        let reading = Reading::of(reader, &content, range).await;
        let reading = reading.map_err(|error| refuse(&content, &error))?;
        Ok(Self::of(content, reading))
    }

    fn of(content: Content, reading: Reading) -> Self {
        Self {
            left: reading.end - reading.at,
            content,
            objects: None,
            parts: Vec::new().into_iter(),
            end: None,
            before: None,
            reading: Some(reading),
        }
    }

    /// Opens an object for the parts of a multipart body and waits for the first byte of the first.
    pub(crate) async fn several(
        content: Content,
        multipart: Multipart,
        objects: &Arc<dyn ObjectSource>,
    ) -> Result<Self, Refusal> {
        let left = multipart.len();
        let mut parts = multipart.parts.into_iter();
        let (mut before, mut reading) = (None, None);
        if let Some((head, range)) = parts.next() {
            let begun = Reading::begin(&content, range, objects).await;
            (before, reading) = (Some(head), Some(begun.map_err(|error| refuse(&content, &error))?));
        }
        Ok(Self {
            content,
            objects: Some(Arc::clone(objects)),
            parts,
            end: Some(multipart.end),
            before,
            reading,
            left,
        })
    }

    /// Bytes that were not handed over yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The reader of the first range, as it was opened.
    pub(crate) fn reader(&self) -> Option<&Arc<dyn ObjectReader>> {
        self.reading.as_ref().map(|reading| &reading.reader)
    }

    /// What comes next, `None` behind the last; as a range of a file only if `files` and where there is a
    /// descriptor. An error is in the log already, and the body at its end.
    pub(crate) async fn next(&mut self, files: bool) -> Result<Option<Piece>, BodyError> {
        self.next_up_to(u64::MAX, files).await
    }

    /// The same, at most so many bytes of it.
    pub(crate) async fn next_up_to(&mut self, max: u64, files: bool) -> Result<Option<Piece>, BodyError> {
        let next = self.advance(max, files).await;
        if let Ok(Some(piece)) = &next {
            self.left = self.left.saturating_sub(match piece {
                Piece::Bytes(bytes) => bytes.len() as u64,
                Piece::File(_, range) => range.end - range.start,
            });
        }
        next.map_err(|error| broken_off(&self.content, &error))
    }

    /// At most `max` of the next bytes, as bytes; none behind the last.
    pub(crate) async fn next_bytes(&mut self, max: u64) -> Result<Bytes, BodyError> {
        let (reader, range) = match self.next_up_to(max, true).await? {
            None => return Ok(Bytes::new()),
            Some(Piece::Bytes(bytes)) => return Ok(bytes),
            Some(Piece::File(reader, range)) => (reader, range),
        };
        let len = range.end - range.start;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        if let Ok(Some(read)) = read_resident(&reader, range.start, &mut bytes)
            && read as u64 == len
        {
            return Ok(bytes.into());
        }
        drop(bytes);
        let bytes = reader.read(range.clone()).await;
        let bytes = bytes.and_then(|bytes| match bytes.len() as u64 == len {
            true => Ok(bytes),
            false => Err(absent(&self.content, range)),
        });
        bytes.map_err(|error| broken_off(&self.content, &error))
    }

    /// Waits until there is a next byte that need not be waited for, and returns whether there is one. An error is in
    /// the log already, and the body at its end.
    pub(crate) async fn ready(&mut self) -> Result<bool, BodyError> {
        let ready = self.prepare().await;
        ready.map_err(|error| broken_off(&self.content, &error))
    }

    /// Lets go of what was read ahead of time: it is read again.
    pub(crate) fn let_go(&mut self) {
        if let Some(reading) = &mut self.reading
            && reading.first.take().is_some()
        {
            // What was ready may have passed by, and is brought again.
            reading.ready = reading.at;
        }
    }

    async fn advance(&mut self, max: u64, files: bool) -> Result<Option<Piece>, FetchError> {
        if !self.prepare().await? {
            return Ok(None);
        }
        if let Some(before) = up_to(&mut self.before, max) {
            return Ok(Some(Piece::Bytes(before)));
        }
        if let Some(reading) = &mut self.reading
            && let Some(piece) = reading.next(&self.content, max, files).await?
        {
            return Ok(Some(piece));
        }
        Ok(up_to(&mut self.end, max).map(Piece::Bytes))
    }

    async fn prepare(&mut self) -> Result<bool, FetchError> {
        loop {
            if self.before.is_some() {
                return Ok(true);
            }
            if let Some(reading) = &mut self.reading
                && reading.prepare().await?
            {
                return Ok(true);
            }
            let before = self.reading.take().map(|reading| reading.reader);
            let Some((head, range)) = self.parts.next() else {
                return Ok(self.end.is_some());
            };
            if let Some(reader) = before.filter(|reader| reader.is_settled()) {
                self.reading = Some(Reading::of(reader, &self.content, range).await?);
            } else if let Some(objects) = &self.objects {
                self.reading = Some(Reading::begin(&self.content, range, objects).await?);
            }
            self.before = Some(head);
        }
    }

    /// The body as a stream of bytes.
    pub(super) fn into_pieces(self: Box<Self>) -> Pieces {
        let pieces = stream::try_unfold(self, |mut body| async move {
            match body.next(false).await {
                Ok(Some(Piece::Bytes(bytes))) => Ok(Some((bytes, body))),
                Ok(_) => Ok(None),
                Err(error) => {
                    // Servers may throw away what they have not flushed when a body fails, and flush when a body is
                    // not ready: the verified bytes before the failure may still be of use.
                    tokio::task::yield_now().await;
                    Err(error)
                }
            }
        });
        pieces.boxed()
    }
}

/// One reader on its way through a range.
struct Reading {
    reader: Arc<dyn ObjectReader>,
    /// Next byte to hand over.
    at: u64,
    end: u64,
    /// Bytes from `at` up to here are ready.
    ready: u64,
    /// Read ahead of time, where only reading tells whether the disk has it.
    first: Option<Bytes>,
    /// Most bytes that are read next.
    piece_max: u64,
}

impl Reading {
    async fn begin(content: &Content, range: Range<u64>, objects: &Arc<dyn ObjectSource>) -> Result<Self, FetchError> {
        let intent = ReadIntent {
            range: range.clone(),
            path: Some(content.path.clone()),
        };
        let reader = objects.open(&content.repository, &content.file, intent).await?;
        Self::of(reader, content, range).await
    }

    async fn of(reader: Arc<dyn ObjectReader>, content: &Content, range: Range<u64>) -> Result<Self, FetchError> {
        if reader.size() != content.file.size {
            // The catalog is signed and says the size: what was opened cannot be that object.
            return Err(FetchError::Cache(CacheError::Damaged {
                object: content.file.object,
                reason: format!("it has {} bytes, its catalog says {}", reader.size(), content.file.size),
            }));
        }
        let mut reading = Self {
            ready: reader.ready(range.start).await?,
            reader,
            at: range.start,
            end: range.end,
            first: None,
            piece_max: FIRST_PIECE_BYTES_MAX,
        };
        // What has a descriptor was verified as a whole. Everything else is verified when it is read.
        reading.first = reading.held(u64::MAX);
        if reading.first.is_none() && reading.reader.descriptor().is_none() {
            reading.first = Some(reading.read(content, u64::MAX).await?);
        }
        Ok(reading)
    }

    /// Waits until the next byte is ready; false: there is none.
    async fn prepare(&mut self) -> Result<bool, FetchError> {
        if self.at >= self.end {
            return Ok(false);
        }
        if self.first.is_none() && self.at >= self.ready {
            self.ready = self.reader.ready(self.at).await?;
        }
        Ok(true)
    }

    async fn next(&mut self, content: &Content, max: u64, files: bool) -> Result<Option<Piece>, FetchError> {
        if !self.prepare().await? {
            return Ok(None);
        }
        if let Some(first) = up_to(&mut self.first, max) {
            self.at += first.len() as u64;
            return Ok(Some(Piece::Bytes(first)));
        }
        if let Some(held) = self.held(max) {
            self.at += held.len() as u64;
            return Ok(Some(Piece::Bytes(held)));
        }
        if files && self.reader.descriptor().is_some() && self.ready > self.at {
            let range = self.at..self.end.min(self.ready).min(self.at.saturating_add(max));
            self.at = range.end;
            return Ok(Some(Piece::File(Arc::clone(&self.reader), range)));
        }
        self.piece_max = (2 * self.piece_max).min(PIECE_BYTES_MAX);
        let piece = self.read(content, max).await?;
        self.at += piece.len() as u64;
        Ok(Some(Piece::Bytes(piece)))
    }

    /// What is to come next, at most so much of it, if it is in memory.
    fn held(&self, max: u64) -> Option<Bytes> {
        let end = self.piece_end(max);
        let mut held = self.reader.held(self.at).filter(|held| !held.is_empty())?;
        held.truncate(usize::try_from(end.saturating_sub(self.at)).unwrap_or(0));
        (!held.is_empty()).then_some(held)
    }

    /// Reads the next piece, which is ready, or at most so much of it.
    async fn read(&self, content: &Content, max: u64) -> Result<Bytes, FetchError> {
        let end = self.piece_end(max);
        let piece = self.reader.read(self.at..end).await?;
        if piece.is_empty() || piece.len() as u64 != end.saturating_sub(self.at) {
            return Err(absent(content, self.at..self.end));
        }
        Ok(piece)
    }

    fn piece_end(&self, max: u64) -> u64 {
        let piece = self.at.saturating_add(self.piece_max.min(max));
        self.end.min(self.ready).min(piece)
    }
}

fn absent(content: &Content, range: Range<u64>) -> FetchError {
    let object = content.file.object;
    FetchError::Cache(CacheError::Absent { object, range })
}

/// Takes at most so many bytes from the front.
fn up_to(bytes: &mut Option<Bytes>, max: u64) -> Option<Bytes> {
    match (bytes.as_mut(), usize::try_from(max)) {
        (Some(all), Ok(max)) if max < all.len() => Some(all.split_to(max)),
        _ => bytes.take(),
    }
}

/// Reads what is in memory of the file of a reader from `at` on, at most until `buffer` is full; `None` if a disk would
/// have to be waited for.
pub(crate) fn read_resident(reader: &Arc<dyn ObjectReader>, at: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let Some(file) = reader.descriptor() else {
        return Ok(None);
    };
    let mut buffers = [io::IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, &mut buffers, at, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => Ok(None),
        // File systems that cannot tell are taken to be fast.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some(rustix::io::pread(file, buffer, at)?)),
        read => Ok(Some(read?)),
    }
}

/// Whether the operator has to do something about it. All else passes by itself, or is told elsewhere: that a master cannot
/// be reached, by whoever follows it.
fn is_for_operator(error: &FetchError) -> bool {
    match error {
        FetchError::Unavailable { source, .. } => !source.is_transient(),
        FetchError::Cache(CacheError::Busy(_)) => false,
        _ => true,
    }
}

/// The end of a body that cannot go on, and its line in the log: readers cause as many of them as they like.
fn broken_off(content: &Content, error: &FetchError) -> BodyError {
    let (now, Content { repository, path, file }) = (Instant::now(), content);
    let object = file.object;
    if is_for_operator(error) {
        log_limited!(now, warn, %repository, %path, %object, %error, "an answer broke off; the connection is closed");
    } else {
        log_limited!(now, info, %repository, %path, %object, %error, "an answer broke off; the connection is closed");
    }
    BodyError(error.to_string())
}

/// The answer to a request whose first byte could not be had, and its line in the log.
///
/// Readers are told which object it is and that it cannot be had now. Addresses, hosts, paths on the disk and whatever a
/// source has said are for the operator, who finds them in the log.
fn refuse(content: &Content, error: &FetchError) -> Refusal {
    let (status, reason, advice) = match error {
        FetchError::Unavailable { .. } => (
            StatusCode::GATEWAY_TIMEOUT,
            "it is not cached here, and its source cannot be reached",
            "try again later, or from another mirror",
        ),
        FetchError::Corrupt { .. } => (
            StatusCode::BAD_GATEWAY,
            "its source does not send the file that was published",
            "try again later, or from another mirror",
        ),
        FetchError::Cache(CacheError::TooLarge { .. }) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "this mirror has no room for a file of this size",
            "use another mirror",
        ),
        FetchError::Cache(CacheError::Busy(_) | CacheError::Damaged { .. }) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "it is being fetched anew",
            "try again in a moment",
        ),
        FetchError::Cache(CacheError::Full { .. }) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "this mirror has no room for it at the moment",
            "try again in a moment",
        ),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "this mirror has trouble with its disk",
            "use another mirror",
        ),
    };
    let Content { repository, path, file } = content;
    let object = file.object;
    log_refusal(content, error, status);
    let text =
        format!("/{path} of repository '{repository}' cannot be served now: {reason}; {advice} (object {object})");
    Refusal { status, text }
}

/// One line a minute of each kind, however many readers ask for what cannot be served.
fn log_refusal(content: &Content, error: &FetchError, status: StatusCode) {
    let (now, Content { repository, path, file }) = (Instant::now(), content);
    let (object, status) = (file.object, status.as_u16());
    if is_for_operator(error) {
        log_limited!(now, warn, %repository, %path, %object, %error, status, "cannot serve");
    } else {
        log_limited!(now, info, %repository, %path, %object, %error, status, "cannot serve");
    }
}
