//! [`MountOptions`] and [`Mount`]: from a directory to an open device, and back.
//!
//! Root (CAP_SYS_ADMIN of its namespaces) mounts by `mount(2)`, everybody else through `fusermount3`. Every mount is read-only,
//! without devices and setuid programs, and the kernel checks permissions by the modes that are shown. A mount is undone when its
//! guard is dropped; the mount of a program that was killed is found and taken away when the next one mounts there.

mod error;
mod fusermount;
mod mountpoint;
mod table;

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{getgid, getuid};

pub use error::MountError;

use super::device::Device;

/// The type of the file system, as mount tables show it.
pub(super) const FILE_SYSTEM_TYPE: &str = "fuse.imfs";

/// The subtype alone, as `fusermount3` wants it.
const SUBTYPE: &str = "imfs";

/// The name that mounts have unless they are told one.
const NAME: &str = "instantmirror";

/// How far the kernel reads ahead unless it is told otherwise: 1 MiB, the largest request of most kernels.
const READ_AHEAD_KIB: u32 = 1024;

/// How a mount is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// By `mount(2)`, and through `fusermount3` where that is not permitted.
    #[default]
    Automatic,
    /// By `mount(2)` alone.
    Direct,
    /// Through `fusermount3` alone.
    Fusermount,
}

/// One row of the table of mounts.
#[derive(Debug, Clone)]
pub struct MountOptions {
    mountpoint: PathBuf,
    name: String,
    allow_other: bool,
    may_hide: bool,
    read_ahead_kib: u32,
    method: Method,
}

impl MountOptions {
    /// A mount on this directory.
    #[must_use]
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            name: NAME.to_owned(),
            allow_other: false,
            may_hide: false,
            read_ahead_kib: READ_AHEAD_KIB,
            method: Method::Automatic,
        }
    }

    /// The name of the file system, the first column of `df`: letters, digits and any of `. _ - + @ /`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether other users see the mount too, web servers for example, and root if the mount is a user's. Users who are not root
    /// need `user_allow_other` in `/etc/fuse.conf` for it.
    #[must_use]
    pub fn allow_other(mut self, allow: bool) -> Self {
        self.allow_other = allow;
        self
    }

    /// Whether the directory may hold something, which the mount hides.
    #[must_use]
    pub fn allow_non_empty(mut self, allow: bool) -> Self {
        self.may_hide = allow;
        self
    }

    /// How far the kernel reads ahead of sequential readers, in KiB; 1024 by default. Set where `/sys` can be written.
    #[must_use]
    pub fn read_ahead_kib(mut self, kib: u32) -> Self {
        self.read_ahead_kib = kib;
        self
    }

    /// How the mount is made.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Mounts. Requests wait until a session serves them. A dead mount that a program of ours has left there is taken away first.
    ///
    /// # Errors
    /// See [`MountError`]; nothing is mounted then.
    pub fn mount(self) -> Result<Mount, MountError> {
        check_name(&self.name)?;
        let mountpoint = mountpoint::resolve(&self.mountpoint)?;
        let stale = mountpoint::clean(&mountpoint)?;
        mountpoint::check(&mountpoint, self.may_hide)?;
        let (device, method) = self.make(&mountpoint)?;
        let (number, connection) = match identify(&mountpoint, &device) {
            Ok(identified) => identified,
            // The mount on top is another's.
            Err(error @ MountError::Busy { .. }) => return Err(error),
            Err(error) => {
                drop(device);
                detach(&mountpoint, method)?;
                return Err(error);
            }
        };
        Ok(Mount {
            device,
            stale,
            mounted: Mounted {
                mountpoint,
                number,
                method,
                connection,
                read_ahead_kib: self.read_ahead_kib,
                is_mounted: Mutex::new(true),
            },
        })
    }

    /// Makes the mount; says how.
    fn make(&self, mountpoint: &Path) -> Result<(OwnedFd, Method), MountError> {
        if self.method != Method::Fusermount {
            match self.make_directly(mountpoint) {
                Err(MountError::NotPermitted { .. }) if self.method == Method::Automatic => {}
                other => return Ok((other?, Method::Direct)),
            }
        }
        let allow_other = if self.allow_other { ",allow_other" } else { "" };
        let name = &self.name;
        let options = format!("ro,nosuid,nodev,default_permissions,fsname={name},subtype={SUBTYPE}{allow_other}");
        Ok((fusermount::mount(mountpoint, &options)?, Method::Fusermount))
    }

    fn make_directly(&self, mountpoint: &Path) -> Result<OwnedFd, MountError> {
        let refused = |reason: &str| MountError::NotPermitted {
            mountpoint: mountpoint.to_owned(),
            reason: reason.to_owned(),
        };
        let device = Device::open().map_err(|error| match error {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoDevice,
            Errno::ACCESS | Errno::PERM => refused("/dev/fuse cannot be opened by this user; give it mode 0666"),
            other => MountError::io("open", super::device::DEVICE, other),
        })?;
        let allow_other = if self.allow_other { ",allow_other" } else { "" };
        let (user, group, number) = (getuid().as_raw(), getgid().as_raw(), device.as_raw_fd());
        let data =
            format!("fd={number},rootmode=40000,user_id={user},group_id={group},default_permissions{allow_other}");
        let data = CString::new(data).map_err(|error| MountError::io("mount", mountpoint, error))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        match rustix::mount::mount(&self.name, mountpoint, FILE_SYSTEM_TYPE, flags, data.as_c_str()) {
            Ok(()) => Ok(device),
            Err(Errno::PERM | Errno::ACCESS) => {
                Err(refused("mount(2) needs CAP_SYS_ADMIN; run as root, or install fuse3"))
            }
            Err(Errno::NODEV) => Err(MountError::NoDevice),
            Err(error) => Err(MountError::io("mount on", mountpoint, error)),
        }
    }
}

