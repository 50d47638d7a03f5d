//! What a cache has, told to the swarms: pieces as they become whole, and as they go.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use instantmirror_core::swarm::PieceIndex;
use instantmirror_core::traits::{CacheEvent, CacheObserver, ObjectCache};
use instantmirror_core::{CacheError, ObjectId, RangeSet};
use instantmirror_swarm::peer::{ObjectPlace, PieceSource, Swarm};
use tokio::sync::mpsc;

/// Objects whose place is not known yet are remembered up to this many: their catalog is on its way.
const UNPLACED_MAX: usize = 200_000;
/// Events that are told to swarms at once.
const EVENTS_AT_ONCE: usize = 1024;
/// What happens within so long is told together: a message to every peer for each of many small objects would cost more
/// than fetching them.
const GATHER: Duration = Duration::from_millis(5);

/// A swarm that is told.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) swarm: Arc<Swarm>,
    pub(crate) source: Arc<dyn PieceSource>,
    pub(crate) piece_bytes: u64,
}

impl Share {
    /// The pieces of which `range` holds a part.
    fn pieces(
        &self,
        place: &ObjectPlace,
        range: &Range<u64>,
    ) -> impl Iterator<Item = (PieceIndex, Range<u64>)> + use<> {
        let (bytes, place, range) = (self.piece_bytes, *place, range.clone());
        (range.start / bytes..range.end.div_ceil(bytes)).filter_map(move |number| {
            let piece = place.first_piece.checked_add(u32::try_from(number).ok()?)?;
            Some((piece, number * bytes..((number + 1) * bytes).min(place.size)))
        })
    }
}

/// Takes note of what the cache tells.
#[derive(Debug)]
struct Ear(mpsc::UnboundedSender<CacheEvent>);

impl CacheObserver for Ear {
    fn changed(&self, event: CacheEvent) {
        // Nobody listens any more: the daemon ends.
        let _ = self.0.send(event);
    }
}

/// Keeps swarms told of what a cache has.
#[derive(Debug)]
pub(crate) struct HaveKeeper {
    cache: Arc<dyn ObjectCache>,
    shares: RwLock<Arc<Vec<Share>>>,
    events: Mutex<Option<mpsc::UnboundedReceiver<CacheEvent>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is here of objects that are coming.
    partial: HashMap<ObjectId, RangeSet>,
    /// Whole objects that no swarm knew when they came.
    unplaced: HashSet<ObjectId>,
}

impl HaveKeeper {
    /// Listens to a cache from now on. Of one without an inventory nothing is told.
    pub(crate) fn new(cache: Arc<dyn ObjectCache>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(inventory) = cache.inventory() {
            inventory.observe(Arc::new(Ear(sender)));
        }
        Self {
            cache,
            shares: RwLock::default(),
            events: Mutex::new(Some(receiver)),
            state: Mutex::default(),
        }
    }

    fn shares(&self) -> Arc<Vec<Share>> {
        Arc::clone(&self.shares.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lists a swarm among those that are told.
    fn list(&self, share: &Share) {
        let hash = share.swarm.info_hash();
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        let listed = Arc::make_mut(&mut shares);
        listed.retain(|held| held.swarm.info_hash() != hash);
        listed.push(share.clone());
    }

    /// Tells a swarm from now on, and what is here already. Blocks for as long as it takes to go through the cache.
    pub(crate) fn add(&self, share: Share) {
        self.list(&share);
        self.tell_all(&[share]);
    }

    /// The same of a swarm whose objects are known: only they are looked up.
    pub(crate) fn add_known<'a>(&self, share: Share, objects: impl Iterator<Item = &'a ObjectId>) {
        self.list(&share);
        for object in objects {
            // What goes meanwhile is told after this.
            let state = self.state();
            match self.has_whole(object) {
                Ok(true) => _ = tell_whole(&share, object, None),
                Ok(false) => {}
                Err(error) => tracing::warn!(%object, "peers are not told of it: {error}"),
            }
            drop(state);
        }
    }

    /// Tells a swarm no longer.
    pub(crate) fn remove(&self, swarm: &Swarm) {
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut shares).retain(|held| held.swarm.info_hash() != swarm.info_hash());
    }

    fn has_whole(&self, object: &ObjectId) -> Result<bool, CacheError> {
        let inventory = self.cache.inventory();
        inventory.map_or(Ok(false), |inventory| inventory.has_whole(object))
    }

