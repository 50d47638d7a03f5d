//! The order of snapshots around that of a policy: what no live snapshot refers to goes first, then what only an old
//! one refers to, then the rest as the policy says. What is kept never goes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Candidate, ExpiryPolicy, Handle, PolicyKind, at};

/// What the live snapshots say about an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// No live snapshot refers to it.
    Garbage,
    /// Only snapshots do that are neither current nor within their grace.
    Old,
    /// A current snapshot does, or nobody knows yet.
    #[default]
    Live,
    /// It is never to be given up.
    Kept,
}

impl Standing {
    /// A number for files.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Garbage => 1,
            Self::Old => 2,
            Self::Live => 3,
            Self::Kept => 4,
        }
    }

    /// The standing of a number; [`Live`](Self::Live) for those that have none.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Garbage,
            2 => Self::Old,
            4 => Self::Kept,
            _ => Self::Live,
        }
    }
}

/// What is worth to be written down of an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Grows with each use of any object.
    pub last_use: u64,
    /// Its standing.
    pub standing: Standing,
    /// The policy's [`memo`](ExpiryPolicy::memo).
    pub memo: u64,
}

/// A policy within the order of snapshots. 9 bytes an object beside the policy's, and some 24 for each that is garbage
/// or old, which the policy does not know then.
#[derive(Debug)]
pub struct SnapshotOrder<P = Box<dyn ExpiryPolicy>> {
    policy: P,
    /// Codes of standings; 0: not here.
    standings: Vec<u8>,
    last_uses: Vec<u64>,
    /// With the bytes of each.
    garbage: BTreeMap<(u64, Handle), u64>,
    garbage_bytes: u64,
    old: BTreeSet<(u64, Handle)>,
    kept: usize,
    clock: u64,
}

impl SnapshotOrder {
    /// An empty order with this policy inside.
    #[must_use]
    pub fn of_kind(kind: PolicyKind) -> Self {
        Self::new(kind.build())
    }
}

impl<P: ExpiryPolicy> SnapshotOrder<P> {
    /// An order with this empty policy inside.
    #[must_use]
    pub fn new(policy: P) -> Self {
        Self {
            policy,
            standings: Vec::new(),
            last_uses: Vec::new(),
            garbage: BTreeMap::new(),
            garbage_bytes: 0,
            old: BTreeSet::new(),
            kept: 0,
            clock: 0,
        }
    }

    /// The standing of an object that is here.
    #[must_use]
    pub fn standing(&self, handle: Handle) -> Option<Standing> {
        match self.standings.get(at(handle)).copied().unwrap_or_default() {
            0 => None,
            code => Some(Standing::from_code(code)),
        }
    }

    /// Gives an object another standing. One that becomes live again is to the policy as if it had just come.
    pub fn set_standing(&mut self, handle: Handle, standing: Standing, candidate: &Candidate) {
        let Some(before) = self.standing(handle).filter(|before| *before != standing) else {
            return;
        };
        self.take_out(handle, before);
        self.put_in(handle, standing, candidate.size);
        if standing == Standing::Live {
            self.policy.insert(handle, candidate);
        }
    }

