//! `imserver snapshot`: looking at snapshots, naming them, going back, taking them away.

use clap::Subcommand;
use instantmirror::bars::{Bar, Unit};
use instantmirror::config::ByteSize;
use instantmirror::core::snapshot_ref::SnapshotRef;
use instantmirror::core::{RepoName, SnapshotId, TagName};
use instantmirror::master::{Removal, RemoveOptions, Rollback};
use instantmirror::text::Count;
use instantmirror::{Master, MasterError};
use serde_json::json;

use crate::show;

const ROLLBACK_EXAMPLES: &str = "Examples:
  imserver snapshot rollback debian current~1            make current what was current before
  imserver snapshot rollback debian 3f2a --dry-run       say what it would do

Nothing is read from the source tree. The tree that was current is kept, under snap/ID, and nothing of it is found under
`current` any more. Neither `publish` nor `watch` brings it back: a publish of the same tree says so and does nothing, until
the tree changes or --again is given. `imserver snapshot rollback REPO ID` also goes forward again.";

const REMOVE_EXAMPLES: &str = "Examples:
  imserver snapshot remove debian 3f2a --dry-run         say what would go
  imserver snapshot remove debian 3f2a 77c0 --reason 'takedown 2026-17'

Master and nodes stop showing it within seconds, by every name, and delete what nothing else refers to. Nodes also drop tags
of their own that name it. Files that other snapshots have too stay: remove those snapshots as well. The reason travels with
the signed head, which everybody can read.";

