//! `imserver publish` and `imserver watch`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use instantmirror::core::{RepoName, Timestamp};
use instantmirror::master::{Hints, PlannedOutcome, StageRule};
use instantmirror::progress::PublishBar;
use instantmirror::{Master, MasterError, PublishOptions, Published, daemon};

use crate::{diff, named_or_all, retention};

const EXAMPLES: &str = "Examples:
  imserver publish                                     all repositories of the configuration
  imserver publish debian --changed dists pool/main/l  look at nothing else
  imserver publish fedora --stage --when-synced 80     show it when 80 % of the nodes have it
  imserver publish debian --dry-run                    what would change, be refused or left out";

/// What `imserver publish` takes.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The repositories; all of the configuration if none is named.
    repositories: Vec<RepoName>,
    /// A remark that is kept with the snapshot.
    #[arg(long, default_value = "")]
    note: String,
    /// Publish a tree that has lost all its files, instead of asking whether it is mounted.
    #[arg(long)]
    allow_empty: bool,
    /// Look only at these paths, relative to the source tree; of a directory at all below it, of one that is gone at
    /// nothing. Everything else stays as the last publish saw it.
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "changed_from")]
    changed: Vec<PathBuf>,
    /// The same, from a file or from standard input (-): paths one a line or with NUL behind each, or a file list
    /// as `fullfiletimelist` of Fedora's mirrors, made of this very tree, from which follows what has changed.
    #[arg(long, value_name = "FILE")]
    changed_from: Option<PathBuf>,
    /// Publish even if the repository metadata in the tree (repomd.xml, Release, Packages) names files that are missing
    /// or different. For this once; the next publish is checked again.
    #[arg(long)]
    no_check: bool,
    /// Publish even a tree that was taken back by `snapshot rollback` or with `snapshot remove`. Without it such a tree is
    /// told of and left alone, so that no timer and no watch undoes what you did.
    #[arg(long)]
    again: bool,
    /// Do nothing, and say what would be done: what would be added, removed and changed, and what would be refused or left
    /// out, and why. New and changed files are read for it, and nothing is written; it works beside whoever writes to the
    /// store. Exits with 0, or with 1 if the publish would be refused.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run, as JSON: one object for each repository, with the members that `snapshot diff --json` has.
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Wait while another process writes to the store, however long; else a publish gives up after 10 seconds.
    #[arg(long)]
    wait: bool,
    /// Do not make the snapshot current: only registered nodes get it, and nobody sees it until it is released.
    #[arg(long)]
    stage: bool,
    /// Release it at this time (RFC 3339, like 2026-04-21T14:00:00Z); done by a running `imserver serve`.
    #[arg(long, value_name = "TIME", requires = "stage")]
    release_at: Option<Timestamp>,
    /// Release it when this share of the registered nodes has all of it; with --release-at, not before both.
    #[arg(long, value_name = "PERCENT", requires = "stage", value_parser = clap::value_parser!(u8).range(0..=100))]
    when_synced: Option<u8>,
}

/// Publishes the repositories one by one; one that fails keeps none of the others back.
pub(crate) fn run(master: &Master, arguments: Arguments) -> anyhow::Result<()> {
    let hints = hints(master, &arguments)?;
    let names = named_or_all(master, arguments.repositories);
    let mut options = PublishOptions::default();
    options.note = arguments.note;
    options.allow_empty = arguments.allow_empty;
    options.stage = arguments.stage.then(|| {
        let mut rule = StageRule::default();
        rule.release_at = arguments.release_at;
        rule.when_synced_percent = arguments.when_synced;
        rule
    });
    options.hints = hints;
    options.wait = arguments.wait;
    options.no_check = arguments.no_check;
    options.again = arguments.again;
    if arguments.dry_run {
        return plan(master, &names, &options, arguments.json);
    }
    let mut failed = Vec::new();
    for name in &names {
        let bar = PublishBar::new(name, tokio::task::block_in_place(|| master.current_files(name)));
        let published = tokio::task::block_in_place(|| master.publish(name, &options, &bar));
        bar.finish();
        match published {
            Ok(published) => println!("{name}: {published}"),
            Err(error) if names.len() == 1 => return Err(error.into()),
            Err(error) => {
                eprintln!("imserver: {name}: {}", daemon::explain(&error));
                failed.push(name.as_str());
            }
        }
    }
    tokio::task::block_in_place(|| retention::after_publish(master, &names));
    anyhow::ensure!(failed.is_empty(), "not published: {}", failed.join(", "));
    Ok(())
}

/// Says what [`run`] would do.
fn plan(master: &Master, names: &[RepoName], options: &PublishOptions, json: bool) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    for name in names {
        let bar = PublishBar::dry(name, tokio::task::block_in_place(|| master.current_files(name)));
        let planned = tokio::task::block_in_place(|| master.plan_publish(name, options, &bar));
        bar.finish();
        match planned {
            Ok(plan) => {
                diff::plan(name, &plan, json)?;
                if let PlannedOutcome::Refused(_) = plan.outcome {
                    refused.push(name.as_str());
                }
            }
            Err(error) if names.len() == 1 => return Err(error.into()),
            Err(error) => {
                eprintln!("imserver: {name}: {}", daemon::explain(&error));
                refused.push(name.as_str());
            }
        }
    }
    anyhow::ensure!(refused.is_empty(), "would not be published: {}", refused.join(", "));
    Ok(())
}

/// Watches until SIGTERM; a publish that runs then is finished.
pub(crate) async fn watch(master: Master, repository: RepoName, settle: Duration) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let watching = tokio::task::spawn_blocking(move || {
        let hear = |published: &Result<Published, MasterError>| {
            if let Ok(published) = published {
                println!("{repository}: {published}");
            }
        };
        master.watch(&repository, settle, &|| told.load(Ordering::Relaxed), &hear)
    });
    let stopping = async {
        daemon::told_to_stop().await;
        stop.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = watching => Ok(done??),
        () = stopping => Ok(()),
    }
}

/// What the command line says has changed.
fn hints(master: &Master, arguments: &Arguments) -> anyhow::Result<Option<Hints>> {
    let Arguments {
        changed, changed_from, ..
    } = arguments;
    if changed.is_empty() && changed_from.is_none() {
        return Ok(None);
    }
    let names = named_or_all(master, arguments.repositories.clone());
    let [name] = names.as_slice() else {
        anyhow::bail!("--changed and --changed-from are about one repository: name it before them");
    };
    let source = &master.repository(name)?.source;
    let hints = match changed_from {
        None => Hints::of_paths(source, changed),
        Some(file) if file == Path::new("-") => Hints::read(source, std::io::stdin().lock()),
        Some(file) => {
            let list = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
            Hints::read(source, BufReader::new(list))
        }
    };
    Ok(Some(hints?))
}
