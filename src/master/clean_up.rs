//! Deleting what no snapshot refers to any more, in steps that never keep a publish waiting for long.
//!
//! Order: the snapshot left the head before; it is noted as expired, and waits `delete_after`, which is the lease that
//! every reader has, in whatever process: nodes that show it until they have the new head, downloads that go range by
//! range. Then its objects go, then their digests, then its record, then its catalog nodes, then the note. A crash
//! between any two leaves the note, so the next run finishes the job; what is in use is never touched.
//!
//! The walks that find out what goes hold no lock. Each step that removes holds the store's lock, looks first whether a
//! snapshot was published since, and spares what that one uses. A walk costs what the catalogs of the store weigh, not
//! what they describe.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use instantmirror_core::traits::SnapshotStore as _;
use instantmirror_core::{Clock as _, NodeId, ObjectId, RepoName, SnapshotId, Timestamp};
use instantmirror_store::disk::{read_file, write_atomically};
use instantmirror_store::garbage::Garbage;
use instantmirror_store::snapshots::DiskSnapshotStore;

use super::writer::{WRITER_POLL, Writer};
use super::{Master, MasterError, expired};
use crate::clock::SystemClock;

/// Longest time for which one step of removing objects holds the store's lock.
const STEP_TIME: Duration = Duration::from_millis(100);
/// Objects that are removed between two looks at the clock.
const STEP_OBJECTS: usize = 64;
/// The digest table is rewritten when one in so many of its entries is dead.
const DEAD_DIGESTS_SHARE: u64 = 16;
/// A digest table of so few entries is rewritten whenever anything of it is dead.
const SMALL_DIGESTS: u64 = 50_000;
/// Objects that are gone and whose digests are not yet: 32 bytes each.
const DEAD_DIGESTS: &str = "dead-digests";
/// Most bytes of that list; it is worked off long before.
const DEAD_DIGESTS_BYTES_MAX: u64 = 1 << 30;

/// How to clean up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanUpOptions {
    /// Delete at once what has left the head, without waiting for `delete_after`.
    pub now: bool,
    /// Also look for objects that no snapshot ever referred to, left by publishes that were killed.
    pub orphans: bool,
}

/// What a clean-up did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanedUp {
    /// Snapshots of which nothing is left.
    pub snapshots: u64,
    /// Objects removed.
    pub objects: u64,
    /// Bytes in them. Less may be free: where the source tree shares them, nothing is.
    pub bytes: u64,
    /// Snapshots that have left the head and wait for `delete_after`.
    pub waiting: u64,
}

type Record = (RepoName, SnapshotId);

/// What is to be deleted, and what is known to be in use.
struct Job {
    due: BTreeSet<Record>,
    /// Every record that was looked at; one that is not in here is news.
    known: BTreeSet<Record>,
    garbage: Garbage<Arc<DiskSnapshotStore>>,
    done: CleanedUp,
    /// Objects removed by this run.
    removed: HashSet<ObjectId>,
}

impl Master {
    /// Deletes the data of snapshots that left the heads more than `delete_after` ago. Blocks; holds the store's lock for
    /// fractions of a second at a time. May be run at any time, in any process, several times at once.
    ///
    /// # Errors
    /// [`MasterError::Store`] with [`Locked`](instantmirror_store::StoreError::Locked) when a publish takes long: the
    /// next run goes on. [`MasterError::Catalog`] if a catalog that is in use cannot be read: nothing is deleted then.
    pub fn clean_up(&self, options: CleanUpOptions) -> Result<CleanedUp, MasterError> {
        let (due, waiting) = self.note_expired(options)?;
        let mut done = CleanedUp {
            waiting,
            ..CleanedUp::default()
        };
        if due.is_empty() && !options.orphans {
            return Ok(done);
        }
        let known: BTreeSet<Record> = self.snapshots.records()?.into_iter().collect();
        let garbage = self.find_garbage(&due, &known)?;
        let mut job = Job {
            due,
            known,
            garbage,
            done,
            removed: HashSet::new(),
        };
        for shard in 0..job.garbage.shards() {
            let objects = job.garbage.objects(shard).map_err(MasterError::Catalog)?;
            self.remove_objects(&mut job, objects)?;
        }
        if options.orphans {
            let orphans = self.orphans(&job)?;
            self.remove_objects(&mut job, orphans)?;
        }
        self.finish(&mut job)?;
        done = job.done;
        tracing::info!(
            snapshots = done.snapshots,
            objects = done.objects,
            bytes = done.bytes,
            "cleaned up"
        );
        Ok(done)
    }

