//! `repositories/NAME/withdrawn`: trees that the operator took back, by a rollback or a removal.
//!
//! One line for each, `NODE SNAPSHOT TIME`, NODE being the top catalog node of the tree. A publish that finds such a tree
//! in the source makes nothing of it: what was taken back must not return because a timer went off.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use instantmirror_core::{NodeId, RepoName, SnapshotId, Timestamp};
use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk, read_file, write_atomically};

use super::Master;

/// Most trees that are remembered; of more, the latest.
const TREES_MAX: usize = 1_000;
const LIST_BYTES_MAX: u64 = 1 << 20;

/// Trees that were taken back: of which snapshot, and when.
pub(super) type Withdrawn = BTreeMap<NodeId, (SnapshotId, Timestamp)>;

fn path(repository: &RepoName) -> PathBuf {
    Master::repository_dir(repository).join("withdrawn")
}

/// The list of a repository. A line that is damaged is left out.
pub(super) fn read(disk: &dyn Disk, repository: &RepoName) -> Result<Withdrawn, StoreError> {
    let content = match read_file(disk, &path(repository), LIST_BYTES_MAX) {
        Err(error) if error.is_not_found() => return Ok(Withdrawn::new()),
        content => content?,
    };
    let text = String::from_utf8_lossy(&content);
    let entry = |line: &str| {
        let mut fields = line.split(' ');
        let mut next = || fields.next();
        let (node, id, time) = (next()?, next()?, next()?);
        Some((node.parse().ok()?, (id.parse().ok()?, time.parse().ok()?)))
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// Changes the list of a repository. Durable when it returns.
pub(super) fn change(
    disk: &dyn Disk,
    repository: &RepoName,
    change: impl FnOnce(&mut Withdrawn),
) -> Result<(), StoreError> {
    let held = read(disk, repository)?;
    let mut next = held.clone();
    change(&mut next);
    if next == held {
        return Ok(());
    }
    while next.len() > TREES_MAX {
        let oldest = next.iter().min_by_key(|(_, (_, time))| *time).map(|(node, _)| *node);
        oldest.map(|node| next.remove(&node));
    }
    let mut text = String::new();
    for (node, (id, time)) in &next {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{node} {id} {time}");
    }
    disk.create_dir_all(&Master::repository_dir(repository))?;
    write_atomically(disk, &path(repository), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use instantmirror_store::disk::RealDisk;

    use super::*;

    #[test]
    fn the_list_survives_is_bounded_and_damaged_lines_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let repository: RepoName = "r".parse().unwrap();
        assert_eq!(read(&disk, &repository).unwrap(), Withdrawn::new());
        let tree = |number: i64| {
            let id = SnapshotId::from_random([1; 16]);
            (NodeId::of(&number.to_be_bytes()), (id, Timestamp::from_millis(number)))
        };
        change(&disk, &repository, |list| list.extend((0..1_005).map(tree))).unwrap();
        let held = read(&disk, &repository).unwrap();
        assert_eq!(held.len(), TREES_MAX);
        assert!(!held.contains_key(&tree(4).0) && held.contains_key(&tree(5).0));
        let file = dir.path().join("repositories/r/withdrawn");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen('T', "x", 1)).unwrap();
        assert_eq!(read(&disk, &repository).unwrap().len(), TREES_MAX - 1);
    }
}
