//! Which object lies where in the piece space of a repository, both ways.
//!
//! The piece space only grows (docs/formats/peer_wire.md), so the map is a file of records in order of their first piece to
//! which new ones are appended; the few that come out of order lie beside it in memory until there are many. It follows the
//! catalogs: what a snapshot adds is found by comparing its tree with the last one, so a publish costs what it changed. The
//! file is derived and can be deleted at any time: then it is made anew.
//!
//! Memory: some 10 bytes for an object, to find its record by its id; records are read from the file.
//!
//! Invariant: what the state file counts was synced before, so a crash leaves a map of an earlier tree, never a wrong one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;
use instantmirror_core::catalog::{CatalogError, Differences, NodeSource};
use instantmirror_core::{Kind, NodeId, ObjectId};

use crate::disk::{Disk, DiskFile, discard, read_file, write_atomically};
use crate::error::{Result, StoreError};

/// A record: first piece, size, object.
const RECORD_BYTES: usize = 48;
/// The first piece of every so many records is kept in memory.
const STRIDE: usize = 64;
/// Records are put in order so many at a time.
const SORTED_AT_ONCE: usize = 250_000;
/// So many may lie out of order; then the file is written anew.
const STRAY_MAX: usize = 50_000;
/// Version of the state file.
const VERSION: u8 = 1;
const STATE_HEADER: usize = 1 + 4 + 32 + 8;
const STATE_BYTES_MAX: u64 = (STATE_HEADER + 2 * STRAY_MAX * RECORD_BYTES + 32) as u64;

/// Why a map could not follow a catalog.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PieceMapError {
    /// The map's own files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedObject {
    /// Its first piece.
    pub first_piece: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The object.
    pub object: ObjectId,
}

impl MappedObject {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.first_piece.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..].copy_from_slice(self.object.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk::<8>()?;
        let (size, object) = rest.split_first_chunk::<8>()?;
        Some(Self {
            first_piece: u64::from_le_bytes(*first),
            size: u64::from_le_bytes(*size),
            object: ObjectId::from_bytes(object.try_into().ok()?),
        })
    }

    fn end(&self, piece_bytes: u64) -> u64 {
        self.first_piece + self.size.div_ceil(piece_bytes)
    }
}

/// Part of an id, and where its record is; one with the highest bit is a stray one.
type Known = (u32, u32);

