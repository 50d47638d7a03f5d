//! Swarms as a source of objects for the fetch engine.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use instantmirror_core::log_limited;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::outboard::GROUP_BYTES;
use instantmirror_core::swarm::{UnitId, Urgency, Want, WantId};
use instantmirror_core::traits::{self, BatchItem, Class, Group, GroupRequest, GroupStream, Receipt, TransportError};
use instantmirror_core::{ObjectId, Outboard, RepoName};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::ObjectPlace;
use super::swarm::{Delivery, Swarm};
use crate::wire::extension::OUTBOARD_BYTES_MAX;

/// A client is not kept waiting for peers longer than this before somebody else is asked.
const HEDGE: Duration = Duration::from_millis(800);
/// Objects of a new snapshot have their places within this.
const PLACE_WAIT: Duration = Duration::from_secs(3);
/// Nor anybody else longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Small objects that come within so long are handed on together, at most so many: to wake somebody for each would cost more
/// than to write it.
const GATHER: Duration = Duration::from_millis(5);
const TAKEN_AT_ONCE: usize = 64;
/// Bytes of objects of several groups that one batch wants at a time. Their groups wait to be verified until the whole object
/// is here, and a session asks for nothing more when too many wait.
const GATHERED_BYTES_MAX: u64 = 1 << 20;

/// The swarms of one repository, asked as one source: the repository's own swarm first, then export torrents that have the
/// object.
#[derive(Debug)]
pub struct SwarmTransport {
    label: String,
    swarms: RwLock<Vec<Arc<Swarm>>>,
    /// Grows whenever more objects have their places.
    placed: watch::Sender<u64>,
    /// Nobody waits for places before there are more.
    is_caught_up: AtomicBool,
}

impl SwarmTransport {
    /// Without any swarm yet; `label` is for logs and statistics.
    #[must_use]
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            swarms: RwLock::default(),
            placed: watch::Sender::new(0),
            is_caught_up: AtomicBool::new(false),
        }
    }

    /// Asks these swarms from now on, in this order.
    pub fn set_swarms(&self, swarms: Vec<Arc<Swarm>>) {
        *self.swarms.write().unwrap_or_else(PoisonError::into_inner) = swarms;
        self.placed();
    }

    /// Tells that more objects may have their places in the swarms.
    pub fn placed(&self) {
        self.is_caught_up.store(false, Ordering::Relaxed);
        self.placed.send_modify(|count| *count += 1);
    }

    fn all(&self) -> Vec<Arc<Swarm>> {
        self.swarms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until an object has its place, if nobody waits for it itself: a new snapshot is seen by whoever fetches ahead as
    /// soon as by whoever works out where its objects lie. Waits in vain once at most.
    async fn wait_for_place(&self, object: &ObjectId, class: Class) {
        let mut placed = self.placed.subscribe();
        let is_behind = || {
            let swarms = self.all();
            !swarms.is_empty() && swarms.iter().all(|swarm| swarm.place_of(object).is_none())
        };
        while class.is_background() && is_behind() && !self.is_caught_up.load(Ordering::Relaxed) {
            if timeout(PLACE_WAIT, placed.changed()).await.is_err() {
                self.is_caught_up.store(true, Ordering::Relaxed);
            }
        }
    }

    fn not_found(&self, object: &ObjectId) -> TransportError {
        TransportError::NotFound {
            from: self.label.clone(),
            what: format!("object {object}"),
        }
    }

    fn silent(&self) -> TransportError {
        TransportError::Unreachable {
            from: self.label.clone(),
            reason: "no peer sent anything for too long".to_owned(),
        }
    }

    /// Wants part of an object of the first swarm in which anybody has it.
    fn want(
        &self,
        object: &ObjectId,
        size: u64,
        range: Range<u64>,
        urgency: Urgency,
        sender: &mpsc::UnboundedSender<Delivery>,
    ) -> Option<Wanted> {
        let swarms = self.all();
        let want = |swarm: &Arc<Swarm>, place: ObjectPlace| {
            let want = Want {
                first_piece: place.first_piece,
                size,
                range: range.clone(),
                urgency,
            };
            let id = swarm.want(want, sender.clone())?;
            let swarm = Arc::clone(swarm);
            Some(Wanted { swarm, id })
        };
        swarms.iter().find_map(|swarm| {
            let places = swarm.places_of(object).into_iter().filter(|place| place.size == size);
            places.into_iter().find_map(|place| want(swarm, place))
        })
    }

    /// Why nobody can be asked for an object: peers of export torrents are looked for from now on, so it may be had soon.
    fn nobody(&self, object: &ObjectId, size: u64) -> TransportError {
        let swarms = self.all();
        let may_come =
            |swarm: &Arc<Swarm>| swarm.is_fixed() && swarm.place_of(object).is_some_and(|place| place.size == size);
        if swarms.iter().any(may_come) {
            return TransportError::Unreachable {
                from: self.label.clone(),
                reason: format!("no peer has object {object} now"),
            };
        }
        self.not_found(object)
    }
}

