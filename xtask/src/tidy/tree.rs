//! Check `core-tree`: what stands below `instantmirror-core`, resolved for that package alone.
//!
//! `libc` is allowed: hashing and random numbers ask it for CPU features and entropy. Runtimes, sockets and file
//! libraries are not, whoever pulls them in.

use anyhow::Result;

use super::{Finding, Repository};
use crate::steps::{cargo, output};

/// Packages that would bring a runtime, sockets or files into core.
const FORBIDDEN: &[&str] = &[
    "async-io",
    "async-std",
    "hyper",
    "io-uring",
    "memmap2",
    "mio",
    "nix",
    "polling",
    "quinn",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-util",
    "ureq",
    "walkdir",
];

/// Reports every forbidden package in the tree of normal dependencies.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let mut command = cargo(repository.root());
    command.args([
        "tree",
        "--package",
        "instantmirror-core",
        "--edges",
        "normal",
        "--all-features",
    ]);
    let listing = output(command.args(["--prefix", "none", "--format", "{p}"]))?;
    Ok(judge(&listing))
}

fn judge(listing: &str) -> Vec<Finding> {
    let mut names: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    names.sort_unstable();
    names.dedup();
    let forbidden = names.into_iter().filter(|name| FORBIDDEN.contains(name));
    forbidden
        .map(|name| Finding::error("instantmirror-core", 0, format!("depends on `{name}`")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashing_and_libc_are_allowed() {
        assert!(judge("instantmirror-core v0.1.0 (/x)\nblake3 v1.8.7\nlibc v0.2.170\ntokio-like v1.0.0\n").is_empty());
    }

    #[test]
    fn a_runtime_is_reported_once() {
        let findings = judge("blake3 v1.8.7\ntokio v1.54.0\nbytes v1.12.0\ntokio v1.54.0 (*)\n");
        assert_eq!(
            findings,
            [Finding::error("instantmirror-core", 0, "depends on `tokio`")]
        );
    }
}
