//! `imnode prefetch`: waits for what the running node fetches, with a progress bar.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use instantmirror::control;
use instantmirror::node::{NodeStatus, PrefetchStatus};

/// How often the node is asked.
const LOOK: Duration = Duration::from_millis(200);

/// Says what a prefetch is; with `wait` also how far it is, until it is over. An error if something could not be had.
pub(crate) async fn wait(socket: &Path, id: u64, wait: bool) -> anyhow::Result<()> {
    let mut bar = None;
    loop {
        let status = find(socket, id).await?;
        if !wait {
            println!("{status}");
            return Ok(());
        }
        let bar = bar.get_or_insert_with(|| new_bar(status.bytes));
        bar.set_position(status.bytes_done);
        bar.set_message(format!("{} of {} files", status.files_done, status.files));
        if status.is_over {
            bar.finish_and_clear();
            println!("{status}");
            anyhow::ensure!(
                status.failed == 0,
                "{} files could not be had; the log of the node says why",
                status.failed
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

fn new_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}  {msg}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
