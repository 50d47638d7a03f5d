//! Cuts a tree into torrents that clients cope with, along its directories.
//!
//! Invariant: what goes into a shard depends on nothing but what is in it and in the directories above it that were too
//! large: a directory that fits is never cut, and the entries of one that does not fit are halved at a bit of their names
//! until each part fits. So a change makes other torrents of the parts it lies in, and of no other.
//!
//! ```
//! # use instantmirror_core::catalog::{Catalog, build_directory};
//! # use instantmirror_core::memory::MemoryStore;
//! # use instantmirror_core::{Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoPath};
//! use instantmirror_core::metainfo::{Limits, shards};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = MemoryStore::new();
//! # let files: Vec<Entry> = ["a", "b", "y", "z"].into_iter().map(|name| {
//! #     let file = FileMeta { size: 9, object: ObjectId::of(name.as_bytes()), first_piece: 0, link_group: None };
//! #     Ok(Entry { name: Name::new(name)?, meta: Meta { mode: 0, mtime: 0, kind: Kind::File(file) } })
//! # }).collect::<Result<_, instantmirror_core::NameError>>()?;
//! # let root = build_directory(&files, &mut |node| store.insert_node(node))?;
//! # let catalog = Catalog::new(&store, Meta { mode: 0, mtime: 0, kind: Kind::Directory(root) });
//! let mut limits = Limits::default();
//! limits.files = 4; // two files, each with a pad
//! let plan = shards::plan(&catalog, &RepoPath::ROOT, 1 << 20, &limits)?;
//! let labels: Vec<_> = plan.shards.iter().map(|shard| shard.label.as_str()).collect();
//! assert_eq!(labels, ["+a", "+y"]);
//! # Ok(())
//! # }
//! ```

use crate::catalog::{Catalog, CatalogError, NodeSource};
use crate::metainfo::{Limits, MetainfoError, SHA1_BYTES};
use crate::{Directory, FileMeta, Kind, Name, NameError, RepoPath};

/// Bytes of an info dictionary beside its files and pieces, at most: keys, numbers and the name.
const FIXED_BYTES: u64 = 400;
/// Bytes of a file's entry in an info dictionary beside its path and size, at most.
const ENTRY_BYTES: u64 = 48;
/// Bytes of the length in front of a path component, with its colon, at most.
const COMPONENT_BYTES: u64 = 4;
/// Bytes of a pad file's entry, at most.
const PAD_BYTES: u64 = 80;

/// Why a tree cannot be cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A path that no catalog should hold.
    #[error("a path of the catalog has {0}")]
    Name(#[from] NameError),
    /// There is nothing at the path.
    #[error("there is no '/{0}' in the snapshot, or it is a symlink")]
    NotFound(RepoPath),
    /// One file by itself is too large.
    #[error("'/{path}' alone is too large for a torrent: {why}")]
    File {
        /// The file.
        path: RepoPath,
        /// Which limit it breaks.
        why: MetainfoError,
    },
}

/// One torrent to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// What it is called among the shards of its tree: `pool-main-a` for a directory, `pool-main+ab` for those entries of
    /// `pool/main` from `ab` on, empty for the whole tree.
    pub label: String,
    /// Files and directories of the tree, each with all that is in it, in order.
    pub roots: Vec<RepoPath>,
}

/// How a tree is cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The torrents, in order of what they hold.
    pub shards: Vec<Shard>,
    /// Symlinks, which torrents leave out.
    pub symlinks: u64,
    /// Empty files that are left out, since a torrent of empty files alone is none.
    pub empty_files: u64,
}

/// What something adds to a torrent.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    files: u64,
    pieces: u64,
    bytes: u64,
    content_bytes: u64,
}

impl Cost {
    fn of(file: &FileMeta, path_bytes: u64, piece_bytes: u64) -> Self {
        let pieces = file.size.div_ceil(piece_bytes);
        let pads = u64::from(!file.size.is_multiple_of(piece_bytes));
        Self {
            files: 1 + pads,
            pieces,
            bytes: pieces * SHA1_BYTES as u64 + path_bytes + ENTRY_BYTES + pads * PAD_BYTES,
            content_bytes: file.size,
        }
    }

