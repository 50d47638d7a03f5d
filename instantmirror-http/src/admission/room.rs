//! Who gets a place among the connections, and who goes when there is none: plain code, driven by arguments.
//!
//! The places of a server are in two parts. All but a sixteenth may be had by anybody. When those are taken, a newcomer pushes
//! out whoever waits longest for its client ([`Seat`]); if nobody does, it gets one of the *reserved* places, and its
//! first request decides: one of the nodes' API is answered, any other one queues for a common place, and the one that
//! queues longest is turned away when even the reserved places run out. So readers cannot shut out nodes.
//!
//! Several requests of one connection may queue at a time (HTTP/2). What gets a place, or is turned away, is the connection.
//!
//! Invariants: `common + reserved` is the number of connections that are not about to close. Those that queue, and no
//! others, have requests that wait, and they are at reserved places.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::alarm::Alarm;
use super::seat::Seat;

/// Microseconds.
pub(super) type Micros = u64;

/// One part in so many of the places is reserved for nodes.
const RESERVED_PART: usize = 16;
/// A connection that waits for less is about to be used: its client has just got an answer.
pub(super) const IDLE_MIN: Micros = 250_000;
/// A connection counts as idle only so long after it came, for what it wants takes a round trip or two to arrive.
pub(super) const HEAD_START: Micros = 2_000_000;
/// After a search for idle connections that found none there is no other one for so long.
const SEARCH_PAUSE: Micros = 20_000;
/// Connections at a time whose clients are told why they are refused; others are closed without a word.
const REFUSED_MAX: usize = 64;
/// A search finds so many connections at most, for it looks at all there are.
const FOUND_MAX: usize = 1024;

/// How a connection came to an end before its client wanted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Idle ones that were closed because others needed the place.
    pub(super) closed_idle: u64,
    /// Those that were not taken because their address has as many as it may have.
    pub(super) refused_by_address: u64,
    /// Readers that were turned away because all places were in use.
    pub(super) turned_away: u64,
}

/// Where a connection counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Common,
    Reserved,
    /// It is told that its address has too many.
    Refused,
    /// Nowhere: it is about to close.
    Leaving,
}

#[derive(Debug)]
struct Connected {
    seat: Arc<Seat>,
    part: Part,
    address: Option<IpAddr>,
    /// Its requests that wait for a common place.
    waiting: Vec<Waiting>,
}

/// A request of a reader that waits for a common place. It is sent whether its connection got one.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    verdict: oneshot::Sender<bool>,
}

/// Connections of one part that were idle when they were looked for, the longest first.
#[derive(Debug, Default)]
struct Found {
    idle: VecDeque<(Micros, u64)>,
    /// When it makes sense to look for more.
    search_at: Micros,
}

/// What became of a newcomer.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It has a place.
    Admitted(u64, Arc<Seat>),
    /// Its address has as many connections as it may have, and all are in use.
    AddressFull,
    /// There is no place now.
    Full,
}

/// What is to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Idle connections are closed to make room.
    ClosesIdle,
    /// All connections are in use.
    Full,
    /// An address has as many connections as it may have.
    AddressFull(IpAddr),
}

#[derive(Debug)]
pub(super) struct Room {
    max: usize,
    per_address_max: Option<usize>,
    connected: HashMap<u64, Connected>,
    next_id: u64,
    common: usize,
    reserved: usize,
    refused: usize,
    /// Connections of readers that want a common place.
    queue: VecDeque<u64>,
    next_ticket: u64,
    found_common: Found,
    found_reserved: Found,
    by_address: HashMap<IpAddr, BTreeMap<u64, Arc<Seat>>>,
    pub(super) tally: Tally,
    closes: Alarm,
    full: Alarm,
    address_full: Alarm,
    notices: Vec<Notice>,
}

