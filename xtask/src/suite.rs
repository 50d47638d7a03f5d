//! `cargo xtask test`: from a clean clone on a fresh machine to every test run.
//!
//! Never needs more than cargo, a C compiler and the packages that `setup` installs: no other test runner, no service.

use std::path::Path;

use anyhow::Result;

use crate::setup;
use crate::steps::{cargo, run as run_command, step};

/// Installs what is missing, builds the programs and examples that tests start, runs the tests.
pub(crate) fn run(root: &Path, extra: &[String]) -> Result<()> {
    step("setup", setup::run)?;
    step("build programs and examples", || {
        run_command(cargo(root).args(["build", "--workspace", "--all-features", "--bins", "--examples"]))
    })?;
    step("test", || {
        let mut command = cargo(root);
        command.args(["test", "--all-features"]);
        if !selects_packages(extra) {
            command.arg("--workspace");
        }
        run_command(command.args(extra))
    })
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
