//! Listening: plain and encrypted TCP, and Unix sockets. Connections are carried by the [engine](crate::h1)
//! or, for HTTP/2, by [`h2`](crate::h2).
//!
//! The server decides nothing about requests ([`Service`] does) and ends in order: it stops accepting, idle
//! connections are closed, running requests may finish within the grace, the rest is cut.

#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use instantmirror_core::address::Ipv4Wildcards;
use instantmirror_core::log_limited;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admission::{AddressFull, Admission, Place};
use crate::connection::{AbortOnDrop, Shared};
use crate::h1::{Connection, Socket};
use crate::limits::{Limits, Stopping};
use crate::proxies::read_proxy_header;
use crate::service::Service;

pub use tls::Tls;
#[cfg(feature = "tls")]
pub use tls::TlsError;

/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: u32 = 4096;
/// Answers kept ready are looked through this often.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
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
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    limits: Limits,
    admission: Admission,
    background: Option<Handle>,
    ipv4: Ipv4Wildcards,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<Tls>),
    /// Proxies connect there, and say first whom they ask for.
    Proxied(TcpListener, Option<Arc<Tls>>),
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
    Plain(Socket, Option<IpAddr>),
    Encrypted(TcpStream, Arc<Tls>, IpAddr),
    Proxied(TcpStream, Option<Arc<Tls>>, IpAddr),
}

impl Default for Server {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Server {
    /// A server that listens nowhere yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            listeners: Vec::new(),
            admission: Admission::new(&limits),
            limits,
            background: None,
            ipv4: Ipv4Wildcards::default(),
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

    /// Makes and sends answers that nobody waits for, as the client says (`Priority: u=7`, RFC 9218; not on HTTP/2), on this
    /// runtime, whose threads may have a lower priority. It has to live as long as the server.
    #[must_use]
    pub fn with_background(mut self, runtime: Handle) -> Self {
        self.background = Some(runtime);
        self
    }

    /// Listens on `[::]` for IPv6 alone where `0.0.0.0` of the same port is or will be listened on. All other sockets on `[::]` are
    /// dual-stack, whatever the system's default is.
    #[must_use]
    pub fn leaving_ipv4_to(mut self, wildcards: Ipv4Wildcards) -> Self {
        self.ipv4 = wildcards;
        self
    }

    /// Listens on one more TCP address and returns it with the port that was taken.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn listen(&mut self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let (listener, bound) = self.open(address)?;
        self.listeners.push(Listener::Tcp(listener));
        Ok(bound)
    }

    /// Listens on one more TCP address for encrypted connections, which may speak HTTP/1.1 or HTTP/2.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn listen_tls(&mut self, address: SocketAddr, tls: Arc<Tls>) -> Result<SocketAddr, ServeError> {
        let (listener, bound) = self.open(address)?;
        self.listeners.push(Listener::Tls(listener, tls));
        Ok(bound)
    }

    /// Listens on one more TCP address for trusted proxies that speak the PROXY protocol, version 1 or 2. Everybody else
    /// is turned away there.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn listen_proxied(
        &mut self,
        address: SocketAddr,
        tls: Option<Arc<Tls>>,
    ) -> Result<SocketAddr, ServeError> {
        let (listener, bound) = self.open(address)?;
        self.listeners.push(Listener::Proxied(listener, tls));
        Ok(bound)
    }

    fn open(&self, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
        open(address, &self.ipv4).map_err(|source| bind_error(address.to_string(), source))
    }

    /// Listens on a Unix socket that only this user may open. One that a killed process left is replaced;
    /// the file is removed at the end.
    ///
    /// # Errors
    /// [`ServeError`]; a file that is no socket is left alone.
    pub async fn listen_unix(&mut self, path: &Path) -> Result<(), ServeError> {
        let address = path.display().to_string();
        let failed = |source| bind_error(address.clone(), source);
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                let text = "it is there and is no socket: name another place, or remove it";
                return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, text)));
            }
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
            Listener::Tcp(listener) | Listener::Tls(listener, _) | Listener::Proxied(listener, _) => {
                listener.local_addr().ok()
            }
            Listener::Unix { .. } => None,
        });
        tcp.collect()
    }

    /// The same as URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let url = |listener: &Listener| {
            let (scheme, listener) = match listener {
                Listener::Tcp(listener) => ("http", listener),
                Listener::Tls(listener, _) => ("https", listener),
                // Clients cannot use those.
                Listener::Proxied(..) | Listener::Unix { .. } => return None,
            };
            Some(format!("{scheme}://{}/", listener.local_addr().ok()?))
        };
        self.listeners.iter().filter_map(url).collect()
    }

    /// Who may connect: to be watched, and to be changed, while it serves.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Serves until `shutdown` is ready, then ends in order. Needs a tokio runtime; dropping the future cuts
    /// everything at once.
    pub async fn serve(self, service: Arc<Service>, shutdown: impl Future<Output = ()>) {
        let (sender, services) = watch::channel(service);
        self.serve_newest(services, shutdown).await;
        drop(sender);
    }

    /// The same with a service that may be replaced: a request that was begun is answered by the one that was
    /// there, the next one on the same connection by the new one. Nothing is closed.
    pub async fn serve_newest(self, services: watch::Receiver<Arc<Service>>, shutdown: impl Future<Output = ()>) {
        let (stop, stopping) = Stopping::channel();
        let shared = Arc::new(Shared {
            services,
            limits: self.limits,
            admission: self.admission,
            stopping,
            background: self.background,
        });
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, Arc::clone(&shared)));
        }
        let upkeep = tokio::spawn(let_go(Arc::clone(&shared)));
        let _upkeep = AbortOnDrop(upkeep);
        shutdown.await;
        stop.give();
        while accepting.join_next().await.is_some() {}
    }
}

