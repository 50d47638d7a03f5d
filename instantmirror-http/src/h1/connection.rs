//! One connection from its first byte to its last: reading requests, keeping order, knowing when to end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, StatusCode};
use instantmirror_core::traits::ObjectReader;
use tokio::io::ReadBuf;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::is_joined;
use super::excess::Excess;
use super::head::{Head, Parsed, parse};
use super::pace::Pace;
use super::socket::Socket;
use crate::admission::Place;
use crate::connection::{AbortOnDrop, Deadline, Shared};
use crate::limits::Limits;
use crate::message::request::Client;
use crate::message::wire::Persistence;
use crate::observe::{AccessLogEntry, LoggedRequest, Observer};
use crate::service::Service;

/// Answers to pipelined requests are collected up to so many bytes before they are sent.
const OUTPUT_BYTES: usize = 64 * 1024;
/// An idle connection keeps no larger buffers than this.
const IDLE_BUFFER_BYTES: usize = 256;
/// Most bytes that are read at once, and so most that a client can have in flight unread.
const READ_BYTES: usize = 16 * 1024;
/// So much of what is no request is logged.
const LOGGED_BYTES_MAX: usize = 200;
/// When the server stops, requests that are on their way may still arrive for so long.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// How long and how much is read of what a refused client still sends, so that it gets to see the refusal.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: usize = 1 << 20;

thread_local! {
    /// What a read lands in, so that a connection that waits holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// A connection that speaks HTTP/1.1.
pub(crate) struct Connection {
    pub(super) socket: Socket,
    pub(super) shared: Arc<Shared>,
    pub(super) place: Arc<Place>,
    pub(super) service: Arc<Service>,
    services: watch::Receiver<Arc<Service>>,
    pub(super) address: Option<IpAddr>,
    /// The other end is on this machine, whomever it asks for.
    is_local: bool,
    /// What was read, and how much of it is done with.
    pub(super) input: Vec<u8>,
    pub(super) consumed: usize,
    /// What was written and not sent.
    pub(super) output: Vec<u8>,
    pub(super) deadline: Deadline,
    /// How the client takes the answer that is being sent.
    pub(super) pace: Pace,
    /// Observes the answer that is being sent.
    pub(super) observer: Observer,
    /// Wakes this task when the server stops; made when there is something to wait for.
    stopped: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// An idle connection is kept only for what is on its way.
    is_draining: bool,
    /// Others need its place: it ends behind the next answer.
    pub(super) is_leaving: bool,
    /// The body of the last request is still on its way, and is not read.
    pub(super) has_unread_body: bool,
    /// This task is woken when the connection is told to leave.
    hears: bool,
    /// Nothing was asked yet.
    pub(super) is_new: bool,
    /// Since when a header is incomplete.
    pub(super) header_begun: Option<Instant>,
    /// It runs in the background.
    yields: bool,
}

/// What comes next on a connection.
enum Next<'a> {
    Step(Step),
    /// A request that cannot be answered from memory. Boxed, for a connection that waits has no room for a head.
    Request(Box<Asked<'a>>),
}

/// A request as it was read from the input, which nobody reads a second time.
pub(super) struct Asked<'a> {
    pub(super) head: Head<'a>,
    /// What was read behind the head.
    pub(super) rest: &'a [u8],
    /// The request is one too many, and would not be after this time.
    pub(super) limited: Option<Duration>,
}

