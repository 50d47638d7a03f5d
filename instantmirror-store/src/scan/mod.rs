//! From a source tree to a catalog: what changed is read once and imported, what did not is not read at all.
//!
//! The tree is walked directory by directory on a few threads; a directory is finished when all below it is, so
//! memory holds what is in progress and nothing else. A name that cannot be published, or a file that will not hold
//! still, fails the scan with a list of all such paths: no snapshot contains a file whose exact bytes are not stored.

mod book;
mod files;
mod links;
mod listed;
mod named;
mod pieces;
mod report;
mod rules;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use instantmirror_core::catalog::{Catalog, CatalogNode, NodeSource, build_directory};
use instantmirror_core::changes::{Change, ChangeSet};
use instantmirror_core::entry::MTIME_RANGE;
use instantmirror_core::name::check_target;
use instantmirror_core::{Directory, Entry, Kind, Meta, Name, RepoPath, Root};
use rayon::prelude::*;

pub use book::StampBook;
pub use listed::changes_of_list;
pub use pieces::PieceSpace;
pub use report::{EXAMPLES_MAX, LeftOut, LeftOutWhy, Noted, ScanCounts, SymlinkReport};
pub use rules::{OnPrivate, OnUnpublishable, ScanRules, SymlinkRule, Terms};

use self::links::{Groups, Links};
use crate::digest::ContentDigest;
use crate::error::{Result, StoreError};
use crate::import::ImportOptions;
use crate::objects::ObjectWriter;
use crate::tree::{FileStamp, LinkEnd, Listing, RawEntry, RawKind, SourceTree};

/// How often a file that changes while it is read is read again before the scan gives up on it.
pub const READ_TRIES_MAX: u32 = 3;
/// How many paths that cannot be published are listed by name.
pub const PROBLEMS_MAX: usize = 50;
/// Bytes of catalog nodes and digests that are gathered before they are handed on.
const BATCH_BYTES: usize = 16 << 20;
const UNPUBLISHABLE_ADVICE: &str =
    "\nMend them, leave them out by `exclude`, or all such paths by `unpublishable = \"skip\"` in the [[repository]]";
const PRIVATE_ADVICE: &str = "\nIn the [[repository]], `private = \"skip\"` leaves out what others may not read, `private = \"publish\"` publishes \
     it (as where modes mean nothing: vfat, NTFS, some network file systems)";

/// What a scan works with.
pub struct ScanParts<'a> {
    /// The tree.
    pub tree: &'a SourceTree,
    /// Where content goes.
    pub objects: &'a dyn ObjectWriter,
    /// Where catalog nodes of earlier scans are.
    pub nodes: &'a dyn NodeSource,
    /// What the last scan saw.
    pub book: &'a StampBook,
    /// The repository's piece space.
    pub pieces: &'a PieceSpace,
    /// The root node of the last snapshot: what is unchanged since then needs no look at the object store.
    pub previous: Option<Directory>,
    /// Look at these paths only, and take over everything else from `previous`, which the book has to belong to
    /// ([`StampBook::root`], [`StampBook::terms`]). A path that is named although nothing changed there costs a look; one that changed and is
    /// not named stays as it was in `previous`. Without `previous` everything is looked at.
    pub changes: Option<&'a ChangeSet>,
    /// How files are imported.
    pub import: ImportOptions,
    /// What is published.
    pub rules: &'a ScanRules,
    /// The time now, seconds since 1970 by the clock of the tree's file system.
    pub now: i64,
}

impl ScanParts<'_> {
    /// Whether the whole tree is looked at.
    fn is_full(&self) -> bool {
        self.previous.is_none() || self.changes.is_none_or(ChangeSet::is_all)
    }
}

/// Takes what a scan makes, batch by batch, and hears how far it is. Called from several threads.
pub trait ScanSink: Sync {
    /// Catalog nodes, children before parents. Durable when it returns.
    ///
    /// # Errors
    /// Any; it ends the scan.
    fn nodes(&self, nodes: Vec<CatalogNode>) -> Result<()>;

    /// So many more files were listed.
    fn listed(&self, files: u64) {
        let _ = files;
    }

    /// So many more bytes of changed files were read.
    fn read(&self, bytes: u64) {
        let _ = bytes;
    }

    /// One more changed file was imported.
    fn imported(&self) {}
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The root of the catalog.
    pub root: Root,
    /// Counts.
    pub counts: ScanCounts,
    /// What was left out.
    pub left_out: LeftOut,
    /// Symlinks that lead nowhere for readers.
    pub symlinks: SymlinkReport,
}

