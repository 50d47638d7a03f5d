//! File lists as Fedora's mirrors use them (`fullfiletimelist-MODULE`): time, type, size and path of everything in a
//! tree. Read here to find out what has changed; `imserver export` writes them.
//!
//! Lines of the section `[Files]` have four fields with tabs between them: the later of mtime and ctime in whole
//! seconds; `f`, `d` or `l`, to which a second character may be added that says who may read it; bytes; the path.

use std::collections::BTreeMap;

use crate::{Name, RepoPath};

/// Longest line, in bytes: three numbers, tabs and the longest path.
pub const LINE_BYTES_MAX: usize = 8192;

/// Why a file list was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileListError {
    /// A line of the section `[Files]` is none.
    #[error("line {line} of the file list has no time, type, size and path with tabs between them")]
    Line {
        /// Its number, from 1.
        line: u64,
    },
    /// The list does not end as lists do.
    #[error("the file list has no [Files] and [End]: it was cut off, make it again")]
    Truncated,
}

/// What a listed path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListedKind {
    /// `f`
    File,
    /// `d`
    Directory,
    /// `l`
    Symlink,
}

/// One path of a list, without its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: ListedKind,
    /// Bytes.
    pub size: u64,
    /// The later of mtime and ctime, in seconds since 1970.
    pub time: i64,
}

/// A whole list, by directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileList {
    directories: BTreeMap<RepoPath, Vec<Listed>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Other,
    Files,
    End,
}

/// Takes a list in, line by line.
///
/// ```
/// use instantmirror_core::RepoPath;
/// use instantmirror_core::filelist::FileListReader;
/// let mut reader = FileListReader::default();
/// for line in ["[Version]", "2", "", "[Files]", "1767700953\tf\t282\tlinux/README", "", "[End]"] {
///     reader.line(line.as_bytes())?;
/// }
/// let list = reader.finish()?;
/// assert_eq!(list.directory(&RepoPath::new("linux").unwrap())[0].size, 282);
/// # Ok::<(), instantmirror_core::filelist::FileListError>(())
/// ```
#[derive(Debug, Clone)]
pub struct FileListReader {
    list: FileList,
    section: Section,
    seen_files: bool,
    lines: u64,
}

impl Default for FileListReader {
    fn default() -> Self {
        Self {
            list: FileList::default(),
            section: Section::Other,
            seen_files: false,
            lines: 0,
        }
    }
}

impl FileListReader {
    /// The next line, without its line feed. Paths that no snapshot can hold are passed over, as are sections that
    /// are not known here.
    ///
    /// # Errors
    /// [`FileListError::Line`].
    pub fn line(&mut self, line: &[u8]) -> Result<(), FileListError> {
        self.lines += 1;
        match line {
            b"[Files]" => (self.section, self.seen_files) = (Section::Files, true),
            b"[End]" => self.section = Section::End,
            [b'[', .., b']'] => self.section = Section::Other,
            b"" => {}
            line if self.section == Section::Files => {
                let fields = parse(line).ok_or(FileListError::Line { line: self.lines })?;
                if let Some((directory, listed)) = placed(&fields) {
                    self.list.directories.entry(directory).or_default().push(listed);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The list, when all lines are in.
    ///
    /// # Errors
    /// [`FileListError::Truncated`].
    pub fn finish(mut self) -> Result<FileList, FileListError> {
        if !self.seen_files || self.section != Section::End {
            return Err(FileListError::Truncated);
        }
        for names in self.list.directories.values_mut() {
            names.sort_by(|a, b| a.name.cmp(&b.name));
            names.dedup_by(|a, b| a.name == b.name);
        }
        Ok(self.list)
    }
}

impl FileList {
    /// What the list has directly in a directory, in order of name.
    #[must_use]
    pub fn directory(&self, path: &RepoPath) -> &[Listed] {
        self.directories.get(path).map_or(&[], Vec::as_slice)
    }
}

/// A line.
struct Fields<'a> {
    path: &'a [u8],
    kind: ListedKind,
    size: u64,
    time: i64,
}

fn parse(line: &[u8]) -> Option<Fields<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b'\t');
    let mut field = || fields.next();
    let time = std::str::from_utf8(field()?).ok()?;
    // Some writers keep the fraction.
    let time = time.split('.').next()?.parse().ok()?;
    let kind = match field()?.first()? {
        b'f' => ListedKind::File,
        b'd' => ListedKind::Directory,
        b'l' => ListedKind::Symlink,
        _ => return None,
    };
    let size = std::str::from_utf8(field()?).ok()?.parse().ok()?;
    let path = field()?;
    Some(Fields { path, kind, size, time })
}

fn placed(fields: &Fields<'_>) -> Option<(RepoPath, Listed)> {
    let &Fields { path, kind, size, time } = fields;
    let path = RepoPath::new(path.strip_prefix(b"./").unwrap_or(path)).ok()?;
    let (directory, name) = path.split_last()?;
    let name = Name::new(name).ok()?;
    let listed = Listed { name, kind, size, time };
    Some((directory, listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FileList, FileListError> {
        let mut reader = FileListReader::default();
        text.lines().try_for_each(|line| reader.line(line.as_bytes()))?;
        reader.finish()
    }

    #[test]
    fn lists_are_read_by_directory() {
        let list = read(
            "[Version]\n\n[Files]\n1\tf\t282\tb with space\n2.75\td-\t4096\ta\n3\tl\t7\ta/link\n4\tf*\t0\t../hostile\n\n\
             [Checksums SHA1]\nabc  a\n\n[End]\n",
        )
        .unwrap();
        let names: Vec<_> = list
            .directory(&RepoPath::ROOT)
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b with space"]);
        let link = &list.directory(&RepoPath::new("a").unwrap())[0];
        assert_eq!((link.kind, link.size, link.time), (ListedKind::Symlink, 7, 3));
    }

    #[test]
    fn what_is_no_list_or_was_cut_off_is_refused() {
        assert_eq!(read("[Files]\n1\tf\t2\ta\n"), Err(FileListError::Truncated));
        assert_eq!(read("[Version]\n[End]\n"), Err(FileListError::Truncated));
        for line in ["1 f 2 a", "x\tf\t2\ta", "1\tq\t2\ta", "1\tf\t-2\ta", "1\tf\t2"] {
            assert_eq!(
                read(&format!("[Files]\n{line}\n[End]")),
                Err(FileListError::Line { line: 2 }),
                "{line}"
            );
        }
    }
}
