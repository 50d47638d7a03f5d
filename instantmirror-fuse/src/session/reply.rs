//! [`Reply`]: the duty to answer one request, and [`PendingRead`], the same for a read that may be answered later.
//!
//! Invariant: each request is answered exactly once. A reply that is dropped, by a panic or by a file system that has forgotten
//! it, answers EIO. Part of what a file
//! system hands over is never sent: the kernel takes a short answer for the end of the file, so only the file system may give one.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{Errno, Result, pread, retry_on_intr};
use zerocopy::{Immutable, IntoBytes};

use super::counters::{Counters, Tally};
use super::interrupts::Interrupts;
use crate::filesystem::{Content, ReadReply};
use crate::kernel::device::Device;

/// The accounts of replies.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) tally: Tally,
    pub(super) interrupts: Interrupts,
}

impl Traffic {
    pub(super) fn counters(&self) -> Counters {
        self.tally.counters(self.interrupts.waiting())
    }
}

/// The duty to answer one request.
pub(super) struct Reply {
    device: Arc<Device>,
    traffic: Arc<Traffic>,
    unique: u64,
    is_answered: bool,
}

impl Reply {
    pub(super) fn new(device: &Arc<Device>, traffic: &Arc<Traffic>, unique: u64) -> Self {
        Self {
            device: Arc::clone(device),
            traffic: Arc::clone(traffic),
            unique,
            is_answered: false,
        }
    }

    /// Answers with a structure.
    pub(super) fn send<T: IntoBytes + Immutable>(self, body: &T) -> Result<()> {
        self.send_bytes(body.as_bytes())
    }

    /// Answers with bytes.
    ///
    /// # Errors
    /// The kernel did not take the reply. It is told EIO then if it still waits.
    pub(super) fn send_bytes(mut self, body: &[u8]) -> Result<()> {
        self.is_answered = true;
        let result = self.device.reply(self.unique, body);
        if let Err(error) = result
            && !is_gone(error)
        {
            self.traffic.tally.failed_replies.add(1);
            tracing::warn!(bytes = body.len(), %error, "the kernel did not take a reply");
            let _ = self.device.refuse(self.unique, Errno::IO);
        }
        result
    }

    /// Answers with content of a file.
    fn send_content(self, bytes: &[u8]) {
        let traffic = Arc::clone(&self.traffic);
        if self.send_bytes(bytes).is_ok() {
            traffic.tally.read_bytes.add(bytes.len() as u64);
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(self, error: Errno) {
        if !matches!(error, Errno::NOENT | Errno::NODATA | Errno::NOSYS) {
            self.traffic.tally.errors.add(1);
        }
        self.answer_error(error);
    }

    /// Nothing is answered: the kernel expects no reply to this request.
    pub(super) fn none(mut self) {
        self.is_answered = true;
    }

    fn answer_error(mut self, error: Errno) {
        self.is_answered = true;
        if let Err(error) = self.device.refuse(self.unique, error)
            && !is_gone(error)
        {
            self.traffic.tally.failed_replies.add(1);
            tracing::warn!(%error, "the kernel did not take an error as a reply");
        }
    }
}

/// The request is not waited for any more, or the mount is gone.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NODEV | Errno::CONNABORTED)
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_answered {
            self.traffic.tally.errors.add(1);
            let _ = self.device.refuse(self.unique, Errno::IO);
        }
    }
}

/// A read, to be answered now or later.
pub(super) struct PendingRead {
    reply: Option<Reply>,
    /// How many bytes were asked for.
    len: usize,
    /// Whether it is in the table of interrupts.
    is_waiting: Cell<bool>,
}

impl PendingRead {
    pub(super) fn new(reply: Reply, len: u32) -> Self {
        Self {
            reply: Some(reply),
            len: usize::try_from(len).unwrap_or(usize::MAX),
            is_waiting: Cell::new(false),
        }
    }

    /// Takes it out of the table of interrupts.
    fn take(&mut self) -> Option<Reply> {
        let reply = self.reply.take()?;
        if self.is_waiting.get() {
            reply.traffic.interrupts.forget(reply.unique);
        }
        Some(reply)
    }
}

impl ReadReply for PendingRead {
    fn complete(mut self: Box<Self>, result: Result<Content>) {
        let Some(reply) = self.take() else { return };
        match result.and_then(bytes_of) {
            Ok(bytes) if bytes.len() <= self.len => reply.send_content(&bytes),
            Ok(_) => reply.refuse(Errno::IO),
            Err(error) => reply.refuse(error),
        }
    }

    fn on_interrupt(&self, wake: Box<dyn FnOnce() + Send>) {
        if let Some(reply) = &self.reply {
            self.is_waiting.set(true);
            reply.traffic.interrupts.wait(reply.unique, wake);
        }
    }
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        // The reply, if it is still here, answers EIO.
        drop(self.take());
    }
}

/// The bytes of an answer.
fn bytes_of(content: Content) -> Result<Bytes> {
    match content {
        Content::Bytes(bytes) => Ok(bytes),
        Content::File { file, offset, len } => read_exactly(&file, offset, len).map(Bytes::from),
    }
}

/// Reads a part of a file; EIO if the file ends before.
fn read_exactly(file: impl AsFd, mut offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut rest = &mut bytes[..];
    while !rest.is_empty() {
        let got = retry_on_intr(|| pread(&file, &mut *rest, offset))?;
        if got == 0 {
            return Err(Errno::IO);
        }
        offset += got as u64;
        rest = rest.get_mut(got..).unwrap_or_default();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_part_of_a_file_is_read_whole_or_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        assert_eq!(read_exactly(&file, 2, 3).unwrap(), b"234");
        assert_eq!(read_exactly(&file, 0, 10).unwrap(), b"0123456789");
        assert_eq!(read_exactly(&file, 9, 0).unwrap(), b"");
        assert_eq!(read_exactly(&file, 8, 3).unwrap_err(), Errno::IO);
    }
}