/// Lets go of answers that are kept ready and were not asked for lately.
async fn let_go(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        let service = Arc::clone(&shared.services.borrow());
        service.expire_hot_answers();
    }
}

/// A listening socket whose connections inherit what every one of them wants.
fn open(address: SocketAddr, ipv4: &Ipv4Wildcards) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, ipv4.take_ipv4_of(&address))?;
        socket
    };
    socket.set_reuseaddr(true)?;
    // Answers are written whole; Nagle would only make the last piece wait.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn bind_error(address: String, source: io::Error) -> ServeError {
    if source.kind() == io::ErrorKind::AddrInUse {
        ServeError::InUse { address }
    } else {
        ServeError::Bind { address, source }
    }
}

impl Listener {
    /// One connection. Cancellation safe.
    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Of IPv4 by a socket for both families: an address of IPv4.
                Accepted::Plain(Socket::Tcp(stream), Some(address.ip().to_canonical()))
            }
            Self::Tls(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                Accepted::Encrypted(stream, Arc::clone(tls), address.ip().to_canonical())
            }
            Self::Proxied(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                Accepted::Proxied(stream, tls.clone(), address.ip().to_canonical())
            }
            Self::Unix { listener, .. } => Accepted::Plain(Socket::Unix(listener.accept().await?.0), None),
        })
    }
}

impl Accepted {
    /// The address that the connection counts for. A trusted proxy asks for others: they are limited, and it is not.
    fn counts_for(&self, shared: &Shared) -> Option<IpAddr> {
        let address = match self {
            Self::Plain(_, address) => (*address)?,
            Self::Encrypted(_, _, address) => *address,
            Self::Proxied(..) => return None,
        };
        let is_proxy = shared.services.borrow().proxies().contains(address);
        (!is_proxy).then_some(address)
    }
}

/// Accepts until the server stops, then waits for the connections.
async fn accept(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while !shared.stopping.is_given() {
        let accepted = tokio::select! {
            () = shared.stopping.stopped() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                let place = tokio::select! {
                    place = shared.admission.admit(accepted.counts_for(&shared)) => place,
                    () = shared.stopping.stopped() => Ok(shared.admission.admit_anyway()),
                };
                match place {
                    Ok(place) => _ = connections.spawn(carry(accepted, place, Arc::clone(&shared))),
                    Err(AddressFull) => _ = connections.spawn(turn_away(accepted, Arc::clone(&shared))),
                }
                // Now, and not when they end: this task is not woken for each of them then.
                while connections.try_join_next().is_some() {}
            }
            // The client went away before we came to it.
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                shared.services.borrow().counters().count_accept_error();
                log_limited!(Instant::now(), warn, %error, "cannot accept connections; trying again");
                if lacks_descriptors(&error) {
                    shared.admission.lacks_descriptors();
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Who is in the queue has a connection already, as far as he knows: he is answered too.
    while let Some(Ok(accepted)) = listener.accept().now_or_never() {
        let place = shared.admission.admit_anyway();
        connections.spawn(carry(accepted, place, Arc::clone(&shared)));
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

/// Carries one connection to its end.
async fn carry(accepted: Accepted, place: Place, shared: Arc<Shared>) {
    let place = Arc::new(place);
    match accepted {
        Accepted::Plain(socket, address) => Connection::new(socket, address, shared, place).carry().await,
        // Boxed, or every plain connection would have the size of an encrypted one.
        Accepted::Encrypted(stream, tls, address) => Box::pin(tls::carry(stream, &tls, address, shared, place)).await,
        Accepted::Proxied(stream, tls, peer) => Box::pin(carry_proxied(stream, tls, peer, shared, place)).await,
    }
}

/// Tells a client that its address has too many connections, if that is cheap, and ends.
async fn turn_away(accepted: Accepted, shared: Arc<Shared>) {
    // Of encrypted ones the handshake alone would cost more than the answer that it is for.
    if let Accepted::Plain(socket, address) = accepted
        && let Some(place) = shared.admission.admit_to_be_refused()
    {
        Box::pin(Connection::new(socket, address, shared, Arc::new(place)).refuse_address()).await;
    }
}

/// Carries a connection of a trusted proxy for the client that it names; one of anybody else ends at once.
async fn carry_proxied(
    mut stream: TcpStream,
    tls: Option<Arc<Tls>>,
    peer: IpAddr,
    shared: Arc<Shared>,
    place: Arc<Place>,
) {
    let service = Arc::clone(&shared.services.borrow());
    if !service.proxies().contains(peer) {
        tracing::debug!(%peer, "a connection to an address for proxies came from somebody else");
        return;
    }
    let header = read_proxy_header(&mut stream, peer, shared.limits.header_timeout);
    let Some(header) = place.unless_told(header).await else {
        return;
    };
    let address = match header {
        Ok(address) => address,
        Err(error) => {
            tracing::debug!(%peer, %error, "a proxy did not say whom it asks for");
            return;
        }
    };
    // A proxy that asks for itself is not limited.
    let is_admitted = service.proxies().contains(address) || place.assign(address);
    match tls {
        Some(_) if !is_admitted => {}
        Some(tls) => tls::carry(stream, &tls, address, shared, place).await,
        None => {
            let connection = Connection::new(Socket::Tcp(stream), Some(address), shared, place).through(peer);
            if is_admitted {
                connection.carry().await;
            } else {
                connection.refuse_address().await;
            }
        }
    }
}

/// Whether the process or the system has as many open files as it may have.
fn lacks_descriptors(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(number, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
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
