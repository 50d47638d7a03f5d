//! Running a program to its end within a time limit.
//!
//! Never leaves a child behind: the program leads a process group of its own, and the whole group is killed when the
//! time is up. Never inherits stdin, proxies or the locale.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// Variables that would send a client somewhere else than to the server under test.
const PROXY_VARIABLES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// What a program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// stdout as text, with whatever is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stdout and stderr as text, for messages.
    pub fn transcript(&self) -> String {
        format!(
            "{}{}",
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr)
        )
    }
}

/// A command with no stdin, no proxies and the C locale in UTF-8.
pub fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in PROXY_VARIABLES {
        command.env_remove(variable);
    }
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Runs a command to its end; not ending within `limit` is an error, a non-zero exit status is not.
pub fn run_any(command: &mut Command, limit: Duration) -> Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut stdout = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut stderr = tempfile::tempfile().context("cannot make a temporary file")?;
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0);
    let mut child = command.spawn().with_context(|| missing_program(&program))?;
    let status = wait_bounded(&mut child, limit)?;
    let mut finished = |status| -> Result<Finished> {
        Ok(Finished {
            status,
            stdout: from_start(&mut stdout)?,
            stderr: from_start(&mut stderr)?,
        })
    };
    match status {
        Some(status) => finished(status),
        None => {
            kill_group(&child, Signal::KILL);
            let status = child.wait()?;
            bail!(
                "`{program}` did not end within {limit:?}; it had said:\n{}",
                finished(status)?.transcript()
            )
        }
    }
}

/// Runs a command to its end; not ending within `limit` and a non-zero exit status are errors with its whole output.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let finished = run_any(command, limit)?;
    if !finished.status.success() {
        bail!(
            "`{command:?}` ended with {}:\n{}",
            finished.status,
            finished.transcript()
        );
    }
    Ok(finished)
}

/// Waits for a child at most `limit`; `None` if it still runs then.
pub(crate) fn wait_bounded(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child process")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Signals the group that a child leads. The child must not have been waited for, so that its id is still its own.
pub(crate) fn kill_group(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // The group can be gone already; that is what was wanted.
        let _ = kill_process_group(pid, signal);
    }
}

fn from_start(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn missing_program(program: &str) -> String {
    format!("cannot start `{program}`; `cargo xtask setup` installs what the tests need")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_kept() {
        let finished = run_any(
            clean_command("sh").args(["-c", "echo out; echo err >&2; exit 4"]),
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!((finished.text().as_str(), finished.status.code()), ("out\n", Some(4)));
        assert_eq!(finished.transcript(), "out\nerr\n");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let started = Instant::now();
        let error = run(
            clean_command("sh").args(["-c", "echo begun; sleep 60 & wait"]),
            Duration::from_millis(200),
        );
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("did not end within") && text.contains("begun"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_says_what_to_do() {
        let error = run(&mut clean_command("no-such-program"), Duration::from_secs(1)).unwrap_err();
        assert!(format!("{error:#}").contains("cargo xtask setup"));
    }
}