    fn and(self, other: &Self) -> Self {
        Self {
            files: self.files + other.files,
            pieces: self.pieces + other.pieces,
            bytes: self.bytes + other.bytes,
            content_bytes: self.content_bytes + other.content_bytes,
        }
    }

    fn check(&self, limits: &Limits) -> Result<(), MetainfoError> {
        limits.check(self.files, self.pieces, self.bytes)
    }
}

/// Cuts what lies at `root` into torrents within `limits`. Memory is that of the entries of directories that do not fit.
///
/// # Errors
/// [`ShardError`].
pub fn plan<S: NodeSource>(
    catalog: &Catalog<S>,
    root: &RepoPath,
    piece_bytes: u64,
    limits: &Limits,
) -> Result<Plan, ShardError> {
    let limits = Limits {
        bytes: limits.bytes.saturating_sub(FIXED_BYTES),
        ..*limits
    };
    let mut cutter = Cutter {
        catalog,
        root,
        piece_bytes,
        limits,
        plan: Plan::default(),
    };
    let meta = catalog.lookup(root)?;
    let outcome = match meta.map(|meta| meta.kind) {
        Some(Kind::File(file)) => cutter.file(root, &file)?,
        Some(Kind::Directory(directory)) => cutter.directory(root, &directory, 0)?,
        Some(Kind::Symlink(_)) | None => return Err(ShardError::NotFound(root.clone())),
    };
    if let Some(cost) = outcome {
        cutter.push(String::new(), vec![root.clone()], &cost);
    }
    Ok(cutter.plan)
}

struct Cutter<'a, S> {
    catalog: &'a Catalog<S>,
    root: &'a RepoPath,
    piece_bytes: u64,
    limits: Limits,
    plan: Plan,
}

impl<S: NodeSource> Cutter<'_, S> {
    /// What a directory costs if it fits; if it does not, its shards are in the plan.
    fn directory(&mut self, path: &RepoPath, directory: &Directory, above: u64) -> Result<Option<Cost>, ShardError> {
        let (mut items, mut whole, mut is_cut) = (Vec::new(), Cost::default(), false);
        let catalog = self.catalog;
        for entry in catalog.list(directory, None) {
            let entry = entry?;
            let path_bytes = above + entry.name.as_str().len() as u64 + COMPONENT_BYTES;
            let cost = match &entry.meta.kind {
                Kind::Symlink(_) => {
                    self.plan.symlinks += 1;
                    None
                }
                Kind::File(file) => Some(Cost::of(file, path_bytes, self.piece_bytes)),
                Kind::Directory(below) => {
                    let cost = self.directory(&path.join(&entry.name)?, below, path_bytes)?;
                    is_cut |= cost.is_none();
                    cost
                }
            };
            if let Some(cost) = cost.filter(|cost| cost.files > 0) {
                whole = whole.and(&cost);
                items.push((entry.name, cost));
            }
        }
        if !is_cut && whole.check(&self.limits).is_ok() {
            return Ok(Some(whole));
        }
        self.halve(path, &items)?;
        Ok(None)
    }

    fn file(&self, path: &RepoPath, file: &FileMeta) -> Result<Option<Cost>, ShardError> {
        let cost = Cost::of(file, 0, self.piece_bytes);
        let fits = cost.check(&self.limits);
        fits.map_err(|why| ShardError::File {
            path: path.clone(),
            why,
        })?;
        Ok(Some(cost))
    }

    /// Makes shards of some entries of a directory, in order of name.
    fn halve(&mut self, directory: &RepoPath, items: &[(Name, Cost)]) -> Result<(), ShardError> {
        let ([(first, _), ..], [.., (last, _)]) = (items, items) else {
            return Ok(());
        };
        let cost = items.iter().fold(Cost::default(), |sum, (_, cost)| sum.and(cost));
        let Err(why) = cost.check(&self.limits) else {
            let roots: Result<Vec<_>, _> = items.iter().map(|(name, _)| directory.join(name)).collect();
            let label = self.label(directory, first, items.len() > 1);
            self.push(label, roots?, &cost);
            return Ok(());
        };
        let Some(bit) = first_difference(first.as_str().as_bytes(), last.as_str().as_bytes()) else {
            // A directory that does not fit was cut: it is a file.
            let path = directory.join(first)?;
            return Err(ShardError::File { path, why });
        };
        let half = items.partition_point(|(name, _)| !has_bit(name.as_str().as_bytes(), bit));
        let (low, high) = items.split_at(half);
        self.halve(directory, low)?;
        self.halve(directory, high)
    }

    fn push(&mut self, label: String, roots: Vec<RepoPath>, cost: &Cost) {
        if cost.content_bytes == 0 {
            self.plan.empty_files += cost.files;
            return;
        }
        let taken = |label: &str| self.plan.shards.iter().any(|shard| shard.label == label);
        let mut unique = label.clone();
        let mut n = 2;
        while taken(&unique) {
            unique = format!("{label}~{n}");
            n += 1;
        }
        self.plan.shards.push(Shard { label: unique, roots });
    }

    fn label(&self, directory: &RepoPath, first: &Name, several: bool) -> String {
        let below = directory.components().skip(self.root.components().count());
        let below: Vec<&str> = below.collect();
        let joint = match (several, below.is_empty()) {
            (true, _) => "+",
            (false, true) => "",
            (false, false) => "-",
        };
        plain(&format!("{}{joint}{first}", below.join("-")))
    }
}

