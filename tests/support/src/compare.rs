//! Comparing two trees byte for byte.
//!
//! Never stops at the first difference and never changes a tree. Differences come as sentences in the order of paths.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, FileType, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What counts as equal.
pub struct Comparison {
    follows_symlinks: bool,
    skips: Box<dyn Fn(&Path) -> bool>,
}

impl Comparison {
    /// Names, kinds, sizes, contents and symlink targets must be the same.
    pub fn exact() -> Self {
        Self {
            follows_symlinks: false,
            skips: Box::new(|_| false),
        }
    }

    /// As a client of HTTP sees it: a symlink counts as what it leads to, and one that leads nowhere as absent.
    pub fn symlinks_followed() -> Self {
        Self {
            follows_symlinks: true,
            ..Self::exact()
        }
    }

    /// Leaves out paths (relative to the roots) for which `skips` holds, with all below them.
    #[must_use]
    pub fn skipping(mut self, skips: impl Fn(&Path) -> bool + 'static) -> Self {
        self.skips = Box::new(skips);
        self
    }

    /// All differences of `found` from `expected`; empty when they are equal.
    pub fn differences(&self, expected: &Path, found: &Path) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        self.folder(expected, found, Path::new(""), &mut differences)?;
        Ok(differences)
    }

    fn folder(&self, expected: &Path, found: &Path, at: &Path, differences: &mut Vec<String>) -> Result<()> {
        let expected_entries = self.entries(&expected.join(at), at)?;
        let found_entries = self.entries(&found.join(at), at)?;
        for name in found_entries
            .keys()
            .filter(|name| !expected_entries.contains_key(*name))
        {
            differences.push(format!("{}: not expected", shown(&at.join(name))));
        }
        for (name, metadata) in &expected_entries {
            let path = at.join(name);
            match found_entries.get(name) {
                None => differences.push(format!("{}: missing", shown(&path))),
                Some(other) => self.entry(expected, found, &path, (metadata, other), differences)?,
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        expected: &Path,
        found: &Path,
        path: &Path,
        (metadata, other): (&Metadata, &Metadata),
        differences: &mut Vec<String>,
    ) -> Result<()> {
        let (kind, other_kind) = (kind(metadata.file_type()), kind(other.file_type()));
        if kind != other_kind {
            differences.push(format!("{}: {other_kind} instead of {kind}", shown(path)));
        } else if metadata.is_dir() {
            self.folder(expected, found, path, differences)?;
        } else if metadata.is_symlink() {
            let (target, other) = (fs::read_link(expected.join(path))?, fs::read_link(found.join(path))?);
            if target != other {
                differences.push(format!(
                    "{}: leads to {} instead of {}",
                    shown(path),
                    shown(&other),
                    shown(&target)
                ));
            }
        } else if metadata.len() != other.len() {
            differences.push(format!(
                "{}: {} bytes instead of {}",
                shown(path),
                other.len(),
                metadata.len()
            ));
        } else if metadata.is_file()
            && let Some(offset) = first_difference(&expected.join(path), &found.join(path))?
        {
            differences.push(format!("{}: differs from byte {offset} on", shown(path)));
        }
        Ok(())
    }

    /// The entries of one folder that count, by name.
    fn entries(&self, folder: &Path, at: &Path) -> Result<BTreeMap<OsString, Metadata>> {
        let mut entries = BTreeMap::new();
        let listing = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in listing {
            let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
            if (self.skips)(&at.join(entry.file_name())) {
                continue;
            }
            let mut metadata = entry.metadata()?;
            if self.follows_symlinks && metadata.is_symlink() {
                match fs::metadata(entry.path()) {
                    Ok(target) => metadata = target,
                    Err(_) => continue,
                }
            }
            entries.insert(entry.file_name(), metadata);
        }
        Ok(entries)
    }
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison")
            .field("follows_symlinks", &self.follows_symlinks)
            .finish_non_exhaustive()
    }
}

