//! Answers that have to be made: the request's body is read, the service asked, and what it says sent.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use instantmirror_core::log_limited;
use instantmirror_core::traits::ObjectReader;
use rustix::io::{Errno, ReadWriteFlags};

use super::connection::{Asked, Connection, Filled};
use super::head::Head;
use super::pace::Pace;
use super::socket::{SENDFILE_BYTES_MAX, Socket};
use crate::body::Answer;
use crate::body::{Inner, ObjectBody, PIECE_BYTES_MAX, Piece, Pieces, read_resident};
use crate::limits::{REQUEST_BODY_BYTES_MAX, REQUEST_BODY_TIMEOUT};
use crate::message::wire::{self, Persistence};

/// Bytes are collected up to so many before they are sent.
const COLLECT_BYTES: usize = 64 * 1024;
/// While a client waits for its answer, so many bytes of its next requests are read and no more.
const AHEAD_BYTES_MAX: usize = 32 * 1024;

/// Most bytes that a disk is asked for at once.
const DISK_BYTES_MAX: u64 = 256 * 1024;
/// Most bytes that are read at once to be encrypted.
const FILE_SCRATCH_BYTES: usize = 256 * 1024;
/// Objects of at most so many bytes are read as a whole when they are opened.
const READ_LATELY_BYTES_MAX: u64 = 1 << 20;
/// Bodies of at most so many bytes share a packet with their header.
const JOINED_BYTES_MAX: u64 = 64 * 1024;
/// An answer may take so long to begin or go on after the client has closed its side of the connection.
const HALF_CLOSED_TIME: Duration = Duration::from_secs(1);

thread_local! {
    /// What a file passes through on its way into an encrypted connection.
    static FILE_SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; FILE_SCRATCH_BYTES].into());
}

/// How the end of a body is told (RFC 9112, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyFraming {
    /// There is no body.
    Absent,
    ByLength,
    ByChunks,
    /// By the end of the connection, for clients of HTTP/1.0.
    ByClose,
}

impl Connection {
    /// Answers a request that was taken from the input, which holds nothing any more.
    pub(super) async fn answer(&mut self, mut asked: Box<Asked<'_>>) -> io::Result<Persistence> {
        let begun = std::time::Instant::now();
        let Asked { head, rest, limited } = &mut *asked;
        self.consumed = 0;
        self.is_new = false;
        self.header_begun = None;
        // Answers to earlier requests must not wait for this one.
        self.flush(false).await?;
        head.request.client = self.client(head);
        if let Some(wait) = *limited {
            self.input.extend_from_slice(rest);
            self.has_unread_body = head.framing.body_bytes() > 0;
            let answer = self.service.too_many(wait);
            return self.answer_unasked(head, answer, begun).await;
        }
        let Some(body) = self.request_body(head, rest).await? else {
            self.has_unread_body = true;
            let text = "the request's body took too long";
            let answer = self.service.refuse(StatusCode::REQUEST_TIMEOUT, text);
            return self.answer_unasked(head, answer, begun).await;
        };
        let (service, shared) = (Arc::clone(&self.service), Arc::clone(&self.shared));
        self.has_unread_body = matches!(body, RequestBody::Unread(_));
        let answer = self.unless_gone(service.answer(&head.request, body, &shared.stopping));
        let answer = answer.await?;
        let entry = self.entry(head, begun);
        self.observer.answers(answer.status(), entry);
        let persistence = if self.has_unread_body || says_close(&answer) {
            Persistence::Close
        } else {
            self.persistence(head)
        };
        self.send(&head.request.method, head.version, answer, persistence).await
    }

    /// Answers a request without asking the service. If its body is not read, the connection ends: what follows on it is not
    /// a request.
    async fn answer_unasked(
        &mut self,
        head: &Head<'_>,
        answer: Answer,
        begun: std::time::Instant,
    ) -> io::Result<Persistence> {
        let answer = self.dressed(answer);
        let entry = self.entry(head, begun);
        self.observer.answers(answer.status(), entry);
        let persistence = if self.has_unread_body || says_close(&answer) {
            Persistence::Close
        } else {
            self.persistence(head)
        };
        self.send(&head.request.method, head.version, answer, persistence).await
    }

    /// An answer that the service did not make for this connection, with the header fields of encrypted ones.
    fn dressed(&self, answer: Answer) -> Answer {
        match self.socket {
            Socket::Tls(_) => self.service.private(answer),
            Socket::Tcp(_) | Socket::Unix(_) => answer,
        }
    }

    /// Tells the client why it gets no answer.
    pub(super) async fn refuse(&mut self, status: StatusCode, objection: &str) -> io::Result<()> {
        let answer = self.service.refuse(status, objection);
        self.send_refusal(answer).await
    }

