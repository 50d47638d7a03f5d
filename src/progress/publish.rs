//! A publish as a progress line on a terminal, and its result as text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use instantmirror_core::RepoName;
use instantmirror_store::scan::{LeftOut, LeftOutWhy, Noted, Scanned, SymlinkReport};
use serde::Serialize;

use super::Progress;
use crate::bars::{Bar, Unit};
use crate::config::ByteSize;
use crate::daemon;
use crate::master::{NoProgress, PlannedOutcome, PublishPlan, PublishProgress, Published, PublishedSnapshot};
use crate::text::Count;

impl Progress for NoProgress {
    fn at(&self, _: u64, _: Option<u64>) {}
}

/// Shows how a publish goes, on standard error.
#[derive(Debug)]
pub struct PublishBar {
    bar: Bar,
    /// Files of the current snapshot: there will be about so many.
    expected: Option<u64>,
    listed: AtomicU64,
    imported: AtomicU64,
    read: AtomicU64,
    begun: Instant,
}

impl PublishBar {
    /// A bar for a publish of a repository, whose current snapshot has `expected` files.
    #[must_use]
    pub fn new(repository: &RepoName, expected: Option<u64>) -> Self {
        Self::called(format!("publish {repository}"), expected)
    }

    /// The same for a dry run.
    #[must_use]
    pub fn dry(repository: &RepoName, expected: Option<u64>) -> Self {
        Self::called(format!("publish {repository} (dry run)"), expected)
    }

    fn called(what: String, expected: Option<u64>) -> Self {
        Self {
            bar: Bar::new(what, Unit::Files),
            expected,
            listed: AtomicU64::new(0),
            imported: AtomicU64::new(0),
            read: AtomicU64::new(0),
            begun: Instant::now(),
        }
    }

    fn show(&self) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (listed, imported, read) = (of(&self.listed), of(&self.imported), of(&self.read));
        let rate = ByteSize(read / self.begun.elapsed().as_secs().max(1));
        let note = match read {
            0 => String::new(),
            _ => format!("; {imported} new or changed, {} read, {rate}/s", ByteSize(read)),
        };
        self.bar.set(listed, self.expected, &note);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish();
    }
}

impl PublishProgress for PublishBar {
    fn listed(&self, files: u64) {
        self.listed.fetch_add(files, Ordering::Relaxed);
        self.show();
    }

    fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.show();
    }

    fn imported(&self) {
        self.imported.fetch_add(1, Ordering::Relaxed);
    }
}

/// For people.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged(id) => write!(f, "nothing has changed; current is still {id}"),
            Self::TakenBack(id) => write!(
                f,
                "the tree is that of snapshot {id}, which was taken back, so nothing is published; change the tree, or \
                 `imserver publish --again`"
            ),
            Self::Snapshot(published) => published.fmt(f),
        }
    }
}

/// For people: what it is, what was done, what was left out.
impl fmt::Display for PublishedSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            snapshot,
            scanned,
            is_full_scan,
            took,
            ..
        } = self;
        write!(f, "snapshot {}: ", snapshot.id)?;
        write_counts(f, scanned, *is_full_scan)?;
        write!(f, " in {:.2} s", took.as_secs_f64())?;
        write_notes(f, scanned, *is_full_scan)
    }
}

/// For people: what would be done, and what would be left out.
impl fmt::Display for PublishPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            PlannedOutcome::Unchanged(id) => write!(f, "nothing has changed; current would stay {id}")?,
            PlannedOutcome::TakenBack(id) => write!(
                f,
                "the tree is that of snapshot {id}, which was taken back, so nothing would be published; change the tree, \
                 or `imserver publish --again`"
            )?,
            PlannedOutcome::Snapshot => {
                f.write_str("would be published: ")?;
                write_counts(f, &self.scanned, self.is_full_scan)?;
            }
            PlannedOutcome::Refused(reasons) => {
                f.write_str("would be refused")?;
                for reason in reasons {
                    write!(f, ": {}", daemon::explain(reason))?;
                }
                f.write_str("\nwithout what is refused: ")?;
                write_counts(f, &self.scanned, self.is_full_scan)?;
            }
        }
        write_notes(f, &self.scanned, self.is_full_scan)
    }
}

