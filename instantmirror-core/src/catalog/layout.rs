//! Where the columns of a node lie. The one place that knows offsets; docs/formats/catalog.md is its text.

/// First bytes of every node: magic and version 1.
pub(super) const MAGIC: [u8; 4] = *b"IMC\x01";
/// Header: magic, kind, level, count, names, targets, links, reserved.
pub(super) const HEADER_BYTES: usize = 16;
/// Header value of a leaf.
pub(super) const KIND_LEAF: u8 = 0;
/// Header value of an index node.
pub(super) const KIND_INDEX: u8 = 1;

/// Mean number of entries in a leaf of a large directory; smaller directories are one leaf.
pub const LEAF_ENTRIES_MEAN: usize = 128;
/// Most entries in a leaf.
pub const LEAF_ENTRIES_MAX: usize = 4 * LEAF_ENTRIES_MEAN;
/// Mean number of children of an index node.
pub(super) const INDEX_CHILDREN_MEAN: usize = 32;
/// Most children of an index node.
pub(super) const INDEX_CHILDREN_MAX: usize = 4 * INDEX_CHILDREN_MEAN;
/// Most bytes of names, and of symlink targets, in one node (16-bit ends).
pub(super) const BLOB_BYTES_MAX: usize = u16::MAX as usize;
/// Most levels of index nodes (a directory of 10^19 entries would need 14).
pub(super) const LEVEL_MAX: u8 = 16;
/// Upper bound for the bytes of any valid node.
pub const NODE_BYTES_MAX: usize = HEADER_BYTES + LEAF_ENTRIES_MAX * (LEAF_ROW + LINK_ROW) + 2 * BLOB_BYTES_MAX;

/// Bytes of fixed-width columns per leaf entry: id 32, size 6, mtime 5, extra 5, name end 2, kind and mode 2.
pub(super) const LEAF_ROW: usize = 52;
/// Bytes per row of the hard link table: entry index 2, group 8.
pub(super) const LINK_ROW: usize = 10;
/// Bytes per child of an index node: id 32, bytes 6, files 5, entries 5, name end 2.
pub(super) const INDEX_ROW: usize = 50;

/// The counts of a node's header, and from them the place of every column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) index: bool,
    pub(super) level: u8,
    pub(super) count: usize,
    pub(super) names_len: usize,
    pub(super) targets_len: usize,
    pub(super) links: usize,
}

impl Shape {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Err("shorter than a header");
        };
        if header[..3] != MAGIC[..3] {
            return Err("not a catalog node");
        }
        if header[3] != MAGIC[3] {
            return Err("unknown catalog version; this program knows version 1");
        }
        let shape = Self {
            index: match header[4] {
                KIND_LEAF => false,
                KIND_INDEX => true,
                _ => return Err("unknown node kind"),
            },
            level: header[5],
            count: read_u16(header, 6),
            names_len: read_u16(header, 8),
            targets_len: read_u16(header, 10),
            links: read_u16(header, 12),
        };
        if header[14..16] != [0, 0] {
            return Err("reserved bytes are not zero");
        }
        shape.check()?;
        if bytes.len() != shape.total() {
            return Err("length and header disagree");
        }
        Ok(shape)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.index {
            if self.level == 0 || self.level > LEVEL_MAX {
                return Err("index level out of range");
            }
            if self.count == 0 || self.count > INDEX_CHILDREN_MAX {
                return Err("number of children out of range");
            }
            if self.targets_len != 0 || self.links != 0 {
                return Err("index node with targets or links");
            }
        } else {
            if self.level != 0 {
                return Err("leaf above level 0");
            }
            if self.count > LEAF_ENTRIES_MAX {
                return Err("too many entries");
            }
            if self.links > self.count {
                return Err("more links than entries");
            }
        }
        Ok(())
    }

    pub(super) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = if self.index { KIND_INDEX } else { KIND_LEAF };
        out[5] = self.level;
        for (at, value) in [
            (6, self.count),
            (8, self.names_len),
            (10, self.targets_len),
            (12, self.links),
        ] {
            // The builder keeps every count within BLOB_BYTES_MAX.
            out[at..at + 2].copy_from_slice(&value.to_le_bytes()[..2]);
        }
        out
    }

    fn row(&self) -> usize {
        if self.index { INDEX_ROW } else { LEAF_ROW }
    }

    // Columns in file order. The first two have the same place in both kinds.
    pub(super) fn id_at(&self, i: usize) -> usize {
        HEADER_BYTES + 32 * i
    }
    pub(super) fn size_at(&self, i: usize) -> usize {
        HEADER_BYTES + 32 * self.count + 6 * i
    }
    /// Leaf: modification time. Index: recursive files.
    pub(super) fn mtime_at(&self, i: usize) -> usize {
        HEADER_BYTES + 38 * self.count + 5 * i
    }
    /// Leaf: first piece, recursive files or target offset by kind. Index: entries below.
    pub(super) fn extra_at(&self, i: usize) -> usize {
        HEADER_BYTES + 43 * self.count + 5 * i
    }
    pub(super) fn name_end_at(&self, i: usize) -> usize {
        HEADER_BYTES + 48 * self.count + 2 * i
    }
    /// Leaf only.
    pub(super) fn kind_mode_at(&self, i: usize) -> usize {
        HEADER_BYTES + 50 * self.count + 2 * i
    }
    pub(super) fn link_at(&self, row: usize) -> usize {
        HEADER_BYTES + self.row() * self.count + LINK_ROW * row
    }
    pub(super) fn names_at(&self) -> usize {
        self.link_at(self.links)
    }
    pub(super) fn targets_at(&self) -> usize {
        self.names_at() + self.names_len
    }
    pub(super) fn total(&self) -> usize {
        self.targets_at() + self.targets_len
    }
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// A little-endian unsigned number of `N` ≤ 8 bytes.
pub(super) fn read_uint<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(wide)
}

/// A little-endian two's complement number of 5 bytes.
pub(super) fn read_i40(bytes: &[u8], at: usize) -> i64 {
    (read_uint::<5>(bytes, at) << 24).cast_signed() >> 24
}