/// A want; dropping it withdraws it.
#[derive(Debug)]
struct Wanted {
    swarm: Arc<Swarm>,
    id: WantId,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.swarm.forget(self.id);
    }
}

/// Units of small objects that have been verified, by their swarms.
#[derive(Debug, Default)]
struct Verified(Vec<(Arc<Swarm>, Vec<UnitId>)>);

impl Verified {
    fn add(&mut self, swarm: &Arc<Swarm>, unit: UnitId) {
        match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, swarm)) {
            Some((_, units)) => units.push(unit),
            None => self.0.push((Arc::clone(swarm), vec![unit])),
        }
    }

    fn tell(self) {
        for (swarm, units) in self.0 {
            let now = swarm.now();
            swarm.with(|session| session.all_verified(&units, now));
        }
    }
}

/// The next unit; `None` if none came for too long.
async fn next(deliveries: &mut mpsc::UnboundedReceiver<Delivery>, class: Class) -> Option<Delivery> {
    let patience = if class == Class::Demand { HEDGE } else { PATIENCE };
    timeout(patience, deliveries.recv()).await.ok().flatten()
}

/// What a unit was worth.
#[derive(Debug)]
struct UnitReceipt {
    swarm: Arc<Swarm>,
    delivery: Option<Delivered>,
}

#[derive(Debug)]
struct Delivered {
    unit: UnitId,
    from: instantmirror_core::swarm::PeerKey,
    address: std::net::SocketAddr,
}

impl UnitReceipt {
    fn new(swarm: &Arc<Swarm>, delivery: &Delivery) -> Self {
        Self {
            swarm: Arc::clone(swarm),
            delivery: Some(Delivered {
                unit: delivery.unit,
                from: delivery.from,
                address: delivery.address,
            }),
        }
    }
}

impl Receipt for UnitReceipt {
    fn good(mut self: Box<Self>) {
        if let Some(delivered) = self.delivery.take() {
            let now = self.swarm.now();
            self.swarm.with(|session| session.verified(delivered.unit, now));
        }
    }

    fn bad(mut self: Box<Self>) {
        if let Some(delivered) = self.delivery.take() {
            let now = self.swarm.now();
            log_limited!(Instant::now(), info, peer = %delivered.address, "this peer sent bytes that do not verify");
            self.swarm
                .with(|session| session.lied(delivered.from, delivered.unit, now));
        }
    }
}

impl Drop for UnitReceipt {
    fn drop(&mut self) {
        if let Some(delivered) = self.delivery.take() {
            let now = self.swarm.now();
            self.swarm.with(|session| session.dropped(delivered.unit, now));
        }
    }
}

#[async_trait]
impl traits::Swarm for SwarmTransport {
    fn label(&self) -> &str {
        &self.label
    }

