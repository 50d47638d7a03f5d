//! Connections of clients that are cut: reset, and not closed.

use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::net::TcpStream;

/// A stream whose connection can be reset when it is dropped. What is not sent is thrown away then: closing the
/// connection would wait in the kernel for a client that takes nothing (FIN-WAIT-1).
pub(crate) trait ResetAtEnd {
    /// From now on, dropping the stream resets its connection.
    fn reset_at_end(&self);
}

impl ResetAtEnd for TcpStream {
    fn reset_at_end(&self) {
        if let Err(error) = set_socket_linger(self.as_fd(), Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection is not reset");
        }
    }
}

#[cfg(test)]
impl ResetAtEnd for tokio::io::DuplexStream {
    fn reset_at_end(&self) {}
}
