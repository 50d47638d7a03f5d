//! `ls -lRAn`, as GNU writes it with `LC_ALL=C TZ=UTC` and output that is no terminal.
//!
//! "Recent" means recent when the snapshot was made, so a snapshot always gives the same list. A directory has two
//! links, as on btrfs; a file has as many as there are names of its group in its directory.

use std::collections::HashMap;
use std::io::Write;

use instantmirror_core::{Entry, Kind};

use super::calendar::ls_time;
use super::{DIRECTORY_BYTES, ExportError, Listing, walk};

/// A file takes whole blocks of this many KiB.
const BLOCK_KIB: u64 = 4;

pub(super) fn write(listing: &Listing<'_>, out: &mut dyn Write) -> Result<(), ExportError> {
    let now = listing.snapshot.created.as_millis().div_euclid(1000);
    walk(listing, &mut |path, entries| {
        if path.is_root() {
            writeln!(out, ".:")?;
        } else {
            writeln!(out, "\n./{path}:")?;
        }
        let total: u64 = entries.iter().map(|entry| kib(&entry.meta.kind)).sum();
        writeln!(out, "total {total}")?;
        let rows = rows(entries);
        let width = |of: fn(&Row) -> u64| rows.iter().map(of).max().unwrap_or(0).to_string().len();
        let (links_width, size_width) = (width(|row| row.links), width(|row| row.size));
        for (entry, row) in entries.iter().zip(&rows) {
            write!(
                out,
                "{} {:links_width$} 0 0 {:size_width$} {} {}",
                mode(entry),
                row.links,
                row.size,
                ls_time(entry.meta.mtime, now),
                entry.name
            )?;
            match &entry.meta.kind {
                Kind::Symlink(target) => writeln!(out, " -> {target}")?,
                _ => writeln!(out)?,
            }
        }
        Ok(())
    })
}

/// The columns whose width is that of their widest value.
struct Row {
    links: u64,
    size: u64,
}

fn rows(entries: &[Entry]) -> Vec<Row> {
    let mut groups: HashMap<u64, u64> = HashMap::new();
    for group in entries.iter().filter_map(group) {
        *groups.entry(group).or_default() += 1;
    }
    let row = |entry: &Entry| match &entry.meta.kind {
        Kind::File(file) => Row {
            links: group(entry).and_then(|group| groups.get(&group)).copied().unwrap_or(1),
            size: file.size,
        },
        Kind::Directory(_) => Row {
            links: 2,
            size: DIRECTORY_BYTES,
        },
        Kind::Symlink(target) => Row {
            links: 1,
            size: target.len() as u64,
        },
    };
    entries.iter().map(row).collect()
}

fn group(entry: &Entry) -> Option<u64> {
    entry.meta.as_file()?.link_group
}

/// KiB on disk.
fn kib(kind: &Kind) -> u64 {
    match kind {
        Kind::File(file) => file.size.div_ceil(BLOCK_KIB << 10) * BLOCK_KIB,
        Kind::Directory(_) => DIRECTORY_BYTES >> 10,
        // Short targets lie in the inode.
        Kind::Symlink(_) => 0,
    }
}

/// `drwxr-sr-x`
fn mode(entry: &Entry) -> String {
    let kind = match entry.meta.kind {
        Kind::File(_) => '-',
        Kind::Directory(_) => 'd',
        Kind::Symlink(_) => 'l',
    };
    let mode = entry.meta.mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
