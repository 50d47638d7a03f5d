//! [`SimDisk`]: a disk in memory that loses power.
//!
//! It keeps every unsynced write and every unsynced directory operation in a list. [`SimDisk::crash`] makes the disk
//! that a machine could find after a power cut: each unsynced write was kept, dropped, torn at a sector border or
//! turned into garbage, and each unsynced directory operation happened or not. It is stricter than any real file
//! system: syncing a file says nothing about its name, and a failed sync loses the writes before it for good.

mod ops;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DiskFile, parent_of};
use crate::error::{Result, StoreError};

/// A write is torn and garbled in units of this many bytes.
const SECTOR_BYTES: usize = 512;
/// Space is counted in blocks of this many bytes, as file systems do.
const BLOCK_BYTES: u64 = 4096;
/// Errno values: the simulation answers as Linux does.
const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

type Ino = u64;

/// What happens at a chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This operation fails with EIO; the next ones work. A failed sync never makes the writes before it durable.
    Eio,
    /// This operation fails with ENOSPC (only writes, creations and `set_len`), half of a write being done.
    Enospc,
    /// This operation fails with EMFILE: the process has too many files open; the next ones work.
    Emfile,
    /// The power goes: this operation may or may not be on the disk, and all later ones fail.
    PowerCut,
}

#[derive(Clone, Debug)]
enum WriteOp {
    Data { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct SimFileState {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Unsynced operations in order; `true`: a failed sync gave it up, no later sync makes it durable.
    pending: Vec<(WriteOp, bool)>,
    blocks: BTreeSet<u64>,
    changed_at: u64,
    /// Reading it fails with EIO.
    unreadable: bool,
}

impl SimFileState {
    /// What a successful sync does: all but the writes that a failed one gave up is durable.
    fn sync(&mut self) {
        let mut lost = Vec::new();
        for (op, given_up) in std::mem::take(&mut self.pending) {
            if given_up {
                lost.push((op, true));
            } else {
                apply_write(&mut self.durable, &op);
            }
        }
        self.pending = lost;
    }
}

/// One directory operation: the names that it changes, together.
#[derive(Clone, Debug)]
struct DirOp(Vec<(PathBuf, Option<Ino>)>);

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<Ino, SimFileState>,
    names: BTreeMap<PathBuf, Ino>,
    durable_names: BTreeMap<PathBuf, Ino>,
    pending: Vec<DirOp>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    next_ino: Ino,
    operations: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    capacity: Option<u64>,
}

/// A simulated disk; clones share it. For tests.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

/// What the operation at hand has to do.
enum Step {
    Go,
    /// Do it (unsynced), then fail: the power went.
    GoThenFail,
    Fail(i32),
}

impl SimDisk {
    /// An empty disk without faults and limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Injects `fault` at operation number `at`, counted from 1 from now on.
    pub fn fail_at(&self, at: u64, fault: Fault) {
        let mut inner = self.state();
        inner.fault = Some((inner.operations + at, fault));
    }

    /// Takes back a fault that has not happened yet.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// Limits the space, in bytes; blocks of 4 KiB are counted, holes are free.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// From now on reading this file fails with EIO, as on a medium that has gone bad.
    pub fn make_unreadable(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut inner = self.state();
        let ino = inner.lookup("stat", path.as_ref())?;
        if let Some(file) = inner.files.get_mut(&ino) {
            file.unreadable = true;
        }
        Ok(())
    }

    /// Operations done so far: the loop bound of a crash matrix.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Whether an injected power cut has happened.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// The disk as a machine finds it after losing power now. The same seed gives the same disk; `self` is unchanged.
    pub fn crash(&self, seed: u64) -> Self {
        let inner = self.state();
        let mut random = Random(seed);
        // Each crash has its own temper: from "everything made it" to "nothing did".
        let keep_in_8 = random.below(9);
        let mut names = inner.durable_names.clone();
        for op in &inner.pending {
            if random.below(8) < keep_in_8 {
                apply_names(&mut names, op);
            }
        }
        let mut files = HashMap::new();
        for ino in names.values() {
            if let Some(file) = inner.files.get(ino) {
                files.insert(*ino, crashed_file(file, &mut random, keep_in_8));
            }
        }
        let survivor = Inner {
            files,
            durable_names: names.clone(),
            names,
            dirs: inner.dirs.clone(),
            next_ino: inner.next_ino,
            operations: inner.operations,
            capacity: inner.capacity,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(survivor)),
        }
    }

    /// The disk as the next process finds it after this one was killed: all writes are there, all locks are free.
    pub fn after_kill(&self) -> Self {
        let inner = self.state();
        let survivor = Inner {
            files: inner.files.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            pending: inner.pending.clone(),
            dirs: inner.dirs.clone(),
            next_ino: inner.next_ino,
            operations: inner.operations,
            capacity: inner.capacity,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(survivor)),
        }
    }

    /// All files that are there now, for checks on leftovers.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// Changes a file's bytes behind everybody's back, durably: bit rot, truncation or a careless person.
    pub fn tamper(&self, path: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut inner = self.state();
        let ino = inner.lookup("tamper with", path.as_ref())?;
        if let Some(file) = inner.files.get_mut(&ino) {
            change(&mut file.current);
            file.durable = file.current.clone();
            file.pending.clear();
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, ino: Ino, path: &Path, writable: bool) -> Box<dyn DiskFile> {
        Box::new(ops::SimFile {
            disk: self.clone(),
            ino,
            path: path.to_path_buf(),
            writable,
        })
    }

    fn open_as(&self, op: &'static str, path: &Path, writable: bool) -> Result<Box<dyn DiskFile>> {
        let mut inner = self.state();
        inner.step(false).fail_now(op, path)?;
        let ino = inner.lookup(op, path)?;
        Ok(self.handle(ino, path, writable))
    }
}

