//! Deleting what no snapshot refers to any more, in steps that never keep a publish waiting for long.
//!
//! Order: the snapshot left the head before; it is noted as expired, and waits `delete_after`, which is the lease that
//! every reader has, in whatever process: nodes that show it until they have the new head, downloads that go range by
//! range. Then its tree is counted out, which lists what only it referred to; its record goes; then the listed objects
//! go, then, when there are enough of them, digests and catalog nodes; then the note. A crash between any two leaves
//! lists and note, so the next run finishes the job.
//!
//! What the operator [removed](Master::remove_snapshots) does not wait: it is due as soon as it is noted, and its digests and
//! catalog nodes go however few there are of them, from the bytes of their packs too: names, hashes and short contents that
//! were taken back lie nowhere in the store.
//!
//! Each step holds the store's lock, and so does every publish until its own tree is counted in. What is listed is
//! looked up once more when its turn comes: what a publish has taken into use again meanwhile stays. The cost is that
//! of what goes, however much stays.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use instantmirror_core::{Clock as _, Head, NodeId, ObjectId, RepoName, SnapshotId, Timestamp};
use instantmirror_store::references::{CountedTree, ReferenceError, References};

use super::publish::{NoProgress, counted_tree};
use super::writer::{WRITER_POLL, Writer};
use super::{Master, MasterError, expired, withdrawn};
use crate::clock::SystemClock;
use crate::progress::Progress;

/// Longest time for which one step of removing objects holds the store's lock.
const STEP_TIME: Duration = Duration::from_millis(100);
/// Objects that are removed between two looks at the clock.
const STEP_OBJECTS: usize = 64;
/// Objects that are removed before that is made durable.
const SYNC_OBJECTS: usize = 100_000;
/// Digests and catalog nodes are rewritten when one in so many of them is dead.
const DEAD_SHARE: u64 = 16;
/// A table of so few entries is rewritten whenever anything of it is dead.
const SMALL_TABLE: u64 = 50_000;

/// How to clean up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanUpOptions {
    /// Delete at once what has left the head, without waiting for `delete_after`.
    pub now: bool,
    /// Also look for objects and catalog nodes that no snapshot ever referred to, left by publishes that were killed. All in the
    /// storage that this master does not know of goes; it is refused where the notes are in memory and the storage was given.
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

/// How digests and catalog nodes of what is gone are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forgetting {
    /// When enough of a table is dead, or when it has no more than `small` entries; bytes may lie on in files.
    WhenWorthIt { small: u64 },
    /// Now, and from all files.
    WithoutTrace,
}

impl Forgetting {
    fn is_due(self, dead: usize, entries: u64) -> bool {
        match self {
            Self::WhenWorthIt { small } => dead > 0 && (entries <= small || dead as u64 >= entries / DEAD_SHARE),
            // With nothing dead too: an earlier run may have forgotten it and left its bytes.
            Self::WithoutTrace => true,
        }
    }
}

impl Master {
    /// Deletes the data of snapshots that left the heads more than `delete_after` ago. Blocks; holds the store's lock for
    /// fractions of a second at a time, longer only for the first time in a store of an older version. May be run at any
    /// time, in any process, several times at once.
    ///
    /// # Errors
    /// [`MasterError::Store`] with [`Locked`](instantmirror_store::StoreError::Locked) when a publish takes long: the
    /// next run goes on. [`MasterError::References`] if a catalog that is in use cannot be read, and
    /// [`MasterError::OrphansUnknown`]: nothing is deleted then.
    pub fn clean_up(&self, options: CleanUpOptions) -> Result<CleanedUp, MasterError> {
        self.clean_up_with(options, &NoProgress)
    }

