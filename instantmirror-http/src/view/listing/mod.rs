//! Directory pages: HTML for people, JSON for programs.
//!
//! In name order a page is made leaf by leaf while it is sent, so a directory of a million entries needs the
//! memory of one piece. Other orders need all entries at once and are limited to [`SORT_ENTRIES_MAX`], and all pages
//! that wait for their clients together to [`SORTED_ENTRIES_MAX`].

mod html;
mod json;
mod links;
mod sorted;

use std::sync::Arc;

use bytes::Bytes;
use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource};
use instantmirror_core::traits::TorrentLink;
use instantmirror_core::{Directory, Entry, Kind, Meta, Name, ObjectId, RepoName, RepoPath, SnapshotId};

pub use self::links::Links;
pub use self::sorted::SORTED_ENTRIES_MAX;

use self::links::LinkEnds;
use self::sorted::SortedShare;
use crate::message::request::query_value;

/// Where catalog nodes are read, in a form that can be shown while debugging.
#[derive(Clone)]
pub struct Nodes(pub Arc<dyn NodeSource>);

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nodes")
    }
}

/// Most entries of a directory that is sorted otherwise than by name. A larger one is shown in name order,
/// and says so.
pub const SORT_ENTRIES_MAX: usize = 10_000;
/// Entries that are read at once.
const READ_ENTRIES: usize = 64;

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The name, not encoded for anything.
    pub name: String,
    /// What it is.
    pub kind: RowKind,
    /// Modification time in seconds since 1970, if it has one.
    pub mtime: Option<i64>,
}

/// What a line of a listing stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowKind {
    /// A directory, with the files and bytes below it where they are known.
    Directory {
        /// Files below it, at any depth.
        files: Option<u64>,
        /// Bytes in them.
        bytes: Option<u64>,
    },
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// Its content.
        object: ObjectId,
    },
    /// A symlink with its target as it was published.
    Symlink {
        /// The target.
        target: String,
        /// Where it leads in the end.
        end: LinkEnd,
    },
}

/// Where a symlink leads in the end, through other links and inside its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEnd {
    /// To a directory: its URL ends in a slash.
    Directory,
    /// To a file of so many bytes.
    File(u64),
    /// To nothing that is published here, or in a circle.
    Nowhere,
}

impl Row {
    /// A directory of which no more is known than its name.
    #[must_use]
    pub fn directory(name: String, mtime: Option<i64>) -> Self {
        let kind = RowKind::Directory {
            files: None,
            bytes: None,
        };
        Self { name, kind, mtime }
    }

    fn size(&self) -> Option<u64> {
        match self.kind {
            RowKind::Directory { bytes, .. } => bytes,
            RowKind::File { size, .. } => Some(size),
            RowKind::Symlink {
                end: LinkEnd::File(size),
                ..
            } => Some(size),
            RowKind::Symlink { .. } => None,
        }
    }

    /// What its URL ends in.
    fn slash(&self) -> &'static str {
        match self.kind {
            RowKind::Directory { .. }
            | RowKind::Symlink {
                end: LinkEnd::Directory,
                ..
            } => "/",
            RowKind::File { .. } | RowKind::Symlink { .. } => "",
        }
    }

    /// The text of the type column.
    fn type_text(&self) -> &str {
        match &self.kind {
            RowKind::Directory { .. } => "directory",
            RowKind::Symlink { .. } => "link",
            RowKind::File { .. } => {
                let media = crate::view::mime::media_type(&self.name);
                media.split_once(';').map_or(media, |(media, _)| media)
            }
        }
    }
}

impl Row {
    fn new(entry: Entry, ends: Option<&mut LinkEnds<'_>>) -> Result<Self, CatalogError> {
        let kind = match entry.meta.kind {
            Kind::File(file) => RowKind::File {
                size: file.size,
                object: file.object,
            },
            Kind::Directory(directory) => RowKind::Directory {
                files: Some(directory.files),
                bytes: Some(directory.bytes),
            },
            Kind::Symlink(target) => RowKind::Symlink {
                end: ends.map_or(Ok(LinkEnd::Nowhere), |ends| ends.end(&entry.name, &target))?,
                target: target.into(),
            },
        };
        Ok(Self {
            name: entry.name.as_str().to_owned(),
            kind,
            mtime: Some(entry.meta.mtime),
        })
    }
}

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Html,
    /// For programs.
    Json,
}

