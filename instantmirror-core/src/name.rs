//! Names and paths of a published tree. [`Name::new`] and [`RepoPath::new`] are the only ways to make
//! one, and they reject what is hostile instead of normalising it: two spellings of one path never exist.

use std::borrow::Borrow;
use std::fmt;

/// Longest name of a directory entry, in bytes (what Linux file systems allow).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest path, in bytes (PATH_MAX less the final NUL).
pub const PATH_BYTES_MAX: usize = 4095;
/// Most components in a path.
pub const PATH_DEPTH_MAX: usize = 255;
/// Longest symlink target, in bytes (PATH_MAX less the final NUL).
pub const TARGET_BYTES_MAX: usize = 4095;

/// Why a name, path or symlink target was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// An empty name, or a path with a leading, trailing or doubled slash.
    #[error("an empty name (a leading, trailing or doubled slash)")]
    Empty,
    /// `.` or `..`.
    #[error("'.' or '..' as a name")]
    Dots,
    /// A slash inside a name.
    #[error("a slash inside a name")]
    Slash,
    /// A control character, NUL included.
    #[error("a control character")]
    Control,
    /// Bytes that are not UTF-8.
    #[error("bytes that are not UTF-8")]
    NotUtf8,
    /// Longer than the limit of its kind.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// A path with too many components.
    #[error("deeper than {PATH_DEPTH_MAX} directories")]
    TooDeep,
}

/// Checks one name without making it.
pub(crate) fn check_name(bytes: &[u8]) -> Result<&str, NameError> {
    match bytes {
        b"" => return Err(NameError::Empty),
        b"." | b".." => return Err(NameError::Dots),
        _ if bytes.len() > NAME_BYTES_MAX => return Err(NameError::TooLong(NAME_BYTES_MAX)),
        _ => {}
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)?;
    if text.contains('/') {
        return Err(NameError::Slash);
    }
    if text.contains(char::is_control) {
        return Err(NameError::Control);
    }
    Ok(text)
}

/// Checks a symlink target: 1 to [`TARGET_BYTES_MAX`] bytes of UTF-8 without control characters. It may
/// be absolute or lead outside: it is data, and resolved only inside its snapshot.
///
/// # Errors
/// The first rule that the target breaks.
pub fn check_target(bytes: &[u8]) -> Result<&str, NameError> {
    if bytes.is_empty() {
        return Err(NameError::Empty);
    }
    if bytes.len() > TARGET_BYTES_MAX {
        return Err(NameError::TooLong(TARGET_BYTES_MAX));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)?;
    if text.contains(char::is_control) {
        Err(NameError::Control)
    } else {
        Ok(text)
    }
}

/// The name of one directory entry: 1 to 255 bytes of UTF-8 without `/` and control characters, and
/// neither `.` nor `..`. Ordered by its bytes, as catalogs are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Takes a name as it came from a disk, a catalog or a request.
    ///
    /// # Errors
    /// The first rule that the name breaks.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, NameError> {
        check_name(bytes.as_ref()).map(|text| Self(text.into()))
    }

    /// Stands where a name is never read: the separator of a lone leaf.
    pub(crate) fn placeholder() -> Self {
        Self("-".into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A path inside a published tree: valid names joined by `/`, relative, the root being empty.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(String);

impl RepoPath {
    /// The root of the tree.
    pub const ROOT: Self = Self(String::new());

    /// Takes a path in its only spelling: no leading, trailing or doubled slash, no `.` or `..`.
    ///
    /// ```
    /// use instantmirror_core::RepoPath;
    /// assert!(RepoPath::new("pool/main/h/hello.deb").is_ok());
    /// assert!(RepoPath::new("").unwrap().is_root());
    /// for hostile in ["/etc/passwd", "a/../b", "a//b", "a/", "a\0b", "./a"] {
    ///     assert!(RepoPath::new(hostile).is_err());
    /// }
    /// ```
    ///
    /// # Errors
    /// The first rule that the path breaks.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, NameError> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Ok(Self::ROOT);
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(NameError::TooLong(PATH_BYTES_MAX));
        }
        let mut depth = 0;
        for name in bytes.split(|&b| b == b'/') {
            check_name(name)?;
            depth += 1;
        }
        if depth > PATH_DEPTH_MAX {
            return Err(NameError::TooDeep);
        }
        // Every part was UTF-8 and '/' is, so the whole is.
        std::str::from_utf8(bytes)
            .map(|text| Self(text.to_owned()))
            .map_err(|_| NameError::NotUtf8)
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as text, `""` for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// This directory's entry `name`.
    ///
    /// # Errors
    /// [`NameError::TooLong`] or [`NameError::TooDeep`] if the result would be.
    pub fn join(&self, name: &Name) -> Result<Self, NameError> {
        if self.is_root() {
            return Ok(Self(name.as_str().to_owned()));
        }
        if self.0.len() + 1 + name.as_str().len() > PATH_BYTES_MAX {
            return Err(NameError::TooLong(PATH_BYTES_MAX));
        }
        if self.components().count() >= PATH_DEPTH_MAX {
            return Err(NameError::TooDeep);
        }
        Ok(Self(format!("{}/{name}", self.0)))
    }

    /// The directory that holds this entry and the entry's name; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &str)> {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => Some((Self(parent.to_owned()), name)),
            None if self.is_root() => None,
            None => Some((Self::ROOT, &self.0)),
        }
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_rejected_each_for_its_reason() {
        let long = vec![b'a'; 256];
        let cases: [(&[u8], NameError); 12] = [
            (b"", NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"a/b", NameError::Slash),
            (b"/", NameError::Slash),
            (b"a\0", NameError::Control),
            (b"a\nb", NameError::Control),
            (b"\x7f", NameError::Control),
            ("a\u{85}".as_bytes(), NameError::Control),
            (b"\xff", NameError::NotUtf8),
            (b"\xc0\xaf", NameError::NotUtf8),
            (&long, NameError::TooLong(255)),
        ];
        for (bytes, why) in cases {
            assert_eq!(Name::new(bytes), Err(why), "{bytes:?}");
        }
    }

    #[test]
    fn unusual_but_legitimate_names_are_kept_as_they_are() {
        for name in [
            "...",
            "..a",
            " ",
            "100%",
            "%2e%2e",
            "a\\b",
            "#",
            "?",
            "-rf",
            "é",
            &"a".repeat(255),
        ] {
            assert_eq!(Name::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn paths_join_and_split_within_the_limits() {
        let name = Name::new("b").unwrap();
        let path = RepoPath::ROOT
            .join(&Name::new("a").unwrap())
            .unwrap()
            .join(&name)
            .unwrap();
        assert_eq!(path.as_str(), "a/b");
        assert_eq!(path.split_last().unwrap(), (RepoPath::new("a").unwrap(), "b"));
        assert_eq!(RepoPath::ROOT.split_last(), None);
        let deep = RepoPath::new(["d"; PATH_DEPTH_MAX].join("/")).unwrap();
        assert_eq!(deep.join(&name), Err(NameError::TooDeep));
        assert_eq!(
            RepoPath::new(["d"; PATH_DEPTH_MAX + 1].join("/")),
            Err(NameError::TooDeep)
        );
        let wide = RepoPath::new([&*"d".repeat(255); 15].join("/") + "/" + &"e".repeat(254)).unwrap();
        assert_eq!(wide.join(&name), Err(NameError::TooLong(PATH_BYTES_MAX)));
        assert!(RepoPath::new("a".repeat(5000)).is_err());
    }
}
