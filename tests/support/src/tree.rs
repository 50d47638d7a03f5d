//! Trees of files as the world has them, and worse.
//!
//! Copies real files of the machine up to a bound, then plants what breaks mirrors: odd names, sizes at the borders of
//! blocks, links of every kind. The same machine and the same spec give the same tree, byte for byte. Never copies
//! symlinks of the machine (they lead out of the tree), never changes the places it copies from.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

/// Places with many small files; those that a machine lacks are left out.
const REAL_PLACES: &[&str] = &[
    "/usr/share/doc",
    "/usr/include",
    "/usr/share/zoneinfo",
    "/usr/share/perl",
    "/usr/lib/python3",
    "/usr/share/i18n",
    "/usr/share/locale",
];

/// Real files above this size are left out: the planted ones test size.
const REAL_FILE_BYTES_MAX: u64 = 1 << 20;

/// The longest name that Linux file systems take.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest name that wget keeps as it is; it cuts longer ones down.
pub const NAME_BYTES_MAX_WGET: usize = 235;

/// Names that break mirrors, each of a file with its own name as content.
pub const ODD_NAMES: &[&str] = &[
    "with space",
    " leading space",
    "trailing space ",
    "two  spaces",
    "ünïcödé-é",
    "日本語",
    "🦀",
    "e\u{301}-decomposed",
    "100%",
    "a%20b",
    "%2e%2e",
    "%2F",
    "%",
    "%zz",
    "%00",
    "hash#tag",
    "what?",
    "a?b=c&d=e",
    "and&and",
    "semi;colon",
    "colon:colon",
    "plus+plus",
    "equals=",
    "at@at",
    "comma,comma",
    "tilde~",
    "star*",
    "dollar$HOME",
    "back`tick",
    "caret^",
    "pipe|pipe",
    "less<more>",
    "bang!",
    "single'quote",
    "double\"quote",
    "paren(theses)",
    "square[brackets]",
    "curly{brackets}",
    "back\\slash",
    "&amp;",
    "-leading-dash",
    "--double-dash",
    ".leading-dot",
    "..two-dots",
    "...",
    "trailing-dot.",
    "CASE",
    "case",
    "Case",
    "CON",
    "aux.txt",
    "file.html.gz",
];

/// Sizes at the borders of blocks: (name, bytes).
pub const EDGE_SIZES: &[(&str, usize)] = &[
    ("empty", 0),
    ("one-byte", 1),
    ("block-minus-one", (64 << 10) - 1),
    ("block", 64 << 10),
    ("block-plus-one", (64 << 10) + 1),
    ("five-mib", 5 << 20),
];

/// What a tree shall hold.
#[derive(Debug, Clone)]
pub struct TreeSpec {
    real_files_max: usize,
    name_bytes_max: usize,
    has_index_pages: bool,
    has_escapes_in_file_names: bool,
}

/// What a tree holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFacts {
    /// Regular files, each name of a hardlink counted.
    pub files: usize,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Folders below the root.
    pub folders: usize,
    /// Symlinks.
    pub symlinks: usize,
}

impl TreeSpec {
    /// Thousands of real files and everything odd.
    pub fn large() -> Self {
        Self {
            real_files_max: 5000,
            name_bytes_max: NAME_BYTES_MAX,
            has_index_pages: true,
            has_escapes_in_file_names: true,
        }
    }

    /// A few real files and everything odd.
    pub fn small() -> Self {
        Self {
            real_files_max: 200,
            ..Self::large()
        }
    }

    /// Takes at most this many real files.
    #[must_use]
    pub fn real_files_max(mut self, count: usize) -> Self {
        self.real_files_max = count;
        self
    }

    /// Leaves out what wget (seen with 1.21) cannot keep, whatever the server does: it cuts long names, a server shows
    /// it `index.html` in the place of the listing, and it decodes `%20` in the name of a file (not of a folder) twice
    /// when it stores it.
    #[must_use]
    pub fn for_wget(mut self) -> Self {
        self.name_bytes_max = NAME_BYTES_MAX_WGET;
        self.has_index_pages = false;
        self.has_escapes_in_file_names = false;
        self
    }

