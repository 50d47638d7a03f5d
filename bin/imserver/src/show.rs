//! What `imserver` prints of snapshots and of a running server.

use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, IsTerminal as _, Write as _};

use instantmirror::bars::{Bar, Unit};
use instantmirror::config::ByteSize;
use instantmirror::core::head::{LiveSnapshot, SnapshotState};
use instantmirror::core::{Head, RepoName, SignedHead, Snapshot, SnapshotId, appearance};
use instantmirror::export::{ExportError, ExportFormat};
use instantmirror::master::{MasterStatus, NoProgress};
use instantmirror::progress::Progress;
use instantmirror::text::Count;
use instantmirror::{Master, MasterError, control};

/// The live snapshots, oldest first.
pub(crate) async fn list(master: &Master, repository: &RepoName, json: bool) -> anyhow::Result<()> {
    master.repository(repository)?;
    let Some(signed) = master.head(repository)? else {
        anyhow::bail!("'{repository}' was never published; `imserver publish {repository}` does it");
    };
    let head = signed.head();
    let mut rows = Vec::new();
    for live in &head.snapshots {
        rows.push((live, master.snapshot(repository, live.id)?));
    }
    let staged_at = staged_at(master, repository, head).await;
    if json {
        let row = |(live, snapshot): &(&LiveSnapshot, Snapshot)| {
            let (current, tags) = (head.current == Some(snapshot.id), tags(head, snapshot.id));
            let mut row = serde_json::json!({ "live": live, "current": current, "tags": tags, "snapshot": snapshot });
            if let Some((complete, _)) = staged_at.get(&live.id) {
                row["staged_at"] = serde_json::json!(complete);
            }
            row
        };
        println!("{:#}", serde_json::Value::Array(rows.iter().map(row).collect()));
        return Ok(());
    }
    for (live, snapshot) in rows {
        let current = if head.current == Some(live.id) { "current" } else { "" };
        let state = match live.state {
            SnapshotState::Staged { .. } => "staged",
            SnapshotState::Released { withdrawn: true, .. } => "withdrawn",
            SnapshotState::Released { .. } => "",
        };
        let (files, size) = (snapshot.root.files, ByteSize(snapshot.root.bytes).to_string());
        let tags: String = tags(head, live.id).iter().map(|tag| format!(" [{tag}]")).collect();
        println!(
            "{}  {}  {files:>9} files  {size:>10}  {current}{state}{tags}  {}",
            live.id, snapshot.created, snapshot.note
        );
        if let Some((complete, of)) = staged_at.get(&live.id) {
            let names = if complete.is_empty() {
                String::new()
            } else {
                format!(": {}", complete.join(", "))
            };
            println!(
                "    all of it at {} of {}{names}",
                complete.len(),
                Count::of(*of, "registered mirror")
            );
        }
    }
    Ok(())
}

/// Which of so many registered mirrors have all of each staged snapshot; nothing if the server does not run, which alone is
/// told of that.
async fn staged_at(master: &Master, repository: &RepoName, head: &Head) -> BTreeMap<SnapshotId, (Vec<String>, usize)> {
    let mut staged = appearance::staged(head).peekable();
    if staged.peek().is_none() {
        return BTreeMap::new();
    }
    let Ok(mirrors) = control::mirrors(&master.config().control_socket()).await else {
        return BTreeMap::new();
    };
    let at = |live: &LiveSnapshot| {
        let (complete, of) = mirrors.staged_at(repository, live.id);
        (live.id, (complete.iter().map(ToString::to_string).collect(), of))
    };
    staged.map(at).collect()
}

/// The tags of a snapshot, in order.
fn tags(head: &Head, id: SnapshotId) -> Vec<&str> {
    let named = head.tags.iter().filter(|(_, named)| **named == id);
    named.map(|(tag, _)| tag.as_str()).collect()
}

/// One snapshot.
pub(crate) async fn snapshot(
    master: &Master,
    repository: &RepoName,
    id: Option<SnapshotId>,
    json: bool,
) -> anyhow::Result<()> {
    master.repository(repository)?;
    let signed = master.head(repository)?;
    let head = signed.as_ref().map(SignedHead::head);
    let Some(id) = id.or_else(|| head?.current) else {
        anyhow::bail!("'{repository}' has no current snapshot; `imserver publish {repository}` makes one");
    };
    let snapshot = master.snapshot(repository, id)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&snapshot)?);
        return Ok(());
    }
    println!("snapshot    {}", snapshot.id);
    println!("repository  {}", snapshot.repository);
    println!("created     {}", snapshot.created);
    println!(
        "state       {}",
        state(head.and_then(|head| head.snapshot(&id)).map(|live| &live.state))
    );
    if let Some(head) = head
        && !tags(head, id).is_empty()
    {
        println!("tags        {}", tags(head, id).join(", "));
    }
    println!(
        "parent      {}",
        snapshot
            .parent
            .map_or_else(|| "none".to_owned(), |parent| parent.to_string())
    );
    println!(
        "files       {} ({})",
        snapshot.root.files,
        ByteSize(snapshot.root.bytes)
    );
    println!("catalog     {}", snapshot.root.node);
    println!("note        {}", snapshot.note);
    Ok(())
}

fn state(state: Option<&SnapshotState>) -> String {
    match state {
        Some(SnapshotState::Released {
            released, withdrawn, ..
        }) => {
            let back = if *withdrawn { ", withdrawn by a rollback" } else { "" };
            format!("released {released}{back}")
        }
        Some(SnapshotState::Staged {
            release_at,
            when_synced_percent,
        }) => {
            let time = release_at.map(|time| format!(", not before {time}"));
            let share = when_synced_percent.map(|percent| format!(", when {percent} % of the nodes have it"));
            format!("staged{}{}", time.unwrap_or_default(), share.unwrap_or_default())
        }
        None => "expired".to_owned(),
    }
}

/// A list of a snapshot. A reader that has seen enough (`| head`) is no error.
pub(crate) async fn export(
    master: &Master,
    repository: &RepoName,
    snapshot: Option<SnapshotId>,
    format: ExportFormat,
) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    // On a terminal the list itself says how far it is.
    let bar = (!std::io::stdout().is_terminal()).then(|| Bar::new(format!("export {repository}"), Unit::Files));
    let progress: &dyn Progress = bar.as_ref().map_or(&NoProgress, |bar| bar);
    let done = master.export(repository, snapshot, format, &mut out, progress);
    drop(bar);
    match done {
        Err(MasterError::Export(ExportError::Write(error))) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done.map(|()| out.flush())??),
    }
}

/// A running server.
pub(crate) fn status(status: &MasterStatus, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(status)?);
        return Ok(());
    }
    println!("imserver {} (process {})", status.version, status.pid);
    for repository in &status.repositories {
        match (&repository.current, repository.head_issued) {
            (Some(current), Some(issued)) => println!(
                "{}  current {current} ({}, {}; {}), head {} signed {issued}",
                repository.name,
                Count(repository.files, "file"),
                ByteSize(repository.bytes),
                Count::of(repository.snapshots, "snapshot"),
                repository.sequence.unwrap_or(0),
            ),
            _ => println!("{}  never published", repository.name),
        }
    }
    if let Some(peers) = &status.peers {
        print!("{peers}");
    }
    Ok(())
}
