//! Listings, from wherever the last request ended.
//!
//! Inside a snapshot the rows are those of the catalog, and the cursor says which directory and which row, so a request costs what
//! it answers. Outside, where rows come and go, they are in the order of a hash of their names, and the cursor is that: a
//! listing tells each row that stays exactly once.

use super::layout::{Outside, OutsideRow};
use super::{Place, Spot, Tree, failed, number};
use crate::filesystem::{Errno, Found, InodeId, Row, Rows};
use crate::imfs::Shown;

/// Rows before those of a catalog: `.` and `..`.
const DOTS: u64 = 2;

impl Tree {
    pub(crate) fn list(&self, id: InodeId, after: u64, rows: &mut dyn Rows) -> Result<(), Errno> {
        let listed = match self.spot_to_list(id, after)? {
            Spot::Directory(place) => self.list_place(id, &place, after, rows),
            Spot::Outside(outside) => self.list_outside(id, &outside, after, rows),
            Spot::Entry(..) => Err(Errno::NOTDIR),
            Spot::Nothing => Err(Errno::IO),
        };
        self.flush();
        listed
    }

    /// The root of a view is listed to its end as it was at the beginning.
    ///
    /// # Errors
    /// `EINVAL` for a cursor that no listing of the root has given: programs may seek to any number, and see no other
    /// directory by that.
    fn spot_to_list(&self, id: InodeId, after: u64) -> Result<Spot, Errno> {
        let (slot, _) = number::of_cursor(after);
        let Shown::View(repository, _) = &self.options.shown else {
            return self.spot(id);
        };
        if id != InodeId::ROOT || slot == 0 {
            return self.spot(id);
        }
        let place = self.place(slot)?;
        if place.parent.is_some() || place.key.0 != *repository {
            return Err(Errno::INVAL);
        }
        Ok(Spot::Directory(place))
    }

    /// The rows that every directory begins with, and whether there is room for more.
    fn dots(&self, id: InodeId, parent: InodeId, after: u64, slot: u64, rows: &mut dyn Rows) -> Result<bool, Errno> {
        let names: [(&[u8], InodeId); 2] = [(b".", id), (b"..", parent)];
        for (row, (name, inode)) in (1..).zip(names) {
            if row <= after {
                continue;
            }
            let found = self.found_at(inode)?;
            let next = number::cursor(slot, row);
            if !rows.push(&Row { name, next, found }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn list_place(&self, id: InodeId, place: &Place, after: u64, rows: &mut dyn Rows) -> Result<(), Errno> {
        let (_, row) = number::of_cursor(after);
        if !self.dots(id, self.parent_of(place)?, row, place.slot, rows)? {
            return Ok(());
        }
        let first = row.saturating_sub(DOTS);
        let catalog = self.catalog(&place.snapshot);
        for (at, entry) in (first..).zip(catalog.list_from(&place.directory, first)) {
            let entry = entry.map_err(|error| failed(&error))?;
            let mut found = self.found(place, at, &entry.meta)?;
            if id == InodeId::ROOT {
                found.entry_validity = super::ROOT_NAMES;
            }
            let row = Row {
                name: entry.name.as_str().as_bytes(),
                next: number::cursor(place.slot, at + 1 + DOTS),
                found,
            };
            if !rows.push(&row) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn list_outside(&self, id: InodeId, outside: &Outside, after: u64, rows: &mut dyn Rows) -> Result<(), Errno> {
        if !self.dots(id, self.parent_outside(outside), after, 0, rows)? {
            return Ok(());
        }
        let all = self.rows_outside(outside).ok_or(Errno::NOTDIR)?;
        let place = |row: &OutsideRow| number::outside(row.name.as_bytes()).0;
        let mut all: Vec<(u64, OutsideRow)> = all.into_iter().map(|row| (place(&row), row)).collect();
        all.retain(|(place, _)| *place > after);
        all.sort_unstable_by_key(|(place, _)| *place);
        for (next, row) in all {
            let found: Found = match self.found_row(row.is) {
                Ok(found) => found,
                // It went away meanwhile.
                Err(Errno::STALE) => continue,
                Err(error) => return Err(error),
            };
            let name = row.name.as_bytes();
            if !rows.push(&Row { name, next, found }) {
                return Ok(());
            }
        }
        Ok(())
    }
}
