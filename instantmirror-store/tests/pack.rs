//! The pack store against lost power, failing disks, bit rot, and readers in other places.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use instantmirror_store::disk::{Disk, Fault, RealDisk, SimDisk, TMP_SUFFIX};
use instantmirror_store::pack::{Copier, Key, PackOptions, PackStore};
use instantmirror_store::{Result, StoreError};

/// Limits so small that every test crosses them.
/// Segments and indexes that are soon too many.
fn small() -> PackOptions {
    let mut options = PackOptions::default();
    options.segment_bytes_max = 2000;
    options.indexes_max = 3;
    options
}

type Model = BTreeMap<Key, Vec<u8>>;

fn key(number: u64) -> Key {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn value(number: u64, round: u64) -> Vec<u8> {
    let len = usize::try_from(number * 37 % 400).unwrap();
    vec![u8::try_from((number + round) % 251).unwrap(); len]
}

fn batch(round: u64) -> Vec<(Key, Vec<u8>)> {
    // Every batch replaces two values of the one before and adds four.
    (round * 4..round * 4 + 6)
        .map(|number| (key(number), value(number, round)))
        .collect()
}

fn open(disk: &SimDisk) -> Result<PackStore> {
    PackStore::open_writer(Arc::new(disk.clone()), "p", small())
}

fn contents(store: &PackStore) -> Model {
    let mut all = Model::new();
    store
        .for_each(|key, value| {
            all.insert(key, value?.to_vec());
            Ok(())
        })
        .unwrap();
    for (key, value) in &all {
        assert_eq!(store.get(key).unwrap().as_deref(), Some(value.as_slice()));
    }
    all
}

/// Keys that the compaction in the workload keeps.
fn kept(key: &Key) -> bool {
    key[0].is_multiple_of(4)
}

/// Puts batches, compacts, puts more. `done` gets the content after each acknowledged step.
fn workload(disk: &SimDisk, done: &mut Vec<Model>) -> Result<()> {
    let store = open(disk)?;
    let mut model = Model::new();
    done.push(model.clone());
    for round in 0..12 {
        model.extend(batch(round));
        done.push(model.clone());
        store.put_batch(batch(round))?;
        if round == 7 {
            model.retain(|key, _| kept(key));
            done.push(model.clone());
            store.compact(&kept)?;
        } else if round == 9 {
            model.retain(|key, _| kept(key));
            done.push(model.clone());
            store.purge(&kept)?;
        }
    }
    Ok(())
}

/// What must hold after any crash: the last acknowledged state or the one that was on its way, nothing else.
fn check_after_crash(disk: &SimDisk, allowed: &[Model], what: &str) {
    let store = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = contents(&store);
    assert!(
        allowed.contains(&found),
        "{what}: content is neither the old nor the new state"
    );
    let leftovers: Vec<_> = disk.files().into_iter().filter(|path| is_leftover(path)).collect();
    assert!(leftovers.is_empty(), "{what}: {leftovers:?}");
    store.put_batch([(key(u64::MAX), b"after".to_vec())]).unwrap();
    assert_eq!(contents(&store).len(), found.len() + 1, "{what}");
}

fn is_leftover(path: &Path) -> bool {
    path.to_str().unwrap().ends_with(TMP_SUFFIX)
}

#[test]
fn power_cut_at_every_operation_of_put_merge_and_compact() {
    let mut cuts = 0;
    for at in 1.. {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::PowerCut);
        let mut done = vec![Model::new()];
        let finished = workload(&disk, &mut done).is_ok();
        let allowed = &done[done.len().saturating_sub(if finished { 1 } else { 2 })..];
        for seed in 0..16 {
            check_after_crash(
                &disk.crash(seed * 7919 + at),
                allowed,
                &format!("cut at {at}, seed {seed}"),
            );
            cuts += 1;
        }
        if finished {
            break;
        }
    }
    assert!(cuts > 3000, "{cuts}");
}

#[test]
fn power_cut_twice_in_a_row_during_recovery() {
    for at in (1..400).step_by(9) {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::PowerCut);
        let mut done = vec![Model::new()];
        let _ = workload(&disk, &mut done);
        for again in 1..12 {
            let second = disk.crash(at);
            second.fail_at(again, Fault::PowerCut);
            let _ = open(&second);
            check_after_crash(
                &second.crash(again),
                &done[done.len().saturating_sub(2)..],
                &format!("{at}, {again}"),
            );
        }
    }
}

