//! The UDP socket around [`udp`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use instantmirror_core::address::Ipv4Wildcards;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::net::UdpSocket;

use crate::udp::{self, PACKET_BYTES_MAX};
use crate::{ConnectionIds, Registry};

/// How long receiving pauses when the system has no memory for a datagram.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UdpError {
    /// Somebody else has the port.
    #[error(
        "cannot listen on udp://{0}: it is in use by another program (`ss -lunp` shows which); choose another address"
    )]
    InUse(SocketAddr),
    /// The address is not one of this machine, or needs privileges.
    #[error("cannot listen on udp://{address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What the standard library's `bind` does, explicit about `IPV6_V6ONLY`.
fn open(address: SocketAddr, others: &Ipv4Wildcards) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, others.take_ipv4_of(&address))?;
    }
    rustix::net::bind(&socket, &address)?;
    UdpSocket::from_std(socket.into())
}

/// A UDP socket that answers for a registry.
#[derive(Debug)]
pub struct UdpServer {
    socket: UdpSocket,
    address: SocketAddr,
}

impl UdpServer {
    /// Opens the socket (port 0: any free one). On `[::]` it is dual-stack, whatever the system's default is. Must be called inside
    /// a tokio runtime.
    ///
    /// # Errors
    /// [`UdpError`].
    pub async fn bind(address: SocketAddr) -> Result<Self, UdpError> {
        Self::bind_beside(address, &Ipv4Wildcards::default()).await
    }

    /// The same beside other sockets of the program: on `[::]` it is for IPv6 alone where one of them is on `0.0.0.0` at the same
    /// port.
    ///
    /// # Errors
    /// [`UdpError`].
    pub async fn bind_beside(address: SocketAddr, others: &Ipv4Wildcards) -> Result<Self, UdpError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => UdpError::InUse(address),
            _ => UdpError::Bind { address, source },
        };
        let socket = open(address, others).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for ever. `began` is the moment that the registry's time counts from.
    ///
    /// Cancellation: dropping the future stops between two datagrams; every one that was taken was answered, or its
    /// answer was not taken by the system, which is what happens to datagrams.
    pub async fn serve(&self, registry: &Mutex<Registry>, ids: &Arc<ConnectionIds>, began: Instant) {
        let mut packet = [0; PACKET_BYTES_MAX];
        loop {
            let (length, from) = match self.socket.recv_from(&mut packet).await {
                Ok(received) => received,
                // An answer that somebody refused shows here as an error of the next call.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    tracing::debug!("udp://{}: {error}", self.address);
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let Some(received) = packet.get(..length) else { continue };
            let answer = {
                let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
                udp::answer(&mut registry, ids, began.elapsed(), from, received)
            };
            if let Some(answer) = answer
                && let Err(error) = self.socket.send_to(&answer, from).await
            {
                tracing::debug!("udp://{}: {from} got no answer: {error}", self.address);
            }
        }
    }
}
