//! From the entries of a directory to its nodes.
//!
//! A directory of up to [`LEAF_ENTRIES_MEAN`] entries is one leaf. A larger one is cut behind every
//! entry whose name hashes to a border, so that one change moves the borders of one leaf only; the
//! leaves are gathered under index nodes in the same way, until one node is left.

use super::layout::{
    BLOB_BYTES_MAX, INDEX_CHILDREN_MAX, INDEX_CHILDREN_MEAN, LEAF_ENTRIES_MAX, LEAF_ENTRIES_MEAN, LEVEL_MAX,
};
use super::node::{CatalogNode, Child, encode_index, encode_leaf};
use super::{CatalogError, Totals};
use crate::Name;
use crate::entry::{Directory, Entry, Kind};

/// Encodes one directory: hands every node of it to `sink`, children before parents, and returns the
/// directory as its parent's entry refers to it. A pure function of the entries: the same entries give
/// the same nodes, whatever was published before.
///
/// # Errors
/// [`CatalogError::Order`] if the entries are not strictly ascending by name bytes,
/// [`CatalogError::Range`] if a value does not fit its column; nothing useful was handed out then.
///
/// ```
/// use instantmirror_core::catalog::build_directory;
/// let mut nodes = Vec::new();
/// let empty = build_directory(&[], &mut |node| nodes.push(node))?;
/// assert_eq!((empty.files, nodes.len()), (0, 1));
/// # Ok::<(), instantmirror_core::catalog::CatalogError>(())
/// ```
pub fn build_directory(entries: &[Entry], sink: &mut dyn FnMut(CatalogNode)) -> Result<Directory, CatalogError> {
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].name >= pair[1].name) {
        return Err(CatalogError::Order(pair[1].name.to_string()));
    }
    let mut row = cut_leaves(entries, sink)?;
    let mut level = 0;
    while row.len() > 1 {
        level += 1;
        row = cut_index(level, &row, sink)?;
    }
    let (_, top) = row.remove(0);
    Ok(Directory {
        node: top.node,
        files: top.files,
        bytes: top.bytes,
    })
}

/// The bits that decide whether a border follows `name`: the low 64 of its BLAKE3.
fn border_bits(name: &Name) -> u64 {
    let hash = blake3::hash(name.as_str().as_bytes());
    let mut low = [0; 8];
    low.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(low)
}

fn cut_leaves(entries: &[Entry], sink: &mut dyn FnMut(CatalogNode)) -> Result<Vec<(Name, Child)>, CatalogError> {
    let Some(last) = entries.last() else {
        let leaf = encode_leaf(&[])?;
        let child = Child {
            node: leaf.id(),
            entries: 0,
            files: 0,
            bytes: 0,
        };
        sink(leaf);
        return Ok(vec![(Name::placeholder(), child)]);
    };
    let large = entries.len() > LEAF_ENTRIES_MEAN;
    let mut row = Vec::new();
    let (mut start, mut names, mut targets) = (0, 0, 0);
    for (i, entry) in entries.iter().enumerate() {
        let (name_len, target_len) = blob_lens(entry);
        let full =
            i - start == LEAF_ENTRIES_MAX || names + name_len > BLOB_BYTES_MAX || targets + target_len > BLOB_BYTES_MAX;
        if full {
            row.push(finish_leaf(&entries[start..i], sink)?);
            (start, names, targets) = (i, 0, 0);
        }
        names += name_len;
        targets += target_len;
        if large && border_bits(&entry.name).is_multiple_of(LEAF_ENTRIES_MEAN as u64) && entry.name != last.name {
            row.push(finish_leaf(&entries[start..=i], sink)?);
            (start, names, targets) = (i + 1, 0, 0);
        }
    }
    row.push(finish_leaf(&entries[start..], sink)?);
    Ok(row)
}

fn blob_lens(entry: &Entry) -> (usize, usize) {
    let target = if let Kind::Symlink(target) = &entry.meta.kind {
        target.len()
    } else {
        0
    };
    (entry.name.as_str().len(), target)
}

fn finish_leaf(entries: &[Entry], sink: &mut dyn FnMut(CatalogNode)) -> Result<(Name, Child), CatalogError> {
    let leaf = encode_leaf(entries)?;
    let Totals {
        entries: count,
        files,
        bytes,
    } = leaf.totals()?;
    let child = Child {
        node: leaf.id(),
        entries: count,
        files,
        bytes,
    };
    sink(leaf);
    // Only `cut_leaves` calls this, and never with an empty slice.
    Ok((entries[entries.len() - 1].name.clone(), child))
}

/// Gathers one row of nodes under index nodes of `level`. The border bits of a level lie above those of
/// the level below, so a border up here is one of the borders down there.
fn cut_index(
    level: u8,
    row: &[(Name, Child)],
    sink: &mut dyn FnMut(CatalogNode),
) -> Result<Vec<(Name, Child)>, CatalogError> {
    const LEAF_BITS: u32 = LEAF_ENTRIES_MEAN.ilog2();
    const INDEX_BITS: u32 = INDEX_CHILDREN_MEAN.ilog2();
    let shift = LEAF_BITS + INDEX_BITS * u32::from(level - 1);
    let mut above = Vec::new();
    let (mut start, mut names) = (0, 0);
    for (i, (name, _)) in row.iter().enumerate() {
        if i - start == INDEX_CHILDREN_MAX || names + name.as_str().len() > BLOB_BYTES_MAX {
            above.push(finish_index(level, &row[start..i], sink)?);
            (start, names) = (i, 0);
        }
        names += name.as_str().len();
        // Beyond LEVEL_MAX / 2 only full nodes are cut: hostile names cannot make the tree grow upwards.
        let border = level <= LEVEL_MAX / 2
            && border_bits(name)
                .checked_shr(shift)
                .is_some_and(|bits| bits % INDEX_CHILDREN_MEAN as u64 == 0);
        if border && i + 1 < row.len() {
            above.push(finish_index(level, &row[start..=i], sink)?);
            (start, names) = (i + 1, 0);
        }
    }
    above.push(finish_index(level, &row[start..], sink)?);
    Ok(above)
}

fn finish_index(
    level: u8,
    children: &[(Name, Child)],
    sink: &mut dyn FnMut(CatalogNode),
) -> Result<(Name, Child), CatalogError> {
    let index = encode_index(level, children);
    let Totals { entries, files, bytes } = index.totals()?;
    let child = Child {
        node: index.id(),
        entries,
        files,
        bytes,
    };
    sink(index);
    Ok((children[children.len() - 1].0.clone(), child))
}