/// The column a page is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The bytes of the name.
    Name,
    /// Modification time.
    Date,
    /// Size; of directories what is below them.
    Size,
    /// Directories, links, then files by media type.
    Type,
}

/// A column and a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Sorted by this.
    pub column: Column,
    /// From large to small.
    pub descending: bool,
}

/// As in the query that asks for it, in short: `N-A`.
impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let column = match self.column {
            Column::Name => 'N',
            Column::Date => 'M',
            Column::Size => 'S',
            Column::Type => 'T',
        };
        write!(f, "{column}-{}", if self.descending { 'D' } else { 'A' })
    }
}

impl Order {
    /// Reads `C=N|M|S|T` (name, modified, size, type) and `O=A|D` from a query, as other servers spell it.
    #[must_use]
    pub fn from_query(query: &str) -> Self {
        let column = match query_value(query, "C") {
            Some("M") => Column::Date,
            Some("S") => Column::Size,
            Some("T") => Column::Type,
            _ => Column::Name,
        };
        Self {
            column,
            descending: query_value(query, "O") == Some("D"),
        }
    }

    fn is_natural(self) -> bool {
        self.column == Column::Name && !self.descending
    }

    fn sort(self, rows: &mut [Row]) {
        rows.sort_by(|a, b| {
            let order = match self.column {
                Column::Name => a.name.cmp(&b.name),
                Column::Date => a.mtime.cmp(&b.mtime),
                Column::Size => a.size().cmp(&b.size()),
                Column::Type => rank(a).cmp(&rank(b)),
            };
            let order = if self.descending { order.reverse() } else { order };
            order.then_with(|| a.name.cmp(&b.name))
        });
    }
}

fn rank(row: &Row) -> (u8, &str) {
    let class = match row.kind {
        RowKind::Directory { .. } => 0,
        RowKind::Symlink { .. } => 1,
        RowKind::File { .. } => 2,
    };
    (class, row.type_text())
}

/// Which directory a page shows.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The URL path, decoded.
    pub path: RepoPath,
    /// The repository and snapshot it lies in, if it lies in one.
    pub snapshot: Option<(RepoName, SnapshotId)>,
    /// Torrents of what lies in it.
    pub torrents: Vec<TorrentLink>,
}

/// A page that makes itself piece by piece.
#[derive(Debug)]
pub struct Listing {
    subject: Subject,
    format: Format,
    order: Order,
    rows: Rows,
    stage: Stage,
    count: u64,
    /// Why it is in name order although another was asked for.
    unsorted: Option<Unsorted>,
}

/// Why a page is not sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsorted {
    TooLarge,
    /// Too many sorted pages wait for their clients.
    Busy,
}

#[derive(Debug)]
enum Rows {
    Ready {
        rows: std::vec::IntoIter<Row>,
        _share: SortedShare,
    },
    Tree {
        nodes: Nodes,
        directory: Directory,
        after: Option<Name>,
        links: Option<Links>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Rows,
    End,
}

impl Listing {
    /// A page of rows that are in their natural order already.
    #[must_use]
    pub fn of_rows(subject: Subject, format: Format, order: Order, rows: Vec<Row>) -> Self {
        Self::new(
            subject,
            format,
            order,
            Rows::Ready {
                rows: rows.into_iter(),
                _share: SortedShare::default(),
            },
        )
    }

    /// A page of a directory of a tree, whose symlinks are followed by `links`. Nothing is read yet.
    #[must_use]
    pub fn of_directory(
        subject: Subject,
        format: Format,
        order: Order,
        directory: Directory,
        nodes: Nodes,
        links: Option<Links>,
    ) -> Self {
        let rows = Rows::Tree {
            nodes,
            directory,
            after: None,
            links,
        };
        Self::new(subject, format, order, rows)
    }

