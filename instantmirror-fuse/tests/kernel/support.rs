//! Parts that the tests share: a mount namespace of their own for each test, mounts in it, and programs with a limit of time.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use instantmirror_fuse::{MountOptions, Session, SessionOptions};
use tempfile::TempDir;

use crate::memory::MemoryTree;

/// Set in the run that is inside of the namespace.
const INSIDE: &str = "IMFS_TEST_INSIDE";

/// How long a program may take, a whole test that waits for [`caches`] too.
const LIMIT: Duration = Duration::from_secs(180);

/// Set where the tests have to run: what they lack fails them then.
const REQUIRED: &str = "IMFS_TESTS_REQUIRED";

/// Namespaces of a test's own, mounts and processes: nothing survives the test, however it ends.
const APART: [&str; 7] = [
    "--mount",
    "--propagation=private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--",
];

/// Why the tests cannot run here.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".to_owned());
    }
    let output = run(Command::new("unshare").args(APART).arg("true"));
    (!output.status.success()).then(|| format!("no namespaces: {}", text(&output).trim()))
}

/// Whether this is the run of test `name` in namespaces of its own. Runs it there if not. Where that cannot be, it says so and
/// runs nothing, or fails if `IMFS_TESTS_REQUIRED=1` is set.
pub(crate) fn is_apart(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Some(obstacle) = obstacle() {
        assert!(
            std::env::var_os(REQUIRED).is_none_or(|set| set != "1"),
            "{name} cannot run: {obstacle}"
        );
        // Past the test harness, which keeps to itself what passing tests print.
        let _ = writeln!(std::io::stderr(), "skipped {name}: {obstacle}");
        return false;
    }
    let mut command = Command::new("unshare");
    command
        .args(APART)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
    let output = run(&mut command);
    let text = text(&output);
    print!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// The output of a program.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Runs a program to its end, or kills it when it takes too long.
pub(crate) fn run(command: &mut Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let _ = sender.send(());
        output
    });
    if receiver.recv_timeout(LIMIT).is_err() {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        panic!("{command:?} took longer than {LIMIT:?}");
    }
    waiter.join().unwrap()
}

/// Runs a shell script in a directory; it has to succeed. Returns its output.
pub(crate) fn shell(directory: &Path, script: &str) -> String {
    let output = run(Command::new("sh").args(["-ec", script]).current_dir(directory));
    assert!(output.status.success(), "{script}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same, but it has to fail; what it complained.
pub(crate) fn shell_fails(directory: &Path, script: &str) -> String {
    let output = run(Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .env("LC_ALL", "C"));
    assert!(!output.status.success(), "{script} should fail");
    text(&output)
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A tree that is mounted; gone when this is dropped.
pub(crate) struct Mounted {
    pub(crate) session: Session,
    dir: TempDir,
}

impl Mounted {
    pub(crate) fn new(tree: &Arc<MemoryTree>) -> Self {
        Self::with(tree, SessionOptions::default())
    }

    pub(crate) fn with(tree: &Arc<MemoryTree>, options: SessionOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("m");
        std::fs::create_dir(&at).unwrap();
        let mount = MountOptions::new(&at).allow_other(true).mount().unwrap();
        let session = Session::serve(mount, Arc::<MemoryTree>::clone(tree), options).unwrap();
        Self { session, dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("m")
    }

    /// A directory beside the mount.
    pub(crate) fn beside(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.session.counters().operations_of(kind)
    }
}

/// While this lives, no other test drops caches. Taken late: others wait for it.
pub(crate) fn caches() -> std::fs::File {
    let file = std::fs::File::create(std::env::temp_dir().join("imfs-test-caches.lock")).unwrap();
    file.lock().unwrap();
    file
}

/// Lets the kernel forget names, attributes and pages; for who has [`caches`].
pub(crate) fn drop_caches(_: &std::fs::File) {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}