#[derive(Default)]
struct Gathered {
    counts: ScanCounts,
    left_out: LeftOut,
    symlinks: SymlinkReport,
    problems: Vec<String>,
    problem_count: usize,
    advice: BTreeSet<&'static str>,
    nodes: Vec<CatalogNode>,
    node_bytes: usize,
    digests: Vec<ContentDigest>,
    stamps: Vec<book::Page>,
    /// Files with several names: whoever comes first reads, the others wait for the result.
    linked: HashMap<FileStamp, files::Linked>,
    /// Names of files that have several.
    links: Links,
}

/// Scans a tree. On success every object, node, digest and piece index of the tree is durable.
///
/// # Errors
/// [`StoreError::Unpublishable`] with every path (the first [`PROBLEMS_MAX`] by name) that cannot be
/// published; else what failed.
pub fn scan(parts: &ScanParts<'_>, sink: &dyn ScanSink) -> Result<Scanned> {
    let root_entry = parts.tree.root_entry()?;
    let terms = parts.rules.terms(parts.tree)?;
    let first = walk(parts, sink, parts.previous, None)?;
    if let Some(refusal) = first.1.refusal() {
        return Err(refusal);
    }
    let (scanned, refusal) = complete(parts, sink, &root_entry, first)?;
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    parts.book.put_terms(terms)?;
    report::log(&scanned.left_out, &scanned.symlinks);
    Ok(scanned)
}

/// Scans a tree as [`scan`] does, for a dry run: says what it would come to and, if it would be refused, the
/// [`StoreError::Unpublishable`] beside what it would come to without what cannot be published. Logs nothing.
///
/// # Errors
/// What failed.
pub fn scan_dry(parts: &ScanParts<'_>, sink: &dyn ScanSink) -> Result<(Scanned, Option<StoreError>)> {
    let root_entry = parts.tree.root_entry()?;
    let first = walk(parts, sink, parts.previous, None)?;
    complete(parts, sink, &root_entry, first)
}

/// The result of a scan after its first walk, and the reason to refuse it, if there is one.
fn complete(
    parts: &ScanParts<'_>,
    sink: &dyn ScanSink,
    root_entry: &RawEntry,
    (mut directory, mut gathered): (Directory, Gathered),
) -> Result<(Scanned, Option<StoreError>)> {
    // Which names are one file is known at the end only. Where that is not what it was, the tree is walked once more:
    // nothing is read for it.
    if let Some(groups) = std::mem::take(&mut gathered.links).correction(parts.is_full()) {
        let read = gathered.counts;
        (directory, gathered) = walk(parts, sink, Some(directory), Some(&groups))?;
        gathered.counts.read_files += read.read_files;
        gathered.counts.read_bytes += read.read_bytes;
    }
    let Directory { node, files, bytes } = directory;
    gathered.counts.files = files;
    let root = Root {
        node,
        mode: root_entry.mode,
        mtime: clamp_mtime(root_entry.stamp.mtime),
        files,
        bytes,
    };
    let refusal = gathered.refusal();
    let scanned = Scanned {
        root,
        counts: gathered.counts,
        left_out: gathered.left_out,
        symlinks: gathered.symlinks,
    };
    Ok((scanned, refusal))
}

/// Looks at the tree once. Everything it comes to is durable.
fn walk(
    parts: &ScanParts<'_>,
    sink: &dyn ScanSink,
    previous: Option<Directory>,
    groups: Option<&Groups>,
) -> Result<(Directory, Gathered)> {
    let scan = Scan {
        parts,
        sink,
        groups,
        gathered: Mutex::default(),
        flushing: Mutex::default(),
    };
    let change = parts.changes.map_or(&Change::Whole, ChangeSet::root);
    let directory = scan.changed_directory(&RepoPath::ROOT, previous, change)?;
    scan.flush(true)?;
    let gathered = scan.gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((directory, gathered))
}

impl Gathered {
    /// Why nothing can be made of what was seen, if so.
    fn refusal(&self) -> Option<StoreError> {
        (self.problem_count > 0).then(|| StoreError::Unpublishable {
            count: self.problem_count,
            problems: self.problems.clone(),
            advice: self.advice.iter().copied().collect(),
        })
    }
}

struct Scan<'a> {
    parts: &'a ScanParts<'a>,
    sink: &'a dyn ScanSink,
    /// The second walk of a scan has them, and reads nothing that the first one has read.
    groups: Option<&'a Groups>,
    gathered: Mutex<Gathered>,
    /// Held while a batch is handed on: batches become durable in the order in which they were gathered.
    flushing: Mutex<()>,
}

/// An entry, with the stamp to remember it by.
type Seen = Option<(Entry, FileStamp)>;

