//! HTTP/2: frames by the `h2` crate, everything else here.
//!
//! Key decision: we drive `h2` ourselves. Reason: what a stream holds is decided where its body is read, and a general
//! server reads a piece first and waits for the client's window afterwards. Here a stream waits for window ([`stream`]),
//! takes its share of what its connection may hold ([`budget`]) and then reads; one that gets no window for too long is
//! reset ([`pace`]), as a slow client of HTTP/1.1 is cut; one that is gone is noticed ([`alive`]).
//!
//! A connection is idle, and may be closed to make room for others, while it answers nothing and all that it answered is sent.
//!
//! Invariant: the unsent bytes of objects on one connection are never more than the budget, however many streams it has.

mod alive;
mod budget;
mod excess;
mod pace;
mod stream;
mod watched;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::RecvStream;
use h2::server::SendResponse;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use self::alive::{Alive, PING_INTERVAL};
use self::budget::{Budget, UNSENT_BYTES_MAX, Unsent};
use self::watched::Watched;
use crate::admission::Place;
use crate::connection::{ResetAtEnd, Shared};

/// Window of all request bodies of a connection together, and so what they may hold unread.
const RECEIVE_BYTES_MAX: u32 = 256 * 1024;
/// Window that a stream is shown beyond what it has handed over: more than the budget, which alone cuts pieces short, or
/// they would begin and end where verified groups do not, and those be read twice.
const WINDOW_BYTES_MAX: usize = 2 * UNSENT_BYTES_MAX;
/// A connection without requests is closed so long after its client was told to leave.
const LEAVE_TIME: Duration = Duration::from_secs(5);
/// The same where others need its place.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

type Connection<S> = h2::server::Connection<Watched<S>, Unsent>;

/// What a connection waits for.
#[expect(clippy::large_enum_variant, reason = "it is looked at once and never kept")]
enum Event {
    Request(http::Request<RecvStream>, SendResponse<Unsent>),
    /// It is over.
    Ended(Option<h2::Error>),
    Stopping,
    /// Others need its place.
    Told,
    /// The client takes nothing of any stream.
    Stalled,
    Tick,
}

/// Carries one connection to its end.
pub(crate) async fn carry<S>(stream: S, address: IpAddr, shared: Arc<Shared>, place: Arc<Place>)
where
    S: AsyncRead + AsyncWrite + ResetAtEnd + Unpin,
{
    // The counters alone: an old service is not to last as long as its oldest connection.
    let counters = Arc::clone(shared.services.borrow().counters());
    let open = counters.count_connection();
    if let Err(error) = serve(stream, address, shared, place).await {
        open.fails(&error);
    }
}

async fn serve<S>(stream: S, address: IpAddr, shared: Arc<Shared>, place: Arc<Place>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + ResetAtEnd + Unpin,
{
    let limits = &shared.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .initial_connection_window_size(RECEIVE_BYTES_MAX)
        .max_send_buffer_size(WINDOW_BYTES_MAX);
    let stream = Watched::new(stream, limits.write_timeout);
    let traffic = stream.traffic();
    let handshake = builder.handshake(stream);
    let handshake = tokio::time::timeout(limits.header_timeout, handshake);
    let Some(connection) = place.unless_told(handshake).await else {
        return Ok(());
    };
    let mut connection: Connection<S> = connection
        .map_err(|_| timed_out("the preface took too long"))?
        .map_err(of_h2)?;
    let budget = Budget::new(Arc::clone(&place));
    let alive = Alive::new(traffic, connection.ping_pong(), limits.write_timeout);
    let mut upkeep = Upkeep::new(&shared, &budget, alive);
    let mut tick = pin!(tokio::time::sleep(upkeep.interval));
    let mut stopping = pin!(shared.stopping.stopped());
    let mut streams = JoinSet::new();
    loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(event) = poll_connection(&mut connection, cx) {
                return Poll::Ready(event);
            }
            if !upkeep.is_leaving() && stopping.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Stopping);
            }
            if !upkeep.is_leaving() && budget.is_stalled() {
                return Poll::Ready(Event::Stalled);
            }
            if !upkeep.is_told && place.poll_told(cx).is_ready() {
                return Poll::Ready(Event::Told);
            }
            tick.as_mut().poll(cx).map(|()| Event::Tick)
        });
        match event.await {
            Event::Request(request, respond) => {
                upkeep.requests += 1;
                let (shared, stream) = (Arc::clone(&shared), budget.stream());
                streams.spawn(stream::answer(request, respond, address, shared, stream));
                while streams.try_join_next().is_some() {}
            }
            Event::Ended(None) => return Ok(()),
            Event::Ended(Some(error)) => return Err(of_h2(error)),
            Event::Stopping | Event::Stalled => upkeep.leave(&mut connection, tick.as_mut(), LEAVE_TIME),
            Event::Told => {
                upkeep.is_told = true;
                upkeep.leave(&mut connection, tick.as_mut(), GOODBYE_TIME / 2);
            }
            Event::Tick => {
                while streams.try_join_next().is_some() {}
                match upkeep.tick().inspect_err(|_| upkeep.alive.cut())? {
                    Upkept::Stays => tick
                        .as_mut()
                        .reset(Instant::now() + upkeep.alive.next_look(upkeep.interval)),
                    Upkept::Leaves => upkeep.leave(&mut connection, tick.as_mut(), LEAVE_TIME),
                    Upkept::Left => return Ok(()),
                }
            }
        }
    }
}