#[test]
fn eio_and_enospc_at_every_operation_leave_a_working_store() {
    for fault in [Fault::Eio, Fault::Enospc] {
        for at in 1.. {
            let disk = SimDisk::new();
            let Ok(store) = open(&disk) else { panic!() };
            let before = disk.operations();
            disk.fail_at(at, fault);
            let mut model = Model::new();
            for round in 0..10 {
                match store.put_batch(batch(round)) {
                    Ok(()) => model.extend(batch(round)),
                    Err(error) => {
                        assert_eq!(error.is_no_space(), fault == Fault::Enospc, "{error}");
                        // An unacknowledged batch may be there or not: settle it.
                        store.put_batch(batch(round)).unwrap();
                        model.extend(batch(round));
                    }
                }
                if round == 6 && store.compact(&kept).or_else(|_| store.compact(&kept)).is_ok() {
                    model.retain(|key, _| kept(key));
                }
            }
            disk.heal();
            assert_eq!(contents(&store), model, "{fault:?} at {at}");
            drop(store);
            check_after_crash(&disk.crash(at), &[model], &format!("{fault:?} at {at}"));
            if disk.operations() - before < at {
                break;
            }
        }
    }
}

#[test]
fn full_disk_refuses_the_batch_gives_space_back_and_recovers() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    store.put_batch(batch(0)).unwrap();
    disk.set_capacity(Some(40_000));
    let big = || (0..200).map(|number| (key(1000 + number), vec![1; 1000]));
    assert!(store.put_batch(big()).unwrap_err().is_no_space());
    assert_eq!(contents(&store), batch(0).into_iter().collect());
    store.put_batch(batch(1)).unwrap();
    disk.set_capacity(None);
    store.put_batch(big()).unwrap();
    assert_eq!(contents(&store).len(), 210);
}

#[test]
fn newest_value_wins_within_and_across_batches() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    store.put_batch([(key(1), "a"), (key(2), "b"), (key(1), "c")]).unwrap();
    assert_eq!(store.get(&key(1)).unwrap().as_deref(), Some(b"c".as_slice()));
    store.put_batch([(key(1), "d")]).unwrap();
    assert_eq!(store.put_missing([(key(1), "e"), (key(3), "f")]).unwrap(), 1);
    assert_eq!(store.get(&key(1)).unwrap().as_deref(), Some(b"d".as_slice()));
    assert_eq!(store.get(&key(4)).unwrap(), None);
    assert!(store.contains(&key(3)).unwrap() && !store.contains(&key(4)).unwrap());
    store.put_batch(std::iter::empty::<(Key, &str)>()).unwrap();
    store.put_batch([(key(5), "")]).unwrap();
    assert_eq!(store.get(&key(5)).unwrap().as_deref(), Some([].as_slice()));
}

#[test]
fn index_count_stays_small_over_many_batches() {
    let disk = SimDisk::new();
    let store = PackStore::open_writer(Arc::new(disk), "p", PackOptions::default()).unwrap();
    for number in 0..500 {
        store.put_batch([(key(number), number.to_le_bytes())]).unwrap();
        assert!(store.stats().indexes <= PackOptions::default().indexes_max);
    }
    for number in 0..500 {
        assert_eq!(
            store.get(&key(number)).unwrap().as_deref(),
            Some(number.to_le_bytes().as_slice())
        );
    }
}

fn seed_store(disk: &SimDisk) -> Model {
    let mut options = small();
    options.indexes_max = 8;
    let store = PackStore::open_writer(Arc::new(disk.clone()), "p", options).unwrap();
    let mut model = Model::new();
    for round in 0..3 {
        let batch = || (round * 4..round * 4 + 4).map(|number| (key(number), value(number, 0)));
        store.put_batch(batch()).unwrap();
        model.extend(batch());
    }
    model
}

fn find_file(disk: &SimDisk, part: &str) -> PathBuf {
    disk.files()
        .into_iter()
        .find(|path| path.to_str().unwrap().contains(part))
        .unwrap()
}