impl Scan<'_> {
    // Every change under the lock is complete in itself.
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, path: &str, reason: impl std::fmt::Display) -> Seen {
        let mut gathered = self.gathered();
        gathered.problem_count += 1;
        if gathered.problems.len() < PROBLEMS_MAX {
            gathered.problems.push(format!("{path}: {reason}"));
        }
        None
    }

    fn leave_out(&self, why: LeftOutWhy, path: String, reason: impl std::fmt::Display) -> Seen {
        self.gathered()
            .left_out
            .entry(why)
            .or_default()
            .note(path, reason.to_string());
        None
    }

    /// Left out or a reason to refuse, as the operator wants it.
    fn unwanted(&self, why: LeftOutWhy, path: String, reason: impl std::fmt::Display) -> Seen {
        let rules = self.parts.rules;
        let (is_skipped, advice) = match why {
            LeftOutWhy::Private => (rules.private == OnPrivate::Skip, PRIVATE_ADVICE),
            LeftOutWhy::Unpublishable | LeftOutWhy::Unreadable => {
                (rules.unpublishable == OnUnpublishable::Skip, UNPUBLISHABLE_ADVICE)
            }
            LeftOutWhy::Excluded | LeftOutWhy::Special | LeftOutWhy::Vanished => (true, ""),
        };
        if is_skipped {
            return self.leave_out(why, path, reason);
        }
        self.gathered().advice.insert(advice);
        self.problem(&path, reason)
    }

    /// What comes of an entry that cannot be read: `None` if the error is not its own.
    fn failed(&self, path: &RepoPath, error: &StoreError) -> Option<Seen> {
        let shown = path.as_str().to_owned();
        if !self.concerns_source(error) {
            None
        } else if let StoreError::SourceClosed { mode, .. } = error {
            Some(self.unwanted(LeftOutWhy::Private, shown, rules::closed_to_others(*mode)))
        } else if error.is_not_found() {
            Some(self.leave_out(LeftOutWhy::Vanished, shown, "it vanished during the scan"))
        } else if error.is_permission_denied() {
            Some(self.unwanted(LeftOutWhy::Unreadable, shown, with_cause(error)))
        } else {
            Some(self.problem(&shown, with_cause(error)))
        }
    }

    fn listed(&self, listed: &[RawEntry]) {
        if self.groups.is_none() {
            let files = listed.iter().filter(|entry| entry.kind == RawKind::File);
            self.sink.listed(files.count() as u64);
        }
    }

    fn directory(&self, path: &RepoPath, previous: Option<Directory>) -> Result<Directory> {
        let Listing { mode, entries: listed } = self.parts.tree.list(path)?;
        self.check_open(path, &RawKind::Dir, mode)?;
        self.listed(&listed);
        let page = self.parts.book.page(path)?;
        let known = self.known(page.as_ref(), previous)?;
        let held = known.of_all(&listed);
        let trusted = known.trusted;
        let seen: Vec<Seen> = listed
            .into_par_iter()
            .zip(held)
            .map(|(raw, seen)| self.entry(path, raw, Held { seen, trusted }, &Change::Whole))
            .collect::<Result<_>>()?;
        let (entries, stamps): (Vec<Entry>, Vec<FileStamp>) = seen.into_iter().flatten().unzip();
        // What is the same gives the same nodes, which need not be made to find that out.
        if let Some(same) = previous.filter(|_| trusted && known.is(&entries)) {
            let page = book::Page::new(path, same.node, stamps).replacing(page.as_ref());
            self.finished(&entries, Vec::new(), page)?;
            return Ok(same);
        }
        self.build(path, previous, entries, stamps, page.as_ref())
    }

    /// Fails with [`StoreError::SourceClosed`] if others may not read what was opened. It may have been closed or
    /// replaced since its name was looked at, so it is the opened thing that counts. The root is never closed.
    fn check_open(&self, path: &RepoPath, kind: &RawKind, mode: u16) -> Result<()> {
        if path.is_root() || !self.parts.rules.is_closed(kind, mode) {
            return Ok(());
        }
        let path = self.parts.tree.full(path);
        Err(StoreError::SourceClosed { path, mode })
    }

    /// Makes a directory of what was seen in it.
    fn build(
        &self,
        path: &RepoPath,
        previous: Option<Directory>,
        entries: Vec<Entry>,
        stamps: Vec<FileStamp>,
        page: Option<&book::Page>,
    ) -> Result<Directory> {
        let mut nodes = Vec::new();
        let directory =
            build_directory(&entries, &mut |node| nodes.push(node)).map_err(|error| StoreError::Unpublishable {
                count: 1,
                problems: vec![format!("{path}: {error}")],
                advice: String::new(),
            })?;
        let is_new = previous.is_none_or(|previous| previous.node != directory.node);
        let page = book::Page::new(path, directory.node, stamps).replacing(page);
        self.finished(&entries, if is_new { nodes } else { Vec::new() }, page)?;
        Ok(directory)
    }

    fn finished(&self, entries: &[Entry], nodes: Vec<CatalogNode>, page: Option<book::Page>) -> Result<()> {
        {
            let mut gathered = self.gathered();
            gathered.counts.directories += 1;
            for entry in entries {
                if let Kind::Symlink(_) = entry.meta.kind {
                    gathered.counts.symlinks += 1;
                }
            }
            gathered.node_bytes += nodes.iter().map(|node| node.bytes().len()).sum::<usize>();
            gathered.nodes.extend(nodes);
            gathered.stamps.extend(page);
        }
        self.flush(false)
    }

    /// Hands on what was gathered, if it is much. Content, digests, nodes, then stamps: what a later one names is
    /// durable, so a scan that was cut off can be taken up by the next one.
    fn flush(&self, all: bool) -> Result<()> {
        let is_much = |gathered: &Gathered| gathered.node_bytes + gathered.digests.len() * 512 >= BATCH_BYTES;
        if !all && !is_much(&self.gathered()) {
            return Ok(());
        }
        let _order = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let (nodes, digests, stamps) = {
            let mut gathered = self.gathered();
            if !all && !is_much(&gathered) {
                return Ok(());
            }
            gathered.node_bytes = 0;
            (
                std::mem::take(&mut gathered.nodes),
                std::mem::take(&mut gathered.digests),
                std::mem::take(&mut gathered.stamps),
            )
        };
        self.parts.objects.commit(&digests)?;
        self.parts.pieces.commit()?;
        self.sink.nodes(nodes)?;
        self.parts.book.put(stamps)
    }

    /// The files of a directory as the last scan saw them.
    fn known(&self, page: Option<&book::Page>, previous: Option<Directory>) -> Result<Known> {
        let Some(page) = page else { return Ok(Known::default()) };
        // A page of another tree than the last snapshot's (a scan that was cut off) is good, but then nobody
        // promises that retention has kept its objects: they are looked up.
        let trusted = previous.is_some_and(|previous| previous.node == page.node);
        let directory = Directory {
            node: page.node,
            files: 0,
            bytes: 0,
        };
        let root = Meta {
            mode: 0,
            mtime: 0,
            kind: Kind::Directory(directory),
        };
        let catalog = Catalog::new(self.parts.nodes, root);
        let mut entries = Vec::with_capacity(page.stamps.len());
        for (entry, stamp) in catalog.list(&directory, None).zip(&page.stamps) {
            // Nodes that are gone or damaged cost a new look at the files, nothing else.
            let Ok(entry) = entry else { return Ok(Known::default()) };
            entries.push((entry, *stamp));
        }
        Ok(Known { trusted, entries })
    }

    fn entry(&self, dir: &RepoPath, raw: RawEntry, held: Held<'_>, change: &Change) -> Result<Seen> {
        let shown = || {
            let slash = if dir.is_root() { "" } else { "/" };
            format!("{dir}{slash}{}", raw.name.escape_ascii())
        };
        let full = || Path::new(dir.as_str()).join(OsStr::from_bytes(&raw.name));
        if let Some((why, reason)) = self.parts.rules.closed(full, &raw.kind, raw.mode) {
            return Ok(self.unwanted(why, shown(), reason));
        }
        let unpublishable =
            |reason: &dyn std::fmt::Display| Ok(self.unwanted(LeftOutWhy::Unpublishable, shown(), reason));
        let name = match Name::new(&raw.name) {
            Ok(name) => name,
            Err(error) => return unpublishable(&error),
        };
        let path = match dir.join(&name) {
            Ok(path) => path,
            Err(error) => return unpublishable(&error),
        };
        if !MTIME_RANGE.contains(&raw.stamp.mtime) {
            return unpublishable(&"its modification time is out of range");
        }
        let kind = match &raw.kind {
            RawKind::Special => {
                return Ok(self.leave_out(LeftOutWhy::Special, shown(), "not a file, directory or symlink"));
            }
            RawKind::Symlink(target) => match check_target(target) {
                Ok(target) => Kind::Symlink(self.symlink(dir, &path, target).into()),
                Err(error) => return unpublishable(&format_args!("its target has {error}")),
            },
            RawKind::Dir => {
                let previous = held.seen.and_then(|(entry, _)| entry.meta.as_directory().copied());
                // Another directory that was moved to this place: nothing is known of what it holds.
                let is_same = |stamp: &FileStamp| self.parts.rules.stamps.ignore_inode || stamp.ino == raw.stamp.ino;
                let is_same = held.seen.is_some_and(|(_, stamp)| is_same(stamp));
                let change = if is_same { change } else { &Change::Whole };
                match self.changed_directory(&path, previous.filter(|_| held.trusted), change) {
                    Ok(directory) => Kind::Directory(directory),
                    Err(error) => return self.failed(&path, &error).ok_or(error),
                }
            }
            RawKind::File => return self.file(&path, name, &raw, held),
        };
        let meta = Meta {
            mode: raw.mode,
            mtime: raw.stamp.mtime,
            kind,
        };
        Ok(Some((Entry { name, meta }, raw.stamp)))
    }

    /// The target that is published for a symlink. One that leads nowhere is noted.
    fn symlink(&self, dir: &RepoPath, path: &RepoPath, target: &str) -> String {
        let inner = self.parts.tree.inner_target(target);
        let is_rewritten = inner.is_some() && self.parts.rules.symlinks == SymlinkRule::Rewrite;
        let published = match inner {
            Some(inner) if is_rewritten => rules::relative_target(dir.as_str(), inner),
            _ => target.to_owned(),
        };
        let end = match inner {
            Some(inner) => self.parts.tree.link_end(inner),
            None => self.parts.tree.link_end(path.as_str()),
        };
        let is_outside = end == LinkEnd::Outside;
        let is_dangling = match &end {
            LinkEnd::Inside { path, kind, mode } => {
                *kind == RawKind::Special
                    || !path.as_os_str().is_empty() && self.parts.rules.closed(|| path, kind, *mode).is_some()
            }
            LinkEnd::Nowhere => true,
            LinkEnd::Outside => false,
        };
        if inner.is_none() && !is_outside && !is_dangling {
            return published;
        }
        let mut gathered = self.gathered();
        let noted = &mut gathered.symlinks;
        let note = |noted: &mut Noted| noted.note(path.as_str().to_owned(), target);
        if is_rewritten {
            note(&mut noted.rewritten);
        } else if inner.is_some() {
            note(&mut noted.absolute);
        }
        if is_dangling {
            note(&mut noted.dangling);
        } else if is_outside {
            note(&mut noted.leaving);
        }
        drop(gathered);
        published
    }

    /// Errors of one source file, which are listed together, as opposed to errors of our own disk: something of ours that
    /// is gone is no reason to leave a file out.
    fn concerns_source(&self, error: &StoreError) -> bool {
        match error {
            StoreError::SourceChanged { .. } | StoreError::SourceClosed { .. } | StoreError::OutsideRoot { .. } => true,
            StoreError::Io { path, .. } => path.starts_with(self.parts.tree.root()),
            _ => false,
        }
    }
}

