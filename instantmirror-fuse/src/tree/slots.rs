//! [`Slots`]: which directory has which slot, the part of inode numbers that says the directory.
//!
//! A slot is given when a directory is first seen, and stays its for as long as its snapshot lives, over restarts too
//! ([`slot_log`](super::slot_log)). It is never given to another one. Files and symlinks have no slots, so memory follows
//! the directories that were visited.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use instantmirror_core::log_limited;
use instantmirror_core::{RepoName, SnapshotId};

use super::number::SLOT_MAX;
use super::slot_log::{Record, SKIP, SYNC_RECORDS, SlotStore, begin, parse};

/// A snapshot by its names.
pub(crate) type SnapshotKey = (RepoName, SnapshotId);

/// Numbers that are given while the log cannot be written; then there are none until it can. After the unclean end that
/// follows, numbering skips further.
const UNLOGGED_MAX: u64 = SKIP / 2;

/// How long a log that could not be written is left alone: each try writes all of it.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A log is written anew when this many of its records are of no use, and half of all are.
const USELESS_MIN: usize = 4096;

/// Where a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The root of a snapshot.
    Snapshot(SnapshotKey),
    /// At a place of the directory with this slot.
    Below(u64, u64),
}

/// The table of slots, and the log behind it.
#[derive(Debug)]
pub(crate) struct Slots {
    store: Box<dyn SlotStore>,
    next: u64,
    /// Parent's slot and place, by slot.
    below: HashMap<u64, (u64, u32)>,
    /// The same the other way round.
    children: HashMap<(u64, u32), u64>,
    snapshots: HashMap<u64, SnapshotKey>,
    roots: HashMap<SnapshotKey, u64>,
    /// Records that are not in the log yet.
    pending: Vec<u8>,
    since_sync: u64,
    /// Records in the log.
    logged: usize,
    /// Numbers that are in no log yet.
    unlogged: u64,
    /// When the last write failed; the end of the log may be torn since, so it has to be written as a whole.
    torn: Option<Instant>,
}

impl Slots {
    /// Reads the log.
    ///
    /// # Errors
    /// The store failed, or holds something else.
    pub(crate) fn open(mut store: Box<dyn SlotStore>) -> io::Result<Self> {
        let bytes = store.load()?;
        let (records, is_whole) = parse(&bytes)?;
        // Every log begins with a border, so one alone is no end: all behind it may be lost.
        let has_end = records.len() >= 2 && matches!(records.last(), Some(Record::Border(_)));
        let ended_well = bytes.is_empty() || is_whole && has_end;
        let mut slots = Self {
            store,
            next: 1,
            below: HashMap::new(),
            children: HashMap::new(),
            snapshots: HashMap::new(),
            roots: HashMap::new(),
            pending: Vec::new(),
            since_sync: 0,
            logged: records.len(),
            unlogged: 0,
            torn: None,
        };
        for record in records {
            slots.replay(record);
        }
        if !ended_well {
            slots.next = slots.next.saturating_add(SKIP);
        }
        // Without a border at its end, so that the next start skips ahead unless this one ends well.
        slots.rewrite(false)?;
        Ok(slots)
    }

    /// Takes over a record; none that was never written, such as a directory that lies below itself.
    fn replay(&mut self, record: Record) {
        let can_be = |slot: u64| (1..=SLOT_MAX).contains(&slot);
        match record {
            Record::Directory { slot, parent, .. } if !can_be(slot) || parent >= slot => {}
            Record::Snapshot { slot, .. } if !can_be(slot) => {}
            Record::Directory { slot, parent, place } => {
                self.next = self.next.max(slot + 1);
                self.below.insert(slot, (parent, place));
                self.children.insert((parent, place), slot);
            }
            Record::Snapshot { slot, name } => {
                self.next = self.next.max(slot + 1);
                let key = name.split_once(' ');
                let key = key.and_then(|(repository, id)| Some((repository.parse().ok()?, id.parse().ok()?)));
                if let Some(key) = key {
                    self.add_snapshot(slot, key);
                }
            }
            Record::Border(next) => self.next = self.next.max(next),
        }
    }

    fn add_snapshot(&mut self, slot: u64, key: SnapshotKey) {
        self.roots.insert(key.clone(), slot);
        self.snapshots.insert(slot, key);
    }

    fn new_slot(&mut self) -> Option<u64> {
        let slot = self.next;
        (slot <= SLOT_MAX && self.unlogged < UNLOGGED_MAX).then(|| {
            self.next += 1;
            slot
        })
    }