/// What is to be done next, unless it is to answer a request.
enum Step {
    /// Nothing more can be answered from what was read.
    Read,
    /// Another request may be there.
    Again,
    /// Enough is written.
    Flush,
    /// A header is written; this is its body.
    File(Arc<dyn ObjectReader>, Range<u64>, Persistence),
    /// What was read is no request.
    Refuse(StatusCode, &'static str),
    /// It is for nodes alone, for want of places, and asks for something else.
    Settle,
    /// It belongs among those that yield, or no longer.
    Move,
    /// The last answer is written.
    Close,
}

/// How far a connection has come.
enum Turn {
    /// To its end.
    Over,
    /// To a request that is for other threads.
    Moves,
}

/// What came of reading.
pub(super) enum Filled {
    Bytes,
    End,
    TimedOut,
}

impl Connection {
    pub(crate) fn new(socket: Socket, address: Option<IpAddr>, shared: Arc<Shared>, place: Arc<Place>) -> Self {
        let mut services = shared.services.clone();
        let service = Arc::clone(&services.borrow_and_update());
        let observer = service.observer();
        let is_local = matches!(socket, Socket::Unix(_)) || address.is_some_and(|address| address.is_loopback());
        Self {
            socket,
            service,
            services,
            address,
            is_local,
            input: Vec::new(),
            consumed: 0,
            output: Vec::new(),
            deadline: Deadline::new(),
            pace: Pace::default(),
            observer,
            stopped: None,
            is_draining: false,
            is_leaving: false,
            has_unread_body: false,
            hears: false,
            is_new: true,
            header_begun: None,
            yields: false,
            shared,
            place,
        }
    }

    /// The same for a proxy that said whom it asks for: itself is at `peer`.
    pub(crate) fn through(mut self, peer: IpAddr) -> Self {
        self.is_local = peer.is_loopback();
        self
    }

    /// Answers requests until either side has had enough.
    pub(crate) async fn carry(mut self) {
        // The counters alone: an old service, with all that it keeps ready, is not to last as long as its oldest connection.
        let counters = Arc::clone(self.service.counters());
        let open = counters.count_connection();
        let mut turn = self.run().await;
        while let Ok(Turn::Moves) = turn {
            self.moves();
            turn = match self.shared.background.clone().filter(|_| self.yields) {
                Some(background) => {
                    let mut task = AbortOnDrop(background.spawn(async move {
                        let turn = self.run().await;
                        (self, turn)
                    }));
                    // It ends without a word when the background does.
                    let Ok((back, turn)) = (&mut task.0).await else { return };
                    self = back;
                    turn
                }
                None => self.run().await,
            };
        }
        match turn {
            Ok(_) => {
                self.goodbye().await;
            }
            Err(error) => open.fails(&error),
        }
    }

    /// Says goodbye where the protocol wants it, for as long as a client that takes nothing is waited for. What was sent before
    /// still arrives, if the client takes it.
    async fn goodbye(&mut self) {
        // Another task may have polled it.
        self.deadline.moves();
        self.deadline.lasts(LINGER_TIME);
        self.place.waits(Instant::now());
        let place = Arc::clone(&self.place);
        let said = poll_fn(|cx| match self.socket.poll_end(cx) {
            // An error means that nobody is left who could be told.
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.deadline.poll_over(cx),
        });
        place.unless_told(said).await;
    }

    /// Another task will carry it.
    fn moves(&mut self) {
        self.yields = !self.yields;
        // All of them wake the task that has polled them.
        self.stopped = None;
        self.hears = false;
        self.deadline.moves();
    }

    async fn run(&mut self) -> io::Result<Turn> {
        loop {
            // Taken, so that requests can borrow from it for as long as they are answered.
            let input = std::mem::take(&mut self.input);
            let step = match self.next(input.get(self.consumed..).unwrap_or_default()) {
                Next::Step(step) => step,
                Next::Request(asked) => {
                    // Boxed, so that a connection that waits for its next request is small.
                    if Box::pin(self.answer(asked)).await? == Persistence::Close {
                        return self.close().await.map(|()| Turn::Over);
                    }
                    continue;
                }
            };
            self.input = input;
            match step {
                Step::Again => {}
                Step::Flush => self.flush(false).await?,
                Step::Read => {
                    self.flush(false).await?;
                    match self.next_bytes().await? {
                        Filled::Bytes => {}
                        Filled::End => return Ok(Turn::Over),
                        Filled::TimedOut => return self.time_out().await.map(|()| Turn::Over),
                    }
                }
                Step::File(reader, range, persistence) => {
                    self.pace = Pace::default();
                    self.flush(is_joined(&range)).await?;
                    let sent = self.send_hot(&reader, range).await;
                    if sent.is_err() {
                        self.observer.breaks();
                    }
                    self.observer.ends();
                    sent?;
                    if persistence == Persistence::Close {
                        return self.close().await.map(|()| Turn::Over);
                    }
                }
                Step::Refuse(status, objection) => {
                    Box::pin(self.refuse(status, objection)).await?;
                    return self.linger().await.map(|()| Turn::Over);
                }
                Step::Settle => {
                    if !Box::pin(self.settle()).await? {
                        return self.linger().await.map(|()| Turn::Over);
                    }
                }
                Step::Move => {
                    self.flush(false).await?;
                    return Ok(Turn::Moves);
                }
                Step::Close => return self.close().await.map(|()| Turn::Over),
            }
        }
    }