fn poll_connection<S>(connection: &mut Connection<S>, cx: &mut Context<'_>) -> Poll<Event>
where
    S: AsyncRead + AsyncWrite + ResetAtEnd + Unpin,
{
    let accepted = pin!(connection.accept());
    accepted.poll(cx).map(|accepted| match accepted {
        Some(Ok((request, respond))) => Event::Request(request, respond),
        Some(Err(error)) => Event::Ended(Some(error)),
        None => Event::Ended(None),
    })
}

/// Looks after a connection now and then.
struct Upkeep {
    budget: Arc<Budget>,
    alive: Alive,
    idle_timeout: Duration,
    interval: Duration,
    /// Requests so far, and at the last tick.
    requests: u64,
    requests_before: u64,
    /// Since when there are none, as far as ticks tell.
    idle_since: Option<Instant>,
    /// Bytes of bodies that were sent at the last tick; `None`: none were waiting.
    stuck_at: Option<u64>,
    write_timeout: Duration,
    stuck_since: Instant,
    send_rate_min: u64,
    /// Since when only rests of answers are sent, as far as ticks tell, and what was sent then.
    tail: Option<(Instant, u64)>,
    is_leaving: bool,
    /// It leaves because others need its place.
    is_told: bool,
}

/// What is to become of a connection.
enum Upkept {
    Stays,
    /// It is idle: its client is to leave.
    Leaves,
    /// Its client was told to, and has nothing left here.
    Left,
}

impl Upkeep {
    fn new(shared: &Shared, budget: &Arc<Budget>, alive: Alive) -> Self {
        let limits = &shared.limits;
        Self {
            budget: Arc::clone(budget),
            alive,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
            // Twice in each of these times, so that they are kept to a half.
            interval: (limits.idle_timeout.min(limits.write_timeout).min(PING_INTERVAL) / 2)
                .max(Duration::from_millis(1)),
            requests: 0,
            requests_before: 0,
            idle_since: None,
            stuck_at: None,
            stuck_since: Instant::now(),
            send_rate_min: limits.send_rate_min,
            tail: None,
            is_leaving: false,
            is_told: false,
        }
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// Tells the client to open no more streams here, and looks every `time` whether it is done.
    fn leave<S>(&mut self, connection: &mut Connection<S>, tick: Pin<&mut Sleep>, time: Duration)
    where
        S: AsyncRead + AsyncWrite + ResetAtEnd + Unpin,
    {
        connection.graceful_shutdown();
        self.is_leaving = true;
        self.interval = self.interval.min(time);
        self.idle_since = None;
        self.requests_before = self.requests;
        tick.reset(Instant::now() + self.interval);
    }

    /// # Errors
    /// What was handed over long ago is not sent, although it has its window: the client has taken that back, or takes
    /// nothing at all.
    fn tick(&mut self) -> io::Result<Upkept> {
        let now = Instant::now();
        let sent = Some(self.budget.sent_bytes()).filter(|_| self.budget.unsent_bytes() > 0);
        if sent.is_none() || sent != self.stuck_at {
            (self.stuck_at, self.stuck_since) = (sent, now);
        } else if now - self.stuck_since >= self.write_timeout {
            return Err(timed_out("the client took nothing for too long"));
        }
        if !self.alive.look(self.budget.streams() > 0) {
            return Err(timed_out("the client does not answer a PING"));
        }
        let is_quiet = self.budget.streams() == 0 && self.requests == self.requests_before;
        self.requests_before = self.requests;
        if self.is_tail_slow(is_quiet, now) {
            return Err(timed_out("the client takes the rest of its answers too slowly"));
        }
        let since = *self.idle_since.get_or_insert(now);
        if !is_quiet || !self.budget.is_idle() {
            self.idle_since = None;
        } else if self.is_leaving && now > since {
            return Ok(Upkept::Left);
        } else if !self.is_leaving && now - since >= self.idle_timeout {
            return Ok(Upkept::Leaves);
        }
        Ok(Upkept::Stays)
    }

    /// Whether the client takes too slowly what is left of answers that were handed over to their ends, which no stream
    /// looks after any more. `is_quiet`: there were no requests since the last tick.
    fn is_tail_slow(&mut self, is_quiet: bool, now: Instant) -> bool {
        let sent = self.budget.sent_bytes();
        if !is_quiet || self.budget.unsent_bytes() == 0 {
            self.tail = None;
            return false;
        }
        let (since, before) = *self.tail.get_or_insert((now, sent));
        if now - since < self.write_timeout {
            return false;
        }
        self.tail = Some((now, sent));
        sent - before < self.send_rate_min.saturating_mul(self.write_timeout.as_secs())
    }
}

fn timed_out(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn of_h2(error: h2::Error) -> io::Error {
    match error.into_io() {
        Some(error) => error,
        None => io::Error::other("the client does not speak HTTP/2"),
    }
}

#[cfg(test)]
mod tests;