    /// Where the directory of a slot is; `None` if it was never given.
    pub(crate) fn origin(&self, slot: u64) -> Option<Origin> {
        if let Some(&(parent, place)) = self.below.get(&slot) {
            return Some(Origin::Below(parent, place.into()));
        }
        self.snapshots.get(&slot).cloned().map(Origin::Snapshot)
    }

    /// The slot of a snapshot's root; `None` if there are no more.
    pub(crate) fn root(&mut self, key: &SnapshotKey) -> Option<u64> {
        if let Some(slot) = self.roots.get(key) {
            return Some(*slot);
        }
        let slot = self.new_slot()?;
        self.add_snapshot(slot, key.clone());
        let name = format!("{} {}", key.0, key.1);
        self.note(&Record::Snapshot { slot, name });
        Some(slot)
    }

    /// The slot of the directory at a place of another one; `None` if there are no more.
    pub(crate) fn child(&mut self, parent: u64, place: u64) -> Option<u64> {
        let place = u32::try_from(place).ok()?;
        if let Some(slot) = self.children.get(&(parent, place)) {
            return Some(*slot);
        }
        let slot = self.new_slot()?;
        self.below.insert(slot, (parent, place));
        self.children.insert((parent, place), slot);
        self.note(&Record::Directory { slot, parent, place });
        Some(slot)
    }

    fn note(&mut self, record: &Record) {
        record.put(&mut self.pending);
        self.since_sync += 1;
        self.logged += 1;
        self.unlogged += 1;
    }

    /// Writes what is new to the log; called before a slot is told to anybody. A log that cannot be written is in the log of
    /// the program; numbers go on for a while, and are lost at a restart meanwhile.
    pub(crate) fn flush(&mut self) {
        self.flush_at(Instant::now());
    }

    fn flush_at(&mut self, now: Instant) {
        let written = match self.torn {
            None if self.pending.is_empty() => return,
            None => self.append(),
            Some(failed) if now.saturating_duration_since(failed) < RETRY_EVERY => Ok(()),
            Some(_) => self.rewrite(false),
        };
        // Records that could not be written are written with the whole.
        self.pending.clear();
        if let Err(error) = written {
            self.torn = Some(now);
            log_limited!(Instant::now(), warn, %error, "inode numbers cannot be written down: they change at the next restart");
        }
    }

    fn append(&mut self) -> io::Result<()> {
        self.store.append(&self.pending)?;
        if self.since_sync >= SYNC_RECORDS {
            self.store.sync()?;
            self.since_sync = 0;
        }
        self.unlogged = 0;
        Ok(())
    }

    /// Snapshots whose directories have slots.
    pub(crate) fn known(&self) -> impl Iterator<Item = &SnapshotKey> {
        self.roots.keys()
    }

    /// Forgets directories of snapshots that are gone. Their slots are not given again.
    pub(crate) fn forget(&mut self, gone: &HashSet<SnapshotKey>) {
        if gone.is_empty() {
            return;
        }
        self.roots.retain(|key, _| !gone.contains(key));
        self.snapshots.retain(|_, key| !gone.contains(key));
        // A slot is larger than its parent's.
        let mut slots: Vec<(u64, u64)> = self.below.iter().map(|(slot, (parent, _))| (*slot, *parent)).collect();
        slots.sort_unstable();
        for (slot, parent) in slots {
            let is_alive = self.snapshots.contains_key(&parent) || self.below.contains_key(&parent);
            if !is_alive && let Some(place) = self.below.remove(&slot) {
                self.children.remove(&place);
            }
        }
        let useless = self.logged.saturating_sub(self.below.len() + self.snapshots.len());
        if useless >= USELESS_MIN.max(self.logged / 2)
            && let Err(error) = self.rewrite(false)
        {
            tracing::warn!(%error, "the log of inode numbers cannot be written anew");
        }
    }

