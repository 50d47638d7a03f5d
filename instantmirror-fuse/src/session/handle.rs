//! [`KernelHandle`]: the kernel as the file system sees it.
//!
//! It holds the device weakly: a file system that outlives its session keeps no dead mount open.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use rustix::io::{Errno, Result};
use zerocopy::IntoBytes;

use super::init::Protocol;
use super::reply::Traffic;
use crate::filesystem::{BackingId, InodeId, Kernel};
use crate::kernel::abi::notify;
use crate::kernel::device::Device;
use crate::kernel::reply;

/// The kernel's side of one session.
pub(super) struct KernelHandle {
    device: Weak<Device>,
    traffic: Arc<Traffic>,
    protocol: Protocol,
}

impl KernelHandle {
    pub(super) fn new(device: &Arc<Device>, traffic: &Arc<Traffic>, protocol: Protocol) -> Self {
        Self {
            device: Arc::downgrade(device),
            traffic: Arc::clone(traffic),
            protocol,
        }
    }

    fn device(&self) -> Result<Arc<Device>> {
        self.device.upgrade().ok_or(Errno::NODEV)
    }

    fn notify_entry(&self, parent: InodeId, name: &[u8], expires: bool) -> Result<()> {
        let head = reply::inval_entry(parent, name, expires).ok_or(Errno::NAMETOOLONG)?;
        known(
            self.device()?
                .notify(notify::INVAL_ENTRY, &[head.as_bytes(), name, b"\0"]),
        )
    }
}

/// An inode that the kernel does not know needs no invalidation.
fn known(result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

impl Kernel for KernelHandle {
    fn back(&self, file: BorrowedFd<'_>) -> Result<BackingId> {
        if !self.protocol.has_passthrough() {
            return Err(Errno::OPNOTSUPP);
        }
        let id = self.device()?.back(file)?;
        self.traffic.tally.backed.add(1);
        Ok(id)
    }

    fn unback(&self, id: BackingId) {
        if let Ok(device) = self.device()
            && device.unback(id).is_ok()
        {
            self.traffic.tally.unbacked.add(1);
        }
    }

    fn invalidate_entry(&self, parent: InodeId, name: &[u8]) -> Result<()> {
        self.notify_entry(parent, name, false)
    }

    fn expire_entry(&self, parent: InodeId, name: &[u8]) -> Result<()> {
        // An older kernel would take the flag for padding, and unmount what lies below.
        if !self.protocol.has_expiry() {
            return Err(Errno::OPNOTSUPP);
        }
        self.notify_entry(parent, name, true)
    }

    fn invalidate_inode(&self, inode: InodeId) -> Result<()> {
        let body = reply::inval_inode(inode);
        known(self.device()?.notify(notify::INVAL_INODE, &[body.as_bytes()]))
    }
}
