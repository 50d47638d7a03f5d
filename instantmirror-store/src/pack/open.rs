//! Opening a pack store: what a start may believe, what it removes, and how a reader keeps up with the writer.
//!
//! A reader changes nothing on the disk. A writer removes only what provably no index names, and nothing at all while
//! an index is damaged: then it first rebuilds the indexes from the segments.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::format::*;
use super::index::Index;
use super::segment::{Active, Segments};
use super::{PackOptions, PackStore, RETRIES_MAX, View, Writer};
use crate::disk::{Disk, DiskLock, FileKind, discard, remove_leftovers};
use crate::error::{Result, StoreError};

/// The lock file's name.
const LOCK_NAME: &str = "lock";

/// The files of a store, by name.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) indexes: Vec<Batches>,
    pub(super) segments: BTreeSet<u32>,
}

impl PackStore {
    /// What the writer of the store in `dir` (made where needed) holds.
    pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<DiskLock> {
        disk.create_dir_all(dir)?;
        disk.lock(&dir.join(LOCK_NAME))
    }

    /// Opens (making it where needed) the store in `dir` for reading and writing.
    ///
    /// Cleans up what a crash left. Damaged or missing index files are rebuilt from the segments, which takes as long
    /// as reading those. Errors: [`StoreError::Locked`] with the id of the process that writes already,
    /// [`StoreError::UnknownVersion`] (nothing is changed then).
    pub fn open_writer(disk: Arc<dyn Disk>, dir: impl AsRef<Path>, options: PackOptions) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let lock = Self::lock(disk.as_ref(), &dir)?;
        remove_leftovers(disk.as_ref(), &dir)?;
        let listing = list(disk.as_ref(), &dir)?;
        let view = load(disk.as_ref(), &dir, &listing, None)?;
        // A number is never used twice, not even that of a removed segment: readers know segments by their numbers.
        let watermarks = view.indexes.iter().map(|index| index.watermark.segment);
        let next_segment = watermarks
            .chain(listing.segments.iter().copied())
            .max()
            .unwrap_or(0)
            .saturating_add(1);
        let next_batch = listing
            .indexes
            .iter()
            .map(|batches| batches.last)
            .max()
            .map_or(1, |last| last + 1);
        let writer = Writer {
            active: None,
            watermark: Watermark::default(),
            next_segment,
            next_batch,
            _lock: lock,
        };
        let (fresh, unusable) = (listing.indexes.is_empty(), !view.damaged.is_empty());
        let store = Self {
            segments: Segments::new(disk.clone(), &dir),
            view: RwLock::new(Arc::new(view)),
            broken: Mutex::default(),
            refreshing: Mutex::default(),
            writer: Some(Mutex::new(writer)),
            overlay: None,
            disk,
            dir,
            options,
        };
        if fresh && listing.segments.is_empty() {
            // So that a store without any index is known to have lost it.
            let batches = Batches { first: 0, last: 0 };
            let index = store.publish_index(batches, Watermark::default(), || Ok(None))?;
            store.replace_indexes(&[], index);
        } else if fresh || unusable {
            tracing::warn!(dir = %store.dir.display(), "pack indexes are damaged or missing: rebuilding them");
            store.rebuild()?;
        }
        store.clean_up(&list(store.disk.as_ref(), &store.dir)?)?;
        Ok(store)
    }

    /// Opens the store in `dir` for reading, beside a writer in this or another process.
    pub fn open_reader(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        let store = Self::reader(disk, dir.as_ref());
        store.refresh()?;
        Ok(store)
    }

    /// Opens the store in `dir` as a [reader](Self::open_reader) does, with an overlay in memory: what is put is found
    /// again by this one alone, and never reaches the disk. A directory that is not there counts as an empty store.
    /// For those who want to know what a writer would come to.
    pub fn open_overlay(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Self> {
        let mut store = Self::reader(disk, dir.as_ref());
        store.overlay = Some(RwLock::new(HashMap::new()));
        store.refresh()?;
        Ok(store)
    }

    fn reader(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        let dir = dir.to_path_buf();
        Self {
            segments: Segments::new(disk.clone(), &dir),
            view: RwLock::default(),
            broken: Mutex::default(),
            refreshing: Mutex::default(),
            writer: None,
            overlay: None,
            disk,
            dir,
            options: PackOptions::default(),
        }
    }

    /// Lets a reader see the batches published since it last looked; true if there were any. A writer sees its own
    /// batches at once and does nothing here.
    pub fn refresh(&self) -> Result<bool> {
        if self.writer.is_some() {
            return Ok(false);
        }
        let _order = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        for tries in 1.. {
            let known = self.current();
            let listing = match list(self.disk.as_ref(), &self.dir) {
                Err(error) if error.is_not_found() && self.overlay.is_some() => Listing::default(),
                listing => listing?,
            };
            let loaded = known.indexes.len() + known.damaged.len();
            let all_known = listing
                .indexes
                .iter()
                .all(|b| known.indexes.iter().any(|index| index.batches == *b));
            if all_known && loaded == listing.indexes.len() {
                return Ok(false);
            }
            match load(self.disk.as_ref(), &self.dir, &listing, Some(&known)) {
                // The writer merged between our two steps: look again.
                Err(error) if error.is_not_found() && tries < RETRIES_MAX => {}
                Err(error) => return Err(error),
                Ok(view) => {
                    let changed = view.indexes.len() != known.indexes.len()
                        || view
                            .indexes
                            .iter()
                            .zip(&known.indexes)
                            .any(|(new, old)| new.batches != old.batches);
                    self.segments.forget(|number| listing.segments.contains(&number));
                    *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
                    return Ok(changed);
                }
            }
        }
        Ok(false)
    }

    /// Removes replaced indexes and unnamed segments, cuts what a crash left at the end of the last one.
    fn clean_up(&self, listing: &Listing) -> Result<()> {
        let view = self.current();
        let disk = self.disk.as_ref();
        for batches in &listing.indexes {
            if !view.indexes.iter().any(|index| index.batches == *batches) {
                discard(disk, &self.dir.join(batches.file_name()));
            }
        }
        let watermark = view.indexes.first().map(|index| index.watermark).unwrap_or_default();
        let named: BTreeSet<u32> = view
            .indexes
            .iter()
            .flat_map(|index| &index.segments)
            .map(|line| line.segment)
            .collect();
        for number in &listing.segments {
            if *number != watermark.segment && !named.contains(number) {
                discard(disk, &segment_path(&self.dir, *number));
            }
        }
        let mut writer = self.writer()?;
        writer.watermark = watermark;
        if listing.segments.contains(&watermark.segment) {
            writer.active = resume(disk, &self.dir, watermark, self.options.segment_bytes_max)?;
        }
        Ok(())
    }
}