    /// Writes the whole log.
    fn rewrite(&mut self, ends: bool) -> io::Result<()> {
        let mut bytes = begin();
        Record::Border(self.next).put(&mut bytes);
        let mut slots: Vec<u64> = self.snapshots.keys().chain(self.below.keys()).copied().collect();
        slots.sort_unstable();
        self.logged = slots.len() + 1;
        let snapshots = slots.iter().filter_map(|slot| {
            let (repository, id) = self.snapshots.get(slot)?;
            let name = format!("{repository} {id}");
            Some(Record::Snapshot { slot: *slot, name })
        });
        snapshots.for_each(|record| record.put(&mut bytes));
        let directories = slots.iter().filter_map(|slot| {
            let &(parent, place) = self.below.get(slot)?;
            let slot = *slot;
            Some(Record::Directory { slot, parent, place })
        });
        directories.for_each(|record| record.put(&mut bytes));
        if ends {
            Record::Border(self.next).put(&mut bytes);
        }
        self.store.replace(&bytes)?;
        // All that is pending is in it.
        self.pending.clear();
        (self.since_sync, self.unlogged, self.torn) = (0, 0, None);
        Ok(())
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.flush();
        let mut end = Vec::new();
        Record::Border(self.next).put(&mut end);
        let ended = if self.torn.is_some() {
            self.rewrite(true)
        } else {
            self.store.append(&end).and_then(|()| self.store.sync())
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "the log of inode numbers has no end; numbering skips ahead at the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A medium that outlives its store.
    #[derive(Debug, Clone, Default)]
    struct Medium(Arc<Mutex<(Vec<u8>, bool)>>);

    impl SlotStore for Medium {
        fn load(&mut self) -> io::Result<Vec<u8>> {
            Ok(self.0.lock().unwrap().0.clone())
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut medium = self.0.lock().unwrap();
            if medium.1 {
                medium.0.extend_from_slice(&bytes[..bytes.len() / 2]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            medium.0.extend_from_slice(bytes);
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut medium = self.0.lock().unwrap();
            if medium.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            medium.0 = bytes.to_vec();
            Ok(())
        }
    }

    fn key(number: u8) -> SnapshotKey {
        ("debian".parse().unwrap(), SnapshotId::from_random([number; 16]))
    }

    fn open(medium: &Medium) -> Slots {
        Slots::open(Box::new(medium.clone())).unwrap()
    }

    /// A root with directories below one another; their slots.
    fn give(slots: &mut Slots, number: u8) -> Vec<u64> {
        let root = slots.root(&key(number)).unwrap();
        let mut all = vec![root];
        for place in 0..20 {
            let parent = all[all.len() / 2];
            all.push(slots.child(parent, place).unwrap());
        }
        slots.flush();
        all
    }

    #[test]
    fn slots_are_the_same_after_a_restart() {
        let medium = Medium::default();
        let (first, next) = {
            let mut slots = open(&medium);
            (give(&mut slots, 1), slots.next)
        };
        for _ in 0..3 {
            let mut slots = open(&medium);
            assert_eq!(slots.next, next, "a clean end skips nothing");
            assert_eq!(give(&mut slots, 1), first);
            assert_eq!(slots.origin(first[0]), Some(Origin::Snapshot(key(1))));
            assert_eq!(slots.origin(next), None);
        }
    }

    #[test]
    fn a_log_cut_or_damaged_anywhere_gives_no_number_twice() {
        let medium = Medium::default();
        let mut slots = open(&medium);
        let first = give(&mut slots, 1);
        let whole = medium.0.lock().unwrap().0.clone();
        std::mem::forget(slots);
        for at in 0..whole.len() {
            for damaged in [true, false] {
                let mut bytes = whole.clone();
                if damaged {
                    bytes[at] ^= 0x55;
                } else {
                    bytes.truncate(at);
                }
                let torn = Medium(Arc::new(Mutex::new((bytes, false))));
                let Ok(mut slots) = Slots::open(Box::new(torn.clone())) else {
                    assert!(damaged && at < 8, "byte {at}: only a foreign file is refused");
                    continue;
                };
                // An empty file is a new one.
                let is_given = |slot: &u64| at > 0 && first.contains(slot);
                let other = give(&mut slots, 2);
                assert!(!other.iter().any(is_given), "byte {at}: {other:?} are given again");
                let again = give(&mut slots, 1);
                for (place, slot) in again.iter().enumerate() {
                    let known = *slot == first[place];
                    assert!(known || !is_given(slot), "byte {at}: slot {slot} is given again");
                }
                drop(slots);
                assert_eq!(give(&mut open(&torn), 1), again);
            }
        }
    }

    #[test]
    fn a_full_disk_stops_nothing_and_is_made_good() {
        let medium = Medium::default();
        let mut slots = open(&medium);
        medium.0.lock().unwrap().1 = true;
        let first = give(&mut slots, 1);
        medium.0.lock().unwrap().1 = false;
        let second = give(&mut slots, 2);
        drop(slots);
        let mut slots = open(&medium);
        assert_eq!(give(&mut slots, 1), first);
        assert_eq!(give(&mut slots, 2), second);
    }

    #[test]
    fn a_log_that_is_emptied_gives_no_number_twice() {
        let medium = Medium::default();
        let mut slots = open(&medium);
        for number in 1..=250 {
            give(&mut slots, number);
        }
        let all: HashSet<SnapshotKey> = slots.known().cloned().collect();
        slots.forget(&all);
        let emptied = medium.0.lock().unwrap().0.clone();
        let given = give(&mut slots, 1);
        std::mem::forget(slots);
        // The power fails before what was appended is on the disk.
        medium.0.lock().unwrap().0 = emptied;
        let again = give(&mut open(&medium), 2);
        assert!(again.iter().all(|slot| !given.contains(slot)), "{again:?}");
    }

    #[test]
    fn a_disk_that_stays_full_is_tried_once_a_second_and_numbers_end() {
        let medium = Medium::default();
        let mut slots = open(&medium);
        medium.0.lock().unwrap().1 = true;
        let root = slots.root(&key(1)).unwrap();
        let now = Instant::now();
        slots.flush_at(now);
        let torn = slots.torn;
        assert!(torn.is_some());
        slots.child(root, 0).unwrap();
        slots.flush_at(now + RETRY_EVERY / 2);
        assert_eq!(slots.torn, torn, "not tried");
        slots.flush_at(now + RETRY_EVERY);
        assert_ne!(slots.torn, torn, "tried");
        slots.unlogged = UNLOGGED_MAX;
        assert_eq!(slots.child(root, 1), None, "a restart might give it again");
        medium.0.lock().unwrap().1 = false;
        slots.flush_at(now + RETRY_EVERY * 2);
        assert!(slots.torn.is_none() && slots.child(root, 1).is_some());
    }

    #[test]
    fn records_that_cannot_be_are_skipped() {
        let mut bytes = begin();
        Record::Border(1).put(&mut bytes);
        for (slot, parent) in [(5, 5), (5, 6), (0, 0), (u64::MAX, 1), (SLOT_MAX + 1, 1)] {
            Record::Directory { slot, parent, place: 0 }.put(&mut bytes);
        }
        let name = format!("debian {}", key(1).1);
        Record::Snapshot { slot: u64::MAX, name }.put(&mut bytes);
        Record::Border(u64::MAX).put(&mut bytes);
        let slots = open(&Medium(Arc::new(Mutex::new((bytes, false)))));
        assert!([0, 5, u64::MAX].iter().all(|slot| slots.origin(*slot).is_none()));
    }

    #[test]
    fn logs_beside_each_other_do_not_meet() {
        use super::super::slot_log::SlotFile;
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Slots::open(Box::new(SlotFile::open(folder.path().join(name)).unwrap())).unwrap();
        // The new log of one was once made under the name of the other.
        let mut other = open("debian.new");
        let first = give(&mut other, 1);
        drop((open("debian.main"), open("debian.security"), other));
        assert_eq!(give(&mut open("debian.new"), 1), first);
    }

    #[test]
    fn snapshots_that_are_gone_leave_the_log_and_not_their_numbers() {
        let medium = Medium::default();
        let mut slots = open(&medium);
        let gone = give(&mut slots, 1);
        let root = slots.root(&key(2)).unwrap();
        let kept: Vec<u64> = (0..10).map(|place| slots.child(root, place).unwrap()).collect();
        for number in 3..=250 {
            give(&mut slots, number);
        }
        let before = medium.0.lock().unwrap().0.len();
        let all: HashSet<SnapshotKey> = slots.known().filter(|known| **known != key(2)).cloned().collect();
        slots.forget(&all);
        assert!(medium.0.lock().unwrap().0.len() < before / 10);
        assert_eq!(slots.origin(gone[3]), None);
        assert_eq!(slots.origin(kept[9]), Some(Origin::Below(root, 9)));
        let next = slots.next;
        drop(slots);
        let mut slots = open(&medium);
        assert_eq!((slots.next, slots.origin(gone[3])), (next, None));
        assert!(give(&mut slots, 1).iter().all(|slot| *slot >= next));
    }

    #[test]
    fn a_file_is_of_one_process_and_no_other_file_is_overwritten() {
        use super::super::slot_log::SlotFile;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slots");
        let first = {
            let mut slots = Slots::open(Box::new(SlotFile::open(&path).unwrap())).unwrap();
            assert!(SlotFile::open(&path).is_err());
            give(&mut slots, 1)
        };
        let mut slots = Slots::open(Box::new(SlotFile::open(&path).unwrap())).unwrap();
        assert_eq!(give(&mut slots, 1), first);
        drop(slots);
        let foreign = folder.path().join("foreign");
        std::fs::write(&foreign, "my letters\n").unwrap();
        assert!(Slots::open(Box::new(SlotFile::open(&foreign).unwrap())).is_err());
        assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "my letters\n");
    }
}