    /// Notes every record that no head names, and returns those that may go, and how many have to wait.
    fn note_expired(&self, options: CleanUpOptions) -> Result<(BTreeSet<Record>, u64), MasterError> {
        // A publish stores its record before its head: only who holds the lock can tell one from the other.
        let _writer = Writer::open(self)?;
        let now = SystemClock.now();
        let mut due = BTreeSet::new();
        let mut waiting = 0;
        for repository in &self.config.repositories {
            let name = &repository.name;
            let mut noted = expired::read(self.disk.as_ref(), name)?;
            let before = noted.clone();
            for id in self.unnamed(name)? {
                noted.entry(id).or_insert(now);
            }
            if noted != before {
                expired::write(self.disk.as_ref(), name, &noted)?;
            }
            let wait = self.config.retention_of(repository).delete_after.0;
            for (id, since) in noted {
                if options.now || is_due(since, now, wait) {
                    due.insert((name.clone(), id));
                } else {
                    waiting += 1;
                }
            }
        }
        Ok((due, waiting))
    }

    /// Records of a repository that its head does not name.
    fn unnamed(&self, name: &RepoName) -> Result<Vec<SnapshotId>, MasterError> {
        let head = block_on(self.head(name))?;
        let named = |id: &SnapshotId| head.as_ref().is_some_and(|head| head.head().snapshot(id).is_some());
        let mut ids = block_on(self.snapshots.snapshots(name))?;
        ids.retain(|id| !named(id));
        Ok(ids)
    }

    fn find_garbage(
        &self,
        due: &BTreeSet<Record>,
        known: &BTreeSet<Record>,
    ) -> Result<Garbage<Arc<DiskSnapshotStore>>, MasterError> {
        let mut live = Vec::new();
        for record in known.difference(due) {
            live.extend(self.root(record)?);
        }
        let mut garbage = Garbage::mark(Arc::clone(&self.snapshots), live).map_err(MasterError::Catalog)?;
        let mut dead = Vec::new();
        for record in due {
            match self.root(record) {
                Ok(root) => dead.extend(root),
                Err(error) => tracing::warn!("an expired snapshot goes without its objects: {error}"),
            }
        }
        garbage.condemn(dead);
        Ok(garbage)
    }

    fn root(&self, (repository, id): &Record) -> Result<Option<NodeId>, MasterError> {
        let snapshot = block_on(self.snapshots.snapshot(repository, *id))?;
        Ok(snapshot.map(|snapshot| snapshot.root.node))
    }

    /// Objects on the disk that nothing refers to.
    fn orphans(&self, job: &Job) -> Result<HashSet<ObjectId>, MasterError> {
        let live = job.garbage.live_objects().map_err(MasterError::Catalog)?;
        let mut orphans = HashSet::new();
        self.objects.for_each(|object| {
            if !live.contains(&object) {
                orphans.insert(object);
            }
        })?;
        Ok(orphans)
    }

    fn remove_objects(&self, job: &mut Job, mut objects: HashSet<ObjectId>) -> Result<(), MasterError> {
        while !objects.is_empty() {
            let writer = Writer::open(self)?;
            self.spare_what_is_new(job, &mut objects)?;
            let begun = Instant::now();
            while begun.elapsed() < STEP_TIME && !objects.is_empty() {
                let some: Vec<ObjectId> = objects.iter().take(STEP_OBJECTS).copied().collect();
                let (count, bytes) = writer.objects.discard(&some)?;
                job.done.objects += count;
                job.done.bytes += bytes;
                some.iter().for_each(|object| _ = objects.remove(object));
                job.removed.extend(some);
            }
            drop(writer);
            // Long enough for whoever waits for the lock to have it.
            std::thread::sleep(WRITER_POLL * 2);
        }
        Ok(())
    }

