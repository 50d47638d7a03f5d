//! The mount table of the kernel, `/proc/self/mountinfo`: reading it asks no file system anything, so it never blocks on a dead
//! one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where the kernel shows it.
const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The device number, major and minor: `0:MINOR` of file systems without a disk.
    pub(super) device: (u32, u32),
    /// The type of the file system, such as `fuse.imfs`.
    pub(super) kind: String,
}

/// The mount that came last, and so is on top, at this path, which has to be without symlinks.
pub(super) fn top(mountpoint: &Path) -> io::Result<Option<Row>> {
    Ok(find(&std::fs::read(TABLE)?, mountpoint))
}

fn find(table: &[u8], mountpoint: &Path) -> Option<Row> {
    let mut rows = table.split(|byte| *byte == b'\n').filter_map(row);
    rows.rfind(|(at, _)| at == mountpoint).map(|(_, row)| row)
}

/// `36 35 98:0 /root /at rw,noatime master:1 - ext3 /dev/root rw`, with any number of fields before the dash.
fn row(line: &[u8]) -> Option<(PathBuf, Row)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let at = unescape(fields.nth(1)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let row = Row {
        device: (major.parse().ok()?, minor.parse().ok()?),
        kind: String::from_utf8_lossy(kind).into_owned(),
    };
    Some((at, row))
}

/// Space, tab, line feed and backslash are three octal digits behind a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 25 0:41 / /srv/a\\040b ro,nosuid shared:3 master:1 - fuse.imfs debian ro,user_id=0\n\
        31 25 0:42 / /srv/x rw - tmpfs none rw\n\
        32 31 0:43 / /srv/x ro - fuse.imfs debian ro\n\
        a broken line\n";

    #[test]
    fn the_last_row_of_a_path_is_on_top() {
        let row = |minor, kind: &str| {
            Some(Row {
                device: (0, minor),
                kind: kind.to_owned(),
            })
        };
        let find = |path: &str| find(TEXT.as_bytes(), Path::new(path));
        assert_eq!(find("/srv/x"), row(43, "fuse.imfs"));
        assert_eq!(find("/srv/a b"), row(41, "fuse.imfs"));
        assert_eq!(find("/srv/a"), None);
    }

    #[test]
    fn escapes_are_undone_and_nothing_else() {
        for (field, path) in [("a\\134b", "a\\b"), ("\\011", "\t"), ("\\9", "\\9"), ("a\\", "a\\")] {
            assert_eq!(unescape(field.as_bytes()), Path::new(path));
        }
    }

    #[test]
    fn the_root_is_in_the_table_of_this_process() {
        assert!(top(Path::new("/proc")).unwrap().is_some_and(|row| row.kind == "proc"));
    }
}
