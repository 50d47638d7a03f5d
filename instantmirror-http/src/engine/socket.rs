//! The three kinds of sockets, and the two ways out: bytes, and ranges of files that the kernel sends itself.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// Most bytes of one `sendfile`: so much that a fast client is seldom waited for, and so little that this thread
/// comes to other connections.
pub(crate) const SENDFILE_BYTES_MAX: u64 = 2 << 20;

/// The socket of a connection.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Plain.
    Tcp(TcpStream),
    /// Local.
    Unix(UnixStream),
    /// Encrypted by this process: files have to pass through it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Whether [`poll_send_file`](Self::poll_send_file) works.
    pub(crate) fn sends_files(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }

    /// Sends some of `bytes`. `more`: more follows at once, so the kernel waits with a packet that is not full.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8], more: bool) -> Poll<io::Result<usize>> {
        let flags = if more {
            SendFlags::NOSIGNAL | SendFlags::MORE
        } else {
            SendFlags::NOSIGNAL
        };
        let send = |fd: BorrowedFd<'_>| Ok(rustix::net::send(fd, bytes, flags)?);
        match self {
            Self::Tcp(socket) => poll_tcp(socket, cx, || false, send),
            Self::Unix(socket) => poll_unix(socket, cx, || false, send),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    /// Pushes out what encryption may hold back.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    /// Sends up to `count` bytes of a file from `offset` on. 0: the file ends there.
    pub(crate) fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        count: u64,
    ) -> Poll<io::Result<usize>> {
        let count = usize::try_from(count.min(SENDFILE_BYTES_MAX)).unwrap_or(0);
        let part = Cell::new(0);
        let send = |fd: BorrowedFd<'_>| {
            let mut at = offset;
            let sent = rustix::fs::sendfile(fd, file, Some(&mut at), count)?;
            if sent == 0 || sent == count || ends_before(file, offset + count as u64) {
                return Ok(sent);
            }
            // The socket is full. Saying so here saves the call that would find it out.
            part.set(sent);
            Err(io::ErrorKind::WouldBlock.into())
        };
        let polled = match self {
            Self::Tcp(socket) => poll_tcp(socket, cx, || part.get() > 0, send),
            Self::Unix(socket) => poll_unix(socket, cx, || part.get() > 0, send),
            Self::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        };
        match polled {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(part.get())),
            other => other,
        }
    }

    /// Says goodbye where the protocol wants it. Closing the socket, which follows, is the goodbye of the others.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }

    /// Tells the other side that nothing more follows.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

/// Whether a file has become shorter than it has to be.
fn ends_before(file: BorrowedFd<'_>, end: u64) -> bool {
    rustix::fs::fstat(file).map_or(true, |stat| u64::try_from(stat.st_size).unwrap_or(0) < end)
}

/// Calls until there is something to return. `is_enough`: what the call has done before it would block is all there is
/// to say; the error is returned then.
fn poll_tcp<T>(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    is_enough: impl Fn() -> bool,
    call: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        if let Some(done) = settle(socket.try_io(Interest::WRITABLE, || call(socket.as_fd())), &is_enough) {
            return Poll::Ready(done);
        }
    }
}

fn poll_unix<T>(
    socket: &UnixStream,
    cx: &mut Context<'_>,
    is_enough: impl Fn() -> bool,
    call: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        if let Some(done) = settle(socket.try_io(Interest::WRITABLE, || call(socket.as_fd())), &is_enough) {
            return Poll::Ready(done);
        }
    }
}

/// `None`: it has to be tried again.
fn settle<T>(tried: io::Result<T>, is_enough: impl Fn() -> bool) -> Option<io::Result<T>> {
    match tried {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_enough() => None,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        done => Some(done),
    }
}