    /// How many objects are garbage, and how many old.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.garbage.len(), self.old.len())
    }

    /// Bytes of what is garbage.
    #[must_use]
    pub fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes
    }

    /// What to write down of an object.
    #[must_use]
    pub fn remember(&self, handle: Handle) -> Remembered {
        let standing = self.standing(handle).unwrap_or_default();
        Remembered {
            last_use: self.last_use(handle),
            standing,
            memo: if standing == Standing::Live {
                self.policy.memo(handle)
            } else {
                0
            },
        }
    }

    /// Takes up an object of an earlier life; as [`ExpiryPolicy::restore`], in order of last use. An object that is
    /// here already stays as it is.
    pub fn recall(&mut self, handle: Handle, candidate: &Candidate, remembered: &Remembered) {
        if self.standing(handle).is_some() {
            return;
        }
        self.clock = self.clock.max(remembered.last_use);
        self.make_room_for(handle);
        self.last_uses[at(handle)] = remembered.last_use;
        self.put_in(handle, remembered.standing, candidate.size);
        if remembered.standing == Standing::Live {
            self.policy.restore(handle, candidate, remembered.memo);
        }
    }

    /// Uses are numbered on from here.
    pub fn advance_clock(&mut self, last_use: u64) {
        self.clock = self.clock.max(last_use);
    }

    fn last_use(&self, handle: Handle) -> u64 {
        self.last_uses.get(at(handle)).copied().unwrap_or_default()
    }

    fn make_room_for(&mut self, handle: Handle) {
        if self.standings.len() <= at(handle) {
            self.standings.resize(at(handle) + 1, 0);
            self.last_uses.resize(at(handle) + 1, 0);
        }
    }

    fn put_in(&mut self, handle: Handle, standing: Standing, size: u64) {
        self.standings[at(handle)] = standing.code();
        let entry = (self.last_use(handle), handle);
        match standing {
            Standing::Garbage => {
                self.garbage.insert(entry, size);
                self.garbage_bytes += size;
            }
            Standing::Old => drop(self.old.insert(entry)),
            Standing::Live => {}
            Standing::Kept => self.kept += 1,
        }
    }

    fn take_out(&mut self, handle: Handle, standing: Standing) {
        let entry = (self.last_use(handle), handle);
        match standing {
            Standing::Garbage => self.garbage_bytes -= self.garbage.remove(&entry).unwrap_or_default(),
            Standing::Old => drop(self.old.remove(&entry)),
            Standing::Live => self.policy.removed(handle),
            Standing::Kept => self.kept -= 1,
        }
        self.standings[at(handle)] = 0;
    }
}

impl<P: ExpiryPolicy> ExpiryPolicy for SnapshotOrder<P> {
    fn insert(&mut self, handle: Handle, candidate: &Candidate) {
        if self.standing(handle).is_some() {
            return self.used(handle);
        }
        self.clock += 1;
        self.make_room_for(handle);
        self.last_uses[at(handle)] = self.clock;
        self.put_in(handle, Standing::Live, candidate.size);
        self.policy.insert(handle, candidate);
    }

    fn used(&mut self, handle: Handle) {
        let Some(standing) = self.standing(handle) else { return };
        let before = (self.last_use(handle), handle);
        self.clock += 1;
        self.last_uses[at(handle)] = self.clock;
        let now = (self.clock, handle);
        match standing {
            Standing::Live => self.policy.used(handle),
            Standing::Kept => {}
            Standing::Garbage => {
                if let Some(size) = self.garbage.remove(&before) {
                    self.garbage.insert(now, size);
                }
            }
            Standing::Old => {
                self.old.remove(&before);
                self.old.insert(now);
            }
        }
    }

    fn victim(&mut self, may_go: &mut dyn FnMut(Handle) -> bool) -> Option<Handle> {
        // Those in use are few and not moved: what is garbage stays garbage however long it is read.
        let mut first = self.garbage.keys().chain(&self.old);
        if let Some((_, handle)) = first.find(|(_, handle)| may_go(*handle)) {
            return Some(*handle);
        }
        self.policy.victim(may_go)
    }

    fn evicted(&mut self, handle: Handle, candidate: &Candidate) {
        match self.standing(handle) {
            Some(Standing::Live) => {
                self.policy.evicted(handle, candidate);
                self.standings[at(handle)] = 0;
            }
            Some(standing) => self.take_out(handle, standing),
            None => {}
        }
    }

    fn removed(&mut self, handle: Handle) {
        if let Some(standing) = self.standing(handle) {
            self.take_out(handle, standing);
        }
    }

    fn memo(&self, handle: Handle) -> u64 {
        self.remember(handle).memo
    }

    fn restore(&mut self, handle: Handle, candidate: &Candidate, memo: u64) {
        let last_use = self.clock + 1;
        let remembered = Remembered {
            last_use,
            standing: Standing::Live,
            memo,
        };
        self.recall(handle, candidate, &remembered);
    }

    fn len(&self) -> usize {
        self.policy.len() + self.garbage.len() + self.old.len() + self.kept
    }
}
