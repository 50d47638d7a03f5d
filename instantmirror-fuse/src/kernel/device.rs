//! [`Device`]: an open `/dev/fuse`: requests come out, replies and notifications go in, and three ioctls.
//!
//! The only `unsafe` code of this crate stands here: two implementations of rustix' `Ioctl` and the calls of ioctls.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl, opcode};
use zerocopy::IntoBytes;

use super::abi;
use crate::filesystem::BackingId;

/// Where the device is.
pub(crate) const DEVICE: &str = "/dev/fuse";

/// The group of FUSE's ioctls.
const GROUP: u8 = 229;
const CLONE: Opcode = opcode::read::<u32>(GROUP, 0);
const BACKING_OPEN: Opcode = opcode::write::<BackingMap>(GROUP, 1);
const BACKING_CLOSE: Opcode = opcode::write::<u32>(GROUP, 2);

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// BACKING_OPEN answers with the id as its result.
struct BackingOpen(BackingMap);

// SAFETY: the number is that of an ioctl that reads one `BackingMap` from its argument, which `as_ptr` points to for as long as
// `self` is borrowed, and writes nothing.
unsafe impl Ioctl for BackingOpen {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        BACKING_OPEN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(&mut self.0).cast()
    }

    // SAFETY: nothing is read through the pointer.
    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<u32> {
        u32::try_from(out).map_err(|_| Errno::INVAL)
    }
}

/// A descriptor of `/dev/fuse`. A reply goes to the descriptor that its request was read from.
#[derive(Debug)]
pub(crate) struct Device(OwnedFd);

impl Device {
    /// The descriptor of a mount.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the device, without a mount yet.
    pub(crate) fn open() -> Result<OwnedFd> {
        rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
    }

    /// Another descriptor of the same mount, with a queue of its own for what is being answered.
    pub(crate) fn another(&self) -> Result<Self> {
        let fd = Self::open()?;
        let own = u32::try_from(self.0.as_raw_fd()).map_err(|_| Errno::BADF)?;
        // SAFETY: FUSE_DEV_IOC_CLONE reads one u32 from its argument, whatever its direction bits say, and writes nothing.
        unsafe { ioctl(&fd, Setter::<CLONE, u32>::new(own)) }?;
        Ok(Self(fd))
    }

    /// Waits for a request.
    ///
    /// # Errors
    /// ENODEV once the mount is gone; EINTR, EAGAIN and ENOENT mean to try again.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        rustix::io::read(&self.0, buffer)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// ENOENT if the request is gone, ENODEV if the mount is.
    pub(crate) fn reply(&self, unique: u64, body: &[u8]) -> Result<()> {
        self.send(0, unique, &[IoSlice::new(body)])
    }

    /// Answers a request with an error. Errors are as of [`reply`](Self::reply).
    pub(crate) fn refuse(&self, unique: u64, error: Errno) -> Result<()> {
        self.send(-error.raw_os_error(), unique, &[])
    }

    /// Tells the kernel something of which it has not asked.
    pub(crate) fn notify(&self, number: i32, body: &[&[u8]]) -> Result<()> {
        let body: Vec<IoSlice<'_>> = body.iter().map(|part| IoSlice::new(part)).collect();
        self.send(number, 0, &body)
    }

    fn send(&self, error: i32, unique: u64, body: &[IoSlice<'_>]) -> Result<()> {
        let len: usize = size_of::<abi::OutHeader>() + body.iter().map(|part| part.len()).sum::<usize>();
        let header = abi::OutHeader {
            len: u32::try_from(len).map_err(|_| Errno::INVAL)?,
            error,
            unique,
        };
        let mut parts = Vec::with_capacity(1 + body.len());
        parts.push(IoSlice::new(header.as_bytes()));
        parts.extend_from_slice(body);
        // The kernel takes all of a reply or nothing.
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.0, &parts)).map(|_| ())
    }

    /// Makes a file a backing file.
    pub(crate) fn back(&self, file: BorrowedFd<'_>) -> Result<BackingId> {
        let map = BackingMap {
            fd: file.as_raw_fd(),
            flags: 0,
            padding: 0,
        };
        // SAFETY: see the implementation of `Ioctl`; `file` is open for the whole call.
        unsafe { ioctl(&self.0, BackingOpen(map)) }.map(BackingId)
    }

    /// Gives a backing file back.
    pub(crate) fn unback(&self, id: BackingId) -> Result<()> {
        // SAFETY: FUSE_DEV_IOC_BACKING_CLOSE reads one u32 from its argument and writes nothing.
        unsafe { ioctl(&self.0, Setter::<BACKING_CLOSE, u32>::new(id.0)) }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctls_have_the_numbers_of_the_kernel_header() {
        if cfg!(any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv64"
        )) {
            assert_eq!(u64::from(CLONE), 0x8004_e500);
            assert_eq!(u64::from(BACKING_OPEN), 0x4010_e501);
            assert_eq!(u64::from(BACKING_CLOSE), 0x4004_e502);
        }
    }

    #[test]
    fn a_device_without_a_mount_answers_errors_only() {
        let Ok(fd) = Device::open() else {
            println!("skipped: {DEVICE} cannot be opened here");
            return;
        };
        let device = Device::new(fd);
        assert!(device.another().is_err());
        assert!(device.back(device.as_fd()).is_err());
        assert!(device.unback(BackingId(1)).is_err());
        assert!(device.reply(1, b"").is_err());
        assert!(device.read(&mut [0; 8192]).is_err());
    }
}
