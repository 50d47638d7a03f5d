//! The bytes of one catalog node: a view that reads them in place, and the writer.
//!
//! [`CatalogNode::decode`] checks everything and is used on bytes from outside; [`CatalogNode::open`]
//! checks the shape only and is used on bytes that the store has checked before. Neither accessor
//! panics on bytes that passed `open`; what they read of a damaged node is an error.

use bytes::Bytes;

use super::CatalogError;
use super::layout::{BLOB_BYTES_MAX, INDEX_CHILDREN_MAX, LEAF_ENTRIES_MAX, Shape, read_i40, read_u16, read_uint};
use crate::entry::{COUNT_MAX, Directory, Entry, FileMeta, Kind, MODE_MASK, MTIME_RANGE, Meta, SIZE_MAX};
use crate::name::{check_name, check_target};
use crate::{Name, NodeId, ObjectId};

const FILE: u16 = 1;
const DIRECTORY: u16 = 2;
const SYMLINK: u16 = 3;

/// One catalog node, read in place.
#[derive(Debug, Clone)]
pub struct CatalogNode {
    id: NodeId,
    bytes: Bytes,
    shape: Shape,
}

/// One child of an index node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// The child node.
    pub node: NodeId,
    /// Entries of this directory in it.
    pub entries: u64,
    /// Regular files in and below those entries.
    pub files: u64,
    /// Bytes in those files.
    pub bytes: u64,
}

/// What a node holds, summed over its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries of the directory itself.
    pub entries: u64,
    /// Regular files in and below them.
    pub files: u64,
    /// Bytes in those files.
    pub bytes: u64,
}

impl Totals {
    fn add(&mut self, entries: u64, files: u64, bytes: u64) -> Option<()> {
        self.entries = self.entries.checked_add(entries).filter(|&n| n <= COUNT_MAX)?;
        self.files = self.files.checked_add(files).filter(|&n| n <= COUNT_MAX)?;
        self.bytes = self.bytes.checked_add(bytes).filter(|&n| n <= SIZE_MAX)?;
        Some(())
    }
}

impl CatalogNode {
    /// Takes bytes from outside: they must hash to `id` and be canonical in every part.
    ///
    /// # Errors
    /// [`CatalogError::Unexpected`] if they have another hash, [`CatalogError::Malformed`] or
    /// [`CatalogError::Name`] with the rule that they break.
    pub fn decode(id: NodeId, bytes: Bytes) -> Result<Self, CatalogError> {
        if NodeId::of(&bytes) != id {
            return Err(CatalogError::Unexpected(id));
        }
        let node = Self::open(id, bytes)?;
        node.check_rows()?;
        Ok(node)
    }

    /// Takes bytes that were decoded once before they were stored.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`] if length and header disagree.
    pub fn open(id: NodeId, bytes: Bytes) -> Result<Self, CatalogError> {
        let shape = Shape::parse(&bytes).map_err(|reason| CatalogError::Malformed { id, reason })?;
        Ok(Self { id, bytes, shape })
    }

    /// The hash of the bytes.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The canonical bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether the rows are children rather than entries.
    #[must_use]
    pub fn is_index(&self) -> bool {
        self.shape.index
    }