    /// Takes snapshots that were published since the last look as live. For who holds the lock.
    fn spare_what_is_new(&self, job: &mut Job, objects: &mut HashSet<ObjectId>) -> Result<(), MasterError> {
        for record in self.snapshots.records()? {
            if !job.known.contains(&record) {
                if let Some(root) = self.root(&record)? {
                    job.garbage.absolve(root, objects).map_err(MasterError::Catalog)?;
                }
                job.known.insert(record);
            }
        }
        Ok(())
    }

    /// Removes what is left when the objects are gone.
    fn finish(&self, job: &mut Job) -> Result<(), MasterError> {
        let writer = Writer::open(self)?;
        self.spare_what_is_new(job, &mut HashSet::new())?;
        writer.objects.commit_discarded(&job.removed)?;
        self.forget_digests(&writer, &job.removed, SMALL_DIGESTS)?;
        let mut gone: BTreeMap<RepoName, Vec<SnapshotId>> = BTreeMap::new();
        for (repository, id) in &job.due {
            block_on(writer.snapshots.remove_snapshot(repository, *id))?;
            gone.entry(repository.clone()).or_default().push(*id);
        }
        writer.snapshots.compact_nodes(&|node| job.garbage.is_live(node))?;
        for (repository, ids) in gone {
            let mut noted = expired::read(self.disk.as_ref(), &repository)?;
            for id in ids {
                job.done.snapshots += u64::from(noted.remove(&id).is_some());
            }
            expired::write(self.disk.as_ref(), &repository, &noted)?;
        }
        Ok(())
    }

    /// Forgets the digests of removed objects: when there are enough of them, or the table has no more than `small`
    /// entries, since that rewrites the table's index. Until then they are listed.
    fn forget_digests(&self, writer: &Writer, removed: &HashSet<ObjectId>, small: u64) -> Result<(), MasterError> {
        let path = Path::new(DEAD_DIGESTS);
        let listed = match read_file(self.disk.as_ref(), path, DEAD_DIGESTS_BYTES_MAX) {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        let ids = listed.chunks_exact(32).filter_map(|bytes| bytes.first_chunk::<32>());
        let mut dead: HashSet<ObjectId> = ids.map(|bytes| ObjectId::from_bytes(*bytes)).collect();
        let before = dead.len();
        dead.extend(removed);
        let entries = writer.digests.entries();
        if entries > small && (dead.len() as u64) < entries / DEAD_DIGESTS_SHARE {
            if dead.len() > before {
                let bytes: Vec<u8> = dead.iter().flat_map(|object| *object.as_bytes()).collect();
                write_atomically(self.disk.as_ref(), path, &bytes)?;
            }
            return Ok(());
        }
        if dead.is_empty() {
            return Ok(());
        }
        // One that was published again has its file, and a digest that counts.
        let mut back = HashSet::new();
        for object in &dead {
            if writer.objects.is_here(object)? {
                back.insert(*object);
            }
        }
        writer
            .digests
            .retain(&|object| !dead.contains(object) || back.contains(object))?;
        if !listed.is_empty() {
            self.disk.remove(path)?;
        }
        Ok(())
    }
}

/// Whether the lease of the last readers has ended. A clock that was set back makes it longer, never shorter.
fn is_due(since: Timestamp, now: Timestamp, wait: Duration) -> bool {
    now >= since && now.since(since) >= wait
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, name};
    use super::*;

    const RULES: &str = "[retention]\nkeep_last = 1\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n";

    fn here(world: &World, content: &str) -> bool {
        world.master.objects.is_here(&ObjectId::of(content.as_bytes())).unwrap()
    }

