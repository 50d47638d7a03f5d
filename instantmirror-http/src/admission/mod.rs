//! Admission control: which connections a server takes, which idle one makes room, and what one address is allowed.
//!
//! [`Admission`] is the shell around [`room`] (who gets a place, plain code) and [`addresses`] (token buckets): it has the
//! clock, the lock, and the log. A connection holds a [`Place`] for as long as it lasts.
//!
//! Key decision: nothing here takes a lock per request. A connection notes in an atomic number that it waits or works
//! ([`seat`]); the lock is taken when connections come, go or need room, and for the buckets where a rate is limited.

mod addresses;
mod alarm;
mod room;
mod seat;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{AddressLimits, Limits};
use addresses::Buckets;
use alarm::Alarm;
use room::{HEAD_START, Micros, Notice, Room, Verdict};
use seat::Seat;

/// Who waits for a place looks for idle connections this often.
const TICK: Duration = Duration::from_millis(50);
/// A reader that came when all places were in use waits so long for one.
const QUEUE_TIME: Duration = Duration::from_secs(10);
/// Idle connections that are closed at once when the system has no descriptors left.
const CLOSED_WITHOUT_DESCRIPTORS: usize = 32;

/// Who may connect to a server, and how often clients may ask. A cheap handle: limits can be changed while it serves.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Inner>);

/// Connections of a server now, and what its limits did since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Most connections at a time.
    pub connections_max: usize,
    /// Connections that are open and not about to be closed.
    pub open: usize,
    /// Those of them that wait for their clients: for the next request, or for the rest of one.
    pub idle: usize,
    /// Readers that wait for a place.
    pub queued: usize,
    /// Idle connections that were closed to make room for others.
    pub closed_idle: u64,
    /// Connections that were refused because their address had as many as it may have.
    pub refused_by_address: u64,
    /// Requests that were answered with 429 because their address asks too often.
    pub requests_limited: u64,
    /// Requests of readers that were answered with 503 because all connections were in use.
    pub turned_away: u64,
}

#[derive(Debug)]
struct Inner {
    room: Mutex<Room>,
    /// Wakes those that wait for a place before their connection is looked at.
    freed: Notify,
    /// How many of them wait.
    waiting: AtomicUsize,
    /// Connections that are to be closed behind their answer, because others wait and none is idle.
    owed: AtomicUsize,
    addresses: RwLock<Arc<AddressLimits>>,
    /// Whether requests are limited, at the price of a load.
    limits_requests: AtomicBool,
    buckets: Buckets,
    requests_limited: AtomicU64,
    rate_alarm: Mutex<Alarm>,
    begun: Instant,
}

