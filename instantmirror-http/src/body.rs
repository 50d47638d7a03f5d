//! Carrying a body out over a runtime: objects are read as they become ready, in pieces of at most
//! [`PIECE_BYTES_MAX`], and pulled by the connection, so a slow client holds one piece and nobody else.
//!
//! Invariants: the first byte is ready before a header is sent, so what cannot be had is answered with a
//! status that says so. Whatever fails later is an error of the stream, on which the transport breaks the
//! connection off: a short answer never looks like a whole one. Dropping the stream drops the reader.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use instantmirror_core::traits::{ObjectReader, ObjectSource, ReadIntent};
use instantmirror_core::{CacheError, FetchError};

use crate::respond::{Body, Content, Multipart};
use crate::stats::Counters;

/// Most bytes read and handed to the transport at once.
pub const PIECE_BYTES_MAX: u64 = 256 * 1024;

/// Why a body ended early. The client sees a broken connection, the log this text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub(crate) String);

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// The body of an answer as hyper sends it.
pub struct ServeBody {
    inner: Inner,
    counters: Option<Arc<Counters>>,
}

enum Inner {
    Whole(Option<Bytes>),
    /// Pieces, and how many bytes they still come to, if that is known.
    Pieces(Pieces, Option<u64>),
}

impl std::fmt::Debug for ServeBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.inner {
            Inner::Whole(_) => "ServeBody::Whole",
            Inner::Pieces(..) => "ServeBody::Pieces",
        })
    }
}

impl ServeBody {
    fn new(inner: Inner) -> Self {
        Self { inner, counters: None }
    }

    /// The same, with what goes through it counted.
    pub(crate) fn counted(mut self, counters: Arc<Counters>) -> Self {
        self.counters = Some(counters);
        self
    }

    /// A body of these bytes.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self::new(Inner::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    /// A body of pieces that come to `len` bytes, if that is known. Empty pieces are left out.
    pub(crate) fn pieces(
        pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
        len: Option<u64>,
    ) -> Self {
        let pieces = pieces.try_filter(|piece| std::future::ready(!piece.is_empty()));
        Self::new(Inner::Pieces(pieces.boxed(), len))
    }
}

impl HttpBody for ServeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match &mut self.inner {
            Inner::Whole(bytes) => bytes.take().map(Ok),
            Inner::Pieces(pieces, left) => {
                let next = std::task::ready!(pieces.as_mut().poll_next(cx));
                if let (Some(Ok(piece)), Some(left)) = (&next, left) {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                next
            }
        };
        match (&next, &self.counters) {
            (Some(Ok(piece)), Some(counters)) => counters.count_body(piece.len() as u64),
            (Some(Err(_)), Some(counters)) => counters.count_broken(),
            _ => {}
        }
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::Pieces(_, left) => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Pieces(_, Some(left)) => SizeHint::with_exact(*left),
            Inner::Pieces(_, None) => SizeHint::default(),
        }
    }
}

/// Why a body could not even begin: the status to answer with, and the text for a person.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

/// Opens what a response describes.
pub(crate) async fn open(body: Body, objects: &Arc<dyn ObjectSource>) -> Result<ServeBody, Refusal> {
    match body {
        Body::Empty => Ok(ServeBody::whole(Bytes::new())),
        Body::Bytes(bytes) => Ok(ServeBody::whole(bytes)),
        Body::Object(content, range) => open_object(content, range, objects).await,
        Body::Multipart(content, parts) => open_multipart(content, parts, objects).await,
        Body::Listing(listing) => {
            let pieces = stream::try_unfold(listing, |mut listing| async move {
                let piece = listing.next_piece().map_err(|error| {
                    tracing::warn!(%error, "a listing broke off");
                    BodyError(error.to_string())
                })?;
                Ok(piece.map(|piece| (piece, listing)))
            });
            first_then_rest(pieces, None).await.map_err(|error| Refusal {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                text: format!("the directory cannot be read: {error}"),
            })
        }
    }
}

/// Makes the first piece before the body is returned.
async fn first_then_rest(
    pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    len: Option<u64>,
) -> Result<ServeBody, BodyError> {
    let mut pieces = Box::pin(pieces);
    let first = pieces.try_next().await?;
    Ok(ServeBody::pieces(stream::iter(first.map(Ok)).chain(pieces), len))
}

async fn open_object(
    content: Content,
    range: Range<u64>,
    objects: &Arc<dyn ObjectSource>,
) -> Result<ServeBody, Refusal> {
    let begun = Reading::begin(&content, range.clone(), objects).await;
    let (first, reading) = begun.map_err(|error| refuse(&content, &error))?;
    let rest = reading.pieces(content);
    let pieces = stream::iter([Ok(first)]).chain(rest);
    Ok(ServeBody::pieces(pieces, Some(range.end - range.start)))
}

