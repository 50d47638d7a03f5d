//! One swarm: its session, the lines to its peers, and who wants what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use instantmirror_core::Moment;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::swarm::{Bitfield, PeerKey, PieceIndex, UnitId, Want, WantId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::book::{AddressBook, Origin};
use super::outboard::{Answer, Outboards};
use super::{ObjectPlace, PieceSource, lock};
use crate::session::{Action, CloseReason, Event, REQUESTS_MAX, Session, SessionConfig, SessionStatus, Standing};
use crate::wire::extension::PexPeer;
use crate::wire::{Decoder, Message, WireError};

/// Peers of an export torrent are looked for until nothing of it was wanted for so long.
const SEEK: Duration = Duration::from_secs(60);
/// Messages that may wait for a peer that does not read them; then it is closed.
const WAITING_MAX: usize = 200_000;
/// Messages that may wait for a peer that asks for more; then it is not listened to. More than what it may have asked for.
const UNREAD_MAX: usize = 4 * REQUESTS_MAX;

/// A unit that came whole, for whoever wants it.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) swarm: InfoHash,
    pub(super) want: WantId,
    pub(super) offset: u64,
    pub(super) data: Bytes,
    pub(super) unit: UnitId,
    pub(super) from: PeerKey,
    pub(super) address: SocketAddr,
}

/// The way to one peer's writer.
#[derive(Debug)]
struct Line {
    orders: mpsc::UnboundedSender<Action>,
    waiting: Arc<Waiting>,
}

/// How many messages wait for a peer to read them.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    count: AtomicUsize,
    fewer: Notify,
}

impl Waiting {
    /// One more; how many there were before.
    fn add(&self) -> usize {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// One was taken to be sent.
    pub(super) fn taken(&self) {
        if self.count.fetch_sub(1, Ordering::Relaxed) == UNREAD_MAX {
            self.fewer.notify_one();
        }
    }

    /// Waits until they are few.
    pub(super) async fn few(&self) {
        while self.count.load(Ordering::Relaxed) >= UNREAD_MAX {
            self.fewer.notified().await;
        }
    }
}

/// Units of one connection whose blocks are coming.
pub(super) type Buffers = HashMap<UnitId, BytesMut>;

/// What came of the bytes that a socket brought.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) peers: Vec<PexPeer>,
    pub(super) takers_changed: bool,
    pub(super) block_bytes: u64,
    /// It asked for what it has to read now.
    pub(super) is_answered: bool,
    pub(super) metadata: Vec<Event>,
}

/// A swarm that was joined.
#[derive(Debug)]
pub struct Swarm {
    start: Instant,
    session: Mutex<Session>,
    lines: Mutex<HashMap<PeerKey, Line>>,
    wants: Mutex<HashMap<WantId, mpsc::UnboundedSender<Delivery>>>,
    pub(super) outboards: Outboards,
    pub(super) book: Mutex<AddressBook>,
    pub(super) source: Arc<dyn PieceSource>,
    info_hash: InfoHash,
    /// All pieces are known: an export torrent.
    is_fixed: bool,
    /// When something of it was wanted last.
    sought: Mutex<Option<Moment>>,
    /// Wakes whoever connects to peers.
    known_changed: Arc<Notify>,
}

impl Swarm {
    pub(super) fn new(
        config: SessionConfig,
        source: Arc<dyn PieceSource>,
        start: Instant,
        seed: u64,
        known_changed: Arc<Notify>,
    ) -> Self {
        Self {
            start,
            info_hash: config.info_hash,
            is_fixed: config.fixed.is_some(),
            sought: Mutex::default(),
            known_changed,
            session: Mutex::new(Session::new(config, seed)),
            lines: Mutex::default(),
            wants: Mutex::default(),
            outboards: Outboards::default(),
            book: Mutex::new(AddressBook::new(seed)),
            source,
        }
    }

