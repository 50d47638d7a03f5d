//! Outboards from peers: asked of one node after the other, verified before anybody sees them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use instantmirror_core::log_limited;
use instantmirror_core::swarm::PeerKey;
use instantmirror_core::{ObjectId, Outboard};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::swarm::Swarm;
use super::{ObjectPlace, lock};
use crate::session::CloseReason;
use crate::wire::extension::{OUTBOARD_BYTES_MAX, OUTBOARD_PART_BYTES};

/// A peer that sends no part for so long is given up.
const PART_PATIENCE: Duration = Duration::from_secs(3);
/// Parts that are asked for at a time.
const PARTS_AT_ONCE: usize = 4;
/// Peers that are asked for one outboard, one after the other.
const PEERS_MAX: usize = 8;
/// An outboard that cannot be read so soon is declined, so that nothing else waits behind it: who asks would not wait longer.
/// One that was lost is made anew meanwhile, from the whole object, for whoever asks later.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// Outboards that are read at a time.
const READING_MAX: usize = 16;
/// Bytes of outboards of several parts that are kept, so that not every part reads the whole.
const RECENT_BYTES_MAX: usize = OUTBOARD_BYTES_MAX as usize;

/// An outboard that is being read.
type Reading = Shared<BoxFuture<'static, Option<Bytes>>>;

/// What a peer says when it is asked.
#[derive(Debug)]
pub(super) enum Answer {
    /// Part of it.
    Part {
        /// Bytes of the whole.
        total: u32,
        /// Where the part begins.
        offset: u32,
        /// The part.
        data: Bytes,
    },
    /// It does not give it.
    Declined,
}

/// Who waits for outboards, and what was given lately.
#[derive(Debug, Default)]
pub(super) struct Outboards {
    waits: Mutex<HashMap<(PeerKey, ObjectId), mpsc::UnboundedSender<Answer>>>,
    /// The newest last.
    recent: Mutex<Vec<(ObjectId, Bytes)>>,
    /// Those that are read now, each once for all who ask.
    reading: Mutex<HashMap<ObjectId, Reading>>,
}

impl Outboards {
    pub(super) fn came(&self, key: PeerKey, object: &ObjectId, answer: Answer) {
        if let Some(waits) = lock(&self.waits).get(&(key, *object)) {
            // Who waited wants it no more.
            let _ = waits.send(answer);
        }
    }

    /// A peer is gone: whoever waits for it hears of it at once.
    pub(super) fn gone(&self, key: PeerKey) {
        lock(&self.waits).retain(|(peer, _), _| *peer != key);
    }

    fn recent(&self, object: &ObjectId) -> Option<Bytes> {
        let recent = lock(&self.recent);
        let found = recent.iter().find(|(known, _)| known == object);
        found.map(|(_, outboard)| outboard.clone())
    }

    fn keep(&self, object: &ObjectId, outboard: &Bytes) {
        if outboard.len() > RECENT_BYTES_MAX {
            return;
        }
        let mut recent = lock(&self.recent);
        recent.retain(|(known, _)| known != object);
        recent.push((*object, outboard.clone()));
        let mut bytes: usize = recent.iter().map(|(_, outboard)| outboard.len()).sum();
        while bytes > RECENT_BYTES_MAX {
            bytes -= recent.remove(0).1.len();
        }
    }
}

/// One outboard asked of one peer; dropping it withdraws that.
struct Asking<'a> {
    swarm: &'a Swarm,
    key: PeerKey,
    object: ObjectId,
    answers: mpsc::UnboundedReceiver<Answer>,
    next: u32,
    total: u32,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.swarm.outboards.waits).remove(&(self.key, self.object));
        self.swarm
            .with(|session| session.forget_outboard(self.key, &self.object));
    }
}

/// Why a peer did not bring an outboard.
enum NoOutboard {
    /// It has none, says nothing or is gone.
    Missing,
    /// It said what cannot be.
    Lie,
}

