//! `imserver snapshot diff`: what differs between two snapshots, from their catalogs alone; and `imserver publish --dry-run`,
//! what would differ.

use std::fmt::Write as _;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};

use instantmirror::bars::{Bar, Unit};
use instantmirror::config::ByteSize;
use instantmirror::core::catalog::Difference;
use instantmirror::core::{Kind, Meta, RepoName, SnapshotId};
use instantmirror::master::{PlannedOutcome, PublishPlan};
use instantmirror::text::Count;
use instantmirror::{Master, daemon, progress};
use serde_json::{Value, json};

/// How many, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    entries: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, meta: Option<&Meta>) {
        self.entries += 1;
        self.bytes += meta.map_or(0, size);
    }

    fn json(self) -> Value {
        json!({ "entries": self.entries, "bytes": self.bytes })
    }
}

/// Of all differences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Summary {
    added: Sum,
    removed: Sum,
    /// Other content.
    changed: Sum,
    /// The same content with another time or other permissions.
    touched: Sum,
}

impl Summary {
    /// Counts a difference, and returns its kind.
    fn count(&mut self, difference: &Difference) -> &'static str {
        let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
        let (sum, kind) = match (before, after) {
            (None, _) => (&mut self.added, "added"),
            (_, None) => {
                self.removed.add(before);
                return "removed";
            }
            (Some(one), Some(other)) if content(one) == content(other) => (&mut self.touched, "touched"),
            _ => (&mut self.changed, "changed"),
        };
        sum.add(after);
        kind
    }
}

/// The part of an entry that decides whether it has another content.
fn content(meta: &Meta) -> (Option<instantmirror::core::ObjectId>, Option<&str>) {
    match &meta.kind {
        Kind::File(file) => (Some(file.object), None),
        Kind::Symlink(target) => (None, Some(target)),
        Kind::Directory(_) => (None, None),
    }
}

fn size(meta: &Meta) -> u64 {
    match &meta.kind {
        Kind::File(file) => file.size,
        _ => 0,
    }
}

fn described(meta: &Meta) -> String {
    match &meta.kind {
        Kind::File(file) => ByteSize(file.size).to_string(),
        Kind::Symlink(target) => format!("-> {target}"),
        Kind::Directory(_) => "directory".to_owned(),
    }
}

fn as_json(meta: &Meta) -> Value {
    let mut shown = json!({ "mtime": meta.mtime, "mode": format!("{:o}", meta.mode) });
    match &meta.kind {
        Kind::File(file) => {
            shown["size"] = json!(file.size);
            shown["object"] = json!(file.object.to_string());
        }
        Kind::Symlink(target) => shown["target"] = json!(target),
        Kind::Directory(_) => {}
    }
    shown
}

/// Writes the differences between two snapshots.
pub(crate) fn run(
    master: &Master,
    repository: &RepoName,
    (before, after): (SnapshotId, SnapshotId),
    json: bool,
) -> anyhow::Result<()> {
    let differences = master.differences(repository, before, after)?;
    let frame = json.then(|| Frame {
        before: vec![
            ("repository", json!(repository)),
            ("before", json!(before)),
            ("after", json!(after)),
        ],
        behind: Vec::new(),
    });
    write(&format!("diff {repository}"), differences, frame.as_ref())
}