    /// Sends an answer behind which the connection is closed, whatever was asked.
    pub(super) async fn send_refusal(&mut self, answer: Answer) -> io::Result<()> {
        let answer = self.dressed(answer);
        // Nobody who has sent a HEAD expects a body, whatever else is wrong with it.
        let unread = self.input.get(self.consumed..).unwrap_or_default();
        let method = if unread.starts_with(b"HEAD ") {
            Method::HEAD
        } else {
            Method::GET
        };
        let entry = self.entry_of_nothing(unread);
        self.observer.answers(answer.status(), entry);
        self.send(&method, Version::HTTP_11, answer, Persistence::Close).await?;
        Ok(())
    }

    /// Reads the body behind a head; `rest` is what was read with it. `None`: it took too long.
    async fn request_body(&mut self, head: &Head<'_>, rest: &[u8]) -> io::Result<Option<RequestBody>> {
        let bytes = head.framing.body_bytes();
        let wanted = match usize::try_from(bytes) {
            Ok(0) => 0,
            Ok(wanted) if wanted <= REQUEST_BODY_BYTES_MAX && self.service.wants_body(&head.request) => wanted,
            _ => return Ok(Some(RequestBody::Unread(bytes))),
        };
        self.input.extend_from_slice(rest);
        if self.input.len() < wanted && head.framing.expects_continue && head.version == Version::HTTP_11 {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.flush(false).await?;
        }
        self.deadline.lasts(REQUEST_BODY_TIMEOUT);
        while self.input.len() < wanted {
            match self.fill().await? {
                Filled::Bytes => {}
                Filled::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Filled::TimedOut => return Ok(None),
            }
        }
        let next = self.input.split_off(wanted);
        let body = std::mem::replace(&mut self.input, next);
        Ok(Some(RequestBody::Whole(Some(body.into()))))
    }