    /// The same for who wants to hear how many objects are gone.
    ///
    /// # Errors
    /// As [`clean_up`](Self::clean_up).
    pub fn clean_up_with(&self, options: CleanUpOptions, progress: &dyn Progress) -> Result<CleanedUp, MasterError> {
        if options.orphans && self.parts.has_given_objects && self.parts.notes.dir.is_none() {
            return Err(MasterError::OrphansUnknown);
        }
        let (due, waiting) = self.count_out_expired(options)?;
        let mut done = CleanedUp {
            waiting,
            ..CleanedUp::default()
        };
        if options.orphans {
            self.condemn_orphans()?;
        }
        let total = self.parts.notes.references()?.dead_object_count()?;
        let mut after = None;
        while self.remove_objects(&mut after, &mut done)? {
            progress.at(done.objects, Some(total));
            // Long enough for whoever waits for the lock to have it.
            std::thread::sleep(WRITER_POLL * 2);
        }
        self.finish(&due, options, &mut done)?;
        self.parts.catalogs.refresh()?;
        if done.snapshots > 0 || done.objects > 0 {
            tracing::info!(
                snapshots = done.snapshots,
                objects = done.objects,
                bytes = done.bytes,
                "cleaned up"
            );
        }
        Ok(done)
    }

    /// Lists what only expired snapshots refer to, and removes their records. Returns those that are due, and how many
    /// have to wait.
    fn count_out_expired(&self, options: CleanUpOptions) -> Result<(BTreeSet<Record>, u64), MasterError> {
        // A publish stores its record before its head: only who holds the lock can tell one from the other.
        let writer = Writer::open(self)?;
        let (due, waiting) = self.note_expired(options)?;
        let mut references = self.parts.notes.references()?;
        match self.count_out(&writer, &mut references, &due) {
            Err(MasterError::References(error @ ReferenceError::Inconsistent { .. })) => {
                tracing::error!("{error}: references are counted anew");
                references.forget_all()?;
                self.count_out(&writer, &mut references, &due)?;
            }
            done => done?,
        }
        Ok((due, waiting))
    }

    fn count_out(
        &self,
        writer: &Writer,
        references: &mut References,
        due: &BTreeSet<Record>,
    ) -> Result<(), MasterError> {
        let records: BTreeSet<Record> = self.snapshots().records()?.into_iter().collect();
        let counted = self.count_in_all(writer, references, &records, due)?;
        for tree in counted {
            let record = (tree.repository.clone(), tree.snapshot);
            // A tree without a record is of a publish that was killed, unless a head still promises it.
            let is_lost = !records.contains(&record) && !self.is_named(&record)?;
            if due.contains(&record) || is_lost {
                references.count_out(&writer.catalogs.nodes(), &tree)?;
            }
        }
        for (repository, id) in due {
            writer.catalogs.store().remove_snapshot(repository, *id)?;
        }
        Ok(())
    }

    /// Counts in what has a record and is not counted: in a store of an older version, or after the table was lost.
    fn count_in_all(
        &self,
        writer: &Writer,
        references: &mut References,
        records: &BTreeSet<Record>,
        due: &BTreeSet<Record>,
    ) -> Result<Vec<CountedTree>, MasterError> {
        let mut counted = references.trees()?;
        let known: BTreeSet<Record> = counted.iter().map(|t| (t.repository.clone(), t.snapshot)).collect();
        for (repository, id) in records.difference(&known) {
            let is_due = due.contains(&(repository.clone(), *id));
            let snapshot = match self.snapshots().snapshot(repository, *id) {
                Err(error) if is_due => {
                    tracing::warn!(%repository, snapshot = %id, "an expired snapshot goes without its objects: {error}");
                    continue;
                }
                found => found?,
            };
            let Some(snapshot) = snapshot else { continue };
            let tree = counted_tree(&snapshot);
            match references.count_in(&writer.catalogs.nodes(), &tree) {
                Err(error @ ReferenceError::Catalog(_)) if is_due => {
                    tracing::warn!(%repository, snapshot = %id, "an expired snapshot goes without its objects: {error}");
                }
                done => {
                    done?;
                    counted.push(tree);
                }
            }
        }
        Ok(counted)
    }

