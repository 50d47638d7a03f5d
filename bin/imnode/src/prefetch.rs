//! `imnode prefetch`: waits for what the running node fetches, with a progress bar.

use std::path::Path;
use std::time::Duration;

use instantmirror::bars::{Bar, Unit};
use instantmirror::control;
use instantmirror::node::{NodeStatus, PrefetchStatus};
use instantmirror::text::Count;

/// How often the node is asked.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// Says what a prefetch is; with `wait` also how far it is, until it is over. An error if something could not be had.
pub(crate) async fn wait(socket: &Path, id: u64, wait: bool) -> anyhow::Result<()> {
    let mut bar = None;
    loop {
        let status = find(socket, id).await?;
        if !wait {
            println!("{status}");
            return Ok(());
        }
        let bar = bar.get_or_insert_with(|| Bar::new(format!("prefetch {}", status.repository), Unit::Bytes));
        let note = format!("; {} of {}", status.files_done, Count(status.files, "file"));
        bar.set(status.bytes_done, Some(status.bytes), &note);
        if status.is_over {
            bar.finish();
            println!("{status}");
            anyhow::ensure!(
                status.failed == 0,
                "{} could not be had; the log of the node says why",
                Count(status.failed, "file")
            );
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn find(socket: &Path, id: u64) -> anyhow::Result<PrefetchStatus> {
    let status: NodeStatus = control::status(socket).await?;
    let found = status.prefetches.into_iter().find(|prefetch| prefetch.id == id);
    found.ok_or_else(|| anyhow::anyhow!("the node knows nothing of prefetch {id}: was it restarted?"))
}
