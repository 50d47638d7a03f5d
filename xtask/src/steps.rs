//! Running commands as named, timed steps, so that a CI log reads as a table of contents.
//!
//! Never hides output: a child's stdout and stderr go straight to ours.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Runs `work` under a header line and prints how long it took, also when it failed.
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("=== {name}");
    let started = Instant::now();
    let outcome = work();
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("=== {name}: {verdict} in {:.1} s\n", started.elapsed().as_secs_f64());
    outcome.with_context(|| format!("step `{name}`"))
}

/// The cargo that started us, so that a pinned toolchain stays pinned in the steps.
pub(crate) fn cargo(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root).stdin(Stdio::null());
    command
}

/// Runs a command to its end; its failure is an error that shows the command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    println!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`; is it installed?"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns its stdout as text; its failure is an error that carries its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("cannot start `{line}`; is it installed?"))?;
    if !done.status.success() {
        bail!(
            "`{line}` ended with {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    String::from_utf8(done.stdout).with_context(|| format!("`{line}` printed something that is not UTF-8"))
}

/// Whether a program of this name can be started and answers `--version`.
pub(crate) fn is_installed(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_names_itself_and_its_stderr() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("exit 3") && text.contains("broken"), "{text}");
    }

    #[test]
    fn a_missing_program_is_not_installed() {
        assert!(!is_installed("no-such-program-anywhere", &["--version"]));
        assert!(is_installed("sh", &["-c", "exit 0"]));
    }

    #[test]
    fn a_failed_step_is_named_in_the_error() {
        let error = step("demo", || bail!("reason")).unwrap_err();
        assert_eq!(format!("{error:#}"), "step `demo`: reason");
    }
}