/// With nothing in it that a file name or URL would have to escape.
fn plain(label: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-._+".contains(*c);
    label.chars().map(|c| if is_plain(&c) { c } else { '_' }).collect()
}

/// The number of the first bit in which two names differ. What is behind the end of a name counts as zeros, which no name
/// holds.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let at = |name: &[u8], i| name.get(i).copied().unwrap_or(0);
    let mut places = 0..a.len().max(b.len());
    let byte = places.find(|i| at(a, *i) != at(b, *i))?;
    Some(8 * byte + (at(a, byte) ^ at(b, byte)).leading_zeros() as usize)
}

fn has_bit(name: &[u8], bit: usize) -> bool {
    name.get(bit / 8).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0)
}

/// The files of some roots, paths relative to `base`, in order of their paths' components. A root that is `base` itself and
/// a file has the empty path.
///
/// # Errors
/// [`ShardError`].
pub fn files<S: NodeSource>(
    catalog: &Catalog<S>,
    base: &RepoPath,
    roots: &[RepoPath],
) -> Result<Vec<(RepoPath, FileMeta)>, ShardError> {
    let mut files = Vec::new();
    for root in roots {
        let below = root.as_str().strip_prefix(base.as_str());
        let below = below.map(|below| below.strip_prefix('/').unwrap_or(below));
        let below = RepoPath::new(below.ok_or_else(|| ShardError::NotFound(root.clone()))?)?;
        match catalog.lookup(root)?.map(|meta| meta.kind) {
            Some(Kind::File(file)) => files.push((below, file)),
            Some(Kind::Directory(directory)) => collect(catalog, &below, &directory, &mut files)?,
            Some(Kind::Symlink(_)) | None => return Err(ShardError::NotFound(root.clone())),
        }
    }
    Ok(files)
}

fn collect<S: NodeSource>(
    catalog: &Catalog<S>,
    path: &RepoPath,
    directory: &Directory,
    files: &mut Vec<(RepoPath, FileMeta)>,
) -> Result<(), ShardError> {
    for entry in catalog.list(directory, None) {
        let entry = entry?;
        let path = path.join(&entry.name)?;
        match entry.meta.kind {
            Kind::File(file) => files.push((path, file)),
            Kind::Directory(below) => collect(catalog, &path, &below, files)?,
            Kind::Symlink(_) => {}
        }
    }
    Ok(())
}