#[test]
fn flipped_byte_in_a_record_breaks_that_record_alone() {
    let pristine = SimDisk::new();
    let model = seed_store(&pristine);
    let path = find_file(&pristine, "seg-00000001");
    let len = pristine.metadata(&path).unwrap().len;
    for at in (16..len).step_by(5) {
        let disk = pristine.crash(0);
        disk.tamper(&path, |bytes| bytes[usize::try_from(at).unwrap()] ^= 0x10)
            .unwrap();
        let store = open(&disk).unwrap();
        let mut broken = Vec::new();
        for (key, value) in &model {
            match store.get(key) {
                Ok(Some(found)) => assert_eq!(&found, value, "byte {at}"),
                Err(StoreError::Damaged { path: named, .. }) if named == path => broken.push(*key),
                other => panic!("byte {at}: {other:?}"),
            }
        }
        assert!(broken.len() <= 1, "byte {at}");
        for key in broken {
            store.put_batch([(key, &model[&key])]).unwrap();
        }
        assert_eq!(contents(&store), model, "healed by putting it again");
    }
}

#[test]
fn flipped_byte_anywhere_in_an_index_never_gives_a_wrong_answer() {
    let pristine = SimDisk::new();
    let model = seed_store(&pristine);
    let path = find_file(&pristine, "idx-0000000003");
    let len = pristine.metadata(&path).unwrap().len;
    for at in (0..len).step_by(3) {
        let disk = pristine.crash(0);
        disk.tamper(&path, |bytes| bytes[usize::try_from(at).unwrap()] ^= 0x04)
            .unwrap();
        let reader = match PackStore::open_reader(Arc::new(disk.clone()), "p") {
            Err(StoreError::UnknownVersion { path: named, .. }) if (8..12).contains(&at) => {
                assert_eq!(named, path);
                assert!(matches!(open(&disk), Err(StoreError::UnknownVersion { .. })));
                continue;
            }
            reader => reader.unwrap(),
        };
        for (key, value) in &model {
            match reader.get(key) {
                Ok(Some(found)) => assert_eq!(&found, value, "byte {at}"),
                Err(StoreError::Damaged { path: named, .. }) => assert_eq!(named, path, "byte {at}"),
                other => panic!("byte {at}: {other:?}"),
            }
        }
        let store = open(&disk).unwrap();
        if contents_or_damage(&store).is_none() {
            store.rebuild().unwrap();
        }
        assert_eq!(contents(&store), model, "byte {at}: rebuilt");
    }
}

fn contents_or_damage(store: &PackStore) -> Option<()> {
    store.for_each(|_, value| value.map(|_| ())).ok()
}

#[test]
fn truncated_removed_and_foreign_files_are_named_and_survived() {
    let pristine = SimDisk::new();
    let model = seed_store(&pristine);
    // All indexes lost: rebuilt.
    let disk = pristine.crash(0);
    for path in disk
        .files()
        .into_iter()
        .filter(|path| path.to_str().unwrap().contains("idx-"))
    {
        disk.remove(&path).unwrap();
    }
    assert_eq!(contents(&open(&disk).unwrap()), model);
    // A segment cut short: only what lay behind the cut is lost, new batches work.
    let disk = pristine.crash(0);
    let path = find_file(&disk, "seg-00000001");
    disk.tamper(&path, |bytes| bytes.truncate(700)).unwrap();
    let store = open(&disk).unwrap();
    let lost = model.keys().filter(|key| store.get(key).is_err()).count();
    assert!(lost > 0 && lost < model.len());
    store.put_batch(batch(9)).unwrap();
    assert_eq!(store.get(&key(36)).unwrap().unwrap(), value(36, 9));
    // A segment removed: an error that names it.
    let disk = pristine.crash(0);
    disk.remove(&path).unwrap();
    let store = open(&disk).unwrap();
    let error = model.keys().find_map(|key| store.get(key).err()).unwrap();
    assert!(
        error
            .to_string()
            .contains("seg-00000001.pack is damaged: the file is missing"),
        "{error}"
    );
    // Foreign files stay.
    let disk = pristine.crash(0);
    disk.create_new(Path::new("p/README")).unwrap();
    assert_eq!(contents(&open(&disk).unwrap()), model);
    assert!(disk.metadata(Path::new("p/README")).is_ok());
}