    #[test]
    fn what_is_published_again_while_it_is_being_deleted_is_spared() {
        let world = World::with_options(RULES);
        world.publish("a", "old");
        world.publish("b", "of another repository");
        world.publish("a", "new");
        let master = &world.master;
        let (due, waiting) = master.note_expired(CleanUpOptions::default()).unwrap();
        assert_eq!((due.len(), waiting), (1, 0));
        let known: BTreeSet<Record> = master.snapshots.records().unwrap().into_iter().collect();
        let garbage = master.find_garbage(&due, &known).unwrap();
        let objects = garbage.objects(0).unwrap();
        assert_eq!(objects, [ObjectId::of(b"old")].into());
        // Now somebody publishes just that content: it is in the store, so it is not read in again.
        world.publish("b", "old");
        let mut job = Job {
            due,
            known,
            garbage,
            done: CleanedUp::default(),
            removed: HashSet::new(),
        };
        master.remove_objects(&mut job, objects).unwrap();
        master.finish(&mut job).unwrap();
        assert!(here(&world, "old") && here(&world, "new"));
        assert_eq!((job.done.objects, job.done.snapshots), (0, 1));
        // The other repository's expired snapshot goes the next time, and takes nothing with it that is in use.
        let done = master.clean_up(CleanUpOptions::default()).unwrap();
        assert_eq!((done.objects, done.snapshots), (1, 1));
        assert!(here(&world, "old") && here(&world, "new") && !here(&world, "of another repository"));
    }

    #[test]
    fn a_clean_up_waits_for_who_writes() {
        let world = World::with_options(RULES);
        world.publish("a", "old");
        world.publish("a", "new");
        let publisher = Writer::open(&world.master).unwrap();
        let master = world.master.clone();
        let cleaning = std::thread::spawn(move || master.clean_up(CleanUpOptions::default()).unwrap());
        std::thread::sleep(WRITER_POLL * 5);
        assert!(!cleaning.is_finished() && here(&world, "old"));
        drop(publisher);
        assert_eq!(cleaning.join().unwrap().objects, 1);
    }

    #[test]
    fn digests_of_what_is_gone_are_listed_until_there_are_enough_of_them() {
        let world = World::with_options(RULES);
        let contents: Vec<String> = (0..40).map(|number| format!("content {number}")).collect();
        contents.iter().for_each(|content| _ = world.publish("a", content));
        let (master, writer) = (&world.master, Writer::open(&world.master).unwrap());
        let id = |number: usize| ObjectId::of(contents[number].as_bytes());
        let listed = || std::fs::metadata(world.in_store(DEAD_DIGESTS)).map_or(0, |meta| meta.len());
        let forget = |numbers: &[usize]| {
            let objects: Vec<_> = numbers.iter().map(|number| id(*number)).collect();
            writer.objects.discard(&objects).unwrap();
            master
                .forget_digests(&writer, &objects.into_iter().collect(), 0)
                .unwrap();
        };
        forget(&[0]);
        assert_eq!((listed(), writer.digests.entries()), (32, 40));
        // Meanwhile number 0 comes back: its digest must stay.
        std::fs::create_dir_all(world.in_store(&format!("objects/{}", &id(0).to_string()[..2]))).unwrap();
        std::fs::write(
            world.in_store(&format!("objects/{}/{}", &id(0).to_string()[..2], id(0))),
            &contents[0],
        )
        .unwrap();
        forget(&[1, 2]);
        assert_eq!((listed(), writer.digests.entries()), (0, 38));
        assert!(writer.digests.digest(&id(0)).unwrap().is_some() && writer.digests.digest(&id(1)).unwrap().is_none());
    }

    #[test]
    fn data_waits_for_its_readers_and_a_clock_set_back_makes_it_wait_longer() {
        let (since, wait) = (Timestamp::from_millis(1_000_000), Duration::from_secs(10));
        assert!(!is_due(since, since.plus(Duration::from_secs(9)), wait));
        assert!(is_due(since, since.plus(wait), wait));
        assert!(!is_due(since, Timestamp::from_millis(0), Duration::ZERO));
        let world = World::with_options("[retention]\nkeep_last = 1\n[snapshots]\ngrace = \"0 s\"\n");
        world.publish("a", "old");
        world.publish("a", "new");
        assert_eq!(world.master.published_head(&name("a")).unwrap().snapshots.len(), 1);
        let done = world.master.clean_up(CleanUpOptions::default()).unwrap();
        assert_eq!(
            done,
            CleanedUp {
                waiting: 1,
                ..CleanedUp::default()
            }
        );
        assert!(here(&world, "old"));
    }
}
