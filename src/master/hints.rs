//! What a publisher says has changed: paths on the command line, lists of paths, file lists of the whole tree.
//!
//! A hint is read strictly (a path that leads out of the tree is refused) and believed in nothing: what it names is
//! looked at.

use std::io::{self, BufRead, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use instantmirror_core::changes::ChangeSet;
use instantmirror_core::filelist::{FileList, FileListError, FileListReader, LINE_BYTES_MAX};
use instantmirror_core::{NameError, RepoPath};

/// What has changed in a source tree, as somebody says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hints {
    /// These paths; of a directory all that is below it.
    Paths(ChangeSet),
    /// Whatever differs from this list of everything that is there.
    List(FileList),
}

/// Why hints were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HintError {
    /// A path that cannot be in the tree.
    #[error("'{path}' is no path of the source tree: {reason} (paths are relative to it, or absolute and inside it)")]
    Path {
        /// What was given.
        path: String,
        /// The rule it breaks.
        reason: NameError,
    },
    /// A file list.
    #[error(transparent)]
    List(#[from] FileListError),
    /// A line that no path is as long as.
    #[error("a line of the list of changed paths is longer than {LINE_BYTES_MAX} bytes")]
    Long,
    /// The list cannot be read.
    #[error("the list of changed paths cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl Hints {
    /// Paths as people and scripts write them: relative to `source`, with or without `./` and a closing slash, or
    /// absolute and inside it.
    ///
    /// # Errors
    /// [`HintError::Path`].
    pub fn of_paths<P: AsRef<Path>>(source: &Path, paths: impl IntoIterator<Item = P>) -> Result<Self, HintError> {
        let mut changes = ChangeSet::default();
        for path in paths {
            changes.insert(&hinted(source, path.as_ref().as_os_str().as_bytes())?);
        }
        Ok(Self::Paths(changes))
    }

    /// A list, in the format it has: a file list as Fedora's mirrors use them, if it begins with a section's name;
    /// else paths, one a line, or with NUL behind each if the first one has.
    ///
    /// # Errors
    /// [`HintError`].
    pub fn read(source: &Path, mut list: impl BufRead) -> Result<Self, HintError> {
        let (first, separator) = first_record(&mut list)?;
        if first.starts_with(b"[") && first.ends_with(b"]") && separator == b'\n' {
            return Ok(Self::List(read_file_list(&first, list)?));
        }
        let mut changes = ChangeSet::default();
        let mut record = Some(first);
        while let Some(path) = record {
            if !path.is_empty() {
                changes.insert(&hinted(source, &path)?);
            }
            record = next_record(&mut list, separator)?;
        }
        Ok(Self::Paths(changes))
    }
}

fn read_file_list(first: &[u8], mut list: impl BufRead) -> Result<FileList, HintError> {
    let mut reader = FileListReader::default();
    reader.line(first)?;
    while let Some(line) = next_record(&mut list, b'\n')? {
        reader.line(&line)?;
    }
    Ok(reader.finish()?)
}

/// The first record, and what separates it from the second.
fn first_record(list: &mut impl BufRead) -> Result<(Vec<u8>, u8), HintError> {
    let mut record = Vec::new();
    for byte in list.by_ref().bytes().take(LINE_BYTES_MAX) {
        match byte? {
            separator @ (0 | b'\n') => return Ok((record, separator)),
            byte => record.push(byte),
        }
    }
    if record.len() == LINE_BYTES_MAX {
        return Err(HintError::Long);
    }
    Ok((record, b'\n'))
}

fn next_record(list: &mut impl BufRead, separator: u8) -> Result<Option<Vec<u8>>, HintError> {
    let mut record = Vec::new();
    let read = list
        .by_ref()
        .take(LINE_BYTES_MAX as u64)
        .read_until(separator, &mut record)?;
    if record.last() == Some(&separator) {
        record.pop();
    } else if read == LINE_BYTES_MAX {
        return Err(HintError::Long);
    }
    Ok((read > 0).then_some(record))
}

/// A path of the tree in whatever way it was written.
fn hinted(source: &Path, path: &[u8]) -> Result<RepoPath, HintError> {
    let source = source.as_os_str().as_bytes();
    let inner = match path.strip_prefix(source.strip_suffix(b"/").unwrap_or(source)) {
        Some(inner) if path.starts_with(b"/") && inner.first().is_none_or(|byte| *byte == b'/') => {
            inner.strip_prefix(b"/").unwrap_or(inner)
        }
        _ => path,
    };
    let mut inner = inner;
    while let Some(shorter) = inner.strip_prefix(b"./") {
        inner = shorter;
    }
    let inner = inner.strip_suffix(b"/").unwrap_or(inner);
    let inner = if inner == b"." { b"" } else { inner };
    RepoPath::new(inner).map_err(|reason| HintError::Path {
        path: String::from_utf8_lossy(path).into_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &[u8]) -> Result<Hints, HintError> {
        Hints::read(Path::new("/srv/tree/"), list)
    }

    fn paths(paths: &[&str]) -> Hints {
        let mut changes = ChangeSet::default();
        paths
            .iter()
            .for_each(|path| changes.insert(&RepoPath::new(path).unwrap()));
        Hints::Paths(changes)
    }

    #[test]
    fn paths_are_taken_as_people_write_them() {
        let written = ["a/b", "./c", "dir/", "/srv/tree/e", "/srv/tree/f/"];
        let hints = Hints::of_paths(Path::new("/srv/tree"), written).unwrap();
        assert_eq!(hints, paths(&["a/b", "c", "dir", "e", "f"]));
        for all in [".", "./", "/srv/tree", "/srv/tree/", ""] {
            assert_eq!(
                Hints::of_paths(Path::new("/srv/tree"), [all]).unwrap(),
                paths(&[""]),
                "{all}"
            );
        }
        for wrong in ["../x", "a/../b", "/srv/treehouse", "/etc/passwd", "a//b", "a/./b"] {
            let refused = Hints::of_paths(Path::new("/srv/tree"), [wrong]);
            assert!(matches!(refused, Err(HintError::Path { .. })), "{wrong}: {refused:?}");
        }
    }

    #[test]
    fn lists_have_lines_or_nul_or_are_file_lists() {
        assert_eq!(read(b"a\nb c\n\n").unwrap(), paths(&["a", "b c"]));
        assert_eq!(read(b"a\nb").unwrap(), paths(&["a", "b"]));
        assert_eq!(
            read(b"a\0b\nc\0").err().map(|error| error.to_string().contains("b\nc")),
            Some(true)
        );
        assert_eq!(read(b"a\0b\0").unwrap(), paths(&["a", "b"]));
        assert_eq!(read(b"").unwrap(), paths(&[]));
        let list = read(b"[Version]\n2\n\n[Files]\n1\tf\t2\ta\n\n[End]\n").unwrap();
        assert!(matches!(list, Hints::List(list) if list.directory(&RepoPath::ROOT).len() == 1));
        assert!(matches!(
            read(b"[Files]\n"),
            Err(HintError::List(FileListError::Truncated))
        ));
    }

    #[test]
    fn endless_lines_are_refused() {
        assert!(matches!(read(&vec![b'a'; LINE_BYTES_MAX + 1]), Err(HintError::Long)));
        let second = [b"a\n".as_slice(), &vec![b'a'; LINE_BYTES_MAX + 1]].concat();
        assert!(matches!(read(&second), Err(HintError::Long)));
    }
}