/// A colon hides a file system from `df -l`, a comma ends an option, and spaces end a field of mount tables.
fn check_name(name: &str) -> Result<(), MountError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+@/".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_good) {
        return Err(MountError::BadName { name: name.to_owned() });
    }
    Ok(())
}

/// The device number of what was just mounted, and another descriptor of its connection.
fn identify(mountpoint: &Path, device: &OwnedFd) -> Result<((u32, u32), OwnedFd), MountError> {
    match top(mountpoint)? {
        Some(row) if row.kind == FILE_SYSTEM_TYPE => {
            let connection = device.try_clone();
            let failed = |error| MountError::io("keep the device of", mountpoint, error);
            Ok((row.device, connection.map_err(failed)?))
        }
        _ => Err(MountError::Busy {
            mountpoint: mountpoint.to_owned(),
        }),
    }
}

/// The mount on top at a mount point.
fn top(mountpoint: &Path) -> Result<Option<table::Row>, MountError> {
    table::top(mountpoint).map_err(|error| MountError::io("read the mount table for", mountpoint, error))
}

/// A mount without a session yet; unmounts when it is dropped.
#[derive(Debug)]
pub struct Mount {
    device: OwnedFd,
    stale: usize,
    mounted: Mounted,
}

impl Mount {
    /// Where, without symlinks.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mounted.mountpoint
    }

    /// How it was made: [`Method::Direct`] or [`Method::Fusermount`].
    #[must_use]
    pub fn method(&self) -> Method {
        self.mounted.method
    }

    /// How many dead mounts of killed programs were taken away before.
    #[must_use]
    pub fn stale_mounts(&self) -> usize {
        self.stale
    }

    /// The device and the guard.
    pub(crate) fn into_parts(self) -> (Device, Mounted) {
        (Device::new(self.device), self.mounted)
    }
}

/// How a mount is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it; [`MountError::Busy`] otherwise.
    IfIdle,
    /// At once for those who come anew; who uses it goes on, and the session serves until the last one has gone.
    Lazily,
    /// At once for everybody: open files answer ENOTCONN, and nobody hangs. (A user's mount on a system without
    /// `/sys/fs/fuse/connections` ends with the program instead.)
    Abort,
}

/// The guard of a mount.
#[derive(Debug)]
pub(crate) struct Mounted {
    mountpoint: PathBuf,
    /// The device number, by which the mount is known from others at the same place. It says so only while `connection`
    /// lives: the kernel gives the numbers of mounts that are gone to others.
    number: (u32, u32),
    method: Method,
    /// Another descriptor of the device, to ask whether the mount is still there. It keeps the connection of a mount that
    /// stays and that no thread serves any more, until this is dropped.
    connection: OwnedFd,
    read_ahead_kib: u32,
    /// Whether it is in the tree for all that is known here; held while that changes.
    is_mounted: Mutex<bool>,
}