    /// Reads the next request, and answers it from memory if it can be.
    fn next<'a>(&mut self, unread: &'a [u8]) -> Next<'a> {
        if unread.is_empty() {
            return Next::Step(Step::Read);
        }
        if self.output.len() >= OUTPUT_BYTES {
            return Next::Step(Step::Flush);
        }
        let head = match parse(unread, &self.shared.limits) {
            Parsed::Head(head) => head,
            Parsed::Incomplete => return Next::Step(Step::Read),
            Parsed::Refused(status, objection) => return Next::Step(Step::Refuse(status, objection)),
        };
        let asked = |head: Head<'a>, limited| {
            let rest = unread.get(head.bytes..).unwrap_or_default();
            Next::Request(Box::new(Asked { head, rest, limited }))
        };
        if self.services.has_changed().unwrap_or(false) {
            self.service = Arc::clone(&self.services.borrow_and_update());
            self.observer = self.service.observer();
        }
        if self.shared.background.is_some() && head.request.fields.is_background() != self.yields {
            return Next::Step(Step::Move);
        }
        match self.excess(&head) {
            None => {}
            Some(Excess::Reader) => return Next::Step(Step::Settle),
            Some(Excess::Request(wait)) => return asked(head, Some(wait)),
        }
        self.is_leaving = self.is_leaving || self.shared.admission.claims_place();
        match self.answer_hot(&head) {
            Some(step) => Next::Step(step),
            None => asked(head, None),
        }
    }

    /// Answers a request from memory, if it can be.
    fn answer_hot(&mut self, head: &Head<'_>) -> Option<Step> {
        let is_read = head.request.method == Method::GET || head.request.method == Method::HEAD;
        if !is_read || !head.request.query.is_empty() {
            return None;
        }
        let now = std::time::Instant::now();
        let hot = self.service.hot_answer(&head.request, now)?;
        let persistence = self.persistence(head);
        let request = &head.request;
        let more = match self.socket {
            Socket::Tls(_) => self.service.private_lines(),
            Socket::Tcp(_) | Socket::Unix(_) => &[],
        };
        let written = hot.write(&request.method, &request.fields, persistence, more, &mut self.output)?;
        let entry = self.entry(head, now);
        self.observer.answers(written.status, entry);
        self.observer.was_ready(written.body_bytes > 0);
        self.consumed += head.bytes;
        self.is_new = false;
        Some(match written.file {
            Some((reader, range)) => Step::File(reader, range, persistence),
            None => {
                self.observer.sent(written.body_bytes);
                self.observer.ends();
                if persistence == Persistence::Close {
                    Step::Close
                } else {
                    Step::Again
                }
            }
        })
    }

    /// Who asks: whoever is at the other end, or whom a trusted proxy there asks for.
    pub(super) fn client(&self, head: &Head<'_>) -> Client {
        let mut client = match self.socket {
            Socket::Unix(_) => Client::at_unix_socket(),
            _ => Client::default(),
        };
        client.address = client_address(&self.service, self.address, head);
        client.is_private = matches!(self.socket, Socket::Tls(_));
        client.is_local = self.is_local;
        client
    }

    /// The entry of the access log about what is no request: what stands where its first line should.
    pub(super) fn entry_of_nothing(&self, unread: &[u8]) -> Option<AccessLogEntry> {
        let log = self.service.access_log()?;
        let first_line = unread.split(|&byte| byte == b'\r' || byte == b'\n').next();
        let first_line = first_line.unwrap_or_default();
        let shown = first_line.get(..LOGGED_BYTES_MAX).unwrap_or(first_line);
        let request = LoggedRequest {
            address: self.address,
            line: &[shown],
            host: None,
            referer: None,
            agent: None,
            begun: std::time::Instant::now(),
        };
        Some(AccessLogEntry::new(log, &request))
    }

    /// The entry of the access log about a request, if there is a log.
    pub(super) fn entry(&self, head: &Head<'_>, begun: std::time::Instant) -> Option<AccessLogEntry> {
        let log = self.service.access_log()?;
        let request = LoggedRequest {
            address: client_address(&self.service, self.address, head),
            line: &[head.request.method.as_str(), head.target, head.version_text()].map(str::as_bytes),
            host: head.request.host,
            referer: head.referer,
            agent: head.agent,
            begun,
        };
        Some(AccessLogEntry::new(log, &request))
    }

    /// Waits for the next bytes of a request, or for a reason to end.
    async fn next_bytes(&mut self) -> io::Result<Filled> {
        let Limits {
            header_timeout,
            idle_timeout,
            ..
        } = self.shared.limits;
        if self.consumed > 0 {
            self.input.drain(..self.consumed);
            self.consumed = 0;
            self.header_begun = None;
        }
        if self.input.is_empty() {
            self.header_begun = None;
            if self.input.capacity() > IDLE_BUFFER_BYTES {
                self.input = Vec::new();
            }
        }
        if self.output.capacity() > IDLE_BUFFER_BYTES {
            self.output = Vec::new();
        }
        let now = Instant::now();
        let mut waits_since = None;
        if self.input.is_empty() {
            if !self.is_new {
                waits_since = Some(now);
            }
            let time = if self.is_draining {
                DRAIN_TIME
            } else if self.is_new {
                header_timeout
            } else {
                idle_timeout
            };
            self.deadline.until(now + time);
        } else {
            let begun = *self.header_begun.get_or_insert(now);
            self.deadline.until(begun + header_timeout);
        }
        poll_fn(|cx| self.poll_next_bytes(cx, &mut waits_since)).await
    }

    /// `idle_since`: since when nothing was asked, if that is not noted yet.
    fn poll_next_bytes(&mut self, cx: &mut Context<'_>, idle_since: &mut Option<Instant>) -> Poll<io::Result<Filled>> {
        if let Poll::Ready(filled) = self.poll_fill(cx) {
            if self.place.works() {
                (self.is_leaving, self.hears) = (true, false);
            }
            return Poll::Ready(filled);
        }
        match (idle_since.take(), self.header_begun) {
            (Some(since), _) => self.place.waits(since),
            (None, Some(begun)) => self.place.waits_for_the_rest(begun),
            // As it does since it came.
            (None, None) => {}
        }
        if self.is_told(cx) {
            return Poll::Ready(Ok(Filled::End));
        }
        if !self.is_draining && self.poll_stopping(cx) {
            self.is_draining = true;
            if self.input.is_empty() {
                self.deadline.lasts(DRAIN_TIME);
            }
        }
        std::task::ready!(self.deadline.poll_over(cx));
        Poll::Ready(Ok(Filled::TimedOut))
    }

    /// Whether others need its place. The first question has this task woken when they do; for the others it is enough to
    /// look.
    fn is_told(&mut self, cx: &mut Context<'_>) -> bool {
        if self.hears {
            return self.place.is_told();
        }
        self.hears = true;
        self.place.poll_told(cx).is_ready()
    }

    /// Whether the server stops. The first question has this task woken when it does; for the others it is enough to
    /// look.
    fn poll_stopping(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stopped.is_none() {
            let stopping = self.shared.stopping.clone();
            let stopped = self.stopped.insert(Box::pin(async move { stopping.stopped().await }));
            let _ = stopped.as_mut().poll(cx);
        }
        self.is_stopping()
    }

    /// What becomes of the connection behind the answer to this request, unless that says something else.
    pub(super) fn persistence(&self, head: &Head<'_>) -> Persistence {
        if self.is_leaving || self.is_stopping() {
            Persistence::Close
        } else {
            head.persistence()
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.shared.stopping.is_given()
    }

    /// Reads what is there into `input`.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            std::task::ready!(self.socket.poll_read(cx, &mut buffer))?;
            self.input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(if buffer.filled().is_empty() {
                Filled::End
            } else {
                Filled::Bytes
            }))
        })
    }

    /// Waits for more bytes of a body until the deadline.
    pub(super) async fn fill(&mut self) -> io::Result<Filled> {
        poll_fn(|cx| {
            if let Poll::Ready(filled) = self.poll_fill(cx) {
                return Poll::Ready(filled);
            }
            self.deadline.poll_over(cx).map(|()| Ok(Filled::TimedOut))
        })
        .await
    }

    /// The client has not sent what it had to.
    async fn time_out(&mut self) -> io::Result<()> {
        if self.input.is_empty() {
            // Nothing is owed to a client that asked for nothing.
            return Ok(());
        }
        let text = "the header of the request took too long";
        Box::pin(self.refuse(StatusCode::REQUEST_TIMEOUT, text)).await?;
        self.flush(false).await?;
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// Closes behind the last answer.
    async fn close(&mut self) -> io::Result<()> {
        self.flush(false).await?;
        if self.has_unread_body || self.consumed < self.input.len() {
            self.linger().await
        } else {
            Ok(())
        }
    }

    /// Ends the sending side and reads for a while: closing a socket with unread bytes resets it, and the client
    /// might lose the answer for that.
    pub(super) async fn linger(&mut self) -> io::Result<()> {
        self.flush(false).await?;
        self.deadline.lasts(LINGER_TIME);
        self.place.waits(Instant::now());
        // Over TLS the end has to be written, which a client that takes nothing keeps from going out.
        let is_shut = poll_fn(|cx| match self.socket.poll_shutdown(cx) {
            Poll::Ready(shut) => Poll::Ready(shut.map(|()| true)),
            Poll::Pending => self.deadline.poll_over(cx).map(|()| Ok(false)),
        });
        if !is_shut.await? {
            return Ok(());
        }
        let (place, mut read) = (Arc::clone(&self.place), 0);
        // One that was told before counts no more, and takes the place of nobody.
        let was_told = place.is_told();
        while read < LINGER_BYTES_MAX {
            self.input.clear();
            let filled = if was_told {
                self.fill().await
            } else {
                let Some(filled) = place.unless_told(self.fill()).await else {
                    break;
                };
                filled
            };
            match filled? {
                Filled::Bytes => read += self.input.len(),
                Filled::End | Filled::TimedOut => break,
            }
        }
        Ok(())
    }
}

