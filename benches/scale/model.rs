//! A tree that exists only as catalog entries: directories in two levels, some of them pools of very many names.

use anyhow::Result;
use instantmirror::core::catalog::{CatalogNode, build_directory};
use instantmirror::core::entry::{Entry, FileMeta, Kind, Meta};
use instantmirror::core::{Directory, Name, ObjectId};

/// How large a tree is.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Shape {
    /// Files in the tree.
    #[arg(long, default_value_t = 3_000_000)]
    pub(crate) files: usize,
    /// Directories that hold files.
    #[arg(long, default_value_t = 60_000)]
    pub(crate) directories: usize,
    /// How many of them are pools.
    #[arg(long, default_value_t = 4)]
    pub(crate) pools: usize,
    /// Names in each pool.
    #[arg(long, default_value_t = 150_000)]
    pub(crate) pool_names: usize,
}

/// Numbers that look random and are the same every time.
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = limit.max(1) as u64;
        usize::try_from(self.next() % limit).unwrap_or(0)
    }
}

/// The tree.
pub(crate) struct Tree {
    numbers: Numbers,
    /// Entries of every directory that holds files, in order of name.
    leaves: Vec<Vec<Entry>>,
    /// What each of them was built to.
    built: Vec<Option<Directory>>,
    per_group: usize,
    made: u64,
    next_piece: u64,
}

impl Tree {
    pub(crate) fn new(shape: Shape) -> Result<Self> {
        let per_group = shape.directories.isqrt().max(1);
        let mut tree = Self {
            numbers: Numbers::new(1),
            leaves: Vec::with_capacity(shape.directories),
            built: vec![None; shape.directories],
            per_group,
            made: 0,
            next_piece: 0,
        };
        let small = shape.directories - shape.pools;
        let rest = shape.files.saturating_sub(shape.pools * shape.pool_names);
        for at in 0..shape.directories {
            let count = if at < shape.pools {
                shape.pool_names
            } else {
                rest / small
            };
            let mut entries = (0..count).map(|_| tree.file()).collect::<Result<Vec<_>>>()?;
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            tree.leaves.push(entries);
        }
        Ok(tree)
    }

    /// A new file with a name as packages have them.
    fn file(&mut self) -> Result<Entry> {
        self.made += 1;
        let (kind, build) = (["", "-dev", "-doc", "-data", "-common"], self.numbers.below(90));
        let name = format!(
            "lib{:x}{}_{}.{build}-1_amd64.deb",
            self.numbers.next() & 0xff_ffff_ffff,
            kind[self.numbers.below(kind.len())],
            self.made % 1000
        );
        Ok(Entry {
            name: Name::new(name)?,
            meta: self.content(),
        })
    }

    fn content(&mut self) -> Meta {
        let seed = self.numbers.next();
        let size = 1 + seed % 2_000_000;
        let first_piece = self.next_piece;
        self.next_piece += size.div_ceil(1 << 20);
        let file = FileMeta {
            size,
            object: ObjectId::of(&[seed.to_le_bytes(), self.next_piece.to_le_bytes()].concat()),
            first_piece,
            link_group: None,
        };
        Meta {
            mode: 0o644,
            mtime: 1_400_000_000 + i64::try_from(seed % 380_000_000).unwrap_or(0),
            kind: Kind::File(file),
        }
    }

    /// Changes so many files in each of so many directories: six of ten are replaced, two vanish, two are new.
    pub(crate) fn change(&mut self, directories: usize, files_each: usize) -> Result<()> {
        for _ in 0..directories {
            let at = self.numbers.below(self.leaves.len());
            let mut entries = std::mem::take(&mut self.leaves[at]);
            for step in 0..files_each {
                let place = self.numbers.below(entries.len());
                match step % 5 {
                    0 if entries.len() > 1 => drop(entries.remove(place)),
                    1 => entries.push(self.file()?),
                    _ => entries[place].meta = self.content(),
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            self.leaves[at] = entries;
            self.built[at] = None;
        }
        Ok(())
    }

    /// The catalog of the tree; only what has changed is built again and handed to `sink`.
    pub(crate) fn build(&mut self, sink: &mut dyn FnMut(CatalogNode)) -> Result<Directory> {
        let mut groups = Vec::new();
        for (group, first) in (0..self.leaves.len()).step_by(self.per_group).enumerate() {
            let mut entries = Vec::new();
            for at in first..(first + self.per_group).min(self.leaves.len()) {
                let directory = match self.built[at] {
                    Some(directory) => directory,
                    None => build_directory(&self.leaves[at], sink)?,
                };
                self.built[at] = Some(directory);
                entries.push(folder(&format!("package-{at:06}"), directory)?);
            }
            groups.push(folder(&format!("group-{group:04}"), build_directory(&entries, sink)?)?);
        }
        Ok(build_directory(&groups, sink)?)
    }

    /// So many paths of files, drawn at random.
    pub(crate) fn paths(&self, count: usize) -> Vec<String> {
        let mut numbers = Numbers::new(2);
        let mut path = || {
            let at = numbers.below(self.leaves.len());
            let entry = self.leaves[at].get(numbers.below(self.leaves[at].len()))?;
            Some(format!(
                "group-{:04}/package-{at:06}/{}",
                at / self.per_group,
                entry.name
            ))
        };
        (0..count).filter_map(|_| path()).collect()
    }
}

fn folder(name: &str, directory: Directory) -> Result<Entry> {
    let meta = Meta {
        mode: 0o755,
        mtime: 1_700_000_000,
        kind: Kind::Directory(directory),
    };
    Ok(Entry {
        name: Name::new(name)?,
        meta,
    })
}
