//! Holes of sparse files, which are found without reading them.

use std::fs::File;
use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Reads as zeros, and takes no room.
    Hole(Range<u64>),
    /// Has to be read.
    Data(Range<u64>),
}

/// Cuts the first `size` bytes of a file into holes and data. It moves the file's position. Where the file system does not
/// tell, all is data.
pub(crate) struct Parts<'a> {
    /// `None` if there is nothing to find.
    file: Option<&'a File>,
    at: u64,
    size: u64,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(file: Option<&'a File>, size: u64) -> Self {
        // Most files have no hole, which one look tells.
        let is_sparse = |file: &&File| {
            let stat = rustix::fs::fstat(file);
            stat.is_ok_and(|stat| u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size)
        };
        Self {
            file: file.filter(is_sparse),
            at: 0,
            size,
        }
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let (at, size) = (self.at, self.size);
        if at >= size {
            return None;
        }
        let part = match self.file.map(|file| (file, rustix::fs::seek(file, SeekFrom::Data(at)))) {
            Some((_, Ok(data))) if data > at => Part::Hole(at..data.min(size)),
            Some((file, Ok(_))) => {
                let hole = rustix::fs::seek(file, SeekFrom::Hole(at));
                Part::Data(at..hole.ok().filter(|hole| *hole > at).unwrap_or(size).min(size))
            }
            // No data up to the end.
            Some((_, Err(Errno::NXIO))) => Part::Hole(at..size),
            Some((_, Err(_))) | None => Part::Data(at..size),
        };
        let (Part::Hole(range) | Part::Data(range)) = &part;
        self.at = range.end;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn parts(file: &File, size: u64) -> Vec<Part> {
        Parts::of(Some(file), size).collect()
    }

    #[test]
    fn parts_cover_a_file_and_data_is_never_a_hole() {
        let file = tempfile::tempfile().unwrap();
        const MIB: u64 = 1 << 20;
        file.set_len(4 * MIB).unwrap();
        assert_eq!(parts(&file, 0), []);
        file.write_all_at(b"x", MIB + 5).unwrap();
        let found = parts(&file, 4 * MIB);
        let mut at = 0;
        for part in &found {
            let (Part::Hole(range) | Part::Data(range)) = part;
            assert_eq!(range.start, at);
            at = range.end;
            assert!(
                !matches!(part, Part::Hole(hole) if hole.contains(&(MIB + 5))),
                "{found:?}"
            );
        }
        assert_eq!(at, 4 * MIB);
        // Where nothing is known, all is data.
        let unknown: Vec<_> = Parts::of(None, 7).collect();
        assert_eq!(unknown, [Part::Data(0..7)]);
        file.write_all_at(&vec![1; 4 * (1 << 20)], 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(parts(&file, 4 * MIB), [Part::Data(0..4 * MIB)]);
    }
}
