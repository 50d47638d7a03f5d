//! How long a connection may keep us waiting.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A deadline that costs nothing while it moves: the timer behind it is set only when somebody waits, and only
/// if it would come too late.
#[derive(Debug)]
pub(crate) struct Deadline {
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer will wake the task that has polled it.
    armed: Option<Instant>,
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Self {
            deadline: Instant::now(),
            timer: None,
            armed: None,
        }
    }

    /// From now on it ends then.
    pub(crate) fn until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    pub(crate) fn lasts(&mut self, time: Duration) {
        self.until(Instant::now() + time);
    }

    /// Another task will poll it.
    pub(crate) fn moves(&mut self) {
        (self.timer, self.armed) = (None, None);
    }

    /// Ready once it has ended. To be polled by one task only: the timer wakes whoever has polled it first.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        if let Some(armed) = self.armed
            && armed <= deadline
            && Instant::now() < armed
        {
            return Poll::Pending;
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            self.armed = Some(timer.deadline());
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_it_was_said_last() {
        let begun = Instant::now();
        let mut deadline = Deadline::new();
        for (said, expected) in [(60, 60), (10, 70), (100, 170)] {
            deadline.lasts(Duration::from_secs(said));
            poll_fn(|cx| deadline.poll_over(cx)).await;
            assert_eq!(begun.elapsed().as_secs(), expected);
        }
        // Moved while somebody waits.
        deadline.lasts(Duration::from_secs(10));
        let mut polled = 0;
        poll_fn(|cx| {
            polled += 1;
            if polled == 1 {
                assert!(deadline.poll_over(cx).is_pending());
                deadline.lasts(Duration::from_secs(30));
            }
            deadline.poll_over(cx)
        })
        .await;
        assert_eq!(begun.elapsed().as_secs(), 200);
    }
}
