//! Mounts of users who are not root: the setuid program `fusermount3` makes the mount and hands over its device.
//!
//! The descriptor comes by a socket, whose other end is the program's standard input: so nothing has to be inherited by number.

use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use super::MountError;

/// The program of libfuse 3, and that of libfuse 2, which speaks the same protocol.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Tells the program which descriptor is its end of the socket.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Mounts and takes the device.
pub(super) fn mount(mountpoint: &Path, options: &str) -> Result<OwnedFd, MountError> {
    let failed = |source: io::Error| MountError::io("start fusermount3 for", mountpoint, source);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| failed(error.into()))?;
    let arguments = [
        OsStr::new("-o"),
        OsStr::new(options),
        OsStr::new("--"),
        mountpoint.as_os_str(),
    ];
    let output = run(&arguments, Some(theirs)).map_err(failed)?;
    let output = output.ok_or_else(|| MountError::NoFusermount {
        mountpoint: mountpoint.to_owned(),
    })?;
    if !output.status.success() {
        return Err(refused(mountpoint, &output));
    }
    take_descriptor(&ours)
        .map_err(failed)?
        .ok_or_else(|| MountError::Fusermount {
            mountpoint: mountpoint.to_owned(),
            text: "it handed over no device".to_owned(),
        })
}

/// Unmounts, `lazily` also if the mount is busy.
pub(super) fn unmount(mountpoint: &Path, lazily: bool) -> Result<(), MountError> {
    let mut arguments = vec![OsStr::new("-u")];
    if lazily {
        arguments.push(OsStr::new("-z"));
    }
    arguments.extend([OsStr::new("--"), mountpoint.as_os_str()]);
    let output = run(&arguments, None).map_err(|error| MountError::io("start fusermount3 for", mountpoint, error))?;
    match output {
        None => Err(MountError::NoFusermount {
            mountpoint: mountpoint.to_owned(),
        }),
        Some(output) if output.status.success() => Ok(()),
        Some(output) => Err(refused(mountpoint, &output)),
    }
}

/// Runs the first of the programs that is installed.
fn run(arguments: &[&OsStr], socket: Option<OwnedFd>) -> io::Result<Option<Output>> {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(socket) = &socket {
            command
                .env(SOCKET_VARIABLE, "0")
                .stdin(Stdio::from(socket.try_clone()?));
        }
        match command.output() {
            // A folder of PATH that may not be searched makes "not found" a "permission denied".
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            other => return other.map(Some),
        }
    }
    Ok(None)
}

/// The error that its complaint means.
fn refused(mountpoint: &Path, output: &Output) -> MountError {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // A path may say anything.
    let said = text.replace(&*mountpoint.to_string_lossy(), "");
    let mountpoint = mountpoint.to_owned();
    if said.contains("user_allow_other") {
        let reason = "other users may see it only if /etc/fuse.conf says user_allow_other; \
                      add that line, or mount without allow_other";
        return MountError::NotPermitted {
            mountpoint,
            reason: reason.to_owned(),
        };
    }
    if said.contains("resource busy") {
        return MountError::Busy { mountpoint };
    }
    if said.contains("ermission denied") || said.contains("not permitted") || said.contains("no write access") {
        return MountError::NotPermitted {
            mountpoint,
            reason: format!("{text}; the directory has to belong to the user, and /dev/fuse to be open to all"),
        };
    }
    MountError::Fusermount { mountpoint, text }
}

/// Receives one byte with one descriptor; `None` if there is none.
fn take_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(received)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn meaning(text: &str) -> MountError {
        meaning_at("/m", text)
    }

    fn meaning_at(mountpoint: &str, text: &str) -> MountError {
        let output = Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: Vec::new(),
            stderr: text.as_bytes().to_vec(),
        };
        refused(Path::new(mountpoint), &output)
    }

    #[test]
    fn complaints_become_matchable_errors() {
        let other = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(matches!(meaning(other), MountError::NotPermitted { reason, .. } if reason.contains("/etc/fuse.conf")));
        let busy = "fusermount3: failed to unmount /m: Device or resource busy";
        assert!(matches!(meaning(busy), MountError::Busy { .. }));
        for path in ["/srv/resource busy", "/srv/not permitted", "/user_allow_other"] {
            let odd = meaning_at(path, &format!("fusermount3: {path} is odd"));
            assert!(
                matches!(odd, MountError::Fusermount { text, .. } if text.contains(path)),
                "{path}"
            );
        }
        let denied = "fusermount3: mount failed: Operation not permitted";
        assert!(matches!(meaning(denied), MountError::NotPermitted { .. }));
        assert!(matches!(meaning("fusermount3: odd"), MountError::Fusermount { text, .. } if text.contains("odd")));
    }

    #[test]
    fn a_socket_without_a_descriptor_gives_none() {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        drop(theirs);
        assert!(take_descriptor(&ours).unwrap().is_none());
    }
}
