//! [`MemoryReferences`]: the counts of a master that has no directory.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{ReferenceError, References};

/// A table that ends with the process, for a store that has no directory: it lives for as long as this does.
#[derive(Debug)]
pub struct MemoryReferences {
    name: PathBuf,
    /// A connection that is kept open keeps the table.
    _kept: Mutex<References>,
}

impl MemoryReferences {
    /// An empty table.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn new() -> Result<Self, ReferenceError> {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        let number = TABLES.fetch_add(1, Ordering::Relaxed);
        let name = PathBuf::from(format!("file:/instantmirror-{number}?vfs=memdb"));
        let kept = Mutex::new(References::open_file(&name)?);
        Ok(Self { name, _kept: kept })
    }

    /// Opens the table once more, as [`References::open`] does one in a directory.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn open(&self) -> Result<References, ReferenceError> {
        References::open_file(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use instantmirror_core::ObjectId;

    use super::*;

    #[test]
    fn a_table_is_shared_by_those_who_open_it_and_by_no_others() {
        let (table, other) = (MemoryReferences::new().unwrap(), MemoryReferences::new().unwrap());
        let object = ObjectId::of(b"content");
        table.open().unwrap().condemn(&[object]).unwrap();
        assert_eq!(table.open().unwrap().dead_objects(None, 10).unwrap(), [object]);
        assert_eq!(other.open().unwrap().dead_objects(None, 10).unwrap(), []);
    }
}
