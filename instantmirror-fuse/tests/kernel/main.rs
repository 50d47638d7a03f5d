//! A session against the kernel of this machine, and against programs: with a small file system in memory behind it.
//!
//! Every test runs in namespaces of its own; it needs root and `/dev/fuse`, and says so where it has not, or fails if
//! `IMFS_TESTS_REQUIRED=1` is set, as `cargo xtask test` does where both are there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod faults;
mod memory;
mod notices;
mod programs;
mod snapshots;
mod source;
mod support;
