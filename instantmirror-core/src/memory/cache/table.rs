//! The objects of a [`MemoryCache`](super::MemoryCache): what they come to, and the order in which they
//! go. Both are kept as objects change, so that no fill looks at all of them.

#[cfg(test)]
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::content::Content;
use crate::ObjectId;
use crate::expiry::Standing;
use crate::traits::{Capacity, PinSet};

#[derive(Debug)]
pub(super) struct Held {
    pub(super) content: Arc<Mutex<Content>>,
    pub(super) size: u64,
    /// Those of its content.
    pub(super) bytes: u64,
    /// When it came, in uses.
    pub(super) since: u64,
    pub(super) last_use: u64,
    pub(super) standing: Standing,
    pub(super) filling: bool,
}

/// The lowest goes first. No two objects have the same use.
type Rank = (Standing, u64);

impl Held {
    pub(super) fn is_whole(&self) -> bool {
        self.bytes == self.size
    }

    /// A reader or a fill holds the content.
    fn in_use(&self) -> bool {
        self.filling || Arc::strong_count(&self.content) > 1
    }

    fn rank(&self) -> Rank {
        (self.standing, self.last_use)
    }
}

#[derive(Debug)]
pub(super) struct Table {
    objects: HashMap<ObjectId, Held>,
    /// All that are not pinned.
    order: BTreeMap<Rank, ObjectId>,
    tallies: HashMap<Standing, Capacity>,
    /// `None`: everything is pinned.
    pins: Option<PinSet>,
    /// How many objects have been looked at.
    #[cfg(test)]
    pub(super) looks: Cell<u64>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            objects: HashMap::new(),
            order: BTreeMap::new(),
            tallies: HashMap::new(),
            pins: Some(PinSet::default()),
            #[cfg(test)]
            looks: Cell::new(0),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.objects.len() as u64
    }

    pub(super) fn pins(&self) -> Option<&PinSet> {
        self.pins.as_ref()
    }

    /// Looks at every object.
    pub(super) fn set_pins(&mut self, pins: Option<PinSet>) {
        self.pins = pins;
        self.sort();
    }

    pub(super) fn get(&self, object: &ObjectId) -> Option<&Held> {
        self.look();
        self.objects.get(object)
    }

    /// Every object.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectId, &Held)> {
        self.objects.iter().inspect(|_| self.look())
    }

    /// Puts a new object in.
    pub(super) fn insert(&mut self, object: ObjectId, held: Held) {
        if !is_pinned(self.pins.as_ref(), &object) {
            self.order.insert(held.rank(), object);
        }
        let tally = self.tallies.entry(held.standing).or_default();
        tally.objects += 1;
        tally.bytes += held.bytes;
        self.objects.insert(object, held);
    }

    pub(super) fn remove(&mut self, object: &ObjectId) -> Option<Held> {
        self.look();
        let held = self.objects.remove(object)?;
        self.order.remove(&held.rank());
        let tally = self.tallies.entry(held.standing).or_default();
        tally.objects -= 1;
        tally.bytes -= held.bytes;
        Some(held)
    }

    pub(super) fn set_last_use(&mut self, object: &ObjectId, last_use: u64) {
        self.look();
        if let Some(held) = self.objects.get_mut(object) {
            let listed = self.order.remove(&held.rank());
            held.last_use = last_use;
            self.order.extend(listed.map(|object| (held.rank(), object)));
        }
    }

    pub(super) fn set_filling(&mut self, object: &ObjectId, filling: bool) {
        self.look();
        if let Some(held) = self.objects.get_mut(object) {
            held.filling = filling;
        }
    }

    /// So many bytes of an object have come.
    pub(super) fn add_bytes(&mut self, object: &ObjectId, bytes: u64) {
        self.look();
        if let Some(held) = self.objects.get_mut(object) {
            held.bytes += bytes;
            self.tallies.entry(held.standing).or_default().bytes += bytes;
        }
    }

    /// Gives objects the standings that `standing` says, where it says one. Looks at every object.
    pub(super) fn set_standings(&mut self, mut standing: impl FnMut(&ObjectId, &Held) -> Option<Standing>) {
        for (object, held) in &mut self.objects {
            held.standing = standing(object, held).unwrap_or(held.standing);
        }
        self.sort();
    }

    /// Number and bytes of the objects of this standing.
    pub(super) fn tally(&self, standing: Standing) -> Capacity {
        self.tallies.get(&standing).copied().unwrap_or_default()
    }

    /// The object that goes first, unless it is `kept`. Passes by those that are in use, few of which are
    /// among the least recently used.
    pub(super) fn least(&self, kept: Option<&ObjectId>) -> Option<ObjectId> {
        let others = self.order.values().filter(|object| Some(*object) != kept);
        let mut held = others.filter_map(|object| Some((object, self.get(object)?)));
        held.find(|(_, held)| !held.in_use()).map(|(object, _)| *object)
    }

    /// Garbage that is neither pinned nor being filled, and its bytes.
    pub(super) fn idle_garbage(&self) -> Vec<(ObjectId, u64)> {
        let garbage = self.order.range(..(Standing::Old, 0)).map(|(_, object)| object);
        let held = garbage.filter_map(|object| Some((*object, self.get(object)?)));
        let idle = held.filter(|(_, held)| !held.filling);
        idle.map(|(object, held)| (object, held.bytes)).collect()
    }

    /// Makes order and tallies anew.
    fn sort(&mut self) {
        let (mut order, mut tallies) = (BTreeMap::new(), HashMap::<Standing, Capacity>::new());
        for (object, held) in self.iter() {
            if !is_pinned(self.pins.as_ref(), object) {
                order.insert(held.rank(), *object);
            }
            let tally = tallies.entry(held.standing).or_default();
            tally.objects += 1;
            tally.bytes += held.bytes;
        }
        (self.order, self.tallies) = (order, tallies);
    }

    fn look(&self) {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
    }
}

fn is_pinned(pins: Option<&PinSet>, object: &ObjectId) -> bool {
    pins.is_none_or(|pins| pins.contains(object))
}
