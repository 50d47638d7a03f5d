//! A publish as a progress line on a terminal, and its result as text.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use instantmirror_core::RepoName;
use instantmirror_store::scan::{LeftOutWhy, Noted};

use crate::bars::{Bar, Unit};
use crate::config::ByteSize;
use crate::master::{PublishProgress, Published, PublishedSnapshot};
use crate::text::Count;

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
        Self {
            bar: Bar::new(format!("publish {repository}"), Unit::Files),
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
        let counts = &scanned.counts;
        let (size, read) = (ByteSize(snapshot.root.bytes), ByteSize(counts.read_bytes));
        write!(f, "snapshot {}: {}, ", snapshot.id, Count(counts.files, "file"))?;
        if *is_full_scan {
            write!(
                f,
                "{}, {}, ",
                Count(counts.directories, "directory"),
                Count(counts.symlinks, "symlink")
            )?;
        }
        write!(
            f,
            "{size}; {} ({read}) read in {:.2} s",
            Count(counts.read_files, "new or changed file"),
            took.as_secs_f64(),
        )?;
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