/// Every file (or symlink to a file) below `root`, relative to it, in the order of paths.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(at) = open.pop() {
        let folder = root.join(&at);
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = at.join(entry?.file_name());
            match fs::metadata(root.join(&path)) {
                Ok(metadata) if metadata.is_dir() => open.push(path),
                Ok(_) => found.push(path),
                Err(_) => {} // A symlink that leads nowhere.
            }
        }
    }
    found.sort();
    Ok(found)
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a folder"
    } else if file_type.is_file() {
        "a file"
    } else if file_type.is_symlink() {
        "a symlink"
    } else {
        "something else"
    }
}

/// Names may hold anything: shown so that a terminal and a reader survive them.
fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

/// Where two files of the same size first differ.
fn first_difference(one: &Path, two: &Path) -> Result<Option<u64>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let (mut one, mut two) = (open(one)?, open(two)?);
    let mut offset = 0_u64;
    loop {
        let (left, right) = (block(&mut one)?, block(&mut two)?);
        if left != right {
            let same = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
            return Ok(Some(offset + u64::try_from(same)?));
        }
        if left.is_empty() {
            return Ok(None);
        }
        offset += u64::try_from(left.len())?;
    }
}

fn block(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.by_ref().take(1 << 16).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::TestDir;
    use std::os::unix::fs::symlink;

    /// Two equal small trees.
    fn pair() -> (TestDir, PathBuf, PathBuf) {
        let dir = TestDir::new("compare").unwrap();
        let (a, b) = (dir.folder("a").unwrap(), dir.folder("b").unwrap());
        for root in [&a, &b] {
            fs::create_dir_all(root.join("sub/empty")).unwrap();
            fs::write(root.join("sub/file"), vec![7; 70_000]).unwrap();
            symlink("sub/file", root.join("link")).unwrap();
        }
        (dir, a, b)
    }

    #[test]
    fn equal_trees_have_no_differences() {
        let (_dir, a, b) = pair();
        assert!(Comparison::exact().differences(&a, &b).unwrap().is_empty());
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let (_dir, a, b) = pair();
        let mut bytes = vec![7; 70_000];
        bytes[66_000] = 8;
        fs::write(b.join("sub/file"), bytes).unwrap();
        fs::write(a.join("short"), "abc").unwrap();
        fs::write(b.join("short"), "ab").unwrap();
        fs::remove_file(b.join("link")).unwrap();
        symlink("elsewhere", b.join("link")).unwrap();
        fs::remove_dir(b.join("sub/empty")).unwrap();
        fs::write(b.join("sub/empty"), "").unwrap();
        fs::write(b.join("extra"), "").unwrap();
        fs::write(a.join("gone"), "").unwrap();
        assert_eq!(
            Comparison::exact().differences(&a, &b).unwrap(),
            [
                "extra: not expected",
                "gone: missing",
                "link: leads to elsewhere instead of sub/file",
                "short: 2 bytes instead of 3",
                "sub/empty: a file instead of a folder",
                "sub/file: differs from byte 66000 on",
            ]
        );
    }

    #[test]
    fn a_followed_symlink_equals_a_copy_and_a_dangling_one_nothing() {
        let (_dir, a, b) = pair();
        fs::remove_file(b.join("link")).unwrap();
        fs::copy(b.join("sub/file"), b.join("link")).unwrap();
        symlink("nowhere", a.join("dangling")).unwrap();
        assert!(Comparison::symlinks_followed().differences(&a, &b).unwrap().is_empty());
        assert_eq!(Comparison::exact().differences(&a, &b).unwrap().len(), 2);
    }

    #[test]
    fn skipped_paths_do_not_count() {
        let (_dir, a, b) = pair();
        fs::remove_dir_all(b.join("sub")).unwrap();
        let comparison = Comparison::exact().skipping(|path| path == Path::new("sub"));
        assert!(comparison.differences(&a, &b).unwrap().is_empty());
    }

    #[test]
    fn files_follow_symlinks_and_leave_out_dangling_ones() {
        let (_dir, a, _b) = pair();
        symlink("nowhere", a.join("dangling")).unwrap();
        assert_eq!(files(&a).unwrap(), [PathBuf::from("link"), PathBuf::from("sub/file")]);
    }
}