    fn new(subject: Subject, format: Format, order: Order, rows: Rows) -> Self {
        Self {
            subject,
            format,
            order,
            rows,
            stage: Stage::Head,
            count: 0,
            unsorted: None,
        }
    }

    /// The next piece of the page, of some `bytes` and never empty, `None` behind the last. Reads at most a few catalog
    /// nodes for each entry, or, for the first piece of a sorted page, those of [`SORT_ENTRIES_MAX`] entries: not for a
    /// thread of the runtime.
    ///
    /// # Errors
    /// [`CatalogError`] if the directory cannot be read; the page is not whole then.
    pub fn next_piece(&mut self, bytes: usize) -> Result<Option<Bytes>, CatalogError> {
        let mut out = String::new();
        if self.stage == Stage::Head {
            self.sort()?;
            match self.format {
                Format::Html => html::head(&mut out, &self.subject, self.order, self.unsorted),
                Format::Json => json::head(&mut out, &self.subject),
            }
            self.stage = Stage::Rows;
        }
        if self.stage == Stage::End {
            return Ok(None);
        }
        // At least some of the entries: one that cannot be read shows before anything is sent.
        loop {
            let rows = self.rows.take(READ_ENTRIES)?;
            for row in &rows {
                match self.format {
                    Format::Html => html::row(&mut out, row),
                    Format::Json => json::row(&mut out, row, self.count == 0),
                }
                self.count += 1;
            }
            if rows.len() < READ_ENTRIES {
                match self.format {
                    Format::Html => html::end(&mut out, &self.subject, self.count),
                    Format::Json => json::end(&mut out),
                }
                self.stage = Stage::End;
            }
            if out.len() >= bytes || self.stage == Stage::End {
                break;
            }
        }
        Ok(Some(out.into()))
    }

    fn sort(&mut self) -> Result<(), CatalogError> {
        if self.order.is_natural() {
            return Ok(());
        }
        let Rows::Tree {
            nodes,
            directory,
            links,
            ..
        } = &self.rows
        else {
            if let Rows::Ready { rows, .. } = &mut self.rows {
                let mut all: Vec<Row> = rows.collect();
                self.order.sort(&mut all);
                *rows = all.into_iter();
            }
            return Ok(());
        };
        let catalog = catalog(nodes, directory);
        let mut ends = links.as_ref().map(|links| links.ends(nodes)).transpose()?;
        let (mut all, mut share) = (Vec::new(), SortedShare::default());
        for entry in catalog.list(directory, None) {
            let entry = entry?;
            if all.len() == SORT_ENTRIES_MAX {
                self.unsorted = Some(Unsorted::TooLarge);
                return Ok(());
            }
            if !share.grow() {
                self.unsorted = Some(Unsorted::Busy);
                return Ok(());
            }
            all.push(Row::new(entry, ends.as_mut())?);
        }
        drop(ends);
        self.order.sort(&mut all);
        self.rows = Rows::Ready {
            rows: all.into_iter(),
            _share: share,
        };
        Ok(())
    }
}

impl Rows {
    fn take(&mut self, limit: usize) -> Result<Vec<Row>, CatalogError> {
        match self {
            Self::Ready { rows, .. } => Ok(rows.take(limit).collect()),
            Self::Tree {
                nodes,
                directory,
                after,
                links,
            } => {
                let catalog = catalog(nodes, directory);
                let mut ends = links.as_ref().map(|links| links.ends(nodes)).transpose()?;
                let mut rows = Vec::with_capacity(limit);
                let mut last = None;
                for entry in catalog.list(directory, after.as_ref()).take(limit) {
                    let entry = entry?;
                    last = Some(entry.name.clone());
                    rows.push(Row::new(entry, ends.as_mut())?);
                }
                if last.is_some() {
                    *after = last;
                }
                Ok(rows)
            }
        }
    }
}

/// A catalog for listing: its root's own attributes do not matter.
fn catalog(nodes: &Nodes, directory: &Directory) -> Catalog<Arc<dyn NodeSource>> {
    let root = Meta {
        mode: 0,
        mtime: 0,
        kind: Kind::Directory(*directory),
    };
    Catalog::new(Arc::clone(&nodes.0), root)
}

#[cfg(test)]
mod tests;