#[derive(Subcommand)]
pub(crate) enum SnapshotCommand {
    /// List the live snapshots of a repository, in the order in which they were published.
    List {
        /// The repository.
        repository: RepoName,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one snapshot.
    Show {
        /// The repository.
        repository: RepoName,
        /// The snapshot: an id or the beginning of it, a tag, current or current~N; the current one if none is named.
        snapshot: Option<SnapshotRef>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what differs between two snapshots: + added, - removed, * other content, . other time or mode alone.
    Diff {
        /// The repository.
        repository: RepoName,
        /// The older one: an id or the beginning of it, a tag, current or current~N.
        before: SnapshotRef,
        /// The newer one.
        #[arg(default_value = "current")]
        after: SnapshotRef,
        /// As JSON, written as it is found.
        #[arg(long)]
        json: bool,
    },
    /// Name a snapshot: it shows at master-snap/NAME/ and never expires. A name that is taken moves.
    Tag {
        /// The repository.
        repository: RepoName,
        /// The name: 1 to 64 of a-z, 0-9, '.', '_' and '-'.
        name: TagName,
        /// The snapshot: an id or the beginning of it, a tag, current or current~N.
        snapshot: SnapshotRef,
    },
    /// Show a staged snapshot to everybody and make it current, whatever its rule says.
    Release {
        /// The repository.
        repository: RepoName,
        /// The snapshot: an id or the beginning of it, or a tag.
        snapshot: SnapshotRef,
        /// Even if something was published since it was staged, which this takes back.
        #[arg(long)]
        take_back: bool,
    },
    /// Drop a staged snapshot.
    Withdraw {
        /// The repository.
        repository: RepoName,
        /// The snapshot: an id or the beginning of it, or a tag.
        snapshot: SnapshotRef,
    },
    /// Make a kept snapshot current again.
    #[command(after_help = ROLLBACK_EXAMPLES)]
    Rollback {
        /// The repository.
        repository: RepoName,
        /// The snapshot: an id or the beginning of it, a tag, or current~N.
        snapshot: SnapshotRef,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take snapshots away for good, with all that only they have.
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// The repository.
        repository: RepoName,
        /// The snapshots: ids or the beginnings of them, tags, or current~N.
        #[arg(required = true)]
        snapshots: Vec<SnapshotRef>,
        /// Why, for everybody who reads the head and for the logs of nodes.
        #[arg(long, default_value = "")]
        reason: String,
        /// Also tagged ones, with their tags.
        #[arg(long)]
        tags: bool,
        /// Also snapshots (by whole ids) that are not kept here any more, but perhaps on nodes, for tags of their own.
        #[arg(long)]
        expired: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a name away.
    Untag {
        /// The repository.
        repository: RepoName,
        /// The name.
        name: TagName,
    },
}

pub(crate) async fn run(master: &Master, command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::List { repository, json } => show::list(master, &repository, json).await,
        SnapshotCommand::Show {
            repository,
            snapshot,
            json,
        } => {
            let snapshot = snapshot
                .map(|snapshot| resolve(master, &repository, &snapshot))
                .transpose()?;
            show::snapshot(master, &repository, snapshot, json).await
        }
        command => tokio::task::block_in_place(|| change(master, command)),
    }
}

/// The snapshot that a person means.
pub(crate) fn resolve(master: &Master, repository: &RepoName, asked: &SnapshotRef) -> anyhow::Result<SnapshotId> {
    Ok(tokio::task::block_in_place(|| master.resolve(repository, asked))?)
}

/// Commands that read much or sign a head. Blocks.
fn change(master: &Master, command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::List { .. } | SnapshotCommand::Show { .. } => {}
        SnapshotCommand::Diff {
            repository,
            before,
            after,
            json,
        } => {
            let pair = (
                master.resolve(&repository, &before)?,
                master.resolve(&repository, &after)?,
            );
            crate::diff::run(master, &repository, pair, json)?;
        }
        SnapshotCommand::Tag {
            repository,
            name,
            snapshot,
        } => {
            let snapshot = master.resolve(&repository, &snapshot)?;
            let tagged = master.tag(&repository, &name, snapshot)?;
            println!("{repository}: '{name}' is {snapshot}: {tagged}");
        }
        SnapshotCommand::Untag { repository, name } => {
            let snapshot = master.untag(&repository, &name)?;
            println!("{repository}: '{name}' is no longer {snapshot}");
        }
        SnapshotCommand::Release {
            repository,
            snapshot,
            take_back,
        } => {
            let snapshot = master.resolve(&repository, &snapshot)?;
            master.release(&repository, snapshot, take_back)?;
            println!("{repository}: {snapshot} is current");
        }
        SnapshotCommand::Withdraw { repository, snapshot } => {
            let snapshot = master.resolve(&repository, &snapshot)?;
            master.withdraw(&repository, snapshot)?;
            println!("{repository}: {snapshot} is withdrawn");
        }
        SnapshotCommand::Rollback {
            repository,
            snapshot,
            dry_run,
            json,
        } => {
            let snapshot = master.resolve(&repository, &snapshot)?;
            roll_back(master, &repository, snapshot, dry_run, json)?;
        }
        SnapshotCommand::Remove {
            repository,
            snapshots,
            reason,
            tags,
            expired,
            dry_run,
            json,
        } => {
            let ids = snapshots.iter().map(|asked| master.resolve(&repository, asked));
            let ids = ids.collect::<Result<Vec<_>, _>>()?;
            let mut options = RemoveOptions::default();
            (options.reason, options.tags, options.expired) = (reason, tags, expired);
            remove(master, &repository, &ids, &options, dry_run, json)?;
        }
    }
    Ok(())
}

fn roll_back(
    master: &Master,
    repository: &RepoName,
    snapshot: SnapshotId,
    dry_run: bool,
    json: bool,
) -> Result<(), MasterError> {
    let done = match dry_run {
        true => master.plan_rollback(repository, snapshot)?,
        false => master.rollback(repository, snapshot)?,
    };
    rolled_back(repository, &done, dry_run, json);
    Ok(())
}

fn remove(
    master: &Master,
    repository: &RepoName,
    ids: &[SnapshotId],
    options: &RemoveOptions,
    dry_run: bool,
    json: bool,
) -> Result<(), MasterError> {
    let done = if dry_run {
        master.plan_removal(repository, ids, options)?
    } else {
        let bar = Bar::new(format!("remove from {repository}"), Unit::Objects);
        master.remove_snapshots(repository, ids, options, &bar)?
    };
    removed(&done, dry_run, json);
    Ok(())
}

fn rolled_back(repository: &RepoName, done: &Rollback, dry_run: bool, json: bool) {
    if json {
        let shown = json!({
            "repository": repository, "dry_run": dry_run, "from": done.from, "to": done.to,
            "withdrawn": done.withdrawn, "sequence": done.sequence,
        });
        return println!("{shown:#}");
    }
    if done.from == Some(done.to) {
        return println!("{repository}: {} is current already; nothing was done", done.to);
    }
    let (is, are) = if dry_run {
        ("would be", "would be")
    } else {
        ("is", "are")
    };
    let size = ByteSize(done.root.bytes);
    println!(
        "{repository}: {} {is} current again ({}, {size})",
        done.to,
        Count(done.root.files, "file")
    );
    for id in &done.withdrawn {
        println!("  {id} {is} withdrawn: kept, and shown under its own name alone");
    }
    if done.withdrawn.is_empty()
        && let Some(from) = done.from
    {
        println!("  {from}, which was current, is older: its files {are} found for the grace time");
    }
}

fn removed(done: &Removal, dry_run: bool, json: bool) {
    let deleted = &done.deleted;
    if json {
        let shown = json!({
            "repository": done.repository, "dry_run": dry_run, "snapshots": done.snapshots, "expired": done.expired,
            "tags": done.tags, "objects": deleted.objects, "bytes": deleted.bytes, "sequence": done.sequence,
        });
        return println!("{shown:#}");
    }
    let (is, were) = if dry_run {
        ("would be", "would be")
    } else {
        ("is", "were")
    };
    for id in &done.snapshots {
        let note = if done.expired.contains(id) {
            " (it had expired here before)"
        } else {
            ""
        };
        println!("{}: {id} {is} removed{note}", done.repository);
    }
    for tag in &done.tags {
        println!("  with the tag {tag}");
    }
    println!(
        "  {} ({}) {were} deleted; what other snapshots have too stays",
        Count(deleted.objects, "object"),
        ByteSize(deleted.bytes)
    );
}
