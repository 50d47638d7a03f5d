//! The repository's piece space (design section 8): every new object gets the next indices, for ever.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use instantmirror_core::ObjectId;
use instantmirror_core::entry::COUNT_MAX;

use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::pack::{Key, PackOptions, PackStore};

/// Under this key stands the next free index; no object's hash is all zeros.
const NEXT: Key = [0; 32];

/// Which piece indices belong to which object.
#[derive(Debug)]
pub struct PieceSpace {
    packs: PackStore,
    piece_bytes: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    /// Assigned and not yet committed.
    fresh: HashMap<ObjectId, u64>,
}

fn number(bytes: &[u8], place: &Path) -> Result<u64> {
    let number = bytes.try_into().map(u64::from_le_bytes);
    number.map_err(|_| StoreError::damaged(place, "a piece index is not 8 bytes long", "restore it from a backup"))
}

impl PieceSpace {
    /// Opens (making it where needed) the piece space in `dir`, of pieces of `piece_bytes` bytes.
    ///
    /// Errors: those of [`PackStore::open_writer`].
    pub fn open(disk: Arc<dyn Disk>, dir: impl AsRef<Path>, piece_bytes: u32) -> Result<Self> {
        Self::new(PackStore::open_writer(disk, dir, PackOptions::default())?, piece_bytes)
    }

    /// Opens the piece space in `dir` for reading; what is assigned stays in memory.
    ///
    /// Errors: those of [`PackStore::open_overlay`].
    pub fn open_overlay(disk: Arc<dyn Disk>, dir: impl AsRef<Path>, piece_bytes: u32) -> Result<Self> {
        Self::new(PackStore::open_overlay(disk, dir)?, piece_bytes)
    }

    fn new(packs: PackStore, piece_bytes: u32) -> Result<Self> {
        let next = packs
            .get(&NEXT)?
            .map(|bytes| number(&bytes, packs.dir()))
            .transpose()?
            .unwrap_or(0);
        Ok(Self {
            packs,
            piece_bytes,
            state: Mutex::new(State {
                next,
                fresh: HashMap::new(),
            }),
        })
    }

    /// Length of a piece, in bytes.
    pub fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// The first index of an object: the one it has, or the next free one. Kept by the next
    /// [`commit`](Self::commit). Empty objects have no pieces; their index is 0.
    ///
    /// Errors: [`StoreError::TooLarge`] when 2^40 pieces are used up.
    pub fn assign(&self, object: &ObjectId, size: u64) -> Result<u64> {
        if size == 0 {
            return Ok(0);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&first) = state.fresh.get(object) {
            return Ok(first);
        }
        if let Some(bytes) = self.packs.get(object.as_bytes())? {
            return number(&bytes, self.packs.dir());
        }
        let first = state.next;
        let next = first + size.div_ceil(u64::from(self.piece_bytes));
        if next > COUNT_MAX {
            let what = "the piece space of the repository".to_owned();
            return Err(StoreError::TooLarge {
                what,
                size: next,
                limit: COUNT_MAX,
            });
        }
        state.next = next;
        state.fresh.insert(*object, first);
        Ok(first)
    }

    /// Makes what was assigned durable. Indices whose commit was lost in a crash are given again, which is right:
    /// no snapshot names them.
    ///
    /// Errors: those of [`PackStore::put_batch`].
    pub fn commit(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.fresh.is_empty() {
            return Ok(());
        }
        let next = std::iter::once((NEXT, state.next.to_le_bytes()));
        let fresh = state
            .fresh
            .iter()
            .map(|(object, first)| (*object.as_bytes(), first.to_le_bytes()));
        self.packs.put_batch(next.chain(fresh))?;
        state.fresh.clear();
        Ok(())
    }
}