#[test]
fn second_writer_is_refused_with_the_process_id_and_readers_follow() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::open(dir.path()).unwrap());
    let writer = PackStore::open_writer(disk(), "p", small()).unwrap();
    let reader = PackStore::open_reader(disk(), "p").unwrap();
    let error = PackStore::open_writer(disk(), "p", small()).unwrap_err();
    assert!(
        matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(matches!(reader.put_batch(batch(0)), Err(StoreError::ReadOnly { .. })));
    let mut model = Model::new();
    let mut held = Vec::new();
    for round in 0..20 {
        writer.put_batch(batch(round)).unwrap();
        model.extend(batch(round));
        let probe = key(round * 4);
        // A value that replaces one is seen after a refresh; a key that is new is found without.
        reader.refresh().unwrap();
        let found = reader.get(&probe).unwrap().unwrap();
        assert_eq!(found, model[&probe]);
        held.push((found, model[&probe].clone()));
        if round % 5 == 4 {
            writer.compact(&kept).unwrap();
            model.retain(|key, _| kept(key));
            for (key, value) in &model {
                assert_eq!(
                    &reader.get(key).unwrap().unwrap(),
                    value,
                    "after compaction in another process"
                );
            }
        }
    }
    reader.refresh().unwrap();
    assert_eq!(contents(&reader), model);
    for (bytes, expected) in held {
        assert_eq!(bytes, expected, "bytes outlive the compaction");
    }
    drop(writer);
    assert_eq!(contents(&PackStore::open_writer(disk(), "p", small()).unwrap()), model);
}

#[test]
fn compaction_frees_space_and_drops_what_is_dead() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    for round in 0..20 {
        store.put_batch(batch(round)).unwrap();
    }
    let files = disk.files().len();
    let done = store.compact(&|key| key[0] == 0).unwrap();
    assert!(done.removed > 60 && done.freed_bytes > 10_000, "{done:?}");
    assert!(disk.files().len() < files);
    assert_eq!(
        store.compact(&|_| true).unwrap(),
        Default::default(),
        "nothing more to do"
    );
}

/// How many files hold one of these.
fn files_with(disk: &SimDisk, parts: &[&[u8]]) -> usize {
    let holds = |path: &&PathBuf| {
        let content = disk.open(path).unwrap().map().unwrap();
        let has = |part: &&[u8]| content.windows(part.len()).any(|window| window == *part);
        parts.iter().any(has)
    };
    disk.files().iter().filter(holds).count()
}

#[test]
fn a_purge_leaves_no_byte_of_what_is_refused_in_any_file() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let secret = |round: u64| format!("secret {round}").into_bytes();
    let mut model = Model::new();
    for round in 0..20 {
        store.put_batch(batch(round)).unwrap();
        model.extend(batch(round));
        // In each segment a little, of one key that is replaced again and again, and of one that is forgotten on the way.
        store
            .put_batch([(key(5000), secret(round)), (key(6000 + round), secret(round))])
            .unwrap();
    }
    let is_secret = |wanted: &Key| (0..20).any(|round| *wanted == key(6000 + round)) || *wanted == key(5000);
    let hold_secrets = || files_with(&disk, &[b"secret ", &key(5000), &key(6003)]);
    store.compact(&|wanted| !is_secret(wanted)).unwrap();
    assert_eq!(contents(&store), model);
    assert!(hold_secrets() > 5, "little of a segment is not worth a rewrite");
    let done = store.purge(&|wanted| !is_secret(wanted)).unwrap();
    assert!(done.copied_bytes > 0 && done.damaged == 0, "{done:?}");
    assert_eq!(hold_secrets(), 0);
    assert_eq!(contents(&store), model);
    let again = store.purge(&|wanted| !is_secret(wanted)).unwrap();
    assert_eq!(again, Default::default(), "nothing more to do");
    drop(store);
    assert_eq!(contents(&open(&disk).unwrap()), model);
}

#[test]
fn a_purge_finds_what_was_forgotten_or_replaced_before_it() {
    let forgets: [fn(&PackStore); 2] = [
        |store| _ = store.compact(&|wanted| *wanted != key(5000)).unwrap(),
        |store| store.put_batch([(key(5000), "public")]).unwrap(),
    ];
    for forget in forgets {
        let disk = SimDisk::new();
        let store = open(&disk).unwrap();
        store.put_batch(batch(0)).unwrap();
        store.put_batch([(key(5000), "secret")]).unwrap();
        store.put_batch(batch(1)).unwrap();
        forget(&store);
        let before = contents(&store);
        let shown = || files_with(&disk, &[b"secret"]);
        assert_eq!(shown(), 1, "the bytes lie on");
        // Whoever purges knows nothing of that key any more.
        store.purge(&|_| true).unwrap();
        assert_eq!(shown(), 0);
        assert_eq!(contents(&store), before);
        assert_eq!(
            store.purge(&|_| true).unwrap(),
            Default::default(),
            "nothing more to do"
        );
        drop(store);
        assert_eq!(contents(&open(&disk.crash(3)).unwrap()), before);
    }
}