    /// Makes the tree in `root`, which must not exist or be empty.
    pub fn build(&self, root: &Path) -> Result<TreeFacts> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        if fs::read_dir(root)?.next().is_some() {
            bail!("{} is not empty", root.display());
        }
        self.copy_real_files(&root.join("real"))?;
        self.plant_names(&root.join("names"))?;
        plant_sizes(&root.join("sizes"))?;
        plant_folders(&root.join("folders"))?;
        plant_links(&root.join("links"))?;
        facts(root)
    }

    /// An equal share of every real place, in the order of names.
    fn copy_real_files(&self, to: &Path) -> Result<()> {
        let places: Vec<&Path> = REAL_PLACES
            .iter()
            .map(Path::new)
            .filter(|place| place.is_dir())
            .collect();
        let mut left = self.real_files_max;
        for (index, place) in places.iter().enumerate() {
            let share = left.div_ceil(places.len() - index);
            let label = place
                .strip_prefix("/")
                .unwrap_or(place)
                .as_os_str()
                .to_string_lossy()
                .replace('/', "-");
            left -= self.copy_some(place, &to.join(label), share)?;
        }
        Ok(())
    }

    /// Copies up to `count` files below `from`, and returns how many it was.
    fn copy_some(&self, from: &Path, to: &Path, count: usize) -> Result<usize> {
        let mut copied = 0;
        let mut open = vec![PathBuf::new()];
        while let Some(at) = open.pop() {
            let mut folders = Vec::new();
            for name in sorted_names(&from.join(&at))? {
                let path = at.join(&name);
                // Somebody may be removing a package at this moment: what vanished was never there.
                let Ok(metadata) = fs::symlink_metadata(from.join(&path)) else {
                    continue;
                };
                if metadata.is_dir() {
                    folders.push(path);
                } else if copied < count && metadata.is_file() && self.takes(&name, metadata.len()) {
                    copied += usize::from(copy_file(&from.join(&path), &to.join(&path)).is_ok());
                }
            }
            if copied >= count {
                break;
            }
            open.extend(folders.into_iter().rev());
        }
        Ok(copied)
    }

    fn takes(&self, name: &OsStr, bytes: u64) -> bool {
        let is_index = name.to_string_lossy().to_ascii_lowercase().starts_with("index.htm");
        bytes <= REAL_FILE_BYTES_MAX
            && name.len() <= self.name_bytes_max
            && (self.has_index_pages || !is_index)
            && (self.has_escapes_in_file_names || !holds_escape(name.as_bytes()))
    }

    fn plant_names(&self, folder: &Path) -> Result<()> {
        for name in ODD_NAMES {
            if self.has_escapes_in_file_names || !holds_escape(name.as_bytes()) {
                write_file(&folder.join("files").join(name), name.as_bytes())?;
            }
            write_file(&folder.join("folders").join(name).join("inside"), name.as_bytes())?;
        }
        let long = "n".repeat(self.name_bytes_max);
        write_file(&folder.join(&long), b"long")?;
        let pairs = self.name_bytes_max / "ä".len();
        write_file(&folder.join("ä".repeat(pairs)), b"long, two bytes a letter")?;
        if self.has_index_pages {
            write_file(&folder.join("with-index/index.html"), b"<p>not a listing</p>")?;
            write_file(&folder.join("with-index/beside"), b"beside an index page")?;
        }
        Ok(())
    }
}

/// Where the planted symlinks are, relative to the root: (path, target, whether it leads to something).
pub const SYMLINKS: &[(&str, &str, bool)] = &[
    ("links/to-file", "target/file", true),
    ("links/to-folder", "target/sub", true),
    ("links/to-parent-file", "../sizes/one-byte", true),
    ("links/sub/up", "../target/file", true),
    ("links/chain-1", "chain-2", true),
    ("links/chain-2", "chain-3", true),
    ("links/chain-3", "to-file", true),
    ("links/through-folder", "to-folder/deep", true),
    ("links/odd target", "../names/folders/a%20b/inside", true),
    ("links/dangling", "no/such/file", false),
    ("links/to-itself", "to-itself", false),
    ("links/ring-1", "ring-2", false),
    ("links/ring-2", "ring-1", false),
];

