//! Memory maps of files: the only `unsafe` code of this crate.
//!
//! It maps files read-only and hands them out as [`Bytes`] that own the map. It never maps a file that this crate
//! changes in place: segments are only appended to, everything else is published by rename.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use bytes::Bytes;

/// Maps the first `len` bytes of `file`; an empty range gives empty bytes.
pub(super) fn map_file(file: &File, len: u64) -> io::Result<Bytes> {
    let size = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if size == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a map is undefined behaviour only when the mapped bytes change while a reference to them lives. `Disk`'s
    // contract (`DiskFile::map`) makes every caller promise that the mapped part is never changed: this crate maps
    // published files, which it only removes, and the published part of segments, which it only appends to. All of it
    // lies in directories that only the owner's account can write and that are held by a lock file. Another program
    // of that account that cuts a file under us would give SIGBUS; no map in any language is proof against that.
    let map = unsafe { memmap2::MmapOptions::new().len(size).map(file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn map_outlives_the_removed_file_and_empty_files_map() -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        assert!(map_file(file.as_file(), 0)?.is_empty());
        file.write_all(b"hello map")?;
        let bytes = map_file(file.as_file(), 9)?.slice(6..);
        file.close()?;
        assert_eq!(&bytes[..], b"map");
        Ok(())
    }
}