/// Writes what a publish would change, and what would become of it.
pub(crate) fn plan(repository: &RepoName, plan: &PublishPlan, json: bool) -> anyhow::Result<()> {
    let (outcome, reasons) = match &plan.outcome {
        PlannedOutcome::Unchanged(_) => ("unchanged", Vec::new()),
        PlannedOutcome::TakenBack(_) => ("taken back", Vec::new()),
        PlannedOutcome::Snapshot => ("snapshot", Vec::new()),
        PlannedOutcome::Refused(reasons) => (
            "refused",
            reasons.iter().map(|reason| daemon::explain(reason)).collect(),
        ),
    };
    let counts = &plan.scanned.counts;
    let frame = json.then(|| Frame {
        before: vec![
            ("repository", json!(repository)),
            ("dry_run", json!(true)),
            ("before", json!(plan.before)),
            ("after", Value::Null),
        ],
        behind: vec![
            ("outcome", json!(outcome)),
            ("refused", json!(reasons)),
            ("full_scan", json!(plan.is_full_scan)),
            ("files", json!(plan.scanned.root.files)),
            ("bytes", json!(plan.scanned.root.bytes)),
            ("read_files", json!(counts.read_files)),
            ("read_bytes", json!(counts.read_bytes)),
            ("left_out", json!(progress::left_out(&plan.scanned.left_out))),
            ("symlinks", json!(progress::symlinks(&plan.scanned.symlinks))),
        ],
    });
    let differ = matches!(plan.outcome, PlannedOutcome::Snapshot | PlannedOutcome::Refused(_));
    if frame.is_none() && !differ {
        println!("{repository}: {plan}");
        return Ok(());
    }
    write(&format!("diff {repository}"), plan.differences(), frame.as_ref())?;
    if frame.is_none() {
        println!("{repository}: {plan}");
    }
    Ok(())
}

/// The members of a JSON object that stand before and behind the differences in it.
struct Frame {
    before: Vec<(&'static str, Value)>,
    behind: Vec<(&'static str, Value)>,
}

fn write_members(out: &mut impl Write, members: &[(&str, Value)]) -> io::Result<()> {
    members
        .iter()
        .try_for_each(|(name, value)| write!(out, "\"{name}\": {value}, "))
}

/// Writes differences as they are found, one by one, and their sums: for people, or as JSON in a frame.
fn write(
    what: &str,
    differences: impl Iterator<Item = Result<Difference, impl std::error::Error + Send + Sync + 'static>>,
    frame: Option<&Frame>,
) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    // On a terminal the differences themselves say how far it is.
    let bar = (!io::stdout().is_terminal()).then(|| Bar::new(what, Unit::Files));
    let (mut summary, mut first, mut count) = (Summary::default(), true, 0);
    let written = (|| {
        if let Some(frame) = frame {
            write!(out, "{{")?;
            write_members(&mut out, &frame.before)?;
            write!(out, "\"differences\": [")?;
        }
        for difference in differences {
            let difference = difference.map_err(io::Error::other)?;
            let kind = summary.count(&difference);
            count += 1;
            bar.iter().for_each(|bar| bar.set(count, None, ""));
            if frame.is_some() {
                let (one, other) = (difference.before.as_ref(), difference.after.as_ref());
                let shown = json!({
                    "path": difference.path.as_str(), "kind": kind,
                    "before": one.map(as_json), "after": other.map(as_json),
                });
                write!(out, "{}\n  {shown}", if first { "" } else { "," })?;
                first = false;
            } else {
                writeln!(out, "{}", line(kind, &difference))?;
            }
        }
        if let Some(frame) = frame {
            let sums = json!({
                "added": summary.added.json(), "removed": summary.removed.json(),
                "changed": summary.changed.json(), "touched": summary.touched.json(),
            });
            write!(out, "\n], ")?;
            write_members(&mut out, &frame.behind)?;
            writeln!(out, "\"summary\": {sums}}}")?;
        } else {
            writeln!(out, "{}", sentence(&summary))?;
        }
        out.flush()
    })();
    match written {
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn line(kind: &str, difference: &Difference) -> String {
    let sign = match kind {
        "added" => '+',
        "removed" => '-',
        "changed" => '*',
        _ => '.',
    };
    let mut text = format!("{sign} {}", difference.path);
    // Writing to a string cannot fail.
    let _ = match (&difference.before, &difference.after) {
        (Some(one), Some(other)) if kind == "changed" => {
            write!(text, "  ({}, now {})", described(one), described(other))
        }
        (_, Some(meta)) | (Some(meta), None) => write!(text, "  ({})", described(meta)),
        (None, None) => Ok(()),
    };
    text
}

fn sentence(summary: &Summary) -> String {
    let sum = |sum: Sum, what: &str| format!("{} {what} ({})", Count(sum.entries, "entry"), ByteSize(sum.bytes));
    format!(
        "{}, {}, {}; {} with another time or mode alone",
        sum(summary.added, "added"),
        sum(summary.removed, "removed"),
        sum(summary.changed, "changed"),
        Count(summary.touched.entries, "entry")
    )
}