    /// Waits for an answer, but not much longer than the client does: who closes wants nothing fetched. One
    /// that closes only its own side gets what is there already.
    pub(super) async fn unless_gone<T>(&mut self, answer: impl Future<Output = T>) -> io::Result<T> {
        let mut answer = pin!(answer);
        let mut is_gone = false;
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            while !is_gone && self.input.len() < AHEAD_BYTES_MAX {
                if let Filled::End | Filled::TimedOut = ready!(self.poll_fill(cx))? {
                    is_gone = true;
                    self.deadline.lasts(HALF_CLOSED_TIME);
                }
            }
            if is_gone {
                ready!(self.deadline.poll_over(cx));
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            Poll::Pending
        })
        .await
    }

    async fn send(
        &mut self,
        method: &Method,
        version: Version,
        answer: Answer,
        persistence: Persistence,
    ) -> io::Result<Persistence> {
        self.pace = Pace::default();
        let (parts, body) = answer.into_parts();
        let framing = body_framing(method, version, parts.status, body.len());
        let persistence = if framing == BodyFraming::ByClose {
            Persistence::Close
        } else {
            persistence
        };
        wire::begin(&mut self.output, parts.status);
        wire::fields(&mut self.output, &parts.headers);
        match (framing, body.len()) {
            (BodyFraming::ByLength, Some(len)) if !parts.headers.contains_key(header::CONTENT_LENGTH) => {
                wire::content_length(&mut self.output, len);
            }
            (BodyFraming::ByChunks, _) => wire::field(&mut self.output, "transfer-encoding", b"chunked"),
            _ => {}
        }
        wire::end(&mut self.output, persistence);
        if framing == BodyFraming::Absent || *method == Method::HEAD {
            self.observer.ends();
            return Ok(persistence);
        }
        let sent = match body.into_inner() {
            Inner::Whole(bytes) => self.send_bytes(&bytes.unwrap_or_default()).await,
            Inner::Pieces(pieces, _) => self.send_pieces(pieces, framing == BodyFraming::ByChunks).await,
            Inner::Object(body) => self.send_object(body).await,
        };
        if sent.is_err() {
            self.observer.breaks();
        }
        self.observer.ends();
        sent.map(|()| persistence)
    }

    /// Sends what is collected, or collects some more.
    async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.observer.sent(bytes.len() as u64);
        if self.output.len() + bytes.len() <= COLLECT_BYTES {
            self.output.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush(true).await?;
        self.push(bytes, false).await
    }

    async fn send_pieces(&mut self, mut pieces: Pieces, chunked: bool) -> io::Result<()> {
        while let Some(piece) = self.unless_gone(pieces.next()).await? {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return self.break_off(error).await,
            };
            if chunked {
                self.output
                    .extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            }
            self.send_bytes(&piece).await?;
            if chunked {
                self.output.extend_from_slice(b"\r\n");
            }
        }
        if chunked {
            self.output.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(())
    }

    async fn send_object(&mut self, mut body: Box<ObjectBody>) -> io::Result<()> {
        if let Some(reader) = body.reader() {
            self.observer.reads(reader);
        }
        loop {
            let next = {
                let mut next = pin!(body.next(true));
                match futures_util::poll!(next.as_mut()) {
                    Poll::Ready(next) => next,
                    // What is here already must not wait for what is not.
                    Poll::Pending => {
                        self.flush(false).await?;
                        self.unless_gone(next).await?
                    }
                }
            };
            match next {
                Ok(None) => return Ok(()),
                Ok(Some(Piece::Bytes(bytes))) => self.send_bytes(&bytes).await?,
                Ok(Some(Piece::File(reader, range))) => {
                    self.flush(is_joined(&range)).await?;
                    self.send_file(&reader, range).await?;
                }
                Err(error) => return self.break_off(error).await,
            }
        }
    }

    /// Ends an answer that cannot go on. The verified bytes before the failure may still be of use.
    async fn break_off(&mut self, error: crate::body::BodyError) -> io::Result<()> {
        self.flush(false).await?;
        Err(io::Error::other(error))
    }

    /// Sends a range of the file of an answer that was kept ready. A small one was read when it was made, a moment
    /// ago, so no disk is asked whether it is still in memory.
    pub(super) async fn send_hot(&mut self, reader: &Arc<dyn ObjectReader>, range: Range<u64>) -> io::Result<()> {
        if reader.size() <= READ_LATELY_BYTES_MAX && self.socket.sends_files() {
            self.send_from_memory(reader, range).await
        } else {
            self.send_file(reader, range).await
        }
    }

    /// Sends a range of a reader's file, through this process where the kernel cannot.
    async fn send_file(&mut self, reader: &Arc<dyn ObjectReader>, range: Range<u64>) -> io::Result<()> {
        if !self.socket.sends_files() {
            return Box::pin(self.send_through(reader, range)).await;
        }
        let mut at = range.start;
        while at < range.end {
            let mut end = range.end.min(at + SENDFILE_BYTES_MAX);
            if !is_in_memory(reader, at..end) {
                end = range.end.min(at + DISK_BYTES_MAX);
                // The disk takes its time, which must not be that of this thread. The bytes stay in the page
                // cache; if they cannot be read, sendfile will say so.
                let _ = reader.read(at..end).await;
            }
            self.send_from_memory(reader, at..end).await?;
            at = end;
        }
        Ok(())
    }

    async fn send_from_memory(&mut self, reader: &Arc<dyn ObjectReader>, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let sent = self.send_chunk(reader, at, range.end - at).await? as u64;
            if sent == 0 {
                return Err(shortened(reader, at));
            }
            self.observer.sent_by_kernel(sent);
            at += sent;
        }
        Ok(())
    }

    /// Encrypts a range and sends it. What is read is thrown away where the client does not take it at once, and read
    /// again: a slow client holds what is encrypted, and no more.
    async fn send_through(&mut self, reader: &Arc<dyn ObjectReader>, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        let mut since = None;
        while at < range.end {
            let through = poll_fn(|cx| {
                let polled = self.poll_send_through(cx, reader, at..range.end);
                self.poll_within_deadline(cx, &mut since, polled)
            });
            let sent = match through.await? as u64 {
                // It is not in memory, and the disk may take its time.
                0 => {
                    let end = range.end.min(at + PIECE_BYTES_MAX);
                    let bytes = reader.read(at..end).await.map_err(io::Error::other)?;
                    self.push(&bytes, true).await?;
                    bytes.len() as u64
                }
                sent => sent,
            };
            if sent == 0 {
                return Err(shortened(reader, at));
            }
            self.observer.sent(sent);
            at += sent;
        }
        poll_fn(|cx| {
            let polled = self.socket.poll_flush(cx).map_ok(|()| 0);
            self.poll_within_deadline(cx, &mut since, polled)
        })
        .await
        .map(drop)
    }

    /// Encrypts as much of a range as the client takes. 0: it is not in memory.
    fn poll_send_through(
        &mut self,
        cx: &mut Context<'_>,
        reader: &Arc<dyn ObjectReader>,
        range: Range<u64>,
    ) -> Poll<io::Result<usize>> {
        // Nothing is read for a client that does not take what it has.
        ready!(self.socket.poll_flush(cx))?;
        FILE_SCRATCH.with_borrow_mut(|scratch| {
            let wanted = usize::try_from(range.end - range.start)
                .unwrap_or(usize::MAX)
                .min(scratch.len());
            let buffer = scratch.get_mut(..wanted).unwrap_or_default();
            let bytes = match read_resident(reader, range.start, buffer)? {
                None => return Poll::Ready(Ok(0)),
                Some(0) => return Poll::Ready(Err(shortened(reader, range.start))),
                Some(read) => buffer.get(..read).unwrap_or_default(),
            };
            self.socket.poll_send(cx, bytes, true)
        })
    }

    async fn send_chunk(&mut self, reader: &Arc<dyn ObjectReader>, at: u64, count: u64) -> io::Result<usize> {
        let Some(file) = reader.descriptor() else {
            return Err(io::Error::other("an object has no file any more"));
        };
        let mut since = None;
        poll_fn(|cx| {
            let polled = self.socket.poll_send_file(cx, file, at, count);
            self.poll_within_deadline(cx, &mut since, polled)
        })
        .await
    }

    /// Sends all that is written. `more`: a body follows at once.
    pub(super) async fn flush(&mut self, more: bool) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let output = std::mem::take(&mut self.output);
        let sent = self.push(&output, more).await;
        self.output = output;
        self.output.clear();
        sent
    }

    async fn push(&mut self, bytes: &[u8], more: bool) -> io::Result<()> {
        let mut unsent = bytes;
        let mut since = None;
        while !unsent.is_empty() {
            let sent = poll_fn(|cx| {
                let polled = self.socket.poll_send(cx, unsent, more);
                self.poll_within_deadline(cx, &mut since, polled)
            })
            .await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            since = None;
            unsent = unsent.get(sent..).unwrap_or_default();
        }
        if more || self.socket.sends_files() {
            return Ok(());
        }
        poll_fn(|cx| {
            let polled = self.socket.poll_flush(cx).map_ok(|()| 0);
            self.poll_within_deadline(cx, &mut since, polled)
        })
        .await
        .map(drop)
    }

    /// Lets a client take its time, within the limits. `since`: when the waiting began.
    fn poll_within_deadline(
        &mut self,
        cx: &mut Context<'_>,
        since: &mut Option<tokio::time::Instant>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(done) = polled {
            if let (Some(since), Ok(sent)) = (since.take(), &done) {
                self.pace.takes(*sent as u64, since);
                if self.pace.is_too_slow(&self.shared.limits) {
                    return Poll::Ready(Err(self.cut("the client takes an answer too slowly")));
                }
            }
            return Poll::Ready(done);
        }
        if since.is_none() {
            *since = Some(tokio::time::Instant::now());
            self.deadline.lasts(self.shared.limits.write_timeout);
        }
        ready!(self.deadline.poll_over(cx));
        Poll::Ready(Err(self.cut("the client took nothing for too long")))
    }

    /// The error that ends the connection of a client that is too slow. What the kernel still has for it is thrown away, or
    /// it would keep megabytes for minutes.
    fn cut(&self, text: &str) -> io::Error {
        self.socket.reset_at_end();
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}

