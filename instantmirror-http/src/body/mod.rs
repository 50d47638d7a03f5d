//! What goes behind a header, for every transport alike: bytes, pages that make themselves, and objects.
//!
//! A [`ServeBody`] is a stream of pieces for any server that takes one; our own take what is in it apart
//! (`Inner`) and send from descriptors (HTTP/1.1) or as much as there is window for (HTTP/2). Either way the
//! connection pulls, so a slow client holds at most one piece and nobody else.
//!
//! Invariants: the first byte is ready before a header is sent, so what cannot be had is answered with a
//! status that says so. Whatever fails later ends the body early, on which the transport breaks the
//! connection off: a short answer never looks like a whole one. Dropping a body drops its reader.

mod content;
mod object;
mod own_file;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body::{Body as HttpBody, Frame, SizeHint};
use instantmirror_core::traits::ObjectReader;

use crate::observe::Observer;

pub use content::{Content, Multipart};
pub use own_file::OwnFile;

pub(crate) use object::{ObjectBody, Piece, Refusal, read_resident};

/// Most bytes of an object that are read and handed to the transport at once: each time costs a change of threads.
pub const PIECE_BYTES_MAX: u64 = 256 * 1024;
/// The same of the first piece: one group, as objects are verified by groups. A client that takes nothing holds no more, and
/// pieces grow for those that take them.
const FIRST_PIECE_BYTES_MAX: u64 = 64 * 1024;

/// Why a body ended early. The client sees a broken connection, the log this text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub(crate) String);

pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// The body of an answer.
pub struct ServeBody {
    inner: Inner,
    observer: Option<Observer>,
    is_kept: bool,
}

/// An answer, as the layers hand it on: the head of a message, and a body whose first byte is ready.
pub(crate) type Answer = http::Response<ServeBody>;

/// A body in the form in which it is carried best.
pub(crate) enum Inner {
    /// Bytes, `None` once they were taken.
    Whole(Option<Bytes>),
    /// Pieces, and how many bytes they still come to, if that is known.
    Pieces(Pieces, Option<u64>),
    /// Ranges of an object.
    Object(Box<ObjectBody>),
}

impl std::fmt::Debug for ServeBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.inner {
            Inner::Whole(_) => "ServeBody::Whole",
            Inner::Pieces(..) => "ServeBody::Pieces",
            Inner::Object(_) => "ServeBody::Object",
        })
    }
}

impl ServeBody {
    fn new(inner: Inner) -> Self {
        Self {
            inner,
            observer: None,
            is_kept: false,
        }
    }

    /// The same, of an answer that was kept ready.
    pub(crate) fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    /// Whether the answer was kept ready.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The same, with what a stream of it yields observed.
    pub(crate) fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
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

    pub(crate) fn object(body: ObjectBody) -> Self {
        Self::new(Inner::Object(Box::new(body)))
    }

    /// Its length in bytes, if that is known.
    pub(crate) fn len(&self) -> Option<u64> {
        match &self.inner {
            Inner::Whole(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Pieces(_, left) => *left,
            Inner::Object(body) => Some(body.left()),
        }
    }

    /// The reader of an object's body, if it may be kept.
    pub(crate) fn settled_reader(&self) -> Option<&Arc<dyn ObjectReader>> {
        self.reader().filter(|reader| reader.is_settled())
    }

    /// The reader of an object's body.
    pub(crate) fn reader(&self) -> Option<&Arc<dyn ObjectReader>> {
        match &self.inner {
            Inner::Object(body) => body.reader(),
            _ => None,
        }
    }

    /// What is to be carried, for a transport that counts by itself.
    pub(crate) fn into_inner(self) -> Inner {
        self.inner
    }
}

impl HttpBody for ServeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Inner::Object(_) = self.inner
            && let Inner::Object(body) = std::mem::replace(&mut self.inner, Inner::Whole(None))
        {
            let left = body.left();
            self.inner = Inner::Pieces(body.into_pieces(), Some(left));
        }
        let next = match &mut self.inner {
            Inner::Whole(bytes) => bytes.take().map(Ok),
            Inner::Pieces(pieces, left) => {
                let next = std::task::ready!(pieces.as_mut().poll_next(cx));
                if let (Some(Ok(piece)), Some(left)) = (&next, left) {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                next
            }
            Inner::Object(_) => None,
        };
        let this = &mut *self;
        match &next {
            Some(Ok(piece)) => {
                let bytes = piece.len() as u64;
                this.observer.iter_mut().for_each(|observer| observer.sent(bytes));
            }
            Some(Err(_)) => this.observer.iter().for_each(Observer::breaks),
            None => {}
        }
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