    /// Which swarm it is.
    #[must_use]
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// Whether all its pieces are known beforehand: that of an export torrent, of which a node may be in hundreds.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// Whether to connect to peers: in a repository's swarm always, in that of an export torrent while something of it is
    /// wanted. Whoever connects to us is taken anyway.
    pub(super) fn looks_for_peers(&self, now: Moment) -> bool {
        !self.is_fixed || lock(&self.sought).is_some_and(|last| now.since(last) < SEEK)
    }

    /// Something of it is wanted.
    fn seek(&self, now: Moment) {
        let before = lock(&self.sought).replace(now);
        if self.is_fixed && before.is_none_or(|last| now.since(last) >= SEEK) {
            self.known_changed.notify_one();
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// Changes the session, and passes on what is to be done before anybody else can change it: so every peer gets its
    /// messages in their order.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Session) -> R) -> R {
        let mut session = lock(&self.session);
        let result = change(&mut session);
        let actions = session.actions();
        if !actions.is_empty() {
            let mut lines = lock(&self.lines);
            for (key, action) in actions {
                let Some(line) = lines.get(&key) else { continue };
                if line.waiting.add() < WAITING_MAX {
                    // A writer that has ended wants nothing any more.
                    let _ = line.orders.send(action);
                    continue;
                }
                let _ = line.orders.send(Action::Close(CloseReason::Silent));
                lines.remove(&key);
            }
        }
        result
    }

    /// A line to a peer; its writer counts down what waits.
    pub(super) fn open_line(&self, key: PeerKey) -> (mpsc::UnboundedReceiver<Action>, Arc<Waiting>) {
        let (orders, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::<Waiting>::default();
        let line = Line {
            orders,
            waiting: Arc::clone(&waiting),
        };
        lock(&self.lines).insert(key, line);
        (receiver, waiting)
    }

    pub(super) fn close_line(&self, key: PeerKey) {
        self.with(|session| session.gone(key));
        lock(&self.lines).remove(&key);
        self.outboards.gone(key);
    }

    pub(super) fn close_all(&self, reason: &CloseReason) {
        self.with(|session| {
            let keys: Vec<PeerKey> = session.peers().map(|(key, _)| key).collect();
            keys.into_iter().for_each(|key| session.expel(key, reason.clone()));
        });
    }

    /// Remembers somebody who may be in the swarm.
    pub(super) fn learn(&self, address: SocketAddr, origin: Origin) {
        lock(&self.book).learn(address, origin, self.now());
    }

    /// Takes in what a socket brought: all whole messages in `buffer`.
    pub(super) fn receive(
        &self,
        key: PeerKey,
        decoder: &mut Decoder,
        buffer: &mut BytesMut,
        buffers: &mut Buffers,
        address: SocketAddr,
    ) -> Result<Received, WireError> {
        let now = self.now();
        let mut received = Received::default();
        let mut whole = Vec::new();
        let result = self.with(|session| {
            loop {
                let message = match decoder.next(buffer) {
                    Ok(Some(message)) => message,
                    Ok(None) => {
                        received.is_answered = session.owes_answers(key);
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                };
                match session.message(key, &message, now) {
                    Some(Event::Block { unit, at, is_whole }) => {
                        let Message::Piece { data, .. } = message else { continue };
                        received.block_bytes += data.len() as u64;
                        let held = buffers
                            .entry(unit.id)
                            .or_insert_with(|| BytesMut::zeroed(usize::try_from(unit.length).unwrap_or(0)));
                        let at = usize::try_from(at).unwrap_or(usize::MAX);
                        if let Some(place) = held.get_mut(at..).and_then(|rest| rest.get_mut(..data.len())) {
                            place.copy_from_slice(&data);
                        }
                        if is_whole && let Some(held) = buffers.remove(&unit.id) {
                            whole.push((unit, held.freeze()));
                        }
                    }
                    Some(Event::Peers(peers)) => received.peers.extend(peers),
                    Some(Event::Outboard {
                        object,
                        total,
                        offset,
                        data,
                    }) => {
                        received.block_bytes += data.len() as u64;
                        self.outboards.came(key, &object, Answer::Part { total, offset, data });
                    }
                    Some(Event::NoOutboard(object)) => self.outboards.came(key, &object, Answer::Declined),
                    Some(Event::Takers) => received.takers_changed = true,
                    Some(other) => received.metadata.push(other),
                    None => {}
                }
            }
        });
        for (unit, data) in whole {
            let delivery = Delivery {
                swarm: self.info_hash,
                want: unit.want,
                offset: unit.offset,
                data,
                unit: unit.id,
                from: key,
                address,
            };
            let wanted = lock(&self.wants).get(&unit.want).cloned();
            if wanted.is_none_or(|wanted| wanted.send(delivery).is_err()) {
                self.with(|session| session.dropped(unit.id, now));
            }
        }
        result.map(|()| received)
    }

    /// Lets go of units that are not asked of this peer any more.
    pub(super) fn trim(&self, key: PeerKey, buffers: &mut Buffers) {
        let asked = self.with(|session| session.asked_of(key));
        buffers.retain(|unit, _| asked.contains(unit));
    }

    /// Where an object lies, if it is in this swarm.
    #[must_use]
    pub fn place_of(&self, object: &instantmirror_core::ObjectId) -> Option<ObjectPlace> {
        self.source.place_of(object)
    }

    /// All places where an object lies in this swarm.
    #[must_use]
    pub fn places_of(&self, object: &instantmirror_core::ObjectId) -> Vec<ObjectPlace> {
        self.source.places_of(object)
    }

    /// Whether a peer that has a piece would send it now.
    pub(super) fn is_ready(&self, piece: PieceIndex) -> bool {
        lock(&self.session).is_ready(piece)
    }

    /// Wants something from now on, delivered to `sender`. `None` if no peer has any of it.
    pub(super) fn want(&self, want: Want, sender: mpsc::UnboundedSender<Delivery>) -> Option<WantId> {
        let now = self.now();
        self.seek(now);
        self.with(|session| {
            let id = session.want(want, now);
            if !session.can_serve(id) {
                session.forget(id, now);
                return None;
            }
            // Before anything can come.
            lock(&self.wants).insert(id, sender);
            Some(id)
        })
    }

    pub(super) fn can_serve(&self, want: WantId) -> bool {
        lock(&self.session).can_serve(want)
    }

    pub(super) fn forget(&self, want: WantId) {
        let now = self.now();
        lock(&self.wants).remove(&want);
        self.with(|session| session.forget(want, now));
    }

    /// We have these pieces from now on, or no longer.
    pub fn set_have(&self, pieces: impl IntoIterator<Item = PieceIndex>, has: bool) {
        let now = self.now();
        self.with(|session| pieces.into_iter().for_each(|piece| session.set_have(piece, has, now)));
    }

    /// Sets how many pieces our catalogs know of.
    pub fn set_space(&self, pieces: PieceIndex) {
        self.with(|session| session.set_space(pieces));
    }

    /// Sets which pieces only authorised peers may know of.
    pub fn set_hidden(&self, hidden: Bitfield) {
        let now = self.now();
        self.with(|session| session.set_hidden(hidden, now));
    }

    /// Peers that are connected, with their addresses.
    pub(super) fn peers(&self) -> Vec<(PeerKey, SocketAddr)> {
        lock(&self.session).peers().collect()
    }

    /// Where connected peers can be reached later, our nodes first.
    #[must_use]
    pub fn reachable(&self) -> Vec<SocketAddr> {
        lock(&self.session).reachable()
    }

    /// How far we have come.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let seeks = self.looks_for_peers(self.now());
        let standing = lock(&self.session).standing();
        Standing { seeks, ..standing }
    }

    /// Whether any peer wants something of us.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        lock(&self.session).is_wanted()
    }

    /// What it looks like now.
    #[must_use]
    pub fn session_status(&self) -> SessionStatus {
        lock(&self.session).status()
    }

    pub(super) fn peer_count(&self) -> usize {
        lock(&self.session).peer_count()
    }

    /// One behind the highest piece that a peer may speak of.
    pub(super) fn piece_end(&self) -> PieceIndex {
        lock(&self.session).piece_end()
    }
}