fn tag(object: &ObjectId) -> u32 {
    let [a, b, c, d, ..] = *object.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The tag is a hash already; its bits are spread over a word.
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The map of one repository. Safe to share: reading waits only for an [`advance`](Self::advance) that adds.
#[derive(Debug)]
pub struct PieceMap {
    disk: Arc<dyn Disk>,
    records_path: PathBuf,
    state_path: PathBuf,
    piece_bytes: u64,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    file: Box<dyn DiskFile>,
    records: usize,
    /// First pieces of every [`STRIDE`]th record.
    sparse: Vec<u64>,
    /// One behind the last piece of the last record.
    end: u64,
    strays: BTreeMap<u64, MappedObject>,
    stray_by_object: HashMap<ObjectId, u64>,
    by_object: HashTable<Known>,
    root: Option<NodeId>,
}

impl PieceMap {
    /// Opens (making it where needed) the map at `path` for pieces of `piece_bytes` bytes. One that is damaged, or of other
    /// pieces, is begun anew. Reads the whole file once.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, piece_bytes: u32) -> Result<Self> {
        let (records_path, state_path) = (path.with_extension("pieces"), path.with_extension("state"));
        let held = read_state(disk.as_ref(), &state_path, piece_bytes)?;
        let (records, root, strays) = held.unwrap_or_default();
        let file = match disk.open_write(&records_path) {
            Err(error) if error.is_not_found() => disk.create_new(&records_path)?,
            file => file?,
        };
        let is_short = file.len()? < (records * RECORD_BYTES) as u64;
        let (records, root, strays) = if is_short {
            tracing::warn!("{} is damaged, and is made anew", records_path.display());
            (0, None, Vec::new())
        } else {
            (records, root, strays)
        };
        file.set_len((records * RECORD_BYTES) as u64)?;
        let state = State {
            file,
            records: 0,
            sparse: Vec::new(),
            end: 0,
            strays: BTreeMap::new(),
            stray_by_object: HashMap::new(),
            by_object: HashTable::with_capacity(records),
            root,
        };
        let map = Self {
            disk,
            records_path,
            state_path,
            piece_bytes: u64::from(piece_bytes),
            state: RwLock::new(state),
        };
        map.load(records, strays)?;
        Ok(map)
    }

    fn load(&self, records: usize, strays: Vec<MappedObject>) -> Result<()> {
        let mut state = self.write();
        let mut at = 0;
        while at < records {
            let part = read_records(state.file.as_ref(), at, 16_384.min(records - at))?;
            at += part.len();
            part.iter().for_each(|record| state.know(record, self.piece_bytes));
            if part.is_empty() {
                break;
            }
        }
        strays.into_iter().for_each(|stray| state.stray(stray));
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a piece.
    #[must_use]
    pub fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// One behind the highest piece that is known of.
    #[must_use]
    pub fn end(&self) -> u64 {
        let state = self.read();
        let stray = state
            .strays
            .last_key_value()
            .map_or(0, |(_, stray)| stray.end(self.piece_bytes));
        state.end.max(stray)
    }

    /// Objects that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.read();
        state.records + state.strays.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The object that a piece belongs to.
    ///
    /// # Errors
    /// The disk's.
    pub fn locate(&self, piece: u64) -> Result<Option<MappedObject>> {
        let state = self.read();
        let stray = state.strays.range(..=piece).next_back().map(|(_, stray)| *stray);
        let found = match stray.filter(|stray| piece < stray.end(self.piece_bytes)) {
            Some(stray) => Some(stray),
            None => state.record_before(piece)?,
        };
        Ok(found.filter(|found| piece < found.end(self.piece_bytes)))
    }

    /// Where an object lies.
    ///
    /// # Errors
    /// The disk's.
    pub fn place_of(&self, object: &ObjectId) -> Result<Option<MappedObject>> {
        self.read().find(object)
    }

    /// Takes in what the tree `root` has and the last one had not. Blocks for as long as it takes to walk the difference;
    /// readers go on meanwhile. Returns how many objects were new.
    ///
    /// # Errors
    /// [`PieceMapError`]; what was taken in before stays, and is found again by the next call.
    pub fn advance<S: NodeSource>(&self, source: S, root: NodeId) -> Result<u64, PieceMapError> {
        let before = self.read().root;
        if before == Some(root) {
            return Ok(0);
        }
        let (mut fresh, mut added) = (Vec::new(), 0);
        let walk = Differences::new(&source, before, root);
        let mut walk: Box<dyn Iterator<Item = _>> = Box::new(walk);
        let mut is_anew = before.is_none();
        loop {
            match walk.next() {
                Some(Ok(difference)) => {
                    let file = difference.after.and_then(|meta| match meta.kind {
                        Kind::File(file) if file.size > 0 => Some(file),
                        _ => None,
                    });
                    fresh.extend(file.map(|file| MappedObject {
                        first_piece: file.first_piece,
                        size: file.size,
                        object: file.object,
                    }));
                }
                // The last tree is gone: all of this one is looked at.
                Some(Err(CatalogError::Missing(_))) if !is_anew => {
                    is_anew = true;
                    walk = Box::new(Differences::new(&source, None, root));
                }
                Some(Err(error)) => return Err(error.into()),
                None => break,
            }
            if fresh.len() >= SORTED_AT_ONCE {
                added += self.add(std::mem::take(&mut fresh))?;
            }
        }
        added += self.add(fresh)?;
        self.commit(root)?;
        Ok(added)
    }

    fn add(&self, mut fresh: Vec<MappedObject>) -> Result<u64> {
        fresh.sort_unstable_by_key(|record| record.first_piece);
        let mut added = 0;
        let mut appended = Vec::new();
        let mut state = self.write();
        let first = state.records;
        for record in fresh {
            if state.find_among(&record.object, &appended, first)?.is_some() {
                continue;
            }
            added += 1;
            if record.first_piece >= state.end {
                state.know(&record, self.piece_bytes);
                appended.push(record);
            } else {
                state.stray(record);
            }
        }
        let bytes: Vec<u8> = appended.iter().flat_map(MappedObject::encode).collect();
        state.file.write_at(&bytes, (first * RECORD_BYTES) as u64)?;
        let is_full = state.strays.len() > STRAY_MAX;
        if is_full {
            self.merge(&mut state)?;
        }
        Ok(added)
    }

    /// Writes the file anew with the stray records in their places.
    fn merge(&self, state: &mut State) -> Result<()> {
        let path = self.records_path.with_extension("merged");
        discard(self.disk.as_ref(), &path);
        let file = self.disk.create_new(&path)?;
        let strays = std::mem::take(&mut state.strays);
        state.stray_by_object.clear();
        let old = std::mem::replace(&mut state.file, file);
        let records = std::mem::take(&mut state.records);
        (state.end, state.root) = (0, None);
        state.sparse.clear();
        state.by_object.clear();
        let (mut at, mut strays) = (0, strays.into_values().peekable());
        let mut out = Vec::new();
        let mut written = 0;
        // What was counted is of the old file: without a state the map is made anew after a crash.
        discard(self.disk.as_ref(), &self.state_path);
        while at < records {
            let part = read_records(old.as_ref(), at, 16_384.min(records - at))?;
            at += part.len().max(1);
            for record in part {
                while let Some(stray) = strays.next_if(|stray| stray.first_piece < record.first_piece) {
                    state.know(&stray, self.piece_bytes);
                    out.extend(stray.encode());
                }
                state.know(&record, self.piece_bytes);
                out.extend(record.encode());
            }
            state.file.write_at(&out, written)?;
            written += out.len() as u64;
            out.clear();
        }
        for stray in strays {
            state.know(&stray, self.piece_bytes);
            out.extend(stray.encode());
        }
        state.file.write_at(&out, written)?;
        self.disk.rename(&path, &self.records_path)
    }

    /// Makes durable what was taken in.
    fn commit(&self, root: NodeId) -> Result<()> {
        let mut state = self.write();
        state.file.sync()?;
        let mut bytes = vec![VERSION];
        bytes.extend(u32::try_from(self.piece_bytes).unwrap_or(0).to_le_bytes());
        bytes.extend(root.as_bytes());
        bytes.extend((state.records as u64).to_le_bytes());
        state.strays.values().for_each(|stray| bytes.extend(stray.encode()));
        let sum = *blake3::hash(&bytes).as_bytes();
        bytes.extend(sum);
        write_atomically(self.disk.as_ref(), &self.state_path, &bytes)?;
        state.root = Some(root);
        Ok(())
    }
}

impl State {
    /// Takes note of the next record of the file.
    fn know(&mut self, record: &MappedObject, piece_bytes: u64) {
        if self.records.is_multiple_of(STRIDE) {
            self.sparse.push(record.first_piece);
        }
        let known = (tag(&record.object), u32::try_from(self.records).unwrap_or(u32::MAX / 2));
        self.by_object
            .insert_unique(spread(known.0), known, |known| spread(known.0));
        self.records += 1;
        self.end = self.end.max(record.end(piece_bytes));
    }

    fn stray(&mut self, record: MappedObject) {
        self.stray_by_object.insert(record.object, record.first_piece);
        self.strays.insert(record.first_piece, record);
    }

    fn record(&self, place: usize) -> Result<Option<MappedObject>> {
        Ok(read_records(self.file.as_ref(), place, 1)?.first().copied())
    }

    /// The last record that begins at or before a piece.
    fn record_before(&self, piece: u64) -> Result<Option<MappedObject>> {
        let blocks = self.sparse.partition_point(|first| *first <= piece);
        let Some(block) = blocks.checked_sub(1) else {
            return Ok(None);
        };
        let start = block * STRIDE;
        let records = read_records(self.file.as_ref(), start, STRIDE.min(self.records - start))?;
        let before = records.partition_point(|record| record.first_piece <= piece);
        Ok(before.checked_sub(1).and_then(|last| records.get(last).copied()))
    }

    fn find(&self, object: &ObjectId) -> Result<Option<MappedObject>> {
        self.find_among(object, &[], self.records)
    }

    /// Finds an object, also among records from `first` on that are not in the file yet.
    fn find_among(&self, object: &ObjectId, appended: &[MappedObject], first: usize) -> Result<Option<MappedObject>> {
        let tag = tag(object);
        for (_, place) in self.by_object.iter_hash(spread(tag)).filter(|known| known.0 == tag) {
            let place = *place as usize;
            let record = match place.checked_sub(first) {
                Some(at) if !appended.is_empty() => appended.get(at).copied(),
                _ => self.record(place)?,
            };
            if let Some(record) = record.filter(|record| record.object == *object) {
                return Ok(Some(record));
            }
        }
        let stray = self
            .stray_by_object
            .get(object)
            .and_then(|first| self.strays.get(first));
        Ok(stray.copied())
    }
}

fn read_records(file: &dyn DiskFile, place: usize, count: usize) -> Result<Vec<MappedObject>> {
    let mut bytes = vec![0; count * RECORD_BYTES];
    let read = file.read_at(&mut bytes, (place * RECORD_BYTES) as u64)?;
    let whole = bytes.get(..read).unwrap_or_default().chunks_exact(RECORD_BYTES);
    Ok(whole.filter_map(MappedObject::decode).collect())
}

type HeldState = (usize, Option<NodeId>, Vec<MappedObject>);

/// What the state file says; `None` if there is none, or one that is of no use.
fn read_state(disk: &dyn Disk, path: &Path, piece_bytes: u32) -> Result<Option<HeldState>> {
    let bytes = match read_file(disk, path, STATE_BYTES_MAX) {
        Err(error) if error.is_not_found() => return Ok(None),
        Err(StoreError::TooLarge { .. }) => return Ok(None),
        bytes => bytes?,
    };
    Ok(decode_state(&bytes, piece_bytes))
}

fn decode_state(bytes: &[u8], piece_bytes: u32) -> Option<HeldState> {
    let (content, sum) = bytes.split_last_chunk::<32>()?;
    let (header, strays) = content.split_at_checked(STATE_HEADER)?;
    let (version, rest) = header.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (root, records) = rest.split_first_chunk::<32>()?;
    let is_ours = *version == VERSION && u32::from_le_bytes(*length) == piece_bytes;
    if !is_ours || blake3::hash(content) != *sum {
        return None;
    }
    let records = usize::try_from(u64::from_le_bytes(records.try_into().ok()?)).ok()?;
    let strays = strays.chunks_exact(RECORD_BYTES).filter_map(MappedObject::decode);
    Some((records, Some(NodeId::from_bytes(*root)), strays.collect()))
}

#[cfg(test)]
#[path = "piece_map_tests.rs"]
mod tests;