    async fn groups(&self, _repository: &RepoName, request: GroupRequest) -> Result<GroupStream, TransportError> {
        let urgency = Urgency {
            class: request.class,
            rank: request.rank,
        };
        self.wait_for_place(&request.object, request.class).await;
        let (sender, deliveries) = mpsc::unbounded_channel();
        let wanted = self.want(&request.object, request.size, request.range, urgency, &sender);
        let wanted = wanted.ok_or_else(|| self.nobody(&request.object, request.size))?;
        let (class, silent) = (request.class, self.silent());
        let groups = stream::unfold(Some((wanted, deliveries)), move |state| {
            let silent = silent.clone();
            async move {
                let (wanted, mut deliveries) = state?;
                match next(&mut deliveries, class).await {
                    Some(delivery) => {
                        let group = Group {
                            offset: delivery.offset,
                            receipt: Box::new(UnitReceipt::new(&wanted.swarm, &delivery)),
                            data: delivery.data,
                        };
                        Some((Ok(group), Some((wanted, deliveries))))
                    }
                    None => Some((Err(silent), None)),
                }
            }
        });
        Ok(Box::pin(groups))
    }

    fn is_ready(&self, object: &ObjectId) -> bool {
        self.all().iter().any(|swarm| {
            let mut places = swarm.places_of(object).into_iter();
            places.any(|place| swarm.is_ready(place.first_piece))
        })
    }

    /// From peers that have the object or some of it, verified here, so that who forges one is known. Peers give each other
    /// none beyond [`OUTBOARD_BYTES_MAX`].
    async fn outboard(
        &self,
        _repository: &RepoName,
        object: &ObjectId,
        size: u64,
        _class: Class,
    ) -> Result<Bytes, TransportError> {
        let missing = |why: &str| TransportError::NotFound {
            from: self.label.clone(),
            what: format!("the outboard of object {object}{why}"),
        };
        match Outboard::len_for(size) {
            0 => return Ok(Bytes::new()),
            bytes if bytes > u64::from(OUTBOARD_BYTES_MAX) => {
                return Err(missing(", which is too long for peers: it comes by HTTP"));
            }
            _ => {}
        }
        for swarm in self.all() {
            if let Some(values) = swarm.fetch_outboard(*object, size).await {
                return Ok(values);
            }
        }
        Err(missing(""))
    }

    /// Whole objects, each verified by its id. An outboard is asked for only if one of several groups does not verify: to
    /// learn which peer lied.
    async fn batch(
        &self,
        _repository: &RepoName,
        objects: &[(ObjectId, u64)],
        _class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        let urgency = Urgency {
            class: Class::Preseed,
            rank: 0,
        };
        let (sender, mut deliveries) = mpsc::unbounded_channel();
        let mut gathered = HashMap::new();
        if let Some((object, _)) = objects.first() {
            self.wait_for_place(object, urgency.class).await;
        }
        let is_large = |(_, size): &&(ObjectId, u64)| *size > GROUP_BYTES;
        let mut small = objects.iter().filter(|one| !is_large(one));
        let mut large: VecDeque<_> = objects.iter().filter(is_large).collect();
        let mut some = Vec::with_capacity(TAKEN_AT_ONCE);
        loop {
            while let Some((object, size)) = small.next().or_else(|| next_large(&mut large, &gathered)) {
                match self.want(object, *size, 0..*size, urgency, &sender) {
                    Some(one) => {
                        let key = (one.swarm.info_hash(), one.id);
                        _ = gathered.insert(key, Gathered::new(*object, *size, one));
                    }
                    None => sink((*object, Err(self.nobody(object, *size)))),
                }
            }
            if gathered.is_empty() {
                return Ok(());
            }
            let came = timeout(PATIENCE, deliveries.recv_many(&mut some, TAKEN_AT_ONCE)).await;
            if came.is_err() {
                break;
            }
            let (mut verified, mut over) = (Verified::default(), Vec::with_capacity(some.len()));
            for delivery in some.drain(..) {
                let key = (delivery.swarm, delivery.want);
                let Some(one) = gathered.get_mut(&key) else {
                    continue;
                };
                one.take(delivery);
                if !one.is_whole() {
                    continue;
                }
                if let Some(content) = one.verified(&mut verified) {
                    sink((one.object, Ok(content)));
                    over.extend(gathered.remove(&key));
                } else if !one.can_go_on().await {
                    sink((one.object, Err(self.not_found(&one.object))));
                    over.extend(gathered.remove(&key));
                }
            }
            // Wants end after what came for them is known to be good: else it would be asked of others.
            verified.tell();
            drop(over);
            if !gathered.is_empty() {
                tokio::time::sleep(GATHER).await;
            }
        }
        let silent = gathered.into_values().map(|one| one.object);
        let silent = silent.chain(large.into_iter().map(|(object, _)| *object));
        silent.for_each(|object| sink((object, Err(self.silent()))));
        Ok(())
    }
}