impl Mounted {
    /// Where, without symlinks.
    pub(crate) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// How it was made.
    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// Sets how far the kernel reads ahead; says whether that was possible.
    pub(crate) fn set_read_ahead(&self) -> bool {
        let (major, minor) = self.number;
        let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        std::fs::write(file, self.read_ahead_kib.to_string()).is_ok()
    }

    /// Undoes the mount; does nothing if it is gone, whatever is mounted there now.
    pub(crate) fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        let mut is_mounted = self.is_mounted.lock().unwrap_or_else(PoisonError::into_inner);
        let undone = match (*is_mounted, self.is_connected()) {
            (true, true) => self.undo(how),
            (true, false) => self.take_away_dead(),
            (false, _) => Ok(()),
        };
        if undone.is_ok() {
            *is_mounted = false;
        }
        if how == Unmount::Abort && self.is_connected() {
            self.abort();
        }
        undone
    }

    /// Whether the kernel still has this mount, in the tree or for those who use it. If not, its number may be that of
    /// another one.
    fn is_connected(&self) -> bool {
        let mut polled = [PollFd::new(&self.connection, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let result = retry_on_intr(|| poll(&mut polled, Some(&at_once)));
        result.is_ok() && !polled[0].revents().contains(PollFlags::ERR)
    }

    /// Takes the mount out of the tree whose connection was ended by others, if it is still there.
    fn take_away_dead(&self) -> Result<(), MountError> {
        match top(&self.mountpoint)? {
            Some(row) if self.is_number_of(&row) && !mountpoint::is_alive(&self.mountpoint)? => {
                detach(&self.mountpoint, self.method)
            }
            _ => Ok(()),
        }
    }

    fn is_number_of(&self, row: &table::Row) -> bool {
        row.device == self.number && row.kind == FILE_SYSTEM_TYPE
    }

    fn undo(&self, how: Unmount) -> Result<(), MountError> {
        let mountpoint = &self.mountpoint;
        match top(mountpoint)? {
            Some(row) if self.is_number_of(&row) => {}
            // Something is mounted over it, which is not ours to take away.
            Some(_) if how != Unmount::Abort => {
                return Err(MountError::Busy {
                    mountpoint: mountpoint.clone(),
                });
            }
            _ => return Ok(()),
        }
        if self.method == Method::Fusermount {
            return fusermount::unmount(mountpoint, how != Unmount::IfIdle);
        }
        let flags = match how {
            Unmount::IfIdle => UnmountFlags::NOFOLLOW,
            Unmount::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
            // FORCE ends the connection.
            Unmount::Abort => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE,
        };
        unmount_directly(mountpoint, flags)
    }

    /// Ends the connection, where the kernel shows it to this user.
    fn abort(&self) {
        let file = format!("/sys/fs/fuse/connections/{}/abort", self.number.1);
        let _ = std::fs::write(file, "1");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.unmount(Unmount::Abort);
    }
}

fn unmount_directly(mountpoint: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy {
            mountpoint: mountpoint.to_owned(),
        }),
        Err(error @ (Errno::PERM | Errno::ACCESS)) => Err(MountError::NotPermitted {
            mountpoint: mountpoint.to_owned(),
            reason: format!("unmounting: {error}"),
        }),
        Err(error) => Err(MountError::io("unmount", mountpoint, error)),
    }
}

/// Takes a mount out of the tree, used or not.
fn detach(mountpoint: &Path, method: Method) -> Result<(), MountError> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
    if method == Method::Fusermount {
        return fusermount::unmount(mountpoint, true);
    }
    match unmount_directly(mountpoint, flags) {
        Err(MountError::NotPermitted { .. }) if method == Method::Automatic => fusermount::unmount(mountpoint, true),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_break_mount_tables_are_refused() {
        for name in ["", "a:b", "a,b", "a b", "ä", "a\n"] {
            assert!(matches!(check_name(name), Err(MountError::BadName { .. })), "{name:?}");
        }
        assert!(check_name("debian@mirror.example/v1+x_y-z").is_ok());
    }

    #[test]
    fn nothing_is_mounted_on_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = MountOptions::new(dir.path().join("none")).mount().unwrap_err();
        assert!(error.to_string().contains("create the directory"), "{error}");
    }
}
