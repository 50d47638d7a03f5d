//! Listening and carrying connections: HTTP/1.1 over TCP and Unix sockets, through hyper.
//!
//! The server decides nothing about requests ([`Service`] does) and ends in order: it stops accepting, idle
//! connections are closed, running requests may finish within the grace, the rest is cut.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::limits::{Limits, Stopping};
use crate::service::Service;
use crate::stream::Watched;

/// How long accepting pauses when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: it is in use by another program; stop that (`ss -ltnp` shows which it is) or \
         choose another address"
    )]
    InUse {
        /// The address or path.
        address: String,
    },
    /// The address is not one of this machine, needs privileges, or the socket's folder cannot be written.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address or path.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Listening sockets, and what their clients are allowed.
#[derive(Debug, Default)]
pub struct Server {
    listeners: Vec<Listener>,
    limits: Limits,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Held for its drop.
        _file: SocketFile,
    },
}

/// A socket in the file system, removed when it is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; nobody can be told here.
        let _ = std::fs::remove_file(&self.0);
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Server {
    /// A server that listens nowhere yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            listeners: Vec::new(),
            limits,
        }
    }

    /// A server on one TCP address (port 0: any free one), with the default limits.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let mut server = Self::new(Limits::default());
        server.listen(address).await?;
        Ok(server)
    }

    /// Listens on one more TCP address and returns it with the port that was taken.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn listen(&mut self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let failed = |source| bind_error(address.to_string(), source);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.listeners.push(Listener::Tcp(listener));
        Ok(bound)
    }

    /// Listens on a Unix socket that only this user may open. One that a killed process left is replaced;
    /// the file is removed at the end.
    ///
    /// # Errors
    /// [`ServeError`]; a file that is no socket is left alone.
    pub async fn listen_unix(&mut self, path: &Path) -> Result<(), ServeError> {
        let address = path.display().to_string();
        let failed = |source| bind_error(address.clone(), source);
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if UnixStream::connect(path).await.is_ok() {
                return Err(ServeError::InUse { address });
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        self.listeners.push(Listener::Unix { listener, _file: file });
        Ok(())
    }

    /// The TCP addresses listened on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = self.listeners.iter().filter_map(|listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix { .. } => None,
        });
        tcp.collect()
    }

    /// Serves until `shutdown` is ready, then ends in order. Needs a tokio runtime; dropping the future cuts
    /// everything at once.
    pub async fn serve(self, service: Arc<Service>, shutdown: impl Future<Output = ()>) {
        let (stop, stopping) = Stopping::channel();
        let shared = Arc::new(Shared {
            service,
            permits: Arc::new(Semaphore::new(self.limits.connections_max)),
            limits: self.limits,
            stopping,
        });
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, Arc::clone(&shared)));
        }
        shutdown.await;
        let _ = stop.send(true);
        while accepting.join_next().await.is_some() {}
    }
}

fn bind_error(address: String, source: io::Error) -> ServeError {
    if source.kind() == io::ErrorKind::AddrInUse {
        ServeError::InUse { address }
    } else {
        ServeError::Bind { address, source }
    }
}

/// What all connections of a server have in common.
struct Shared {
    service: Arc<Service>,
    permits: Arc<Semaphore>,
    limits: Limits,
    stopping: Stopping,
}

impl Listener {
    /// One connection, and its place among those that may be open. Cancellation safe.
    async fn accept(&self, permits: &Arc<Semaphore>) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
        let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
        let accepted = match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are written whole; Nagle would only make the last piece wait.
                stream.set_nodelay(true)?;
                Accepted::Tcp(stream)
            }
            Self::Unix { listener, .. } => Accepted::Unix(listener.accept().await?.0),
        };
        Ok((accepted, permit))
    }
}

/// Accepts until the server stops, then waits for the connections.
async fn accept(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stopping.stopped() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(&shared.permits) => match accepted {
                Ok((Accepted::Tcp(stream), permit)) => {
                    connections.spawn(carry(stream, Arc::clone(&shared), permit));
                }
                Ok((Accepted::Unix(stream), permit)) => {
                    connections.spawn(carry(stream, Arc::clone(&shared), permit));
                }
                // The client went away before we came to it.
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.limits.shutdown_grace, finish)
        .await
        .is_err()
    {
        tracing::warn!(cut = connections.len(), "connections did not end within the grace");
        connections.shutdown().await;
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput
    )
}

/// Carries one connection to its end.
async fn carry<S>(stream: S, shared: Arc<Shared>, _permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Shared {
        service,
        limits,
        stopping,
        ..
    } = shared.as_ref();
    let _open = service.counters().count_connection();
    let stream = Watched::new(stream, limits.write_timeout);
    let used = stream.used();
    let answer = service_fn(|request| async { Ok::<_, Infallible>(service.handle(request, stopping).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes_max.max(8192))
        .max_headers(limits.header_fields_max)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.stopped() => {
            if !used.load(Ordering::Relaxed) {
                // Opened in advance and never used; hyper would wait for its first request.
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients come and go; what matters was logged where it happened.
        tracing::debug!(%error, "a connection ended early");
    }
}