impl Room {
    pub(super) fn new(max: usize, per_address_max: Option<usize>) -> Self {
        Self {
            max,
            per_address_max,
            connected: HashMap::new(),
            next_id: 0,
            common: 0,
            reserved: 0,
            refused: 0,
            queue: VecDeque::new(),
            next_ticket: 0,
            found_common: Found::default(),
            found_reserved: Found::default(),
            by_address: HashMap::new(),
            tally: Tally::default(),
            closes: Alarm::default(),
            full: Alarm::default(),
            address_full: Alarm::default(),
            notices: Vec::new(),
        }
    }

    /// Other limits hold from now on. Those that are beyond them stay until they are idle and somebody wants their place.
    pub(super) fn set_limits(&mut self, max: usize, per_address_max: Option<usize>) {
        (self.max, self.per_address_max) = (max, per_address_max);
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Connections that are not about to close.
    pub(super) fn open(&self) -> usize {
        self.common + self.reserved
    }

    /// Those of them that wait for their clients.
    pub(super) fn idle(&self) -> usize {
        let seats = self.connected.values().map(|one| &one.seat);
        seats.filter(|seat| seat.waits_since().is_some()).count()
    }

    /// Connections of readers that queue.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Their requests.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.connected.values().map(|one| one.waiting.len()).sum()
    }

