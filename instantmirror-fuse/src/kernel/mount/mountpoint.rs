//! Looks at a mount point before something is mounted there, and takes away what a killed program of ours has left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::{FILE_SYSTEM_TYPE, Method, MountError};

/// How long a mount that is there may take to say that it lives. Longer means that it lives and is slow.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many dead mounts are taken from one mount point: one for each start of a program that was killed.
const STALE_MAX: usize = 64;

/// Without symlinks, existing or not: a dead mount still has a name.
pub(super) fn resolve(mountpoint: &Path) -> Result<PathBuf, MountError> {
    match std::fs::canonicalize(mountpoint) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MountError::Missing {
            mountpoint: mountpoint.to_owned(),
        }),
        Err(error) if is_dead(&error) => {
            let (Some(parent), Some(name)) = (mountpoint.parent(), mountpoint.file_name()) else {
                return Err(MountError::io("resolve", mountpoint, error));
            };
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            let parent = std::fs::canonicalize(parent).map_err(|error| MountError::io("resolve", parent, error))?;
            Ok(parent.join(name))
        }
        Err(error) => Err(MountError::io("resolve", mountpoint, error)),
    }
}

/// "Transport endpoint is not connected": the program behind a FUSE mount is gone.
fn is_dead(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOTCONN)
}

/// Whether the file system that is mounted here answers. Its attributes may be kept by the kernel for ever, so only `statfs`
/// tells, which always asks; but for a mount of another user without `allow_other`, which seems to live.
pub(super) fn is_alive(mountpoint: &Path) -> Result<bool, MountError> {
    let (sender, receiver) = mpsc::channel();
    let path = mountpoint.to_owned();
    // A thread of its own: it stays behind if that file system never answers.
    std::thread::Builder::new()
        .name("imfs-probe".to_owned())
        .spawn(move || sender.send(rustix::fs::statfs(&path).map(|_| ())))
        .map_err(|error| MountError::io("start a thread for", mountpoint, error))?;
    match receiver.recv_timeout(PROBE_TIMEOUT) {
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Ok(false),
        Ok(_) | Err(_) => Ok(true),
    }
}

/// Takes away dead mounts of ours. `mountpoint` is resolved. Says how many there were.
pub(super) fn clean(mountpoint: &Path) -> Result<usize, MountError> {
    for cleaned in 0..STALE_MAX {
        let row = super::top(mountpoint)?;
        let Some(row) = row else { return Ok(cleaned) };
        let is_ours = row.kind == FILE_SYSTEM_TYPE;
        let is_fuse = is_ours || row.kind == "fuse" || row.kind.starts_with("fuse.");
        if !is_fuse {
            return Ok(cleaned);
        }
        match (is_alive(mountpoint)?, is_ours) {
            (true, true) => {
                return Err(MountError::AlreadyMounted {
                    mountpoint: mountpoint.to_owned(),
                });
            }
            (true, false) => return Ok(cleaned),
            (false, false) => {
                return Err(MountError::ForeignStale {
                    mountpoint: mountpoint.to_owned(),
                    kind: row.kind,
                });
            }
            // Another program may have taken it away meanwhile, and mounted.
            (false, true) if super::top(mountpoint)?.is_none_or(|now| now.device != row.device) => {}
            (false, true) => super::detach(mountpoint, Method::Automatic)?,
        }
    }
    Err(MountError::Busy {
        mountpoint: mountpoint.to_owned(),
    })
}

/// A directory, and empty unless it may hold something.
pub(super) fn check(mountpoint: &Path, may_hide: bool) -> Result<(), MountError> {
    let io = |error| MountError::io("look at", mountpoint, error);
    let metadata = std::fs::metadata(mountpoint).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing {
            mountpoint: mountpoint.to_owned(),
        },
        _ => io(error),
    })?;
    if !metadata.is_dir() {
        return Err(MountError::NotDirectory {
            mountpoint: mountpoint.to_owned(),
        });
    }
    if !may_hide && std::fs::read_dir(mountpoint).map_err(io)?.next().is_some() {
        return Err(MountError::NotEmpty {
            mountpoint: mountpoint.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unfit_mount_point_has_its_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        assert!(matches!(resolve(&file), Err(MountError::Missing { .. })));
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(check(&file, false), Err(MountError::NotDirectory { .. })));
        assert!(matches!(check(dir.path(), false), Err(MountError::NotEmpty { .. })));
        assert!(check(dir.path(), true).is_ok());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(".", &link).unwrap();
        assert_eq!(resolve(&link).unwrap(), dir.path().canonicalize().unwrap());
    }

    #[test]
    fn ordinary_directories_have_nothing_to_clean() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(clean(&dir.path().canonicalize().unwrap()).unwrap(), 0);
        assert_eq!(clean(Path::new("/proc")).unwrap(), 0);
    }
}