    /// Notes every record that no head names, and returns those that may go, and how many have to wait. For who holds
    /// the lock.
    fn note_expired(&self, options: CleanUpOptions) -> Result<(BTreeSet<Record>, u64), MasterError> {
        let now = SystemClock.now();
        let mut due = BTreeSet::new();
        let mut waiting = 0;
        for repository in &self.config.repositories {
            let name = &repository.name;
            let mut noted = expired::read(self.notes(), name)?;
            let before = noted.clone();
            let head = self.head(name)?;
            let head = head.as_ref().map(instantmirror_core::SignedHead::head);
            for id in self.unnamed(name, head)? {
                noted.entry(id).or_insert(now);
            }
            let is_removed = |id: &SnapshotId| head.is_some_and(|head| head.has_removed(id));
            if noted != before {
                expired::write(self.notes(), name, &noted)?;
            }
            let wait = self.config.retention_of(repository).delete_after.0;
            for (id, since) in noted {
                if options.now || is_due(since, now, wait) || is_removed(&id) {
                    due.insert((name.clone(), id));
                } else {
                    waiting += 1;
                }
            }
        }
        Ok((due, waiting))
    }

    /// Records of a repository that its head does not name.
    fn unnamed(&self, name: &RepoName, head: Option<&Head>) -> Result<Vec<SnapshotId>, MasterError> {
        let named = |id: &SnapshotId| head.is_some_and(|head| head.snapshot(id).is_some());
        let mut ids = self.snapshots().snapshots(name)?;
        ids.retain(|id| !named(id));
        Ok(ids)
    }

