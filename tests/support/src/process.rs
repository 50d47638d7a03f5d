//! Programs that run while a test looks at them, and the places they work in.
//!
//! Never sleeps a fixed time: everything waits for what it wants to see, up to a deadline, and a failure shows the
//! program's log.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::command::{clean_command, kill_group, run, wait_bounded};
use crate::http;

/// How long a program gets to end by itself after SIGTERM when its guard is dropped.
const DROP_GRACE: Duration = Duration::from_secs(5);

/// How long `cargo build` of one program may take.
const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// How many bytes of a log's end an error message shows.
const LOG_TAIL_BYTES: usize = 4096;

/// A running program; stopped, with all it started, when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts a program in a process group of its own with stdout and stderr appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open the log {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name} as {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
            ended: None,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `look` finds something in the log; an error if the program ends or the time is up before.
    pub fn wait_for_log<T>(&mut self, limit: Duration, look: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.wait_until(limit, "the awaited log line", |daemon| look(&daemon.log()))
    }

    /// Waits for the first log line that contains `text` and returns it.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_until(limit, &format!("a log line with `{text}`"), |daemon| {
            let log = daemon.log();
            // The last line may be half written.
            let complete = log.rfind('\n').and_then(|end| log.get(..end)).unwrap_or_default();
            complete.lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// Waits until something accepts connections on this port of 127.0.0.1.
    pub fn wait_for_port(&mut self, port: u16, limit: Duration) -> Result<()> {
        let connects = |_: &Self| TcpStream::connect(("127.0.0.1", port)).ok().map(drop);
        self.wait_until(limit, &format!("port {port}"), connects)
    }

    /// Waits until a GET of this URL is answered with a status below 400.
    pub fn wait_for_url(&mut self, url: &str, limit: Duration) -> Result<()> {
        let answers = |_: &Self| http::get(url).ok().filter(|answer| answer.status < 400).map(drop);
        self.wait_until(limit, &format!("an answer from {url}"), answers)
    }

    fn wait_until<T>(&mut self, limit: Duration, wanted: &str, look: impl Fn(&Self) -> Option<T>) -> Result<T> {
        let mut is_last_look = false;
        let found = poll(limit, || {
            let ended = self.poll_exit();
            let found = look(self);
            is_last_look = ended.is_some();
            found.map(Some).or(is_last_look.then_some(None))
        });
        match found.flatten() {
            Some(found) => Ok(found),
            None if is_last_look => bail!(
                "{} ended before {wanted} came; its log ends with:\n{}",
                self.name,
                self.tail()
            ),
            None => bail!(
                "{}: {wanted} did not come within {limit:?}; its log ends with:\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll_exit().is_none()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        match wait_bounded(&mut self.child, limit)? {
            Some(status) => {
                self.ended = Some(status);
                Ok(status)
            }
            None => bail!(
                "{} did not end within {limit:?}; its log ends with:\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Kills it and all it started (SIGKILL) and waits until it is gone.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.wait(DROP_GRACE)
    }

    fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            kill_group(&self.child, signal);
        }
    }

    fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    fn tail(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(LOG_TAIL_BYTES);
        let from = (from..log.len())
            .find(|at| log.is_char_boundary(*at))
            .unwrap_or(log.len());
        log.get(from..).unwrap_or_default().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let stopped = self.terminate(DROP_GRACE);
        if stopped.is_err() {
            // Nobody is left to report to; the kill that follows is the last resort.
            let _ = self.kill9();
        }
    }
}

/// Calls `look` until it finds something or the time is up; looks at least once, and once more at the end.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let is_last = Instant::now() >= deadline;
        if let Some(found) = look() {
            return Some(found);
        }
        if is_last {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}