/// What the last scan saw in one directory.
#[derive(Default)]
struct Known {
    /// It is what the last snapshot has there.
    trusted: bool,
    /// In order of name.
    entries: Vec<(Entry, FileStamp)>,
}

impl Known {
    /// What is known of each of the listed names, which are in order as well.
    fn of_all(&self, listed: &[RawEntry]) -> Vec<Option<&(Entry, FileStamp)>> {
        let mut known = self.entries.iter().peekable();
        let of = |raw: &RawEntry| {
            while known
                .next_if(|(entry, _)| entry.name.as_str().as_bytes() < raw.name.as_slice())
                .is_some()
            {}
            known.next_if(|(entry, _)| entry.name.as_str().as_bytes() == raw.name.as_slice())
        };
        listed.iter().map(of).collect()
    }

    /// These very entries were seen last time.
    fn is(&self, entries: &[Entry]) -> bool {
        self.entries.len() == entries.len()
            && self
                .entries
                .iter()
                .zip(entries)
                .all(|((known, _), entry)| known == entry)
    }
}

/// An entry as the last scan saw it.
#[derive(Clone, Copy)]
struct Held<'a> {
    seen: Option<&'a (Entry, FileStamp)>,
    /// It is what the last snapshot has there.
    trusted: bool,
}

/// An error and its cause; a cause that the error has told already is not told again.
fn with_cause(error: &StoreError) -> String {
    let text = error.to_string();
    match std::error::Error::source(error).map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// The root's own time is nobody's content: one that does not fit is shown as the nearest that does.
fn clamp_mtime(mtime: i64) -> i64 {
    mtime.clamp(*MTIME_RANGE.start(), *MTIME_RANGE.end())
}