/// Whether a header shares its packet with the beginning of this body. A long one has packets enough, and goes out
/// sooner (and, as it turns out, cheaper) behind a header that was not held back.
pub(super) fn is_joined(body: &Range<u64>) -> bool {
    body.end - body.start <= JOINED_BYTES_MAX
}

fn shortened(reader: &Arc<dyn ObjectReader>, at: u64) -> io::Error {
    let size = reader.size();
    let text = "the file of an object has become shorter; an answer broke off";
    log_limited!(Instant::now(), error, at, size, "{text}");
    io::ErrorKind::UnexpectedEof.into()
}

fn says_close(answer: &Answer) -> bool {
    answer
        .headers()
        .get(header::CONNECTION)
        .is_some_and(|value| value == "close")
}

fn body_framing(method: &Method, version: Version, status: StatusCode, len: Option<u64>) -> BodyFraming {
    if status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return BodyFraming::Absent;
    }
    match len {
        // What would have been the length of the answer to a GET is known only if the answer says so.
        Some(0) if *method == Method::HEAD => BodyFraming::Absent,
        Some(_) => BodyFraming::ByLength,
        None if version == Version::HTTP_10 => BodyFraming::ByClose,
        None => BodyFraming::ByChunks,
    }
}

/// Whether sending this range will not wait for a disk, as far as its last byte tells: files are read from the front.
fn is_in_memory(reader: &Arc<dyn ObjectReader>, range: Range<u64>) -> bool {
    let Some(file) = reader.descriptor() else { return true };
    let mut byte = [0];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    let last = range.end.saturating_sub(1);
    // File systems that cannot tell are taken to be fast.
    rustix::io::preadv2(file, &mut buffers, last, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
}

/// The body of a request as the service takes it.
enum RequestBody {
    Whole(Option<Bytes>),
    /// Not read, because of its length, or because nobody wants it.
    Unread(u64),
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match &mut *self {
            Self::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Unread(_) => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Unread(len) => *len,
        })
    }
}
