//! `cargo xtask test`: from a clean clone on a fresh machine to every test run.
//!
//! Runs every test binary whether or not an earlier one failed, and says at the end what failed and what was skipped,
//! and why. Never needs more than cargo, a C compiler and the packages that `setup` installs: no other test runner, no
//! service.

mod verdict;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::setup;
use crate::steps::{cargo, run as run_command, step};
use verdict::Verdict;

/// Installs what is missing, builds the programs and examples that tests start, runs the tests.
pub(crate) fn run(root: &Path, extra: &[String]) -> Result<()> {
    step("setup", setup::run)?;
    step("build programs and examples", || {
        run_command(cargo(root).args(["build", "--workspace", "--all-features", "--bins", "--examples"]))
    })?;
    step("test", || tests(root, extra))
}

/// Runs the tests; `extra` goes to `cargo test`. The programs that they start must have been built.
pub(crate) fn tests(root: &Path, extra: &[String]) -> Result<()> {
    let mut command = cargo(root);
    command.args(["test", "--all-features", "--no-fail-fast"]);
    if !selects_packages(extra) {
        command.arg("--workspace");
    }
    if can_mount() {
        // Tests of the file system fail then instead of being skipped.
        command.env("IMFS_TESTS_REQUIRED", "1");
    }
    command.args(extra).stdout(Stdio::piped());
    println!("$ {command:?}");
    let mut child = command.spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut verdict = Verdict::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what the tests print")?;
        verdict.read(&line);
        writeln!(std::io::stdout(), "{line}")?;
    }
    let status = child.wait().context("cannot wait for cargo")?;
    print!("{verdict}");
    if !status.success() {
        bail!("`cargo test` ended with {status}; {} failed", verdict.failed());
    }
    Ok(())
}

/// Whether the tests of the file system have what they need: root and `/dev/fuse`.
fn can_mount() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    is_root && Path::new("/dev/fuse").exists()
}

/// Whether the caller chose packages; then `--workspace` would overrule that choice.
fn selects_packages(extra: &[String]) -> bool {
    let before_dashes = extra.iter().take_while(|argument| *argument != "--");
    let mut before_dashes = before_dashes.map(String::as_str);
    before_dashes.any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_choice_counts_only_before_the_dashes() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(selects_packages(&words("-p xtask")));
        assert!(selects_packages(&words("--package=xtask -- names")));
        assert!(!selects_packages(&words("names -- -p")));
        assert!(!selects_packages(&[]));
    }
}
