//! What a cache has, told to the swarms: pieces as they become whole, and as they go.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use instantmirror_core::swarm::PieceIndex;
use instantmirror_core::traits::{CacheEvent, CacheObserver};
use instantmirror_core::{ObjectId, RangeSet};
use instantmirror_store::cache::DiskCache;
use instantmirror_swarm::peer::{ObjectPlace, PieceSource, Swarm};
use tokio::sync::mpsc;

/// Objects whose place is not known yet are remembered up to this many: their catalog is on its way.
const UNPLACED_MAX: usize = 200_000;
/// Events that are told to swarms at once.
const EVENTS_AT_ONCE: usize = 1024;

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
    cache: DiskCache,
    shares: RwLock<Vec<Share>>,
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
    /// Listens to a cache from now on.
    pub(crate) fn new(cache: &DiskCache) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        cache.observe(Arc::new(Ear(sender)));
        Self {
            cache: cache.clone(),
            shares: RwLock::default(),
            events: Mutex::new(Some(receiver)),
            state: Mutex::default(),
        }
    }

    fn shares(&self) -> Vec<Share> {
        self.shares.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells a swarm from now on, and what is here already. Blocks for as long as it takes to go through the cache.
    pub(crate) fn add(&self, share: Share) {
        let hash = share.swarm.info_hash();
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|held| held.swarm.info_hash() != hash);
        shares.push(share.clone());
        drop(shares);
        self.tell_all(&[share]);
    }

    /// Tells a swarm no longer.
    pub(crate) fn remove(&self, swarm: &Swarm) {
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|held| held.swarm.info_hash() != swarm.info_hash());
    }

    /// Tells swarms what is here.
    fn tell_all(&self, shares: &[Share]) {
        let told = self.cache.each_whole(|object, size| {
            for share in shares {
                tell_whole(share, &object, size);
            }
        });
        if let Err(error) = told {
            tracing::error!("peers are not told what the cache holds: {error}");
        }
    }

    /// More objects have their places: tells of those that were here before.
    pub(crate) fn placed(&self) {
        let unplaced = std::mem::take(&mut self.state().unplaced);
        for object in unplaced {
            if matches!(self.cache.has_whole(&object), Ok(true)) {
                self.whole(&object, None);
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
            for event in some.drain(..) {
                self.changed(event);
            }
            tokio::task::yield_now().await;
        }
    }

    fn changed(&self, event: CacheEvent) {
        match event {
            CacheEvent::Arrived { object, range, .. } => self.arrived(&object, &range),
            CacheEvent::Whole { object, size } => self.whole(&object, Some(size)),
            CacheEvent::Gone { object } => self.gone(&object),
        }
    }

    fn arrived(&self, object: &ObjectId, range: &Range<u64>) {
        let mut state = self.state();
        let present = state.partial.entry(*object).or_default();
        present.insert(range.clone());
        for share in self.shares() {
            let Some(place) = share.source.place_of(object) else {
                continue;
            };
            let whole = share
                .pieces(&place, range)
                .filter(|(_, bytes)| present.contains(bytes.clone()));
            share
                .swarm
                .set_have(whole.map(|(piece, _)| piece).collect::<Vec<_>>(), true);
        }
    }

    fn whole(&self, object: &ObjectId, size: Option<u64>) {
        let mut state = self.state();
        state.partial.remove(object);
        let mut is_placed = false;
        for share in self.shares() {
            let Some(place) = share.source.place_of(object) else {
                continue;
            };
            is_placed = true;
            tell_whole(&share, object, size.unwrap_or(place.size));
        }
        if !is_placed && state.unplaced.len() < UNPLACED_MAX {
            state.unplaced.insert(*object);
        }
    }

    fn gone(&self, object: &ObjectId) {
        let mut state = self.state();
        state.partial.remove(object);
        state.unplaced.remove(object);
        for share in self.shares() {
            let Some(place) = share.source.place_of(object) else {
                continue;
            };
            let all = share.pieces(&place, &(0..place.size)).map(|(piece, _)| piece);
            share.swarm.set_have(all.collect::<Vec<_>>(), false);
        }
    }
}

fn tell_whole(share: &Share, object: &ObjectId, size: u64) {
    if let Some(place) = share.source.place_of(object).filter(|place| place.size == size) {
        let all = share.pieces(&place, &(0..place.size)).map(|(piece, _)| piece);
        share.swarm.set_have(all.collect::<Vec<_>>(), true);
    }
}