/// A connection was refused: its address has as many as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AddressFull;

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        let addresses = &limits.addresses;
        let room = Room::new(limits.connections_max, connections_max(addresses));
        Self(Arc::new(Inner {
            room: Mutex::new(room),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            limits_requests: AtomicBool::new(addresses.requests.is_some()),
            addresses: RwLock::new(Arc::new(addresses.clone())),
            buckets: Buckets::default(),
            requests_limited: AtomicU64::new(0),
            rate_alarm: Mutex::default(),
            begun: Instant::now(),
        }))
    }

    /// Lets these limits hold from now on. Connections beyond them stay until they are idle and others need their place; for
    /// those that were open while addresses were not limited, their addresses do not count.
    pub fn set_limits(&self, connections_max: usize, addresses: &AddressLimits) {
        let mut room = self.room();
        room.set_limits(connections_max, self::connections_max(addresses));
        *self.0.addresses.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(addresses.clone());
        self.0
            .limits_requests
            .store(addresses.requests.is_some(), Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }

    /// How many connections there are, and what the limits did so far.
    #[must_use]
    pub fn stats(&self) -> AdmissionStats {
        let room = self.room();
        AdmissionStats {
            connections_max: room.max(),
            open: room.open(),
            idle: room.idle(),
            queued: room.queued(),
            closed_idle: room.tally.closed_idle,
            refused_by_address: room.tally.refused_by_address,
            requests_limited: self.0.requests_limited.load(Ordering::Relaxed),
            turned_away: room.tally.turned_away,
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> Arc<AddressLimits> {
        Arc::clone(&self.0.addresses.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn micros(&self) -> Micros {
        self.micros_of(Instant::now())
    }

    fn micros_of(&self, time: Instant) -> Micros {
        let since = time.saturating_duration_since(self.0.begun);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// A place for a new connection from this address (`None`: not limited by address), once there is one. Cancellation safe.
    pub(crate) async fn admit(&self, address: Option<IpAddr>) -> Result<Place, AddressFull> {
        let key = address.and_then(|address| self.addresses().key(address));
        let mut waits = None;
        loop {
            let freed = self.0.freed.notified();
            let verdict = {
                let mut room = self.room();
                let verdict = room.admit(key, self.micros());
                self.tell(&mut room);
                verdict
            };
            match verdict {
                Verdict::Admitted(id, seat) => return Ok(self.place(id, seat)),
                Verdict::AddressFull => return Err(AddressFull),
                Verdict::Full => {}
            }
            waits.get_or_insert_with(|| Waiting::new(&self.0.waiting));
            self.0
                .owed
                .store(self.0.waiting.load(Ordering::Relaxed), Ordering::Relaxed);
            // Whichever comes first: the next look is the same.
            let _ = tokio::time::timeout(TICK, freed).await;
        }
    }

    /// A place for a connection that is accepted already while the server stops.
    pub(crate) fn admit_anyway(&self) -> Place {
        let (id, seat) = self.room().admit_anyway(self.micros());
        self.place(id, seat)
    }

    fn place(&self, id: u64, seat: Arc<Seat>) -> Place {
        Place {
            admission: self.clone(),
            seat,
            id,
        }
    }

    /// A place for a connection that is refused, with a word about why; `None` if too many are told so already.
    pub(crate) fn admit_to_be_refused(&self) -> Option<Place> {
        let (id, seat) = self.room().admit_to_be_refused(self.micros())?;
        Some(self.place(id, seat))
    }

    /// Closes some idle connections: the system has no descriptors left.
    pub(crate) fn lacks_descriptors(&self) {
        let mut room = self.room();
        room.close_some_idle(CLOSED_WITHOUT_DESCRIPTORS, self.micros());
        self.tell(&mut room);
    }

    /// Whether the connection that asks this is to be closed behind its answer, so that somebody who waits gets its place.
    pub(crate) fn claims_place(&self) -> bool {
        let owed = &self.0.owed;
        owed.load(Ordering::Relaxed) > 0
            && owed
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| owed.checked_sub(1))
                .is_ok()
    }

    /// Whether requests are limited by address at all.
    pub(crate) fn limits_requests(&self) -> bool {
        self.0.limits_requests.load(Ordering::Relaxed)
    }

    /// Takes note of a request from this address.
    ///
    /// # Errors
    /// The time until it may ask again.
    pub(crate) fn take_request(&self, address: IpAddr) -> Result<(), Duration> {
        let limits = self.addresses();
        let (Some(rate), Some(key)) = (limits.requests, limits.key(address)) else {
            return Ok(());
        };
        let now = u64::try_from(self.0.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.buckets.take(key, rate, now)
    }

    /// Counts a request that is answered with 429.
    pub(crate) fn count_limited(&self, address: IpAddr) {
        self.0.requests_limited.fetch_add(1, Ordering::Relaxed);
        let mut alarm = self.0.rate_alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if alarm.rings(self.micros()) {
            let limited = self.0.requests_limited.load(Ordering::Relaxed);
            tracing::info!(
                %address,
                limited,
                "an address asks more often than [http.limits] requests_per_address; what is beyond is answered with 429"
            );
        }
    }

    /// Logs what is to be said.
    fn tell(&self, room: &mut Room) {
        for notice in room.take_notices() {
            let (open, max) = (room.open(), room.max());
            match notice {
                Notice::ClosesIdle => {
                    let (idle, closed) = (room.idle(), room.tally.closed_idle);
                    tracing::warn!(
                        open,
                        max,
                        idle,
                        closed,
                        "nearly as many connections as [http] max_connections allows: idle ones are closed to make room, \
                         the oldest first; raise it, or lower [http.limits] idle_timeout, if this comes often"
                    );
                }
                Notice::Full => {
                    let (waiting, turned_away) = (room.queued(), room.tally.turned_away);
                    tracing::warn!(
                        open,
                        max,
                        waiting,
                        turned_away,
                        "all [http] max_connections are in use and none is idle: new clients wait, and readers may be \
                         answered with 503; raise it (and `LimitNOFILE=` of the service), or see who they are \
                         (`ss -tn`) and limit them ([http.limits] connections_per_address)"
                    );
                }
                Notice::AddressFull(address) => {
                    let refused = room.tally.refused_by_address;
                    tracing::info!(
                        %address,
                        refused,
                        "an address has as many connections in use as [http.limits] connections_per_address allows; \
                         more of it are refused"
                    );
                }
            }
        }
    }
}

fn connections_max(addresses: &AddressLimits) -> Option<usize> {
    addresses.connections_max.map(std::num::NonZero::get)
}

/// Counts somebody who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of one connection among those of its server, given back when it is dropped. A new one waits for its client.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Admission,
    seat: Arc<Seat>,
    id: u64,
}

impl Place {
    /// A place of a server of its own.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        Admission::new(&Limits::default()).admit_anyway()
    }

    /// Whether the connection waits for its client.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.seat.waits_since().is_some()
    }

    /// The connection waits for its client: it may be closed if others need its place.
    pub(crate) fn waits(&self, since: Instant) {
        self.seat.waits(self.admission.micros_of(since));
    }

    /// The same while a request has not come to its end: what is on its way may take a moment.
    pub(crate) fn waits_for_the_rest(&self, since: Instant) {
        self.seat
            .waits(self.admission.micros_of(since).saturating_add(HEAD_START));
    }

    /// The connection has something to do. Returns whether it was told to leave before: this is its last request then.
    pub(crate) fn works(&self) -> bool {
        let was_told = self.seat.works();
        if was_told {
            self.admission.room().stays(self.id);
        }
        was_told
    }

    /// Whether it is told to leave.
    pub(crate) fn is_told(&self) -> bool {
        self.seat.is_told()
    }

    /// The same, ready once it is. Wakes the task that has polled it last.
    pub(crate) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.seat.poll_told(cx)
    }

    /// Waits until it is told to leave. Cancellation safe.
    pub(crate) async fn told(&self) {
        poll_fn(|cx| self.poll_told(cx)).await;
    }

    /// What something comes to that takes its time; `None` if the connection was told to leave before.
    pub(crate) async fn unless_told<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.told() => None,
        }
    }

    /// Has the connection leave behind the answers that it gives now.
    pub(crate) fn leaves(&self) {
        self.seat.tell_anyway();
    }

    /// Counts the connection for the client that its proxy named. Returns whether that may have one more.
    pub(crate) fn assign(&self, address: IpAddr) -> bool {
        let admission = &self.admission;
        let Some(key) = admission.addresses().key(address) else {
            return true;
        };
        let mut room = admission.room();
        let is_admitted = room.assign(self.id, key, admission.micros());
        admission.tell(&mut room);
        is_admitted
    }

    /// Whether it is one of those that are reserved for nodes, so that others have to [`settle`](Self::settle) first.
    pub(crate) fn is_reserved(&self) -> bool {
        self.seat.is_reserved()
    }

    /// Waits for a place that a reader may have. Returns whether there is one; if not, the reader is to be turned away. Any
    /// number of requests of one connection may wait. Cancellation safe: one that is dropped queues no longer.
    pub(crate) async fn settle(&self) -> bool {
        let admission = &self.admission;
        let (ticket, mut verdict) = {
            let mut room = admission.room();
            let settled = room.settle(self.id, admission.micros());
            admission.tell(&mut room);
            settled
        };
        let _queues = Queues { place: self, ticket };
        let until = Instant::now() + QUEUE_TIME;
        loop {
            // Without a verdict the server is gone.
            if let Ok(verdict) = tokio::time::timeout(TICK, &mut verdict).await {
                return verdict.unwrap_or(false);
            }
            let mut room = admission.room();
            if Instant::now() >= until {
                room.gives_up(self.id, ticket);
                return !self.is_reserved();
            }
            room.promote(admission.micros());
            admission.0.owed.store(room.queued(), Ordering::Relaxed);
        }
    }
}