/// Opens the last segment for appending and cuts what was never published. A segment that cannot be continued is left
/// alone: its records still count, new ones go elsewhere.
fn resume(disk: &dyn Disk, dir: &Path, watermark: Watermark, segment_bytes_max: u64) -> Result<Option<Active>> {
    let path = segment_path(dir, watermark.segment);
    let file = disk.open_write(&path)?;
    let len = file.len()?;
    if len > watermark.len {
        file.set_len(watermark.len)?;
        file.sync()?;
    }
    let mut header = [0; SEGMENT_HEADER_SIZE];
    file.read_at(&mut header, 0)?;
    let sound = len >= watermark.len && check_segment_header(&path, &header, watermark.segment).is_ok();
    if !sound {
        tracing::error!(path = %path.display(), "segment is damaged or cut short: new records go into another one");
    }
    let usable = sound && watermark.len < segment_bytes_max;
    Ok(usable.then_some(Active {
        number: watermark.segment,
        file,
        len: watermark.len,
    }))
}

/// The store's files. Foreign names are left alone.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    for item in disk.list(dir)? {
        let Some(name) = item.name.to_str().filter(|_| item.kind == FileKind::File) else {
            continue;
        };
        if let Some(batches) = Batches::parse(name) {
            listing.indexes.push(batches);
        } else if let Some(number) = parse_segment(name) {
            listing.segments.insert(number);
        }
    }
    // Newest first, as lookups need them.
    listing.indexes.sort_by_key(|batches| std::cmp::Reverse(*batches));
    Ok(listing)
}

/// Opens the indexes that count, taking over those that are open already. A damaged index hides no other one.
fn load(disk: &dyn Disk, dir: &Path, listing: &Listing, known: Option<&View>) -> Result<View> {
    let mut view = View::default();
    for batches in &listing.indexes {
        let open = known.and_then(|known| known.indexes.iter().find(|index| index.batches == *batches));
        if let Some(index) = open {
            view.indexes.push(index.clone());
            continue;
        }
        match Index::open(disk, dir, *batches) {
            Ok(index) => view.indexes.push(Arc::new(index)),
            Err(StoreError::Damaged { path, what, .. }) => {
                tracing::error!(path = %path.display(), what, "pack index is damaged");
                view.damaged.push((path, what));
            }
            Err(error) => return Err(error),
        }
    }
    let ranges: Vec<_> = view.indexes.iter().map(|index| index.batches).collect();
    view.indexes
        .retain(|index| !ranges.iter().any(|range| range.covers(&index.batches)));
    Ok(view)
}
