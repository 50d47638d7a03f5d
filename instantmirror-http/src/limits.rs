//! Every limit of the server, by name, and the signal that it stops.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use instantmirror_core::address::AddressBlock;
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
#[non_exhaustive]
pub struct Limits {
    /// Connections open at once. When they are nearly used up, idle ones are closed, the oldest first; the last sixteenth is
    /// for the API of nodes alone, and readers that come then wait. [`Admission`](crate::Admission) can change it.
    pub connections_max: usize,
    /// What the clients at one address are allowed. [`Admission`](crate::Admission) can change it.
    pub addresses: AddressLimits,
    /// Time for the whole header of a request from its first byte on; for the first one, and for the handshake of
    /// an encrypted connection, from the connection's beginning on.
    pub header_timeout: Duration,
    /// A connection on which nothing is asked for so long after an answer is closed.
    pub idle_timeout: Duration,
    /// Bytes of a request's header.
    pub header_bytes_max: usize,
    /// Header fields of a request, at most 128.
    pub header_fields_max: usize,
    /// A connection that takes no byte of an answer for so long is cut.
    pub write_timeout: Duration,
    /// A client that has made us wait for longer than `write_timeout` in one answer must have taken so many bytes a
    /// second meanwhile, or is cut.
    pub send_rate_min: u64,
    /// Requests at a time on one connection of HTTP/2.
    pub streams_max: u32,
    /// How long requests may go on after the server was told to stop.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            addresses: AddressLimits::default(),
            header_timeout: Duration::from_secs(30),
            header_bytes_max: 32 * 1024,
            header_fields_max: 100,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            send_rate_min: 128,
            streams_max: 100,
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

/// What the clients at one address are allowed together. Addresses of IPv6 count by prefix, for one client has as many
/// as it likes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressLimits {
    /// Connections at a time. One more closes the address's own connection that is idle for longest, or is refused.
    pub connections_max: Option<NonZeroUsize>,
    /// Requests; those beyond are answered with 429.
    pub requests: Option<RequestRate>,
    /// Addresses of IPv6 that begin with so many equal bits count as one; at most 128.
    pub ipv6_prefix: u8,
    /// Addresses that are not limited.
    pub exempt: Vec<AddressBlock>,
}

/// A rate with a burst: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    /// Requests a second in the long run.
    pub per_second: NonZeroU32,
    /// Requests at once after a pause.
    pub burst: NonZeroU32,
}

impl Default for AddressLimits {
    /// 1,000 connections, as many requests as they make, and no limit for this machine: reverse proxies run here.
    fn default() -> Self {
        Self {
            connections_max: NonZeroUsize::new(1000),
            requests: None,
            ipv6_prefix: 64,
            exempt: ["127.0.0.0/8", "::1"]
                .iter()
                .filter_map(|block| block.parse().ok())
                .collect(),
        }
    }
}

/// Tells requests that wait for something that the server is stopping.
#[derive(Debug, Clone)]
pub struct Stopping(Option<Signal>);

#[derive(Debug, Clone)]
struct Signal {
    receiver: watch::Receiver<bool>,
    /// The same, at the price of a load.
    given: Arc<AtomicBool>,
}

/// The means to say so.
#[derive(Debug)]
pub(crate) struct Stop {
    sender: watch::Sender<bool>,
    given: Arc<AtomicBool>,
}

impl Stop {
    pub(crate) fn give(&self) {
        self.given.store(true, Ordering::Release);
        self.sender.send_replace(true);
    }
}

impl Stopping {
    /// Of a server that does not stop.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    /// A signal, and the means to give it.
    pub(crate) fn channel() -> (Stop, Self) {
        let (sender, receiver) = watch::channel(false);
        let given = Arc::new(AtomicBool::new(false));
        let signal = Signal {
            receiver,
            given: Arc::clone(&given),
        };
        (Stop { sender, given }, Self(Some(signal)))
    }

    /// Whether it stops.
    pub(crate) fn is_given(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|signal| signal.given.load(Ordering::Acquire))
    }

    /// Waits until the server stops. Cancellation safe.
    pub async fn stopped(&self) {
        match &self.0 {
            Some(signal) => {
                // An error means that the server is gone: stopped as well.
                let _ = signal.receiver.clone().wait_for(|stopped| *stopped).await;
            }
            None => std::future::pending().await,
        }
    }
}