pub(super) fn client_address(service: &Service, address: Option<IpAddr>, head: &Head<'_>) -> Option<IpAddr> {
    address.map(|peer| service.proxies().client(peer, &head.request.fields))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::head::PARSED;
    use super::*;
    use crate::admission::Admission;
    use crate::limits::Stopping;

    fn connection() -> (Connection, tokio::net::UnixStream) {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let catalogs = Arc::new(instantmirror_core::memory::Nothing);
        let (_sender, services) = watch::channel(Arc::new(Service::new(catalogs)));
        let shared = Arc::new(Shared {
            services,
            limits: Limits::default(),
            admission: Admission::new(&Limits::default()),
            background: None,
            stopping: Stopping::never(),
        });
        let place = Arc::new(Place::alone());
        (Connection::new(Socket::Unix(near), None, shared, place), far)
    }

    /// Mirrors hold tens of thousands of idle connections.
    #[tokio::test]
    async fn a_connection_that_waits_is_small() {
        let (connection, _far) = connection();
        let own = std::mem::size_of_val(&connection);
        let carried = std::mem::size_of_val(&connection.carry());
        assert!(carried <= 1200, "{carried} bytes, {own} of them the connection itself");
    }
    #[tokio::test]
    async fn a_request_is_read_once() {
        let (connection, mut far) = connection();
        let request = "GET /x HTTP/1.1\r\nHost: h\r\n\r\nGET /y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        far.write_all(request.as_bytes()).await.unwrap();
        let before = PARSED.get();
        connection.carry().await;
        assert_eq!(PARSED.get() - before, 2);
        let mut answers = String::new();
        far.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 404 Not Found").count(), 2, "{answers}");
    }
}