/// The next object of several groups, if those that are wanted leave it room.
fn next_large<'a>(
    waiting: &mut VecDeque<&'a (ObjectId, u64)>,
    gathered: &HashMap<(InfoHash, WantId), Gathered>,
) -> Option<&'a (ObjectId, u64)> {
    let wanted = gathered.values().map(|one| one.size).filter(|size| *size > GROUP_BYTES);
    let bytes: u64 = wanted.sum();
    let has_room = |(_, size): &&&(ObjectId, u64)| bytes == 0 || bytes + size <= GATHERED_BYTES_MAX;
    waiting.front().filter(has_room)?;
    waiting.pop_front()
}

/// What has come of one object of a batch.
#[derive(Debug)]
struct Gathered {
    object: ObjectId,
    size: u64,
    /// Units by where they begin. Those that are dropped without a word are asked for again.
    units: BTreeMap<u64, (Bytes, Box<UnitReceipt>)>,
    wanted: Wanted,
}

impl Gathered {
    fn new(object: ObjectId, size: u64, wanted: Wanted) -> Self {
        Self {
            object,
            size,
            units: BTreeMap::new(),
            wanted,
        }
    }

    fn take(&mut self, delivery: Delivery) {
        let receipt = Box::new(UnitReceipt::new(&self.wanted.swarm, &delivery));
        self.units.insert(delivery.offset, (delivery.data, receipt));
    }

    fn is_whole(&self) -> bool {
        self.units.values().map(|(data, _)| data.len() as u64).sum::<u64>() >= self.size
    }

    /// The content, if it is what was asked for; its units are good then.
    fn verified(&mut self, good: &mut Verified) -> Option<Bytes> {
        let mut parts = self.units.values().map(|(data, _)| data);
        let content = match (parts.next(), self.units.len()) {
            (Some(only), 1) => only.clone(),
            (first, _) => {
                let all: Vec<&[u8]> = first.into_iter().chain(parts).map(AsRef::as_ref).collect();
                all.concat().into()
            }
        };
        if content.len() as u64 != self.size || ObjectId::of(&content) != self.object {
            return None;
        }
        for (_, mut receipt) in std::mem::take(&mut self.units).into_values() {
            let unit = receipt.delivery.take().map(|delivered| delivered.unit);
            unit.into_iter().for_each(|unit| good.add(&self.wanted.swarm, unit));
        }
        Some(content)
    }

    /// Finds out who lied, and keeps what others sent. Whether the rest may still come.
    async fn can_go_on(&mut self) -> bool {
        let outboard = match self.size <= GROUP_BYTES {
            true => None,
            false => match self.wanted.swarm.fetch_outboard(self.object, self.size).await {
                Some(values) => Outboard::verify(self.object, self.size, values).ok(),
                // It cannot be said who lied.
                None => return false,
            },
        };
        let is_good = |offset: u64, data: &[u8]| {
            outboard
                .as_ref()
                .is_some_and(|outboard| outboard.verify_groups(offset, data).is_ok())
        };
        for (offset, (data, receipt)) in std::mem::take(&mut self.units) {
            if is_good(offset, &data) {
                self.units.insert(offset, (data, receipt));
            } else {
                receipt.bad();
            }
        }
        self.wanted.swarm.can_serve(self.wanted.id)
    }
}
