//! Whether the client of a quiet connection is still there: PING frames (RFC 9113, 6.7).
//!
//! Key decision: a PING is sent only while a request waits and nothing has come or gone for a while. Reason: what is
//! sent, received or acknowledged proves the same for nothing, and a connection without requests is closed as an idle one.

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures_util::task::noop_waker;
use h2::{Ping, PingPong};
use tokio::time::Instant;

use super::watched::Traffic;

/// After so long without a byte in either direction the client is asked: within the time of a long poll (55 s), in
/// which a mirror that has lost its power would keep its place, and seldom enough for those that sleep on batteries.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);
/// So long the answer may take at least: several retransmissions on a bad line. Where a client may take nothing for longer
/// (`write_timeout`), its answer may take as long: it comes behind what the client has not taken yet.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a PING frame.
const PING_BYTES: u64 = 17;

/// Watches whether anything comes or goes.
pub(super) struct Alive {
    traffic: Arc<Traffic>,
    pings: Option<PingPong>,
    /// So long an answer may take.
    timeout: Duration,
    /// What had come and gone when it was looked at last, and since when it is the same.
    bytes: (u64, u64),
    quiet_since: Instant,
    /// When the client was asked, if it has not answered.
    asked: Option<Instant>,
}

impl Alive {
    pub(super) fn new(traffic: Arc<Traffic>, pings: Option<PingPong>, write_timeout: Duration) -> Self {
        Self {
            traffic,
            pings,
            timeout: PING_TIMEOUT.max(write_timeout),
            bytes: (0, 0),
            quiet_since: Instant::now(),
            asked: None,
        }
    }

    /// Looks after a while. `is_waited_for`: a request is not answered. Returns whether the client may still be there; once
    /// it is not, the connection is to be cut.
    pub(super) fn look(&mut self, is_waited_for: bool) -> bool {
        let (now, (read, written)) = (Instant::now(), self.traffic.bytes());
        // While the client is asked, `bytes` holds what will have gone with the question.
        if read > self.bytes.0 || written > self.bytes.1 {
            (self.bytes, self.quiet_since, self.asked) = ((read, written), now, None);
            return true;
        }
        match self.asked {
            Some(asked) => now - asked < self.timeout,
            None => {
                if is_waited_for && now - self.quiet_since >= PING_INTERVAL {
                    self.ask(now);
                }
                true
            }
        }
    }

    /// How long until the next look, at most `interval`.
    pub(super) fn next_look(&self, interval: Duration) -> Duration {
        self.asked.map_or(interval, |asked| {
            interval.min(
                self.timeout
                    .saturating_sub(asked.elapsed())
                    .max(Duration::from_millis(1)),
            )
        })
    }

    fn ask(&mut self, now: Instant) {
        let Some(pings) = &mut self.pings else { return };
        // The answer to the last one, or no other could be sent.
        let _ = pings.poll_pong(&mut Context::from_waker(&noop_waker()));
        if pings.send_ping(Ping::opaque()).is_ok() {
            self.asked = Some(now);
            self.bytes.1 += PING_BYTES;
        }
    }

    /// The client is not there any more.
    pub(super) fn cut(&self) {
        self.traffic.cut();
    }
}