    /// What is to be logged since the last call.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn common_max(&self) -> usize {
        self.max - self.max / RESERVED_PART
    }

    /// A place for a newcomer. `address`: what it counts for, if its address is limited.
    pub(super) fn admit(&mut self, address: Option<IpAddr>, now: Micros) -> Verdict {
        if !self.admits_address(address, now) {
            return Verdict::AddressFull;
        }
        let part = if self.has_common_place(now) {
            Part::Common
        } else if self.open() < self.max || self.close_idle(Part::Reserved, now) || self.turn_away() {
            Part::Reserved
        } else {
            self.say_full(now);
            return Verdict::Full;
        };
        Verdict::Admitted(self.next_id, self.seat(part, address, now))
    }

    /// A place for a newcomer, whatever the limits.
    pub(super) fn admit_anyway(&mut self, now: Micros) -> (u64, Arc<Seat>) {
        (self.next_id, self.seat(Part::Common, None, now))
    }

    /// A place for a newcomer that gets no answer but that it is refused. Only few have one at a time.
    pub(super) fn admit_to_be_refused(&mut self, now: Micros) -> Option<(u64, Arc<Seat>)> {
        let is_few = self.refused < REFUSED_MAX && self.common < self.common_max();
        is_few.then(|| (self.next_id, self.seat(Part::Refused, None, now)))
    }

    fn seat(&mut self, part: Part, address: Option<IpAddr>, now: Micros) -> Arc<Seat> {
        let id = self.next_id;
        self.next_id += 1;
        let seat = Arc::new(Seat::new(now + HEAD_START, part == Part::Reserved));
        let address = address.filter(|_| self.per_address_max.is_some());
        if let Some(address) = address {
            let of_address = self.by_address.entry(address).or_default();
            of_address.insert(id, Arc::clone(&seat));
        }
        let connected = Connected {
            seat: Arc::clone(&seat),
            part,
            address,
            waiting: Vec::new(),
        };
        self.count(part, 1);
        self.connected.insert(id, connected);
        seat
    }

    fn count(&mut self, part: Part, change: isize) {
        let count = match part {
            Part::Common => &mut self.common,
            Part::Reserved => &mut self.reserved,
            Part::Refused => &mut self.refused,
            Part::Leaving => return,
        };
        *count = count.saturating_add_signed(change);
    }

    /// Counts a connection for the client that its proxy named. Returns whether that may have one more.
    pub(super) fn assign(&mut self, id: u64, address: IpAddr, now: Micros) -> bool {
        if !self.admits_address(Some(address), now) {
            return false;
        }
        if self.per_address_max.is_some()
            && let Some(connected) = self.connected.get_mut(&id)
        {
            connected.address = Some(address);
            let seat = Arc::clone(&connected.seat);
            self.by_address.entry(address).or_default().insert(id, seat);
        }
        true
    }

    /// A connection has ended.
    pub(super) fn release(&mut self, id: u64, now: Micros) {
        let Some(connected) = self.connected.remove(&id) else {
            return;
        };
        self.count(connected.part, -1);
        if !connected.waiting.is_empty() {
            self.queue.retain(|queued| *queued != id);
        }
        self.forget_address(id, connected.address);
        if self.open() < self.max - self.max / 8 {
            self.closes.rearm();
            self.full.rearm();
        }
        self.promote(now);
    }

    fn forget_address(&mut self, id: u64, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Some(of_address) = self.by_address.get_mut(&address) {
            of_address.remove(&id);
            if of_address.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    /// A connection that was told to leave has been asked for something in the same moment: it counts until it has answered,
    /// where it counted before.
    pub(super) fn stays(&mut self, id: u64) {
        if let Some(connected) = self.connected.get_mut(&id)
            && connected.part == Part::Leaving
        {
            let part = if connected.seat.is_reserved() {
                Part::Reserved
            } else {
                Part::Common
            };
            connected.part = part;
            self.count(part, 1);
        }
    }

    /// A request of a reader at a reserved place asks for a common one. Returns its ticket, and what hears whether its
    /// connection gets one.
    pub(super) fn settle(&mut self, id: u64, now: Micros) -> (u64, oneshot::Receiver<bool>) {
        let (verdict, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let Some(connected) = self.connected.get_mut(&id) else {
            return (ticket, receiver);
        };
        if connected.part != Part::Reserved {
            // Another request of the same connection was faster.
            let _ = verdict.send(connected.part == Part::Common);
            return (ticket, receiver);
        }
        if connected.waiting.is_empty() {
            self.queue.push_back(id);
        }
        connected.waiting.push(Waiting { ticket, verdict });
        self.promote(now);
        if !self.queue.is_empty() {
            self.say_full(now);
        }
        (ticket, receiver)
    }

    /// A request has queued for long enough.
    pub(super) fn gives_up(&mut self, id: u64, ticket: u64) {
        if self.withdraws(id, ticket) {
            self.tally.turned_away += 1;
        }
    }

    /// A request wants no place any more. Returns whether it waited for one.
    pub(super) fn withdraws(&mut self, id: u64, ticket: u64) -> bool {
        let Some(connected) = self.connected.get_mut(&id) else {
            return false;
        };
        let before = connected.waiting.len();
        connected.waiting.retain(|waiting| waiting.ticket != ticket);
        let has_waited = connected.waiting.len() < before;
        if has_waited && connected.waiting.is_empty() {
            self.queue.retain(|queued| *queued != id);
        }
        has_waited
    }

    /// Gives common places to readers that queue for them, as far as there are any.
    pub(super) fn promote(&mut self, now: Micros) {
        while !self.queue.is_empty() && self.has_common_place(now) {
            self.unqueue(Part::Common);
        }
    }

    /// Turns the reader away that queues longest; its place is free then.
    fn turn_away(&mut self) -> bool {
        self.unqueue(Part::Leaving)
    }

    /// Has the connection that queues longest count there from now on, and tells its requests. Returns whether one queued.
    fn unqueue(&mut self, part: Part) -> bool {
        let Some(id) = self.queue.pop_front() else {
            return false;
        };
        let Some(connected) = self.connected.get_mut(&id) else {
            return true;
        };
        let before = std::mem::replace(&mut connected.part, part);
        let waiting = std::mem::take(&mut connected.waiting);
        if part == Part::Common {
            connected.seat.is_promoted();
        } else {
            // One of HTTP/2 would stay open behind its answers.
            connected.seat.tell_anyway();
            self.tally.turned_away += waiting.len() as u64;
        }
        self.count(before, -1);
        self.count(part, 1);
        for one in waiting {
            // One that has just ended does not hear it.
            let _ = one.verdict.send(part == Part::Common);
        }
        true
    }

    /// Whether there is a common place, or one is made.
    fn has_common_place(&mut self, now: Micros) -> bool {
        while self.common >= self.common_max() {
            if !self.close_idle(Part::Common, now) {
                return false;
            }
        }
        true
    }

    /// Closes up to so many idle connections, whether or not there are places.
    pub(super) fn close_some_idle(&mut self, count: usize, now: Micros) {
        for _ in 0..count {
            if !self.close_idle(Part::Common, now) {
                break;
            }
        }
    }

    /// Closes the connection of a part that is idle for longest. Returns whether there was one.
    fn close_idle(&mut self, part: Part, now: Micros) -> bool {
        loop {
            while let Some((since, id)) = self.found(part).idle.pop_front() {
                if self.tell(id, since) {
                    self.tally.closed_idle += 1;
                    if self.closes.rings(now) {
                        self.notices.push(Notice::ClosesIdle);
                    }
                    return true;
                }
            }
            if now < self.found(part).search_at {
                return false;
            }
            let idle = self.search(part, now);
            let found = self.found(part);
            found.idle = idle;
            if found.idle.is_empty() {
                found.search_at = now + SEARCH_PAUSE;
                return false;
            }
        }
    }

    fn found(&mut self, part: Part) -> &mut Found {
        if part == Part::Reserved {
            &mut self.found_reserved
        } else {
            &mut self.found_common
        }
    }

    /// Looks for connections of a part that are idle, the longest first.
    fn search(&self, part: Part, now: Micros) -> VecDeque<(Micros, u64)> {
        let of_part = self.connected.iter().filter(|(_, one)| one.part == part);
        let idle = of_part.filter_map(|(id, one)| Some((idle_since(&one.seat, now)?, *id)));
        let mut idle: Vec<_> = idle.collect();
        if idle.len() > FOUND_MAX {
            idle.select_nth_unstable(FOUND_MAX);
            idle.truncate(FOUND_MAX);
        }
        idle.sort_unstable();
        idle.into()
    }

    /// Tells a connection to leave if it is idle since then, and counts it no longer.
    fn tell(&mut self, id: u64, since: Micros) -> bool {
        let Some(connected) = self.connected.get_mut(&id) else {
            return false;
        };
        if connected.part == Part::Leaving || !connected.seat.tell(since) {
            return false;
        }
        let part = std::mem::replace(&mut connected.part, Part::Leaving);
        let address = connected.address.take();
        if !std::mem::take(&mut connected.waiting).is_empty() {
            self.queue.retain(|queued| *queued != id);
        }
        self.count(part, -1);
        self.forget_address(id, address);
        true
    }

    /// Whether this address may have one more connection. If it has as many as it may have, its own one that is idle for
    /// longest makes room.
    fn admits_address(&mut self, address: Option<IpAddr>, now: Micros) -> bool {
        let (Some(address), Some(max)) = (address, self.per_address_max) else {
            return true;
        };
        let Some(of_address) = self.by_address.get(&address).filter(|all| all.len() >= max) else {
            return true;
        };
        let idle = of_address
            .iter()
            .filter_map(|(id, seat)| Some((idle_since(seat, now)?, *id)));
        let idle: BTreeSet<_> = idle.collect();
        for (since, id) in idle {
            if self.tell(id, since) {
                self.tally.closed_idle += 1;
                return true;
            }
        }
        self.tally.refused_by_address += 1;
        if self.address_full.rings(now) {
            self.notices.push(Notice::AddressFull(address));
        }
        false
    }

    fn say_full(&mut self, now: Micros) {
        if self.full.rings(now) {
            self.notices.push(Notice::Full);
        }
    }
}

/// Since when a connection is idle; `None` if it is in use, or was a moment ago.
fn idle_since(seat: &Seat, now: Micros) -> Option<Micros> {
    seat.waits_since().filter(|since| since.saturating_add(IDLE_MIN) <= now)
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