impl Asking<'_> {
    fn ask_next(&mut self) {
        if self.next < self.total {
            let (key, object, offset, now) = (self.key, self.object, self.next, self.swarm.now());
            self.next = offset.saturating_add(OUTBOARD_PART_BYTES);
            self.swarm
                .with(|session| session.ask_outboard(key, object, offset, now));
        }
    }

    /// All parts, not verified as a whole.
    async fn collect(&mut self) -> Result<Bytes, NoOutboard> {
        let mut values = BytesMut::zeroed(self.total as usize);
        let mut missing = self.total as usize;
        while missing > 0 {
            let answer = timeout(PART_PATIENCE, self.answers.recv()).await.ok().flatten();
            let Some(Answer::Part { total, offset, data }) = answer else {
                return Err(NoOutboard::Missing);
            };
            let start = offset as usize;
            let place = values.get_mut(start..start + data.len());
            // An object has one outboard, as long as its size says.
            let place = place.filter(|_| total == self.total).ok_or(NoOutboard::Lie)?;
            place.copy_from_slice(&data);
            missing = missing.saturating_sub(data.len());
            self.ask_next();
        }
        Ok(values.freeze())
    }
}

impl Swarm {
    /// An object's outboard from peers, verified; `None` if none of them gives it. Who forges one is expelled. Dropping the
    /// future withdraws what was asked.
    pub(super) async fn fetch_outboard(&self, object: ObjectId, size: u64) -> Option<Bytes> {
        let place = self.place_of(&object).filter(|place| place.size == size)?;
        let total = u32::try_from(Outboard::len_for(size)).ok()?;
        let mut asked = Vec::new();
        while asked.len() < PEERS_MAX {
            let mut asking = self.begin_outboard(object, place, total, &asked)?;
            asked.push(asking.key);
            let outcome = asking.collect().await.and_then(|values| {
                let verified = Outboard::verify(object, size, values);
                verified.map_err(|_| NoOutboard::Lie)
            });
            match outcome {
                Ok(outboard) => return Some(outboard.values().clone()),
                Err(NoOutboard::Missing) => {}
                Err(NoOutboard::Lie) => {
                    log_limited!(Instant::now(), info, %object, "a peer sent an outboard that is forged");
                    self.with(|session| session.expel(asking.key, CloseReason::Lie));
                }
            }
        }
        None
    }

    fn begin_outboard(
        &self,
        object: ObjectId,
        place: ObjectPlace,
        total: u32,
        except: &[PeerKey],
    ) -> Option<Asking<'_>> {
        let (sender, answers) = mpsc::unbounded_channel();
        let now = self.now();
        let (key, next) = self.with(|session| {
            let piece_bytes = u64::from(session.config().piece_bytes);
            let pieces = u32::try_from(place.size.div_ceil(piece_bytes)).ok()?;
            let key = session.outboard_peer(&object, place.first_piece, pieces, except)?;
            // Before anything can come.
            lock(&self.outboards.waits).insert((key, object), sender);
            let mut next = 0;
            for offset in (0..total).step_by(OUTBOARD_PART_BYTES as usize).take(PARTS_AT_ONCE) {
                session.ask_outboard(key, object, offset, now);
                next = offset + OUTBOARD_PART_BYTES;
            }
            Some((key, next))
        })?;
        Some(Asking {
            swarm: self,
            key,
            object,
            answers,
            next,
            total,
        })
    }

    /// The outboard of an object that is here, to be given away; `None` if it cannot be had soon.
    pub(super) async fn own_outboard(self: &Arc<Self>, object: &ObjectId) -> Option<Bytes> {
        if let Some(recent) = self.outboards.recent(object) {
            return Some(recent);
        }
        let reading = self.read_outboard(object)?;
        timeout(READ_PATIENCE, reading).await.ok().flatten()
    }

    /// Joins the reading of an outboard, or begins it. It goes on when nobody waits any more. `None` if too many are read.
    fn read_outboard(self: &Arc<Self>, object: &ObjectId) -> Option<Reading> {
        let mut reading = lock(&self.outboards.reading);
        if let Some(begun) = reading.get(object) {
            return Some(begun.clone());
        }
        if reading.len() >= READING_MAX {
            return None;
        }
        let (swarm, wanted) = (Arc::clone(self), *object);
        let task = tokio::spawn(async move {
            let outboard = swarm.source.outboard(&wanted).await;
            let is_long = |outboard: &&Bytes| outboard.len() > OUTBOARD_PART_BYTES as usize;
            if let Some(outboard) = outboard.as_ref().filter(is_long) {
                swarm.outboards.keep(&wanted, outboard);
            }
            lock(&swarm.outboards.reading).remove(&wanted);
            outboard
        });
        let begun = async move { task.await.ok().flatten() }.boxed().shared();
        reading.insert(*object, begun.clone());
        Some(begun)
    }
}
