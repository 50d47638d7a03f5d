//! Rules about paths, as operators write them: globs like those of `.gitignore`.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::RepoPath;

/// A list of globs that is asked about paths.
///
/// A glob without a slash (but at its end) is about names at any depth, one with a slash about paths from the top of
/// the tree. `*` and `?` stop at slashes, `**` does not. What matches a directory matches all below it; a slash at
/// the end asks for a directory.
///
/// ```
/// use instantmirror_core::RepoPath;
/// use instantmirror_core::rules::PathGlobs;
///
/// let globs = PathGlobs::new(["*.iso", "/images/", "pool/*/debug"])?;
/// let matches = |path: &str| globs.matches(&RepoPath::new(path).unwrap());
/// assert!(matches("a/b/c.iso") && matches("images/x/y") && matches("pool/main/debug/z"));
/// assert!(!matches("old/images/x") && !matches("pool/a/b/debug") && !matches("images"));
/// # Ok::<(), instantmirror_core::rules::GlobError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PathGlobs {
    set: GlobSet,
    /// Directories that a glob with a slash at its end names.
    directories: GlobSet,
    texts: Vec<String>,
}

/// A glob that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{glob}' is not a glob: {reason}")]
pub struct GlobError {
    /// As it was written.
    pub glob: String,
    /// What is wrong with it.
    pub reason: String,
}

impl PathGlobs {
    /// Reads globs.
    ///
    /// # Errors
    /// [`GlobError`] for the first that is none.
    pub fn new<T: Into<String>>(globs: impl IntoIterator<Item = T>) -> Result<Self, GlobError> {
        let (mut all, mut directories) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let mut texts = Vec::new();
        for text in globs {
            let text: String = text.into();
            let glob = |pattern: &str| {
                let mut glob = GlobBuilder::new(pattern);
                let glob = glob.literal_separator(true).backslash_escape(true).build();
                glob.map_err(|error| refused(&text, error.kind()))
            };
            let (itself, is_directory) = pattern(&text)?;
            all.add(glob(&format!("{itself}/**"))?);
            let own = if is_directory { &mut directories } else { &mut all };
            own.add(glob(&itself)?);
            texts.push(text);
        }
        let built = |builder: GlobSetBuilder| builder.build().map_err(|error| refused("", error.kind()));
        let (set, directories) = (built(all)?, built(directories)?);
        Ok(Self {
            set,
            directories,
            texts,
        })
    }

    /// Of nothing.
    #[must_use]
    pub fn none() -> Self {
        Self {
            set: GlobSet::empty(),
            directories: GlobSet::empty(),
            texts: Vec::new(),
        }
    }

    /// Whether one of them matches a path, or a directory above it.
    #[must_use]
    pub fn matches(&self, path: &RepoPath) -> bool {
        self.set.is_match(path.as_str())
    }

    /// The same for an entry whose kind is known, of whatever name: a directory also matches the globs with a slash at
    /// their end that name it.
    ///
    /// ```
    /// use instantmirror_core::rules::PathGlobs;
    ///
    /// let globs = PathGlobs::new(["lost+found/", "*.tmp"])?;
    /// assert!(globs.matches_entry("a/lost+found", true) && !globs.matches_entry("a/lost+found", false));
    /// # Ok::<(), instantmirror_core::rules::GlobError>(())
    /// ```
    #[must_use]
    pub fn matches_entry(&self, path: impl AsRef<Path>, is_directory: bool) -> bool {
        let path = path.as_ref();
        self.set.is_match(path) || is_directory && self.directories.is_match(path)
    }

    /// Without any glob nothing matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// As they were written.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

/// The same as they were written: what they match follows from that.
impl PartialEq for PathGlobs {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for PathGlobs {}

impl Default for PathGlobs {
    fn default() -> Self {
        Self::none()
    }
}

fn refused(glob: &str, reason: &impl ToString) -> GlobError {
    GlobError {
        glob: glob.to_owned(),
        reason: reason.to_string(),
    }
}

/// What a glob means in full, and whether it is about directories alone.
fn pattern(text: &str) -> Result<(String, bool), GlobError> {
    if text.starts_with('!') {
        let reason = "nothing is taken out again by a '!'; write \\! for a name that begins so";
        return Err(refused(text, &reason));
    }
    let (inner, is_directory) = match text.strip_suffix('/') {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let anchored = inner.strip_prefix('/');
    let body = anchored.unwrap_or(inner);
    if body.is_empty() || body.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(refused(text, &"it names no path below the top of the tree"));
    }
    let full = if anchored.is_none() && !body.contains('/') {
        format!("**/{body}")
    } else {
        body.to_owned()
    };
    Ok((full, is_directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_mean_what_gitignore_means() {
        let cases = [
            ("*.iso", "a.iso", true),
            ("*.iso", "x/y/a.iso", true),
            ("*.iso", "x.iso/y", true),
            ("*.iso", "a.iso.sha", false),
            ("debug", "a/debug/b", true),
            ("debug", "a/debugger", false),
            ("/debug", "debug/x", true),
            ("/debug", "a/debug", false),
            ("a/*.deb", "a/x.deb", true),
            ("a/*.deb", "a/b/x.deb", false),
            ("a/**/x", "a/b/c/x", true),
            ("a/**/x", "a/x", true),
            ("pool/", "pool/x", true),
            ("pool/", "deep/pool/x", true),
            ("pool/", "pool", false),
            ("[ab].rpm", "c/b.rpm", true),
            ("*.{xz,zst}", "a.zst", true),
            ("\\*", "*", true),
            ("\\!x", "!x", true),
            ("\\*", "a", false),
            ("**", "a/b", true),
        ];
        for (glob, path, expected) in cases {
            let globs = PathGlobs::new([glob]).unwrap();
            assert_eq!(globs.matches(&RepoPath::new(path).unwrap()), expected, "{glob} {path}");
        }
        assert!(!PathGlobs::none().matches(&RepoPath::new("a").unwrap()));
    }

    #[test]
    fn a_slash_at_the_end_names_directories_and_what_is_below_them() {
        let globs = PathGlobs::new(["debug/", "/top/", "a/*/"]).unwrap();
        for (path, is_directory, expected) in [
            ("x/debug", true, true),
            ("x/debug", false, false),
            ("x/debug/y", false, true),
            ("top", true, true),
            ("x/top", true, false),
            ("a/b", true, true),
            ("a", true, false),
        ] {
            assert_eq!(globs.matches_entry(path, is_directory), expected, "{path}");
        }
        // Names that are not UTF-8 match as well.
        use std::os::unix::ffi::OsStrExt as _;
        let odd = std::ffi::OsStr::from_bytes(b"dir/\xff.tmp");
        assert!(PathGlobs::new(["*.tmp"]).unwrap().matches_entry(odd, false));
    }

    #[test]
    fn what_is_no_glob_is_named() {
        for glob in ["", "/", "a//b", "../x", "./x", "[a", "{a", "!a"] {
            let error = PathGlobs::new(["fine", glob]).unwrap_err();
            assert_eq!(error.glob, glob);
        }
    }
}
