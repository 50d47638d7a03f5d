//! The three kinds of sockets, and the two ways out: bytes, and ranges of files that the kernel sends itself.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::connection::ResetAtEnd;

/// Most bytes of one `sendfile`: so much that a fast client is seldom waited for, and so little that this thread
/// comes to other connections.
pub(crate) const SENDFILE_BYTES_MAX: u64 = 2 << 20;

/// A connection that this process encrypts.
pub(crate) trait Encrypted: AsyncRead + AsyncWrite + ResetAtEnd + Unpin + Send + fmt::Debug {}

/// The socket of a connection.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Plain.
    Tcp(TcpStream),
    /// Local.
    Unix(UnixStream),
    /// Encrypted by this process: files have to pass through it.
    Tls(Box<dyn Encrypted>),
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
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_read(cx, buffer),
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
            Self::Tcp(socket) => poll_tcp(socket, cx, send),
            Self::Unix(socket) => poll_unix(socket, cx, send),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_write(cx, bytes),
        }
    }

    /// Pushes out what encryption may hold back.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_flush(cx),
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
        let send = |fd: BorrowedFd<'_>| {
            let mut offset = offset;
            Ok(rustix::fs::sendfile(fd, file, Some(&mut offset), count)?)
        };
        match self {
            Self::Tcp(socket) => poll_tcp(socket, cx, send),
            Self::Unix(socket) => poll_unix(socket, cx, send),
            Self::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Has the connection reset, and what is not sent thrown away, when the socket is closed.
    pub(crate) fn reset_at_end(&self) {
        match self {
            Self::Tcp(socket) => socket.reset_at_end(),
            Self::Tls(socket) => socket.reset_at_end(),
            // What its buffer holds goes with it.
            Self::Unix(_) => {}
        }
    }

    /// Says goodbye where the protocol wants it. Closing the socket, which follows, is the goodbye of the others.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_shutdown(cx),
        }
    }

    /// Tells the other side that nothing more follows.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_shutdown(cx),
        }
    }
}

fn poll_tcp<T>(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    call: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || call(socket.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

fn poll_unix<T>(
    socket: &UnixStream,
    cx: &mut Context<'_>,
    call: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || call(socket.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}