/// A request that queues for a place, until it is dropped.
struct Queues<'a> {
    place: &'a Place,
    ticket: u64,
}

impl Drop for Queues<'_> {
    fn drop(&mut self) {
        self.place.admission.room().withdraws(self.place.id, self.ticket);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let admission = &self.admission;
        admission.room().release(self.id, admission.micros());
        if admission.0.waiting.load(Ordering::Relaxed) > 0 {
            admission.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// A client of HTTP/2 cancels what it asked for, again and again.
    #[tokio::test]
    async fn a_request_that_is_cancelled_queues_no_longer() {
        let admission = Admission::new(&Limits {
            connections_max: 16,
            ..Limits::default()
        });
        let mut busy = Vec::new();
        for _ in 0..16 {
            let place = admission.admit(None).await.unwrap();
            place.works();
            busy.push(place);
        }
        let reader = busy.pop().unwrap();
        assert!(reader.is_reserved());
        let mut kept = Box::pin(reader.settle());
        assert_eq!(kept.as_mut().now_or_never(), None);
        for _ in 0..100 {
            assert_eq!(reader.settle().now_or_never(), None);
        }
        assert_eq!(admission.stats().queued, 1);
        assert_eq!(admission.room().waiting(), 1);
        busy.pop();
        assert!(kept.await && !reader.is_reserved());
        assert_eq!(reader.settle().now_or_never(), Some(true));
        drop(reader);
        let stats = admission.stats();
        assert_eq!((stats.open, stats.queued, stats.turned_away), (14, 0, 0));
    }
}