    /// Tells swarms what is here.
    fn tell_all(&self, shares: &[Share]) {
        let Some(inventory) = self.cache.inventory() else {
            return;
        };
        let told = inventory.each_whole(&mut |object, size| {
            for share in shares {
                tell_whole(share, &object, Some(size));
            }
        });
        if let Err(error) = told {
            tracing::error!("peers are not told what the cache holds: {error}");
        }
    }

    /// More objects have their places: tells of those that were here before.
    pub(crate) fn placed(&self) {
        let unplaced = std::mem::take(&mut self.state().unplaced);
        let shares = self.shares();
        for object in unplaced {
            // What goes meanwhile is told after this.
            let mut state = self.state();
            if matches!(self.has_whole(&object), Ok(true)) {
                let mut come = vec![Vec::new(); shares.len()];
                state.whole(&shares, &object, None, &mut come);
                tell(&shares, &mut come);
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what changes, for ever.
    pub(crate) async fn run(&self) {
        let taken = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut events) = taken else {
            return std::future::pending().await;
        };
        let mut some = Vec::with_capacity(EVENTS_AT_ONCE);
        while events.recv_many(&mut some, EVENTS_AT_ONCE).await > 0 {
            self.changed(some.drain(..));
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Tells of all that has changed, with as few calls as keep its order.
    fn changed(&self, events: impl Iterator<Item = CacheEvent>) {
        let shares = self.shares();
        let mut state = self.state();
        let mut come = vec![Vec::new(); shares.len()];
        for event in events {
            match event {
                CacheEvent::Arrived { object, range, .. } => state.arrived(&shares, &object, &range, &mut come),
                CacheEvent::Whole { object, size } => state.whole(&shares, &object, Some(size), &mut come),
                CacheEvent::Gone { object } => {
                    tell(&shares, &mut come);
                    state.gone(&shares, &object);
                }
            }
        }
        tell(&shares, &mut come);
    }
}

/// Pieces that have come and are not told of yet, for each share.
type Come = [Vec<PieceIndex>];

fn tell(shares: &[Share], come: &mut Come) {
    for (share, pieces) in shares.iter().zip(come) {
        if !pieces.is_empty() {
            share.swarm.set_have(pieces.drain(..), true);
        }
    }
}

impl State {
    fn arrived(&mut self, shares: &[Share], object: &ObjectId, range: &Range<u64>, come: &mut Come) {
        let present = self.partial.entry(*object).or_default();
        present.insert(range.clone());
        for (share, come) in shares.iter().zip(come) {
            for place in share.source.places_of(object) {
                let whole = share
                    .pieces(&place, range)
                    .filter(|(_, bytes)| present.contains(bytes.clone()));
                come.extend(whole.map(|(piece, _)| piece));
            }
        }
    }

    fn whole(&mut self, shares: &[Share], object: &ObjectId, size: Option<u64>, come: &mut Come) {
        self.partial.remove(object);
        let mut is_placed = false;
        for (share, come) in shares.iter().zip(come) {
            let is_here = add_whole(share, object, size, come);
            // A torrent says nothing about the repository's own swarm, whose catalog may be on its way.
            is_placed |= is_here && !share.swarm.is_fixed();
        }
        if !is_placed && self.unplaced.len() < UNPLACED_MAX {
            self.unplaced.insert(*object);
        }
    }

    fn gone(&mut self, shares: &[Share], object: &ObjectId) {
        self.partial.remove(object);
        self.unplaced.remove(object);
        for share in shares {
            for place in share.source.places_of(object) {
                let all = share.pieces(&place, &(0..place.size)).map(|(piece, _)| piece);
                share.swarm.set_have(all.collect::<Vec<_>>(), false);
            }
        }
    }
}

/// Whether the object is in the swarm. One of another size than it has there is not told of.
fn add_whole(share: &Share, object: &ObjectId, size: Option<u64>, come: &mut Vec<PieceIndex>) -> bool {
    let places = share.source.places_of(object);
    let is_placed = !places.is_empty();
    let right = places
        .into_iter()
        .filter(|place| size.is_none_or(|size| place.size == size));
    for place in right {
        come.extend(share.pieces(&place, &(0..place.size)).map(|(piece, _)| piece));
    }
    is_placed
}

/// The same, and tells the swarm at once.
fn tell_whole(share: &Share, object: &ObjectId, size: Option<u64>) -> bool {
    let mut come = Vec::new();
    let is_placed = add_whole(share, object, size, &mut come);
    share.swarm.set_have(come, true);
    is_placed
}