/// The parts one after another; each reader is opened when its turn comes, so that it asks for its range
/// and for nothing else.
async fn open_multipart(
    content: Content,
    multipart: Multipart,
    objects: &Arc<dyn ObjectSource>,
) -> Result<ServeBody, Refusal> {
    let len = multipart.len();
    let mut parts = multipart.parts.into_iter();
    let Some((head, range)) = parts.next() else {
        return Ok(ServeBody::whole(multipart.end));
    };
    let begun = Reading::begin(&content, range, objects).await;
    let (first, reading) = begun.map_err(|error| refuse(&content, &error))?;
    let first_part = stream::iter([Ok(head), Ok(first)]).chain(reading.pieces(content.clone()));
    let objects = Arc::clone(objects);
    let rest = stream::iter(parts).then(move |(head, range)| {
        let (content, objects) = (content.clone(), Arc::clone(&objects));
        async move {
            let begun = Reading::begin(&content, range, &objects).await;
            let (first, reading) = match begun {
                Ok(begun) => begun,
                Err(error) => return Err(broken_off(&content, &error).await),
            };
            Ok(stream::iter([Ok(head), Ok(first)]).chain(reading.pieces(content)))
        }
    });
    let end = stream::iter([Ok(multipart.end)]);
    let pieces = first_part.chain(rest.try_flatten()).chain(end);
    Ok(ServeBody::pieces(pieces, Some(len)))
}

/// One reader on its way through a range.
pub(crate) struct Reading {
    reader: Arc<dyn ObjectReader>,
    /// Next byte to read.
    at: u64,
    end: u64,
    /// Bytes from `at` up to here are ready.
    ready: u64,
}

impl Reading {
    /// Opens an object and reads the first piece of `range`, which is not empty.
    async fn begin(
        content: &Content,
        range: Range<u64>,
        objects: &Arc<dyn ObjectSource>,
    ) -> Result<(Bytes, Self), FetchError> {
        let intent = ReadIntent { range: range.clone() };
        let reader = objects.open(&content.repository, &content.file, intent).await?;
        Self::of(reader, content, range).await
    }

    /// The same with a reader that is open already.
    pub(crate) async fn of(
        reader: Arc<dyn ObjectReader>,
        content: &Content,
        range: Range<u64>,
    ) -> Result<(Bytes, Self), FetchError> {
        if reader.size() != content.file.size {
            // The catalog is signed and says the size: what was opened cannot be that object.
            return Err(FetchError::Cache(CacheError::Damaged {
                object: content.file.object,
                reason: format!("it has {} bytes, its catalog says {}", reader.size(), content.file.size),
            }));
        }
        let mut reading = Self {
            reader,
            at: range.start,
            end: range.end,
            ready: range.start,
        };
        let first = reading.next(content).await?;
        Ok((first.unwrap_or_default(), reading))
    }

    async fn next(&mut self, content: &Content) -> Result<Option<Bytes>, FetchError> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.at >= self.ready {
            self.ready = self.reader.ready(self.at).await?;
        }
        let end = self.end.min(self.ready).min(self.at.saturating_add(PIECE_BYTES_MAX));
        let piece = read(&self.reader, self.at..end).await?;
        if piece.is_empty() || piece.len() as u64 != end.saturating_sub(self.at) {
            let (object, range) = (content.file.object, self.at..self.end);
            return Err(FetchError::Cache(CacheError::Absent { object, range }));
        }
        self.at = end;
        Ok(Some(piece))
    }

    /// The pieces that are left. An error is logged and ends them.
    pub(crate) fn pieces(self, content: Content) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + use<> {
        stream::try_unfold((self, content), |(mut reading, content)| async move {
            match reading.next(&content).await {
                Ok(piece) => Ok(piece.map(|piece| (piece, (reading, content)))),
                Err(error) => Err(broken_off(&content, &error).await),
            }
        })
    }
}

/// Reads come from a disk that may take its time, and may be verified on the way; the thread that runs this serves
/// other connections too. So they go to the blocking pool: some 10 µs for up to 256 KiB that take more to copy.
pub(crate) async fn read(reader: &Arc<dyn ObjectReader>, range: Range<u64>) -> Result<Bytes, FetchError> {
    let reader = Arc::clone(reader);
    let read = tokio::task::spawn_blocking(move || reader.read(range)).await;
    read.unwrap_or_else(|failed| {
        Err(FetchError::Cache(CacheError::Io {
            what: "reading an object".to_owned(),
            source: Arc::new(failed),
        }))
    })
}

/// The end of a body that cannot go on, and its line in the log.
async fn broken_off(content: &Content, error: &FetchError) -> BodyError {
    let Content { repository, path, file } = content;
    tracing::warn!(%repository, %path, object = %file.object, %error, "an answer broke off; the connection is closed");
    // hyper throws away what it has not flushed when a body fails, and flushes when a body is not ready: the
    // verified bytes before the failure may still be of use.
    tokio::task::yield_now().await;
    BodyError(error.to_string())
}

/// The answer to a request whose first byte could not be had, and its line in the log.
pub(crate) fn refuse(content: &Content, error: &FetchError) -> Refusal {
    let (status, advice) = match error {
        FetchError::Unavailable { .. } => (StatusCode::GATEWAY_TIMEOUT, "try again later, or from another mirror"),
        FetchError::Corrupt { .. } => (
            StatusCode::BAD_GATEWAY,
            "nobody sends the file that was published; try again later, or from another mirror",
        ),
        FetchError::Cache(CacheError::TooLarge { .. }) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "this mirror has no room for a file of this size; use another mirror",
        ),
        FetchError::Cache(CacheError::Full { .. } | CacheError::Busy(_) | CacheError::Damaged { .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, "try again in a moment")
        }
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "this mirror has trouble with its disk; use another mirror",
        ),
    };
    let Content { repository, path, file } = content;
    tracing::warn!(%repository, %path, object = %file.object, %error, status = status.as_u16(), "cannot serve");
    let text = format!("/{path} of repository '{repository}' cannot be served now: {error}\n{advice}");
    Refusal { status, text }
}
