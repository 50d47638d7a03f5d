//! Faults: readers that are killed, panics, mounts that are busy, dead or taken away.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use instantmirror_fuse::{InodeId, Method, MountError, MountOptions, Session, SessionOptions, Unmount};

use crate::memory::{Data, MemoryTree};
use crate::support::{Mounted, eventually, is_apart, run, shell, shell_fails, text};

/// A read that ends later than this after a signal has waited for something.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn a_killed_reader_ends_at_once() {
    if !is_apart("faults::a_killed_reader_ends_at_once") {
        return;
    }
    let tree = MemoryTree::new();
    tree.file(1, "waits", Data::Waiting(100));
    tree.text(1, "other", "other\n");
    let mounted = Mounted::new(&tree);
    let mut reader = Command::new("cat")
        .arg(mounted.path().join("waits"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    tree.wait_for_read();
    assert_eq!(mounted.session.counters().waiting_reads, 1);
    assert_eq!(shell(&mounted.path(), "cat other"), "other\n");
    let begin = Instant::now();
    reader.kill().unwrap();
    assert_eq!(reader.wait().unwrap().signal(), Some(9));
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    eventually("the interrupt", || {
        tree.interrupted.load(std::sync::atomic::Ordering::SeqCst) == 1
    });
    eventually("the end of the wait", || mounted.session.counters().waiting_reads == 0);
    // The next reader of the same file is answered from another thread, later.
    let reader = Command::new("cat")
        .arg(mounted.path().join("waits"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tree.wait_for_read();
    let answers = std::thread::spawn(move || reader.wait_with_output().unwrap());
    eventually("the answer", || {
        tree.answer_waiting(Ok(&[b'x'; 100]));
        answers.is_finished()
    });
    assert_eq!(answers.join().unwrap().stdout, [b'x'; 100]);
}

#[test]
fn panics_and_forgotten_replies_are_eio_and_the_session_lives() {
    if !is_apart("faults::panics_and_forgotten_replies_are_eio_and_the_session_lives") {
        return;
    }
    let tree = MemoryTree::new();
    tree.file(1, "panics", Data::Panicking);
    tree.file(1, "forgets", Data::Forgetting);
    let backing = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(backing.path(), "0123456789").unwrap();
    tree.file(1, "shorter", Data::Truncated(File::open(backing.path()).unwrap()));
    tree.text(1, "good", "good\n");
    let mounted = Mounted::with(&tree, SessionOptions::default().threads(1));
    let at = mounted.path();
    for file in ["panics", "forgets", "shorter", "panic"] {
        assert!(
            shell_fails(&at, &format!("cat {file}")).contains("Input/output error"),
            "{file}"
        );
    }
    assert_eq!(shell(&at, "cat good"), "good\n");
    assert!(
        mounted.session.counters().panics >= 2,
        "{:?}",
        mounted.session.counters()
    );
}

#[test]
fn a_busy_mount_is_told_from_an_idle_one() {
    if !is_apart("faults::a_busy_mount_is_told_from_an_idle_one") {
        return;
    }
    let tree = MemoryTree::new();
    tree.text(1, "file", "content");
    tree.file(1, "waits", Data::Waiting(100));
    let mounted = Mounted::new(&tree);
    let file = File::open(mounted.path().join("file")).unwrap();
    let session = &mounted.session;
    assert!(matches!(session.unmount(Unmount::IfIdle), Err(MountError::Busy { .. })));
    // Lazily: the name is gone, the open file is not.
    session.unmount(Unmount::Lazily).unwrap();
    assert_eq!(std::fs::read_dir(mounted.path()).unwrap().count(), 0);
    assert_eq!(std::io::read_to_string(&file).unwrap(), "content");
    assert!(!session.join_timeout(Duration::from_millis(50)));
    drop(file);
    assert!(session.join_timeout(AT_ONCE), "nobody uses it any more");
    assert!(tree.kernel().invalidate_inode(InodeId::ROOT).is_err());
}

#[test]
fn an_aborted_mount_lets_nobody_hang() {
    if !is_apart("faults::an_aborted_mount_lets_nobody_hang") {
        return;
    }
    let tree = MemoryTree::new();
    tree.text(1, "file", "content");
    tree.file(1, "waits", Data::Waiting(100));
    let mounted = Mounted::new(&tree);
    let file = File::open(mounted.path().join("file")).unwrap();
    let reader = Command::new("cat")
        .arg(mounted.path().join("waits"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tree.wait_for_read();
    let begin = Instant::now();
    mounted.session.unmount(Unmount::Abort).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    assert!(std::io::read_to_string(&file).is_err());
    assert!(mounted.session.join_timeout(AT_ONCE));
    assert!(begin.elapsed() < AT_ONCE);
    eventually("the end of the wait", || mounted.session.counters().waiting_reads == 0);
    eventually("the interrupt", || {
        tree.interrupted.load(std::sync::atomic::Ordering::SeqCst) >= 1
    });
}

#[test]
fn a_session_ends_when_somebody_unmounts() {
    if !is_apart("faults::a_session_ends_when_somebody_unmounts") {
        return;
    }
    let mounted = Mounted::new(&MemoryTree::new());
    shell(mounted.beside(), "ls m; umount m");
    assert!(mounted.session.join_timeout(AT_ONCE));
    mounted.session.unmount(Unmount::IfIdle).unwrap();
}

#[test]
fn a_dead_guard_leaves_the_mounts_of_others_alone() {
    if !is_apart("faults::a_dead_guard_leaves_the_mounts_of_others_alone") {
        return;
    }
    // A guard could end others by them too.
    let _ = show_connections();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let serve = || {
        let tree = MemoryTree::new();
        tree.text(1, "file", "content\n");
        let mount = MountOptions::new(at).mount().unwrap();
        Session::serve(mount, tree, SessionOptions::default()).unwrap()
    };
    let number = || std::fs::metadata(at).unwrap().dev();
    for somebody in [true, false] {
        let mut proved = 0;
        for _ in 0..50 {
            let old = serve();
            let old_number = number();
            if somebody {
                rustix::mount::unmount(at, rustix::mount::UnmountFlags::empty()).unwrap();
            } else {
                old.unmount(Unmount::IfIdle).unwrap();
            }
            old.join();
            let new = serve();
            // The kernel gives the number again, if no other program was faster.
            proved += usize::from(number() == old_number);
            drop(old);
            assert_eq!(shell(at, "cat file"), "content\n");
            assert!(!new.join_timeout(Duration::from_millis(5)));
            drop(new);
            assert_eq!(std::fs::read_dir(at).unwrap().count(), 0);
            if proved == 3 {
                break;
            }
        }
        assert!(proved > 0, "no number was given again");
    }
}

/// Lets this namespace see the connections of the kernel; says whether it can.
fn show_connections() -> bool {
    let is_shown = run(Command::new("mount").args(["-t", "fusectl", "none", "/sys/fs/fuse/connections"]));
    if !is_shown.status.success() {
        println!("skipped: {}", text(&is_shown));
    }
    is_shown.status.success()
}

#[test]
fn a_mount_under_another_is_busy_and_ends_by_abort_alone() {
    if !is_apart("faults::a_mount_under_another_is_busy_and_ends_by_abort_alone") {
        return;
    }
    if !show_connections() {
        return;
    }
    let mounted = Mounted::new(&MemoryTree::new());
    let session = &mounted.session;
    shell(mounted.beside(), "mount -t tmpfs over m; echo kept > m/file");
    for how in [Unmount::IfIdle, Unmount::Lazily] {
        assert!(matches!(session.unmount(how), Err(MountError::Busy { .. })), "{how:?}");
    }
    session.unmount(Unmount::Abort).unwrap();
    assert!(session.join_timeout(AT_ONCE));
    assert_eq!(shell(mounted.beside(), "cat m/file"), "kept\n");
    shell(mounted.beside(), "umount m; umount m");
}

#[test]
fn an_aborted_connection_is_taken_out_of_the_tree() {
    if !is_apart("faults::an_aborted_connection_is_taken_out_of_the_tree") {
        return;
    }
    if !show_connections() {
        return;
    }
    let mounted = Mounted::new(&MemoryTree::new());
    let number = std::fs::metadata(mounted.path()).unwrap().dev();
    let connection = format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(number));
    std::fs::write(connection, "1").unwrap();
    assert!(mounted.session.join_timeout(AT_ONCE));
    mounted.session.unmount(Unmount::Abort).unwrap();
    assert_eq!(std::fs::read_dir(mounted.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_written_by_a_mount_that_was_made_writable() {
    if !is_apart("faults::nothing_is_written_by_a_mount_that_was_made_writable") {
        return;
    }
    let backing = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(backing.path(), "content").unwrap();
    let tree = MemoryTree::new();
    let both = File::options().read(true).write(true).open(backing.path()).unwrap();
    tree.file(1, "file", Data::Backed(both));
    let mounted = Mounted::new(&tree);
    let at = mounted.path();
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount_remount(&at, flags, "").unwrap();
    for script in [
        "echo x >> file",
        "echo x > file",
        "echo x 1<> file",
        "echo x > new",
        "rm file",
    ] {
        assert!(shell_fails(&at, script).contains("Read-only file system"), "{script}");
    }
    assert_eq!(shell(&at, "cat file"), "content");
    assert_eq!(std::fs::read(backing.path()).unwrap(), b"content");
}

/// How many descriptors this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_hundred_remounts_leak_nothing() {
    if !is_apart("faults::a_hundred_remounts_leak_nothing") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let backing = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(backing.path(), "content").unwrap();
    let mut before = 0;
    let mut trees = Vec::new();
    for round in 0..100 {
        let tree = MemoryTree::new();
        tree.file(1, "file", Data::Cached("content".into()));
        let mount = MountOptions::new(dir.path()).mount().unwrap();
        let session = Session::serve(mount, tree.clone(), SessionOptions::default()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"content");
        if round % 2 == 0 {
            session.unmount(Unmount::IfIdle).unwrap();
            session.join();
        }
        drop(session);
        // A file system that outlives its session holds no descriptor.
        trees.push(tree);
        if round == 0 {
            before = descriptors();
        }
    }
    assert_eq!(descriptors(), before);
    assert_eq!(shell(dir.path(), "grep -c imfs /proc/mounts || true"), "0\n");
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Set in the process that mounts and is killed.
const DAEMON: &str = "IMFS_TEST_DAEMON";

#[test]
fn a_stale_mount_of_a_killed_daemon_is_taken_away() {
    if let Some(at) = std::env::var_os(DAEMON) {
        let tree = MemoryTree::new();
        tree.text(1, "file", "content\n");
        let mount = MountOptions::new(at).mount().unwrap();
        let session = Session::serve(mount, tree, SessionOptions::default()).unwrap();
        println!("serving");
        session.join();
        return;
    }
    let name = "faults::a_stale_mount_of_a_killed_daemon_is_taken_away";
    if !is_apart(name) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for _ in 0..2 {
        let mut daemon = Command::new(std::env::current_exe().unwrap());
        daemon
            .args(["--exact", name, "--nocapture"])
            .env(DAEMON, at)
            .stdout(Stdio::null());
        let mut daemon = Killed(daemon.spawn().unwrap());
        // Attributes would not tell: the kernel keeps those of a dead mount too.
        eventually("the mount", || File::open(at.join("file")).is_ok());
        let open = File::open(at.join("file")).unwrap();
        let error = MountOptions::new(at).mount().unwrap_err();
        assert!(matches!(error, MountError::AlreadyMounted { .. }), "{error}");
        daemon.0.kill().unwrap();
        daemon.0.wait().unwrap();
        assert!(shell_fails(at, "cat none").contains("Transport endpoint is not connected"));
        drop(open);
    }
    // The second daemon has taken away the mount of the first.
    let mount = MountOptions::new(at).mount().unwrap();
    assert_eq!(mount.stale_mounts(), 1);
    let tree = MemoryTree::new();
    tree.text(1, "new", "new\n");
    let session = Session::serve(mount, tree, SessionOptions::default()).unwrap();
    assert_eq!(shell(at, "cat new"), "new\n");
    drop(session);
    assert_eq!(std::fs::read_dir(at).unwrap().count(), 0);
}

#[test]
fn a_mount_that_is_never_served_goes_away() {
    if !is_apart("faults::a_mount_that_is_never_served_goes_away") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = MountOptions::new(dir.path()).mount().unwrap();
    assert_eq!((mount.method(), mount.stale_mounts()), (Method::Direct, 0));
    shell(dir.path().parent().unwrap(), "grep -q fuse.imfs /proc/mounts");
    drop(mount);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let mount = MountOptions::new(dir.path()).mount().unwrap();
    // umount(8) would first ask the file system something, and wait for ever.
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    let error = Session::serve(mount, MemoryTree::new(), SessionOptions::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("was unmounted before"), "{error}");
}

fn has_fusermount() -> bool {
    let is_there = |program: &&str| Command::new(program).arg("-V").output().is_ok();
    ["fusermount3", "fusermount"].iter().any(is_there)
}

#[test]
fn a_user_mounts_through_fusermount() {
    if !is_apart("faults::a_user_mounts_through_fusermount") {
        return;
    }
    if !has_fusermount() {
        println!("skipped: fusermount3 is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = MemoryTree::new();
    tree.text(1, "file", "content\n");
    let options = || MountOptions::new(dir.path()).method(Method::Fusermount);
    let mount = options().mount().unwrap();
    assert_eq!(mount.method(), Method::Fusermount);
    let session = Session::serve(mount, tree.clone(), SessionOptions::default()).unwrap();
    assert_eq!(shell(dir.path(), "cat file"), "content\n");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let row = mounts.lines().find(|row| row.contains("fuse.imfs")).unwrap();
    assert!(
        row.starts_with("instantmirror ") && row.contains("ro,nosuid,nodev"),
        "{row}"
    );
    let file = File::open(dir.path().join("file")).unwrap();
    assert!(matches!(session.unmount(Unmount::IfIdle), Err(MountError::Busy { .. })));
    session.unmount(Unmount::Lazily).unwrap();
    drop(file);
    assert!(session.join_timeout(AT_ONCE));
}

/// The uid and gid of the user in the next test: nobody, on every Linux.
const NOBODY: u32 = 65534;

#[test]
fn a_user_without_privileges_mounts_and_cleans_up() {
    let name = "faults::a_user_without_privileges_mounts_and_cleans_up";
    if let Some(at) = std::env::var_os(DAEMON) {
        let tree = MemoryTree::new();
        tree.text(1, "file", "content\n");
        let mount = MountOptions::new(at).mount().unwrap();
        assert_eq!(mount.method(), Method::Fusermount);
        let session = Session::serve(mount, tree, SessionOptions::default()).unwrap();
        session.join();
        return;
    }
    if !is_apart(name) {
        return;
    }
    if !has_fusermount() {
        println!("skipped: fusermount3 is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (at, program) = (dir.path().join("m"), dir.path().join("test"));
    // The device is for root alone here and there, the test's program somewhere that the user may not go.
    let script =
        "chmod 755 .; mkdir m; chown 65534:65534 m; mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse";
    shell(dir.path(), script);
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let as_nobody = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            &format!("--reuid={NOBODY}"),
            &format!("--regid={NOBODY}"),
            "--clear-groups",
            "--",
        ]);
        command
            .args(["sh", "-ec", script])
            .current_dir(dir.path())
            .env("LC_ALL", "C");
        command
    };
    let is_there = || run(&mut as_nobody("cat m/file")).stdout == b"content\n";
    for _ in 0..2 {
        let mut daemon = as_nobody(&format!("exec ./test --exact {name} --nocapture"));
        let mut daemon = Killed(daemon.env(DAEMON, &at).stdout(Stdio::null()).spawn().unwrap());
        eventually("the mount", is_there);
        assert!(
            shell_fails(dir.path(), "cat m/file").contains("Permission denied"),
            "not even root"
        );
        daemon.0.kill().unwrap();
        daemon.0.wait().unwrap();
    }
    // The second round has taken away the mount of the first. Root cannot see whether a mount that is not for it lives.
    let error = MountOptions::new(&at).mount().unwrap_err();
    assert!(matches!(error, MountError::AlreadyMounted { .. }), "{error}");
    // Not a directory of the user: refused, and said why.
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let mut refused = as_nobody(&format!("exec ./test --exact {name} --nocapture"));
    let output = run(refused.env(DAEMON, &foreign));
    assert!(text(&output).contains("NotPermitted"), "{}", text(&output));
}