impl Inner {
    /// Counts one operation and says what becomes of it. `grows`: it needs space.
    fn step(&mut self, grows: bool) -> Step {
        self.operations += 1;
        if self.off {
            return Step::Fail(EIO);
        }
        match self.fault {
            Some((at, fault)) if at == self.operations => match fault {
                Fault::PowerCut => {
                    self.off = true;
                    Step::GoThenFail
                }
                Fault::Eio => Step::Fail(EIO),
                Fault::Emfile => Step::Fail(EMFILE),
                Fault::Enospc if grows => Step::Fail(ENOSPC),
                Fault::Enospc => Step::Go,
            },
            _ => Step::Go,
        }
    }

    fn lookup(&self, op: &'static str, path: &Path) -> Result<Ino> {
        let missing = || StoreError::io(op, path, io::ErrorKind::NotFound);
        self.names.get(path).copied().ok_or_else(missing)
    }

    fn change_names(&mut self, op: DirOp) {
        apply_names(&mut self.names, &op);
        self.pending.push(op);
    }

    fn used_bytes(&self) -> u64 {
        let live: BTreeSet<_> = self.names.values().collect();
        let blocks: usize = live
            .iter()
            .filter_map(|ino| self.files.get(ino))
            .map(|file| file.blocks.len())
            .sum();
        blocks as u64 * BLOCK_BYTES
    }

    fn free_bytes(&self) -> u64 {
        self.capacity
            .map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    /// Makes the operations durable that touch `dir`, and those before them that touch the same names.
    fn sync_names(&mut self, dir: &Path) {
        let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (op, chosen) in self.pending.iter().zip(&mut chosen).rev() {
            if op
                .0
                .iter()
                .any(|(name, _)| parent_of(name) == dir || wanted.contains(name))
            {
                *chosen = true;
                wanted.extend(op.0.iter().map(|(name, _)| name.clone()));
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (op, chosen) in pending.into_iter().zip(chosen) {
            if chosen {
                apply_names(&mut self.durable_names, &op);
            } else {
                self.pending.push(op);
            }
        }
    }
}

impl Step {
    /// For operations that change nothing.
    fn fail_now(self, op: &'static str, path: &Path) -> Result<()> {
        match self {
            Self::Go => Ok(()),
            Self::GoThenFail => Err(errno(op, path, EIO)),
            Self::Fail(code) => Err(errno(op, path, code)),
        }
    }

    /// Whether to fail after the work; an error where the work must not be done at all.
    fn before(self, op: &'static str, path: &Path) -> Result<bool> {
        match self {
            Self::Go => Ok(false),
            Self::GoThenFail => Ok(true),
            Self::Fail(code) => Err(errno(op, path, code)),
        }
    }
}

fn errno(op: &'static str, path: &Path, code: i32) -> StoreError {
    StoreError::io(op, path, io::Error::from_raw_os_error(code))
}

fn after(cut: bool, op: &'static str, path: &Path) -> Result<()> {
    if cut { Err(errno(op, path, EIO)) } else { Ok(()) }
}

fn apply_names(names: &mut BTreeMap<PathBuf, Ino>, op: &DirOp) {
    for (name, ino) in &op.0 {
        match ino {
            Some(ino) => names.insert(name.clone(), *ino),
            None => names.remove(name),
        };
    }
}

fn apply_write(content: &mut Vec<u8>, op: &WriteOp) {
    match op {
        WriteOp::Data { offset, data } => write_into(content, *offset, data),
        WriteOp::SetLen(len) => content.resize(usize::try_from(*len).unwrap_or(usize::MAX), 0),
    }
}

fn write_into(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(data.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(start..end) {
        place.copy_from_slice(data);
    }
}

fn crashed_file(file: &SimFileState, random: &mut Random, keep_in_8: u64) -> SimFileState {
    let mut content = file.durable.clone();
    for (op, _) in &file.pending {
        let fate = if random.below(8) < keep_in_8 {
            0
        } else {
            1 + random.below(3)
        };
        match (op, fate) {
            (op, 0) => apply_write(&mut content, op),
            (WriteOp::Data { offset, data }, 2) => {
                let sectors = random.below((data.len() / SECTOR_BYTES) as u64 + 1);
                let torn = usize::try_from(sectors).unwrap_or(0) * SECTOR_BYTES;
                write_into(&mut content, *offset, &data[..torn]);
            }
            (WriteOp::Data { offset, data }, 3) => {
                let garbage: Vec<u8> = data.iter().map(|_| random.next().to_le_bytes()[0]).collect();
                write_into(&mut content, *offset, &garbage);
            }
            _ => {}
        }
    }
    let blocks = (0..(content.len() as u64).div_ceil(BLOCK_BYTES)).collect();
    SimFileState {
        durable: content.clone(),
        current: content,
        pending: Vec::new(),
        blocks,
        changed_at: 0,
        unreadable: false,
    }
}

/// SplitMix64: small, seedable, good enough to choose which sector dies.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