    /// 0 for a leaf; an index node is one above its children.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.shape.level
    }

    /// Number of rows: entries of a leaf, children of an index node.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.count
    }

    /// Whether there are no rows (only the leaf of an empty directory).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shape.count == 0
    }

    fn malformed(&self, reason: &'static str) -> CatalogError {
        CatalogError::Malformed { id: self.id, reason }
    }

    /// Bytes of row `i`'s name: of the entry, or the last entry name below the child. An empty slice
    /// where a damaged node has none.
    #[must_use]
    pub fn name_bytes(&self, i: usize) -> &[u8] {
        let start = if i == 0 {
            0
        } else {
            read_u16(&self.bytes, self.shape.name_end_at(i - 1))
        };
        let end = read_u16(&self.bytes, self.shape.name_end_at(i));
        let names = &self.bytes[self.shape.names_at()..self.shape.targets_at()];
        names.get(start..end).unwrap_or_default()
    }

    /// Index of the first row whose name is not less than `name`, which may be [`len`](Self::len).
    #[must_use]
    pub fn lower_bound(&self, name: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.name_bytes(middle) < name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn id_bytes(&self, i: usize) -> [u8; 32] {
        let at = self.shape.id_at(i);
        let mut id = [0; 32];
        id.copy_from_slice(&self.bytes[at..at + 32]);
        id
    }

    /// Row `i` of an index node.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len) or the node is a leaf.
    #[must_use]
    pub fn child(&self, i: usize) -> Child {
        assert!(self.shape.index && i < self.len(), "child {i} of a node that has none");
        Child {
            node: NodeId::from_bytes(self.id_bytes(i)),
            bytes: read_uint::<6>(&self.bytes, self.shape.size_at(i)),
            files: read_uint::<5>(&self.bytes, self.shape.mtime_at(i)),
            entries: read_uint::<5>(&self.bytes, self.shape.extra_at(i)),
        }
    }

    /// Row `i` of a leaf, without its name.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`] if the row is damaged.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len) or the node is an index.
    pub fn meta(&self, i: usize) -> Result<Meta, CatalogError> {
        assert!(!self.shape.index && i < self.len(), "entry {i} of a node that has none");
        let size = read_uint::<6>(&self.bytes, self.shape.size_at(i));
        let extra = read_uint::<5>(&self.bytes, self.shape.extra_at(i));
        let kind_mode = u16::from_le_bytes([
            self.bytes[self.shape.kind_mode_at(i)],
            self.bytes[self.shape.kind_mode_at(i) + 1],
        ]);
        let id = self.id_bytes(i);
        let kind = match kind_mode >> 12 {
            FILE => Kind::File(FileMeta {
                size,
                object: ObjectId::from_bytes(id),
                first_piece: extra,
                link_group: self.link_group(i),
            }),
            DIRECTORY => Kind::Directory(Directory {
                node: NodeId::from_bytes(id),
                files: extra,
                bytes: size,
            }),
            SYMLINK => Kind::Symlink(self.target(extra, size, &id)?.into()),
            _ => return Err(self.malformed("unknown entry kind")),
        };
        Ok(Meta {
            mode: kind_mode & MODE_MASK,
            mtime: read_i40(&self.bytes, self.shape.mtime_at(i)),
            kind,
        })
    }

    /// Row `i` of a leaf.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`] or [`CatalogError::Name`] if the row is damaged.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len) or the node is an index.
    pub fn entry(&self, i: usize) -> Result<Entry, CatalogError> {
        let meta = self.meta(i)?;
        let name = Name::new(self.name_bytes(i)).map_err(|source| CatalogError::Name { id: self.id, source })?;
        Ok(Entry { name, meta })
    }

    /// Row of a leaf that is called `name`.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        let i = self.lower_bound(name.as_bytes());
        (i < self.len() && self.name_bytes(i) == name.as_bytes()).then_some(i)
    }

    fn target(&self, offset: u64, len: u64, id: &[u8; 32]) -> Result<&str, CatalogError> {
        let targets = &self.bytes[self.shape.targets_at()..];
        let range = usize::try_from(offset).ok().zip(usize::try_from(offset + len).ok());
        let bytes = range.and_then(|(start, end)| targets.get(start..end));
        let bytes = bytes.ok_or_else(|| self.malformed("symlink target outside the node"))?;
        if blake3::hash(bytes).as_bytes() != id {
            return Err(self.malformed("symlink target and its hash disagree"));
        }
        check_target(bytes).map_err(|source| CatalogError::Name { id: self.id, source })
    }

    fn link_row(&self, row: usize) -> (usize, u64) {
        let at = self.shape.link_at(row);
        (read_u16(&self.bytes, at), read_uint::<8>(&self.bytes, at + 2))
    }

    fn link_group(&self, i: usize) -> Option<u64> {
        let (mut low, mut high) = (0, self.shape.links);
        while low < high {
            let middle = low.midpoint(high);
            let (entry, group) = self.link_row(middle);
            match entry.cmp(&i) {
                std::cmp::Ordering::Equal => return Some(group),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Sums over all rows.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`] if a row is damaged or a sum exceeds what a parent can state.
    pub fn totals(&self) -> Result<Totals, CatalogError> {
        let mut totals = Totals::default();
        for i in 0..self.len() {
            let (entries, files, bytes) = if self.shape.index {
                let child = self.child(i);
                (child.entries, child.files, child.bytes)
            } else {
                let (files, bytes) = self.meta(i)?.kind.weight();
                (1, files, bytes)
            };
            totals
                .add(entries, files, bytes)
                .ok_or_else(|| self.malformed("recursive counts overflow"))?;
        }
        Ok(totals)
    }

    fn check_rows(&self) -> Result<(), CatalogError> {
        let mut end = 0;
        for i in 0..self.len() {
            let next = read_u16(&self.bytes, self.shape.name_end_at(i));
            if next < end || next > self.shape.names_len {
                return Err(self.malformed("name ends are not ascending"));
            }
            end = next;
            check_name(self.name_bytes(i)).map_err(|source| CatalogError::Name { id: self.id, source })?;
            if i > 0 && self.name_bytes(i - 1) >= self.name_bytes(i) {
                return Err(self.malformed("names are not strictly ascending"));
            }
        }
        if end != self.shape.names_len {
            return Err(self.malformed("bytes after the last name"));
        }
        if !self.shape.index {
            self.check_entries()?;
        }
        self.totals().map(drop)
    }

    fn check_entries(&self) -> Result<(), CatalogError> {
        let mut target_end = 0;
        for i in 0..self.len() {
            match self.meta(i)?.kind {
                Kind::File(file) if file.size == 0 && (file.first_piece != 0 || file.object != ObjectId::of(b"")) => {
                    return Err(self.malformed("an empty file with pieces or content"));
                }
                Kind::Symlink(target) => {
                    if read_uint::<5>(&self.bytes, self.shape.extra_at(i)) != target_end {
                        return Err(self.malformed("symlink targets are not in entry order"));
                    }
                    target_end += target.len() as u64;
                }
                Kind::File(_) | Kind::Directory(_) => {}
            }
        }
        if target_end != self.shape.targets_len as u64 {
            return Err(self.malformed("bytes after the last symlink target"));
        }
        self.check_links()
    }

    fn check_links(&self) -> Result<(), CatalogError> {
        let mut previous = None;
        for row in 0..self.shape.links {
            let (entry, _) = self.link_row(row);
            if previous.is_some_and(|before| before >= entry) || entry >= self.len() {
                return Err(self.malformed("hard link table is not ascending"));
            }
            if self.meta(entry)?.as_file().is_none() {
                return Err(self.malformed("hard link group on something that is not a file"));
            }
            previous = Some(entry);
        }
        Ok(())
    }
}

fn checked(value: u64, max: u64, name: &Name, what: &'static str) -> Result<u64, CatalogError> {
    if value <= max {
        Ok(value)
    } else {
        Err(CatalogError::Range {
            name: name.to_string(),
            what,
        })
    }
}

/// The columns of a leaf while it is written.
#[derive(Default)]
struct LeafColumns {
    ids: Vec<u8>,
    sizes: Vec<u8>,
    mtimes: Vec<u8>,
    extras: Vec<u8>,
    name_ends: Vec<u8>,
    kind_modes: Vec<u8>,
    links: Vec<u8>,
    names: Vec<u8>,
    targets: Vec<u8>,
}

impl LeafColumns {
    fn push(&mut self, i: usize, entry: &Entry) -> Result<(), CatalogError> {
        let Entry { name, meta } = entry;
        if !MTIME_RANGE.contains(&meta.mtime) {
            return Err(CatalogError::Range {
                name: name.to_string(),
                what: "the modification time",
            });
        }
        let (kind, id, size, extra) = match &meta.kind {
            Kind::File(file) => {
                if let Some(group) = file.link_group {
                    self.links.extend_from_slice(&i.to_le_bytes()[..2]);
                    self.links.extend_from_slice(&group.to_le_bytes());
                }
                (FILE, *file.object.as_bytes(), file.size, file.first_piece)
            }
            Kind::Directory(dir) => (DIRECTORY, *dir.node.as_bytes(), dir.bytes, dir.files),
            Kind::Symlink(target) => {
                let offset = self.targets.len() as u64;
                self.targets.extend_from_slice(target.as_bytes());
                (
                    SYMLINK,
                    *blake3::hash(target.as_bytes()).as_bytes(),
                    target.len() as u64,
                    offset,
                )
            }
        };
        self.ids.extend_from_slice(&id);
        self.sizes
            .extend_from_slice(&checked(size, SIZE_MAX, name, "the size")?.to_le_bytes()[..6]);
        self.mtimes.extend_from_slice(&meta.mtime.to_le_bytes()[..5]);
        self.extras
            .extend_from_slice(&checked(extra, COUNT_MAX, name, "the piece index or count")?.to_le_bytes()[..5]);
        self.names.extend_from_slice(name.as_str().as_bytes());
        self.name_ends.extend_from_slice(&self.names.len().to_le_bytes()[..2]);
        self.kind_modes
            .extend_from_slice(&(kind << 12 | meta.mode & MODE_MASK).to_le_bytes());
        Ok(())
    }
}

/// Writes a leaf. The caller keeps the entries sorted and within the limits of a leaf.
pub(super) fn encode_leaf(entries: &[Entry]) -> Result<CatalogNode, CatalogError> {
    debug_assert!(entries.len() <= LEAF_ENTRIES_MAX, "a leaf of {} entries", entries.len());
    let mut columns = LeafColumns::default();
    for (i, entry) in entries.iter().enumerate() {
        columns.push(i, entry)?;
    }
    debug_assert!(columns.names.len() <= BLOB_BYTES_MAX && columns.targets.len() <= BLOB_BYTES_MAX);
    let shape = Shape {
        index: false,
        level: 0,
        count: entries.len(),
        names_len: columns.names.len(),
        targets_len: columns.targets.len(),
        links: columns.links.len() / super::layout::LINK_ROW,
    };
    let c = columns;
    Ok(assemble(
        shape,
        &[
            &c.ids,
            &c.sizes,
            &c.mtimes,
            &c.extras,
            &c.name_ends,
            &c.kind_modes,
            &c.links,
            &c.names,
            &c.targets,
        ],
    ))
}

/// Writes an index node over `children`, each with the last name below it.
pub(super) fn encode_index(level: u8, children: &[(Name, Child)]) -> CatalogNode {
    debug_assert!(
        (1..=INDEX_CHILDREN_MAX).contains(&children.len()),
        "an index of {} children",
        children.len()
    );
    let (mut ids, mut sizes, mut files, mut entries) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut name_ends, mut names) = (Vec::new(), Vec::new());
    for (name, child) in children {
        ids.extend_from_slice(child.node.as_bytes());
        sizes.extend_from_slice(&child.bytes.to_le_bytes()[..6]);
        files.extend_from_slice(&child.files.to_le_bytes()[..5]);
        entries.extend_from_slice(&child.entries.to_le_bytes()[..5]);
        names.extend_from_slice(name.as_str().as_bytes());
        name_ends.extend_from_slice(&names.len().to_le_bytes()[..2]);
    }
    let shape = Shape {
        index: true,
        level,
        count: children.len(),
        names_len: names.len(),
        targets_len: 0,
        links: 0,
    };
    assemble(shape, &[&ids, &sizes, &files, &entries, &name_ends, &names])
}

fn assemble(shape: Shape, columns: &[&[u8]]) -> CatalogNode {
    let mut bytes = Vec::with_capacity(shape.total());
    bytes.extend_from_slice(&shape.header());
    for column in columns {
        bytes.extend_from_slice(column);
    }
    debug_assert_eq!(bytes.len(), shape.total());
    CatalogNode {
        id: NodeId::of(&bytes),
        bytes: bytes.into(),
        shape,
    }
}