/// Whether a name holds what looks like a percent-encoded byte.
fn holds_escape(name: &[u8]) -> bool {
    name.windows(3)
        .any(|window| matches!(window, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

fn plant_links(folder: &Path) -> Result<()> {
    write_file(&folder.join("target/file"), b"target of symlinks")?;
    write_file(&folder.join("target/sub/deep"), b"deep target")?;
    fs::create_dir_all(folder.join("sub"))?;
    let root = folder.parent().context("the links need a root above them")?;
    for (path, target, _) in SYMLINKS {
        symlink(target, root.join(path)).with_context(|| format!("cannot link {path}"))?;
    }
    write_file(&folder.join("hard-1"), b"one file, three names")?;
    fs::hard_link(folder.join("hard-1"), folder.join("hard-2"))?;
    fs::hard_link(folder.join("hard-1"), folder.join("sub/hard-3"))?;
    Ok(())
}

fn plant_sizes(folder: &Path) -> Result<()> {
    for (name, bytes) in EDGE_SIZES {
        write_file(&folder.join(name), &noise(*bytes))?;
    }
    Ok(())
}

fn plant_folders(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("empty"))?;
    fs::create_dir_all(folder.join("nested/empty/folders"))?;
    let deep: PathBuf = (0..40).map(|level| format!("level-{level}")).collect();
    write_file(&folder.join(deep).join("bottom"), b"deep down")?;
    for number in 0..300 {
        write_file(
            &folder.join("wide").join(format!("file-{number:03}")),
            format!("{number}\n").as_bytes(),
        )?;
    }
    Ok(())
}

/// Bytes that do not compress and are the same every time (xorshift64).
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Writes a file and the folders above it, with a time in the past that says nothing of today.
fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_file(to, &content)
}

/// Real places can change under us and hold folders we may not enter: what cannot be listed is empty.
fn sorted_names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let Ok(listing) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut names: Vec<_> = listing
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .collect();
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

fn facts(root: &Path) -> Result<TreeFacts> {
    let mut facts = TreeFacts {
        files: 0,
        bytes: 0,
        folders: 0,
        symlinks: 0,
    };
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                facts.folders += 1;
                open.push(entry.path());
            } else if metadata.is_symlink() {
                facts.symlinks += 1;
            } else {
                facts.files += 1;
                facts.bytes += metadata.len();
            }
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Comparison;
    use crate::process::TestDir;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_same_spec_gives_the_same_tree() {
        let dir = TestDir::new("tree").unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        assert_eq!(
            TreeSpec::small().build(&a).unwrap(),
            TreeSpec::small().build(&b).unwrap()
        );
        assert!(Comparison::exact().differences(&a, &b).unwrap().is_empty());
    }

    #[test]
    fn a_large_tree_has_thousands_of_files() {
        let dir = TestDir::new("tree").unwrap();
        let facts = TreeSpec::large().build(dir.path()).unwrap();
        assert!(facts.files > 2000, "{facts:?}");
        assert_eq!(facts.symlinks, SYMLINKS.len());
    }

    #[test]
    fn links_are_what_they_say() {
        let dir = TestDir::new("tree").unwrap();
        TreeSpec::small().real_files_max(0).build(dir.path()).unwrap();
        for (path, target, leads_somewhere) in SYMLINKS {
            assert_eq!(fs::read_link(dir.path().join(path)).unwrap(), Path::new(target));
            assert_eq!(fs::metadata(dir.path().join(path)).is_ok(), *leads_somewhere, "{path}");
        }
        assert_eq!(fs::metadata(dir.path().join("links/hard-1")).unwrap().nlink(), 3);
    }

    #[test]
    fn a_folder_with_content_is_refused() {
        let dir = TestDir::new("tree").unwrap();
        fs::write(dir.path().join("mine"), "").unwrap();
        assert!(TreeSpec::small().build(dir.path()).is_err());
    }
}