#[test]
fn a_damaged_segment_header_costs_a_purge_and_a_compaction_no_record() {
    let pristine = SimDisk::new();
    let model = seed_store(&pristine);
    let path = find_file(&pristine, "seg-00000001");
    // The magic, and the number; a version that is not ours is refused.
    for at in [0, 7, 12] {
        let disk = pristine.crash(0);
        disk.tamper(&path, |bytes| bytes[at] ^= 1).unwrap();
        let store = open(&disk).unwrap();
        assert!(model.keys().any(|key| store.get(key).is_err()), "byte {at}");
        let done = store.purge(&|_| true).unwrap();
        assert!(done.copied_bytes > 0 && done.damaged == 0, "byte {at}: {done:?}");
        assert_eq!(contents(&store), model, "byte {at}");
        assert!(disk.metadata(&path).is_err(), "byte {at}: the damaged file is gone");
        drop(store);
        assert_eq!(contents(&open(&disk.crash(1)).unwrap()), model, "byte {at}");

        // So little of it lives that it is rewritten for the space.
        let disk = pristine.crash(0);
        disk.tamper(&path, |bytes| bytes[at] ^= 1).unwrap();
        let store = open(&disk).unwrap();
        let some = |key: &Key| key[0] < 64;
        let done = store.compact(&some).unwrap();
        assert!(done.copied_bytes > 0 && done.damaged == 0, "byte {at}: {done:?}");
        let few: Model = model.clone().into_iter().filter(|(key, _)| some(key)).collect();
        assert_eq!(contents(&store), few, "byte {at}");
    }
}

#[test]
fn readers_that_look_at_the_same_moment_all_see_a_new_batch() {
    const READERS: usize = 8;
    const ROUNDS: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
    let writer = PackStore::open_writer(Arc::clone(&disk), "packs", PackOptions::default()).unwrap();
    let reader = PackStore::open_reader(disk, "packs").unwrap();
    let together = std::sync::Barrier::new(READERS + 1);
    std::thread::scope(|scope| {
        for number in 0..READERS {
            let (reader, together) = (&reader, &together);
            scope.spawn(move || {
                let mut missed = 0;
                for round in 0..ROUNDS {
                    together.wait();
                    let is_there = if number % 2 == 0 {
                        reader.get(&key(round)).unwrap().is_some()
                    } else {
                        reader.contains(&key(round)).unwrap()
                    };
                    missed += u32::from(!is_there);
                    together.wait();
                }
                assert_eq!(missed, 0, "values that were there and not seen");
            });
        }
        for round in 0..ROUNDS {
            writer.put_batch([(key(round), "value")]).unwrap();
            together.wait();
            together.wait();
        }
    });
}

#[test]
fn copies_are_what_the_map_shows_through_puts_compaction_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
    let store = Arc::new(PackStore::open_writer(disk, "p", small()).unwrap());
    let copier = store.copier();
    let same = || {
        for (key, value) in contents(&store) {
            assert_eq!(copier.get(&key).unwrap().as_deref(), Some(value.as_slice()));
        }
    };
    for round in 0..20 {
        store.put_batch(batch(round)).unwrap();
        same();
    }
    assert_eq!(copier.get(&key(1000)).unwrap(), None);
    // Segments that it has open are rewritten and removed.
    store.compact(&kept).unwrap();
    same();
    store.put_batch(batch(30)).unwrap();
    same();
    // A record that has rotted is told, not handed out.
    let segments = std::fs::read_dir(dir.path().join("p"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for file in segments.filter(|path| path.extension().is_some_and(|extension| extension == "pack")) {
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    let damaged = damaged_copies(&copier, &store);
    assert!(damaged > 0, "no record was damaged");
}

/// How many values are damaged; the others have to be right.
fn damaged_copies(copier: &Copier, store: &PackStore) -> usize {
    let mut damaged = 0;
    let mut keys = Vec::new();
    store
        .for_each(|key, value| {
            keys.push((key, value.ok()));
            Ok(())
        })
        .unwrap();
    for (key, value) in keys {
        match (copier.get(&key), value) {
            (Err(StoreError::Damaged { .. }), None) => damaged += 1,
            (found, value) => assert_eq!(found.unwrap(), value),
        }
    }
    damaged
}
