//! Every limit of the server, by name, and the signal that it stops.

use std::time::Duration;

use instantmirror_core::batch::BATCH_OBJECTS_MAX;
use tokio::sync::watch;

/// Longest wait of a long poll.
pub const LONG_POLL_MAX: Duration = Duration::from_secs(55);
/// Largest request body: a batch of the most objects, which is the largest request there is.
pub const REQUEST_BODY_BYTES_MAX: usize = BATCH_OBJECTS_MAX * 32;
/// Longest time for a request body to arrive.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What one server allows its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; more wait to be accepted.
    pub connections_max: usize,
    /// Time for the whole header of a request, and for the next one on an idle connection.
    pub header_timeout: Duration,
    /// Bytes of a request's header, at least 8,192.
    pub header_bytes_max: usize,
    /// Header fields of a request.
    pub header_fields_max: usize,
    /// A connection that takes no byte of an answer for so long is cut.
    pub write_timeout: Duration,
    /// How long requests may go on after the server was told to stop.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            header_timeout: Duration::from_secs(30),
            header_bytes_max: 32 * 1024,
            header_fields_max: 100,
            write_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

/// Tells requests that wait for something that the server is stopping.
#[derive(Debug, Clone)]
pub struct Stopping(Option<watch::Receiver<bool>>);

impl Stopping {
    /// Of a server that does not stop.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    /// A signal, and the means to give it.
    pub(crate) fn channel() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(Some(receiver)))
    }

    /// Waits until the server stops. Cancellation safe.
    pub async fn stopped(&self) {
        match &self.0 {
            Some(receiver) => {
                // An error means that the server is gone: stopped as well.
                let _ = receiver.clone().wait_for(|stopped| *stopped).await;
            }
            None => std::future::pending().await,
        }
    }
}
