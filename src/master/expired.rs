//! `repositories/NAME/expired`: which snapshots have left the head and still have data, and since when.
//!
//! One line for each, `UUID TIME`. A snapshot stays listed until all that only it referred to is gone, so a clean-up
//! that was cut off is taken up by the next one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use instantmirror_core::{RepoName, SnapshotId, Timestamp};
use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk, read_file, write_atomically};

use super::Master;

/// Longest list, in bytes: far beyond what a head can name.
const LIST_BYTES_MAX: u64 = 64 << 20;

/// Snapshots that have left the head, and when that was noticed.
pub(super) type Expired = BTreeMap<SnapshotId, Timestamp>;

fn path(repository: &RepoName) -> PathBuf {
    Master::repository_dir(repository).join("expired")
}

/// The list of a repository. A line that is damaged is left out: the snapshot is noticed anew, and waits once more.
pub(super) fn read(disk: &dyn Disk, repository: &RepoName) -> Result<Expired, StoreError> {
    let path = path(repository);
    let content = match read_file(disk, &path, LIST_BYTES_MAX) {
        Err(error) if error.is_not_found() => return Ok(Expired::new()),
        content => content?,
    };
    let text = String::from_utf8_lossy(&content);
    let entry = |line: &str| {
        let (id, since) = line.split_once(' ')?;
        Some((id.parse().ok()?, since.parse().ok()?))
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// Replaces the list of a repository. Durable when it returns.
pub(super) fn write(disk: &dyn Disk, repository: &RepoName, expired: &Expired) -> Result<(), StoreError> {
    let mut text = String::new();
    for (id, since) in expired {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id} {since}");
    }
    disk.create_dir_all(&Master::repository_dir(repository))?;
    write_atomically(disk, &path(repository), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use instantmirror_store::disk::RealDisk;

    use super::*;

    #[test]
    fn the_list_survives_and_damaged_lines_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let repository: RepoName = "r".parse().unwrap();
        assert_eq!(read(&disk, &repository).unwrap(), Expired::new());
        let id = |number| SnapshotId::from_random([number; 16]);
        let expired = Expired::from([
            (id(1), Timestamp::from_millis(1)),
            (id(2), Timestamp::from_millis(2_000)),
        ]);
        write(&disk, &repository, &expired).unwrap();
        assert_eq!(read(&disk, &repository).unwrap(), expired);
        let file = dir.path().join("repositories/r/expired");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen('T', "x", 1)).unwrap();
        assert_eq!(read(&disk, &repository).unwrap().len(), 1);
    }
}
