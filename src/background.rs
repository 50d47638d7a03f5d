//! Threads for what nobody waits for.

use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Handle, Runtime};

/// So much "nicer" are these threads than the others: on a busy processor they get a tenth of the time that one of those gets,
/// and a thread that wakes up for a client waits for them no longer than until the kernel looks at the processor again.
const NICENESS: i32 = 10;

/// Threads of a lower priority than all others of this process, for transfers that nobody waits for. They end, and whatever
/// runs on them, when this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    handle: Handle,
    /// Until the end.
    runtime: Option<Runtime>,
}

impl Background {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the system says when it cannot start them.
    pub(crate) fn start() -> std::io::Result<Self> {
        // Some of the threads are begun by others of them, and no nicer than those.
        let niceness = getpriority_process(None).unwrap_or(0) + NICENESS;
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .thread_name("background")
            .on_thread_start(move || step_back(niceness))
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Where to spawn.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // To wait for them is not allowed where this is dropped, in async code.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes this thread nicer. Where that is refused it competes with the others, which costs clients time and nothing else.
fn step_back(niceness: i32) {
    let _ = setpriority_process(None, niceness);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_threads_are_nicer_than_the_others() {
        let background = Background::start().unwrap();
        let here = getpriority_process(None).unwrap();
        let handle = background.handle();
        let niceness = || getpriority_process(None).unwrap();
        let (task, work) = (handle.spawn(async move { niceness() }), handle.spawn_blocking(niceness));
        let from_task = handle.spawn(async move { tokio::task::spawn_blocking(niceness).await.unwrap() });
        let all = async { [task.await.unwrap(), work.await.unwrap(), from_task.await.unwrap()] };
        let nicer = (here + NICENESS).min(19);
        assert_eq!((futures_executor::block_on(all), niceness()), ([nicer; 3], here));
    }

    #[test]
    fn it_may_end_on_one_of_its_own_threads() {
        let background = std::sync::Arc::new(Background::start().unwrap());
        let (held, handle) = (std::sync::Arc::clone(&background), background.handle().clone());
        let (sender, ended) = std::sync::mpsc::channel();
        handle.spawn(async move {
            while std::sync::Arc::strong_count(&held) > 1 {
                tokio::task::yield_now().await;
            }
            drop(held);
            // Nobody listens if the test is over already.
            let _ = sender.send(());
        });
        drop(background);
        ended.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    }
}