/// A port of 127.0.0.1 that nobody listens on at this moment.
///
/// Another process can take it before the caller does; programs that can should listen on port 0 and say which port
/// they got.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot bind a port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// The path of one of this workspace's programs, beside the running test; built first if it is not there.
///
/// A program that is there is taken as it is: build the workspace before the tests when programs changed, as
/// `cargo xtask test` does.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = profile_folder()?;
    let path = folder.join(name);
    if !path.is_file() {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = clean_command(&cargo);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--package", name]);
        if folder.file_name().is_some_and(|folder| folder == "release") {
            command.arg("--release");
        }
        run(&mut command, BUILD_LIMIT).with_context(|| format!("cannot build {name}"))?;
    }
    if !path.is_file() {
        bail!("cargo built {name}, but {} is not there", path.display());
    }
    Ok(path)
}

/// `target/<profile>`, seen from the running test in its `deps` or `examples` folder.
fn profile_folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let folder = own.parent().context("the running program has no folder")?;
    let is_below = folder
        .file_name()
        .is_some_and(|name| name == "deps" || name == "examples");
    let profile = if is_below { folder.parent() } else { Some(folder) };
    Ok(profile
        .context("the running program has no profile folder")?
        .to_path_buf())
}

/// A folder that outlives test runs, for input that is expensive to get: `target/testkit-cache/<name>`.
pub(crate) fn cache_folder(name: &str) -> Result<PathBuf> {
    // Documentation examples run from a temporary folder outside the target folder; they get the default one.
    let profile = profile_folder()?;
    let target = profile.parent().filter(|folder| folder.join("CACHEDIR.TAG").is_file());
    let target = target.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        Path::to_path_buf,
    );
    let folder = target.join("testkit-cache").join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// A temporary folder; removed when dropped, kept and named when the test fails.
#[derive(Debug)]
pub struct TestDir {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl TestDir {
    /// Makes an empty folder; `name` shows in its path.
    pub fn new(name: &str) -> Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("instantmirror-{name}-{serial}-");
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir()
            .context("cannot make a temporary folder")?;
        Ok(Self {
            path: folder.path().to_path_buf(),
            folder: Some(folder),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder in it and returns its path.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take()
            && std::thread::panicking()
        {
            eprintln!("the test's folder is kept: {}", folder.keep().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = clean_command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_line_of_the_log_is_awaited_whole() {
        let dir = TestDir::new("daemon").unwrap();
        let mut daemon = Daemon::start(
            "talker",
            &mut shell("printf 'listening '; sleep 0.1; echo on 4711; exec sleep 60"),
            &dir.path().join("log"),
        )
        .unwrap();
        assert_eq!(daemon.wait_for_line("listening", SOON).unwrap(), "listening on 4711");
        assert!(daemon.is_running());
        assert!(!daemon.kill9().unwrap().success());
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let dir = TestDir::new("daemon").unwrap();
        let log = dir.path().join("log");
        let mut daemon = Daemon::start("failer", &mut shell("echo no such key; exit 2"), &log).unwrap();
        let error = format!("{:#}", daemon.wait_for_line("ready", SOON).unwrap_err());
        assert!(
            error.contains("ended before") && error.contains("no such key"),
            "{error}"
        );
        assert_eq!(daemon.wait(SOON).unwrap().code(), Some(2));
    }

    #[test]
    fn dropping_stops_the_whole_group() {
        let dir = TestDir::new("daemon").unwrap();
        let log = dir.path().join("log");
        let mut daemon = Daemon::start("parent", &mut shell("sleep 60 & echo child $!; wait"), &log).unwrap();
        let line = daemon.wait_for_line("child", SOON).unwrap();
        let status = PathBuf::from(format!("/proc/{}/status", line.trim_start_matches("child ")));
        assert!(status.exists());
        drop(daemon);
        let is_gone = || match std::fs::read_to_string(&status) {
            Ok(text) => text.contains("State:\tZ").then_some(()),
            Err(_) => Some(()),
        };
        assert!(poll(SOON, is_gone).is_some());
    }

    #[test]
    fn a_free_port_can_be_bound() {
        let port = free_port().unwrap();
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn test_folders_differ_and_go_away() {
        let (one, two) = (TestDir::new("x").unwrap(), TestDir::new("x").unwrap());
        assert_ne!(one.path(), two.path());
        let path = one.path().to_path_buf();
        drop(one);
        assert!(!path.exists());
    }
}