/// What a tree holds, and what of it was read.
fn write_counts(f: &mut fmt::Formatter<'_>, scanned: &Scanned, is_full_scan: bool) -> fmt::Result {
    let counts = &scanned.counts;
    write!(f, "{}, ", Count(counts.files, "file"))?;
    if is_full_scan {
        write!(
            f,
            "{}, {}, ",
            Count(counts.directories, "directory"),
            Count(counts.symlinks, "symlink")
        )?;
    }
    write!(
        f,
        "{}; {} ({}) read",
        ByteSize(scanned.root.bytes),
        Count(counts.read_files, "new or changed file"),
        ByteSize(counts.read_bytes)
    )
}

/// What is not as one might think.
fn write_notes(f: &mut fmt::Formatter<'_>, scanned: &Scanned, is_full_scan: bool) -> fmt::Result {
    if !is_full_scan {
        f.write_str("; only what was named was looked at")?;
    }
    for (why, noted) in &scanned.left_out {
        write_left_out(f, *why, noted)?;
    }
    let symlinks = &scanned.symlinks;
    write_symlinks(
        f,
        "with an absolute target in the tree, which lead nowhere for readers",
        &symlinks.absolute,
    )?;
    write_symlinks(f, "with an absolute target made relative", &symlinks.rewritten)?;
    write_symlinks(f, "out of the tree", &symlinks.leaving)?;
    write_symlinks(f, "to what is not there or not published", &symlinks.dangling)
}

/// Paths of which something is true, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paths {
    count: u64,
    /// The first of them, each with the reason or the target.
    examples: BTreeMap<String, String>,
}

/// Paths by the word that is true of them.
pub type PathsByWord = BTreeMap<&'static str, Paths>;

impl From<&Noted> for Paths {
    fn from(Noted { count, examples }: &Noted) -> Self {
        Self {
            count: *count,
            examples: examples.clone(),
        }
    }
}

/// What was left out, by reason.
#[must_use]
pub fn left_out(left_out: &LeftOut) -> PathsByWord {
    let by_word = left_out.iter().map(|(why, noted)| (why.word(), noted.into()));
    by_word.collect()
}

/// Symlinks that lead nowhere for readers, by kind.
#[must_use]
pub fn symlinks(report: &SymlinkReport) -> PathsByWord {
    let kinds = [
        ("absolute", &report.absolute),
        ("rewritten", &report.rewritten),
        ("leaving", &report.leaving),
        ("dangling", &report.dangling),
    ];
    let noted = kinds.into_iter().filter(|(_, noted)| noted.count > 0);
    noted.map(|(kind, noted)| (kind, noted.into())).collect()
}

/// What somebody decided to leave out is counted; what only happened to be so is listed.
fn write_left_out(f: &mut fmt::Formatter<'_>, why: LeftOutWhy, noted: &Noted) -> fmt::Result {
    if matches!(why, LeftOutWhy::Excluded | LeftOutWhy::Private) {
        let word = why.word();
        let (path, reason) = noted.example().unwrap_or_default();
        return write!(f, "\n  left out: {} {word}, the first is {path}: {reason}", noted.count);
    }
    for (path, reason) in &noted.examples {
        write!(f, "\n  left out: {path}: {reason}")?;
    }
    match noted.count.saturating_sub(noted.examples.len() as u64) {
        0 => Ok(()),
        more => write!(f, "\n  and {more} more"),
    }
}

fn write_symlinks(f: &mut fmt::Formatter<'_>, what: &str, noted: &Noted) -> fmt::Result {
    match noted.example() {
        None => Ok(()),
        Some((path, target)) => write!(f, "\n  symlinks {what}: {}, such as {path} -> {target}", noted.count),
    }
}
