//! Whose a directory is: root must not leave files in it that its user's daemon cannot read.
//!
//! Refusing is the safe choice. Changing the owner of what is written would have to be right for each file, at each crash, and
//! for the modes that a umask leaves; a process that changes its own user half-way holds rights that it should not have.
//!
//! Some file systems give all files one owner, whoever makes them (CIFS, exFAT and vfat with `uid=`, NFS with `all_squash`).
//! There nothing is said by who owns a directory, and what root makes is the directory's owner's: it may go on. NFS with
//! `root_squash` gives root's files alone to somebody else, whom the daemon's user does not know either: root is refused.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::StoreError;

/// Says nothing of who uses a directory: a file system comes with it.
const LOST_AND_FOUND: &str = "lost+found";

/// Of a file that finds out who owns what is made in a directory.
const PROBE: &str = ".owner-probe";

/// Whether the file system gives what this process makes in `dir` to the owner of `dir`, another user. False if nothing can be
/// made there. A file without a name is made where that is possible, else one is made and removed.
pub(super) fn is_forced(dir: &Path) -> bool {
    let (Ok(made), Ok(meta)) = (owner_of_new(dir), std::fs::metadata(dir)) else {
        return false;
    };
    goes_to_the_owner(made, meta.uid(), rustix::process::geteuid().as_raw())
}

/// Whether what user `own` made, and `made` owns, went to the `owner` of the directory instead.
fn goes_to_the_owner(made: u32, owner: u32, own: u32) -> bool {
    made != own && made == owner
}

fn owner_of_new(dir: &Path) -> rustix::io::Result<u32> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(unnamed) = rustix::fs::open(dir, flags | OFlags::TMPFILE, mode) {
        return Ok(rustix::fs::fstat(&unnamed)?.st_uid);
    }
    let path = dir.join(format!("{PROBE}-{}", std::process::id()));
    let made = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, mode)?;
    let stat = rustix::fs::fstat(&made);
    rustix::fs::unlink(&path)?;
    Ok(stat?.st_uid)
}

/// The error that writing into `dir` has to end with; `None` if this process may write there.
pub(super) fn refusal(dir: &Path) -> Option<StoreError> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let meta = std::fs::metadata(dir).ok().filter(|meta| meta.uid() != 0)?;
    let (uid, gid) = (meta.uid(), meta.gid());
    let name = std::fs::read_to_string("/etc/passwd").ok();
    let name = name.as_deref().and_then(|passwd| user_name(passwd, uid));
    is_used_by(dir, uid).then(|| StoreError::ForeignOwner {
        path: dir.to_path_buf(),
        owner: name.map_or_else(|| format!("user {uid}"), |name| format!("user '{name}'")),
        command: command_as(name, uid, gid, std::env::args_os()),
    })
}

/// Whether the owner of a directory keeps something in it, or nobody does yet. One in which all is root's is used by root,
/// whoever owns the mount point (as in containers).
fn is_used_by(dir: &Path, uid: u32) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return true;
    };
    let entries = entries.flatten().filter(|entry| entry.file_name() != LOST_AND_FOUND);
    let mut owners = entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.uid());
    match owners.next() {
        None => true,
        Some(first) => first == uid || owners.any(|owner| owner == uid),
    }
}

fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// A command line that runs the same as another user.
fn command_as(name: Option<&str>, uid: u32, gid: u32, arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> String {
    let mut command = match name {
        Some(name) => format!("runuser -u {name} --"),
        None => format!("setpriv --reuid {uid} --regid {gid} --clear-groups"),
    };
    for argument in arguments {
        // Writing to a string cannot fail.
        let _ = write!(command, " {}", quoted(argument.as_ref()));
    }
    command
}

/// As a shell takes it.
fn quoted(argument: &OsStr) -> String {
    let text = String::from_utf8_lossy(argument.as_bytes());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=:,@%+".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_same_one_for_a_shell() {
        let arguments = ["imserver", "publish", "--note", "it's new", ""];
        assert_eq!(
            command_as(Some("mirror"), 5, 6, arguments.iter()),
            "runuser -u mirror -- imserver publish --note 'it'\\''s new' ''"
        );
        let command = command_as(None, 5, 6, ["x"].iter());
        assert_eq!(command, "setpriv --reuid 5 --regid 6 --clear-groups x");
        let passwd = "root:x:0:0:root:/root:/bin/bash\nmirror:x:55:6::/:/bin/false\nbad\n";
        assert_eq!((user_name(passwd, 55), user_name(passwd, 5)), (Some("mirror"), None));
    }

    #[test]
    fn what_is_made_here_is_ours_and_nothing_of_the_probe_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owner_of_new(dir.path()), Ok(rustix::process::geteuid().as_raw()));
        assert!(!is_forced(dir.path()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!is_forced(&dir.path().join("absent")));
        // Where no file without a name can be made, one with a name tells it: what the kernel makes of `/proc` is never ours to make.
        assert!(owner_of_new(Path::new("/proc/self")).is_err());
    }

    #[test]
    fn only_what_goes_to_the_directorys_owner_is_forced() {
        const NOBODY: u32 = 65534;
        assert!(goes_to_the_owner(77, 77, 0), "CIFS with `uid=77`");
        assert!(!goes_to_the_owner(0, 77, 0), "an ordinary file system");
        assert!(
            !goes_to_the_owner(NOBODY, 77, 0),
            "NFS with `root_squash`: not the daemon's"
        );
        assert!(goes_to_the_owner(NOBODY, NOBODY, 0), "NFS with `all_squash`");
        assert!(!goes_to_the_owner(0, 0, 0));
    }

    #[test]
    fn a_directory_is_its_owners_unless_all_in_it_is_roots() {
        let dir = tempfile::tempdir().unwrap();
        let change = |name: &str, uid: u32| {
            let path = dir.path().join(name);
            if !path.exists() {
                std::fs::create_dir(&path).unwrap();
            }
            std::os::unix::fs::chown(path, Some(uid), None).is_ok()
        };
        if !change("", 77) {
            eprintln!("skipped: only root can be refused");
            return;
        }
        let is_refused = || refusal(dir.path()).is_some();
        assert!(is_refused(), "made for that user");
        change(LOST_AND_FOUND, 0);
        assert!(is_refused());
        change("by-root", 0);
        assert!(!is_refused());
        change("heads", 77);
        assert!(is_refused());
        change("", 0);
        assert!(!is_refused());
    }
}
