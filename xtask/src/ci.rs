//! `cargo xtask ci`: everything CI checks beside the tests, one timed step each.
//!
//! Never stops at the first failure: a contributor sees all that is wrong in one run.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::semver::Version;

use crate::features;
use crate::steps::{cargo, is_installed, output, run as run_command, step};
use crate::tidy;

/// A named check of a tree.
type Step = (&'static str, fn(&Path) -> Result<()>);

const STEPS: &[Step] = &[
    ("format", format),
    ("clippy", clippy),
    ("features alone", features::check),
    ("documentation", documentation),
    ("tidy", tidy::run),
    ("licences, bans, sources", deny),
    ("advisories", advisories),
    ("oldest supported toolchain", oldest_toolchain),
    ("format documents", format_documents),
    ("benches run", benches),
    ("oracles", oracles),
    ("embedder", embedder),
    ("fuzz targets", fuzz_targets),
];

/// Cases of benches/http that CI runs.
const HTTP_BENCHES: &str = "304,many,1g,cold-crowd,cold-tail";

/// A trace that is replayed in no time.
const EXPIRY_TRACE: &[&str] = &["--packages", "5000", "--requests", "5000", "--days", "4"];

/// Inputs tried per fuzz target.
const FUZZ_RUNS: &str = "500000";

/// What cargo-deny says when it has no advisory database, as opposed to having found something in it.
const NO_DATABASE: &[&str] = &["failed to fetch advisory database", "failed to load advisory database"];

/// Runs every step and fails if one of them did.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in STEPS {
        if let Err(error) = step(name, || check(root)) {
            eprintln!("error: {error:#}\n");
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} of {} steps failed: {}",
            failed.len(),
            STEPS.len(),
            failed.join("; ")
        );
    }
    println!("all {} steps passed", STEPS.len());
    Ok(())
}

fn format(root: &Path) -> Result<()> {
    run_command(cargo(root).args(["fmt", "--all", "--check"]))
}

fn clippy(root: &Path) -> Result<()> {
    let selection = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    run_command(cargo(root).args(selection))
}

/// With all features, as docs.rs shows it, and without any, as a plain checkout does.
fn documentation(root: &Path) -> Result<()> {
    for features in [&["--all-features"][..], &[]] {
        let mut command = cargo(root);
        command
            .args(["doc", "--workspace", "--no-deps"])
            .args(features)
            .env("RUSTDOCFLAGS", "-D warnings");
        run_command(&mut command)?;
    }
    Ok(())
}

fn deny(root: &Path) -> Result<()> {
    install_deny(root)?;
    run_command(cargo(root).args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))
}

/// The advisory database is a git repository that some machines cannot reach: that is a warning, a hit is a failure.
fn advisories(root: &Path) -> Result<()> {
    install_deny(root)?;
    let mut command = cargo(root);
    command
        .args(["deny", "--all-features", "check", "advisories"])
        .env("GIT_TERMINAL_PROMPT", "0");
    let done = command.output().context("cannot start cargo deny")?;
    let report = String::from_utf8_lossy(&done.stderr);
    if done.status.success() {
        println!("no advisory applies");
        return Ok(());
    }
    if is_database_missing(&report) {
        println!("warning: the advisory database cannot be fetched on this machine; advisories were NOT checked");
        return Ok(());
    }
    bail!("cargo deny check advisories ended with {}:\n{report}", done.status);
}

fn is_database_missing(report: &str) -> bool {
    NO_DATABASE.iter().any(|phrase| report.contains(phrase))
}

fn install_deny(root: &Path) -> Result<()> {
    if is_installed("cargo-deny", &["--version"]) {
        return Ok(());
    }
    println!("cargo-deny is missing; building it once");
    run_command(cargo(root).args(["install", "cargo-deny", "--locked"]))
}

/// Builds with exactly the toolchain that `rust-version` promises, so that the promise is tested and not hoped for.
fn oldest_toolchain(root: &Path) -> Result<()> {
    let promised = promised_version(root)?;
    let installed = Command::new("rustup")
        .args(["toolchain", "list"])
        .stdin(Stdio::null())
        .output();
    let installed = installed
        .map(|done| String::from_utf8_lossy(&done.stdout).into_owned())
        .unwrap_or_default();
    let check = ["check", "--workspace", "--all-targets", "--all-features"];
    if let Some(toolchain) = matching_toolchain(&installed, &promised) {
        return run_command(
            Command::new("rustup")
                .args(["run", toolchain, "cargo"])
                .args(check)
                .current_dir(root)
                .stdin(Stdio::null()),
        );
    }
    let running = output(Command::new("rustc").arg("--version").current_dir(root))?;
    if is_same_release(&running, &promised) {
        println!("the running toolchain is the oldest supported one: {}", running.trim());
        return run_command(cargo(root).args(check));
    }
    bail!(
        "rust-version is {promised}, this is {}: install the promised one with `rustup toolchain install {promised}`",
        running.trim()
    );
}

