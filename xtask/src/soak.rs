//! `cargo xtask soak`: proofs that take too long for each CI run. They run before a release, or on a machine of one's own.
//!
//! [`Part::Packages`] makes a clean Debian root and installs [`setup`]'s packages in it: every program that
//! a test calls must be there afterwards. [`Part::Steady`] runs the tests again and again beside two busy loops.
//! [`Part::Long`] runs the tests that `cargo xtask test` leaves out.

mod busy;
mod programs;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::setup;
use crate::steps::{cargo, is_installed, output, run as run_command, step};
use crate::suite;
use busy::BusyLoops;

/// One of the long proofs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The list of packages is whole: shown in a clean Debian root.
    Packages,
    /// The tests hold under load: all of them, beside two busy loops.
    Steady,
    /// The tests that are too long for CI.
    Long,
}

/// Runs the chosen parts, or all; `rounds` and `filter` are for [`Part::Steady`].
pub(crate) fn run(root: &Path, parts: &[Part], rounds: u32, filter: &[String]) -> Result<()> {
    for part in Part::value_variants() {
        if !parts.is_empty() && !parts.contains(part) {
            continue;
        }
        match part {
            Part::Packages => step("packages in a clean Debian root", || packages(root))?,
            Part::Steady => step("tests beside two busy loops", || steady(root, rounds, filter))?,
            Part::Long => step("tests that are too long for CI", || long(root))?,
        }
    }
    Ok(())
}

/// Where the root is made, and thrown away by mmdebstrap when its hook has ended.
fn packages(root: &Path) -> Result<()> {
    if !is_installed("mmdebstrap", &["--version"]) {
        bail!("this needs mmdebstrap and root: apt-get install mmdebstrap");
    }
    let programs = programs::called(root)?;
    println!("{} programs are called by tests", programs.len());
    let script = clean_root_script(&programs);
    let codename = output(Command::new("sh").args(["-c", ". /etc/os-release && echo \"$VERSION_CODENAME\""]))?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=apt", "--format=null", "--quiet"]);
    command.arg(format!("--customize-hook=chroot \"$1\" sh -c '{script}'"));
    command.args([codename.trim(), "/dev/null"]).stdin(Stdio::null());
    run_command(&mut command)
}

/// Installs the packages as `setup` does, then names every program that is not there. Holds no single quote.
fn clean_root_script(programs: &[String]) -> String {
    let install = setup::INSTALL.join(" ");
    let packages: Vec<&str> = setup::package_names().collect();
    format!(
        "set -e; export DEBIAN_FRONTEND=noninteractive; apt-get update; apt-get {install} {}; missing=; \
         for program in {}; do command -v $program >/dev/null || missing=\"$missing $program\"; done; \
         [ -z \"$missing\" ] || {{ echo \"no package of the list brings:$missing\" >&2; exit 1; }}",
        packages.join(" "),
        programs.join(" ")
    )
}

fn steady(root: &Path, rounds: u32, filter: &[String]) -> Result<()> {
    let _busy = BusyLoops::start(2)?;
    let mut failed = 0;
    for round in 1..=rounds {
        println!("--- round {round} of {rounds}");
        if let Err(error) = suite::tests(root, filter) {
            failed += 1;
            println!("round {round}: {error:#}");
        }
    }
    if failed > 0 {
        bail!("{failed} of {rounds} rounds failed");
    }
    Ok(())
}

/// In release, since these are measurements and simulations.
fn long(root: &Path) -> Result<()> {
    let arguments = [
        "test",
        "--release",
        "--workspace",
        "--all-features",
        "--no-fail-fast",
        "--",
    ];
    run_command(cargo(root).args(arguments).arg("--ignored")).context("a long test failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_survives_the_quotes_around_it() {
        let script = clean_root_script(&["curl".to_owned()]);
        assert!(!script.contains('\''), "{script}");
        assert!(
            script.contains("--no-remove") && script.contains(" curl; do"),
            "{script}"
        );
    }
}