    /// Whether what goes is, or may be, of a snapshot that was removed: one that is due, or one whose tree a publish found
    /// again, which came to nothing and listed that tree as dead. Of `orphans` nobody knows whose they are.
    fn any_removed(&self, due: &BTreeSet<Record>, references: &References, orphans: bool) -> Result<bool, MasterError> {
        for (repository, id) in due {
            let head = self.head(repository)?;
            if head.is_some_and(|head| head.head().has_removed(id)) {
                return Ok(true);
            }
        }
        let dead: HashSet<NodeId> = references.dead_nodes()?.into_iter().collect();
        for repository in &self.config.repositories {
            let Some(head) = self.head(&repository.name)? else {
                continue;
            };
            let taken_back = withdrawn::read(self.notes(), &repository.name)?;
            let mut removed = taken_back.iter().filter(|(_, (id, _))| head.head().has_removed(id));
            if removed.any(|(root, _)| orphans || dead.contains(root)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_named(&self, (repository, id): &Record) -> Result<bool, MasterError> {
        let head = self.head(repository)?;
        Ok(head.is_some_and(|head| head.head().snapshot(id).is_some()))
    }

    /// Lists objects on the disk that nothing refers to. One of a publish that goes on now is taken off the list again
    /// by the look before its removal.
    fn condemn_orphans(&self) -> Result<(), MasterError> {
        let mut references = self.parts.notes.references()?;
        let mut found = Vec::new();
        let mut failed = Ok(());
        let (counts, unused, failure) = (&mut references, &mut found, &mut failed);
        // With exclusive borrows, which can go to whatever thread the objects are listed on.
        let mut each = move |object| match counts.uses(&object) {
            Ok(true) => {}
            Ok(false) => unused.push(object),
            Err(error) => *failure = Err(error),
        };
        self.parts.objects.for_each(&mut each)?;
        failed?;
        for some in found.chunks(SYNC_OBJECTS) {
            references.condemn(some)?;
        }
        Ok(())
    }

    /// Removes some of what is listed behind `after`. Returns whether there may be more.
    fn remove_objects(&self, after: &mut Option<ObjectId>, done: &mut CleanedUp) -> Result<bool, MasterError> {
        let writer = Writer::open(self)?;
        let mut references = self.parts.notes.references()?;
        let begun = Instant::now();
        let mut removed: Vec<ObjectId> = Vec::new();
        let mut is_more = true;
        while is_more && begun.elapsed() < STEP_TIME && removed.len() < SYNC_OBJECTS {
            let some = references.dead_objects(after.as_ref(), STEP_OBJECTS)?;
            let (count, bytes) = writer.objects.discard(&some)?;
            done.objects += count;
            done.bytes += bytes;
            is_more = !some.is_empty();
            *after = some.last().copied().or(*after);
            removed.extend(some);
        }
        if !removed.is_empty() {
            writer.objects.commit_discarded(&removed)?;
            references.objects_gone(&removed)?;
        }
        Ok(is_more)
    }

    /// Removes what is left when the objects are gone.
    fn finish(&self, due: &BTreeSet<Record>, options: CleanUpOptions, done: &mut CleanedUp) -> Result<(), MasterError> {
        // A tree that was found again and not published may differ by names alone: no object of it goes.
        let is_any_listed = || self.parts.notes.references()?.lists_dead();
        if due.is_empty() && done.objects == 0 && !options.orphans && !is_any_listed()? {
            return Ok(());
        }
        let writer = Writer::open(self)?;
        let mut references = self.parts.notes.references()?;
        let how = match self.any_removed(due, &references, options.orphans)? {
            true => Forgetting::WithoutTrace,
            false => Forgetting::WhenWorthIt { small: SMALL_TABLE },
        };
        forget_digests(&writer, &mut references, how)?;
        forget_nodes(&writer, &mut references, options.orphans, how)?;
        let mut gone: BTreeMap<RepoName, Vec<SnapshotId>> = BTreeMap::new();
        for (repository, id) in due {
            gone.entry(repository.clone()).or_default().push(*id);
        }
        for (repository, ids) in gone {
            let mut noted = expired::read(self.notes(), &repository)?;
            for id in ids {
                done.snapshots += u64::from(noted.remove(&id).is_some());
            }
            expired::write(self.notes(), &repository, &noted)?;
        }
        Ok(())
    }
}

/// Forgets the digests of objects that are gone. That rewrites the table's index.
fn forget_digests(writer: &Writer, references: &mut References, how: Forgetting) -> Result<(), MasterError> {
    let dead: HashSet<ObjectId> = references.dead_digests()?.into_iter().collect();
    if !how.is_due(dead.len(), writer.digests.entries()) {
        return Ok(());
    }
    // One that was published again has its file, and a digest that counts.
    let mut back = HashSet::new();
    for object in &dead {
        if writer.objects.size(object)?.is_some() {
            back.insert(*object);
        }
    }
    let stays = |object: &ObjectId| !dead.contains(object) || back.contains(object);
    match how {
        Forgetting::WithoutTrace => writer.digests.purge(&stays)?,
        Forgetting::WhenWorthIt { .. } => writer.digests.retain(&stays)?,
    }
    Ok(references.digests_gone()?)
}

/// Gives the space of dead catalog nodes back; with `orphans` also of those that nothing ever referred to.
fn forget_nodes(
    writer: &Writer,
    references: &mut References,
    orphans: bool,
    how: Forgetting,
) -> Result<(), MasterError> {
    let mut dead: HashSet<_> = references.dead_nodes()?.into_iter().collect();
    if !orphans && !how.is_due(dead.len(), writer.catalogs.node_count()) {
        return Ok(());
    }
    let mut back = HashSet::new();
    for node in &dead {
        if references.uses_node(node)? {
            back.insert(*node);
        }
    }
    dead.retain(|node| !back.contains(node));
    let unused = |node: &_| match orphans {
        // What cannot be found out is kept.
        true => !references.uses_node(node).unwrap_or(true),
        false => dead.contains(node),
    };
    let without_trace = how == Forgetting::WithoutTrace;
    writer.catalogs.forget_nodes(&|node| !unused(node), without_trace)?;
    Ok(references.nodes_gone()?)
}

/// Whether the lease of the last readers has ended. A clock that was set back makes it longer, never shorter.
fn is_due(since: Timestamp, now: Timestamp, wait: Duration) -> bool {
    now >= since && now.since(since) >= wait
}

#[cfg(test)]
mod tests {
    use instantmirror_store::references::FILE;

    use super::super::tests::{World, name};
    use super::*;

    const RULES: &str = "[retention]\nkeep_last = 1\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n";

    fn here(world: &World, content: &str) -> bool {
        world
            .master
            .parts
            .objects
            .size(&ObjectId::of(content.as_bytes()))
            .unwrap()
            .is_some()
    }

    #[test]
    fn what_is_published_again_while_it_is_being_deleted_is_spared() {
        let world = World::with_options(RULES);
        world.publish("a", "old");
        world.publish("b", "of another repository");
        world.publish("a", "new");
        let master = &world.master;
        let (due, waiting) = master.count_out_expired(CleanUpOptions::default()).unwrap();
        assert_eq!((due.len(), waiting), (1, 0));
        let listed = || {
            let mut references = References::open(&world.in_store("")).unwrap();
            references.dead_objects(None, 10).unwrap()
        };
        assert_eq!(listed(), [ObjectId::of(b"old")]);
        // Now somebody publishes just that content: it is in the store, so it is not read in again.
        world.publish("b", "old");
        let mut done = CleanedUp::default();
        while master.remove_objects(&mut None, &mut done).unwrap() {}
        master.finish(&due, CleanUpOptions::default(), &mut done).unwrap();
        assert!(here(&world, "old") && here(&world, "new"));
        assert_eq!((done.objects, done.snapshots), (0, 1));
        assert_eq!(listed(), []);
        // The other repository's expired snapshot goes the next time, and takes nothing with it that is in use.
        let done = master.clean_up(CleanUpOptions::default()).unwrap();
        assert_eq!((done.objects, done.snapshots), (1, 1));
        assert!(here(&world, "old") && here(&world, "new") && !here(&world, "of another repository"));
    }

    #[test]
    fn a_store_without_counts_or_with_wrong_ones_gets_them_from_its_catalogs() {
        type Spoil = fn(&std::path::Path);
        let spoils: [Spoil; 3] = [
            |file| std::fs::remove_file(file).unwrap(),
            |file| std::fs::write(file, "no database at all, but long enough to look like one".repeat(100)).unwrap(),
            |file| {
                let db = rusqlite::Connection::open(file).unwrap();
                db.execute_batch("DELETE FROM nodes; DELETE FROM objects").unwrap();
            },
        ];
        for spoil in spoils {
            let world = World::with_options(RULES);
            world.publish("a", "old");
            world.publish("b", "shared");
            world.publish("a", "shared");
            spoil(&world.in_store(FILE));
            let done = world.master.clean_up(CleanUpOptions::default()).unwrap();
            assert_eq!((done.objects, done.snapshots), (1, 1));
            assert!(here(&world, "shared") && !here(&world, "old"));
            world.publish("a", "third");
            world.publish("b", "fourth");
            assert_eq!(world.master.clean_up(CleanUpOptions::default()).unwrap().objects, 1);
            assert!(!here(&world, "shared") && here(&world, "third") && here(&world, "fourth"));
        }
    }

    #[test]
    fn what_a_killed_publish_counted_in_goes_with_the_next_clean_up() {
        let world = World::with_options(RULES);
        world.publish("a", "kept");
        let lost = world.publish("a", "of a killed publish");
        // Killed between counting and storing the record: its head never came to be.
        std::fs::remove_file(world.in_store(&format!("records/a/{}.record", lost.snapshot.id))).unwrap();
        let named = world
            .master
            .clean_up(CleanUpOptions {
                now: true,
                orphans: false,
            })
            .unwrap();
        assert!(
            here(&world, "of a killed publish"),
            "a head promises it still: {named:?}"
        );
        world.publish("a", "next");
        world.master.clean_up(CleanUpOptions::default()).unwrap();
        assert!(!here(&world, "of a killed publish") && here(&world, "next"));
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
        let writer = Writer::open(&world.master).unwrap();
        let mut references = References::open(&world.in_store("")).unwrap();
        let id = |number: usize| ObjectId::of(contents[number].as_bytes());
        let mut forget = |numbers: &[usize]| {
            let objects: Vec<_> = numbers.iter().map(|number| id(*number)).collect();
            writer.objects.discard(&objects).unwrap();
            references.objects_gone(&objects).unwrap();
            forget_digests(&writer, &mut references, Forgetting::WhenWorthIt { small: 0 }).unwrap();
            references.dead_digests().unwrap().len()
        };
        assert_eq!((forget(&[0]), writer.digests.entries()), (1, 40));
        // Meanwhile number 0 comes back: its digest must stay.
        std::fs::create_dir_all(world.in_store(&format!("objects/{}", &id(0).to_string()[..2]))).unwrap();
        std::fs::write(
            world.in_store(&format!("objects/{}/{}", &id(0).to_string()[..2], id(0))),
            &contents[0],
        )
        .unwrap();
        assert_eq!((forget(&[1, 2]), writer.digests.entries()), (0, 38));
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