fn promised_version(root: &Path) -> Result<Version> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(root)
        .no_deps()
        .exec();
    let metadata = metadata.context("cargo metadata failed")?;
    let versions = metadata
        .packages
        .iter()
        .filter_map(|package| package.rust_version.clone());
    versions
        .max()
        .context("no package of the workspace states a rust-version")
}

/// The name of an installed toolchain of exactly this release, in the listing of `rustup toolchain list`.
fn matching_toolchain<'a>(listing: &'a str, version: &Version) -> Option<&'a str> {
    let names = listing.lines().filter_map(|line| line.split_whitespace().next());
    let full = format!("{version}-");
    let short = format!("{}.{}-", version.major, version.minor);
    names
        .into_iter()
        .find(|name| name.starts_with(&full) || name.starts_with(&short))
}

/// Whether `rustc --version` tells of a patch release of this minor version.
fn is_same_release(rustc: &str, version: &Version) -> bool {
    let word = rustc.split_whitespace().nth(1).unwrap_or_default();
    Version::parse(word).is_ok_and(|found| (found.major, found.minor) == (version.major, version.minor))
}

/// A program that knows only docs/formats rebuilds the test vectors: the documents say enough.
fn format_documents(root: &Path) -> Result<()> {
    run_command(
        Command::new("python3")
            .arg("docs/formats/vectors/check.py")
            .current_dir(root)
            .stdin(Stdio::null()),
    )
}

/// The benches' smoke test; its figures mean nothing.
fn benches(root: &Path) -> Result<()> {
    run_command(cargo(root).args(["build", "--package", "imserver", "--package", "imnode"]))?;
    run_command(
        cargo(root)
            .args(["run", "--package", "expiry-sim", "--"])
            .args(EXPIRY_TRACE),
    )?;
    cache_bench(root)?;
    let whole = ["benches/run.py", "--quick", "--bin", "target/debug"];
    // One case of each kind: every server is started, every client used.
    let http = [
        "benches/http/run.py",
        "--quick",
        "--bin",
        "target/debug",
        "--only",
        HTTP_BENCHES,
    ];
    let fetch = ["benches/fetch/run.py", "--quick", "--bin", "target/debug"];
    let torrent = ["benches/torrent.py", "--files", "300", "--bin", "target/debug"];
    for arguments in [&whole[..], &http[..], &fetch[..], &torrent[..]] {
        run_command(
            Command::new("python3")
                .args(arguments)
                .current_dir(root)
                .stdin(Stdio::null()),
        )?;
    }
    Ok(())
}

/// A cache is filled by one process and taken up by another.
fn cache_bench(root: &Path) -> Result<()> {
    let dir = root.join("target/cache-bench");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    for step in ["make", "start"] {
        let mut command = cargo(root);
        command.args(["run", "--package", "cache-scale", "--", step]).arg(&dir);
        run_command(command.args(["--objects", "2000"]))?;
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// Tests against implementations whose dependencies may not come into the product: a workspace of their own.
fn oracles(root: &Path) -> Result<()> {
    run_command(cargo(root).args(["test", "--manifest-path", "oracles/Cargo.toml"]))
}

/// Parts that somebody outside of the project could have written, and a node built of them: a workspace of its own.
fn embedder(root: &Path) -> Result<()> {
    run_command(cargo(root).args(["test", "--manifest-path", "tests/embedder/Cargo.toml"]))
}

fn fuzz_targets(root: &Path) -> Result<()> {
    run_command(
        Command::new("fuzz/run")
            .args(["-n", FUZZ_RUNS])
            .current_dir(root)
            .stdin(Stdio::null()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "stable-x86_64-unknown-linux-gnu (active, default)\n1.95.0-x86_64-unknown-linux-gnu\n";

    #[test]
    fn the_promised_toolchain_is_found_by_its_exact_release() {
        let found = matching_toolchain(LISTING, &Version::new(1, 95, 0));
        assert_eq!(found, Some("1.95.0-x86_64-unknown-linux-gnu"));
        assert_eq!(matching_toolchain(LISTING, &Version::new(1, 9, 0)), None);
        assert_eq!(matching_toolchain("", &Version::new(1, 95, 0)), None);
    }

    #[test]
    fn a_patch_release_counts_as_the_promised_one() {
        let promised = Version::new(1, 95, 0);
        assert!(is_same_release("rustc 1.95.2 (abc 2026-05-01)", &promised));
        assert!(!is_same_release("rustc 1.96.0 (abc 2026-05-01)", &promised));
        assert!(!is_same_release("nonsense", &promised));
    }

    #[test]
    fn only_a_missing_database_is_a_warning() {
        assert!(is_database_missing(
            "[ERROR] failed to fetch advisory database https://…"
        ));
        assert!(!is_database_missing("error[vulnerability]: use after free"));
    }
}
